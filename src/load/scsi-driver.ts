// A virtio-scsi driver for tests, with a vhost-user front-end under it that does what QEMU 10's
// does: features, inflight region, memory, rings; and again with the same memory and region after
// the back-end has died. Calls wait, bounded, by poll(2): it runs where no reactor runs.
//
//   ring 0 control   ring 1 events   ring 2... requests; split rings, one kick and call each
//
// Invariants:
//  - descriptors of a chain are reused only when the device has given it back;
//  - guest memory of a command is used again for another of the same lengths, when whoever started
//    the first has taken its answer; other memory is handed out and never taken back.

import { assert } from "../base/index.ts";
import * as sys from "../sys/index.ts";
import {
  AN_REQUEST,
  AN_RESPONSE,
  COMMAND_REQUEST,
  COMMAND_RESPONSE,
  CONTROL_RING,
  EVENT,
  EVENT_RING,
  FIRST_REQUEST_RING,
  SCSI_F_CHANGE,
  SCSI_F_HOTPLUG,
  TMF_REQUEST,
  TMF_RESPONSE,
} from "../vhost-user/layouts-scsi.ts";
import * as m from "../vhost-user/messages.ts";
import { DESCRIPTOR_F_NEXT, DESCRIPTOR_F_WRITE, F_VERSION_1 } from "../virtio/index.ts";
import { LoadError } from "./errors.ts";
import { bit, FrontEnd, hasBit, type InflightRegion } from "./front-end.ts";
import { LoadGuestMemory } from "./guest-memory.ts";
import { SplitRing } from "./split-ring.ts";

const GUEST_BASE = 0x100000000;
const MEMORY_BYTES = 64 * 1024 * 1024;
const RING_SIZE = 64;
const WAIT_MS = 30_000;

export interface ScsiDriverOptions {
  /** Default 1. */
  readonly requestQueueCount?: number;
  readonly timeoutMs?: number;
}

export interface ScsiCommandOptions {
  readonly out?: Uint8Array;
  /** Bytes of data-in there is room for. */
  readonly room?: number;
  readonly lun?: number;
  readonly id?: number;
  readonly attribute?: number;
  /** Request queue, from 0. */
  readonly queue?: number;
}

export interface ScsiAnswer {
  readonly response: number;
  readonly status: number;
  readonly residual: number;
  /** Sense key << 16 | ASC << 8 | ASCQ of fixed format sense data; 0 without. */
  readonly sense: number;
  readonly data: Uint8Array;
}

export interface ScsiPending {
  readonly ring: number;
  readonly head: number;
  readonly responseGpa: number;
  readonly dataGpa: number;
  readonly buffers: readonly Buffer[];
}

export interface ScsiEvent {
  readonly event: number;
  readonly lun: number;
  readonly reason: number;
}

interface Buffer {
  readonly gpa: number;
  readonly bytes: number;
  readonly deviceWrites: boolean;
}

class DriverRing {
  readonly ring: SplitRing;
  readonly kickFd: number = sys.check(sys.eventfd(), "eventfd");
  readonly callFd: number = sys.check(sys.eventfd(), "eventfd");
  /** Bytes used of chains that are back, by head: until somebody has asked, nobody else gets it. */
  private readonly used: Map<number, number> = new Map();
  private readonly free: number[] = [];
  private readonly chains: Map<number, number[]> = new Map();

  constructor(memory: LoadGuestMemory) {
    this.ring = new SplitRing(memory, { size: RING_SIZE, eventIndex: false });
    for (let index = RING_SIZE - 1; index >= 0; index--) this.free.push(index);
    this.ring.armNotifications();
  }

  offer(buffers: readonly Buffer[]): number {
    assert(this.free.length >= buffers.length, "the ring is full");
    const indices = buffers.map(() => this.free.pop() as number);
    for (const [at, { gpa, bytes, deviceWrites }] of buffers.entries()) {
      const next = indices[at + 1];
      const more = next === undefined ? 0 : DESCRIPTOR_F_NEXT;
      const flags = more | (deviceWrites ? DESCRIPTOR_F_WRITE : 0);
      this.ring.writeDescriptor(indices[at] as number, gpa, bytes, flags, next ?? 0);
    }
    const head = indices[0] as number;
    this.chains.set(head, indices);
    this.ring.offer(head);
    this.ring.publish();
    sys.eventSignal(this.kickFd);
    return head;
  }

