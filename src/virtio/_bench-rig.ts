// The driver side that benchmarks and the memory test share: fixed requests, made available again
// as soon as they come back. Allocates nothing while it runs.

import assert from "node:assert/strict";
import { DirectArea, FakeMemory } from "../testing/fakes/guest-memory.ts";
import { FAKE_INFO, FakeReactor, NullDevice } from "../testing/fakes/reactor.ts";
import { BlkQueue } from "./blk.ts";
import { BlkConfig } from "./blk-config.ts";
import {
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  F_RING_PACKED,
  PACKED_BASE_INITIAL,
  PACKED_F_AVAIL,
  PACKED_F_USED,
  splitAvailBytes,
  splitUsedBytes,
} from "./layouts.ts";

export interface BenchShape {
  readonly name: string;
  readonly packed: boolean;
  readonly indirect: boolean;
  readonly write: boolean;
  readonly depth: number;
}

const SIZE = 128;
const DATA_BYTES = 4096;
const DESCRIPTORS_GPA = 0x1000;
const DRIVER_GPA = 0x4000;
const DEVICE_GPA = 0x6000;
/** Headers and status bytes: 32 bytes per request. */
const HEADERS_GPA = 0x10000;
const TABLES_GPA = 0x20000;
const DATA_GPA = 0x1_0000_0000;

class NoMeter {
  readonly counters: Float64Array = new Float64Array(64);
  private total = 0;
  recordLatency(_op: number, us: number): void {
    this.total += us;
  }
}

class Calls {
  count = 0;
  signal(): void {
    this.count += 1;
  }
}

export class BenchRig {
  readonly calls: Calls = new Calls();
  readonly reactor: FakeReactor = new FakeReactor(256);
  readonly queue: BlkQueue;
  private readonly shape: BenchShape;
  private readonly memory: FakeMemory;
  private readonly descriptors: DirectArea;
  private readonly driver: DirectArea;
  private readonly device: DirectArea;
  private availIndex = 0;
  private usedIndex = 0;
  private availWrap = 1;
  private usedWrap = 1;

  constructor(shape: BenchShape) {
    this.shape = shape;
    this.memory = new FakeMemory([
      { gpa: 0, bytes: 1 << 20 },
      { gpa: DATA_GPA, bytes: SIZE * DATA_BYTES },
    ]);
    const config = new BlkConfig(FAKE_INFO, {
      queueCount: 1,
      packedAllowed: true,
      readOnly: false,
      writeback: true,
    });
    config.acceptFeatures(config.offeredLow, config.offeredHigh);
    this.queue = new BlkQueue(0, {
      reactor: this.reactor,
      device: new NullDevice(this.reactor.requests, FAKE_INFO),
      config,
      meter: new NoMeter(),
      breakHandler: { ringBroken: (_index, reason) => assert.fail(`ring broken: ${reason}`) },
    });
    this.descriptors = new DirectArea(this.memory, DESCRIPTORS_GPA, SIZE * 16);
    this.driver = new DirectArea(this.memory, DRIVER_GPA, splitAvailBytes(SIZE));
    this.device = new DirectArea(this.memory, DEVICE_GPA, splitUsedBytes(SIZE));
    const high = shape.packed
      ? config.acceptedHigh
      : config.acceptedHigh & ~(1 << (F_RING_PACKED - 32));
    const result = this.queue.start({
      ring: {
        size: SIZE,
        descriptors: this.descriptors,
        driver: this.driver,
        device: this.device,
        base: shape.packed ? PACKED_BASE_INITIAL : 0,
        featuresLow: config.acceptedLow,
        featuresHigh: high,
        memory: this.memory,
        tracker: null,
        ringLog: null,
      },
      notifier: this.calls,
      resubmit: null,
    });
    assert.equal(result, 0);
    for (let request = 0; request < shape.depth; request++) this.prepare(request);
    for (let request = 0; request < shape.depth; request++) this.makeAvailable(request);
  }

  /** Turns the loop until `count` more requests have come back. */
  run(count: number): void {
    let left = count;
    while (left > 0) {
      this.reactor.turn(this.queue);
      left -= this.shape.packed ? this.recyclePacked() : this.recycleSplit();
    }
  }

  private header(request: number): number {
    return HEADERS_GPA + request * 32;
  }

