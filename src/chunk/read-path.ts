// @hot
// Reads of one slab each. Block by block, in runs: the newest copy in the ring, zeroes where there
// is nothing, the slab on the disk otherwise; straight into the caller's memory where the kernel
// can use it, and verified there.
//
//   page -> run from the ring: copy, verify  --.
//        -> run of nothing: zeroes           --+-> next run ... -> done
//        -> run on the disk: read -> verify  --'
//                                      '- mismatch: once more, into private memory
//                                              '- mismatch again: bad block, EBADMSG, zeroes
//
// A mismatch in the caller's memory may be the caller's doing, who may write there while we verify;
// and a block that was overwritten or cleared since the read began is looked up anew.
//
// An operation without a slot reads to verify only (scrub), unless it has an address: a whole slab
// for another replica, under lock, with its states and its stamp as they are at the end.
//
// Invariants: no byte that does not match its checksum is left in the caller's memory when the
// read ends; a read that has begun keeps write-back and slab reuse from its blocks by its number.

import { assert, EBADMSG, EIO, FLAG_FAULTABLE } from "../base/index.ts";
import {
  CRCS,
  entryAt,
  entryCrc,
  entryLocation,
  entryStampHigh,
  entryStampLow,
  entryState,
  entryStates,
} from "./apply.ts";
import { blockCrc, blockSeed } from "./checksum.ts";
import {
  BLOCK_BYTES,
  BLOCK_DATA,
  BLOCK_WORDS,
  EXTENT_PAGES,
  SLAB_BLOCKS,
  SLAB_BYTES,
} from "./layouts.ts";
import { OP_KIND_SLAB, OpList, type OpTable } from "./op-table.ts";
import { PAGE_READY } from "./page-cache.ts";
import { blockKey, type WriteParts } from "./write-path.ts";

/** Looked up anew so often, a block that keeps changing is someone else's problem. */
const ATTEMPTS_MAX = 100;
const ATTEMPT_PRIVATE = 1;

export interface ReadClient {
  opDone(op: number, result: number): void;
  /** A block does not match its checksum, or cannot be read. */
  blockDamaged(extent: number, block: number, slab: number, result: number): void;
}

export class ReadPath {
  nextSequence = 1;
  callerChangedCount = 0;
  retryCount = 0;
  private readonly parts: WriteParts;
  private readonly ops: OpTable;
  private readonly client: ReadClient;
  private readonly waiting: OpList;
  private readonly memoryMask: number;
  private readonly lengthMask: number;
  // Reads on the disk, in the order they began.
  private readonly before: Int32Array;
  private readonly after: Int32Array;
  private oldest = -1;
  private newest = -1;

  constructor(parts: WriteParts, client: ReadClient) {
    this.parts = parts;
    this.ops = parts.ops;
    this.client = client;
    this.waiting = new OpList(parts.ops);
    this.memoryMask = parts.disk.memoryAlignmentBytes - 1;
    this.lengthMask = parts.disk.offsetAlignmentBytes - 1;
    this.before = new Int32Array(parts.ops.capacity).fill(-1);
    this.after = new Int32Array(parts.ops.capacity).fill(-1);
  }

  get hasWaiting(): boolean {
    return !this.waiting.isEmpty;
  }

  /** Number of the oldest read that is on the disk; of the next one when there is none. */
  get oldestSequence(): number {
    if (this.oldest === -1) return this.nextSequence;
    return this.ops.readSequence[this.oldest] as number;
  }

  begin(op: number): void {
    const extent = this.ops.extent[op] as number;
    const slab = this.ops.slab[op] as number;
    const page = this.parts.geometry.slabPageStart + extent * EXTENT_PAGES + (slab >>> 5);
    if (this.parts.cache.acquire(op, page) === PAGE_READY) this.serve(op);
  }

  pageReady(op: number, result: number): void {
    if (result === 0) this.serve(op);
    else this.end(op, result);
  }

  /** Buffers have become free. */
  resume(): void {
    while (!this.waiting.isEmpty && this.parts.buffers.freeCount > 0) {
      this.serve(this.waiting.shift());
    }
  }

