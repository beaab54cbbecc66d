// The device side of a packed ring, alone: row 36 and the rows it shares with a split ring, wrap
// counters, notifications, the order of writes.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { RingArea } from "../ports/index.ts";
import type { FakeMemory, ShadowArea } from "../testing/fakes/guest-memory.ts";
import { PackedDriver, type TestBuffer } from "../testing/fakes/ring-driver.ts";
import { PLACES, SEAM, testMemory } from "./_test-rig.ts";
import { Chain } from "./chain.ts";
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_VERSION_1,
  PACKED_BASE_INITIAL,
  PACKED_EVENT_DESCRIPTOR,
  PACKED_EVENT_DISABLE,
  PACKED_EVENT_ENABLE,
  PACKED_F_AVAIL,
  PACKED_F_USED,
} from "./layouts.ts";
import { PackedQueue } from "./packed-queue.ts";
import {
  BROKEN_BUFFER_ID,
  BROKEN_CHAIN_LOOP,
  BROKEN_CHAIN_UNAVAILABLE,
  BROKEN_HEAD_IN_FLIGHT,
  BROKEN_INDIRECT_BYTES,
  BROKEN_INDIRECT_NESTED,
  BROKEN_INDIRECT_NEXT,
  BROKEN_INDIRECT_NOT_NEGOTIATED,
  BROKEN_INDIRECT_TOO_LONG,
  BROKEN_INFLIGHT,
  BROKEN_RING_BASE,
  BROKEN_RING_MEMORY,
  BROKEN_TOO_MANY_IN_FLIGHT,
  brokenName,
  NONE,
  type PackedInflightTracker,
  type RingLog,
} from "./virtqueue.ts";

interface RigOptions {
  readonly size?: number;
  readonly eventIndex?: boolean;
  readonly indirect?: boolean;
  readonly shadow?: boolean;
  readonly base?: number;
  readonly tracker?: PackedInflightTracker;
  readonly ringLog?: RingLog;
}

class Rig {
  readonly memory: FakeMemory = testMemory();
  readonly driver: PackedDriver;
  readonly queue: PackedQueue = new PackedQueue();
  readonly chain: Chain = new Chain();
  readonly areas: { descriptors: RingArea; driver: RingArea; device: RingArea };
  readonly started: number;

  constructor(options: RigOptions = {}) {
    const size = options.size ?? 8;
    this.driver = new PackedDriver(this.memory, size, PLACES);
    this.areas = this.driver.areas(options.shadow === true);
    let low = options.indirect === false ? 0 : 1 << F_INDIRECT_DESC;
    if (options.eventIndex === true) low |= 1 << F_EVENT_IDX;
    this.started = this.queue.start({
      size,
      ...this.areas,
      base: options.base ?? PACKED_BASE_INITIAL,
      featuresLow: low >>> 0,
      featuresHigh: 1 << (F_VERSION_1 - 32),
      memory: this.memory,
      tracker: options.tracker ?? null,
      ringLog: options.ringLog ?? null,
    });
  }

  pop(): number {
    return this.queue.pop(this.chain);
  }

  give(...ids: number[]): boolean {
    for (const id of ids) this.queue.push(id, 1);
    this.queue.publish();
    return this.queue.needsNotification();
  }

  assertBroken(reason: number): void {
    const result = this.pop();
    assert.equal(brokenName(result), brokenName(reason));
    assert.equal(this.pop(), reason, "a broken ring takes nothing more");
    this.memory.checkPoison();
  }
}

const READ: TestBuffer = { gpa: PLACES.data, bytes: 512, write: true };
const HEADER: TestBuffer = { gpa: PLACES.headers, bytes: 16 };
const STATUS: TestBuffer = { gpa: PLACES.statuses, bytes: 1, write: true };
const AVAILABLE = PACKED_F_AVAIL;

