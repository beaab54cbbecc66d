// Setting up an io_uring: asks for the best flags the kernel has, maps the rings, probes the
// opcodes, and says by name what is missing where io_uring cannot serve us.

import {
  alignUp,
  assert,
  EINVAL,
  ENOSYS,
  EPERM,
  errnoName,
  PAGE_BYTES,
  RingstoreError,
} from "../base/index.ts";
import type { Arena, Memory } from "../ports/index.ts";
import {
  arenaOver,
  check,
  close,
  MAP_POPULATE,
  MAP_SHARED,
  mmap,
  PROT_READ,
  PROT_WRITE,
  syscall6,
} from "../sys/index.ts";
import { lastErrno } from "../sys/libc.ts";
import {
  CQE,
  FEAT_EXT_ARG,
  FEAT_NODROP,
  FEAT_SINGLE_MMAP,
  OFF_SQ_RING,
  OFF_SQES,
  OP_ACCEPT,
  OP_ASYNC_CANCEL,
  OP_CONNECT,
  OP_FALLOCATE,
  OP_FSYNC,
  OP_NAMES,
  OP_POLL_ADD,
  OP_READ,
  OP_READV,
  OP_RECV,
  OP_SENDMSG,
  OP_WRITE,
  OP_WRITEV,
  PARAMS,
  REGISTER_FILES2,
  REGISTER_PROBE,
  RSRC_REGISTER_SPARSE,
  SETUP_COOP_TASKRUN,
  SETUP_CQSIZE,
  SETUP_DEFER_TASKRUN,
  SETUP_SINGLE_ISSUER,
  SETUP_SUBMIT_ALL,
  SETUP_TASKRUN_FLAG,
  SQE,
  SYS_IO_URING_REGISTER,
  SYS_IO_URING_SETUP,
} from "./layouts.ts";

const OLD_KERNEL = "Use Linux 5.19 or newer.";

/** io_uring is absent, forbidden or lacks something we need; the message names it. */
export class UringUnavailable extends RingstoreError<"IO_URING_UNAVAILABLE"> {
  override readonly name = "UringUnavailable";
}

/** Everything setup() found and mapped. Windows stay valid until the ring's descriptor closes. */
export interface RingMapping {
  readonly fd: number;
  readonly sqEntries: number;
  readonly cqEntries: number;
  /** SQ and CQ share one mapping (FEAT_SINGLE_MMAP). */
  readonly rings: Arena;
  readonly sqes: Arena;
  /** u32 index of each ring field in `rings.u32`. */
  readonly sqTail: number;
  readonly sqFlags: number;
  readonly cqHead: number;
  readonly cqTail: number;
  readonly cqes: number;
  /** Completions are run only inside io_uring_enter(GETEVENTS) by this thread. */
  readonly deferred: boolean;
  /** Size of the sparse table of registered files, 0 when the kernel has none. */
  readonly fixedFiles: number;
}

const REQUIRED_OPS = [
  OP_READV,
  OP_WRITEV,
  OP_FSYNC,
  OP_POLL_ADD,
  OP_ASYNC_CANCEL,
  OP_FALLOCATE,
  OP_READ,
  OP_WRITE,
  OP_SENDMSG,
  OP_ACCEPT,
  OP_CONNECT,
  OP_RECV,
];

const REQUIRED_FEATURES = [
  [FEAT_SINGLE_MMAP, "SINGLE_MMAP"],
  [FEAT_NODROP, "NODROP"],
  [FEAT_EXT_ARG, "EXT_ARG"],
] as const;

const BASE_FLAGS = SETUP_CQSIZE | SETUP_SUBMIT_ALL;

// Best first. Kernel 6.1 (Debian 12) has the first; the others are for older or odd kernels.
const FLAG_SETS = [
  BASE_FLAGS | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_TASKRUN_FLAG,
  BASE_FLAGS | SETUP_COOP_TASKRUN | SETUP_TASKRUN_FLAG,
  BASE_FLAGS,
];

/** What a failed set-up means, in words. Public for tests: kernels that refuse are rare. */
export function explainSetup(errno: number): UringUnavailable {
  if (errno === ENOSYS) {
    return new UringUnavailable("IO_URING_UNAVAILABLE", "this kernel offers no io_uring (ENOSYS)", {
      advice:
        "Use Linux 5.19 or newer with CONFIG_IO_URING; in a container, permit the io_uring " +
        "system calls in its seccomp profile.",
    });
  }
  if (errno === EPERM) {
    return new UringUnavailable("IO_URING_UNAVAILABLE", "io_uring is forbidden here (EPERM)", {
      advice:
        "Allow it: sysctl kernel.io_uring_disabled=0, or permit the io_uring system calls in the " +
        "container's seccomp profile.",
    });
  }
  if (errno === EINVAL) {
    return new UringUnavailable(
      "IO_URING_UNAVAILABLE",
      "this kernel's io_uring lacks IORING_SETUP_SUBMIT_ALL or takes no ring of this size (EINVAL)",
      { advice: OLD_KERNEL },
    );
  }
  return new UringUnavailable("IO_URING_UNAVAILABLE", `io_uring_setup: ${errnoName(errno)}`, {
    advice: "Check the limits on locked memory and descriptors (ulimit -l, ulimit -n).",
  });
}

