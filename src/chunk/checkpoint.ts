// Checkpoints: every changed page goes into the slot that the last checkpoint does not use, then
// the pages that point to it, then the superblock; after that the log up to where it stood when
// the checkpoint began is no longer needed.
//
//   note the log's position -> leaves -> flush -> L1 -> L2 -> flush -> superblock 0,1 | 2,3
//                                                                       '-> cut the log's tail
//
// Invariants: nothing the last checkpoint points to is overwritten before the next is complete; a
// page is written as it is in memory, so it may already hold records newer than the noted
// position, which replay then applies once more; a generation is used once.

import { assert } from "../base/index.ts";
import type { Arena } from "../ports/index.ts";
import { DOUBTS, isEmptyPage } from "./apply.ts";
import { superblockOffset } from "./geometry.ts";
import {
  BLOCK_BYTES,
  BLOCK_WORDS,
  PAGE_KIND_L1,
  PAGE_KIND_L2,
  PAGE_KIND_LEAF,
  PAGE_PAYLOAD_OFFSET,
  PAGE_PAYLOAD_WORDS,
  SUPERBLOCK_COPIES,
} from "./layouts.ts";
import type { MetadataLog } from "./metadata-log.ts";
import type { PageCache } from "./page-cache.ts";
import { nextPointer, POINTER_NONE, pageOffset, sealPage } from "./page-tree.ts";
import type { StoreParts } from "./parts.ts";
import type { RingJournal } from "./ring-journal.ts";
import type { SlabMap } from "./slab-map.ts";
import type { StampHistory } from "./stamp-history.ts";
import { encodeSuperblock, type Superblock, writeOrder } from "./superblock.ts";
import type { ExtentTable, VolumeTable } from "./tables.ts";
import { type IoRequest, type IoTask, ioSync, ioWrite } from "./task.ts";

/** Pages copied and written at a time. */
const CHUNK_PAGES = 32;

export interface CheckpointParts extends StoreParts {
  readonly cache: PageCache;
  readonly metadataLog: MetadataLog;
  readonly ring: RingJournal;
  readonly slabs: SlabMap;
  readonly volumes: VolumeTable;
  readonly extents: ExtentTable;
  readonly history: StampHistory;
}

/** Pages whose words are always in memory: a window of PAGE_PAYLOAD_WORDS for each. */
interface ResidentPages {
  readonly firstPage: number;
  readonly words: Uint32Array;
  readonly dirty: Uint8Array;
}

export class Checkpoint {
  superblock: Superblock;
  count = 0;
  pagesWritten = 0;
  /** Where scrub stands; goes into every superblock. */
  scrubPage = 0;
  scrubRounds = 0;
  /** What readers of the disk must know; goes into every superblock. */
  featuresIncompatible: number;
  private readonly parts: CheckpointParts;
  readonly buffer: Arena;
  readonly superblockBuffer: Arena;

  constructor(parts: CheckpointParts, superblock: Superblock) {
    this.parts = parts;
    this.superblock = superblock;
    this.scrubPage = superblock.scrubPage;
    this.scrubRounds = superblock.scrubRounds;
    this.featuresIncompatible = superblock.featuresIncompatible;
    this.buffer = parts.memory.allocate(CHUNK_PAGES * BLOCK_BYTES);
    this.superblockBuffer = parts.memory.allocate(SUPERBLOCK_COPIES * BLOCK_BYTES);
  }

  /** Does the superblock on the disk not name what it should? */
  get isFeatureNew(): boolean {
    return this.featuresIncompatible !== this.superblock.featuresIncompatible;
  }

  private resident(): ResidentPages[] {
    const { geometry, volumes, extents, slabs } = this.parts;
    return [
      { firstPage: 0, words: volumes.words, dirty: volumes.dirtyPages },
      { firstPage: geometry.extentPageStart, words: extents.words, dirty: extents.dirtyPages },
      { firstPage: geometry.bitmapPageStart, words: slabs.used, dirty: slabs.dirtyPages },
    ];
  }

