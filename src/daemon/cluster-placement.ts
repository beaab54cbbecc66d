// Which disks get the copies of a new volume: one set of disks holds all of it. The rules are those
// of meta/placement.ts; it is asked for one segment, among disks that have room for the volume.

import { formatBytes } from "../base/units.ts";
import {
  type MetaKeys,
  mapPages,
  type PlacementPlan,
  planPlacement,
  SEGMENT_BYTES,
} from "../meta/index.ts";
import type { VolumeRecord } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import type { MetaWrite } from "../ports/meta-store.ts";
import type { ClusterInventory } from "./cluster-inventory.ts";

export { mapPages };

export interface ChosenSet {
  /** Ids, the local one first if there is one. */
  readonly members: readonly string[];
  readonly numbers: readonly number[];
}

/** Only live nodes are asked: the copies are made before the volume is there. */
export function chooseDisks(
  inventory: ClusterInventory,
  request: { readonly sizeBytes: number; readonly replicaCount: number; readonly here: string },
): ChosenSet {
  const { sizeBytes, replicaCount, here } = request;
  const nodes = [...inventory.nodes.values()]
    .map(({ record }) => record)
    .filter(({ id, phase }) => phase === "active" && inventory.isAlive(id));
  const ids = new Set(nodes.map(({ id }) => id));
  const disks = [...inventory.disks.values()]
    .map(({ record }) => record)
    .filter(({ node, phase }) => phase === "active" && ids.has(node));
  const roomy = disks.filter(({ freeBytes }) => freeBytes >= sizeBytes);
  const found = new Set(roomy.map(({ node }) => node)).size;
  if (found < replicaCount) {
    const rows = nodes
      .map(({ id, name }) => {
        const free = disks.filter(({ node }) => node === id).map((disk) => disk.freeBytes);
        return `${name} ${formatBytes(Math.max(0, ...free))}`;
      })
      .sort();
    const wanted = `${replicaCount} × ${formatBytes(sizeBytes)}`;
    const message =
      `${wanted} do not fit on different nodes, one disk on each; ` +
      `most room on one disk: ${rows.join(", ") || "no node is alive"}`;
    const advice = "add a node or a disk, or ask for a smaller volume or fewer replicas";
    throw new ApiError("no_space", message, { advice });
  }
  const plan: PlacementPlan = planPlacement(
    { sizeBytes: Math.min(sizeBytes, SEGMENT_BYTES), replicaCount, localNode: here },
    { nodes, disks: roomy },
  );
  const numbers = plan.segments[0] ?? [];
  const byNumber = new Map(roomy.map(({ number, id }) => [number, id]));
  return { numbers, members: numbers.map((number) => byNumber.get(number)!) };
}

/** The map of a volume as its record has it now. */
export function mapOf(
  keys: MetaKeys,
  inventory: ClusterInventory,
  { id, sizeBytes, members, replicaCount }: VolumeRecord,
): readonly MetaWrite[] {
  const numbers = members.map((disk) => inventory.disks.get(disk)?.record.number ?? 0);
  return mapPages(keys, id, sizeBytes, numbers.slice(0, replicaCount));
}

/** Takes the map away. */
export function noMapPages(
  keys: MetaKeys,
  volumeId: string,
  sizeBytes: number,
): readonly MetaWrite[] {
  return mapPages(keys, volumeId, sizeBytes, []).map(({ key }) => ({ key, value: null }));
}
