// Taking a node out of the cluster that is gone, or that is alive and was emptied: its copies are
// forgotten, its disks, itself. In an order that a crash anywhere leaves a smaller node that is
// removed by the same command.
//
// A copy that still counts is never forgotten: its volume's owner puts it out first.

import type { RequestOptions } from "../api/control-plane.ts";
import type { Attachment, DiskRecord, NodeRecord, VolumeRecord } from "../meta/records.ts";
import { isInSync } from "../meta/repair-plan.ts";
import type { NodeRemoveReply } from "../model/cluster-types.ts";
import { ApiError } from "../model/errors.ts";
import { type ClusterContext, changeVolume, isNodeLive, transact } from "./cluster-context.ts";
import { forgetDisk } from "./cluster-disks.ts";
import { type DrainParts, disksOf, plannedCopies } from "./cluster-drain.ts";
import { mapOf } from "./cluster-placement.ts";

export async function removeNode(
  parts: DrainParts,
  node: NodeRecord,
  options: RequestOptions,
): Promise<NodeRemoveReply> {
  const { context } = parts;
  const { inventory, host } = context;
  const disks = disksOf(context, node.id);
  const ids = new Set(disks.map(({ id }) => id));
  const volumes = [...inventory.volumes.values()]
    .map(({ record }) => record)
    .filter((one) => one.members.some((disk) => ids.has(disk)) || one.attachment.node === node.id);
  const withCopies = volumes.filter((one) => one.members.some((disk) => ids.has(disk)));
  const names = withCopies.map(({ name }) => name).sort();
  const isAlive = await isNodeLive(context, node.id, `cannot remove node ${node.name}`);
  if (isAlive) requireEmpty(context, node, volumes, ids);
  const reply = { node: node.name, volumes: names, copies: plannedCopies(parts, disks) };
  const counted = withCopies.filter((one) => counts(one, ids)).map(({ name }) => name);
  if (options.dryRun) return reply;
  if (counted.length > 0) {
    const message = `node ${node.name} has copies that count: of ${counted.sort().join(", ")}`;
    throw new ApiError("volume_unavailable", message, {
      advice:
        "wait until they are made anew elsewhere, attach these volumes elsewhere, which puts the " +
        "copies out, or delete them",
    });
  }
  for (const volume of volumes) await forgetCopies(context, volume, node, ids);
  await forgetCopyKeys(context, ids);
  await forgetDisks(context, disks);
  await forgetNode(context, node, isAlive);
  host.modules.log.log("warn", "cluster.node-removed", { node: node.name });
  host.modules.events.add("node.removed", null, node.name);
  return reply;
}

/** It is another one, was drained, and nothing is left there. */
function requireEmpty(
  { inventory, member }: ClusterContext,
  { id, name, phase }: NodeRecord,
  volumes: readonly VolumeRecord[],
  ids: ReadonlySet<string>,
): void {
  const refuse = (message: string, advice: string): never => {
    throw new ApiError("node_alive", message, { advice });
  };
  const drain = `stop its daemon, or move everything off it first: ringstore node drain ${name}`;
  const list = (some: readonly VolumeRecord[]): string => some.map((one) => one.name).join(", ");
  const attached = volumes.filter(({ attachment }) => attachment.node === id);
  if (attached.length > 0) {
    const message = `node ${name} is alive, and has ${list(attached)} attached`;
    refuse(message, "detach these volumes there first: ringstore volume detach NAME");
  }
  if (volumes.length > 0) {
    refuse(`node ${name} is alive, and has copies of ${list(volumes)}`, drain);
  }
  if (phase !== "draining") refuse(`node ${name} is alive, and was not drained`, drain);
  const left = [...inventory.copies.values()].filter(({ record }) => ids.has(record.disk));
  if (left.length > 0) {
    const message = `node ${name} is alive, and is deleting ${left.length} copies that have moved`;
    refuse(message, "try again in a moment");
  }
  if (id !== member.nodeId) return;
  refuse(`node ${name} is the one that answers`, "give this command on another node");
}

