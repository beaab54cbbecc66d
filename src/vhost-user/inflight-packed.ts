// @hot
// Inflight tracking of a packed queue, and recovery from it. A packed ring's descriptors are
// overwritten by used ones, so the region keeps a copy of every chain in flight, in entries taken
// from a free list:
//
//   take      entries from free_head: addr, len, flags, id; head: num, last, counter; inflight = 1;
//             then old_free_head = free_head
//   give back (batch) desc[last].next = free_head; free_head = head; used_idx += num
//             the queue stores the used descriptors; then inflight = 0, old_* = *
//
// If we die in between, the ring tells whether the batch was made visible: the descriptor at
// old_used_idx is marked used, or it is not. Visible: what lies on the free list between free_head
// and old_free_head is done. Not visible: free_head and used_idx go back to their old values.
// Specification: vhost-user, "Inflight I/O tracking", packed virtqueue.

import { assert } from "../base/index.ts";
import type { RingArea } from "../ports/index.ts";
import { PACKED_F_AVAIL, PACKED_F_USED, type PackedInflightTracker } from "../virtio/index.ts";
import { INFLIGHT_VERSION, type InflightWindow, PACKED_ENTRY, PACKED_HEADER } from "./inflight.ts";

const HEADER_BYTES = PACKED_HEADER.BYTES;
const ENTRY_BYTES = PACKED_ENTRY.BYTES;
const VERSION = PACKED_HEADER.version >>> 1;
const DESC_NUM = PACKED_HEADER.desc_num >>> 1;
const FREE_HEAD = PACKED_HEADER.free_head >>> 1;
const OLD_FREE_HEAD = PACKED_HEADER.old_free_head >>> 1;
const USED_IDX = PACKED_HEADER.used_idx >>> 1;
const OLD_USED_IDX = PACKED_HEADER.old_used_idx >>> 1;
const USED_WRAP = PACKED_HEADER.used_wrap;
const OLD_USED_WRAP = PACKED_HEADER.old_used_wrap;
const NEXT = PACKED_ENTRY.next >>> 1;
const LAST = PACKED_ENTRY.last >>> 1;
const NUM = PACKED_ENTRY.num >>> 1;
const ID = PACKED_ENTRY.id >>> 1;
const NO_ENTRY = 0xffff;

export interface PackedRecovery {
  /** Buffer ids in the order in which they were taken. */
  readonly heads: readonly number[];
  /** As SET_VRING_BASE would give it: both indices with their wrap counters. */
  readonly base: number;
}

export class PackedInflight implements PackedInflightTracker {
  private readonly u8: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly u32: Uint32Array;
  /** Entry that heads the chain of a buffer id, or NO_ENTRY. */
  private readonly entryOfId: Uint16Array;
  private readonly batch: Uint16Array;
  private batchCount = 0;
  private counter = 0;

  constructor(window: InflightWindow, regionSize: number) {
    this.u8 = window.u8;
    this.u16 = window.u16;
    this.u32 = window.u32;
    this.entryOfId = new Uint16Array(regionSize).fill(NO_ENTRY);
    this.batch = new Uint16Array(regionSize);
  }

  /**
   * Prepares a region that was never used (null), or recovers. `base` as SET_VRING_BASE gave it:
   * its used half initialises a fresh region. A string says what is wrong with the region.
   */
  // @cold
  recover(
    base: number,
    descriptors: RingArea,
    ringSize: number,
    regionSize: number,
  ): PackedRecovery | string | null {
    if (this.u16[VERSION] === 0) {
      this.initialise(base, regionSize);
      return null;
    }
    if (this.u16[DESC_NUM] !== regionSize) return "inflight desc_num changed";
    for (const index of [USED_IDX, OLD_USED_IDX]) {
      if ((this.u16[index] as number) >= ringSize) return "inflight used_idx beyond the ring";
    }
    for (const index of [FREE_HEAD, OLD_FREE_HEAD]) {
      const entry = this.u16[index] as number;
      if (entry > regionSize) return "inflight free_head beyond the region";
    }
    const settled = this.settle(descriptors, regionSize);
    if (settled !== null) return settled;
    return this.collect(ringSize, regionSize);
  }

