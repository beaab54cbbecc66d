// No lost wake-up: every interleaving of a driver's and the device's accesses to a small ring, for
// both directions, ring kinds and ways to suppress notifications.
//
// The device side is the real queue over shadow areas: each of its accesses to guest memory is a
// transfer with a hook, and between any two of them the other side may take any number of its own
// steps. All choices are enumerated depth first. (What a processor may reorder cannot be seen this
// way; the fences are Atomics in the queues.)

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FakeMemory, type ShadowArea } from "../testing/fakes/guest-memory.ts";
import { PackedDriver, type RingAreas, SplitDriver } from "../testing/fakes/ring-driver.ts";
import { Chain } from "./chain.ts";
import {
  F_EVENT_IDX,
  F_RING_PACKED,
  PACKED_EVENT_DESCRIPTOR,
  PACKED_EVENT_DISABLE,
  PACKED_EVENT_ENABLE,
  PACKED_F_AVAIL,
  PACKED_F_USED,
  USED_F_NO_NOTIFY,
} from "./layouts.ts";
import { PackedQueue } from "./packed-queue.ts";
import { SplitQueue } from "./split-queue.ts";
import { NONE, type Virtqueue } from "./virtqueue.ts";

const SIZE = 4;
/** A guest of one page, so that a run costs little. */
const PLACES = { descriptors: 0, driver: 0x200, device: 0x400, data: 0x800 } as const;
const REQUESTS = 2;
/** Of a driver that collects, while the device still works: more come after it, one by one. */
const DRIVER_STEPS = 7;

/** Walks all sequences of choices: each run asks choose() and takes the next untried path. */
class Enumerator {
  runs = 0;
  private path: { taken: number; of: number }[] = [];
  private depth = 0;

  choose(of: number): number {
    if (this.depth === this.path.length) this.path.push({ taken: 0, of });
    const step = this.path[this.depth] as { taken: number; of: number };
    assert.equal(step.of, of, "the run is not deterministic");
    this.depth += 1;
    return step.taken;
  }

  /** Prepares the next run; false when every path was taken. */
  next(): boolean {
    this.runs += 1;
    this.depth = 0;
    for (;;) {
      const last = this.path[this.path.length - 1];
      if (last === undefined) return false;
      last.taken += 1;
      if (last.taken < last.of) return true;
      this.path.pop();
    }
  }
}

interface Outcome {
  readonly runs: number;
  /** Interleavings that ended asleep with work to do. */
  readonly lost: number;
}

interface Kind {
  readonly name: string;
  readonly packed: boolean;
  readonly eventIndex: boolean;
}

const KINDS: readonly Kind[] = [
  { name: "split, flags", packed: false, eventIndex: false },
  { name: "split, EVENT_IDX", packed: false, eventIndex: true },
  { name: "packed, flags", packed: true, eventIndex: false },
  { name: "packed, EVENT_IDX", packed: true, eventIndex: true },
];

interface Side {
  readonly driver: SplitDriver | PackedDriver;
  readonly queue: Virtqueue;
  readonly areas: RingAreas;
  readonly chain: Chain;
}

function makeSide(kind: Kind, queue: Virtqueue): Side {
  const memory = new FakeMemory([{ gpa: 0, bytes: 4096 }]);
  const driver = kind.packed
    ? new PackedDriver(memory, SIZE, PLACES)
    : new SplitDriver(memory, SIZE, PLACES);
  const areas = driver.areas(true);
  const result = queue.start({
    size: SIZE,
    ...areas,
    base: driver.initialBase,
    featuresLow: kind.eventIndex ? 1 << F_EVENT_IDX : 0,
    featuresHigh: 1 | (kind.packed ? 1 << (F_RING_PACKED - 32) : 0),
    memory,
    tracker: null,
    ringLog: null,
  });
  assert.equal(result, 0);
  return { driver, queue, areas, chain: new Chain() };
}

function setHook(areas: RingAreas, hook: (() => void) | null): void {
  for (const area of [areas.descriptors, areas.driver, areas.device]) {
    (area as ShadowArea).hook = hook;
  }
}

