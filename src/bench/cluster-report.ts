// The cluster's benchmark as Markdown: medians, every bar as the median over the pairs.

import { type ResyncFigures, renderResync } from "./cluster-resync.ts";
import {
  type ClusterBar,
  type ClusterPair,
  type ClusterRow,
  type Figures,
  isMet,
  outcomeOf,
} from "./cluster-rows.ts";
import { type Machine, machineText } from "./machine.ts";
import { median } from "./pair-report.ts";

export interface ClusterRowResult {
  readonly row: ClusterRow;
  readonly pairs: readonly ClusterPair[];
}

export interface ClusterRun {
  readonly machine: Machine;
  readonly load: string;
  readonly rows: readonly ClusterRowResult[];
  readonly resync: ResyncFigures | null;
  readonly ringMib: number;
  readonly sliceMs: number;
}

const FIGURE_NAMES: Readonly<Record<ClusterBar["figure"], string>> = {
  rate: "rate",
  mean: "mean latency",
  cpu: "CPU per request (us)",
};

function barText(bar: ClusterBar, pairs: readonly ClusterPair[]): string {
  const outcome = median(pairs.map((pair) => outcomeOf(bar, pair)));
  const sign = bar.sense === "least" ? "≥" : "≤";
  const verdict = isMet(bar, outcome) ? "met" : "**missed**";
  const what =
    bar.kind === "difference" ? `${FIGURE_NAMES[bar.figure]} +` : FIGURE_NAMES[bar.figure];
  const digits = Math.abs(outcome) >= 100 ? 0 : 2;
  const limit = Number(bar.limit.toFixed(2));
  return `${what} ${outcome.toFixed(digits)} (${sign} ${limit}: ${verdict})`;
}

function columns(all: readonly (Figures | null)[]): string {
  const known = all.filter((one) => one !== null);
  if (known.length === 0) return "– | – | – | – | –";
  const of = (pick: (one: Figures) => number): number => median(known.map(pick));
  const rate = of((one) => one.perSecond);
  return [
    rate >= 1000 ? `${(rate / 1000).toFixed(1)} k` : rate.toFixed(0),
    of((one) => one.meanUs).toFixed(0),
    of((one) => one.p99Us).toFixed(0),
    of((one) => one.p999Us).toFixed(0),
    of((one) => one.cpuUs).toFixed(1),
  ].join(" | ");
}

export function renderCluster(run: ClusterRun): string {
  const bars = run.rows.flatMap(({ row, pairs }) =>
    row.bars.map((bar) => isMet(bar, median(pairs.map((pair) => outcomeOf(bar, pair))))),
  );
  const names = "mean | p99 | p99.9 | CPU";
  const lines = [
    "# A volume with two copies, three daemons on one machine",
    "",
    `Measured by \`npm run bench:cluster\` on: ${machineText(run.machine)}`,
    "",
    run.load,
    "",
    "Three daemons with a disk file each on the same disk, links over loopback, one volume with",
    "two copies, driven through its vhost-user socket by `ringstore bench`. A write is durable on",
    "both copies when it is answered.",
    `Rings of ${run.ringMib} MiB, slices of ${run.sliceMs} ms, the two sides in turns.`,
    "Latencies and CPU in microseconds, medians over the pairs; CPU is that of all three",
    "daemons (or of the plain processes) per request, without the generator.",
    "",
    `Bars met: ${bars.filter((met) => met).length} of ${bars.length}.`,
    "",
    `| work | cluster /s | ${names} | against | /s | ${names} | bars |`,
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
  ];
  for (const { row, pairs } of run.rows) {
    const ours = columns(pairs.map((pair) => pair.ours));
    const theirs = columns(pairs.map((pair) => pair.theirs));
    const verdict = row.bars.map((bar) => barText(bar, pairs)).join("; ");
    lines.push(`| ${row.name} | ${ours} | ${row.against} | ${theirs} | ${verdict} |`);
  }
  if (run.resync !== null) lines.push("", ...renderResync(run.resync));
  return `${lines.join("\n")}\n`;
}
