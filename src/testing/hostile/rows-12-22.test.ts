// Rows 12 to 22 of the hostile input checklist: where a request's parts lie. What the
// specification allows must work wherever it is cut; what it forbids is answered with an error
// where there is a status byte to answer with, and breaks the ring where there is none.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import * as v from "../../virtio/index.ts";
import type { Range } from "./guest.ts";
import type { Buf } from "./rings.ts";
import { Scene } from "./scene.ts";
import {
  type Answer,
  GUEST_BASE,
  type Request,
  STATUS_UNTOUCHED,
  type Victim,
  type VictimOptions,
} from "./victim.ts";

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

const VARIANTS: readonly VictimOptions[] = [
  { kind: "memfd", packed: false },
  { kind: "memfd", packed: true },
  { kind: "memfd-unsealable", packed: false },
  { kind: "memfd-unsealable", packed: true, inflight: true },
];
const OK = v.BLK_S_OK;
const IOERR = v.BLK_S_IOERR;
const ERROR: Answer = { status: IOERR, len: 1 };
const FAR = 2n ** 64n;
const REGION_BYTES = 1 << 20;
const REGION_END = GUEST_BASE + REGION_BYTES;

async function each(body: (victim: Victim) => void, more: VictimOptions = {}): Promise<void> {
  for (const variant of VARIANTS) {
    const kind = variant.kind ?? "memfd";
    const regions = more.regions?.map((region) => ({ ...region, kind }));
    const options = { ...variant, ...more, ...(regions === undefined ? {} : { regions }) };
    await scene.attack(() => {
      const victim = scene.victim(options);
      body(victim);
      victim.expectQuiet();
      victim.probe();
    });
  }
}

/** Runs `chain`, whose status byte is `statusGpa`; only `writable` and the rings may change. */
function run(victim: Victim, request: Request, writable: readonly Range[]): Answer {
  victim.memory.write(request.statusGpa, Uint8Array.of(STATUS_UNTOUCHED));
  const before = victim.memory.snapshot();
  const answer = victim.run(request);
  const { descriptorGpa, size } = victim.ring;
  const allowed: Range[] = [...victim.ringRanges, [descriptorGpa, size * 16], ...writable];
  allowed.push([request.statusGpa, 1]);
  assert.deepEqual(victim.memory.changes(before, allowed), []);
  return answer;
}

/** Breaks the ring with `chain`; nothing but the rings may change. */
async function breaks(
  reason: string,
  makeChain: (victim: Victim) => readonly Buf[],
): Promise<void> {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim(variant);
      victim.ring.offer(makeChain(victim));
      const before = victim.memory.snapshot();
      victim.go();
      victim.waitBroken();
      assert.deepEqual(await scene.brokenReasons(), [reason]);
      assert.deepEqual(victim.ring.takeUsed(), []);
      assert.deepEqual(victim.memory.changes(before, victim.ringRanges), []);
      victim.probe();
    });
  }
}

/** Puts a pattern on the disk with an ordinary request. */
function seed(victim: Victim, sector: number, bytes: number, salt: number): Uint8Array {
  const data = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at++) data[at] = (at * 31 + salt) & 0xff;
  const mark = victim.memory.mark();
  assert.equal(victim.run(victim.writeRequest(sector, data), victim.queue(1)).status, OK);
  victim.memory.reset(mark);
  return data;
}

/** Two regions that adjoin in guest addresses and lie apart everywhere else. */
const ADJACENT: VictimOptions = {
  regions: [
    { guestAddress: GUEST_BASE, bytes: REGION_BYTES },
    { guestAddress: REGION_END, bytes: REGION_BYTES },
  ],
};

test("row 12: an indirect table that crosses two regions is read piece by piece", async () => {
  for (const offset of [-16, -20, -36]) {
    await each((victim) => {
      const data = seed(victim, 8, 512, offset);
      const request = victim.read(8, 512);
      const table = REGION_END + offset;
      const packed = victim.ring.packed;
      for (const [index, { addr, len, write }] of request.chain.entries()) {
        const bytes = new DataView(new ArrayBuffer(16));
        const flags = (write ? v.DESCRIPTOR_F_WRITE : 0) | (index < 2 && !packed ? 1 : 0);
        bytes.setBigUint64(0, BigInt(addr), true);
        bytes.setUint32(8, len, true);
        bytes.setUint16(packed ? 14 : 12, flags, true);
        if (!packed) bytes.setUint16(14, index < 2 ? index + 1 : 0, true);
        victim.memory.write(table + index * 16, new Uint8Array(bytes.buffer));
      }
      const head = packed
        ? victim.packed.offerTable(table, 48)
        : victim.split.offerTable(table, 48);
      victim.go();
      assert.deepEqual(victim.waitUsed(1), [{ id: head, len: 513 }]);
      assert.deepEqual(victim.memory.read(request.dataGpa, 512), data);
    }, ADJACENT);
  }
});

