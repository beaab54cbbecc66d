// Rows 32 to 36 of the hostile input checklist: a guest that changes its memory, or takes it away,
// while requests are being read and served.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { singleRegionPayload } from "../../load/index.ts";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import * as v from "../../virtio/index.ts";
import { type Flip, Racer } from "./racer.ts";
import type { Buf } from "./rings.ts";
import { Scene } from "./scene.ts";
import {
  GUEST_BASE,
  STATUS_UNTOUCHED,
  type Victim,
  type VictimOptions,
  WAIT_MS,
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
const REGION_BYTES = 1 << 20;
const RACE_MS = 250;
const FLAG_NEED_REPLY = m.FLAG_VERSION | m.FLAG_NEED_REPLY;

/**
 * Serves requests for a while whose words a second thread flips. Whatever was read: the ring may
 * break, answers may be errors, but memory changes only where some reading of it allows.
 */
async function races(
  setUp: (victim: Victim) => {
    flips: readonly Flip[];
    chain: readonly Buf[];
    status: number;
    writable: readonly (readonly [number, number])[];
    indirect?: boolean;
  },
): Promise<void> {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim(variant);
      const { flips, chain, status, writable, indirect } = setUp(victim);
      const { ring } = victim;
      const before = victim.memory.snapshot();
      const racer = new Racer({ kickFd: victim.queue().kickFd, flips, refill: null });
      const mark = victim.memory.mark();
      let served = 0;
      try {
        await racer.begun();
        const deadline = Date.now() + RACE_MS;
        while (Date.now() < deadline) {
          victim.memory.reset(mark);
          if (indirect === true) ring.offerIndirect(chain);
          else ring.offer(chain);
          victim.go();
          if (!usedOrBroken(victim)) break;
          served += 1;
          const answer = victim.memory.read(status, 1)[0];
          assert.notEqual(answer, STATUS_UNTOUCHED);
        }
      } finally {
        await racer.stop();
      }
      assert.ok(served > 0 || indirect === true, "nothing was served before the ring broke");
      const allowed = [
        ...victim.ringRanges,
        [ring.descriptorGpa, ring.size * 16] as const,
        // Indirect tables go where the mark was.
        [GUEST_BASE + (mark[0] as number), 512] as const,
        [status, 1] as const,
        ...writable,
      ];
      assert.deepEqual(victim.memory.changes(before, allowed), []);
      victim.probe();
      victim.barrier();
    });
  }
}

function usedOrBroken(victim: Victim): boolean {
  const { callFd, errFd } = victim.queue();
  for (;;) {
    if (victim.ring.takeUsed().length > 0) return true;
    const ready = sys.pollTwo(callFd, sys.POLLIN, errFd, sys.POLLIN, WAIT_MS);
    assert.notEqual(ready, 0, "neither answered nor broken");
    if ((ready & 2) !== 0) return false;
    sys.eventClear(callFd);
  }
}

function wordsOf(victim: Victim, gpa: number, low: readonly number[]): Flip {
  return { address: victim.memory.hostAddress(gpa), values: low };
}

test("row 32: a header that changes while it is read is used as it was checked", async () => {
  await races((victim) => {
    const { chain, headerGpa, dataGpa, statusGpa } = victim.read(0, 4096);
    // The sector: on the disk, beyond it, in the middle of nowhere. The type: read, write, other.
    const flips = [
      wordsOf(victim, headerGpa, [0, 1, 99, v.BLK_T_GET_ID]),
      wordsOf(victim, headerGpa + 8, [0, 0x1ffff, 0xffffffff]),
      wordsOf(victim, headerGpa + 12, [0, 0, 0x7fffff]),
    ];
    const writable = [
      [dataGpa, 4096],
      [headerGpa, 16],
    ] as const;
    return { flips, chain, status: statusGpa, writable };
  });
});

test("row 32: range segments that change while they are read are used as checked", async () => {
  await races((victim) => {
    const { chain, headerGpa, dataGpa, statusGpa } = victim.request(v.BLK_T_DISCARD, 0, 16, false);
    const flips = [
      wordsOf(victim, headerGpa, [v.BLK_T_DISCARD, v.BLK_T_WRITE_ZEROES]),
      wordsOf(victim, dataGpa, [0, 0x1ffff, 0xffffffff]),
      wordsOf(victim, dataGpa + 8, [8, 0xffffffff, 0]),
      wordsOf(victim, dataGpa + 12, [0, 1, 2]),
    ];
    const writable = [
      [dataGpa, 16],
      [headerGpa, 16],
    ] as const;
    return { flips, chain, status: statusGpa, writable };
  });
});

