// How long the data plane waits for what. One place, because the limits have to fit each other;
// tests shorten them.

import { assert } from "../base/index.ts";

export interface PlaneLimits {
  /** A killed daemon's I/O lands within milliseconds; a storage that hangs takes longer. */
  readonly lockMs: number;
  /** Commands that only change tables; a reactor that takes longer is stuck. */
  readonly commandMs: number;
  /** Recovery reads what the last stop left behind; a full ring on a slow disk takes seconds. */
  readonly openDiskMs: number;
  /** Waits for the device to finish what it has. */
  readonly detachMs: number;
  /** How long a stop lets local devices finish; what they still do then is fenced by the lock. */
  readonly stopMs: number;
  /** How much longer than that a thread may take to end. */
  readonly stopGraceMs: number;
  /** Log lines and changes of sessions are picked up this often. */
  readonly lookMs: number;
  /** A reactor is asked for a sign of life this often, and has as long to give it. */
  readonly pingMs: number;
  /** A local device that keeps a request this long is reported. */
  readonly stuckMs: number;
}

export const PLANE_LIMITS: PlaneLimits = {
  lockMs: 10_000,
  commandMs: 5000,
  openDiskMs: 600_000,
  detachMs: 10_000,
  stopMs: 5000,
  stopGraceMs: 1000,
  lookMs: 200,
  pingMs: 5000,
  stuckMs: 30_000,
};

/** With one CPU for us and the guest, time spent polling is taken from the guest's answer. */
export function pollWindowUs(wantedUs: number, cpuCount: number): number {
  return cpuCount > 1 ? wantedUs : 0;
}

assert(PLANE_LIMITS.stopMs > PLANE_LIMITS.stopGraceMs, "the grace is the smaller part");
assert(PLANE_LIMITS.stuckMs > PLANE_LIMITS.detachMs, "a detach in time is not a stuck device");
