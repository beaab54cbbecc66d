// Write-back: journaled blocks go from ring memory to their slabs, the records of their groups to
// the log, and the groups' space in the ring becomes free. In batches, from the oldest group on;
// neighbours on the disk in one write, overtaken copies not at all.
//
//   choose groups -> live blocks, sorted -> write -> flush -> log -> forget the ring's copies, free
//
// Invariants: a block is written back only when every read of it that began on the disk before it
// was journaled has ended; nothing in the ring is given up before the log has its record and the
// slab its data, durably; one batch at a time, so that two copies of a block cannot overtake each
// other.

import type { Arena } from "../ports/index.ts";
import { BLOCK_BYTES, BLOCK_WORDS, GROUP, GROUP_RECORDS_OFFSET, SLAB_BLOCKS } from "./layouts.ts";
import type { MetadataLog } from "./metadata-log.ts";
import {
  blockCountOf,
  dataBlocksOf,
  extentOf,
  firstBlockOf,
  hasData,
  isInGroup,
  locationOf,
  recordBytesOf,
  slabOf,
} from "./records.ts";
import { IO_WRITEV, type IoRequest, type IoTask, ioSync, ioWrite } from "./task.ts";
import type { WriteParts } from "./write-path.ts";

/**
 * Blocks of a batch: enough neighbours, and no step of it stands in a writer's way for long. With
 * 1024 a node of a cluster stood still while the other waited for it: 8 % fewer writes, on tmpfs.
 */
const BATCH_BLOCKS = 256;
const BATCH_GROUPS = 4096;
/** Blocks of one write. */
const RUN_BLOCKS = 64;
const IOVEC_BYTES = 16;
/** Sort keys: place on the disk, then block of the ring. */
const RING_BLOCKS_MAX = 131072;
const TWO_32 = 4294967296;

export interface WriteBackParts extends WriteParts {
  readonly metadataLog: MetadataLog;
}

export class WriteBack {
  blocksWritten = 0;
  blocksOvertaken = 0;
  batchCount = 0;
  private readonly parts: WriteBackParts;
  private readonly oldestRead: () => number;
  private readonly keys: Float64Array;
  private readonly extents: Map<number, readonly [extent: number, block: number]> = new Map();
  private readonly locations: Set<number> = new Set();
  readonly iovecs: Arena;

  constructor(parts: WriteBackParts, oldestRead: () => number) {
    this.parts = parts;
    this.oldestRead = oldestRead;
    const keyCount = BATCH_BLOCKS + parts.geometry.groupBytesMax / BLOCK_BYTES;
    this.keys = new Float64Array(keyCount);
    this.iovecs = parts.memory.allocate(keyCount * IOVEC_BYTES);
  }

  /** Is part of the slab at `location` (slab + 1) being written right now? */
  covers(location: number): boolean {
    return this.locations.has(location);
  }

  /** The newest group that a batch may free now; settledLsn when there is none. */
  private lastOfBatch(): number {
    const { ring, planted } = this.parts;
    const oldestRead = planted.writeBackEarly ? Number.MAX_SAFE_INTEGER : this.oldestRead();
    const { metadataLog } = this.parts;
    let blocks = 0;
    let recordBytes = 0;
    let lsn = ring.settledLsn;
    while (lsn < ring.completeLsn && lsn - ring.settledLsn < BATCH_GROUPS) {
      const at = (lsn + 1) & ring.mask;
      if ((ring.readSequence[at] as number) > oldestRead) break;
      const groupBlocks = (ring.blocks[at] as number) - 1;
      if (blocks > 0 && blocks + groupBlocks > BATCH_BLOCKS) break;
      const start = ring.start[at] as number;
      recordBytes += ring.words[start * BLOCK_WORDS + (GROUP.recordBytes >>> 2)] as number;
      if (lsn > ring.settledLsn && recordBytes > metadataLog.batchBytesMax) break;
      blocks += groupBlocks;
      lsn += 1;
    }
    return lsn;
  }

  get hasWork(): boolean {
    return this.lastOfBatch() > this.parts.ring.settledLsn;
  }

  /** Room in the log for the next batch? Otherwise a checkpoint has to come first. */
  get hasLogRoom(): boolean {
    return this.parts.metadataLog.hasRoomUpTo(this.lastOfBatch());
  }