/** Does the driver, having just made its `made`-th buffer available, kick? Its own rules. */
function driverKicks(kind: Kind, side: Side, made: number): boolean {
  const { driver } = side;
  if (driver instanceof SplitDriver) {
    if (!kind.eventIndex) return (driver.usedFlags & USED_F_NO_NOTIFY) === 0;
    // One new entry: index made - 1 became made.
    return ((made - driver.availEvent - 1) & 0xffff) < 1;
  }
  const word = driver.deviceEventWord;
  const mode = word >>> 16;
  if (mode === PACKED_EVENT_DISABLE) return false;
  if (mode === PACKED_EVENT_ENABLE) return true;
  assert.equal(mode, PACKED_EVENT_DESCRIPTOR);
  return (word & 0xffff) === ((made - 1) | 0x8000);
}

/**
 * Driver steps: write a buffer, make it visible, look whether to kick. The device takes what is
 * there, enables notifications, and sleeps when it may. Sleeping with work and without a kick is
 * the bug.
 */
function wakesDevice(kind: Kind, makeQueue: () => Virtqueue, lostMax = Infinity): Outcome {
  const choices = new Enumerator();
  let lost = 0;
  do {
    const side = makeSide(kind, makeQueue());
    let step = 0;
    let kicked = false;
    const driverStep = (): void => {
      if (step % 2 === 0) side.driver.add([{ gpa: PLACES.data, bytes: 1 }]);
      else kicked = driverKicks(kind, side, (step + 1) / 2) || kicked;
      step += 1;
    };
    const interleave = (): void => {
      const left = 2 * REQUESTS - step;
      for (let count = choices.choose(left + 1); count > 0; count--) driverStep();
    };
    setHook(side.areas, interleave);
    let taken = 0;
    const work = (): void => {
      kicked = false;
      side.queue.disableNotifications();
      do {
        while (side.queue.pop(side.chain) !== NONE) taken += 1;
      } while (side.queue.enableNotifications());
    };
    work();
    // Asleep. A kick wakes it; what the driver has not done yet it does now.
    while (kicked || step < 2 * REQUESTS) {
      if (kicked) work();
      else driverStep();
    }
    setHook(side.areas, null);
    if (taken !== REQUESTS) lost += 1;
  } while (lost < lostMax && choices.next());
  return { runs: choices.runs, lost };
}

/** As above, the other way: the device uses buffers, the driver sleeps and must be called. */
function wakesDriver(kind: Kind, makeQueue: () => Virtqueue, lostMax = Infinity): Outcome {
  const choices = new Enumerator();
  let lost = 0;
  do {
    const side = makeSide(kind, makeQueue());
    const ids: number[] = [];
    for (let index = 0; index < REQUESTS; index++) {
      side.driver.add([{ gpa: PLACES.data, bytes: 1 }]);
      ids.push(side.queue.pop(side.chain));
    }
    const model = new DriverModel(kind, side);
    let budget = DRIVER_STEPS;
    const interleave = (): void => {
      while (budget > 0 && model.mayStep && choices.choose(2) === 1) {
        budget -= 1;
        model.step();
      }
    };
    setHook(side.areas, interleave);
    for (const id of ids) {
      side.queue.push(id, 1);
      side.queue.publish();
      const notify = side.queue.needsNotification();
      interleave();
      if (notify) model.called = true;
      interleave();
    }
    setHook(side.areas, null);
    while (model.mayStep) model.step();
    if (model.seen !== REQUESTS) lost += 1;
  } while (lost < lostMax && choices.next());
  return { runs: choices.runs, lost };
}

/** A driver that collects, enables calls, looks again, and sleeps until it is called. */
class DriverModel {
  called = false;
  seen = 0;
  private state: "collect" | "enable" | "look" | "asleep" = "collect";
  private readonly kind: Kind;
  private readonly side: Side;

  constructor(kind: Kind, side: Side) {
    this.kind = kind;
    this.side = side;
  }

  get mayStep(): boolean {
    return this.state !== "asleep" || this.called;
  }

