// @hot
// Order per block: at most one write, discard or zeroing of a block is under way, the others wait
// in the order they came. An entry stands for a slab with operations on it: a bit per locked
// block, the operations that wait, and the slab that the first write to an empty place has taken
// for all of them.
//
// Invariants: an entry lives while operations refer to it; an operation that waits overlaps a
// locked block or one that waits longer; whoever changes a slab's location holds all 16 blocks.

import { assert } from "../base/index.ts";
import { SLAB_MASK_FULL } from "./layouts.ts";
import type { OpTable } from "./op-table.ts";

/** Whose wait for a lock has ended. */
export interface LockClient {
  lockGranted(op: number): void;
}

export class BlockLocks {
  private readonly ops: OpTable;
  private readonly buckets: Int32Array;
  private readonly bucketMask: number;
  private readonly extent: Int32Array;
  private readonly slab: Int32Array;
  private readonly locked: Uint16Array;
  private readonly waiting: Uint16Array;
  private readonly planned: Uint32Array;
  private readonly references: Int32Array;
  private readonly waitHead: Int32Array;
  private readonly waitTail: Int32Array;
  private readonly next: Int32Array;
  private freeEntry = 0;

  constructor(ops: OpTable) {
    const capacity = ops.capacity;
    let bucketCount = 16;
    while (bucketCount < capacity) bucketCount *= 2;
    this.ops = ops;
    this.bucketMask = bucketCount - 1;
    this.buckets = new Int32Array(bucketCount).fill(-1);
    this.extent = new Int32Array(capacity);
    this.slab = new Int32Array(capacity);
    this.locked = new Uint16Array(capacity);
    this.waiting = new Uint16Array(capacity);
    this.planned = new Uint32Array(capacity);
    this.references = new Int32Array(capacity);
    this.waitHead = new Int32Array(capacity).fill(-1);
    this.waitTail = new Int32Array(capacity).fill(-1);
    this.next = new Int32Array(capacity);
    for (let entry = 0; entry < capacity; entry++) this.next[entry] = entry + 1;
    this.next[capacity - 1] = -1;
  }

  /** Refers the operation to its slab's entry, without a lock. */
  enter(op: number): void {
    const extent = this.ops.extent[op] as number;
    const slab = this.ops.slab[op] as number;
    const bucket = this.bucketOf(extent, slab);
    let entry = this.buckets[bucket] as number;
    while (entry !== -1 && (this.extent[entry] !== extent || this.slab[entry] !== slab)) {
      entry = this.next[entry] as number;
    }
    if (entry === -1) {
      entry = this.freeEntry;
      assert(entry !== -1, "more slabs are locked than there are operations");
      this.freeEntry = this.next[entry] as number;
      this.extent[entry] = extent;
      this.slab[entry] = slab;
      this.planned[entry] = 0;
      this.next[entry] = this.buckets[bucket] as number;
      this.buckets[bucket] = entry;
    }
    this.references[entry] = (this.references[entry] as number) + 1;
    this.ops.lock[op] = entry;
    this.ops.lockMask[op] = 0;
  }

  /** Locks `mask`, or puts the operation at the end of the wait: false. */
  lock(op: number, mask: number): boolean {
    const entry = this.ops.lock[op] as number;
    assert(this.ops.lockMask[op] === 0, "an operation locks twice");
    this.ops.lockMask[op] = mask;
    if ((((this.locked[entry] as number) | (this.waiting[entry] as number)) & mask) === 0) {
      this.locked[entry] = (this.locked[entry] as number) | mask;
      return true;
    }
    this.waiting[entry] = (this.waiting[entry] as number) | mask;
    const next = this.ops.next;
    next[op] = -1;
    if (this.waitTail[entry] === -1) this.waitHead[entry] = op;
    else next[this.waitTail[entry] as number] = op;
    this.waitTail[entry] = op;
    return false;
  }

