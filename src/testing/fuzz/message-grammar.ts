// Plausible vhost-user messages: what a front-end in good faith might send next, whatever the state
// of its session. Numbers are small where small ones lead somewhere, so that sessions meet
// themselves: four rings, a handful of regions, one log.

import type { Prng } from "../../base/index.ts";
import {
  memTablePayload,
  ringAddressesPayload,
  singleRegionPayload,
  type WireRegion,
} from "../../load/index.ts";
import * as sys from "../../sys/index.ts";
import * as m from "../../vhost-user/messages.ts";
import * as v from "../../virtio/index.ts";
import type { HostileMemory, HostileRegion } from "../hostile/guest.ts";

/** What the messages of one round share. */
export interface Conversation {
  readonly prng: Prng;
  readonly memory: HostileMemory;
  /** Closes the descriptor at the end of the round. */
  readonly own: (fd: number) => number;
  /** Kick descriptors handed over so far. */
  readonly kickFds: number[];
}

/** A message about to be sent. */
export interface Draft {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
  /** What the header claims, when that is not the payload's length. */
  readonly declaredBytes?: number;
  /** Sent in pieces of this size. */
  readonly pieceBytes?: number;
  /** The connection is closed after this many bytes. */
  readonly cutAfter?: number;
}

export const RING_COUNT = 4;
/** Rings lie in the first region, one after the other; their parts lie at these offsets. */
export const RING_STRIDE_BYTES = 16384;
export const RING_AVAIL_OFFSET = 8192;
export const RING_USED_OFFSET = 12288;
const RING_SIZES = [1, 2, 4, 8, 16, 64, 256];
const LOG_BYTES = 65536;
const FEATURE_BITS = [
  v.BLK_F_SEG_MAX,
  v.BLK_F_FLUSH,
  v.BLK_F_CONFIG_WCE,
  v.BLK_F_MQ,
  v.F_INDIRECT_DESC,
  v.F_EVENT_IDX,
  m.VHOST_F_LOG_ALL,
  m.VHOST_USER_F_PROTOCOL_FEATURES,
  v.F_VERSION_1,
  v.F_RING_PACKED,
];
const PROTOCOL_BITS = [
  m.PROTOCOL_F_MQ,
  m.PROTOCOL_F_LOG_SHMFD,
  m.PROTOCOL_F_REPLY_ACK,
  m.PROTOCOL_F_BACKEND_REQ,
  m.PROTOCOL_F_CONFIG,
  m.PROTOCOL_F_INFLIGHT_SHMFD,
  m.PROTOCOL_F_RESET_DEVICE,
  m.PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  m.PROTOCOL_F_STATUS,
];

type Body = Pick<Draft, "payload"> & { readonly fds?: readonly number[] };
type Maker = (conversation: Conversation) => Body;

function none(): Body {
  return { payload: new Uint8Array(0) };
}

function u64(value: bigint): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt.asUintN(64, value), true);
  return new Uint8Array(view.buffer);
}

function state(index: number, num: number): Uint8Array {
  return u64(BigInt(index) | (BigInt(num) << 32n));
}

/** Most of the bits; all of them half of the time. */
function someBits(prng: Prng, bits: readonly number[]): bigint {
  const all = prng.chance(0.5);
  return bits.reduce(
    (word, bit) => (all || prng.chance(0.8) ? word | (1n << BigInt(bit)) : word),
    0n,
  );
}

function region({ prng, memory }: Conversation): WireRegion {
  const one = prng.pick(memory.regions) as HostileRegion;
  if (prng.chance(0.7)) return one;
  // A part of it, at another place.
  return {
    fd: one.fd,
    bytes: prng.between(1, 16) * 4096,
    fileOffsetBytes: one.fileOffsetBytes,
    guestAddress: prng.below(64) * 0x100_0000,
    userAddress: 0x7000_0000_0000 + prng.below(64) * 0x100_0000,
  };
}

function memTable(conversation: Conversation): Body {
  const { prng, memory } = conversation;
  const regions = prng.chance(0.7)
    ? memory.regions.slice(0, prng.between(1, memory.regions.length))
    : Array.from({ length: prng.between(1, 8) }, () => region(conversation));
  const payload = memTablePayload(regions, prng.chance(0.2));
  return { payload, fds: regions.map(({ fd }) => fd) };
}

function ringAddresses({ prng, memory }: Conversation, ring?: number): Body {
  const base = memory.regions[0] as HostileRegion;
  const index = ring ?? prng.below(RING_COUNT);
  const at = base.userAddress + index * RING_STRIDE_BYTES;
  const flags = prng.chance(0.3) ? m.VRING_ADDR_F_LOG : 0;
  const log = base.guestAddress + index * RING_STRIDE_BYTES;
  return {
    payload: ringAddressesPayload({
      index,
      descriptor: at,
      available: at + RING_AVAIL_OFFSET,
      used: at + RING_USED_OFFSET,
      flags,
      log,
    }),
  };
}

