// Since when this node has seen which disks gone: their node missing, themselves failed, or
// forgotten; and, of volumes that it owns, which copies it does not reach though their nodes
// live. By our own clock: no time that another machine has written decides anything. Every node
// keeps count of the first, so that a new leader need not begin anew.
//
// A node in maintenance is expected to be away: its disks are not lost, nor cut off.

import type { DiskRecord, NodeRecord, VolumeRecord } from "../meta/records.ts";
import { isInSync } from "../meta/repair-plan.ts";
import type { ClusterContext } from "./cluster-context.ts";

type Shelf<T> = ReadonlyMap<string, { readonly record: T }>;

/** What this node knows of the cluster: see ClusterInventory. */
export interface LossView {
  readonly disks: Shelf<DiskRecord>;
  readonly nodes: Shelf<NodeRecord>;
  readonly volumes: Shelf<VolumeRecord>;
  isAlive(nodeId: string): boolean;
}

/** Since when something has been so, by name; monotonic. */
class Spans {
  readonly #nowMs: () => number;
  readonly #sinceMs = new Map<string, number>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  get size(): number {
    return this.#sinceMs.size;
  }

  /** It is so of these, and of no others. */
  follow(names: ReadonlySet<string>): void {
    const nowMs = this.#nowMs();
    for (const name of this.#sinceMs.keys()) if (!names.has(name)) this.#sinceMs.delete(name);
    for (const name of names) if (!this.#sinceMs.has(name)) this.#sinceMs.set(name, nowMs);
  }

  /** 0 = it is not so. */
  ms(name: string): number {
    const sinceMs = this.#sinceMs.get(name);
    return sinceMs === undefined ? 0 : Math.max(1, this.#nowMs() - sinceMs);
  }

  /** Until the next of them has been so for so long. */
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

export class DiskLosses {
  readonly #inventory: LossView;
  readonly #spans: Spans;

  constructor(inventory: LossView, nowMs: () => number) {
    this.#inventory = inventory;
    this.#spans = new Spans(nowMs);
  }

  look(): void {
    const known = new Set(this.#inventory.disks.keys());
    for (const { record } of this.#inventory.volumes.values()) {
      for (const disk of record.members) known.add(disk);
    }
    this.#spans.follow(new Set([...known].filter((disk) => !this.#isThere(disk))));
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
    return this.#spans.ms(diskId);
  }

  nextDueMs(afterMs: number): number {
    return this.#spans.nextDueMs(afterMs);
  }
}

/**
 * Copies of volumes that this node owns which are out, and to whose nodes it has no link, though
 * they are alive to everybody. One that is being brought back is not cut off, however often that
 * fails.
 */
export class CutOffs {
  readonly #context: ClusterContext;
  readonly #spans: Spans;
  #unreached: ReadonlySet<string> = new Set();

  constructor(context: ClusterContext, nowMs: () => number) {
    this.#context = context;
    this.#spans = new Spans(nowMs);
  }

  /** Time is counted for some copy. */
  get isCounting(): boolean {
    return this.#spans.size > 0;
  }

  look(): void {
    const { inventory, plane, member } = this.#context;
    const links = new Map(plane.peerStats().map(({ nodeId, state }) => [nodeId, state]));
    const others = [...inventory.nodes.keys()].filter((id) => id !== member.nodeId);
    this.#unreached = new Set(others.filter((id) => links.get(id) !== "up"));
    const names = new Set<string>();
    if (this.#unreached.size > 0) {
      for (const { volumeId, state, members } of plane.ownerStats()) {
        if (state !== "serving") continue;
        for (const { place, state: copyState } of members) {
          const isOut = copyState === "out" && this.#isCutOff(volumeId, place.diskId);
          if (isOut) names.add(nameOf(volumeId, place.diskId));
        }
      }
    }
    this.#spans.follow(names);
  }

  #isCutOff(volumeId: string, diskId: string): boolean {
    const { inventory } = this.#context;
    const record = inventory.volumes.get(volumeId)?.record;
    const node = inventory.nodeOf(diskId);
    if (record === undefined || node === undefined || isInSync(record, diskId)) return false;
    if (!this.#unreached.has(node) || !inventory.isAlive(node)) return false;
    return !inventory.isInMaintenance(diskId);
  }

  /** 0 = it is not. */
  cutOffMs(volumeId: string, diskId: string): number {
    return this.#spans.ms(nameOf(volumeId, diskId));
  }

  isReachable(nodeId: string): boolean {
    return !this.#unreached.has(nodeId);
  }

  nextDueMs(afterMs: number): number {
    return this.#spans.nextDueMs(afterMs);
  }
}

function nameOf(volumeId: string, diskId: string): string {
  return `${volumeId}/${diskId}`;
}
