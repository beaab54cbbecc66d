// The store's volumes: made, resized, opened and deleted, and the extents they take. What changes
// here is a record like any other: durable in the ring before anybody is told.
//
// A deleted volume is gone for its owner as soon as the record is durable; its slabs come back
// afterwards: see reclaim.ts. A replica is opened through replica-set.ts.
//
// Invariants: records are written in the order they were asked for, and an entry is always made
// from the one asked for last; a volume is open once; a disk gets its first replica only when its
// superblock says that there are some.

import { ENOSPC } from "../base/index.ts";
import type { ReplicaFacts, ReplicaNote } from "../ports/index.ts";
import { StoreError } from "./errors.ts";
import {
  BLOCK_BYTES,
  EXTENT_BYTES,
  FEATURE_REPLICAS,
  RECORD_EXTENT,
  RECORD_VOLUME,
  VOLUME_DELETING,
  VOLUME_LIVE,
  VOLUME_NONE,
  VOLUME_REPLICA,
} from "./layouts.ts";
import { OP_KIND_TABLE } from "./op-table.ts";
import { Reclaim } from "./reclaim.ts";
import { putHead, RECORD_HEAD_WORDS, recordBytes } from "./records.ts";
import { ReplicaNotes } from "./replica-notes.ts";
import type { FlowVolume, RequestFlow } from "./request-flow.ts";
import { epochOf, sequenceOf } from "./stamps.ts";
import { StoreVolume } from "./store-volume.ts";
import { uuidBytes, uuidText } from "./superblock-facts.ts";
import {
  EXTENT_NONE,
  type ExtentTable,
  encodeEntry,
  type VolumeEntry,
  type VolumeTable,
} from "./tables.ts";
import type { UpkeepParts } from "./upkeep.ts";

export interface VolumeSpecification {
  readonly uuid: string;
  readonly sizeBytes: number;
  /** Kept for an owner who writes to several disks: opened with openReplica(). */
  readonly isReplica?: boolean;
}

export interface StoredVolume {
  readonly uuid: string;
  readonly sizeBytes: number;
  /** Parts of 256 MiB in which something was written; the data in them may be less. */
  readonly extentCount: number;
  readonly usedBytes: number;
  /** Null for a volume that lives on this disk alone. */
  readonly replica: ReplicaFacts | null;
}

export interface VolumeSetParts extends UpkeepParts {
  readonly volumes: VolumeTable;
  readonly extents: ExtentTable;
}

export interface VolumeSetClient {
  groupOpened(): void;
  beginWrite(op: number): void;
  roomWanted(): void;
  readonly writesFailed: boolean;
}

/** The replicas that are open: see ReplicaSet. */
interface OpenReplicas {
  resized(volume: number, sizeBytes: number): void;
  /** Somebody has the replica open, or something of it is on its way. */
  isOpen(volume: number): boolean;
}

type Done = (error: StoreError | null) => void;

interface WantedRecord {
  readonly type: number;
  readonly extent: number;
  readonly location: number;
  readonly freed: number;
  readonly payload: Uint32Array | null;
  readonly done: Done;
}

const VOLUME_BYTES_MAX: number = 64 * 1024 * 1024 * 1024 * 1024;

export class VolumeSet {
  private readonly parts: VolumeSetParts;
  private readonly flow: RequestFlow;
  private readonly client: VolumeSetClient;
  private readonly open_: Map<number, StoreVolume> = new Map();
  private readonly wanted: WantedRecord[] = [];
  private readonly inflight: Map<number, WantedRecord> = new Map();
  /** Entries asked for and not durable yet: what comes next is made from them. */
  private readonly latest: Map<number, VolumeEntry> = new Map();
  /** What waits for the superblock to name a feature that it needs. */
  private readonly unannounced: (() => void)[] = [];
  private readonly reclaim: Reclaim;
  private readonly notes: ReplicaNotes;
  replicas: OpenReplicas | null = null;

