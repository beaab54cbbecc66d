// @hot
// The ring journal: groups of records, with the data of journaled writes behind them, written one
// after the other, round and round. The ring has a twin in memory at the same offsets; what is
// gathered there is what is written, read from while it is newest, and written back from later.
//
//        tail                     settled..complete..durable         head
//   ------|== group == group == group == group == group == [ open ]---|------
//         '- freed in order, when its data is in place and its records are in the log
//
//   open --close()--> on its way --> durable --> durable in order --> complete --> freed
//
// LSNs count groups. Invariants:
//  - a group is acknowledged only when all before it are durable too (durableLsn);
//  - completeLsn: all groups up to it are durable, and so is all data their records point to;
//  - a group never begins where the largest one would not fit before the ring's end, so that
//    whoever replays knows where to look;
//  - the group's header carries the CRC of the one before it: a chain.

import { assert } from "../base/index.ts";
import type { Arena } from "../ports/index.ts";
import { structureCrc } from "./checksum.ts";
import {
  BLOCK_BYTES,
  BLOCK_WORDS,
  FORMAT_VERSION,
  GROUP,
  GROUP_MAGIC,
  GROUP_RECORDS_BYTES,
  GROUP_RECORDS_OFFSET,
} from "./layouts.ts";
import { type StoreParts, TAG_GROUP } from "./parts.ts";

/** Groups on their way to the disk: more would only make each smaller. */
const GROUPS_INFLIGHT_MAX = 4;
const TWO_32 = 4294967296;
const NO_GROUP = -1;

const GROUP_FREE = 0;
const GROUP_OPEN = 1;
const GROUP_WRITING = 2;
const GROUP_DURABLE = 3;

export interface RingClient {
  /** The group and all before it are durable: its operations, linked from `firstOp`. */
  groupDurable(lsn: number, firstOp: number): void;
  /** The next read that begins has this number: what is committed now is not yet seen by it. */
  readonly nextReadSequence: number;
}

/** Where replay left off. */
export interface RingPosition {
  readonly tailBlock: number;
  readonly headBlock: number;
  /** The newest group that is in the ring or was settled. */
  readonly lastLsn: number;
  readonly settledLsn: number;
  readonly lastCrc: number;
  readonly tailPreviousCrc: number;
}

export class RingJournal {
  readonly arena: Arena;
  readonly words: Uint32Array;
  readonly blockCount: number;
  incarnation = 0;
  /** LSN of the open group, or of the next. */
  nextLsn = 1;
  durableLsn = 0;
  completeLsn = 0;
  /** Groups up to this one are freed: their records are in the log. */
  settledLsn = 0;
  head = 0;
  tail = 0;
  tailPreviousCrc = 0;
  usedBlocks = 0;
  groupCount = 0;
  groupsWritten = 0;
  blocksWritten = 0;
  failed = false;
  /** The highest completeLsn that a header carries. */
  private markedLsn = 0;
  /** Per group, at lsn & mask. */
  readonly mask: number;
  readonly start: Uint32Array;
  readonly blocks: Uint32Array;
  readonly state: Uint8Array;
  readonly crc: Uint32Array;
  /** Operations not finished, and the list of all. */
  readonly unfinished: Int32Array;
  /** Reads from before this number may not have seen the group. */
  readonly readSequence: Float64Array;
  private readonly opHead: Int32Array;
  private readonly opTail: Int32Array;
  /** Blocks lost before this group because the ring's end was too near. */
  private readonly skipped: Uint32Array;

  private readonly parts: StoreParts;
  private readonly groupBlocksMax: number;
  private client: RingClient | null = null;
  private previousCrc = 0;
  private openIsThere = false;
  private openStart = 0;
  private openBlocks = 0;
  private openRecordBytes = 0;
  private openRecordCount = 0;
  private inflightCount = 0;

  constructor(parts: StoreParts) {
    const { geometry } = parts;
    this.parts = parts;
    this.blockCount = geometry.ringBlocks;
    this.groupBlocksMax = geometry.groupBytesMax / BLOCK_BYTES;
    this.arena = parts.memory.allocate(geometry.ringBytes);
    this.words = this.arena.u32;
    let capacity = 16;
    while (capacity < this.blockCount + 1) capacity *= 2;
    this.mask = capacity - 1;
    this.start = new Uint32Array(capacity);
    this.blocks = new Uint32Array(capacity);
    this.state = new Uint8Array(capacity);
    this.crc = new Uint32Array(capacity);
    this.unfinished = new Int32Array(capacity);
    this.readSequence = new Float64Array(capacity);
    this.opHead = new Int32Array(capacity).fill(-1);
    this.opTail = new Int32Array(capacity).fill(-1);
    this.skipped = new Uint32Array(capacity);
  }

