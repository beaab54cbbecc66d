// The classic path on its reactor: the portal that takes iSCSI connections, the SCSI device server
// behind it, and a target for each volume that is attached so. Made when the first one is.
//
//   initiators ==TCP==> Portal --> ClassicService --> ScsiEngine --> the volume's BlockDevice
//
// Invariants:
//  - everything here runs on the reactor's thread;
//  - a target is found by name as long as its volume is attached; one of another reactor of this
//    node, or of another node, leads there by redirection (RFC 7143 section 11.13.5);
//  - a front-end that has been closed touches its device no more.

import { assert } from "../base/index.ts";
import {
  type IscsiTarget,
  Portal,
  type ScsiService,
  type TargetDirectory,
  TRANSFER_BYTES_MAX,
} from "../iscsi/index.ts";
import type { BlockDevice, ClassicSpec, PortalStats, ReservationRecord } from "../ports/index.ts";
import type { Reactor } from "../reactor/index.ts";
import {
  ACCESS_OPTIMIZED,
  ACCESS_STANDBY,
  LogicalUnit,
  type ReservationStore,
  Reservations,
  ScsiEngine,
  ScsiTarget,
  type TargetPortGroup,
} from "../scsi/index.ts";
import { LimitedLog, type VolumeMeter } from "../telemetry/index.ts";
import { UringListener } from "../uring/index.ts";
import type { FrontGate } from "../vhost-user/index.ts";
import { ClassicMeter, ClassicService } from "./classic-service.ts";
import type { ClassicCommand, ReactorMessage } from "./reactor-protocol.ts";
import { refusal } from "./reactor-volume.ts";

/** Commands of all sessions that the device server has at once. */
const TASK_COUNT = 4096;
/**
 * Relative target port of whatever portal serves a target, on whichever node: an initiator that
 * finds it elsewhere is the nexus that it was, with its registrations.
 */
const PORT_TAG = 1;
/** Of the portal of a node that stands by for it, and leads here. */
const STANDBY_TAG = 2;

const SERVING: TargetPortGroup = {
  id: PORT_TAG,
  state: ACCESS_OPTIMIZED,
  isPreferred: true,
  ports: [PORT_TAG],
};
const STANDING_BY: TargetPortGroup = {
  id: STANDBY_TAG,
  state: ACCESS_STANDBY,
  isPreferred: false,
  ports: [STANDBY_TAG],
};

type StartPortal = ClassicCommand & { readonly op: "startPortal" };
type Redirect = (ClassicCommand & { readonly op: "setRedirects" })["redirects"][number];

export interface ReactorClassicModules {
  readonly reactor: Reactor;
  readonly copier: ConstructorParameters<typeof ScsiEngine>[0]["copier"];
  readonly send: (message: ReactorMessage) => void;
}

/** What a target is made over. */
export interface ClassicVolume {
  readonly name: string;
  readonly device: BlockDevice;
  readonly meter: VolumeMeter;
  /** Of a volume of the cluster. */
  readonly gate: FrontGate | null;
}

/** One volume as a target. */
class ClassicFront {
  readonly iscsi: IscsiTarget;
  readonly volumeId: string;
  private readonly service: ClassicService;
  private readonly scsi: ScsiTarget;
  private readonly unit: LogicalUnit;
  private readonly owner: ReactorClassic;

  constructor(
    spec: ClassicSpec,
    volume: ClassicVolume,
    owner: ReactorClassic,
    modules: { readonly reactor: Reactor; readonly engine: ScsiEngine; store: ReservationStore },
  ) {
    const { reactor, engine, store } = modules;
    const { device, meter } = volume;
    this.owner = owner;
    this.volumeId = spec.volumeId;
    this.scsi = new ScsiTarget(engine);
    this.service = new ClassicService(engine, this.scsi, volume);
    this.unit = new LogicalUnit({
      identity: {
        naa: Buffer.from(spec.naa, "hex"),
        vendor: "RINGSTOR",
        product: "VOLUME",
        revision: "1",
        serial: device.info.serial,
      },
      reservations: new Reservations(store, spec.reservations, spec.powerWasLost),
      groups: [SERVING],
      transferBytesMax: TRANSFER_BYTES_MAX,
      isReadOnly: spec.readOnly,
      meter: new ClassicMeter(reactor, meter),
    });
    this.unit.setDevice(device);
    this.scsi.addUnit(0, this.unit);
    const { chap } = spec;
    this.iscsi = {
      name: spec.targetName,
      alias: volume.name,
      portalGroupTag: PORT_TAG,
      addresses: [],
      initiators: spec.initiators.length === 0 ? null : new Set(spec.initiators),
      chap:
        chap === null ? null : { users: [{ name: chap.user, secret: chap.secret }], target: null },
      redirect: null,
      scsi: this.service,
    };
  }

  /** The device has another size: initiators hear of it. */
  capacityChanged(): void {
    this.unit.capacityChanged();
  }

  setStandby(hasStandby: boolean): void {
    const groups = hasStandby ? [SERVING, STANDING_BY] : [SERVING];
    if (groups.length !== this.unit.groups.length) this.unit.setGroups(groups);
  }

  /** Ends the sessions; `done` when nothing of them touches the device any more. */
  close(done: () => void): void {
    this.owner.forget(this);
    this.service.refuse(() => {
      this.scsi.removeUnit(0, () => {
        this.unit.close();
        done();
      });
    });
    this.owner.drop(this);
  }
}

/** For targets that are elsewhere: nobody gets as far as a session with one. */
class NoService implements ScsiService {
  readonly tasks: ScsiEngine["tasks"];

