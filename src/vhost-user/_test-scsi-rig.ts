// A virtio-scsi controller with its guests over fake guest memory, for tests: each guest drives its
// rings itself, descriptor by descriptor.

import assert from "node:assert/strict";
import { SegmentCopier } from "../base/index.ts";
import type { Address } from "../ports/index.ts";
import {
  LogicalUnit,
  Reservations,
  ScsiEngine,
  type UnitOptions,
  VolatileReservationStore,
} from "../scsi/index.ts";
import { TestDevice } from "../testing/fakes/block-device.ts";
import { FakeMemory, HOST_BASE } from "../testing/fakes/guest-memory.ts";
import { TestMemory } from "../testing/fakes/memory.ts";
import { FakeMeter, FakeReactor } from "../testing/fakes/reactor.ts";
import { PackedDriver, SplitDriver, type TestBuffer } from "../testing/fakes/ring-driver.ts";
import { F_RING_PACKED, F_VERSION_1, type InflightTracker } from "../virtio/index.ts";
import type { DeviceConfig, RingQueue } from "./guest-device.ts";
import { COMMAND_REQUEST, COMMAND_RESPONSE, EVENT, TMF_REQUEST } from "./layouts-scsi.ts";
import type { ScsiGuest } from "./scsi-guest.ts";
import { ScsiModel } from "./scsi-model.ts";

const LOW = 0x10000;
const LOW_BYTES = 0x400000;
/** Where two regions meet that lie apart in host addresses. */
export const SEAM = 0x1_0001_0000;
const RING_SIZE = 16;
const SLOTS = 64;
const TASKS = 64;
/** What response bytes hold before the device writes them. */
export const UNTOUCHED = 0xee;

/** Memory of the engine and of the guests, by host address. */
class RigMemory extends TestMemory {
  readonly guest: FakeMemory;

  constructor(guest: FakeMemory) {
    super();
    this.guest = guest;
  }

  override window(address: Address, bytes: number): Uint8Array {
    const offset = address - HOST_BASE;
    if (offset < 0 || offset + bytes > this.guest.u8.length) return super.window(address, bytes);
    return this.guest.u8.subarray(offset, offset + bytes);
  }
}

export class ScsiDeviceRig {
  readonly memory: FakeMemory = new FakeMemory([
    { gpa: LOW, bytes: LOW_BYTES },
    { gpa: SEAM - 0x10000, bytes: 0x10000 },
    { gpa: SEAM, bytes: 0x10000 },
  ]);
  readonly reactor: FakeReactor = new FakeReactor(SLOTS);
  readonly host: RigMemory = new RigMemory(this.memory);
  readonly engine: ScsiEngine;
  private nextGpa = LOW;

  constructor() {
    const { requests } = this.reactor;
    const copier = new SegmentCopier(requests, this.host);
    this.engine = new ScsiEngine({ requests, memory: this.host, copier }, TASKS);
  }

  controller(name: string, port = 1): { readonly model: ScsiModel; readonly meter: FakeMeter } {
    const transportId = new Uint8Array(24);
    transportId[0] = 0x0f;
    transportId.set(Buffer.from(name), 4);
    const meter = new FakeMeter();
    const model = new ScsiModel(this.engine, this.reactor, {
      requestQueueCount: 4,
      packedAllowed: true,
      meter,
      identity: { transportId, relativePort: port },
    });
    return { model, meter };
  }

  device(blocks = 1024, blockBytes = 512): TestDevice {
    return new TestDevice(this.reactor.requests, this.host, blocks, blockBytes);
  }