test("row 13: a readable descriptor behind a writable one is answered with IOERR", async () => {
  await each((victim) => {
    const { chain, ...request } = victim.read(0, 512);
    const [header, data, status] = chain as [Buf, Buf, Buf];
    const orders: readonly (readonly Buf[])[] = [
      [data, header, status],
      [header, data, { addr: header.addr, len: 16 }, status],
      [header, data, status, { addr: header.addr, len: 16 }],
    ];
    for (const order of orders) {
      assert.deepEqual(run(victim, { ...request, chain: order }, []), ERROR);
    }
  });
});

test("row 14: descriptors of length 0 are skipped", async () => {
  await each((victim) => {
    const data = seed(victim, 16, 1024, 14);
    const request = victim.read(16, 1024);
    const [header, body, status] = request.chain as [Buf, Buf, Buf];
    const empty = { addr: 0, len: 0 };
    const lost = { addr: FAR - 1n, len: 0, write: true };
    const chain = [empty, header, empty, lost, body, lost, status, lost];
    const answer = run(victim, { ...request, chain }, [[request.dataGpa, 1024]]);
    assert.deepEqual(answer, { status: OK, len: 1025 });
    assert.deepEqual(victim.memory.read(request.dataGpa, 1024), data);
  });
  await breaks("NO_STATUS", () => [{ addr: 0, len: 0 }]);
  await breaks("NO_STATUS", (victim) => [
    { addr: victim.header(v.BLK_T_IN, 0), len: 16 },
    { addr: GUEST_BASE, len: 0, write: true },
  ]);
});

test("row 15: addresses that wrap past 2^64 are answered with IOERR, or break the ring", async () => {
  await each((victim) => {
    const { chain, ...request } = victim.read(0, 4096);
    const [header, , status] = chain as [Buf, Buf, Buf];
    for (const addr of [FAR - 1n, FAR - 4096n, FAR - 2048n, 2n ** 63n, 2n ** 53n, 2n ** 52n]) {
      const data = { addr, len: 4096, write: true };
      assert.deepEqual(run(victim, { ...request, chain: [header, data, status] }, []), ERROR);
      const cut = { addr, len: 16 };
      assert.deepEqual(run(victim, { ...request, chain: [cut, status] }, []), ERROR);
    }
  });
  for (const addr of [FAR - 1n, 2n ** 63n, 2n ** 53n]) {
    await breaks("STATUS_UNREACHABLE", (victim) => [
      { addr: victim.header(v.BLK_T_IN, 0), len: 16 },
      { addr, len: 1, write: true },
    ]);
  }
});

test("row 16: buffers outside every region are answered with IOERR, or break the ring", async () => {
  await each((victim) => {
    const { chain, ...request } = victim.read(0, 4096);
    const [header, , status] = chain as [Buf, Buf, Buf];
    const outside = [0, GUEST_BASE - 1, GUEST_BASE - 4096, REGION_END, REGION_END - 512, 2 ** 40];
    for (const addr of outside) {
      const data = { addr, len: 4096, write: true };
      assert.deepEqual(run(victim, { ...request, chain: [header, data, status] }, []), ERROR);
    }
    for (const addr of [GUEST_BASE - 8, REGION_END - 8, 0]) {
      const cut = { addr, len: 16 };
      assert.deepEqual(run(victim, { ...request, chain: [cut, status] }, []), ERROR);
    }
    // The serial number may not be written beyond the end either.
    victim.putHeader(request.headerGpa, v.BLK_T_GET_ID, 0);
    const short = { addr: REGION_END - 7, len: 20, write: true };
    const writable: Range[] = [[REGION_END - 7, 7]];
    assert.deepEqual(run(victim, { ...request, chain: [header, short, status] }, writable), ERROR);
  });
  for (const [addr, len] of [
    [REGION_END, 1],
    [REGION_END - 16, 17],
    [GUEST_BASE - 1, 1],
  ] as const) {
    await breaks("STATUS_UNREACHABLE", (victim) => [
      { addr: victim.header(v.BLK_T_IN, 0), len: 16 },
      { addr, len, write: true },
    ]);
  }
});

test("row 17: a buffer over two adjacent regions is split", async () => {
  await each((victim) => {
    const data = seed(victim, 64, 8192, 17);
    const request = victim.read(64, 512);
    const [header, , status] = request.chain as [Buf, Buf, Buf];
    const addr = REGION_END - 1536;
    const chain = [header, { addr, len: 8192, write: true }, status];
    const answer = run(victim, { ...request, chain }, [[addr, 8192]]);
    assert.deepEqual(answer, { status: OK, len: 8193 });
    assert.deepEqual(victim.memory.read(addr, 8192), data);
    // And written from there; header and status lie on the border, too.
    const edge = REGION_END - 5;
    victim.putHeader(edge, v.BLK_T_OUT, 200);
    const write = [
      { addr: edge, len: 16 },
      { addr: REGION_END + 512, len: 1024 },
      { addr: REGION_END - 64, len: 65, write: true },
    ];
    const writeRequest = { ...request, chain: write, statusGpa: REGION_END };
    const expected = victim.memory.read(REGION_END + 512, 1024);
    assert.deepEqual(run(victim, writeRequest, []), { status: OK, len: 1 });
    const back = victim.read(200, 1024);
    assert.equal(victim.run(back).status, OK);
    assert.deepEqual(victim.memory.read(back.dataGpa, 1024), expected);
  }, ADJACENT);
});

