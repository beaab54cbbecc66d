// A vhost-user front-end: the client end of the protocol socket (docs/interop/vhost-user.rst).
// Calls are synchronous: each sends its request and waits, by poll(2) and bounded, for what the
// protocol promises. It runs in a process or thread of its own, never in a reactor.
//
// Invariants:
//  - replies are checked strictly, as QEMU checks them: flags exactly 0x5, the request's number,
//    the exact size, descriptors only where the protocol has them;
//  - with REPLY_ACK negotiated every request without a reply of its own asks for an ack, unless
//    `acks` is "never": an error of the back-end is then seen at once;
//  - every wait ends within `timeoutMs` and its error names the request that was not answered;
//  - descriptors given to a call stay the caller's; descriptors received become the caller's.
//
// Feature words are bigint here: 64 bits, exact, and nothing of this is on a data path. The raw
// part at the end (socket-stream.ts below it) sends arbitrary bytes: hostile tests are made of it.

import { assert, EAGAIN, TWO_32 } from "../base/index.ts";
import * as sys from "../sys/index.ts";
import * as m from "../vhost-user/messages.ts";
import { LoadError } from "./errors.ts";
import type { GuestRegion } from "./guest-memory.ts";
import { type Message, MessageStream } from "./message-stream.ts";

export interface FrontEndOptions {
  /** Longest wait for one answer. Default 5000. */
  readonly timeoutMs?: number;
  /** Whether requests without a reply of their own ask for an ack. Default "always". */
  readonly acks?: "always" | "never";
}

/** A region as the wire describes it. GuestRegion has these fields. */
export interface WireRegion {
  readonly guestAddress: number;
  readonly bytes: number;
  readonly userAddress: number;
  readonly fileOffsetBytes: number;
  readonly fd: number;
}

export interface RingAddresses {
  readonly index: number;
  /** User addresses. */
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
  /** VRING_ADDR_F_LOG and the guest address the used ring is logged at. */
  readonly flags?: number;
  readonly log?: number;
}

export interface InflightRegion {
  readonly mmapSizeBytes: number;
  readonly mmapOffsetBytes: number;
  readonly queueCount: number;
  readonly queueSize: number;
  readonly fd: number;
}

const ACK_OK = 0n;
const TIMEOUT_MS = 5000;
const CONNECT_RETRY_MS = 5;

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

export function bit(position: number): bigint {
  return 1n << BigInt(position);
}

export function hasBit(word: bigint, position: number): boolean {
  return (word & bit(position)) !== 0n;
}