  constructor(parts: VolumeSetParts, flow: RequestFlow, client: VolumeSetClient) {
    this.parts = parts;
    this.flow = flow;
    this.client = client;
    this.notes = new ReplicaNotes(parts.volumes, {
      entryOf: (volume) => this.entryOf(volume),
      update: (volume, change, done) => this.update(volume, change, done),
      writeWords: (slot, payload, done) => this.wantEntry(slot, payload, done),
      whenAnnounced: (feature, action) => this.whenAnnounced(feature, action),
    });
    this.reclaim = new Reclaim(parts, {
      beginWrite: (op) => client.beginWrite(op),
      forgetExtent: (extent, done) =>
        this.want({ type: RECORD_EXTENT, extent, location: 0, freed: 0, payload: null, done }),
      forgetVolume: (volume, done) => {
        this.notes.forget(volume);
        this.update(volume, { state: VOLUME_NONE }, done);
      },
      get writesFailed() {
        return client.writesFailed;
      },
    });
  }

  list(): StoredVolume[] {
    const counts = new Map<number, number>();
    const { extents, volumes } = this.parts;
    for (let extent = 0; extent < extents.capacity; extent++) {
      const owner = extents.ownerOf(extent);
      if (owner !== 0) counts.set(owner - 1, (counts.get(owner - 1) ?? 0) + 1);
    }
    return Array.from(volumes.live(), ([volume, entry]) => {
      const extentCount = counts.get(volume) ?? 0;
      const usedBytes = Math.min(extentCount * EXTENT_BYTES, entry.sizeBytes);
      const { sizeBytes } = entry;
      const replica = this.replicaFacts(volume, entry);
      return { uuid: uuidText(entry.uuid), sizeBytes, extentCount, usedBytes, replica };
    });
  }

  private replicaFacts(volume: number, entry: VolumeEntry): ReplicaFacts | null {
    const { volumes } = this.parts;
    if ((entry.flags & VOLUME_REPLICA) === 0) return null;
    const stamp = (low: number, high: number): ReplicaFacts["newest"] => ({
      epoch: epochOf(high),
      sequence: sequenceOf(low, high),
    });
    return {
      epoch: entry.epoch,
      membershipVersion: entry.membershipVersion,
      clusterGeneration: entry.clusterGeneration,
      committed: stamp(volumes.committedLow(volume), volumes.committedHigh(volume)),
      newest: stamp(volumes.newestLow(volume), volumes.newestHigh(volume)),
      note: this.notes.noteOf(volume, entry),
    };
  }

  /** UUID of the volume that owns the extent, for reports. */
  nameOf(extent: number): string {
    const owner = this.parts.extents.ownerOf(extent);
    return owner === 0 ? "" : uuidText(this.parts.volumes.entry(owner - 1).uuid);
  }

  create(spec: VolumeSpecification, done: Done): void {
    const uuid = uuidBytes(spec.uuid);
    const { volumes } = this.parts;
    if (uuid === null) {
      done(new StoreError("VOLUME_UNKNOWN", `"${spec.uuid}" is no UUID`));
      return;
    }
    if (!isSize(spec.sizeBytes)) {
      done(badSize(spec.sizeBytes));
      return;
    }
    if (volumes.find(uuid) !== -1) {
      done(new StoreError("VOLUME_EXISTS", `volume ${spec.uuid} is on this disk already`));
      return;
    }
    if (spec.isReplica === true && !this.isAnnounced(FEATURE_REPLICAS)) {
      this.whenAnnounced(FEATURE_REPLICAS, () => this.create(spec, done));
      return;
    }
    const volume = volumes.promiseFree();
    if (volume === -1) {
      const limit = `a disk has at most ${volumes.capacity} volumes`;
      done(new StoreError("VOLUME_LIMIT", limit, { advice: "Delete one, or use another disk." }));
      return;
    }
    const entry: VolumeEntry = {
      state: VOLUME_LIVE,
      epoch: 0,
      uuid,
      sizeBytes: spec.sizeBytes,
      createdAtMs: 0,
      flags: spec.isReplica === true ? VOLUME_REPLICA : 0,
      membershipVersion: 0,
      clusterGeneration: 0,
      noteVersion: 0,
    };
    this.writeEntry(volume, entry, done);
  }

  private isAnnounced(feature: number): boolean {
    const { superblock } = this.parts.checkpoint;
    return this.client.writesFailed || (superblock.featuresIncompatible & feature) !== 0;
  }

  private whenAnnounced(feature: number, action: () => void): void {
    if (this.isAnnounced(feature)) {
      action();
      return;
    }
    this.parts.checkpoint.featuresIncompatible |= feature;
    this.unannounced.push(action);
    this.client.roomWanted();
  }