test("row 18: buffers that are the ring or the request itself harm only their guest", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(() => {
      const victim = scene.victim(variant);
      const header = victim.header(v.BLK_T_IN, 0);
      const { descriptorGpa, availGpa, usedGpa } = victim.ring;
      const places = [descriptorGpa, availGpa & ~0xf, usedGpa & ~0xf, header];
      for (const addr of places) {
        victim.ring.offer([
          { addr: header, len: 16 },
          { addr, len: 512, write: true },
          { addr: victim.status(), len: 1, write: true },
        ]);
      }
      victim.ring.offer([
        { addr: header, len: 16 },
        { addr: header, len: 1, write: true },
      ]);
      victim.go();
      // Whatever becomes of that ring: the session answers.
      victim.barrier();
      victim.barrier();
      victim.frontEnd.getVringBase(0);
    });
  }
});

test("row 19: a header cut over 2 to 16 descriptors, or joined with the data, is gathered", async () => {
  await each(
    (victim) => {
      for (const cuts of [[1, 15], [8, 8], [4, 4, 4, 4], new Array<number>(16).fill(1), [15, 1]]) {
        const data = seed(victim, 32, 512, cuts.length);
        const request = victim.read(32, 512);
        let at = request.headerGpa;
        const pieces = cuts.map((len) => {
          at += len;
          return { addr: at - len, len };
        });
        const chain = [...pieces, ...request.chain.slice(1)];
        const answer = run(victim, { ...request, chain }, [[request.dataGpa, 512]]);
        assert.deepEqual(answer, { status: OK, len: 513 });
        assert.deepEqual(victim.memory.read(request.dataGpa, 512), data);
      }
      // Header and data of a write in one descriptor, then cut at an odd place.
      for (const first of [16 + 512, 16 + 100, 3]) {
        const gpa = victim.memory.allocate(16 + 512);
        victim.putHeader(gpa, v.BLK_T_OUT, 40);
        const data = new Uint8Array(512).fill(first & 0xff);
        victim.memory.write(gpa + 16, data);
        const statusGpa = victim.status();
        const chain = [
          { addr: gpa, len: first },
          { addr: gpa + first, len: 16 + 512 - first },
          { addr: statusGpa, len: 1, write: true },
        ];
        const request = { chain, headerGpa: gpa, dataGpa: gpa + 16, statusGpa };
        assert.deepEqual(run(victim, request, []), { status: OK, len: 1 });
        const back = victim.read(40, 512);
        victim.run(back);
        assert.deepEqual(victim.memory.read(back.dataGpa, 512), data);
      }
    },
    { ringSize: 32 },
  );
});

test("row 20: fewer than 16 readable bytes are answered with IOERR", async () => {
  await each((victim) => {
    for (const len of [1, 15]) {
      const request = victim.read(0, 512);
      const [header, data, status] = request.chain as [Buf, Buf, Buf];
      const short = { addr: header.addr, len };
      assert.deepEqual(run(victim, { ...request, chain: [short, data, status] }, []), ERROR);
      assert.deepEqual(run(victim, { ...request, chain: [short, status] }, []), ERROR);
    }
    const request = victim.read(0, 512);
    assert.deepEqual(run(victim, { ...request, chain: request.chain.slice(2) }, []), ERROR);
  });
});

test("row 21: a request without a writable byte breaks the ring", async () => {
  await breaks("NO_STATUS", (victim) => [{ addr: victim.header(v.BLK_T_FLUSH, 0), len: 16 }]);
  await breaks("NO_STATUS", (victim) => {
    const { chain } = victim.writeRequest(0, new Uint8Array(512));
    return chain.slice(0, 2);
  });
});

test("row 22: the status is the last writable byte, wherever that is", async () => {
  await each((victim) => {
    const data = seed(victim, 48, 1024, 22);
    // Status in one descriptor with the data.
    const request = victim.read(48, 512);
    const gpa = victim.memory.allocate(1025);
    const joined = { addr: gpa, len: 1025, write: true };
    const chain = [request.chain[0] as Buf, joined];
    const answer = run(victim, { ...request, chain, statusGpa: gpa + 1024 }, [[gpa, 1024]]);
    assert.deepEqual(answer, { status: OK, len: 1025 });
    assert.deepEqual(victim.memory.read(gpa, 1024), data);
    // The last byte of a large descriptor of a write: nothing else of it may change.
    const write = victim.writeRequest(52, data.subarray(0, 512));
    const room = victim.memory.allocate(4096);
    const large = [...write.chain.slice(0, 2), { addr: room, len: 4096, write: true }];
    const second = { ...write, chain: large, statusGpa: room + 4095 };
    assert.deepEqual(run(victim, second, []), { status: OK, len: 1 });
  });
});
