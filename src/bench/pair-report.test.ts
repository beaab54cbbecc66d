// The comparison's arithmetic: medians of pairwise ratios, and bars in both directions.

import assert from "node:assert/strict";
import { test } from "node:test";
import { barMet, median, type Pair, type RunReport, ratioOf } from "./pair-report.ts";

function pair(ours: number, theirs: number): Pair {
  const report = (iops: number): RunReport => ({ iops }) as unknown as RunReport;
  return { ours: report(ours), theirs: report(theirs) };
}

test("the median of odd and even counts", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
});

test("ratios are taken pair by pair, so that a drifting machine cancels out", () => {
  // The machine becomes ten times slower half way: the medians of each side say nothing.
  const pairs = [pair(200, 100), pair(20, 10), pair(2, 1)];
  assert.equal(ratioOf(pairs, "iops"), 2);
});

test("a bar can bound from below and from above", () => {
  const pairs = [pair(150, 100)];
  assert.equal(barMet(pairs, { metric: "iops", kind: "least", ratio: 1.5 }), true);
  assert.equal(barMet(pairs, { metric: "iops", kind: "least", ratio: 1.6 }), false);
  assert.equal(barMet(pairs, { metric: "iops", kind: "most", ratio: 1.4 }), false);
});
