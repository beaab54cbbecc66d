// The read side of a latency histogram: a copy taken at one moment, percentiles, differences
// between two moments, sums over volumes, and the short list of buckets Prometheus is given.

import { assert } from "../base/index.ts";
import type { LatencySummary } from "../ports/index.ts";
import { BUCKET_COUNT, bucketLowUs, bucketOf, type Histogram } from "./histogram.ts";

/**
 * Upper bounds of the exported buckets, in microseconds: 1-2-5 steps, finer where a storage device
 * lives. About 25 lines per histogram and volume. A bound is rounded to the nearest bucket edge,
 * at most 1.6 % away; the same edge in every scrape, so rates are exact.
 */
export const EXPORT_BOUNDS_US: readonly number[] = [
  1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1_000, 2_000, 5_000, 10_000, 20_000,
  50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000, 30_000_000,
];

/** For every bound the number of buckets that lie below it. */
const EXPORT_BUCKETS_BELOW: readonly number[] = EXPORT_BOUNDS_US.map((boundUs) => {
  const index = bucketOf(boundUs);
  const isNearerNext = boundUs - bucketLowUs(index) > bucketLowUs(index + 1) - boundUs;
  return isNearerNext ? index + 1 : index;
});

for (let at = 1; at < EXPORT_BUCKETS_BELOW.length; at++) {
  const isAscending =
    (EXPORT_BUCKETS_BELOW[at - 1] as number) < (EXPORT_BUCKETS_BELOW[at] as number);
  assert(isAscending, "export bounds must lie in different buckets, ascending");
}

export class HistogramSnapshot {
  readonly buckets: Float64Array;
  /** Always the sum of the buckets. */
  readonly count: number;
  readonly sumUs: number;
  /** The greatest value ever recorded, also in a difference. */
  readonly maxUs: number;

  private constructor(buckets: Float64Array, count: number, sumUs: number, maxUs: number) {
    assert(buckets.length === BUCKET_COUNT, "bucket array of the wrong size");
    this.buckets = buckets;
    this.count = count;
    this.sumUs = sumUs;
    this.maxUs = maxUs;
  }

  static empty(): HistogramSnapshot {
    return new HistogramSnapshot(new Float64Array(BUCKET_COUNT), 0, 0, 0);
  }

  static of(histogram: Histogram): HistogramSnapshot {
    const buckets = new Float64Array(BUCKET_COUNT);
    const count = histogram.copyBuckets(buckets);
    return new HistogramSnapshot(buckets, count, histogram.sumUs, histogram.maxUs);
  }

  /** Both together: several volumes, or several reactors. */
  merge(other: HistogramSnapshot): HistogramSnapshot {
    const buckets = this.buckets.map((value, index) => value + (other.buckets[index] as number));
    return new HistogramSnapshot(
      buckets,
      this.count + other.count,
      this.sumUs + other.sumUs,
      Math.max(this.maxUs, other.maxUs),
    );
  }

  /** What was recorded since `earlier`, a snapshot of the same histogram. */
  since(earlier: HistogramSnapshot): HistogramSnapshot {
    const buckets = this.buckets.map((value, index) => value - (earlier.buckets[index] as number));
    assert(
      buckets.every((value) => value >= 0),
      "a histogram shrank: the snapshots are swapped, or of different histograms",
    );
    const sumUs = Math.max(0, this.sumUs - earlier.sumUs);
    return new HistogramSnapshot(buckets, this.count - earlier.count, sumUs, this.maxUs);
  }

  get meanUs(): number {
    return this.count === 0 ? 0 : this.sumUs / this.count;
  }

  /**
   * The value below which `fraction` (0 to 1) of the records lie, to half a bucket (1.6 %); the
   * exact maximum in the last bucket that anything was ever recorded in. 0 when empty.
   */
  percentileUs(fraction: number): number {
    assert(fraction >= 0, "a percentile below 0");
    assert(fraction <= 1, "a percentile above 1");
    if (this.count === 0) return 0;
    // The record of that rank, counted from 1.
    const rank = Math.max(1, Math.ceil(fraction * this.count));
    let seen = 0;
    for (let index = 0; index < BUCKET_COUNT; index++) {
      seen += this.buckets[index] as number;
      if (seen >= rank) return this.middleUs(index);
    }
    return this.maxUs;
  }

  /** Cumulative counts by upper bound; the +Inf bucket is `count`. */
  exportBuckets(): (readonly [upperBoundUs: number, cumulativeCount: number])[] {
    let seen = 0;
    let index = 0;
    return EXPORT_BOUNDS_US.map((boundUs, at) => {
      const end = EXPORT_BUCKETS_BELOW[at] as number;
      while (index < end) {
        seen += this.buckets[index] as number;
        index += 1;
      }
      return [boundUs, seen] as const;
    });
  }

  summary(): LatencySummary {
    return {
      count: this.count,
      sum: this.sumUs,
      buckets: this.exportBuckets(),
      p50: this.percentileUs(0.5),
      p99: this.percentileUs(0.99),
      p999: this.percentileUs(0.999),
    };
  }

  private middleUs(index: number): number {
    if (index === BUCKET_COUNT - 1) return this.maxUs;
    const middle = (bucketLowUs(index) + bucketLowUs(index + 1)) / 2;
    return Math.min(middle, this.maxUs);
  }
}