  /** Every block of the slab, for an operation that holds some: false when others hold any. */
  tryWiden(op: number): boolean {
    const entry = this.ops.lock[op] as number;
    if (this.locked[entry] !== this.ops.lockMask[op]) return false;
    this.locked[entry] = SLAB_MASK_FULL;
    this.ops.lockMask[op] = SLAB_MASK_FULL;
    return true;
  }

  /** Blocks of the slab that others have locked. */
  lockedByOthers(op: number): number {
    const entry = this.ops.lock[op] as number;
    return (this.locked[entry] as number) & ~(this.ops.lockMask[op] as number);
  }

  /** Gives up what the operation holds, to lock anew. Wakes nobody: see leave(). */
  unlock(op: number): void {
    const entry = this.ops.lock[op] as number;
    const mask = this.ops.lockMask[op] as number;
    this.locked[entry] = (this.locked[entry] as number) & ~mask;
    this.ops.lockMask[op] = 0;
  }

  /** The location that writes under way have taken for the slab; 0 = none. */
  plannedLocation(op: number): number {
    return this.planned[this.ops.lock[op] as number] as number;
  }

  planLocation(op: number, location: number): void {
    this.planned[this.ops.lock[op] as number] = location;
  }

  /** Ends the operation's lock and reference, and lets those waiting go on that now can. */
  leave(op: number, client: LockClient): void {
    const entry = this.ops.lock[op] as number;
    this.unlock(op);
    this.ops.lock[op] = -1;
    if (this.waitHead[entry] !== -1) this.wake(entry, client);
    const references = (this.references[entry] as number) - 1;
    this.references[entry] = references;
    if (references === 0) this.free(entry);
  }

  /** Lets those waiting go on, after unlock() and lock() of one of them. */
  wakeOthers(op: number, client: LockClient): void {
    const entry = this.ops.lock[op] as number;
    if (this.waitHead[entry] !== -1) this.wake(entry, client);
  }

  private wake(entry: number, client: LockClient): void {
    const next = this.ops.next;
    let op = this.waitHead[entry] as number;
    this.waitHead[entry] = -1;
    this.waitTail[entry] = -1;
    let stillWaiting = 0;
    // Granted ones are gathered first: a client may come back to this entry.
    let granted = -1;
    let grantedTail = -1;
    while (op !== -1) {
      const following = next[op] as number;
      const mask = this.ops.lockMask[op] as number;
      next[op] = -1;
      if ((((this.locked[entry] as number) | stillWaiting) & mask) === 0) {
        this.locked[entry] = (this.locked[entry] as number) | mask;
        if (grantedTail === -1) granted = op;
        else next[grantedTail] = op;
        grantedTail = op;
      } else {
        stillWaiting |= mask;
        if (this.waitTail[entry] === -1) this.waitHead[entry] = op;
        else next[this.waitTail[entry] as number] = op;
        this.waitTail[entry] = op;
      }
      op = following;
    }
    this.waiting[entry] = stillWaiting;
    while (granted !== -1) {
      const following = next[granted] as number;
      next[granted] = -1;
      client.lockGranted(granted);
      granted = following;
    }
  }

  private free(entry: number): void {
    assert(this.locked[entry] === 0, "a slab's entry is freed while it is locked");
    assert(this.waitHead[entry] === -1, "a slab's entry is freed while operations wait");
    const bucket = this.bucketOf(this.extent[entry] as number, this.slab[entry] as number);
    let at = this.buckets[bucket] as number;
    if (at === entry) {
      this.buckets[bucket] = this.next[entry] as number;
    } else {
      while (this.next[at] !== entry) at = this.next[at] as number;
      this.next[at] = this.next[entry] as number;
    }
    this.next[entry] = this.freeEntry;
    this.freeEntry = entry;
  }

  private bucketOf(extent: number, slab: number): number {
    let hash = Math.imul(slab ^ Math.imul(extent, 0x85ebca6b), 0x9e3779b1);
    hash ^= hash >>> 15;
    return hash & this.bucketMask;
  }
}
