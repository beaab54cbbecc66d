// The classic path against tgt, as Markdown.

import type { ClassicRow } from "./classic-rows.ts";
import { type Machine, machineText } from "./machine.ts";
import { metText, PAIR_HEADS, type Pair, pairText } from "./pair-report.ts";

export interface ClassicResult {
  readonly row: ClassicRow;
  readonly pairs: readonly Pair[];
}

export interface ClassicRun {
  readonly machine: Machine;
  readonly load: string;
  readonly pairCount: number;
  readonly runtimeMs: number;
  /** tgtd in words. */
  readonly tgt: string;
  readonly results: readonly ClassicResult[];
}

export function renderClassic(run: ClassicRun): string {
  const { results, pairCount, runtimeMs } = run;
  return [
    "# The classic path against tgt",
    "",
    `Measured by \`npm run bench:classic\` on: ${machineText(run.machine)} ${run.tgt}.`,
    run.load,
    "",
    "One file behind both: a volume of a Ringstore node attached with `--classic`, and a logical",
    "unit of tgt, in turns, never at once. On tmpfs tgt uses its threads (`rdwr`; O_DIRECT is not",
    "to be had there), on the machine's disk O_DIRECT with Linux AIO (`aio`). Both say that they",
    "have a write cache, and make a write durable when they are asked to, which the generator does",
    "not do.",
    `Each row: ${pairCount} pairs of ${runtimeMs} ms, one session of the project's own initiator`,
    "(`load/`), event-driven, no digests, all data unsolicited that the target lets it send.",
    "Figures are medians; ratios are medians of the ratios pair by pair (Ringstore / tgt). Times",
    "and CPU per I/O in microseconds; CPU is the target process's.",
    "",
    metText(results.map(({ row, pairs }) => ({ pairs, bars: row.bars }))),
    "",
    `| work | Ringstore${PAIR_HEADS} tgt${PAIR_HEADS} ratio and bar |`,
    `|${" --- |".repeat(10)}`,
    ...results.map(({ row, pairs }) => pairText(row.name, row.work.blockBytes, pairs, row.bars)),
    "",
  ].join("\n");
}
