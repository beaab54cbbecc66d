// The disks of the store on one reactor: opened, told about, closed, and the volumes on them.
//
// Invariants:
//  - everything here runs on the reactor's thread, and nothing of it blocks: the store answers when
//    the disk has answered it;
//  - a disk's descriptor belongs to the main thread, which closes it after close() or the end;
//  - a disk is closed when no volume on it is open.

import { assert, MIB, RingstoreError } from "../base/index.ts";
import { Store, StoreError, type StoreOptions } from "../chunk/index.ts";
import type { Workspace } from "../local/index.ts";
import type { ListedReplica, StoredReplica } from "../ports/cluster-plane.ts";
import type { VolumeSpec } from "../ports/data-plane.ts";
import type { Replica, ReplicaFailure, ReplicaHandler } from "../ports/replica.ts";
import type { ReplicaNote } from "../ports/replica-note.ts";
import type { ReplicaProvider } from "../ports/replica-provider.ts";
import type { StoreDiskFacts, StoreDiskSpec, StoreDiskStats } from "../ports/store-disk.ts";
import type { Reactor } from "../reactor/index.ts";
import { type BackingShape, createDisk, type OwnedDisk } from "../uring/index.ts";
import { SectorDevice, SectorWorkspace } from "../volume/index.ts";
import { diskFactsOf, diskStatsOf } from "./disk-stats.ts";
import { type OwnedDevice, refusal } from "./reactor-volume.ts";

/** More than a store ever has on its way: operations, groups, pages, upkeep. */
const DISK_OPERATIONS_MAX = 65536;
/** Between two rounds of scrub. */
const SCRUB_PAUSE_MS: number = 6 * 3600 * 1000;

type Done = (error: RingstoreError | null) => void;

export interface ReactorDisksModules {
  readonly reactor: Reactor;
  readonly workspace: Workspace;
  readonly changed: (stats: StoreDiskStats) => void;
  /** Of each disk; 0 = no scrub. */
  readonly scrubMibPerSecond: number;
}

interface OpenDisk {
  readonly spec: StoreDiskSpec;
  readonly disk: OwnedDisk;
  readonly store: Store;
  /** Told last, as text: what has not changed is not told again. */
  told: string;
  /** No replica is opened on it any more. */
  isClosing: boolean;
}

export class ReactorDisks implements ReplicaProvider {
  private readonly modules: ReactorDisksModules;
  private readonly disks: Map<string, OpenDisk> = new Map();
  private sectors: SectorWorkspace | null = null;

  constructor(modules: ReactorDisksModules) {
    this.modules = modules;
  }

  open(
    spec: StoreDiskSpec,
    backing: BackingShape & { readonly fd: number },
    done: (error: RingstoreError | null, facts?: StoreDiskFacts) => void,
  ): void {
    if (this.disks.has(spec.id)) throw refusal("DISK_BUSY", `disk ${spec.name} is open already`);
    const { reactor } = this.modules;
    const geometry = { ...backing, capacityBytes: backing.sizeBytes };
    const modules = { ring: reactor.ring, scheduler: reactor, requestSlots: DISK_OPERATIONS_MAX };
    const disk = createDisk(geometry, modules);
    const store = new Store(this.storeOptions(spec), { disk, reactor });
    disk.setHandler(store);
    const one: OpenDisk = { spec, disk, store, told: "", isClosing: false };
    this.disks.set(spec.id, one);
    this.tell(one);
    store.open((error) => {
      if (error !== null) {
        this.disks.delete(spec.id);
        disk.detach();
        done(named(error, spec));
        return;
      }
      this.tell(one);
      done(null, diskFactsOf(store.facts()));
    });
  }

  private storeOptions(spec: StoreDiskSpec): StoreOptions {
    const bytesPerSecond = this.modules.scrubMibPerSecond * MIB;
    const options = { incarnationMin: spec.incarnationSeen };
    if (bytesPerSecond === 0) return options;
    return { ...options, scrub: { bytesPerSecond, pauseMs: SCRUB_PAUSE_MS } };
  }

  private find(diskId: string): OpenDisk {
    const one = this.disks.get(diskId);
    if (one === undefined) throw refusal("STORE_CLOSED", `disk ${diskId} is not open`);
    return one;
  }

  close(diskId: string, done: Done): void {
    const one = this.find(diskId);
    if (one.store.phase === "opening") {
      throw refusal("DISK_BUSY", `disk ${one.spec.name} is being opened`);
    }
    this.closeOne(one, () => done(null));
  }

  private closeOne(one: OpenDisk, done: () => void): void {
    one.isClosing = true;
    one.store.close(() => {
      this.disks.delete(one.spec.id);
      one.disk.detach();
      done();
    });
  }

  /** Resolves with the ids of those that were stopped cleanly. */
  closeAll(done: (diskIds: readonly string[]) => void): void {
    const clean: string[] = [];
    let waiting = 1;
    const oneLess = (): void => {
      waiting -= 1;
      if (waiting === 0) done(clean);
    };
    for (const one of [...this.disks.values()]) {
      // One that is still recovering has written nothing; it is left as it was.
      if (one.store.phase === "opening") continue;
      waiting += 1;
      const isGood = one.store.phase === "ready";
      this.closeOne(one, () => {
        if (isGood) clean.push(one.spec.id);
        oneLess();
      });
    }
    oneLess();
  }

  /** Called now and then: what has changed is told. */
  report(): void {
    for (const one of this.disks.values()) this.tell(one);
  }

