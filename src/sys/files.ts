// Files, descriptors, memory files and locks. Every function returns `>= 0` or a negated errno;
// `check` (error.ts) turns that into an exception where the caller wants one.

import { EAGAIN, layout, PAGE_BYTES } from "../base/index.ts";
import type { Address } from "../ports/index.ts";
import {
  F_ADD_SEALS,
  F_DUPFD_CLOEXEC,
  F_GET_SEALS,
  F_GETFL,
  F_SETFL,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  LOCK_EX,
  LOCK_NB,
  LOCK_UN,
  MFD_ALLOW_SEALING,
  MFD_CLOEXEC,
  O_CLOEXEC,
  O_NONBLOCK,
  RWF_NOWAIT,
  S_IFBLK,
  S_IFMT,
  S_IFSOCK,
} from "./constants.ts";
import {
  cChmod,
  cChown,
  cClose,
  cFallocate,
  cFcntl,
  cFdatasync,
  cFlock,
  cFstatfs,
  cFsync,
  cFtruncate,
  cIoctl,
  cMemfdCreate,
  cOpen,
  cPipe2,
  cPread,
  cPreadv2,
  cPwrite,
  cPwritev2,
  cRead,
  cRename,
  cStatx,
  cUnlink,
  cWrite,
  ret,
} from "./libc.ts";
import { getU64, putU64, scratch } from "./scratch.ts";

/** open(2); O_CLOEXEC is always added. */
export function open(path: string, flags: number, mode = 0): number {
  return ret(cOpen(path, flags | O_CLOEXEC, mode));
}

export function close(fd: number): number {
  return ret(cClose(fd));
}

export function read(fd: number, address: Address, bytes: number): number {
  return ret(cRead(fd, address, bytes));
}

export function write(fd: number, address: Address, bytes: number): number {
  return ret(cWrite(fd, address, bytes));
}

export function pread(fd: number, address: Address, bytes: number, offsetBytes: number): number {
  return ret(cPread(fd, address, bytes, offsetBytes));
}

export function pwrite(fd: number, address: Address, bytes: number, offsetBytes: number): number {
  return ret(cPwrite(fd, address, bytes, offsetBytes));
}

/** `iovecs` is the address of `count` struct iovec. */
export function preadv2(
  fd: number,
  iovecs: Address,
  count: number,
  offsetBytes: number,
  flags: number,
): number {
  return ret(cPreadv2(fd, iovecs, count, offsetBytes, flags));
}

export function pwritev2(
  fd: number,
  iovecs: Address,
  count: number,
  offsetBytes: number,
  flags: number,
): number {
  return ret(cPwritev2(fd, iovecs, count, offsetBytes, flags));
}

/**
 * Reads and drops up to 4 KiB of what a pipe, socket or eventfd holds, without ever blocking and
 * whatever its flags. Bytes read or a negated errno.
 */
export function drainNoWait(fd: number): number {
  const words = scratch.u32;
  const target = scratch.address + 4096;
  putU64(words, 0, target);
  putU64(words, 8, 4096);
  return ret(cPreadv2(fd, scratch.address, 1, -1, RWF_NOWAIT));
}

/** Writes `bytes` to a pipe or socket without ever blocking, whatever its flags. */
export function writeNoWait(fd: number, address: Address, bytes: number): number {
  putU64(scratch.u32, 0, address);
  putU64(scratch.u32, 8, bytes);
  return ret(cPwritev2(fd, scratch.address, 1, -1, RWF_NOWAIT));
}

export function fsync(fd: number): number {
  return ret(cFsync(fd));
}

export function fdatasync(fd: number): number {
  return ret(cFdatasync(fd));
}

export function ftruncate(fd: number, bytes: number): number {
  return ret(cFtruncate(fd, bytes));
}

export function fallocate(fd: number, mode: number, offsetBytes: number, bytes: number): number {
  return ret(cFallocate(fd, mode, offsetBytes, bytes));
}

export function punchHole(fd: number, offsetBytes: number, bytes: number): number {
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offsetBytes, bytes);
}

