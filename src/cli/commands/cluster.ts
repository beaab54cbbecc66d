// cluster init, join, token, show.
//
// Invariant: the token is read from a file or standard input and goes into the request's body; it
// is in no message, and printed by `cluster token` alone.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { ClientError } from "../../client/index.ts";
import { checkClusterInit, checkClusterJoin } from "../../model/cluster-rules.ts";
import type {
  ClusterInit,
  ClusterJoin,
  ClusterView,
  MetadataAccessRequest,
} from "../../model/cluster-types.ts";
import type { CommandRun, OptionValues } from "../command-spec.ts";
import type { Context } from "../context.ts";
import { countOf } from "../format.ts";
import type { Result } from "../output.ts";

const STDIN = 0;
const OPTION_NAMES = { address: "--address", metadata: "--metadata" };

export const init: CommandRun = async (context, { arguments: [name = ""], options }) => {
  const request: ClusterInit = {
    name,
    metadata: (options["metadata"] ?? []) as readonly string[],
    ...nodeOf(options),
    ...accessOf(context, options),
  };
  checkClusterInit(request, OPTION_NAMES);
  const dryRun = options["dryRun"] === true;
  const cluster = await context.client.initCluster(request, { dryRun });
  const verb = dryRun ? "would be made" : "made";
  if (!dryRun) context.note("other nodes join with what this prints: ringstore cluster token");
  return resultOf(cluster, `cluster ${cluster.name} ${verb}, this node is ${cluster.node}`);
};

export const join: CommandRun = async (context, { options }) => {
  const file = options["clusterTokenFile"] as string | undefined;
  if (file === undefined) {
    throw new ClientError("usage", "--cluster-token-file is missing", {
      advice: "give the file with what ringstore cluster token printed, or - for standard input",
    });
  }
  const node = nodeOf(options);
  if (file === "-" && options["metadataPasswordFile"] === "-") {
    throw new ClientError("usage", "token and password cannot both come from standard input", {
      advice: "write one of them into a file that only you can read",
    });
  }
  const access = accessOf(context, options);
  const request: ClusterJoin = { token: readSecret(context, file, "token"), ...node, ...access };
  checkClusterJoin(request, OPTION_NAMES);
  const dryRun = options["dryRun"] === true;
  const cluster = await context.client.joinCluster(request, { dryRun });
  const verb = dryRun ? "would join" : "joined";
  return resultOf(cluster, `node ${cluster.node} ${verb} cluster ${cluster.name}`);
};

function nodeOf(options: OptionValues): Omit<ClusterJoin, "token"> {
  if (options["address"] === undefined) {
    throw new ClientError("usage", "--address is missing", {
      advice: "give HOST:PORT at which the other nodes reach this one, e.g. 10.0.0.1:7400",
    });
  }
  return {
    address: String(options["address"]),
    ...(options["nodeName"] === undefined ? {} : { nodeName: String(options["nodeName"]) }),
    ...(options["rack"] === undefined ? {} : { rack: String(options["rack"]) }),
  };
}

/** The daemon reads certificates itself; the password travels in the request. */
function accessOf(context: Context, options: OptionValues): MetadataAccessRequest {
  const path = (name: string): string | undefined => {
    const value = options[name];
    return value === undefined ? undefined : resolve(String(value));
  };
  const [metadataCa, metadataCert, metadataKey] = ["metadataCa", "metadataCert", "metadataKey"].map(
    path,
  );
  const file = options["metadataPasswordFile"];
  return {
    ...(metadataCa === undefined ? {} : { metadataCa }),
    ...(metadataCert === undefined ? {} : { metadataCert }),
    ...(metadataKey === undefined ? {} : { metadataKey }),
    ...(options["metadataUser"] === undefined
      ? {}
      : { metadataUser: String(options["metadataUser"]) }),
    ...(file === undefined
      ? {}
      : { metadataPassword: readSecret(context, String(file), "password") }),
  };
}

function readSecret(context: Context, file: string, secret: "token" | "password"): string {
  const fromStdin = file === "-";
  if (fromStdin && context.streams.canAsk) context.note(`the ${secret}, then Enter and Ctrl-D:`);
  try {
    return readFileSync(fromStdin ? STDIN : file, "utf8").trim();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    const what = fromStdin ? "standard input" : JSON.stringify(file);
    const whose = secret === "token" ? "cluster's token" : "metadata's password";
    throw new ClientError("usage", `cannot read the ${whose} from ${what}: ${code}`);
  }
}

export const token: CommandRun = async (context) => {
  const reply = await context.client.clusterToken();
  if (context.streams.isTerminal) context.note("a secret: whoever has it can join the cluster");
  return { data: reply, shown: reply.token, names: [reply.token] };
};

export const show: CommandRun = async (context) => {
  const { cluster } = await context.client.showCluster();
  if (cluster !== null) return resultOf(cluster, describeCluster(cluster));
  context.note("this daemon is in no cluster: ringstore cluster init, or cluster join");
  return { data: null, shown: "", names: [] };
};

function resultOf(cluster: ClusterView, shown: string): Result {
  return { data: cluster, shown, names: [cluster.name] };
}

function describeCluster(cluster: ClusterView): string {
  const { metadata } = cluster;
  const endpoints = metadata.endpoints.join(", ");
  const rows: (readonly [string, string])[] = [
    ["name", cluster.name],
    ["id", cluster.id],
    ["generation", String(cluster.generation)],
    ["this node", cluster.node],
    ["metadata", metadata.reachable ? endpoints : `${endpoints} (not reachable)`],
    ["nodes", `${cluster.liveNodeCount} of ${cluster.nodeCount} alive`],
    ["volumes", `${cluster.volumeCount}, ${cluster.degradedCount} with a copy that is out`],
    ["can lose", countOf(cluster.canLoseNodes, "node")],
  ];
  for (const item of cluster.health) rows.push([item.severity, `${item.code}: ${item.message}`]);
  return rows.map(([key, value]) => `${key.padEnd(14)}${value}\n`).join("");
}
