// @hot
// virtio-blk requests on one virtqueue, from the driver's side. A request is a slot: header,
// status byte and data buffer lie at fixed places in guest memory, and its descriptors are written
// once and rewritten only when the request's shape changes, so that a resubmission is a handful of
// stores.
//
//   slot s:  header (16 B) | status (1 B)  at  s * headerStrideBytes
//            data buffer, page-aligned, in pieces of segmentBytes
//   direct:   split descriptors s * perSlot ...; packed: written to the ring each time
//   indirect: one ring descriptor, table of its own in guest memory
//
// Invariants:
//  - a completion must be for a slot in flight, with a status written and the length that
//    virtio 1.x prescribes (data written by the device, plus the status byte), else LoadError;
//  - the status byte of a slot that is not in flight keeps a pattern: a device that writes it
//    later is caught at the next submission (late DMA).

import { assert } from "../base/index.ts";
import type { Address } from "../ports/index.ts";
import { eventSignal } from "../sys/index.ts";
import {
  BLK_REQUEST_HEADER,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
} from "../virtio/index.ts";
import { LoadError } from "./errors.ts";
import type { GuestRegion, LoadGuestMemory } from "./guest-memory.ts";
import { PackedRing } from "./packed-ring.ts";
import { SplitRing } from "./split-ring.ts";

export interface BlkQueueOptions {
  readonly index: number;
  readonly packed: boolean;
  /** Descriptors in the ring. */
  readonly size: number;
  /** Requests that may be in flight. */
  readonly slotCount: number;
  readonly indirect: boolean;
  readonly eventIndex: boolean;
  /** Data buffer of a slot. */
  readonly dataBytes: number;
  /** A data buffer is described in pieces of this size; default: in one. */
  readonly segmentBytes?: number;
  /** Distance of request headers; at 99 most of them lie at odd addresses. Default 128. */
  readonly headerStrideBytes?: number;
  readonly region: GuestRegion;
  /** -1: no kicks, the device polls. */
  readonly kickFd: number;
  /** Accept any used length; the specification lets drivers rely on it, some devices err. */
  readonly anyUsedLength?: boolean;
}

/** What a status byte holds while no device may write it, and until the device has. */
export const STATUS_UNTOUCHED = 0xee;
const HEADER_BYTES: number = BLK_REQUEST_HEADER.BYTES;
const DESCRIPTOR_BYTES = 16;
const CACHE_LINE_BYTES = 64;
const DEFAULT_STRIDE_BYTES: number = 2 * CACHE_LINE_BYTES;
const NO_SHAPE = -1;
const NO_SLOT = -1;

/** Ring descriptors that a slot takes. */
export function descriptorsPerSlot(indirect: boolean, segmentCount: number): number {
  return indirect ? 1 : segmentCount + 2;
}

export class BlkQueue {
  readonly index: number;
  readonly slotCount: number;
  readonly indirect: boolean;
  readonly kickFd: number;
  readonly split: SplitRing | null;
  readonly packed: PackedRing | null;
  /** Data buffers: guest and host address of each slot. */
  readonly dataGpa: Float64Array;
  readonly dataAddress: Float64Array;
  readonly dataBytes: number;
  /** 1 while the slot is in flight. */
  readonly inflight: Uint8Array;
  inflightCount = 0;
  /** Of the completion that takeCompleted() returned last. */
  status = 0;
  usedBytes = 0;
  kickCount = 0;
  /** Completions whose length was wrong, where `anyUsedLength` let them pass. */
  wrongLengthCount = 0;
  /** Words and bytes of the region that holds headers, tables and data. */
  readonly words: Uint32Array;
  readonly bytes: Uint8Array;
  private readonly view: DataView;
  private readonly region: GuestRegion;
  private readonly anyUsedLength: boolean;
  private readonly segmentBytes: number;
  private readonly headerOffset: Float64Array;
  private readonly statusOffset: Float64Array;
  private readonly tableOffset: Float64Array;
  private readonly aligned: boolean;
  private readonly expectedBytes: Uint32Array;
  /** Slot of a head descriptor (split) or buffer id (packed); NO_SLOT for all others. */
  private readonly slotOfHead: Int32Array;
  /** Packed rings: what a slot puts into the ring, four words per descriptor. */
  private readonly prepared: Uint32Array;
  private readonly perSlot: number;
  /** dataBytes * 2 + writable of what the slot's descriptors describe, or NO_SHAPE. */
  private readonly shape: Float64Array;