export function dupCloexec(fd: number): number {
  return ret(cFcntl(fd, F_DUPFD_CLOEXEC, 3));
}

/** F_GETFL: access mode and status flags. */
export function statusFlags(fd: number): number {
  return ret(cFcntl(fd, F_GETFL, 0));
}

/** F_SETFL: adds status flags such as O_DIRECT to those the descriptor has. */
export function addStatusFlags(fd: number, flags: number): number {
  const present = statusFlags(fd);
  if (present < 0) return present;
  return ret(cFcntl(fd, F_SETFL, present | flags));
}

/** F_SETFL: takes status flags away. */
export function clearStatusFlags(fd: number, flags: number): number {
  const present = statusFlags(fd);
  if (present < 0) return present;
  return ret(cFcntl(fd, F_SETFL, present & ~flags));
}

export function setNonblocking(fd: number): number {
  return addStatusFlags(fd, O_NONBLOCK);
}

/** F_GET_SEALS, or -EINVAL when the file cannot be sealed at all. */
export function getSeals(fd: number): number {
  return ret(cFcntl(fd, F_GET_SEALS, 0));
}

export function addSeals(fd: number, seals: number): number {
  return ret(cFcntl(fd, F_ADD_SEALS, seals));
}

export function unlink(path: string): number {
  return ret(cUnlink(path));
}

export function rename(from: string, to: string): number {
  return ret(cRename(from, to));
}

export function chmod(path: string, mode: number): number {
  return ret(cChmod(path, mode));
}

/** -1 leaves the user or the group as it is. */
export function chown(path: string, userId: number, groupId: number): number {
  return ret(cChown(path, userId, groupId));
}