  /**
   * Writes one. With `keepTail` the log keeps its tail: records from before are still unapplied.
   * Returns 0, or a negated errno.
   */
  *run(state: number, keepTail: boolean): IoTask<number> {
    const { metadataLog, ring, flushNeeded, planted, history } = this.parts;
    history.checkpointBegins(this.superblock.generation);
    const position = metadataLog.position;
    const settledLsn = metadataLog.settledLsn;
    const ringTailBlock = ring.tailStart(settledLsn);
    const ringTailPreviousCrc = ring.crcOf(settledLsn);
    const generation = this.superblock.generation + 1;
    assert(generation < 0x7fffffff, "the generations of pages are used up");
    let next: Superblock = { ...this.superblock, generation, state };
    if (!keepTail) {
      next.checkpointLsn = settledLsn;
      next.logTailBlock = position.block;
      next.logTailSequence = position.sequence;
      next.logTailPreviousCrc = position.previousCrc;
      next.ringTailBlock = ringTailBlock;
      next.ringTailPreviousCrc = ringTailPreviousCrc;
    }
    if (planted.superblockFirst) {
      const early = yield* this.writeSuperblock(next);
      if (early !== 0) return early;
    }
    let result = yield* this.writeLeaves(generation);
    if (result === 0) result = yield* this.writeInner(PAGE_KIND_L1, generation);
    if (result === 0) result = yield* this.writeInner(PAGE_KIND_L2, generation);
    if (result === 0 && flushNeeded) result = yield [ioSync()];
    if (result !== 0) return result;
    next = { ...next, sequence: this.superblock.sequence };
    next.l2Pointers = this.parts.tree.l2.slice();
    result = yield* this.writeSuperblock(next);
    if (result !== 0) return result;
    if (!keepTail) metadataLog.truncate(position);
    this.count += 1;
    return 0;
  }

  /** All four copies, with the next sequence; two and two. */
  *writeSuperblock(wanted: Superblock): IoTask<number> {
    const { memory, geometry, flushNeeded, planted } = this.parts;
    const superblock: Superblock = {
      ...wanted,
      sequence: this.superblock.sequence + 1,
      scrubPage: this.scrubPage,
      scrubRounds: this.scrubRounds,
      featuresIncompatible: this.featuresIncompatible,
    };
    const order = writeOrder(planted.superblockFixedOrder ? undefined : wanted.copiesFound);
    delete superblock.copiesFound;
    for (const from of [0, 2]) {
      const writes: IoRequest[] = [];
      for (const copy of order.slice(from, from + 2)) {
        encodeSuperblock(superblock, copy, subArena(this.superblockBuffer, copy), memory);
        const address = this.superblockBuffer.address + copy * BLOCK_BYTES;
        const offset = superblockOffset(geometry.diskBytes, copy);
        writes.push(ioWrite(offset, address, BLOCK_BYTES, flushNeeded));
      }
      const result = yield writes;
      if (result !== 0) return result;
    }
    this.superblock = superblock;
    return 0;
  }

  private *writeLeaves(generation: number): IoTask<number> {
    for (const pages of this.resident()) {
      const result = yield* this.writeResident(pages, generation);
      if (result !== 0) return result;
    }
    const { cache } = this.parts;
    const frames: number[] = [];
    for (let frame = 0; frame < cache.frameCount; frame++) {
      if (cache.dirty[frame] === 1) frames.push(frame);
    }
    for (let from = 0; from < frames.length; from += CHUNK_PAGES) {
      const chunk = frames.slice(from, from + CHUNK_PAGES);
      const result = yield* this.writeFrames(chunk, generation);
      if (result !== 0) return result;
    }
    return 0;
  }

