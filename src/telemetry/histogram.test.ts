// Latency histogram: accuracy against a sorted list, agreement of the read side with itself, and
// that a second thread sees what the first recorded.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Worker } from "node:worker_threads";
import { OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, Prng } from "../base/index.ts";
import { BUCKET_COUNT, bucketLowUs, bucketOf, Histogram } from "./histogram.ts";
import { EXPORT_BOUNDS_US, HistogramSnapshot } from "./histogram-snapshot.ts";
import { VolumeMeter } from "./volume-meter.ts";

/** Half a bucket is 1.6 % of its value at most; rounding to a single adds next to nothing. */
const ERROR_MAX = 0.016;

function exactPercentile(sorted: readonly number[], fraction: number): number {
  return sorted[Math.max(1, Math.ceil(fraction * sorted.length)) - 1] as number;
}

describe("buckets", () => {
  it("each begins where the one before ends, and holds its own beginning", () => {
    assert.equal(bucketOf(0), 0);
    assert.equal(bucketLowUs(1), 2 ** -4);
    for (let index = 1; index < BUCKET_COUNT; index++) {
      const low = bucketLowUs(index);
      assert.equal(bucketOf(low), index, `the beginning of bucket ${index}`);
      assert.equal(bucketOf(low * 0.99999), index - 1, `just below bucket ${index}`);
      assert.ok(low > bucketLowUs(index - 1));
    }
  });

  it("are at most 3.2 % wide from 0.1 us to 100 s", () => {
    for (let us = 0.1; us < 100e6; us *= 1.01) {
      const index = bucketOf(us);
      const width = bucketLowUs(index + 1) - bucketLowUs(index);
      assert.ok(index > 0 && index < BUCKET_COUNT - 1, `${us} us has a bucket of its own`);
      assert.ok(width / us < 0.032, `${us} us lies in a bucket ${width} us wide`);
    }
  });

  it("take oddities at their ends", () => {
    assert.equal(bucketOf(-5), 0);
    assert.equal(bucketOf(Number.NaN), 0);
    assert.equal(bucketOf(1e-9), 0);
    assert.equal(bucketOf(1e12), BUCKET_COUNT - 1);
    assert.equal(bucketOf(Number.POSITIVE_INFINITY), BUCKET_COUNT - 1);
  });
});

describe("percentiles", () => {
  it("agree with a sorted list to half a bucket, whatever the distribution", () => {
    for (let seed = 1; seed <= 30; seed++) {
      const prng = new Prng(seed);
      const histogram = new Histogram();
      const values: number[] = [];
      const count = prng.between(1, 5000);
      const lowExponent = prng.between(-3, 10);
      const spread = prng.between(1, 16);
      let sum = 0;
      for (let at = 0; at < count; at++) {
        const value = 2 ** (lowExponent + prng.unit() * spread);
        values.push(value);
        sum += value;
        histogram.record(value);
      }
      values.sort((a, b) => a - b);
      const snapshot = HistogramSnapshot.of(histogram);
      assert.equal(snapshot.count, count);
      assert.ok(Math.abs(snapshot.sumUs - sum) <= sum * 1e-9);
      assert.equal(snapshot.maxUs, values[values.length - 1]);
      for (const fraction of [0, 0.01, 0.5, 0.9, 0.99, 0.999, 1]) {
        const exact = exactPercentile(values, fraction);
        const found = snapshot.percentileUs(fraction);
        const error = Math.abs(found - exact) / exact;
        assert.ok(error <= ERROR_MAX, `seed ${seed}: p${fraction} is ${found}, not ${exact}`);
      }
    }
  });

  it("of nothing are 0", () => {
    const empty = HistogramSnapshot.of(new Histogram());
    assert.equal(empty.percentileUs(0.99), 0);
    assert.equal(empty.meanUs, 0);
    assert.equal(empty.summary().count, 0);
  });
});

