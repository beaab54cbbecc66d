// @hot
// Which slabs are in use: one bit each, all of it in memory (2 MiB for each TiB of disk). There are
// two maps. `used` is what the durable records say, and what checkpoints write; `held` has besides
// that the slabs promised to writes on their way and the freed ones in quarantine.
//
// A freed slab waits in quarantine until the record that freed it is settled, so that no crash can
// bring it back, and until every read and write-back that began before has ended.
//
//   take --> held --(record durable)--> used --(record durable)--> quarantine --> free
//      '---- give back (write failed) --> free
//
// Invariants: used is a subset of held; freeCount + heldCount = slabCount.

import { assert } from "../base/index.ts";
import { PAGE_PAYLOAD_WORDS, SLABS_PER_BITMAP_PAGE } from "./layouts.ts";

const QUARANTINE_FIRST = 1024;

export class SlabMap {
  readonly slabCount: number;
  usedCount = 0;
  freeCount: number;
  /** Words as bitmap pages hold them: PAGE_PAYLOAD_WORDS for each page. */
  readonly used: Uint32Array;
  /** Bitmap pages changed since the last checkpoint. */
  readonly dirtyPages: Uint8Array;
  private readonly held: Uint32Array;
  /** Where the next search begins: neighbours in time become neighbours on the disk. */
  private cursor = 0;

  // Quarantine: a ring in order of freeing, hence in order of LSN.
  private quarantineSlabs: Uint32Array = new Uint32Array(QUARANTINE_FIRST);
  private quarantineLsns: Float64Array = new Float64Array(QUARANTINE_FIRST);
  private quarantineReads: Float64Array = new Float64Array(QUARANTINE_FIRST);
  private quarantineHead = 0;
  private quarantineTail = 0;

  constructor(slabCount: number) {
    const pageCount = Math.ceil(slabCount / SLABS_PER_BITMAP_PAGE);
    this.slabCount = slabCount;
    this.freeCount = slabCount;
    this.used = new Uint32Array(pageCount * PAGE_PAYLOAD_WORDS);
    this.held = new Uint32Array(pageCount * PAGE_PAYLOAD_WORDS);
    this.dirtyPages = new Uint8Array(pageCount);
  }

  get quarantineCount(): number {
    return this.quarantineTail - this.quarantineHead;
  }

  isUsed(slab: number): boolean {
    return ((this.used[slab >>> 5] as number) & (1 << (slab & 31))) !== 0;
  }

  /** A free slab, now held, or -1. */
  take(): number {
    if (this.freeCount === 0) return -1;
    const words = this.held;
    const wordCount = (this.slabCount + 31) >>> 5;
    let word = this.cursor >>> 5;
    // In the first word, only what lies behind the cursor.
    let free = ~(words[word] as number) & (-1 << (this.cursor & 31));
    for (let looked = 0; looked <= wordCount; looked++) {
      if (free !== 0) {
        const slab = word * 32 + (31 - Math.clz32(free & -free));
        if (slab < this.slabCount) {
          words[word] = (words[word] as number) | (1 << (slab & 31));
          this.freeCount -= 1;
          this.cursor = slab + 1 < this.slabCount ? slab + 1 : 0;
          return slab;
        }
      }
      word = word + 1 < wordCount ? word + 1 : 0;
      free = ~(words[word] as number);
    }
    return assertFound();
  }

  /** A slab that was taken and is not needed after all. */
  giveBack(slab: number): void {
    assert(!this.isUsed(slab), "a slab in use is given back");
    this.release(slab);
  }

  /** A durable record says that the slab is in use. Saying it again changes nothing. */
  markUsed(slab: number): void {
    if (this.isUsed(slab)) return;
    const word = slab >>> 5;
    const bit = 1 << (slab & 31);
    this.used[word] = (this.used[word] as number) | bit;
    if (((this.held[word] as number) & bit) === 0) {
      this.held[word] = (this.held[word] as number) | bit;
      this.freeCount -= 1;
    }
    this.usedCount += 1;
    this.touch(slab);
  }