  /** Serves runs from the cursor on until one needs the disk, or all is done. */
  private serve(op: number): void {
    const ops = this.ops;
    const { cache, index } = this.parts;
    const words = cache.words;
    const slab = ops.slab[op] as number;
    const entry = entryAt((ops.frame[op] as number) * BLOCK_WORDS, slab);
    const extent = ops.extent[op] as number;
    const first = ops.firstBlock[op] as number;
    const count = ops.blockCount[op] as number;
    while ((ops.cursor[op] as number) < count) {
      const cursor = ops.cursor[op] as number;
      const block = first + cursor;
      const inRing = index.count === 0 ? -1 : index.find(extent, slab * SLAB_BLOCKS + block);
      let result = 0;
      if (this.isDoubtful(extent, slab, block)) {
        this.end(op, -EIO);
        return;
      }
      if (inRing !== -1) {
        result = this.copyFromRing(op, entry, block, inRing);
      } else if (entryState(words, entry, block) !== BLOCK_DATA) {
        result = this.zero(op, cursor, 1);
      } else {
        this.readRun(op, entry, block, first + count);
        return;
      }
      if (result !== 0) {
        this.end(op, result);
        return;
      }
      ops.cursor[op] = cursor + 1;
    }
    this.end(op, 0);
  }

  private isDoubtful(extent: number, slab: number, block: number): boolean {
    const { doubtful } = this.parts;
    return doubtful.size > 0 && doubtful.has(blockKey(extent, slab * SLAB_BLOCKS + block));
  }

  private copyFromRing(op: number, entry: number, block: number, ringBlock: number): number {
    const ops = this.ops;
    const { ring, memory, cache } = this.parts;
    const address = ring.addressOf(ringBlock);
    const blockOfExtent = (ops.slab[op] as number) * SLAB_BLOCKS + block;
    const crc = blockCrc(memory, address, blockOfExtent);
    if (crc !== entryCrc(cache.words, entry, block)) {
      const location = entryLocation(cache.words, entry);
      this.client.blockDamaged(ops.extent[op] as number, blockOfExtent, location - 1, -EIO);
      this.zero(op, ops.cursor[op] as number, 1);
      return -EBADMSG;
    }
    return this.copyOut(op, address, 1);
  }

  /** `blockCount` blocks at `from` to where the operation's cursor stands. */
  private copyOut(op: number, from: number, blockCount: number): number {
    const ops = this.ops;
    const { copier, memory } = this.parts;
    const done = (ops.cursor[op] as number) * BLOCK_BYTES;
    const bytes = blockCount * BLOCK_BYTES;
    const slot = ops.slot[op] as number;
    if (slot >= 0) return copier.scatter(slot, (ops.skipBytes[op] as number) + done, from, bytes);
    const to = ops.address[op] as number;
    if (to !== 0) memory.copy(to + done, from, bytes);
    return 0;
  }

  private zero(op: number, cursor: number, blockCount: number): number {
    if ((this.ops.slot[op] as number) < 0) {
      const to = this.ops.address[op] as number;
      const done = cursor * BLOCK_BYTES;
      if (to !== 0) this.parts.memory.fill(to + done, 0, blockCount * BLOCK_BYTES);
      return 0;
    }
    const skip = (this.ops.skipBytes[op] as number) + cursor * BLOCK_BYTES;
    return this.parts.copier.zero(this.ops.slot[op] as number, skip, blockCount * BLOCK_BYTES);
  }

