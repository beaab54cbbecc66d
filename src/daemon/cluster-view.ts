// What the cluster looks like from this node: volumes, nodes, resyncs. From the inventory and from
// what the data plane counts; synchronous.

import type { NodeRecord, VolumeRecord } from "../meta/records.ts";
import { outCopies } from "../meta/repair-plan.ts";
import type {
  ClusterBackingView,
  ClusterNode,
  CopyPlace,
  CopyReplacement,
  CopyState,
  Rebuild,
  VolumeCopy,
} from "../model/cluster-types.ts";
import type { Attachment, Health, Volume, VolumeState } from "../model/types.ts";
import type { OwnerStats } from "../ports/cluster-plane.ts";
import type { VolumeStats } from "../ports/data-plane.ts";
import { shownClassic } from "./classic-attach.ts";
import type { ClusterContext } from "./cluster-context.ts";
import { RebuildProgress } from "./rebuild-progress.ts";
import { serialOf, shownAttachment } from "./volume-entry.ts";

/** A takeover that takes longer is told. */
const TAKEOVER_PATIENCE_MS = 5000;

/** What is asked once for many views. */
export interface Sight {
  readonly owners: ReadonlyMap<string, OwnerStats>;
  readonly stats: ReadonlyMap<string, VolumeStats>;
}

export class ClusterViews {
  readonly #context: ClusterContext;
  readonly #progress = new RebuildProgress();
  readonly #blockedRepair: (id: string) => string | undefined;
  /** Since when a volume is being taken over here; monotonic. */
  readonly #takeovers = new Map<string, number>();

  /** `blockedRepair`: why a copy of the volume cannot be made elsewhere; undefined = it can. */
  constructor(context: ClusterContext, blockedRepair: (id: string) => string | undefined) {
    this.#blockedRepair = blockedRepair;
    this.#context = context;
  }

  sight(): Sight {
    const { plane } = this.#context;
    const byId = <T extends { readonly volumeId: string }>(all: readonly T[]): Map<string, T> =>
      new Map(all.map((one) => [one.volumeId, one]));
    return { owners: byId(plane.ownerStats()), stats: byId(plane.volumeStats()) };
  }

  /** Told by the data plane. */
  ownerChanged(stats: OwnerStats): void {
    const { volumeId, state } = stats;
    this.#progress.told(stats);
    const nowMs = performance.now();
    if (state !== "taking-over") this.#takeovers.delete(volumeId);
    else if (!this.#takeovers.has(volumeId)) this.#takeovers.set(volumeId, nowMs);
  }

  volume(record: VolumeRecord, sight: Sight = this.sight()): Volume {
    const { id, name, sizeBytes, blockBytes, createdAt, attachment } = record;
    return {
      id,
      name,
      sizeBytes,
      blockBytes,
      readOnly: attachment.node !== null && attachment.readOnly,
      serial: serialOf(id),
      backing: this.#backing(record, sight),
      createdAt,
      state: this.#state(record, sight),
      attachment: this.#attachment(record, sight),
      health: this.healthOf(record),
    };
  }

  #backing(record: VolumeRecord, sight: Sight): ClusterBackingView {
    const { inventory } = this.#context;
    const nameOf = (node: string | null): string | null =>
      node === null ? null : inventory.nodeName(node);
    return {
      kind: "cluster",
      replicaCount: record.replicaCount,
      copies: record.members.map((disk) => this.#copy(record, disk, sight)),
      replacement: this.#replacement(record),
      epoch: record.epoch,
      owner: nameOf(record.owner?.node ?? null),
      attachedTo: nameOf(record.attachment.node),
      standby: nameOf(record.attachment.standby?.node ?? null),
      targetUrl: this.#targetUrl(record),
    };
  }

  /** Known on every node, also on those that have nothing to do with it. */
  #targetUrl({ id, name, attachment: { node, target } }: VolumeRecord): string | null {
    if (target === undefined || node === null || !this.#context.inventory.isAlive(node))
      return null;
    return shownClassic({ id, name }, target, target.portal).url;
  }

  #replacement({ replacement }: VolumeRecord): CopyReplacement | null {
    if (replacement === undefined) return null;
    const { inventory } = this.#context;
    const place = (diskId: string): CopyPlace => {
      const disk = inventory.disks.get(diskId)?.record;
      return { node: inventory.nodeName(disk?.node ?? ""), disk: disk?.name ?? diskId };
    };
    const { from, to, reason, since } = replacement;
    return { from: from === null ? null : place(from), to: place(to), reason, since };
  }

