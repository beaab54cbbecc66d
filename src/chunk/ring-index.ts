// @hot
// Which block of the ring holds the newest copy of a block: asked for every block that is read,
// and for every block that is written back. A hash table in typed arrays with open addressing;
// removal moves later entries back, so that there are no tombstones.
//
// Invariant: at most one entry per block of an extent; never more than half full.

import { assert } from "../base/index.ts";

export class RingIndex {
  count = 0;
  private readonly mask: number;
  private readonly extents: Uint32Array;
  private readonly blocks: Uint32Array;
  /** Block of the ring + 1; 0 = free. */
  private readonly values: Uint32Array;

  constructor(ringBlocks: number) {
    let capacity = 16;
    while (capacity < ringBlocks * 2) capacity *= 2;
    this.mask = capacity - 1;
    this.extents = new Uint32Array(capacity);
    this.blocks = new Uint32Array(capacity);
    this.values = new Uint32Array(capacity);
  }

  /** Block of the ring that holds the newest copy, or -1. */
  find(extent: number, block: number): number {
    let at = this.home(extent, block);
    while (this.values[at] !== 0) {
      if (this.blocks[at] === block && this.extents[at] === extent) {
        return (this.values[at] as number) - 1;
      }
      at = (at + 1) & this.mask;
    }
    return -1;
  }

  set(extent: number, block: number, ringBlock: number): void {
    let at = this.home(extent, block);
    while (this.values[at] !== 0) {
      if (this.blocks[at] === block && this.extents[at] === extent) {
        this.values[at] = ringBlock + 1;
        return;
      }
      at = (at + 1) & this.mask;
    }
    this.count += 1;
    assert(this.count <= this.mask >>> 1, "more blocks in the index than in the ring");
    this.extents[at] = extent;
    this.blocks[at] = block;
    this.values[at] = ringBlock + 1;
  }

  /** Nothing happens when there is no entry. */
  remove(extent: number, block: number): void {
    let at = this.home(extent, block);
    while (this.values[at] !== 0) {
      if (this.blocks[at] === block && this.extents[at] === extent) {
        this.close(at);
        this.count -= 1;
        return;
      }
      at = (at + 1) & this.mask;
    }
  }

  /** Fills the hole at `hole` with whatever a search would miss behind it. */
  private close(hole: number): void {
    const mask = this.mask;
    let at = hole;
    let next = (hole + 1) & mask;
    while (this.values[next] !== 0) {
      const home = this.home(this.extents[next] as number, this.blocks[next] as number);
      // Does the entry's home lie cyclically at or before the hole?
      if (((next - home) & mask) >= ((next - at) & mask)) {
        this.extents[at] = this.extents[next] as number;
        this.blocks[at] = this.blocks[next] as number;
        this.values[at] = this.values[next] as number;
        at = next;
      }
      next = (next + 1) & mask;
    }
    this.values[at] = 0;
  }

  private home(extent: number, block: number): number {
    let hash = Math.imul(block ^ Math.imul(extent, 0x85ebca6b), 0x9e3779b1);
    hash ^= hash >>> 15;
    return hash & this.mask;
  }
}
