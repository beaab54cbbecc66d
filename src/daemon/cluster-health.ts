// How the cluster is, as a whole: the view of `cluster show`, whose health is part of status and
// advise, and what its volumes have to say. Quiet when all is well.

import type { VolumeRecord } from "../meta/records.ts";
import { membersInSync, outCopies } from "../meta/repair-plan.ts";
import type { ClusterView } from "../model/cluster-types.ts";
import type { Health, StatusItem } from "../model/types.ts";
import type { ClusterContext } from "./cluster-context.ts";
import type { ClusterViews } from "./cluster-view.ts";

/** What is wrong with this node's part, beyond what the inventory tells. */
export interface NodeTroubles {
  /** Why the data plane does not take part, "" = it does. */
  readonly plane: string;
  /** Of the last look at what is to be done, "" = all was done. */
  readonly reconcile: string;
  readonly orphanCount: number;
  /** Volumes whose records are older than what copies of them have seen. */
  readonly olderVolumes: readonly string[];
}

const NAMES_MAX = 8;
/** Of a handshake with a node of another release: docs/wire.md. */
const UPGRADE = /upgrade the older one/;

export function clusterView(context: ClusterContext, troubles: NodeTroubles): ClusterView {
  const { inventory, member, link } = context;
  const ready = readyVolumes(context);
  return {
    id: member.clusterId,
    name: inventory.cluster?.name ?? member.clusterName,
    generation: inventory.cluster?.generation ?? member.generation,
    node: member.nodeName,
    metadata: { endpoints: link.endpoints, reachable: link.isReachable },
    nodeCount: inventory.nodes.size,
    liveNodeCount: liveNodeCount(context),
    volumeCount: inventory.volumes.size,
    degradedCount: ready.filter((one) => outCopies(one).length > 0).length,
    canLoseNodes: canLoseNodes(context),
    health: clusterHealth(context, troubles),
  };
}

/** A node that was removed may be alive: it does not count. */
function liveNodeCount({ inventory }: ClusterContext): number {
  return [...inventory.live.keys()].filter((id) => inventory.nodes.has(id)).length;
}

function readyVolumes({ inventory }: ClusterContext): readonly VolumeRecord[] {
  return [...inventory.volumes.values()]
    .map(({ record }) => record)
    .filter(({ phase }) => phase === "ready");
}

/**
 * Any so many nodes: of the volume with the fewest, the nodes that are alive and have a copy in
 * sync, less one. Without volumes, all but this one. The metadata is not counted: docs/metadata.md.
 */
function canLoseNodes(context: ClusterContext): number {
  const { inventory } = context;
  let fewest = Math.max(1, liveNodeCount(context));
  for (const record of readyVolumes(context)) {
    const nodes = new Set<string>();
    for (const disk of membersInSync(record)) {
      const node = inventory.nodeOf(disk);
      if (node !== undefined && inventory.isAlive(node)) nodes.add(node);
    }
    fewest = Math.min(fewest, nodes.size);
  }
  return Math.max(0, fewest - 1);
}

function clusterHealth(context: ClusterContext, troubles: NodeTroubles): readonly Health[] {
  const { link, inventory, trusted } = context;
  const items: Health[] = [];
  const where = link.endpoints.join(", ");
  if (!link.isReachable) {
    const why = link.problem === "" ? "it is being connected" : link.problem;
    const message = `the cluster's metadata at ${where} does not answer: ${why}`;
    items.push({ code: "META_UNREACHABLE", severity: "error", message });
  }
  items.push(...restoredHealth(context, where, troubles));
  if (inventory.birth !== 0 && inventory.birth !== trusted.metaBirth) {
    const message = `the metadata at ${where} was put back: it is not what this node joined`;
    items.push({ code: "META_REPLACED", severity: "error", message });
  }
  for (const [key, problem] of inventory.damaged) {
    items.push({ code: "META_DAMAGED", severity: "error", message: `${key}: ${problem}` });
  }
  if (troubles.plane !== "") {
    items.push({ code: "CLUSTER_NOT_SERVED", severity: "error", message: troubles.plane });
  }
  if (troubles.reconcile !== "" && link.isReachable) {
    items.push({ code: "CLUSTER_BEHIND", severity: "warn", message: troubles.reconcile });
  }
  if (troubles.orphanCount > 0) {
    const message = `${troubles.orphanCount} replicas on disks of this node belong to no volume`;
    items.push({ code: "REPLICAS_UNKNOWN", severity: "warn", message });
  }
  // Whom we do not see when the metadata is away says nothing about them.
  if (!link.isReachable) return items;
  const links = new Map(context.plane.peerStats().map((link) => [link.nodeId, link]));
  for (const { record } of inventory.nodes.values()) {
    const { name, phase } = record;
    const isMissing = !inventory.isAlive(record.id);
    if (phase === "maintenance") {
      const how = isMissing ? "in maintenance, and away" : "in maintenance";
      const end = `when it is done: ringstore node maintenance off ${name}`;
      const message = `node ${name} is ${how}; ${end}`;
      items.push({ code: "NODE_IN_MAINTENANCE", severity: "warn", message });
    }
    const failure = links.get(record.id)?.lastFailure ?? "";
    if (!isMissing && UPGRADE.test(failure)) {
      const message = `no link to node ${name}: ${failure}`;
      items.push({ code: "NODE_INCOMPATIBLE", severity: "error", message });
    }
    if (!isMissing || phase === "maintenance") continue;
    const message = `node ${name} at ${record.address} is missing`;
    items.push({ code: "NODE_MISSING", severity: "warn", message });
  }
  return items;
}

/** Metadata that is gone, or that came from a backup which is too old. */
function restoredHealth(
  { inventory }: ClusterContext,
  where: string,
  { olderVolumes }: NodeTroubles,
): readonly Health[] {
  const items: Health[] = [];
  if (olderVolumes.length > 0) {
    const volumes = olderVolumes.slice(0, NAMES_MAX).join(", ");
    const more =
      olderVolumes.length > NAMES_MAX ? ` and ${olderVolumes.length - NAMES_MAX} more` : "";
    const message =
      `the metadata at ${where} is older than what copies of ${volumes}${more} have seen: it was ` +
      "put back from a backup, and they are not served from it. Put a newer one back, or empty " +
      "the metadata and make the records again: ringstore cluster recover --from-disks";
    items.push({ code: "META_ROLLED_BACK", severity: "error", message });
  }
  if (inventory.revision > 0 && inventory.cluster === null) {
    const message =
      `the metadata at ${where} holds no cluster. Put a backup back: ringstore cluster import ` +
      "FILE; or make the records again: ringstore cluster recover --from-disks";
    items.push({ code: "META_EMPTY", severity: "error", message });
  }
  return items;
}

/** Of the cluster's volumes, for status and advise. */
export function volumeItems(context: ClusterContext, views: ClusterViews): readonly StatusItem[] {
  return [...context.inventory.volumes.values()].flatMap(({ record }) =>
    views.healthOf(record).map((item) => ({ ...item, volume: record.name, disk: null })),
  );
}