for (const shadow of [false, true]) {
  describe(shadow ? "packed queue, shadow areas" : "packed queue, direct areas", () => {
    test("a chain arrives as addresses and lengths, readable first", () => {
      const rig = new Rig({ shadow });
      const id = rig.driver.add([HEADER, READ, STATUS]);
      assert.equal(rig.pop(), id);
      const { chain } = rig;
      assert.deepEqual([...chain.addresses.subarray(0, 3)], [HEADER.gpa, READ.gpa, STATUS.gpa]);
      assert.deepEqual([...chain.lengths.subarray(0, 3)], [16, 512, 1]);
      assert.deepEqual([chain.readableBytes, chain.writableBytes, chain.flags], [16, 513, 0]);
      assert.equal(rig.pop(), NONE);
    });

    test("rings of any size wrap, with chains across the end", () => {
      for (const size of [1, 3, 5, 8]) {
        const rig = new Rig({ shadow, size });
        for (let round = 0; round < 50; round++) {
          const count = 1 + (round % Math.min(size, 3));
          const id = rig.driver.add(Array.from({ length: count }, () => READ));
          assert.equal(rig.pop(), id);
          assert.equal(rig.chain.count, count);
          assert.equal(rig.pop(), NONE);
          rig.give(id);
          assert.deepEqual(rig.driver.takeUsed(), [{ id, bytes: 1 }]);
        }
        rig.memory.checkPoison();
      }
    });

    test("completions out of order overwrite the ring and lose nothing", () => {
      const rig = new Rig({ shadow, size: 7 });
      for (let round = 0; round < 60; round++) {
        const ids = [
          rig.driver.add([HEADER, STATUS]),
          rig.driver.add([READ]),
          rig.driver.add([HEADER, READ, STATUS]),
        ];
        assert.deepEqual([rig.pop(), rig.pop(), rig.pop()], ids);
        const [a, b, c] = ids as [number, number, number];
        rig.give(c);
        rig.give(a, b);
        const given = rig.driver.takeUsed().map((element) => element.id);
        assert.deepEqual(given, [c, a, b]);
      }
    });

    test("a batch becomes visible at once, by the flags of its first descriptor", () => {
      const rig = new Rig({ shadow });
      const ids = [rig.driver.add([READ]), rig.driver.add([READ]), rig.driver.add([READ])];
      for (const id of ids) assert.equal(rig.pop(), id);
      for (const id of ids) rig.queue.push(id, 5);
      assert.deepEqual(rig.driver.takeUsed(), []);
      rig.queue.publish();
      assert.equal(rig.driver.takeUsed().length, 3);
    });

    test("a used length of 0 carries no WRITE flag", () => {
      const rig = new Rig({ shadow });
      const id = rig.driver.add([HEADER]);
      rig.pop();
      rig.queue.push(id, 0);
      rig.queue.publish();
      assert.deepEqual(rig.driver.takeUsed(), [{ id, bytes: 0 }]);
    });

    test("rows 3, 36: a chain that runs into descriptors not available", () => {
      const rig = new Rig({ shadow });
      rig.driver.put(0, HEADER.gpa, 16, 0, AVAILABLE | DESCRIPTOR_F_NEXT);
      rig.assertBroken(BROKEN_CHAIN_UNAVAILABLE);
    });

    test("rows 4, 36: a chain that never ends", () => {
      const rig = new Rig({ shadow, size: 4 });
      for (let index = 3; index >= 0; index--) {
        rig.driver.put(index, HEADER.gpa, 16, 0, AVAILABLE | DESCRIPTOR_F_NEXT);
      }
      rig.assertBroken(BROKEN_CHAIN_LOOP);
    });

    test("rows 5, 36: an id that is reused in flight", () => {
      const rig = new Rig({ shadow });
      rig.driver.put(0, READ.gpa, 512, 3, AVAILABLE | DESCRIPTOR_F_WRITE);
      assert.equal(rig.pop(), 3);
      rig.driver.put(1, READ.gpa, 512, 3, AVAILABLE | DESCRIPTOR_F_WRITE);
      rig.assertBroken(BROKEN_HEAD_IN_FLIGHT);
    });

    test("rows 6, 36: more slots in flight than the ring has", () => {
      const rig = new Rig({ shadow, size: 4 });
      for (let index = 0; index < 4; index++) {
        rig.driver.put(index, READ.gpa, 512, index, AVAILABLE | DESCRIPTOR_F_WRITE);
      }
      for (let count = 0; count < 4; count++) assert.ok(rig.pop() >= 0);
      // The driver overwrites a slot that we still owe it, with the flags of the next lap.
      rig.driver.put(0, READ.gpa, 512, 9, PACKED_F_USED | DESCRIPTOR_F_WRITE);
      rig.assertBroken(BROKEN_TOO_MANY_IN_FLIGHT);
    });

    test("row 6: what was pushed and not shown yet still takes its slots", () => {
      const rig = new Rig({ shadow, size: 4 });
      const ids = [0, 1, 2, 3].map(() => rig.driver.add([READ]));
      for (const id of ids) assert.equal(rig.pop(), id);
      for (const id of ids.slice(0, 2)) rig.queue.push(id, 1);
      // Over a slot whose used descriptor the driver cannot have seen.
      rig.driver.put(0, READ.gpa, 512, ids[0] as number, PACKED_F_USED | DESCRIPTOR_F_NEXT);
      rig.driver.put(1, READ.gpa, 512, ids[0] as number, PACKED_F_USED | DESCRIPTOR_F_WRITE);
      rig.assertBroken(BROKEN_TOO_MANY_IN_FLIGHT);
    });

    test("row 36: a buffer id that the ring does not have", () => {
      for (const id of [8, 0xffff]) {
        const rig = new Rig({ shadow });
        rig.driver.put(0, READ.gpa, 512, id, AVAILABLE | DESCRIPTOR_F_WRITE);
        rig.assertBroken(BROKEN_BUFFER_ID);
      }
    });

    test("row 36: wrap bits that make no sense are simply not available", () => {
      for (const flags of [0, PACKED_F_USED, PACKED_F_AVAIL | PACKED_F_USED]) {
        const rig = new Rig({ shadow });
        rig.driver.put(0, READ.gpa, 512, 0, flags | DESCRIPTOR_F_WRITE);
        assert.equal(rig.pop(), NONE);
        assert.equal(rig.queue.enableNotifications(), false);
      }
    });

    test("rows 7 to 11: indirect tables", () => {
      const cases: [number, number, boolean, number][] = [
        [32, DESCRIPTOR_F_INDIRECT, false, BROKEN_INDIRECT_NOT_NEGOTIATED],
        [32, DESCRIPTOR_F_INDIRECT | DESCRIPTOR_F_NEXT, true, BROKEN_INDIRECT_NEXT],
        [0, DESCRIPTOR_F_INDIRECT, true, BROKEN_INDIRECT_BYTES],
        [24, DESCRIPTOR_F_INDIRECT, true, BROKEN_INDIRECT_BYTES],
        [0xfffffff0, DESCRIPTOR_F_INDIRECT, true, BROKEN_INDIRECT_TOO_LONG],
      ];
      for (const [bytes, flags, indirect, reason] of cases) {
        const rig = new Rig({ shadow, indirect });
        rig.driver.put(0, PLACES.tables, bytes, 0, AVAILABLE | flags);
        rig.assertBroken(reason);
      }
      const nested = new Rig({ shadow });
      nested.driver.add([HEADER, STATUS], PLACES.tables);
      const flags = nested.memory.offsetOf(PLACES.tables + 16, 16) / 2 + 7;
      nested.memory.u16[flags] = DESCRIPTOR_F_INDIRECT;
      nested.assertBroken(BROKEN_INDIRECT_NESTED);
    });

    test("an indirect table counts as a whole, NEXT and ids in it mean nothing", () => {
      const rig = new Rig({ shadow });
      const id = rig.driver.add([HEADER, READ, STATUS], PLACES.tables);
      const table = rig.memory.offsetOf(PLACES.tables, 48) / 2;
      for (let index = 0; index < 3; index++) {
        const flags = table + index * 8 + 7;
        rig.memory.u16[flags] = (rig.memory.u16[flags] as number) | DESCRIPTOR_F_NEXT;
        rig.memory.u16[table + index * 8 + 6] = 0xffff;
      }
      assert.equal(rig.pop(), id);
      assert.deepEqual([rig.chain.count, rig.chain.readableCount], [3, 1]);
      rig.give(id);
      assert.equal(rig.driver.takeUsed().length, 1);
    });

    test("row 12: an indirect table that crosses two regions", () => {
      const rig = new Rig({ shadow });
      rig.driver.add([HEADER, READ, STATUS], PLACES.tables);
      const source = rig.memory.offsetOf(PLACES.tables, 48);
      rig.memory.write(SEAM - 20, rig.memory.u8, source, 48);
      rig.memory.u32[rig.memory.offsetOf(PLACES.descriptors, 4) / 4] = (SEAM - 20) >>> 0;
      rig.memory.u32[rig.memory.offsetOf(PLACES.descriptors, 8) / 4 + 1] = 1;
      assert.ok(rig.pop() >= 0);
      assert.equal(rig.chain.addresses[2], STATUS.gpa);
      rig.memory.checkPoison();
    });

    test("driver event flags decide; a descriptor position only with EVENT_IDX", () => {
      const give = (rig: Rig): boolean => {
        rig.driver.add([READ]);
        const notify = rig.give(rig.pop());
        rig.driver.takeUsed();
        return notify;
      };
      const plain = new Rig({ shadow });
      assert.equal(give(plain), true);
      plain.driver.setDriverEvent(0, PACKED_EVENT_DISABLE);
      assert.equal(give(plain), false);
      plain.driver.setDriverEvent(0x8005, PACKED_EVENT_DESCRIPTOR);
      assert.equal(give(plain), true, "not negotiated: read as enabled");
      assert.equal(plain.queue.needsNotification(), false, "asked again without anything new");
    });

    test("with EVENT_IDX the driver is notified when its position is passed, over the wrap", () => {
      // Position of the event counted over all laps, against the positions used one by one.
      for (const batch of [1, 2, 3, 5]) {
        const rig = new Rig({ shadow, eventIndex: true, size: 5 });
        rig.driver.setDriverEvent(0, PACKED_EVENT_ENABLE);
        rig.driver.add([READ]);
        assert.equal(rig.give(rig.pop()), true);
        rig.driver.takeUsed();
        let used = 1;
        for (let round = 0; round < 60; round++) {
          // Somewhere in the lap that begins here.
          const event = used + (round % 5);
          const wrap = Math.floor(event / 5) % 2 === 0 ? 1 : 0;
          rig.driver.setDriverEvent((event % 5) | (wrap << 15), PACKED_EVENT_DESCRIPTOR);
          const ids: number[] = [];
          for (let count = 0; count < batch; count++) {
            rig.driver.add([READ]);
            ids.push(rig.pop());
          }
          const expected = event < used + batch;
          assert.equal(rig.give(...ids), expected, `batch ${batch}, event ${event}, used ${used}`);
          used += batch;
          rig.driver.takeUsed();
        }
      }
    });

    test("kicks: flags without EVENT_IDX, the next position with it", () => {
      const plain = new Rig({ shadow });
      plain.queue.disableNotifications();
      assert.equal(plain.driver.deviceEventWord >>> 16, PACKED_EVENT_DISABLE);
      assert.equal(plain.queue.enableNotifications(), false);
      assert.equal(plain.driver.deviceEventWord >>> 16, PACKED_EVENT_ENABLE);
      const event = new Rig({ shadow, eventIndex: true });
      event.driver.add([READ]);
      event.pop();
      assert.equal(event.queue.enableNotifications(), false);
      assert.equal(event.driver.deviceEventWord, (PACKED_EVENT_DESCRIPTOR << 16) | 0x8001);
    });

    test("enabling kicks reports what came meanwhile", () => {
      for (const eventIndex of [false, true]) {
        const rig = new Rig({ shadow, eventIndex });
        rig.driver.add([READ]);
        assert.equal(rig.queue.enableNotifications(), true);
        rig.driver.add([READ]);
        assert.ok(rig.pop() >= 0);
        assert.equal(rig.queue.enableNotifications(), true);
        assert.ok(rig.pop() >= 0);
        assert.equal(rig.queue.enableNotifications(), false);
      }
    });

    test("the base carries four parts and comes back from stop unchanged", () => {
      const rig = new Rig({ shadow, size: 5 });
      for (let round = 0; round < 3; round++) {
        rig.driver.add([HEADER, STATUS]);
        rig.give(rig.pop());
        rig.driver.takeUsed();
      }
      rig.driver.add([READ]);
      assert.ok(rig.pop() >= 0);
      // Avail: 7 slots of 5: index 2, wrap 0. Used: 6: index 1, wrap 0.
      assert.equal(rig.queue.base, 2 | (0 << 15) | (1 << 16));
      rig.queue.stop();
      assert.equal(rig.queue.base, 2 | (0 << 15) | (1 << 16));
      assert.equal(rig.pop(), NONE);
    });

    test("a ring started from a base goes on where the other stopped", () => {
      const first = new Rig({ shadow, size: 5 });
      for (let round = 0; round < 4; round++) {
        first.driver.add([HEADER, STATUS]);
        first.give(first.pop());
        first.driver.takeUsed();
      }
      first.queue.stop();
      const queue = new PackedQueue();
      const { memory } = first;
      const options = { size: 5, ...first.areas, memory, tracker: null, ringLog: null };
      const base = first.queue.base;
      assert.equal(queue.start({ ...options, base, featuresLow: 0, featuresHigh: 5 }), 0);
      const id = first.driver.add([HEADER, READ, STATUS]);
      assert.equal(queue.pop(first.chain), id);
      queue.push(id, 3);
      queue.publish();
      assert.deepEqual(first.driver.takeUsed(), [{ id, bytes: 3 }]);
    });

    test("what a predecessor pushed and died before showing is not there for its successor", () => {
      for (let start = 0; start < 5; start++) {
        const tracker = new MemoTracker();
        const first = new Rig({ shadow, size: 5, tracker });
        for (let round = 0; round < start; round++) {
          first.driver.add([READ]);
          first.give(first.pop());
          first.driver.takeUsed();
        }
        const ids = Array.from({ length: 4 }, () => first.driver.add([READ]));
        for (const id of ids) assert.equal(first.pop(), id);
        const { base } = first.queue;
        // The flags of the first are held back until publish(), which never comes.
        for (const id of ids.slice(0, 3)) first.queue.push(id, 1);
        const queue = new PackedQueue();
        const { memory, chain } = first;
        const options = { size: 5, ...first.areas, memory, tracker, ringLog: null, base };
        assert.equal(queue.start({ ...options, featuresLow: 0, featuresHigh: 5 }), 0);
        for (const id of ids) assert.equal(queue.markInflight(id), true);
        for (const id of ids) assert.equal(queue.resubmit(id, chain), id);
        const last = ids[3] as number;
        queue.push(last, 513);
        queue.publish();
        assert.deepEqual(first.driver.takeUsed(), [{ id: last, bytes: 513 }]);
        for (const id of ids.slice(0, 3)) queue.push(id, 513);
        queue.publish();
        assert.deepEqual(
          first.driver.takeUsed().map(({ id }) => id),
          ids.slice(0, 3),
        );
        memory.checkPoison();
      }
    });

    test("a base outside the ring is refused", () => {
      for (const base of [8, 8 << 16, 0x7fff]) {
        assert.equal(new Rig({ shadow, base }).started, BROKEN_RING_BASE);
      }
    });

    test("ring writes are logged: descriptors and the event area", () => {
      const ranges: [string, number, number][] = [];
      const rig = new Rig({
        shadow,
        ringLog: {
          usedRingWritten: (offset, bytes) => ranges.push(["event", offset, bytes]),
          descriptorRingWritten: (offset, bytes) => ranges.push(["ring", offset, bytes]),
        },
      });
      rig.driver.add([READ]);
      rig.driver.add([READ]);
      rig.give(rig.pop(), rig.pop());
      assert.deepEqual(ranges, [
        ["event", 0, 4],
        ["ring", 8, 6],
        ["ring", 24, 8],
        ["ring", 14, 2],
      ]);
    });
  });
}

