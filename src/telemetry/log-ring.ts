// The way a log line leaves a reactor: a byte ring in shared memory, one writer thread, one reader
// at a time. A reactor never returns to Node's loop, so neither console nor a stream would ever
// write; and it must not wait for a slow terminal either.
//
//            tail (reader)                 head (writer)
//              v                             v
//   |..........[bytes|line....][bytes|line...]..............|     capacity: a power of two
//
// A record is its byte count (u32) and the line without its newline, padded to 4 bytes; it may
// wrap around the end. head and tail are u32 positions that run on and are masked on use.
//
// Invariants:
//  - the writer never waits: no room means the line is counted as dropped, and the next line that
//    fits is preceded by one that says how many were lost;
//  - bytes first, then head (an Atomics store, which also orders them); the reader likewise gives
//    room back only after it has copied;
//  - reading takes a lock word, because a dying thread may have to drain what the main thread was
//    about to. It waits for the lock a bounded time and then reads anyway: a line twice is better
//    than the reason of a crash lost. For the same reason the reader believes no length it finds.

import { TextEncoder } from "node:util";
import { assert, isPowerOfTwo } from "../base/index.ts";

const WORD_HEAD = 0;
const WORD_TAIL = 1;
const WORD_DROPPED = 2;
const WORD_READER = 3;
/** Head and tail on different cache lines would need 32 words; a log line is rare enough. */
const HEADER_BYTES = 64;

/** A longer line is cut by its writer (ring-log.ts), so that one record cannot fill the ring. */
export const LINE_BYTES_MAX = 8192;
const RECORD_HEADER_BYTES = 4;
const LOG_RING_BYTES_DEFAULT = 256 * 1024;
const RING_BYTES_MIN = 4 * LINE_BYTES_MAX;

function paddedBytes(lineBytes: number): number {
  return RECORD_HEADER_BYTES + ((lineBytes + 3) & ~3);
}

class RingMemory {
  readonly shared: SharedArrayBuffer;
  readonly words: Int32Array;
  readonly data: Uint8Array;
  readonly capacity: number;
  private readonly lengths: Uint32Array;

  constructor(shared: SharedArrayBuffer) {
    this.capacity = shared.byteLength - HEADER_BYTES;
    assert(isPowerOfTwo(this.capacity), "log ring capacity must be a power of two");
    assert(this.capacity >= RING_BYTES_MIN, "log ring too small for its longest lines");
    this.shared = shared;
    this.words = new Int32Array(shared, 0, HEADER_BYTES / 4);
    this.data = new Uint8Array(shared, HEADER_BYTES, this.capacity);
    this.lengths = new Uint32Array(shared, HEADER_BYTES, this.capacity / 4);
  }

  /** Positions are multiples of 4, so a record's length never wraps. */
  lengthIndex(position: number): number {
    return (position & (this.capacity - 1)) >>> 2;
  }

  readLength(position: number): number {
    return this.lengths[this.lengthIndex(position)] as number;
  }

  writeLength(position: number, lineBytes: number): void {
    this.lengths[this.lengthIndex(position)] = lineBytes;
  }
}

/** Memory for one ring; `capacityBytes` is a power of two. Post it to the other thread. */
export function createLogRing(capacityBytes: number = LOG_RING_BYTES_DEFAULT): SharedArrayBuffer {
  assert(isPowerOfTwo(capacityBytes), "log ring capacity must be a power of two");
  return new SharedArrayBuffer(HEADER_BYTES + capacityBytes);
}

/** The reactor's end. One per ring. */
export class LogRingWriter {
  private readonly memory: RingMemory;
  private readonly encoder: TextEncoder = new TextEncoder();
  private readonly scratch: Uint8Array = new Uint8Array(LINE_BYTES_MAX);
  private droppedReported = 0;

  constructor(shared: SharedArrayBuffer) {
    this.memory = new RingMemory(shared);
    this.droppedReported = this.droppedCount;
  }

  /** Lines lost so far, reported or not. */
  get droppedCount(): number {
    return Atomics.load(this.memory.words, WORD_DROPPED) >>> 0;
  }

  /** Lines lost and not yet reported by markReported(). */
  get unreportedCount(): number {
    return (this.droppedCount - this.droppedReported) >>> 0;
  }

  /** A line that says how many were lost has been written. */
  markReported(count: number): void {
    assert(count <= this.unreportedCount, "more lost lines reported than were lost");
    this.droppedReported = (this.droppedReported + count) >>> 0;
  }

