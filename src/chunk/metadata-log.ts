// The metadata log: the records of groups whose data is in place, without that data, in 4 KiB
// blocks, round and round. What is in the log need not be in the ring; what is in the pages of a
// checkpoint need not be in the log.
//
// Invariants: blocks follow each other by sequence and by the CRC of the one before; a block says
// up to which group the log has every record (settledLsn), and where in the ring the next group
// starts; the tail moves only when a checkpoint has been completed.

import { assert, high32, low32 } from "../base/index.ts";
import type { Arena } from "../ports/index.ts";
import { structureCrc } from "./checksum.ts";
import {
  BLOCK_BYTES,
  BLOCK_WORDS,
  FORMAT_VERSION,
  GROUP,
  GROUP_RECORDS_OFFSET,
  LOG_BLOCK,
  LOG_MAGIC,
  LOG_RECORDS_BYTES,
  LOG_RECORDS_OFFSET,
  RECORD_BYTES_MAX,
} from "./layouts.ts";
import type { StoreParts } from "./parts.ts";
import { RECORD_VOID, recordBytesOf, typeOf } from "./records.ts";
import type { RingJournal } from "./ring-journal.ts";
import { type IoRequest, type IoTask, ioWrite } from "./task.ts";

/** Blocks gathered for one write. */
const BUFFER_BLOCKS = 64;

/** A place in the log: the next block, its sequence, the CRC of the block before. */
export interface LogPosition {
  readonly block: number;
  readonly sequence: number;
  readonly previousCrc: number;
}

export class MetadataLog {
  readonly blockCount: number;
  incarnation = 0;
  usedBlocks = 0;
  blocksWritten = 0;
  /** The log has every record of the groups up to this one, durably. */
  settledLsn = 0;
  private block = 0;
  private sequence = 1;
  private previousCrc = 0;
  /** CRC of the last block that is gathered, which may not be written yet. */
  private gatheredCrc = 0;
  private durableSequence = 0;
  private readonly parts: StoreParts;
  private readonly ring: RingJournal;
  readonly buffer: Arena;
  private buffered = 0;
  private recordBytes = 0;
  private recordCount = 0;

  constructor(parts: StoreParts, ring: RingJournal) {
    this.parts = parts;
    this.ring = ring;
    this.blockCount = parts.geometry.logBlocks;
    this.buffer = parts.memory.allocate(BUFFER_BLOCKS * BLOCK_BYTES);
  }

  get position(): LogPosition {
    return { block: this.block, sequence: this.sequence, previousCrc: this.previousCrc };
  }

  resume(position: LogPosition, settledLsn: number, usedBlocks: number): void {
    this.block = position.block;
    this.sequence = position.sequence;
    this.previousCrc = position.previousCrc;
    this.gatheredCrc = position.previousCrc;
    this.durableSequence = position.sequence - 1;
    this.settledLsn = settledLsn;
    this.usedBlocks = usedBlocks;
  }

  /** More at once might find no room even in an empty log. */
  get batchBytesMax(): number {
    return (Math.floor(this.blockCount / 2) - 2) * (LOG_RECORDS_BYTES - RECORD_BYTES_MAX);
  }

  /** Is there room for the records of the groups up to `lsn`? A checkpoint makes some. */
  hasRoomUpTo(lsn: number): boolean {
    let bytes = 0;
    for (let next = this.settledLsn + 1; next <= lsn; next++) {
      bytes += this.headerWord(next, GROUP.recordBytes);
    }
    const neededBlocks = Math.ceil(bytes / (LOG_RECORDS_BYTES - RECORD_BYTES_MAX)) + 1;
    return this.usedBlocks + neededBlocks < this.blockCount;
  }

  private headerWord(lsn: number, field: number): number {
    const start = this.ring.start[lsn & this.ring.mask] as number;
    return this.ring.words[start * BLOCK_WORDS + (field >>> 2)] as number;
  }

