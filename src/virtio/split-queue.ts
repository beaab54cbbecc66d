// @hot
// The device side of a split virtqueue (virtio 1.x, 2.7).
//
//      descriptors (driver writes)      avail ring (driver)         used ring (device)
//      [addr len flags next] x N        flags idx ring[N] used_ev   flags idx {id len}[N] avail_ev
//                                             ^ availSeen                 ^ usedIndex
//      availIndex: next entry to take   <= availSeen                pendingCount written after it,
//                                                                   invisible until publish()
//
// Invariants:
// - availIndex and usedIndex are ours: guest memory's used->idx is read at start only (row 34).
// - A descriptor's words are read once each; checks and use are made on that copy (row 32).
// - inflight[head] is 1 from pop() to push(): a head that comes again meanwhile breaks the ring.
// - Elements are written before used->idx; used->idx is stored with a full fence (Atomics), and
//   only then is used_event or avail->flags read. Likewise avail_event is stored, fence, and only
//   then is avail->idx read again. Both are what keeps a wake-up from being lost.
// - avail->idx and flags are read with Atomics.load: the compiler must not reuse an older value.
// - Shadow areas (memory that may be truncated under us) are pulled before and pushed after; the
//   table and the avail ring are pulled after avail->idx, never together with it.

import { assert, isPowerOfTwo } from "../base/index.ts";
import type { GuestMemory, RingArea } from "../ports/index.ts";
import {
  EMPTY_U8,
  EMPTY_U16,
  EMPTY_U32,
  INDIRECT_TABLE,
  NO_GUEST_MEMORY,
  NO_RING_AREA,
  RAW_DESCRIPTORS,
  readIndirectTable,
} from "./_ring-memory.ts";
import type { Chain } from "./chain.ts";
import {
  AVAIL_F_NO_INTERRUPT,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  F_VERSION_1,
  hasFeature,
  QUEUE_SIZE_MAX,
  splitAvailBytes,
  splitDescriptorBytes,
  splitUsedBytes,
  USED_F_NO_NOTIFY,
} from "./layouts.ts";
import {
  BROKEN_AVAIL_INDEX,
  BROKEN_CHAIN_LOOP,
  BROKEN_CHAIN_TOO_LONG,
  BROKEN_HEAD_IN_FLIGHT,
  BROKEN_HEAD_RANGE,
  BROKEN_INDIRECT_NESTED,
  BROKEN_INDIRECT_NEXT,
  BROKEN_INDIRECT_NOT_NEGOTIATED,
  BROKEN_NEXT_RANGE,
  BROKEN_RING_BASE,
  BROKEN_RING_MEMORY,
  BROKEN_TOO_MANY_IN_FLIGHT,
  type InflightTracker,
  NONE,
  type RingLog,
  type Virtqueue,
  type VirtqueueStart,
} from "./virtqueue.ts";

/** Index of flags and idx in the u16 windows of both rings; the avail ring starts behind them. */
const FLAGS = 0;
const IDX = 1;
const AVAIL_RING = 2;

export class SplitQueue implements Virtqueue {
  size = 0;
  broken = 0;
  inflightCount = 0;
  /** Next avail entry to take. Kept after stop(). */
  availIndex = 0;
  /** Used entries the driver can see. Kept after stop(). */
  usedIndex = 0;

  private mask = 0;
  /** avail->idx as read last: entries before it may be taken. */
  private availSeen = 0;
  private pendingCount = 0;
  /** usedIndex when needsNotification() was asked last. */
  private signalledIndex = 0;
  /** usedIndex when the driver was interrupted last. */
  private notifiedIndex = 0;
  /** With EVENT_IDX false until the first question: the driver is then always notified. */
  private signalledValid = false;
  private eventIndex = false;
  private indirectAllowed = false;
  private legacy = false;
  private descriptorWords: Uint32Array = EMPTY_U32;
  private avail: Uint16Array = EMPTY_U16;
  private used: Uint16Array = EMPTY_U16;
  private usedWords: Uint32Array = EMPTY_U32;
  private inflight: Uint8Array = EMPTY_U8;
  private descriptorArea: RingArea = NO_RING_AREA;
  private availArea: RingArea = NO_RING_AREA;
  private usedArea: RingArea = NO_RING_AREA;
  private memory: GuestMemory = NO_GUEST_MEMORY;
  private tracker: InflightTracker | null = null;
  private ringLog: RingLog | null = null;

