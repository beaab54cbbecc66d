// @hot
// The driver's side of a packed virtqueue (virtio 1.x, 2.8): raw ring operations, no notion of a
// request.
//
//   ring   [ addr u64 | len u32 | id u16 | flags u16 ] * size   both sides write, in turns
//   driver event, device event   off_wrap u16, flags u16
//
// A descriptor is available when its AVAIL bit equals the writer's wrap counter and its USED bit
// does not, used when both equal the reader's. The device goes through the ring in order, so it
// sees nothing of a batch before the flags of the batch's first descriptor: publish() stores just
// those with a fence, everything behind them was written plainly.
//
// Invariants:
//  - the buffer id is the caller's number for a chain; it is not offered again before it has been
//    used (asserted: chainLength[id] is 0 while it is free);
//  - a used id is checked before it is used: in range and in flight.

import { assert } from "../base/index.ts";
import {
  PACKED_BASE_INITIAL,
  PACKED_EVENT_DESCRIPTOR,
  PACKED_EVENT_DISABLE,
  PACKED_EVENT_ENABLE,
  PACKED_F_AVAIL,
  PACKED_F_USED,
  packedDescriptorBytes,
  QUEUE_SIZE_MAX,
} from "../virtio/index.ts";
import { LoadError } from "./errors.ts";
import type { LoadGuestMemory } from "./guest-memory.ts";
import type { RingOptions } from "./split-ring.ts";

const INDEX_MASK = 0xffff;
const NOTHING = -1;
const PENDING_MAX = 64;
const EVENT_BYTES = 4;

export class PackedRing {
  readonly size: number;
  readonly eventIndex: boolean;
  readonly descriptorGpa: number;
  /** The driver event, where SET_VRING_ADDR has avail. */
  readonly availableGpa: number;
  /** The device event, where SET_VRING_ADDR has used. */
  readonly usedGpa: number;
  /** Four words per descriptor. */
  readonly descriptors: Uint32Array;
  /** The same, eight halves per descriptor. */
  readonly halves: Uint16Array;
  readonly driverEvent: Uint16Array;
  readonly deviceEvent: Uint16Array;
  /** Where the next descriptor is written and the next used one is read. */
  availablePosition = 0;
  availableWrap = 1;
  usedPosition = 0;
  usedWrap = 1;
  /** `len` of the element that nextUsed() returned last. */
  usedBytes = 0;
  /** Descriptors of the chain with this id, 0 when it is not in flight. */
  readonly chainLength: Uint16Array;
  /** Flags of the first unpublished descriptor, or NOTHING. */
  private firstFlags: number = NOTHING;
  private firstPosition = 0;
  private offeredCount = 0;

  constructor(memory: LoadGuestMemory, options: RingOptions) {
    const size = options.size;
    assert(size > 0, "an empty ring");
    assert(size <= QUEUE_SIZE_MAX, "queue size above the specification's limit");
    this.size = size;
    this.eventIndex = options.eventIndex;
    this.descriptorGpa = memory.allocate(packedDescriptorBytes(size), 64, options.region);
    this.availableGpa = memory.allocate(EVENT_BYTES, 64, options.region);
    this.usedGpa = memory.allocate(EVENT_BYTES, 64, options.region);
    const ring = memory.bytesAt(this.descriptorGpa, packedDescriptorBytes(size));
    const driver = memory.bytesAt(this.availableGpa, EVENT_BYTES);
    const device = memory.bytesAt(this.usedGpa, EVENT_BYTES);
    this.descriptors = new Uint32Array(ring.buffer, ring.byteOffset, size * 4);
    this.halves = new Uint16Array(ring.buffer, ring.byteOffset, size * 8);
    this.driverEvent = new Uint16Array(driver.buffer, driver.byteOffset, 2);
    this.deviceEvent = new Uint16Array(device.buffer, device.byteOffset, 2);
    ring.fill(0);
    driver.fill(0);
    device.fill(0);
    this.chainLength = new Uint16Array(size);
    this.suppressNotifications();
  }

  /** Starts the chain `id` of `length` descriptors; that many offerDescriptor() calls follow. */
  beginChain(id: number, length: number): void {
    assert(length > 0, "an empty chain");
    assert(this.chainLength[id] === 0, "chain offered while in flight");
    this.chainLength[id] = length;
  }

  /** Appends one descriptor; `flags` are NEXT, WRITE and INDIRECT, the wrap bits are added. */
  offerDescriptor(gpa: number, bytes: number, id: number, flags: number): void {
    const at = this.availablePosition * 4;
    this.descriptors[at] = gpa >>> 0;
    this.descriptors[at + 1] = Math.floor(gpa / 4294967296);
    this.descriptors[at + 2] = bytes;
    this.advance(id, flags);
  }

