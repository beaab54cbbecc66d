// What can be wrong with a volume's backing when it is opened or resized. The data path never
// makes one of these; it answers negated errno numbers.

import { RingstoreError } from "../base/index.ts";

export type LocalErrorCode =
  /** The size is not a whole number of blocks, or not positive. */
  | "BAD_CAPACITY"
  /** The disk can only be read and written in units larger than the volume's block. */
  | "BLOCK_TOO_SMALL"
  /** A block device that is smaller than the volume. */
  | "DEVICE_TOO_SMALL";

export class LocalError extends RingstoreError<LocalErrorCode> {
  override readonly name = "LocalError";
}