  /** Looks at what the device has used. */
  private collect(): void {
    for (let count = this.ring.usedPending(); count > 0; count--) {
      const head = this.ring.nextUsed();
      if (!this.chains.has(head) || this.used.has(head)) {
        throw new LoadError("BAD_COMPLETION", `Chain ${head} was used and is not in flight.`);
      }
      this.used.set(head, this.ring.usedBytes);
    }
  }

  isUsed(head: number): boolean {
    this.collect();
    return this.used.has(head);
  }

  /** Takes a used chain back; how many bytes of it were used, or null: it is in flight. */
  takeUsed(head: number): number | null {
    if (!this.isUsed(head)) return null;
    const bytes = this.used.get(head) as number;
    this.used.delete(head);
    this.free.push(...(this.chains.get(head) as number[]));
    this.chains.delete(head);
    return bytes;
  }

  get inflightCount(): number {
    this.collect();
    return this.chains.size - this.used.size;
  }

  close(): void {
    sys.close(this.kickFd);
    sys.close(this.callFd);
  }
}

export class ScsiDriver {
  readonly memory: LoadGuestMemory = new LoadGuestMemory([
    { guestAddress: GUEST_BASE, bytes: MEMORY_BYTES },
  ]);
  private frontEnd: FrontEnd | null = null;
  private readonly rings: DriverRing[] = [];
  private readonly timeoutMs: number;
  private inflight: InflightRegion | null = null;
  private readonly eventBuffers: Map<number, number> = new Map();
  /** Addresses of buffers that are free again, by their length. */
  private readonly spare: Map<number, number[]> = new Map();

  constructor(options: ScsiDriverOptions = {}) {
    this.timeoutMs = options.timeoutMs ?? WAIT_MS;
    const count = FIRST_REQUEST_RING + (options.requestQueueCount ?? 1);
    for (let index = 0; index < count; index++) this.rings.push(new DriverRing(this.memory));
  }

  // The session -----------------------------------------------------------------------------------

  /** Connects and lets the rings run; again after the back-end died or was left. */
  connect(socketPath: string): void {
    const frontEnd = FrontEnd.connect(socketPath, { timeoutMs: this.timeoutMs });
    this.frontEnd = frontEnd;
    const offered = frontEnd.getFeatures();
    const wanted = [SCSI_F_HOTPLUG, SCSI_F_CHANGE, F_VERSION_1, m.VHOST_USER_F_PROTOCOL_FEATURES];
    const features = wanted.reduce((mask, position) => mask | bit(position), 0n) & offered;
    // As QEMU's front-end for scsi, whose configuration space is its own.
    const config = bit(m.PROTOCOL_F_CONFIG) | bit(m.PROTOCOL_F_BACKEND_REQ);
    frontEnd.setProtocolFeatures(frontEnd.getProtocolFeatures() & ~config);
    const queueCount = this.rings.length - FIRST_REQUEST_RING;
    if (frontEnd.getQueueNum() < queueCount) {
      throw new LoadError("UNSUPPORTED", `The back-end has less than ${queueCount} queues.`);
    }
    frontEnd.setOwner();
    frontEnd.setFeatures(features);
    if (hasBit(frontEnd.protocolFeatures, m.PROTOCOL_F_INFLIGHT_SHMFD)) {
      this.inflight ??= frontEnd.getInflightFd(this.rings.length, RING_SIZE);
      frontEnd.setInflightFd(this.inflight);
    }
    for (const region of this.memory.regions) frontEnd.addMemRegion(region);
    this.startRings(frontEnd);
  }

  private startRings(frontEnd: FrontEnd): void {
    for (const [index, ring] of this.rings.entries()) this.startRing(frontEnd, index, ring);
    for (const index of this.rings.keys()) frontEnd.setVringEnable(index, true);
  }

  /** Stops the rings as QEMU does for a guest that is paused, and lets them go on. */
  pause(): void {
    const frontEnd = this.session();
    for (const index of this.rings.keys()) frontEnd.setVringEnable(index, false);
    for (const index of this.rings.keys()) frontEnd.getVringBase(index);
    frontEnd.setStatus(0);
    this.startRings(frontEnd);
  }

  /** What a driver's reset becomes; the rings go on where they were. */
  resetDevice(): void {
    const frontEnd = this.session();
    frontEnd.resetDevice();
    this.startRings(frontEnd);
  }

