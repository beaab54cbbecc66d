// What each request does to a session. Every handler checks everything first and changes nothing
// when it refuses.
//
// A handler answers OK (acknowledge if asked), REPLIED (it sent the reply itself), LATER (a drain
// runs; the answer follows) or a string: refused, and why. A refusal is a non-zero acknowledgement
// where the front-end asked for one, otherwise it ends the session.
// Specification: vhost-user, "Front-end message types".

import { closeReceived } from "../sys/index.ts";
import { F_RING_PACKED } from "../virtio/index.ts";
import type { Connection } from "./connection.ts";
import { DirtyLog } from "./dirty-log.ts";
import { MEMORY_SLOTS_MAX } from "./memory-table.ts";
import * as m from "./messages.ts";
import { LATER, OK, type Outcome, readU64, reply, takeOne } from "./outcome.ts";
import { getConfig, setConfig } from "./request-config.ts";
import { getInflight, setInflight } from "./request-inflight.ts";
import { addRegion, removeRegion, setMemoryTable } from "./request-memory.ts";
import {
  getVringBase,
  setVringAddress,
  setVringBase,
  setVringDescriptor,
  setVringEnable,
  setVringSize,
} from "./request-vring.ts";
import type { Session } from "./session.ts";

/** What we offer; see ARCHITECTURE.md for what we leave out and why. */
const PROTOCOL_FEATURES: number =
  (1 << m.PROTOCOL_F_MQ) |
  (1 << m.PROTOCOL_F_LOG_SHMFD) |
  (1 << m.PROTOCOL_F_REPLY_ACK) |
  (1 << m.PROTOCOL_F_BACKEND_REQ) |
  (1 << m.PROTOCOL_F_CONFIG) |
  (1 << m.PROTOCOL_F_INFLIGHT_SHMFD) |
  (1 << m.PROTOCOL_F_RESET_DEVICE) |
  (1 << m.PROTOCOL_F_CONFIGURE_MEM_SLOTS) |
  (1 << m.PROTOCOL_F_STATUS) |
  (1 << m.PROTOCOL_F_GET_VRING_BASE_INFLIGHT);

const STATUS_MASK = 0xff;

/**
 * A front-end that accepted PROTOCOL_FEATURES, never said which, and uses what one of them opens:
 * it negotiated on an earlier connection and has not noticed that there is a new one. So does QEMU
 * before 9.1 whose back-end restarts while its device has not started yet (a migration's
 * destination). It waits for the replies that go with what it was offered, and would for ever.
 */
function resumeNegotiation(session: Session, request: number): void {
  const gate = m.requestInfo(request)?.gate ?? m.GATE_NONE;
  if (gate === m.GATE_NONE || session.protocolFeaturesSet) return;
  if (((session.featuresLow >>> m.VHOST_USER_F_PROTOCOL_FEATURES) & 1) === 0) return;
  session.protocolFeaturesSet = true;
  session.protocolLow = PROTOCOL_FEATURES;
  session.say("info", "vhost_user.resumed", { request: m.requestName(request) });
}

export function handleRequest(session: Session, request: number, message: Connection): Outcome {
  resumeNegotiation(session, request);
  switch (request) {
    case m.GET_FEATURES:
      return getFeatures(session, message);
    case m.SET_FEATURES:
      return setFeatures(session, message.payload);
    case m.SET_OWNER:
    case m.RESET_OWNER:
      return OK;
    case m.GET_PROTOCOL_FEATURES:
      return reply(session, message.replyU64(request, PROTOCOL_FEATURES, 0));
    case m.SET_PROTOCOL_FEATURES:
      session.protocolFeaturesSet = true;
      session.protocolLow = (message.payload.getUint32(0, true) & PROTOCOL_FEATURES) >>> 0;
      return OK;
    case m.GET_QUEUE_NUM:
      return reply(session, message.replyU64(request, session.device.model.requestQueueCount, 0));
    case m.GET_MAX_MEM_SLOTS:
      return reply(session, message.replyU64(request, MEMORY_SLOTS_MAX, 0));
    case m.SET_MEM_TABLE:
      return setMemoryTable(session, message);
    case m.ADD_MEM_REG:
      return addRegion(session, message);
    case m.REM_MEM_REG:
      return removeRegion(session, message);
    case m.SET_LOG_BASE:
      return setLogBase(session, message);
    case m.SET_LOG_FD:
      // Nobody waits for our word that the log grew: the bits are enough.
      for (const fd of message.takeDescriptors()) closeReceived(fd);
      return OK;
    case m.SET_VRING_NUM:
      return setVringSize(session, message.payload);
    case m.SET_VRING_ADDR:
      return setVringAddress(session, message.payload);
    case m.SET_VRING_BASE:
      return setVringBase(session, message.payload);
    case m.GET_VRING_BASE:
      return getVringBase(session, message);
    case m.SET_VRING_KICK:
    case m.SET_VRING_CALL:
    case m.SET_VRING_ERR:
      return setVringDescriptor(session, request, message);
    case m.SET_VRING_ENABLE:
      return setVringEnable(session, message.payload);
    case m.SET_BACKEND_REQ_FD:
      return setBackendChannel(session, message);
    case m.GET_CONFIG:
      return getConfig(session, message);
    case m.SET_CONFIG:
      return setConfig(session, message);
    case m.GET_INFLIGHT_FD:
      return getInflight(session, message);
    case m.SET_INFLIGHT_FD:
      return setInflight(session, message);
    case m.RESET_DEVICE:
      return resetDevice(session);
    case m.SET_STATUS:
      return setStatus(session, message.payload);
    case m.GET_STATUS:
      return reply(session, message.replyU64(request, session.status, 0));
    default:
      return "a request that belongs to a feature this back-end does not offer";
  }
}

