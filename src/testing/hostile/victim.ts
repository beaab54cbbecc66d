// A front-end and guest for hostile tests: a session on a device of the target, with rings whose
// every byte the test controls. Queue 0 is attacked; queue 1 stays honest and shows that other
// rings of the same guest go on.

import assert from "node:assert/strict";
import { bit, FrontEnd } from "../../load/index.ts";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import * as v from "../../virtio/index.ts";
import {
  HostileMemory,
  type HostileRegion,
  type MemoryKind,
  type Range,
  type RegionSpec,
} from "./guest.ts";
import { Racer } from "./racer.ts";
import { type Buf, HostilePacked, type HostileRing, HostileSplit, type Used } from "./rings.ts";

export const GUEST_BASE = 0x1_0000_0000;
export const STATUS_UNTOUCHED = 0xee;
/** As long as a machine full of other tests may need for one request. */
export const WAIT_MS = 30_000;

export interface VictimOptions {
  readonly packed?: boolean;
  readonly kind?: MemoryKind;
  /** Default 16. */
  readonly ringSize?: number;
  /** Default 2. */
  readonly queueCount?: number;
  /** Default: one of 1 MiB at GUEST_BASE, of `kind`. */
  readonly regions?: readonly RegionSpec[];
  /** Device feature bits to leave out. */
  readonly withoutFeatures?: readonly number[];
  /** Device feature bits to take besides those of virtio-blk. */
  readonly withFeatures?: readonly number[];
  /** Protocol feature bits to leave out. */
  readonly withoutProtocol?: readonly number[];
  readonly inflight?: boolean;
  /** Bring the session up to running rings. Default true. */
  readonly start?: boolean;
  /** Kick descriptors are given. Default true. */
  readonly kicks?: boolean;
}

const FEATURES: readonly number[] = [
  v.BLK_F_SEG_MAX,
  v.BLK_F_BLK_SIZE,
  v.BLK_F_FLUSH,
  v.BLK_F_TOPOLOGY,
  v.BLK_F_CONFIG_WCE,
  v.BLK_F_MQ,
  v.BLK_F_DISCARD,
  v.BLK_F_WRITE_ZEROES,
  v.BLK_F_RO,
  v.F_INDIRECT_DESC,
  v.F_EVENT_IDX,
  v.F_VERSION_1,
  m.VHOST_USER_F_PROTOCOL_FEATURES,
];

export interface Queue {
  readonly index: number;
  readonly ring: HostileRing;
  readonly kickFd: number;
  readonly callFd: number;
  readonly errFd: number;
}

/** A request and where to look for its answer. */
export interface Request {
  readonly chain: readonly Buf[];
  readonly headerGpa: number;
  readonly dataGpa: number;
  readonly statusGpa: number;
}

export interface Answer {
  readonly status: number;
  readonly len: number;
}

export class Victim {
  readonly frontEnd: FrontEnd;
  readonly memory: HostileMemory;
  readonly queues: Queue[] = [];
  readonly options: VictimOptions;
  features = 0n;
  private readonly fds: number[] = [];

  constructor(socketPath: string, options: VictimOptions = {}) {
    this.options = options;
    const kind = options.kind ?? "memfd";
    this.memory = new HostileMemory(
      options.regions ?? [{ guestAddress: GUEST_BASE, bytes: 1 << 20, kind }],
    );
    this.frontEnd = FrontEnd.connect(socketPath, { timeoutMs: WAIT_MS });
    this.negotiate();
    for (let count = options.queueCount ?? 2; count > 0; count--) this.addQueue();
    if (options.start !== false) this.start();
  }

  /** Makes the next queue, with its ring in `region`; startQueue() tells the device. */
  addQueue(region?: HostileRegion): Queue {
    const size = this.options.ringSize ?? 16;
    const ring = this.options.packed
      ? new HostilePacked(this.memory, size, region)
      : new HostileSplit(this.memory, size, region);
    const [kickFd, callFd, errFd] = [this.eventfd(), this.eventfd(), this.eventfd()];
    const queue = { index: this.queues.length, ring, kickFd, callFd, errFd };
    this.queues.push(queue);
    return queue;
  }

  /** An eventfd that is closed with the victim. */
  eventfd(): number {
    return this.own(sys.check(sys.eventfd(), "eventfd"));
  }

  own(fd: number): number {
    this.fds.push(fd);
    return fd;
  }

