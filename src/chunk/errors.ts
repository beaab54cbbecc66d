// What can be wrong with a disk or a volume of the store when it is opened, formatted or changed.
// The data path never makes one of these; it answers negated errno numbers.

import { RingstoreError } from "../base/index.ts";

export type StoreErrorCode =
  /** The disk holds something that is not a store. */
  | "DISK_FOREIGN"
  /** Written by a newer version of the format. */
  | "DISK_NEWER"
  /** Something that acked data depends on is lost or contradicts itself. */
  | "DISK_DAMAGED"
  /** The superblock names another disk, or an older state of this one. */
  | "DISK_STALE"
  | "DISK_TOO_SMALL"
  | "DISK_TOO_LARGE"
  /** The disk answered a read or write with an error. */
  | "DISK_FAILED"
  | "NO_SPACE"
  | "VOLUME_EXISTS"
  | "VOLUME_UNKNOWN"
  | "VOLUME_LIMIT"
  | "VOLUME_BUSY"
  /** A replica where a volume of this disk alone is asked for, or the other way round. */
  | "VOLUME_KIND"
  /** Not a positive number of whole blocks, or smaller than before. */
  | "VOLUME_SIZE"
  /** Metadata that is older than what the disk has seen: it was put back from a backup. */
  | "ROLLED_BACK"
  | "STORE_CLOSED";

export class StoreError extends RingstoreError<StoreErrorCode> {
  override readonly name = "StoreError";
}