  setClient(client: RingClient): void {
    this.client = client;
  }

  /** Takes over from replay; groups from settledLsn + 1 to lastLsn are in the ring, complete. */
  // @cold
  resume(position: RingPosition): void {
    this.tail = position.tailBlock;
    this.head = position.headBlock;
    this.nextLsn = position.lastLsn + 1;
    this.durableLsn = position.lastLsn;
    this.completeLsn = position.lastLsn;
    this.settledLsn = position.settledLsn;
    this.previousCrc = position.lastCrc;
    this.tailPreviousCrc = position.tailPreviousCrc;
    this.groupCount = position.lastLsn - position.settledLsn;
    this.usedBlocks = 0;
    if (this.groupCount === 0) return;
    const distance = this.head - this.tail;
    this.usedBlocks = distance > 0 ? distance : distance + this.blockCount;
  }

  /** For replay: a group found in the ring. */
  // @cold
  adopt(lsn: number, start: number, blocks: number, crc: number): void {
    const at = lsn & this.mask;
    assert(this.state[at] === GROUP_FREE, "a group is adopted twice");
    this.start[at] = start;
    this.blocks[at] = blocks;
    this.crc[at] = crc;
    this.state[at] = GROUP_DURABLE;
    this.unfinished[at] = 0;
    this.readSequence[at] = 0;
    const previous = (lsn - 1) & this.mask;
    const wraps = this.state[previous] !== GROUP_FREE && start < (this.start[previous] as number);
    this.skipped[at] = wraps
      ? this.blockCount - (this.start[previous] as number) - (this.blocks[previous] as number)
      : 0;
  }

  /**
   * Is there room for a record of `bytes` with `dataBlocks` blocks behind it? Opens a group, or
   * closes a full one and opens the next. False: wait until groups are freed or written.
   */
  makeRoom(bytes: number, dataBlocks: number): boolean {
    if (this.openIsThere) {
      const fits =
        this.openRecordBytes + bytes <= GROUP_RECORDS_BYTES &&
        this.openBlocks + dataBlocks <= this.groupBlocksMax;
      if (fits) return this.usedBlocks + dataBlocks < this.blockCount;
      if (this.openRecordCount === 0 || this.inflightCount >= GROUPS_INFLIGHT_MAX) return false;
      this.close();
    }
    return this.openGroup(dataBlocks);
  }

  private openGroup(dataBlocks: number): boolean {
    let start = this.head;
    let skipped = 0;
    if (start + this.groupBlocksMax > this.blockCount) {
      skipped = this.blockCount - start;
      start = 0;
    }
    if (this.usedBlocks + skipped + 1 + dataBlocks >= this.blockCount) return false;
    if (this.groupCount >= this.mask) return false;
    if (this.groupCount === 0) {
      // An empty ring has its tail wherever the next group begins.
      this.tail = start;
      skipped = 0;
      this.tailPreviousCrc = this.previousCrc;
    }
    const at = this.nextLsn & this.mask;
    this.start[at] = start;
    this.state[at] = GROUP_OPEN;
    this.unfinished[at] = 0;
    this.opHead[at] = -1;
    this.opTail[at] = -1;
    this.skipped[at] = skipped;
    this.openIsThere = true;
    this.openStart = start;
    this.openBlocks = 1;
    this.openRecordBytes = 0;
    this.openRecordCount = 0;
    this.usedBlocks += skipped + 1;
    this.groupCount += 1;
    return true;
  }

  /** After makeRoom(): the word at which the record goes. Its data, if any, at nextDataBlock. */
  addRecord(bytes: number): number {
    assert(this.openIsThere, "a record without a group");
    const at = (this.openStart * BLOCK_BYTES + GROUP_RECORDS_OFFSET + this.openRecordBytes) >>> 2;
    this.openRecordBytes += bytes;
    this.openRecordCount += 1;
    return at;
  }

