// The classic path on its reactor: the portal that takes iSCSI connections, and a target for each
// volume that is attached so. Made when the first one is.
//
//   initiators ==TCP==> Portal --> ClassicService --> ScsiEngine --> the volume's BlockDevice
//
// Invariants:
//  - everything here runs on the reactor's thread;
//  - a target is found by name as long as its volume is attached; one of another reactor of this
//    node, or of another node, leads there by redirection (RFC 7143 section 11.13.5);
//  - a front-end that has been closed touches its device no more.

import {
  type IscsiTarget,
  Portal,
  type ScsiService,
  type TargetDirectory,
  TRANSFER_BYTES_MAX,
} from "../iscsi/index.ts";
import type { ClassicSpec, PortalStats } from "../ports/index.ts";
import type { Reactor } from "../reactor/index.ts";
import {
  ACCESS_OPTIMIZED,
  ACCESS_STANDBY,
  type LogicalUnit,
  type ScsiEngine,
  ScsiTarget,
  type TargetPortGroup,
} from "../scsi/index.ts";
import { LimitedLog } from "../telemetry/index.ts";
import { UringListener } from "../uring/index.ts";
import { ClassicService } from "./classic-service.ts";
import type { ClassicCommand, ReactorMessage } from "./reactor-protocol.ts";
import type { GatedVolume, ReactorUnits } from "./reactor-units.ts";
import { refusal, type VolumeFront } from "./reactor-volume.ts";

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
  readonly units: ReactorUnits;
  readonly send: (message: ReactorMessage) => void;
}

/** One volume as a target. */
class ClassicFront implements VolumeFront {
  readonly iscsi: IscsiTarget;
  readonly volumeId: string;
  private readonly service: ClassicService;
  private readonly scsi: ScsiTarget;
  private readonly unit: LogicalUnit;
  private readonly owner: ReactorClassic;

  constructor(spec: ClassicSpec, volume: GatedVolume, owner: ReactorClassic, units: ReactorUnits) {
    const { engine } = units;
    this.owner = owner;
    this.volumeId = spec.volumeId;
    this.unit = units.open(spec, volume, {
      groups: [SERVING],
      transferBytesMax: TRANSFER_BYTES_MAX,
    });
    this.scsi = new ScsiTarget(engine);
    this.service = new ClassicService(engine, this.scsi, volume);
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
  private readonly portal: Portal;
  private readonly listener: UringListener;
  private readonly address: string;
  private readonly elsewhere: ScsiService;
  private readonly targets: Map<string, IscsiTarget> = new Map();
  private readonly fronts: Map<string, ClassicFront> = new Map();
  private redirects: readonly IscsiTarget[] = [];
  private isListening = true;
  private told = "";

  /** Takes the listening descriptor over. */
  constructor(start: StartPortal, modules: ReactorClassicModules) {
    const { reactor, units } = modules;
    this.modules = modules;
    this.address = start.address;
    this.elsewhere = new NoService(units.engine);
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
    this.listener = new UringListener(reactor.ring, reactor.memory, start.listenFd, this.portal);
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
  open(spec: ClassicSpec, volume: GatedVolume): ClassicFront {
    const { targetName } = spec;
    if (this.targets.has(targetName)) {
      throw refusal("VOLUME_ATTACHED", `there is a target ${targetName} already`);
    }
    const front = new ClassicFront(spec, volume, this, this.modules.units);
    this.targets.set(targetName, front.iscsi);
    this.fronts.set(front.volumeId, front);
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
