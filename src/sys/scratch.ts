// One page per thread for the arguments of system calls that take small structures. Calls are
// synchronous, so each use begins and ends within one function.

import { PAGE_BYTES } from "../base/index.ts";
import type { Arena } from "../ports/index.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "./constants.ts";
import { check } from "./error.ts";
import { arenaOver, mmap } from "./memory.ts";

const SCRATCH_BYTES = 16 * PAGE_BYTES;

/** 64 KiB of this thread's own memory. Contents do not survive the calling function. */
export const scratch: Arena = arenaOver(
  check(
    mmap(SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
    "mmap",
    "scratch memory",
  ),
  SCRATCH_BYTES,
);

/** Writes a non-negative safe integer as a little-endian u64 at `offset` (multiple of 4). */
export function putU64(words: Uint32Array, offset: number, value: number): void {
  words[offset >>> 2] = value >>> 0;
  words[(offset >>> 2) + 1] = Math.floor(value / 4294967296);
}

/** Reads a little-endian u64 at `offset`; exact only below 2^53. */
export function getU64(words: Uint32Array, offset: number): number {
  return (words[(offset >>> 2) + 1] as number) * 4294967296 + (words[offset >>> 2] as number);
}
