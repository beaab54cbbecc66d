// The store's volumes: made, resized, opened and deleted, and the extents they take. What changes
// here is a record like any other: durable in the ring before anybody is told.
//
// A deleted volume is gone for its owner as soon as the record is durable; its slabs come back
// afterwards, slab by slab, and after a restart from where that had come to.
//
// Invariants: records are written in the order they were asked for; a volume is open once.

import { assert, ENOSPC } from "../base/index.ts";
import { StoreError } from "./errors.ts";
import {
  BLOCK_ABSENT,
  BLOCK_BYTES,
  EXTENT_BYTES,
  EXTENT_PAGES,
  EXTENT_SLABS,
  PAGE_SLABS,
  RECORD_EXTENT,
  RECORD_VOLUME,
  SLAB_BLOCKS,
  VOLUME_DELETING,
  VOLUME_LIVE,
  VOLUME_NONE,
} from "./layouts.ts";
import { OP_KIND_CLEAR, OP_KIND_TABLE } from "./op-table.ts";
import { POINTER_NONE } from "./page-tree.ts";
import { putHead, RECORD_HEAD_WORDS, recordBytes } from "./records.ts";
import type { FlowVolume, RequestFlow } from "./request-flow.ts";
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
}

export interface StoredVolume {
  readonly uuid: string;
  readonly sizeBytes: number;
  /** Parts of 256 MiB in which something was written; the data in them may be less. */
  readonly extentCount: number;
  readonly usedBytes: number;
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

type Done = (error: StoreError | null) => void;

interface WantedRecord {
  readonly type: number;
  readonly extent: number;
  readonly location: number;
  readonly freed: number;
  readonly payload: Uint32Array | null;
  readonly done: Done;
}

/** Slabs given back at a time: the rest of the operations belong to requests. */
const RECLAIM_MAX = 16;
const OPS_RESERVED = 32;
const VOLUME_BYTES_MAX: number = 64 * 1024 * 1024 * 1024 * 1024;

export class VolumeSet {
  private readonly parts: VolumeSetParts;
  private readonly flow: RequestFlow;
  private readonly client: VolumeSetClient;
  private readonly open_: Map<number, StoreVolume> = new Map();
  private readonly wanted: WantedRecord[] = [];
  private readonly inflight: Map<number, WantedRecord> = new Map();
  // Reclaim: the volume, its extents left, the next slab of the first of them.
  private reclaiming = -1;
  private reclaimExtents: number[] = [];
  private reclaimSlab = 0;
  private reclaimInflight = 0;
  private isReclaimRunning = false;
  private isExtentStuck = false;
  /** Volumes of which a page could not be read: tried again after the next opening. */
  private readonly unreclaimable: Set<number> = new Set();
  private stopping: (() => void) | null = null;

