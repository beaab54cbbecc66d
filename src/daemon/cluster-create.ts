// Volumes of the cluster: made and deleted, by any node. A crash anywhere leaves a volume that
// every node knows what to do with (cluster-replicas.ts).
//
//   create  name, record "creating", map -> members make copies -> "ready"
//   delete  "deleting" -> members delete copies -> record, name, map go

import type { RequestOptions } from "../api/control-plane.ts";
import { formatBytes } from "../base/units.ts";
import { volumeCodec } from "../meta/index.ts";
import { RECORD_FORMAT, REPLICAS_MAX, type VolumeRecord } from "../meta/records.ts";
import { membersInSync } from "../meta/repair-plan.ts";
import { ApiError } from "../model/errors.ts";
import { BLOCK_BYTES_DEFAULT, STORE_BLOCK_BYTES } from "../model/limits.ts";
import type { DeleteReply, VolumeCreate } from "../model/types.ts";
import { checkVolumeName, checkVolumeSize } from "../model/volume-rules.ts";
import { type ClusterContext, changeVolume, newChangeId, transact } from "./cluster-context.ts";
import { type ChosenSet, chooseDisks, mapPages } from "./cluster-placement.ts";

const PLAN_ATTEMPTS_MAX = 5;
const NOT_HERE = ["backing", "path", "direct", "disk", "readOnly", "serial"] as const;

/** The name is not taken by a volume of this node alone: the caller has looked. */
export async function createClusterVolume(
  context: ClusterContext,
  request: VolumeCreate,
  options: RequestOptions,
): Promise<VolumeRecord> {
  const { inventory, host } = context;
  checkRequest(request);
  requireKnown(context);
  if (inventory.volumeByName(request.name) !== null) throw exists(request.name);
  if (options.dryRun) return planVolume(context, request, host.modules.uuid()).record;
  const planned = await declareVolume(context, request);
  const { id, name } = planned;
  try {
    await waitForCopies(context, planned, planned.sizeBytes);
    const what = `cannot create volume ${name}`;
    const record = await changeVolume(context, id, what, (found) => {
      if (found.phase === "creating") return { ...found, phase: "ready" };
      throw new ApiError("volume_unavailable", `volume ${name} was taken back meanwhile`);
    });
    host.modules.events.add("volume.created", name, formatBytes(record.sizeBytes));
    return record;
  } catch (error) {
    await takeBack(context, planned);
    throw error;
  }
}

function checkRequest(request: VolumeCreate): void {
  const { name, sizeBytes, replicas = 0, blockBytes = BLOCK_BYTES_DEFAULT } = request;
  checkVolumeName(name);
  if (!Number.isInteger(replicas) || replicas < 1 || replicas > REPLICAS_MAX) {
    throw new ApiError("invalid_request", `${replicas} is not a number of replicas`, {
      advice: `use 1 to ${REPLICAS_MAX}`,
    });
  }
  for (const field of NOT_HERE) {
    if (request[field] === undefined) continue;
    throw new ApiError("invalid_request", `${field} does not go with replicas`, {
      advice: `leave ${field} out, or make a volume on this node alone, without replicas`,
    });
  }
  if (sizeBytes === undefined) {
    throw new ApiError("invalid_request", "sizeBytes is missing", { advice: "give a size" });
  }
  checkVolumeSize(sizeBytes, Math.max(blockBytes, STORE_BLOCK_BYTES));
}

/** What is planned on must be there. */
function requireKnown({ inventory, link }: ClusterContext): void {
  if (inventory.revision > 0 && link.isReachable) return;
  const where = link.endpoints.join(", ");
  throw new ApiError("metadata_unavailable", `the metadata at ${where} does not answer`, {
    advice: "see: ringstore cluster show",
  });
}

interface Plan {
  readonly record: VolumeRecord;
  readonly chosen: ChosenSet;
}

function planVolume(context: ClusterContext, request: VolumeCreate, id: string): Plan {
  const { inventory, member, host } = context;
  const { name, sizeBytes = 0, replicas = 1, blockBytes = BLOCK_BYTES_DEFAULT } = request;
  const wish = { sizeBytes, replicaCount: replicas, here: member.nodeId };
  const chosen = chooseDisks(inventory, wish);
  const record: VolumeRecord = {
    format: RECORD_FORMAT,
    changeId: newChangeId(),
    id,
    name,
    sizeBytes,
    blockBytes,
    replicaCount: replicas,
    phase: "creating",
    createdAt: host.modules.now().toISOString(),
    clusterGeneration: inventory.cluster?.generation ?? member.generation,
    epoch: 0,
    owner: null,
    state: "clean",
    members: chosen.members,
    out: [],
    membershipVersion: 1,
    attachment: { generation: 0, node: null, readOnly: false },
    layers: [0],
  };
  return { record, chosen };
}

