// virtio-scsi controllers on their reactor: each a vhost-user socket, one SCSI target behind it,
// and the volumes that are its units.
//
//   guest ==rings==> VhostUserDevice --> ScsiModel --> ScsiEngine --> the unit's BlockDevice
//
//   (nothing) --first unit--> closed --listen()--> open --last unit goes, or a stop--> ending
//                                                                                        |
//   (nothing) <--units gone too-- ended <--------------- sessions have drained ----------+
//
// Invariants:
//  - everything here runs on the reactor's thread;
//  - a controller is there as long as it has a unit, or holds the place of one; its guest is told
//    of units that come and go, but not when the controller itself goes, or the daemon: a guest
//    that connects again is to find its disks as they were;
//  - a place that is held and the volume that takes it are one unit to the guest, see exchange();
//  - a volume of the cluster is not given away while a guest runs the controller's rings;
//  - what a front-end does on the socket counts for every unit of the controller.

import type { HeldUnitSpec, ScsiSpec } from "../ports/scsi-plane.ts";
import type { Reactor } from "../reactor/index.ts";
import {
  ACCESS_OPTIMIZED,
  type LogicalUnit,
  type NexusIdentity,
  type TargetPortGroup,
} from "../scsi/index.ts";
import { VOLUME_COUNTERS, VolumeMeter } from "../telemetry/index.ts";
import {
  FrontGate,
  type GatedFront,
  listenError,
  ScsiModel,
  VhostUserDevice,
} from "../vhost-user/index.ts";
import type { GatedVolume, ReactorUnits } from "./reactor-units.ts";
import { refusal, type VolumeFront } from "./reactor-volume.ts";

/** Relative target port of every controller; others than those of iSCSI's portals. */
const PORT_TAG = 3;
const GROUPS: readonly TargetPortGroup[] = [
  { id: 1, state: ACCESS_OPTIMIZED, isPreferred: true, ports: [PORT_TAG] },
];
/** TransportID of no protocol that SPC-4 has a format for (7.6.4). */
const PROTOCOL_NONE = 0x0f;
const TRANSPORT_ID_HEADER_BYTES = 4;
const TRANSPORT_ID_BYTES_MIN = 24;
/** What a front-end does, copied from the controller's counters to its units'. */
const OF_THE_SOCKET = [
  VOLUME_COUNTERS.connected,
  VOLUME_COUNTERS.openSessionCount,
  VOLUME_COUNTERS.ringErrorCount,
  VOLUME_COUNTERS.lateKickCount,
  VOLUME_COUNTERS.lateInterruptCount,
] as const;

export interface ReactorScsiModules {
  readonly reactor: Reactor;
  readonly units: ReactorUnits;
  readonly trustMemory: boolean;
}

/** The port of a controller's guest: its name, so that READ FULL STATUS says who it is. */
function identityOf(controller: string): NexusIdentity {
  const name = Buffer.from(controller, "latin1");
  const bytes = TRANSPORT_ID_HEADER_BYTES + Math.ceil(name.length / 4) * 4;
  const transportId = new Uint8Array(Math.max(TRANSPORT_ID_BYTES_MIN, bytes));
  transportId[0] = PROTOCOL_NONE;
  transportId.set(name, TRANSPORT_ID_HEADER_BYTES);
  return { transportId, relativePort: PORT_TAG };
}

type UnitPlace = Pick<ScsiSpec, "volumeId" | "lun">;
type ControllerSpec = Omit<HeldUnitSpec, "name" | "serial">;

/** One volume as a unit of a controller, or its place. */
class ScsiFront implements VolumeFront, GatedFront {
  /** The controller has no rings that wait for one of its volumes alone. */
  readonly isWaiting = false;
  readonly lun: number;
  readonly volumeId: string;
  readonly name: string;
  readonly unit: LogicalUnit;
  readonly meter: VolumeMeter;
  private readonly gate: FrontGate | null;
  private readonly controller: Controller;

  constructor(
    { volumeId, lun }: UnitPlace,
    unit: LogicalUnit,
    { name, meter, gate }: Omit<GatedVolume, "device">,
    controller: Controller,
  ) {
    this.lun = lun;
    this.volumeId = volumeId;
    this.name = name;
    this.unit = unit;
    this.meter = meter;
    this.gate = gate;
    this.controller = controller;
  }