  #copy(record: VolumeRecord, diskId: string, { owners }: Sight): VolumeCopy {
    const { inventory, link } = this.#context;
    const disk = inventory.disks.get(diskId)?.record;
    const out = record.out.find((one) => one.disk === diskId);
    const owner = owners.get(record.id);
    const told = owner?.members.find(({ place }) => place.diskId === diskId)?.state;
    let state: CopyState = out === undefined ? "in-sync" : "out";
    // What the owner tells is some moments old: once the record counts on it, the copying is over.
    const isOver = told === "resyncing" && out === undefined;
    if (told !== undefined && !isOver) state = told;
    else if (told === undefined && !link.isReachable) state = "unknown";
    const resync = owner?.resync ?? null;
    const isCopied = state === "resyncing" && resync?.diskId === diskId;
    return {
      node: inventory.nodeName(disk?.node ?? ""),
      disk: disk?.name ?? diskId,
      state,
      reason: out?.reason ?? null,
      since: out?.since ?? null,
      resync: isCopied ? { doneBytes: resync.doneBytes, totalBytes: resync.totalBytes } : null,
    };
  }

  #state({ id, phase, attachment }: VolumeRecord, { stats }: Sight): VolumeState {
    const { member, inventory, served } = this.#context;
    if (phase !== "ready") return phase;
    const { node, standby } = attachment;
    if (node === null) return "detached";
    if (standby?.node === member.nodeId && served.get(id)?.serving === true) return "standby";
    if (node !== member.nodeId) return inventory.isAlive(node) ? "attached" : "unavailable";
    const entry = served.get(id);
    // A target that is about to be taken over is not there yet.
    const isComing = entry?.isStandby === true && attachment.target !== undefined;
    if (entry?.serving !== true || isComing) return "unavailable";
    return stats.get(id)?.connected === true ? "connected" : "attached";
  }

  #attachment({ id, name, attachment }: VolumeRecord, { stats }: Sight): Attachment | null {
    const { member, served, host } = this.#context;
    const entry = served.get(id);
    const declared = entry?.declared ?? null;
    const { node, standby } = attachment;
    const isOurs = node === member.nodeId || standby?.node === member.nodeId;
    if (!isOurs || declared === null) return null;
    const { readOnly, generation } = attachment;
    return shownAttachment(
      host.options.paths,
      { id, name },
      { ...declared, readOnly },
      { generation, portal: entry?.serving === true ? entry.portal : null, stats: stats.get(id) },
    );
  }

  healthOf(record: VolumeRecord): readonly Health[] {
    const { served } = this.#context;
    const items: Health[] = [];
    const problem = served.get(record.id)?.problem ?? null;
    if (problem !== null) items.push(problem);
    if (record.phase === "deleting") items.push(...this.#pendingDelete(record));
    if (record.phase !== "ready") return items;
    const { members, replicaCount, attachment } = record;
    const out = outCopies(record);
    const first = out[0];
    if (first !== undefined) {
      const since = out.reduce((at, one) => (one.since < at ? one.since : at), first.since);
      const message = `${out.length} of ${replicaCount} copies are out since ${since}`;
      items.push({ code: "COPY_OUT", severity: "warn", message });
    }
    if (members.length < replicaCount) {
      const message = `${members.length} of ${replicaCount} copies exist`;
      items.push({ code: "COPY_MISSING", severity: "warn", message });
    }
    const blocked = this.#blockedRepair(record.id);
    if (blocked !== undefined) {
      const message = `no copy of it can be made elsewhere: ${blocked}`;
      items.push({ code: "REPAIR_BLOCKED", severity: "error", message });
    }
    const { node } = attachment;
    const { member, inventory } = this.#context;
    if (node !== null && node !== member.nodeId && !inventory.isAlive(node)) {
      const message = `it is attached on node ${inventory.nodeName(node)}, which is missing`;
      items.push({ code: "OWNER_MISSING", severity: "error", message });
    }
    const sinceMs = this.#takeovers.get(record.id) ?? Number.POSITIVE_INFINITY;
    if (performance.now() - sinceMs > TAKEOVER_PATIENCE_MS) {
      const message = "it waits for a copy that is in sync, or for an earlier owner's time to end";
      items.push({ code: "OWNER_WAITING", severity: "warn", message });
    }
    return items;
  }

  /** Quiet while every node that has a copy is there to delete it. */
  #pendingDelete({ id }: VolumeRecord): readonly Health[] {
    const { inventory } = this.#context;
    const gone = inventory.copyDisks(id).flatMap((disk) => {
      const node = inventory.nodeOf(disk);
      return node === undefined || inventory.isAlive(node) ? [] : [inventory.nodeName(node)];
    });
    if (gone.length === 0) return [];
    const message = `its copies on ${gone.join(", ")} are deleted when the node is back`;
    return [{ code: "DELETE_PENDING", severity: "warn", message }];
  }

  node(record: NodeRecord): ClusterNode {
    const { inventory, member, plane } = this.#context;
    const { id, name, address, rack, phase, joinedAt } = record;
    const disks = [...inventory.disks.values()]
      .map((known) => known.record)
      .filter((disk) => disk.node === id)
      .sort((a, b) => a.number - b.number);
    const ids = new Set(disks.map((disk) => disk.id));
    const volumes = [...inventory.volumes.values()].map((known) => known.record);
    const names = (some: readonly VolumeRecord[]): string[] => some.map((one) => one.name).sort();
    const isThis = id === member.nodeId;
    const link = plane.peerStats().find((peer) => peer.nodeId === id)?.state ?? "down";
    return {
      id,
      name,
      address,
      rack,
      state: inventory.isAlive(id) ? "alive" : "missing",
      phase,
      isThis,
      joinedAt,
      disks: disks.map((disk) => ({
        id: disk.id,
        name: disk.name,
        sizeBytes: disk.sizeBytes,
        freeBytes: disk.freeBytes,
        phase: disk.phase,
      })),
      ownedVolumes: names(volumes.filter((one) => one.owner?.node === id)),
      copiesOf: names(volumes.filter((one) => one.members.some((disk) => ids.has(disk)))),
      link: isThis ? null : link,
    };
  }

  rebuilds(): readonly Rebuild[] {
    const { inventory, plane } = this.#context;
    return plane.ownerStats().flatMap(({ volumeId, resync }) => {
      const record = inventory.volumes.get(volumeId)?.record;
      if (resync === null || record === undefined) return [];
      const { diskId, stage, doneBytes, totalBytes, isTotalKnown } = resync;
      const disk = inventory.disks.get(diskId)?.record;
      const bytesPerSecond = this.#progress.bytesPerSecond(volumeId, diskId);
      const left = Math.max(0, totalBytes - doneBytes);
      return [
        {
          volume: record.name,
          node: inventory.nodeName(disk?.node ?? ""),
          disk: disk?.name ?? diskId,
          reason: record.out.find((one) => one.disk === diskId)?.reason ?? null,
          stage,
          doneBytes,
          totalBytes,
          isTotalKnown,
          bytesPerSecond,
          secondsLeft: isTotalKnown && bytesPerSecond > 0 ? Math.ceil(left / bytesPerSecond) : null,
        },
      ];
    });
  }
}
