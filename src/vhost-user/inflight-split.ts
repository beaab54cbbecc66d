// @hot
// Inflight tracking of a split queue, and recovery from it.
//
//   take      entry.counter = ++counter; entry.inflight = 1
//   give back entry.next = last_batch_head; last_batch_head = entry   (for each of a batch)
//             used->idx += n                                          (the queue does that)
//             entry.inflight = 0 (for each); used_idx = used->idx
//
// If we die between the used->idx store and used_idx, recovery finds used_idx behind the ring and
// clears as many entries as it is behind, following the list from last_batch_head.
//
// Invariant: the region's other owner may write it at any time. Recovery works on one copy of it;
// after that nothing here is ever read back from it.
// Specification: vhost-user, "Inflight I/O tracking", split virtqueue.

import { assert } from "../base/index.ts";
import type { InflightTracker } from "../virtio/index.ts";
import { INFLIGHT_VERSION, type InflightWindow, SPLIT_ENTRY, SPLIT_HEADER } from "./inflight.ts";

const HEADER_BYTES = SPLIT_HEADER.BYTES;
const ENTRY_BYTES = SPLIT_ENTRY.BYTES;
const LAST_BATCH_HEAD = SPLIT_HEADER.last_batch_head >>> 1;
const USED_IDX = SPLIT_HEADER.used_idx >>> 1;
const VERSION = SPLIT_HEADER.version >>> 1;
const DESC_NUM = SPLIT_HEADER.desc_num >>> 1;

/** What recovery found; `heads` in the order in which they were taken. */
export interface SplitRecovery {
  readonly heads: readonly number[];
  /** Next avail index: the ring's used index plus what is in flight. */
  readonly base: number;
}

export class SplitInflight implements InflightTracker {
  private readonly u8: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly u32: Uint32Array;
  private readonly batch: Uint16Array;
  private batchCount = 0;
  private counter = 0;
  private lastBatchHead = 0;

  constructor(window: InflightWindow, queueSize: number) {
    this.u8 = window.u8;
    this.u16 = window.u16;
    this.u32 = window.u32;
    this.batch = new Uint16Array(queueSize);
  }

  /**
   * Prepares a region that was never used (returns null), or recovers what a predecessor left.
   * `usedIndex` is the ring's own used->idx, `ringSize` the ring's size. A string says what is
   * wrong with the region; nothing was changed then.
   */
  // @cold
  recover(usedIndex: number, ringSize: number, regionSize: number): SplitRecovery | string | null {
    const copy = this.u8.slice();
    const halves = new Uint16Array(copy.buffer);
    if (halves[VERSION] === 0) {
      this.u16[DESC_NUM] = regionSize;
      this.u16[USED_IDX] = usedIndex;
      this.u16[VERSION] = INFLIGHT_VERSION;
      return null;
    }
    if (halves[DESC_NUM] !== regionSize) return "inflight desc_num changed";
    const behind = (usedIndex - (halves[USED_IDX] as number)) & 0xffff;
    if (behind > ringSize) {
      return `inflight used_idx ${halves[USED_IDX]} does not fit the ring's ${usedIndex}`;
    }
    const completed = lastBatch(halves, behind, ringSize);
    if (typeof completed === "string") return completed;
    const heads: number[] = [];
    for (let head = 0; head < regionSize; head++) {
      const inflight = copy[HEADER_BYTES + head * ENTRY_BYTES] as number;
      if (inflight === 0 || completed.has(head)) continue;
      if (head >= ringSize) return `inflight head ${head} in a ring of ${ringSize}`;
      heads.push(head);
    }
    for (const head of completed) this.u8[HEADER_BYTES + head * ENTRY_BYTES] = 0;
    this.u16[USED_IDX] = usedIndex;
    this.lastBatchHead = halves[LAST_BATCH_HEAD] as number;
    const counters = new Map(heads.map((head) => [head, counterOf(copy, head)]));
    heads.sort((a, b) => (counters.get(a) as number) - (counters.get(b) as number));
    for (const counter of counters.values()) this.counter = Math.max(this.counter, counter);
    return { heads, base: (usedIndex + heads.length) & 0xffff };
  }

  taken(head: number, _words: Uint32Array, _descriptorCount: number): void {
    const at = HEADER_BYTES + head * ENTRY_BYTES;
    this.counter += 1;
    this.u32[(at + 8) >>> 2] = this.counter >>> 0;
    this.u32[(at + 12) >>> 2] = Math.floor(this.counter / 4294967296);
    this.u8[at] = 1;
  }

  completing(head: number): void {
    assert(this.batchCount < this.batch.length, "more completions than the ring has entries");
    const at = HEADER_BYTES + head * ENTRY_BYTES;
    this.u16[(at + 6) >>> 1] = this.lastBatchHead;
    this.lastBatchHead = head;
    this.u16[LAST_BATCH_HEAD] = head;
    this.batch[this.batchCount] = head;
    this.batchCount += 1;
  }

  published(usedIndex: number): void {
    for (let index = 0; index < this.batchCount; index++) {
      this.u8[HEADER_BYTES + (this.batch[index] as number) * ENTRY_BYTES] = 0;
    }
    this.batchCount = 0;
    this.u16[USED_IDX] = usedIndex;
  }
}

/** The last `count` entries that were given back, or what is wrong with their list. */
// @cold
function lastBatch(halves: Uint16Array, count: number, ringSize: number): Set<number> | string {
  const heads = new Set<number>();
  let head = halves[LAST_BATCH_HEAD] as number;
  for (let index = 0; index < count; index++) {
    if (head >= ringSize) return `inflight list entry ${head} in a ring of ${ringSize}`;
    if (heads.has(head)) return `inflight list visits entry ${head} twice`;
    heads.add(head);
    head = halves[(HEADER_BYTES + head * ENTRY_BYTES + SPLIT_ENTRY.next) >>> 1] as number;
  }
  return heads;
}

// @cold
function counterOf(copy: Uint8Array, head: number): number {
  const at = (HEADER_BYTES + head * ENTRY_BYTES + SPLIT_ENTRY.counter) >>> 2;
  const words = new Uint32Array(copy.buffer);
  return (words[at + 1] as number) * 4294967296 + (words[at] as number);
}
