// What can be wrong with a volume's backing, in words: which path, why, what to do.

import {
  EACCES,
  EBUSY,
  EDQUOT,
  EEXIST,
  EISDIR,
  ENODEV,
  ENOENT,
  ENOSPC,
  ENOTDIR,
  ENXIO,
  EPERM,
  EROFS,
  ETXTBSY,
  errnoName,
  RingstoreError,
} from "../base/index.ts";

export type BackingErrorCode =
  | "BACKING_NOT_FOUND"
  | "BACKING_EXISTS"
  | "BACKING_IN_USE"
  | "BACKING_TOO_SMALL"
  | "BACKING_FAILED"
  | "INVALID_REQUEST"
  | "NO_SPACE"
  | "UNSUPPORTED";

/** The backing cannot be used; the message names it and says why, the advice what to do. */
export class BackingError extends RingstoreError<BackingErrorCode> {
  override readonly name = "BackingError";
}

/** A failed system call on a backing, as an error for a person. */
export function failure(path: string, what: string, result: number): BackingError {
  if (result === -ENOSPC || result === -EDQUOT) {
    return new BackingError("NO_SPACE", `${path} ${what}: ${errnoName(result)}`, {
      advice: "Free some space on its file system, or raise the quota.",
    });
  }
  return new BackingError("BACKING_FAILED", `${path} ${what}: ${errnoName(result)}`);
}

/** Why open(2) or statx(2) failed, and what to do. */
export function explainOpen(path: string, result: number): BackingError {
  const message = `${path} cannot be opened: ${errnoName(result)}`;
  switch (-result) {
    case ENOENT:
    case ENOTDIR:
      return new BackingError("BACKING_NOT_FOUND", `${path} does not exist`, {
        advice: "Give the path of a file or block device whose directory exists.",
      });
    case EEXIST:
      return new BackingError("BACKING_EXISTS", `${path} exists already`, {
        advice: "Move it away; nothing is ever overwritten by creating a volume.",
      });
    case EACCES:
    case EPERM:
      return new BackingError("BACKING_FAILED", message, {
        advice: "Give the daemon's user permission to read and write it.",
      });
    case EROFS:
      return new BackingError("BACKING_FAILED", message, {
        advice: "Its file system is mounted read-only: make the volume read-only, or remount.",
      });
    case EISDIR:
      return new BackingError("INVALID_REQUEST", `${path} is a directory`, {
        advice: "Give a file, or a block device such as /dev/vg0/db1.",
      });
    case EBUSY:
      return new BackingError("BACKING_IN_USE", `${path} is in use by another process`, {
        advice: "It is mounted, part of another device, or claimed: lsblk and fuser tell by whom.",
      });
    case ETXTBSY:
      return new BackingError("BACKING_IN_USE", message, {
        advice: "It is being executed or used as swap space: choose another file.",
      });
    case ENXIO:
    case ENODEV:
      return new BackingError("BACKING_NOT_FOUND", message, {
        advice: "There is no device behind this name: check that it is plugged in and set up.",
      });
    default:
      return failure(path, "cannot be opened", result);
  }
}
