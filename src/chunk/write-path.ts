// @hot
// Writes, discards and zeroings of one slab each, from the caller's memory to the acknowledgement.
//
//   lock blocks -> page -> plan -> [wait for room] -> copy + CRC -> record in the open group
//                                                      |       '-> group durable in order -.
//                                                      '-> fresh, redirected: data to slab -+-> end
//
// What is written before the acknowledgement depends on the class:
//   FRESH     blocks that hold nothing: data into its slab, the record beside it
//   REDIRECT  all 16 blocks: data into a new slab, the record beside it; the old slab goes
//   JOURNAL   anything else: data inside the group; written back to its slab later
//   CLEAR     discard, zeroes, and a whole slab of zeroes: the record alone
//   IMAGE     a slab as another replica has it: as REDIRECT, with a state for each block; inside
//             the group when no slab is free; the record alone when there is no data
//
// Invariants: data is copied once out of the caller's memory, and checksum and disk see that copy,
// unless the caller is a replica's owner, whose memory stays as it is until the answer;
// a record is applied to its page only when its group is durable in order and its own data is in
// place; until then reads see what was there before; a failed disk acknowledges nothing.

import { assert, EIO, ENOSPC } from "../base/index.ts";
import {
  DATA_STATES,
  entryAt,
  entryLocation,
  hasDataIn,
  hasDataOutside,
  hasOtherData,
  isDoubted,
  isEmptyEntry,
} from "./apply.ts";
import type { BlockLocks, LockClient } from "./block-locks.ts";
import type { BufferPool } from "./buffer-pool.ts";
import type { Damage } from "./damage.ts";
import { DataWrites } from "./data-writes.ts";
import {
  BLOCK_ABSENT,
  BLOCK_BYTES,
  BLOCK_WORDS,
  BLOCK_ZERO,
  EXTENT_BLOCKS,
  EXTENT_PAGES,
  IMAGE_IN_GROUP,
  RECORD_CLEAR,
  RECORD_FRESH,
  RECORD_IMAGE,
  RECORD_JOURNAL,
  RECORD_REDIRECT,
  SLAB_BLOCKS,
  SLAB_BYTES,
  SLAB_MASK_FULL,
} from "./layouts.ts";
import {
  OP_KIND_CLEAR,
  OP_KIND_IMAGE,
  OP_KIND_SLAB,
  OP_KIND_WRITE,
  OpList,
  type OpTable,
} from "./op-table.ts";
import { PAGE_READY, type PageCache } from "./page-cache.ts";
import type { StoreParts } from "./parts.ts";
import { blockRecordBytes } from "./records.ts";
import type { RingIndex } from "./ring-index.ts";
import type { RingJournal } from "./ring-journal.ts";
import type { SegmentView } from "./segments.ts";
import type { SlabMap } from "./slab-map.ts";
import { WriteEffects } from "./write-effects.ts";
import { copyData, putBlockRecord } from "./write-record.ts";

/** Smaller runs of fresh blocks are journaled: one write for many beats one write each. */
const FRESH_BLOCKS_MIN_DEFAULT = 4;
const BLOCK_RECORD_BYTES_MAX: number = blockRecordBytes(RECORD_IMAGE, SLAB_BLOCKS);

export interface WriteParts extends StoreParts {
  readonly locks: BlockLocks;
  readonly cache: PageCache;
  readonly ring: RingJournal;
  readonly index: RingIndex;
  readonly slabs: SlabMap;
  readonly buffers: BufferPool;
  readonly segments: SegmentView;
  readonly damage: Damage;
  /**
   * Blocks whose write or discard the failed disk may or may not have taken, see blockKey(). The
   * next recovery decides, once and for all; until then nobody can say what they hold.
   */
  readonly doubtful: Set<number>;
}

export function blockKey(extent: number, block: number): number {
  return extent * EXTENT_BLOCKS + block;
}

export interface WriteClient {
  /** The operation has ended and is released by the client. */
  opDone(op: number, result: number): void;
  /** Operations wait for ring space, a buffer or a slab: see to it. */
  roomWanted(): void;
  /** The open group has something to be flushed. */
  groupOpened(): void;
  readonly nextReadSequence: number;
  /** A slab that is to be read as one has all its blocks locked. */
  slabLocked(op: number): void;
  /** Part of a slab at this location is being written back right now. */
  isWritingBack(location: number): boolean;
  readonly writesFailed: boolean;
}

export class WritePath implements LockClient {
  /** Writes by class, for counters: indexed by record type. */
  readonly classCounts: Float64Array = new Float64Array(16);
  noSpaceCount = 0;
  /** Data of fresh and redirected writes, on its way to its slabs. */
  readonly data: DataWrites;
  private readonly parts: WriteParts;
  private readonly ops: OpTable;
  private readonly client: WriteClient;
  private readonly effects: WriteEffects;
  private readonly waiting: OpList;
  private readonly freshBlocksMin: number;
  private readonly zeroes: number;
  private resuming = false;
  private isBlocked = false;

