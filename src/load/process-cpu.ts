// CPU time of a process or a thread as the kernel counts it, in microseconds. The scheduler's own
// account (schedstat, nanoseconds) is used where the kernel keeps one, because clock ticks of
// 10 ms are coarse beside a run of one second; utime and stime of stat otherwise.

import { readdirSync, readFileSync } from "node:fs";

/** USER_HZ: fixed at 100 on every architecture Linux has today. */
const TICK_US = 10000;

function schedstatUs(path: string): number {
  const [runNs] = readFileSync(path, "utf8").split(" ");
  return Number(runNs) / 1000;
}

function statUs(path: string): number {
  const text = readFileSync(path, "utf8");
  // The command name in parentheses may hold anything; fields are counted from behind it.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

/** CPU time of all living threads of `pid`; NaN when the process is gone or hidden. */
export function processCpuUs(pid: number): number {
  try {
    let totalUs = 0;
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      totalUs += schedstatUs(`/proc/${pid}/task/${task}/schedstat`);
    }
    return totalUs;
  } catch {
    return processCpuTicksUs(pid);
  }
}

/** The same from utime and stime, which also count threads that have ended. */
export function processCpuTicksUs(pid: number): number {
  try {
    return statUs(`/proc/${pid}/stat`);
  } catch {
    return Number.NaN;
  }
}

/** CPU time of one thread of this process. */
export function threadCpuUs(tid: number): number {
  try {
    return schedstatUs(`/proc/self/task/${tid}/schedstat`);
  } catch {
    try {
      return statUs(`/proc/self/task/${tid}/stat`);
    } catch {
      return Number.NaN;
    }
  }
}