  /** Keeps what the volume's record says beside the replica: see ReplicaNotes. */
  note(uuid: string, note: ReplicaNote, done: Done): void {
    let volume: number;
    try {
      volume = this.findReplica(uuid);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      done(error);
      return;
    }
    this.notes.write(volume, note, done);
  }

  resize(uuid: string, sizeBytes: number, done: Done): void {
    const volume = this.find(uuid);
    if (volume === -1) {
      done(unknownVolume(uuid));
      return;
    }
    if (!isSize(sizeBytes) || sizeBytes < this.entryOf(volume).sizeBytes) {
      done(badSize(sizeBytes));
      return;
    }
    this.update(volume, { sizeBytes }, (error) => {
      if (error === null) {
        this.open_.get(volume)?.setCapacity(sizeBytes);
        this.replicas?.resized(volume, sizeBytes);
      }
      done(error);
    });
  }

  remove(uuid: string, done: Done): void {
    const volume = this.find(uuid);
    if (volume === -1) {
      done(unknownVolume(uuid));
      return;
    }
    if (this.open_.has(volume) || this.replicas?.isOpen(volume) === true) {
      done(new StoreError("VOLUME_BUSY", `volume ${uuid} is open`, { advice: "Detach it first." }));
      return;
    }
    this.update(volume, { state: VOLUME_DELETING }, (error) => {
      done(error);
      if (error === null) this.reclaim.begin();
    });
  }

  open(uuid: string, facts: { readOnly: boolean; serial: string }): StoreVolume {
    const volume = this.find(uuid);
    if (volume === -1) throw unknownVolume(uuid);
    if (this.open_.has(volume)) throw new StoreError("VOLUME_BUSY", `volume ${uuid} is open`);
    const entry = this.entryOf(volume);
    if ((entry.flags & VOLUME_REPLICA) !== 0) {
      throw new StoreError("VOLUME_KIND", `volume ${uuid} on this disk is a replica`, {
        advice: "Attach the cluster's volume: its owner writes to every replica.",
      });
    }
    const epoch = entry.epoch + 1;
    const { sizeBytes } = entry;
    const map = this.parts.extents.mapOf(volume, sizeBytes);
    const opened = new StoreVolume(
      { volume, epoch, sizeBytes, map, ...facts },
      this.flow,
      (index) => this.open_.delete(index),
    );
    this.open_.set(volume, opened);
    if (!facts.readOnly) this.update(volume, { epoch }, () => undefined);
    return opened;
  }

  /** Index of the replica. Throws StoreError when there is no such volume, or it is none. */
  findReplica(uuid: string): number {
    const volume = this.find(uuid);
    if (volume === -1) throw unknownVolume(uuid);
    if (this.parts.volumes.isReplica(volume)) return volume;
    throw new StoreError("VOLUME_KIND", `volume ${uuid} lives on this disk alone`, {
      advice: "Open it as a volume of this node, or make a replicated one.",
    });
  }

  /** As the last change that was asked for makes it, durable or not. */
  entryOf(volume: number): VolumeEntry {
    return this.latest.get(volume) ?? this.parts.volumes.entry(volume);
  }

  /** Changes the volume's entry; `done` when that is durable. */
  update(volume: number, change: Partial<VolumeEntry>, done: Done): void {
    this.writeEntry(volume, { ...this.entryOf(volume), ...change }, done);
  }

  private find(uuid: string): number {
    const bytes = uuidBytes(uuid);
    if (bytes === null) return -1;
    const volume = this.parts.volumes.find(bytes);
    if (volume === -1 || this.parts.volumes.stateOf(volume) !== VOLUME_LIVE) return -1;
    return volume;
  }

  private writeEntry(volume: number, entry: VolumeEntry, done: Done): void {
    const payload = encodeEntry(entry);
    this.latest.set(volume, entry);
    const ended = (error: StoreError | null): void => {
      if (this.latest.get(volume) === entry) this.latest.delete(volume);
      done(error);
    };
    this.wantEntry(volume, payload, ended);
  }

  private wantEntry(slot: number, payload: Uint32Array, done: Done): void {
    this.want({ type: RECORD_VOLUME, extent: slot, location: 0, freed: 0, payload, done });
  }

  // --- records ---------------------------------------------------------------------------------