  /**
   * Appends the descriptor that lies ready in `words` at `from`, but for its id: addresses as
   * arguments may become new heap numbers.
   */
  offerCopy(words: Uint32Array, from: number, id: number): void {
    const at = this.availablePosition * 4;
    this.descriptors[at] = words[from];
    this.descriptors[at + 1] = words[from + 1];
    this.descriptors[at + 2] = words[from + 2];
    this.advance(id, words[from + 3] >>> 16);
  }

  private advance(id: number, flags: number): void {
    const position = this.availablePosition;
    this.halves[position * 8 + 6] = id;
    const wrapped = flags | (this.availableWrap === 1 ? PACKED_F_AVAIL : PACKED_F_USED);
    if (this.firstFlags === NOTHING) {
      this.firstFlags = wrapped;
      this.firstPosition = position;
    } else {
      this.halves[position * 8 + 7] = wrapped;
    }
    this.offeredCount += 1;
    if (position + 1 === this.size) {
      this.availablePosition = 0;
      this.availableWrap ^= 1;
    } else {
      this.availablePosition = position + 1;
    }
  }

  /** Lets the device see everything offered. True when it wants a kick. */
  publish(): boolean {
    if (this.firstFlags === NOTHING) return false;
    // Sequentially consistent: release for all that was written, and the full fence.
    Atomics.store(this.halves, this.firstPosition * 8 + 7, this.firstFlags);
    const offered = this.offeredCount;
    this.firstFlags = NOTHING;
    this.offeredCount = 0;
    const flags = Atomics.load(this.deviceEvent, 1);
    if (flags !== PACKED_EVENT_DESCRIPTOR) return flags !== PACKED_EVENT_DISABLE;
    const offWrap = Atomics.load(this.deviceEvent, 0);
    let event = offWrap & 0x7fff;
    if (offWrap >>> 15 !== this.availableWrap) event -= this.size;
    const after = this.availablePosition;
    return ((after - event - 1) & INDEX_MASK) < (offered & INDEX_MASK);
  }

  /** Completions that wait to be taken with nextUsed(); counts at most PENDING_MAX of them. */
  usedPending(): number {
    let position = this.usedPosition;
    let wrap = this.usedWrap;
    let pending = 0;
    while (pending < PENDING_MAX && this.isUsed(position, wrap)) {
      pending += 1;
      // An id that is not in flight is left to nextUsed(), which names it.
      const id = this.halves[position * 8 + 6];
      const length = id < this.size ? this.chainLength[id] : 0;
      if (length === 0) break;
      position += length;
      if (position >= this.size) {
        position -= this.size;
        wrap ^= 1;
      }
    }
    return pending;
  }

  private isUsed(position: number, wrap: number): boolean {
    const flags = Atomics.load(this.halves, position * 8 + 7);
    const available = (flags & PACKED_F_AVAIL) === 0 ? 0 : 1;
    const used = (flags & PACKED_F_USED) === 0 ? 0 : 1;
    return available === used && used === wrap;
  }

  /** Id of the next completed chain; its length is in `usedBytes`. usedPending() was > 0. */
  nextUsed(): number {
    const position = this.usedPosition;
    const id = this.halves[position * 8 + 6];
    this.usedBytes = this.descriptors[position * 4 + 2];
    if (id >= this.size || this.chainLength[id] === 0) {
      throw new LoadError(
        "BAD_COMPLETION",
        `used id ${id} at position ${position}, which is not in flight (ring of ${this.size}).`,
      );
    }
    const next = position + this.chainLength[id];
    this.chainLength[id] = 0;
    if (next >= this.size) {
      this.usedPosition = next - this.size;
      this.usedWrap ^= 1;
    } else {
      this.usedPosition = next;
    }
    return id;
  }

  /** Asks to be notified of the next completion. True when there is one already. */
  armNotifications(): boolean {
    if (this.eventIndex) {
      this.driverEvent[0] = this.usedPosition | (this.usedWrap << 15);
      Atomics.store(this.driverEvent, 1, PACKED_EVENT_DESCRIPTOR);
    } else {
      Atomics.store(this.driverEvent, 1, PACKED_EVENT_ENABLE);
    }
    return this.isUsed(this.usedPosition, this.usedWrap);
  }

  /** Asks not to be notified. */
  suppressNotifications(): void {
    this.driverEvent[1] = PACKED_EVENT_DISABLE;
  }

  /** Position and wrap counter of both ends, as GET_VRING_BASE and SET_VRING_BASE carry them. */
  baseNow(): number {
    const available = this.availablePosition | (this.availableWrap << 15);
    const used = this.usedPosition | (this.usedWrap << 15);
    return used * 65536 + available;
  }

  /**
   * What SET_VRING_BASE is given after a back-end died. QEMU has nothing better than the base it
   * started with: a packed ring's indices are not in shared memory, the inflight region has them.
   */
  baseAfterLoss(): number {
    return PACKED_BASE_INITIAL;
  }
}
