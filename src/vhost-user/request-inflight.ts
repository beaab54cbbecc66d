// GET_INFLIGHT_FD hands out a new, zeroed region; SET_INFLIGHT_FD takes one back, ours or that of
// a predecessor. Either replaces the region the session had; rings must be stopped.
// Specification: vhost-user, "Inflight I/O tracking".

import { closeReceived } from "../sys/index.ts";
import { F_RING_PACKED, hasFeature } from "../virtio/index.ts";
import type { Connection } from "./connection.ts";
import { InflightRegion } from "./inflight.ts";
import * as m from "./messages.ts";
import { OK, type Outcome, REPLIED, readU64, reply, takeOne } from "./outcome.ts";
import { QUEUE_ENTRIES_MAX } from "./request-vring.ts";
import type { Session } from "./session.ts";

function checkCounts(session: Session, queueCount: number, queueSize: number): string {
  if (queueCount < 1 || queueCount > session.device.model.ringCountMax) {
    return `an inflight region for ${queueCount} queues`;
  }
  if (queueSize < 1 || queueSize > QUEUE_ENTRIES_MAX) {
    return `an inflight region for queues of ${queueSize}`;
  }
  return session.ringsRunning ? "an inflight region while rings run" : "";
}

export function getInflight(session: Session, message: Connection): Outcome {
  const queueCount = message.payload.getUint16(m.INFLIGHT.queueCount, true);
  const queueSize = message.payload.getUint16(m.INFLIGHT.queueSize, true);
  const packed = hasFeature(session.featuresLow, session.featuresHigh, F_RING_PACKED);
  const problem = checkCounts(session, queueCount, queueSize);
  const region = problem === "" ? InflightRegion.create(queueCount, queueSize, packed) : problem;
  if (typeof region === "string") {
    // The reply has no room for "no".
    session.end(`GET_INFLIGHT_FD: ${region}`);
    return REPLIED;
  }
  replace(session, region);
  region.saveGuestState(session.config.guestState);
  const out = message.replyPayload;
  out.setUint32(m.INFLIGHT.mmapSize, region.geometry.mmapBytes, true);
  out.setUint32(m.INFLIGHT.mmapSize + 4, 0, true);
  out.setUint32(m.INFLIGHT.mmapOffset, 0, true);
  out.setUint32(m.INFLIGHT.mmapOffset + 4, 0, true);
  out.setUint16(m.INFLIGHT.queueCount, queueCount, true);
  out.setUint16(m.INFLIGHT.queueSize, queueSize, true);
  out.setUint32(m.INFLIGHT.padding, 0, true);
  return reply(session, message.sendReply(m.GET_INFLIGHT_FD, m.INFLIGHT.BYTES, [region.fd]));
}

export function setInflight(session: Session, message: Connection): Outcome {
  const fd = takeOne(message);
  if (fd < 0) return "SET_INFLIGHT_FD without its one descriptor";
  const { payload } = message;
  const geometry = {
    mmapBytes: readU64(payload, m.INFLIGHT.mmapSize),
    mmapOffset: readU64(payload, m.INFLIGHT.mmapOffset),
    queueCount: payload.getUint16(m.INFLIGHT.queueCount, true),
    queueSize: payload.getUint16(m.INFLIGHT.queueSize, true),
  };
  const packed = hasFeature(session.featuresLow, session.featuresHigh, F_RING_PACKED);
  const problem = checkCounts(session, geometry.queueCount, geometry.queueSize);
  const region =
    problem === ""
      ? InflightRegion.adopt(geometry, packed, fd, session.device.trustMemory)
      : problem;
  closeReceived(fd);
  if (typeof region === "string") return region;
  replace(session, region);
  const guestState = region.savedGuestState();
  if (guestState !== null) session.config.restoreGuestState(guestState);
  return OK;
}

function replace(session: Session, region: InflightRegion): void {
  if (session.inflight !== null) session.inflight.unmap();
  session.inflight = region;
}
