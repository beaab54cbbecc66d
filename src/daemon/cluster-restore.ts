// A cluster's metadata as a whole: saved to a file, put back from one, made again from the disks.
// What is put back goes below an empty root, the cluster record last.

import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  exportMetadata,
  importMetadata,
  MetaError,
  planRecovery,
  type RecoveryPlan,
  readArchive,
  reportCodec,
} from "../meta/index.ts";
import type { RecoveryReport } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import type {
  ClusterRecover,
  MetadataArchiveReply,
  MetadataArchiveRequest,
  RecoveryReply,
} from "../model/recovery-types.ts";
import type { MetaStore } from "../ports/meta-store.ts";
import { type ClusterContext, givingUp } from "./cluster-context.ts";
import type { ClusterReports } from "./cluster-reports.ts";

const FOLLOW_MS = 3000;
const REPORT_ATTEMPTS_MAX = 20;
const REPORT_PAUSE_MS = 100;

export async function exportCluster(
  { link, keys, host }: ClusterContext,
  { path }: MetadataArchiveRequest,
): Promise<MetadataArchiveReply> {
  const what = `cannot save the metadata to ${path}`;
  const header = await ask(link, what, (store) =>
    exportMetadata(store, keys, resolve(path), host.modules.now()),
  );
  const { cluster, generation, revision, at } = header;
  return { path, cluster, generation, revision, at };
}

export async function importCluster(
  context: ClusterContext,
  { path }: MetadataArchiveRequest,
  dryRun: boolean,
): Promise<MetadataArchiveReply> {
  const { link, keys, member } = context;
  const what = `cannot put ${path} back`;
  return await ask(link, what, async (store) => {
    const archive = readArchive(resolve(path));
    const { cluster, generation, revision, at } = archive.header;
    if (cluster !== member.clusterId) {
      const message = `${path} is of cluster ${archive.inventory.cluster.name}, ${cluster}`;
      throw new ApiError("invalid_request", `${message}; this node is in ${member.clusterId}`, {
        advice: "take an archive of this cluster",
      });
    }
    await requireEmpty(context, store);
    if (!dryRun) {
      await importMetadata(store, keys, archive, givingUp(context));
      await follow(context);
    }
    return { path, cluster, generation, revision, at };
  });
}

export async function recoverCluster(
  context: ClusterContext,
  reports: ClusterReports,
  { partial = false }: ClusterRecover,
  dryRun: boolean,
): Promise<RecoveryReply> {
  const { link, keys, member } = context;
  return await ask(link, "cannot make the records again", async (store) => {
    await requireEmpty(context, store);
    const told = await readReports(context, reports, store);
    const plan = planRecovery(keys, member.clusterId, told);
    if (!dryRun) {
      requireWhole(plan, partial);
      await write(context, store, plan);
    }
    return replyOf(plan, told, member.clusterId);
  });
}

/** This node's own are among them, as they are now: its watch may not know yet what is lost. */
async function readReports(
  { keys, member }: ClusterContext,
  reports: ClusterReports,
  store: MetaStore,
): Promise<readonly RecoveryReport[]> {
  for (let attempt = 1; ; attempt += 1) {
    await reports.publish();
    const { entries } = await store.list(keys.recoveryReports);
    const told = entries.map(({ key, value }) => reportCodec.decode(key, value));
    const isThere = told.some(({ node }) => node.id === member.nodeId);
    if (isThere || attempt === REPORT_ATTEMPTS_MAX) return told;
    // Its lease was of the metadata that is gone, or was given back for that.
    await reports.withdraw();
    await sleep(REPORT_PAUSE_MS);
  }
}

/** What it cannot know of the cluster; of volumes it is told with each. */
const LOST: readonly string[] = [
  "attachments: every volume is detached; attach it where its VM is",
  "when the cluster and its volumes were made, and when its nodes joined",
  "persistent reservations, also with APTPL: nobody is shut out from a volume until its hosts " +
    "have registered and reserved again; stop or fence hosts that must not write before you " +
    "attach it",
  "nodes and disks that have not told: they join again, and their copies are not used",
  "changes of members in the last moments before the metadata was lost",
];

function replyOf(
  plan: RecoveryPlan,
  reports: readonly RecoveryReport[],
  clusterId: string,
): RecoveryReply {
  const { cluster, nodes, disks, volumes, incomplete, unusedCount } = plan;
  const foreign = reports.filter((one) => one.cluster.id !== clusterId);
  const names = [...new Set(foreign.map(({ node }) => node.name))];
  const ignored = names.map((name) => `node ${name} is of another cluster: left out`);
  return {
    cluster: cluster.name,
    generation: cluster.generation,
    nodes,
    disks,
    volumes,
    incomplete,
    unusedCount,
    lost: [...LOST, ...ignored],
  };
}

function requireWhole({ incomplete, nodes }: RecoveryPlan, partial: boolean): void {
  if (incomplete.length === 0 || partial) return;
  const told = `disks of ${nodes.join(", ")} told`;
  const message = `copies are missing of ${incomplete.join(", ")}; ${told}`;
  throw new ApiError("volume_unavailable", message, {
    advice:
      "start the daemons of all nodes first; if those copies are gone for good: --partial, which " +
      "may bring back an older state",
  });
}

async function write(
  context: ClusterContext,
  store: MetaStore,
  { cluster, values }: RecoveryPlan,
): Promise<void> {
  const { keys, host } = context;
  await importMetadata(store, keys, { values }, givingUp(context));
  await follow(context);
  const fields = { generation: cluster.generation, keys: values.size };
  host.modules.log.log("warn", "cluster.recovered", fields);
}

async function requireEmpty({ keys, link }: ClusterContext, store: MetaStore): Promise<void> {
  if ((await store.get(keys.cluster)) === null) return;
  const where = link.endpoints.join(", ");
  throw new ApiError("cluster_exists", `the metadata at ${where} holds a cluster`, {
    advice:
      `save it first: ringstore cluster export FILE; then empty it: everything below ` +
      `${keys.root} in etcd, or the folder of the embedded server while that is stopped`,
  });
}

/** Until this node has seen what was written. */
async function follow({ inventory, look }: ClusterContext): Promise<void> {
  await inventory.until(() => inventory.cluster !== null, FOLLOW_MS);
  look();
}

/** What is wrong with an archive is told as it is. */
async function ask<T>(
  link: ClusterContext["link"],
  what: string,
  work: (store: MetaStore) => Promise<T>,
): Promise<T> {
  return await link.ask(what, async (store) => {
    try {
      return await work(store);
    } catch (error) {
      const { code } = error as { code?: unknown };
      if (error instanceof MetaError && code === "archive") {
        const options = error.advice === undefined ? {} : { advice: error.advice };
        throw new ApiError("invalid_request", `${what}: ${error.message}`, options);
      }
      if (typeof code !== "string" || !/^E[A-Z]+$/.test(code)) throw error;
      throw new ApiError("invalid_request", `${what}: ${code}`, {
        advice: "the daemon reads and writes the file as its own user, on its own machine",
      });
    }
  });
}
