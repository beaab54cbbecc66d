// A disk driven with blocking calls: for tools in processes of their own, and for the few blocks
// that are read of a disk before it is opened. Holds the lock that every user of a disk takes.

import { alignDown, EINVAL, MIB, PAGE_BYTES } from "../base/index.ts";
import { type BlockIo, type DiskContent, inspectDisk } from "../chunk/index.ts";
import {
  addStatusFlags,
  blockDeviceSize,
  clearStatusFlags,
  close,
  type FileStatus,
  fdatasync,
  fstat,
  isBlockDevice,
  isLockBusy,
  O_CREAT,
  O_DIRECT,
  O_EXCL,
  O_RDWR,
  open,
  pread,
  pwrite,
  S_IFBLK,
  S_IFMT,
  S_IFREG,
  SystemMemory,
  statPath,
  tryLockExclusive,
} from "../sys/index.ts";
import { BackingError, explainOpen, failure } from "../uring/index.ts";

/** A killed predecessor's I/O takes milliseconds to land. */
const LOCK_PATIENCE_MS = 2000;
const LOCK_RETRY_MS = 20;

/** Blocking calls on an open descriptor. Results are bytes, 0, or a negated errno. */
export function blockIo(fd: number, capacityBytes: number): BlockIo {
  const whole = (
    call: (fd: number, address: number, bytes: number, offsetBytes: number) => number,
    offsetBytes: number,
    address: number,
    bytes: number,
  ): number => {
    let done = 0;
    while (done < bytes) {
      const result = call(fd, address + done, bytes - done, offsetBytes + done);
      if (result < 0) return result;
      if (result === 0) break;
      done += result;
    }
    return done;
  };
  return {
    capacityBytes: alignDown(capacityBytes, PAGE_BYTES),
    read: (offsetBytes, address, bytes) => whole(pread, offsetBytes, address, bytes),
    write: (offsetBytes, address, bytes) => whole(pwrite, offsetBytes, address, bytes),
    sync: () => fdatasync(fd),
  };
}

/** No store is smaller; what is, is not asked for superblocks that would lie beyond its end. */
const STORE_BYTES_MIN = MIB;

/** What is on it? Throws StoreError for a store that is damaged or too new. */
export function contentOf(fd: number, sizeBytes: number): DiskContent {
  const memory = new SystemMemory();
  const io = blockIo(fd, sizeBytes);
  if (sizeBytes >= STORE_BYTES_MIN) return inspectDisk(io, memory);
  const arena = memory.allocate(STORE_BYTES_MIN);
  const bytes = io.read(0, arena.address, io.capacityBytes);
  const isBlank = bytes === io.capacityBytes && memory.isZero(arena.address, Math.max(bytes, 1));
  memory.free(arena);
  return isBlank ? { kind: "blank" } : { kind: "foreign", what: "data of an unknown kind" };
}

export interface LockedDisk {
  readonly fd: number;
  readonly path: string;
  readonly isDevice: boolean;
  readonly sizeBytes: number;
}

/** Opens and locks; `create`: a new file, which must not exist. Throws BackingError. */
export function lockDisk(path: string, create: boolean): LockedDisk {
  const isDevice = !create && requireUsable(path);
  // On a block device O_EXCL claims it: it fails while the device is mounted or claimed.
  const extra = create ? O_CREAT | O_EXCL : isDevice ? O_EXCL : 0;
  const fd = open(path, O_RDWR | extra, 0o600);
  if (fd < 0) throw explainOpen(path, fd);
  try {
    waitForLock(fd, path);
    const status = fstat(fd);
    if (typeof status === "number") throw failure(path, "cannot be examined", status);
    useDirect(fd, status);
    return { fd, path, isDevice, sizeBytes: sizeOf(fd, status, path) };
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** True for a block device. */
function requireUsable(path: string): boolean {
  const status = statPath(path);
  if (typeof status === "number") throw explainOpen(path, status);
  const kind = status.mode & S_IFMT;
  if (kind === S_IFREG || kind === S_IFBLK) return kind === S_IFBLK;
  throw new BackingError("INVALID_REQUEST", `${path} is neither a file nor a block device`, {
    advice: "Give a block device such as /dev/nvme1n1, or a file.",
  });
}

function waitForLock(fd: number, path: string): void {
  const cell = new Int32Array(new SharedArrayBuffer(4));
  for (let waitedMs = 0; ; waitedMs += LOCK_RETRY_MS) {
    const result = tryLockExclusive(fd);
    if (result >= 0) return;
    if (!isLockBusy(result)) throw failure(path, "cannot be locked", result);
    if (waitedMs >= LOCK_PATIENCE_MS) {
      throw new BackingError("BACKING_IN_USE", `${path} is in use by another process`, {
        advice: "Find out who with fuser or lsof; two users would destroy each other's data.",
      });
    }
    Atomics.wait(cell, 0, 0, LOCK_RETRY_MS);
  }
}

function sizeOf(fd: number, status: FileStatus, path: string): number {
  if (!isBlockDevice(status)) return status.sizeBytes;
  const size = blockDeviceSize(fd);
  if (typeof size === "number") throw failure(path, "cannot be measured", size);
  return size.sizeBytes;
}

/** Past the page cache where that takes whole pages: a tool reads and writes everything once. */
function useDirect(fd: number, status: FileStatus): void {
  if (status.directOffsetAlignBytes === 0 || addStatusFlags(fd, O_DIRECT) < 0) return;
  const memory = new SystemMemory();
  const arena = memory.allocate(PAGE_BYTES);
  if (pread(fd, arena.address, PAGE_BYTES, 0) === -EINVAL) clearStatusFlags(fd, O_DIRECT);
  memory.free(arena);
}
