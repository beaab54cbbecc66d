// @hot
// The device side of a packed virtqueue (virtio 1.x, 2.8): one ring of descriptors that the driver
// makes available and the device overwrites with used ones, and two event areas of 4 bytes.
//
//      descriptors [addr len id flags] x N          driver event         device event
//        ^ usedIndex      ^ availIndex              (driver writes)      (device writes)
//          next used        next available
//
// Each side keeps a wrap counter that flips when its index passes the end of the ring. With the
// avail wrap counter W a descriptor is available when its AVAIL bit is W and its USED bit is not.
//
// Invariants:
// - A descriptor's words are read once each, id and flags of it in one atomic load (row 32). The
//   other words are read after the flags said "available".
// - inflight[id] is 1 from pop() to push(), and the ring slots of everything in flight never
//   exceed the ring (rows 6, 36). How many slots a buffer took is ours (ringSlots), not read again.
// - Used descriptors of a batch are complete except for the flags of the first, which publish()
//   stores last and with a full fence: the driver sees all of the batch or nothing.
// - Shadow areas: a first pull tells which descriptors are available, a second one, after it,
//   brings their contents; only those are believed.

import { assert } from "../base/index.ts";
import type { GuestMemory, RingArea } from "../ports/index.ts";
import { isInterruptWanted } from "./_packed-event.ts";
import { takeBackUnseen } from "./_packed-recovery.ts";
import {
  EMPTY_I32,
  EMPTY_U8,
  EMPTY_U16,
  EMPTY_U32,
  INDIRECT_TABLE,
  keepRaw,
  NO_GUEST_MEMORY,
  NO_RING_AREA,
  RAW_DESCRIPTORS,
  readIndirectTable,
  signedWords,
} from "./_ring-memory.ts";
import { CHAIN_DESCRIPTORS_MAX, type Chain } from "./chain.ts";
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  F_EVENT_IDX,
  F_INDIRECT_DESC,
  hasFeature,
  PACKED_BASE_INITIAL,
  PACKED_EVENT,
  PACKED_EVENT_DESCRIPTOR,
  PACKED_EVENT_DISABLE,
  PACKED_EVENT_ENABLE,
  PACKED_F_AVAIL,
  PACKED_F_USED,
  packedDescriptorBytes,
  QUEUE_SIZE_MAX,
} from "./layouts.ts";
import {
  BROKEN_BUFFER_ID,
  BROKEN_CHAIN_LOOP,
  BROKEN_CHAIN_TOO_LONG,
  BROKEN_CHAIN_UNAVAILABLE,
  BROKEN_HEAD_IN_FLIGHT,
  BROKEN_INDIRECT_NESTED,
  BROKEN_INDIRECT_NEXT,
  BROKEN_INDIRECT_NOT_NEGOTIATED,
  BROKEN_INFLIGHT,
  BROKEN_RING_BASE,
  BROKEN_RING_MEMORY,
  BROKEN_TOO_MANY_IN_FLIGHT,
  NONE,
  type PackedInflightTracker,
  type RingLog,
  type Virtqueue,
  type VirtqueueStart,
} from "./virtqueue.ts";

/** Flags of a used descriptor, by wrap counter: both bits equal it. */
const USED_WRAP_0 = 0;
const USED_WRAP_1: number = PACKED_F_AVAIL | PACKED_F_USED;

/** The fourth word of a descriptor, as a signed 32-bit number: id below, flags above. */
const AVAIL_IN_WORD: number = PACKED_F_AVAIL << 16;
const USED_IN_WORD: number = PACKED_F_USED << 16;
const STATE_IN_WORD: number = AVAIL_IN_WORD | USED_IN_WORD;

export class PackedQueue implements Virtqueue {
  size = 0;
  broken = 0;
  inflightCount = 0;
  availIndex = 0;
  availWrap = 1;
  usedIndex = 0;
  usedWrap = 1;

