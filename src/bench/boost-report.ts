// The Boost comparison as Markdown: medians of every figure, the median of the ratios taken pair by
// pair, and whether each bar is met.

import type { LoadReport } from "../load/index.ts";
import type { Bar, Row } from "./boost-rows.ts";
import { type Machine, machineText } from "./machine.ts";

export interface Pair {
  readonly ours: LoadReport;
  readonly theirs: LoadReport;
}

export interface RowResult {
  readonly row: Row;
  readonly pairs: readonly Pair[];
}

/** What a report says of the run itself. */
export interface RunFacts {
  readonly machine: Machine;
  /** A sentence on how busy the machine was. */
  readonly load: string;
  readonly pairCount: number;
}

export interface QueueResult {
  readonly name: string;
  readonly four: readonly LoadReport[];
  readonly one: readonly LoadReport[];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >>> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

const METRICS: Readonly<Record<Bar["metric"], (report: LoadReport) => number>> = {
  iops: (report) => report.iops,
  bandwidth: (report) => report.bytesPerSecond,
  meanLatency: (report) => report.latency.meanUs,
  p99Latency: (report) => report.latency.p99Us,
  cpu: (report) => report.targetCpuUsPerRequest ?? Number.NaN,
};

const METRIC_NAMES: Readonly<Record<Bar["metric"], string>> = {
  iops: "IOPS",
  bandwidth: "bandwidth",
  meanLatency: "mean latency",
  p99Latency: "p99 latency",
  cpu: "CPU per I/O",
};

export function ratioOf(pairs: readonly Pair[], metric: Bar["metric"]): number {
  const value = METRICS[metric];
  return median(pairs.map(({ ours, theirs }) => value(ours) / value(theirs)));
}

export function barMet(pairs: readonly Pair[], bar: Bar): boolean {
  const ratio = ratioOf(pairs, bar.metric);
  return bar.kind === "least" ? ratio >= bar.ratio : ratio <= bar.ratio;
}

export function figure(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(0)} k`;
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}

function rate(report: readonly LoadReport[], large: boolean): string {
  if (large) return `${(median(report.map(METRICS.bandwidth)) / 1e9).toFixed(2)} GB/s`;
  return figure(median(report.map(METRICS.iops)));
}

function cells(reports: readonly LoadReport[], large: boolean): string {
  const mid = (value: (report: LoadReport) => number): string => figure(median(reports.map(value)));
  return [
    rate(reports, large),
    mid(METRICS.meanLatency),
    mid(METRICS.p99Latency),
    mid(METRICS.cpu),
  ].join(" | ");
}

function barText(pairs: readonly Pair[], bar: Bar): string {
  const sign = bar.kind === "least" ? "≥" : "≤";
  const ratio = ratioOf(pairs, bar.metric).toFixed(2);
  const verdict = barMet(pairs, bar) ? "met" : "**missed**";
  return `${METRIC_NAMES[bar.metric]} ${ratio} (${sign} ${bar.ratio}: ${verdict})`;
}

const HEADS = " rate | mean | p99 | CPU |";

function rowText({ row, pairs }: RowResult): string {
  const large = (row.work.blockBytes ?? 4096) > 65536;
  const ours = cells(
    pairs.map((pair) => pair.ours),
    large,
  );
  const theirs = cells(
    pairs.map((pair) => pair.theirs),
    large,
  );
  const bars = row.bars.map((bar) => barText(pairs, bar)).join("; ");
  return `| ${row.name} | ${ours} | ${theirs} | ${bars} |`;
}

function queueText({ name, four, one }: QueueResult): string {
  const ratio = median(four.map((report, index) => report.iops / (one[index] as LoadReport).iops));
  return `| ${name} | ${rate(four, false)} | ${rate(one, false)} | ${ratio.toFixed(2)} |`;
}

export function renderBoost(
  results: readonly RowResult[],
  queues: readonly QueueResult[],
  run: RunFacts & { readonly runtimeMs: number },
): string {
  const bars = results.flatMap(({ row, pairs }) => row.bars.map((bar) => barMet(pairs, bar)));
  const met = bars.filter((value) => value).length;
  const lines = [
    "# Boost against qemu-storage-daemon",
    "",
    `Measured by \`npm run bench:boost\` on: ${machineText(run.machine)}`,
    run.load,
    "",
    `Each row: ${run.pairCount} pairs of ${run.runtimeMs} ms, the two back-ends in turns, driven`,
    "by the project's load generator polling one split ring of 4 KiB requests unless the row says",
    "otherwise. Both run with one thread for I/O. Figures are medians; ratios are medians of the",
    "ratios pair by pair (Ringstore / qemu-storage-daemon). Latency and CPU per I/O are in",
    "microseconds; CPU is the back-end process's own, polling included. Absolute figures belong to",
    "this machine.",
    "",
    `Bars met: ${met} of ${bars.length}.`,
    "",
    `| work | Ringstore${HEADS} qemu-storage-daemon${HEADS} ratio and bar |`,
    `|${" --- |".repeat(10)}`,
    ...results.map(rowText),
    "",
  ];
  if (queues.length > 0) {
    lines.push(
      "Four queues against one, Ringstore alone, on the same CPUs:",
      "",
      "| work | 4 queues | 1 queue | ratio |",
      "| --- | --- | --- | --- |",
      ...queues.map(queueText),
      "",
    );
  }
  return lines.join("\n");
}