  /** The ring's block at which the next data goes. */
  get nextDataBlock(): number {
    return this.openStart + this.openBlocks;
  }

  addData(dataBlocks: number): void {
    this.openBlocks += dataBlocks;
    this.usedBlocks += dataBlocks;
  }

  /** The operation is told when the open group is durable in order. */
  addOp(op: number): void {
    const at = this.nextLsn & this.mask;
    const next = this.parts.ops.next;
    next[op] = -1;
    if (this.opTail[at] === -1) this.opHead[at] = op;
    else next[this.opTail[at] as number] = op;
    this.opTail[at] = op;
    this.unfinished[at] = (this.unfinished[at] as number) + 1;
  }

  /** Records wait in a group that is not on its way yet. */
  get hasUnwritten(): boolean {
    return this.openIsThere && this.openRecordCount > 0;
  }

  get isWriting(): boolean {
    return this.inflightCount > 0;
  }

  /** Writes the open group, unless so many are on their way that waiting makes it larger. */
  flush(): void {
    if (!this.openIsThere || this.openRecordCount === 0) return;
    if (this.inflightCount >= GROUPS_INFLIGHT_MAX) return;
    this.close();
  }

  /** Takes back a group that was opened for a record that never came. */
  dropEmpty(): void {
    if (!this.openIsThere || this.openRecordCount > 0) return;
    const at = this.nextLsn & this.mask;
    this.openIsThere = false;
    this.state[at] = GROUP_FREE;
    this.groupCount -= 1;
    this.usedBlocks -= (this.skipped[at] as number) + 1;
  }

  /** A group without records: what is in place by now need not be doubted after a crash. */
  writeMark(): void {
    if (this.completeLsn <= this.markedLsn || this.inflightCount > 0) return;
    if (!this.makeRoom(0, 0)) return;
    this.close();
  }

  addressOf(ringBlock: number): number {
    return this.arena.address + ringBlock * BLOCK_BYTES;
  }

  private close(): void {
    const lsn = this.nextLsn;
    const at = lsn & this.mask;
    this.seal(lsn);
    this.blocks[at] = this.openBlocks;
    this.state[at] = GROUP_WRITING;
    this.openIsThere = false;
    this.nextLsn = lsn + 1;
    this.head = this.openStart + this.openBlocks;
    this.inflightCount += 1;
    this.groupsWritten += 1;
    this.blocksWritten += this.openBlocks;
    const { geometry, disk, flushNeeded } = this.parts;
    const offset = geometry.ringOffsetBytes + this.openStart * BLOCK_BYTES;
    const bytes = this.openBlocks * BLOCK_BYTES;
    disk.write(TAG_GROUP + at, offset, this.addressOf(this.openStart), bytes, flushNeeded);
  }

  private seal(lsn: number): void {
    const words = this.words;
    const at = this.openStart * BLOCK_WORDS;
    const headEnd = at + GROUP_RECORDS_OFFSET / 4;
    for (let word = at; word < headEnd; word++) words[word] = 0;
    const recordsEnd = headEnd + (this.openRecordBytes >>> 2);
    for (let word = recordsEnd; word < at + BLOCK_WORDS; word++) words[word] = 0;
    words[at + (GROUP.magic >>> 2)] = GROUP_MAGIC;
    words[at + (GROUP.version >>> 2)] = FORMAT_VERSION;
    words[at + (GROUP.journalId >>> 2)] = this.parts.journalId;
    words[at + (GROUP.incarnation >>> 2)] = this.incarnation;
    words[at + (GROUP.lsn >>> 2)] = lsn >>> 0;
    words[at + (GROUP.lsn >>> 2) + 1] = (lsn / TWO_32) | 0;
    words[at + (GROUP.durableLsn >>> 2)] = this.durableLsn >>> 0;
    words[at + (GROUP.durableLsn >>> 2) + 1] = (this.durableLsn / TWO_32) | 0;
    const { markUnfinished } = this.parts.planted;
    const completeLsn = markUnfinished ? this.durableLsn : this.completeLsn;
    words[at + (GROUP.completeLsn >>> 2)] = completeLsn >>> 0;
    words[at + (GROUP.completeLsn >>> 2) + 1] = (completeLsn / TWO_32) | 0;
    this.markedLsn = this.completeLsn;
    words[at + (GROUP.previousCrc >>> 2)] = this.previousCrc;
    words[at + (GROUP.ringBlock >>> 2)] = this.openStart;
    words[at + (GROUP.dataBlocks >>> 2)] = this.openBlocks - 1;
    words[at + (GROUP.recordCount >>> 2)] = this.openRecordCount;
    words[at + (GROUP.recordBytes >>> 2)] = this.openRecordBytes;
    const crc = structureCrc(this.parts.memory, words, this.arena.address, at, GROUP.crc);
    words[at + (GROUP.crc >>> 2)] = crc;
    this.crc[lsn & this.mask] = crc;
    this.previousCrc = crc;
  }