  // @cold
  private initialise(base: number, regionSize: number): void {
    for (let entry = 0; entry < regionSize; entry++) this.setField(entry, NEXT, entry + 1);
    this.u16[DESC_NUM] = regionSize;
    this.u16[FREE_HEAD] = 0;
    this.u16[OLD_FREE_HEAD] = 0;
    this.u16[USED_IDX] = (base >>> 16) & 0x7fff;
    this.u16[OLD_USED_IDX] = (base >>> 16) & 0x7fff;
    this.u8[USED_WRAP] = base >>> 31;
    this.u8[OLD_USED_WRAP] = base >>> 31;
    this.u16[VERSION] = INFLIGHT_VERSION;
  }

  /** Finishes or undoes what was half done when the predecessor died. */
  // @cold
  private settle(descriptors: RingArea, regionSize: number): string | null {
    const old = this.u16[OLD_FREE_HEAD] as number;
    if (this.u16[USED_IDX] === this.u16[OLD_USED_IDX] && this.sameWrap()) {
      // At most a take was half done: it counts once inflight is set.
      if (this.u16[FREE_HEAD] === old) return null;
      if (old < regionSize && this.inflightOf(old)) this.u16[OLD_FREE_HEAD] = this.freeHead();
      else this.u16[FREE_HEAD] = old;
      return null;
    }
    const at = (this.u16[OLD_USED_IDX] as number) * 16 + 14;
    if (descriptors.shadow && !descriptors.pull(at, 2)) return "the ring could not be read";
    const flags = descriptors.u16[at >>> 1] as number;
    const wrap = this.u8[OLD_USED_WRAP] as number;
    const availBit = (flags & PACKED_F_AVAIL) !== 0 ? 1 : 0;
    const usedBit = (flags & PACKED_F_USED) !== 0 ? 1 : 0;
    if (availBit !== wrap || usedBit !== wrap) {
      this.u16[FREE_HEAD] = old;
      this.u16[USED_IDX] = this.u16[OLD_USED_IDX] as number;
      this.u8[USED_WRAP] = wrap;
      return null;
    }
    let entry = this.freeHead();
    for (let steps = 0; entry !== old; steps++) {
      if (entry >= regionSize || steps > regionSize) return "inflight free list is broken";
      this.u8[HEADER_BYTES + entry * ENTRY_BYTES] = 0;
      const last = this.field(entry, LAST);
      if (last >= regionSize) return "inflight chain ends beyond the region";
      entry = this.field(last, NEXT);
    }
    this.commit();
    return null;
  }

  // @cold
  private collect(ringSize: number, regionSize: number): PackedRecovery | string {
    const entries: number[] = [];
    let slots = 0;
    for (let entry = 0; entry < regionSize; entry++) {
      if (!this.inflightOf(entry)) continue;
      const count = this.field(entry, NUM);
      const problem = this.claim(entry, count, ringSize, regionSize);
      if (problem !== null) return problem;
      slots += count;
      entries.push(entry);
    }
    if (slots > ringSize) return `inflight chains of ${slots} descriptors in a ring of ${ringSize}`;
    entries.sort((a, b) => this.counterOf(a) - this.counterOf(b));
    for (const entry of entries) this.counter = Math.max(this.counter, this.counterOf(entry));
    const used = this.u16[USED_IDX] as number;
    const usedWrap = (this.u8[USED_WRAP] as number) & 1;
    const availWrap = used + slots >= ringSize ? usedWrap ^ 1 : usedWrap;
    const avail = (used + slots) % ringSize;
    const heads = entries.map((entry) => this.field(this.field(entry, LAST), ID));
    const base = (avail | (availWrap << 15) | (used << 16) | (usedWrap << 31)) >>> 0;
    return { heads, base };
  }

  /** Checks the chain that begins at `entry` and notes its buffer id. */
  // @cold
  private claim(entry: number, count: number, ringSize: number, regionSize: number): string | null {
    if (count < 1 || count > regionSize) return `an inflight chain of ${count} descriptors`;
    let at = entry;
    for (let index = 1; index < count; index++) {
      at = this.field(at, NEXT);
      if (at >= regionSize) return "an inflight chain leaves the region";
    }
    if (at !== this.field(entry, LAST)) return "an inflight chain does not end at its last entry";
    const id = this.field(at, ID);
    if (id >= ringSize) return `inflight buffer id ${id} in a ring of ${ringSize}`;
    if (this.entryOfId[id] !== NO_ENTRY) return `inflight buffer id ${id} appears twice`;
    this.entryOfId[id] = entry;
    return null;
  }

  private sameWrap(): boolean {
    return this.u8[USED_WRAP] === this.u8[OLD_USED_WRAP];
  }