  get connected(): boolean {
    return this.controller.isRunning;
  }

  /** Rings of the controller run, or have ceased to. */
  look(): void {
    this.gate?.changed();
  }

  guard(): void {
    this.gate?.guard(this);
  }

  gateOpened(): void {}
  cutWaiting(): void {}

  ended(): void {
    this.gate?.guard(null);
    this.unit.close();
    for (const index of OF_THE_SOCKET) this.meter.counters[index] = 0;
  }

  capacityChanged(): void {
    this.unit.capacityChanged();
  }

  close(done: () => void): void {
    this.controller.remove(this, done);
  }
}

class Controller {
  readonly name: string;
  /** Who waits until nothing is left of it. */
  readonly waiting: (() => void)[] = [];
  private readonly spec: ControllerSpec;
  private readonly model: ScsiModel;
  private readonly device: VhostUserDevice;
  /** What no unit can be counted for, and what a front-end does. */
  private readonly meter: VolumeMeter = new VolumeMeter();
  private readonly fronts: Map<number, ScsiFront> = new Map();
  /** Units that nobody has begun to take away. */
  private readonly staying: Set<number> = new Set();
  private readonly gone: () => void;
  private state: "closed" | "open" | "ending" | "ended" = "closed";
  /** Who waits for the end of the sessions. */
  private readonly ending: (() => void)[] = [];

  constructor(spec: ControllerSpec, modules: ReactorScsiModules, gone: () => void) {
    const { reactor, units, trustMemory } = modules;
    this.name = spec.controller;
    this.spec = spec;
    this.gone = gone;
    this.model = new ScsiModel(units.engine, reactor, {
      requestQueueCount: spec.queueCountMax,
      packedAllowed: spec.packedAllowed,
      meter: this.meter,
      identity: identityOf(spec.controller),
    });
    this.device = new VhostUserDevice(reactor, this.model, {
      name: spec.controller,
      socketPath: spec.socketPath,
      socketMode: spec.socketMode,
      socketGroupId: spec.socketGroupId,
      trustMemory,
      // It is never shut: it says at once when rings begin and cease to run.
      gate: new FrontGate(false, () => this.look()),
    });
  }

  /** A guest runs its rings. */
  get isRunning(): boolean {
    return this.device.connected;
  }

  /** The volume's unit, or its place. */
  find(volumeId: string): ScsiFront | undefined {
    return [...this.fronts.values()].find((front) => front.volumeId === volumeId);
  }

  get isLeaving(): boolean {
    return this.state === "ending" || this.state === "ended";
  }

  /** Throws RingstoreError when the unit does not fit in. */
  requireRoom({ volumeId, lun, queueCountMax, packedAllowed }: ControllerSpec): void {
    const { name, spec } = this;
    const other = this.fronts.get(lun);
    const isHeld = other?.unit.isPending === true && other.volumeId === volumeId;
    if (other !== undefined && !isHeld) {
      throw refusal("LUN_TAKEN", `LUN ${lun} of controller ${name} is volume ${other.name}`);
    }
    if (spec.queueCountMax === queueCountMax && spec.packedAllowed === packedAllowed) return;
    const has = `${spec.queueCountMax} queues and packedAllowed ${spec.packedAllowed}`;
    throw refusal("ATTACHMENT_DIFFERS", `controller ${name} has ${has}`);
  }

  add(front: ScsiFront): void {
    const held = this.fronts.get(front.lun);
    this.fronts.set(front.lun, front);
    if (held === undefined) {
      this.staying.add(front.lun);
      this.model.addUnit(front.lun, front.unit, front.meter);
    } else {
      this.model.exchangeUnit(front.lun, front.unit, front.meter);
      held.ended();
    }
    front.guard();
    this.look();
  }

  /** Makes the socket. Throws RingstoreError when it cannot be made. */
  listen(): void {
    if (this.state !== "closed") return;
    const result = this.device.listen();
    if (result < 0) throw listenError(this.spec.socketPath, result);
    this.state = "open";
  }

