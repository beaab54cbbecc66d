// Reclaim: a deleted volume's slabs come back slab by slab, then its extents, then its entry; after
// a restart from where that had come to. One volume at a time.
//
// Invariants: an extent is free only when every slab of it is clear, durably; what cannot be
// cleared keeps its extent, and is tried again after the next opening.

import { assert } from "../base/index.ts";
import type { StoreError } from "./errors.ts";
import { BLOCK_ABSENT, EXTENT_PAGES, EXTENT_SLABS, PAGE_SLABS, SLAB_BLOCKS } from "./layouts.ts";
import { OP_KIND_CLEAR } from "./op-table.ts";
import { POINTER_NONE } from "./page-tree.ts";
import type { VolumeSetParts } from "./volume-set.ts";

type Done = (error: StoreError | null) => void;

export interface ReclaimClient {
  beginWrite(op: number): void;
  /** The extent belongs to nobody from now on. */
  forgetExtent(extent: number, done: Done): void;
  /** The volume's entry is free from now on. */
  forgetVolume(volume: number, done: Done): void;
  readonly writesFailed: boolean;
}

/** Slabs given back at a time: the rest of the operations belong to requests. */
const RECLAIM_MAX = 16;
const OPS_RESERVED = 32;

export class Reclaim {
  private readonly parts: VolumeSetParts;
  private readonly client: ReclaimClient;
  // The volume, its extents left, the next slab of the first of them.
  private volume = -1;
  private extentsLeft: number[] = [];
  private slab = 0;
  private inflightCount = 0;
  private isRunning = false;
  private isExtentStuck = false;
  /** Volumes of which a page could not be read: tried again after the next opening. */
  private readonly unreclaimable: Set<number> = new Set();
  private stopping: (() => void) | null = null;

  constructor(parts: VolumeSetParts, client: ReclaimClient) {
    this.parts = parts;
    this.client = client;
  }

  /** Gives back the space of deleted volumes, one after the other. */
  begin(): void {
    if (this.volume !== -1 || this.stopping !== null) return;
    const { volumes, extents } = this.parts;
    const volume = volumes.firstDeleting(this.unreclaimable);
    if (volume === -1) return;
    this.volume = volume;
    this.extentsLeft = [];
    for (let extent = 0; extent < extents.capacity; extent++) {
      if (extents.ownerOf(extent) === volume + 1) this.extentsLeft.push(extent);
    }
    this.slab = 0;
    this.more();
  }

  /** Not from within itself: a slab that is clear already has ended before clearSlab() returns. */
  private more(): void {
    if (this.isRunning) return;
    this.isRunning = true;
    this.some();
    this.isRunning = false;
    if (this.volume === -1) this.begin();
    if (this.stopping !== null && this.inflightCount === 0) this.endStop();
  }

  /** There is something to give back, and nothing on its way that would go on with it. */
  get isStalled(): boolean {
    return this.volume !== -1 && this.inflightCount === 0;
  }

  /** Room has been made. */
  resume(): void {
    if (this.isStalled) this.more();
  }

  private some(): void {
    const { ops } = this.parts;
    while (this.stopping === null && this.inflightCount < RECLAIM_MAX) {
      const extent = this.extentsLeft[0];
      if (extent === undefined) {
        if (this.inflightCount === 0) this.forgetVolume();
        return;
      }
      if (this.slab === EXTENT_SLABS) {
        if (this.inflightCount > 0) return;
        const goesOn = this.isExtentStuck;
        this.forgetExtent(extent);
        if (goesOn) continue;
        return;
      }
      if (this.slab % PAGE_SLABS === 0 && this.isNothing(extent, this.slab)) {
        this.slab += PAGE_SLABS;
        continue;
      }
      if (ops.freeCount <= OPS_RESERVED && this.inflightCount > 0) return;
      if (ops.freeCount === 0) return;
      this.clearSlab(extent, this.slab);
    }
  }

  /** Was none of the slabs of this page ever written? */
  private isNothing(extent: number, slab: number): boolean {
    const { tree, cache, pending, geometry } = this.parts;
    const page = geometry.slabPageStart + extent * EXTENT_PAGES + slab / PAGE_SLABS;
    if (!tree.isKnown(page) || tree.leaf[page] !== POINTER_NONE) return false;
    return !cache.holds(page) && !pending.has(page);
  }

  private clearSlab(extent: number, slab: number): void {
    const { ops } = this.parts;
    const op = ops.acquire(OP_KIND_CLEAR, -1);
    ops.extent[op] = extent;
    ops.slab[op] = slab;
    ops.firstBlock[op] = 0;
    ops.blockCount[op] = SLAB_BLOCKS;
    ops.clearState[op] = BLOCK_ABSENT;
    ops.stampLow[op] = 0;
    ops.stampHigh[op] = 0;
    this.slab += 1;
    this.inflightCount += 1;
    this.client.beginWrite(op);
  }

  slabCleared(result: number): void {
    this.inflightCount -= 1;
    if (result !== 0 && this.client.writesFailed) {
      this.extentsLeft = [];
      this.volume = -1;
      if (this.inflightCount === 0) this.endStop();
      return;
    }
    if (result !== 0) {
      // What is not cleared would belong to the extent's next owner.
      this.isExtentStuck = true;
      this.unreclaimable.add(this.volume);
    }
    if (this.inflightCount < RECLAIM_MAX / 2) this.more();
  }

  private forgetExtent(extent: number): void {
    if (this.isExtentStuck) {
      this.isExtentStuck = false;
      this.extentsLeft.shift();
      this.slab = 0;
      return;
    }
    this.inflightCount += 1;
    const done = (error: StoreError | null): void => {
      this.inflightCount -= 1;
      if (error !== null) return;
      this.extentsLeft.shift();
      this.slab = 0;
      this.more();
    };
    this.client.forgetExtent(extent, done);
  }

  private forgetVolume(): void {
    const volume = this.volume;
    if (this.unreclaimable.has(volume)) {
      this.volume = -1;
      return;
    }
    this.inflightCount += 1;
    this.client.forgetVolume(volume, (error) => {
      this.inflightCount -= 1;
      this.volume = -1;
      if (error === null && this.stopping === null) this.begin();
      else this.endStop();
    });
  }

  /** Lets what is on its way end, and begins nothing more. */
  stop(done: () => void): void {
    assert(this.stopping === null, "stopped twice");
    this.stopping = done;
    if (this.inflightCount === 0) this.endStop();
  }

  /** For a stop, or a failed disk: as far as nothing is on its way. */
  endStop(): void {
    if (this.inflightCount > 0) return;
    const done = this.stopping;
    if (done === null) return;
    this.stopping = () => undefined;
    done();
  }
}
