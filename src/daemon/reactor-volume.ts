// One open volume on its reactor: the disk, the block device over it, and while it is attached the
// vhost-user device, the iSCSI target or the controller in front.
//
// Invariants:
//  - everything here runs on the reactor's thread;
//  - the descriptor belongs to the main thread, which closes it after close() or the end;
//  - close() comes after detach(), when nothing is in flight.

import { assert, RingstoreError } from "../base/index.ts";
import {
  FileDevice,
  type LocalDeviceOptions,
  MemoryDevice,
  NullDevice,
  type Workspace,
} from "../local/index.ts";
import type { BlockDevice } from "../ports/block-device.ts";
import type { ClassicSpec } from "../ports/classic-plane.ts";
import type { AttachmentSpec, VolumeSpec } from "../ports/data-plane.ts";
import type { ScsiSpec } from "../ports/scsi-plane.ts";
import type { Reactor } from "../reactor/index.ts";
import { VOLUME_COUNTERS, VolumeMeter } from "../telemetry/index.ts";
import { createDisk, type OwnedDisk } from "../uring/index.ts";
import { BlkModel, type FrontGate, listenError, VhostUserDevice } from "../vhost-user/index.ts";
import type { ReactorClassic } from "./reactor-classic.ts";
import type { OpenedForReactor } from "./reactor-protocol.ts";
import type { ReactorScsi } from "./reactor-scsi.ts";

/** Where a volume lives. */
export interface VolumeModules {
  readonly reactor: Reactor;
  readonly workspace: Workspace;
  readonly trustMemory: boolean;
}

export interface OwnedDevice extends BlockDevice {
  setCapacity(bytes: number): void;
  oldestInflightUs(nowUs: number): number;
  close(): void;
}

/** A device that somebody else made: a volume of a store, or of the cluster. */
export interface MadeDevice {
  readonly kind: "made";
  readonly device: OwnedDevice;
  /** Decides whether rings run; none = they always may. */
  readonly gate?: FrontGate;
}

/** What stands in front of an attached volume. */
export interface VolumeFront {
  capacityChanged(): void;
  /** Ends the sessions; `done` when nothing of them touches the device any more. */
  close(done: () => void): void;
}

export class ReactorVolume {
  readonly spec: VolumeSpec;
  private readonly modules: VolumeModules;
  private readonly meter: VolumeMeter;
  private readonly disk: OwnedDisk | null;
  private readonly device: OwnedDevice;
  private readonly gate: FrontGate | null;
  private front: VolumeFront | null = null;
  /** Who waits for the end of detach(). */
  private detaching: (() => void)[] | null = null;

  /** Throws RingstoreError when the backing does not suit the volume. */
  constructor(
    spec: VolumeSpec,
    backing: Exclude<OpenedForReactor, { kind: "store" | "cluster" }> | MadeDevice,
    shared: SharedArrayBuffer,
    modules: VolumeModules,
  ) {
    this.spec = spec;
    this.modules = modules;
    this.meter = new VolumeMeter(shared);
    const { reactor, workspace } = modules;
    this.gate = (backing.kind === "made" ? backing.gate : undefined) ?? null;
    if (backing.kind === "made") {
      this.disk = null;
      this.device = backing.device;
    } else if (backing.kind === "memory") {
      this.disk = null;
      this.device = new MemoryDevice(factsOf(spec), { workspace });
    } else if (backing.kind === "null") {
      this.disk = null;
      this.device = new NullDevice(factsOf(spec), { requests: reactor.requests });
    } else {
      const { physicalBlockBytes, discardGranularityBytes, canDiscard } = backing;
      const facts = { ...factsOf(spec), physicalBlockBytes, discardGranularityBytes, canDiscard };
      const kind = backing.kind === "block" ? "block" : "file";
      const geometry = { ...backing, capacityBytes: backing.sizeBytes };
      const requestSlots = reactor.requests.capacity;
      const disk = createDisk(geometry, { ring: reactor.ring, scheduler: reactor, requestSlots });
      const counters = this.meter.counters;
      try {
        const device = new FileDevice({ ...facts, kind }, { workspace, disk, counters });
        disk.setHandler(device);
        this.device = device;
      } catch (error) {
        disk.detach();
        throw error;
      }
      this.disk = disk;
    }
  }

