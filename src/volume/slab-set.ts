// A set of slabs of one volume: a bit each, kept per extent that has any. A terabyte takes 2 MiB at
// most, so that a resync knows everything that is left without a list as long as the volume.

import { SLABS_PER_EXTENT } from "./slab-work.ts";

const WORDS_PER_EXTENT = SLABS_PER_EXTENT / 32;

interface Extent {
  readonly words: Uint32Array;
  count: number;
}

export class SlabSet {
  size = 0;
  private readonly extents: Map<number, Extent> = new Map();

  has(slab: number): boolean {
    const words = this.extents.get(Math.floor(slab / SLABS_PER_EXTENT))?.words;
    if (words === undefined) return false;
    const at = slab % SLABS_PER_EXTENT;
    return (words[at >>> 5] & (1 << (at & 31))) !== 0;
  }

  add(slab: number): void {
    const index = Math.floor(slab / SLABS_PER_EXTENT);
    let extent = this.extents.get(index);
    if (extent === undefined) {
      extent = { words: new Uint32Array(WORDS_PER_EXTENT), count: 0 };
      this.extents.set(index, extent);
    }
    const at = slab % SLABS_PER_EXTENT;
    const bit = 1 << (at & 31);
    if ((extent.words[at >>> 5] & bit) !== 0) return;
    extent.words[at >>> 5] |= bit;
    extent.count += 1;
    this.size += 1;
  }

  delete(slab: number): void {
    if (!this.has(slab)) return;
    const index = Math.floor(slab / SLABS_PER_EXTENT);
    const extent = this.extents.get(index) as Extent;
    const at = slab % SLABS_PER_EXTENT;
    extent.words[at >>> 5] &= ~(1 << (at & 31));
    extent.count -= 1;
    this.size -= 1;
    if (extent.count === 0) this.extents.delete(index);
  }

  addAll(others: SlabSet): void {
    for (const [index, { words }] of others.extents) {
      for (const [at, bits] of words.entries()) {
        for (let rest = bits; rest !== 0; rest &= rest - 1) {
          const bit = 31 - Math.clz32(rest & -rest);
          this.add(index * SLABS_PER_EXTENT + at * 32 + bit);
        }
      }
    }
  }

  /** Any of them, neighbours one after the other; null = it is empty. */
  first(): number | null {
    for (const [index, { words }] of this.extents) {
      const word = words.findIndex((bits) => bits !== 0);
      const bit = 31 - Math.clz32(words[word] & -words[word]);
      return index * SLABS_PER_EXTENT + word * 32 + bit;
    }
    return null;
  }
}
