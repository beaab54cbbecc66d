// Errors of metadata. Thrown by a write, every code but "unknown" means: it was surely not applied.

import { RingstoreError } from "../base/index.ts";

export type MetaErrorCode =
  /** No endpoint could be asked in time. */
  | "unavailable"
  /** The request was sent and its answer is missing. */
  | "unknown"
  /** The server said no, and will say no again. */
  | "refused"
  /** The revision asked for is forgotten. */
  | "compacted"
  | "lease-lost"
  | "authentication"
  /** Too large, or too many. */
  | "limit"
  /** A message that is not understood. */
  | "protocol"
  /** A record or page that this version must not touch, or cannot read. */
  | "format"
  | "newer-format"
  /** No placement fits. */
  | "no-room"
  /** An archive, or the folder of the embedded server. */
  | "archive"
  | "database"
  | "closed";

export class MetaError extends RingstoreError<MetaErrorCode> {}