  get base(): number {
    return this.availIndex;
  }

  // @cold
  start(options: VirtqueueStart): number {
    const size = options.size | 0;
    assert(isPowerOfTwo(size), "split queue size must be a power of two");
    assert(size <= QUEUE_SIZE_MAX, "split queue size too large");
    assert(
      options.descriptors.u8.byteLength >= splitDescriptorBytes(size),
      "descriptors too short",
    );
    assert(options.driver.u8.byteLength >= splitAvailBytes(size), "avail ring too short");
    assert(options.device.u8.byteLength >= splitUsedBytes(size), "used ring too short");
    this.size = size;
    this.mask = size - 1;
    this.eventIndex = hasFeature(options.featuresLow, options.featuresHigh, F_EVENT_IDX);
    this.indirectAllowed = hasFeature(options.featuresLow, options.featuresHigh, F_INDIRECT_DESC);
    this.legacy = !hasFeature(options.featuresLow, options.featuresHigh, F_VERSION_1);
    this.descriptorArea = options.descriptors;
    this.availArea = options.driver;
    this.usedArea = options.device;
    this.descriptorWords = options.descriptors.u32;
    this.avail = options.driver.u16;
    this.used = options.device.u16;
    this.usedWords = options.device.u32;
    this.inflight = new Uint8Array(size);
    this.memory = options.memory;
    this.tracker = options.tracker;
    this.ringLog = options.ringLog;
    this.inflightCount = 0;
    this.pendingCount = 0;
    this.signalledValid = !this.eventIndex;
    this.broken = 0;
    if (options.base < 0 || options.base > 0xffff) return this.fail(BROKEN_RING_BASE);
    // The mask also makes it a small integer: a 0 that comes as a double would turn these fields,
    // and the class with them, into doubles for good.
    this.availIndex = options.base & 0xffff;
    this.availSeen = this.availIndex;
    if (this.usedArea.shadow && !this.usedArea.pull(0, splitUsedBytes(size))) {
      return this.fail(BROKEN_RING_MEMORY);
    }
    this.usedIndex = Atomics.load(this.used, IDX);
    this.signalledIndex = this.usedIndex;
    this.notifiedIndex = this.usedIndex;
    // An earlier life of this ring may have left its suppression flag behind.
    if (!this.storeUsed(FLAGS, 0)) return this.fail(BROKEN_RING_MEMORY);
    return 0;
  }

  stop(): void {
    this.publish();
    this.descriptorArea = NO_RING_AREA;
    this.availArea = NO_RING_AREA;
    this.usedArea = NO_RING_AREA;
    this.descriptorWords = EMPTY_U32;
    this.avail = EMPTY_U16;
    this.used = EMPTY_U16;
    this.usedWords = EMPTY_U32;
    this.inflight = EMPTY_U8;
    this.memory = NO_GUEST_MEMORY;
    this.tracker = null;
    this.ringLog = null;
    this.size = 0;
    this.mask = 0;
    this.inflightCount = 0;
    this.availSeen = this.availIndex;
    this.signalledIndex = this.usedIndex;
  }

  setMemory(memory: GuestMemory): void {
    this.memory = memory;
  }

  setRingLog(ringLog: RingLog | null): void {
    this.ringLog = ringLog;
  }

  pop(chain: Chain): number {
    if (this.availIndex === this.availSeen && !this.refresh()) return this.nothing();
    const head = this.avail[AVAIL_RING + (this.availIndex & this.mask)] as number;
    if (head >= this.size) return this.fail(BROKEN_HEAD_RANGE);
    if (this.inflight[head] !== 0) return this.fail(BROKEN_HEAD_IN_FLIGHT);
    chain.reset();
    const reason = this.collect(chain, this.descriptorWords, this.size, head, false);
    if (reason !== 0) return this.fail(reason);
    this.inflight[head] = 1;
    this.inflightCount += 1;
    this.availIndex = (this.availIndex + 1) & 0xffff;
    if (this.tracker !== null) this.tracker.taken(head, RAW_DESCRIPTORS, 0);
    return head;
  }

