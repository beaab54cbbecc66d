// When a sleeping ring is looked at again, and what is called late.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { ReactorPort, TimerHandler } from "../ports/index.ts";
import { FakeMeter } from "../testing/fakes/reactor.ts";
import { COUNTER_LATE_INTERRUPT, COUNTER_LATE_KICK } from "../virtio/index.ts";
import type { RingQueue } from "./guest-device.ts";
import { SecondLook } from "./second-look.ts";

class Rig {
  readonly meter = new FakeMeter();
  readonly events: string[] = [];
  readonly look: SecondLook;
  readonly ring = {
    index: 0,
    enabled: true,
    poll: () => 0,
    arm: () => false,
    disarm() {},
    flush() {},
  };
  hasRequests = false;
  owes = false;
  private timer: TimerHandler | null = null;

  constructor(exact = true) {
    const reactor = {
      setTimer: (_delayMs: number, handler: TimerHandler) => {
        assert.equal(this.timer, null, "one timer at a time");
        this.timer = handler;
        return 0;
      },
      cancelTimer: () => {
        this.timer = null;
      },
      activate: () => {
        this.events.push("woken");
        this.look.woke();
      },
    } as unknown as ReactorPort;
    const owner = { ringLate: (_ring: unknown, lost: string) => this.events.push(`lost ${lost}`) };
    this.look = new SecondLook({ reactor, meter: this.meter, owner }, this.ring);
    const queue = {
      arm: () => this.hasRequests,
      owesNotification: () => this.owes,
      remind: () => {
        this.events.push("reminded");
        this.owes = false;
      },
    } as unknown as RingQueue;
    this.look.start(queue, exact);
  }

  /** Fires the timer `count` times, or until there is none. Returns how often it fired. */
  pass(count = 100): number {
    for (let fired = 0; fired < count; fired++) {
      const { timer } = this;
      if (timer === null) return fired;
      this.timer = null;
      timer.timerFired(0);
    }
    return count;
  }

  get late(): readonly [kicks: number, interrupts: number] {
    const { counters } = this.meter;
    return [counters[COUNTER_LATE_KICK] as number, counters[COUNTER_LATE_INTERRUPT] as number];
  }
}

test("a ring that sleeps is looked at twice, and then left alone", () => {
  const rig = new Rig();
  assert.equal(rig.pass(), 0, "nothing before it sleeps");
  rig.look.slept();
  assert.equal(rig.pass(), 2);
  assert.deepEqual([rig.events, rig.late], [[], [0, 0]]);
  rig.look.slept();
  assert.equal(rig.pass(), 2);
});

test("requests that two looks see are taken, and an interrupt that two looks see is sent", () => {
  const rig = new Rig();
  rig.look.slept();
  rig.hasRequests = true;
  rig.owes = true;
  assert.equal(rig.pass(1), 1);
  assert.deepEqual(rig.events, [], "one look may see what is on its way");
  rig.pass(1);
  assert.deepEqual(rig.events, ["lost interrupt", "reminded", "woken"]);
  assert.deepEqual(rig.late, [1, 1]);
  assert.equal(rig.pass(), 1, "awake: the timer runs out");
  // Told once, counted each time.
  rig.events.length = 0;
  rig.look.slept();
  rig.pass(2);
  assert.deepEqual([rig.events, rig.late], [["woken"], [2, 1]]);
});

test("what a kick came for between two looks is not late", () => {
  const rig = new Rig();
  rig.hasRequests = true;
  rig.owes = true;
  rig.look.slept();
  for (let round = 0; round < 10; round++) {
    rig.pass(1);
    rig.look.woke();
    rig.look.slept();
  }
  assert.deepEqual([rig.events, rig.late], [[], [0, 0]]);
});

test("what only the second look sees is looked at once more", () => {
  const rig = new Rig();
  rig.look.slept();
  rig.pass(1);
  rig.owes = true;
  rig.pass(1);
  assert.deepEqual(rig.events, []);
  rig.pass(1);
  assert.deepEqual(rig.events, ["lost interrupt", "reminded"]);
  assert.equal(rig.pass(), 1, "and it is seen that this was all");
});

test("without EVENT_IDX the driver is interrupted once more, and nobody is told", () => {
  const rig = new Rig(false);
  rig.look.slept();
  rig.owes = true;
  rig.pass();
  assert.deepEqual([rig.events, rig.late], [["reminded"], [0, 0]]);
});

test("a ring that is awake, disabled or stopped is not looked at", () => {
  for (const away of [
    (rig: Rig) => rig.look.woke(),
    (rig: Rig) => {
      rig.ring.enabled = false;
    },
    (rig: Rig) => rig.look.stop(),
  ]) {
    const rig = new Rig();
    rig.look.slept();
    rig.hasRequests = true;
    away(rig);
    rig.pass();
    assert.deepEqual([rig.events, rig.late], [[], [0, 0]]);
    assert.equal(rig.pass(), 0);
  }
});
