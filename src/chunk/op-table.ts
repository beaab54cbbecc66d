// @hot
// Operations: the part of a request that lies in one slab. An operation is an index into these
// arrays; it belongs to one slot of the request table, or to one write of a replica, and one module
// at a time has it.
//
// Invariants: a free operation's kind is OP_KIND_FREE; an operation is in at most one list, linked
// by `next`; none left is a state: the request waits and is resumed.

import { assert } from "../base/index.ts";
import { SLAB_BLOCKS } from "./layouts.ts";

const OP_KIND_FREE = 0;
export const OP_KIND_READ = 1;
export const OP_KIND_WRITE = 2;
/** Discard and write zeroes: the blocks take the state in `clearState`. */
export const OP_KIND_CLEAR = 3;

/** A record of a volume or an extent, on its way to be durable. */
export const OP_KIND_TABLE = 4;
/** A page is wanted in memory, for recovery, scrub or reclaim. */
export const OP_KIND_PAGE = 5;
/** A whole slab becomes what another replica has: data from `address`, `states`, the stamp. */
export const OP_KIND_IMAGE = 6;
/** A whole slab under lock, to `address`; `states` and the stamp are filled in at the end. */
export const OP_KIND_SLAB = 7;
/** A page is wanted to look at its slabs' stamps. */
export const OP_KIND_SCAN = 8;

// @cold
function filled(capacity: number): Int32Array {
  return new Int32Array(capacity).fill(-1);
}

export class OpTable {
  readonly capacity: number;
  freeCount: number;
  readonly kind: Uint8Array;
  readonly slot: Int32Array;
  /** Write of a replica that it is part of, or -1. */
  readonly write: Int32Array;
  /** Memory that it is copied from or to, instead of a slot's; 0 = none. */
  readonly address: Float64Array;
  /** Where in the request's memory the operation's first byte is. */
  readonly skipBytes: Float64Array;
  readonly extent: Int32Array;
  /** Slab within the extent. */
  readonly slab: Int32Array;
  readonly firstBlock: Uint8Array;
  readonly blockCount: Uint8Array;
  readonly clearState: Uint8Array;
  /** Of all 16 blocks, two bits each. */
  readonly states: Uint32Array;
  readonly next: Int32Array;

  /** Frame of the page cache, pinned; -1 = none. */
  readonly frame: Int32Array;
  /** Entry of the block locks; -1 = none. */
  readonly lock: Int32Array;
  readonly lockMask: Uint16Array;

  // Writing.
  readonly recordType: Uint8Array;
  readonly location: Uint32Array;
  readonly freed: Uint32Array;
  /** A slab was taken for this write: given back if it fails. */
  readonly tookSlab: Uint8Array;
  readonly recordAt: Int32Array;
  /** First block of its data in the ring, or -1. */
  readonly ringBlock: Int32Array;
  readonly groupDurable: Uint8Array;
  readonly dataDone: Uint8Array;
  /** The next operation whose data goes to the disk with this one's; -1 = none. */
  readonly dataNext: Int32Array;
  readonly lsn: Float64Array;
  readonly stampLow: Uint32Array;
  readonly stampHigh: Uint32Array;

  // Reading.
  /** Next block to be looked at; blocks of the run that is being read. */
  readonly cursor: Uint8Array;
  readonly runCount: Uint8Array;
  readonly attempt: Uint8Array;
  readonly readSequence: Float64Array;
  /** A buffer of the pool, or -1. */
  readonly buffer: Int32Array;
  readonly crcs: Uint32Array;