  markInflight(head: number): boolean {
    if (head < 0 || head >= this.size || this.inflight[head] !== 0) return false;
    this.inflight[head] = 1;
    this.inflightCount += 1;
    return true;
  }

  resubmit(head: number, chain: Chain): number {
    if (this.broken !== 0) return this.broken;
    assert(this.inflight[head] === 1, "resubmitted head was not marked in flight");
    if (!this.pullDescriptors()) return this.fail(BROKEN_RING_MEMORY);
    chain.reset();
    const reason = this.collect(chain, this.descriptorWords, this.size, head, false);
    return reason === 0 ? head : this.fail(reason);
  }

  abandon(head: number): void {
    assert(this.inflight[head] === 1, "abandoned head is not in flight");
    this.inflight[head] = 0;
    this.inflightCount -= 1;
  }

  breakRing(reason: number): void {
    this.fail(reason);
  }

  push(head: number, usedBytes: number): void {
    assert(this.inflight[head] === 1, "used head is not in flight");
    this.inflight[head] = 0;
    this.inflightCount -= 1;
    const at = 1 + (((this.usedIndex + this.pendingCount) & this.mask) << 1);
    this.usedWords[at] = head;
    this.usedWords[at + 1] = usedBytes;
    this.pendingCount += 1;
    if (this.tracker !== null) this.tracker.completing(head);
  }

  publish(): void {
    const count = this.pendingCount;
    if (count === 0) return;
    const from = this.usedIndex;
    const index = (from + count) & 0xffff;
    this.pendingCount = 0;
    if (this.usedArea.shadow || this.ringLog !== null) {
      if (!this.deliverElements(from & this.mask, count)) {
        this.fail(BROKEN_RING_MEMORY);
        return;
      }
    }
    if (!this.storeUsed(IDX, index)) {
      this.fail(BROKEN_RING_MEMORY);
      return;
    }
    this.usedIndex = index;
    if (this.tracker !== null) this.tracker.published(index);
  }

  needsNotification(): boolean {
    const before = this.signalledIndex;
    const now = this.usedIndex;
    if (now === before) return false;
    this.signalledIndex = now;
    const wanted = !this.signalledValid || this.isWanted(before);
    this.signalledValid = true;
    if (wanted) this.notifiedIndex = now;
    return wanted;
  }

  owesNotification(): boolean {
    if (this.broken !== 0 || this.size === 0) return false;
    return this.usedIndex !== this.notifiedIndex && this.isWanted(this.notifiedIndex);
  }

  notified(): void {
    this.notifiedIndex = this.usedIndex;
  }