  /** Reads blocks from `block` on, as far as they lie on the disk, before `endBlock`. */
  private readRun(op: number, entry: number, block: number, endBlock: number): void {
    const ops = this.ops;
    const { cache, index, buffers, segments } = this.parts;
    const words = cache.words;
    const slab = ops.slab[op] as number;
    const extent = ops.extent[op] as number;
    const crcs = op * SLAB_BLOCKS;
    let run = 0;
    while (block + run < endBlock && entryState(words, entry, block + run) === BLOCK_DATA) {
      const blockOfExtent = slab * SLAB_BLOCKS + block + run;
      if (run > 0 && this.isDoubtful(extent, slab, block + run)) break;
      if (run > 0 && index.count > 0 && index.find(extent, blockOfExtent) !== -1) break;
      ops.crcs[crcs + run] = words[entry + CRCS + block + run] as number;
      run += 1;
    }
    const bytes = run * BLOCK_BYTES;
    const skip = (ops.skipBytes[op] as number) + (ops.cursor[op] as number) * BLOCK_BYTES;
    const slot = ops.slot[op] as number;
    const isPrivate =
      slot < 0 ||
      ops.attempt[op] !== 0 ||
      ((this.parts.reactor.requests.flags[slot] as number) & FLAG_FAULTABLE) !== 0 ||
      !segments.prepare(op, slot, skip, bytes, this.memoryMask, this.lengthMask);
    if (isPrivate && ops.buffer[op] === -1) {
      const buffer = buffers.take();
      if (buffer === -1) {
        this.waiting.push(op);
        return;
      }
      ops.buffer[op] = buffer;
    }
    ops.runCount[op] = run;
    ops.location[op] = entryLocation(words, entry);
    this.enlist(op);
    const location = (ops.location[op] as number) - 1;
    const offset =
      this.parts.geometry.slabOffsetBytes + location * SLAB_BYTES + block * BLOCK_BYTES;
    const { disk } = this.parts;
    if (isPrivate) disk.read(op, offset, buffers.addressOf(ops.buffer[op] as number), bytes);
    else if (segments.iovecCount === 1) disk.read(op, offset, segments.address, bytes);
    else disk.readv(op, offset, segments.iovecsOf(op), segments.iovecCount);
  }

  /** The disk's answer to a run. */
  completed(op: number, result: number): void {
    const ops = this.ops;
    this.delist(op);
    const run = ops.runCount[op] as number;
    const isPrivate = ops.buffer[op] !== -1;
    const bad = result === run * BLOCK_BYTES ? this.findMismatch(op, run, isPrivate) : 0;
    if (bad !== -1) {
      this.mismatch(op, bad, result, run, isPrivate);
      return;
    }
    if (isPrivate) {
      const from = this.parts.buffers.addressOf(ops.buffer[op] as number);
      const copied = this.copyOut(op, from, run);
      if (copied !== 0) {
        this.end(op, copied);
        return;
      }
      const isOurs = (ops.slot[op] as number) < 0;
      if (!isOurs && ops.attempt[op] === ATTEMPT_PRIVATE) this.callerChangedCount += 1;
    }
    ops.cursor[op] = (ops.cursor[op] as number) + run;
    ops.attempt[op] = 0;
    this.dropBuffer(op);
    this.serve(op);
  }

  /** First block of the run that does not match, counted from the cursor; -1 when all do. */
  private findMismatch(op: number, run: number, isPrivate: boolean): number {
    const ops = this.ops;
    const { memory, buffers, segments } = this.parts;
    const crcs = op * SLAB_BLOCKS;
    const cursor = ops.cursor[op] as number;
    const slot = ops.slot[op] as number;
    const firstOfExtent =
      (ops.slab[op] as number) * SLAB_BLOCKS + (ops.firstBlock[op] as number) + cursor;
    const oneAddress = isPrivate
      ? buffers.addressOf(ops.buffer[op] as number)
      : segments.oneAddress(op);
    for (let block = 0; block < run; block++) {
      const skip = (ops.skipBytes[op] as number) + (cursor + block) * BLOCK_BYTES;
      const seed = blockSeed(firstOfExtent + block);
      const crc =
        oneAddress !== -1
          ? memory.crc32c(oneAddress + block * BLOCK_BYTES, BLOCK_BYTES, seed)
          : segments.blockCrc(slot, skip, seed);
      if (crc !== ops.crcs[crcs + block]) return block;
    }
    return -1;
  }