  private readonly freeStack: Int32Array;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.freeCount = capacity;
    this.kind = new Uint8Array(capacity);
    this.slot = filled(capacity);
    this.write = filled(capacity);
    this.address = new Float64Array(capacity);
    this.skipBytes = new Float64Array(capacity);
    this.extent = filled(capacity);
    this.slab = filled(capacity);
    this.firstBlock = new Uint8Array(capacity);
    this.blockCount = new Uint8Array(capacity);
    this.clearState = new Uint8Array(capacity);
    this.states = new Uint32Array(capacity);
    this.next = filled(capacity);
    this.frame = filled(capacity);
    this.lock = filled(capacity);
    this.lockMask = new Uint16Array(capacity);
    this.recordType = new Uint8Array(capacity);
    this.location = new Uint32Array(capacity);
    this.freed = new Uint32Array(capacity);
    this.tookSlab = new Uint8Array(capacity);
    this.recordAt = filled(capacity);
    this.ringBlock = filled(capacity);
    this.groupDurable = new Uint8Array(capacity);
    this.dataDone = new Uint8Array(capacity);
    this.dataNext = filled(capacity);
    this.lsn = new Float64Array(capacity);
    this.stampLow = new Uint32Array(capacity);
    this.stampHigh = new Uint32Array(capacity);
    this.cursor = new Uint8Array(capacity);
    this.runCount = new Uint8Array(capacity);
    this.attempt = new Uint8Array(capacity);
    this.readSequence = new Float64Array(capacity);
    this.buffer = filled(capacity);
    this.crcs = new Uint32Array(capacity * SLAB_BLOCKS);
    this.freeStack = new Int32Array(capacity);
    for (let index = 0; index < capacity; index++) this.freeStack[index] = capacity - 1 - index;
  }

  /** An operation, its lists and holdings empty; -1 when there is none left. */
  acquire(kind: number, slot: number): number {
    if (this.freeCount === 0) return -1;
    this.freeCount -= 1;
    const op = this.freeStack[this.freeCount] as number;
    assert(this.kind[op] === OP_KIND_FREE, "a free operation is in use");
    this.kind[op] = kind;
    this.slot[op] = slot;
    this.write[op] = -1;
    this.address[op] = 0;
    this.next[op] = -1;
    this.frame[op] = -1;
    this.lock[op] = -1;
    this.buffer[op] = -1;
    this.location[op] = 0;
    this.freed[op] = 0;
    this.tookSlab[op] = 0;
    this.ringBlock[op] = -1;
    this.recordAt[op] = -1;
    this.groupDurable[op] = 0;
    this.dataDone[op] = 0;
    this.dataNext[op] = -1;
    this.cursor[op] = 0;
    this.attempt[op] = 0;
    return op;
  }

  release(op: number): void {
    assert(this.kind[op] !== OP_KIND_FREE, "an operation is released twice");
    assert(this.frame[op] === -1, "an operation is released with a page");
    assert(this.lock[op] === -1, "an operation is released with a lock");
    assert(this.buffer[op] === -1, "an operation is released with a buffer");
    this.kind[op] = OP_KIND_FREE;
    this.slot[op] = -1;
    this.freeStack[this.freeCount] = op;
    this.freeCount += 1;
  }

  /** Bit per block of the operation within its slab. */
  blockMask(op: number): number {
    return ((1 << (this.blockCount[op] as number)) - 1) << (this.firstBlock[op] as number);
  }
}

/** A first-in-first-out list of operations, linked by OpTable.next. */
export class OpList {
  count = 0;
  private head = -1;
  private tail = -1;
  private readonly next: Int32Array;

  constructor(ops: OpTable) {
    this.next = ops.next;
  }

  get isEmpty(): boolean {
    return this.head === -1;
  }

  get first(): number {
    return this.head;
  }

  push(op: number): void {
    this.count += 1;
    this.next[op] = -1;
    if (this.tail === -1) this.head = op;
    else this.next[this.tail] = op;
    this.tail = op;
  }

  /** Back to where it came from. */
  unshift(op: number): void {
    this.count += 1;
    this.next[op] = this.head;
    if (this.head === -1) this.tail = op;
    this.head = op;
  }

  /** -1 when empty. */
  shift(): number {
    const op = this.head;
    if (op === -1) return -1;
    this.count -= 1;
    this.head = this.next[op] as number;
    if (this.head === -1) this.tail = -1;
    this.next[op] = -1;
    return op;
  }
}