  private negotiate(): void {
    const { frontEnd, options } = this;
    const offered = frontEnd.getFeatures();
    let wanted = 0n;
    for (const position of FEATURES) wanted |= bit(position);
    for (const position of options.withFeatures ?? []) wanted |= bit(position);
    if (options.packed) wanted |= bit(v.F_RING_PACKED);
    for (const position of options.withoutFeatures ?? []) wanted &= ~bit(position);
    this.features = offered & wanted;
    let protocol = frontEnd.getProtocolFeatures();
    for (const position of options.withoutProtocol ?? []) protocol &= ~bit(position);
    frontEnd.setProtocolFeatures(protocol);
    frontEnd.setOwner();
    frontEnd.setFeatures(this.features);
  }

  start(): void {
    const { frontEnd, memory, options } = this;
    if (options.inflight) this.renewInflight();
    for (const region of memory.regions) frontEnd.addMemRegion(region);
    for (const queue of this.queues) this.startQueue(queue);
  }

  /** A new inflight region; no ring may run. */
  renewInflight(): void {
    const { frontEnd, options } = this;
    const region = frontEnd.getInflightFd(this.queues.length, options.ringSize ?? 16);
    this.own(region.fd);
    frontEnd.setInflightFd(region);
  }

  startQueue(queue: Queue, base: number = queue.ring.initialBase): void {
    this.startQueueAt(queue, (gpa) => this.memory.userAddress(gpa), base);
  }

  /** `userAddress` says where a guest address lies for the front-end, in a region or not. */
  startQueueAt(
    queue: Queue,
    userAddress: (gpa: number) => number,
    base: number = queue.ring.initialBase,
  ): void {
    const { frontEnd } = this;
    const { index, ring } = queue;
    frontEnd.setVringNum(index, ring.size);
    frontEnd.setVringBase(index, base);
    frontEnd.setVringAddr({
      index,
      descriptor: userAddress(ring.descriptorGpa),
      used: userAddress(ring.usedGpa),
      available: userAddress(ring.availGpa),
    });
    frontEnd.setVringCall(index, queue.callFd);
    frontEnd.setVringErr(index, queue.errFd);
    frontEnd.setVringKick(index, this.options.kicks === false ? -1 : queue.kickFd);
    frontEnd.setVringEnable(index, true);
  }

  queue(index = 0): Queue {
    return this.queues[index] as Queue;
  }

  get ring(): HostileRing {
    return this.queue().ring;
  }

  /** The ring of queue 0 when it is a split one. */
  get split(): HostileSplit {
    assert.ok(this.ring instanceof HostileSplit);
    return this.ring;
  }

  get packed(): HostilePacked {
    assert.ok(this.ring instanceof HostilePacked);
    return this.ring;
  }

  /** Everything of all rings that a device or this driver writes as requests go by. */
  get ringRanges(): Range[] {
    return this.queues.flatMap(({ ring }) => [
      ...ring.deviceRanges,
      [ring.availGpa, ring.packed ? 4 : 6 + 2 * ring.size] as const,
    ]);
  }

  // Requests --------------------------------------------------------------------------------------

  /** A request header in guest memory. */
  header(type: number, sector: GuestSector): number {
    const gpa = this.memory.allocate(16, 16);
    this.putHeader(gpa, type, sector);
    return gpa;
  }

  putHeader(gpa: number, type: number, sector: GuestSector): void {
    const view = new DataView(new ArrayBuffer(16));
    view.setUint32(0, type, true);
    view.setBigUint64(8, BigInt.asUintN(64, BigInt(sector)), true);
    this.memory.write(gpa, new Uint8Array(view.buffer));
  }

  /** A status byte that nobody has written. */
  status(): number {
    const gpa = this.memory.allocate(1, 1);
    this.memory.write(gpa, Uint8Array.of(STATUS_UNTOUCHED));
    return gpa;
  }

  /** Header, data of `bytes` that the device reads or writes, status. */
  request(type: number, sector: GuestSector, bytes: number, deviceWrites: boolean): Request {
    const headerGpa = this.header(type, sector);
    const dataGpa = bytes === 0 ? 0 : this.memory.allocate(bytes, 16);
    const statusGpa = this.status();
    const data: Buf[] = bytes === 0 ? [] : [{ addr: dataGpa, len: bytes, write: deviceWrites }];
    const chain = [{ addr: headerGpa, len: 16 }, ...data, { addr: statusGpa, len: 1, write: true }];
    return { chain, headerGpa, dataGpa, statusGpa };
  }

