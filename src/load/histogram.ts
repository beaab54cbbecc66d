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

// Indices into Histogram.cells, which change in place: the value being recorded, and the sums.
const LATENCY_US = 0;
const SUM_US = 1;
const MIN_US = 2;
const MAX_US = 3;

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
  private readonly cells: Float64Array = Float64Array.of(0, 0, Number.POSITIVE_INFINITY, 0);

  record(latencyUs: number): void {
    this.cells[LATENCY_US] = latencyUs;
    this.recordCell();
  }

  /** Records now[0] - started[index]: a fractional argument might become a new heap number. */
  recordSpan(started: Float64Array, index: number, now: Float64Array): void {
    this.cells[LATENCY_US] = now[0] - started[index];
    this.recordCell();
  }

  private recordCell(): void {
    const cells = this.cells;
    const us = cells[LATENCY_US] > 0 ? cells[LATENCY_US] : 0;
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
    cells[SUM_US] += us;
    if (us < cells[MIN_US]) cells[MIN_US] = us;
    if (us > cells[MAX_US]) cells[MAX_US] = us;
  }

  reset(): void {
    this.buckets.fill(0);
    this.count = 0;
    this.cells[SUM_US] = 0;
    this.cells[MIN_US] = Number.POSITIVE_INFINITY;
    this.cells[MAX_US] = 0;
  }

  /** Adds everything `other` has recorded. */
  add(other: Histogram): void {
    for (let index = 0; index < BUCKET_COUNT; index++) this.buckets[index] += other.buckets[index];
    this.count += other.count;
    this.cells[SUM_US] += other.cells[SUM_US];
    this.cells[MIN_US] = Math.min(this.cells[MIN_US], other.cells[MIN_US]);
    this.cells[MAX_US] = Math.max(this.cells[MAX_US], other.cells[MAX_US]);
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
        return Math.min(Math.max(us, this.cells[MIN_US]), this.cells[MAX_US]);
      }
    }
    return this.cells[MAX_US];
  }

  // @cold
  report(): LatencyReport {
    return {
      count: this.count,
      meanUs: this.count === 0 ? 0 : this.cells[SUM_US] / this.count,
      minUs: this.count === 0 ? 0 : this.cells[MIN_US],
      p50Us: this.percentileUs(0.5),
      p90Us: this.percentileUs(0.9),
      p99Us: this.percentileUs(0.99),
      p999Us: this.percentileUs(0.999),
      maxUs: this.cells[MAX_US],
    };
  }
}
