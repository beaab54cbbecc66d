// rebuild list, limit.

import { formatBytes } from "../../base/units.ts";
import type { Rebuild } from "../../model/cluster-types.ts";
import { checkRebuildRate } from "../../model/rebuild-schemas.ts";
import type { RebuildLimit } from "../../model/rebuild-types.ts";
import { parseSize } from "../../model/volume-rules.ts";
import type { CommandRun } from "../command-spec.ts";
import { formatDuration, formatPercent, formatRate } from "../format.ts";
import type { Column } from "../output.ts";

const COLUMNS: readonly Column[] = [
  { title: "VOLUME" },
  { title: "NODE" },
  { title: "DISK" },
  { title: "REASON" },
  { title: "STAGE" },
  { title: "DONE", right: true },
  { title: "OF", right: true },
  { title: "PROGRESS", right: true },
  { title: "RATE", right: true },
  { title: "LEFT", right: true },
];

function rowOf(rebuild: Rebuild): readonly string[] {
  const { doneBytes, totalBytes, isTotalKnown, bytesPerSecond, secondsLeft } = rebuild;
  return [
    rebuild.volume,
    rebuild.node,
    rebuild.disk,
    rebuild.reason ?? "-",
    rebuild.stage,
    formatBytes(doneBytes),
    isTotalKnown ? formatBytes(totalBytes) : `>= ${formatBytes(totalBytes)}`,
    isTotalKnown && totalBytes > 0 ? formatPercent(doneBytes, totalBytes) : "-",
    formatRate(bytesPerSecond),
    secondsLeft === null ? "-" : formatDuration(secondsLeft),
  ];
}

export const list: CommandRun = async (context) => {
  const reply = await context.client.listRebuilds();
  if (reply.rebuilds.length === 0 && context.global.form === "table") {
    context.note("this node's volumes bring no copy up to date");
  }
  return {
    data: reply,
    shown: { columns: COLUMNS, rows: reply.rebuilds.map(rowOf) },
    names: reply.rebuilds.map((rebuild) => rebuild.volume),
  };
};

function describe({ bytesPerSecond, currentBytesPerSecond }: RebuildLimit): string {
  if (bytesPerSecond !== null) return `rebuild limit: ${formatRate(bytesPerSecond)}\n`;
  return `rebuild limit: auto, now at most ${formatRate(currentBytesPerSecond)}\n`;
}

export const limit: CommandRun = async (context, { arguments: [text] }) => {
  if (text === undefined) {
    const reply = await context.client.rebuildLimit();
    return { data: reply, shown: describe(reply), names: [] };
  }
  let bytesPerSecond: number | null = null;
  if (text !== "auto") {
    bytesPerSecond = parseSize("the rate", text);
    checkRebuildRate(text, bytesPerSecond);
  }
  const reply = await context.client.setRebuildLimit({ bytesPerSecond });
  return { data: reply, shown: describe(reply), names: [] };
};
