// Emptying a node or a disk: it is marked, and whoever leads moves its copies elsewhere, one after
// another (cluster-repair.ts). Until the new copy of a volume is in sync the old one counts. Called
// off, what has not moved stays.
//
// It is refused, and nothing is changed, when a copy would have no place: the volumes are named.

import type { DrainOptions } from "../api/cluster-control.ts";
import { diskCodec, nodeCodec, type RecordCodec } from "../meta/index.ts";
import type { DiskRecord, NodeRecord } from "../meta/records.ts";
import { type ForeseenCopy, foresee } from "../meta/repair-plan.ts";
import type { DrainReply, PlannedCopy } from "../model/cluster-types.ts";
import { ApiError } from "../model/errors.ts";
import { type ClusterContext, changeRecord } from "./cluster-context.ts";
import type { ClusterRepair } from "./cluster-repair.ts";

export interface DrainParts {
  readonly context: ClusterContext;
  readonly repair: ClusterRepair;
}

export function disksOf({ inventory }: ClusterContext, nodeId: string): readonly DiskRecord[] {
  return [...inventory.disks.values()]
    .map(({ record }) => record)
    .filter(({ node }) => node === nodeId);
}

/** Where copies on those disks would go. */
export function plannedCopies(
  { context, repair }: DrainParts,
  disks: readonly DiskRecord[],
): readonly PlannedCopy[] {
  const ids = new Set(disks.map(({ id }) => id));
  return foresee(repair.view(), ids).map((copy) => viewCopy(context, copy));
}

function viewCopy({ inventory }: ClusterContext, copy: ForeseenCopy): PlannedCopy {
  const place = (diskId: string | null): PlannedCopy["to"] => {
    const disk = diskId === null ? undefined : inventory.disks.get(diskId)?.record;
    if (diskId === null || disk === undefined) return null;
    return { node: inventory.nodeName(disk.node), disk: disk.name };
  };
  const { volume, from, to, why } = copy;
  return { volume: volume.name, from: place(from), to: place(to), why };
}

export async function drainNode(
  parts: DrainParts,
  { id, name }: NodeRecord,
  options: DrainOptions,
): Promise<DrainReply> {
  const { context } = parts;
  const { inventory, keys, host } = context;
  const copies = plannedCopies(parts, disksOf(context, id));
  const reply = { node: name, disk: null, draining: !options.cancel, copies };
  const phase = inventory.nodes.get(id)?.record.phase;
  if (phase === "maintenance") {
    throw new ApiError("node_busy", `node ${name} is in maintenance`, {
      advice: `end that first; see: ringstore node show ${name}`,
    });
  }
  if (!options.cancel && phase !== "draining") requirePlaces(`node ${name}`, copies);
  if (options.dryRun) return reply;
  const thing = { name: `node ${name}`, key: keys.node(id), codec: nodeCodec };
  const isNews = await mark(context, thing, !options.cancel);
  const type = options.cancel ? "node.active" : "node.draining";
  if (isNews) host.modules.events.add(type, null, `${name}, ${copies.length} copies`);
  return reply;
}

/** A disk of this node. */
export async function drainDisk(
  parts: DrainParts,
  name: string,
  options: DrainOptions,
): Promise<DrainReply> {
  const { context } = parts;
  const { inventory, keys, host, member } = context;
  const { id } = host.modules.disks.find(name).declared;
  const known = inventory.disks.get(id);
  if (known === undefined) {
    throw new ApiError("disk_unavailable", `disk ${name} is not known in the cluster yet`, {
      advice: "see: ringstore cluster show",
    });
  }
  const copies = plannedCopies(parts, [known.record]);
  const reply = { node: member.nodeName, disk: name, draining: !options.cancel, copies };
  const isDraining = known.record.phase === "draining";
  if (!options.cancel && !isDraining) requirePlaces(`disk ${name}`, copies);
  if (options.dryRun) return reply;
  const thing = { name: `disk ${name}`, key: keys.disk(id), codec: diskCodec };
  const isNews = await mark(context, thing, !options.cancel);
  const type = options.cancel ? "disk.active" : "disk.draining";
  if (isNews) host.modules.events.addDisk(type, name, `${copies.length} copies`);
  return reply;
}

function requirePlaces(what: string, copies: readonly PlannedCopy[]): void {
  const stuck = copies.filter(({ to }) => to === null);
  if (stuck.length === 0) return;
  const names = [...new Set(stuck.map(({ volume }) => volume))].join(", ");
  const message = `${what} cannot be emptied: no place for copies of ${names}: ${stuck[0]?.why}`;
  throw new ApiError("no_space", message, {
    advice: "add a node or a disk, or delete volumes",
  });
}

/** Returns whether it was marked otherwise before. */
async function mark<T extends NodeRecord | DiskRecord>(
  context: ClusterContext,
  thing: { readonly name: string; readonly key: string; readonly codec: RecordCodec<T> },
  draining: boolean,
): Promise<boolean> {
  const { name, key, codec } = thing;
  const changed = (): ApiError =>
    new ApiError("node_busy", `${name} was changed meanwhile`, { advice: "try again" });
  const { isChanged } = await changeRecord(
    context,
    { key, codec, what: `cannot mark ${name}`, missing: changed, contended: changed },
    (record) => {
      if ((record.phase === "draining") === draining) return null;
      return { ...record, phase: draining ? "draining" : "active" };
    },
  );
  if (isChanged) context.look();
  return isChanged;
}
