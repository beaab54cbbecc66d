// Runs a load over iSCSI from its options to its report, on the calling thread, which does nothing
// else meanwhile.

import { gettid, SystemMemory } from "../sys/index.ts";
import { LoadError } from "./errors.ts";
import type { LatencyReport } from "./histogram.ts";
import { IscsiLoad } from "./iscsi-load.ts";
import type { IscsiTarget } from "./iscsi-load-session.ts";
import { type LoadOptions, type ResolvedOptions, resolveOptions } from "./options.ts";
import { processCpuUs, threadCpuUs } from "./process-cpu.ts";
import { Workload } from "./workload.ts";

/** Of LoadOptions, what there is to choose over iSCSI. */
export interface IscsiLoadOptions
  extends Pick<
    LoadOptions,
    | "pattern"
    | "zipfTheta"
    | "readPercent"
    | "blockBytes"
    | "alignBytes"
    | "areaBytes"
    | "depth"
    | "runtimeMs"
    | "requestCount"
    | "warmupMs"
    | "seed"
    | "stallTimeoutMs"
  > {
  /** iscsi://HOST:PORT/TARGET/LUN, the host as an address. */
  readonly url: string;
  /** Keys to offer at login, instead of our own. */
  readonly offers?: Readonly<Record<string, string>>;
  /** Processes whose CPU time counts as the target's. */
  readonly pids?: readonly number[];
}

export interface IscsiLoadReport {
  readonly capacityBytes: number;
  readonly durationMs: number;
  readonly requestCount: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly latency: LatencyReport;
  /** null: no process was named. */
  readonly targetCpuUsPerRequest: number | null;
  readonly ownCpuUsPerRequest: number;
  readonly errorCount: number;
  readonly failures: readonly string[];
  readonly ok: boolean;
}

/** Of those that are addressed in one byte (SAM-5 4.7.7.2, peripheral device addressing). */
const LUN_MAX = 255;
const URL_FORM = /^iscsi:\/\/(?:\[([^\]]+)\]|([^:/]+)):(\d+)\/([^/]+)\/(\d{1,3})$/;

/** Throws LoadError OPTIONS. */
export function parseIscsiUrl(url: string): IscsiTarget {
  const found = URL_FORM.exec(url);
  if (found === null || Number(found[5]) > LUN_MAX) {
    throw new LoadError(
      "OPTIONS",
      `${url} is not iscsi://HOST:PORT/TARGET/LUN with a LUN up to 255.`,
    );
  }
  const [, ipv6, host = ipv6 ?? "", port, name, lun] = found;
  const targetName = decodeURIComponent(name as string);
  return { host, port: Number(port), targetName, lun: Number(lun) };
}

function areaOf(options: ResolvedOptions, load: IscsiLoad): number {
  const { areaBytes, blockBytes } = options;
  const bytes = Math.min(areaBytes === 0 ? load.capacityBytes : areaBytes, load.capacityBytes);
  if (blockBytes % load.blockBytes !== 0 || options.alignBytes % load.blockBytes !== 0) {
    const text = `Requests of ${blockBytes} bytes do not fit blocks of ${load.blockBytes} bytes.`;
    throw new LoadError("OPTIONS", text);
  }
  if (bytes >= blockBytes) return bytes;
  const text = `The unit has ${load.capacityBytes} bytes, a request ${blockBytes}.`;
  throw new LoadError("OPTIONS", text);
}

/** Blocks until the run is over. Throws LoadError. */
export function runIscsiLoadSync(given: IscsiLoadOptions): IscsiLoadReport {
  const { url, offers, pids = [], ...rest } = given;
  const target = parseIscsiUrl(url);
  const options = resolveOptions({ ...rest, socketPath: url });
  const { depth, blockBytes: bytesMax, stallTimeoutMs } = options;
  const load = new IscsiLoad(new SystemMemory(), { depth, bytesMax, stallTimeoutMs });
  const tid = gettid();
  try {
    load.open(target, offers);
    const workload = new Workload(options, areaOf(options, load));
    if (options.warmupMs > 0) load.run(workload, options.warmupMs, Number.POSITIVE_INFINITY);
    load.reset();
    const targetUs = (): number => pids.reduce((sum, pid) => sum + processCpuUs(pid), 0);
    const before = { atMs: performance.now(), targetUs: targetUs(), ownUs: threadCpuUs(tid) };
    const most = options.requestCount === 0 ? Number.POSITIVE_INFINITY : options.requestCount;
    load.run(workload, options.runtimeMs, most);
    const durationMs = performance.now() - before.atMs;
    const { requestCount, bytes, errorCount, failures } = load;
    const per = (us: number): number => (requestCount === 0 ? 0 : us / requestCount);
    return {
      capacityBytes: load.capacityBytes,
      durationMs,
      requestCount,
      iops: (requestCount * 1000) / durationMs,
      bytesPerSecond: (bytes * 1000) / durationMs,
      latency: load.histogram.report(),
      targetCpuUsPerRequest: pids.length === 0 ? null : per(targetUs() - before.targetUs),
      ownCpuUsPerRequest: per(threadCpuUs(tid) - before.ownUs),
      errorCount,
      failures: [...failures],
      ok: errorCount === 0,
    };
  } finally {
    load.end();
  }
}
