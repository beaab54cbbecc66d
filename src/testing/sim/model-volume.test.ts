// The model: what it must accept, what it must refuse, checked against trying all orders.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { EIO, Prng } from "../../base/index.ts";
import { ModelViolation, ModelVolume } from "./model-volume.ts";
import { RegisterHistory } from "./register-history.ts";

const SECTOR = 512;

/** Reads at once and returns `data`. */
function read(model: ModelVolume, offsetBytes: number, data: Uint8Array): void {
  model.endRead(model.startRead(offsetBytes, data.length), 0, data);
}

function write(model: ModelVolume, offsetBytes: number, bytes: number): Uint8Array {
  const { id, data } = model.startWrite(offsetBytes, bytes);
  model.endWrite(id, 0);
  return data;
}

const violates = (action: () => void, pattern: RegExp): void =>
  assert.throws(action, (error: Error) => {
    assert.ok(error instanceof ModelViolation, String(error));
    assert.match(error.message, pattern);
    return true;
  });

const zeroes = (bytes: number): Uint8Array => new Uint8Array(bytes);

interface Step {
  readonly isWrite: boolean;
  /** What was written or read; 0 is the initial content. */
  readonly value: number;
  readonly start: number;
  readonly end: number;
}

/** Is there an order of these operations that a register could have had? Tries all. */
function hasOrder(steps: readonly Step[], value = 0): boolean {
  if (steps.length === 0) return true;
  const firstEnd = Math.min(...steps.map((step) => step.end));
  return steps.some((step, index) => {
    if (step.start > firstEnd || (!step.isWrite && step.value !== value)) return false;
    return hasOrder(steps.toSpliced(index, 1), step.isWrite ? step.value : value);
  });
}

/** A random history of up to 8 operations, ends and starts all different. */
function randomSteps(prng: Prng): Step[] {
  const count = prng.between(3, 8);
  const times = Array.from({ length: count * 2 }, (_, index) => index + 1);
  const steps: Step[] = [];
  let values = 0;
  while (times.length > 0) {
    const start = times.shift() as number;
    const end = times.splice(prng.below(Math.min(times.length, 5)), 1)[0];
    const isWrite = prng.chance(0.5);
    if (isWrite) values += 1;
    steps.push({ isWrite, value: isWrite ? values : prng.between(0, values), start, end });
  }
  return steps;
}

/** What the register says to the same history, event by event. */
function accepts(steps: readonly Step[]): boolean {
  const register = new RegisterHistory();
  const events = steps.flatMap((step) => [
    { at: step.start, step, isStart: true },
    { at: step.end, step, isStart: false },
  ]);
  events.sort((a, b) => a.at - b.at);
  const readsInFlight = new Set<number>();
  for (const { at, step, isStart } of events) {
    if (step.isWrite) {
      const oldest = Math.min(Infinity, ...readsInFlight);
      if (isStart) register.writeStarted(step.value, false, false, at);
      else register.writeEnded(step.value, at, false, oldest);
    } else if (isStart) {
      readsInFlight.add(step.start);
    } else {
      readsInFlight.delete(step.start);
      if (register.readEnded(step.value, step.start, at) !== null) return false;
    }
  }
  return true;
}

describe("RegisterHistory", () => {
  it("accepts exactly the histories that have an order", () => {
    const prng = new Prng(1);
    const counts = { accepted: 0, refused: 0 };
    for (let round = 0; round < 20000; round++) {
      const steps = randomSteps(prng);
      const isRight = hasOrder(steps);
      counts[isRight ? "accepted" : "refused"] += 1;
      assert.equal(accepts(steps), isRight, JSON.stringify(steps));
    }
    assert.ok(counts.accepted > 2000 && counts.refused > 2000, JSON.stringify(counts));
  });

  it("knows what a late read of an old version says about a third", () => {
    const step = (isWrite: boolean, value: number, start: number, end: number): Step => {
      return { isWrite, value, start, end };
    };
    // 2 ended before 1 was read, so it came before 1, and 1 before 3: it cannot be back.
    const steps = [
      step(true, 1, 1, 3),
      step(true, 2, 2, 5),
      step(true, 3, 4, 8),
      step(false, 1, 6, 7),
      step(false, 2, 9, 10),
    ];
    assert.equal(hasOrder(steps), false);
    assert.equal(accepts(steps), false);
    assert.equal(accepts(steps.toSpliced(4, 1, step(false, 3, 9, 10))), true);
  });

  it("forgets what nobody may read any more", () => {
    const register = new RegisterHistory();
    for (let id = 1; id <= 1000; id++) {
      register.writeStarted(id, id % 3 === 0, false, id * 3);
      register.writeEnded(id, id * 3 + 1, false, Infinity);
      assert.equal(register.readEnded(id % 3 === 0 ? 0 : id, id * 3 + 1.5, id * 3 + 2), null);
    }
    assert.ok(register.versionCount <= 2, `${register.versionCount} versions`);
  });
});

