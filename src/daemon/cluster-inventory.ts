// What this node knows of its cluster: every record, as a watch tells it. In memory, so that lists
// and views are synchronous. It may lag by any time: views rest on it, decisions read again.
//
// A record that is not understood is kept by name and shown; the others are used.

import {
  clusterCodec,
  copyCodec,
  diskCodec,
  liveCodec,
  type MetaKeys,
  nodeCodec,
  type RecordCodec,
  reservationsCodec,
  volumeCodec,
} from "../meta/index.ts";
import type {
  ClusterRecord,
  CopyRecord,
  DiskRecord,
  LiveRecord,
  NodeRecord,
  ReservationsRecord,
  VolumeRecord,
} from "../meta/records.ts";
import type { MetaChange, MetaEntry, MetaList, MetaWatchHandler } from "../ports/meta-store.ts";

export interface Known<T> {
  readonly record: T;
  readonly modRevision: number;
}

/** Records of one kind by the rest of their keys. */
class Shelf<T> extends Map<string, Known<T>> {
  readonly codec: RecordCodec<T>;

  constructor(codec: RecordCodec<T>) {
    super();
    this.codec = codec;
  }
}

/** By `volume/disk`, and by volume: every look asks for the copies of every volume. */
class CopyShelf extends Shelf<CopyRecord> {
  readonly #disks = new Map<string, Set<string>>();

  disksOf(volumeId: string): readonly string[] {
    return [...(this.#disks.get(volumeId) ?? [])];
  }

  override set(name: string, known: Known<CopyRecord>): this {
    const [volumeId, diskId] = name.split("/") as [string, string];
    const disks = this.#disks.get(volumeId);
    if (disks === undefined) this.#disks.set(volumeId, new Set([diskId]));
    else disks.add(diskId);
    return super.set(name, known);
  }

  override delete(name: string): boolean {
    const [volumeId, diskId] = name.split("/") as [string, string];
    const disks = this.#disks.get(volumeId);
    disks?.delete(diskId);
    if (disks?.size === 0) this.#disks.delete(volumeId);
    return super.delete(name);
  }

  override clear(): void {
    this.#disks.clear();
    super.clear();
  }
}

interface Waiter {
  readonly holds: () => boolean;
  readonly wake: () => void;
}

export class ClusterInventory implements MetaWatchHandler {
  readonly nodes: Shelf<NodeRecord> = new Shelf(nodeCodec);
  readonly live: Shelf<LiveRecord> = new Shelf(liveCodec);
  readonly disks: Shelf<DiskRecord> = new Shelf(diskCodec);
  readonly volumes: Shelf<VolumeRecord> = new Shelf(volumeCodec);
  readonly copies: CopyShelf = new CopyShelf(copyCodec);
  /** Of targets: for the nodes that have them in standby, by the volume's id. */
  readonly reservations: Shelf<ReservationsRecord> = new Shelf(reservationsCodec);
  cluster: ClusterRecord | null = null;
  /** Who plans. */
  leader: Known<LiveRecord> | null = null;
  /** Revision at which the cluster record was made. */
  birth = 0;
  /** Up to here everything is known; 0 = nothing yet. */
  revision = 0;
  /** What is not understood, by key. */
  readonly damaged: Map<string, string> = new Map();
  readonly #keys: MetaKeys;
  readonly #told: () => void;
  readonly #waiters = new Set<Waiter>();

  constructor(keys: MetaKeys, told: () => void) {
    this.#keys = keys;
    this.#told = told;
  }

  reset(list: MetaList): void {
    const { nodes, live, disks, volumes, copies, reservations } = this;
    for (const shelf of [nodes, live, disks, volumes, copies, reservations]) shelf.clear();
    this.damaged.clear();
    this.cluster = null;
    this.leader = null;
    this.birth = 0;
    for (const entry of list.entries) this.#put(entry);
    this.#reached(list.revision);
  }

  changed(changes: readonly MetaChange[], revision: number): void {
    for (const change of changes) {
      if (change.kind === "put") this.#put(change.entry);
      else this.#delete(change.key);
    }
    this.#reached(revision);
  }

  #reached(revision: number): void {
    this.revision = revision;
    this.recheck();
    this.#told();
  }

  /** Something that a waiter may look at has changed. */
  recheck(): void {
    for (const waiter of this.#waiters) if (waiter.holds()) waiter.wake();
  }

  /** Resolves with whether `holds` became true in time. */
  async until(holds: () => boolean, timeoutMs: number): Promise<boolean> {
    if (holds()) return true;
    return await new Promise<boolean>((resolve) => {
      const end = (isTrue: boolean): void => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        resolve(isTrue);
      };
      const waiter: Waiter = { holds, wake: () => end(true) };
      const timer = setTimeout(() => end(false), timeoutMs);
      this.#waiters.add(waiter);
    });
  }

  #put(entry: MetaEntry): void {
    const { key, value, modRevision } = entry;
    try {
      if (key === this.#keys.cluster) {
        this.cluster = clusterCodec.decode(key, value);
        this.birth = entry.createRevision;
        return;
      }
      if (key === this.#keys.leader) {
        this.leader = { record: liveCodec.decode(key, value), modRevision };
        return;
      }
      const place = this.#placeOf(key);
      place?.shelf.set(place.name, { record: place.shelf.codec.decode(key, value), modRevision });
      this.damaged.delete(key);
    } catch (error) {
      this.damaged.set(key, (error as Error).message);
      const place = this.#placeOf(key);
      place?.shelf.delete(place.name);
    }
  }

