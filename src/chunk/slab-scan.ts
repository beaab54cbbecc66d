// Looks for slabs of a replica that were stamped above a given stamp, and for slabs that it cannot
// vouch for: with writes that a crash lost, or with damaged blocks. Pages are read as far as they
// can hold any (stamp-history.ts), some at a time, and never kept.
//
//   position = extent index * 128 + page; pages are asked for in that order, in batches
//
// An extent that a recovery has marked for doubts is read whole each time, until a scan finds none.
//
// Invariant: what a slab had when the scan began, or newer, is what is told of it. Slabs written
// meanwhile may be missing: whoever writes them knows.

import { assert } from "../base/index.ts";
import type { SlabStamp } from "../ports/index.ts";
import { DOUBTS, entryAt, entryStampHigh, entryStampLow, isDoubted } from "./apply.ts";
import type { Damage } from "./damage.ts";
import { BLOCK_WORDS, EXTENT_PAGES, PAGE_SLABS } from "./layouts.ts";
import { OP_KIND_SCAN } from "./op-table.ts";
import { PAGE_READY } from "./page-cache.ts";
import { generationOf, POINTER_NONE } from "./page-tree.ts";
import type { ReplicaGate } from "./replica-gate.ts";
import type { StampHistory } from "./stamp-history.ts";
import { epochOf, isNewer, sequenceOf } from "./stamps.ts";
import { EXTENT_NONE } from "./tables.ts";
import type { VolumeSetParts } from "./volume-set.ts";

export interface ScanParts extends VolumeSetParts {
  readonly damage: Damage;
  readonly history: StampHistory;
}

export interface ScanOptions {
  readonly gate: ReplicaGate;
  readonly sinceLow: number;
  readonly sinceHigh: number;
  /** Position to begin at. */
  readonly from: number;
  /** Ends with the page that makes it so many slabs, or some more. */
  readonly slabsMax: number;
}

export interface ScanResult {
  readonly above: readonly SlabStamp[];
  readonly uncertain: readonly SlabStamp[];
  /** Where to go on; null at the end. */
  readonly next: number | null;
}

interface PageFound {
  readonly above: SlabStamp[];
  readonly uncertain: SlabStamp[];
}

const BATCH_PAGES = 16;
/** Operations left to others. */
const OPS_RESERVED = 4;
/** Positions passed by in one go: the rest waits for the next turn of the loop. */
const POSITIONS_PER_TURN = 16384;

class SlabScan {
  readonly options: ScanOptions;
  readonly done: (result: ScanResult) => void;
  /** Whatever is stamped above `since` is in no older page of the disk. */
  readonly generation: number;
  position: number;
  loadingCount = 0;
  isRunning = false;
  /** By page of the batch. */
  batch: PageFound[] = [];
  readonly above: SlabStamp[] = [];
  readonly uncertain: SlabStamp[] = [];
  /** Marked extents that were looked at from their first page on: still without a doubt? */
  readonly suspects: Map<number, boolean> = new Map();

  constructor(options: ScanOptions, generation: number, done: (result: ScanResult) => void) {
    this.options = options;
    this.generation = generation;
    this.done = done;
    this.position = options.from;
  }

  takeBatch(): void {
    for (const page of this.batch) {
      this.above.push(...page.above);
      this.uncertain.push(...page.uncertain);
    }
    this.batch = [];
  }
}

interface Loading {
  readonly scan: SlabScan;
  readonly found: PageFound;
  readonly index: number;
  readonly page: number;
}

export class SlabScans {
  private readonly parts: ScanParts;
  private readonly wantTurn: () => void;
  private readonly loading: Map<number, Loading> = new Map();
  /** Those that wait for operations, or for the next turn. */
  private waiting: SlabScan[] = [];

  constructor(parts: ScanParts, wantTurn: () => void) {
    this.parts = parts;
    this.wantTurn = wantTurn;
  }

  get isWaiting(): boolean {
    return this.waiting.length > 0;
  }

  get isBusy(): boolean {
    return this.waiting.length > 0 || this.loading.size > 0;
  }

  start(options: ScanOptions, done: (result: ScanResult) => void): void {
    const { gate, sinceLow, sinceHigh } = options;
    const generation = this.parts.history.generationFor(gate.volume, sinceLow, sinceHigh);
    this.run(new SlabScan(options, generation, done));
  }

  resume(): void {
    if (this.waiting.length === 0) return;
    for (const scan of this.waiting.splice(0)) this.run(scan);
  }

  /** Batch after batch. Not from within itself: pages in memory are ready at once. */
  private run(scan: SlabScan): void {
    if (scan.isRunning || scan.loadingCount > 0) return;
    scan.isRunning = true;
    const endPosition = scan.options.gate.map.length * EXTENT_PAGES;
    let budget = POSITIONS_PER_TURN;
    while (scan.loadingCount === 0) {
      scan.takeBatch();
      const isFull = scan.above.length + scan.uncertain.length >= scan.options.slabsMax;
      if (scan.position >= endPosition || isFull) {
        const next = scan.position >= endPosition ? null : scan.position;
        this.clearMarks(scan);
        scan.done({ above: scan.above, uncertain: scan.uncertain, next });
        return;
      }
      budget -= this.loadBatch(scan, endPosition, Math.max(budget, 1));
      const isStuck = scan.loadingCount === 0 && scan.batch.length === 0;
      if (isStuck && scan.position < endPosition) {
        this.waiting.push(scan);
        this.wantTurn();
        break;
      }
    }
    scan.isRunning = false;
  }