  constructor(parts: WriteParts, client: WriteClient, freshBlocksMin: number | undefined) {
    this.parts = parts;
    this.data = new DataWrites(parts);
    this.effects = new WriteEffects(parts);
    this.ops = parts.ops;
    this.client = client;
    this.waiting = new OpList(parts.ops);
    this.freshBlocksMin = freshBlocksMin ?? FRESH_BLOCKS_MIN_DEFAULT;
    this.zeroes = parts.copier.zeroes.address;
  }

  get hasWaiting(): boolean {
    return !this.waiting.isEmpty;
  }

  begin(op: number): void {
    const { locks, planted } = this.parts;
    locks.enter(op);
    if (planted.noBlockOrder) this.locked(op);
    else if (locks.lock(op, this.ops.blockMask(op))) this.locked(op);
  }

  lockGranted(op: number): void {
    this.locked(op);
  }

  private locked(op: number): void {
    if (this.ops.kind[op] === OP_KIND_SLAB) {
      this.client.slabLocked(op);
      return;
    }
    if (this.ops.frame[op] !== -1) {
      this.plan(op);
      return;
    }
    const page = this.pageOf(op);
    if (this.parts.cache.acquire(op, page) === PAGE_READY) this.plan(op);
  }

  private pageOf(op: number): number {
    const extent = this.ops.extent[op] as number;
    const slab = this.ops.slab[op] as number;
    return this.parts.geometry.slabPageStart + extent * EXTENT_PAGES + (slab >>> 5);
  }

  pageReady(op: number, result: number): void {
    if (result === 0) this.plan(op);
    else this.fail(op, result);
  }

  /** Lets operations that wait for room try again, in order. */
  resume(): void {
    if (this.resuming) return;
    this.resuming = true;
    this.isBlocked = false;
    while (!this.waiting.isEmpty && !this.isBlocked) {
      if (!this.hasRoomFor(this.waiting.first)) break;
      this.plan(this.waiting.shift());
    }
    this.resuming = false;
  }

  /** A guess that spares planning: the largest record, and data if it is a write. */
  private hasRoomFor(op: number): boolean {
    if (this.client.writesFailed) return true;
    const dataBlocks =
      this.ops.kind[op] === OP_KIND_WRITE ? (this.ops.blockCount[op] as number) : 0;
    return this.parts.ring.makeRoom(BLOCK_RECORD_BYTES_MAX, dataBlocks);
  }

  private wait(op: number): void {
    if (this.resuming) {
      // Still first, and nobody behind it overtakes.
      this.waiting.unshift(op);
      this.isBlocked = true;
    } else {
      this.waiting.push(op);
    }
    this.client.roomWanted();
  }

  private plan(op: number): void {
    if (this.client.writesFailed) {
      this.fail(op, -EIO);
      return;
    }
    if (!this.resuming && !this.waiting.isEmpty) {
      this.wait(op);
      return;
    }
    if (this.ops.kind[op] === OP_KIND_CLEAR) this.planClear(op);
    else this.planWrite(op);
  }

  /** The slab's location as writes under way have settled it; 0 = none. */
  private locationOf(op: number): number {
    const { cache, locks } = this.parts;
    const page = (this.ops.frame[op] as number) * BLOCK_WORDS;
    const location = entryLocation(cache.words, entryAt(page, this.ops.slab[op] as number));
    return location !== 0 ? location : locks.plannedLocation(op);
  }

  private planClear(op: number): void {
    const ops = this.ops;
    const { cache, locks, planted } = this.parts;
    const entry = entryAt((ops.frame[op] as number) * BLOCK_WORDS, ops.slab[op] as number);
    const location = this.locationOf(op);
    const first = ops.firstBlock[op] as number;
    const count = ops.blockCount[op] as number;
    const leavesData = location !== 0 && hasOtherData(cache.words, entry, first, count);
    // A replica's slab takes the stamp in any case.
    const isNothing = ops.write[op] === -1 && this.isClear(op, entry, location, leavesData);
    if (planted.discardKeepsData || isNothing) {
      this.end(op, 0);
      return;
    }
    // What others are changing may be gone as well when they have ended.
    const others = locks.lockedByOthers(op);
    const isSure =
      leavesData &&
      (others === 0 || hasDataOutside(cache.words, entry, others | (ops.lockMask[op] as number)));
    if (!isSure && ops.lockMask[op] !== SLAB_MASK_FULL && !planted.noBlockOrder) {
      // Nothing would be left: the slab can go, if nobody else writes to it meanwhile.
      if (!locks.tryWiden(op)) {
        locks.unlock(op);
        const granted = locks.lock(op, SLAB_MASK_FULL);
        locks.wakeOthers(op, this);
        if (granted) this.planClear(op);
        return;
      }
    }
    if (!this.parts.ring.makeRoom(blockRecordBytes(RECORD_CLEAR, 0), 0)) {
      this.wait(op);
      return;
    }
    const state = ops.clearState[op] as number;
    ops.location[op] = leavesData ? location : 0;
    ops.freed[op] = leavesData ? 0 : location;
    this.addRecord(op, RECORD_CLEAR, state, 0);
    ops.dataDone[op] = 1;
  }