  read(sector: GuestSector, bytes: number): Request {
    return this.request(v.BLK_T_IN, sector, bytes, true);
  }

  writeRequest(sector: GuestSector, data: Uint8Array): Request {
    const request = this.request(v.BLK_T_OUT, sector, data.length, false);
    this.memory.write(request.dataGpa, data);
    return request;
  }

  kick(queue: Queue = this.queue()): void {
    sys.eventSignal(queue.kickFd);
  }

  /** Shows the device what was offered, and kicks. */
  go(queue: Queue = this.queue()): void {
    queue.ring.publish();
    this.kick(queue);
  }

  /** Waits until the device has used `count` more chains. */
  waitUsed(count: number, queue: Queue = this.queue(), timeoutMs: number = WAIT_MS): Used[] {
    const used: Used[] = [];
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      used.push(...queue.ring.takeUsed());
      if (used.length >= count) break;
      const left = deadline - Date.now();
      assert.ok(left > 0, `only ${used.length} of ${count} chains used after ${timeoutMs} ms`);
      sys.pollOne(queue.callFd, sys.POLLIN, Math.min(left, 5));
      sys.eventClear(queue.callFd);
    }
    assert.equal(used.length, count, "more chains used than offered");
    return used;
  }

  /** Offers a chain, waits for it, and returns what the device said. */
  run(request: Request, queue: Queue = this.queue()): Answer {
    const head = queue.ring.offer(request.chain);
    this.go(queue);
    const [used] = this.waitUsed(1, queue);
    assert.equal(used?.id, head, "another chain was used");
    return { status: this.memory.read(request.statusGpa, 1)[0] as number, len: used.len };
  }

  /** An honest request on queue 1: it must be served. */
  probe(): void {
    const mark = this.memory.mark();
    const answer = this.run(this.read(0, 4096), this.queue(1));
    assert.deepEqual(answer, { status: v.BLK_S_OK, len: 4097 });
    this.memory.reset(mark);
  }

  /**
   * A thread that offers two chains again as soon as they are answered, without end, whether or not
   * the completion was shown. Queue 0 has four descriptors; the caller kicks.
   */
  refillWithoutEnd(): Racer {
    const { memory, ring } = this;
    assert.equal(ring.size, 4);
    const header = this.header(v.BLK_T_GET_ID, 0);
    const status = memory.allocate(2, 2);
    for (const at of [0, 1]) {
      ring.offer([
        { addr: header, len: 16 },
        { addr: status + at, len: 1, write: true },
      ]);
      memory.write(status + at, Uint8Array.of(STATUS_UNTOUCHED));
    }
    if (ring instanceof HostileSplit) {
      // Whatever the index: one chain after the other.
      for (let at = 0; at < 4; at++) ring.avail[2 + at] = (at * 2) % 4;
    }
    const refill = {
      packed: ring.packed,
      statusAddress: memory.hostAddress(status),
      ringAddress: memory.hostAddress(ring.packed ? ring.descriptorGpa : ring.availGpa),
      untouched: STATUS_UNTOUCHED,
    };
    return new Racer({ kickFd: this.queue().kickFd, flips: [], refill });
  }

  // What the device did ---------------------------------------------------------------------------

  /** Waits for the err descriptor of `queue`: the ring was broken. */
  waitBroken(queue: Queue = this.queue()): void {
    const events = sys.pollOne(queue.errFd, sys.POLLIN, WAIT_MS);
    assert.ok(events > 0, "the ring was not broken");
    sys.eventClear(queue.errFd);
  }

  /** What was kicked has been looked at, and nothing came of it: no completion, no error. */
  expectQuiet(queue: Queue = this.queue()): void {
    // The other queue's kick comes after ours, and its answer after the turn that saw both.
    this.probe();
    assert.ok(sys.eventClear(queue.errFd) < 0, "the ring was broken");
    assert.deepEqual(queue.ring.takeUsed(), []);
  }

  /** A round trip: everything sent before has been handled. */
  barrier(): void {
    this.frontEnd.getFeatures();
  }

  close(): void {
    this.frontEnd.close();
    this.memory.checkGuards();
    this.memory.close();
    for (const fd of this.fds.splice(0)) sys.close(fd);
  }
}

export type GuestSector = number | bigint;
