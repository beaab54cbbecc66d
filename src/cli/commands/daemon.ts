// status, advise, events, version, api get.

import { formatBytes } from "../../base/units.ts";
import { ClientError } from "../../client/index.ts";
import type { ClusterView } from "../../model/cluster-types.ts";
import type { Advice, Event, Status, StatusItem } from "../../model/types.ts";
import type { CommandRun } from "../command-spec.ts";
import { countOf, formatCount, formatDuration, formatRate } from "../format.ts";
import { printable } from "../output.ts";
import { readVersion } from "../version.ts";

const STATUS_LINES_MAX = 15;

export const status: CommandRun = async (context) => {
  const reply = await context.client.status();
  return { data: reply, shown: describeStatus(reply), names: [reply.health] };
};

export function describeStatus(reply: Status): string {
  const { volumes, dataFilesystem, io } = reply;
  const busy = io.readsPerSecond > 0 || io.writesPerSecond > 0;
  const health = `HEALTH_${reply.health.toUpperCase()}`;
  const { availableBytes, totalBytes } = dataFilesystem;
  const space = `${formatBytes(availableBytes)} of ${formatBytes(totalBytes)} available`;
  const counts = [
    `${volumes.total}, ${formatBytes(volumes.declaredBytes)}`,
    `${volumes.attached} attached`,
    `${volumes.connected} connected`,
    ...(volumes.unavailable > 0 ? [`${volumes.unavailable} UNAVAILABLE`] : []),
  ];
  const lines = [
    `ringstored ${reply.version}  ${health}  up ${formatDuration(reply.uptimeSeconds)}`,
    `  data     ${printable(reply.dataDirectory)}, ${space}`,
    `  volumes  ${counts.join(", ")}`,
  ];
  // Quiet when all is well; an older daemon knows no disks.
  const disks = reply.disks ?? { total: 0, ready: 0, totalBytes: 0, freeBytes: 0 };
  if (disks.ready < disks.total || reply.items.some((item) => (item.disk ?? null) !== null)) {
    const free = `${formatBytes(disks.freeBytes)} of ${formatBytes(disks.totalBytes)} free`;
    lines.push(`  disks    ${disks.ready} of ${disks.total} ready, ${free}`);
  }
  // An older daemon knows no clusters.
  if (reply.cluster) lines.push(`  cluster  ${clusterText(reply.cluster)}`);
  const portals = reply.portals ?? [];
  if (portals.length > 0) {
    const told = portals.map((one) => `${one.address} ${countOf(one.sessionCount, "session")}`);
    lines.push(`  iscsi    ${told.join(", ")}`);
  }
  if (busy) {
    const read = `${formatCount(io.readsPerSecond)} op/s ${formatRate(io.readBytesPerSecond)}`;
    const write = `${formatCount(io.writesPerSecond)} op/s ${formatRate(io.writeBytesPerSecond)}`;
    lines.push(`  io       read ${read}   write ${write}`);
  }
  const room = STATUS_LINES_MAX - lines.length;
  const fits = reply.items.length <= room;
  const told = fits ? reply.items : reply.items.slice(0, room - 1);
  for (const item of told) lines.push(`  !  ${problemText(item)}`);
  if (!fits) lines.push(`  !  and ${reply.items.length - told.length} more: ringstore advise`);
  return `${lines.join("\n")}\n`;
}

function clusterText(cluster: ClusterView): string {
  const { nodeCount, liveNodeCount, degradedCount, metadata } = cluster;
  const parts = [
    `${liveNodeCount} of ${countOf(nodeCount, "node")}`,
    countOf(cluster.volumeCount, "volume"),
    ...(degradedCount > 0 ? [`${degradedCount} DEGRADED`] : []),
    `can lose ${countOf(cluster.canLoseNodes, "node")}`,
    ...(metadata.reachable ? [] : ["metadata NOT REACHABLE"]),
  ];
  return `${cluster.name}: ${parts.join(", ")}`;
}

const PROBLEM_LENGTH_MAX = 140;

function subjectOf(item: StatusItem): string {
  const subject = item.volume ?? item.disk ?? null;
  return subject === null ? "" : ` ${subject}`;
}

function problemText(item: StatusItem): string {
  const about = subjectOf(item);
  const text = `${item.code}${about}: ${printable(item.message)}`;
  return text.length > PROBLEM_LENGTH_MAX ? `${text.slice(0, PROBLEM_LENGTH_MAX)}...` : text;
}

export const advise: CommandRun = async (context) => {
  const reply = await context.client.advise();
  if (reply.advice.length === 0) context.note("nothing needs doing");
  return {
    data: reply,
    shown: reply.advice.map(describeAdvice).join(""),
    names: reply.advice.map((item) => item.code),
  };
};

function describeAdvice(item: Advice): string {
  const about = subjectOf(item);
  const command = item.command === null ? "" : `    ${printable(item.command)}\n`;
  return `${item.severity.padEnd(5)}  ${item.code}${about}: ${printable(item.message)}\n${command}`;
}

export const events: CommandRun = async (context, { options }) => {
  const { form } = context.global;
  if (options["watch"] !== true) {
    const reply = await context.client.events();
    return {
      data: reply,
      shown: reply.events.map(describeEvent).join(""),
      names: reply.events.map((event) => event.type),
    };
  }
  if (form === "yaml") {
    throw new ClientError("usage", "-o yaml does not go with --watch", { advice: "use -o json" });
  }
  await context.client.followEvents((event) => {
    if (form === "json") context.streams.out(`${JSON.stringify(event)}\n`);
    else context.streams.out(form === "name" ? `${event.type}\n` : describeEvent(event));
  });
  throw new ClientError("cannot_connect", "the daemon ended the event stream", {
    advice: "it was probably stopped",
  });
};

function describeEvent(event: Event): string {
  const subject = printable(event.volume ?? event.disk ?? "-");
  return `${event.at}  ${event.type.padEnd(19)}  ${subject}  ${printable(event.message)}\n`;
}

export const version: CommandRun = async (context) => {
  const client = readVersion();
  try {
    const daemon = await context.client.version();
    const details = `API v${daemon.apiVersion}, Node ${daemon.node}`;
    const shown = `ringstore ${client}\nringstored ${daemon.version} (${details})\n`;
    return { data: { client, daemon }, shown, names: [client] };
  } catch (error) {
    if (!(error instanceof ClientError) || error.code !== "cannot_connect") throw error;
    context.note(`${error.message}`);
    return { data: { client, daemon: null }, shown: `ringstore ${client}\n`, names: [client] };
  }
};

export const apiGet: CommandRun = async (context, { arguments: [path = ""] }) => {
  if (!path.startsWith("/")) {
    throw new ClientError("usage", `${JSON.stringify(path)} is not a path of the API`, {
      advice: "paths begin with /, e.g. /v1/status; /v1/openapi.json lists them",
    });
  }
  const text = await context.client.get(path);
  context.streams.out(text.endsWith("\n") ? text : `${text}\n`);
  return null;
};