  private inflightSlots = 0;
  /** Of elements pushed and not yet shown: the driver must not reuse them before it sees them. */
  private pendingSlots = 0;
  /** The state bits that an available descriptor has under the current wrap counter. */
  private availableState = AVAIL_IN_WORD;
  /** Shadow only: descriptors from availIndex on whose contents have been pulled. */
  private pulledCount = 0;
  private pendingCount = 0;
  private pendingFirst = 0;
  private pendingFirstFlags = 0;
  /** Slots shown since needsNotification() was asked, since the driver was interrupted; <= size. */
  private unaskedSlots = 0;
  private unnotifiedSlots = 0;
  /** False until the first question: the driver's position says nothing about the past. */
  private signalledValid = false;
  private eventIndex = false;
  private indirectAllowed = false;
  private descriptorWords: Uint32Array = EMPTY_U32;
  private descriptorHalves: Uint16Array = EMPTY_U16;
  /** The same words, signed: what Atomics.load gives is then always a small integer. */
  private descriptorStates: Int32Array = EMPTY_I32;
  private driverEvent: Int32Array = EMPTY_I32;
  private deviceEvent: Int32Array = EMPTY_I32;
  private inflight: Uint8Array = EMPTY_U8;
  private ringSlots: Uint16Array = EMPTY_U16;
  private descriptorArea: RingArea = NO_RING_AREA;
  private driverArea: RingArea = NO_RING_AREA;
  private deviceArea: RingArea = NO_RING_AREA;
  private memory: GuestMemory = NO_GUEST_MEMORY;
  private tracker: PackedInflightTracker | null = null;
  private ringLog: RingLog | null = null;
  /** Found by collect(): slots and id of the chain read last. */
  private chainSlots = 0;
  private chainId = 0;

  get base(): number {
    const avail = this.availIndex | (this.availWrap << 15);
    return (avail | (this.usedIndex << 16) | (this.usedWrap << 31)) >>> 0;
  }

  // @cold
  start(options: VirtqueueStart): number {
    const size = options.size | 0;
    assert(size >= 1 && size <= QUEUE_SIZE_MAX, "packed queue size out of range");
    assert(options.descriptors.u8.byteLength >= packedDescriptorBytes(size), "ring too short");
    assert(options.driver.u8.byteLength >= PACKED_EVENT.BYTES, "driver event area too short");
    assert(options.device.u8.byteLength >= PACKED_EVENT.BYTES, "device event area too short");
    const base = options.base >>> 0;
    this.size = size;
    this.eventIndex = hasFeature(options.featuresLow, options.featuresHigh, F_EVENT_IDX);
    this.indirectAllowed = hasFeature(options.featuresLow, options.featuresHigh, F_INDIRECT_DESC);
    this.descriptorArea = options.descriptors;
    this.driverArea = options.driver;
    this.deviceArea = options.device;
    this.descriptorWords = options.descriptors.u32;
    this.descriptorHalves = options.descriptors.u16;
    this.descriptorStates = signedWords(options.descriptors.u32);
    this.driverEvent = signedWords(options.driver.u32);
    this.deviceEvent = signedWords(options.device.u32);
    this.inflight = new Uint8Array(size);
    this.ringSlots = new Uint16Array(size);
    this.memory = options.memory;
    this.tracker = options.tracker as PackedInflightTracker | null;
    this.ringLog = options.ringLog;
    this.inflightCount = 0;
    this.inflightSlots = 0;
    this.pendingSlots = 0;
    this.pulledCount = 0;
    this.pendingCount = 0;
    this.signalledValid = false;
    this.unaskedSlots = 0;
    this.unnotifiedSlots = 0;
    this.broken = 0;
    this.setBase(base);
    if (this.availIndex >= size || this.usedIndex >= size) {
      this.setBase(PACKED_BASE_INITIAL);
      return this.fail(BROKEN_RING_BASE);
    }
    if (!takeBackUnseen(options)) return this.fail(BROKEN_RING_MEMORY);
    if (!this.storeDeviceEvent(PACKED_EVENT_ENABLE << 16)) return this.fail(BROKEN_RING_MEMORY);
    return 0;
  }

  stop(): void {
    this.publish();
    this.descriptorArea = NO_RING_AREA;
    this.driverArea = NO_RING_AREA;
    this.deviceArea = NO_RING_AREA;
    this.descriptorWords = EMPTY_U32;
    this.descriptorHalves = EMPTY_U16;
    this.descriptorStates = EMPTY_I32;
    this.driverEvent = EMPTY_I32;
    this.deviceEvent = EMPTY_I32;
    this.inflight = EMPTY_U8;
    this.ringSlots = EMPTY_U16;
    this.memory = NO_GUEST_MEMORY;
    this.tracker = null;
    this.ringLog = null;
    this.size = 0;
    this.inflightCount = 0;
    this.inflightSlots = 0;
    this.pulledCount = 0;
    this.unaskedSlots = 0;
    this.unnotifiedSlots = 0;
  }