/** Keeps chains as vhost-user's inflight region does, and writes down what it is told. */
class MemoTracker implements PackedInflightTracker {
  readonly events: string[] = [];
  readonly saved: Map<number, number[]> = new Map();
  taken(id: number, words: Uint32Array, count: number): void {
    this.saved.set(id, [...words.subarray(0, count * 4)]);
    this.events.push(`taken ${id} of ${count}`);
  }
  completing(id: number): void {
    this.events.push(`completing ${id}`);
  }
  publishing(usedIndex: number, usedWrap: number): void {
    this.events.push(`publishing ${usedIndex}/${usedWrap}`);
  }
  published(usedIndex: number): void {
    this.events.push(`published ${usedIndex}`);
  }
  restore(id: number, words: Uint32Array): number {
    const saved = this.saved.get(id) ?? [];
    words.set(saved);
    return saved.length / 4;
  }
}

test("the tracker hears of everything in order, with the chain's raw descriptors", () => {
  const tracker = new MemoTracker();
  const rig = new Rig({ tracker });
  const id = rig.driver.add([HEADER, READ, STATUS]);
  const ring = [...rig.areas.descriptors.u32.subarray(0, 12)];
  assert.equal(rig.pop(), id);
  assert.deepEqual(
    tracker.saved.get(id)?.map((value) => value >>> 0),
    ring,
  );
  rig.give(id);
  assert.deepEqual(tracker.events, [
    `taken ${id} of 3`,
    `completing ${id}`,
    "publishing 3/1",
    "published 3",
  ]);
});

