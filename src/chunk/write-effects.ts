// @hot
// What a write does when it is durable: to the page of its slab, to the ring's index, to the map of
// slabs, and to the list of known damage.
//
// Invariant: runs once for each operation, after its group is durable in order and its data is in
// place, and all at once, so that a read sees all of it or nothing.

import { applyToPage, entryAt, setEntryStamp } from "./apply.ts";
import { BLOCK_WORDS, SLAB_BLOCKS } from "./layouts.ts";
import { hasData } from "./records.ts";
import type { WriteParts } from "./write-path.ts";

export class WriteEffects {
  private readonly parts: WriteParts;

  constructor(parts: WriteParts) {
    this.parts = parts;
  }

  /** `nextRead` is the number of the next read that begins: older ones may still see what was. */
  apply(op: number, nextRead: number): void {
    this.applyPage(op);
    this.applyIndex(op);
    this.applySlabs(op, nextRead);
    const { ops, damage } = this.parts;
    if (damage.blockCount === 0) return;
    const first = (ops.slab[op] as number) * SLAB_BLOCKS + (ops.firstBlock[op] as number);
    damage.overwritten(ops.extent[op] as number, first, ops.blockCount[op] as number);
  }

  applyPage(op: number): void {
    const { ring, cache, ops, planted } = this.parts;
    const frame = ops.frame[op] as number;
    applyToPage(ring.words, ops.recordAt[op] as number, cache.words, frame * BLOCK_WORDS);
    if (planted.lastStampWins) {
      const entry = entryAt(frame * BLOCK_WORDS, ops.slab[op] as number);
      setEntryStamp(ring.words, ops.recordAt[op] as number, cache.words, entry);
    }
    cache.markDirty(frame);
  }

  /** The newest copy of journaled blocks is in the ring, of all others it is not any more. */
  private applyIndex(op: number): void {
    const { ops, index, ring } = this.parts;
    const extent = ops.extent[op] as number;
    const firstOfExtent = (ops.slab[op] as number) * SLAB_BLOCKS + (ops.firstBlock[op] as number);
    const count = ops.blockCount[op] as number;
    const ringBlock = ops.ringBlock[op] as number;
    const record = ops.recordAt[op] as number;
    if (ringBlock !== -1) {
      for (let block = 0; block < count; block++) {
        if (hasData(ring.words, record, block)) {
          index.set(extent, firstOfExtent + block, ringBlock + block);
        } else index.remove(extent, firstOfExtent + block);
      }
    } else if (index.count > 0) {
      for (let block = 0; block < count; block++) index.remove(extent, firstOfExtent + block);
    }
  }

  private applySlabs(op: number, nextRead: number): void {
    const { slabs, planted, locks, ops } = this.parts;
    const location = ops.location[op] as number;
    const freed = ops.freed[op] as number;
    if (location !== 0) slabs.markUsed(location - 1);
    // The slab has no place any more: a later write must not go where this one found it.
    else locks.planLocation(op, 0);
    if (freed === 0) return;
    slabs.markFreed(freed - 1, ops.lsn[op] as number, nextRead);
    if (planted.noQuarantine) {
      slabs.releaseQuarantine(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
    }
  }
}
