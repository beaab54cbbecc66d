// The backings of volumes, on the main thread: opened with patience, resized, removed. The reactor
// is given only a descriptor's number, so that no look-up of a path ever holds up a guest.
//
// Invariant: an opened backing is closed by whoever opened it, and only when no I/O is left on it:
// closing gives up the lock that fences I/O still with the kernel.

import { fsync as fsyncCallback, ftruncate as ftruncateCallback } from "node:fs";
import { lstat, unlink } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { formatBytes, RingstoreError } from "../base/index.ts";
import type { VolumeSpec } from "../ports/data-plane.ts";
import { blockDeviceSize, check, fstat } from "../sys/index.ts";
import {
  BackingError,
  BackingOpening,
  type OpenBackingOptions,
  type OpenedBacking,
} from "../uring/index.ts";
import type { OpenedForReactor } from "./reactor-protocol.ts";

const ftruncate = promisify(ftruncateCallback);
const fsync = promisify(fsyncCallback);

/** Guests wait: often at first. */
const LOCK_RETRY_FIRST_MS = 2;
const LOCK_RETRY_MAX_MS = 100;

/** Opens and locks the file or device of `spec`. Rejects with BackingError. */
export async function openFileBacking(
  spec: VolumeSpec,
  create: boolean,
  patienceMs: number,
): Promise<OpenedBacking> {
  const { backing, sizeBytes, blockBytes, readOnly } = spec;
  if (backing.kind !== "file") throw new Error("not a file");
  const { path, direct } = backing;
  // A file that is made has to be written, if only its size.
  const options = { path, direct, sizeBytes, blockBytes, create, readOnly: readOnly && !create };
  return await openWithPatience(options, patienceMs);
}

/** Waits for the lock: a killed predecessor's I/O may still be on its way. */
export async function openWithPatience(
  options: OpenBackingOptions,
  patienceMs: number,
): Promise<OpenedBacking> {
  const opening = new BackingOpening(options);
  const deadlineMs = performance.now() + patienceMs;
  let delayMs = LOCK_RETRY_FIRST_MS;
  while (!opening.attempt()) {
    if (performance.now() >= deadlineMs) {
      opening.abandon();
      throw opening.busyError();
    }
    await sleep(delayMs);
    delayMs = Math.min(delayMs * 1.5, LOCK_RETRY_MAX_MS);
  }
  return opening.finish();
}

/** What the reactor is told of it. */
export function forReactor(
  spec: VolumeSpec,
  opened: OpenedBacking | null,
  create: boolean,
): OpenedForReactor {
  if (opened !== null) return opened;
  const { backing } = spec;
  if (backing.kind === "store") return { kind: "store", diskId: backing.diskId, create };
  if (backing.kind === "cluster") return { kind: "cluster" };
  return spec.backing.kind === "memory" ? { kind: "memory" } : { kind: "null" };
}

/** The size of the file or device now. */
export function backingBytes(opened: OpenedBacking): number {
  if (opened.kind === "block") {
    const size = blockDeviceSize(opened.fd);
    if (typeof size === "number") return check(size, "ioctl", opened.path);
    return size.sizeBytes;
  }
  const status = fstat(opened.fd);
  if (typeof status === "number") return check(status, "statx", opened.path);
  return status.sizeBytes;
}

/** Makes the backing at least `sizeBytes` large, durably. A larger one is left as it is. */
export async function growBacking(opened: OpenedBacking, sizeBytes: number): Promise<void> {
  const presentBytes = backingBytes(opened);
  if (presentBytes >= sizeBytes) return;
  if (opened.kind === "block") {
    const has = formatBytes(presentBytes);
    throw new BackingError(
      "BACKING_TOO_SMALL",
      `${opened.path} has ${presentBytes} bytes (${has}), fewer than ${sizeBytes}`,
      { advice: "Enlarge the device first, e.g. with lvextend." },
    );
  }
  await setSize(opened, sizeBytes);
}

/** Cuts a file off behind `sizeBytes`, durably. A block device keeps its size. */
export async function cutBacking(opened: OpenedBacking, sizeBytes: number): Promise<void> {
  if (opened.kind !== "block") await setSize(opened, sizeBytes);
}

/** On a thread of Node's pool: cutting a terabyte off takes the file system a while. */
async function setSize(opened: OpenedBacking, sizeBytes: number): Promise<void> {
  try {
    await ftruncate(opened.fd, sizeBytes);
    // The new size will be declared: it must not be lost by a power cut after that.
    await fsync(opened.fd);
  } catch (error) {
    throw explain(error, `${opened.path} cannot be made ${sizeBytes} bytes large`);
  }
}

/** Removes the file of a volume. One that is gone already is no error; nothing else is removed. */
export async function deleteFile(path: string): Promise<void> {
  try {
    const status = await lstat(path);
    if (!status.isFile()) {
      throw new BackingError("INVALID_REQUEST", `${path} is not a regular file`, {
        advice: "Only files that Ringstore made are removed; remove this by hand.",
      });
    }
    await unlink(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw explain(error, `${path} cannot be removed`);
  }
}

function explain(error: unknown, what: string): RingstoreError {
  if (error instanceof RingstoreError) return error;
  const { code = "" } = error as NodeJS.ErrnoException;
  const noSpace = code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
  const options = noSpace
    ? { advice: "Free some space on its file system, or choose a smaller size.", cause: error }
    : { cause: error };
  return new BackingError(noSpace ? "NO_SPACE" : "BACKING_FAILED", `${what}: ${code}`, options);
}
