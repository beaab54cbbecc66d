// Recovery: from what is on the disk to a store that serves. Nothing proportional to the disk is
// read but the bitmap, the extents and the volumes (some MiB for each TiB); pages come at first
// touch.
//
//   superblock -> L2 -> L1, bitmap, extents, volumes -> log -> ring -> verify tail
//
// After a clean stop log and ring hold nothing and are not read.
//
// Invariant: recovery writes nothing. Where acknowledged data is lost it ends with an error that
// says what is lost, and the disk stays as it is.

import { assert } from "../base/index.ts";
import type { Arena } from "../ports/index.ts";
import { subArena } from "./checkpoint.ts";
import { StoreError } from "./errors.ts";
import { type Geometry, superblockOffset } from "./geometry.ts";
import {
  BLOCK_BYTES,
  BLOCK_WORDS,
  EXTENT_PAGES,
  PAGE_KIND_L1,
  PAGE_KIND_L2,
  PAGE_KIND_LEAF,
  PAGE_PAYLOAD_OFFSET,
  PAGE_PAYLOAD_WORDS,
  RECORD_COMMIT,
  RECORD_DOUBT,
  RECORD_EXTENT,
  RECORD_HEAD_BYTES,
  RECORD_VOLUME,
  SLAB_BLOCKS,
  STATE_CLEAN,
  SUPERBLOCK_COPIES,
} from "./layouts.ts";
import type { MetadataLog } from "./metadata-log.ts";
import { POINTER_NONE, pageFault, pageOffset } from "./page-tree.ts";
import type { StoreParts } from "./parts.ts";
import { PendingByPage } from "./pending-records.ts";
import {
  blockCountOf,
  extentOf,
  firstBlockOf,
  freedOf,
  hasData,
  isBlockRecord,
  isInGroup,
  locationOf,
  putHead,
  RECORD_HEAD_WORDS,
  RECORD_VOID,
  slabOf,
  stampHighOf,
  stampLowOf,
  typeOf,
} from "./records.ts";
import { LogReader } from "./recovery-log.ts";
import { type FoundRecord, RingReader } from "./recovery-ring.ts";
import type { RingIndex } from "./ring-index.ts";
import type { RingJournal } from "./ring-journal.ts";
import type { SlabMap } from "./slab-map.ts";
import type { StampHistory } from "./stamp-history.ts";
import {
  type CopyFound,
  checkVersion,
  chooseSuperblock,
  decodeSuperblock,
  type Superblock,
} from "./superblock.ts";
import { uuidText } from "./superblock-facts.ts";
import type { ExtentTable, VolumeTable } from "./tables.ts";
import { type IoTask, ioRead, ioSync } from "./task.ts";

export interface UncertainWrite {
  /** UUID; "" when nobody owns the extent any more. */
  readonly volume: string;
  readonly extent: number;
  readonly block: number;
}

/** What a recovery found, for status and events. */
export interface RecoveryReport {
  readonly wasClean: boolean;
  readonly logRecords: number;
  readonly ringRecords: number;
  readonly ringGroups: number;
  /** Journaled blocks that rotted in the ring: reading them is an error. */
  readonly rottenBlocks: number;
  /** Writes whose data had not arrived at the crash: dropped. None was known to be acknowledged. */
  readonly uncertain: readonly UncertainWrite[];
  readonly cutGroups: number;
}

export interface RecoveryParts extends StoreParts {
  readonly ring: RingJournal;
  readonly index: RingIndex;
  readonly metadataLog: MetadataLog;
  readonly slabs: SlabMap;
  readonly volumes: VolumeTable;
  readonly extents: ExtentTable;
  readonly history: StampHistory;
}

const CHUNK_PAGES = 64;

