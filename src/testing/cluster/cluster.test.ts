// Clusters of real code, from the owner of a volume down to lying disks, over links that break: no
// promise is broken whatever goes wrong, and everything comes right when it stops going wrong. More:
//
//   npm run sim -- --minutes 60          hunts on
//   npm run sim -- --seed 17             one seed again

import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterSim, optionsOf } from "./cluster-sim.ts";
import * as repairScenes from "./repair-scenes.ts";
import * as restoreScenes from "./restore-scenes.ts";
import * as scenes from "./scenes.ts";
import { mostEndangeredFirst } from "./turn-scenes.ts";

const seeds = Number(process.env["RINGSTORE_SEEDS"] ?? 12);
let takeovers = 0;
/** Of every third seed: steps of plans, and nodes that were lost for good. */
const repairs = new Map<string, number>();
const first = Number(process.env["RINGSTORE_SEED"] ?? 1);

for (let seed = first; seed < first + seeds; seed++) {
  test(`a cluster loses nothing and comes right again: seed ${seed}`, (t) => {
    let outcome: ReturnType<ClusterSim["run"]>;
    try {
      outcome = new ClusterSim(seed, optionsOf(seed)).run();
    } catch (error) {
      throw new Error(`again: npm run sim -- --seed ${seed}`, { cause: error });
    }
    t.diagnostic(JSON.stringify(outcome));
    // Each of the two volumes is taken at least once; how often more, the seed decides.
    assert.ok(outcome.requests > 0 && outcome.takeovers >= 2 && outcome.slabsCompared === 16);
    takeovers += outcome.takeovers;
    for (const [what, count] of Object.entries(outcome.repairs)) {
      repairs.set(what, (repairs.get(what) ?? 0) + count);
    }
  });
}

test("owners change", () => {
  assert.ok(takeovers > 3 * seeds, `${takeovers} takeovers in ${seeds} seeds`);
});

test("nodes are lost, and copies are made elsewhere", { skip: seeds < 12 }, (t) => {
  t.diagnostic(JSON.stringify(Object.fromEntries(repairs)));
  for (const what of ["lost", "drained", "led", "begin", "finish", "drop"]) {
    assert.ok((repairs.get(what) ?? 0) > 0, `${what}: never in ${seeds} seeds`);
  }
});

for (const [name, scene] of Object.entries({ ...scenes, ...repairScenes, ...restoreScenes }))
  test(`scene: ${name}`, () => scene(1));

test("the most endangered volume is brought up to date first", () => {
  for (let seed = 1; seed <= 3; seed++) mostEndangeredFirst(seed);
});

test("the same seed gives the same run", () => {
  const options = { milliseconds: 3000 };
  assert.deepEqual(new ClusterSim(9, options).run(), new ClusterSim(9, options).run());
});