/** An anonymous memory file of `bytes`, sealable. Returns the fd or a negated errno. */
export function memfd(name: string, bytes: number): number {
  const fd = ret(cMemfdCreate(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (fd < 0) return fd;
  const result = ftruncate(fd, bytes);
  if (result < 0) {
    close(fd);
    return result;
  }
  return fd;
}

/** A pipe as [read end, write end], both close-on-exec; throws nothing, -errno in both on error. */
export function pipe(flags = 0): readonly [number, number] {
  const result = ret(cPipe2(scratch.address, flags | O_CLOEXEC));
  if (result < 0) return [result, result];
  return [scratch.u32[0] as number, scratch.u32[1] as number];
}

/**
 * Locks the open file description exclusively. Returns 0, or -EAGAIN when another holds it (also
 * while the kernel still carries I/O of a killed predecessor), or another negated errno.
 */
export function tryLockExclusive(fd: number): number {
  return ret(cFlock(fd, LOCK_EX | LOCK_NB));
}

/** Gives the lock up at once, also while something else still refers to the open description. */
export function unlock(fd: number): number {
  return ret(cFlock(fd, LOCK_UN));
}

export function isLockBusy(result: number): boolean {
  return result === -EAGAIN;
}

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const AT_STATX_DONT_SYNC = 0x4000;
const STATX_BASIC_STATS = 0x7ff;
const STATX_DIOALIGN = 0x2000;

const STATX = layout("statx", 256, {
  mask: [0, 4],
  blksize: [4, 4],
  attributes: [8, 8],
  nlink: [16, 4],
  uid: [20, 4],
  gid: [24, 4],
  mode: [28, 2],
  ino: [32, 8],
  size: [40, 8],
  blocks: [48, 8],
  rdevMajor: [128, 4],
  rdevMinor: [132, 4],
  devMajor: [136, 4],
  devMinor: [140, 4],
  dioMemAlign: [152, 4],
  dioOffsetAlign: [156, 4],
});

export interface FileStatus {
  /** File type bits (S_IFMT) and permissions. */
  readonly mode: number;
  readonly sizeBytes: number;
  /** Space really allocated. */
  readonly allocatedBytes: number;
  readonly ioBlockBytes: number;
  readonly inode: number;
  /** The device that holds the file, as `major:minor`. */
  readonly device: string;
  /** The device that it is, for block and character devices. */
  readonly specialDevice: string;
  /** O_DIRECT alignment of memory and offsets; 0 = not supported, -1 = the kernel did not say. */
  readonly directMemoryAlignBytes: number;
  readonly directOffsetAlignBytes: number;
}

const STATX_MASK = STATX_BASIC_STATS | STATX_DIOALIGN;

/** statx(2) on a descriptor. Returns the status or a negated errno. */
export function fstat(fd: number): FileStatus | number {
  const result = ret(cStatx(fd, "", AT_EMPTY_PATH, STATX_MASK, scratch.address));
  return result < 0 ? result : statusFromScratch();
}

/**
 * As fstat, from what the kernel has at hand: never waits for a file server. For descriptors that
 * somebody else chose.
 */
export function fstatNoWait(fd: number): FileStatus | number {
  const flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
  const result = ret(cStatx(fd, "", flags, STATX_MASK, scratch.address));
  return result < 0 ? result : statusFromScratch();
}

/** statx(2) on a path, following links. Returns the status or a negated errno. */
export function statPath(path: string): FileStatus | number {
  const result = ret(cStatx(AT_FDCWD, path, 0, STATX_MASK, scratch.address));
  return result < 0 ? result : statusFromScratch();
}

function statusFromScratch(): FileStatus {
  const words = scratch.u32;
  const known = ((words[0] as number) & STATX_DIOALIGN) !== 0;
  return {
    mode: scratch.u16[STATX.mode >>> 1] as number,
    sizeBytes: getU64(words, STATX.size),
    allocatedBytes: getU64(words, STATX.blocks) * 512,
    ioBlockBytes: words[STATX.blksize >>> 2] as number,
    inode: getU64(words, STATX.ino),
    device: `${words[STATX.devMajor >>> 2]}:${words[STATX.devMinor >>> 2]}`,
    specialDevice: `${words[STATX.rdevMajor >>> 2]}:${words[STATX.rdevMinor >>> 2]}`,
    directMemoryAlignBytes: known ? (words[STATX.dioMemAlign >>> 2] as number) : -1,
    directOffsetAlignBytes: known ? (words[STATX.dioOffsetAlign >>> 2] as number) : -1,
  };
}

/** Is there a socket at `path`? A symbolic link to one does not count. */
export function isSocket(path: string): boolean {
  const result = ret(
    cStatx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, scratch.address),
  );
  return result >= 0 && ((scratch.u16[STATX.mode >>> 1] as number) & S_IFMT) === S_IFSOCK;
}

export function isBlockDevice(status: FileStatus): boolean {
  return (status.mode & S_IFMT) === S_IFBLK;
}

/** f_type of the file system that holds `fd` (TMPFS_MAGIC ...), or a negated errno. */
export function fileSystemType(fd: number): number {
  const result = ret(cFstatfs(fd, scratch.address));
  return result < 0 ? result : (scratch.u32[0] as number);
}

/** f_bsize: on hugetlbfs the huge page size. */
export function fileSystemBlockBytes(fd: number): number {
  const result = ret(cFstatfs(fd, scratch.address));
  return result < 0 ? result : getU64(scratch.u32, 8);
}

const BLKGETSIZE64 = 0x80081272;
const BLKSSZGET = 0x1268;
const BLKPBSZGET = 0x127b;

export interface BlockDeviceSize {
  readonly sizeBytes: number;
  readonly logicalBlockBytes: number;
  readonly physicalBlockBytes: number;
}

/** Size and block sizes of a block device, or a negated errno. */
export function blockDeviceSize(fd: number): BlockDeviceSize | number {
  let result = ret(cIoctl(fd, BLKGETSIZE64, scratch.address));
  if (result < 0) return result;
  const sizeBytes = getU64(scratch.u32, 0);
  result = ret(cIoctl(fd, BLKSSZGET, scratch.address));
  if (result < 0) return result;
  const logicalBlockBytes = scratch.u32[0] as number;
  result = ret(cIoctl(fd, BLKPBSZGET, scratch.address));
  if (result < 0) return result;
  const physicalBlockBytes = scratch.u32[0] as number;
  return { sizeBytes, logicalBlockBytes, physicalBlockBytes };
}

export const SYSTEM_PAGE_BYTES: number = PAGE_BYTES;