  get attached(): boolean {
    return this.front !== null;
  }

  /** Listens. Throws RingstoreError when the socket cannot be made. */
  attach(spec: AttachmentSpec): void {
    assert(this.front === null, "volume attached twice");
    const { reactor, trustMemory } = this.modules;
    const model = new BlkModel(this.device, {
      queueCountMax: spec.queueCountMax,
      packedAllowed: spec.packedAllowed,
      readOnly: spec.readOnly || this.spec.readOnly,
      meter: this.meter,
    });
    const front = new VhostUserDevice(reactor, model, {
      name: this.spec.name,
      socketPath: spec.socketPath,
      socketMode: spec.socketMode,
      socketGroupId: spec.socketGroupId,
      trustMemory,
      ...(this.gate === null ? {} : { gate: this.gate }),
    });
    const result = front.listen();
    if (result < 0) {
      front.close(ignore);
      throw listenError(spec.socketPath, result);
    }
    this.front = front;
  }

  /** Makes it an iSCSI target. Throws RingstoreError when it cannot be one. */
  attachClassic(spec: ClassicSpec, classic: ReactorClassic): void {
    assert(this.front === null, "volume attached twice");
    const { device, meter, gate } = this;
    this.front = classic.open(spec, { name: this.spec.name, device, meter, gate });
  }

  /** Makes it a unit of a controller. Throws RingstoreError when it cannot be one. */
  attachScsi(spec: ScsiSpec, scsi: ReactorScsi): void {
    assert(this.front === null, "volume attached twice");
    const { device, meter, gate } = this;
    this.front = scsi.open(spec, { name: this.spec.name, device, meter, gate });
  }

  /** Stops listening, drains, ends the sessions; then `done`. At once when not attached. */
  detach(done: () => void): void {
    if (this.front === null) {
      done();
      return;
    }
    if (this.detaching !== null) {
      this.detaching.push(done);
      return;
    }
    this.detaching = [done];
    this.front.close(() => this.detached());
  }

  private detached(): void {
    const waiting = this.detaching as (() => void)[];
    this.front = null;
    this.detaching = null;
    this.meter.counters[VOLUME_COUNTERS.oldestInflightUs] = 0;
    for (const done of waiting) done();
  }

  /** The file has been grown or cut, or the device has another size. */
  resize(sizeBytes: number, backingBytes: number): void {
    if (this.disk !== null) this.disk.setCapacity(backingBytes);
    this.device.setCapacity(sizeBytes);
    if (this.front !== null) this.front.capacityChanged();
  }

  /** For health: how long the device has kept its oldest request. */
  updateGauges(nowUs: number): void {
    const ageUs = this.device.oldestInflightUs(nowUs);
    this.meter.counters[VOLUME_COUNTERS.oldestInflightUs] = ageUs;
  }

  get idle(): boolean {
    const diskCount = this.disk === null ? 0 : this.disk.inflightCount;
    return this.front === null && this.device.inflightCount === 0 && diskCount === 0;
  }

  close(): void {
    assert(this.idle, "volume closed while in use");
    this.device.close();
    if (this.disk !== null) this.disk.detach();
  }
}

function factsOf(spec: VolumeSpec): LocalDeviceOptions {
  const { sizeBytes: capacityBytes, blockBytes, readOnly, serial } = spec;
  return { capacityBytes, blockBytes, readOnly, serial };
}

function ignore(): void {}

/** A mistake of the caller, told without ending anything. */
export function refusal(code: string, message: string, advice?: string): RingstoreError {
  return new RingstoreError(code, message, advice === undefined ? {} : { advice });
}