  /** Appends the records of the groups up to `lsn`. Returns 0, or a negated errno. */
  *append(lsn: number): IoTask<number> {
    this.beginBlock();
    for (let next = this.settledLsn + 1; next <= lsn; next++) {
      const start = this.ring.start[next & this.ring.mask] as number;
      const count = this.headerWord(next, GROUP.recordCount);
      let at = start * BLOCK_WORDS + GROUP_RECORDS_OFFSET / 4;
      for (let record = 0; record < count; record++) {
        const bytes = recordBytesOf(this.ring.words, at);
        if (typeOf(this.ring.words, at) !== RECORD_VOID) {
          if (this.recordBytes + bytes > LOG_RECORDS_BYTES) {
            this.endBlock(next - 1);
            if (this.buffered === BUFFER_BLOCKS) {
              const result = yield this.writes();
              if (result !== 0) return result;
              this.written();
            }
            this.beginBlock();
          }
          this.copyRecord(at, bytes);
        }
        at += bytes >>> 2;
      }
    }
    this.endBlock(lsn);
    const result = yield this.writes();
    if (result !== 0) return result;
    this.written();
    this.settledLsn = lsn;
    return 0;
  }

  private beginBlock(): void {
    const at = this.buffered * BLOCK_WORDS;
    this.buffer.u32.fill(0, at, at + BLOCK_WORDS);
    this.recordBytes = 0;
    this.recordCount = 0;
  }

  private copyRecord(from: number, bytes: number): void {
    const at = this.buffered * BLOCK_WORDS + (LOG_RECORDS_OFFSET + this.recordBytes) / 4;
    const { words } = this.ring;
    for (let word = 0; word < bytes >>> 2; word++) {
      this.buffer.u32[at + word] = words[from + word] as number;
    }
    this.recordBytes += bytes;
    this.recordCount += 1;
  }

  private endBlock(settledLsn: number): void {
    const words = this.buffer.u32;
    const at = this.buffered * BLOCK_WORDS;
    const put64 = (offset: number, value: number): void => {
      words[at + (offset >>> 2)] = low32(value);
      words[at + (offset >>> 2) + 1] = high32(value);
    };
    words[at + (LOG_BLOCK.magic >>> 2)] = LOG_MAGIC;
    words[at + (LOG_BLOCK.version >>> 2)] = FORMAT_VERSION;
    words[at + (LOG_BLOCK.journalId >>> 2)] = this.parts.journalId;
    words[at + (LOG_BLOCK.incarnation >>> 2)] = this.incarnation;
    put64(LOG_BLOCK.sequence, this.sequence + this.buffered);
    put64(LOG_BLOCK.durableSequence, this.durableSequence);
    put64(LOG_BLOCK.settledLsn, settledLsn);
    words[at + (LOG_BLOCK.previousCrc >>> 2)] = this.gatheredCrc;
    words[at + (LOG_BLOCK.ringBlock >>> 2)] = this.ring.tailStart(settledLsn);
    words[at + (LOG_BLOCK.ringPreviousCrc >>> 2)] = this.ring.crcOf(settledLsn);
    words[at + (LOG_BLOCK.recordCount >>> 2)] = this.recordCount;
    words[at + (LOG_BLOCK.recordBytes >>> 2)] = this.recordBytes;
    const { memory } = this.parts;
    this.gatheredCrc = structureCrc(memory, words, this.buffer.address, at, LOG_BLOCK.crc);
    words[at + (LOG_BLOCK.crc >>> 2)] = this.gatheredCrc;
    this.buffered += 1;
  }

  /** One write, or two where the log begins anew. */
  private writes(): IoRequest[] {
    assert(this.usedBlocks + this.buffered < this.blockCount, "the log runs into its own tail");
    const { geometry, flushNeeded } = this.parts;
    const first = Math.min(this.buffered, this.blockCount - this.block);
    const piece = (block: number, from: number, count: number): IoRequest =>
      ioWrite(
        geometry.logOffsetBytes + block * BLOCK_BYTES,
        this.buffer.address + from * BLOCK_BYTES,
        count * BLOCK_BYTES,
        flushNeeded,
      );
    const writes = [piece(this.block, 0, first)];
    if (first < this.buffered) writes.push(piece(0, first, this.buffered - first));
    return writes;
  }

  private written(): void {
    this.block = (this.block + this.buffered) % this.blockCount;
    this.sequence += this.buffered;
    this.previousCrc = this.gatheredCrc;
    this.durableSequence = this.sequence - 1;
    this.usedBlocks += this.buffered;
    this.blocksWritten += this.buffered;
    this.buffered = 0;
  }

  /** A checkpoint that began when the log stood at `position` is complete. */
  truncate(position: LogPosition): void {
    this.usedBlocks = this.sequence - position.sequence;
  }
}
