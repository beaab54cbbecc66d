// What a Generator is made of and how its run() ends.

import type { Clock } from "../ports/index.ts";
import type { BlkQueue } from "./blk-queue.ts";
import type { Canary } from "./canary.ts";
import type { Verifier } from "./verify.ts";
import type { Workload } from "./workload.ts";

/** run() ended because: */
export const END_TIME = 0;
export const END_DONE = 1;
export const END_LOST = 2;
export const END_STALLED = 3;

/** Whose connection is watched while the loop runs. */
export interface Peer {
  readonly fd: number;
  hungUp(): boolean;
}

export interface GeneratorModules {
  readonly clock: Clock;
  readonly queues: readonly BlkQueue[];
  readonly workload: Workload;
  readonly verifier: Verifier | null;
  readonly canary: Canary | null;
  /** Signalled by the device; -1 when polling. */
  readonly callFd: number;
}

export interface GeneratorOptions {
  readonly slotCount: number;
  readonly polling: boolean;
  readonly stallTimeoutMs: number;
  /** After a loss, write again what was in flight: a late write then shows as an old generation. */
  readonly rewriteAfterLoss: boolean;
  /** Set the unmap flag in every second write-zeroes. */
  readonly unmapWriteZeroes: boolean;
}

/** A clock that stores the time in a cell. */
export type CellClock = Required<Clock>;

export function hasCells(clock: Clock): clock is CellClock {
  return clock.storeNowUs !== undefined;
}
