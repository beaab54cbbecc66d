// The owner over real stores on lying disks; see on-stores.ts.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Campaign } from "./on-stores.ts";

const SEEDS = Number(process.env.RINGSTORE_SEEDS ?? 6);
const FIRST = Number(process.env.RINGSTORE_SEED ?? 1);
const LIVES = 6;

for (const diskCount of [2, 3]) {
  test(`a volume on ${diskCount} stores through deaths, power cuts and failing disks`, (t) => {
    const total = { deaths: 0, powerCuts: 0, stops: 0, diskFailures: 0, equalisedSlabs: 0 };
    for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
      let counts: ReturnType<Campaign["run"]>;
      try {
        counts = new Campaign(seed * 10 + diskCount, diskCount).run(LIVES);
      } catch (error) {
        throw new Error(`RINGSTORE_SEED=${seed} RINGSTORE_SEEDS=1`, { cause: error });
      }
      for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += counts[name];
      assert.equal(counts.slabsCompared, 32);
    }
    t.diagnostic(JSON.stringify(total));
    if (SEEDS < 6) return;
    for (const [name, count] of Object.entries(total)) assert.ok(count > 0, name);
  });
}

for (const bug of ["noEqualise", "ackBeforeShrink"] as const) {
  test(`${bug}: found on real stores too`, (t) => {
    let found = "";
    for (let seed = 1; seed <= 20 && found === ""; seed++) {
      try {
        new Campaign(seed * 10 + 2, 2, { [bug]: true }).run(LIVES);
      } catch (error) {
        found = `seed ${seed}: ${(error as Error).message}`;
        // Without the bug there is nothing to be found there.
        new Campaign(seed * 10 + 2, 2).run(LIVES);
      }
    }
    t.diagnostic(found);
    assert.notEqual(found, "", `${bug} was planted, and no seed found it`);
  });
}