  private session(): FrontEnd {
    assert(this.frontEnd !== null, "the driver has no session");
    return this.frontEnd;
  }

  private startRing(frontEnd: FrontEnd, index: number, { ring, kickFd, callFd }: DriverRing): void {
    frontEnd.setVringNum(index, ring.size);
    frontEnd.setVringBase(index, ring.baseAfterLoss());
    frontEnd.setVringAddr({
      index,
      descriptor: this.memory.userAddress(ring.descriptorGpa),
      used: this.memory.userAddress(ring.usedGpa),
      available: this.memory.userAddress(ring.availableGpa),
    });
    frontEnd.setVringKick(index, kickFd);
    frontEnd.setVringCall(index, callFd);
  }

  disconnect(): void {
    this.frontEnd?.close();
    this.frontEnd = null;
  }

  close(): void {
    this.disconnect();
    if (this.inflight !== null) sys.close(this.inflight.fd);
    for (const ring of this.rings) ring.close();
    this.memory.close();
  }

  // Commands --------------------------------------------------------------------------------------

  start(cdb: readonly number[], options: ScsiCommandOptions = {}): ScsiPending {
    const request = new Uint8Array(COMMAND_REQUEST.BYTES);
    request.set([1, 0, 0, options.lun ?? 0], COMMAND_REQUEST.lun);
    new DataView(request.buffer).setUint32(COMMAND_REQUEST.id, options.id ?? 0, true);
    request[COMMAND_REQUEST.task_attr] = options.attribute ?? 0;
    request.set(cdb, COMMAND_REQUEST.cdb);
    const responseGpa = this.take(COMMAND_RESPONSE.BYTES);
    const buffers: Buffer[] = [this.put(request)];
    let dataGpa = 0;
    if (options.out !== undefined) buffers.push(this.put(options.out));
    buffers.push({ gpa: responseGpa, bytes: COMMAND_RESPONSE.BYTES, deviceWrites: true });
    if (options.room !== undefined) {
      dataGpa = this.take(options.room);
      buffers.push({ gpa: dataGpa, bytes: options.room, deviceWrites: true });
    }
    const ring = FIRST_REQUEST_RING + (options.queue ?? 0);
    return { ring, head: this.ring(ring).offer(buffers), responseGpa, dataGpa, buffers };
  }

  private take(bytes: number): number {
    return this.spare.get(bytes)?.pop() ?? this.memory.allocate(bytes, 4096);
  }

  private giveBack(buffers: readonly Buffer[]): void {
    for (const { gpa, bytes } of buffers) {
      const spare = this.spare.get(bytes) ?? [];
      this.spare.set(bytes, spare);
      spare.push(gpa);
    }
  }

  private put(bytes: Uint8Array): Buffer {
    const gpa = this.take(bytes.length);
    this.memory.write(gpa, bytes);
    return { gpa, bytes: bytes.length, deviceWrites: false };
  }

  private ring(index: number): DriverRing {
    return this.rings[index] as DriverRing;
  }

  /** Has the device answered? */
  isAnswered(pending: ScsiPending): boolean {
    return this.ring(pending.ring).isUsed(pending.head);
  }

  wait(pending: ScsiPending): ScsiAnswer {
    const usedBytes = this.waitUsed(pending.ring, pending.head);
    const response = this.memory.read(pending.responseGpa, COMMAND_RESPONSE.BYTES);
    const view = new DataView(response.buffer);
    const senseBytes = view.getUint32(COMMAND_RESPONSE.sense_len, true);
    const sense = response.subarray(COMMAND_RESPONSE.sense);
    const dataBytes = usedBytes - COMMAND_RESPONSE.BYTES;
    const data = dataBytes > 0 ? this.memory.read(pending.dataGpa, dataBytes) : new Uint8Array(0);
    this.giveBack(pending.buffers);
    return {
      response: view.getUint8(COMMAND_RESPONSE.response),
      status: view.getUint8(COMMAND_RESPONSE.status),
      residual: view.getUint32(COMMAND_RESPONSE.residual, true),
      sense: senseBytes < 14 ? 0 : ((sense[2] & 15) << 16) | (sense[12] << 8) | sense[13],
      data,
    };
  }

  command(cdb: readonly number[], options: ScsiCommandOptions = {}): ScsiAnswer {
    return this.wait(this.start(cdb, options));
  }