  /** Takes a unit away, and with the last one the controller. */
  remove(front: ScsiFront, done: () => void): void {
    this.staying.delete(front.lun);
    const take = (): void => this.model.removeUnit(front.lun, () => this.taken(front, done));
    if (this.staying.size > 0 && !this.isLeaving) take();
    else this.end(take);
  }

  private taken(front: ScsiFront, done: () => void): void {
    this.fronts.delete(front.lun);
    front.ended();
    if (this.fronts.size === 0) {
      this.gone();
      for (const then of this.waiting.splice(0)) then();
    }
    done();
  }

  /** Ends the guest's sessions; `done` when they have drained. The units stay. */
  end(done: () => void): void {
    if (this.state === "ended") {
      done();
      return;
    }
    this.ending.push(done);
    if (this.state === "ending") return;
    this.state = "ending";
    this.device.close(() => {
      this.state = "ended";
      for (const then of this.ending.splice(0)) then();
    });
  }

  look(): void {
    const { counters } = this.meter;
    for (const front of this.fronts.values()) {
      for (const index of OF_THE_SOCKET) front.meter.counters[index] = counters[index] as number;
      front.look();
    }
  }
}

export class ReactorScsi {
  private readonly modules: ReactorScsiModules;
  private readonly controllers: Map<string, Controller> = new Map();

  constructor(modules: ReactorScsiModules) {
    this.modules = modules;
  }

  /** Calls `then` when no controller of that name is on its way out. */
  whenSettled(name: string, then: () => void): void {
    const controller = this.controllers.get(name);
    if (controller?.isLeaving === true) controller.waiting.push(then);
    else then();
  }

  /** Makes the volume a unit. Throws RingstoreError when it cannot be one. */
  open(spec: ScsiSpec, volume: GatedVolume): VolumeFront {
    const known = this.controllers.get(spec.controller);
    known?.requireRoom(spec);
    const unit = this.modules.units.open(spec, volume, { groups: GROUPS });
    return this.add(spec, unit, volume);
  }

  /** Keeps the place of a volume that is to come. Throws RingstoreError when there is none. */
  hold(spec: HeldUnitSpec): void {
    const known = this.controllers.get(spec.controller);
    // It has come, or its place is held already.
    if (known?.find(spec.volumeId) !== undefined) return;
    known?.requireRoom(spec);
    const unit = this.modules.units.openPending(spec, { groups: GROUPS });
    this.add(spec, unit, { name: spec.name, meter: new VolumeMeter(), gate: null });
  }

  /** Gives such a place up; nothing where the volume has come, or none is held. */
  drop(volumeId: string, done: () => void): void {
    for (const controller of this.controllers.values()) {
      const front = controller.find(volumeId);
      if (front?.unit.isPending !== true) continue;
      controller.remove(front, done);
      return;
    }
    done();
  }

  private add(
    spec: ControllerSpec,
    unit: LogicalUnit,
    volume: Omit<GatedVolume, "device">,
  ): ScsiFront {
    const controller = this.controllers.get(spec.controller) ?? this.make(spec);
    const front = new ScsiFront(spec, unit, volume, controller);
    controller.add(front);
    if (!spec.listens) return front;
    try {
      controller.listen();
    } catch (error) {
      // Without a guest it is gone when this returns.
      controller.remove(front, () => undefined);
      throw error;
    }
    return front;
  }

  private make(spec: ControllerSpec): Controller {
    const { controller: name } = spec;
    const controller = new Controller(spec, this.modules, () => this.controllers.delete(name));
    this.controllers.set(name, controller);
    return controller;
  }

  /** Makes the socket of a controller whose units did not. Throws RingstoreError. */
  listen(name: string): void {
    const controller = this.controllers.get(name);
    if (controller?.isLeaving === false) controller.listen();
  }

  look(): void {
    for (const controller of this.controllers.values()) controller.look();
  }

  /** At a stop, before the units go: guests do not lose their disks, but the connection. */
  end(done: () => void): void {
    let left = this.controllers.size + 1;
    const ended = (): void => {
      left -= 1;
      if (left === 0) done();
    };
    for (const controller of [...this.controllers.values()]) controller.end(ended);
    ended();
  }
}
