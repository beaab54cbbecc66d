// The offline checker: reads everything on a disk that nobody has open, writes nothing, and says
// what is wrong. It takes the same road as a recovery, and then walks every page and every block.
//
//   superblock copies -> recovery (pages, log, ring, tail) -> leaf pages -> blocks -> slab bitmap
//
// Severity: "error" is acknowledged data or metadata that is lost or contradicts itself; "warning"
// is redundancy or space lost; "note" is what a crash leaves and an opening puts right.

import { assert, type SegmentCopier } from "../base/index.ts";
import type { Arena, Disk, Memory, ReactorPort } from "../ports/index.ts";
import { entryAt, entryCrc, entryLocation, entryState, isDoubted } from "./apply.ts";
import { runBlocking } from "./blocking.ts";
import { subArena } from "./checkpoint.ts";
import { blockCrc } from "./checksum.ts";
import { StoreError } from "./errors.ts";
import type { BlockIo } from "./format-disk.ts";
import { type Geometry, geometryOf, superblockOffset } from "./geometry.ts";
import {
  BLOCK_BYTES,
  BLOCK_DATA,
  EXTENT_PAGES,
  PAGE_KIND_L1,
  PAGE_KIND_LEAF,
  PAGE_PAYLOAD_WORDS,
  PAGE_SLABS,
  SLAB_BLOCKS,
  SLAB_BYTES,
  SUPERBLOCK_COPIES,
} from "./layouts.ts";
import { MetadataLog } from "./metadata-log.ts";
import { OpTable } from "./op-table.ts";
import { PageTree, POINTER_NONE, pageFault, pageOffset } from "./page-tree.ts";
import type { StoreParts } from "./parts.ts";
import { NO_BUGS } from "./planted.ts";
import { pageName, Recovery, type RecoveryParts, readSuperblock } from "./recovery.ts";
import { RingIndex } from "./ring-index.ts";
import { RingJournal } from "./ring-journal.ts";
import { SlabMap } from "./slab-map.ts";
import { StampHistory } from "./stamp-history.ts";
import { decodeSuperblock, type Superblock } from "./superblock.ts";
import { type DiskFacts, factsOf } from "./superblock-facts.ts";
import { ExtentTable, VolumeTable } from "./tables.ts";

export interface CheckFinding {
  readonly severity: "error" | "warning" | "note";
  /** "superblock", "ring", "page 12", "extent 3 block 40" ... */
  readonly where: string;
  readonly message: string;
}

export interface CheckOptions {
  readonly finding: (finding: CheckFinding) => void;
  readonly progress: (doneBytes: number, totalBytes: number) => void;
}

export interface CheckReport {
  /** Null when there is no superblock to go by. */
  readonly facts: DiskFacts | null;
  readonly errorCount: number;
  readonly warningCount: number;
  readonly blocksVerified: number;
  readonly pagesVerified: number;
  readonly ringGroups: number;
  readonly logRecords: number;
  readonly usedBytes: number;
}

/** Throws StoreError where there is no store at all, or one that is too new. */
export function checkDisk(io: BlockIo, memory: Memory, options: CheckOptions): CheckReport {
  return new DiskCheck(io, memory, options).run();
}

const WHERE_MAX = 1000;

class DiskCheck {
  private readonly io: BlockIo;
  private readonly memory: Memory;
  private readonly options: CheckOptions;
  private readonly buffer: Arena;
  private readonly pages: Arena;
  private errorCount = 0;
  private warningCount = 0;
  private blocksVerified = 0;
  private pagesVerified = 0;
  private findingCount = 0;

  constructor(io: BlockIo, memory: Memory, options: CheckOptions) {
    this.io = io;
    this.memory = memory;
    this.options = options;
    this.buffer = memory.allocate(SLAB_BYTES);
    this.pages = memory.allocate(SUPERBLOCK_COPIES * BLOCK_BYTES);
  }

  private report(severity: CheckFinding["severity"], where: string, message: string): void {
    if (severity === "error") this.errorCount += 1;
    if (severity === "warning") this.warningCount += 1;
    this.findingCount += 1;
    if (this.findingCount <= WHERE_MAX) this.options.finding({ severity, where, message });
  }

  run(): CheckReport {
    const superblock = runBlocking(
      readSuperblock(this.io.capacityBytes, this.pages, this.memory),
      this.io,
    );
    if (superblock instanceof StoreError) {
      if (superblock.code !== "DISK_DAMAGED") throw superblock;
      this.report("error", "superblock", superblock.message);
      return this.summary(null, null, 0, 0);
    }
    this.checkCopies(superblock);
    let parts: RecoveryParts;
    try {
      parts = partsFor(superblock, geometryOf(superblock), this.memory);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      this.report("error", "superblock", error.message);
      return this.summary(superblock, null, 0, 0);
    }
    const recovery = new Recovery(parts, superblock);
    const found = runBlocking(recovery.run(), this.io);
    if (found instanceof StoreError) {
      this.report("error", "journal", found.message);
      return this.summary(superblock, null, 0, 0);
    }
    for (const { extent, block } of found.uncertain) {
      const what = "a write had not arrived when the store went down; opening drops it";
      this.report("note", `extent ${extent} block ${block}`, what);
    }
    if (found.rottenBlocks > 0) {
      this.report("error", "ring", `${found.rottenBlocks} journaled blocks do not match`);
    }
    this.walk(parts, recovery);
    return this.summary(superblock, parts, found.ringGroups, found.logRecords);
  }

