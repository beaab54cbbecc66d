// The store under long random load with crashes of every kind; see random-crashes.ts.
// RINGSTORE_SEED replays one seed, RINGSTORE_SEEDS sets how many.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type RandomCrashCounts, randomCrashes } from "./random-crashes.ts";

const asked = process.env["RINGSTORE_SEED"];
const first = Number(asked ?? 1);
const seedCount = Number(process.env["RINGSTORE_SEEDS"] ?? (asked === undefined ? 25 : 1));

test("two volumes under load, crash after crash", (t) => {
  const totals: RandomCrashCounts = {
    requests: 0,
    powerCuts: 0,
    deaths: 0,
    stops: 0,
    lateWrites: 0,
    handOvers: 0,
    uncertainSlabs: 0,
    checkedSectors: 0,
  };
  for (let seed = first; seed < first + seedCount; seed++) {
    try {
      const counts = randomCrashes(seed);
      for (const name of Object.keys(totals) as (keyof RandomCrashCounts)[]) {
        totals[name] += counts[name];
      }
    } catch (cause) {
      const replay = `RINGSTORE_SEED=${seed} npm test -- store/random-crashes`;
      throw new Error(`seed ${seed}: ${(cause as Error).message}\n  replay: ${replay}`, { cause });
    }
  }
  t.diagnostic(JSON.stringify(totals));
  if (asked !== undefined) return;
  assert.ok(totals.powerCuts > 0 && totals.deaths > 0 && totals.stops > 0);
  assert.ok(totals.handOvers > 0, "no replica was taken over");
  assert.ok(totals.lateWrites > 0, "no write of a dead process was late");
});
