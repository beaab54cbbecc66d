// The driver side of a virtqueue for tests: descriptors at exactly the places a test names, or
// chains laid out by themselves. Two classes of one shape, split and packed.
//
// Invariant: descriptors are reused only after the device gave them back.

import assert from "node:assert/strict";
import type { RingArea } from "../../ports/index.ts";
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  PACKED_BASE_INITIAL,
  PACKED_F_AVAIL,
  PACKED_F_USED,
  splitAvailBytes,
  splitUsedBytes,
} from "../../virtio/index.ts";
import { DirectArea, type FakeMemory, ShadowArea } from "./guest-memory.ts";

export interface TestBuffer {
  readonly gpa: number;
  readonly bytes: number;
  readonly write?: boolean;
}

export interface UsedElement {
  readonly id: number;
  readonly bytes: number;
}

/** Where a test ring lies: descriptors, driver area, device area. */
export interface RingPlace {
  readonly descriptors: number;
  readonly driver: number;
  readonly device: number;
}

export interface RingAreas {
  readonly descriptors: RingArea;
  readonly driver: RingArea;
  readonly device: RingArea;
}

export interface TestDriver {
  readonly size: number;
  /** What SET_VRING_BASE would say for a ring that was never used. */
  readonly initialBase: number;
  areas(shadow: boolean): RingAreas;
  /** Makes a chain available; `table` is the guest address for an indirect table, or -1. */
  add(buffers: readonly TestBuffer[], table?: number): number;
  /** Everything the device has given back since the last call. */
  takeUsed(): UsedElement[];
  /** Descriptors that add() may still use. */
  readonly freeCount: number;
}

/** A descriptor as it lies in memory; the last word is the caller's. */
function putDescriptor(memory: FakeMemory, at: number, gpa: number, bytes: number): number {
  const offset = memory.offsetOf(at, 16) / 4;
  memory.u32[offset] = gpa >>> 0;
  memory.u32[offset + 1] = Math.floor(gpa / 2 ** 32);
  memory.u32[offset + 2] = bytes;
  return offset;
}

/** Writes an indirect table for either kind; the packed kind has ids where the other has next. */
function putTable(
  memory: FakeMemory,
  table: number,
  buffers: readonly TestBuffer[],
  packed: boolean,
): void {
  buffers.forEach((buffer, index) => {
    const offset = putDescriptor(memory, table + index * 16, buffer.gpa, buffer.bytes);
    const last = index === buffers.length - 1;
    const direction = buffer.write === true ? DESCRIPTOR_F_WRITE : 0;
    const flags = direction | (last || packed ? 0 : DESCRIPTOR_F_NEXT);
    memory.u32[offset + 3] = packed ? flags << 16 : flags | ((last ? 0 : index + 1) << 16);
  });
}

export class SplitDriver implements TestDriver {
  readonly size: number;
  readonly initialBase = 0;
  readonly place: RingPlace;
  availIndex = 0;
  usedIndex = 0;
  private readonly memory: FakeMemory;
  private readonly avail: Uint16Array;
  private readonly used: Uint16Array;
  private readonly usedWords: Uint32Array;
  private readonly free: number[] = [];
  private readonly chains: Map<number, number[]> = new Map();

  constructor(memory: FakeMemory, size: number, place: RingPlace) {
    this.memory = memory;
    this.size = size;
    this.place = place;
    const { driver, device } = this.areas(false);
    this.avail = driver.u16;
    this.used = device.u16;
    this.usedWords = device.u32;
    for (let index = size - 1; index >= 0; index--) this.free.push(index);
  }

  get freeCount(): number {
    return this.free.length;
  }

  areas(shadow: boolean): RingAreas {
    const { memory, size, place } = this;
    const Area = shadow ? ShadowArea : DirectArea;
    return {
      descriptors: new Area(memory, place.descriptors, size * 16),
      driver: new Area(memory, place.driver, splitAvailBytes(size)),
      device: new Area(memory, place.device, splitUsedBytes(size)),
    };
  }

