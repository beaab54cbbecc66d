// The histogram against exact percentiles, over the whole range of values.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../base/index.ts";
import { Histogram } from "./histogram.ts";

test("percentiles are within 1 % of the exact ones, from nanoseconds to hours", () => {
  const prng = new Prng(7);
  for (const scaleUs of [0.05, 1, 100, 5e4, 5e6, 4e9]) {
    const histogram = new Histogram();
    const values: number[] = [];
    for (let index = 0; index < 20000; index++) {
      const us = scaleUs * (0.1 + prng.unit() ** 3 * 10);
      values.push(us);
      histogram.record(us);
    }
    values.sort((a, b) => a - b);
    for (const fraction of [0.01, 0.5, 0.9, 0.99, 0.999, 1]) {
      const exact = values[Math.ceil(fraction * values.length) - 1] as number;
      const found = histogram.percentileUs(fraction);
      const slackUs = 0.001 + exact * 0.01;
      if (exact < 4.3e9) assert.ok(Math.abs(found - exact) <= slackUs, `${found} for ${exact}`);
    }
  }
});

test("mean, smallest, largest and count are exact", () => {
  const histogram = new Histogram();
  for (const us of [1.25, 3.5, 1000000.75, 0]) histogram.record(us);
  const report = histogram.report();
  assert.equal(report.count, 4);
  assert.equal(report.minUs, 0);
  assert.equal(report.maxUs, 1000000.75);
  assert.equal(report.meanUs, (1.25 + 3.5 + 1000000.75) / 4);
});

test("a value beyond the last bucket is counted, and its maximum is exact", () => {
  const histogram = new Histogram();
  histogram.record(1e13);
  assert.equal(histogram.count, 1);
  assert.equal(histogram.report().maxUs, 1e13);
  assert.ok(histogram.percentileUs(0.5) > 1e9);
});

test("add() is the same as having recorded everything in one", () => {
  const both = new Histogram();
  const one = new Histogram();
  const other = new Histogram();
  for (let index = 0; index < 1000; index++) {
    const us = index * 1.7;
    both.record(us);
    (index % 3 === 0 ? one : other).record(us);
  }
  one.add(other);
  const { meanUs, ...rest } = one.report();
  const { meanUs: wanted, ...restWanted } = both.report();
  assert.deepEqual(rest, restWanted);
  assert.ok(Math.abs(meanUs - wanted) < 1e-6);
  one.reset();
  assert.equal(one.percentileUs(0.5), 0);
  assert.equal(one.report().maxUs, 0);
});