  /** Writes one line (no newline in it). False when there was no room; the line is counted. */
  write(line: string): boolean {
    if (this.tryWrite(line)) return true;
    Atomics.add(this.memory.words, WORD_DROPPED, 1);
    return false;
  }

  /** As write(), without counting the line as lost. */
  tryWrite(line: string): boolean {
    const { read, written } = this.encoder.encodeInto(line, this.scratch);
    assert(read === line.length, "a log line longer than LINE_BYTES_MAX: its writer must cut it");
    return this.append(written);
  }

  private append(lineBytes: number): boolean {
    const { words, data, capacity } = this.memory;
    const head = Atomics.load(words, WORD_HEAD);
    const used = (head - Atomics.load(words, WORD_TAIL)) >>> 0;
    assert(used <= capacity, "log ring overrun");
    const recordBytes = paddedBytes(lineBytes);
    if (used + recordBytes > capacity) return false;
    this.memory.writeLength(head, lineBytes);
    const start = (head + RECORD_HEADER_BYTES) & (capacity - 1);
    const first = Math.min(lineBytes, capacity - start);
    data.set(this.scratch.subarray(0, first), start);
    if (first < lineBytes) data.set(this.scratch.subarray(first, lineBytes), 0);
    Atomics.store(words, WORD_HEAD, (head + recordBytes) | 0);
    return true;
  }
}

/** Takes one line, newline included. `line` is valid only during the call. */
export type LineSink = (line: Uint8Array) => void;

/** How often a fatal drain looks at a lock somebody holds: some milliseconds of looking. */
const LOCK_TRIES_FATAL = 1_000_000;
const DAMAGED_LINE: Uint8Array = new TextEncoder().encode(
  '{"level":"error","event":"log ring damaged, the lines in it are lost"}\n',
);

/** The main thread's end; also made by a dying thread. */
export class LogRingReader {
  private readonly memory: RingMemory;
  private readonly scratch: Uint8Array = new Uint8Array(LINE_BYTES_MAX + 1);

  constructor(shared: SharedArrayBuffer) {
    this.memory = new RingMemory(shared);
  }

  get droppedCount(): number {
    return Atomics.load(this.memory.words, WORD_DROPPED) >>> 0;
  }

  /**
   * Hands up to `lineCountMax` lines to `sink` and returns how many. 0 when empty, or when another
   * thread is draining. The sink must not throw.
   */
  drain(sink: LineSink, lineCountMax: number): number {
    if (Atomics.compareExchange(this.memory.words, WORD_READER, 0, 1) !== 0) return 0;
    try {
      return this.drainLocked(sink, lineCountMax);
    } finally {
      Atomics.store(this.memory.words, WORD_READER, 0);
    }
  }

  /**
   * For a thread that is about to end the process: everything in the ring at the time of the call,
   * also when the thread that was draining it never lets go.
   */
  drainFatal(sink: LineSink): number {
    for (let tries = 0; tries < LOCK_TRIES_FATAL; tries++) {
      if (Atomics.compareExchange(this.memory.words, WORD_READER, 0, 1) === 0) break;
    }
    const records = this.memory.capacity / RECORD_HEADER_BYTES;
    const count = this.drainLocked(sink, records);
    Atomics.store(this.memory.words, WORD_READER, 0);
    return count;
  }

  private drainLocked(sink: LineSink, lineCountMax: number): number {
    const { words, capacity } = this.memory;
    let tail = Atomics.load(words, WORD_TAIL);
    const head = Atomics.load(words, WORD_HEAD);
    let count = 0;
    while (count < lineCountMax) {
      const used = (head - tail) >>> 0;
      if (used === 0) break;
      const lineBytes = used <= capacity ? this.memory.readLength(tail) : LINE_BYTES_MAX + 1;
      if (lineBytes > LINE_BYTES_MAX || paddedBytes(lineBytes) > used) {
        Atomics.store(words, WORD_TAIL, head);
        sink(DAMAGED_LINE);
        return count + 1;
      }
      this.copyLine(tail, lineBytes);
      tail = (tail + paddedBytes(lineBytes)) | 0;
      Atomics.store(words, WORD_TAIL, tail);
      sink(this.scratch.subarray(0, lineBytes + 1));
      count += 1;
    }
    return count;
  }

  private copyLine(position: number, lineBytes: number): void {
    const { data, capacity } = this.memory;
    const start = (position + RECORD_HEADER_BYTES) & (capacity - 1);
    const first = Math.min(lineBytes, capacity - start);
    this.scratch.set(data.subarray(start, start + first), 0);
    if (first < lineBytes) this.scratch.set(data.subarray(0, lineBytes - first), first);
    this.scratch[lineBytes] = 0x0a;
  }
}
