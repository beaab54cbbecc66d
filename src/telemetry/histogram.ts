// @hot
// Latency histogram, log-linear: every power of two is cut into 32 buckets of equal width, so a
// bucket is at most 1/32 (3.1 %) of its value wide, from 2^-4 us (62.5 ns) to 2^27 us (134 s).
//
//   bucket 0          1 .. 32         33 .. 64       ...        993
//   [0, 2^-4)   [2^-4, 2^-3) / 32  [2^-3, 2^-2) / 32  ...  [2^27, inf)
//
// The index comes from the number's own bits: exponent and the first five bits of the mantissa of
// an IEEE single lie side by side, so one shift and one subtraction find the bucket.
//
// Invariants:
//  - one writer thread (the reactor), any number of readers; every cell is an aligned double;
//  - record() allocates nothing;
//  - cells only grow. `count` is the sum of the buckets, so that it agrees with them whenever a
//    reader looks; `sum` and `max` may be one record ahead or behind.
//
// The read side (snapshots, percentiles, Prometheus bounds) is histogram-snapshot.ts.

import { assert } from "../base/index.ts";

const SUB_BUCKET_BITS = 5;
const SUB_BUCKETS = 1 << SUB_BUCKET_BITS;
const EXPONENT_MIN = -4;
const EXPONENT_MAX = 27;
/** One for what is smaller than the first octave, one for what is beyond the last. */
export const BUCKET_COUNT: number = (EXPONENT_MAX - EXPONENT_MIN) * SUB_BUCKETS + 2;

const FLOAT32_MANTISSA_BITS = 23;
const FLOAT32_EXPONENT_BIAS = 127;
const SHIFT = FLOAT32_MANTISSA_BITS - SUB_BUCKET_BITS;
/** Subtracted from the shifted bits: the first bucket of the first octave becomes 1. */
const BASE = ((EXPONENT_MIN + FLOAT32_EXPONENT_BIAS) << SUB_BUCKET_BITS) - 1;

const CELL_SUM = 0;
const CELL_MAX = 1;
const CELL_BUCKETS = 2;
const HISTOGRAM_CELLS = CELL_BUCKETS + BUCKET_COUNT;
export const HISTOGRAM_BYTES: number = HISTOGRAM_CELLS * Float64Array.BYTES_PER_ELEMENT;

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** Bucket of a duration in microseconds. Negative and NaN count as 0. */
export function bucketOf(us: number): number {
  if (!(us > 0)) return 0;
  scratchFloat[0] = us;
  const index = ((scratchBits[0] as number) >>> SHIFT) - BASE;
  if (index < 1) return 0;
  return index < BUCKET_COUNT ? index : BUCKET_COUNT - 1;
}

/** Where bucket `index` begins, in microseconds; it ends where the next begins. */
export function bucketLowUs(index: number): number {
  if (index === 0) return 0;
  const octave = Math.floor((index - 1) / SUB_BUCKETS);
  const sub = (index - 1) % SUB_BUCKETS;
  return 2 ** (octave + EXPONENT_MIN) * (1 + sub / SUB_BUCKETS);
}

/** The writer's end. */
export class Histogram {
  readonly shared: SharedArrayBuffer;
  /** [sum, max, bucket 0, bucket 1, ...] */
  readonly cells: Float64Array;

  constructor(
    shared: SharedArrayBuffer = new SharedArrayBuffer(HISTOGRAM_BYTES),
    offsetBytes: number = 0,
  ) {
    assert(offsetBytes % 8 === 0, "a histogram must be aligned to 8 bytes");
    assert(shared.byteLength >= offsetBytes + HISTOGRAM_BYTES, "histogram memory too small");
    this.shared = shared;
    this.cells = new Float64Array(shared, offsetBytes, HISTOGRAM_CELLS);
  }

  record(us: number): void {
    const cells = this.cells;
    const at = CELL_BUCKETS + bucketOf(us);
    cells[at] = (cells[at] as number) + 1;
    if (us > 0) cells[CELL_SUM] = (cells[CELL_SUM] as number) + us;
    if (us > (cells[CELL_MAX] as number)) cells[CELL_MAX] = us;
  }

  get sumUs(): number {
    return this.cells[CELL_SUM] as number;
  }

  get maxUs(): number {
    return this.cells[CELL_MAX] as number;
  }

  /** Copies the buckets into `target` (BUCKET_COUNT cells) and returns their sum. */
  copyBuckets(target: Float64Array): number {
    assert(target.length === BUCKET_COUNT, "bucket array of the wrong size");
    let count = 0;
    for (let index = 0; index < BUCKET_COUNT; index++) {
      const value = this.cells[CELL_BUCKETS + index] as number;
      target[index] = value;
      count += value;
    }
    return count;
  }
}
