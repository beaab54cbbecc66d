// Files that a front-end offers as memory: what can be believed of them before they are touched.
//
// Invariants:
//  - nothing here waits for whoever stands behind a file: a front-end may hand us a file of a file
//    system that it serves itself, and let us wait for ever. Memory files (memfd, tmpfs, hugetlbfs)
//    have nobody behind them; of other files, those of network and user-space file systems are
//    refused;
//  - a file that was sealed here can be touched by plain loads and stores for as long as it is
//    mapped. Files in huge pages cannot: a hole punched into one can make a later touch fail, and
//    no seal forbids that.
// Specification: fcntl(2) on seals, proc(5) on fdinfo and mountinfo.

import { readFileSync } from "node:fs";
import {
  addSeals,
  F_SEAL_SHRINK,
  fileSystemType,
  fstatNoWait,
  getSeals,
  HUGETLBFS_MAGIC,
  S_IFMT,
  S_IFREG,
} from "../sys/index.ts";

/** File systems whose pages are here or on a device of this machine. */
const LOCAL_FILE_SYSTEMS: ReadonlySet<string> = new Set([
  "bcachefs",
  "btrfs",
  "ext2",
  "ext3",
  "ext4",
  "f2fs",
  "hugetlbfs",
  "overlay",
  "ramfs",
  "rootfs",
  "tmpfs",
  "xfs",
  "zfs",
]);

/** Why `fd` cannot be shared memory, or null. */
export function memoryFileProblem(fd: number): string | null {
  // Only files that live in memory have seals, be there none set. The question waits for nobody.
  if (getSeals(fd) < 0 && !LOCAL_FILE_SYSTEMS.has(fileSystemName(fd))) {
    return "that is no memory file";
  }
  const status = fstatNoWait(fd);
  if (typeof status === "number") return "that cannot be examined";
  return (status.mode & S_IFMT) === S_IFREG ? null : "that is no memory file";
}

/** Name of the file system that holds `fd`, found without a question to it; "" if unknown. */
function fileSystemName(fd: number): string {
  try {
    const info = readFileSync(`/proc/self/fdinfo/${fd}`, "latin1");
    const mountId = /^mnt_id:\s*(\d+)$/m.exec(info)?.[1] ?? "none";
    const mounts = readFileSync("/proc/self/mountinfo", "latin1");
    const mount = mounts.split("\n").find((line) => line.startsWith(`${mountId} `)) ?? "";
    return / - (\S+) /.exec(mount)?.[1] ?? "";
  } catch {
    return "";
  }
}

/** Only for files that memoryFileProblem() has passed. */
export function isHugePageFile(fd: number): boolean {
  return fileSystemType(fd) === HUGETLBFS_MAGIC;
}

/** Seals the file; true when it can no longer shrink. */
export function sealAgainstShrinking(fd: number): boolean {
  addSeals(fd, F_SEAL_SHRINK);
  const seals = getSeals(fd);
  return seals >= 0 && (seals & F_SEAL_SHRINK) !== 0;
}

/**
 * Why plain loads and stores to a mapping of `fd` could raise SIGBUS, or null. Seals the file.
 * With `trusted` the front-end's word is enough, except for huge pages.
 */
export function plainAccessProblem(fd: number, trusted: boolean): string | null {
  const problem = memoryFileProblem(fd);
  if (problem !== null) return problem;
  if (isHugePageFile(fd)) return "in huge pages";
  if (trusted || sealAgainstShrinking(fd)) return null;
  return "that can be truncated (not a sealable memfd; see --trust-memory)";
}
