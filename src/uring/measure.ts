// What an open backing is like: its kind and size, whether O_DIRECT is possible and with which
// alignment, what it can do beyond reading and writing. Sets O_DIRECT on the descriptor when that
// is the choice.
//
//   tmpfs     I/O is a memory copy: direct system calls (SyncDisk), O_DIRECT pointless
//   file      O_DIRECT if asked for or possible, otherwise through the page cache
//   block     the same, with the device's own block sizes
//
// Alignment comes from statx (STATX_DIOALIGN); kernels and file systems that say nothing are
// probed with a read of each size.

import { readFileSync } from "node:fs";
import { alignUp, formatBytes, isPowerOfTwo, MIB, PAGE_BYTES } from "../base/index.ts";
import {
  addStatusFlags,
  blockDeviceSize,
  check,
  clearStatusFlags,
  type FileStatus,
  fileSystemType,
  fstat,
  HUGETLBFS_MAGIC,
  isBlockDevice,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  munmap,
  O_DIRECT,
  PROT_READ,
  PROT_WRITE,
  pread,
  punchHole,
  RAMFS_MAGIC,
  TMPFS_MAGIC,
} from "../sys/index.ts";
import { BackingError, failure } from "./backing-error.ts";

export type BackingKind = "tmpfs" | "file" | "block";

/** Plain data: crosses threads with the descriptor's number. */
export interface BackingShape {
  readonly kind: BackingKind;
  /** Of the file or device; at least the volume's. */
  readonly sizeBytes: number;
  /** Past the page cache (O_DIRECT). */
  readonly direct: boolean;
  /** Alignment of memory, and of offsets and lengths; 1 when not direct. */
  readonly memoryAlignmentBytes: number;
  readonly offsetAlignmentBytes: number;
  /** What is written without reading first. Power of two, at least the volume's block. */
  readonly physicalBlockBytes: number;
  readonly discardGranularityBytes: number;
  /** Ranges can be given back. */
  readonly canDiscard: boolean;
}

export interface MeasureOptions {
  readonly path: string;
  readonly direct: "auto" | "on" | "off";
  readonly readOnly: boolean;
  readonly sizeBytes: number;
  readonly blockBytes: number;
}

export function measureBacking(fd: number, options: MeasureOptions): BackingShape {
  const status = fstat(fd);
  if (typeof status === "number") throw failure(options.path, "cannot be examined", status);
  const facts = isBlockDevice(status)
    ? measureBlockDevice(fd, options, status)
    : measureFile(fd, options, status);
  checkSize(facts.sizeBytes, options);
  const alignment = facts.kind === "tmpfs" ? NOT_DIRECT : chooseDirect(fd, options, status);
  return { ...facts, ...alignment };
}

function checkSize(sizeBytes: number, options: MeasureOptions): void {
  if (sizeBytes >= options.sizeBytes) return;
  const has = `${sizeBytes} bytes (${formatBytes(sizeBytes)})`;
  const message = `${options.path} has ${has}, fewer than the volume's ${options.sizeBytes}`;
  throw new BackingError("BACKING_TOO_SMALL", message, {
    advice: "It was cut short or is another file: put the right one back, or enlarge it.",
  });
}

type Alignment = Pick<BackingShape, "direct" | "memoryAlignmentBytes" | "offsetAlignmentBytes">;
type Facts = Omit<BackingShape, keyof Alignment>;

const NOT_DIRECT: Alignment = { direct: false, memoryAlignmentBytes: 1, offsetAlignmentBytes: 1 };

function measureFile(fd: number, options: MeasureOptions, status: FileStatus): Facts {
  const type = fileSystemType(fd);
  if (type < 0) throw failure(options.path, "has an unknown file system", type);
  if (type === HUGETLBFS_MAGIC) {
    throw new BackingError("UNSUPPORTED", `${options.path} lies on hugetlbfs, which only maps`, {
      advice: "Use a file on tmpfs or on a disk.",
    });
  }
  // File systems write whole pages; a smaller block of theirs gains nothing.
  const physicalBlockBytes = Math.max(PAGE_BYTES, options.blockBytes);
  return {
    kind: type === TMPFS_MAGIC || type === RAMFS_MAGIC ? "tmpfs" : "file",
    sizeBytes: status.sizeBytes,
    physicalBlockBytes,
    discardGranularityBytes: physicalBlockBytes,
    canDiscard: !options.readOnly && canPunchHoles(fd, status.sizeBytes),
  };
}

