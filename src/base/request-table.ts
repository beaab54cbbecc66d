// @hot
// The request table: every request between a front end and a block device is a slot here, an
// integer into preallocated typed arrays (structure of arrays). One table per reactor, touched by
// that reactor's thread alone. A slot's life:
//
//   acquire -> (front end fills the fields, adds segments) -> device.submit(slot)
//           -> device calls complete(slot, result) -> queued -> drain() -> owner.requestCompleted
//           -> release
//
// Invariants:
//  - complete() never calls the owner: completions are queued and run from the reactor's loop, so
//    a device may complete inside submit() without recursion.
//  - release() scribbles the slot and bumps its generation: a late completion that carries the old
//    generation is recognised (isLive).
//  - segments are stored as struct iovec (address u64, bytes u64), so that the kernel reads the
//    table in place; `segmentsAddress(slot)` is what readv/writev and io_uring are given.
//  - exhausted (acquire returns -1) is a state: the front end waits and is polled again.

import { assert } from "./assert.ts";

export const OP_READ = 0;
export const OP_WRITE = 1;
export const OP_FLUSH = 2;
export const OP_DISCARD = 3;
export const OP_WRITE_ZEROES = 4;

/** The write is durable before it completes (FUA, or a guest without a write cache). */
export const FLAG_DURABLE = 1;
/** WRITE_ZEROES may deallocate. */
export const FLAG_UNMAP = 2;
/** Segments lie in memory that another process may truncate: plain loads could raise SIGBUS. */
export const FLAG_FAULTABLE = 4;

/** Segments per request: 126 advertised to guests, doubled for buffers that span regions. */
export const SEGMENTS_MAX = 256;
const IOVEC_BYTES = 16;
const IOVEC_WORDS = 4;

/** Bytes of pinned memory a table of `capacity` slots needs for its segments. */
export function segmentArenaBytes(capacity: number): number {
  return capacity * SEGMENTS_MAX * IOVEC_BYTES;
}

/** Who is told that a request has finished. Called from the reactor's loop, one slot at a time. */
export interface RequestOwner {
  requestCompleted(slot: number, result: number): void;
}

export interface SegmentArena {
  readonly address: number;
  /** Covers `segmentArenaBytes(capacity)`. */
  readonly u32: Uint32Array;
}

export class RequestTable {
  readonly capacity: number;
  readonly op: Uint8Array;
  readonly flags: Uint8Array;
  /** Byte offset on the device. */
  readonly offsetBytes: Float64Array;
  /** Total bytes of the request; for reads and writes the sum of its segments. */
  readonly lengthBytes: Float64Array;
  readonly segmentCount: Uint16Array;
  /** Result given to complete(): bytes or 0, or a negated errno. */
  readonly result: Int32Array;
  /** Monotonic time of submission in microseconds, for latency histograms. */
  readonly startedUs: Float64Array;
  /** Free for the owner: which queue, which head. */
  readonly ownerTagA: Uint32Array;
  readonly ownerTagB: Uint32Array;
  /** Free for the device: progress of a request made of several operations, list links. */
  readonly deviceTagA: Int32Array;
  readonly deviceTagB: Int32Array;
  /** Iovecs as u32 words: address low, address high, bytes low, 0. */
  readonly segments: Uint32Array;

  /**
   * Address of each slot's iovecs, made once: an array that may hold null keeps its numbers as
   * heap objects and hands those out, where computing an address makes a new one each time.
   */
  private readonly iovecAddresses: (number | null)[];
  private readonly generation: Uint16Array;
  private readonly live: Uint8Array;
  private readonly owner: Uint16Array;
  private readonly owners: (RequestOwner | null)[] = [];
  private readonly freeStack: Int32Array;
  private freeCount: number;
  private readonly doneRing: Int32Array;
  private readonly doneMask: number;
  private doneHead = 0;
  private doneTail = 0;

  constructor(capacity: number, arena: SegmentArena) {
    assert(capacity > 0 && (capacity & (capacity - 1)) === 0, "capacity must be a power of two");
    assert(capacity <= 65536, "a slot must fit in 16 bits");
    assert(arena.u32.byteLength >= segmentArenaBytes(capacity), "segment arena too small");
    this.capacity = capacity;
    this.op = new Uint8Array(capacity);
    this.flags = new Uint8Array(capacity);
    this.offsetBytes = new Float64Array(capacity);
    this.lengthBytes = new Float64Array(capacity);
    this.segmentCount = new Uint16Array(capacity);
    this.result = new Int32Array(capacity);
    this.startedUs = new Float64Array(capacity);
    this.ownerTagA = new Uint32Array(capacity);
    this.ownerTagB = new Uint32Array(capacity);
    this.deviceTagA = new Int32Array(capacity);
    this.deviceTagB = new Int32Array(capacity);
    this.segments = arena.u32;
    this.iovecAddresses = new Array<number | null>(capacity).fill(null);
    for (let slot = 0; slot < capacity; slot++) {
      this.iovecAddresses[slot] = arena.address + slot * SEGMENTS_MAX * IOVEC_BYTES;
    }
    this.generation = new Uint16Array(capacity);
    this.live = new Uint8Array(capacity);
    this.owner = new Uint16Array(capacity);
    this.freeStack = new Int32Array(capacity);
    for (let index = 0; index < capacity; index++) this.freeStack[index] = capacity - 1 - index;
    this.freeCount = capacity;
    // Each live slot is in the ring at most once, so a ring of `capacity` never overflows.
    this.doneRing = new Int32Array(capacity);
    this.doneMask = capacity - 1;
  }

