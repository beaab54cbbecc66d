// For tests of inflight recovery: a queue on plain memory with a driver beside it, and a record of
// that memory after every single store into the inflight region: every moment at which the process
// could have been killed.
//
// Truth about a moment is what the driver knows: what it has offered and has not been shown as used
// is outstanding. A recovery is right when each outstanding chain is either taken up from the
// region or read from the ring again, never both and never neither, and nothing else is.

import { Prng } from "../base/index.ts";
import type { GuestMemory, RingArea } from "../ports/index.ts";
import {
  Chain,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  F_RING_PACKED,
  F_VERSION_1,
  PACKED_BASE_INITIAL,
  PACKED_F_AVAIL,
  PACKED_F_USED,
  PackedQueue,
  SplitQueue,
  splitAvailBytes,
  splitUsedBytes,
  type Virtqueue,
} from "../virtio/index.ts";
import { type InflightWindow, queueRegionBytes } from "./inflight.ts";
import { PackedInflight } from "./inflight-packed.ts";
import { SplitInflight } from "./inflight-split.ts";

export interface CrashRigOptions {
  readonly packed: boolean;
  readonly ringSize: number;
  /** Entries of the inflight region, at least ringSize. */
  readonly regionSize: number;
  readonly seed: number;
}

const AREA_BYTES = 4096;

class PlainArea implements RingArea {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly shadow = false;

  constructor(buffer: ArrayBuffer, offset: number, bytes: number) {
    this.u8 = new Uint8Array(buffer, offset, bytes);
    this.u16 = new Uint16Array(buffer, offset, bytes >>> 1);
    this.u32 = new Uint32Array(buffer, offset, bytes >>> 2);
  }

  pull(): boolean {
    return true;
  }

  push(): boolean {
    return true;
  }
}

const NO_MEMORY = {
  translate: () => -1,
  contiguousBytes: 0,
  faultable: false,
  logging: false,
} as unknown as GuestMemory;

/** Windows over `buffer` that call `stored` after every store. */
function watchedWindow(buffer: ArrayBuffer, stored: () => void): InflightWindow {
  const watch = <T extends Uint8Array | Uint16Array | Uint32Array>(array: T): T =>
    new Proxy(array, {
      get(target, key) {
        const value = Reflect.get(target, key, target) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      },
      set(target, key, value) {
        const done = Reflect.set(target, key, value, target);
        stored();
        return done;
      },
    });
  return {
    u8: watch(new Uint8Array(buffer)),
    u16: watch(new Uint16Array(buffer)),
    u32: watch(new Uint32Array(buffer)),
  };
}

/** The driver's side of either ring, on the same memory. */
class Driver {
  private readonly packed: boolean;
  private readonly size: number;
  private readonly descriptors: PlainArea;
  private readonly avail: PlainArea;
  private readonly used: PlainArea;
  /** Ids in the order in which they were offered. */
  readonly offered: number[] = [];
  private readonly slots: Map<number, number> = new Map();
  private readonly freeIds: number[];
  private freeSlots: number;
  private availIndex = 0;
  private availWrap = 1;
  private usedIndex = 0;
  private usedWrap = 1;

  constructor(packed: boolean, size: number, areas: readonly [PlainArea, PlainArea, PlainArea]) {
    this.packed = packed;
    this.size = size;
    [this.descriptors, this.avail, this.used] = areas;
    // A split chain of up to three descriptors starts at a multiple of four.
    const step = packed ? 1 : 4;
    this.freeIds = Array.from({ length: Math.floor(size / step) }, (_, at) => at * step);
    this.freeSlots = size;
  }

  canOffer(length: number): boolean {
    return this.freeIds.length > 0 && this.freeSlots >= length;
  }

  /** Offers a chain of `length` descriptors whose addresses name its id. */
  offer(length: number, pick: number): void {
    const [id] = this.freeIds.splice(pick % this.freeIds.length, 1) as [number];
    this.slots.set(id, length);
    this.freeSlots -= length;
    this.offered.push(id);
    if (this.packed) this.offerPacked(id, length);
    else this.offerSplit(id, length);
  }

  private offerSplit(id: number, length: number): void {
    for (let index = 0; index < length; index++) {
      const more = index + 1 < length ? DESCRIPTOR_F_NEXT : DESCRIPTOR_F_WRITE;
      this.put(id + index, id, more | ((id + index + 1) << 16));
    }
    this.avail.u16[2 + (this.availIndex % this.size)] = id;
    this.availIndex = (this.availIndex + 1) & 0xffff;
    this.avail.u16[1] = this.availIndex;
  }