  private summary(
    superblock: Superblock | null,
    parts: RecoveryParts | null,
    ringGroups: number,
    logRecords: number,
  ): CheckReport {
    return {
      facts: superblock === null ? null : factsOf(superblock),
      errorCount: this.errorCount,
      warningCount: this.warningCount,
      blocksVerified: this.blocksVerified,
      pagesVerified: this.pagesVerified,
      ringGroups,
      logRecords,
      usedBytes: (parts?.slabs.usedCount ?? 0) * SLAB_BYTES,
    };
  }

  private checkCopies(chosen: Superblock): void {
    for (let copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
      const found = decodeSuperblock(subArena(this.pages, copy), this.memory);
      const where = `superblock copy ${copy}`;
      if (found.kind !== "good") {
        const reason = found.kind === "damaged" ? found.reason : "nothing is there";
        const at = superblockOffset(chosen.diskBytes, copy);
        this.report("warning", where, `damaged at byte ${at}: ${reason}; the others agree`);
      } else if (found.superblock.sequence !== chosen.sequence) {
        const { sequence } = found.superblock;
        this.report("note", where, `sequence ${sequence}, the others have ${chosen.sequence}`);
      } else if (found.copy !== copy) {
        this.report("warning", where, `holds copy ${found.copy}: a misdirected write`);
      }
    }
  }

  private read(offsetBytes: number, address: number, bytes: number): number {
    const result = this.io.read(offsetBytes, address, bytes);
    return result === bytes ? 0 : result < 0 ? result : -1;
  }

  /** Every leaf page of every extent, every block in it, and who owns each slab. */
  private walk(parts: RecoveryParts, recovery: Recovery): void {
    const { geometry, tree, extents, slabs } = parts;
    const owners = new Int32Array(slabs.slabCount);
    const totalBytes = Math.max(slabs.usedCount * SLAB_BYTES, 1);
    for (let leaf = geometry.slabPageStart; leaf < geometry.leafCount; leaf++) {
      const hasRecords = recovery.pending.has(leaf);
      if (!this.loadPointers(parts, leaf)) continue;
      if (tree.leaf[leaf] === POINTER_NONE && !hasRecords) continue;
      if (!this.loadLeaf(parts, leaf)) continue;
      recovery.pending.applyTo(leaf, this.pages.u32, 0);
      const extent = Math.floor((leaf - geometry.slabPageStart) / EXTENT_PAGES);
      const first = ((leaf - geometry.slabPageStart) % EXTENT_PAGES) * PAGE_SLABS;
      for (let slab = 0; slab < PAGE_SLABS; slab++) {
        this.checkSlab(parts, extent, first + slab, owners);
      }
      if (extents.ownerOf(extent) === 0 && this.hasSlabs()) {
        this.report("error", pageName(PAGE_KIND_LEAF, leaf), "data in an extent without a volume");
      }
      this.options.progress(this.blocksVerified * BLOCK_BYTES, totalBytes);
    }
    for (let slab = 0; slab < slabs.slabCount; slab++) {
      if (!slabs.isUsed(slab) || owners[slab] !== 0) continue;
      this.report("warning", `slab ${slab}`, "marked as used, but nothing points to it");
    }
    this.options.progress(totalBytes, totalBytes);
  }

  private hasSlabs(): boolean {
    for (let slab = 0; slab < PAGE_SLABS; slab++) {
      if (entryLocation(this.pages.u32, entryAt(0, slab)) !== 0) return true;
    }
    return false;
  }

  /** The L1 page above a leaf. False when it is damaged: told once for all its leaves. */
  private loadPointers(parts: RecoveryParts, leaf: number): boolean {
    const { tree } = parts;
    if (tree.isKnown(leaf)) return true;
    const l1 = tree.l1Of(leaf);
    if (this.damagedL1.has(l1)) return false;
    const page = { kind: PAGE_KIND_L1, number: l1, pointer: tree.l1[l1] as number };
    const fault = this.readPage(parts, page);
    if (fault === null) {
      tree.loadL1(l1, this.pages.u32, 0);
      return true;
    }
    this.damagedL1.add(l1);
    this.report(
      "error",
      pageName(PAGE_KIND_L1, l1),
      `${fault}; ${PAGE_PAYLOAD_WORDS} pages below it are out of reach`,
    );
    return false;
  }

