// The timer wheel against a model that is nothing but a list of deadlines.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../base/index.ts";
import type { TimerHandler } from "../ports/index.ts";
import { TimerWheel } from "./timer-wheel.ts";

class Recorder implements TimerHandler {
  fired: number[] = [];
  onFire: ((tag: number) => void) | null = null;

  timerFired(tag: number): void {
    this.fired.push(tag);
    this.onFire?.(tag);
  }

  take(): number[] {
    const fired = this.fired;
    this.fired = [];
    return fired;
  }
}

/** A start that is no multiple of a tick, late enough that ticks exceed 32 bits. */
const LONG_UPTIME_US = 2 ** 32 * 1000 + 123_456.75;

test("a timer fires once, never before its delay has passed, at most a tick late", () => {
  const wheel = new TimerWheel(8, 500);
  const recorder = new Recorder();
  wheel.set(700, 5, recorder, 42);
  assert.equal(wheel.count, 1);
  wheel.advance(700 + 4999);
  assert.deepEqual(recorder.take(), []);
  wheel.advance(700 + 6000);
  assert.deepEqual(recorder.take(), [42]);
  wheel.advance(1e9);
  assert.deepEqual(recorder.take(), []);
  assert.equal(wheel.count, 0);
  assert.equal(wheel.nextDelayUs(1e9), Infinity);
});

test("a delay of 0 set from a handler fires in a later tick: no endless loop", () => {
  const wheel = new TimerWheel(8, 0);
  const recorder = new Recorder();
  recorder.onFire = () => void wheel.set(2000, 0, recorder, 1);
  wheel.set(0, 1, recorder, 1);
  assert.equal(wheel.advance(2000), 1);
  assert.equal(wheel.count, 1);
  assert.equal(wheel.advance(3000), 1);
});

test("cancelling: before, after, twice, in a handler, another's, nonsense ids", () => {
  const wheel = new TimerWheel(8, 0);
  const recorder = new Recorder();
  const first = wheel.set(0, 5, recorder, 1);
  const second = wheel.set(0, 5, recorder, 2);
  const third = wheel.set(0, 5, recorder, 3);
  wheel.cancel(second);
  wheel.cancel(second);
  recorder.onFire = (tag) => wheel.cancel(tag === 1 ? third : first);
  wheel.advance(10_000);
  // Whichever fired first cancelled the other.
  assert.equal(recorder.take().length, 1);
  recorder.onFire = null;
  const reused = wheel.set(10_000, 5, recorder, 4);
  for (const stale of [first, second, third, -1, 65535, 2 ** 19, 2 ** 45]) wheel.cancel(stale);
  assert.equal(wheel.count, 1);
  wheel.advance(20_000);
  assert.deepEqual(recorder.take(), [4]);
  wheel.cancel(reused);
  assert.equal(wheel.count, 0);
});

test("sleeps longer than a turn of the wheel: every due timer fires, no other", () => {
  const wheel = new TimerWheel(64, LONG_UPTIME_US);
  const recorder = new Recorder();
  const delays = [1, 511, 512, 513, 1024, 5000, 60_000, 3_600_000];
  for (const delay of delays) wheel.set(LONG_UPTIME_US, delay, recorder, delay);
  wheel.advance(LONG_UPTIME_US + 2_000_000);
  assert.deepEqual(
    recorder.take().toSorted((a, b) => a - b),
    [1, 511, 512, 513, 1024],
  );
  const waitUs = wheel.nextDelayUs(LONG_UPTIME_US + 2_000_000);
  assert.ok(waitUs >= 3_000_000 && waitUs <= 3_002_000, `${waitUs} us: one sleep, not many`);
  wheel.advance(LONG_UPTIME_US + 4e9);
  assert.deepEqual(
    recorder.take().toSorted((a, b) => a - b),
    [5000, 60_000, 3_600_000],
  );
});

test("a wheel that stood still without timers is right at once", () => {
  const wheel = new TimerWheel(8, 0);
  const recorder = new Recorder();
  const nowUs = 60_000_000;
  wheel.set(nowUs, 5, recorder, 1);
  const waitUs = wheel.nextDelayUs(nowUs);
  assert.ok(waitUs >= 5000 && waitUs <= 6000, `${waitUs} us`);
  wheel.advance(nowUs + waitUs);
  assert.deepEqual(recorder.take(), [1]);
});

