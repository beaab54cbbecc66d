// node list, show, remove.

import { formatBytes } from "../../base/units.ts";
import type { ClusterNode } from "../../model/cluster-types.ts";
import { checkVolumeName } from "../../model/volume-rules.ts";
import type { CommandRun } from "../command-spec.ts";
import { countOf } from "../format.ts";
import type { Column } from "../output.ts";
import { describeCopies } from "./drain.ts";

const LIST_COLUMNS: readonly Column[] = [
  { title: "NAME" },
  { title: "STATE" },
  { title: "ADDRESS" },
  { title: "DISKS", right: true },
  { title: "SIZE", right: true },
  { title: "FREE", right: true },
  { title: "COPIES", right: true },
  { title: "OWNS", right: true },
  { title: "LINK" },
  { title: "RACK", wide: true },
  { title: "JOINED", wide: true },
  { title: "ID", wide: true },
];

function listRow(node: ClusterNode): readonly string[] {
  return [
    node.name,
    nodeStateText(node),
    node.address,
    String(node.disks.length),
    formatBytes(sumOf(node, "sizeBytes")),
    formatBytes(sumOf(node, "freeBytes")),
    String(node.copiesOf.length),
    String(node.ownedVolumes.length),
    linkText(node),
    node.rack ?? "-",
    node.joinedAt,
    node.id,
  ];
}

function nodeStateText({ state, phase }: ClusterNode): string {
  return phase === "active" ? state : `${state}, ${phase}`;
}

function sumOf(node: ClusterNode, field: "sizeBytes" | "freeBytes"): number {
  return node.disks.reduce((sum, disk) => sum + disk[field], 0);
}

function linkText(node: ClusterNode): string {
  return node.isThis ? "this node" : (node.link ?? "-");
}

export const list: CommandRun = async (context) => {
  const reply = await context.client.listNodes();
  return {
    data: reply,
    shown: { columns: LIST_COLUMNS, rows: reply.nodes.map(listRow) },
    names: reply.nodes.map((node) => node.name),
  };
};

export const show: CommandRun = async (context, { arguments: [name = ""] }) => {
  checkVolumeName(name, "node");
  const node = await context.client.showNode(name);
  return { data: node, shown: describeNode(node), names: [node.name] };
};

function describeNode(node: ClusterNode): string {
  const rows: (readonly [string, string])[] = [
    ["name", node.name],
    ["state", nodeStateText(node)],
    ["address", node.address],
    ["link", linkText(node)],
    ["rack", node.rack ?? "-"],
    ["id", node.id],
    ["joined", node.joinedAt],
    ["owns", node.ownedVolumes.join(", ") || "-"],
    ["copies of", node.copiesOf.join(", ") || "-"],
  ];
  for (const disk of node.disks) {
    const free = `${formatBytes(disk.freeBytes)} of ${formatBytes(disk.sizeBytes)} free`;
    const phase = disk.phase === "active" ? "" : `, ${disk.phase}`;
    rows.push(["disk", `${disk.name}, ${free}${phase}`]);
  }
  return rows.map(([key, value]) => `${key.padEnd(14)}${value}\n`).join("");
}

export const remove: CommandRun = async (context, { arguments: [name = ""], options }) => {
  checkVolumeName(name, "node");
  const dryRun = options["dryRun"] === true;
  if (!dryRun && !context.global.yes && context.streams.canAsk) {
    const { volumes } = await context.client.removeNode(name, { dryRun: true });
    if (volumes.length > 0) context.note(`volumes that lose a copy: ${volumes.join(", ")}`);
    await context.confirm(`Forget node ${name} and its copies for good?`);
  }
  const reply = await context.client.removeNode(name, { dryRun });
  const verb = dryRun ? "would be removed" : "removed";
  const { volumes } = reply;
  const lost =
    volumes.length === 0
      ? "no volume loses a copy"
      : `${countOf(volumes.length, "volume")} with a copy less: ${volumes.join(", ")}`;
  const shown = `node ${name} ${verb}: ${lost}${describeCopies(reply.copies)}`;
  return { data: reply, shown, names: [name] };
};