function getFeatures(session: Session, message: Connection): Outcome {
  const { config } = session;
  const own = (1 << m.VHOST_F_LOG_ALL) | (1 << m.VHOST_USER_F_PROTOCOL_FEATURES);
  const low = (config.offeredLow | own) >>> 0;
  return reply(session, message.replyU64(m.GET_FEATURES, low, config.offeredHigh));
}

function setFeatures(session: Session, payload: DataView): Outcome {
  const low = payload.getUint32(0, true);
  const high = payload.getUint32(4, true);
  const packed = (high >>> (F_RING_PACKED - 32)) & 1;
  if (packed === 1 && !session.device.model.packedAllowed) {
    return "RING_PACKED accepted though it was not offered";
  }
  // Live migration toggles LOG_ALL under running rings. Nothing else may change there.
  const changed = (low ^ session.featuresLow) & ~(1 << m.VHOST_F_LOG_ALL);
  if (session.ringsRunning && (changed !== 0 || high !== session.featuresHigh)) {
    return "features changed while rings run";
  }
  session.featuresLow = low;
  session.featuresHigh = high;
  session.config.acceptFeatures(low, high);
  session.updateLogging();
  if (((low >>> m.VHOST_USER_F_PROTOCOL_FEATURES) & 1) === 0) session.enableAllRings();
  return OK;
}

function setLogBase(session: Session, message: Connection): Outcome {
  const { payload } = message;
  const fd = takeOne(message);
  if (fd < 0) return refuseLog(session, message, "SET_LOG_BASE without its one descriptor");
  if (message.payloadBytes < m.LOG.BYTES) {
    closeReceived(fd);
    return refuseLog(session, message, `a log message of ${message.payloadBytes} bytes`);
  }
  const bytes = readU64(payload, m.LOG.mmapSize);
  const offset = readU64(payload, m.LOG.mmapOffset);
  const log = DirtyLog.map(fd, bytes, offset, session.device.trustMemory);
  closeReceived(fd);
  if (typeof log === "string") return refuseLog(session, message, log);
  if (!log.covers(session.memory.guestLimit)) {
    log.unmap();
    const limit = session.memory.guestLimit;
    return refuseLog(session, message, `a log of ${bytes} bytes for guest memory up to ${limit}`);
  }
  const before = session.log;
  session.log = log;
  session.updateLogging();
  if (before !== null) before.unmap();
  if (!session.negotiated(m.PROTOCOL_F_LOG_SHMFD)) return OK;
  return reply(session, message.replyU64(m.SET_LOG_BASE, 0, 0));
}

/** With LOG_SHMFD the front-end always reads a reply; it must not take it for success. */
function refuseLog(session: Session, message: Connection, why: string): Outcome {
  if (!session.negotiated(m.PROTOCOL_F_LOG_SHMFD)) return why;
  session.say("warn", "vhost_user.refused", { request: "SET_LOG_BASE", why });
  return reply(session, message.replyU64(m.SET_LOG_BASE, 1, 0));
}

function setBackendChannel(session: Session, message: Connection): Outcome {
  const fd = takeOne(message);
  if (fd < 0) return "SET_BACKEND_REQ_FD without its one descriptor";
  session.setBackendFd(fd);
  return OK;
}

function resetDevice(session: Session): Outcome {
  return stopAllRings(session, false);
}

function stopAllRings(session: Session, keepBases: boolean): Outcome {
  session.drain(session.rings, () => {
    for (const ring of session.rings) {
      ring.forgetKick();
      ring.enabled = false;
      if (!keepBases) ring.base = 0;
    }
    session.config.reset();
    // Status 0 is what QEMU sends when it stops a guest for a moment, too.
    if (!keepBases) session.guest.reset();
    session.status = 0;
    session.laterOutcome = OK;
  });
  return LATER;
}

function setStatus(session: Session, payload: DataView): Outcome {
  const status = payload.getUint32(0, true) & STATUS_MASK;
  // Status 0 is the virtio reset. Some front-ends send it after they stopped the rings; QEMU before
  // 8.0 sends it first, and then asks GET_VRING_BASE for what a migration's destination goes on
  // with: the bases stay.
  if (status === 0 && session.ringsRunning) return stopAllRings(session, true);
  session.status = status;
  return OK;
}