  unit(device: TestDevice, options: Partial<UnitOptions> = {}): LogicalUnit {
    const unit = new LogicalUnit({
      identity: {
        naa: Uint8Array.of(0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        vendor: "RINGSTOR",
        product: "VOLUME",
        revision: "1",
        serial: "serial-1",
      },
      reservations: new Reservations(new VolatileReservationStore()),
      groups: [],
      ...options,
    });
    unit.setDevice(device);
    return unit;
  }

  allocate(bytes: number, alignment = 16): number {
    const gpa = Math.ceil(this.nextGpa / alignment) * alignment;
    this.nextGpa = gpa + bytes;
    assert.ok(this.nextGpa <= LOW + LOW_BYTES, "guest memory is full");
    return gpa;
  }

  bytes(gpa: number, count: number): Uint8Array {
    const offset = this.memory.offsetOf(gpa, count);
    return this.memory.u8.subarray(offset, offset + count);
  }

  view(gpa: number, count: number): DataView {
    const { buffer, byteOffset } = this.bytes(gpa, count);
    return new DataView(buffer, byteOffset, count);
  }

  put(bytes: Uint8Array): number {
    const gpa = this.allocate(Math.max(1, bytes.length));
    this.memory.write(gpa, bytes, 0, bytes.length);
    return gpa;
  }

  checkIdle(): void {
    assert.equal(this.reactor.requests.freeSlots, SLOTS, "request slots left over");
    assert.equal(this.engine.tasks.freeTasks, TASKS, "tasks left over");
  }
}

export interface RigRing {
  readonly driver: SplitDriver | PackedDriver;
  readonly queue: RingQueue;
  readonly enabled: { enabled: boolean };
}

export interface GuestOptions {
  readonly packed?: boolean;
  readonly without?: readonly number[];
  /** Rings with what an earlier process left in flight. */
  readonly resubmit?: Readonly<Record<number, readonly number[]>>;
  readonly tracker?: InflightTracker;
  readonly rings?: readonly number[];
  readonly config?: (config: DeviceConfig) => void;
}

export interface CommandOptions {
  readonly out?: Uint8Array;
  readonly room?: number;
  readonly lun?: number;
  readonly rawLun?: readonly number[];
  readonly id?: number;
  readonly attribute?: number;
  /** Request queue, from 0. */
  readonly queue?: number;
  /** Chains as they are made, before they are offered. */
  readonly chain?: (buffers: TestBuffer[]) => TestBuffer[];
  readonly cdbBytes?: number;
  readonly responseBytes?: number;
}

export interface Pending {
  readonly head: number;
  readonly ring: number;
  readonly responseGpa: number;
  readonly dataGpa: number;
}

export interface Answer {
  readonly response: number;
  readonly status: number;
  readonly residual: number;
  readonly sense: Uint8Array;
  /** Key << 16 | ASC << 8 | ASCQ of fixed format sense data; 0 without. */
  readonly senseCode: number;
  readonly data: Uint8Array;
  readonly usedBytes: number;
}

export class RigGuest {
  readonly rig: ScsiDeviceRig;
  readonly guest: ScsiGuest;
  readonly rings: RigRing[] = [];
  readonly broken: [ring: number, reason: number][] = [];
  readonly used: Map<number, number>[] = [];
  callCount = 0;
  private readonly options: GuestOptions;

  constructor(rig: ScsiDeviceRig, model: ScsiModel, options: GuestOptions = {}) {
    this.rig = rig;
    this.options = options;
    this.guest = model.newGuest(null) as ScsiGuest;
    const { config } = this.guest;
    let low = config.offeredLow;
    for (const bit of options.without ?? []) low &= ~(1 << bit);
    const packed = options.packed === true ? 1 << (F_RING_PACKED - 32) : 0;
    config.acceptFeatures(low, packed | (1 << (F_VERSION_1 - 32)));
    options.config?.(config);
    this.guest.begin();
    for (const index of options.rings ?? [0, 1, 2, 3]) this.rings[index] = this.startRing(index);
  }

  private startRing(index: number): RigRing {
    const { rig, options } = this;
    const Driver = options.packed === true ? PackedDriver : SplitDriver;
    const driver = new Driver(rig.memory, RING_SIZE, {
      descriptors: rig.allocate(4096, 4096),
      driver: rig.allocate(4096, 4096),
      device: rig.allocate(4096, 4096),
    });
    const enabled = { enabled: true };
    const queue = this.guest.newQueue(index, {
      reactor: rig.reactor,
      breakHandler: { ringBroken: (ring, reason) => this.broken.push([ring, reason]) },
      ring: enabled,
    });
    this.used[index] = new Map();
    this.rings[index] = { driver, queue, enabled };
    this.start(index, options.resubmit?.[index]);
    return this.rings[index] as RigRing;
  }

