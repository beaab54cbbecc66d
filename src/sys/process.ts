// This process: its resource limits, and its end.

import { cExitNow, cPrlimit, ret } from "./libc.ts";
import { getU64, putU64, scratch } from "./scratch.ts";

export const RLIMIT_CORE = 4;
export const RLIMIT_NOFILE = 7;

export interface ResourceLimit {
  /** Infinity where there is none. */
  readonly soft: number;
  readonly hard: number;
}

const UNLIMITED_HIGH = 0xffffffff;

function limitAt(offset: number): number {
  const high = scratch.u32[(offset >>> 2) + 1] as number;
  return high === UNLIMITED_HIGH ? Infinity : getU64(scratch.u32, offset);
}

/** What the process may use of `resource` (RLIMIT_...), or a negated errno. */
export function resourceLimit(resource: number): ResourceLimit | number {
  const result = ret(cPrlimit(0, resource, 0, scratch.address));
  return result < 0 ? result : { soft: limitAt(0), hard: limitAt(8) };
}

/** Sets both limits to numbers below 2^53. 0 or a negated errno. */
export function setResourceLimit(resource: number, soft: number, hard: number): number {
  putU64(scratch.u32, 0, soft);
  putU64(scratch.u32, 8, hard);
  return ret(cPrlimit(0, resource, scratch.address, 0));
}

/**
 * Ends the process at once with `code`: no handlers run, and no thread is waited for, which
 * process.exit() would do even for one that is stuck in a system call.
 */
export function exitNow(code: number): never {
  cExitNow(code);
  throw new Error("_exit returned");
}