test("row 32: descriptors that change while they are read are used as checked", async () => {
  await races((victim) => {
    const { chain, dataGpa, statusGpa } = victim.read(0, 4096);
    // Both rings take their first chains from the front of the table: descriptor 1 is the data.
    const flips = [1, 4, 7, 10, 13].flatMap((index) => {
      const gpa = victim.ring.descriptorGpa + index * 16;
      return [
        wordsOf(victim, gpa, [dataGpa >>> 0, 0xfffff000]),
        wordsOf(victim, gpa + 8, [4096, 0x7fffffff, 0]),
      ];
    });
    return { flips, chain, status: statusGpa, writable: [[dataGpa, 4096]] };
  });
});

test("row 32: indirect tables that change while they are read are used as checked", async () => {
  await races((victim) => {
    const { chain, dataGpa, statusGpa } = victim.read(0, 4096);
    const table = victim.memory.allocate(16, 16);
    const splitTails = [2, 2, 2 | (1 << 16), 2, 0xffff];
    const packedTails = [2 << 16, 0x82 << 16, 0x8082_0007, 0xffff_0000];
    // offerIndirect() allocates its tables where this one ends.
    const flips = [
      wordsOf(victim, table + 16 + 16, [dataGpa >>> 0, 0xfffff000]),
      wordsOf(victim, table + 16 + 16 + 8, [4096, 0x7fffffff]),
      // Flags and next of the status: writable always; now and then indirect, which breaks.
      wordsOf(victim, table + 16 + 32 + 12, victim.ring.packed ? packedTails : splitTails),
    ];
    return { flips, chain, status: statusGpa, writable: [[dataGpa, 4096]], indirect: true };
  });
});

test("row 33: data that changes during a write reaches the disk as one mix or another", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim(variant);
      const bytes = 65536;
      const write = victim.writeRequest(0, new Uint8Array(bytes).fill(0x11));
      const back = victim.read(0, bytes);
      const address = victim.memory.hostAddress(write.dataGpa);
      const flips = Array.from({ length: 256 }, (_, index) => ({
        address: address + index * 256,
        values: [0x11111111, 0x22222222],
      }));
      const racer = new Racer({ kickFd: victim.queue(1).kickFd, flips, refill: null });
      try {
        await racer.begun();
        for (let round = 0; round < 30; round++) {
          assert.equal(victim.run(write).status, OK);
          assert.equal(victim.run(back).status, OK);
          const words = victim.memory.u32(back.dataGpa, bytes / 4);
          for (let at = 0; at < words.length; at++) {
            const word = words[at];
            const mayFlip = at % 64 === 0;
            assert.ok(word === 0x11111111 || (mayFlip && word === 0x22222222), `word ${at}`);
          }
        }
      } finally {
        await racer.stop();
      }
    });
  }
});

test("row 34: used ring, used->idx and avail_event are the device's: ours is not believed", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(() => {
      const victim = scene.victim(variant);
      const { ring, memory } = victim;
      const usedBytes = ring.packed ? 4 : 4 + 8 * ring.size + 2;
      let expected = 0;
      for (let round = 0; round < 40; round++) {
        expected += 1;
        // Flags, idx, elements, avail_event: all nonsense, differently each time.
        memory.write(ring.usedGpa, new Uint8Array(usedBytes).fill(round * 37 + 1));
        if (!ring.packed) victim.split.usedIndex = expected - 1;
        const request = victim.read(0, 512);
        const head = ring.offer(request.chain);
        victim.go();
        waitStatus(victim, request.statusGpa);
        // The answer is written before it is shown; until then used->idx is our nonsense.
        if (!ring.packed) waitUsedIndex(victim, expected);
        assert.deepEqual(victim.waitUsed(1), [{ id: head, len: 513 }]);
      }
      assert.equal(victim.frontEnd.getVringBase(0), expectedBase(victim, expected));
    });
  }
});

function expectedBase(victim: Victim, requests: number): number {
  if (!victim.ring.packed) return requests;
  const descriptors = requests * 3;
  const position = descriptors % victim.ring.size;
  const wrap = Math.floor(descriptors / victim.ring.size) % 2 === 0 ? 0x8000 : 0;
  return ((position | wrap) * 0x10001) >>> 0;
}