  /** Begins both indices at `index`, as a ring that has run for long. */
  startAt(index: number): void {
    this.availIndex = index;
    this.usedIndex = index;
    this.avail[1] = index;
    this.used[1] = index;
  }

  put(index: number, gpa: number, bytes: number, flags: number, next = 0): void {
    const offset = putDescriptor(this.memory, this.place.descriptors + index * 16, gpa, bytes);
    this.memory.u32[offset + 3] = flags | (next << 16);
  }

  /** Writes one avail entry, and makes it visible. */
  offer(head: number): void {
    this.avail[2 + (this.availIndex % this.size)] = head;
    this.setAvailIndex(this.availIndex + 1);
  }

  setAvailIndex(index: number): void {
    this.availIndex = index & 0xffff;
    Atomics.store(this.avail, 1, this.availIndex);
  }

  get usedFlags(): number {
    return Atomics.load(this.used, 0);
  }

  /** What the device has published, without taking it. */
  get usedIndexInMemory(): number {
    return Atomics.load(this.used, 1);
  }

  get availEvent(): number {
    return Atomics.load(this.used, 2 + 4 * this.size);
  }

  set usedEvent(index: number) {
    Atomics.store(this.avail, 2 + this.size, index & 0xffff);
  }

  set availFlags(flags: number) {
    Atomics.store(this.avail, 0, flags);
  }

  add(buffers: readonly TestBuffer[], table = -1): number {
    const indices = this.allocate(table >= 0 ? 1 : buffers.length);
    const head = indices[0] as number;
    if (table >= 0) {
      putTable(this.memory, table, buffers, false);
      this.put(head, table, buffers.length * 16, DESCRIPTOR_F_INDIRECT);
    } else {
      buffers.forEach((buffer, at) => {
        const next = indices[at + 1];
        const flags =
          (buffer.write === true ? DESCRIPTOR_F_WRITE : 0) |
          (next === undefined ? 0 : DESCRIPTOR_F_NEXT);
        this.put(indices[at] as number, buffer.gpa, buffer.bytes, flags, next ?? 0);
      });
    }
    this.chains.set(head, indices);
    this.offer(head);
    return head;
  }

  private allocate(count: number): number[] {
    assert.ok(this.free.length >= count, "test driver has no free descriptors");
    return this.free.splice(this.free.length - count, count);
  }

  takeUsed(): UsedElement[] {
    const taken: UsedElement[] = [];
    const end = Atomics.load(this.used, 1);
    while (this.usedIndex !== end) {
      const at = 1 + (this.usedIndex % this.size) * 2;
      const id = this.usedWords[at] as number;
      taken.push({ id, bytes: this.usedWords[at + 1] as number });
      this.free.push(...(this.chains.get(id) ?? []));
      this.chains.delete(id);
      this.usedIndex = (this.usedIndex + 1) & 0xffff;
    }
    return taken;
  }
}

export class PackedDriver implements TestDriver {
  readonly size: number;
  readonly initialBase: number = PACKED_BASE_INITIAL;
  readonly place: RingPlace;
  availIndex = 0;
  availWrap = 1;
  usedIndex = 0;
  usedWrap = 1;
  private readonly memory: FakeMemory;
  private readonly words: Uint32Array;
  private readonly halves: Uint16Array;
  private readonly driverEvent: Uint32Array;
  private readonly deviceEvent: Uint32Array;
  private readonly freeIds: number[] = [];
  private readonly slots: Map<number, number> = new Map();
  private slotsInUse = 0;

  constructor(memory: FakeMemory, size: number, place: RingPlace) {
    this.memory = memory;
    this.size = size;
    this.place = place;
    const { descriptors, driver, device } = this.areas(false);
    this.words = descriptors.u32;
    this.halves = descriptors.u16;
    this.driverEvent = driver.u32;
    this.deviceEvent = device.u32;
    for (let id = size - 1; id >= 0; id--) this.freeIds.push(id);
  }