  constructor(memory: LoadGuestMemory, options: BlkQueueOptions) {
    const slotCount = options.slotCount;
    this.index = options.index;
    this.slotCount = slotCount;
    this.indirect = options.indirect;
    this.kickFd = options.kickFd;
    this.anyUsedLength = options.anyUsedLength === true;
    this.dataBytes = options.dataBytes;
    this.region = options.region;
    this.segmentBytes = options.segmentBytes ?? options.dataBytes;
    const segmentCount = Math.ceil(options.dataBytes / this.segmentBytes);
    this.perSlot = descriptorsPerSlot(options.indirect, segmentCount);
    assert(slotCount * this.perSlot <= options.size, "the ring is too small for its slots");
    const ringOptions = {
      size: options.size,
      eventIndex: options.eventIndex,
      region: options.region,
    };
    this.split = options.packed ? null : new SplitRing(memory, ringOptions);
    this.packed = options.packed ? new PackedRing(memory, ringOptions) : null;
    this.dataGpa = new Float64Array(slotCount);
    this.dataAddress = new Float64Array(slotCount);
    this.inflight = new Uint8Array(slotCount);
    this.headerOffset = new Float64Array(slotCount);
    this.statusOffset = new Float64Array(slotCount);
    this.tableOffset = new Float64Array(slotCount);
    this.expectedBytes = new Uint32Array(slotCount);
    this.prepared = new Uint32Array(options.packed ? slotCount * this.perSlot * 4 : 0);
    this.slotOfHead = new Int32Array(options.size).fill(NO_SLOT);
    this.shape = new Float64Array(slotCount).fill(NO_SHAPE);
    this.words = options.region.host.u32;
    this.bytes = options.region.host.u8;
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    const stride = options.headerStrideBytes ?? DEFAULT_STRIDE_BYTES;
    assert(stride > HEADER_BYTES, "header stride leaves no room for the status byte");
    this.aligned = stride % 4 === 0;
    const base = options.region.guestAddress;
    const headers = memory.allocate(slotCount * stride, CACHE_LINE_BYTES, options.region) - base;
    // A status byte in a cache line of its own where there is room, else right behind the header.
    const statusAt = stride >= DEFAULT_STRIDE_BYTES ? CACHE_LINE_BYTES : HEADER_BYTES;
    const tableBytes = (segmentCount + 2) * DESCRIPTOR_BYTES;
    for (let slot = 0; slot < slotCount; slot++) {
      this.slotOfHead[options.packed ? slot : slot * this.perSlot] = slot;
      this.headerOffset[slot] = headers + slot * stride;
      this.statusOffset[slot] = headers + slot * stride + statusAt;
      this.bytes[this.statusOffset[slot]] = STATUS_UNTOUCHED;
      if (options.indirect) {
        this.tableOffset[slot] = memory.allocate(tableBytes, CACHE_LINE_BYTES, this.region) - base;
      }
      this.setData(slot, memory.allocate(options.dataBytes, 4096, options.region));
    }
  }

  /** Gives an idle slot another data buffer. */
  setData(slot: number, gpa: number): void {
    assert(this.inflight[slot] === 0, "data buffer of a slot in flight exchanged");
    this.dataGpa[slot] = gpa;
    this.dataAddress[slot] = this.region.host.address + (gpa - this.region.guestAddress);
    this.shape[slot] = NO_SHAPE;
  }

  /** Index into `words` of the slot's data buffer. */
  dataWord(slot: number): number {
    return (this.dataGpa[slot] - this.region.guestAddress) / 4;
  }

  /** The first `bytes` of the slot's data buffer, as a new object: for recorded runs only. */
  // @cold
  data(slot: number, bytes: number): Uint8Array {
    const at = this.dataGpa[slot] - this.region.guestAddress;
    return this.bytes.subarray(at, at + bytes);
  }

  /** Address of the slot's header, for tests that look at it. */
  headerAddress(slot: number): Address {
    return this.region.host.address + this.headerOffset[slot];
  }

