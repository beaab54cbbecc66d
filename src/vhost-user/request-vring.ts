// The ring requests: size, addresses, base, descriptors, enable. A ring may be told everything in
// any order before it runs; while it runs only its descriptors, its enable bit and its log address
// may change.
// Specification: vhost-user, "Ring states" and "Vring state description".

import { isPowerOfTwo } from "../base/index.ts";
import { closeReceived } from "../sys/index.ts";
import { F_RING_PACKED, hasFeature } from "../virtio/index.ts";
import type { Connection } from "./connection.ts";
import * as m from "./messages.ts";
import { LATER, OK, type Outcome, REPLIED, readU64 } from "./outcome.ts";
import type { Session } from "./session.ts";
import { RING_STOPPED, type Vring } from "./vring.ts";

/** Entries of a ring; what QEMU and Linux can use at most is 1024. */
export const QUEUE_ENTRIES_MAX = 4096;

function isPacked(session: Session): boolean {
  return hasFeature(session.featuresLow, session.featuresHigh, F_RING_PACKED);
}

function noRing(session: Session, index: number): string {
  return `ring ${index} of a device with ${session.device.model.ringCountMax}`;
}

export function setVringSize(session: Session, payload: DataView): Outcome {
  const index = payload.getUint32(m.VRING_STATE.index, true);
  const size = payload.getUint32(m.VRING_STATE.num, true);
  const ring = session.ring(index);
  if (ring === null) return noRing(session, index);
  if (size === 0 || size > QUEUE_ENTRIES_MAX) {
    return `a ring of ${size} entries (1 to ${QUEUE_ENTRIES_MAX} are possible)`;
  }
  if (!isPacked(session) && !isPowerOfTwo(size)) {
    return `a split ring of ${size} entries, not a power of two`;
  }
  if (ring.state !== RING_STOPPED && size !== ring.size) return "the size of a running ring";
  ring.size = size;
  ring.memoryChanged();
  session.startRings();
  return OK;
}

export function setVringAddress(session: Session, payload: DataView): Outcome {
  const index = payload.getUint32(m.VRING_ADDR.index, true);
  const flags = payload.getUint32(m.VRING_ADDR.flags, true);
  const ring = session.ring(index);
  if (ring === null) return noRing(session, index);
  const descriptor = readU64(payload, m.VRING_ADDR.descriptor);
  const used = readU64(payload, m.VRING_ADDR.used);
  const available = readU64(payload, m.VRING_ADDR.available);
  const log = readU64(payload, m.VRING_ADDR.log);
  for (const address of [descriptor, used, available]) {
    if (address === Infinity) return "a ring address beyond 2^53";
  }
  const packed = isPacked(session);
  if (descriptor % 16 !== 0) return `a descriptor table at ${descriptor}, not aligned to 16`;
  if (used % 4 !== 0) return `a used ring at ${used}, not aligned to 4`;
  if (available % (packed ? 4 : 2) !== 0) return `an avail ring at ${available}, not aligned`;
  const logged = (flags & m.VRING_ADDR_F_LOG) !== 0;
  if (logged && log === Infinity) return "a log address beyond 2^53";
  if (ring.state !== RING_STOPPED) {
    const same =
      ring.descriptorAddress === descriptor &&
      ring.deviceAddress === used &&
      ring.driverAddress === available;
    if (!same) return "the addresses of a running ring";
  }
  ring.descriptorAddress = descriptor;
  ring.deviceAddress = used;
  ring.driverAddress = available;
  ring.addressesSet = true;
  ring.logUsed = logged;
  ring.logAddress = logged ? log : 0;
  ring.setDirtyLog(session.activeLog);
  ring.memoryChanged();
  session.startRings();
  return OK;
}

export function setVringBase(session: Session, payload: DataView): Outcome {
  const index = payload.getUint32(m.VRING_STATE.index, true);
  const base = payload.getUint32(m.VRING_STATE.num, true);
  const ring = session.ring(index);
  if (ring === null) return noRing(session, index);
  if (ring.state !== RING_STOPPED) return "the base of a running ring";
  if (!isPacked(session) && base > 0xffff) return `a split ring base of ${base}`;
  ring.base = base;
  return OK;
}

export function getVringBase(session: Session, message: Connection): Outcome {
  const index = message.payload.getUint32(m.VRING_STATE.index, true);
  const ring = session.ring(index);
  // This request has no way to say no: a ring that cannot be ends the session.
  if (ring === null) {
    session.end(noRing(session, index));
    return REPLIED;
  }
  session.drain([ring], () => {
    ring.forgetKick();
    session.laterOutcome = replyBase(session, ring);
  });
  return LATER;
}

function replyBase(session: Session, ring: Vring): Outcome {
  const { connection } = session;
  connection.replyPayload.setUint32(m.VRING_STATE.index, ring.index, true);
  connection.replyPayload.setUint32(m.VRING_STATE.num, ring.base, true);
  session.sent(connection.sendReply(m.GET_VRING_BASE, m.VRING_STATE.BYTES));
  return REPLIED;
}

export function setVringDescriptor(
  session: Session,
  request: number,
  message: Connection,
): Outcome {
  const name = m.requestName(request);
  const low = message.payload.getUint32(0, true);
  const high = message.payload.getUint32(4, true);
  const fds = message.takeDescriptors();
  const none = (low & m.VRING_FD_NONE) !== 0;
  const index = low & m.VRING_FD_INDEX_MASK;
  const ring = session.ring(index);
  let problem = "";
  if (ring === null) problem = noRing(session, index);
  else if (high !== 0 || low > (m.VRING_FD_INDEX_MASK | m.VRING_FD_NONE)) {
    problem = `${name} with reserved bits`;
  } else if (fds.length !== (none ? 0 : 1)) problem = `${name} with ${fds.length} descriptors`;
  if (ring === null || problem !== "") {
    for (const fd of fds) closeReceived(fd);
    return problem;
  }
  const fd = none ? -1 : (fds[0] as number);
  if (request === m.SET_VRING_CALL) return ring.setCall(fd) ?? OK;
  if (request === m.SET_VRING_ERR) return ring.setError(fd) ?? OK;
  const refused = ring.setKick(fd);
  if (refused !== null) return refused;
  session.startRings();
  return OK;
}

export function setVringEnable(session: Session, payload: DataView): Outcome {
  const index = payload.getUint32(m.VRING_STATE.index, true);
  const value = payload.getUint32(m.VRING_STATE.num, true);
  const ring = session.ring(index);
  if (ring === null) return noRing(session, index);
  if (value > 1) return `an enable value of ${value}`;
  ring.setEnabled(value === 1);
  session.startRings();
  return OK;
}