  setMemory(memory: GuestMemory): void {
    this.memory = memory;
  }

  setRingLog(ringLog: RingLog | null): void {
    this.ringLog = ringLog;
  }

  pop(chain: Chain): number {
    if (this.broken !== 0 || this.size === 0) return this.nothing();
    if (this.descriptorArea.shadow && this.pulledCount === 0 && !this.pullAvailable()) {
      return this.nothing();
    }
    const tail = Atomics.load(this.descriptorStates, (this.availIndex << 2) + 3);
    if ((tail & STATE_IN_WORD) !== this.availableState) return NONE;
    chain.reset();
    const reason = this.collect(chain, tail);
    if (reason !== 0) return this.fail(reason);
    const id = this.chainId;
    const slots = this.chainSlots;
    if (id >= this.size) return this.fail(BROKEN_BUFFER_ID);
    if (this.inflight[id] !== 0) return this.fail(BROKEN_HEAD_IN_FLIGHT);
    this.inflight[id] = 1;
    this.inflightCount += 1;
    this.ringSlots[id] = slots;
    this.inflightSlots += slots;
    this.advanceAvail(slots);
    if (this.tracker !== null) this.tracker.taken(id, RAW_DESCRIPTORS, slots);
    return id;
  }

  markInflight(id: number): boolean {
    assert(this.tracker !== null, "a packed ring recovers through its tracker");
    if (id < 0 || id >= this.size || this.inflight[id] !== 0) return false;
    this.inflight[id] = 1;
    this.inflightCount += 1;
    return true;
  }

  resubmit(id: number, chain: Chain): number {
    if (this.broken !== 0) return this.broken;
    assert(this.inflight[id] === 1, "resubmitted id was not marked in flight");
    assert(this.tracker !== null, "a packed ring recovers through its tracker");
    const slots = this.tracker.restore(id, RAW_DESCRIPTORS);
    if (slots < 1 || slots > CHAIN_DESCRIPTORS_MAX) return this.fail(BROKEN_INFLIGHT);
    if (slots > this.size - this.inflightSlots) return this.fail(BROKEN_INFLIGHT);
    chain.reset();
    for (let index = 0; index < slots; index++) {
      const at = index << 2;
      const flags = (RAW_DESCRIPTORS[at + 3] as number) >>> 16;
      const reason = this.accept(chain, RAW_DESCRIPTORS, at, flags);
      if (reason !== 0) return this.fail(reason);
    }
    this.ringSlots[id] = slots;
    this.inflightSlots += slots;
    return id;
  }

  abandon(id: number): void {
    assert(this.inflight[id] === 1, "abandoned id is not in flight");
    this.inflight[id] = 0;
    this.inflightCount -= 1;
    this.inflightSlots -= this.ringSlots[id] as number;
  }

  breakRing(reason: number): void {
    this.fail(reason);
  }

  push(id: number, usedBytes: number): void {
    assert(this.inflight[id] === 1, "used id is not in flight");
    const slots = this.ringSlots[id] as number;
    const index = this.usedIndex;
    const flags =
      (this.usedWrap === 1 ? USED_WRAP_1 : USED_WRAP_0) | (usedBytes > 0 ? DESCRIPTOR_F_WRITE : 0);
    this.inflight[id] = 0;
    this.inflightCount -= 1;
    this.inflightSlots -= slots;
    this.descriptorWords[(index << 2) + 2] = usedBytes;
    if (this.pendingCount === 0) {
      this.descriptorHalves[(index << 3) + 6] = id;
      this.pendingFirst = index;
      this.pendingFirstFlags = flags;
      if (this.descriptorArea.shadow || this.ringLog !== null) {
        this.deliverDescriptor((index << 4) + 8, 6);
      }
    } else {
      this.descriptorWords[(index << 2) + 3] = id | (flags << 16);
      if (this.descriptorArea.shadow || this.ringLog !== null) {
        this.deliverDescriptor((index << 4) + 8, 8);
      }
    }
    this.pendingCount += 1;
    this.pendingSlots += slots;
    this.usedIndex = index + slots;
    if (this.usedIndex >= this.size) {
      this.usedIndex -= this.size;
      this.usedWrap ^= 1;
    }
    if (this.tracker !== null) this.tracker.completing(id);
  }