  /**
   * Puts a request into the ring; the device sees it at the next publish(). `dataBytes` 0: header
   * and status only. `deviceWrites`: the data buffer is for the device to write.
   */
  submit(
    slot: number,
    type: number,
    sector: number,
    dataBytes: number,
    deviceWrites: boolean,
  ): void {
    assert(this.inflight[slot] === 0, "slot submitted twice");
    assert(dataBytes <= this.dataBytes, "request larger than its buffer");
    if (this.bytes[this.statusOffset[slot]] !== STATUS_UNTOUCHED) this.statusChanged(slot);
    this.inflight[slot] = 1;
    this.inflightCount += 1;
    this.expectedBytes[slot] = deviceWrites ? dataBytes + 1 : 1;
    const at = this.headerOffset[slot];
    if (this.aligned) {
      const word = at / 4;
      this.words[word] = type;
      this.words[word + 1] = 0;
      this.words[word + 2] = sector >>> 0;
      this.words[word + 3] = Math.floor(sector / 4294967296);
    } else {
      this.view.setUint32(at, type, true);
      this.view.setUint32(at + 4, 0, true);
      this.view.setUint32(at + 8, sector >>> 0, true);
      this.view.setUint32(at + 12, Math.floor(sector / 4294967296), true);
    }
    const split = this.split;
    if (split !== null) {
      const shape = dataBytes * 2 + (deviceWrites ? 1 : 0);
      if (this.shape[slot] !== shape) {
        this.shape[slot] = shape;
        this.describe(slot, dataBytes, deviceWrites);
      }
      split.offer(slot * this.perSlot);
    } else {
      this.offerPacked(slot, dataBytes, deviceWrites);
    }
  }

  private statusChanged(slot: number): never {
    const status = this.bytes[this.statusOffset[slot]];
    throw new LoadError(
      "BAD_COMPLETION",
      `Queue ${this.index}: the status byte of request ${slot} became ${status} after the ` +
        "request had completed.",
    );
  }

  /** Writes the split descriptors, or the indirect table, of the slot. */
  private describe(slot: number, dataBytes: number, deviceWrites: boolean): void {
    const split = this.split as SplitRing;
    const base = this.region.guestAddress;
    const table = this.tableOffset[slot];
    const words = this.indirect ? this.words : split.descriptors;
    const first = this.indirect ? 0 : slot * this.perSlot;
    let at = this.indirect ? table / 4 : first * 4;
    let next = first + 1;
    putDescriptor(words, at, base + this.headerOffset[slot], HEADER_BYTES, DESCRIPTOR_F_NEXT, next);
    const flags = DESCRIPTOR_F_NEXT | (deviceWrites ? DESCRIPTOR_F_WRITE : 0);
    let done = 0;
    while (done < dataBytes) {
      const step = Math.min(this.segmentBytes, dataBytes - done);
      at += 4;
      next += 1;
      putDescriptor(words, at, this.dataGpa[slot] + done, step, flags, next);
      done += step;
    }
    at += 4;
    putDescriptor(words, at, base + this.statusOffset[slot], 1, DESCRIPTOR_F_WRITE, 0);
    if (this.indirect) {
      const bytes = (next + 1) * DESCRIPTOR_BYTES;
      split.writeDescriptor(slot, base + table, bytes, DESCRIPTOR_F_INDIRECT, 0);
    }
  }

  /** The chain lies ready in `prepared`, and is copied into the ring. */
  private offerPacked(slot: number, dataBytes: number, deviceWrites: boolean): void {
    const ring = this.packed as PackedRing;
    const segmentCount = dataBytes === 0 ? 0 : Math.ceil(dataBytes / this.segmentBytes);
    const first = slot * this.perSlot * 4;
    const shape = dataBytes * 2 + (deviceWrites ? 1 : 0);
    if (this.shape[slot] !== shape) {
      this.shape[slot] = shape;
      this.describePacked(slot, dataBytes, deviceWrites);
      if (this.indirect) {
        const table = this.region.guestAddress + this.tableOffset[slot];
        const bytes = (segmentCount + 2) * DESCRIPTOR_BYTES;
        putPackedDescriptor(this.prepared, first, table, bytes, DESCRIPTOR_F_INDIRECT);
      }
    }
    const count = this.indirect ? 1 : segmentCount + 2;
    ring.beginChain(slot, count);
    for (let index = 0; index < count; index++) {
      ring.offerCopy(this.prepared, first + index * 4, slot);
    }
  }