function ringFd(conversation: Conversation, isKick: boolean): Body {
  const { prng, own, kickFds } = conversation;
  const index = prng.below(RING_COUNT);
  if (prng.chance(0.15)) return { payload: u64(BigInt(index | m.VRING_FD_NONE)) };
  const fd = own(sys.check(sys.eventfd(), "eventfd"));
  if (isKick) kickFds.push(fd);
  return { payload: u64(BigInt(index)), fds: [fd] };
}

function log({ prng, own }: Conversation): Body {
  const fd = own(sys.check(sys.memfd("log", LOG_BYTES), "memfd"));
  const payload = new Uint8Array(m.LOG.BYTES);
  payload.set(u64(BigInt(prng.pick([LOG_BYTES, LOG_BYTES, 64]))));
  return { payload, fds: [fd] };
}

function config(prng: Prng, size: number, offset: number, data: Uint8Array): Body {
  const payload = new Uint8Array(m.CONFIG_HEADER.BYTES + data.length);
  const view = new DataView(payload.buffer);
  view.setUint32(m.CONFIG_HEADER.offset, offset, true);
  view.setUint32(m.CONFIG_HEADER.size, size, true);
  view.setUint32(m.CONFIG_HEADER.flags, prng.chance(0.2) ? 1 : 0, true);
  payload.set(data, m.CONFIG_HEADER.BYTES);
  return { payload };
}

function getInflight({ prng }: Conversation): Body {
  const payload = new Uint8Array(m.INFLIGHT.BYTES);
  const view = new DataView(payload.buffer);
  view.setUint16(m.INFLIGHT.queueCount, prng.between(1, RING_COUNT), true);
  view.setUint16(m.INFLIGHT.queueSize, prng.pick(RING_SIZES), true);
  return { payload };
}

/** A region of our own making, with anything in it, as a predecessor might have left it. */
function setInflight({ prng, own }: Conversation): Body {
  const queueSize = prng.pick(RING_SIZES);
  const bytes = 65536;
  const fd = own(sys.check(sys.memfd("inflight", bytes), "memfd"));
  const address = sys.check(sys.mmap(bytes, 3, sys.MAP_SHARED, fd, 0), "mmap");
  const view = new DataView(sys.windowOver(address, bytes));
  if (prng.chance(0.6)) {
    view.setUint16(8, 1, true);
    view.setUint16(10, queueSize, true);
    for (let count = prng.below(20); count > 0; count--) {
      view.setUint8(12 + prng.below(queueSize * 16 + 20), prng.below(8));
    }
  }
  sys.munmap(address, bytes);
  const payload = new Uint8Array(m.INFLIGHT.BYTES);
  const out = new DataView(payload.buffer);
  out.setUint32(m.INFLIGHT.mmapSize, bytes, true);
  out.setUint16(m.INFLIGHT.queueCount, prng.between(1, 2), true);
  out.setUint16(m.INFLIGHT.queueSize, queueSize, true);
  return { payload, fds: [fd] };
}

function backendChannel({ own }: Conversation): Body {
  const [ours, theirs] = sys.socketPair(true);
  own(ours);
  return { payload: new Uint8Array(0), fds: [own(theirs)] };
}