function waitUsedIndex(victim: Victim, expected: number): void {
  const deadline = Date.now() + WAIT_MS;
  while (Atomics.load(victim.split.used, 1) !== expected) {
    assert.ok(Date.now() < deadline, "used->idx was taken from guest memory");
    sys.pollOne(victim.queue().callFd, sys.POLLIN, 1);
  }
}

function waitStatus(victim: Victim, statusGpa: number): void {
  const deadline = Date.now() + WAIT_MS;
  while (victim.memory.read(statusGpa, 1)[0] === STATUS_UNTOUCHED) {
    assert.ok(Date.now() < deadline, "never answered");
    sys.pollOne(victim.queue().callFd, sys.POLLIN, 5);
    sys.eventClear(victim.queue().callFd);
  }
}

const TWO_REGIONS: VictimOptions = {
  regions: [
    { guestAddress: GUEST_BASE, bytes: REGION_BYTES },
    { guestAddress: GUEST_BASE + 4 * REGION_BYTES, bytes: REGION_BYTES },
  ],
};

function twoRegions(variant: VictimOptions): VictimOptions {
  const regions = (TWO_REGIONS.regions ?? []).map((region) => ({
    ...region,
    kind: variant.kind ?? "memfd",
  }));
  return { ...variant, regions };
}

test("row 35: memory is taken away only after I/O in flight into it has ended", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim(twoRegions(variant));
      const { memory, frontEnd } = victim;
      const second = memory.regions[1];
      assert.ok(second !== undefined);
      const mapped = (await scene.target.counts()).sharedMapCount;
      const { chain, headerGpa, statusGpa } = victim.read(0, 4096);
      const data = memory.allocate(4096, 16, second);
      const [header, , status] = chain as [Buf, Buf, Buf];
      const request = {
        chain: [header, { addr: data, len: 4096, write: true }, status],
        headerGpa,
        dataGpa: data,
        statusGpa,
      };
      await scene.target.hold(scene.victimName);
      const head = victim.ring.offer(request.chain);
      victim.go();
      await scene.target.until(isHeld, "taken");
      frontEnd.sendMessage({
        request: m.REM_MEM_REG,
        flags: FLAG_NEED_REPLY,
        payload: singleRegionPayload(second),
      });
      assert.ok(!frontEnd.stream.readable(50), "acknowledged while I/O was in flight");
      assert.equal((await scene.target.counts()).sharedMapCount, mapped);
      await scene.target.release(scene.victimName);
      const ack = frontEnd.receiveMessage();
      assert.equal(ack.request, m.REM_MEM_REG);
      assert.deepEqual([...ack.payload], [0, 0, 0, 0, 0, 0, 0, 0]);
      assert.deepEqual(victim.waitUsed(1), [{ id: head, len: 4097 }]);
      assert.equal((await scene.target.counts()).sharedMapCount, mapped - 1);
      // The ring goes on; that memory is gone.
      memory.write(statusGpa, Uint8Array.of(STATUS_UNTOUCHED));
      assert.deepEqual(victim.run(request), { status: v.BLK_S_IOERR, len: 1 });
      assert.equal(victim.run(victim.read(0, 512)).status, OK);
    });
  }
});

function isHeld(counts: Awaited<ReturnType<typeof scene.target.counts>>): boolean {
  return counts.devices[scene.victimName]?.heldCount === 1;
}

test("row 35: a ring whose memory is taken away is broken, and only it", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim({ ...twoRegions(variant), queueCount: 0, start: false });
      const { memory, frontEnd } = victim;
      const [first, second] = memory.regions;
      assert.ok(first !== undefined && second !== undefined);
      frontEnd.addMemRegion(first);
      frontEnd.addMemRegion(second);
      victim.addQueue(second);
      victim.addQueue(first);
      for (const queue of victim.queues) victim.startQueue(queue);
      const head = victim.ring.offer(victim.read(0, 512).chain);
      victim.go();
      assert.deepEqual(victim.waitUsed(1), [{ id: head, len: 513 }]);
      frontEnd.remMemRegion(second);
      victim.waitBroken();
      assert.equal((await scene.brokenReasons()).length, 1);
      victim.probe();
      // Back again, the ring can be stopped, given and started anew.
      frontEnd.addMemRegion(second);
      const base = frontEnd.getVringBase(0);
      victim.startQueue(victim.queue(), base);
      assert.equal(victim.run(victim.read(0, 512)).status, OK);
    });
  }
});