  /** A durable record gave the slab back; it waits for `lsn` to be settled and reads to end. */
  markFreed(slab: number, lsn: number, readSequence: number): void {
    if (!this.isUsed(slab)) return;
    this.used[slab >>> 5] = (this.used[slab >>> 5] as number) & ~(1 << (slab & 31));
    this.usedCount -= 1;
    this.touch(slab);
    this.quarantine(slab, lsn, readSequence);
  }

  /** Returns slabs whose freeing is settled and that no read from before can still see. */
  releaseQuarantine(settledLsn: number, oldestRead: number): number {
    const mask = this.quarantineSlabs.length - 1;
    let count = 0;
    while (this.quarantineHead !== this.quarantineTail) {
      const at = this.quarantineHead & mask;
      if ((this.quarantineLsns[at] as number) > settledLsn) break;
      if ((this.quarantineReads[at] as number) >= oldestRead) break;
      this.quarantineHead += 1;
      count += 1;
      this.release(this.quarantineSlabs[at] as number);
    }
    return count;
  }

  private release(slab: number): void {
    const word = slab >>> 5;
    const bit = 1 << (slab & 31);
    assert(((this.held[word] as number) & bit) !== 0, "a free slab is freed again");
    this.held[word] = (this.held[word] as number) & ~bit;
    this.freeCount += 1;
  }

  private touch(slab: number): void {
    this.dirtyPages[Math.floor(slab / SLABS_PER_BITMAP_PAGE)] = 1;
  }

  private quarantine(slab: number, lsn: number, readSequence: number): void {
    if (this.quarantineCount === this.quarantineSlabs.length) this.growQuarantine();
    const at = this.quarantineTail & (this.quarantineSlabs.length - 1);
    this.quarantineSlabs[at] = slab;
    this.quarantineLsns[at] = lsn;
    this.quarantineReads[at] = readSequence;
    this.quarantineTail += 1;
  }

  // @cold
  private growQuarantine(): void {
    const { quarantineSlabs, quarantineLsns, quarantineReads } = this;
    const length = quarantineSlabs.length;
    const slabs = new Uint32Array(length * 2);
    const lsns = new Float64Array(length * 2);
    const reads = new Float64Array(length * 2);
    for (let index = 0; index < length; index++) {
      const from = (this.quarantineHead + index) & (length - 1);
      slabs[index] = quarantineSlabs[from] as number;
      lsns[index] = quarantineLsns[from] as number;
      reads[index] = quarantineReads[from] as number;
    }
    this.quarantineSlabs = slabs;
    this.quarantineLsns = lsns;
    this.quarantineReads = reads;
    this.quarantineHead = 0;
    this.quarantineTail = length;
  }

  /** For replay, which counts at the end. */
  // @cold
  setUsed(slab: number, isUsed: boolean): void {
    const word = slab >>> 5;
    const bit = 1 << (slab & 31);
    if (isUsed) this.used[word] = (this.used[word] as number) | bit;
    else this.used[word] = (this.used[word] as number) & ~bit;
    this.touch(slab);
  }

  /** After the pages were read: what is used is held, and counted. */
  // @cold
  countUsed(): void {
    this.usedCount = 0;
    this.held.set(this.used);
    for (let word = 0; word < this.used.length; word++) {
      this.usedCount += bitCount(this.used[word] as number);
    }
    this.freeCount = this.slabCount - this.usedCount;
  }
}

function assertFound(): number {
  assert(false, "the count of free slabs is wrong");
  return -1;
}

// @cold
function bitCount(word: number): number {
  let value = word - ((word >>> 1) & 0x55555555);
  value = (value & 0x33333333) + ((value >>> 2) & 0x33333333);
  return Math.imul((value + (value >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