function u64(value: bigint | number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

function state(index: number, num: number): Uint8Array {
  const bytes = new Uint8Array(m.VRING_STATE.BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(m.VRING_STATE.index, index, true);
  view.setUint32(m.VRING_STATE.num, num, true);
  return bytes;
}

function putRegion(view: DataView, at: number, region: WireRegion): void {
  view.setBigUint64(at + m.MEMORY_REGION.guestAddress, BigInt(region.guestAddress), true);
  view.setBigUint64(at + m.MEMORY_REGION.memorySize, BigInt(region.bytes), true);
  view.setBigUint64(at + m.MEMORY_REGION.userAddress, BigInt(region.userAddress), true);
  view.setBigUint64(at + m.MEMORY_REGION.mmapOffset, BigInt(region.fileOffsetBytes), true);
}

/** Body of ADD_MEM_REG and REM_MEM_REG. */
export function singleRegionPayload(region: WireRegion): Uint8Array {
  const bytes = new Uint8Array(m.SINGLE_REGION.BYTES);
  putRegion(new DataView(bytes.buffer), m.SINGLE_REGION.region, region);
  return bytes;
}

/** Body of SET_MEM_TABLE; `fullSize` pads it to the eight-region size, as UML sends it. */
export function memTablePayload(regions: readonly WireRegion[], fullSize = false): Uint8Array {
  const used = m.MEM_TABLE.regions + regions.length * m.MEMORY_REGION.BYTES;
  const bytes = new Uint8Array(fullSize ? Math.max(used, m.MEM_TABLE.BYTES) : used);
  const view = new DataView(bytes.buffer);
  view.setUint32(m.MEM_TABLE.regionCount, regions.length, true);
  regions.forEach((region, index) => {
    putRegion(view, m.MEM_TABLE.regions + index * m.MEMORY_REGION.BYTES, region);
  });
  return bytes;
}

/** Body of SET_VRING_ADDR. */
export function ringAddressesPayload(addresses: RingAddresses): Uint8Array {
  const bytes = new Uint8Array(m.VRING_ADDR.BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(m.VRING_ADDR.index, addresses.index, true);
  view.setUint32(m.VRING_ADDR.flags, addresses.flags ?? 0, true);
  view.setBigUint64(m.VRING_ADDR.descriptor, BigInt(addresses.descriptor), true);
  view.setBigUint64(m.VRING_ADDR.used, BigInt(addresses.used), true);
  view.setBigUint64(m.VRING_ADDR.available, BigInt(addresses.available), true);
  view.setBigUint64(m.VRING_ADDR.log, BigInt(addresses.log ?? 0), true);
  return bytes;
}

function inflightPayload(region: Omit<InflightRegion, "fd">): Uint8Array {
  const bytes = new Uint8Array(m.INFLIGHT.BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(m.INFLIGHT.mmapSize, BigInt(region.mmapSizeBytes), true);
  view.setBigUint64(m.INFLIGHT.mmapOffset, BigInt(region.mmapOffsetBytes), true);
  view.setUint16(m.INFLIGHT.queueCount, region.queueCount, true);
  view.setUint16(m.INFLIGHT.queueSize, region.queueSize, true);
  return bytes;
}

function configPayload(offset: number, flags: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(m.CONFIG_HEADER.BYTES + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(m.CONFIG_HEADER.offset, offset, true);
  view.setUint32(m.CONFIG_HEADER.size, data.length, true);
  view.setUint32(m.CONFIG_HEADER.flags, flags, true);
  bytes.set(data, m.CONFIG_HEADER.BYTES);
  return bytes;
}

/**
 * A non-blocking connect that waits while the listener's backlog is full (EAGAIN), as it is when
 * a back-end serves one connection at a time. A descriptor or a negated errno.
 */
function connectPatiently(path: string, timeoutMs: number): number {
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  for (let waitedMs = 0; ; waitedMs += CONNECT_RETRY_MS) {
    const fd = sys.connectUnix(path, true);
    if (fd !== -EAGAIN || waitedMs >= timeoutMs) return fd;
    Atomics.wait(sleeper, 0, 0, CONNECT_RETRY_MS);
  }
}

export class FrontEnd {
  readonly stream: MessageStream;
  /** What SET_PROTOCOL_FEATURES was last given; decides about acks. */
  protocolFeatures = 0n;
  acks: "always" | "never";
  private readonly timeoutMs: number;

  constructor(socketFd: number, options: FrontEndOptions = {}) {
    this.stream = new MessageStream(socketFd);
    this.timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    this.acks = options.acks ?? "always";
  }

  /** Connects to the back-end listening on `path`. */
  static connect(path: string, options: FrontEndOptions = {}): FrontEnd {
    const fd = connectPatiently(path, options.timeoutMs ?? TIMEOUT_MS);
    if (fd < 0) {
      throw new LoadError("CONNECT_FAILED", new sys.SysError("connect", fd, path).message, {
        advice: "Check that the back-end runs and that this user may open its socket.",
      });
    }
    return new FrontEnd(fd, options);
  }

  get fd(): number {
    return this.stream.fd;
  }

  close(): void {
    this.stream.close();
  }

  /** Process id of the back-end, or 0 when the kernel does not tell. */
  get peerPid(): number {
    return Math.max(0, sys.peerPid(this.stream.fd));
  }

  // -- The two shapes of a request ------------------------------------------------------------

  /** Sends a request that has a reply of its own and returns the reply's payload. */
  query(request: number, payload: Uint8Array, fds: readonly number[] = []): Message {
    this.stream.sendMessage({ request, flags: m.FLAG_VERSION, payload, fds }, this.timeoutMs);
    return this.receiveReply(request);
  }

  /** Sends a request without a reply; waits for its ack where one was negotiated. */
  order(request: number, payload: Uint8Array, fds: readonly number[] = []): void {
    const ack = this.acks === "always" && hasBit(this.protocolFeatures, m.PROTOCOL_F_REPLY_ACK);
    const flags = m.FLAG_VERSION | (ack ? m.FLAG_NEED_REPLY : 0);
    this.stream.sendMessage({ request, flags, payload, fds }, this.timeoutMs);
    if (!ack) return;
    const value = this.replyU64(request, this.receiveReply(request));
    if (value !== ACK_OK) {
      throw new LoadError(
        "REFUSED",
        `The back-end refused ${m.requestName(request)} (ack ${value}).`,
      );
    }
  }

  /** Waits for the reply to `request` and checks everything about it but its meaning. */
  receiveReply(request: number): Message {
    const name = m.requestName(request);
    const message = this.stream.receiveMessage(this.timeoutMs, name);
    const complain = (what: string): never => {
      for (const fd of message.fds) sys.close(fd);
      throw new LoadError("BAD_REPLY", `The reply to ${name} ${what}.`);
    };
    if (message.flags !== m.REPLY_FLAGS) complain(`has flags ${hex(message.flags)}, not 0x5`);
    if (message.request !== request) complain(`is for ${m.requestName(message.request)}`);
    const wantsFd = request === m.GET_INFLIGHT_FD;
    if (!wantsFd && message.fds.length !== 0) {
      complain(`carries ${message.fds.length} descriptors`);
    }
    if (message.fds.length > 1) complain(`carries ${message.fds.length} descriptors`);
    return message;
  }

  private wantSize(request: number, message: Message, bytes: number): DataView {
    if (message.payload.length !== bytes) {
      for (const fd of message.fds) sys.close(fd);
      throw new LoadError(
        "BAD_REPLY",
        `The reply to ${m.requestName(request)} has ${message.payload.length} bytes, not ${bytes}.`,
      );
    }
    return new DataView(message.payload.buffer, message.payload.byteOffset, bytes);
  }

  private replyU64(request: number, message: Message): bigint {
    return this.wantSize(request, message, m.U64_BYTES).getBigUint64(0, true);
  }

  private queryU64(request: number): bigint {
    return this.replyU64(request, this.query(request, new Uint8Array(0)));
  }

  // -- Features and owner ---------------------------------------------------------------------

  getFeatures(): bigint {
    return this.queryU64(m.GET_FEATURES);
  }

  setFeatures(features: bigint): void {
    this.order(m.SET_FEATURES, u64(features));
  }

  getProtocolFeatures(): bigint {
    return this.queryU64(m.GET_PROTOCOL_FEATURES);
  }

  setProtocolFeatures(features: bigint): void {
    this.order(m.SET_PROTOCOL_FEATURES, u64(features));
    this.protocolFeatures = features;
  }

  setOwner(): void {
    this.order(m.SET_OWNER, new Uint8Array(0));
  }

  resetOwner(): void {
    this.order(m.RESET_OWNER, new Uint8Array(0));
  }

  resetDevice(): void {
    this.order(m.RESET_DEVICE, new Uint8Array(0));
  }

  getStatus(): number {
    return Number(this.queryU64(m.GET_STATUS));
  }

  setStatus(status: number): void {
    this.order(m.SET_STATUS, u64(status));
  }

  getQueueNum(): number {
    return Number(this.queryU64(m.GET_QUEUE_NUM));
  }

  // -- Memory ---------------------------------------------------------------------------------

  getMaxMemSlots(): number {
    return Number(this.queryU64(m.GET_MAX_MEM_SLOTS));
  }

  setMemTable(regions: readonly WireRegion[], fullSize = false): void {
    assert(regions.length <= m.MEM_TABLE_REGIONS_MAX, "SET_MEM_TABLE holds 8 regions");
    const fds = regions.map((region) => region.fd);
    this.order(m.SET_MEM_TABLE, memTablePayload(regions, fullSize), fds);
  }

  addMemRegion(region: WireRegion | GuestRegion): void {
    this.order(m.ADD_MEM_REG, singleRegionPayload(region), [region.fd]);
  }

  remMemRegion(region: WireRegion | GuestRegion): void {
    this.order(m.REM_MEM_REG, singleRegionPayload(region));
  }

  /** The log of dirty pages: `fd` holds `bytes` of bitmap from `offsetBytes` on. */
  setLogBase(fd: number, bytes: number, offsetBytes = 0): void {
    const payload = new Uint8Array(m.LOG.BYTES);
    const view = new DataView(payload.buffer);
    view.setBigUint64(m.LOG.mmapSize, BigInt(bytes), true);
    view.setBigUint64(m.LOG.mmapOffset, BigInt(offsetBytes), true);
    if (!hasBit(this.protocolFeatures, m.PROTOCOL_F_LOG_SHMFD)) {
      this.order(m.SET_LOG_BASE, payload, [fd]);
      return;
    }
    // The reply is empty by the text of the specification; libvhost-user answers with a u64 and
    // QEMU reads neither. Both are accepted.
    const reply = this.query(m.SET_LOG_BASE, payload, [fd]);
    if (reply.payload.length !== 0) this.replyU64(m.SET_LOG_BASE, reply);
  }

  setLogFd(fd: number): void {
    this.order(m.SET_LOG_FD, new Uint8Array(0), [fd]);
  }

  // -- Rings ----------------------------------------------------------------------------------

  setVringNum(index: number, num: number): void {
    this.order(m.SET_VRING_NUM, state(index, num));
  }

  setVringAddr(addresses: RingAddresses): void {
    this.order(m.SET_VRING_ADDR, ringAddressesPayload(addresses));
  }

  setVringBase(index: number, base: number): void {
    this.order(m.SET_VRING_BASE, state(index, base));
  }

  /** Stops the ring and returns its base: the next available index (packed: the 32-bit word). */
  getVringBase(index: number): number {
    const reply = this.query(m.GET_VRING_BASE, state(index, 0));
    const view = this.wantSize(m.GET_VRING_BASE, reply, m.VRING_STATE.BYTES);
    const answered = view.getUint32(m.VRING_STATE.index, true);
    if (answered !== index) {
      throw new LoadError("BAD_REPLY", `GET_VRING_BASE of ring ${index} answered for ${answered}.`);
    }
    return view.getUint32(m.VRING_STATE.num, true);
  }

  private ringFd(request: number, index: number, fd: number): void {
    assert(index < m.VRING_INDEX_LIMIT, "ring index has eight bits here");
    if (fd < 0) this.order(request, u64(index | m.VRING_FD_NONE));
    else this.order(request, u64(index), [fd]);
  }

  /** `fd` -1: no descriptor, the back-end polls. */
  setVringKick(index: number, fd: number): void {
    this.ringFd(m.SET_VRING_KICK, index, fd);
  }

  /** `fd` -1: no descriptor, the back-end notifies nobody. */
  setVringCall(index: number, fd: number): void {
    this.ringFd(m.SET_VRING_CALL, index, fd);
  }

  setVringErr(index: number, fd: number): void {
    this.ringFd(m.SET_VRING_ERR, index, fd);
  }

  setVringEnable(index: number, enabled: boolean): void {
    this.order(m.SET_VRING_ENABLE, state(index, enabled ? 1 : 0));
  }

  // -- Configuration space --------------------------------------------------------------------

  /** Configuration bytes, or an empty array when the back-end answered with the error form. */
  getConfig(offset: number, bytes: number, flags = 0): Uint8Array {
    const reply = this.query(m.GET_CONFIG, configPayload(offset, flags, new Uint8Array(bytes)));
    if (reply.payload.length === 0) return new Uint8Array(0);
    const view = this.wantSize(m.GET_CONFIG, reply, m.CONFIG_HEADER.BYTES + bytes);
    const echoed = view.getUint32(m.CONFIG_HEADER.offset, true);
    if (echoed !== offset) {
      throw new LoadError("BAD_REPLY", `GET_CONFIG at ${offset} answered for ${echoed}.`);
    }
    return reply.payload.slice(m.CONFIG_HEADER.BYTES);
  }

  setConfig(offset: number, data: Uint8Array, flags = 0): void {
    this.order(m.SET_CONFIG, configPayload(offset, flags, data));
  }

  // -- Inflight region, own channel -----------------------------------------------------------

  getInflightFd(queueCount: number, queueSize: number): InflightRegion {
    const payload = inflightPayload({
      mmapSizeBytes: 0,
      mmapOffsetBytes: 0,
      queueCount,
      queueSize,
    });
    const reply = this.query(m.GET_INFLIGHT_FD, payload);
    const view = this.wantSize(m.GET_INFLIGHT_FD, reply, m.INFLIGHT.BYTES);
    const fd = reply.fds[0];
    if (fd === undefined) {
      throw new LoadError("BAD_REPLY", "The reply to GET_INFLIGHT_FD carries no descriptor.");
    }
    const high = view.getUint32(m.INFLIGHT.mmapSize + 4, true);
    return {
      mmapSizeBytes: high * TWO_32 + view.getUint32(m.INFLIGHT.mmapSize, true),
      mmapOffsetBytes: Number(view.getBigUint64(m.INFLIGHT.mmapOffset, true)),
      queueCount: view.getUint16(m.INFLIGHT.queueCount, true),
      queueSize: view.getUint16(m.INFLIGHT.queueSize, true),
      fd,
    };
  }

  setInflightFd(region: InflightRegion): void {
    this.order(m.SET_INFLIGHT_FD, inflightPayload(region), [region.fd]);
  }

  setBackendReqFd(fd: number): void {
    this.order(m.SET_BACKEND_REQ_FD, new Uint8Array(0), [fd]);
  }

  // -- Raw: for hostile tests -----------------------------------------------------------------

  /** Sends any bytes with any descriptors attached to the first of them. */
  sendRaw(bytes: Uint8Array, fds: readonly number[] = []): void {
    this.stream.sendBytes(bytes, fds, this.timeoutMs);
  }

  /** Sends a message whose header is what the caller says, true or not. */
  sendMessage(message: Partial<Message> & { request: number; declaredBytes?: number }): void {
    this.stream.sendMessage(
      {
        request: message.request,
        flags: message.flags ?? m.FLAG_VERSION,
        payload: message.payload ?? new Uint8Array(0),
        fds: message.fds ?? [],
        ...(message.declaredBytes === undefined ? {} : { declaredBytes: message.declaredBytes }),
      },
      this.timeoutMs,
    );
  }

  receiveMessage(timeoutMs?: number): Message {
    return this.stream.receiveMessage(timeoutMs ?? this.timeoutMs, "a message");
  }

  /** True when the back-end has closed the connection within `timeoutMs`. */
  waitClosed(timeoutMs: number): boolean {
    return this.stream.waitClosed(timeoutMs);
  }
}
