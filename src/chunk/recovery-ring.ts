// Recovery, second part: what the ring holds that the log does not. The ring is read whole, into
// the memory it lives in from then on; groups are followed from the tail as far as the chain goes.
//
//   - a group is good when its header's checksum, its LSN, its place and the CRC of the group
//     before it are right, and every journaled block in it matches its record;
//   - where the chain ends, a group further on that knows of a durable group there is proof that
//     the disk lost it: damage. Otherwise it is the torn tail, never acknowledged, and is cut;
//   - a journaled block that does not match in a group that a later one calls durable is rot: the
//     group stays, and reading the block is an error;
//   - fresh and redirected data that no later group calls complete may not have arrived. It is
//     read; where it does not match, the record counts for nothing and is reported.

import { blockCrc, structureCrc } from "./checksum.ts";
import { StoreError } from "./errors.ts";
import {
  BLOCK_BYTES,
  BLOCK_WORDS,
  EXTENT_BLOCKS,
  GROUP,
  GROUP_MAGIC,
  GROUP_RECORDS_OFFSET,
  RECORD_FRESH,
  RECORD_IMAGE,
  RECORD_REDIRECT,
  SLAB_BLOCKS,
  SLAB_BYTES,
} from "./layouts.ts";
import type { StoreParts } from "./parts.ts";
import {
  blockCountOf,
  dataBlocksOf,
  extentOf,
  firstBlockOf,
  hasData,
  isBlockRecord,
  isInGroup,
  locationOf,
  RECORD_HEAD_WORDS,
  slabOf,
  typeOf,
} from "./records.ts";
import { readArea } from "./recovery-log.ts";
import type { RingJournal } from "./ring-journal.ts";
import { StructureWords } from "./structure-words.ts";
import { type IoTask, ioRead } from "./task.ts";

export interface FoundRecord {
  /** Word in ring memory. */
  readonly at: number;
  readonly lsn: number;
  /** First block of its data in the ring. */
  readonly dataBlock: number;
}

export interface RingFound {
  readonly records: FoundRecord[];
  readonly lastLsn: number;
  readonly headBlock: number;
  readonly lastCrc: number;
  /** Journaled blocks of durable groups that do not match. */
  readonly rottenBlocks: number;
  /** Words of the records that have them. */
  readonly rotten: readonly number[];
  /** Groups behind the torn one that were dropped with it. */
  readonly cutGroups: number;
}

export interface RingStart {
  readonly settledLsn: number;
  readonly tailBlock: number;
  readonly previousCrc: number;
}

export class RingReader {
  private readonly parts: StoreParts;
  private readonly ring: RingJournal;
  private readonly groupBlocksMax: number;
  private completeLsn = 0;
  private durableLsn = 0;
  private rottenBlocks = 0;
  private readonly rotten: number[] = [];
  private readonly view: StructureWords;

  constructor(parts: StoreParts, ring: RingJournal) {
    this.parts = parts;
    this.ring = ring;
    this.view = new StructureWords(ring.words);
    this.groupBlocksMax = parts.geometry.groupBytesMax / BLOCK_BYTES;
  }

