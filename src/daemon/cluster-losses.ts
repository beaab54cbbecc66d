// Since when this node has seen which disks gone: their node missing, themselves failed, or
// forgotten. By our own clock: no time that another machine has written decides anything. Every
// node keeps count, so that a new leader need not begin anew.
//
// A node in maintenance is expected to be away: its disks are not lost.

import type { DiskRecord, NodeRecord, VolumeRecord } from "../meta/records.ts";

type Shelf<T> = ReadonlyMap<string, { readonly record: T }>;

/** What this node knows of the cluster: see ClusterInventory. */
export interface LossView {
  readonly disks: Shelf<DiskRecord>;
  readonly nodes: Shelf<NodeRecord>;
  readonly volumes: Shelf<VolumeRecord>;
  isAlive(nodeId: string): boolean;
}

export class DiskLosses {
  readonly #inventory: LossView;
  readonly #nowMs: () => number;
  /** By disk; monotonic. */
  readonly #sinceMs = new Map<string, number>();

  constructor(inventory: LossView, nowMs: () => number) {
    this.#inventory = inventory;
    this.#nowMs = nowMs;
  }

  look(): void {
    const nowMs = this.#nowMs();
    const known = new Set(this.#inventory.disks.keys());
    for (const { record } of this.#inventory.volumes.values()) {
      for (const disk of record.members) known.add(disk);
    }
    for (const disk of this.#sinceMs.keys()) {
      if (!known.has(disk) || this.#isThere(disk)) this.#sinceMs.delete(disk);
    }
    for (const disk of known) {
      if (!this.#sinceMs.has(disk) && !this.#isThere(disk)) this.#sinceMs.set(disk, nowMs);
    }
  }

  #isThere(diskId: string): boolean {
    const { disks, nodes } = this.#inventory;
    const disk = disks.get(diskId)?.record;
    if (disk === undefined || disk.phase === "failed") return false;
    if (this.#inventory.isAlive(disk.node)) return true;
    return nodes.get(disk.node)?.record.phase === "maintenance";
  }

  /** 0 = it is there. */
  lostMs(diskId: string): number {
    const sinceMs = this.#sinceMs.get(diskId);
    return sinceMs === undefined ? 0 : Math.max(1, this.#nowMs() - sinceMs);
  }

  /** Until the next of them has been gone for so long. */
  nextDueMs(afterMs: number): number {
    const nowMs = this.#nowMs();
    let nextMs = Number.POSITIVE_INFINITY;
    for (const sinceMs of this.#sinceMs.values()) {
      const leftMs = sinceMs + afterMs - nowMs;
      if (leftMs > 0) nextMs = Math.min(nextMs, leftMs);
    }
    return nextMs;
  }
}
