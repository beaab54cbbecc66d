// Errors of the driving side. The code says whose fault it is: the target's (everything that a
// back-end may not do), the caller's (OPTIONS) or the machine's (UNAVAILABLE).

import { RingstoreError } from "../base/index.ts";

export type LoadErrorCode =
  /** Nobody listens on the socket, or the connection was refused. */
  | "CONNECT_FAILED"
  /** The back-end did not answer, or completed nothing, within the time limit. */
  | "TIMEOUT"
  /** The back-end closed the connection. */
  | "CLOSED"
  /** A reply broke the protocol: flags, request number, size, descriptors. */
  | "BAD_REPLY"
  /** The back-end answered an acknowledged request with an error. */
  | "REFUSED"
  /** The back-end lacks something that was asked for: a feature, queues, an inflight region. */
  | "UNSUPPORTED"
  /** A completion that no driver may accept: wrong head, not in flight, wrong length. */
  | "BAD_COMPLETION"
  /** Options that contradict each other or the device. */
  | "OPTIONS"
  /** This machine lacks something: hugepages, memory. */
  | "UNAVAILABLE";

export class LoadError extends RingstoreError<LoadErrorCode> {
  override readonly name = "LoadError";
}
