// How a node comes to be in a cluster: it makes one, or joins one.
//
//   init  key, cluster.json "init" -> cluster record and node record at once -> "member"
//   join  key, cluster.json "join" -> node record -> "member"
//
// What is in the metadata is told from the ids in cluster.json: the same command given again after
// a crash, or after an answer that was lost, finds its own records and goes on.
//
// Names of nodes are taken one after the other: whoever registers one swaps the cluster record too.

import { randomUUID } from "node:crypto";
import {
  clusterCodec,
  EtcdMetaStore,
  MetaError,
  MetaKeys,
  nodeCodec,
  transactUntilKnown,
} from "../meta/index.ts";
import { type ClusterRecord, type NodeRecord, RECORD_FORMAT } from "../meta/records.ts";
import type { ClusterInit, ClusterJoin } from "../model/cluster-types.ts";
import { ApiError } from "../model/errors.ts";
import { checkVolumeName } from "../model/volume-rules.ts";
import type { MetaStore } from "../ports/meta-store.ts";
import { accessOf, connectionOf, type MetadataAccess, OPEN_ACCESS } from "./cluster-access.ts";
import { checkListenable, nodeNameOf, parseAddress, parseEndpoints } from "./cluster-address.ts";
import { newChangeId } from "./cluster-context.ts";
import type { ClusterFile, Membership } from "./cluster-file.ts";
import { metaApiError } from "./cluster-link.ts";
import type { ClusterTimings } from "./cluster-timings.ts";
import { type ClusterToken, decodeToken } from "./cluster-token.ts";

export interface FormingModules {
  readonly file: ClusterFile;
  /** Of this daemon, as in node.json. */
  readonly nodeId: string;
  readonly timings: ClusterTimings;
  readonly now: () => Date;
}

/** Formats of messages between nodes that this version speaks. */
export const WIRE_FORMATS: readonly [number, number] = [1, 1];
const REGISTER_ATTEMPTS_MAX = 16;

export function connectMetadata(
  endpoints: readonly string[],
  { metaTimeoutMs }: ClusterTimings,
  access: MetadataAccess,
): MetaStore {
  return new EtcdMetaStore({ endpoints, timeoutMs: metaTimeoutMs, ...connectionOf(access) });
}

/** Runs `work` over a connection of its own, and says what fails in the words of the API. */
async function overMetadata<T>(
  endpoints: readonly string[],
  access: MetadataAccess,
  modules: FormingModules,
  what: string,
  work: (store: MetaStore) => Promise<T>,
): Promise<T> {
  const store = connectMetadata(endpoints, modules.timings, access);
  try {
    return await work(store);
  } catch (error) {
    throw metaApiError(error, what, endpoints);
  } finally {
    store.close();
  }
}

/** null: nothing was to be changed. */
export async function initCluster(
  request: ClusterInit,
  modules: FormingModules,
  dryRun: boolean,
): Promise<Membership | null> {
  const { name } = request;
  checkVolumeName(name, "cluster");
  const node = await checkNode(request);
  const access = accessOf(request, OPEN_ACCESS);
  const endpoints = parseEndpoints(request.metadata, access.ca !== null);
  const begun = modules.file.read();
  const what = `cannot make cluster ${name}`;
  return await overMetadata(endpoints, access, modules, what, async (store) => {
    const keys = new MetaKeys();
    const present = await store.get(keys.cluster);
    if (present !== null) {
      const found = clusterCodec.decode(keys.cluster, present.value);
      const isOurs = begun?.step === "init" && found.id === begun.clusterId && found.name === name;
      if (!isOurs) throw occupied(endpoints, found, begun);
    }
    if (dryRun) return null;
    const isBegun = begun?.step === "init";
    const member: Membership = {
      step: "init",
      clusterId: isBegun ? begun.clusterId : randomUUID(),
      clusterName: name,
      generation: 1,
      metaBirth: 0,
      nodeId: modules.nodeId,
      ...node,
      endpoints,
    };
    if (!isBegun) await modules.file.saveKey(modules.file.makeKey());
    await modules.file.saveAccess(access);
    await modules.file.save(member);
    if (present === null) {
      try {
        await putCluster(store, keys, member, modules);
      } catch (error) {
        // Surely nothing was made: nothing is to be gone on with.
        if (!(error instanceof MetaError) || error.code !== "unknown") await modules.file.remove();
        throw error;
      }
    }
    return await enter(store, keys, member, modules);
  });
}

function occupied(
  endpoints: readonly string[],
  found: ClusterRecord,
  begun: Membership | null,
): ApiError {
  const where = endpoints.join(", ");
  const advice =
    begun?.clusterId === found.id
      ? `this node was making it: give the command again, ringstore cluster init ${found.name}`
      : "join it with a token of one of its nodes, or name other metadata";
  const message = `the metadata at ${where} holds cluster ${found.name} already`;
  return new ApiError("cluster_exists", message, { advice });
}

async function putCluster(
  store: MetaStore,
  keys: MetaKeys,
  member: Membership,
  modules: FormingModules,
): Promise<void> {
  const at = modules.now().toISOString();
  const cluster: ClusterRecord = {
    format: RECORD_FORMAT,
    changeId: newChangeId(),
    id: member.clusterId,
    name: member.clusterName,
    generation: member.generation,
    features: 0,
    createdAt: at,
  };
  const nodeKey = keys.node(member.nodeId);
  const answer = await transactUntilKnown(
    store,
    {
      guards: [{ key: keys.cluster, modRevision: 0 }],
      writes: [
        { key: keys.cluster, value: clusterCodec.encode(cluster) },
        { key: nodeKey, value: nodeCodec.encode(nodeRecord(member, at)) },
      ],
    },
    giveUpAfter(modules.timings),
  );
  if (answer.outcome === "applied") return;
  const found = clusterCodec.decode(keys.cluster, answer.found[0]!.value);
  // An earlier attempt, whose answer was lost, has come through after all.
  if (found.id !== member.clusterId) throw occupied(member.endpoints, found, null);
}