  /** Is there nothing to do? What is discarded has often been discarded before. */
  private isClear(op: number, entry: number, location: number, leavesData: boolean): boolean {
    const { words } = this.parts.cache;
    if (this.ops.clearState[op] === BLOCK_ABSENT) {
      const page = (this.ops.frame[op] as number) * BLOCK_WORDS;
      const isCertain = !isDoubted(words, page, this.ops.slab[op] as number);
      return isCertain && isEmptyEntry(words, entry);
    }
    if (location !== 0 && !leavesData) return false;
    const first = this.ops.firstBlock[op] as number;
    return !hasDataIn(words, entry, first, this.ops.blockCount[op] as number);
  }

  private planWrite(op: number): void {
    const ops = this.ops;
    const { cache, ring } = this.parts;
    const entry = entryAt((ops.frame[op] as number) * BLOCK_WORDS, ops.slab[op] as number);
    const location = this.locationOf(op);
    const first = ops.firstBlock[op] as number;
    const count = ops.blockCount[op] as number;
    if (ops.kind[op] === OP_KIND_IMAGE && ((ops.states[op] as number) & DATA_STATES) === 0) {
      this.planEmptyImage(op, location);
      return;
    }
    let type = RECORD_JOURNAL;
    if (count === SLAB_BLOCKS) {
      type = location === 0 ? RECORD_FRESH : RECORD_REDIRECT;
    } else if (count >= this.freshBlocksMin && !hasDataIn(cache.words, entry, first, count)) {
      // In place, where nothing is: but not under a write-back that lost its block meanwhile.
      if (location === 0 || !this.client.isWritingBack(location)) type = RECORD_FRESH;
    }
    let target = location;
    if (location === 0 || type === RECORD_REDIRECT) {
      target = this.parts.slabs.take() + 1;
      if (target === 0) {
        // An overwrite needs no new slab: it is journaled.
        if (location === 0) {
          this.outOfSlabs(op);
          return;
        }
        type = RECORD_JOURNAL;
        target = location;
      }
    }
    const tookSlab = target !== location;
    const dataBlocks = type === RECORD_JOURNAL ? count : 0;
    const hasRoom = ring.makeRoom(BLOCK_RECORD_BYTES_MAX, dataBlocks);
    const needsBuffer = type !== RECORD_JOURNAL && !this.isOwnersMemory(op);
    const buffer = hasRoom && needsBuffer ? this.parts.buffers.take() : -1;
    if (!hasRoom || (needsBuffer && buffer === -1)) {
      if (tookSlab) this.parts.slabs.giveBack(target - 1);
      this.wait(op);
      return;
    }
    ops.location[op] = target;
    ops.tookSlab[op] = tookSlab ? 1 : 0;
    ops.buffer[op] = buffer;
    ops.freed[op] = type === RECORD_REDIRECT ? location : 0;
    this.copyIn(op, type, location);
  }

  /** Data that nobody changes before the answer, and that the disk takes from where it is. */
  private isOwnersMemory(op: number): boolean {
    const isReplicas = this.ops.write[op] !== -1 && this.ops.kind[op] === OP_KIND_WRITE;
    return isReplicas && (this.ops.address[op] as number) % BLOCK_BYTES === 0;
  }

  private planEmptyImage(op: number, location: number): void {
    if (!this.parts.ring.makeRoom(BLOCK_RECORD_BYTES_MAX, 0)) {
      this.wait(op);
      return;
    }
    this.ops.freed[op] = location;
    this.addRecord(op, RECORD_IMAGE, 0, 0);
    this.ops.dataDone[op] = 1;
  }

  /** No slab is free. Freed ones may wait in quarantine; otherwise the disk is full. */
  private outOfSlabs(op: number): void {
    if (this.parts.slabs.quarantineCount > 0) {
      this.wait(op);
      return;
    }
    this.noSpaceCount += 1;
    this.fail(op, -ENOSPC);
  }

