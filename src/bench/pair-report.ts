// Two back-ends that took turns, as a row of a table: medians of every figure, the median of the
// ratios taken pair by pair, and whether each bar is met. Whatever protocol they were driven over.

import type { LatencyReport } from "../load/index.ts";

/** What of a load run's report is compared. */
export interface RunReport {
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly latency: LatencyReport;
  readonly targetCpuUsPerRequest: number | null;
}

/** Ours against theirs. */
export interface PairBar {
  readonly metric: "iops" | "bandwidth" | "meanLatency" | "p99Latency" | "cpu";
  /** "least": the ratio must not be below `ratio`; "most": not above it. */
  readonly kind: "least" | "most";
  readonly ratio: number;
}

export interface Pair {
  readonly ours: RunReport;
  readonly theirs: RunReport;
}

/** Requests above it are counted in bytes. */
const LARGE_BYTES = 65536;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >>> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

const METRICS: Readonly<Record<PairBar["metric"], (report: RunReport) => number>> = {
  iops: (report) => report.iops,
  bandwidth: (report) => report.bytesPerSecond,
  meanLatency: (report) => report.latency.meanUs,
  p99Latency: (report) => report.latency.p99Us,
  cpu: (report) => report.targetCpuUsPerRequest ?? Number.NaN,
};

const METRIC_NAMES: Readonly<Record<PairBar["metric"], string>> = {
  iops: "IOPS",
  bandwidth: "bandwidth",
  meanLatency: "mean latency",
  p99Latency: "p99 latency",
  cpu: "CPU per I/O",
};

export function ratioOf(pairs: readonly Pair[], metric: PairBar["metric"]): number {
  const value = METRICS[metric];
  return median(pairs.map(({ ours, theirs }) => value(ours) / value(theirs)));
}

export function barMet(pairs: readonly Pair[], bar: PairBar): boolean {
  const ratio = ratioOf(pairs, bar.metric);
  return bar.kind === "least" ? ratio >= bar.ratio : ratio <= bar.ratio;
}

export function isLarge(blockBytes: number): boolean {
  return blockBytes > LARGE_BYTES;
}

export function figure(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(0)} k`;
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}

export function rate(report: readonly RunReport[], large: boolean): string {
  if (large) return `${(median(report.map(METRICS.bandwidth)) / 1e9).toFixed(2)} GB/s`;
  return figure(median(report.map(METRICS.iops)));
}

function cells(reports: readonly RunReport[], large: boolean): string {
  const mid = (value: (report: RunReport) => number): string => figure(median(reports.map(value)));
  return [
    rate(reports, large),
    mid(METRICS.meanLatency),
    mid(METRICS.p99Latency),
    mid(METRICS.cpu),
  ].join(" | ");
}

function barText(pairs: readonly Pair[], bar: PairBar): string {
  const sign = bar.kind === "least" ? "≥" : "≤";
  const ratio = ratioOf(pairs, bar.metric).toFixed(2);
  const verdict = barMet(pairs, bar) ? "met" : "**missed**";
  return `${METRIC_NAMES[bar.metric]} ${ratio} (${sign} ${bar.ratio}: ${verdict})`;
}

export const PAIR_HEADS = " rate | mean | p99 | CPU |";

/** `blockBytes`: of the row's requests. */
export function pairText(
  name: string,
  blockBytes: number,
  pairs: readonly Pair[],
  bars: readonly PairBar[],
): string {
  const large = isLarge(blockBytes);
  const ours = cells(
    pairs.map((pair) => pair.ours),
    large,
  );
  const theirs = cells(
    pairs.map((pair) => pair.theirs),
    large,
  );
  return `| ${name} | ${ours} | ${theirs} | ${bars.map((bar) => barText(pairs, bar)).join("; ")} |`;
}

/** "Bars met: 3 of 4." */
export function metText(
  rows: readonly { readonly pairs: readonly Pair[]; readonly bars: readonly PairBar[] }[],
): string {
  const all = rows.flatMap(({ pairs, bars }) => bars.map((bar) => barMet(pairs, bar)));
  return `Bars met: ${all.filter((isMet) => isMet).length} of ${all.length}.`;
}
