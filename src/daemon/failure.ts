// What the data plane rejects with, in the words of the API: a code from the closed list, the
// sentence that came with it, and which volume it is about.

import { AssertionFailure } from "../base/assert.ts";
import { EAGAIN, EBUSY, EFBIG, EINVAL, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP } from "../base/errno.ts";
import { RingstoreError } from "../base/error.ts";
import { ApiError, type ApiErrorCode, isApiErrorCode } from "../model/errors.ts";

const EDQUOT = 122;

const BY_ERRNO = new Map<number, ApiErrorCode>([
  [ENOENT, "backing_not_found"],
  [EAGAIN, "backing_in_use"],
  [EBUSY, "backing_in_use"],
  [ENOSPC, "no_space"],
  [EDQUOT, "no_space"],
  [EFBIG, "no_space"],
  [ENOSYS, "unsupported"],
  [EOPNOTSUPP, "unsupported"],
  [EINVAL, "backing_failed"],
]);

/** Codes of rooms below that say the same in other words. */
const ALIASES: ReadonlyMap<string, ApiErrorCode> = new Map([
  ["IO_URING_UNAVAILABLE", "unsupported"],
  ["BLOCK_TOO_SMALL", "unsupported"],
  ["DEVICE_TOO_SMALL", "backing_too_small"],
  ["BACKING_EXISTS", "backing_in_use"],
  ["VOLUME_UNKNOWN", "volume_not_found"],
  ["VOLUME_LIMIT", "limit_reached"],
  ["VOLUME_SIZE", "invalid_request"],
  ["DISK_TOO_LARGE", "unsupported"],
  ["STORE_CLOSED", "disk_unavailable"],
]);

/** A failed assertion is passed on as it is: nothing may go on after one. */
export function asApiError(error: unknown, context: string): ApiError | AssertionFailure {
  if (error instanceof ApiError || error instanceof AssertionFailure) return error;
  if (!(error instanceof Error)) {
    return new ApiError("internal", `${context}: ${String(error)}`);
  }
  const message = `${context}: ${error.message}`;
  const advice = error instanceof RingstoreError ? error.advice : undefined;
  const options = advice === undefined ? { cause: error } : { advice, cause: error };
  return new ApiError(codeOf(error), message, options);
}

function codeOf(error: Error): ApiErrorCode {
  const { code, errno } = error as { code?: unknown; errno?: unknown };
  if (typeof code === "string" && isApiErrorCode(code.toLowerCase())) {
    return code.toLowerCase() as ApiErrorCode;
  }
  const alias = typeof code === "string" ? ALIASES.get(code) : undefined;
  if (alias !== undefined) return alias;
  if (typeof errno === "number") return BY_ERRNO.get(Math.abs(errno)) ?? "backing_failed";
  return error instanceof RingstoreError ? "backing_failed" : "internal";
}