describe("ModelVolume", () => {
  it("wants the latest write, and zeroes where there was none", () => {
    const model = new ModelVolume();
    read(model, 0, zeroes(4096));
    const old = write(model, 0, 4096);
    const data = write(model, SECTOR, SECTOR);
    violates(() => read(model, 0, zeroes(SECTOR)), /sector 0 .*zeroes/);
    violates(() => read(model.fork(), 0, old), /sector 1 .*write 2/);
    const mixed = old.slice();
    mixed.set(data, SECTOR);
    read(model, 0, mixed);
    assert.ok(model.checkedSectors >= 16);
  });

  it("refuses what nobody wrote: another sector's, a torn sector, one wrong bit", () => {
    const model = new ModelVolume();
    const data = write(model, 0, 1024);
    violates(() => read(model, 0, data.subarray(SECTOR)), /nobody wrote/);
    for (const at of [0, 4, 8, 100, 511]) {
      const rotten = data.slice(0, SECTOR);
      rotten[at] ^= 1;
      violates(() => read(model, 0, rotten), /nobody wrote|not of this sector/);
    }
    const almostZero = zeroes(SECTOR);
    almostZero[300] = 1;
    violates(() => read(model, 0, almostZero), /nobody wrote/);
  });

  it("takes any of concurrent writes, but does not go back", () => {
    const model = new ModelVolume();
    const first = model.startWrite(0, SECTOR);
    const second = model.startWrite(0, SECTOR);
    read(model.fork(), 0, zeroes(SECTOR));
    read(model, 0, second.data);
    violates(() => read(model.fork(), 0, zeroes(SECTOR)), /zeroes/);
    read(model, 0, first.data);
    violates(() => read(model, 0, second.data), /write 2/);
    model.endWrite(first.id, 0);
    model.endWrite(second.id, 0);
    read(model, 0, first.data);
  });

  it("a write in flight at a crash settles one way, once", () => {
    const model = new ModelVolume();
    const old = write(model, 0, SECTOR);
    const cut = model.startWrite(0, SECTOR);
    model.startRead(0, SECTOR);
    model.crashed();
    const sawNew = model.fork();
    read(sawNew, 0, cut.data);
    violates(() => read(sawNew, 0, old), /write 1/);
    read(model, 0, old);
    violates(() => read(model, 0, cut.data), /write 2/);
  });

  it("a write cut by a crash is new or old in each 4 KiB block, zeroes included", () => {
    const old = zeroes(8192);
    const model = new ModelVolume();
    const cut = model.startWrite(0, 8192);
    model.crashed();
    const halves = old.slice();
    halves.set(cut.data.subarray(0, 4096));
    read(model.fork(), 0, halves);
    const torn = old.slice();
    torn.set(cut.data.subarray(0, SECTOR));
    violates(() => read(model.fork(), 0, torn), /torn/);
    read(new ModelVolume({ atomicBytes: SECTOR }), 0, old);
    const fine = new ModelVolume({ atomicBytes: SECTOR });
    const other = fine.startWrite(0, 8192);
    fine.crashed();
    const single = zeroes(8192);
    single.set(other.data.subarray(0, SECTOR));
    read(fine, 0, single);
    // One sector overwritten after the crash says nothing about the others.
    read(model, 0, old.subarray(0, SECTOR));
    const later = write(model, SECTOR, SECTOR);
    read(model, SECTOR, later);
    read(model, 0, old.subarray(0, SECTOR));
    violates(() => read(model, 1024, cut.data.subarray(1024, 1536)), /torn/);
  });

  it("a failed write may have happened, or not; a failed read shows nothing", () => {
    const model = new ModelVolume();
    const failed = model.startWrite(0, SECTOR);
    model.endWrite(failed.id, -EIO);
    read(model.fork(), 0, failed.data);
    read(model, 0, zeroes(SECTOR));
    violates(() => read(model.fork(), 0, failed.data), /write 1/);
    model.endRead(model.startRead(0, SECTOR), -EIO, new Uint8Array(0));
  });

  it("discards and zeroes read as zeroes, unless a discard may leave what was there", () => {
    for (const discardReadsZero of [true, false]) {
      const model = new ModelVolume({ discardReadsZero });
      const old = write(model, 0, 1024);
      model.endWrite(model.startWriteZeroes(SECTOR, SECTOR), 0);
      violates(() => read(model.fork(), SECTOR, old.subarray(SECTOR)), /write 1/);
      model.endWrite(model.startDiscard(0, SECTOR), 0);
      read(model.fork(), 0, zeroes(1024));
      if (discardReadsZero) {
        violates(() => read(model, 0, old.subarray(0, SECTOR)), /write 1/);
      } else {
        read(model, 0, old.subarray(0, SECTOR));
        violates(() => read(model, 0, zeroes(SECTOR)), /zeroes/);
      }
    }
  });
});
