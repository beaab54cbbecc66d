// Rows 23 to 31 of the hostile input checklist: what requests ask for. Each is answered, with the
// status the specification or its test suites give; nothing is written where nothing may be.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import * as v from "../../virtio/index.ts";
import type { TargetDeviceOptions } from "../target.ts";
import { Scene } from "./scene.ts";
import type { Answer, GuestSector, Victim, VictimOptions } from "./victim.ts";

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

const VARIANTS: readonly VictimOptions[] = [
  { kind: "memfd", packed: false },
  { kind: "memfd-unsealable", packed: true, inflight: true },
];
const OK = v.BLK_S_OK;
const IOERR = v.BLK_S_IOERR;
const UNSUPP = v.BLK_S_UNSUPP;
const SIZE_BYTES = 64 * 1024 * 1024;
const SECTORS = SIZE_BYTES / 512;

async function each(
  body: (victim: Victim) => void,
  device: Partial<TargetDeviceOptions> = {},
  more: VictimOptions = {},
): Promise<void> {
  for (const variant of VARIANTS) {
    await scene.attack(() => {
      const victim = scene.victim({ ...variant, ...more });
      body(victim);
      victim.probe();
    }, device);
  }
}

/** Runs a transfer; the disk must not change and memory only where `mayWrite`. */
function transfer(victim: Victim, type: number, sector: GuestSector, bytes: number): Answer {
  const mark = victim.memory.mark();
  const request = victim.request(type, sector, bytes, type === v.BLK_T_IN);
  const answer = victim.run(request);
  if (answer.status !== OK && bytes > 0) {
    const data = victim.memory.read(request.dataGpa, bytes);
    assert.ok(
      data.every((byte) => byte === 0),
      "a refused request moved data",
    );
  }
  victim.memory.reset(mark);
  return answer;
}

/** A discard or write-zeroes of one segment. */
function range(
  victim: Victim,
  type: number,
  segment: { sector: GuestSector; count: number; flags?: number },
): Answer {
  const bytes = new DataView(new ArrayBuffer(16));
  bytes.setBigUint64(0, BigInt.asUintN(64, BigInt(segment.sector)), true);
  bytes.setUint32(8, segment.count, true);
  bytes.setUint32(12, segment.flags ?? 0, true);
  return rangeOf(victim, type, new Uint8Array(bytes.buffer));
}

function rangeOf(victim: Victim, type: number, bytes: Uint8Array): Answer {
  const mark = victim.memory.mark();
  const request = victim.request(type, 0, bytes.length, false);
  if (bytes.length > 0) victim.memory.write(request.dataGpa, bytes);
  const answer = victim.run(request);
  victim.memory.reset(mark);
  return answer;
}

function put(victim: Victim, sector: number, data: Uint8Array): void {
  const mark = victim.memory.mark();
  assert.equal(victim.run(victim.writeRequest(sector, data)).status, OK);
  victim.memory.reset(mark);
}

function get(victim: Victim, sector: number, bytes: number): Uint8Array {
  const mark = victim.memory.mark();
  const request = victim.read(sector, bytes);
  assert.equal(victim.run(request).status, OK);
  const data = victim.memory.read(request.dataGpa, bytes);
  victim.memory.reset(mark);
  return data;
}

const ERROR: Answer = { status: IOERR, len: 1 };

test("row 23: lengths and sectors that are no whole blocks are answered with IOERR", async () => {
  await each((victim) => {
    for (const bytes of [1, 511, 513, 1000]) {
      assert.deepEqual(transfer(victim, v.BLK_T_IN, 0, bytes), ERROR);
      assert.deepEqual(transfer(victim, v.BLK_T_OUT, 0, bytes), ERROR);
    }
  });
  await each(
    (victim) => {
      for (const [sector, bytes] of [
        [0, 512],
        [0, 4608],
        [1, 4096],
        [7, 4096],
      ] as const) {
        assert.deepEqual(transfer(victim, v.BLK_T_IN, sector, bytes), ERROR);
        assert.deepEqual(transfer(victim, v.BLK_T_OUT, sector, bytes), ERROR);
      }
      assert.equal(transfer(victim, v.BLK_T_IN, 8, 4096).status, OK);
    },
    { blockBytes: 4096 },
  );
});