  constructor(engine: ScsiEngine) {
    this.tasks = engine.tasks;
  }

  addNexus(): number {
    return -1;
  }

  removeNexus(_nexus: number, done: () => void): void {
    done();
  }

  submit(): void {}
  dataOutReady(): void {}
  manage(): void {}
}

export class ReactorClassic implements TargetDirectory {
  readonly discoveryChap = null;
  private readonly modules: ReactorClassicModules;
  private readonly engine: ScsiEngine;
  private readonly portal: Portal;
  private readonly listener: UringListener;
  private readonly address: string;
  private readonly elsewhere: ScsiService;
  private readonly targets: Map<string, IscsiTarget> = new Map();
  private readonly fronts: Map<string, ClassicFront> = new Map();
  private redirects: readonly IscsiTarget[] = [];
  private readonly saves: Map<number, (result: number) => void> = new Map();
  private nextSaveId = 1;
  private isListening = true;
  private told = "";

  /** Takes the listening descriptor over. */
  constructor(start: StartPortal, modules: ReactorClassicModules) {
    const { reactor, copier } = modules;
    const { requests, memory } = reactor;
    this.modules = modules;
    this.address = start.address;
    this.engine = new ScsiEngine({ requests, memory, copier }, TASK_COUNT);
    this.elsewhere = new NoService(this.engine);
    const log = new LimitedLog({}, { log: reactor.log, clock: reactor.clock });
    this.portal = new Portal(reactor, log, {
      address: start.address,
      directory: this,
      limits: {
        connections: start.connectionsMax,
        connectionsPerAddress: start.connectionsPerAddressMax,
        // After a restart all initiators of a host log in at once.
        logins: start.connectionsMax,
        loginsPerAddress: start.connectionsPerAddressMax,
      },
    });
    this.listener = new UringListener(reactor.ring, memory, start.listenFd, this.portal);
  }

  // The directory that the portal asks at each login ----------------------------------------------

  find(name: string): IscsiTarget | null {
    const own = this.targets.get(name);
    return own ?? this.redirects.find((target) => target.name === name) ?? null;
  }

  list(): readonly IscsiTarget[] {
    const others = this.redirects.filter(({ name }) => !this.targets.has(name));
    return [...this.targets.values(), ...others];
  }

  /** Targets of the node's other reactors, and of other nodes, all of them. */
  setRedirects(redirects: readonly Redirect[]): void {
    this.redirects = redirects.map(({ targetName, address, initiators }) => ({
      name: targetName,
      alias: "",
      portalGroupTag: PORT_TAG,
      addresses: address === null ? [] : [`${address},${PORT_TAG}`],
      initiators: initiators.length === 0 ? null : new Set(initiators),
      // He proves himself where he is sent.
      chap: null,
      redirect: { address, isPermanent: false },
      scsi: this.elsewhere,
    }));
  }

  // Targets ---------------------------------------------------------------------------------------

  /** Throws RingstoreError when there is such a target, or the kept reservations are damaged. */
  open(spec: ClassicSpec, volume: ClassicVolume): ClassicFront {
    const { targetName, volumeId } = spec;
    if (this.targets.has(targetName)) {
      throw refusal("VOLUME_ATTACHED", `there is a target ${targetName} already`);
    }
    const { reactor } = this.modules;
    const store: ReservationStore = {
      save: (record, done) => this.save(volumeId, record, done),
    };
    let front: ClassicFront;
    try {
      front = new ClassicFront(spec, volume, this, { reactor, engine: this.engine, store });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw refusal("INVALID_REQUEST", error.message);
    }
    this.targets.set(targetName, front.iscsi);
    this.fronts.set(volumeId, front);
    return front;
  }

  /** New logins do not find it any more. */
  forget({ iscsi, volumeId }: ClassicFront): void {
    this.targets.delete(iscsi.name);
    this.fronts.delete(volumeId);
  }

  setStandby(volumeId: string, hasStandby: boolean): void {
    this.fronts.get(volumeId)?.setStandby(hasStandby);
  }

  drop({ iscsi }: ClassicFront): void {
    this.portal.drop(iscsi, "the volume is detached");
  }

  // Reservations are kept by the main thread ------------------------------------------------------

  private save(volumeId: string, record: ReservationRecord, done: (result: number) => void): void {
    const saveId = this.nextSaveId;
    this.nextSaveId += 1;
    this.saves.set(saveId, done);
    this.modules.send({ kind: "reservation", saveId, volumeId, record });
  }

  reservationSaved(saveId: number, result: number): void {
    const done = this.saves.get(saveId);
    assert(done !== undefined, "a reservation saved twice");
    this.saves.delete(saveId);
    done(result);
  }

  // Now and then ----------------------------------------------------------------------------------

  look(): void {
    if (this.isListening) this.listener.retry();
    const stats: Omit<PortalStats, "reactor"> = {
      address: this.address,
      sessionCount: this.portal.sessions.size,
      ...this.portal.counters,
    };
    const text = JSON.stringify(stats);
    if (text === this.told) return;
    this.told = text;
    this.modules.send({ kind: "portal", stats });
  }

  // The end ---------------------------------------------------------------------------------------

  /** After every front-end has been closed: hangs up on who is left. */
  close(done: () => void): void {
    let left = 2;
    const ended = (): void => {
      left -= 1;
      if (left === 0) done();
    };
    this.isListening = false;
    this.listener.close(ended);
    this.portal.close(ended);
  }
}
