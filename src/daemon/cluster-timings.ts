// How long a node waits for what, in its cluster. Tests hand in shorter times.

import type { DaemonConfig } from "../model/config.ts";

export interface ClusterTimings {
  /** Of the liveness key: a node that is gone is told missing after this. Whole seconds. */
  readonly leaseTtlMs: number;
  /** One question to the metadata, all its attempts together. */
  readonly metaTimeoutMs: number;
  /** Until it is known what became of a change whose answer was lost. */
  readonly settleMs: number;
  /** All copies of a new or growing volume must be made in this time. */
  readonly copiesMs: number;
  /** A delete waits so long for the copies to go; after that they go without it. */
  readonly deleteMs: number;
  /** Draining a front end of a volume that has moved. */
  readonly drainMs: number;
  /** A standby whose front end waits takes over when the volume's holder says nothing so long. */
  readonly takeOverMs: number;
  /** Whoever asks for a volume to be handed over waits so long for an answer. */
  readonly handOverMs: number;
  /** A volume that is "creating" for so long has lost its creator. Longer than copiesMs. */
  readonly abandonedMs: number;
  /** Everything is looked at again, without being told that anything changed. */
  readonly lookMs: number;
  /** Free space of a disk is told again at the earliest. */
  readonly freeReportMs: number;
  /** A copy on a disk or node that is gone for so long is made elsewhere; Infinity = never. */
  readonly repairAfterMs: number;
  readonly retryFirstMs: number;
  readonly retryMaxMs: number;
}

export const CLUSTER_TIMINGS: ClusterTimings = {
  leaseTtlMs: 3000,
  metaTimeoutMs: 5000,
  settleMs: 5000,
  copiesMs: 10_000,
  deleteMs: 5000,
  drainMs: 10_000,
  takeOverMs: 2000,
  handOverMs: 10_000,
  abandonedMs: 60_000,
  lookMs: 30_000,
  freeReportMs: 30_000,
  repairAfterMs: 30 * 60_000,
  retryFirstMs: 250,
  retryMaxMs: 8000,
};

export function clusterTimingsOf({ repairAfterSeconds }: DaemonConfig): ClusterTimings {
  const repairAfterMs =
    repairAfterSeconds === 0 ? Number.POSITIVE_INFINITY : repairAfterSeconds * 1000;
  return { ...CLUSTER_TIMINGS, repairAfterMs };
}