test("a successor takes up the chains that the tracker saved, although the ring was reused", () => {
  const tracker = new MemoTracker();
  const rig = new Rig({ tracker });
  const kept = rig.driver.add([HEADER, READ, STATUS]);
  const table = rig.driver.add([HEADER, STATUS], PLACES.tables);
  const given = rig.driver.add([READ]);
  for (const id of [kept, table, given]) assert.equal(rig.pop(), id);
  // Its used descriptor overwrites the first of the chain that is still in flight.
  rig.give(given);
  rig.driver.takeUsed();
  const queue = new PackedQueue();
  const { memory, chain } = rig;
  const features = { featuresLow: 1 << F_INDIRECT_DESC, featuresHigh: 5 };
  const options = { size: 8, ...rig.areas, memory, tracker, ringLog: null, ...features };
  assert.equal(queue.start({ ...options, base: rig.queue.base }), 0);
  for (const id of [kept, table]) assert.equal(queue.markInflight(id), true);
  assert.equal(queue.inflightCount, 2);
  assert.equal(queue.resubmit(kept, chain), kept);
  assert.deepEqual(
    [chain.count, chain.addresses[0], chain.addresses[2]],
    [3, HEADER.gpa, STATUS.gpa],
  );
  assert.equal(queue.resubmit(table, chain), table);
  assert.equal(chain.count, 2);
  queue.push(table, 1);
  queue.push(kept, 513);
  queue.publish();
  assert.deepEqual(rig.driver.takeUsed(), [
    { id: table, bytes: 1 },
    { id: kept, bytes: 513 },
  ]);
  assert.equal(queue.inflightCount, 0);
});