  /** No doubt is in any page of these extents: nothing but a recovery makes new ones. */
  private clearMarks(scan: SlabScan): void {
    const extent = scan.options.gate.map[Math.floor(scan.position / EXTENT_PAGES)];
    for (const [suspect, isClean] of scan.suspects) {
      const isWhole = suspect !== extent || scan.position % EXTENT_PAGES === 0;
      if (isClean && isWhole) this.parts.extents.setDoubtful(suspect, false);
    }
  }

  /** Asks for the pages of the next positions. Returns how many positions it passed. */
  private loadBatch(scan: SlabScan, endPosition: number, positionsMax: number): number {
    const from = scan.position;
    const { ops } = this.parts;
    // Counted once more than it is, so that pages in memory do not end the batch.
    scan.loadingCount += 1;
    while (scan.position < endPosition && scan.position - from < positionsMax) {
      const { position } = scan;
      const index = Math.floor(position / EXTENT_PAGES);
      const extent = scan.options.gate.map[index] as number;
      if (extent === EXTENT_NONE) {
        scan.position = (index + 1) * EXTENT_PAGES;
        continue;
      }
      const page = position % EXTENT_PAGES;
      const isMarked = page === 0 && this.parts.extents.isDoubtful(extent);
      if (isMarked && !scan.suspects.has(extent)) scan.suspects.set(extent, true);
      if (this.mayHold(scan, extent, page)) {
        if (scan.batch.length === BATCH_PAGES || ops.freeCount <= OPS_RESERVED) break;
        this.load(scan, index, extent, page);
      }
      scan.position = position + 1;
    }
    scan.loadingCount -= 1;
    return scan.position - from;
  }

  private mayHold(scan: SlabScan, extent: number, page: number): boolean {
    const { geometry, tree, cache, pending, extents, damage } = this.parts;
    const leaf = geometry.slabPageStart + extent * EXTENT_PAGES + page;
    if (cache.holds(leaf) || pending.has(leaf)) return true;
    const isKnown = tree.isKnown(leaf);
    if (isKnown && tree.leaf[leaf] === POINTER_NONE) return false;
    if (extents.isDoubtful(extent) || damage.hasInPage(extent, page * PAGE_SLABS)) return true;
    const pointer = isKnown ? tree.leaf[leaf] : tree.l1[tree.l1Of(leaf)];
    return generationOf(pointer as number) > scan.generation;
  }

  private load(scan: SlabScan, index: number, extent: number, page: number): void {
    const { ops, cache, geometry } = this.parts;
    const op = ops.acquire(OP_KIND_SCAN, -1);
    assert(op !== -1, "a scan has no operation");
    const found: PageFound = { above: [], uncertain: [] };
    ops.extent[op] = extent;
    scan.batch.push(found);
    scan.loadingCount += 1;
    this.loading.set(op, { scan, found, index, page });
    const leaf = geometry.slabPageStart + extent * EXTENT_PAGES + page;
    if (cache.acquire(op, leaf) === PAGE_READY) this.pageReady(op, 0);
  }

  /** A page that a scan asked for is there, or damaged. */
  pageReady(op: number, result: number): void {
    const { ops, cache } = this.parts;
    const { scan, found, index, page } = this.loading.get(op) as Loading;
    const extent = ops.extent[op] as number;
    this.loading.delete(op);
    if (result === 0) {
      this.look(scan, found, index, extent, page, ops.frame[op] as number);
      cache.unpin(op);
    } else {
      // Nothing is known of its slabs any more.
      scan.suspects.set(extent, false);
      for (let slab = page * PAGE_SLABS; slab < (page + 1) * PAGE_SLABS; slab++) {
        found.uncertain.push({ extentIndex: index, slab, epoch: 0, sequence: 0 });
      }
    }
    ops.release(op);
    scan.loadingCount -= 1;
    if (scan.loadingCount === 0) this.run(scan);
  }

  private look(
    scan: SlabScan,
    found: PageFound,
    index: number,
    extent: number,
    page: number,
    frame: number,
  ): void {
    const { cache, damage } = this.parts;
    const { sinceLow, sinceHigh } = scan.options;
    const isDamaged = damage.hasInPage(extent, page * PAGE_SLABS);
    if (cache.words[frame * BLOCK_WORDS + DOUBTS] !== 0) scan.suspects.set(extent, false);
    for (let slab = page * PAGE_SLABS; slab < (page + 1) * PAGE_SLABS; slab++) {
      const entry = entryAt(frame * BLOCK_WORDS, slab);
      const low = entryStampLow(cache.words, entry);
      const high = entryStampHigh(cache.words, entry);
      const isAbove = isNewer(low, high, sinceLow, sinceHigh);
      const isUncertain =
        isDoubted(cache.words, frame * BLOCK_WORDS, slab) ||
        (isDamaged && damage.hasInSlab(extent, slab));
      if (!isAbove && !isUncertain) continue;
      const epoch = epochOf(high);
      const stamp = { extentIndex: index, slab, epoch, sequence: sequenceOf(low, high) };
      if (isAbove) found.above.push(stamp);
      if (isUncertain) found.uncertain.push(stamp);
    }
  }
}
