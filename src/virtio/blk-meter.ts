// @hot
// What a virtio-blk queue counts. The numbers live with whoever reads them (telemetry's
// VolumeMeter has this shape); this room only knows where to add.
//
// Invariant: the indices are those of telemetry's VOLUME_COUNTERS. Neither room may import the
// other; a test of the daemon compares them.

import { OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE } from "../base/index.ts";

export interface BlkMeter {
  readonly counters: Float64Array;
  /** `op` is OP_READ...; `us` from taking the request off the ring to its completion. */
  recordLatency(op: number, us: number): void;
}

export const COUNTER_READ = 0;
export const COUNTER_READ_BYTES = 1;
export const COUNTER_WRITE = 2;
export const COUNTER_WRITE_BYTES = 3;
export const COUNTER_FLUSH = 4;
export const COUNTER_DISCARD = 5;
export const COUNTER_DISCARD_BYTES = 6;
export const COUNTER_WRITE_ZEROES = 7;
export const COUNTER_WRITE_ZEROES_BYTES = 8;
/** Requests answered without the device: GET_ID, empty transfers, refusals. */
export const COUNTER_OTHER = 9;
/** Answered IOERR. */
export const COUNTER_ERROR = 10;
/** Answered UNSUPP. */
export const COUNTER_UNSUPPORTED = 11;
/** Gauge over all queues that share the meter. */
export const COUNTER_INFLIGHT = 12;
/** Kicks that woke us. */
export const COUNTER_KICK = 13;
export const COUNTER_NOTIFICATION = 14;
export const COUNTER_NOTIFICATION_SUPPRESSED = 15;
export const COUNTER_RING_ERROR = 16;
/** Sessions accepted on the socket. */
export const COUNTER_SESSION = 17;
/** Gauge: 1 while a front-end has rings running. */
export const COUNTER_CONNECTED = 18;
/** A queue had to wait for a free slot. */
export const COUNTER_PAUSE = 19;
/** Gauge: sessions on the socket now. */
export const COUNTER_OPEN_SESSIONS = 27;
/** SCSI commands, those included that never reach the device. */
export const COUNTER_COMMAND = 28;
/** Requests found on a ring that should have been kicked for, and interrupts sent late. */
export const COUNTER_LATE_KICK = 29;
export const COUNTER_LATE_INTERRUPT = 30;
/** Cells a meter must have. */
export const COUNTERS_BYTES_MIN: number = 31 * 8;

export function add(counters: Float64Array, index: number, amount: number): void {
  counters[index] = (counters[index] as number) + amount;
}

/** Counts a request that the device has finished; `bytes` is 0 when it failed. */
export function countCompleted(counters: Float64Array, op: number, bytes: number): void {
  if (op === OP_READ) {
    add(counters, COUNTER_READ, 1);
    add(counters, COUNTER_READ_BYTES, bytes);
  } else if (op === OP_WRITE) {
    add(counters, COUNTER_WRITE, 1);
    add(counters, COUNTER_WRITE_BYTES, bytes);
  } else if (op === OP_FLUSH) {
    add(counters, COUNTER_FLUSH, 1);
  } else if (op === OP_DISCARD) {
    add(counters, COUNTER_DISCARD, 1);
    add(counters, COUNTER_DISCARD_BYTES, bytes);
  } else {
    add(counters, COUNTER_WRITE_ZEROES, 1);
    add(counters, COUNTER_WRITE_ZEROES_BYTES, bytes);
  }
}