test("row 24: transfers beyond the end, and sectors that overflow, are answered with IOERR", async () => {
  await each((victim) => {
    const sectors: GuestSector[] = [
      SECTORS,
      SECTORS - 1,
      SECTORS + 1,
      0xffffffff,
      0x100000000,
      2 ** 44,
      // Times 512 these wrap to 0, or to somewhere on the disk.
      2n ** 55n,
      2n ** 55n + 8n,
      2n ** 63n,
      2n ** 64n - 1n,
      2n ** 64n - 8n,
      // As a number this would round to a sector on a boundary.
      2n ** 53n + 1n,
    ];
    for (const sector of sectors) {
      assert.deepEqual(transfer(victim, v.BLK_T_IN, sector, 1024), ERROR, String(sector));
      assert.deepEqual(transfer(victim, v.BLK_T_OUT, sector, 1024), ERROR, String(sector));
    }
    assert.equal(transfer(victim, v.BLK_T_IN, SECTORS - 2, 1024).status, OK);
    assert.equal(transfer(victim, v.BLK_T_IN, SECTORS, 0).status, OK);
    assert.deepEqual(transfer(victim, v.BLK_T_IN, SECTORS + 1, 0), ERROR);
  });
});

test("row 25: more segments than seg_max, and far too many bytes, are served or refused", async () => {
  await each(
    (victim) => {
      // 300 segments of 512 bytes that cannot be joined: more than a request can have.
      for (const [count, status] of [
        [126, OK],
        [250, OK],
        [300, IOERR],
      ] as const) {
        const mark = victim.memory.mark();
        const request = victim.read(0, 512);
        const gpa = victim.memory.allocate(count * 1024);
        const pieces = Array.from({ length: count }, (_, index) => ({
          addr: gpa + index * 1024,
          len: 512,
          write: true,
        }));
        const [header, , statusBuf] = request.chain;
        const chain = [header, ...pieces, statusBuf] as typeof request.chain;
        assert.equal(victim.run({ ...request, chain }).status, status, `${count} segments`);
        victim.memory.reset(mark);
      }
      // One buffer named again and again until it is more than 4 GiB.
      const request = victim.read(0, 512);
      const [header, , statusBuf] = request.chain;
      const whole = {
        addr: victim.memory.regions[0]?.guestAddress ?? 0,
        len: 1 << 20,
        write: true,
      };
      const many = new Array<typeof whole>(480).fill({ ...whole, len: 0x7fffffff });
      const chain = [header, ...many, statusBuf] as typeof request.chain;
      assert.deepEqual(victim.run({ ...request, chain }), ERROR);
    },
    {},
    { ringSize: 512 },
  );
});

test("row 26: a read-only device refuses writes, discards and write-zeroes", async () => {
  const path = join(scene.target.folder, "read-only-image");
  const device: Partial<TargetDeviceOptions> = {
    readOnly: true,
    sizeBytes: 1 << 20,
    backing: { kind: "file", path },
  };
  await each((victim) => {
    assert.deepEqual(transfer(victim, v.BLK_T_OUT, 0, 512), ERROR);
    assert.deepEqual(range(victim, v.BLK_T_DISCARD, { sector: 0, count: 8 }), ERROR);
    assert.deepEqual(range(victim, v.BLK_T_WRITE_ZEROES, { sector: 0, count: 8 }), ERROR);
    assert.equal(transfer(victim, v.BLK_T_IN, 0, 4096).status, OK);
    assert.equal(transfer(victim, v.BLK_T_FLUSH, 0, 0).status, OK);
  }, device);
  assert.ok(readFileSync(path).every((byte) => byte === 0));
});

test("row 27: unknown types are answered with UNSUPP; the barrier bit is masked", async () => {
  await each((victim) => {
    for (const type of [2, 3, 6, 7, 9, 10, 12, 14, 15, 99, 0x7fffffff]) {
      assert.deepEqual(transfer(victim, type, 0, 0), { status: UNSUPP, len: 1 }, String(type));
      assert.deepEqual(transfer(victim, type, 0, 512), { status: UNSUPP, len: 1 }, String(type));
    }
    const barrier = 0x80000000;
    assert.deepEqual(transfer(victim, v.BLK_T_FLUSH + barrier, 0, 0), { status: OK, len: 1 });
    put(victim, 8, new Uint8Array(512).fill(27));
    const request = victim.request(v.BLK_T_IN + barrier, 8, 512, true);
    assert.deepEqual(victim.run(request), { status: OK, len: 513 });
    assert.equal(victim.memory.read(request.dataGpa, 1)[0], 27);
  });
});

