// cluster export, import, recover.

import { resolve } from "node:path";
import { formatBytes } from "../../base/units.ts";
import { ClientError } from "../../client/index.ts";
import type { RecoveredVolume, RecoveryReply } from "../../model/recovery-types.ts";
import type { CommandRun } from "../command-spec.ts";
import { countOf } from "../format.ts";

export const exportMetadata: CommandRun = async (context, { arguments: [file = ""] }) => {
  const reply = await context.client.exportMetadata({ path: resolve(file) });
  const shown = `metadata of generation ${reply.generation}, revision ${reply.revision}, saved`;
  return { data: reply, shown: `${shown} to ${reply.path}`, names: [reply.path] };
};

export const importMetadata: CommandRun = async (context, { arguments: [file = ""], options }) => {
  const dryRun = options["dryRun"] === true;
  const reply = await context.client.importMetadata({ path: resolve(file) }, { dryRun });
  const verb = dryRun ? "can be put back" : "put back";
  const shown = `metadata of ${reply.at}, generation ${reply.generation}, ${verb}`;
  if (!dryRun) context.note("volumes that the archive is too old for: ringstore cluster show");
  return { data: reply, shown, names: [reply.path] };
};

export const recover: CommandRun = async (context, { options }) => {
  if (options["fromDisks"] !== true) {
    throw new ClientError("usage", "--from-disks is missing", {
      advice: "see first what would be made: ringstore cluster recover --from-disks --dry-run",
    });
  }
  const dryRun = options["dryRun"] === true;
  const request = options["partial"] === true ? { partial: true } : {};
  const reply = await context.client.recoverCluster(request, { dryRun });
  const names = reply.volumes.map(({ name }) => name);
  return { data: reply, shown: describe(reply, dryRun), names };
};

function describe(reply: RecoveryReply, dryRun: boolean): string {
  const { cluster, generation, volumes, nodes, disks, incomplete, unusedCount } = reply;
  const verb = dryRun ? "would be made again" : "made again";
  const lines = [
    `cluster ${cluster} ${verb}, generation ${generation}`,
    `  nodes   ${nodes.join(", ")}`,
    `  disks   ${disks.join(", ")}`,
    `  made    ${countOf(volumes.length, "volume")}`,
    ...volumes.flatMap(describeVolume),
  ];
  if (unusedCount > 0) lines.push(`  unused  ${countOf(unusedCount, "replica")}, left alone`);
  if (incomplete.length > 0) lines.push(`  copies missing of  ${incomplete.join(", ")}`);
  for (const one of reply.lost) lines.push(`  lost    ${one}`);
  return `${lines.join("\n")}\n`;
}

function describeVolume(volume: RecoveredVolume): string[] {
  const { name, sizeBytes, source, out, copyCount, replicaCount, attachedTo, lost } = volume;
  const others = out.length === 0 ? "" : `, resynced to ${out.join(", ")}`;
  const counts = `${copyCount} of ${replicaCount ?? "?"} copies`;
  const was = attachedTo === null ? "" : `; was attached on ${attachedTo}`;
  return [
    `  volume  ${name}, ${formatBytes(sizeBytes)}, ${counts}: from ${source}${others}${was}`,
    ...lost.map((one) => `          lost: ${one}`),
  ];
}