  /** One batch. Returns 0, or the error that failed the disk. */
  *batch(): IoTask<number> {
    const { metadataLog, planted, flushNeeded } = this.parts;
    const lsn = this.lastOfBatch();
    const count = this.collect(lsn);
    this.batchCount += 1;
    if (planted.freeBeforeSettled) this.release(count, lsn);
    if (count > 0) {
      const result = yield this.writes(count);
      if (result !== 0) return result;
      if (flushNeeded && !planted.logBeforeFlush) {
        const synced = yield [ioSync()];
        if (synced !== 0) return synced;
      }
    }
    this.locations.clear();
    this.blocksWritten += count;
    const logged = yield* metadataLog.append(lsn);
    if (logged !== 0) return logged;
    if (!planted.freeBeforeSettled) this.release(count, lsn);
    return 0;
  }

  /** What the slabs have now need not be looked for in the ring. */
  private release(count: number, lsn: number): void {
    const { ring, index } = this.parts;
    for (let at = 0; at < count; at++) {
      const ringBlock = (this.keys[at] as number) % RING_BLOCKS_MAX;
      const [extent, block] = this.extents.get(ringBlock) as readonly [number, number];
      if (index.find(extent, block) === ringBlock) index.remove(extent, block);
    }
    this.extents.clear();
    ring.free(lsn);
  }

  /** Keys of the live journaled blocks of the groups up to `lsn`, sorted by place on the disk. */
  private collect(lsn: number): number {
    const { ring, index } = this.parts;
    const words = ring.words;
    let count = 0;
    for (let next = ring.settledLsn + 1; next <= lsn; next++) {
      const start = ring.start[next & ring.mask] as number;
      const recordCount = words[start * BLOCK_WORDS + (GROUP.recordCount >>> 2)] as number;
      let at = start * BLOCK_WORDS + GROUP_RECORDS_OFFSET / 4;
      let data = start + 1;
      for (let record = 0; record < recordCount; record++) {
        if (isInGroup(words, at)) {
          const extent = extentOf(words, at);
          const first = slabOf(words, at) * SLAB_BLOCKS + firstBlockOf(words, at);
          for (let block = 0; block < blockCountOf(words, at); block++) {
            if (!hasData(words, at, block)) continue;
            if (index.find(extent, first + block) !== data + block) {
              this.blocksOvertaken += 1;
              continue;
            }
            const location = locationOf(words, at);
            const place = (location - 1) * SLAB_BLOCKS + firstBlockOf(words, at) + block;
            this.keys[count] = place * RING_BLOCKS_MAX + data + block;
            this.extents.set(data + block, [extent, first + block]);
            this.locations.add(location);
            count += 1;
          }
        }
        data += dataBlocksOf(words, at);
        at += recordBytesOf(words, at) >>> 2;
      }
    }
    this.keys.subarray(0, count).sort();
    return count;
  }

  private writes(count: number): IoRequest[] {
    const { geometry, ring } = this.parts;
    const writes: IoRequest[] = [];
    let from = 0;
    while (from < count) {
      const place = Math.floor((this.keys[from] as number) / RING_BLOCKS_MAX);
      let run = 1;
      while (
        from + run < count &&
        run < RUN_BLOCKS &&
        Math.floor((this.keys[from + run] as number) / RING_BLOCKS_MAX) === place + run
      ) {
        run += 1;
      }
      const offset = geometry.slabOffsetBytes + place * BLOCK_BYTES;
      if (run === 1) {
        const ringBlock = (this.keys[from] as number) % RING_BLOCKS_MAX;
        writes.push(ioWrite(offset, ring.addressOf(ringBlock), BLOCK_BYTES, false));
      } else {
        writes.push(this.vector(offset, from, run));
      }
      from += run;
    }
    return writes;
  }

  private vector(offsetBytes: number, from: number, run: number): IoRequest {
    const words = this.iovecs.u32;
    for (let index = 0; index < run; index++) {
      const ringBlock = (this.keys[from + index] as number) % RING_BLOCKS_MAX;
      const address = this.parts.ring.addressOf(ringBlock);
      const at = (from + index) * 4;
      words[at] = address >>> 0;
      words[at + 1] = (address / TWO_32) | 0;
      words[at + 2] = BLOCK_BYTES;
      words[at + 3] = 0;
    }
    return {
      kind: IO_WRITEV,
      offsetBytes,
      address: this.iovecs.address + from * IOVEC_BYTES,
      bytes: run * BLOCK_BYTES,
      durable: false,
      iovecCount: run,
    };
  }
}
