// @hot
// Everything counted for one volume in one piece of shared memory: the counter block, then a
// latency histogram each for reads, writes, flushes and the rest (discard, write zeroes). About
// 32 KiB. The reactor that serves the volume writes; the main thread makes its own VolumeMeter
// over the posted `shared` and reads.

import { assert, OP_FLUSH, OP_READ, OP_WRITE } from "../base/index.ts";
import {
  COUNTER_BLOCK_BYTES,
  CounterBlock,
  VOLUME_COUNTERS,
  type VolumeCounter,
} from "./counters.ts";
import { HISTOGRAM_BYTES, Histogram } from "./histogram.ts";

const HISTOGRAM_COUNT = 4;
export const VOLUME_METER_BYTES: number = COUNTER_BLOCK_BYTES + HISTOGRAM_COUNT * HISTOGRAM_BYTES;

export class VolumeMeter {
  readonly shared: SharedArrayBuffer;
  readonly block: CounterBlock<VolumeCounter>;
  /** The block's cells: `meter.counters[VOLUME_COUNTERS.readCount] += 1`. */
  readonly counters: Float64Array;
  readonly readLatency: Histogram;
  readonly writeLatency: Histogram;
  readonly flushLatency: Histogram;
  readonly otherLatency: Histogram;

  constructor(shared: SharedArrayBuffer = new SharedArrayBuffer(VOLUME_METER_BYTES)) {
    assert(shared.byteLength >= VOLUME_METER_BYTES, "volume meter memory too small");
    this.shared = shared;
    this.block = new CounterBlock(VOLUME_COUNTERS, shared);
    this.counters = this.block.values;
    this.readLatency = new Histogram(shared, COUNTER_BLOCK_BYTES);
    this.writeLatency = new Histogram(shared, COUNTER_BLOCK_BYTES + HISTOGRAM_BYTES);
    this.flushLatency = new Histogram(shared, COUNTER_BLOCK_BYTES + 2 * HISTOGRAM_BYTES);
    this.otherLatency = new Histogram(shared, COUNTER_BLOCK_BYTES + 3 * HISTOGRAM_BYTES);
  }

  /** Time from taking a request off its ring to its completion, in microseconds. */
  recordLatency(op: number, us: number): void {
    if (op === OP_READ) this.readLatency.record(us);
    else if (op === OP_WRITE) this.writeLatency.record(us);
    else if (op === OP_FLUSH) this.flushLatency.record(us);
    else this.otherLatency.record(us);
  }
}
