// The device side of a split ring, alone: what pop() accepts and refuses (rows 1 to 12, 34), when
// the driver is notified, what is written in which order.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { RingArea } from "../ports/index.ts";
import type { FakeMemory, ShadowArea } from "../testing/fakes/guest-memory.ts";
import { SplitDriver, type TestBuffer } from "../testing/fakes/ring-driver.ts";
import { PLACES, SEAM, testMemory } from "./_test-rig.ts";
import { CHAIN_DESCRIPTORS_MAX, Chain } from "./chain.ts";
import {
  AVAIL_F_NO_INTERRUPT,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_VERSION_1,
  USED_F_NO_NOTIFY,
} from "./layouts.ts";
import { SplitQueue } from "./split-queue.ts";
import {
  BROKEN_AVAIL_INDEX,
  BROKEN_CHAIN_LOOP,
  BROKEN_CHAIN_TOO_LONG,
  BROKEN_HEAD_IN_FLIGHT,
  BROKEN_HEAD_RANGE,
  BROKEN_INDIRECT_BYTES,
  BROKEN_INDIRECT_NESTED,
  BROKEN_INDIRECT_NEXT,
  BROKEN_INDIRECT_NOT_NEGOTIATED,
  BROKEN_INDIRECT_TOO_LONG,
  BROKEN_INDIRECT_UNREACHABLE,
  BROKEN_NEXT_RANGE,
  BROKEN_RING_BASE,
  BROKEN_RING_MEMORY,
  BROKEN_TOO_MANY_IN_FLIGHT,
  brokenName,
  type InflightTracker,
  NONE,
  type RingLog,
} from "./virtqueue.ts";

interface RigOptions {
  readonly size?: number;
  readonly features?: readonly number[];
  readonly shadow?: boolean;
  readonly base?: number;
  readonly tracker?: InflightTracker;
  readonly ringLog?: RingLog;
}

const MODERN = [F_INDIRECT_DESC, F_VERSION_1];
const WITH_EVENT = [...MODERN, F_EVENT_IDX];

function word(features: readonly number[], high: boolean): number {
  return features
    .filter((bit) => bit >= 32 === high)
    .reduce((sum, bit) => sum | (1 << (bit & 31)), 0);
}

class Rig {
  readonly memory: FakeMemory = testMemory();
  readonly driver: SplitDriver;
  readonly queue: SplitQueue = new SplitQueue();
  readonly chain: Chain = new Chain();
  readonly areas: { descriptors: RingArea; driver: RingArea; device: RingArea };
  readonly started: number;

  constructor(options: RigOptions = {}) {
    const size = options.size ?? 8;
    const features = options.features ?? MODERN;
    this.driver = new SplitDriver(this.memory, size, PLACES);
    this.areas = this.driver.areas(options.shadow === true);
    if (options.base !== undefined) this.driver.startAt(options.base);
    this.started = this.queue.start({
      size,
      ...this.areas,
      base: options.base ?? 0,
      featuresLow: word(features, false),
      featuresHigh: word(features, true),
      memory: this.memory,
      tracker: options.tracker ?? null,
      ringLog: options.ringLog ?? null,
    });
  }

  pop(): number {
    return this.queue.pop(this.chain);
  }

  /** Pushes, publishes, and asks whether to notify. */
  give(...heads: number[]): boolean {
    for (const head of heads) this.queue.push(head, 1);
    this.queue.publish();
    return this.queue.needsNotification();
  }

  /** The ring is broken for `reason`, and stays so whatever comes. */
  assertBroken(reason: number): void {
    const result = this.pop();
    assert.equal(brokenName(result), brokenName(reason));
    this.driver.put(0, PLACES.data, 1, 0);
    this.driver.offer(0);
    assert.equal(this.pop(), reason, "a broken ring takes nothing more");
    assert.equal(this.queue.broken, reason);
    this.memory.checkPoison();
  }
}

const READ: TestBuffer = { gpa: PLACES.data, bytes: 512, write: true };
const HEADER: TestBuffer = { gpa: PLACES.headers, bytes: 16 };
const STATUS: TestBuffer = { gpa: PLACES.statuses, bytes: 1, write: true };