/** Record, name and map; the disks that were chosen are still there, as they were. */
async function declareVolume(
  context: ClusterContext,
  request: VolumeCreate,
): Promise<VolumeRecord> {
  const { keys, link, inventory, host } = context;
  return await link.ask(`cannot create volume ${request.name}`, async (store) => {
    for (let attempt = 0; attempt < PLAN_ATTEMPTS_MAX; attempt += 1) {
      const { record, chosen } = planVolume(context, request, host.modules.uuid());
      const nameKey = keys.volumeName(record.name);
      const answer = await transact(context, store, {
        guards: [
          { key: keys.volumeRecord(record.id), modRevision: 0 },
          { key: nameKey, modRevision: 0 },
          ...chosen.members.map((id) => ({
            key: keys.disk(id),
            modRevision: inventory.disks.get(id)?.modRevision ?? 0,
          })),
        ],
        writes: [
          { key: keys.volumeRecord(record.id), value: volumeCodec.encode(record) },
          { key: nameKey, value: Buffer.from(record.id) },
          ...mapPages(keys, record.id, record.sizeBytes, chosen.numbers),
        ],
      });
      if (answer.outcome === "applied") return record;
      if (answer.found[1] !== null) throw exists(record.name);
    }
    throw new ApiError("volume_busy", "the cluster's disks keep changing", { advice: "try again" });
  });
}

function exists(name: string): ApiError {
  return new ApiError("volume_exists", `volume ${name} exists`, {
    advice: `choose another name, or see: ringstore volume show ${name}`,
  });
}

/** Rejects, naming the nodes, when members that count have not made theirs in time. */
export async function waitForCopies(
  context: ClusterContext,
  record: VolumeRecord,
  sizeBytes: number,
): Promise<void> {
  const { inventory, timings } = context;
  const { id, name } = record;
  const wanted = membersInSync(record);
  const lacking = (): string[] =>
    wanted.filter((disk) => (inventory.copy(id, disk)?.sizeBytes ?? 0) < sizeBytes);
  const nodeOf = (disk: string): string => inventory.nodeOf(disk) ?? "";
  /** A copy that cannot be made now: its node has said so, or is gone. */
  const failure = (): string | null => {
    for (const disk of lacking()) {
      const where = inventory.nodeName(nodeOf(disk));
      const problem = inventory.copy(id, disk)?.problem;
      if (problem !== undefined && problem !== known.get(disk)) return `on ${where}: ${problem}`;
      if (!inventory.isAlive(nodeOf(disk))) return `on ${where}: the node is missing`;
    }
    return null;
  };
  const known = new Map(wanted.map((disk) => [disk, inventory.copy(id, disk)?.problem]));
  context.look();
  const isDecided = (): boolean => lacking().length === 0 || failure() !== null;
  await inventory.until(isDecided, timings.copiesMs);
  if (lacking().length === 0) return;
  const failed = failure();
  if (failed !== null) {
    throw new ApiError("backing_failed", `volume ${name}: no copy ${failed}`, {
      advice: "see whether these nodes are well: ringstore node list",
    });
  }
  const nodes = lacking().map((disk) => inventory.nodeName(nodeOf(disk)));
  throw new ApiError("timed_out", `volume ${name}: no copy yet on ${nodes.join(", ")}`, {
    advice: "see whether these nodes are well: ringstore node list",
  });
}

/** One that is found "creating" was promised to nobody. */
export async function takeBackCreation(
  context: ClusterContext,
  { id, name }: VolumeRecord,
): Promise<void> {
  await changeVolume(context, id, `cannot take back volume ${name}`, (record) =>
    record.phase === "creating" ? { ...record, phase: "deleting" } : null,
  );
}

/** What cannot be said now is found "creating" by the others, and taken back by them. */
async function takeBack(context: ClusterContext, planned: VolumeRecord): Promise<void> {
  const { name } = planned;
  try {
    await takeBackCreation(context, planned);
    context.look();
  } catch (error) {
    const fields = { volume: name, message: (error as Error).message };
    context.host.modules.log.log("warn", "cluster.create-not-taken-back", fields);
  }
}

export async function removeClusterVolume(
  context: ClusterContext,
  { id, name, members }: VolumeRecord,
  options: RequestOptions,
): Promise<DeleteReply> {
  const { inventory, timings, host } = context;
  const gone = { removedPath: null, removedFromDisk: null };
  const reply = { volume: name, ...gone, removedCopyCount: members.length };
  const check = (record: VolumeRecord): void => {
    const { node } = record.attachment;
    if (node === null) return;
    const message = `volume ${name} is attached on node ${inventory.nodeName(node)}`;
    throw new ApiError("volume_attached", message, {
      advice: `detach it first, there: ringstore volume detach ${name}`,
    });
  };
  let isNews = false;
  await changeVolume(context, id, `cannot delete volume ${name}`, (record) => {
    check(record);
    isNews = record.phase !== "deleting";
    if (options.dryRun || !isNews) return null;
    const { growToBytes: _, ...rest } = record;
    return { ...rest, phase: "deleting" };
  });
  if (options.dryRun) return reply;
  if (isNews) host.modules.events.add("volume.deleted", name, "its copies are being deleted");
  context.look();
  await inventory.until(() => !inventory.volumes.has(id), timings.deleteMs);
  return reply;
}
