// What a load run reports: plain data for programs (--json) and a few lines for people.

import { formatBytes } from "../base/index.ts";
import type { LatencyReport } from "./histogram.ts";
import type { IscsiLoadReport } from "./iscsi-run.ts";
import type { AccessPattern } from "./options.ts";

export interface KindReport {
  readonly count: number;
  readonly bytes: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly latency: LatencyReport;
}

export interface VerifyReport {
  /** Blocks compared with what they must hold. */
  readonly checkedBlocks: number;
  /** Blocks read that this run had not written, or had discarded. */
  readonly uncheckedBlocks: number;
  readonly failureCount: number;
}

export interface CanaryReport {
  readonly checkedBuffers: number;
  /** Read buffers that were written after their request had completed. */
  readonly lateWriteCount: number;
}

export interface LoadReport {
  readonly work: {
    readonly pattern: AccessPattern;
    readonly readPercent: number;
    readonly blockBytes: number;
    readonly blockBytesMax: number;
    readonly depth: number;
    readonly queueCount: number;
    readonly queueSize: number;
    readonly ring: "split" | "packed";
    readonly indirect: boolean;
    readonly eventIndex: boolean;
    readonly polling: boolean;
    readonly areaBytes: number;
    readonly seed: number;
  };
  readonly target: {
    readonly socketPath: string;
    /** 0 when unknown. */
    readonly pid: number;
    readonly capacityBytes: number;
    /** Feature words in hexadecimal. */
    readonly features: string;
    readonly protocolFeatures: string;
  };
  /** Measured time. */
  readonly durationMs: number;
  readonly requestCount: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** All requests, and each kind that occurred. */
  readonly latency: LatencyReport;
  readonly kinds: Readonly<Record<string, KindReport>>;
  /** CPU time per request in microseconds; null when the target's process is not known. */
  readonly targetCpuUsPerRequest: number | null;
  /** Share of one CPU, 0.5 = half of one. */
  readonly targetCpuShare: number | null;
  readonly ownCpuUsPerRequest: number;
  readonly ownCpuShare: number;
  /** System calls to kick the device, and wake-ups by its call eventfd. */
  readonly kickCount: number;
  readonly wakeCount: number;
  /** Completions seen together, on average. */
  readonly completionsPerBatch: number;
  readonly longestPauseMs: number;
  readonly reconnectCount: number;
  /** Time without completions around each loss of the back-end, in order (the first 16384). */
  readonly lossPausesMs: readonly number[];
  readonly errorCount: number;
  readonly wrongLengthCount: number;
  readonly verify: VerifyReport | null;
  readonly canary: CanaryReport | null;
  /** The first failures of every sort, as sentences. */
  readonly failures: readonly string[];
  /** No error, no verification failure, no late write. */
  readonly ok: boolean;
}

function count(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value.toFixed(0);
}

function latencyLine(name: string, latency: LatencyReport): string {
  const us = (value: number): string => value.toFixed(value < 100 ? 2 : 0);
  return (
    `  ${name.padEnd(12)} mean ${us(latency.meanUs)} us   p50 ${us(latency.p50Us)}   ` +
    `p90 ${us(latency.p90Us)}   p99 ${us(latency.p99Us)}   p99.9 ${us(latency.p999Us)}   ` +
    `max ${us(latency.maxUs)}`
  );
}

function rateLine(
  report: Pick<LoadReport, "iops" | "bytesPerSecond" | "requestCount" | "durationMs">,
): string {
  return (
    `  ${count(report.iops)} IOPS, ${formatBytes(Math.round(report.bytesPerSecond))}/s, ` +
    `${report.requestCount} requests in ${(report.durationMs / 1000).toFixed(2)} s`
  );
}

/** Of a run over iSCSI, for people, with a final newline. */
export function formatIscsiReport(url: string, report: IscsiLoadReport): string {
  const lines = [
    `target ${url}, ${formatBytes(report.capacityBytes)}`,
    "",
    rateLine(report),
    latencyLine("latency", report.latency),
    `  own CPU      ${report.ownCpuUsPerRequest.toFixed(3)} us per request`,
  ];
  if (report.errorCount > 0) lines.push(`  ${report.errorCount} requests failed`);
  for (const failure of report.failures) lines.push(`  ! ${failure}`);
  return `${lines.join("\n")}\n`;
}

/** The report for people, with a final newline. */
export function formatReport(report: LoadReport): string {
  const { work, target } = report;
  const lines: string[] = [];
  const flags = [work.ring, work.indirect ? "indirect" : "direct"];
  if (work.eventIndex) flags.push("event-idx");
  flags.push(work.polling ? "polling" : "event-driven");
  const size =
    work.blockBytes === work.blockBytesMax
      ? formatBytes(work.blockBytes)
      : `${formatBytes(work.blockBytes)} to ${formatBytes(work.blockBytesMax)}`;
  const process = target.pid === 0 ? "process unknown" : `pid ${target.pid}`;
  lines.push(
    `${work.pattern} ${size}, ${work.readPercent} % reads, depth ${work.depth}, ` +
      `${work.queueCount} queue${work.queueCount === 1 ? "" : "s"}, ${flags.join(", ")}`,
    `target ${target.socketPath} (${process}), ${formatBytes(target.capacityBytes)}`,
    "",
    rateLine(report),
    latencyLine("latency", report.latency),
  );
  const kinds = Object.entries(report.kinds);
  if (kinds.length > 1) {
    for (const [name, kind] of kinds) {
      lines.push(`${latencyLine(name, kind.latency)}   ${count(kind.iops)} IOPS`);
    }
  }
  const cpu = (us: number | null, share: number | null): string =>
    us === null || share === null
      ? "unknown"
      : `${us.toFixed(us < 10 ? 3 : 1)} us per request (${(share * 100).toFixed(0)} % of a CPU)`;
  lines.push(
    `  target CPU   ${cpu(report.targetCpuUsPerRequest, report.targetCpuShare)}`,
    `  own CPU      ${cpu(report.ownCpuUsPerRequest, report.ownCpuShare)}`,
    `  kicks ${report.kickCount}, wake-ups ${report.wakeCount}, ` +
      `${report.completionsPerBatch.toFixed(1)} completions per batch`,
  );
  if (report.reconnectCount > 0 || report.longestPauseMs >= 10) {
    lines.push(
      `  longest pause ${report.longestPauseMs.toFixed(1)} ms, ` +
        `${report.reconnectCount} reconnects`,
    );
  }
  if (report.verify !== null) {
    const { checkedBlocks, uncheckedBlocks, failureCount } = report.verify;
    lines.push(
      `  verified ${checkedBlocks} blocks (${uncheckedBlocks} unknown), ${failureCount} wrong`,
    );
  }
  if (report.canary !== null) {
    const { checkedBuffers, lateWriteCount } = report.canary;
    lines.push(`  canary: ${checkedBuffers} buffers checked, ${lateWriteCount} written late`);
  }
  if (report.errorCount > 0) lines.push(`  ${report.errorCount} requests failed`);
  for (const failure of report.failures) lines.push(`  ! ${failure}`);
  return `${lines.join("\n")}\n`;
}
