// Every crash of short random programs, within bounds: after each the store opens, holds what the
// model demands, and its books are right. RINGSTORE_SEED replays one seed, RINGSTORE_SEEDS sets how
// many; the soak runs millions of states of other seeds.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CrashEnumeration } from "./crash-points.ts";

const first = Number(process.env["RINGSTORE_SEED"] ?? 1);
const seedCount = Number(
  process.env["RINGSTORE_SEEDS"] ?? (process.env["RINGSTORE_SEED"] === undefined ? 8 : 1),
);

test("every crash state of random programs is recovered", (t) => {
  const enumeration = new CrashEnumeration();
  const { counts } = enumeration;
  const startedMs = Date.now();
  for (let seed = first; seed < first + seedCount; seed++) enumeration.run(seed);
  const seconds = (Date.now() - startedMs) / 1000;
  t.diagnostic(`${JSON.stringify(counts)}, ${Math.round(counts.states / seconds)} states/s`);
  assert.ok(counts.states > seedCount * 300, `${counts.states} states`);
  assert.ok(counts.checkedSectors > counts.states * 100, "hardly anything was read");
});
