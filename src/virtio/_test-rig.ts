// A ring, its driver and its queue over fake guest memory, for tests of the queues and of blk.

import assert from "node:assert/strict";
import { EIO, OP_READ, OP_WRITE, type RequestTable } from "../base/index.ts";
import type { BlockDevice, BlockDeviceInfo, RingArea } from "../ports/index.ts";
import { FakeMemory, type FakeRegion, HOST_BASE } from "../testing/fakes/guest-memory.ts";
import { FAKE_INFO, FakeMeter, FakeReactor } from "../testing/fakes/reactor.ts";
import {
  PackedDriver,
  type RingAreas,
  SplitDriver,
  type TestBuffer,
} from "../testing/fakes/ring-driver.ts";
import { BlkQueue } from "./blk.ts";
import { BlkConfig, type BlkConfigOptions } from "./blk-config.ts";
import { BLK_S_OK, F_RING_PACKED } from "./layouts.ts";
import type { InflightTracker, PackedInflightTracker, RingLog } from "./virtqueue.ts";

/** Ring at the bottom, then a page for headers and one for status, then data: see PLACES. */
export const LOW_REGION: FakeRegion = { gpa: 0x10000, bytes: 0x80000 };
/** Two regions adjacent in guest addresses, apart (with poison between) in host addresses. */
export const HIGH_REGION_A: FakeRegion = { gpa: 0x1_0000_0000, bytes: 0x10000 };
export const HIGH_REGION_B: FakeRegion = { gpa: 0x1_0001_0000, bytes: 0x10000 };

export const PLACES = {
  descriptors: 0x10000,
  driver: 0x20000,
  device: 0x30000,
  headers: 0x40000,
  statuses: 0x50000,
  tables: 0x60000,
  data: 0x1_0000_0000,
} as const;

/** Where both high regions meet. */
export const SEAM: number = HIGH_REGION_B.gpa;

export function testMemory(): FakeMemory {
  return new FakeMemory([LOW_REGION, HIGH_REGION_A, HIGH_REGION_B]);
}

export interface Submitted {
  readonly slot: number;
  readonly op: number;
  readonly flags: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly segments: readonly (readonly [address: number, bytes: number])[];
}

/**
 * Remembers what was submitted and moves bytes between its own disk and fake guest memory. Holds
 * requests back while `held`, and gives `result` to those it completes.
 */
export class TestDevice implements BlockDevice {
  readonly info: BlockDeviceInfo;
  readonly submitted: Submitted[] = [];
  readonly disk: Uint8Array = new Uint8Array(1 << 20);
  held = false;
  result = 0;
  private readonly waiting: number[] = [];
  private readonly requests: RequestTable;
  private readonly memory: FakeMemory;

  constructor(requests: RequestTable, memory: FakeMemory, info: BlockDeviceInfo) {
    this.requests = requests;
    this.memory = memory;
    this.info = info;
  }

  get inflightCount(): number {
    return this.waiting.length;
  }

  get last(): Submitted {
    const last = this.submitted[this.submitted.length - 1];
    assert.ok(last !== undefined, "nothing was submitted");
    return last;
  }

  submit(slot: number): void {
    const { requests } = this;
    const segments: [number, number][] = [];
    for (let index = 0; index < (requests.segmentCount[slot] as number); index++) {
      segments.push([requests.segmentAddress(slot, index), requests.segmentBytes(slot, index)]);
    }
    this.submitted.push({
      slot,
      op: requests.op[slot] as number,
      flags: requests.flags[slot] as number,
      offsetBytes: requests.offsetBytes[slot] as number,
      lengthBytes: requests.lengthBytes[slot] as number,
      segments,
    });
    if (this.held) this.waiting.push(slot);
    else this.finish(slot);
  }

  /** Completes the oldest, the newest, or all held requests. */
  release(which: "oldest" | "newest" | "all" = "all"): void {
    if (which === "all") for (const slot of this.waiting.splice(0)) this.finish(slot);
    else this.finish((which === "oldest" ? this.waiting.shift() : this.waiting.pop()) as number);
  }

  private finish(slot: number): void {
    if (this.result === 0) this.move(slot);
    this.requests.complete(slot, this.result);
  }

  private move(slot: number): void {
    const op = this.requests.op[slot];
    if (op !== OP_READ && op !== OP_WRITE) return;
    let at = this.requests.offsetBytes[slot] as number;
    if (at + (this.requests.lengthBytes[slot] as number) > this.disk.length) return;
    for (let index = 0; index < (this.requests.segmentCount[slot] as number); index++) {
      const offset = this.requests.segmentAddress(slot, index) - HOST_BASE;
      const bytes = this.requests.segmentBytes(slot, index);
      const guest = this.memory.u8.subarray(offset, offset + bytes);
      if (op === OP_READ) guest.set(this.disk.subarray(at, at + bytes));
      else this.disk.set(guest, at);
      at += bytes;
    }
  }
}

export interface BlkRigOptions {
  readonly packed?: boolean;
  readonly shadow?: boolean;
  readonly size?: number;
  readonly slots?: number;
  readonly info?: Partial<BlockDeviceInfo>;
  readonly config?: Partial<BlkConfigOptions>;
  /** Feature bits that the driver does not accept. */
  readonly without?: readonly number[];
  readonly tracker?: InflightTracker | PackedInflightTracker | null;
  readonly ringLog?: RingLog | null;
  readonly resubmit?: readonly number[];
  readonly base?: number;
  /** Called before the queue starts, with the ring in place. */
  readonly prepare?: (rig: BlkRig) => void;
}