/** Asks for a hole behind the end of the file: nothing happens, but the answer is the truth. */
function canPunchHoles(fd: number, sizeBytes: number): boolean {
  return punchHole(fd, alignUp(sizeBytes, MIB), PAGE_BYTES) === 0;
}

function measureBlockDevice(fd: number, options: MeasureOptions, status: FileStatus): Facts {
  const size = blockDeviceSize(fd);
  if (typeof size === "number") throw failure(options.path, "cannot be measured", size);
  const physicalBlockBytes = Math.max(size.physicalBlockBytes, options.blockBytes);
  const granularity = queueLimit(status, "discard_granularity");
  return {
    kind: "block",
    sizeBytes: size.sizeBytes,
    physicalBlockBytes,
    discardGranularityBytes: alignUp(granularity, physicalBlockBytes) || physicalBlockBytes,
    // A punched hole reads as zeroes, so the kernel needs a device that zeroes by itself.
    canDiscard: !options.readOnly && queueLimit(status, "write_zeroes_max_bytes") > 0,
  };
}

/** A limit of the device's request queue, 0 when unknown. A partition has its disk's queue. */
function queueLimit(status: FileStatus, name: string): number {
  const base = `/sys/dev/block/${status.specialDevice}`;
  for (const path of [`${base}/queue/${name}`, `${base}/../queue/${name}`]) {
    try {
      const value = Number(readFileSync(path, "latin1"));
      if (Number.isSafeInteger(value)) return value;
    } catch {
      // Not there: the next, or nothing.
    }
  }
  return 0;
}

/** Decides on O_DIRECT and sets it. Throws where it was demanded and cannot be. */
function chooseDirect(fd: number, options: MeasureOptions, status: FileStatus): Alignment {
  if (options.direct === "off") return NOT_DIRECT;
  const refuse = (message: string, advice: string): Alignment => {
    if (options.direct === "auto") return NOT_DIRECT;
    throw new BackingError("UNSUPPORTED", `${options.path}: ${message}`, { advice });
  };
  const saysNo = status.directOffsetAlignBytes === 0;
  if (saysNo || addStatusFlags(fd, O_DIRECT) < 0) {
    return refuse("its file system has no direct I/O", "Leave direct I/O to auto, or turn it off.");
  }
  const alignment = directAlignment(fd, status);
  if (alignment.offsetAlignmentBytes <= options.blockBytes) return alignment;
  clearStatusFlags(fd, O_DIRECT);
  return refuse(
    `direct I/O needs blocks of ${alignment.offsetAlignmentBytes} bytes, ` +
      `the volume has ${options.blockBytes}`,
    "Make the volume with larger blocks, or leave direct I/O to auto.",
  );
}

function directAlignment(fd: number, status: FileStatus): Alignment {
  const memoryBytes = status.directMemoryAlignBytes;
  const offsetBytes = status.directOffsetAlignBytes;
  if (memoryBytes > 0 && isPowerOfTwo(memoryBytes) && isPowerOfTwo(offsetBytes)) {
    return { direct: true, memoryAlignmentBytes: memoryBytes, offsetAlignmentBytes: offsetBytes };
  }
  const probed = probeAlignment(fd);
  return { direct: true, memoryAlignmentBytes: probed, offsetAlignmentBytes: probed };
}

/** The smallest read that O_DIRECT takes. A page is right where nothing smaller is. */
function probeAlignment(fd: number): number {
  const roomBytes = 2 * PAGE_BYTES;
  const flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const address = check(mmap(roomBytes, PROT_READ | PROT_WRITE, flags, -1, 0), "mmap", "a probe");
  let bytes = 512;
  while (bytes < PAGE_BYTES && pread(fd, address + bytes, bytes, bytes) < 0) bytes *= 2;
  munmap(address, roomBytes);
  return bytes;
}
