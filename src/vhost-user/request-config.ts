// GET_CONFIG and SET_CONFIG: the device configuration space. What a driver may write (of
// virtio-blk, writeback) is kept in the inflight region as well, so that a restarted daemon goes
// on promising what the guest reads.
// Specification: vhost-user, "Virtio device config space".

import type { Connection } from "./connection.ts";
import * as m from "./messages.ts";
import { OK, type Outcome, reply } from "./outcome.ts";
import type { Session } from "./session.ts";

export function getConfig(session: Session, message: Connection): Outcome {
  const { payload } = message;
  const offset = payload.getUint32(m.CONFIG_HEADER.offset, true);
  const bytes = payload.getUint32(m.CONFIG_HEADER.size, true);
  const flags = payload.getUint32(m.CONFIG_HEADER.flags, true);
  const out = message.replyPayload;
  const target = new Uint8Array(out.buffer, out.byteOffset);
  if (bytes === 0 || !session.config.readConfig(offset, bytes, target, m.CONFIG_HEADER.BYTES)) {
    session.say("warn", "vhost_user.refused", { request: "GET_CONFIG", offset, bytes });
    // An empty payload is how the specification says "error" here.
    return reply(session, message.sendReply(m.GET_CONFIG, 0));
  }
  out.setUint32(m.CONFIG_HEADER.offset, offset, true);
  out.setUint32(m.CONFIG_HEADER.size, bytes, true);
  out.setUint32(m.CONFIG_HEADER.flags, flags, true);
  return reply(session, message.sendReply(m.GET_CONFIG, m.CONFIG_HEADER.BYTES + bytes));
}

export function setConfig(session: Session, message: Connection): Outcome {
  const { payload, payloadU8 } = message;
  const offset = payload.getUint32(m.CONFIG_HEADER.offset, true);
  const bytes = payload.getUint32(m.CONFIG_HEADER.size, true);
  const flags = payload.getUint32(m.CONFIG_HEADER.flags, true);
  if (message.payloadBytes < m.CONFIG_HEADER.BYTES + bytes) {
    return `SET_CONFIG of ${bytes} bytes in a payload of ${message.payloadBytes}`;
  }
  if (flags > m.CONFIG_FLAG_MIGRATION) return `SET_CONFIG with flags ${flags}`;
  const migrating = flags === m.CONFIG_FLAG_MIGRATION;
  const at = m.CONFIG_HEADER.BYTES;
  const result = session.config.writeConfig(offset, payloadU8, at, bytes, migrating);
  if (result === "refused") return `SET_CONFIG of ${bytes} bytes at ${offset}: not writable`;
  if (result === "changed") session.inflight?.saveGuestState(session.config.guestState);
  return OK;
}
