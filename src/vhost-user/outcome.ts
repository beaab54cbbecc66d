// How a request handler answers (requests.ts), and what all handlers share.

import { SAFE_HIGH_MAX, TWO_32 } from "../base/index.ts";
import { closeReceived } from "../sys/index.ts";
import type { Connection } from "./connection.ts";
import type { Session } from "./session.ts";

/** Done: acknowledge if the front-end asked for that. */
export const OK = 0;
/** The handler has sent the reply. */
export const REPLIED = 1;
/** A drain runs; its continuation sets session.laterOutcome. */
export const LATER = 2;
/** OK, REPLIED, LATER or the reason of a refusal. */
export type Outcome = 0 | 1 | 2 | string;

/** Reads a u64 of a payload; Infinity when it is too large to be any address or size. */
export function readU64(payload: DataView, offset: number): number {
  const high = payload.getUint32(offset + 4, true);
  return high > SAFE_HIGH_MAX ? Infinity : high * TWO_32 + payload.getUint32(offset, true);
}

/** The message's only descriptor, now the caller's, or -1 when there is not exactly one. */
export function takeOne(connection: Connection): number {
  const fds = connection.takeDescriptors();
  if (fds.length === 1) return fds[0] as number;
  for (const fd of fds) closeReceived(fd);
  return -1;
}

/** REPLIED, and the session ends when the reply could not be sent. */
export function reply(session: Session, sent: boolean): Outcome {
  session.sent(sent);
  return REPLIED;
}