  private readonly damagedL1: Set<number> = new Set();

  private loadLeaf(parts: RecoveryParts, leaf: number): boolean {
    const pointer = parts.tree.leaf[leaf] as number;
    if (pointer === POINTER_NONE) {
      this.pages.u32.fill(0, 0, BLOCK_BYTES / 4);
      return true;
    }
    const fault = this.readPage(parts, { kind: PAGE_KIND_LEAF, number: leaf, pointer });
    if (fault === null) return true;
    this.report("error", pageName(PAGE_KIND_LEAF, leaf), fault);
    return false;
  }

  private readPage(
    parts: RecoveryParts,
    page: { readonly kind: number; readonly number: number; readonly pointer: number },
  ): string | null {
    const offset = pageOffset(parts.geometry, page.kind, page.number, page.pointer);
    const result = this.read(offset, this.pages.address, BLOCK_BYTES);
    if (result !== 0) return `cannot be read: ${result}`;
    this.pagesVerified += 1;
    return pageFault(page, this.pages.u32, this.pages.address, 0, parts);
  }

  private checkSlab(parts: RecoveryParts, extent: number, slab: number, owners: Int32Array): void {
    const words = this.pages.u32;
    const entry = entryAt(0, slab);
    const location = entryLocation(words, entry);
    const where = `extent ${extent} slab ${slab}`;
    if (isDoubted(words, 0, slab)) {
      const what = "a crash lost a write to it, and no whole write has come since: ask its owner";
      this.report("note", where, what);
    }
    let hasData = false;
    for (let block = 0; block < SLAB_BLOCKS; block++) {
      hasData ||= entryState(words, entry, block) === BLOCK_DATA;
    }
    if (location === 0) {
      if (hasData) this.report("error", where, "has data, but no place on the disk");
      return;
    }
    if (location > parts.slabs.slabCount) {
      this.report("error", where, `lies at slab ${location - 1}, behind the end`);
      return;
    }
    if (owners[location - 1] !== 0) {
      this.report("error", where, `shares slab ${location - 1} with another`);
    }
    owners[location - 1] = 1;
    if (!parts.slabs.isUsed(location - 1)) {
      this.report("error", where, `lies at slab ${location - 1}, which is marked as free`);
    }
    if (hasData) this.checkBlocks(parts, extent, slab, entry, location - 1);
  }

  private checkBlocks(
    parts: RecoveryParts,
    extent: number,
    slab: number,
    entry: number,
    place: number,
  ): void {
    const offset = parts.geometry.slabOffsetBytes + place * SLAB_BYTES;
    const whole = this.read(offset, this.buffer.address, SLAB_BYTES) === 0;
    for (let block = 0; block < SLAB_BLOCKS; block++) {
      if (entryState(this.pages.u32, entry, block) !== BLOCK_DATA) continue;
      const blockOfExtent = slab * SLAB_BLOCKS + block;
      const inRing = parts.index.find(extent, blockOfExtent);
      let address = this.buffer.address + block * BLOCK_BYTES;
      if (inRing !== -1) address = parts.ring.addressOf(inRing);
      else if (!whole && this.read(offset + block * BLOCK_BYTES, address, BLOCK_BYTES) !== 0) {
        const where = `extent ${extent} block ${blockOfExtent}`;
        this.report("error", where, `cannot be read (slab ${place})`);
        continue;
      }
      this.blocksVerified += 1;
      const crc = blockCrc(this.memory, address, blockOfExtent);
      if (crc === entryCrc(this.pages.u32, entry, block)) continue;
      const where = `extent ${extent} block ${blockOfExtent}`;
      const source = inRing === -1 ? `slab ${place}` : `ring block ${inRing}`;
      this.report("error", where, `does not match its checksum (${source})`);
    }
  }
}

/** What a recovery needs, and nothing that serves requests. */
function partsFor(superblock: Superblock, geometry: Geometry, memory: Memory): RecoveryParts {
  const nobody = null as unknown;
  const base: StoreParts = {
    geometry,
    disk: nobody as Disk,
    memory,
    reactor: nobody as ReactorPort,
    log: { log: () => undefined },
    copier: nobody as SegmentCopier,
    ops: new OpTable(1),
    tree: new PageTree(geometry),
    uuidWords: new Uint32Array(superblock.uuid.slice().buffer),
    journalId: superblock.journalId,
    planted: NO_BUGS,
    flushNeeded: true,
    pageDamaged: () => undefined,
    diskFailed: () => assert(false, "a check does not write"),
  };
  const ring = new RingJournal(base);
  const volumes = new VolumeTable(geometry);
  return {
    ...base,
    ring,
    index: new RingIndex(geometry.ringBlocks),
    metadataLog: new MetadataLog(base, ring),
    slabs: new SlabMap(geometry.slabCount),
    volumes,
    extents: new ExtentTable(geometry),
    history: new StampHistory(volumes),
  };
}