  /** As a driver does: sends it again after a unit attention, and after a reset. */
  retried(cdb: readonly number[], options: ScsiCommandOptions = {}): ScsiAnswer {
    for (let tries = 0; ; tries++) {
      const answer = this.command(cdb, options);
      const isAttention = answer.sense >>> 16 === 0x06;
      if ((!isAttention && answer.response === 0) || tries === 10) return answer;
    }
  }

  private waitUsed(index: number, head: number): number {
    const ring = this.ring(index);
    const deadline = Date.now() + this.timeoutMs;
    for (;;) {
      const bytes = ring.takeUsed(head);
      if (bytes !== null) return bytes;
      if (Date.now() > deadline) {
        throw new LoadError("TIMEOUT", `Ring ${index}: no answer in ${this.timeoutMs} ms.`);
      }
      sys.pollOne(ring.callFd, sys.POLLIN, 20);
      sys.eventClear(ring.callFd);
    }
  }

  get inflightCount(): number {
    return this.rings.slice(FIRST_REQUEST_RING).reduce((sum, ring) => sum + ring.inflightCount, 0);
  }

  // Control and events ----------------------------------------------------------------------------

  startManage(
    subtype: number,
    options: { readonly id?: number; readonly lun?: number } = {},
  ): ScsiPending {
    const request = new Uint8Array(TMF_REQUEST.BYTES);
    const view = new DataView(request.buffer);
    view.setUint32(TMF_REQUEST.subtype, subtype, true);
    request.set([1, 0, 0, options.lun ?? 0], TMF_REQUEST.lun);
    view.setUint32(TMF_REQUEST.id, options.id ?? 0, true);
    return this.startControl(request, TMF_RESPONSE.BYTES);
  }

  private startControl(request: Uint8Array, responseBytes: number): ScsiPending {
    const responseGpa = this.memory.allocate(responseBytes);
    const response = { gpa: responseGpa, bytes: responseBytes, deviceWrites: true };
    const buffers = [this.put(request), response];
    const head = this.ring(CONTROL_RING).offer(buffers);
    return { ring: CONTROL_RING, head, responseGpa, dataGpa: 0, buffers };
  }

  /** Waits for a function and returns its response code. */
  waitManage(pending: ScsiPending): number {
    this.waitUsed(CONTROL_RING, pending.head);
    return this.memory.read(pending.responseGpa, 1)[0] as number;
  }

  manage(subtype: number, options: { readonly id?: number; readonly lun?: number } = {}): number {
    return this.waitManage(this.startManage(subtype, options));
  }

  /** Asks for asynchronous notification; the response code. */
  queryNotification(type: number): number {
    const request = new Uint8Array(AN_REQUEST.BYTES);
    new DataView(request.buffer).setUint32(AN_REQUEST.type, type, true);
    request.set([1, 0, 0, 0], AN_REQUEST.lun);
    const { head, responseGpa } = this.startControl(request, AN_RESPONSE.BYTES);
    this.waitUsed(CONTROL_RING, head);
    return this.memory.read(responseGpa, AN_RESPONSE.BYTES)[AN_RESPONSE.response] as number;
  }

  /** Gives the device a buffer for an event. */
  offerEvent(): void {
    const gpa = this.memory.allocate(EVENT.BYTES);
    const head = this.ring(EVENT_RING).offer([{ gpa, bytes: EVENT.BYTES, deviceWrites: true }]);
    this.eventBuffers.set(head, gpa);
  }

  /** Waits for an event in a buffer that was given before. */
  waitEvent(): ScsiEvent {
    const ring = this.ring(EVENT_RING);
    const deadline = Date.now() + this.timeoutMs;
    for (;;) {
      for (const [head, gpa] of this.eventBuffers) {
        if (ring.takeUsed(head) === null) continue;
        this.eventBuffers.delete(head);
        const view = new DataView(this.memory.read(gpa, EVENT.BYTES).buffer);
        return {
          event: view.getUint32(EVENT.event, true),
          lun: view.getUint8(EVENT.lun + 3),
          reason: view.getUint32(EVENT.reason, true),
        };
      }
      if (Date.now() > deadline) throw new LoadError("TIMEOUT", "No event came.");
      sys.pollOne(ring.callFd, sys.POLLIN, 20);
      sys.eventClear(ring.callFd);
    }
  }
}
