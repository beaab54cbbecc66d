// What a volume may be called and how large it may be, with errors that say what to type instead.
// Used by the daemon on every request and by the CLI before it sends one.

import { formatBytes, parseBytes } from "../base/units.ts";
import { ApiError } from "./errors.ts";
import {
  QUEUE_COUNT_MAX,
  SERIAL_LENGTH_MAX,
  SERIAL_PATTERN,
  VOLUME_NAME_LENGTH_MAX,
  VOLUME_NAME_PATTERN,
  VOLUME_SIZE_MAX_BYTES,
  VOLUME_SIZE_MIN_BYTES,
} from "./limits.ts";

const NAME = new RegExp(VOLUME_NAME_PATTERN);
const SERIAL = new RegExp(SERIAL_PATTERN);
/** Text of the caller's that is repeated in an error: enough to recognise it. */
const ECHO_LENGTH_MAX = 80;

function refuse(message: string, advice: string): never {
  throw new ApiError("invalid_request", message, { advice });
}

/** Quotes outside text for an error message: bounded, and without control characters. */
export function quote(text: string): string {
  const cut = text.length > ECHO_LENGTH_MAX ? `${text.slice(0, ECHO_LENGTH_MAX)}...` : text;
  return JSON.stringify(cut);
}

const NAME_EXAMPLES = {
  volume: "db-1",
  controller: "vm1-scsi",
  disk: "nvme-1",
  cluster: "prod-1",
  node: "host-1",
  rack: "rack-1",
} as const;

/** Whatever has a name is named by the same rule. */
export function checkVolumeName(name: string, what: keyof typeof NAME_EXAMPLES = "volume"): void {
  if (NAME.test(name)) return;
  refuse(
    `${quote(name)} is not a ${what} name`,
    `use 1 to ${VOLUME_NAME_LENGTH_MAX} lower-case letters, digits and inner hyphens, e.g. ${
      NAME_EXAMPLES[what]
    }`,
  );
}

export function checkSerial(serial: string): void {
  if (SERIAL.test(serial)) return;
  const advice = `use 1 to ${SERIAL_LENGTH_MAX} printable ASCII characters without spaces`;
  refuse(`${quote(serial)} is not a serial number`, advice);
}

/**
 * `minimumBytes` differs: a new volume has VOLUME_SIZE_MIN_BYTES, one over an existing file may be
 * as small as one block.
 */
export function checkVolumeSize(
  sizeBytes: number,
  blockBytes: number,
  minimumBytes: number = VOLUME_SIZE_MIN_BYTES,
): void {
  const said = `a volume of ${sizeBytes} bytes`;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes > VOLUME_SIZE_MAX_BYTES) {
    refuse(`${said} is too large`, `use at most ${formatBytes(VOLUME_SIZE_MAX_BYTES)}`);
  }
  if (sizeBytes < minimumBytes) {
    const advice = `use at least ${formatBytes(minimumBytes)}; a size may carry a unit, e.g. 20G`;
    refuse(`${said} is too small`, advice);
  }
  if (sizeBytes % blockBytes !== 0) {
    const below = sizeBytes - (sizeBytes % blockBytes);
    const advice = `use ${below} or ${below + blockBytes}`;
    refuse(`${said} is not a multiple of its ${blockBytes}-byte blocks`, advice);
  }
}

export function checkQueueCount(count: number): void {
  if (Number.isInteger(count) && count >= 1 && count <= QUEUE_COUNT_MAX) return;
  refuse(`${count} is not a number of queues`, `use 1 to ${QUEUE_COUNT_MAX}`);
}

/** `"20G"` to bytes. `what` names the option or field in the error. */
export function parseSize(what: string, text: string): number {
  const bytes = parseBytes(text);
  if (bytes >= 0) return bytes;
  return refuse(
    `${what}: ${quote(text)} is not a size`,
    "use a number with an optional unit K, M, G, T or P (powers of 1024), e.g. 20G or 512MiB",
  );
}