  private *writeFrames(frames: readonly number[], generation: number): IoTask<number> {
    const { cache, tree } = this.parts;
    const writes: IoRequest[] = [];
    const pointers: number[] = [];
    for (const frame of frames) {
      const page = cache.pageOf[frame] as number;
      // Pinned, so that nobody reads the old slot while the new one is on its way.
      cache.pins[frame] = (cache.pins[frame] as number) + 1;
      cache.markClean(frame);
      if (isEmptyPage(cache.words, frame * BLOCK_WORDS)) {
        pointers.push(POINTER_NONE);
        continue;
      }
      const pointer = nextPointer(tree.leaf[page] as number, generation);
      pointers.push(pointer);
      const from = frame * BLOCK_WORDS + PAGE_PAYLOAD_OFFSET / 4;
      const payload = cache.words.subarray(from, from + PAGE_PAYLOAD_WORDS);
      const doubts = cache.words[frame * BLOCK_WORDS + DOUBTS] as number;
      writes.push(this.seal(writes.length, PAGE_KIND_LEAF, page, pointer, payload, doubts));
    }
    const result = yield writes;
    if (result !== 0) return result;
    for (const [index, frame] of frames.entries()) {
      tree.setLeaf(cache.pageOf[frame] as number, pointers[index] as number);
      cache.pins[frame] = (cache.pins[frame] as number) - 1;
    }
    cache.serveWaiters();
    return 0;
  }

  private *writeResident(pages: ResidentPages, generation: number): IoTask<number> {
    const { tree } = this.parts;
    for (let from = 0; from < pages.dirty.length; ) {
      const writes: IoRequest[] = [];
      const written: [page: number, pointer: number][] = [];
      while (from < pages.dirty.length && writes.length < CHUNK_PAGES) {
        if (pages.dirty[from] === 1) {
          pages.dirty[from] = 0;
          const page = pages.firstPage + from;
          const pointer = nextPointer(tree.leaf[page] as number, generation);
          const at = from * PAGE_PAYLOAD_WORDS;
          const payload = pages.words.subarray(at, at + PAGE_PAYLOAD_WORDS);
          writes.push(this.seal(writes.length, PAGE_KIND_LEAF, page, pointer, payload));
          written.push([page, pointer]);
        }
        from += 1;
      }
      const result = yield writes;
      if (result !== 0) return result;
      for (const [page, pointer] of written) tree.setLeaf(page, pointer);
    }
    return 0;
  }

  /** Writes the changed L1 pages, or the L2 pages above them. */
  private *writeInner(kind: number, generation: number): IoTask<number> {
    const { tree } = this.parts;
    const own = kind === PAGE_KIND_L1 ? tree.l1 : tree.l2;
    for (let from = 0; from < own.length; ) {
      const writes: IoRequest[] = [];
      const written: [number: number, pointer: number][] = [];
      while (from < own.length && writes.length < CHUNK_PAGES) {
        if (kind === PAGE_KIND_L2 || tree.l1Dirty[from] === 1) {
          if (kind === PAGE_KIND_L1) tree.l1Dirty[from] = 0;
          const pointer = nextPointer(own[from] as number, generation);
          tree.fill(kind, from, this.buffer.u32, writes.length * BLOCK_WORDS);
          writes.push(this.seal(writes.length, kind, from, pointer, null));
          written.push([from, pointer]);
        }
        from += 1;
      }
      const result = yield writes;
      if (result !== 0) return result;
      for (const [number, pointer] of written) own[number] = pointer;
    }
    return 0;
  }

  private seal(
    index: number,
    kind: number,
    number: number,
    pointer: number,
    payload: Uint32Array | null,
    doubts = 0,
  ): IoRequest {
    const words = this.buffer.u32;
    const at = index * BLOCK_WORDS;
    if (payload !== null) words.set(payload, at + PAGE_PAYLOAD_OFFSET / 4);
    const page = { kind, number, pointer, doubts };
    sealPage(page, words, this.buffer.address, at, this.parts);
    this.pagesWritten += 1;
    const offset = pageOffset(this.parts.geometry, kind, number, pointer);
    return ioWrite(offset, this.buffer.address + index * BLOCK_BYTES, BLOCK_BYTES, false);
  }
}

/** The 4 KiB at `index` of an arena, as one of its own. */
export function subArena(arena: Arena, index: number): Arena {
  const from = index * BLOCK_BYTES;
  return {
    address: arena.address + from,
    bytes: BLOCK_BYTES,
    u8: arena.u8.subarray(from, from + BLOCK_BYTES),
    u16: arena.u16.subarray(from / 2, (from + BLOCK_BYTES) / 2),
    u32: arena.u32.subarray(from / 4, (from + BLOCK_BYTES) / 4),
    f64: arena.f64.subarray(from / 8, (from + BLOCK_BYTES) / 8),
  };
}
