// Shared-memory counters: what a reactor counts, plain adds into a Float64Array, and what the main
// thread reads when somebody scrapes. No locks, no messages.
//
// Invariants:
//  - one writer: the reactor thread that owns the volume (or the reactor's own block). Everybody
//    else only reads;
//  - every value is an aligned double, so a reader sees the old or the new number, never half of
//    each. Integers stay exact to 2^53;
//  - counters only grow; the names under "gauge" go both ways;
//  - the tables below are the only place where an index is written down. Indexes are not stored
//    anywhere, so they may be reordered, but a reader must run the same build as the writer.

import { assert } from "../base/index.ts";

export type CounterTable = Readonly<Record<string, number>>;

/** Per volume. `bytes` count only what completed without an error. */
export const VOLUME_COUNTERS = {
  readCount: 0,
  readBytes: 1,
  writeCount: 2,
  writeBytes: 3,
  flushCount: 4,
  discardCount: 5,
  discardBytes: 6,
  writeZeroesCount: 7,
  writeZeroesBytes: 8,
  /** GET_ID and other requests that never reach the device. */
  otherCount: 9,
  /** Requests answered with IOERR. */
  errorCount: 10,
  /** Requests answered with UNSUPP. */
  unsupportedCount: 11,
  /** Gauge: requests taken from a ring and not yet returned to it. */
  inflightCount: 12,
  /** Guest notifications that woke us. */
  kickCount: 13,
  /** Notifications sent to the guest, and those it asked not to have. */
  notificationCount: 14,
  notificationSuppressedCount: 15,
  /** Rings stopped because the guest broke the rules. */
  ringErrorCount: 16,
  /** Sessions accepted on the socket since the start. */
  sessionCount: 17,
  /** Gauge: 1 while a front-end has started rings. */
  connected: 18,
  /** Times a queue had to wait: no free slot in the request table. */
  pauseCount: 19,
  /** Data copied through a bounce buffer because its memory was not aligned for the device. */
  bounceCount: 20,
  bounceBytes: 21,
  /** Requests that had to wait for a bounce buffer. */
  bounceWaitCount: 22,
  /** Short transfers continued, and transient errors retried. */
  shortTransferCount: 23,
  retryCount: 24,
  /** Zeroes written by us because the device cannot write zeroes itself. */
  zeroFillBytes: 25,
  /** Gauge: age of the oldest request the device has not answered, in microseconds. */
  oldestInflightUs: 26,
  /** Gauge: sessions on the socket now. */
  openSessionCount: 27,
  /** SCSI commands, those included that never reach the device. */
  commandCount: 28,
  /** Times requests lay on a ring without a kick, and times a guest had missed an interrupt. */
  lateKickCount: 29,
  lateInterruptCount: 30,
} as const;
export type VolumeCounter = keyof typeof VOLUME_COUNTERS;

/** Per reactor thread. */
export const REACTOR_COUNTERS = {
  loopCount: 0,
  sleepCount: 1,
  enterCount: 2,
  busyUs: 3,
  pollUs: 4,
  timerCount: 5,
  completionCount: 6,
  submissionCount: 7,
  mailboxMessageCount: 8,
  /** Loop iterations that found no free request slot. */
  slotExhaustedCount: 9,
  /** Gauge: request slots in use. */
  slotsInUse: 10,
  /** Gauge: volumes this reactor serves. */
  volumeCount: 11,
  /** The longest single loop iteration. */
  longestLoopUs: 12,
  /** Log lines lost because the ring was full. */
  logDroppedCount: 13,
} as const;
export type ReactorCounter = keyof typeof REACTOR_COUNTERS;

/** Room in every block, so that a table can grow without a new layout of what follows it. */
export const COUNTERS_MAX = 64;
export const COUNTER_BLOCK_BYTES: number = COUNTERS_MAX * Float64Array.BYTES_PER_ELEMENT;

/** Indexes must be 0, 1, 2... without gaps: checked when the module loads. */
function assertDense(table: CounterTable): void {
  const indexes = Object.values(table);
  assert(indexes.length <= COUNTERS_MAX, "more counters than a block holds");
  for (let at = 0; at < indexes.length; at++) {
    assert(indexes[at] === at, "counter indexes must be dense and in order");
  }
}
assertDense(VOLUME_COUNTERS);
assertDense(REACTOR_COUNTERS);

/**
 * A named block of counters in shared memory. Create it on either side and post `shared` to the
 * other, which makes its own CounterBlock over it.
 */
export class CounterBlock<Name extends string> {
  /** What the writer adds to: `block.values[VOLUME_COUNTERS.readCount] += 1`. */
  readonly values: Float64Array;
  readonly shared: SharedArrayBuffer;
  private readonly table: Readonly<Record<Name, number>>;

  constructor(
    table: Readonly<Record<Name, number>>,
    shared: SharedArrayBuffer = new SharedArrayBuffer(COUNTER_BLOCK_BYTES),
    offsetBytes = 0,
  ) {
    assert(offsetBytes % 8 === 0, "a counter block must be aligned to 8 bytes");
    assert(shared.byteLength >= offsetBytes + COUNTER_BLOCK_BYTES, "counter block too small");
    this.table = table;
    this.shared = shared;
    this.values = new Float64Array(shared, offsetBytes, COUNTERS_MAX);
  }

  get(name: Name): number {
    return this.values[this.table[name]] as number;
  }

  /** Every value by name; for a scrape, it allocates. */
  snapshot(): Record<Name, number> {
    const result: Record<string, number> = {};
    for (const name of Object.keys(this.table)) result[name] = this.get(name as Name);
    return result as Record<Name, number>;
  }
}

export function reactorCounters(shared?: SharedArrayBuffer): CounterBlock<ReactorCounter> {
  return new CounterBlock(REACTOR_COUNTERS, shared);
}
