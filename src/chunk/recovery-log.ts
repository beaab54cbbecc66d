// Recovery, first part: what the metadata log holds. Read from the last checkpoint's position on,
// block by block, as far as the chain goes.
//
//   tail |== block == block == block ==| end      anything behind the end that knows of a durable
//                                                 block there: the log is damaged, not torn
//
// Invariant: a record is only believed when every block from the checkpoint to it is good.

import type { Arena } from "../ports/index.ts";
import { structureCrc } from "./checksum.ts";
import { StoreError } from "./errors.ts";
import { BLOCK_WORDS, LOG_BLOCK, LOG_MAGIC, LOG_RECORDS_OFFSET } from "./layouts.ts";
import type { LogPosition } from "./metadata-log.ts";
import type { StoreParts } from "./parts.ts";
import { StructureWords } from "./structure-words.ts";
import type { Superblock } from "./superblock.ts";
import { type IoTask, ioRead } from "./task.ts";

const READ_BYTES = 1048576;

export interface LogFound {
  /** The whole log, at the same offsets; records are words of it. */
  readonly arena: Arena;
  /** Word of each record, in order. */
  readonly records: readonly number[];
  readonly position: LogPosition;
  readonly usedBlocks: number;
  readonly settledLsn: number;
  readonly ringTailBlock: number;
  readonly ringTailPreviousCrc: number;
}

/** Reads [offset, offset + bytes) into `address`, in pieces. */
export function* readArea(offsetBytes: number, address: number, bytes: number): IoTask<number> {
  for (let from = 0; from < bytes; from += READ_BYTES * 8) {
    const requests = [];
    for (let at = from; at < Math.min(bytes, from + READ_BYTES * 8); at += READ_BYTES) {
      requests.push(ioRead(offsetBytes + at, address + at, Math.min(READ_BYTES, bytes - at)));
    }
    const result = yield requests;
    if (result !== 0) return result;
  }
  return 0;
}

interface Chain {
  block: number;
  sequence: number;
  previousCrc: number;
  incarnation: number;
}

export class LogReader {
  private readonly parts: StoreParts;
  private readonly superblock: Superblock;
  readonly arena: Arena;
  private readonly view: StructureWords;

  constructor(parts: StoreParts, superblock: Superblock) {
    this.parts = parts;
    this.superblock = superblock;
    this.arena = parts.memory.allocate(parts.geometry.logBytes);
    this.view = new StructureWords(this.arena.u32);
  }

  *read(): IoTask<LogFound | StoreError> {
    const { geometry } = this.parts;
    const { arena, superblock } = this;
    const result = yield* readArea(geometry.logOffsetBytes, arena.address, geometry.logBytes);
    if (result !== 0) return new StoreError("DISK_FAILED", `the log cannot be read: ${result}`);
    const chain: Chain = {
      block: superblock.logTailBlock,
      sequence: superblock.logTailSequence,
      previousCrc: superblock.logTailPreviousCrc,
      incarnation: 0,
    };
    const records: number[] = [];
    let settledLsn = superblock.checkpointLsn;
    let ringTailBlock = superblock.ringTailBlock;
    let ringTailPreviousCrc = superblock.ringTailPreviousCrc;
    let usedBlocks = 0;
    while (usedBlocks < geometry.logBlocks && this.continues(chain)) {
      const at = chain.block * BLOCK_WORDS;
      const error = this.takeRecords(at, records);
      if (error !== null) return error;
      settledLsn = this.view.u64(at, LOG_BLOCK.settledLsn);
      ringTailBlock = this.view.u32(at, LOG_BLOCK.ringBlock);
      ringTailPreviousCrc = this.view.u32(at, LOG_BLOCK.ringPreviousCrc);
      chain.previousCrc = this.view.u32(at, LOG_BLOCK.crc);
      chain.incarnation = this.view.u32(at, LOG_BLOCK.incarnation);
      chain.sequence += 1;
      chain.block = (chain.block + 1) % geometry.logBlocks;
      usedBlocks += 1;
    }
    const lost = this.findLost(chain.sequence);
    if (lost !== null && !this.parts.planted.cutAnywhere) return lost;
    const { block, sequence, previousCrc } = chain;
    return {
      arena,
      records,
      position: { block, sequence, previousCrc },
      usedBlocks,
      settledLsn,
      ringTailBlock,
      ringTailPreviousCrc,
    };
  }

  private isBlock(at: number): boolean {
    if (this.view.u32(at, LOG_BLOCK.magic) !== LOG_MAGIC) return false;
    if (this.view.u32(at, LOG_BLOCK.journalId) !== this.parts.journalId) return false;
    const { memory } = this.parts;
    const crc = structureCrc(memory, this.view.words, this.arena.address, at, LOG_BLOCK.crc);
    return crc === this.view.u32(at, LOG_BLOCK.crc);
  }

  private continues(chain: Chain): boolean {
    const at = chain.block * BLOCK_WORDS;
    if (!this.isBlock(at)) return false;
    if (this.view.u64(at, LOG_BLOCK.sequence) !== chain.sequence) return false;
    if (this.view.u32(at, LOG_BLOCK.previousCrc) !== chain.previousCrc) return false;
    return (
      this.view.u32(at, LOG_BLOCK.incarnation) >= chain.incarnation ||
      this.parts.planted.ignoreIncarnation
    );
  }

  private takeRecords(at: number, records: number[]): StoreError | null {
    const { view } = this;
    const first = at + LOG_RECORDS_OFFSET / 4;
    const bytes = view.u32(at, LOG_BLOCK.recordBytes);
    const count = view.u32(at, LOG_BLOCK.recordCount);
    if (view.walkRecords(first, bytes, count, (record) => records.push(record) > 0)) return null;
    const sequence = view.u64(at, LOG_BLOCK.sequence);
    return new StoreError("DISK_DAMAGED", `block ${sequence} of the log has a bad record`);
  }

  /** A block that knows of a durable one at `sequence` or later: it was written, and is lost. */
  private findLost(sequence: number): StoreError | null {
    for (let block = 0; block < this.parts.geometry.logBlocks; block++) {
      const at = block * BLOCK_WORDS;
      if (this.view.u32(at, LOG_BLOCK.magic) !== LOG_MAGIC) continue;
      if (this.view.u64(at, LOG_BLOCK.sequence) < sequence) continue;
      if (this.view.u64(at, LOG_BLOCK.durableSequence) < sequence || !this.isBlock(at)) continue;
      const known = this.view.u64(at, LOG_BLOCK.sequence);
      return new StoreError(
        "DISK_DAMAGED",
        `block ${sequence} of the metadata log is lost: block ${known} was written after it`,
        { advice: "The disk lost or damaged acknowledged writes. Restore from another replica." },
      );
    }
    return null;
  }
}