  /** Registers an owner; the index goes into acquire(). */
  addOwner(owner: RequestOwner): number {
    for (let index = 0; index < this.owners.length; index++) {
      if (this.owners[index] === null) {
        this.owners[index] = owner;
        return index;
      }
    }
    assert(this.owners.length < 65536, "too many request owners");
    this.owners.push(owner);
    return this.owners.length - 1;
  }

  /** Forgets an owner. It must have no live slot. */
  removeOwner(index: number): void {
    for (let slot = 0; slot < this.capacity; slot++) {
      assert(this.live[slot] === 0 || this.owner[slot] !== index, "owner removed with live slots");
    }
    this.owners[index] = null;
  }

  get freeSlots(): number {
    return this.freeCount;
  }

  /** Takes a slot for `ownerIndex`, or returns -1 when all are in use. */
  acquire(ownerIndex: number): number {
    if (this.freeCount === 0) return -1;
    this.freeCount -= 1;
    const slot = this.freeStack[this.freeCount] as number;
    assert(this.live[slot] === 0, "free slot is live");
    this.live[slot] = 1;
    this.owner[slot] = ownerIndex;
    this.flags[slot] = 0;
    this.segmentCount[slot] = 0;
    this.lengthBytes[slot] = 0;
    return slot;
  }

  /**
   * Makes another owner hear of the slot's completion, and returns the one before: for a device
   * that passes requests on to a device below it and answers them itself.
   */
  handOver(slot: number, ownerIndex: number): number {
    assert(this.live[slot] === 1, "a free slot handed over");
    const before = this.owner[slot] as number;
    this.owner[slot] = ownerIndex;
    return before;
  }

  /** Returns a slot whose completion has been delivered, or that was never submitted. */
  release(slot: number): void {
    assert(this.live[slot] === 1, "slot released twice");
    this.live[slot] = 0;
    this.generation[slot] = (this.generation[slot] as number) + 1;
    this.op[slot] = 0xff;
    this.offsetBytes[slot] = -1;
    this.freeStack[this.freeCount] = slot;
    this.freeCount += 1;
  }

  /** Slot and generation in one u32, for completions that may come late. */
  id(slot: number): number {
    return (((this.generation[slot] as number) << 16) | slot) >>> 0;
  }

  slotOf(id: number): number {
    return id & 0xffff;
  }

  /** False when `id` names a slot that has been released since. */
  isLive(id: number): boolean {
    const slot = id & 0xffff;
    return this.live[slot] === 1 && this.generation[slot] === id >>> 16;
  }

  /**
   * Appends a segment; adjacent segments are merged. Returns false when the request already has
   * SEGMENTS_MAX. `bytes` < 2^32.
   */
  addSegment(slot: number, address: number, bytes: number): boolean {
    const count = this.segmentCount[slot] as number;
    const low = address >>> 0;
    const high = Math.floor(address / 4294967296);
    const at = (slot * SEGMENTS_MAX + count) * IOVEC_WORDS;
    if (count > 0) {
      const last = at - IOVEC_WORDS;
      const lastBytes = this.segments[last + 2] as number;
      const end = (this.segments[last] as number) + lastBytes;
      const merged = lastBytes + bytes;
      if (end === low && this.segments[last + 1] === high && merged < 0x7ffff000) {
        this.segments[last + 2] = merged;
        this.lengthBytes[slot] = (this.lengthBytes[slot] as number) + bytes;
        return true;
      }
    }
    if (count === SEGMENTS_MAX) return false;
    this.segments[at] = low;
    this.segments[at + 1] = high;
    this.segments[at + 2] = bytes;
    this.segments[at + 3] = 0;
    this.segmentCount[slot] = count + 1;
    this.lengthBytes[slot] = (this.lengthBytes[slot] as number) + bytes;
    return true;
  }

  segmentAddress(slot: number, index: number): number {
    const at = (slot * SEGMENTS_MAX + index) * IOVEC_WORDS;
    return (this.segments[at + 1] as number) * 4294967296 + (this.segments[at] as number);
  }

  segmentBytes(slot: number, index: number): number {
    return this.segments[(slot * SEGMENTS_MAX + index) * IOVEC_WORDS + 2] as number;
  }

  /** Address of the slot's iovec array, `segmentCount[slot]` entries. */
  segmentsAddress(slot: number): number {
    return this.iovecAddresses[slot] as number;
  }

  /** Called by the device, once per submit. Queues the completion; the owner runs in drain(). */
  complete(slot: number, result: number): void {
    assert(this.live[slot] === 1, "completion of a free slot");
    assert(this.doneTail - this.doneHead < this.capacity, "slot completed twice");
    this.result[slot] = result;
    this.doneRing[this.doneTail & this.doneMask] = slot;
    this.doneTail += 1;
  }

  /** Completions wait for drain(). */
  get hasCompletions(): boolean {
    return this.doneHead !== this.doneTail;
  }

  /** Delivers the queued completions, and those they cause, up to `countMax`. Returns how many. */
  drain(countMax: number): number {
    let delivered = 0;
    while (this.doneHead !== this.doneTail && delivered < countMax) {
      const slot = this.doneRing[this.doneHead & this.doneMask] as number;
      this.doneHead += 1;
      delivered += 1;
      const owner = this.owners[this.owner[slot] as number] as RequestOwner;
      owner.requestCompleted(slot, this.result[slot] as number);
    }
    if (this.doneHead === this.doneTail) {
      this.doneHead = 0;
      this.doneTail = 0;
    }
    return delivered;
  }
}