  start(index: number, resubmit?: readonly number[], base?: number): void {
    const { driver, queue } = this.ring(index);
    const packed = this.options.packed === true ? 1 << (F_RING_PACKED - 32) : 0;
    const reason = queue.start({
      ring: {
        size: RING_SIZE,
        ...driver.areas(false),
        base: base ?? driver.initialBase,
        featuresLow: 0,
        featuresHigh: packed | (1 << (F_VERSION_1 - 32)),
        memory: this.rig.memory,
        tracker: this.options.tracker ?? null,
        ringLog: null,
      },
      notifier: { signal: () => this.callCount++ },
      resubmit: resubmit === undefined ? null : Uint16Array.from(resubmit),
    });
    assert.equal(reason, 0, "the ring starts");
  }

  ring(index: number): RigRing {
    return this.rings[index] as RigRing;
  }

  /** Polls until nothing more happens, in the order of a reactor's loop. */
  run(): void {
    for (let quiet = 0; quiet < 3; ) {
      let worked = 0;
      for (const ring of this.rings) worked += ring?.queue.poll() ?? 0;
      this.rig.reactor.deliver();
      quiet = worked === 0 ? quiet + 1 : 0;
    }
    for (const [index, ring] of this.rings.entries()) {
      for (const { id, bytes } of ring?.driver.takeUsed() ?? []) {
        assert.ok(!this.used[index]?.has(id), "a head used twice");
        this.used[index]?.set(id, bytes);
      }
    }
  }

  /** Bytes of the used element, or undefined: not answered (yet). */
  takeUsed(ring: number, head: number): number | undefined {
    const bytes = this.used[ring]?.get(head);
    this.used[ring]?.delete(head);
    return bytes;
  }

  // Commands --------------------------------------------------------------------------------------

  offer(cdb: readonly number[], options: CommandOptions = {}): Pending {
    const { rig } = this;
    const ring = 2 + (options.queue ?? 0);
    const request = new Uint8Array(COMMAND_REQUEST.cdb + (options.cdbBytes ?? 32));
    const lun = options.rawLun ?? [1, 0, 0, options.lun ?? 0, 0, 0, 0, 0];
    request.set(lun, COMMAND_REQUEST.lun);
    new DataView(request.buffer).setUint32(COMMAND_REQUEST.id, options.id ?? 0, true);
    request[COMMAND_REQUEST.task_attr] = options.attribute ?? 0;
    request.set(cdb, COMMAND_REQUEST.cdb);
    const responseBytes = options.responseBytes ?? COMMAND_RESPONSE.BYTES;
    const responseGpa = rig.put(new Uint8Array(responseBytes).fill(UNTOUCHED));
    const buffers: TestBuffer[] = [{ gpa: rig.put(request), bytes: request.length }];
    let dataGpa = 0;
    if (options.out !== undefined) {
      dataGpa = rig.put(options.out);
      buffers.push({ gpa: dataGpa, bytes: options.out.length });
    }
    buffers.push({ gpa: responseGpa, bytes: responseBytes, write: true });
    if (options.room !== undefined) {
      dataGpa = rig.put(new Uint8Array(options.room).fill(UNTOUCHED));
      buffers.push({ gpa: dataGpa, bytes: options.room, write: true });
    }
    const head = this.ring(ring).driver.add(options.chain?.(buffers) ?? buffers);
    return { head, ring, responseGpa, dataGpa };
  }

