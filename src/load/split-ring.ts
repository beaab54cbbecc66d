// @hot
// The driver's side of a split virtqueue (virtio 1.x, 2.7): raw ring operations, no notion of a
// request. blk-queue.ts builds requests on it; hostile tests write whatever they like into its
// windows.
//
//   descriptors  [ addr u64 | len u32 | flags u16 | next u16 ] * size   we write
//   avail        flags u16, idx u16, ring u16 * size, used_event u16    we write
//   used         flags u16, idx u16, {id u32, len u32} * size, avail_event u16   the device writes
//
// Invariants:
//  - offer() only fills the ring; the device sees nothing before publish() stores avail->idx;
//  - publish() has a full fence between that store and the load that decides about the kick
//    (2.7.10), armNotifications() one between used_event and its second look (2.7.7.1): without
//    either a wake-up is lost now and then;
//  - what the device wrote is checked before it is used: its index may not run ahead of what was
//    offered, an id names a descriptor of this ring.

import { assert, isPowerOfTwo } from "../base/index.ts";
import {
  AVAIL_F_NO_INTERRUPT,
  QUEUE_SIZE_MAX,
  splitAvailBytes,
  splitDescriptorBytes,
  splitUsedBytes,
  USED_F_NO_NOTIFY,
} from "../virtio/index.ts";
import { LoadError } from "./errors.ts";
import type { GuestRegion, LoadGuestMemory } from "./guest-memory.ts";

export interface RingOptions {
  readonly size: number;
  readonly eventIndex: boolean;
  /** Region for the ring; default: the first with room. */
  readonly region?: GuestRegion;
}

const INDEX_MASK = 0xffff;
const IDX = 1;
const RING = 2;

export class SplitRing {
  readonly size: number;
  readonly eventIndex: boolean;
  readonly descriptorGpa: number;
  readonly availableGpa: number;
  readonly usedGpa: number;
  /** Four words per descriptor. */
  readonly descriptors: Uint32Array;
  readonly available: Uint16Array;
  readonly used16: Uint16Array;
  readonly used32: Uint32Array;
  /** Next avail index to fill, the one last published, and the next used index to read. */
  availableIndex = 0;
  publishedIndex = 0;
  usedIndex = 0;
  /** `len` of the element that nextUsed() returned last. */
  usedBytes = 0;
  private readonly mask: number;
  private readonly availableEvent: number;
  private readonly usedEvent: number;

  constructor(memory: LoadGuestMemory, options: RingOptions) {
    const size = options.size;
    assert(isPowerOfTwo(size), "the size of a split ring is a power of two");
    assert(size <= QUEUE_SIZE_MAX, "queue size above the specification's limit");
    this.size = size;
    this.mask = size - 1;
    this.eventIndex = options.eventIndex;
    this.descriptorGpa = memory.allocate(splitDescriptorBytes(size), 64, options.region);
    this.availableGpa = memory.allocate(splitAvailBytes(size), 64, options.region);
    this.usedGpa = memory.allocate(splitUsedBytes(size) + 2, 64, options.region);
    const descriptors = memory.bytesAt(this.descriptorGpa, splitDescriptorBytes(size));
    const available = memory.bytesAt(this.availableGpa, splitAvailBytes(size));
    const used = memory.bytesAt(this.usedGpa, splitUsedBytes(size) + 2);
    this.descriptors = new Uint32Array(descriptors.buffer, descriptors.byteOffset, size * 4);
    this.available = new Uint16Array(available.buffer, available.byteOffset, 3 + size);
    this.used16 = new Uint16Array(used.buffer, used.byteOffset, 3 + size * 4);
    this.used32 = new Uint32Array(used.buffer, used.byteOffset, 2 + size * 2);
    descriptors.fill(0);
    available.fill(0);
    used.fill(0);
    this.usedEvent = RING + size;
    this.availableEvent = RING + size * 4;
    this.suppressNotifications();
  }

  /** Writes descriptor `index` whole. */
  writeDescriptor(index: number, gpa: number, bytes: number, flags: number, next: number): void {
    const at = index * 4;
    this.descriptors[at] = gpa >>> 0;
    this.descriptors[at + 1] = Math.floor(gpa / 4294967296);
    this.descriptors[at + 2] = bytes;
    this.descriptors[at + 3] = flags | (next << 16);
  }

  /** Puts a chain's head into the avail ring. */
  offer(head: number): void {
    this.available[RING + (this.availableIndex & this.mask)] = head;
    this.availableIndex = (this.availableIndex + 1) & INDEX_MASK;
  }

  /** Lets the device see everything offered. True when it wants a kick. */
  publish(): boolean {
    const before = this.publishedIndex;
    const after = this.availableIndex;
    if (before === after) return false;
    this.publishedIndex = after;
    // A sequentially consistent store: release for the ring entries, and the full fence.
    Atomics.store(this.available, IDX, after);
    if (!this.eventIndex) return (Atomics.load(this.used16, 0) & USED_F_NO_NOTIFY) === 0;
    const event = Atomics.load(this.used16, this.availableEvent);
    return ((after - event - 1) & INDEX_MASK) < ((after - before) & INDEX_MASK);
  }

  /** Completions that wait to be taken with nextUsed(). */
  usedPending(): number {
    const pending = (Atomics.load(this.used16, IDX) - this.usedIndex) & INDEX_MASK;
    if (pending > this.size) {
      throw new LoadError(
        "BAD_COMPLETION",
        `used->idx is ${(this.usedIndex + pending) & INDEX_MASK}, ${pending} past the ` +
          `${this.usedIndex} last read, in a ring of ${this.size}.`,
      );
    }
    return pending;
  }

  /** Head of the next completed chain; its length is in `usedBytes`. usedPending() was > 0. */
  nextUsed(): number {
    const at = RING / 2 + (this.usedIndex & this.mask) * 2;
    const id = this.used32[at];
    this.usedBytes = this.used32[at + 1];
    if (id >= this.size) {
      throw new LoadError("BAD_COMPLETION", `used id ${id} in a ring of ${this.size}.`);
    }
    this.usedIndex = (this.usedIndex + 1) & INDEX_MASK;
    return id;
  }

  /** Asks to be notified of the next completion. True when there is one already. */
  armNotifications(): boolean {
    if (this.eventIndex) Atomics.store(this.available, this.usedEvent, this.usedIndex);
    else Atomics.store(this.available, 0, 0);
    return Atomics.load(this.used16, IDX) !== this.usedIndex;
  }

  /**
   * Asks not to be notified. With EVENT_IDX that is an event far away; it comes round once in
   * 65536 completions and costs one needless signal.
   */
  suppressNotifications(): void {
    if (this.eventIndex) {
      this.available[this.usedEvent] = (this.usedIndex + 0x8000) & INDEX_MASK;
    } else {
      this.available[0] = AVAIL_F_NO_INTERRUPT;
    }
  }

  /** What SET_VRING_BASE is given after a back-end died, as QEMU does: used->idx. */
  baseAfterLoss(): number {
    return Atomics.load(this.used16, IDX);
  }
}
