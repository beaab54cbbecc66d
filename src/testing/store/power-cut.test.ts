// The power is cut under a store on a real file, again and again: nothing acknowledged is lost and
// the checker finds nothing, whatever becomes of writes that were not durable. RINGSTORE_SEED sets
// the seed, RINGSTORE_CUTS how many cuts; the soak makes thousands.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { NO_BUGS } from "../../chunk/planted.ts";
import { ModelViolation } from "../sim/index.ts";
import { CutFound, PowerCuts } from "./power-cuts.ts";

const seed = Number(process.env["RINGSTORE_SEED"] ?? 3);
const roundCount = Number(process.env["RINGSTORE_CUTS"] ?? 15);
/** Each drops some of what this bug acknowledged too early; one is enough as a rule. */
const CAUGHT_WITHIN = 15;

function fileOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), "rs-cut-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, "disk");
}

test("nothing acknowledged is lost when the power goes", (t) => {
  const counts = new PowerCuts({ path: fileOf(t), seed, roundCount }).run();
  t.diagnostic(JSON.stringify(counts));
  assert.equal(counts.cuts, roundCount);
  assert.ok(counts.changedBlocks > roundCount, "hardly a cut dropped anything");
  assert.ok(counts.checkedSectors > roundCount * 1000, "hardly anything was read");
});

test("a store that takes completed writes for durable ones is caught", (t) => {
  const planted = { ...NO_BUGS, trustCompletion: true };
  const cuts = new PowerCuts({ path: fileOf(t), seed, roundCount: CAUGHT_WITHIN, planted });
  const isLoss = (error: unknown): boolean => {
    const { cause, message } = error as CutFound;
    t.diagnostic(`after ${cuts.counts.cuts} cuts: ${message}`);
    return cause instanceof ModelViolation || cause instanceof CutFound;
  };
  assert.throws(() => cuts.run(), isLoss);
});