const MAKERS: readonly (readonly [request: number, weight: number, make: Maker])[] = [
  [m.GET_FEATURES, 1, none],
  [m.SET_FEATURES, 4, ({ prng }) => ({ payload: u64(someBits(prng, FEATURE_BITS)) })],
  [m.SET_OWNER, 1, none],
  [m.RESET_OWNER, 1, none],
  [m.GET_PROTOCOL_FEATURES, 1, none],
  [m.SET_PROTOCOL_FEATURES, 3, ({ prng }) => ({ payload: u64(someBits(prng, PROTOCOL_BITS)) })],
  [m.GET_QUEUE_NUM, 1, none],
  [m.GET_MAX_MEM_SLOTS, 1, none],
  [m.SET_MEM_TABLE, 5, memTable],
  [m.ADD_MEM_REG, 6, (one) => withFd(region(one))],
  [m.REM_MEM_REG, 4, (one) => ({ payload: singleRegionPayload(region(one)) })],
  [m.SET_LOG_BASE, 3, log],
  [m.SET_LOG_FD, 1, ({ own }) => ({ payload: new Uint8Array(0), fds: [own(sys.eventfd())] })],
  [
    m.SET_VRING_NUM,
    8,
    ({ prng }) => ({ payload: state(prng.below(RING_COUNT), prng.pick(RING_SIZES)) }),
  ],
  [m.SET_VRING_ADDR, 8, (one) => ringAddresses(one)],
  [m.SET_VRING_BASE, 4, ({ prng }) => ({ payload: state(prng.below(RING_COUNT), prng.below(4)) })],
  [m.GET_VRING_BASE, 5, ({ prng }) => ({ payload: state(prng.below(RING_COUNT), 0) })],
  [m.SET_VRING_KICK, 8, (one) => ringFd(one, true)],
  [m.SET_VRING_CALL, 4, (one) => ringFd(one, false)],
  [m.SET_VRING_ERR, 3, (one) => ringFd(one, false)],
  [
    m.SET_VRING_ENABLE,
    10,
    ({ prng }) => ({ payload: state(prng.below(RING_COUNT), prng.chance(0.8) ? 1 : 0) }),
  ],
  [m.SET_BACKEND_REQ_FD, 1, backendChannel],
  [m.GET_CONFIG, 2, ({ prng }) => config(prng, 60, 0, new Uint8Array(60))],
  [m.SET_CONFIG, 2, ({ prng }) => config(prng, 1, 32, Uint8Array.of(prng.below(2)))],
  [m.GET_INFLIGHT_FD, 2, getInflight],
  [m.SET_INFLIGHT_FD, 3, setInflight],
  [m.RESET_DEVICE, 2, none],
  [m.SET_STATUS, 2, ({ prng }) => ({ payload: u64(BigInt(prng.pick([0, 1, 7, 15]))) })],
  [m.GET_STATUS, 1, none],
  [m.IOTLB_MSG, 1, () => ({ payload: new Uint8Array(m.IOTLB.BYTES) })],
  [m.POSTCOPY_ADVISE, 1, none],
];
const TOTAL_WEIGHT = MAKERS.reduce((sum, [, weight]) => sum + weight, 0);

function withFd(one: WireRegion): Body {
  return { payload: singleRegionPayload(one), fds: [one.fd] };
}

function draftOf(request: number, body: Body, needReply: boolean): Draft {
  const flags = m.FLAG_VERSION | (needReply ? m.FLAG_NEED_REPLY : 0);
  return { request, flags, payload: body.payload, fds: body.fds ?? [] };
}

/** Any message at all. */
export function makeDraft(conversation: Conversation): Draft {
  const { prng } = conversation;
  let left = prng.below(TOTAL_WEIGHT);
  for (const [request, weight, make] of MAKERS) {
    left -= weight;
    if (left < 0) return draftOf(request, make(conversation), prng.chance(0.9));
  }
  throw new Error("the weights do not add up");
}

/** What leads from a new connection to rings that run, as far as it goes. */
export function makeOpening(conversation: Conversation): Draft[] {
  const { prng, memory, own, kickFds } = conversation;
  const bits = (numbers: readonly number[]): bigint =>
    numbers.reduce((word, bit) => word | (1n << BigInt(bit)), 0n);
  let features = bits(FEATURE_BITS.filter((bit) => bit !== m.VHOST_F_LOG_ALL));
  if (prng.chance(0.6)) features &= ~(1n << BigInt(v.F_RING_PACKED));
  const drafts = [
    draftOf(m.SET_PROTOCOL_FEATURES, { payload: u64(bits(PROTOCOL_BITS)) }, false),
    draftOf(m.SET_FEATURES, { payload: u64(features) }, true),
  ];
  if (prng.chance(0.3)) drafts.push(draftOf(m.GET_INFLIGHT_FD, getInflight(conversation), true));
  if (prng.chance(0.5)) {
    const payload = memTablePayload(memory.regions);
    const fds = memory.regions.map(({ fd }) => fd);
    drafts.push(draftOf(m.SET_MEM_TABLE, { payload, fds }, true));
  } else {
    for (const one of memory.regions) drafts.push(draftOf(m.ADD_MEM_REG, withFd(one), true));
  }
  for (let index = prng.below(RING_COUNT); index >= 0; index--) {
    const kick = own(sys.check(sys.eventfd(), "eventfd"));
    kickFds.push(kick);
    const call = own(sys.check(sys.eventfd(), "eventfd"));
    drafts.push(
      draftOf(m.SET_VRING_NUM, { payload: state(index, prng.pick([4, 16, 64])) }, true),
      draftOf(m.SET_VRING_ADDR, ringAddresses(conversation, index), true),
      draftOf(m.SET_VRING_CALL, { payload: u64(BigInt(index)), fds: [call] }, true),
      draftOf(m.SET_VRING_KICK, { payload: u64(BigInt(index)), fds: [kick] }, true),
      draftOf(m.SET_VRING_ENABLE, { payload: state(index, 1) }, true),
    );
  }
  return drafts;
}
