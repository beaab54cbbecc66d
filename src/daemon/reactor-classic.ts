// The classic path on its reactor: the portal that takes iSCSI connections, and a target for each
// volume that is attached so. Made when the first one is.
//
//   initiators ==TCP==> Portal --> ClassicService --> ScsiEngine --> the volume's BlockDevice
//
// Invariants:
//  - everything here runs on the reactor's thread;
//  - a target is found by name as long as its volume is attached; one of another reactor of this
//    node, or of another node, leads there by redirection (RFC 7143 section 11.13.5).

import {
  type ChapCredentials,
  type IscsiTarget,
  Portal,
  type ScsiService,
  type TargetDirectory,
} from "../iscsi/index.ts";
import type {
  ClassicSpec,
  ElsewhereTarget,
  PortalStats,
  ReservationRecord,
  TargetPath,
} from "../ports/index.ts";
import type { Reactor } from "../reactor/index.ts";
import type { ScsiEngine } from "../scsi/index.ts";
import { LimitedLog } from "../telemetry/index.ts";
import { UringListener } from "../uring/index.ts";
import type { ClassicCommand, ReactorMessage } from "./reactor-protocol.ts";
import { ClassicFront, credentialsOf, type FrontOwner, pathText } from "./reactor-target.ts";
import type { GatedVolume, ReactorUnits } from "./reactor-units.ts";
import { refusal } from "./reactor-volume.ts";

/** Of a target that nobody serves at the moment. */
const PORT_TAG = 1;

type StartPortal = ClassicCommand & { readonly op: "startPortal" };

export interface ReactorClassicModules {
  readonly reactor: Reactor;
  readonly units: ReactorUnits;
  readonly send: (message: ReactorMessage) => void;
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

export class ReactorClassic implements TargetDirectory, FrontOwner {
  readonly discoveryChap: ChapCredentials | null;
  private readonly modules: ReactorClassicModules;
  private readonly portal: Portal;
  private readonly listener: UringListener;
  readonly address: string;
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
    this.discoveryChap = credentialsOf(start.discovery);
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
  setRedirects(redirects: readonly ElsewhereTarget[]): void {
    this.redirects = redirects.map(({ targetName, address, initiators, paths }) => ({
      name: targetName,
      alias: "",
      portalGroupTag: PORT_TAG,
      addresses: paths.map(pathText),
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

  /** Nothing where it has been detached meanwhile. */
  setPaths(volumeId: string, others: readonly TargetPath[]): void {
    this.fronts.get(volumeId)?.setPaths(others);
  }

  /** The same. Throws RingstoreError where the record is damaged. */
  setReservations(volumeId: string, record: ReservationRecord): void {
    this.fronts.get(volumeId)?.setReservations(record);
  }

  drop({ iscsi }: ClassicFront): void {
    this.portal.drop(iscsi, "the volume is detached");
  }

  dropSessions({ iscsi }: ClassicFront, isMeant: (nexus: number) => boolean): void {
    this.portal.dropSessions(iscsi, "the target is on another node now", isMeant);
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