test("row 35: a whole new memory table waits for I/O as well; nothing else waits", async () => {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim(twoRegions(variant));
      await scene.target.hold(scene.victimName);
      const head = victim.ring.offer(victim.read(0, 4096).chain);
      victim.go();
      await scene.target.until(isHeld, "taken");
      const table = new Uint8Array(8 + 32);
      table.set(singleRegionPayload(victim.memory.regions[0] as never).subarray(8), 8);
      table[0] = 1;
      victim.frontEnd.sendMessage({
        request: m.SET_MEM_TABLE,
        flags: FLAG_NEED_REPLY,
        payload: table,
        fds: [victim.memory.regions[0]?.fd ?? -1],
      });
      assert.ok(!victim.frontEnd.stream.readable(50), "acknowledged while I/O was in flight");
      await scene.target.release(scene.victimName);
      assert.equal(victim.frontEnd.receiveMessage().request, m.SET_MEM_TABLE);
      assert.deepEqual(victim.waitUsed(1), [{ id: head, len: 4097 }]);
      assert.equal(victim.run(victim.read(0, 512)).status, OK);
    });
  }
});

test("row 35: a device detached while a memory table waits leaves no mapping", async () => {
  await scene.attack(async () => {
    const name = `${scene.victimName}-detached`;
    const path = await scene.target.add({ name });
    const victim = scene.victimOn(path, {});
    await scene.target.hold(name);
    victim.ring.offer(victim.read(0, 4096).chain);
    victim.go();
    await scene.target.until((counts) => counts.devices[name]?.heldCount === 1, "taken");
    const region = victim.memory.regions[0];
    assert.ok(region !== undefined);
    const table = new Uint8Array(8 + 32);
    table.set(singleRegionPayload(region).subarray(8), 8);
    table[0] = 1;
    victim.frontEnd.sendMessage({ request: m.SET_MEM_TABLE, payload: table, fds: [region.fd] });
    await sleep(20);
    const removed = scene.target.remove(name);
    await scene.target.release(name);
    await removed;
  });
});

test("row 36: packed buffer ids out of range, reused, or without their descriptors", async () => {
  const NEXT = v.DESCRIPTOR_F_NEXT;
  const WRITE = v.DESCRIPTOR_F_WRITE;
  const cases: readonly [string, (victim: Victim) => void][] = [];
  const list = cases as [string, (victim: Victim) => void][];
  for (const id of [16, 17, 0x7fff, 0xffff]) {
    list.push(["BUFFER_ID", (victim) => placeRead(victim, id)]);
  }
  list.push([
    "CHAIN_UNAVAILABLE",
    (victim) => {
      victim.packed.place(victim.header(v.BLK_T_IN, 0), 16, 0, NEXT);
    },
  ]);
  list.push([
    "CHAIN_UNAVAILABLE",
    (victim) => {
      // The second descriptor carries the other wrap counter.
      const { packed } = victim;
      packed.place(victim.header(v.BLK_T_IN, 0), 16, 0, NEXT);
      packed.put(1, victim.status(), 1, 0, WRITE | v.PACKED_F_USED);
    },
  ]);
  for (const variant of VARIANTS.filter(({ packed }) => packed === true)) {
    for (const [reason, spoil] of cases) {
      await scene.attack(async () => {
        const victim = scene.victim(variant);
        spoil(victim);
        const before = victim.memory.snapshot();
        victim.go();
        victim.waitBroken();
        assert.deepEqual(await scene.brokenReasons(), [reason]);
        assert.deepEqual(victim.memory.changes(before, victim.ringRanges), []);
        victim.probe();
      });
    }
    await scene.attack(() => {
      // Wrap bits that mean nothing: not available, not an error.
      const victim = scene.victim(variant);
      for (const flags of [0, v.PACKED_F_AVAIL | v.PACKED_F_USED, v.PACKED_F_USED]) {
        victim.packed.put(0, victim.status(), 1, 0, WRITE | flags);
        victim.kick();
        victim.expectQuiet();
      }
    });
  }
});

function placeRead(victim: Victim, id: number): void {
  const { chain } = victim.read(0, 512);
  for (const [index, { addr, len, write }] of chain.entries()) {
    const next = index + 1 < chain.length ? v.DESCRIPTOR_F_NEXT : 0;
    victim.packed.place(addr, len, id, next | (write === true ? v.DESCRIPTOR_F_WRITE : 0));
  }
}