  publish(): void {
    if (this.pendingCount === 0) return;
    this.pendingCount = 0;
    this.unaskedSlots = Math.min(this.unaskedSlots + this.pendingSlots, this.size);
    this.unnotifiedSlots = Math.min(this.unnotifiedSlots + this.pendingSlots, this.size);
    this.pendingSlots = 0;
    if (this.tracker !== null) this.tracker.publishing(this.usedIndex, this.usedWrap);
    const at = (this.pendingFirst << 3) + 7;
    Atomics.store(this.descriptorHalves, at, this.pendingFirstFlags);
    if (this.descriptorArea.shadow || this.ringLog !== null) this.deliverDescriptor(at << 1, 2);
    if (this.tracker !== null) this.tracker.published(this.usedIndex);
  }

  needsNotification(): boolean {
    const slots = this.unaskedSlots;
    if (slots === 0) return false;
    const wanted = this.isWanted(slots, this.eventIndex && this.signalledValid);
    this.unaskedSlots = 0;
    this.signalledValid = true;
    if (wanted) this.unnotifiedSlots = 0;
    return wanted;
  }

  owesNotification(): boolean {
    const slots = this.unnotifiedSlots;
    return slots > 0 && this.broken === 0 && this.isWanted(slots, this.eventIndex);
  }

  notified(): void {
    this.unnotifiedSlots = 0;
  }

  private isWanted(slots: number, exact: boolean): boolean {
    if (this.driverArea.shadow && !this.driverArea.pull(0, 4)) return true;
    return isInterruptWanted(Atomics.load(this.driverEvent, 0), this, slots, exact);
  }

  enableNotifications(): boolean {
    if (this.broken !== 0 || this.size === 0) return false;
    if (this.pulledCount !== 0) return true;
    const word = this.eventIndex
      ? this.availIndex | (this.availWrap << 15) | (PACKED_EVENT_DESCRIPTOR << 16)
      : PACKED_EVENT_ENABLE << 16;
    if (!this.storeDeviceEvent(word) || !this.pullHead()) {
      // pop() reports the reason.
      this.fail(BROKEN_RING_MEMORY);
      return true;
    }
    const tail = Atomics.load(this.descriptorStates, (this.availIndex << 2) + 3);
    return (tail & STATE_IN_WORD) === this.availableState;
  }

  disableNotifications(): void {
    if (this.broken !== 0 || this.size === 0) return;
    if (!this.storeDeviceEvent(PACKED_EVENT_DISABLE << 16)) this.fail(BROKEN_RING_MEMORY);
  }

  private setBase(base: number): void {
    this.availIndex = base & 0x7fff;
    this.availWrap = (base >>> 15) & 1;
    this.usedIndex = (base >>> 16) & 0x7fff;
    this.usedWrap = base >>> 31;
    this.availableState = this.availWrap === 1 ? AVAIL_IN_WORD : USED_IN_WORD;
  }

  private advanceAvail(slots: number): void {
    this.availIndex += slots;
    if (this.availIndex >= this.size) {
      this.availIndex -= this.size;
      this.availWrap ^= 1;
      this.availableState = this.availWrap === 1 ? AVAIL_IN_WORD : USED_IN_WORD;
    }
    if (this.pulledCount !== 0) {
      this.pulledCount = this.pulledCount > slots ? this.pulledCount - slots : 0;
    }
  }

  private nothing(): number {
    return this.broken !== 0 ? this.broken : NONE;
  }

  private fail(reason: number): number {
    if (this.broken === 0) this.broken = reason;
    return this.broken;
  }