  constructor(parts: VolumeSetParts, flow: RequestFlow, client: VolumeSetClient) {
    this.parts = parts;
    this.flow = flow;
    this.client = client;
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
      return { uuid: uuidText(entry.uuid), sizeBytes: entry.sizeBytes, extentCount, usedBytes };
    });
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
    };
    this.writeEntry(volume, entry, done);
  }

  resize(uuid: string, sizeBytes: number, done: Done): void {
    const volume = this.find(uuid);
    if (volume === -1) {
      done(unknownVolume(uuid));
      return;
    }
    const entry = this.parts.volumes.entry(volume);
    if (!isSize(sizeBytes) || sizeBytes < entry.sizeBytes) {
      done(badSize(sizeBytes));
      return;
    }
    this.writeEntry(volume, { ...entry, sizeBytes }, (error) => {
      if (error === null) this.open_.get(volume)?.setCapacity(sizeBytes);
      done(error);
    });
  }

  remove(uuid: string, done: Done): void {
    const volume = this.find(uuid);
    if (volume === -1) {
      done(unknownVolume(uuid));
      return;
    }
    if (this.open_.has(volume)) {
      done(new StoreError("VOLUME_BUSY", `volume ${uuid} is open`, { advice: "Detach it first." }));
      return;
    }
    const entry = this.parts.volumes.entry(volume);
    this.writeEntry(volume, { ...entry, state: VOLUME_DELETING }, (error) => {
      done(error);
      if (error === null) this.reclaim();
    });
  }

  open(uuid: string, facts: { readOnly: boolean; serial: string }): StoreVolume {
    const volume = this.find(uuid);
    if (volume === -1) throw unknownVolume(uuid);
    if (this.open_.has(volume)) throw new StoreError("VOLUME_BUSY", `volume ${uuid} is open`);
    const entry = this.parts.volumes.entry(volume);
    const epoch = entry.epoch + 1;
    const { sizeBytes } = entry;
    const map = this.parts.extents.mapOf(volume, sizeBytes);
    const opened = new StoreVolume(
      { volume, epoch, sizeBytes, map, ...facts },
      this.flow,
      (index) => this.open_.delete(index),
    );
    this.open_.set(volume, opened);
    if (!facts.readOnly) this.writeEntry(volume, { ...entry, epoch }, () => undefined);
    return opened;
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
    this.want({ type: RECORD_VOLUME, extent: volume, location: 0, freed: 0, payload, done });
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
    return this.wanted.length > 0 || this.isReclaimStalled;
  }

  /** Room has been made, or the disk has failed. */
  resume(): void {
    if (this.client.writesFailed) {
      for (const record of this.wanted.splice(0)) record.done(failedDisk());
      if (this.reclaimInflight === 0) this.endStop();
      return;
    }
    while (this.wanted.length > 0 && this.tryWrite(this.wanted[0] as WantedRecord)) {
      this.wanted.shift();
    }
    if (this.isReclaimStalled) this.reclaimMore();
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

  // --- reclaim ---------------------------------------------------------------------------------

  /** Gives back the space of deleted volumes, one after the other. */
  reclaim(): void {
    if (this.reclaiming !== -1 || this.stopping !== null) return;
    const { volumes, extents } = this.parts;
    const volume = volumes.firstDeleting(this.unreclaimable);
    if (volume === -1) return;
    this.reclaiming = volume;
    this.reclaimExtents = [];
    for (let extent = 0; extent < extents.capacity; extent++) {
      if (extents.ownerOf(extent) === volume + 1) this.reclaimExtents.push(extent);
    }
    this.reclaimSlab = 0;
    this.reclaimMore();
  }

  /** Not from within itself: a slab that is clear already has ended before clearSlab() returns. */
  private reclaimMore(): void {
    if (this.isReclaimRunning) return;
    this.isReclaimRunning = true;
    this.reclaimSome();
    this.isReclaimRunning = false;
    if (this.reclaiming === -1) this.reclaim();
    if (this.stopping !== null && this.reclaimInflight === 0) this.endStop();
  }

  /** There is something to give back, and nothing on its way that would go on with it. */
  get isReclaimStalled(): boolean {
    return this.reclaiming !== -1 && this.reclaimInflight === 0;
  }

  private reclaimSome(): void {
    const { ops } = this.parts;
    while (this.stopping === null && this.reclaimInflight < RECLAIM_MAX) {
      const extent = this.reclaimExtents[0];
      if (extent === undefined) {
        if (this.reclaimInflight === 0) this.forgetVolume();
        return;
      }
      if (this.reclaimSlab === EXTENT_SLABS) {
        if (this.reclaimInflight > 0) return;
        const goesOn = this.isExtentStuck;
        this.forgetExtent(extent);
        if (goesOn) continue;
        return;
      }
      if (this.reclaimSlab % PAGE_SLABS === 0 && this.isNothing(extent, this.reclaimSlab)) {
        this.reclaimSlab += PAGE_SLABS;
        continue;
      }
      if (ops.freeCount <= OPS_RESERVED && this.reclaimInflight > 0) return;
      if (ops.freeCount === 0) return;
      this.clearSlab(extent, this.reclaimSlab);
    }
  }

  /** Was none of the slabs of this page ever written? */
  private isNothing(extent: number, slab: number): boolean {
    const { tree, cache, pending, geometry } = this.parts;
    const page = geometry.slabPageStart + extent * EXTENT_PAGES + slab / PAGE_SLABS;
    if (!tree.isKnown(page) || tree.leaf[page] !== POINTER_NONE) return false;
    return !cache.holds(page) && !pending.has(page);
  }

  private clearSlab(extent: number, slab: number): void {
    const { ops } = this.parts;
    const op = ops.acquire(OP_KIND_CLEAR, -1);
    ops.extent[op] = extent;
    ops.slab[op] = slab;
    ops.firstBlock[op] = 0;
    ops.blockCount[op] = SLAB_BLOCKS;
    ops.clearState[op] = BLOCK_ABSENT;
    ops.stampLow[op] = 0;
    ops.stampHigh[op] = 0;
    this.reclaimSlab += 1;
    this.reclaimInflight += 1;
    this.client.beginWrite(op);
  }

  slabCleared(result: number): void {
    this.reclaimInflight -= 1;
    if (result !== 0 && this.client.writesFailed) {
      this.reclaimExtents = [];
      this.reclaiming = -1;
      if (this.reclaimInflight === 0) this.endStop();
      return;
    }
    if (result !== 0) {
      // What is not cleared would belong to the extent's next owner.
      this.isExtentStuck = true;
      this.unreclaimable.add(this.reclaiming);
    }
    if (this.reclaimInflight < RECLAIM_MAX / 2) this.reclaimMore();
  }

  private forgetExtent(extent: number): void {
    if (this.isExtentStuck) {
      this.isExtentStuck = false;
      this.reclaimExtents.shift();
      this.reclaimSlab = 0;
      return;
    }
    this.reclaimInflight += 1;
    const done = (error: StoreError | null): void => {
      this.reclaimInflight -= 1;
      if (error !== null) return;
      this.reclaimExtents.shift();
      this.reclaimSlab = 0;
      this.reclaimMore();
    };
    this.want({ type: RECORD_EXTENT, extent, location: 0, freed: 0, payload: null, done });
  }

  private forgetVolume(): void {
    const volume = this.reclaiming;
    if (this.unreclaimable.has(volume)) {
      this.reclaiming = -1;
      return;
    }
    const entry: VolumeEntry = { ...this.parts.volumes.entry(volume), state: VOLUME_NONE };
    this.reclaimInflight += 1;
    this.writeEntry(volume, entry, (error) => {
      this.reclaimInflight -= 1;
      this.reclaiming = -1;
      if (error === null && this.stopping === null) this.reclaim();
      else this.endStop();
    });
  }

  /** Lets what is on its way end, and begins nothing more. */
  stop(done: () => void): void {
    assert(this.stopping === null, "stopped twice");
    this.stopping = done;
    if (this.reclaimInflight === 0) this.endStop();
  }

  private endStop(): void {
    if (this.reclaimInflight > 0) return;
    const done = this.stopping;
    if (done === null) return;
    this.stopping = () => undefined;
    done();
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
