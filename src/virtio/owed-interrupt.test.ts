// When a driver waits for an interrupt that it has not had: what the two kinds of queues say,
// against a count of everything that was used and where the driver wants to be told.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Prng } from "../base/index.ts";
import { PackedDriver, SplitDriver } from "../testing/fakes/ring-driver.ts";
import { PLACES, testMemory } from "./_test-rig.ts";
import { Chain } from "./chain.ts";
import {
  AVAIL_F_NO_INTERRUPT,
  F_EVENT_IDX,
  F_VERSION_1,
  PACKED_BASE_INITIAL,
  PACKED_EVENT_DESCRIPTOR,
  PACKED_EVENT_DISABLE,
  PACKED_EVENT_ENABLE,
} from "./layouts.ts";
import { PackedQueue } from "./packed-queue.ts";
import { SplitQueue } from "./split-queue.ts";

const SIZE = 8;
const READ = { gpa: PLACES.data, bytes: 512, write: true };

class Rig {
  readonly driver: SplitDriver | PackedDriver;
  readonly queue: SplitQueue | PackedQueue;
  private readonly chain = new Chain();

  constructor(packed: boolean, eventIndex: boolean) {
    const memory = testMemory();
    this.driver = packed
      ? new PackedDriver(memory, SIZE, PLACES)
      : new SplitDriver(memory, SIZE, PLACES);
    this.queue = packed ? new PackedQueue() : new SplitQueue();
    const reason = this.queue.start({
      size: SIZE,
      ...this.driver.areas(false),
      base: packed ? PACKED_BASE_INITIAL : 0,
      featuresLow: eventIndex ? 1 << F_EVENT_IDX : 0,
      featuresHigh: 1 << (F_VERSION_1 - 32),
      memory,
      tracker: null,
      ringLog: null,
    });
    assert.equal(reason, 0);
  }

  /** Uses `count` chains at once; true when the driver is interrupted for them. */
  use(count: number): boolean {
    const heads = Array.from({ length: count }, () => {
      this.driver.add([READ]);
      return this.queue.pop(this.chain);
    });
    for (const head of heads) this.queue.push(head, 1);
    this.queue.publish();
    const interrupted = this.queue.needsNotification();
    this.driver.takeUsed();
    return interrupted;
  }

  /** The driver wants to be told when element number `element`, counted from the start, is used. */
  want(element: number): void {
    const { driver } = this;
    if (driver instanceof SplitDriver) {
      driver.usedEvent = element & 0xffff;
      return;
    }
    const wrap = Math.floor(element / SIZE) % 2 === 0 ? 1 : 0;
    driver.setDriverEvent((element % SIZE) | (wrap << 15), PACKED_EVENT_DESCRIPTOR);
  }

  /** Without EVENT_IDX: interrupts or none. */
  allow(interrupts: boolean): void {
    const { driver } = this;
    if (driver instanceof SplitDriver) driver.availFlags = interrupts ? 0 : AVAIL_F_NO_INTERRUPT;
    else driver.setDriverEvent(0, interrupts ? PACKED_EVENT_ENABLE : PACKED_EVENT_DISABLE);
  }
}

for (const packed of [false, true]) {
  describe(packed ? "packed queue" : "split queue", () => {
    test("with EVENT_IDX: owed when an element was wanted that was used since the last", () => {
      const prng = new Prng(packed ? 7 : 8);
      const rig = new Rig(packed, true);
      let used = 0;
      let told = 0;
      let owedCount = 0;
      for (let round = 0; round < 20_000; round++) {
        const before = used;
        // A packed event names a place of this lap or the next: nothing older can be wanted.
        const seen = prng.below(Math.min(used, SIZE - 1) + 1);
        const wanted = used - seen + prng.below(3);
        rig.want(wanted);
        const isOwed = wanted >= Math.max(told, used - SIZE) && wanted < used;
        assert.equal(
          rig.queue.owesNotification(),
          isOwed,
          `${round}: ${wanted} of ${told}, ${used}`,
        );
        assert.equal(rig.queue.owesNotification(), isOwed, "asking changes nothing");
        if (isOwed) owedCount += 1;
        if (isOwed && prng.below(2) === 0) {
          rig.queue.notified();
          told = used;
          assert.equal(rig.queue.owesNotification(), false, "made good");
        }
        const count = prng.below(4);
        if (count === 0) continue;
        used += count;
        const interrupted = rig.use(count);
        // The first of all is told of in any case.
        assert.equal(interrupted, before === 0 || (wanted >= before && wanted < used));
        if (interrupted) told = used;
      }
      assert.ok(owedCount > 1000, `${owedCount} times`);
    });

    test("without EVENT_IDX: owed when interrupts are on again after one was withheld", () => {
      const rig = new Rig(packed, false);
      assert.equal(rig.use(1), true);
      assert.equal(rig.queue.owesNotification(), false);
      rig.allow(false);
      assert.equal(rig.use(1), false);
      assert.equal(rig.queue.owesNotification(), false, "not wanted");
      rig.allow(true);
      assert.equal(rig.queue.owesNotification(), true);
      rig.queue.notified();
      assert.equal(rig.queue.owesNotification(), false);
    });

    test("a ring that is stopped or broken owes nothing", () => {
      for (const end of [(rig: Rig) => rig.queue.stop(), (rig: Rig) => rig.queue.breakRing(1)]) {
        const rig = new Rig(packed, true);
        rig.use(1);
        rig.want(5);
        rig.use(1);
        rig.want(1);
        assert.equal(rig.queue.owesNotification(), true);
        end(rig);
        assert.equal(rig.queue.owesNotification(), false);
      }
    });
  });
}