/** null: nothing was to be changed. */
export async function joinCluster(
  request: ClusterJoin,
  modules: FormingModules,
  dryRun: boolean,
): Promise<Membership | null> {
  const token = decodeToken(request.token);
  const node = await checkNode(request);
  const begun = modules.file.read();
  if (begun?.step === "init") {
    const { clusterName } = begun;
    throw new ApiError("cluster_exists", `making cluster ${clusterName} here was cut short`, {
      advice: `give that command again; or, to drop it, remove ${modules.file.path}`,
    });
  }
  const access = accessOf(request, token.access);
  const endpoints = parseEndpoints(token.endpoints, access.ca !== null);
  const what = `cannot join cluster ${token.name}`;
  return await overMetadata(endpoints, access, modules, what, async (store) => {
    const keys = new MetaKeys();
    const cluster = await readCluster(store, keys, token);
    const member: Membership = {
      step: "join",
      clusterId: cluster.id,
      clusterName: cluster.name,
      generation: cluster.generation,
      metaBirth: 0,
      nodeId: modules.nodeId,
      ...node,
      endpoints,
    };
    await requireName(store, keys, member);
    if (dryRun) return null;
    await modules.file.saveKey(token.key);
    await modules.file.saveAccess(access);
    await modules.file.save(member);
    await register(store, keys, member, modules);
    return await enter(store, keys, member, modules);
  });
}

async function readCluster(
  store: MetaStore,
  keys: MetaKeys,
  { clusterId, name, endpoints }: ClusterToken,
): Promise<ClusterRecord> {
  const entry = await store.get(keys.cluster);
  const found = entry === null ? null : clusterCodec.decode(keys.cluster, entry.value);
  if (found?.id === clusterId) return found;
  const what = found === null ? "no cluster" : `cluster ${found.name}, another one`;
  const message = `the metadata at ${endpoints.join(", ")} holds ${what}, and not ${name}`;
  throw new ApiError("join_refused", message, {
    advice: "print a new token with: ringstore cluster token, on a node of the cluster",
  });
}

async function requireName(store: MetaStore, keys: MetaKeys, member: Membership): Promise<void> {
  for (const { key, value } of (await store.list(keys.nodes)).entries) {
    const { id, name, address } = nodeCodec.decode(key, value);
    if (id === member.nodeId) continue;
    if (name === member.nodeName) {
      throw new ApiError("node_exists", `the cluster has a node ${name} at ${address} already`, {
        advice: "give this one another name: --node-name; or remove that one, if it is gone",
      });
    }
    if (address !== member.address) continue;
    throw new ApiError("node_exists", `node ${name} has the address ${address} already`, {
      advice: "give the address at which other nodes reach this one",
    });
  }
}

/** The cluster record is swapped with it: of two nodes with one name the second sees the first. */
async function register(
  store: MetaStore,
  keys: MetaKeys,
  member: Membership,
  modules: FormingModules,
): Promise<void> {
  const isGivenUp = giveUpAfter(modules.timings);
  const key = keys.node(member.nodeId);
  for (let attempt = 0; attempt < REGISTER_ATTEMPTS_MAX; attempt += 1) {
    const [cluster, present] = [await store.get(keys.cluster), await store.get(key)];
    await requireName(store, keys, member);
    if (cluster === null) break;
    const record = clusterCodec.decode(keys.cluster, cluster.value);
    const joinedAt = modules.now().toISOString();
    const answer = await transactUntilKnown(
      store,
      {
        guards: [
          { key: keys.cluster, modRevision: cluster.modRevision },
          { key, modRevision: present?.modRevision ?? 0 },
        ],
        writes: [
          {
            key: keys.cluster,
            value: clusterCodec.encode({ ...record, changeId: newChangeId() }),
          },
          { key, value: nodeCodec.encode(nodeRecord(member, joinedAt)) },
        ],
      },
      isGivenUp,
    );
    if (answer.outcome === "applied") return;
  }
  throw new ApiError("metadata_unavailable", "the cluster keeps changing", { advice: "try again" });
}

/** Everything is registered: from here on the daemon is in the cluster. */
async function enter(
  store: MetaStore,
  keys: MetaKeys,
  begun: Membership,
  { file }: FormingModules,
): Promise<Membership> {
  const entry = await store.get(keys.cluster);
  const member: Membership = { ...begun, step: "member", metaBirth: entry?.createRevision ?? 0 };
  await file.save(member);
  return member;
}

async function checkNode(request: {
  readonly address: string;
  readonly nodeName?: string;
  readonly rack?: string;
}): Promise<Pick<Membership, "address" | "nodeName" | "rack">> {
  const address = parseAddress(request.address, "address");
  const nodeName = nodeNameOf(request.nodeName);
  const { rack = null } = request;
  if (rack !== null) checkVolumeName(rack, "rack");
  await checkListenable(address);
  return { address: request.address, nodeName, rack };
}

function nodeRecord(member: Membership, joinedAt: string): NodeRecord {
  return {
    format: RECORD_FORMAT,
    changeId: newChangeId(),
    id: member.nodeId,
    name: member.nodeName,
    address: member.address,
    rack: member.rack,
    phase: "active",
    joinedAt,
    wireFormats: WIRE_FORMATS,
  };
}

function giveUpAfter({ settleMs }: ClusterTimings): () => boolean {
  const deadlineMs = performance.now() + settleMs;
  return () => performance.now() > deadlineMs;
}