/** Reads the four copies. `arena` holds as many blocks. */
export function* readSuperblock(
  diskBytes: number,
  arena: Arena,
  memory: StoreParts["memory"],
): IoTask<Superblock | StoreError> {
  const found: CopyFound[] = [];
  for (let copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
    const address = arena.address + copy * BLOCK_BYTES;
    const result = yield [ioRead(superblockOffset(diskBytes, copy), address, BLOCK_BYTES)];
    if (result !== 0) found.push({ kind: "damaged", reason: `read: ${result}` });
    else found.push(decodeSuperblock(subArena(arena, copy), memory));
  }
  try {
    const superblock = chooseSuperblock(found);
    if (superblock === null) {
      return new StoreError("DISK_FOREIGN", "the disk holds no store", {
        advice: "Format it with: ringstore disk init PATH",
      });
    }
    checkVersion(superblock);
    return superblock;
  } catch (error) {
    if (error instanceof StoreError) return error;
    throw error;
  }
}

export class Recovery {
  readonly pending: PendingByPage = new PendingByPage();
  step = "pages";
  /** Records whose slabs a replica's owner must hear of: they go into their pages at once. */
  doubtCount = 0;
  private readonly parts: RecoveryParts;
  private readonly superblock: Superblock;
  private readonly geometry: Geometry;

  constructor(parts: RecoveryParts, superblock: Superblock) {
    this.parts = parts;
    this.superblock = superblock;
    this.geometry = parts.geometry;
  }

  *run(): IoTask<RecoveryReport | StoreError> {
    if (this.parts.flushNeeded) {
      // What a killed predecessor wrote may be in the cache only: what is read is built upon.
      const synced = yield [ioSync()];
      if (synced !== 0) return new StoreError("DISK_FAILED", `flush: ${synced}`);
    }
    const error = yield* this.readPages();
    if (error !== null) return error;
    this.parts.history.load(this.parts.tree, this.geometry);
    if (this.superblock.state === STATE_CLEAN) return this.resumeClean();
    this.step = "log";
    const { parts, superblock } = this;
    const reader = new LogReader(parts, superblock);
    const log = yield* reader.read();
    if (log instanceof StoreError) {
      parts.memory.free(reader.arena);
      return log;
    }
    for (const at of log.records) this.take(log.arena.u32, at);
    parts.memory.free(log.arena);
    this.step = "ring";
    const ringReader = new RingReader(parts, parts.ring);
    const { settledLsn, ringTailBlock: tailBlock } = log;
    const previousCrc = log.ringTailPreviousCrc;
    const found = yield* ringReader.read({ settledLsn, tailBlock, previousCrc });
    if (found instanceof StoreError) return found;
    this.step = "tail";
    const voids = yield* ringReader.verifyTail(found.records);
    if (voids instanceof StoreError) return voids;
    const lost = new Set(voids);
    const uncertain: UncertainWrite[] = [];
    for (const record of found.records) {
      if (lost.has(record)) uncertain.push(this.takeLost(record));
      else this.takeRing(record);
    }
    for (const at of found.rotten) this.takeRotten(at);
    parts.slabs.countUsed();
    const { lastLsn, headBlock, lastCrc } = found;
    parts.ring.resume({
      tailBlock,
      headBlock,
      lastLsn,
      settledLsn,
      lastCrc,
      tailPreviousCrc: previousCrc,
    });
    parts.metadataLog.resume(log.position, settledLsn, log.usedBlocks);
    return {
      wasClean: false,
      logRecords: log.records.length,
      ringRecords: found.records.length,
      ringGroups: lastLsn - settledLsn,
      rottenBlocks: found.rottenBlocks,
      uncertain,
      cutGroups: found.cutGroups,
    };
  }

  private firstBlockOfExtent(at: number): number {
    const { words } = this.parts.ring;
    return slabOf(words, at) * SLAB_BLOCKS + firstBlockOf(words, at);
  }

  /** Volume that owns the extent of the record, or -1. */
  private ownerOf(words: Uint32Array, at: number): number {
    return this.parts.extents.ownerOf(extentOf(words, at)) - 1;
  }

