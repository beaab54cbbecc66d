// Makes a run's report of what the run saw: the two samples around the measured time, and what
// generator, verifier and canary have counted.

import { Histogram } from "./histogram.ts";
import type { ResolvedOptions } from "./options.ts";
import type { KindReport, LoadReport } from "./report.ts";
import type { LoadRig } from "./rig.ts";
import type { BlkSession } from "./session.ts";
import { KIND_COUNT, KIND_NAMES } from "./workload.ts";

/** Counters at one moment: the beginning or the end of the measured time. */
export interface Sample {
  readonly atUs: number;
  /** The target's process; 0 when unknown. */
  readonly pid: number;
  /** CPU time used so far; NaN when unknown. */
  readonly targetUs: number;
  readonly ownUs: number;
  readonly kickCount: number;
  readonly batchCount: number;
  readonly wakeCount: number;
}

export interface Observations {
  readonly options: ResolvedOptions;
  readonly rig: LoadRig;
  readonly session: BlkSession;
  readonly areaBytes: number;
  readonly before: Sample;
  readonly after: Sample;
  readonly reconnectCount: number;
}

function kindReports(rig: LoadRig, seconds: number): Record<string, KindReport> {
  const { generator } = rig;
  const kinds: Record<string, KindReport> = {};
  for (let kind = 0; kind < KIND_COUNT; kind++) {
    const count = generator.countByKind[kind];
    const bytes = generator.bytesByKind[kind];
    if (count === 0) continue;
    kinds[KIND_NAMES[kind] as string] = {
      count,
      bytes,
      iops: count / seconds,
      bytesPerSecond: bytes / seconds,
      latency: (generator.histograms[kind] as Histogram).report(),
    };
  }
  return kinds;
}

function workOf(observed: Observations): LoadReport["work"] {
  const { options } = observed;
  return {
    pattern: options.pattern,
    readPercent: options.readPercent,
    blockBytes: options.blockBytes,
    blockBytesMax: options.blockBytesMax,
    depth: options.depth,
    queueCount: options.queueCount,
    queueSize: options.queueSize,
    ring: options.packed ? "packed" : "split",
    indirect: options.indirect,
    eventIndex: options.eventIndex,
    polling: options.polling,
    areaBytes: observed.areaBytes,
    seed: options.seed,
  };
}

type Costs = Pick<
  LoadReport,
  | "targetCpuUsPerRequest"
  | "targetCpuShare"
  | "ownCpuUsPerRequest"
  | "ownCpuShare"
  | "kickCount"
  | "wakeCount"
  | "completionsPerBatch"
>;

function costsOf(observed: Observations, requestCount: number): Costs {
  const { before, after } = observed;
  const durationUs = after.atUs - before.atUs;
  const targetUs = after.targetUs - before.targetUs;
  const ownUs = after.ownUs - before.ownUs;
  const batchCount = after.batchCount - before.batchCount;
  // After a reconnect the process is another one.
  const isKnown = observed.reconnectCount === 0 && Number.isFinite(targetUs);
  return {
    targetCpuUsPerRequest: isKnown && requestCount > 0 ? targetUs / requestCount : null,
    targetCpuShare: isKnown ? targetUs / durationUs : null,
    ownCpuUsPerRequest: requestCount === 0 ? 0 : ownUs / requestCount,
    ownCpuShare: ownUs / durationUs,
    kickCount: after.kickCount - before.kickCount,
    wakeCount: after.wakeCount - before.wakeCount,
    completionsPerBatch: batchCount === 0 ? 0 : requestCount / batchCount,
  };
}

type Checks = Pick<
  LoadReport,
  "errorCount" | "wrongLengthCount" | "verify" | "canary" | "failures" | "ok"
>;

function checksOf(rig: LoadRig): Checks {
  const { generator, verifier, canary, queues } = rig;
  const verify =
    verifier === null
      ? null
      : {
          checkedBlocks: verifier.checkedCount,
          uncheckedBlocks: verifier.uncheckedCount,
          failureCount: verifier.failureCount,
        };
  const late =
    canary === null
      ? null
      : { checkedBuffers: canary.checkedCount, lateWriteCount: canary.lateWriteCount };
  const wrong = (verify?.failureCount ?? 0) + (late?.lateWriteCount ?? 0);
  return {
    errorCount: generator.errorCount,
    wrongLengthCount: queues.reduce((sum, queue) => sum + queue.wrongLengthCount, 0),
    verify,
    canary: late,
    failures: [...generator.failures, ...(verifier?.failures ?? []), ...(canary?.failures ?? [])],
    ok: generator.errorCount === 0 && wrong === 0,
  };
}

export function makeReport(observed: Observations): LoadReport {
  const { options, rig, session, before, after } = observed;
  const seconds = (after.atUs - before.atUs) / 1e6;
  const kinds = kindReports(rig, seconds);
  const all = new Histogram();
  for (const histogram of rig.generator.histograms) all.add(histogram);
  const bytes = Object.values(kinds).reduce((sum, kind) => sum + kind.bytes, 0);
  return {
    work: workOf(observed),
    target: {
      socketPath: options.socketPath,
      pid: after.pid,
      capacityBytes: session.config.capacityBytes,
      features: session.features.toString(16),
      protocolFeatures: session.frontEnd.protocolFeatures.toString(16),
    },
    durationMs: seconds * 1000,
    requestCount: all.count,
    iops: all.count / seconds,
    bytesPerSecond: bytes / seconds,
    latency: all.report(),
    kinds,
    ...costsOf(observed, all.count),
    longestPauseMs: rig.generator.pauses.longestUs / 1000,
    reconnectCount: observed.reconnectCount,
    lossPausesMs: rig.generator.pauses.lossesMs(),
    ...checksOf(rig),
  };
}
