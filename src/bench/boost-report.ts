// The Boost comparison as Markdown.

import type { LoadReport } from "../load/index.ts";
import type { Row } from "./boost-rows.ts";
import { type Machine, machineText } from "./machine.ts";
import { median, metText, PAIR_HEADS, type Pair, pairText, rate } from "./pair-report.ts";

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

function rowText({ row, pairs }: RowResult): string {
  return pairText(row.name, row.work.blockBytes ?? 4096, pairs, row.bars);
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
  const rows = results.map(({ row, pairs }) => ({ pairs, bars: row.bars }));
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
    metText(rows),
    "",
    `| work | Ringstore${PAIR_HEADS} qemu-storage-daemon${PAIR_HEADS} ratio and bar |`,
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