  /** The record's data had not arrived: it counts for nothing, but a replica's owner must know. */
  private takeLost({ at }: FoundRecord): UncertainWrite {
    const { ring, volumes, planted } = this.parts;
    const owner = this.ownerOf(ring.words, at);
    const isReplica = owner !== -1 && volumes.isReplica(owner) && !planted.forgetUncertain;
    const type = isReplica ? RECORD_DOUBT : RECORD_VOID;
    ring.words[at] = ((ring.words[at] as number) & ~0xff) | type;
    this.take(ring.words, at);
    return {
      volume: owner === -1 ? "" : uuidText(volumes.entry(owner).uuid),
      extent: extentOf(ring.words, at),
      block: this.firstBlockOfExtent(at),
    };
  }

  /** A journaled record with rotten blocks stays, and reading them is an error. */
  private takeRotten(at: number): void {
    const { ring, volumes } = this.parts;
    const owner = this.ownerOf(ring.words, at);
    if (owner === -1 || !volumes.isReplica(owner)) return;
    const doubt = ring.words.slice(at, at + RECORD_HEAD_WORDS);
    putHead(
      doubt,
      0,
      RECORD_DOUBT,
      0,
      firstBlockOf(doubt, 0),
      blockCountOf(doubt, 0),
      extentOf(doubt, 0),
      slabOf(doubt, 0),
      RECORD_HEAD_BYTES,
    );
    this.take(doubt, 0);
  }

  private resumeClean(): RecoveryReport {
    const { superblock, parts } = this;
    const { checkpointLsn, ringTailBlock, ringTailPreviousCrc } = superblock;
    parts.slabs.countUsed();
    parts.ring.resume({
      tailBlock: ringTailBlock,
      headBlock: ringTailBlock,
      lastLsn: checkpointLsn,
      settledLsn: checkpointLsn,
      lastCrc: ringTailPreviousCrc,
      tailPreviousCrc: ringTailPreviousCrc,
    });
    parts.metadataLog.resume(
      {
        block: superblock.logTailBlock,
        sequence: superblock.logTailSequence,
        previousCrc: superblock.logTailPreviousCrc,
      },
      checkpointLsn,
      0,
    );
    return {
      wasClean: true,
      logRecords: 0,
      ringRecords: 0,
      ringGroups: 0,
      rottenBlocks: 0,
      uncertain: [],
      cutGroups: 0,
    };
  }

  /** L2 pages, then the L1 pages of the resident leaves, then those leaves. */
  private *readPages(): IoTask<StoreError | null> {
    const { tree } = this.parts;
    tree.l2.set(this.superblock.l2Pointers.subarray(0, tree.l2.length));
    const buffer = this.parts.memory.allocate(CHUNK_PAGES * BLOCK_BYTES);
    try {
      return yield* this.readTree(buffer);
    } finally {
      this.parts.memory.free(buffer);
    }
  }

  private *readTree(buffer: Arena): IoTask<StoreError | null> {
    const { tree } = this.parts;
    const all = (count: number): number[] => Array.from({ length: count }, (_, index) => index);
    const l1Needed = tree.l1Of(this.geometry.slabPageStart - 1) + 1;
    const steps: [number, number[], Uint32Array, (number: number, at: number) => void][] = [
      [PAGE_KIND_L2, all(tree.l2.length), tree.l2, (l2, at) => tree.loadL2(l2, buffer.u32, at)],
      [PAGE_KIND_L1, all(l1Needed), tree.l1, (l1, at) => tree.loadL1(l1, buffer.u32, at)],
      [
        PAGE_KIND_LEAF,
        all(this.geometry.slabPageStart),
        tree.leaf,
        (leaf, at) => this.loadResident(leaf, buffer.u32, at),
      ],
    ];
    for (const [kind, numbers, pointers, load] of steps) {
      const present = numbers.filter((number) => pointers[number] !== POINTER_NONE);
      for (let from = 0; from < present.length; from += CHUNK_PAGES) {
        const chunk = present.slice(from, from + CHUNK_PAGES);
        const error = yield* this.readChunk(kind, chunk, pointers, buffer, load);
        if (error !== null) return error;
      }
    }
    return null;
  }