  private tell(one: OpenDisk): void {
    const stats = diskStatsOf(one.spec.id, one.store);
    const text = JSON.stringify(stats);
    if (text === one.told) return;
    one.told = text;
    this.modules.changed(stats);
  }

  // Volumes ---------------------------------------------------------------------------------------

  /** Hands over the device; makes the volume first where it is new. */
  openVolume(
    spec: VolumeSpec,
    backing: { readonly diskId: string; readonly create: boolean },
    done: (error: RingstoreError | null, device: OwnedDevice | null) => void,
  ): void {
    const one = this.find(backing.diskId);
    const open = (): void => {
      let device: OwnedDevice;
      try {
        device = this.deviceOf(one, spec);
      } catch (error) {
        if (!(error instanceof RingstoreError)) throw error;
        done(named(error, one.spec), null);
        return;
      }
      done(null, device);
    };
    if (!backing.create) {
      open();
      return;
    }
    one.store.createVolume({ uuid: spec.id, sizeBytes: spec.sizeBytes }, (error) => {
      if (error === null) open();
      else done(named(error, one.spec), null);
    });
  }

  private deviceOf(one: OpenDisk, spec: VolumeSpec): OwnedDevice {
    const { readOnly, serial, sizeBytes } = spec;
    const device = one.store.openVolume(spec.id, { readOnly, serial });
    const { capacityBytes } = device.info;
    if (capacityBytes < sizeBytes) {
      device.close();
      const has = `${capacityBytes} bytes, fewer than ${sizeBytes}`;
      throw refusal("BACKING_TOO_SMALL", `volume ${spec.name} has ${has} on its disk`);
    }
    // A resize that was cut short: the declared size is served, and settled after that.
    if (capacityBytes > sizeBytes) device.setCapacity(sizeBytes);
    if (spec.blockBytes === device.info.blockBytes) return device;
    return new SectorDevice(device, { workspace: this.sectorWorkspace() });
  }

  /** Made for the first volume that needs it. */
  sectorWorkspace(): SectorWorkspace {
    const { reactor, workspace } = this.modules;
    const { requests, memory } = reactor;
    this.sectors ??= new SectorWorkspace({}, { requests, memory, copier: workspace.copier });
    return this.sectors;
  }

  resizeVolume(diskId: string, volumeId: string, sizeBytes: number, done: Done): void {
    const one = this.find(diskId);
    const present = one.store.listVolumes().find(({ uuid }) => uuid === volumeId);
    // Grown before, by a resize of which the declaration failed: the store only grows.
    if (present !== undefined && present.sizeBytes >= sizeBytes) {
      done(null);
      return;
    }
    one.store.resizeVolume(volumeId, sizeBytes, (error) => {
      done(error === null ? null : named(error, one.spec));
    });
  }

  // Replicas --------------------------------------------------------------------------------------

  openReplica(
    volumeUuid: string,
    diskUuid: string,
    handler: ReplicaHandler,
  ): Replica | ReplicaFailure {
    const one = this.disks.get(diskUuid);
    if (one === undefined || one.isClosing || one.store.phase === "opening") {
      return { code: "unknown-volume", message: `disk ${diskUuid} is not open on this node` };
    }
    try {
      return one.store.openReplica(volumeUuid, { name: one.spec.name, handler });
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      return { code: "unknown-volume", message: named(error, one.spec).message };
    }
  }

  /** Grows the one that is there. */
  makeReplica(diskId: string, replica: StoredReplica, done: Done): void {
    const one = this.find(diskId);
    const { volumeId, sizeBytes } = replica;
    const present = one.store.listVolumes().find(({ uuid }) => uuid === volumeId);
    if (present !== undefined && present.replica === null) {
      const message = `volume ${volumeId} lives on disk ${one.spec.name} alone: it is no replica`;
      throw refusal("VOLUME_EXISTS", message);
    }
    if (present !== undefined) {
      this.resizeVolume(diskId, volumeId, sizeBytes, done);
      return;
    }
    one.store.createVolume({ uuid: volumeId, sizeBytes, isReplica: true }, (error) => {
      done(error === null ? null : named(error, one.spec));
    });
  }

  listReplicas(diskId: string): ListedReplica[] {
    const all = this.find(diskId).store.listVolumes();
    return all.flatMap(({ uuid, sizeBytes, replica }) =>
      replica === null ? [] : [{ volumeId: uuid, sizeBytes, facts: replica }],
    );
  }

  noteReplica(diskId: string, volumeId: string, note: ReplicaNote, done: Done): void {
    const one = this.find(diskId);
    one.store.noteReplica(volumeId, note, (error) => {
      done(error === null ? null : named(error, one.spec));
    });
  }

  deleteVolume(diskId: string, volumeId: string, done: Done): void {
    const one = this.find(diskId);
    one.store.deleteVolume(volumeId, (error) => {
      const isGone = error === null || error.code === "VOLUME_UNKNOWN";
      done(isGone ? null : named(error, one.spec));
    });
  }
}

/** The store does not know what its disk is called. */
function named(error: StoreError | RingstoreError, spec: StoreDiskSpec): RingstoreError {
  assert(error.message !== "", "an error without words");
  const { code, message, advice } = error;
  const options = advice === undefined ? { cause: error } : { advice, cause: error };
  return new RingstoreError(code, `disk ${spec.name} (${spec.path}): ${message}`, options);
}
