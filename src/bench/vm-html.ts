// The comparison of paths as one HTML file that needs nothing else: a chart of every section's
// rates and latencies as bars, and the tables.

import { machineText } from "./machine.ts";
import { figure } from "./pair-report.ts";
import { rateText } from "./vm-report.ts";
import { VM_PATHS, type VmFigures, type VmPath } from "./vm-rows.ts";
import {
  describeRun,
  readsGainMost,
  sections,
  type VmRun,
  type VmSection,
  type VmSummary,
} from "./vm-summary.ts";

const NAMES: Readonly<Record<VmPath, string>> = {
  boost: "Boost",
  classic: "classic",
  qsd: "qemu-storage-daemon",
};

const STYLE = `
:root { color-scheme: light dark; --boost: #1a7f5a; --classic: #b26a00; --qsd: #5b6b7f; }
body { font: 15px/1.45 system-ui, sans-serif }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.charts { display: grid; gap: 1.5rem }
.charts { grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)) }
.chart h3 { font-size: .95rem; margin: .4rem 0 }
.group { margin: .5rem 0 } .group > b { font-weight: 500; font-size: .85rem }
.bar { display: flex; align-items: center; gap: .5rem; font-size: .8rem; height: 1.15rem }
.bar i { display: block; height: .7rem; border-radius: 0 2px 2px 0; min-width: 1px }
.bar span { white-space: nowrap; font-variant-numeric: tabular-nums }
.boost i, .key.boost { background: var(--boost) }
.classic i, .key.classic { background: var(--classic) }
.qsd i, .key.qsd { background: var(--qsd) }
.key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .5rem; border-bottom: 1px solid #8884 }
th, td { text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.missed { color: #c62828; font-weight: 600 }
`;

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

/** The length of each bar is its share of the row's largest: rows differ by powers of ten. */
function chart(
  title: string,
  summaries: readonly VmSummary[],
  value: (figures: VmFigures) => number,
  text: (figures: VmFigures, summary: VmSummary) => string,
): string {
  const groups = summaries.map((summary) => {
    const present = VM_PATHS.flatMap((path) => {
      const figures = summary.figures[path];
      return figures === undefined ? [] : [{ path, figures }];
    });
    const most = Math.max(...present.map(({ figures }) => value(figures)));
    const bars = present.map(({ path, figures }) => {
      const width = ((value(figures) / most) * 70).toFixed(1);
      const label = escapeHtml(text(figures, summary));
      return `<div class="bar ${path}"><i style="width:${width}%"></i><span>${label}</span></div>`;
    });
    return `<div class="group"><b>${escapeHtml(summary.result.row.name)}</b>${bars.join("")}</div>`;
  });
  return `<div class="chart"><h3>${escapeHtml(title)}</h3>${groups.join("\n")}</div>`;
}

function table(summaries: readonly VmSummary[]): string {
  const heads = ["rate", "mean", "p50", "p99", "p99.9", "storage CPU", "client CPU"];
  const names = VM_PATHS.map((path) => `<th colspan="${heads.length}">${NAMES[path]}</th>`);
  const cells = (figures: VmFigures | undefined, summary: VmSummary): string[] => {
    if (figures === undefined) return heads.map(() => "–");
    const { meanUs, p50Us, p99Us, p999Us, storageCpuUs, clientCpuUs } = figures;
    const times = [meanUs, p50Us, p99Us, p999Us, storageCpuUs, clientCpuUs];
    return [rateText(figures, summary), ...times.map(figure)];
  };
  const rows = summaries.map((summary) => {
    const { ratios, bar, isMet, result } = summary;
    const all = VM_PATHS.flatMap((path) => cells(summary.figures[path], summary));
    const mark = isMet ? "" : ' class="missed"';
    const ratio = `<td${mark}>${ratios.iops.toFixed(2)} (≥ ${bar})</td>`;
    const name = escapeHtml(result.row.name);
    return `<tr><td>${name}</td>${all.map((cell) => `<td>${cell}</td>`).join("")}${ratio}</tr>`;
  });
  const columns = VM_PATHS.flatMap(() => heads.map((head) => `<th>${head}</th>`));
  return (
    `<div class="wide"><table><thead><tr><th></th>${names.join("")}<th></th></tr>` +
    `<tr><th>work</th>${columns.join("")}<th>Boost / classic</th></tr></thead>` +
    `<tbody>${rows.join("\n")}</tbody></table></div>`
  );
}

function section({ title, summaries }: VmSection): string {
  const { reads, others, isTrue } = readsGainMost(summaries);
  const claim =
    `Rate, Boost / classic: reads ${reads.toFixed(2)}, other rows ${others.toFixed(2)}; ` +
    `reads ${isTrue ? "gain most" : "do not gain most"}.`;
  const charts = [
    chart("Rate (more is better)", summaries, (one) => one.bytesPerSecond, rateText),
    chart(
      "99th percentile of latency, us (less is better)",
      summaries,
      (one) => one.p99Us,
      (one) => figure(one.p99Us),
    ),
  ];
  return (
    `<h2>${escapeHtml(title)}</h2><p>${claim}</p>` +
    `<div class="charts">${charts.join("\n")}</div>${table(summaries)}`
  );
}

export function renderVmHtml(run: VmRun): string {
  const title = "Boost on and off: one VM, three nodes, two copies";
  const keys = VM_PATHS.map((path) => `<i class="key ${path}"></i>${NAMES[path]}`).join("");
  const intro = [
    `Measured by npm run bench:vm on: ${machineText(run.machine)}`,
    ...describeRun(run),
  ];
  return [
    '<!doctype html><html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    `<title>${title}</title><style>${STYLE}</style></head><body><h1>${title}</h1>`,
    ...intro.map((text) => `<p>${escapeHtml(text)}</p>`),
    `<p>${keys}</p>`,
    ...sections(run).map(section),
    "</body></html>\n",
  ].join("\n");
}