  private mismatch(op: number, bad: number, result: number, run: number, isPrivate: boolean): void {
    const ops = this.ops;
    const attempt = ops.attempt[op] as number;
    this.retryCount += 1;
    if (attempt === 0 || (this.hasChanged(op, bad) && attempt < ATTEMPTS_MAX)) {
      ops.attempt[op] = attempt + 1;
      this.serve(op);
      return;
    }
    assert(isPrivate, "a block is called bad before a private read");
    const cursor = ops.cursor[op] as number;
    const blockOfSlab = (ops.firstBlock[op] as number) + cursor + bad;
    const blockOfExtent = (ops.slab[op] as number) * SLAB_BLOCKS + blockOfSlab;
    if (this.parts.planted.launderMismatch && result === run * BLOCK_BYTES) {
      this.launder(op, bad, blockOfExtent, blockOfSlab);
      return;
    }
    const location = (ops.location[op] as number) - 1;
    const error = result < 0 ? result : -EIO;
    this.client.blockDamaged(ops.extent[op] as number, blockOfExtent, location, error);
    this.zero(op, cursor, run);
    this.end(op, -EBADMSG);
  }

  /** Was the block overwritten, moved or cleared since the read began? */
  private hasChanged(op: number, bad: number): boolean {
    const ops = this.ops;
    const { cache, index } = this.parts;
    const block = (ops.firstBlock[op] as number) + (ops.cursor[op] as number) + bad;
    const slab = ops.slab[op] as number;
    const entry = entryAt((ops.frame[op] as number) * BLOCK_WORDS, slab);
    if (index.find(ops.extent[op] as number, slab * SLAB_BLOCKS + block) !== -1) return true;
    if (entryState(cache.words, entry, block) !== BLOCK_DATA) return true;
    if (entryLocation(cache.words, entry) !== ops.location[op]) return true;
    return entryCrc(cache.words, entry, block) !== ops.crcs[op * SLAB_BLOCKS + bad];
  }

  private launder(op: number, bad: number, blockOfExtent: number, blockOfSlab: number): void {
    const ops = this.ops;
    const { buffers, memory, cache } = this.parts;
    const address = buffers.addressOf(ops.buffer[op] as number) + bad * BLOCK_BYTES;
    const frame = ops.frame[op] as number;
    const entry = entryAt(frame * BLOCK_WORDS, ops.slab[op] as number);
    cache.words[entry + CRCS + blockOfSlab] = blockCrc(memory, address, blockOfExtent);
    cache.markDirty(frame);
    this.serve(op);
  }

  private dropBuffer(op: number): void {
    const buffer = this.ops.buffer[op] as number;
    if (buffer === -1) return;
    this.ops.buffer[op] = -1;
    this.parts.buffers.giveBack(buffer);
  }

  private end(op: number, result: number): void {
    this.dropBuffer(op);
    if (this.ops.frame[op] !== -1) {
      if (this.ops.kind[op] === OP_KIND_SLAB) this.noteSlab(op);
      this.parts.cache.unpin(op);
    }
    this.client.opDone(op, result);
  }

  private noteSlab(op: number): void {
    const ops = this.ops;
    const { words } = this.parts.cache;
    const entry = entryAt((ops.frame[op] as number) * BLOCK_WORDS, ops.slab[op] as number);
    ops.states[op] = entryStates(words, entry);
    ops.stampLow[op] = entryStampLow(words, entry);
    ops.stampHigh[op] = entryStampHigh(words, entry);
  }

  private enlist(op: number): void {
    this.ops.readSequence[op] = this.nextSequence;
    this.nextSequence += 1;
    this.before[op] = this.newest;
    this.after[op] = -1;
    if (this.newest === -1) this.oldest = op;
    else this.after[this.newest] = op;
    this.newest = op;
  }

  private delist(op: number): void {
    const before = this.before[op] as number;
    const after = this.after[op] as number;
    if (before === -1) this.oldest = after;
    else this.after[before] = after;
    if (after === -1) this.newest = before;
    else this.before[after] = before;
  }
}