function trySetup(params: Arena, entries: number, cqEntries: number): number {
  let errno = 0;
  for (const flags of FLAG_SETS) {
    params.u8.fill(0, 0, PARAMS.BYTES);
    params.u32[PARAMS.cqEntries >>> 2] = cqEntries;
    params.u32[PARAMS.flags >>> 2] = flags;
    const fd = syscall6(SYS_IO_URING_SETUP, entries, params.address, 0, 0, 0, 0);
    if (fd >= 0) return fd;
    errno = lastErrno();
    if (errno !== EINVAL) break;
  }
  throw explainSetup(errno);
}

function probeOps(fd: number, memory: Memory): void {
  const PROBE_OPS = 256;
  const probe = memory.allocate(16 + PROBE_OPS * 8);
  const result = syscall6(
    SYS_IO_URING_REGISTER,
    fd,
    REGISTER_PROBE,
    probe.address,
    PROBE_OPS,
    0,
    0,
  );
  if (result < 0) throw explainSetup(lastErrno());
  for (const op of REQUIRED_OPS) {
    const flags = probe.u16[(16 + op * 8 + 2) >>> 1] as number;
    if ((flags & 1) === 0) {
      const name = OP_NAMES.get(op) ?? String(op);
      throw new UringUnavailable(
        "IO_URING_UNAVAILABLE",
        `this kernel's io_uring lacks IORING_OP_${name}`,
        { advice: OLD_KERNEL },
      );
    }
  }
  memory.free(probe);
}

/** Reserves a table of registered files; returns its size, 0 where the kernel cannot. */
function registerSparseFiles(fd: number, memory: Memory, count: number): number {
  const arena = memory.allocate(4096);
  // struct io_uring_rsrc_register: nr 0, flags 4, resv2 8, data 16, tags 24.
  arena.u32[0] = count;
  arena.u32[1] = RSRC_REGISTER_SPARSE;
  const result = syscall6(SYS_IO_URING_REGISTER, fd, REGISTER_FILES2, arena.address, 32, 0, 0);
  memory.free(arena);
  return result < 0 ? 0 : count;
}

function checkFeatures(features: number): void {
  for (const [bit, name] of REQUIRED_FEATURES) {
    if ((features & bit) !== 0) continue;
    throw new UringUnavailable(
      "IO_URING_UNAVAILABLE",
      `this kernel's io_uring lacks IORING_FEAT_${name}`,
      { advice: OLD_KERNEL },
    );
  }
}

/** Creates and maps a ring of `entries` (power of two). Throws UringUnavailable. */
export function setupRing(
  memory: Memory,
  entries: number,
  cqEntries: number,
  fixedFiles: number,
): RingMapping {
  const params = memory.allocate(4096);
  const fd = trySetup(params, entries, cqEntries);
  try {
    checkFeatures(params.u32[PARAMS.features >>> 2] as number);
    probeOps(fd, memory);
    return mapRing(fd, memory, params.u32, fixedFiles);
  } catch (error) {
    close(fd);
    throw error;
  } finally {
    memory.free(params);
  }
}

function mapRing(fd: number, memory: Memory, words: Uint32Array, fixedFiles: number): RingMapping {
  const at = (offset: number): number => words[offset >>> 2] as number;
  const sqBytes = at(PARAMS.sqArray) + at(PARAMS.sqEntries) * 4;
  const cqBytes = at(PARAMS.cqCqes) + at(PARAMS.cqEntries) * CQE.BYTES;
  const ringBytes = alignUp(Math.max(sqBytes, cqBytes), PAGE_BYTES);
  const sqeBytes = alignUp(at(PARAMS.sqEntries) * SQE.BYTES, PAGE_BYTES);
  const protection = PROT_READ | PROT_WRITE;
  const flags = MAP_SHARED | MAP_POPULATE;
  const ringsAt = check(mmap(ringBytes, protection, flags, fd, OFF_SQ_RING), "mmap", "io_uring");
  const sqesAt = check(mmap(sqeBytes, protection, flags, fd, OFF_SQES), "mmap", "io_uring sqes");
  const rings = arenaOver(ringsAt, ringBytes);
  const sqEntries = at(PARAMS.sqEntries);
  // The indirection array is the identity for ever: entry i describes submission i.
  const arrayAt = at(PARAMS.sqArray) >>> 2;
  for (let index = 0; index < sqEntries; index++) rings.u32[arrayAt + index] = index;
  assert(rings.u32[at(PARAMS.sqRingMask) >>> 2] === sqEntries - 1, "unexpected SQ mask");
  return {
    fd,
    sqEntries,
    cqEntries: at(PARAMS.cqEntries),
    rings,
    sqes: arenaOver(sqesAt, sqeBytes),
    sqTail: at(PARAMS.sqTail) >>> 2,
    sqFlags: at(PARAMS.sqFlags) >>> 2,
    cqHead: at(PARAMS.cqHead) >>> 2,
    cqTail: at(PARAMS.cqTail) >>> 2,
    cqes: at(PARAMS.cqCqes) >>> 2,
    deferred: (at(PARAMS.flags) & SETUP_DEFER_TASKRUN) !== 0,
    fixedFiles: registerSparseFiles(fd, memory, fixedFiles),
  };
}