test("full is an assertion, and a freed place can be used again", () => {
  const wheel = new TimerWheel(2, 0);
  const recorder = new Recorder();
  const first = wheel.set(0, 1, recorder, 1);
  wheel.set(0, 1, recorder, 2);
  assert.throws(() => wheel.set(0, 1, recorder, 3), /too many timers/);
  wheel.cancel(first);
  wheel.set(0, 1, recorder, 3);
  wheel.advance(5000);
  assert.deepEqual(recorder.take().toSorted(), [2, 3]);
  assert.throws(() => wheel.set(0, -1, recorder, 3), /in the past/);
  assert.throws(() => wheel.set(0, Infinity, recorder, 3), /never fires/);
});

test("the wheel grows with what is asked of it, and every timer fires once", () => {
  const wheel = new TimerWheel(10_000, 0);
  const recorder = new Recorder();
  const ids = new Set<number>();
  for (let tag = 0; tag < 5000; tag++) ids.add(wheel.set(0, tag % 700, recorder, tag));
  assert.equal(ids.size, 5000);
  assert.equal(wheel.count, 5000);
  assert.equal(wheel.advance(1e6), 5000);
  assert.equal(new Set(recorder.take()).size, 5000);
});

interface Modelled {
  readonly id: number;
  readonly earliestUs: number;
}

/** One random history; `seed` is named when it fails. */
function runHistory(seed: number): void {
  const prng = new Prng(seed);
  let nowUs = prng.chance(0.5) ? LONG_UPTIME_US : prng.below(1_000_000) / 7;
  const capacity = 64;
  const wheel = new TimerWheel(capacity, nowUs);
  const model = new Map<number, Modelled>();
  let nextTag = 1;
  const set = (): void => {
    if (wheel.count === capacity) return;
    const delayMs = prng.pick([0, 0.3, 1, prng.below(20), prng.below(1200), prng.below(100_000)]);
    const tag = nextTag++;
    const id = wheel.set(nowUs, delayMs, recorder, tag);
    model.set(tag, { id, earliestUs: nowUs + delayMs * 1000 });
  };
  const cancel = (): void => {
    const tags = [...model.keys()];
    if (tags.length === 0) return;
    const tag = prng.pick(tags);
    wheel.cancel((model.get(tag) as Modelled).id);
    model.delete(tag);
  };
  const recorder = new Recorder();
  recorder.onFire = (tag) => {
    const timer = model.get(tag);
    assert.ok(timer !== undefined, `seed ${seed}: ${tag} fired twice or after its cancellation`);
    assert.ok(timer.earliestUs <= nowUs, `seed ${seed}: ${tag} fired too early`);
    model.delete(tag);
    if (prng.chance(0.3)) set();
    if (prng.chance(0.3)) cancel();
  };
  for (let step = 0; step < 300; step++) {
    if (prng.chance(0.5)) set();
    if (prng.chance(0.2)) cancel();
    if (prng.chance(0.1)) nowUs += prng.below(3_000_000);
    const delayUs = wheel.nextDelayUs(nowUs);
    assert.equal(delayUs === Infinity, model.size === 0, `seed ${seed}: sleeps for ever`);
    for (const [tag, timer] of model) {
      const overslept = nowUs + delayUs - timer.earliestUs;
      assert.ok(
        delayUs === 0 || overslept <= 1001,
        `seed ${seed}: would oversleep ${tag} by ${overslept} us`,
      );
    }
    // Sleep as told, wake early, or wake late, as a reactor does.
    nowUs += prng.pick([0, Math.min(delayUs, 1e9), prng.below(2000), prng.below(700_000)]);
    wheel.advance(nowUs);
    for (const [tag, timer] of model) {
      const lateUs = nowUs - timer.earliestUs;
      assert.ok(lateUs < 1001, `seed ${seed}: ${tag} is ${lateUs} us late`);
    }
    assert.equal(wheel.count, model.size, `seed ${seed}`);
  }
}

test("400 random histories agree with the model", () => {
  for (let seed = 1; seed <= 400; seed++) runHistory(seed);
});
