// The store's benchmark as Markdown: medians, the median of the ratios pair by pair, and every bar.

import type { Measured } from "../testing/store/real-rig.ts";
import { type Machine, machineText } from "./machine.ts";
import { median } from "./pair-report.ts";
import { type Bar, figureOf, isMet, type StoreRow } from "./store-rows.ts";

export interface StorePair {
  readonly raw: Measured;
  readonly store: Measured;
}

export interface StoreRowResult {
  readonly row: StoreRow;
  readonly pairs: readonly StorePair[];
}

/** One figure that is no row of pairs: memory, start-up. */
export interface StoreFact {
  readonly name: string;
  readonly text: string;
  readonly isMet: boolean;
}

export interface StoreRun {
  readonly machine: Machine;
  readonly load: string;
  readonly rows: readonly StoreRowResult[];
  readonly facts: readonly StoreFact[];
  readonly ringMib: number;
  readonly fileGib: number;
}

const NAMES: Readonly<Record<Bar["figure"], string>> = {
  rate: "rate",
  mean: "mean latency",
  cpu: "CPU per request (us)",
  amplification: "write amplification",
  stall: "p99.99 (us)",
};

const COLUMNS = "mean | p99 | p99.99 | CPU | WA";

/** What a bar came to, over all pairs. */
function outcomeOf(bar: Bar, pairs: readonly StorePair[]): number {
  return median(
    pairs.map(({ raw, store }) => {
      const own = figureOf(bar, store);
      return bar.kind === "value" ? own : own / figureOf(bar, raw);
    }),
  );
}

function barText(bar: Bar, pairs: readonly StorePair[]): string {
  const figure = outcomeOf(bar, pairs);
  const sign = bar.sense === "least" ? "≥" : "≤";
  const verdict = isMet(bar, figure) ? "met" : "**missed**";
  const digits = Math.abs(figure) >= 100 ? 0 : 2;
  return `${NAMES[bar.figure]} ${figure.toFixed(digits)} (${sign} ${bar.limit}: ${verdict})`;
}

function columns(all: readonly Measured[]): string {
  const of = (pick: (one: Measured) => number): number => median(all.map(pick));
  const rate = of((one) => one.perSecond);
  return [
    rate >= 1000 ? `${(rate / 1000).toFixed(1)} k` : rate.toFixed(0),
    of((one) => one.meanUs).toFixed(0),
    of((one) => one.p99Us).toFixed(0),
    of((one) => one.p9999Us).toFixed(0),
    of((one) => one.cpuUs).toFixed(1),
    of((one) => one.amplification).toFixed(2),
  ].join(" | ");
}

export function renderStore(run: StoreRun): string {
  const bars = run.rows.flatMap(({ row, pairs }) =>
    row.bars.map((bar) => isMet(bar, outcomeOf(bar, pairs))),
  );
  const verdicts = [...bars, ...run.facts.map((fact) => fact.isMet)];
  const metCount = verdicts.filter((met) => met).length;
  const lines = [
    "# The store against the same disk used raw",
    "",
    `Measured by \`npm run bench:store\` on: ${machineText(run.machine)}`,
    "",
    run.load,
    "",
    "Raw is a pre-written file with O_DIRECT, every write durable by itself (RWF_DSYNC), through",
    "the same reactor and generator. The store is a pre-written file beside it, with a ring of",
    `${run.ringMib} MiB and a volatile cache assumed; files of ${run.fileGib} GiB each. The two`,
    "take turns within one run. Figures are",
    "medians, latencies and CPU in microseconds; CPU is all of this process's, generator included;",
    "write amplification is what the kernel counts as written for this process, per byte asked",
    "for.",
    "",
    `Bars met: ${metCount} of ${verdicts.length}.`,
    "",
    `| work | raw /s | ${COLUMNS} | store /s | ${COLUMNS} | bars |`,
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
  ];
  for (const { row, pairs } of run.rows) {
    const raw = columns(pairs.map((pair) => pair.raw));
    const store = columns(pairs.map((pair) => pair.store));
    const verdict = row.bars.map((bar) => barText(bar, pairs)).join("; ");
    lines.push(`| ${row.name} | ${raw} | ${store} | ${verdict} |`);
  }
  lines.push("", "| what | figure | bar |", "| --- | --- | --- |");
  for (const { name, text, isMet: met } of run.facts) {
    lines.push(`| ${name} | ${text} | ${met ? "met" : "**missed**"} |`);
  }
  return `${lines.join("\n")}\n`;
}