  /** Reads the chain at availIndex whose first descriptor's fourth word is `head`. */
  private collect(chain: Chain, head: number): number {
    const ring = this.descriptorWords;
    const size = this.size;
    const room = size - this.inflightSlots - this.pendingSlots;
    const raw = this.tracker !== null;
    let index = this.availIndex;
    let state = this.availableState;
    let tail = head;
    let slots = 0;
    if (room === 0) return BROKEN_TOO_MANY_IN_FLIGHT;
    for (;;) {
      const flags = (tail >>> 16) & 0xffff;
      let reason = 0;
      if (raw) {
        // What the tracker keeps and what is acted upon must be the same copy.
        if (slots === CHAIN_DESCRIPTORS_MAX) return BROKEN_CHAIN_TOO_LONG;
        keepRaw(ring, index << 2, slots << 2, tail);
        reason = this.accept(chain, RAW_DESCRIPTORS, slots << 2, flags);
      } else {
        reason = this.accept(chain, ring, index << 2, flags);
      }
      if (reason !== 0) return reason;
      slots += 1;
      if ((flags & DESCRIPTOR_F_NEXT) === 0) break;
      if (slots === room) return room === size ? BROKEN_CHAIN_LOOP : BROKEN_TOO_MANY_IN_FLIGHT;
      index += 1;
      if (index === size) {
        index = 0;
        state ^= STATE_IN_WORD;
      }
      tail = (ring[(index << 2) + 3] as number) | 0;
      if ((tail & STATE_IN_WORD) !== state) return BROKEN_CHAIN_UNAVAILABLE;
    }
    this.chainSlots = slots;
    this.chainId = tail & 0xffff;
    return 0;
  }

  /** Adds a copy of the ring descriptor at words[at] to the chain, or of the table it names. */
  private accept(chain: Chain, words: Uint32Array, at: number, flags: number): number {
    if ((flags & DESCRIPTOR_F_INDIRECT) === 0) {
      return chain.add(words, at, flags) ? 0 : BROKEN_CHAIN_TOO_LONG;
    }
    if (!this.indirectAllowed) return BROKEN_INDIRECT_NOT_NEGOTIATED;
    if ((flags & DESCRIPTOR_F_NEXT) !== 0) return BROKEN_INDIRECT_NEXT;
    const count = readIndirectTable(this.memory, words, at);
    if (count < 0) return count;
    // All of the table, in order: NEXT and the ids mean nothing in it (2.8.7).
    for (let index = 0; index < count; index++) {
      const entry = index << 2;
      const entryFlags = (INDIRECT_TABLE[entry + 3] as number) >>> 16;
      if ((entryFlags & DESCRIPTOR_F_INDIRECT) !== 0) return BROKEN_INDIRECT_NESTED;
      if (!chain.add(INDIRECT_TABLE, entry, entryFlags)) return BROKEN_CHAIN_TOO_LONG;
    }
    return 0;
  }

  private pullHead(): boolean {
    return !this.descriptorArea.shadow || this.descriptorArea.pull(this.availIndex << 4, 16);
  }

  /** Shadow: refreshes the private copy. False when nothing is available or memory is gone. */
  private pullAvailable(): boolean {
    if (!this.descriptorArea.pull(this.availIndex << 4, 16)) {
      this.fail(BROKEN_RING_MEMORY);
      return false;
    }
    let index = this.availIndex;
    let state = this.availableState;
    let count = 0;
    if (((this.descriptorWords[(index << 2) + 3] as number) & STATE_IN_WORD) !== state)
      return false;
    const whole = this.size << 4;
    if (!this.descriptorArea.pull(0, whole)) {
      this.fail(BROKEN_RING_MEMORY);
      return false;
    }
    while (count < this.size) {
      const tail = this.descriptorWords[(index << 2) + 3] as number;
      if ((tail & STATE_IN_WORD) !== state) break;
      count += 1;
      index += 1;
      if (index === this.size) {
        index = 0;
        state ^= STATE_IN_WORD;
      }
    }
    // These were available during the pull above; this one is certain to bring their contents.
    if (!this.descriptorArea.pull(0, whole)) {
      this.fail(BROKEN_RING_MEMORY);
      return false;
    }
    this.pulledCount = count;
    return count !== 0;
  }

  private storeDeviceEvent(word: number): boolean {
    Atomics.store(this.deviceEvent, 0, word);
    if (this.deviceArea.shadow && !this.deviceArea.push(0, 4)) return false;
    if (this.ringLog !== null) this.ringLog.usedRingWritten(0, 4);
    return true;
  }

  private deliverDescriptor(offsetBytes: number, bytes: number): void {
    if (this.descriptorArea.shadow && !this.descriptorArea.push(offsetBytes, bytes)) {
      this.fail(BROKEN_RING_MEMORY);
      return;
    }
    if (this.ringLog !== null) this.ringLog.descriptorRingWritten(offsetBytes, bytes);
  }
}