  step(): void {
    if (this.state === "asleep") {
      this.called = false;
      this.state = "collect";
    } else if (this.state === "collect") {
      this.disable();
      this.seen += this.side.driver.takeUsed().length;
      this.state = "enable";
    } else if (this.state === "enable") {
      this.enable();
      this.state = "look";
    } else {
      const found = this.side.driver.takeUsed().length;
      this.seen += found;
      this.state = found > 0 ? "collect" : "asleep";
    }
  }

  private disable(): void {
    const { driver } = this.side;
    if (this.kind.eventIndex) return;
    if (driver instanceof SplitDriver) driver.availFlags = 1;
    else driver.setDriverEvent(0, PACKED_EVENT_DISABLE);
  }

  private enable(): void {
    const { driver } = this.side;
    if (driver instanceof SplitDriver) {
      if (this.kind.eventIndex) driver.usedEvent = driver.usedIndex;
      else driver.availFlags = 0;
    } else if (this.kind.eventIndex) {
      driver.setDriverEvent(driver.usedIndex | (driver.usedWrap << 15), PACKED_EVENT_DESCRIPTOR);
    } else {
      driver.setDriverEvent(0, PACKED_EVENT_ENABLE);
    }
  }
}

for (const kind of KINDS) {
  const makeQueue = (): Virtqueue => (kind.packed ? new PackedQueue() : new SplitQueue());

  describe(kind.name, () => {
    test("a sleeping device is woken for every buffer", () => {
      const { runs, lost } = wakesDevice(kind, makeQueue);
      assert.ok(runs > 100, `only ${runs} interleavings`);
      assert.equal(lost, 0, `${lost} of ${runs} interleavings lost a kick`);
    });

    test("a sleeping driver is woken for every used buffer", () => {
      const { runs, lost } = wakesDriver(kind, makeQueue);
      assert.ok(runs > 100, `only ${runs} interleavings`);
      assert.equal(lost, 0, `${lost} of ${runs} interleavings lost a call`);
    });

    test("canary: a device that does not look again is caught", () => {
      const forgetful = (): Virtqueue => {
        const queue = makeQueue();
        const enable = queue.enableNotifications.bind(queue);
        queue.enableNotifications = () => {
          enable();
          return false;
        };
        return queue;
      };
      assert.ok(wakesDevice(kind, forgetful, 1).lost > 0);
    });

    test("canary: a device that asks before it publishes is caught", () => {
      const hasty = (): Virtqueue => {
        const queue = makeQueue();
        const publish = queue.publish.bind(queue);
        const ask = queue.needsNotification.bind(queue);
        let answer = false;
        queue.publish = () => {
          const { driver } = flagsOf(queue);
          answer = driver();
          publish();
        };
        queue.needsNotification = () => {
          ask();
          return answer;
        };
        return queue;
      };
      assert.ok(wakesDriver(kind, hasty, 1).lost > 0);
    });
  });
}

/** What a hasty device reads before it publishes: does the driver want a call for the next one? */
function flagsOf(queue: Virtqueue): { driver: () => boolean } {
  const inner = queue as unknown as {
    availArea?: ShadowArea;
    driverArea?: ShadowArea;
    usedIndex: number;
    eventIndex: boolean;
  };
  const area = (inner.availArea ?? inner.driverArea) as ShadowArea;
  return {
    driver: () => {
      area.pull(0, area.u8.length === 4 ? 4 : 4 + 2 * SIZE + 2);
      if (inner.driverArea !== undefined) {
        const word = area.u32[0] as number;
        const mode = word >>> 16;
        // usedIndex has moved on with push() already.
        const next = (inner.usedIndex + SIZE - 1) % SIZE;
        if (mode === PACKED_EVENT_DESCRIPTOR) return (word & 0x7fff) === next;
        return mode === PACKED_EVENT_ENABLE;
      }
      if (!inner.eventIndex) return (area.u16[0] as number) === 0;
      return area.u16[2 + SIZE] === inner.usedIndex;
    },
  };
}

test("the packed bits that the models rest on", () => {
  assert.equal(PACKED_F_AVAIL, 0x80);
  assert.equal(PACKED_F_USED, 0x8000);
});