  #delete(key: string): void {
    this.damaged.delete(key);
    if (key === this.#keys.cluster) this.cluster = null;
    if (key === this.#keys.leader) this.leader = null;
    const place = this.#placeOf(key);
    place?.shelf.delete(place.name);
  }

  /** Where a key's record is kept; null = it is not needed here. */
  #placeOf(key: string): { readonly shelf: Shelf<unknown>; readonly name: string } | null {
    const { nodes, liveNodes, disks, volumes } = this.#keys;
    const at = (shelf: Shelf<never>, name: string): { shelf: Shelf<unknown>; name: string } => ({
      shelf: shelf as unknown as Shelf<unknown>,
      name,
    });
    if (key.startsWith(nodes)) return at(this.nodes as Shelf<never>, key.slice(nodes.length));
    if (key.startsWith(liveNodes)) {
      return at(this.live as Shelf<never>, key.slice(liveNodes.length));
    }
    if (key.startsWith(disks)) return at(this.disks as Shelf<never>, key.slice(disks.length));
    if (!key.startsWith(volumes)) return null;
    const [id = "", kind, rest] = key.slice(volumes.length).split("/");
    if (kind === "record") return at(this.volumes as Shelf<never>, id);
    if (kind === "reservations") return at(this.reservations as Shelf<never>, id);
    if (kind === "copy")
      return at(this.copies as Shelf<CopyRecord> as Shelf<never>, `${id}/${rest}`);
    return null;
  }

  isAlive(nodeId: string): boolean {
    return this.live.has(nodeId);
  }

  nodeByName(name: string): NodeRecord | null {
    for (const { record } of this.nodes.values()) if (record.name === name) return record;
    return null;
  }

  volumeByName(name: string): Known<VolumeRecord> | null {
    for (const known of this.volumes.values()) if (known.record.name === name) return known;
    return null;
  }

  copy(volumeId: string, diskId: string): CopyRecord | null {
    return this.copies.get(`${volumeId}/${diskId}`)?.record ?? null;
  }

  /** Disks that tell of a copy of the volume, members or not. */
  copyDisks(volumeId: string): readonly string[] {
    return this.copies.disksOf(volumeId);
  }

  /** undefined: nobody knows the disk. */
  nodeOf(diskId: string): string | undefined {
    return this.disks.get(diskId)?.record.node;
  }

  /** The disk's node is put aside: its copies are not made anew elsewhere, they come back. */
  isInMaintenance(diskId: string): boolean {
    return this.nodes.get(this.nodeOf(diskId) ?? "")?.record.phase === "maintenance";
  }

  nodeName(nodeId: string): string {
    return this.nodes.get(nodeId)?.record.name ?? nodeId;
  }
}