test("row 54: a saved chain that cannot be breaks the ring", () => {
  for (const count of [0, 9]) {
    const tracker = new MemoTracker();
    tracker.saved.set(2, new Array(count * 4).fill(0));
    const rig = new Rig({ tracker });
    assert.equal(rig.queue.markInflight(2), true);
    assert.equal(rig.queue.resubmit(2, rig.chain), BROKEN_INFLIGHT);
  }
});

for (const name of ["descriptors", "driver", "device"] as const) {
  test(`shadow: the ${name} area faults`, () => {
    const rig = new Rig({ shadow: true });
    const id = rig.driver.add([READ]);
    assert.equal(rig.pop(), id);
    (rig.areas[name] as ShadowArea).gone = true;
    rig.driver.add([READ]);
    if (name === "driver") {
      assert.equal(rig.give(id), true, "a driver that cannot be asked is notified");
    } else {
      if (name === "device") assert.equal(rig.queue.enableNotifications(), true);
      assert.equal(rig.pop(), BROKEN_RING_MEMORY);
    }
  });
}

test("shadow: flags seen in one pull are believed only with the contents of the next", () => {
  const rig = new Rig({ shadow: true });
  const area = rig.areas.descriptors as ShadowArea;
  rig.driver.add([{ gpa: 0xdead000, bytes: 1, write: true }]);
  // The driver finishes writing a second descriptor between our pulls: flags first would be torn.
  let pulls = 0;
  area.hook = () => {
    pulls += 1;
    if (pulls === 2) rig.driver.put(1, READ.gpa, 4096, 5, AVAILABLE | DESCRIPTOR_F_WRITE);
    if (pulls === 3) rig.driver.put(1, READ.gpa, 512, 5, AVAILABLE | DESCRIPTOR_F_WRITE);
  };
  assert.ok(rig.pop() >= 0);
  assert.equal(rig.pop(), 5);
  assert.equal(rig.chain.lengths[0], 512, "what the last pull brought");
});

test("row 32: each word of a descriptor is read once", () => {
  const rig = new Rig();
  rig.driver.add([HEADER, READ, STATUS]);
  const inner = rig.queue as unknown as { descriptorWords: Uint32Array };
  const counts = new Map<string, number>();
  inner.descriptorWords = new Proxy(inner.descriptorWords, {
    get(target, key) {
      counts.set(String(key), (counts.get(String(key)) ?? 0) + 1);
      return target[Number(key)];
    },
  });
  assert.ok(rig.pop() >= 0);
  // The head's fourth word comes from the one atomic load of its flags.
  assert.equal(counts.has("3"), false);
  assert.equal(counts.size, 11);
  assert.deepEqual([...new Set(counts.values())], [1]);
});