export const DEVICE_ERROR: number = -EIO;

export class BlkRig {
  readonly memory: FakeMemory = testMemory();
  readonly driver: SplitDriver | PackedDriver;
  readonly areas: RingAreas;
  readonly reactor: FakeReactor;
  readonly device: TestDevice;
  readonly config: BlkConfig;
  readonly meter: FakeMeter = new FakeMeter();
  readonly queue: BlkQueue;
  readonly brokenReasons: number[] = [];
  readonly startResult: number;
  callCount = 0;
  usedBytes = -1;
  private requestCount = 0;

  constructor(options: BlkRigOptions = {}) {
    const size = options.size ?? 16;
    const packed = options.packed === true;
    const Driver = packed ? PackedDriver : SplitDriver;
    this.driver = new Driver(this.memory, size, PLACES);
    this.areas = this.driver.areas(options.shadow === true);
    this.reactor = new FakeReactor(options.slots ?? 64);
    const info = { ...FAKE_INFO, ...options.info };
    this.device = new TestDevice(this.reactor.requests, this.memory, info);
    this.config = new BlkConfig(info, {
      queueCount: 1,
      packedAllowed: true,
      readOnly: false,
      writeback: true,
      ...options.config,
    });
    let low = this.config.offeredLow;
    let high = this.config.offeredHigh;
    for (const bit of options.without ?? []) {
      if (bit < 32) low &= ~(1 << bit);
      else high &= ~(1 << (bit - 32));
    }
    if (!packed) high &= ~(1 << (F_RING_PACKED - 32));
    this.config.acceptFeatures(low, high);
    this.queue = new BlkQueue(0, {
      reactor: this.reactor,
      device: this.device,
      config: this.config,
      meter: this.meter,
      breakHandler: { ringBroken: (_index, reason) => this.brokenReasons.push(reason) },
    });
    options.prepare?.(this);
    this.startResult = this.start(options);
  }

  start(options: BlkRigOptions): number {
    return this.queue.start({
      ring: {
        size: this.driver.size,
        ...this.areas,
        base: options.base ?? this.driver.initialBase,
        featuresLow: this.config.acceptedLow,
        featuresHigh: this.config.acceptedHigh,
        memory: this.memory,
        tracker: options.tracker ?? null,
        ringLog: options.ringLog ?? null,
      },
      notifier: { signal: () => this.callCount++ },
      resubmit: options.resubmit === undefined ? null : Uint16Array.from(options.resubmit),
    });
  }

  /** Polls until nothing more happens, delivering completions and flushes. */
  run(): void {
    let quiet = 0;
    while (quiet < 2) {
      const worked = this.queue.poll();
      this.reactor.deliver();
      quiet = worked === 0 ? quiet + 1 : 0;
    }
  }

  /** Writes a request header and returns the buffer that names it. */
  header(type: number, sector: number, at: number = this.nextPlace(PLACES.headers)): TestBuffer {
    return this.rawHeader(type, sector >>> 0, Math.floor(sector / 2 ** 32), at);
  }

  rawHeader(
    type: number,
    sectorLow: number,
    sectorHigh: number,
    at: number = this.nextPlace(PLACES.headers),
  ): TestBuffer {
    const bytes = new Uint8Array(16);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, type, true);
    view.setUint32(8, sectorLow, true);
    view.setUint32(12, sectorHigh, true);
    this.memory.write(at, bytes, 0, 16);
    return { gpa: at, bytes: 16 };
  }

  /** A status byte that holds 0xff, which no device writes. */
  status(): TestBuffer {
    const gpa = this.nextPlace(PLACES.statuses);
    this.memory.writeU8(gpa, 0xff);
    return { gpa, bytes: 1, write: true };
  }

  peek(gpa: number): number {
    return this.memory.u8[this.memory.offsetOf(gpa, 1)] as number;
  }

  /** Guest memory as bytes, for comparing and filling; one region. */
  bytes(gpa: number, count: number): Uint8Array {
    const offset = this.memory.offsetOf(gpa, count);
    return this.memory.u8.subarray(offset, offset + count);
  }

  /**
   * One request in its usual shape: header, buffers, status. Runs it until it is answered and
   * returns the status byte; `usedBytes` is what the used element says.
   */
  request(type: number, sector: number, buffers: readonly TestBuffer[]): number {
    const status = this.status();
    const id = this.driver.add([this.header(type, sector), ...buffers, status]);
    this.run();
    const used = this.driver.takeUsed();
    assert.deepEqual(
      used.map((element) => element.id),
      [id],
      "answered exactly once",
    );
    this.usedBytes = used[0]?.bytes ?? -1;
    return this.peek(status.gpa);
  }

  assertWorks(): void {
    const status = this.request(0, 0, [{ gpa: PLACES.data, bytes: 512, write: true }]);
    assert.equal(status, BLK_S_OK, "the ring serves requests");
    assert.equal(this.brokenReasons.length, 0);
  }

  /** Host address of guest address `gpa`. */
  host(gpa: number): number {
    return this.memory.offsetOf(gpa, 1) + HOST_BASE;
  }

  private nextPlace(base: number): number {
    this.requestCount += 1;
    return base + (this.requestCount % 512) * 64;
  }

  area(name: keyof RingAreas): RingArea {
    return this.areas[name];
  }
}
