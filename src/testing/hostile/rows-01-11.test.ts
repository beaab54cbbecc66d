// Rows 1 to 11 of the hostile input checklist: chains and rings that no driver may build. Each
// breaks its ring, and nothing else: the other ring of the same guest, and other guests, go on.

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import * as v from "../../virtio/index.ts";
import type { TargetCounts } from "../target.ts";
import { type Buf, type GuestAddress, putDescriptor, putTable } from "./rings.ts";
import { Scene } from "./scene.ts";
import type { Victim, VictimOptions } from "./victim.ts";

let scene: Scene;
before(async (t) => {
  scene = await Scene.open(t as never);
});

const VARIANTS: readonly VictimOptions[] = [
  { kind: "memfd" },
  { kind: "memfd-unsealable" },
  { kind: "memfd", inflight: true },
];

type Spoil = (victim: Victim) => void;

/** `spoil` puts something into queue 0 that must break it for `reason`, in every kind of memory. */
async function breaks(reason: string, options: VictimOptions, spoil: Spoil): Promise<void> {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim({ ...variant, ...options });
      victim.probe();
      spoil(victim);
      const spoilt = victim.memory.snapshot();
      victim.go();
      victim.waitBroken();
      assert.deepEqual(await scene.brokenReasons(), [reason]);
      // Nothing of a broken ring's chains was answered or touched.
      assert.deepEqual(victim.ring.takeUsed(), []);
      assert.deepEqual(victim.memory.changes(spoilt, victim.ringRanges), []);
      // It stays broken, and only it.
      victim.ring.offer(victim.read(0, 512).chain);
      victim.go();
      victim.expectQuiet();
      victim.probe();
      victim.barrier();
    });
  }
}

const SPLIT: VictimOptions = { packed: false };
const PACKED: VictimOptions = { packed: true };
const FLOOD_MS = 100;
const NEXT = v.DESCRIPTOR_F_NEXT;
const INDIRECT = v.DESCRIPTOR_F_INDIRECT;

test("row 01: avail->idx further ahead than the ring is long breaks the ring", async () => {
  await breaks("AVAIL_INDEX", SPLIT, (victim) => {
    victim.split.offer(victim.read(0, 512).chain);
    victim.split.availIndex = victim.ring.size + 1;
  });
  await breaks("AVAIL_INDEX", SPLIT, (victim) => {
    victim.split.availIndex = 0xffff;
  });
});

test("row 02: an avail ring entry that is no descriptor breaks the ring", async () => {
  for (const head of [16, 0x7fff, 0xffff]) {
    await breaks("HEAD_RANGE", SPLIT, (victim) => victim.split.offerHead(head));
  }
});

test("row 03: next that leaves the table breaks the ring, direct and indirect", async () => {
  for (const next of [16, 0xffff]) {
    await breaks("NEXT_RANGE", SPLIT, (victim) => {
      const { chain } = victim.read(0, 512);
      const head = victim.split.offer(chain);
      victim.split.put(head, (chain[0] as Buf).addr, 16, NEXT, next);
    });
  }
  await breaks("NEXT_RANGE", SPLIT, (victim) => {
    const { chain } = victim.read(0, 512);
    const table = victim.memory.allocate(16 * 3);
    putTable(victim.memory, table, chain, false);
    // Three descriptors; the first one names a fourth.
    const fields = { addr: (chain[0] as Buf).addr, len: 16, third: NEXT, fourth: 3 };
    putDescriptor(victim.memory, table, fields);
    victim.split.offerTable(table, 16 * 3);
  });
});

test("row 04: a loop, and a chain longer than the ring, break the ring", async () => {
  await breaks("CHAIN_LOOP", SPLIT, (victim) => {
    victim.split.put(3, victim.header(v.BLK_T_IN, 0), 16, NEXT, 3);
    victim.split.offerHead(3);
  });
  await breaks("CHAIN_LOOP", SPLIT, (victim) => {
    const gpa = victim.header(v.BLK_T_IN, 0);
    for (let index = 0; index < 16; index++) {
      victim.split.put(index, gpa, 16, NEXT, (index + 1) % 16);
    }
    victim.split.offerHead(0);
  });
  await breaks("CHAIN_LOOP", SPLIT, (victim) => {
    const table = victim.memory.allocate(32);
    const addr = victim.header(v.BLK_T_IN, 0);
    putDescriptor(victim.memory, table, { addr, len: 16, third: NEXT, fourth: 1 });
    putDescriptor(victim.memory, table + 16, { addr, len: 16, third: NEXT, fourth: 0 });
    victim.split.offerTable(table, 32);
  });
  await breaks("CHAIN_LOOP", PACKED, (victim) => {
    const gpa = victim.header(v.BLK_T_IN, 0);
    for (let index = 0; index < 16; index++) victim.packed.place(gpa, 16, 0, NEXT);
  });
});

test("row 05: a head made available twice while in flight breaks the ring", async () => {
  await breaksWhileHeld("HEAD_IN_FLIGHT", SPLIT, (victim, head) => victim.split.offerHead(head));
  await breaksWhileHeld("HEAD_IN_FLIGHT", PACKED, (victim, id) => {
    for (const { addr, len, write } of victim.read(0, 512).chain) {
      const flags = write === true ? v.DESCRIPTOR_F_WRITE : 0;
      victim.packed.place(addr, len, id, len === 1 ? flags : flags | NEXT);
    }
  });
});

