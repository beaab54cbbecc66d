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
// old_used_idx is still as the driver offered it, or it is not. It may be more than used by then:
// the guest lives on, and offers the place again as soon as it has seen the used descriptor.
// Visible: what lies on the free list between free_head and old_free_head is done. Not visible:
// free_head and used_idx go back to their old values.
//
// Invariant: the region's other owner may write it at any time. Recovery works on one copy of it
// (inflight-packed-recovery.ts); afterwards the lists are ours (`next`, `last`, `count`, freeHead)
// and only written to the region. The one thing read back are the descriptors of chains that are
// submitted again: the queue checks those like any others.
// Specification: vhost-user, "Inflight I/O tracking", packed virtqueue.

import { assert } from "../base/index.ts";
import type { RingArea } from "../ports/index.ts";
import type { PackedInflightTracker } from "../virtio/index.ts";
import { INFLIGHT_VERSION, type InflightWindow, PACKED_ENTRY, PACKED_HEADER } from "./inflight.ts";
import { type PackedRecovery, recoverPacked } from "./inflight-packed-recovery.ts";

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
const NO_ENTRY = 0xffff;

export class PackedInflight implements PackedInflightTracker {
  private readonly u8: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly u32: Uint32Array;
  private readonly next: Uint16Array;
  private readonly last: Uint16Array;
  private readonly count: Uint16Array;
  /** Entry that heads the chain of a buffer id, or NO_ENTRY. */
  private readonly entryOfId: Uint16Array;
  private readonly batch: Uint16Array;
  private batchCount = 0;
  private freeHead = 0;
  private usedIndex = 0;
  private usedWrap = 0;
  private counter = 0;

  constructor(window: InflightWindow, regionSize: number) {
    this.u8 = window.u8;
    this.u16 = window.u16;
    this.u32 = window.u32;
    this.next = new Uint16Array(regionSize);
    this.last = new Uint16Array(regionSize);
    this.count = new Uint16Array(regionSize);
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
  ): { readonly heads: readonly number[]; readonly base: number } | string | null {
    const copy = this.u8.slice();
    const isFresh = new Uint16Array(copy.buffer)[VERSION] === 0;
    const found = isFresh ? null : recoverPacked(copy, descriptors, ringSize, regionSize);
    if (typeof found === "string") return found;
    // In this order, so that a successor that finds us dead half way decides as we did.
    for (const entry of found?.done ?? []) this.u8[HEADER_BYTES + entry * ENTRY_BYTES] = 0;
    const used = found === null ? base >>> 16 : found.base >>> 16;
    this.setUsed(used & 0x7fff, used >>> 15);
    this.freeHead = new Uint16Array(copy.buffer)[FREE_HEAD] as number;
    this.commit();
    this.takeOver(found, regionSize);
    this.u16[OLD_FREE_HEAD] = this.freeHead;
    this.u16[DESC_NUM] = regionSize;
    this.u16[VERSION] = INFLIGHT_VERSION;
    return found;
  }

  /** Makes the lists: chains in flight as they were found, everything else free. */
  // @cold
  private takeOver(found: PackedRecovery | null, regionSize: number): void {
    const taken = new Uint8Array(regionSize);
    for (const { id, entries } of found?.chains ?? []) {
      const head = entries[0] as number;
      this.entryOfId[id] = head;
      this.count[head] = entries.length;
      this.last[head] = entries[entries.length - 1] as number;
      for (let index = 0; index < entries.length; index++) {
        taken[entries[index] as number] = 1;
        this.next[entries[index] as number] = entries[index + 1] ?? 0;
      }
    }
    this.counter = found?.counter ?? 0;
    let free = regionSize;
    for (let entry = regionSize - 1; entry >= 0; entry--) {
      if (taken[entry] === 1) continue;
      this.setNext(entry, free);
      free = entry;
    }
    this.freeHead = free;
    this.u16[FREE_HEAD] = free;
  }

  private setNext(entry: number, next: number): void {
    this.next[entry] = next;
    this.u16[((HEADER_BYTES + entry * ENTRY_BYTES) >>> 1) + NEXT] = next;
  }

  taken(id: number, words: Uint32Array, descriptorCount: number): void {
    const head = this.freeHead;
    let last = head;
    let entry = head;
    for (let index = 0; index < descriptorCount; index++) {
      assert(entry < this.next.length, "inflight entries ran out");
      this.store(entry, words, index);
      last = entry;
      entry = this.next[entry] as number;
    }
    const at = (HEADER_BYTES + head * ENTRY_BYTES) >>> 2;
    const half = at << 1;
    this.counter += 1;
    this.count[head] = descriptorCount;
    this.last[head] = last;
    this.u16[half + NUM] = descriptorCount;
    this.u16[half + LAST] = last;
    this.u32[at + 2] = this.counter >>> 0;
    this.u32[at + 3] = Math.floor(this.counter / 4294967296);
    this.freeHead = entry;
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
      this.setNext(this.last[entry] as number, this.freeHead);
      this.freeHead = entry;
      this.u16[FREE_HEAD] = entry;
    }
    this.setUsed(usedIndex, usedWrap);
  }

  private setUsed(usedIndex: number, usedWrap: number): void {
    this.usedIndex = usedIndex;
    this.usedWrap = usedWrap;
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
    this.u16[OLD_FREE_HEAD] = this.freeHead;
    this.u8[OLD_USED_WRAP] = this.usedWrap;
    this.u16[OLD_USED_IDX] = this.usedIndex;
  }

  restore(id: number, words: Uint32Array): number {
    let entry = this.entryOfId[id] as number;
    assert(entry !== NO_ENTRY, "restore of an id that is not in flight");
    const count = this.count[entry] as number;
    if (count * 4 > words.length) return 0;
    for (let index = 0; index < count; index++) {
      const at = (HEADER_BYTES + entry * ENTRY_BYTES) >>> 2;
      words[index * 4] = this.u32[at + 6] as number;
      words[index * 4 + 1] = this.u32[at + 7] as number;
      words[index * 4 + 2] = this.u32[at + 5] as number;
      words[index * 4 + 3] = this.u32[at + 4] as number;
      entry = this.next[entry] as number;
    }
    return count;
  }
}