  *read(start: RingStart): IoTask<RingFound | StoreError> {
    const { geometry } = this.parts;
    const address = this.ring.arena.address;
    const result = yield* readArea(geometry.ringOffsetBytes, address, geometry.ringBytes);
    if (result !== 0) return new StoreError("DISK_FAILED", `the ring cannot be read: ${result}`);
    this.learnMarks();
    const records: FoundRecord[] = [];
    let lsn = start.settledLsn;
    let block = start.tailBlock;
    let previousCrc = start.previousCrc;
    let incarnation = 0;
    for (;;) {
      const first = block + this.groupBlocksMax > this.ring.blockCount ? 0 : block;
      const at = first * BLOCK_WORDS;
      if (!this.isGroup(at, first) || this.view.u64(at, GROUP.lsn) !== lsn + 1) break;
      const isChained =
        this.view.u32(at, GROUP.previousCrc) === previousCrc &&
        this.view.u32(at, GROUP.incarnation) >= incarnation;
      if (!isChained && !this.parts.planted.ignoreIncarnation) break;
      const found = this.takeRecords(at, lsn + 1);
      if (found instanceof StoreError) return found;
      if (!this.checkData(found, lsn + 1)) break;
      records.push(...found);
      lsn += 1;
      previousCrc = this.view.u32(at, GROUP.crc);
      incarnation = this.view.u32(at, GROUP.incarnation);
      const blocks = this.view.u32(at, GROUP.dataBlocks) + 1;
      this.ring.adopt(lsn, first, blocks, previousCrc);
      block = first + blocks;
      if (lsn - start.settledLsn >= this.ring.blockCount) break;
    }
    const lost = this.judgeEnd(lsn + 1);
    if (lost instanceof StoreError) return lost;
    return {
      records,
      lastLsn: lsn,
      headBlock: block,
      lastCrc: previousCrc,
      rottenBlocks: this.rottenBlocks,
      rotten: this.rotten,
      cutGroups: lost,
    };
  }

  /** The highest marks that any good group of this journal carries. */
  private learnMarks(): void {
    for (let block = 0; block < this.ring.blockCount; block++) {
      const at = block * BLOCK_WORDS;
      if (this.ring.words[at] !== GROUP_MAGIC || !this.isGroup(at, block)) continue;
      this.durableLsn = Math.max(this.durableLsn, this.view.u64(at, GROUP.durableLsn));
      this.completeLsn = Math.max(this.completeLsn, this.view.u64(at, GROUP.completeLsn));
    }
  }

  private isGroup(at: number, block: number): boolean {
    const { words, arena } = this.ring;
    if (words[at + (GROUP.magic >>> 2)] !== GROUP_MAGIC) return false;
    if (this.view.u32(at, GROUP.journalId) !== this.parts.journalId) return false;
    if (this.view.u32(at, GROUP.ringBlock) !== block) return false;
    if (this.view.u32(at, GROUP.dataBlocks) >= this.groupBlocksMax) return false;
    const crc = structureCrc(this.parts.memory, words, arena.address, at, GROUP.crc);
    return crc === this.view.u32(at, GROUP.crc);
  }

  private takeRecords(at: number, lsn: number): FoundRecord[] | StoreError {
    const { words } = this.ring;
    const found: FoundRecord[] = [];
    const { view } = this;
    let dataBlock = at / BLOCK_WORDS + 1;
    const dataEnd = dataBlock + view.u32(at, GROUP.dataBlocks);
    const take = (record: number): boolean => {
      found.push({ at: record, lsn, dataBlock });
      dataBlock += dataBlocksOf(words, record);
      return dataBlock <= dataEnd;
    };
    const first = at + GROUP_RECORDS_OFFSET / 4;
    const bytes = view.u32(at, GROUP.recordBytes);
    if (view.walkRecords(first, bytes, view.u32(at, GROUP.recordCount), take)) return found;
    return new StoreError("DISK_DAMAGED", `group ${lsn} of the ring has a bad record`);
  }

  /** Does the group's data match? In a group known to be durable, what does not is rot. */
  private checkData(records: readonly FoundRecord[], lsn: number): boolean {
    const { words } = this.ring;
    let bad = 0;
    const rotten: number[] = [];
    for (const { at, dataBlock } of records) {
      if (!isInGroup(words, at)) continue;
      const first = slabOf(words, at) * SLAB_BLOCKS + firstBlockOf(words, at);
      for (let block = 0; block < blockCountOf(words, at); block++) {
        if (!hasData(words, at, block)) continue;
        const address = this.ring.addressOf(dataBlock + block);
        const crc = blockCrc(this.parts.memory, address, first + block);
        if (crc === words[at + RECORD_HEAD_WORDS + block]) continue;
        bad += 1;
        if (rotten.at(-1) !== at) rotten.push(at);
      }
    }
    if (bad > 0 && lsn > this.durableLsn) return false;
    this.rottenBlocks += bad;
    this.rotten.push(...rotten);
    return true;
  }

