// disk init, list, show, check, remove. Formatting and checking take minutes to hours: the daemon
// answers when they have begun, and we look at the disk until they are done.

import { resolve } from "node:path";
import { formatBytes } from "../../base/units.ts";
import { ClientError } from "../../client/index.ts";
import type { Disk, DiskCheck, DiskCreate, DiskDurability } from "../../model/disk-types.ts";
import { EXIT_UNEXPECTED } from "../../model/errors.ts";
import { checkVolumeName } from "../../model/volume-rules.ts";
import type { CommandRun } from "../command-spec.ts";
import type { Context } from "../context.ts";
import { formatPercent } from "../format.ts";
import type { Column } from "../output.ts";

const LOOK_MS = 500;

const LIST_COLUMNS: readonly Column[] = [
  { title: "NAME" },
  { title: "STATE" },
  { title: "SIZE", right: true },
  { title: "USED", right: true },
  { title: "FREE", right: true },
  { title: "VOLUMES", right: true },
  { title: "HEALTH" },
  { title: "PATH" },
  { title: "DURABILITY", wide: true },
  { title: "RING", right: true, wide: true },
  { title: "BAD", right: true, wide: true },
  { title: "OPENED", right: true, wide: true },
  { title: "ID", wide: true },
];

function listRow(disk: Disk): readonly string[] {
  const { usage } = disk;
  return [
    disk.name,
    stateText(disk),
    formatBytes(disk.sizeBytes),
    usage === null ? "-" : formatBytes(usage.usedBytes),
    usage === null ? "-" : formatBytes(usage.freeBytes),
    String(disk.volumeCount),
    disk.health.map((item) => item.code).join(",") || "ok",
    disk.path,
    disk.durability,
    usage === null ? "-" : formatPercent(usage.ringUsedBytes, usage.ringBytes),
    usage === null ? "-" : String(usage.badBlockCount),
    String(disk.incarnation),
    disk.id,
  ];
}

function stateText(disk: Disk): string {
  const { task, state } = disk;
  if (task === null || task.totalBytes === 0) return state;
  return `${state} ${formatPercent(task.doneBytes, task.totalBytes)}`;
}

export const list: CommandRun = async (context) => {
  const reply = await context.client.listDisks();
  if (reply.disks.length === 0 && context.global.form === "table") {
    context.note("no disks yet: ringstore disk init PATH");
  }
  return {
    data: reply,
    shown: { columns: LIST_COLUMNS, rows: reply.disks.map(listRow) },
    names: reply.disks.map((disk) => disk.name),
  };
};

export const show: CommandRun = async (context, { arguments: [name = ""] }) => {
  checkVolumeName(name, "disk");
  const disk = await context.client.showDisk(name);
  return { data: disk, shown: describeDisk(disk), names: [disk.name] };
};

function describeDisk(disk: Disk): string {
  const { usage, lastCheck } = disk;
  const rows: (readonly [string, string])[] = [
    ["name", disk.name],
    ["state", stateText(disk)],
    ["path", disk.path],
    ["size", `${formatBytes(disk.sizeBytes)} (${disk.sizeBytes} bytes)`],
    ["durability", `${disk.durability} (${disk.durabilityReason})`],
    ["volumes", String(disk.volumeCount)],
    ["id", disk.id],
    ["created", disk.createdAt],
    ["opened", `${disk.incarnation} times`],
  ];
  if (usage !== null) {
    const ring = `${formatPercent(usage.ringUsedBytes, usage.ringBytes)} of`;
    rows.push(["data", `${formatBytes(usage.totalBytes)}`]);
    rows.push(["used", formatBytes(usage.usedBytes)]);
    rows.push(["free", formatBytes(usage.freeBytes)]);
    rows.push(["quarantined", formatBytes(usage.quarantinedBytes)]);
    rows.push(["ring", `${ring} ${formatBytes(usage.ringBytes)} in use`]);
    rows.push(["bad blocks", String(usage.badBlockCount)]);
    rows.push(["scrubbed", `up to ${formatBytes(usage.scrubPositionBytes)} in this round`]);
  }
  if (lastCheck !== null) rows.push(["checked", `${lastCheck.at}: ${checkText(lastCheck)}`]);
  for (const item of disk.health) rows.push([item.severity, `${item.code}: ${item.message}`]);
  return rows.map(([key, value]) => `${key.padEnd(14)}${value}\n`).join("");
}