test("row 06: more heads than the ring has room for break the ring", async () => {
  await breaksWhileHeld("TOO_MANY_IN_FLIGHT", SPLIT, (victim) => {
    // 15 are free, 16 are offered: not one of them may be taken.
    for (let count = 0; count < 16; count++) victim.split.offerHead((count + 1) % 16);
  });
  await breaksWhileHeld("TOO_MANY_IN_FLIGHT", PACKED, (victim) => {
    // Three of 16 descriptors are in flight; a chain of 14 runs into them.
    const gpa = victim.header(v.BLK_T_IN, 0);
    for (let count = 0; count < 14; count++) victim.packed.place(gpa, 16, 9, NEXT);
  });
});

test("row 06: heads offered again before their completion was shown break the ring", async () => {
  // Requests that need no device are answered while the ring is being read. A guest that offers
  // more at that moment must not get more into flight than the ring has room for.
  for (const packed of [false, true]) {
    await floodsWhileServed(packed);
  }
});

test("row 07: INDIRECT that was not negotiated breaks the ring", async () => {
  const withoutFeatures = [v.F_INDIRECT_DESC];
  for (const packed of [false, true]) {
    await breaks("INDIRECT_NOT_NEGOTIATED", { packed, withoutFeatures }, (victim) => {
      victim.ring.offerIndirect(victim.read(0, 512).chain);
    });
  }
});

test("row 08: an indirect table inside an indirect table breaks the ring", async () => {
  for (const packed of [false, true]) {
    await breaks("INDIRECT_NESTED", { packed }, (victim) => {
      const { chain } = victim.read(0, 512);
      const inner = victim.memory.allocate(16 * 3);
      putTable(victim.memory, inner, chain, packed);
      const outer = victim.memory.allocate(16);
      const words = packed ? { third: 0, fourth: INDIRECT } : { third: INDIRECT, fourth: 0 };
      putDescriptor(victim.memory, outer, { addr: inner, len: 16 * 3, ...words });
      offerTable(victim, outer, 16);
    });
  }
});

test("row 09: INDIRECT together with NEXT breaks the ring, except for old drivers", async () => {
  for (const packed of [false, true]) {
    await breaks("INDIRECT_NEXT", { packed }, (victim) => {
      const { chain } = victim.read(0, 512);
      const table = victim.memory.allocate(16 * 3);
      putTable(victim.memory, table, chain, packed);
      offerTable(victim, table, 16 * 3, NEXT);
    });
  }
  await scene.attack(() => {
    const victim = scene.victim({ withoutFeatures: [v.F_VERSION_1] });
    const request = victim.read(0, 512);
    const table = victim.memory.allocate(16 * 3);
    putTable(victim.memory, table, request.chain, false);
    victim.split.offerTable(table, 16 * 3, NEXT);
    victim.go();
    assert.equal(victim.waitUsed(1)[0]?.len, 513);
  });
});

test("row 10: an indirect table of no whole descriptors breaks the ring", async () => {
  for (const packed of [false, true]) {
    for (const bytes of [0, 1, 15, 17, 47]) {
      await breaks("INDIRECT_BYTES", { packed }, (victim) => {
        victim.ring.offerIndirect(victim.read(0, 512).chain, { bytes });
      });
    }
  }
});

test("row 11: a huge indirect table breaks the ring", async () => {
  for (const packed of [false, true]) {
    for (const bytes of [1025 * 16, 0x80000000, 0xfffffff0]) {
      await breaks("INDIRECT_TOO_LONG", { packed }, (victim) => {
        victim.ring.offerIndirect(victim.read(0, 512).chain, { bytes });
      });
    }
    for (const table of [0, 2n ** 64n - 16n, 2n ** 53n, 0x2_0000_0000]) {
      await breaks("INDIRECT_UNREACHABLE", { packed }, (victim) => offerTable(victim, table, 48));
    }
  }
});

function offerTable(victim: Victim, table: GuestAddress, bytes: number, extraFlags = 0): void {
  if (victim.ring.packed) victim.packed.offerTable(table, bytes, extraFlags);
  else victim.split.offerTable(table, bytes, extraFlags);
}

/** As breaks(), with a request in flight, which is answered all the same. */
async function breaksWhileHeld(
  reason: string,
  options: VictimOptions,
  spoil: (victim: Victim, head: number) => void,
): Promise<void> {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim({ ...variant, ...options });
      await scene.target.hold(scene.victimName);
      const request = victim.read(0, 512);
      const head = victim.ring.offer(request.chain);
      victim.go();
      await scene.target.until(heldOne, "taken");
      spoil(victim, head);
      victim.go();
      victim.waitBroken();
      assert.deepEqual(await scene.brokenReasons(), [reason]);
      await scene.target.release(scene.victimName);
      assert.deepEqual(victim.waitUsed(1), [{ id: head, len: 513 }]);
      assert.equal(victim.memory.read(request.statusGpa, 1)[0], v.BLK_S_OK);
      victim.expectQuiet();
      victim.probe();
    });
  }
}

function heldOne(counts: TargetCounts): boolean {
  return counts.devices[scene.victimName]?.heldCount === 1;
}

/** A second thread offers two chains again as soon as they are answered, four descriptors in all. */
async function floodsWhileServed(packed: boolean): Promise<void> {
  for (const variant of VARIANTS) {
    await scene.attack(async () => {
      const victim = scene.victim({ ...variant, packed, ringSize: 4 });
      const racer = victim.refillWithoutEnd();
      await racer.begun();
      victim.go();
      await sleep(FLOOD_MS);
      await racer.stop();
      victim.barrier();
      victim.probe();
    });
  }
}