describe("snapshots", () => {
  it("merge to what one histogram of both would hold, and since() undoes it", () => {
    const prng = new Prng(7);
    const [first, second, both] = [new Histogram(), new Histogram(), new Histogram()];
    const at = (): number => 2 ** (prng.unit() * 20);
    for (let count = 0; count < 2000; count++) {
      const [a, b] = [at(), at()];
      first.record(a);
      second.record(b);
      both.record(a);
      both.record(b);
    }
    const merged = HistogramSnapshot.of(first).merge(HistogramSnapshot.of(second));
    const whole = HistogramSnapshot.of(both);
    assert.deepEqual(merged.buckets, whole.buckets);
    assert.equal(merged.count, 4000);
    assert.equal(merged.maxUs, whole.maxUs);
    const before = HistogramSnapshot.of(first);
    for (let count = 0; count < 100; count++) first.record(5);
    const delta = HistogramSnapshot.of(first).since(before);
    assert.equal(delta.count, 100);
    assert.ok(Math.abs(delta.percentileUs(0.5) - 5) <= 5 * ERROR_MAX);
    assert.ok(Math.abs(delta.meanUs - 5) < 1e-6);
    assert.throws(() => before.since(HistogramSnapshot.of(first)), /shrank/);
    assert.equal(HistogramSnapshot.empty().merge(before).count, before.count);
  });

  it("export cumulative buckets that never fall and stay true to a bucket's width", () => {
    const prng = new Prng(11);
    const histogram = new Histogram();
    const values: number[] = [];
    for (let count = 0; count < 5000; count++) {
      const value = 2 ** (prng.unit() * 26);
      values.push(value);
      histogram.record(value);
    }
    const { buckets, count } = HistogramSnapshot.of(histogram).summary();
    assert.equal(buckets.length, EXPORT_BOUNDS_US.length);
    let last = 0;
    for (const [boundUs, cumulative] of buckets) {
      assert.ok(cumulative >= last && cumulative <= count);
      last = cumulative;
      const low = values.filter((value) => value < boundUs * 0.98).length;
      const high = values.filter((value) => value < boundUs * 1.02).length;
      assert.ok(cumulative >= low && cumulative <= high, `le ${boundUs}: ${cumulative}`);
    }
  });
});

describe("volume meter", () => {
  it("keeps each operation apart, and counters apart from histograms", () => {
    const meter = new VolumeMeter();
    meter.recordLatency(OP_READ, 10);
    meter.recordLatency(OP_WRITE, 20);
    meter.recordLatency(OP_WRITE, 20);
    meter.recordLatency(OP_FLUSH, 30);
    meter.recordLatency(OP_DISCARD, 40);
    assert.ok(meter.counters.every((value) => value === 0));
    meter.counters.fill(1);
    const reader = new VolumeMeter(meter.shared);
    const summaries = [
      reader.readLatency,
      reader.writeLatency,
      reader.flushLatency,
      reader.otherLatency,
    ].map((histogram) => HistogramSnapshot.of(histogram));
    assert.deepEqual(
      summaries.map((summary) => summary.count),
      [1, 2, 1, 1],
    );
    assert.deepEqual(
      summaries.map((summary) => summary.sumUs),
      [10, 40, 30, 40],
    );
    assert.equal(reader.block.get("readCount"), 1);
    assert.equal(reader.block.snapshot().oldestInflightUs, 1);
  });

  it("is read by another thread while it is written", async () => {
    const code = `
      const { parentPort, workerData } = require("node:worker_threads");
      import(workerData.module).then(({ VolumeMeter }) => {
        const meter = new VolumeMeter(workerData.shared);
        parentPort.postMessage("started");
        for (let count = 0; count < 200000; count++) {
          meter.counters[0] += 1;
          meter.recordLatency(0, 50);
        }
      });`;
    const meter = new VolumeMeter();
    const module = new URL("./volume-meter.js", import.meta.url).href;
    const worker = new Worker(code, { eval: true, workerData: { module, shared: meter.shared } });
    const ended = new Promise<number>((resolve, reject) => {
      worker.on("exit", resolve);
      worker.on("error", reject);
    });
    await new Promise((resolve) => worker.once("message", resolve));
    let last = HistogramSnapshot.of(meter.readLatency);
    for (let round = 0; round < 50; round++) {
      const now = HistogramSnapshot.of(meter.readLatency);
      assert.ok(now.since(last).count >= 0);
      last = now;
    }
    assert.equal(await ended, 0);
    assert.equal(HistogramSnapshot.of(meter.readLatency).count, 200000);
    assert.equal(meter.block.get("readCount"), 200000);
  });
});
