// @hot
// A latency histogram: log-linear buckets over nanoseconds, as in HdrHistogram. Each power of two
// is cut into 128 equal buckets, so a percentile is off by less than 1/128 of its value (0.8 %);
// the mean, the smallest and the largest value are exact. record() is a shift and an addition.
//
//   value    0 .. 127   one bucket each
//            2^e ..     (e - 6) * 128 + the seven bits below the leading one
//
// Values from 2^42 ns (73 minutes) on are counted in the last bucket.

import { assert } from "../base/index.ts";

const SUB_BITS = 7;
const SUB_COUNT: number = 1 << SUB_BITS;
/** Values above 2^32 ns are recorded in units of 2^21 ns: their buckets continue the series. */
const COARSE_SHIFT = 2 ** 21;
const COARSE_BITS = 21;
const EXPONENT_MAX = 42;
const BUCKET_COUNT: number = (EXPONENT_MAX - SUB_BITS + 2) * SUB_COUNT;

function bucketOf(ns: number): number {
  if (ns < SUB_COUNT) return ns;
  const exponent = 31 - Math.clz32(ns);
  return ((exponent - SUB_BITS + 1) << SUB_BITS) + ((ns >>> (exponent - SUB_BITS)) - SUB_COUNT);
}

/** Middle of bucket `index`, in nanoseconds. */
function middleOf(index: number): number {
  if (index < SUB_COUNT) return index;
  const exponent = (index >>> SUB_BITS) + SUB_BITS - 1;
  const width = 2 ** (exponent - SUB_BITS);
  return 2 ** exponent + (index & (SUB_COUNT - 1)) * width + (width - 1) / 2;
}

export interface LatencyReport {
  readonly count: number;
  readonly meanUs: number;
  readonly minUs: number;
  readonly p50Us: number;
  readonly p90Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  readonly maxUs: number;
}

export class Histogram {
  private readonly buckets: Float64Array = new Float64Array(BUCKET_COUNT);
  count = 0;
  private sumUs = 0;
  private minUs: number = Number.POSITIVE_INFINITY;
  private maxUs = 0;

  record(latencyUs: number): void {
    const us = latencyUs > 0 ? latencyUs : 0;
    const ns = us * 1000;
    let index: number;
    if (ns < 4294967295) {
      index = bucketOf((ns + 0.5) >>> 0);
    } else {
      index = bucketOf(Math.min(ns / COARSE_SHIFT, COARSE_SHIFT - 1) >>> 0);
      index += COARSE_BITS << SUB_BITS;
    }
    this.buckets[index] += 1;
    this.count += 1;
    this.sumUs += us;
    if (us < this.minUs) this.minUs = us;
    if (us > this.maxUs) this.maxUs = us;
  }

  reset(): void {
    this.buckets.fill(0);
    this.count = 0;
    this.sumUs = 0;
    this.minUs = Number.POSITIVE_INFINITY;
    this.maxUs = 0;
  }

  /** Adds everything `other` has recorded. */
  add(other: Histogram): void {
    for (let index = 0; index < BUCKET_COUNT; index++) this.buckets[index] += other.buckets[index];
    this.count += other.count;
    this.sumUs += other.sumUs;
    this.minUs = Math.min(this.minUs, other.minUs);
    this.maxUs = Math.max(this.maxUs, other.maxUs);
  }

  /** The value that `fraction` of all values do not exceed, in microseconds; 0 when empty. */
  percentileUs(fraction: number): number {
    assert(fraction > 0 && fraction <= 1, "a percentile lies in (0, 1]");
    if (this.count === 0) return 0;
    const rank = Math.ceil(fraction * this.count);
    let seen = 0;
    for (let index = 0; index < BUCKET_COUNT; index++) {
      seen += this.buckets[index];
      if (seen >= rank) {
        const us = middleOf(index) / 1000;
        return Math.min(Math.max(us, this.minUs), this.maxUs);
      }
    }
    return this.maxUs;
  }

  // @cold
  report(): LatencyReport {
    return {
      count: this.count,
      meanUs: this.count === 0 ? 0 : this.sumUs / this.count,
      minUs: this.count === 0 ? 0 : this.minUs,
      p50Us: this.percentileUs(0.5),
      p90Us: this.percentileUs(0.9),
      p99Us: this.percentileUs(0.99),
      p999Us: this.percentileUs(0.999),
      maxUs: this.maxUs,
    };
  }
}