  /** Does the driver want an interrupt for one of the elements that were used since `before`? */
  private isWanted(before: number): boolean {
    if (!this.eventIndex) {
      if (this.availArea.shadow && !this.availArea.pull(0, 2)) return true;
      return (Atomics.load(this.avail, FLAGS) & AVAIL_F_NO_INTERRUPT) === 0;
    }
    const now = this.usedIndex;
    const at = AVAIL_RING + this.size;
    if (this.availArea.shadow && !this.availArea.pull(at << 1, 2)) return true;
    const event = Atomics.load(this.avail, at);
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  enableNotifications(): boolean {
    if (this.broken !== 0 || this.size === 0) return false;
    if (this.availIndex !== this.availSeen) return true;
    const stored = this.eventIndex
      ? this.storeUsed(2 + (this.size << 2), this.availIndex)
      : this.storeUsed(FLAGS, 0);
    if (!stored || !this.pullAvailIndex()) {
      // pop() reports the reason.
      this.fail(BROKEN_RING_MEMORY);
      return true;
    }
    return Atomics.load(this.avail, IDX) !== this.availIndex;
  }

  disableNotifications(): void {
    // With EVENT_IDX a stale avail_event asks for one kick in 65536: not worth a store per wake-up.
    if (this.eventIndex || this.broken !== 0 || this.size === 0) return;
    if (!this.storeUsed(FLAGS, USED_F_NO_NOTIFY)) this.fail(BROKEN_RING_MEMORY);
  }

  /** Reads avail->idx. False when nothing is new or the ring is broken. */
  private refresh(): boolean {
    if (this.broken !== 0 || this.size === 0) return false;
    if (!this.pullAvailIndex()) {
      this.fail(BROKEN_RING_MEMORY);
      return false;
    }
    const seen = Atomics.load(this.avail, IDX);
    const count = (seen - this.availIndex) & 0xffff;
    if (count === 0) return false;
    // What was pushed and not yet shown is the driver's only once it has seen used->idx.
    if (count > this.size - this.inflightCount - this.pendingCount) {
      this.fail(count > this.size ? BROKEN_AVAIL_INDEX : BROKEN_TOO_MANY_IN_FLIGHT);
      return false;
    }
    if (this.availArea.shadow && !this.availArea.pull(4, this.size << 1)) {
      this.fail(BROKEN_RING_MEMORY);
      return false;
    }
    if (!this.pullDescriptors()) {
      this.fail(BROKEN_RING_MEMORY);
      return false;
    }
    this.availSeen = seen;
    return true;
  }

  private nothing(): number {
    return this.broken !== 0 ? this.broken : NONE;
  }

  private fail(reason: number): number {
    // The first reason stays; from here on refresh() finds nothing.
    if (this.broken === 0) this.broken = reason;
    this.availSeen = this.availIndex;
    return this.broken;
  }

  /** Walks a chain in `table` from `first` on. Returns 0 or the reason why the ring is broken. */
  private collect(
    chain: Chain,
    table: Uint32Array,
    count: number,
    first: number,
    nested: boolean,
  ): number {
    let index = first;
    for (let steps = count; steps > 0; steps--) {
      const at = index << 2;
      const tail = table[at + 3] as number;
      if ((tail & DESCRIPTOR_F_INDIRECT) !== 0) {
        return nested ? BROKEN_INDIRECT_NESTED : this.collectIndirect(chain, at, tail & 0xffff);
      }
      if (!chain.add(table, at, tail & 0xffff)) return BROKEN_CHAIN_TOO_LONG;
      if ((tail & DESCRIPTOR_F_NEXT) === 0) return 0;
      index = tail >>> 16;
      if (index >= count) return BROKEN_NEXT_RANGE;
    }
    return BROKEN_CHAIN_LOOP;
  }

  private collectIndirect(chain: Chain, at: number, flags: number): number {
    if (!this.indirectAllowed) return BROKEN_INDIRECT_NOT_NEGOTIATED;
    // Some drivers of virtio 0.9 set NEXT as well and mean nothing by it (row 9).
    if ((flags & DESCRIPTOR_F_NEXT) !== 0 && !this.legacy) return BROKEN_INDIRECT_NEXT;
    const count = readIndirectTable(this.memory, this.descriptorWords, at);
    if (count < 0) return count;
    return this.collect(chain, INDIRECT_TABLE, count, 0, true);
  }

  private pullAvailIndex(): boolean {
    return !this.availArea.shadow || this.availArea.pull(IDX << 1, 2);
  }

  private pullDescriptors(): boolean {
    return !this.descriptorArea.shadow || this.descriptorArea.pull(0, this.size << 4);
  }

  /** Stores one u16 of the used ring with a full fence, and makes it visible and logged. */
  private storeUsed(index: number, value: number): boolean {
    Atomics.store(this.used, index, value);
    if (this.usedArea.shadow && !this.usedArea.push(index << 1, 2)) return false;
    if (this.ringLog !== null) this.ringLog.usedRingWritten(index << 1, 2);
    return true;
  }

  /** Pushes (shadow) and logs the elements [slot, slot + count), which may wrap. */
  private deliverElements(slot: number, count: number): boolean {
    const untilEnd = this.size - slot;
    const first = count < untilEnd ? count : untilEnd;
    if (!this.deliverRange(4 + (slot << 3), first << 3)) return false;
    return first === count || this.deliverRange(4, (count - first) << 3);
  }

  private deliverRange(offsetBytes: number, bytes: number): boolean {
    if (this.usedArea.shadow && !this.usedArea.push(offsetBytes, bytes)) return false;
    if (this.ringLog !== null) this.ringLog.usedRingWritten(offsetBytes, bytes);
    return true;
  }
}