  private offerPacked(id: number, length: number): void {
    for (let index = 0; index < length; index++) {
      const flags = index + 1 < length ? DESCRIPTOR_F_NEXT : DESCRIPTOR_F_WRITE;
      const state = this.availWrap === 1 ? PACKED_F_AVAIL : PACKED_F_USED;
      this.put(this.availIndex, id, id | ((flags | state) << 16));
      this.availIndex += 1;
      if (this.availIndex === this.size) {
        this.availIndex = 0;
        this.availWrap ^= 1;
      }
    }
  }

  private put(position: number, id: number, tail: number): void {
    const words = this.descriptors.u32;
    words[position * 4] = 0x1000 + id;
    words[position * 4 + 1] = 0;
    words[position * 4 + 2] = 64;
    words[position * 4 + 3] = tail;
  }

  /** Takes back one chain that was shown as used, or -1. */
  takeUsed(): number {
    const id = this.packed ? this.takePacked() : this.takeSplit();
    if (id < 0) return id;
    this.freeIds.push(id);
    this.freeSlots += this.slots.get(id) as number;
    this.slots.delete(id);
    this.offered.splice(this.offered.indexOf(id), 1);
    return id;
  }

  private takeSplit(): number {
    if (this.usedIndex === this.used.u16[1]) return -1;
    const id = this.used.u32[1 + 2 * (this.usedIndex % this.size)] as number;
    this.usedIndex = (this.usedIndex + 1) & 0xffff;
    return id;
  }

  private takePacked(): number {
    const flags = this.descriptors.u16[this.usedIndex * 8 + 7] as number;
    const state = this.usedWrap === 1 ? PACKED_F_AVAIL | PACKED_F_USED : 0;
    if ((flags & (PACKED_F_AVAIL | PACKED_F_USED)) !== state) return -1;
    const id = this.descriptors.u16[this.usedIndex * 8 + 6] as number;
    if (!this.slots.has(id)) return -1;
    this.usedIndex += this.slots.get(id) as number;
    if (this.usedIndex >= this.size) {
      this.usedIndex -= this.size;
      this.usedWrap ^= 1;
    }
    return id;
  }

  /** As it is now, for another copy of the ring. */
  copyTo(other: Driver): void {
    other.offered.push(...this.offered);
    for (const [id, slots] of this.slots) other.slots.set(id, slots);
    other.freeIds.splice(0, other.freeIds.length, ...this.freeIds);
    other.freeSlots = this.freeSlots;
    other.availIndex = this.availIndex;
    other.availWrap = this.availWrap;
    other.usedIndex = this.usedIndex;
    other.usedWrap = this.usedWrap;
  }
}

/** A queue, its tracker and its driver on memory of their own. */
export class CrashRig {
  readonly options: CrashRigOptions;
  readonly driver: Driver;
  /** Called after every store into the region. */
  onStore: () => void = () => undefined;
  private readonly ringBuffer: ArrayBuffer;
  private readonly regionBuffer: ArrayBuffer;
  private readonly areas: readonly [PlainArea, PlainArea, PlainArea];
  private readonly queue: Virtqueue;
  private readonly tracker: SplitInflight | PackedInflight;
  private readonly prng: Prng;
  private readonly chain = new Chain();
  /** Taken and not pushed. */
  readonly inFlight: number[] = [];
  /** What the last recovery found, or null. */
  recovered: readonly number[] | null = null;

  constructor(options: CrashRigOptions, memory?: { ring: Uint8Array; region: Uint8Array }) {
    const { packed, ringSize, regionSize } = options;
    this.options = options;
    this.prng = new Prng(options.seed);
    this.ringBuffer = new ArrayBuffer(3 * AREA_BYTES);
    this.regionBuffer = new ArrayBuffer(queueRegionBytes(packed, regionSize));
    if (memory !== undefined) {
      new Uint8Array(this.ringBuffer).set(memory.ring);
      new Uint8Array(this.regionBuffer).set(memory.region);
    }
    const driverBytes = packed ? 4 : splitAvailBytes(ringSize);
    const deviceBytes = packed ? 4 : splitUsedBytes(ringSize);
    this.areas = [
      new PlainArea(this.ringBuffer, 0, 16 * ringSize),
      new PlainArea(this.ringBuffer, AREA_BYTES, driverBytes),
      new PlainArea(this.ringBuffer, 2 * AREA_BYTES, deviceBytes),
    ];
    this.driver = new Driver(packed, ringSize, this.areas);
    const window = watchedWindow(this.regionBuffer, () => this.onStore());
    this.tracker = packed
      ? new PackedInflight(window, regionSize)
      : new SplitInflight(window, regionSize);
    this.queue = packed ? new PackedQueue() : new SplitQueue();
  }

