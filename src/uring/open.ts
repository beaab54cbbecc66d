// Opening what stands behind a volume: a file or a block device, locked, checked and measured.
//
//   new BackingOpening --attempt(): false, again later--+--> true --finish()--> OpenedBacking
//                                                       '--> give up: abandon(), busyError()
//
// No step waits: attempt() only tries, and whoever calls it waits by timer in between. Nothing
// here belongs to a thread; a control thread opens, and hands the descriptor's number to the
// reactor that will do the I/O (descriptors belong to the process).
//
// Invariants:
//  - the lock is on the very open file description that carries the I/O: the kernel keeps a killed
//    predecessor's description, and so its lock, until the last of its I/O has landed, so whoever
//    holds the lock cannot be overwritten by it;
//  - the file is measured after it is locked: until then its last owner may still resize it;
//  - only regular files and block devices are opened at all: opening some devices has effects.

import { dirname } from "node:path";
import { assert, EBUSY, EFBIG, EINVAL } from "../base/index.ts";
import {
  close,
  type FileStatus,
  fstat,
  fsync,
  ftruncate,
  isLockBusy,
  O_CREAT,
  O_EXCL,
  O_RDONLY,
  O_RDWR,
  open,
  S_IFBLK,
  S_IFMT,
  S_IFREG,
  statPath,
  tryLockExclusive,
  unlink,
  unlock,
} from "../sys/index.ts";
import { BackingError, explainOpen, failure } from "./backing-error.ts";
import { type BackingShape, measureBacking } from "./measure.ts";

export interface OpenBackingOptions {
  readonly path: string;
  /** "auto": O_DIRECT where the file system and the block size allow it. */
  readonly direct: "auto" | "on" | "off";
  readonly readOnly: boolean;
  /** Make a new file of exactly `sizeBytes`, thin. It must not exist. */
  readonly create: boolean;
  /** What the volume needs; an existing backing may be larger. Multiple of blockBytes. */
  readonly sizeBytes: number;
  /** The volume's logical block: what its guests read and write at least. */
  readonly blockBytes: number;
}

export interface OpenedBacking extends BackingShape {
  readonly fd: number;
  readonly path: string;
}

const CREATE_MODE = 0o600;

export class BackingOpening {
  private readonly options: OpenBackingOptions;
  private fd = -1;
  private created = false;
  private locked = false;

  constructor(options: OpenBackingOptions) {
    assert(options.sizeBytes > 0, "a volume without a size");
    assert(options.sizeBytes % options.blockBytes === 0, "a size that is not whole blocks");
    assert(!(options.create && options.readOnly), "a new file is not read-only");
    this.options = options;
  }

  /**
   * Opens and locks as far as that goes now. False: somebody else has it, try again (a killed
   * daemon's I/O takes milliseconds to land). Throws BackingError when trying again is no use.
   */
  attempt(): boolean {
    assert(!this.locked, "locked already");
    if (this.fd < 0) this.fd = this.options.create ? this.createFile() : this.openExisting();
    if (this.fd < 0) return false;
    const result = tryLockExclusive(this.fd);
    if (isLockBusy(result)) return false;
    if (result < 0) throw this.failed("cannot be locked", result);
    if (!this.isStillThere()) {
      // The file we waited for was removed, and perhaps another put in its place.
      this.letGo();
      return false;
    }
    this.locked = true;
    return true;
  }

  /** After attempt() was true: checks, and for a new file sets the size. Throws BackingError. */
  finish(): OpenedBacking {
    assert(this.locked, "finish() before the lock");
    try {
      if (this.created) this.giveSize();
      const { path } = this.options;
      const shape = measureBacking(this.fd, this.options);
      return { ...shape, fd: this.fd, path };
    } catch (error) {
      this.abandon();
      throw error;
    }
  }

  /** Gives up: nothing stays open, and a file made for this does not stay either. */
  abandon(): void {
    if (this.created) unlink(this.options.path);
    this.letGo();
  }

  /** What to say after attempt() was false for too long. */
  busyError(): BackingError {
    return new BackingError(
      "BACKING_IN_USE",
      `${this.options.path} is in use by another process, or mounted`,
      { advice: "Find out who with fuser or lsof; two users would destroy each other's data." },
    );
  }

  private letGo(): void {
    if (this.fd >= 0) close(this.fd);
    this.fd = -1;
    this.locked = false;
    this.created = false;
  }

  private createFile(): number {
    const { path } = this.options;
    const fd = open(path, O_RDWR | O_CREAT | O_EXCL, CREATE_MODE);
    if (fd < 0) throw explainOpen(path, fd);
    this.created = true;
    return fd;
  }

  /** -1 when a block device is in use. */
  private openExisting(): number {
    const { path, readOnly } = this.options;
    const status = statPath(path);
    if (typeof status === "number") throw explainOpen(path, status);
    const kind = status.mode & S_IFMT;
    if (kind !== S_IFREG && kind !== S_IFBLK) {
      throw new BackingError(
        "INVALID_REQUEST",
        `${path} is neither a regular file nor a block device`,
        { advice: "Give a file, or a block device such as /dev/vg0/db1." },
      );
    }
    // On a block device O_EXCL claims it: it fails while the device is mounted or claimed.
    const exclusive = kind === S_IFBLK ? O_EXCL : 0;
    const fd = open(path, (readOnly ? O_RDONLY : O_RDWR) | exclusive);
    if (fd === -EBUSY) return -1;
    if (fd < 0) throw explainOpen(path, fd);
    return fd;
  }

  private isStillThere(): boolean {
    const mine = fstat(this.fd);
    const named = statPath(this.options.path);
    if (typeof mine === "number") throw this.failed("cannot be examined", mine);
    return typeof named === "object" && isSameFile(mine, named);
  }

  private giveSize(): void {
    const { path, sizeBytes } = this.options;
    const result = ftruncate(this.fd, sizeBytes);
    if (result < 0) {
      if (result === -EFBIG || result === -EINVAL) {
        throw new BackingError("UNSUPPORTED", `no file of ${sizeBytes} bytes fits at ${path}`, {
          advice: "Its file system limits the size of a file: choose a smaller volume, or another.",
        });
      }
      throw this.failed(`cannot be made ${sizeBytes} bytes large`, result);
    }
    // A volume that was reported as made exists after a power cut, with its name.
    let synced = fsync(this.fd);
    if (synced >= 0) synced = syncDirectory(dirname(path));
    if (synced < 0) throw this.failed("cannot be made durable", synced);
  }

  private failed(what: string, result: number): BackingError {
    return failure(this.options.path, what, result);
  }
}

/** Closes what finish() returned; the lock is free at once, also while a ring refers to it. */
export function closeBacking(opened: OpenedBacking): void {
  unlock(opened.fd);
  close(opened.fd);
}

function isSameFile(a: FileStatus, b: FileStatus): boolean {
  return a.inode === b.inode && a.device === b.device;
}

function syncDirectory(path: string): number {
  const fd = open(path, O_RDONLY);
  if (fd < 0) return fd;
  const result = fsync(fd);
  close(fd);
  return result;
}