test("row 28: a discard with unmap, and unknown flags, are answered with UNSUPP", async () => {
  await each((victim) => {
    put(victim, 0, new Uint8Array(4096).fill(28));
    for (const flags of [1, 2, 3, 0x80000000]) {
      const answer = range(victim, v.BLK_T_DISCARD, { sector: 0, count: 8, flags });
      assert.deepEqual(answer, { status: UNSUPP, len: 1 });
    }
    for (const flags of [2, 3, 0x80000001]) {
      const answer = range(victim, v.BLK_T_WRITE_ZEROES, { sector: 0, count: 8, flags });
      assert.deepEqual(answer, { status: UNSUPP, len: 1 });
    }
    assert.ok(get(victim, 0, 4096).every((byte) => byte === 28));
    const unmap = range(victim, v.BLK_T_WRITE_ZEROES, { sector: 0, count: 8, flags: 1 });
    assert.deepEqual(unmap, { status: OK, len: 1 });
    assert.ok(get(victim, 0, 4096).every((byte) => byte === 0));
  });
});

test("row 29: ranges of no, half or many segments, or beyond the end, are refused", async () => {
  await each((victim) => {
    put(victim, SECTORS - 8, new Uint8Array(4096).fill(29));
    for (const type of [v.BLK_T_DISCARD, v.BLK_T_WRITE_ZEROES]) {
      for (const bytes of [0, 1, 15, 17, 31, 32, 48, 4096]) {
        const answer = rangeOf(victim, type, new Uint8Array(bytes));
        assert.deepEqual(answer, { status: UNSUPP, len: 1 }, `${bytes} bytes`);
      }
      for (const [sector, count] of [
        [0, 0xffffffff],
        [SECTORS, 8],
        [SECTORS - 4, 8],
        [2n ** 55n, 8],
        [2n ** 64n - 8n, 8],
        [2n ** 64n - 8n, 16],
      ] as const) {
        assert.deepEqual(range(victim, type, { sector, count }), ERROR, `${sector}+${count}`);
      }
      assert.deepEqual(range(victim, type, { sector: 0, count: 0 }), { status: OK, len: 1 });
    }
    assert.ok(get(victim, SECTORS - 8, 4096).every((byte) => byte === 29));
  });
  await each(
    (victim) => {
      for (const type of [v.BLK_T_DISCARD, v.BLK_T_WRITE_ZEROES]) {
        assert.deepEqual(range(victim, type, { sector: 8, count: 4 }), ERROR);
        assert.deepEqual(range(victim, type, { sector: 4, count: 8 }), ERROR);
      }
    },
    { blockBytes: 4096 },
  );
});

test("row 30: GET_ID writes as much of the serial as there is room for", async () => {
  const serial = "0123456789abcdefghij";
  await each(
    (victim) => {
      for (const room of [0, 1, 19, 20, 21, 512]) {
        const request = victim.request(v.BLK_T_GET_ID, 0, room, true);
        if (room > 0) victim.memory.write(request.dataGpa, new Uint8Array(room).fill(0x5b));
        const used = Math.min(room, 20);
        assert.deepEqual(victim.run(request), { status: OK, len: used + 1 });
        if (room === 0) continue;
        const found = Buffer.from(victim.memory.read(request.dataGpa, room)).toString("latin1");
        assert.equal(found, serial.slice(0, used).padEnd(room, "["));
      }
    },
    { serial },
  );
});

test("row 31: FLUSH with a sector, or with data, is a flush", async () => {
  await each((victim) => {
    for (const sector of [1, SECTORS, 2n ** 64n - 1n]) {
      assert.deepEqual(transfer(victim, v.BLK_T_FLUSH, sector, 0), { status: OK, len: 1 });
    }
    const readable = victim.request(v.BLK_T_FLUSH, 0, 100, false);
    assert.deepEqual(victim.run(readable), { status: OK, len: 1 });
    const writable = victim.request(v.BLK_T_FLUSH, 5, 100, true);
    assert.deepEqual(victim.run(writable), { status: OK, len: 1 });
    assert.ok(victim.memory.read(writable.dataGpa, 100).every((byte) => byte === 0));
  });
});
