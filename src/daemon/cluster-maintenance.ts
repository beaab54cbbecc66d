// A node that is put aside for a while: what it has attached goes to other nodes, nothing new comes
// to it, and nobody makes its copies anew elsewhere. Done by any node.
//
// Invariants: the node is marked before anything moves, so that nothing moves to it meanwhile; a
// volume whose last copy in sync it has refuses the whole, and changes nothing.

import type { RequestOptions } from "../api/control-plane.ts";
import { nodeCodec } from "../meta/index.ts";
import type { NodePhase, NodeRecord, VolumeRecord } from "../meta/records.ts";
import { membersInSync } from "../meta/repair-plan.ts";
import { ApiError } from "../model/errors.ts";
import type { NodeMaintenanceReply } from "../model/move-types.ts";
import { type ClusterContext, changeRecord } from "./cluster-context.ts";
import { handOverVolume } from "./cluster-hand-over.ts";
import type { ClusterInventory } from "./cluster-inventory.ts";
import { unitText } from "./scsi-attach.ts";

/** Volumes that move side by side. */
const MOVES_MAX = 8;

type HandedOver = NodeMaintenanceReply["handedOver"][number];
type Kept = NodeMaintenanceReply["kept"][number];

export async function setMaintenance(
  context: ClusterContext,
  node: NodeRecord,
  isOn: boolean,
  options: RequestOptions,
): Promise<NodeMaintenanceReply> {
  context.host.requireRunning();
  const phase = isOn ? "maintenance" : "active";
  const reply = { node: node.name, phase, handedOver: [], kept: [] } as const;
  requirePhase(node);
  if (!isOn) {
    if (!options.dryRun) await setPhase(context, node, phase);
    return reply;
  }
  requireOtherCopies(context.inventory, node);
  const here = attachedTo(context.inventory, node.id);
  if (options.dryRun) return { ...reply, ...planned(context, here, node.id) };
  await setPhase(context, node, phase);
  context.host.modules.log.log("info", "cluster.maintenance", { node: node.name });
  const handedOver: HandedOver[] = [];
  const kept: Kept[] = [];
  const left = [...here];
  const work = async (): Promise<void> => {
    for (let volume = left.shift(); volume !== undefined; volume = left.shift()) {
      const done = await move(context, volume, node.id);
      if ("node" in done) handedOver.push(done);
      else kept.push(done);
    }
  };
  await Promise.all(Array.from({ length: MOVES_MAX }, work));
  const byName = (a: { volume: string }, b: { volume: string }): number =>
    a.volume < b.volume ? -1 : 1;
  return { ...reply, handedOver: handedOver.sort(byName), kept: kept.sort(byName) };
}

function requirePhase({ name, phase }: NodeRecord): void {
  if (phase !== "draining") return;
  throw new ApiError("volume_busy", `node ${name} is being drained`, {
    advice: "see: ringstore node show",
  });
}

/** Volumes whose last copy in sync, among nodes that are there and stay, is on the node. */
function requireOtherCopies(inventory: ClusterInventory, node: NodeRecord): void {
  const names: string[] = [];
  for (const { record } of inventory.volumes.values()) {
    if (record.phase !== "ready") continue;
    const nodes = nodesInSync(inventory, record);
    const stays = (id: string): boolean =>
      inventory.isAlive(id) && inventory.nodes.get(id)?.record.phase === "active";
    if (nodes.has(node.id) && ![...nodes].some((id) => id !== node.id && stays(id))) {
      names.push(record.name);
    }
  }
  if (names.length === 0) return;
  const message = `node ${node.name} has the last copy in sync of ${names.sort().join(", ")}`;
  throw new ApiError("volume_unavailable", message, {
    advice: "wait until their other copies are in sync: ringstore volume list",
  });
}

function nodesInSync(inventory: ClusterInventory, record: VolumeRecord): Set<string> {
  return new Set(membersInSync(record).map((disk) => inventory.nodeOf(disk) ?? ""));
}

function attachedTo(inventory: ClusterInventory, nodeId: string): readonly VolumeRecord[] {
  return [...inventory.volumes.values()]
    .map(({ record }) => record)
    .filter(({ phase, attachment }) => phase === "ready" && attachment.node === nodeId);
}

/** Who gets it: the node that stands by, or one with a copy, the one with the fewest volumes. */
function targetOf(
  { inventory }: ClusterContext,
  record: VolumeRecord,
  from: string,
): NodeRecord | null {
  const inSync = nodesInSync(inventory, record);
  const standby = record.attachment.standby?.node;
  const rank = ({ id }: NodeRecord): number => {
    const count = attachedTo(inventory, id).length;
    return count + (id === standby ? 0 : inSync.has(id) ? 1e6 : 1e9);
  };
  const [best] = [...inventory.nodes.values()]
    .map((known) => known.record)
    .filter(({ id, phase }) => id !== from && phase === "active" && inventory.isAlive(id))
    .sort((a, b) => rank(a) - rank(b) || (a.id < b.id ? -1 : 1));
  return best ?? null;
}

const NOBODY = "no other node is there to take it";
const GUEST = "its guest runs there: shut it down, or move it";
const TARGET = "it is an iSCSI target, and no node stands by for it";

/** One disk of several of a VM: it goes where the VM goes. */
function unitReason({ attachment: { unit } }: VolumeRecord): string | null {
  if (unit === undefined) return null;
  return `it is ${unitText(unit)}: detach it there, and attach it where its VM goes`;
}

async function move(
  context: ClusterContext,
  record: VolumeRecord,
  from: string,
): Promise<HandedOver | Kept> {
  const volume = record.name;
  const reason = unitReason(record);
  if (reason !== null) return { volume, reason };
  const target = targetOf(context, record, from);
  if (target === null) return { volume, reason: NOBODY };
  try {
    await handOverVolume(context, record, target.name);
    return { volume, node: target.name };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const kept = record.attachment.target === undefined ? GUEST : TARGET;
    return { volume, reason: error.code === "volume_attached" ? kept : error.message };
  }
}

/** Whether guests run is known of this node alone; elsewhere it is found out by asking. */
function planned(
  context: ClusterContext,
  volumes: readonly VolumeRecord[],
  from: string,
): Pick<NodeMaintenanceReply, "handedOver" | "kept"> {
  const handedOver: HandedOver[] = [];
  const kept: Kept[] = [];
  for (const record of volumes) {
    const { id, name: volume } = record;
    const unit = unitReason(record);
    const target = targetOf(context, record, from);
    const isTarget = record.attachment.standby?.portal !== undefined;
    const isRunning = !isTarget && context.served.get(id)?.front.isRunning === true;
    if (unit !== null) kept.push({ volume, reason: unit });
    else if (target === null || isRunning)
      kept.push({ volume, reason: isRunning ? GUEST : NOBODY });
    else handedOver.push({ volume, node: target.name });
  }
  return { handedOver, kept };
}

async function setPhase(
  context: ClusterContext,
  { id, name }: NodeRecord,
  phase: NodePhase,
): Promise<void> {
  const changed = {
    key: context.keys.node(id),
    codec: nodeCodec,
    what: `cannot change node ${name}`,
    missing: () => new ApiError("node_not_found", `node ${name} does not exist`),
    contended: () =>
      new ApiError("volume_busy", `node ${name} keeps changing`, { advice: "try again" }),
  };
  await changeRecord(context, changed, (record) => {
    requirePhase(record);
    return record.phase === phase ? null : { ...record, phase };
  });
}