for (const shadow of [false, true]) {
  describe(shadow ? "split queue, shadow areas" : "split queue, direct areas", () => {
    test("a chain arrives as addresses and lengths, readable first", () => {
      const rig = new Rig({ shadow });
      const head = rig.driver.add([HEADER, READ, STATUS]);
      assert.equal(rig.pop(), head);
      const { chain } = rig;
      assert.deepEqual([...chain.addresses.subarray(0, 3)], [HEADER.gpa, READ.gpa, STATUS.gpa]);
      assert.deepEqual([...chain.lengths.subarray(0, 3)], [16, 512, 1]);
      assert.deepEqual([chain.count, chain.readableCount, chain.lastWritable], [3, 1, 2]);
      assert.deepEqual([chain.readableBytes, chain.writableBytes, chain.flags], [16, 513, 0]);
      assert.equal(rig.pop(), NONE);
      assert.equal(rig.queue.inflightCount, 1);
    });

    test("used elements appear in the order of push, none before publish", () => {
      const rig = new Rig({ shadow });
      const heads = [rig.driver.add([READ]), rig.driver.add([READ])];
      assert.deepEqual([rig.pop(), rig.pop()], heads);
      rig.queue.push(heads[1] as number, 7);
      rig.queue.push(heads[0] as number, 9);
      assert.deepEqual(rig.driver.takeUsed(), []);
      rig.queue.publish();
      assert.deepEqual(rig.driver.takeUsed(), [
        { id: heads[1], bytes: 7 },
        { id: heads[0], bytes: 9 },
      ]);
      assert.equal(rig.queue.inflightCount, 0);
    });

    test("the indices run on through 65536 and the ring's end", () => {
      const rig = new Rig({ shadow, base: 65534 });
      for (let round = 0; round < 3 * 65536; round += 4096) {
        for (let step = 0; step < 5; step++) {
          const heads = [rig.driver.add([HEADER, STATUS]), rig.driver.add([READ])];
          assert.deepEqual([rig.pop(), rig.pop()], heads);
          rig.give(...heads);
          assert.equal(rig.driver.takeUsed().length, 2);
        }
      }
      assert.equal(rig.queue.base, rig.driver.availIndex);
    });

    test("row 1: avail->idx ahead by more than the queue size", () => {
      const rig = new Rig({ shadow });
      rig.driver.setAvailIndex(9);
      rig.assertBroken(BROKEN_AVAIL_INDEX);
    });

    test("row 1: avail->idx that went backwards", () => {
      const rig = new Rig({ shadow });
      rig.driver.setAvailIndex(0xffff);
      rig.assertBroken(BROKEN_AVAIL_INDEX);
    });

    test("row 2: an avail entry that is no descriptor", () => {
      const rig = new Rig({ shadow });
      rig.driver.offer(8);
      rig.assertBroken(BROKEN_HEAD_RANGE);
    });

    test("row 3: next outside the table", () => {
      const rig = new Rig({ shadow });
      rig.driver.put(0, PLACES.data, 1, DESCRIPTOR_F_NEXT, 8);
      rig.driver.offer(0);
      rig.assertBroken(BROKEN_NEXT_RANGE);
    });

    test("row 3: next outside the indirect table", () => {
      const rig = new Rig({ shadow });
      rig.driver.add([HEADER, STATUS], PLACES.tables);
      // The last entry of a table of two now points behind it, at what would be a third.
      rig.memory.u16[rig.memory.offsetOf(PLACES.tables + 16, 16) / 2 + 6] = DESCRIPTOR_F_NEXT;
      rig.memory.u16[rig.memory.offsetOf(PLACES.tables + 16, 16) / 2 + 7] = 2;
      rig.assertBroken(BROKEN_NEXT_RANGE);
    });

    test("row 4: a descriptor that names itself, and a loop of all", () => {
      const self = new Rig({ shadow });
      self.driver.put(3, PLACES.data, 1, DESCRIPTOR_F_NEXT, 3);
      self.driver.offer(3);
      self.assertBroken(BROKEN_CHAIN_LOOP);
      const all = new Rig({ shadow });
      for (let index = 0; index < 8; index++) {
        all.driver.put(index, PLACES.data, 1, DESCRIPTOR_F_NEXT, (index + 1) % 8);
      }
      all.driver.offer(0);
      all.assertBroken(BROKEN_CHAIN_LOOP);
    });

    test("row 4: a chain as long as the queue is fine", () => {
      const rig = new Rig({ shadow });
      const head = rig.driver.add(Array.from({ length: 8 }, () => HEADER));
      assert.equal(rig.pop(), head);
      assert.equal(rig.chain.count, 8);
    });

    test("row 4: a loop in an indirect table", () => {
      const rig = new Rig({ shadow });
      rig.driver.add([HEADER, STATUS], PLACES.tables);
      rig.memory.u16[rig.memory.offsetOf(PLACES.tables + 16, 16) / 2 + 6] = DESCRIPTOR_F_NEXT;
      rig.assertBroken(BROKEN_CHAIN_LOOP);
    });

    test("row 5: a head made available twice while in flight", () => {
      const rig = new Rig({ shadow });
      const head = rig.driver.add([READ]);
      assert.equal(rig.pop(), head);
      rig.driver.offer(head);
      rig.assertBroken(BROKEN_HEAD_IN_FLIGHT);
      // The first one is still answered, once.
      rig.give(head);
      assert.deepEqual(rig.driver.takeUsed(), [{ id: head, bytes: 1 }]);
    });

    test("row 5: a head may come again once it was given back", () => {
      const rig = new Rig({ shadow });
      const head = rig.driver.add([READ]);
      assert.equal(rig.pop(), head);
      rig.give(head);
      rig.driver.offer(head);
      assert.equal(rig.pop(), head);
    });

    test("row 6: more outstanding than the ring holds", () => {
      const rig = new Rig({ shadow });
      for (let count = 0; count < 4; count++) rig.driver.add([READ]);
      for (let count = 0; count < 4; count++) assert.ok(rig.pop() >= 0);
      rig.driver.setAvailIndex(4 + 5);
      rig.assertBroken(BROKEN_TOO_MANY_IN_FLIGHT);
    });

    test("row 7: INDIRECT that was not negotiated", () => {
      const rig = new Rig({ shadow, features: [F_VERSION_1] });
      rig.driver.add([HEADER, STATUS], PLACES.tables);
      rig.assertBroken(BROKEN_INDIRECT_NOT_NEGOTIATED);
    });

    test("row 8: INDIRECT inside an indirect table", () => {
      const rig = new Rig({ shadow });
      rig.driver.add([HEADER, STATUS], PLACES.tables);
      rig.memory.u16[rig.memory.offsetOf(PLACES.tables + 16, 16) / 2 + 6] = DESCRIPTOR_F_INDIRECT;
      rig.assertBroken(BROKEN_INDIRECT_NESTED);
    });

    test("row 9: INDIRECT with NEXT breaks a modern ring, means nothing to a legacy one", () => {
      const flags = DESCRIPTOR_F_INDIRECT | DESCRIPTOR_F_NEXT;
      const modern = new Rig({ shadow });
      const head = modern.driver.add([HEADER, STATUS], PLACES.tables);
      modern.driver.put(head, PLACES.tables, 32, flags, 5);
      modern.assertBroken(BROKEN_INDIRECT_NEXT);
      const legacy = new Rig({ shadow, features: [F_INDIRECT_DESC] });
      const old = legacy.driver.add([HEADER, STATUS], PLACES.tables);
      legacy.driver.put(old, PLACES.tables, 32, flags, 5);
      assert.equal(legacy.pop(), old);
      assert.equal(legacy.chain.count, 2);
    });

    test("row 10: indirect length 0 or no multiple of 16", () => {
      for (const bytes of [0, 8, 17, 47]) {
        const rig = new Rig({ shadow });
        rig.driver.put(0, PLACES.tables, bytes, DESCRIPTOR_F_INDIRECT);
        rig.driver.offer(0);
        rig.assertBroken(BROKEN_INDIRECT_BYTES);
      }
    });

    test("row 11: an indirect table of 4 GiB is not even read", () => {
      for (const bytes of [0xfffffff0, (CHAIN_DESCRIPTORS_MAX + 1) * 16]) {
        const rig = new Rig({ shadow });
        rig.driver.put(0, PLACES.tables, bytes, DESCRIPTOR_F_INDIRECT);
        rig.driver.offer(0);
        rig.assertBroken(BROKEN_INDIRECT_TOO_LONG);
        assert.equal(rig.memory.readCount, 0);
      }
    });

    test("row 11: the longest table that is allowed", () => {
      const rig = new Rig({ shadow });
      const buffers = Array.from({ length: CHAIN_DESCRIPTORS_MAX }, (_, index) => ({
        gpa: PLACES.data + index,
        bytes: 1,
      }));
      const head = rig.driver.add(buffers, PLACES.tables);
      assert.equal(rig.pop(), head);
      assert.equal(rig.chain.count, CHAIN_DESCRIPTORS_MAX);
      assert.equal(rig.chain.addresses[1023], PLACES.data + 1023);
    });

    test("row 12: an indirect table that crosses two regions", () => {
      const rig = new Rig({ shadow });
      for (const cut of [16, 8, 4]) {
        const table = SEAM - cut;
        const buffers = [HEADER, READ, STATUS];
        const head = rig.driver.add(buffers, PLACES.tables);
        rig.memory.write(table, rig.memory.u8, rig.memory.offsetOf(PLACES.tables, 48), 48);
        rig.driver.put(head, table, 48, DESCRIPTOR_F_INDIRECT);
        assert.equal(rig.pop(), head);
        assert.deepEqual(
          [...rig.chain.addresses.subarray(0, 3)],
          [HEADER.gpa, READ.gpa, STATUS.gpa],
        );
        rig.give(head);
        rig.driver.takeUsed();
      }
      rig.memory.checkPoison();
    });

    test("an indirect table outside guest memory, or beyond every address", () => {
      for (const gpa of [0x2000_0000, 2 ** 53 - 2 ** 32]) {
        const rig = new Rig({ shadow });
        rig.driver.put(0, gpa, 32, DESCRIPTOR_F_INDIRECT);
        rig.driver.offer(0);
        rig.assertBroken(BROKEN_INDIRECT_UNREACHABLE);
      }
    });

    test("normal descriptors may lead to one indirect table (2.7.7.1)", () => {
      const rig = new Rig({ shadow });
      rig.driver.add([READ, STATUS], PLACES.tables);
      const indirect = rig.driver.availIndex - 1;
      assert.equal(indirect, 0);
      const table = rig.pop();
      rig.give(table);
      rig.driver.put(5, HEADER.gpa, 16, DESCRIPTOR_F_NEXT, table);
      rig.driver.offer(5);
      assert.equal(rig.pop(), 5);
      assert.deepEqual([rig.chain.count, rig.chain.readableCount], [3, 1]);
    });

    test("row 34: what the driver writes into used->idx is ignored", () => {
      const rig = new Rig({ shadow });
      const first = rig.driver.add([READ]);
      assert.equal(rig.pop(), first);
      rig.memory.u16[rig.memory.offsetOf(PLACES.device, 4) / 2 + 1] = 77;
      rig.give(first);
      assert.equal(rig.driver.usedIndexInMemory, 1);
    });

    test("avail_event and used_event that the driver corrupts lose no element", () => {
      const rig = new Rig({ shadow, features: WITH_EVENT });
      for (let round = 0; round < 40; round++) {
        rig.driver.usedEvent = round * 7919;
        const head = rig.driver.add([READ]);
        assert.equal(rig.pop(), head);
        rig.give(head);
        assert.equal(rig.driver.takeUsed().length, 1);
      }
    });

    test("without EVENT_IDX the driver's flag decides", () => {
      const rig = new Rig({ shadow });
      const heads = [rig.driver.add([READ]), rig.driver.add([READ]), rig.driver.add([READ])];
      for (const head of heads) assert.equal(rig.pop(), head);
      assert.equal(rig.give(heads[0] as number), true);
      rig.driver.availFlags = AVAIL_F_NO_INTERRUPT;
      assert.equal(rig.give(heads[1] as number), false);
      rig.driver.availFlags = 0;
      assert.equal(rig.give(heads[2] as number), true);
      assert.equal(rig.queue.needsNotification(), false, "asked again without anything new");
    });

    test("with EVENT_IDX the driver is notified when the used index passes used_event", () => {
      for (const base of [0, 65530]) {
        const rig = new Rig({ shadow, features: WITH_EVENT, base });
        const give = (count: number, usedEvent: number): boolean => {
          rig.driver.usedEvent = base + usedEvent;
          const heads: number[] = [];
          for (let at = 0; at < count; at++) {
            rig.driver.add([READ]);
            heads.push(rig.pop());
          }
          const notify = rig.give(...heads);
          rig.driver.takeUsed();
          return notify;
        };
        assert.equal(give(1, 60000), true, "the first question has no past to compare with");
        // Used index 1 -> 2: notified for event 1 ("when element 1 is used"), and no other.
        assert.equal(give(1, 1), true);
        assert.equal(give(1, 3), false);
        assert.equal(give(1, 2), false);
        // 4 -> 8 passes 4, 5, 6, 7.
        assert.equal(give(4, 7), true);
        assert.equal(give(4, 12), false);
        assert.equal(give(4, 12), true);
        assert.equal(give(4, 15), false);
      }
    });

    test("kicks: flag without EVENT_IDX, avail_event with it", () => {
      const plain = new Rig({ shadow });
      plain.queue.disableNotifications();
      assert.equal(plain.driver.usedFlags, USED_F_NO_NOTIFY);
      assert.equal(plain.queue.enableNotifications(), false);
      assert.equal(plain.driver.usedFlags, 0);
      const event = new Rig({ shadow, features: WITH_EVENT, base: 65535 });
      event.driver.add([READ]);
      assert.ok(event.pop() >= 0);
      assert.equal(event.queue.enableNotifications(), false);
      assert.equal(event.driver.availEvent, 0);
      event.queue.disableNotifications();
      assert.equal(event.driver.usedFlags, 0);
    });

    test("enabling kicks reports what came meanwhile", () => {
      for (const features of [MODERN, WITH_EVENT]) {
        const rig = new Rig({ shadow, features });
        rig.driver.add([READ]);
        assert.equal(rig.queue.enableNotifications(), true);
        rig.driver.add([READ]);
        assert.ok(rig.pop() >= 0);
        // One was seen together with the first and waits to be popped.
        assert.equal(rig.queue.enableNotifications(), true);
        assert.ok(rig.pop() >= 0);
        assert.equal(rig.queue.enableNotifications(), false);
      }
    });

    test("a suppression flag left by an earlier process is taken away at start", () => {
      const rig = new Rig({ shadow });
      rig.queue.disableNotifications();
      const again = new SplitQueue();
      const { memory } = rig;
      const features = { featuresLow: 0, featuresHigh: 1, base: 0 };
      again.start({ size: 8, ...rig.areas, ...features, memory, tracker: null, ringLog: null });
      assert.equal(rig.driver.usedFlags, 0);
    });

    test("start reads used->idx from memory and the avail index from the base", () => {
      const rig = new Rig({ shadow, base: 0 });
      rig.driver.startAt(41);
      const queue = new SplitQueue();
      const { memory } = rig;
      const options = { size: 8, ...rig.areas, memory, tracker: null, ringLog: null };
      assert.equal(queue.start({ ...options, base: 41, featuresLow: 0, featuresHigh: 1 }), 0);
      assert.deepEqual([queue.base, queue.usedIndex], [41, 41]);
    });

    test("a base that is no u16 is refused", () => {
      assert.equal(new Rig({ shadow }).started, 0);
      const rig = new Rig({ shadow });
      const { memory } = rig;
      const options = { size: 8, ...rig.areas, memory, tracker: null, ringLog: null };
      const features = { featuresLow: 0, featuresHigh: 1 };
      const queue = new SplitQueue();
      assert.equal(queue.start({ ...options, ...features, base: 65536 }), BROKEN_RING_BASE);
    });

    test("stop keeps the base, and gives the same answer again", () => {
      const rig = new Rig({ shadow });
      const head = rig.driver.add([READ]);
      rig.pop();
      rig.queue.push(head, 1);
      rig.queue.stop();
      assert.deepEqual(rig.driver.takeUsed(), [{ id: head, bytes: 1 }], "pushed, so published");
      assert.equal(rig.queue.base, 1);
      rig.queue.stop();
      assert.equal(rig.queue.base, 1);
      assert.equal(rig.pop(), NONE);
    });

    test("resubmit reads the chain of a head the ring no longer offers", () => {
      const rig = new Rig({ shadow });
      const head = rig.driver.add([HEADER, READ, STATUS]);
      const queue = new SplitQueue();
      const { memory } = rig;
      const options = { size: 8, ...rig.areas, memory, tracker: null, ringLog: null };
      queue.start({ ...options, base: 1, featuresLow: 0, featuresHigh: 1 });
      assert.equal(queue.markInflight(head), true);
      assert.equal(queue.markInflight(head), false, "listed twice");
      assert.equal(queue.markInflight(8), false, "no such head");
      assert.equal(queue.inflightCount, 1);
      assert.equal(queue.pop(rig.chain), NONE);
      assert.equal(queue.resubmit(head, rig.chain), head);
      assert.equal(rig.chain.count, 3);
      queue.push(head, 513);
      queue.publish();
      assert.deepEqual(rig.driver.takeUsed(), [{ id: head, bytes: 513 }]);
      assert.equal(queue.inflightCount, 0);
    });

    test("the tracker hears of everything in the order that recovery needs", () => {
      const events: string[] = [];
      let driver: SplitDriver | null = null;
      const used = (): number => driver?.usedIndexInMemory ?? -1;
      const rig = new Rig({
        shadow,
        tracker: {
          taken: (head) => events.push(`taken ${head} used ${used()}`),
          completing: (head) => events.push(`completing ${head} used ${used()}`),
          published: (index) => events.push(`published ${index} used ${used()}`),
        },
      });
      driver = rig.driver;
      const heads = [rig.driver.add([READ]), rig.driver.add([READ])] as const;
      rig.pop();
      rig.pop();
      rig.give(heads[1], heads[0]);
      assert.deepEqual(events, [
        `taken ${heads[0]} used 0`,
        `taken ${heads[1]} used 0`,
        `completing ${heads[1]} used 0`,
        `completing ${heads[0]} used 0`,
        "published 2 used 2",
      ]);
    });

    test("every write into the used ring is logged, once it is there", () => {
      const ranges: [number, number][] = [];
      const rig = new Rig({
        shadow,
        base: 7,
        ringLog: {
          usedRingWritten: (offset, bytes) => ranges.push([offset, bytes]),
          descriptorRingWritten: () => assert.fail("a split ring has no such writes"),
        },
      });
      ranges.length = 0;
      rig.driver.add([READ]);
      rig.driver.add([READ]);
      rig.give(rig.pop(), rig.pop());
      // Slot 7, then slot 0 behind the ring's end, then idx.
      assert.deepEqual(ranges, [
        [4 + 7 * 8, 8],
        [4, 8],
        [2, 2],
      ]);
      rig.queue.setRingLog(null);
      rig.queue.disableNotifications();
      assert.equal(ranges.length, 3);
    });

    test("a chain of more descriptors than we hold, in a ring that is larger", () => {
      const rig = new Rig({ shadow, size: 2048 });
      for (let index = 0; index < 1025; index++) {
        const flags = index === 1024 ? DESCRIPTOR_F_WRITE : DESCRIPTOR_F_NEXT;
        rig.driver.put(index, PLACES.data, 1, flags, index + 1);
      }
      rig.driver.offer(0);
      rig.assertBroken(BROKEN_CHAIN_TOO_LONG);
    });
  });
}

