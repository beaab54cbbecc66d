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

/**
 * Is told of every request, fills what is written and looks at what was read; for runs whose
 * requests overlap, where a Verifier, which locks what is in flight, cannot be.
 */
export interface Recorder {
  /** The device has not seen the request yet. `flat` names it until it has ended. */
  begin(flat: number, kind: number, offsetBytes: number, data: Uint8Array): void;
  /** `endUs[0]`: when it was seen to have completed. */
  end(flat: number, status: number, endUs: Float64Array, data: Uint8Array): void;
}

export interface GeneratorModules {
  readonly clock: Clock;
  readonly queues: readonly BlkQueue[];
  readonly workload: Workload;
  readonly verifier: Verifier | null;
  readonly canary: Canary | null;
  readonly recorder: Recorder | null;
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

/** What is in flight, for the report of a stall. */
export function describeInflight(queues: readonly BlkQueue[]): string {
  const parts: string[] = [];
  for (const [index, queue] of queues.entries()) {
    if (queue.inflightCount === 0) continue;
    const slots: number[] = [];
    for (let slot = 0; slot < queue.slotCount && slots.length < 8; slot++) {
      if (queue.inflight[slot] === 1) slots.push(slot);
    }
    parts.push(`queue ${index}: ${queue.inflightCount} (slots ${slots.join(", ")} ...)`);
  }
  return parts.join("; ");
}