export const init: CommandRun = async (context, { arguments: [path = ""], options }) => {
  const name = options["label"] as string | undefined;
  if (name !== undefined) checkVolumeName(name, "disk");
  const force = options["force"] === true;
  const dryRun = options["dryRun"] === true;
  const request: DiskCreate = {
    path: resolve(path),
    ...(name === undefined ? {} : { name }),
    ...(options["size"] === undefined ? {} : { sizeBytes: Number(options["size"]) }),
    ...(options["allocation"] === undefined
      ? {}
      : { allocation: options["allocation"] as "full" | "sparse" }),
    ...(options["durability"] === undefined
      ? {}
      : { durability: options["durability"] as "auto" | DiskDurability }),
    ...(force ? { force } : {}),
  };
  if (force && !dryRun) await context.confirm(`Lose everything that is on ${request.path}?`);
  const begun = await context.client.createDisk(request, { dryRun });
  context.note(`durability ${begun.durability}: ${begun.durabilityReason}`);
  if (dryRun) {
    const shown = `disk ${begun.name} would be made of ${begun.path}`;
    return { data: begun, shown, names: [begun.name] };
  }
  const disk = await follow(context, begun.name, ["formatting", "opening"]);
  if (disk.state !== "ready") {
    const reason = disk.health[0]?.message ?? `it is ${disk.state}`;
    throw new ClientError("disk_failed", `disk ${disk.name} could not be made: ${reason}`, {
      advice: `then: ringstore disk remove ${disk.name}`,
    });
  }
  const space = formatBytes(disk.usage?.totalBytes ?? 0);
  const shown = `disk ${disk.name} is ready: ${space} for volumes on ${disk.path}`;
  return { data: disk, shown, names: [disk.name] };
};

/** Until the disk is in none of these states. Progress goes to stderr. */
async function follow(context: Context, name: string, states: readonly string[]): Promise<Disk> {
  let told = "";
  for (;;) {
    const disk = await context.client.showDisk(name);
    if (!states.includes(disk.state)) return disk;
    const { task } = disk;
    const done =
      task === null ? "" : ` ${task.step} ${formatPercent(task.doneBytes, task.totalBytes)}`;
    const text = `${disk.state}${done}`;
    if (text !== told) context.note(text);
    told = text;
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function checkText(check: DiskCheck): string {
  if (check.failure !== null) return `not carried out: ${check.failure}`;
  const verified = `${check.blocksVerified} blocks, ${check.pagesVerified} pages verified`;
  return `${check.errorCount} errors, ${check.warningCount} warnings; ${verified}`;
}

export const check: CommandRun = async (context, { arguments: [name = ""] }) => {
  checkVolumeName(name, "disk");
  await context.client.checkDisk(name);
  const disk = await follow(context, name, ["checking"]);
  const report = disk.lastCheck;
  if (report === null) {
    throw new ClientError("disk_unavailable", `disk ${name} was not checked`, {
      advice: "the daemon was probably restarted meanwhile: try again",
    });
  }
  if (report.failure !== null) {
    throw new ClientError("disk_failed", `disk ${name} could not be checked: ${report.failure}`);
  }
  const lines = report.findings.map(({ severity, where, message }) => {
    return `${severity.padEnd(8)}${where}: ${message}\n`;
  });
  const hidden = report.findingCount - report.findings.length;
  if (hidden > 0) lines.push(`and ${hidden} more\n`);
  const shown = `${lines.join("")}disk ${name}: ${checkText(report)}`;
  const exitCode = report.errorCount > 0 ? EXIT_UNEXPECTED : 0;
  return { data: report, shown, names: [name], exitCode };
};

export const remove: CommandRun = async (context, { arguments: [name = ""], options }) => {
  checkVolumeName(name, "disk");
  const dryRun = options["dryRun"] === true;
  const force = options["force"] === true;
  if (force && !dryRun) {
    const { volumes } = await context.client.removeDisk(name, { dryRun: true, force });
    if (volumes.length > 0) {
      context.note(`volumes that lived only there: ${volumes.join(", ")}`);
      await context.confirm(`Delete them, and remove disk ${name} for good?`);
    }
  }
  const reply = await context.client.removeDisk(name, { dryRun, force });
  const verb = dryRun ? "would be removed" : "removed";
  const { volumes } = reply;
  const deleted = volumes.length === 0 ? "" : `, and with it volumes ${volumes.join(", ")}`;
  const shown = `disk ${name} ${verb}${deleted}: ${reply.path} keeps what is on it`;
  return { data: reply, shown, names: [name] };
};