  private freeHead(): number {
    return this.u16[FREE_HEAD] as number;
  }

  private inflightOf(entry: number): boolean {
    return this.u8[HEADER_BYTES + entry * ENTRY_BYTES] !== 0;
  }

  private field(entry: number, halfword: number): number {
    return this.u16[((HEADER_BYTES + entry * ENTRY_BYTES) >>> 1) + halfword] as number;
  }

  private setField(entry: number, halfword: number, value: number): void {
    this.u16[((HEADER_BYTES + entry * ENTRY_BYTES) >>> 1) + halfword] = value;
  }

  private counterOf(entry: number): number {
    const at = (HEADER_BYTES + entry * ENTRY_BYTES + PACKED_ENTRY.counter) >>> 2;
    return (this.u32[at + 1] as number) * 4294967296 + (this.u32[at] as number);
  }

  taken(id: number, words: Uint32Array, descriptorCount: number): void {
    const head = this.u16[FREE_HEAD] as number;
    let last = head;
    let entry = head;
    for (let index = 0; index < descriptorCount; index++) {
      assert(entry < this.batch.length, "inflight entries ran out");
      this.store(entry, words, index);
      last = entry;
      entry = this.field(entry, NEXT);
    }
    const at = (HEADER_BYTES + head * ENTRY_BYTES) >>> 2;
    this.counter += 1;
    this.setField(head, NUM, descriptorCount);
    this.setField(head, LAST, last);
    this.u32[at + 2] = this.counter >>> 0;
    this.u32[at + 3] = Math.floor(this.counter / 4294967296);
    this.u16[FREE_HEAD] = entry;
    this.u8[HEADER_BYTES + head * ENTRY_BYTES] = 1;
    this.u16[OLD_FREE_HEAD] = entry;
    this.entryOfId[id] = head;
  }

  /** Copies the ring's descriptor `index` of `words` into `entry`. */
  private store(entry: number, words: Uint32Array, index: number): void {
    const at = (HEADER_BYTES + entry * ENTRY_BYTES) >>> 2;
    this.u32[at + 4] = words[index * 4 + 3] as number;
    this.u32[at + 5] = words[index * 4 + 2] as number;
    this.u32[at + 6] = words[index * 4] as number;
    this.u32[at + 7] = words[index * 4 + 1] as number;
  }

  // Nothing is freed before the batch is about to be published: a take in between would otherwise
  // reuse an entry that recovery still needs.
  completing(id: number): void {
    assert(this.batchCount < this.batch.length, "more completions than the ring has entries");
    const entry = this.entryOfId[id] as number;
    assert(entry !== NO_ENTRY, "completion of an id that was not taken");
    this.entryOfId[id] = NO_ENTRY;
    this.batch[this.batchCount] = entry;
    this.batchCount += 1;
  }

  publishing(usedIndex: number, usedWrap: number): void {
    for (let index = 0; index < this.batchCount; index++) {
      const entry = this.batch[index] as number;
      this.setField(this.field(entry, LAST), NEXT, this.freeHead());
      this.u16[FREE_HEAD] = entry;
    }
    this.u8[USED_WRAP] = usedWrap;
    this.u16[USED_IDX] = usedIndex;
  }

  published(_usedIndex: number): void {
    for (let index = 0; index < this.batchCount; index++) {
      this.u8[HEADER_BYTES + (this.batch[index] as number) * ENTRY_BYTES] = 0;
    }
    this.batchCount = 0;
    this.commit();
  }

  private commit(): void {
    this.u16[OLD_FREE_HEAD] = this.u16[FREE_HEAD] as number;
    this.u8[OLD_USED_WRAP] = this.u8[USED_WRAP] as number;
    this.u16[OLD_USED_IDX] = this.u16[USED_IDX] as number;
  }

  restore(id: number, words: Uint32Array): number {
    let entry = this.entryOfId[id] as number;
    assert(entry !== NO_ENTRY, "restore of an id that is not in flight");
    const count = this.field(entry, NUM);
    if (count * 4 > words.length) return 0;
    for (let index = 0; index < count; index++) {
      const at = (HEADER_BYTES + entry * ENTRY_BYTES) >>> 2;
      words[index * 4] = this.u32[at + 6] as number;
      words[index * 4 + 1] = this.u32[at + 7] as number;
      words[index * 4 + 2] = this.u32[at + 5] as number;
      words[index * 4 + 3] = this.u32[at + 4] as number;
      entry = this.field(entry, NEXT);
    }
    return count;
  }
}