  /** Where group `lsn` should be there is none: torn tail, or damage? Counts what is cut off. */
  private judgeEnd(lsn: number): number | StoreError {
    let cut = 0;
    let proof = 0;
    for (let block = 0; block < this.ring.blockCount; block++) {
      const at = block * BLOCK_WORDS;
      if (this.ring.words[at] !== GROUP_MAGIC || !this.isGroup(at, block)) continue;
      if (this.view.u64(at, GROUP.lsn) < lsn) continue;
      cut += 1;
      if (this.view.u64(at, GROUP.durableLsn) >= lsn) proof = this.view.u64(at, GROUP.lsn);
    }
    if (proof === 0 || this.parts.planted.cutAnywhere) return cut;
    return new StoreError(
      "DISK_DAMAGED",
      `group ${lsn} of the ring is lost or damaged: it was durable when group ${proof} was made`,
      { advice: "The disk lost or damaged acknowledged writes. Restore from another replica." },
    );
  }

  /**
   * Reads the data of fresh and redirected records that no later group calls complete, and
   * returns those whose data did not arrive, or an error.
   */
  *verifyTail(records: readonly FoundRecord[]): IoTask<FoundRecord[] | StoreError> {
    const { words } = this.ring;
    const tail = records.filter(({ lsn }) => lsn > this.completeLsn);
    const newest = new Map<number, FoundRecord>();
    for (const record of tail) {
      if (!isBlockRecord(typeOf(words, record.at))) continue;
      for (const key of keysOf(words, record.at)) newest.set(key, record);
    }
    const voids: FoundRecord[] = [];
    if (this.parts.planted.trustTail) return voids;
    const buffer = this.parts.memory.allocate(SLAB_BYTES);
    try {
      for (const record of tail) {
        const type = typeOf(words, record.at);
        if (!hasDataElsewhere(words, record.at, type)) continue;
        const matches = yield* this.matches(record, buffer.address, newest);
        if (matches instanceof StoreError) return matches;
        if (!matches) voids.push(record);
      }
    } finally {
      this.parts.memory.free(buffer);
    }
    return voids;
  }

  private *matches(
    record: FoundRecord,
    address: number,
    newest: Map<number, FoundRecord>,
  ): IoTask<boolean | StoreError> {
    const { words } = this.ring;
    const { at } = record;
    const first = firstBlockOf(words, at);
    const count = blockCountOf(words, at);
    const place = (locationOf(words, at) - 1) * SLAB_BYTES + first * BLOCK_BYTES;
    const offset = this.parts.geometry.slabOffsetBytes + place;
    const result = yield [ioRead(offset, address, count * BLOCK_BYTES)];
    // What cannot be read is not known to be missing: the record stays, and reading is an error.
    if (result !== 0) return true;
    const keys = keysOf(words, at);
    for (let block = 0; block < count; block++) {
      // A later write has taken the block over: whatever lies there is not this record's.
      if (newest.get(keys[block] as number) !== record || !hasData(words, at, block)) continue;
      const blockOfExtent = slabOf(words, at) * SLAB_BLOCKS + first + block;
      const crc = blockCrc(this.parts.memory, address + block * BLOCK_BYTES, blockOfExtent);
      if (crc !== words[at + RECORD_HEAD_WORDS + block]) return false;
    }
    return true;
  }
}

/** Does the record point to data that was written beside it? */
function hasDataElsewhere(words: Uint32Array, at: number, type: number): boolean {
  if (type === RECORD_FRESH || type === RECORD_REDIRECT) return true;
  return type === RECORD_IMAGE && !isInGroup(words, at) && locationOf(words, at) !== 0;
}

function keysOf(words: Uint32Array, at: number): number[] {
  const first = slabOf(words, at) * SLAB_BLOCKS + firstBlockOf(words, at);
  const base = extentOf(words, at) * EXTENT_BLOCKS + first;
  return Array.from({ length: blockCountOf(words, at) }, (_, block) => base + block);
}
