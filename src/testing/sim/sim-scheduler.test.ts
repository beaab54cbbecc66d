// Virtual time and the seed: order, cancelling, the limits that name the seed.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SimClock } from "./sim-clock.ts";
import { SimScheduler, SimStuck } from "./sim-scheduler.ts";

function orderOf(seed: number): string {
  const scheduler = new SimScheduler(seed);
  const order: number[] = [];
  for (let index = 0; index < 20; index++) scheduler.after(5, () => order.push(index));
  scheduler.runUntilIdle();
  assert.equal(order.length, 20);
  return order.join();
}

describe("SimClock", () => {
  it("fires by time, then priority, then order, each at its own time", () => {
    const clock = new SimClock();
    const fired: string[] = [];
    const set = (dueUs: number, priority: number, label: string): number =>
      clock.set(dueUs, {
        priority,
        label,
        owner: null,
        isBackground: false,
        action: () => fired.push(`${label}@${clock.nowUs()}`),
      });
    set(30, 0, "d");
    set(10, 1, "b");
    set(10, 1, "c");
    set(10, 0, "a");
    const cancelled = set(20, 0, "x");
    set(50, 0, "e");
    clock.cancel(cancelled);
    assert.equal(clock.advance(40), 4);
    assert.deepEqual(fired, ["a@10", "b@10", "c@10", "d@30"]);
    assert.equal(clock.nowUs(), 40);
    const cell = new Float64Array(1);
    clock.storeNowUs(cell);
    assert.equal(cell[0], 40);
    // What is set in the past comes at once, not before.
    set(5, 0, "late");
    clock.fireNext();
    assert.equal(fired.at(-1), "late@40");
    assert.equal(clock.eventCount, 1);
  });

  it("keeps its order with many events", () => {
    const clock = new SimClock();
    const fired: number[] = [];
    for (let index = 0; index < 500; index++) {
      const dueUs = (index * 7919) % 503;
      const action = (): number => fired.push(dueUs);
      clock.set(dueUs, { priority: 0, label: "", owner: null, isBackground: false, action });
    }
    clock.advance(503);
    assert.equal(fired.length, 500);
    assert.deepEqual(
      fired,
      fired.toSorted((a, b) => a - b),
    );
  });
});

describe("SimScheduler", () => {
  it("orders what is due together by the seed", () => {
    assert.equal(orderOf(7), orderOf(7));
    assert.notEqual(orderOf(7), orderOf(8));
  });

  it("stops when only background events wait, or for a condition, or after a time", () => {
    const scheduler = new SimScheduler(1);
    let ticks = 0;
    const tick = (): void => {
      ticks += 1;
      scheduler.after(100, tick, { isBackground: true });
    };
    tick();
    let isDone = false;
    scheduler.after(250, () => {
      isDone = true;
    });
    scheduler.runUntilQuiet();
    assert.ok(isDone);
    assert.equal(scheduler.clock.nowUs(), 250);
    assert.equal(ticks, 3);
    scheduler.runUntil(() => ticks === 10);
    assert.equal(scheduler.clock.nowUs(), 900);
    scheduler.runFor(1050);
    assert.equal(scheduler.clock.nowUs(), 1950);
    assert.equal(ticks, 20);
  });

  it("names the seed and what waits when a run does not end, or ends too early", () => {
    const endless = new SimScheduler(4711, { stepsMax: 50 });
    const again = (): void => void endless.after(1, again, { label: "hamster wheel" });
    again();
    assert.throws(
      () => endless.runUntilIdle(),
      (error: Error) => {
        assert.ok(error instanceof SimStuck);
        return /seed 4711.*50 steps.*hamster wheel/.test(error.message);
      },
    );
    const idle = new SimScheduler(4712);
    assert.throws(() => idle.runUntil(() => false, "a miracle"), /seed 4712.*miracle/);
  });

  it("ends everything of one owner", () => {
    const scheduler = new SimScheduler(1);
    const fired: string[] = [];
    const owner = {};
    scheduler.after(1, () => fired.push("owned"), { owner });
    scheduler.after(2, () => fired.push("other"));
    scheduler.cancel(scheduler.after(3, () => fired.push("cancelled")));
    scheduler.cancelOwned(owner);
    scheduler.runUntilIdle();
    assert.deepEqual(fired, ["other"]);
  });
});
