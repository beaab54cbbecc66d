// The comparison of paths as Markdown.

import { machineText } from "./machine.ts";
import { figure, isLarge } from "./pair-report.ts";
import { VM_PATHS, type VmFigures } from "./vm-rows.ts";
import {
  describeRun,
  readsGainMost,
  sections,
  type VmRun,
  type VmSection,
  type VmSummary,
} from "./vm-summary.ts";

/** IOPS, or bandwidth where requests are large. */
export function rateText(figures: VmFigures, summary: VmSummary): string {
  if (!isLarge(summary.result.row.blockBytes)) return figure(figures.iops);
  return `${(figures.bytesPerSecond / 1e6).toFixed(0)} MB/s`;
}

const CELLS: readonly ((figures: VmFigures, summary: VmSummary) => string)[] = [
  rateText,
  ({ meanUs }) => figure(meanUs),
  ({ p99Us }) => figure(p99Us),
  ({ storageCpuUs }) => figure(storageCpuUs),
  ({ clientCpuUs }) => figure(clientCpuUs),
];
const HEADS = ["rate", "mean", "p99", "storage CPU", "client CPU"];

function rowText(summary: VmSummary): string {
  const cells = VM_PATHS.flatMap((path) => {
    const figures = summary.figures[path];
    return CELLS.map((cell) => (figures === undefined ? "–" : cell(figures, summary)));
  });
  const { ratios, bar, isMet, result } = summary;
  const verdict = `${ratios.iops.toFixed(2)} (≥ ${bar}: ${isMet ? "met" : "**missed**"})`;
  const others = [ratios.meanUs, ratios.p99Us, ratios.storageCpuUs, ratios.clientCpuUs];
  const texts = others.map((ratio) => ratio.toFixed(2));
  return `| ${[result.row.name, ...cells, verdict, ...texts].join(" | ")} |`;
}

function sectionText({ title, summaries }: VmSection): readonly string[] {
  const heads = VM_PATHS.flatMap((path) => HEADS.map((head) => `${path} ${head}`));
  const ratios = ["rate, Boost / classic", ...HEADS.slice(1).map((head) => `${head} ratio`)];
  const met = summaries.filter(({ isMet }) => isMet).length;
  const { reads, others, isTrue } = readsGainMost(summaries);
  return [
    `## ${title}`,
    "",
    `Bars met: ${met} of ${summaries.length}. Reads gain ${reads.toFixed(2)} times, other rows ` +
      `${others.toFixed(2)} times (medians of the rate's ratios): reads ` +
      `${isTrue ? "gain most" : "do **not** gain most"} here.`,
    "",
    `| work | ${[...heads, ...ratios].join(" | ")} |`,
    `|${" --- |".repeat(1 + heads.length + ratios.length)}`,
    ...summaries.map(rowText),
    "",
  ];
}

export function renderVm(run: VmRun): string {
  const all = sections(run);
  const summaries = all.flatMap((section) => section.summaries);
  const met = summaries.filter(({ isMet }) => isMet).length;
  return [
    "# Boost on and off: one VM, three nodes, two copies",
    "",
    `Measured by \`npm run bench:vm\` on: ${machineText(run.machine)}`,
    "",
    ...describeRun(run).flatMap((text) => [text, ""]),
    `Bars met: ${met} of ${summaries.length}. The same with charts: vm.html.`,
    "",
    ...all.flatMap(sectionText),
  ].join("\n");
}