  /** The disk's answer to the group at index `at`. */
  completed(at: number, result: number): void {
    assert(this.state[at] === GROUP_WRITING, "a group was written that nobody writes");
    this.inflightCount -= 1;
    const bytes = (this.blocks[at] as number) * BLOCK_BYTES;
    if (result !== bytes) {
      this.failed = true;
      this.parts.diskFailed("write of a ring group", result);
      return;
    }
    if (this.failed) return;
    this.state[at] = GROUP_DURABLE;
    if (this.parts.planted.ackOutOfOrder) {
      this.deliver(this.lsnAt(at));
      this.durableLsn = Math.max(this.durableLsn, this.lsnAt(at));
    } else {
      while (this.durableLsn + 1 < this.nextLsn) {
        const next = this.durableLsn + 1;
        if (this.state[next & this.mask] !== GROUP_DURABLE) break;
        this.durableLsn = next;
        this.deliver(next);
      }
    }
    this.advanceComplete();
    this.flush();
  }

  private lsnAt(at: number): number {
    return this.nextLsn - ((this.nextLsn - at) & this.mask);
  }

  private deliver(lsn: number): void {
    const at = lsn & this.mask;
    const client = this.client as RingClient;
    this.readSequence[at] = client.nextReadSequence;
    const first = this.opHead[at] as number;
    this.opHead[at] = NO_GROUP;
    this.opTail[at] = NO_GROUP;
    client.groupDurable(lsn, first);
  }

  /** One of the group's operations has applied its record. */
  opFinished(lsn: number): void {
    const at = lsn & this.mask;
    assert((this.unfinished[at] as number) > 0, "a group has finished more than it had");
    this.unfinished[at] = (this.unfinished[at] as number) - 1;
  }

  /** After operations have finished: how far is everything in place? */
  advanceComplete(): void {
    while (this.completeLsn < this.durableLsn) {
      const at = (this.completeLsn + 1) & this.mask;
      if (this.state[at] !== GROUP_DURABLE || this.unfinished[at] !== 0) return;
      this.completeLsn += 1;
    }
  }

  /** Frees the groups up to `lsn`, whose records are in the log. */
  free(lsn: number): void {
    assert(lsn <= this.completeLsn, "a group is freed before it is complete");
    while (this.settledLsn < lsn) {
      const at = (this.settledLsn + 1) & this.mask;
      assert(this.state[at] === GROUP_DURABLE, "a group is freed that is not there");
      this.state[at] = GROUP_FREE;
      this.settledLsn += 1;
      this.groupCount -= 1;
      this.usedBlocks -= (this.blocks[at] as number) + (this.skipped[at] as number);
      this.tail = (this.start[at] as number) + (this.blocks[at] as number);
      this.tailPreviousCrc = this.crc[at] as number;
    }
    assert(this.usedBlocks >= 0, "the ring is emptier than empty");
  }

  /** After a failure: the operations that wait for the group, which will never be durable. */
  takeOps(lsn: number): number {
    const at = lsn & this.mask;
    const first = this.opHead[at] as number;
    this.opHead[at] = -1;
    this.opTail[at] = -1;
    return first;
  }

  /** Where the group behind the freed ones starts, for whoever replays. */
  tailStart(lsn: number): number {
    const at = (lsn + 1) & this.mask;
    if (lsn + 1 < this.nextLsn || this.openIsThere) return this.start[at] as number;
    return this.head + this.groupBlocksMax > this.blockCount ? 0 : this.head;
  }

  crcOf(lsn: number): number {
    return lsn === this.settledLsn ? this.tailPreviousCrc : (this.crc[lsn & this.mask] as number);
  }
}
