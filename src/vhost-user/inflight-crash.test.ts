// Inflight recovery when the process is killed at any moment: random lives of a queue, cut after
// every single store into the inflight region, and recovered from there.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CrashRig, type CrashRigOptions } from "./_crash-rig.ts";

const STEPS = 60;
const LIVES = 40;

/** Chains outstanding in the ring `rig` stands on: offered, and not yet shown as used. */
function outstanding(rig: CrashRig): number[] {
  while (rig.driver.takeUsed() >= 0);
  return [...rig.driver.offered];
}

/** A successor recovers `memory`, finishes everything, and each chain is completed exactly once. */
function checkSuccessor(rig: CrashRig, memory: ReturnType<CrashRig["memory"]>, seed: number): void {
  const next = rig.successor(memory, seed);
  const expected = outstanding(next);
  assert.equal(next.start(), null);
  const again = next.recovered ?? [];
  assert.deepEqual(
    [...again].filter((head) => !expected.includes(head)),
    [],
    "took up what the driver has back already",
  );
  const read: number[] = [];
  for (let head = next.take(); head >= 0; head = next.take()) read.push(head);
  assert.deepEqual([...again, ...read], expected, "each once, in the order they were offered");
  while (next.inFlight.length > 0) next.complete();
  next.publish();
  assert.deepEqual(outstanding(next), []);
}

/** Does `what`; for each store in it, and for its end, a successor is tried. Returns how many. */
function cut(rig: CrashRig, seed: number, what: () => void): number {
  const moments: ReturnType<CrashRig["memory"]>[] = [];
  rig.onStore = () => void moments.push(rig.memory());
  what();
  rig.onStore = () => undefined;
  moments.push(rig.memory());
  for (const [index, memory] of moments.entries()) checkSuccessor(rig, memory, seed + index);
  return moments.length;
}

function live(rig: CrashRig, seed: number): number {
  let moments = 0;
  for (let step = 0; step < STEPS; step++) moments += cut(rig, seed + step, () => rig.step());
  return moments;
}

function lives(options: Omit<CrashRigOptions, "seed">): void {
  let moments = 0;
  for (let seed = 1; seed <= LIVES; seed++) {
    let rig = new CrashRig({ ...options, seed });
    assert.equal(rig.start(), null);
    moments += live(rig, seed * 1000);
    // And a second life on what the first one left, cut at its stores as well.
    rig = rig.successor(rig.memory(), seed + 500);
    moments += cut(rig, seed, () => assert.equal(rig.start(), null));
    moments += live(rig, seed * 2000);
  }
  assert.ok(moments > LIVES * STEPS, `only ${moments} moments were tried`);
}

test("split: whenever the process dies, nothing is lost and nothing is repeated", () => {
  lives({ packed: false, ringSize: 16, regionSize: 16 });
});

test("split: the same with a region larger than the ring", () => {
  lives({ packed: false, ringSize: 8, regionSize: 32 });
});

test("packed: whenever the process dies, nothing is lost and nothing is repeated", () => {
  lives({ packed: true, ringSize: 8, regionSize: 8 });
});

test("packed: the same with a ring of no power of two and a larger region", () => {
  lives({ packed: true, ringSize: 7, regionSize: 12 });
});