  private want(record: WantedRecord): void {
    if (this.wanted.length > 0 || !this.tryWrite(record)) {
      this.wanted.push(record);
      this.client.roomWanted();
    }
  }

  /** Records or reclaim wait for operations or room. */
  get isWaiting(): boolean {
    return this.wanted.length > 0 || this.unannounced.length > 0 || this.reclaim.isStalled;
  }

  /** Room has been made, or the disk has failed. */
  resume(): void {
    if (this.client.writesFailed) {
      for (const record of this.wanted.splice(0)) record.done(failedDisk());
      for (const create of this.unannounced.splice(0)) create();
      this.reclaim.endStop();
      return;
    }
    while (this.wanted.length > 0 && this.tryWrite(this.wanted[0] as WantedRecord)) {
      this.wanted.shift();
    }
    if (this.unannounced.length > 0 && !this.parts.checkpoint.isFeatureNew) {
      for (const create of this.unannounced.splice(0)) create();
    }
    this.reclaim.resume();
  }

  /** Gives back the space of deleted volumes. */
  beginReclaim(): void {
    this.reclaim.begin();
  }

  slabCleared(result: number): void {
    this.reclaim.slabCleared(result);
  }

  /** Lets what is on its way end, and begins nothing more. */
  stop(done: () => void): void {
    this.reclaim.stop(done);
  }

  private tryWrite(record: WantedRecord): boolean {
    const { ops, ring } = this.parts;
    if (this.client.writesFailed) {
      record.done(failedDisk());
      return true;
    }
    const bytes = recordBytes(record.payload?.length ?? 0);
    if (ops.freeCount === 0 || !ring.makeRoom(bytes, 0)) return false;
    const op = ops.acquire(OP_KIND_TABLE, -1);
    const at = ring.addRecord(bytes);
    putHead(ring.words, at, record.type, 0, 0, 0, record.extent, 0, bytes);
    ring.words[at + 3] = record.location;
    ring.words[at + 4] = record.freed;
    if (record.payload !== null) ring.words.set(record.payload, at + RECORD_HEAD_WORDS);
    ops.recordAt[op] = at;
    ops.recordType[op] = record.type;
    ops.lsn[op] = ring.nextLsn;
    ring.addOp(op);
    this.inflight.set(op, record);
    this.client.groupOpened();
    return true;
  }

  recordDurable(op: number): void {
    const { ops, ring, volumes, extents } = this.parts;
    const record = this.inflight.get(op) as WantedRecord;
    const at = ops.recordAt[op] as number;
    if (record.type === RECORD_VOLUME) volumes.apply(ring.words, at);
    else extents.apply(ring.words, at);
    ring.opFinished(ops.lsn[op] as number);
    this.inflight.delete(op);
    ops.release(op);
    record.done(null);
  }

  recordFailed(op: number): void {
    const record = this.inflight.get(op) as WantedRecord;
    this.inflight.delete(op);
    this.parts.ops.release(op);
    record.done(failedDisk());
  }

  /** See FlowClient.takeExtent. */
  takeExtent(volume: FlowVolume, index: number): number {
    const { extents } = this.parts;
    if (this.wanted.length > 0) return EXTENT_NONE;
    const extent = extents.promise();
    if (extent === EXTENT_NONE) return -ENOSPC;
    const done = (): undefined => undefined;
    const location = volume.volume + 1;
    if (
      this.tryWrite({ type: RECORD_EXTENT, extent, location, freed: index, payload: null, done })
    ) {
      volume.map[index] = extent;
      return extent;
    }
    extents.unpromise(extent);
    this.client.roomWanted();
    return EXTENT_NONE;
  }
}

function isSize(bytes: number): boolean {
  return bytes > 0 && bytes % BLOCK_BYTES === 0 && bytes <= VOLUME_BYTES_MAX;
}

function badSize(sizeBytes: number): StoreError {
  return new StoreError("VOLUME_SIZE", `a volume of ${sizeBytes} bytes`, {
    advice: `Choose a positive multiple of ${BLOCK_BYTES} bytes; volumes only grow.`,
  });
}

function unknownVolume(uuid: string): StoreError {
  return new StoreError("VOLUME_UNKNOWN", `there is no volume ${uuid} on this disk`);
}

function failedDisk(): StoreError {
  return new StoreError("DISK_FAILED", "the disk has failed and takes no more writes");
}