  /** The answer to a command, or null while there is none. */
  answer(pending: Pending): Answer | null {
    const usedBytes = this.takeUsed(pending.ring, pending.head);
    if (usedBytes === undefined) return null;
    const view = this.rig.view(pending.responseGpa, COMMAND_RESPONSE.BYTES);
    const senseBytes = view.getUint32(COMMAND_RESPONSE.sense_len, true);
    const sense = this.rig
      .bytes(pending.responseGpa + COMMAND_RESPONSE.sense, Math.min(senseBytes, 96))
      .slice();
    // A chain that the test has made itself has its data where only the test knows.
    const dataBytes = pending.dataGpa === 0 ? 0 : usedBytes - COMMAND_RESPONSE.BYTES;
    return {
      response: view.getUint8(COMMAND_RESPONSE.response),
      status: view.getUint8(COMMAND_RESPONSE.status),
      residual: view.getUint32(COMMAND_RESPONSE.residual, true),
      sense,
      senseCode: sense.length < 14 ? 0 : ((sense[2] & 15) << 16) | (sense[12] << 8) | sense[13],
      data: dataBytes <= 0 ? new Uint8Array(0) : this.rig.bytes(pending.dataGpa, dataBytes).slice(),
      usedBytes,
    };
  }

  command(cdb: readonly number[], options: CommandOptions = {}): Answer {
    const pending = this.offer(cdb, options);
    this.run();
    const answer = this.answer(pending);
    assert.ok(answer !== null, `command ${cdb[0]?.toString(16)} was not answered`);
    return answer;
  }

  /** Takes the unit attentions that a nexus begins with. */
  ready(lun = 0): this {
    for (let tries = 0; tries < 10; tries++) {
      const { status, response } = this.command([0, 0, 0, 0, 0, 0], { lun });
      if (status === 0 && response === 0) return this;
    }
    throw new Error("the unit does not become ready");
  }

  // Control and events ----------------------------------------------------------------------------

  control(request: Uint8Array, responseBytes: number): { head: number; gpa: number } {
    const { rig } = this;
    const gpa = rig.put(new Uint8Array(responseBytes).fill(UNTOUCHED));
    const head = this.ring(0).driver.add([
      { gpa: rig.put(request), bytes: request.length },
      { gpa, bytes: responseBytes, write: true },
    ]);
    return { head, gpa };
  }

  offerTmf(
    subtype: number,
    id = 0,
    lun: readonly number[] = [1, 0, 0, 0, 0, 0, 0, 0],
  ): { head: number; gpa: number } {
    const request = new Uint8Array(TMF_REQUEST.BYTES);
    const view = new DataView(request.buffer);
    view.setUint32(TMF_REQUEST.subtype, subtype, true);
    request.set(lun, TMF_REQUEST.lun);
    view.setUint32(TMF_REQUEST.id, id, true);
    return this.control(request, 1);
  }

  /** The response byte, or -1 while there is none. */
  controlAnswer({ head, gpa }: { head: number; gpa: number }): number {
    return this.takeUsed(0, head) === undefined ? -1 : (this.rig.bytes(gpa, 1)[0] as number);
  }

  tmf(subtype: number, id = 0, lun?: readonly number[]): number {
    const pending = this.offerTmf(subtype, id, lun);
    this.run();
    return this.controlAnswer(pending);
  }

  /** Gives the device a buffer for an event. */
  offerEvent(bytes: number = EVENT.BYTES): { head: number; gpa: number } {
    const gpa = this.rig.put(new Uint8Array(Math.max(bytes, EVENT.BYTES)).fill(UNTOUCHED));
    return { head: this.ring(1).driver.add([{ gpa, bytes, write: true }]), gpa };
  }

  /** What the buffer was used for, or null while it is not. */
  event({ head, gpa }: { head: number; gpa: number }): {
    readonly event: number;
    readonly lun: number;
    readonly reason: number;
    readonly usedBytes: number;
  } | null {
    const usedBytes = this.takeUsed(1, head);
    if (usedBytes === undefined) return null;
    const view = this.rig.view(gpa, EVENT.BYTES);
    return {
      event: view.getUint32(EVENT.event, true),
      lun: view.getUint8(EVENT.lun + 3),
      reason: view.getUint32(EVENT.reason, true),
      usedBytes,
    };
  }

  /** Ends the session as vhost-user does: rings first. */
  end(): void {
    for (const ring of this.rings) ring?.queue.close();
    this.guest.end();
  }
}