  /** Recovers and starts the queue as a ring does; a string says why it could not. */
  start(): string | null {
    const { packed, ringSize, regionSize } = this.options;
    const [descriptors, driver, device] = this.areas;
    const fresh = packed ? PACKED_BASE_INITIAL : 0;
    const found =
      this.tracker instanceof PackedInflight
        ? this.tracker.recover(fresh, descriptors, ringSize, regionSize)
        : this.tracker.recover(device.u16[1] as number, ringSize, regionSize);
    if (typeof found === "string") return found;
    this.recovered = found === null ? null : found.heads;
    const reason = this.queue.start({
      size: ringSize,
      descriptors,
      driver,
      device,
      base: found === null ? fresh : found.base,
      featuresLow: 0,
      featuresHigh: (1 << (F_VERSION_1 - 32)) | (packed ? 1 << (F_RING_PACKED - 32) : 0),
      memory: NO_MEMORY,
      tracker: this.tracker,
      ringLog: null,
    });
    if (reason !== 0) return `the queue does not start: ${reason}`;
    for (const head of this.recovered ?? []) {
      if (!this.queue.markInflight(head)) return `head ${head} cannot be in flight`;
    }
    for (const head of this.recovered ?? []) {
      if (this.queue.resubmit(head, this.chain) !== head) return `head ${head} is not a chain`;
      const problem = this.wrongChain(head);
      if (problem !== null) return problem;
      this.inFlight.push(head);
    }
    return null;
  }

  /** The chain must be the one that the driver described. */
  private wrongChain(head: number): string | null {
    for (let index = 0; index < this.chain.count; index++) {
      if (this.chain.addresses[index] !== 0x1000 + head) return `head ${head} has another's buffer`;
    }
    return this.chain.count > 0 ? null : `head ${head} has no buffer`;
  }

  /** Takes one chain; -1 when there is none. Throws when the ring is broken. */
  take(): number {
    const head = this.queue.pop(this.chain);
    if (head < -1) throw new Error(`the ring is broken: ${head}`);
    if (head < 0) return -1;
    const problem = this.wrongChain(head);
    if (problem !== null) throw new Error(problem);
    this.inFlight.push(head);
    return head;
  }

  /** Completes one of what is in flight; not shown before publish(). */
  complete(): void {
    const [head] = this.inFlight.splice(this.prng.below(this.inFlight.length), 1) as [number];
    this.queue.push(head, 1);
  }

  publish(): void {
    this.queue.publish();
  }

  /** One random step of a life. */
  step(): void {
    const { prng, driver } = this;
    const what = prng.below(10);
    if (what < 4) {
      const length = prng.between(1, 3);
      if (driver.canOffer(length)) driver.offer(length, prng.below(1000));
    } else if (what < 6) {
      this.take();
    } else if (what < 8) {
      // A batch of any size, then shown.
      const batch = Math.min(prng.between(1, 4), this.inFlight.length);
      for (let count = 0; count < batch; count++) this.complete();
      this.publish();
    } else {
      driver.takeUsed();
    }
  }

  /** Copies what would survive now. */
  memory(): { ring: Uint8Array; region: Uint8Array } {
    return {
      ring: new Uint8Array(this.ringBuffer).slice(),
      region: new Uint8Array(this.regionBuffer).slice(),
    };
  }

  /** The region's other owner writes `count` random bytes of it, as it may at any time. */
  scribble(count: number, prng: Prng = this.prng): void {
    const region = new Uint8Array(this.regionBuffer);
    for (let index = 0; index < count; index++) {
      region[prng.below(region.length)] = prng.chance(0.5) ? 0xff : prng.below(256);
    }
  }

  /** A successor of the process, on copies of `memory`, with the driver as it is now. */
  successor(memory: { ring: Uint8Array; region: Uint8Array }, seed: number): CrashRig {
    const next = new CrashRig({ ...this.options, seed }, memory);
    this.driver.copyTo(next.driver);
    return next;
  }
}