  private *readChunk(
    kind: number,
    numbers: readonly number[],
    pointers: Uint32Array,
    buffer: Arena,
    load: (number: number, at: number) => void,
  ): IoTask<StoreError | null> {
    const reads = numbers.map((number, index) => {
      const offset = pageOffset(this.geometry, kind, number, pointers[number] as number);
      return ioRead(offset, buffer.address + index * BLOCK_BYTES, BLOCK_BYTES);
    });
    const result = yield reads;
    if (result !== 0) return new StoreError("DISK_FAILED", `pages cannot be read: ${result}`);
    for (const [index, number] of numbers.entries()) {
      const at = index * BLOCK_WORDS;
      const page = { kind, number, pointer: pointers[number] as number };
      const fault = pageFault(page, buffer.u32, buffer.address, at, this.parts);
      if (fault !== null && !this.parts.planted.acceptAnyPage) {
        return new StoreError("DISK_DAMAGED", `${pageName(kind, number)}: ${fault}`, {
          advice: "The disk lost or damaged metadata. Restore from another replica.",
        });
      }
      load(number, at);
    }
    return null;
  }

  private loadResident(leaf: number, words: Uint32Array, at: number): void {
    const { volumes, extents, slabs } = this.parts;
    const { extentPageStart, bitmapPageStart } = this.geometry;
    const from = at + PAGE_PAYLOAD_OFFSET / 4;
    const payload = words.subarray(from, from + PAGE_PAYLOAD_WORDS);
    if (leaf < extentPageStart) volumes.words.set(payload, leaf * PAGE_PAYLOAD_WORDS);
    else if (leaf < bitmapPageStart) {
      extents.words.set(payload, (leaf - extentPageStart) * PAGE_PAYLOAD_WORDS);
    } else slabs.used.set(payload, (leaf - bitmapPageStart) * PAGE_PAYLOAD_WORDS);
  }

  /** What a record does at once; for its page it waits. */
  private take(words: Uint32Array, at: number): void {
    const { volumes, extents, slabs } = this.parts;
    const type = typeOf(words, at);
    if (type === RECORD_VOID) return;
    if (type === RECORD_VOLUME) volumes.apply(words, at);
    else if (type === RECORD_EXTENT) extents.apply(words, at);
    else if (type === RECORD_COMMIT) volumes.applyCommit(words, at);
    else if (type === RECORD_DOUBT) {
      extents.setDoubtful(extentOf(words, at), true);
      this.doubtCount += 1;
      this.pending.add(this.pageOf(words, at), words, at);
    } else {
      const location = locationOf(words, at);
      const freed = freedOf(words, at);
      assert(location <= slabs.slabCount && freed <= slabs.slabCount, "a slab that cannot be");
      if (location !== 0) slabs.setUsed(location - 1, true);
      if (freed !== 0 && !this.parts.planted.replayLeaks) slabs.setUsed(freed - 1, false);
      const owner = this.ownerOf(words, at);
      if (owner !== -1) volumes.noteNewest(owner, stampLowOf(words, at), stampHighOf(words, at));
      this.pending.add(this.pageOf(words, at), words, at);
    }
  }

  private pageOf(words: Uint32Array, at: number): number {
    const first = this.geometry.slabPageStart + extentOf(words, at) * EXTENT_PAGES;
    return first + (slabOf(words, at) >>> 5);
  }

  private takeRing(record: FoundRecord): void {
    const { ring, index } = this.parts;
    const { at, dataBlock } = record;
    const type = typeOf(ring.words, at);
    this.take(ring.words, at);
    if (!isBlockRecord(type)) return;
    const extent = extentOf(ring.words, at);
    const first = this.firstBlockOfExtent(at);
    const inGroup = isInGroup(ring.words, at);
    for (let block = 0; block < blockCountOf(ring.words, at); block++) {
      if (inGroup && hasData(ring.words, at, block))
        index.set(extent, first + block, dataBlock + block);
      else index.remove(extent, first + block);
    }
  }
}

export function pageName(kind: number, number: number): string {
  if (kind === PAGE_KIND_LEAF) return `page ${number}`;
  return `${kind === PAGE_KIND_L1 ? "L1" : "L2"} page ${number}`;
}
