// Scrub: reads every block of data in the background and verifies it, at a bounded rate, round
// after round. What does not match is reported as any read would report it. The position goes into
// the superblock with each checkpoint, so a restart goes on from there.
//
// Invariant: never more than one slab on its way, and none while operations are scarce.

import { EXTENT_BYTES, EXTENT_PAGES, PAGE_SLABS, SLAB_BLOCKS, SLAB_BYTES } from "./layouts.ts";
import { OP_KIND_READ } from "./op-table.ts";
import { POINTER_NONE } from "./page-tree.ts";
import type { VolumeSetParts } from "./volume-set.ts";

export interface ScrubOptions {
  readonly bytesPerSecond: number;
  /** Pause between two rounds. */
  readonly pauseMs: number;
}

export interface ScrubClient {
  beginRead(op: number): void;
  setScrubTimer(delayMs: number): void;
  readonly writesFailed: boolean;
}

const TICK_MS = 100;
const OPS_RESERVED = 64;

export class Scrub {
  slabCount = 0;
  badCount = 0;
  private readonly parts: VolumeSetParts;
  private readonly client: ScrubClient;
  private readonly options: ScrubOptions | null;
  private slab = 0;
  private budgetBytes = 0;
  private running = false;
  private busy = false;

  constructor(parts: VolumeSetParts, client: ScrubClient, options: ScrubOptions | null) {
    this.parts = parts;
    this.client = client;
    this.options = options;
  }

  /** Of the address space of all extents. */
  get positionBytes(): number {
    const page = Math.max(this.parts.checkpoint.scrubPage - this.parts.geometry.slabPageStart, 0);
    return (page / EXTENT_PAGES) * EXTENT_BYTES;
  }

  start(): void {
    if (this.options === null) return;
    this.running = true;
    this.client.setScrubTimer(TICK_MS);
  }

  stop(): void {
    this.running = false;
  }

  timerFired(): void {
    if (!this.running || this.options === null) return;
    this.budgetBytes = Math.max((this.options.bytesPerSecond * TICK_MS) / 1000, SLAB_BYTES);
    if (!this.busy) this.next();
  }

  slabDone(result: number): void {
    this.busy = false;
    this.slabCount += 1;
    if (result !== 0) this.badCount += 1;
    this.budgetBytes -= SLAB_BYTES;
    this.next();
  }

  private next(): void {
    if (!this.running) return;
    const { ops, checkpoint, geometry } = this.parts;
    if (this.budgetBytes <= 0 || ops.freeCount < OPS_RESERVED || this.client.writesFailed) {
      this.client.setScrubTimer(TICK_MS);
      return;
    }
    if (this.slab === PAGE_SLABS || checkpoint.scrubPage < geometry.slabPageStart) {
      this.slab = 0;
      const from = Math.max(checkpoint.scrubPage + 1, geometry.slabPageStart);
      const page = this.nextPage(from);
      if (page === -1) {
        this.endRound();
        return;
      }
      checkpoint.scrubPage = page;
    }
    this.read(checkpoint.scrubPage, this.slab);
  }

  /** The next page at or behind `from` that may say something; -1 at the end. */
  private nextPage(from: number): number {
    const { geometry, extents, tree, cache, pending } = this.parts;
    for (let page = from; page < geometry.leafCount; page++) {
      const extent = Math.floor((page - geometry.slabPageStart) / EXTENT_PAGES);
      if (extents.ownerOf(extent) === 0) {
        page = geometry.slabPageStart + (extent + 1) * EXTENT_PAGES - 1;
        continue;
      }
      const isNothing = tree.isKnown(page) && tree.leaf[page] === POINTER_NONE;
      if (!isNothing || cache.holds(page) || pending.has(page)) return page;
    }
    return -1;
  }

  private endRound(): void {
    const { checkpoint } = this.parts;
    checkpoint.scrubPage = 0;
    checkpoint.scrubRounds += 1;
    this.client.setScrubTimer(Math.max(this.options?.pauseMs ?? 0, TICK_MS));
  }

  private read(page: number, slab: number): void {
    const { ops, geometry } = this.parts;
    const leaf = page - geometry.slabPageStart;
    const op = ops.acquire(OP_KIND_READ, -1);
    ops.extent[op] = Math.floor(leaf / EXTENT_PAGES);
    ops.slab[op] = (leaf % EXTENT_PAGES) * PAGE_SLABS + slab;
    ops.firstBlock[op] = 0;
    ops.blockCount[op] = SLAB_BLOCKS;
    this.slab += 1;
    this.busy = true;
    this.client.beginRead(op);
  }
}