  /**
   * Writes the slot's chain where it belongs: into its table in guest memory, or to `prepared`. In
   * a table only WRITE counts and order says the rest (2.8.8); a ring wants NEXT as well.
   */
  private describePacked(slot: number, dataBytes: number, deviceWrites: boolean): void {
    const base = this.region.guestAddress;
    const words = this.indirect ? this.words : this.prepared;
    const more = this.indirect ? 0 : DESCRIPTOR_F_NEXT;
    let at = this.indirect ? this.tableOffset[slot] / 4 : slot * this.perSlot * 4;
    putPackedDescriptor(words, at, base + this.headerOffset[slot], HEADER_BYTES, more);
    const flags = more | (deviceWrites ? DESCRIPTOR_F_WRITE : 0);
    let done = 0;
    while (done < dataBytes) {
      const step = Math.min(this.segmentBytes, dataBytes - done);
      at += 4;
      putPackedDescriptor(words, at, this.dataGpa[slot] + done, step, flags);
      done += step;
    }
    at += 4;
    putPackedDescriptor(words, at, base + this.statusOffset[slot], 1, DESCRIPTOR_F_WRITE);
  }

  /** Shows the device what was submitted and kicks it if it asks for that. */
  publish(): void {
    const split = this.split;
    const kick = split !== null ? split.publish() : (this.packed as PackedRing).publish();
    if (kick && this.kickFd >= 0) {
      this.kickCount += 1;
      eventSignal(this.kickFd);
    }
  }

  /** Completions that can be taken now. */
  pending(): number {
    const split = this.split;
    return split !== null ? split.usedPending() : (this.packed as PackedRing).usedPending();
  }

  /** Takes one completion: returns its slot, sets `status` and `usedBytes`. pending() was > 0. */
  takeCompleted(): number {
    let head: number;
    const split = this.split;
    if (split !== null) {
      head = split.nextUsed();
      this.usedBytes = split.usedBytes;
    } else {
      const packed = this.packed as PackedRing;
      head = packed.nextUsed();
      this.usedBytes = packed.usedBytes;
    }
    const slot = this.slotOfHead[head];
    if (slot === NO_SLOT || this.inflight[slot] !== 1) this.notInFlight(head);
    this.inflight[slot] = 0;
    this.inflightCount -= 1;
    const at = this.statusOffset[slot];
    this.status = this.bytes[at];
    this.bytes[at] = STATUS_UNTOUCHED;
    if (this.status === STATUS_UNTOUCHED) this.noStatus(slot);
    if (this.usedBytes !== this.expectedBytes[slot] && this.status === 0) this.wrongLength(slot);
    return slot;
  }

  /** What GET_VRING_BASE answers for this ring when nothing is in flight. */
  baseNow(): number {
    return this.split !== null ? this.split.availableIndex : (this.packed as PackedRing).baseNow();
  }

  private notInFlight(head: number): never {
    throw new LoadError(
      "BAD_COMPLETION",
      `Queue ${this.index}: completion for descriptor ${head}, which heads nothing in flight.`,
    );
  }

  private noStatus(slot: number): never {
    throw new LoadError(
      "BAD_COMPLETION",
      `Queue ${this.index}: request ${slot} was completed without a status.`,
    );
  }

  private wrongLength(slot: number): void {
    this.wrongLengthCount += 1;
    if (this.anyUsedLength) return;
    throw new LoadError(
      "BAD_COMPLETION",
      `Queue ${this.index}: request ${slot} completed with length ${this.usedBytes}, ` +
        `not ${this.expectedBytes[slot]}.`,
    );
  }

  /** As the rings' function of the same name. True when a completion waits already. */
  armNotifications(): boolean {
    const split = this.split;
    if (split !== null) return split.armNotifications();
    return (this.packed as PackedRing).armNotifications();
  }

  suppressNotifications(): void {
    const split = this.split;
    if (split !== null) split.suppressNotifications();
    else (this.packed as PackedRing).suppressNotifications();
  }
}

function putDescriptor(
  words: Uint32Array,
  at: number,
  gpa: number,
  bytes: number,
  flags: number,
  next: number,
): void {
  words[at] = gpa >>> 0;
  words[at + 1] = Math.floor(gpa / 4294967296);
  words[at + 2] = bytes;
  words[at + 3] = flags | (next << 16);
}

/** id is 0 in tables; flags are the upper half of the last word. */
function putPackedDescriptor(
  words: Uint32Array,
  at: number,
  gpa: number,
  bytes: number,
  flags: number,
): void {
  words[at] = gpa >>> 0;
  words[at + 1] = Math.floor(gpa / 4294967296);
  words[at + 2] = bytes;
  words[at + 3] = flags << 16;
}