  private prepare(request: number): void {
    const { write, indirect, packed } = this.shape;
    const at = this.memory.offsetOf(this.header(request), 32);
    this.memory.u32[at / 4] = write ? 1 : 0;
    this.memory.u32[at / 4 + 2] = request * 8;
    if (packed && !indirect) return;
    const table = indirect ? this.table(request) : this.descriptors.u32;
    const first = indirect ? 0 : request * 3;
    this.fill(table, first, this.header(request), 16, DESCRIPTOR_F_NEXT, first + 1);
    const data = DATA_GPA + request * DATA_BYTES;
    const direction = write ? 0 : DESCRIPTOR_F_WRITE;
    this.fill(table, first + 1, data, DATA_BYTES, DESCRIPTOR_F_NEXT | direction, first + 2);
    this.fill(table, first + 2, this.header(request) + 16, 1, DESCRIPTOR_F_WRITE, 0);
    if (packed) {
      for (let index = 0; index < 3; index++) {
        const word = index * 4 + 3;
        table[word] = (table[word] as number) << 16;
      }
    } else if (indirect) {
      const gpa = TABLES_GPA + request * 48;
      this.fill(this.descriptors.u32, request * 3, gpa, 48, DESCRIPTOR_F_INDIRECT, 0);
    }
  }

  private table(request: number): Uint32Array {
    const offset = this.memory.offsetOf(TABLES_GPA + request * 48, 48);
    return new Uint32Array(this.memory.buffer, offset, 12);
  }

  private fill(
    table: Uint32Array,
    index: number,
    gpa: number,
    bytes: number,
    flags: number,
    next: number,
  ): void {
    const at = index * 4;
    table[at] = gpa >>> 0;
    table[at + 1] = Math.floor(gpa / 2 ** 32);
    table[at + 2] = bytes;
    table[at + 3] = flags | (next << 16);
  }

  private makeAvailable(request: number): void {
    if (this.shape.packed) {
      this.makePacked(request);
      return;
    }
    this.driver.u16[2 + (this.availIndex & (SIZE - 1))] = request * 3;
    this.availIndex = (this.availIndex + 1) & 0xffff;
    Atomics.store(this.driver.u16, 1, this.availIndex);
  }

  private makePacked(request: number): void {
    if (this.shape.indirect) {
      this.putPacked(TABLES_GPA + request * 48, 48, DESCRIPTOR_F_INDIRECT, request, true);
      return;
    }
    // The first descriptor's flags are written last.
    const first = this.availIndex;
    const firstFlags = this.putPacked(this.header(request), 16, DESCRIPTOR_F_NEXT, request, false);
    const direction = this.shape.write ? 0 : DESCRIPTOR_F_WRITE;
    const data = DATA_GPA + request * DATA_BYTES;
    this.putPacked(data, DATA_BYTES, DESCRIPTOR_F_NEXT | direction, request, true);
    this.putPacked(this.header(request) + 16, 1, DESCRIPTOR_F_WRITE, request, true);
    Atomics.store(this.descriptors.u16, first * 8 + 7, firstFlags);
  }

  private putPacked(
    gpa: number,
    bytes: number,
    flags: number,
    id: number,
    visible: boolean,
  ): number {
    const at = this.availIndex * 4;
    const state = this.availWrap === 1 ? PACKED_F_AVAIL : PACKED_F_USED;
    this.descriptors.u32[at] = gpa >>> 0;
    this.descriptors.u32[at + 1] = gpa >= 2 ** 32 ? 1 : 0;
    this.descriptors.u32[at + 2] = bytes;
    this.descriptors.u16[at * 2 + 6] = id;
    if (visible) this.descriptors.u16[at * 2 + 7] = flags | state;
    this.availIndex += 1;
    if (this.availIndex === SIZE) {
      this.availIndex = 0;
      this.availWrap ^= 1;
    }
    return flags | state;
  }

  private recycleSplit(): number {
    const used = Atomics.load(this.device.u16, 1);
    let count = 0;
    while (this.usedIndex !== used) {
      const head = this.device.u32[1 + (this.usedIndex & (SIZE - 1)) * 2] as number;
      this.usedIndex = (this.usedIndex + 1) & 0xffff;
      count += 1;
      this.driver.u16[2 + (this.availIndex & (SIZE - 1))] = head;
      this.availIndex = (this.availIndex + 1) & 0xffff;
    }
    if (count > 0) Atomics.store(this.driver.u16, 1, this.availIndex);
    return count;
  }

  private recyclePacked(): number {
    let count = 0;
    const slots = this.shape.indirect ? 1 : 3;
    for (;;) {
      const flags = Atomics.load(this.descriptors.u16, this.usedIndex * 8 + 7);
      const avail = (flags & PACKED_F_AVAIL) !== 0 ? 1 : 0;
      const used = (flags & PACKED_F_USED) !== 0 ? 1 : 0;
      if (avail !== used || used !== this.usedWrap) return count;
      const id = this.descriptors.u16[this.usedIndex * 8 + 6] as number;
      this.usedIndex += slots;
      if (this.usedIndex >= SIZE) {
        this.usedIndex -= SIZE;
        this.usedWrap ^= 1;
      }
      count += 1;
      this.makePacked(id);
    }
  }
}
