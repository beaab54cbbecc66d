// One daemon per data directory: an exclusive flock on DATA/lock, which the kernel drops when the
// holder is gone, however it went. The file names the holder for people.
//
// A successor started at once after a kill finds the lock still held while the kernel takes the
// predecessor apart, so a held lock is waited for; but not when its holder is alive and well.

import { readFileSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoName } from "../base/errno.ts";
import {
  check,
  close,
  ftruncate,
  isLockBusy,
  O_CREAT,
  O_RDWR,
  open,
  tryLockExclusive,
} from "../sys/index.ts";
import { StartError } from "./data-directory.ts";

const POLL_MS = 5;
/** A killed process may look alive until it is next scheduled. */
const LIVE_GRACE_MS = 500;
const DYING_PATIENCE_MS = 10_000;

export interface DataLock {
  release(): void;
}

export async function lockDataDirectory(lockPath: string, nowMs: () => number): Promise<DataLock> {
  const fd = open(lockPath, O_RDWR | O_CREAT, 0o600);
  if (fd < 0) {
    throw new StartError("cannot_start", `cannot open ${lockPath}: ${errnoName(fd)}`, {
      advice: "run the daemon as a user who may write the data directory",
    });
  }
  const startedMs = nowMs();
  for (;;) {
    const result = tryLockExclusive(fd);
    if (result >= 0) break;
    if (!isLockBusy(result)) {
      close(fd);
      throw new StartError("cannot_start", `cannot lock ${lockPath}: ${errnoName(result)}`, {
        advice: "keep the data directory on a local filesystem",
      });
    }
    const waitedMs = nowMs() - startedMs;
    const holder = holderOf(lockPath);
    if (waitedMs > DYING_PATIENCE_MS || (waitedMs > LIVE_GRACE_MS && !isDying(holder))) {
      close(fd);
      const message = `another ringstored (pid ${holder ?? "unknown"}) serves this data directory`;
      throw new StartError("cannot_start", message, {
        advice: "stop it first, or use another --data directory",
      });
    }
    await sleep(POLL_MS);
  }
  check(ftruncate(fd, 0), "ftruncate", lockPath);
  writeSync(fd, `${process.pid}\n`, 0);
  return { release: () => void close(fd) };
}

function holderOf(lockPath: string): number | null {
  const text = readFileSync(lockPath, "utf8").trim();
  return /^\d{1,9}$/.test(text) ? Number(text) : null;
}

/** PF_EXITING of the kernel's task flags (include/linux/sched.h). */
const PF_EXITING = 0x4;

/** True when the process is gone or on its way out: proc(5), /proc/PID/stat. */
function isDying(pid: number | null): boolean {
  if (pid === null) return false;
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return true;
  }
  // The command name, in parentheses, may hold anything; what follows it is regular.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" || (Number(fields[6]) & PF_EXITING) !== 0;
}