  private copyIn(op: number, type: number, oldLocation: number): void {
    const ops = this.ops;
    const { ring, memory } = this.parts;
    const isImage = ops.kind[op] === OP_KIND_IMAGE;
    const count = ops.blockCount[op] as number;
    const bytes = count * BLOCK_BYTES;
    const ringBlock = ring.nextDataBlock;
    const address = type === RECORD_JOURNAL ? ring.addressOf(ringBlock) : this.data.addressOf(op);
    const isInPlace = address === ops.address[op];
    const copied = isInPlace ? 0 : copyData(this.parts, op, address, bytes);
    if (copied !== 0) {
      this.dropPlan(op);
      this.fail(op, copied);
      return;
    }
    const isWhole = count === SLAB_BLOCKS && !isImage;
    if (isWhole && memory.compare(address, this.zeroes, SLAB_BYTES) === 0) {
      // A whole slab of zeroes is a state, not data.
      this.dropPlan(op);
      ops.location[op] = 0;
      ops.freed[op] = oldLocation;
      this.addRecord(op, RECORD_CLEAR, BLOCK_ZERO, 0);
      ops.dataDone[op] = 1;
      return;
    }
    if (ops.tookSlab[op] === 1 && type !== RECORD_REDIRECT) {
      this.parts.locks.planLocation(op, ops.location[op] as number);
    }
    const flags = isImage && type === RECORD_JOURNAL ? IMAGE_IN_GROUP : 0;
    this.addRecord(op, isImage ? RECORD_IMAGE : type, flags, address);
    if (type === RECORD_JOURNAL) {
      ops.ringBlock[op] = ringBlock;
      ring.addData(count);
      ops.dataDone[op] = 1;
      return;
    }
    this.data.add(op);
  }

  /** Gives up what planWrite() took. */
  private dropPlan(op: number): void {
    const ops = this.ops;
    if (ops.tookSlab[op] === 1) this.parts.slabs.giveBack((ops.location[op] as number) - 1);
    ops.tookSlab[op] = 0;
    this.dropBuffer(op);
  }

  private dropBuffer(op: number): void {
    const buffer = this.ops.buffer[op] as number;
    if (buffer === -1) return;
    this.ops.buffer[op] = -1;
    this.parts.buffers.giveBack(buffer);
  }

  private addRecord(op: number, type: number, flags: number, address: number): void {
    putBlockRecord(this.parts, op, type, flags, address);
    this.classCounts[type] = (this.classCounts[type] as number) + 1;
    if (this.parts.planted.applyEarly) this.effects.applyPage(op);
    this.client.groupOpened();
  }

  /** The disk's answer to a write of fresh or redirected data, of `head` and those with it. */
  dataWritten(head: number, result: number): void {
    const ops = this.ops;
    const bytes = this.data.totalBytes(head);
    if (result !== bytes) this.parts.diskFailed("write of data", result);
    let op = head;
    while (op !== -1) {
      const next = ops.dataNext[op] as number;
      ops.dataNext[op] = -1;
      this.dataOver(op);
      op = next;
    }
  }

  private dataOver(op: number): void {
    if (this.client.writesFailed) {
      // Its group, if it was durable, is in no list any more.
      if (this.ops.groupDurable[op] === 1) this.fail(op, -EIO);
      else this.ops.dataDone[op] = 1;
      return;
    }
    this.ops.dataDone[op] = 1;
    if (this.ops.groupDurable[op] === 1) this.finish(op);
  }

  /** The operation's group is durable, and all before it. */
  opDurable(op: number): void {
    this.ops.groupDurable[op] = 1;
    if (this.ops.dataDone[op] === 1) this.finish(op);
  }

  /** The disk has failed, and the operation's group will never be durable. */
  opFailed(op: number): void {
    // Data on its way has to come back first.
    if (this.ops.dataDone[op] === 1) this.fail(op, -EIO);
    else this.ops.groupDurable[op] = 1;
  }

  private finish(op: number): void {
    const ops = this.ops;
    const lsn = ops.lsn[op] as number;
    assert(ops.recordAt[op] !== -1, "an operation without a record finishes");
    this.effects.apply(op, this.client.nextReadSequence);
    this.dropBuffer(op);
    this.parts.ring.opFinished(lsn);
    this.end(op, 0);
  }

  private fail(op: number, result: number): void {
    assert(result < 0, "a failure without an error");
    if (this.ops.recordAt[op] !== -1) this.addDoubt(op);
    this.dropBuffer(op);
    this.end(op, result);
  }

  // @cold
  private addDoubt(op: number): void {
    const extent = this.ops.extent[op] as number;
    const first = (this.ops.slab[op] as number) * SLAB_BLOCKS + (this.ops.firstBlock[op] as number);
    for (let block = 0; block < (this.ops.blockCount[op] as number); block++) {
      this.parts.doubtful.add(blockKey(extent, first + block));
    }
  }

  private end(op: number, result: number): void {
    this.ops.tookSlab[op] = 0;
    if (this.ops.frame[op] !== -1) this.parts.cache.unpin(op);
    this.parts.locks.leave(op, this);
    this.client.opDone(op, result);
  }
}