  get freeCount(): number {
    return this.size - this.slotsInUse;
  }

  areas(shadow: boolean): RingAreas {
    const { memory, size, place } = this;
    const Area = shadow ? ShadowArea : DirectArea;
    return {
      descriptors: new Area(memory, place.descriptors, size * 16),
      driver: new Area(memory, place.driver, 4),
      device: new Area(memory, place.device, 4),
    };
  }

  /** `off` with the wrap counter in bit 15, then flags. */
  setDriverEvent(offWrap: number, flags: number): void {
    Atomics.store(this.driverEvent, 0, offWrap | (flags << 16));
  }

  get deviceEventWord(): number {
    return Atomics.load(this.deviceEvent, 0);
  }

  /** The flags that make a descriptor at the driver's position available. */
  get availableFlags(): number {
    return this.availWrap === 1 ? PACKED_F_AVAIL : PACKED_F_USED;
  }

  /** Writes one ring descriptor, flags last. */
  put(index: number, gpa: number, bytes: number, id: number, flags: number): void {
    putDescriptor(this.memory, this.place.descriptors + index * 16, gpa, bytes);
    this.halves[index * 8 + 6] = id;
    Atomics.store(this.halves, index * 8 + 7, flags);
  }

  /** Moves the driver's own position on by one slot. */
  advance(): void {
    this.availIndex += 1;
    if (this.availIndex === this.size) {
      this.availIndex = 0;
      this.availWrap ^= 1;
    }
  }

  add(buffers: readonly TestBuffer[], table = -1): number {
    const id = this.freeIds.pop() as number;
    const count = table >= 0 ? 1 : buffers.length;
    assert.ok(this.freeCount >= count, "test driver has no free descriptors");
    this.slots.set(id, count);
    this.slotsInUse += count;
    const first = this.availIndex;
    let firstFlags = 0;
    if (table >= 0) putTable(this.memory, table, buffers, true);
    for (let at = 0; at < count; at++) {
      const buffer = buffers[at] as TestBuffer;
      let flags = this.availableFlags;
      if (table >= 0) flags |= DESCRIPTOR_F_INDIRECT;
      else flags |= buffer.write === true ? DESCRIPTOR_F_WRITE : 0;
      if (at < count - 1) flags |= DESCRIPTOR_F_NEXT;
      const gpa = table >= 0 ? table : buffer.gpa;
      const bytes = table >= 0 ? buffers.length * 16 : buffer.bytes;
      putDescriptor(this.memory, this.place.descriptors + this.availIndex * 16, gpa, bytes);
      this.halves[this.availIndex * 8 + 6] = id;
      if (at === 0) firstFlags = flags;
      else this.halves[this.availIndex * 8 + 7] = flags;
      this.advance();
    }
    Atomics.store(this.halves, first * 8 + 7, firstFlags);
    return id;
  }

  takeUsed(): UsedElement[] {
    const taken: UsedElement[] = [];
    for (;;) {
      const flags = Atomics.load(this.halves, this.usedIndex * 8 + 7);
      const avail = (flags & PACKED_F_AVAIL) === 0 ? 0 : 1;
      const used = (flags & PACKED_F_USED) === 0 ? 0 : 1;
      if (avail !== used || used !== this.usedWrap) return taken;
      const id = this.halves[this.usedIndex * 8 + 6] as number;
      const written = (flags & DESCRIPTOR_F_WRITE) !== 0;
      const bytes = this.words[this.usedIndex * 4 + 2] as number;
      taken.push({ id, bytes: written ? bytes : 0 });
      const count = this.slots.get(id);
      assert.ok(count !== undefined, "device used an id that was not available");
      this.slots.delete(id);
      this.slotsInUse -= count;
      this.freeIds.push(id);
      this.usedIndex += count;
      if (this.usedIndex >= this.size) {
        this.usedIndex -= this.size;
        this.usedWrap ^= 1;
      }
    }
  }
}