function withoutStandby(attachment: Attachment, nodeId: string): Attachment {
  const { standby, ...rest } = attachment;
  return standby?.node === nodeId ? rest : attachment;
}

/** Does the volume count on a copy there? */
function counts(record: VolumeRecord, ids: ReadonlySet<string>): boolean {
  return record.phase === "ready" && [...ids].some((disk) => isInSync(record, disk));
}

async function forgetCopies(
  context: ClusterContext,
  { id, name }: VolumeRecord,
  node: NodeRecord,
  ids: ReadonlySet<string>,
): Promise<void> {
  const { inventory, keys } = context;
  const without = (record: VolumeRecord): VolumeRecord => {
    const { attachment } = record;
    const isThere = attachment.node === node.id;
    return {
      ...record,
      // Whoever made it is gone, or its copies are: nobody was promised it.
      phase: record.phase === "creating" ? "deleting" : record.phase,
      members: record.members.filter((disk) => !ids.has(disk)),
      out: record.out.filter(({ disk }) => !ids.has(disk)),
      membershipVersion: record.membershipVersion + 1,
      attachment: isThere
        ? { generation: attachment.generation + 1, node: null, readOnly: false }
        : withoutStandby(attachment, node.id),
    };
  };
  await changeVolume(
    context,
    id,
    `cannot take node ${node.name} out of volume ${name}`,
    (record) => {
      if (!counts(record, ids)) return without(record);
      throw new ApiError("volume_busy", `volume ${name} counts on its copy there again`, {
        advice: "see: ringstore node list",
      });
    },
    (record) => ({
      writes: [
        ...mapOf(keys, inventory, record),
        ...[...ids].map((disk) => ({ key: keys.volumeCopy(id, disk), value: null })),
      ],
    }),
  );
}

/** Of volumes whose members were taken out by an attempt before this one. */
async function forgetCopyKeys(context: ClusterContext, ids: ReadonlySet<string>): Promise<void> {
  const { inventory, link, keys } = context;
  for (const name of [...inventory.copies.keys()]) {
    const [volumeId = "", disk = ""] = name.split("/");
    if (!ids.has(disk)) continue;
    const write = { key: keys.volumeCopy(volumeId, disk), value: null };
    await link.ask("cannot forget a copy", (store) =>
      transact(context, store, { guards: [], writes: [write] }),
    );
  }
}

async function forgetDisks(context: ClusterContext, disks: readonly DiskRecord[]): Promise<void> {
  const { inventory, link, keys } = context;
  for (const { id, name } of disks) {
    const known = inventory.disks.get(id);
    if (known === undefined) continue;
    const answer = await link.ask(`cannot take disk ${name} out`, (store) =>
      transact(context, store, forgetDisk(keys, known)),
    );
    if (answer.outcome === "applied") continue;
    throw new ApiError("volume_busy", `disk ${name} has changed meanwhile`, {
      advice: "try again",
    });
  }
}

async function forgetNode(
  context: ClusterContext,
  { id, name }: NodeRecord,
  isAlive: boolean,
): Promise<void> {
  const { link, keys } = context;
  const forgotten = { key: keys.node(id), value: null };
  if (isAlive) {
    const writes = [forgotten, { key: keys.liveNode(id), value: null }];
    await link.ask(`cannot remove node ${name}`, (store) =>
      transact(context, store, { guards: [], writes }),
    );
    return;
  }
  await link.ask(`cannot remove node ${name}`, (store) =>
    transact(context, store, {
      // It must not have come back.
      guards: [{ key: keys.liveNode(id), modRevision: 0 }],
      writes: [forgotten],
    }).then((answer) => {
      if (answer.outcome === "applied") return;
      throw new ApiError("node_alive", `node ${name} has come back`);
    }),
  );
}