describe("split queue over memory that goes away", () => {
  for (const name of ["descriptors", "driver", "device"] as const) {
    test(`the ${name} area faults: that ring is broken`, () => {
      const rig = new Rig({ shadow: true });
      const head = rig.driver.add([READ]);
      if (name === "device") assert.equal(rig.pop(), head);
      (rig.areas[name] as ShadowArea).gone = true;
      if (name === "device") {
        rig.give(head);
        assert.equal(rig.driver.usedIndexInMemory, 0);
      }
      rig.driver.add([READ]);
      assert.equal(rig.pop(), BROKEN_RING_MEMORY);
      assert.equal(rig.queue.enableNotifications(), false);
    });
  }

  test("a fault while arming is work: the loop must look and find the ring broken", () => {
    const rig = new Rig({ shadow: true });
    (rig.areas.driver as ShadowArea).gone = true;
    assert.equal(rig.queue.enableNotifications(), true);
    assert.equal(rig.pop(), BROKEN_RING_MEMORY);
  });
});

test("shadow: a batch costs three pulls and two pushes, whatever its size", () => {
  const rig = new Rig({ shadow: true });
  for (let count = 0; count < 8; count++) rig.driver.add([READ]);
  let transfers = 0;
  for (const area of Object.values(rig.areas)) {
    (area as ShadowArea).hook = () => {
      transfers += 1;
    };
  }
  const heads = Array.from({ length: 8 }, () => rig.pop());
  assert.equal(transfers, 3);
  rig.give(...heads);
  // Elements, idx, and the driver's flags.
  assert.equal(transfers, 6);
});

test("row 32: each word of a descriptor is read once", () => {
  const rig = new Rig();
  rig.driver.add([HEADER, READ, STATUS]);
  const counts = new Map<string, number>();
  const words = (rig.queue as unknown as { descriptorWords: Uint32Array }).descriptorWords;
  const counting = new Proxy(words, {
    get(target, key) {
      counts.set(String(key), (counts.get(String(key)) ?? 0) + 1);
      return target[Number(key)];
    },
  });
  (rig.queue as unknown as { descriptorWords: Uint32Array }).descriptorWords = counting;
  assert.ok(rig.pop() >= 0);
  assert.equal(counts.size, 12);
  assert.deepEqual([...new Set(counts.values())], [1]);
});
