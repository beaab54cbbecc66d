// The classic path as the data plane's main thread holds it: which reactors have a portal, which of
// them has which target, and the reservations on their way to be kept.
//
// A portal is opened with the first volume of its reactor that is attached so, the first reactor's
// also when another node of the cluster has such a volume, and listens until the daemon ends. Each
// knows the targets of the others and of other nodes, and sends initiators there, so that one
// address leads to every volume, whichever reactor or node it has come to.

import { EIO, errnoName, RingstoreError } from "../base/index.ts";
import type {
  ClassicSpec,
  ElsewhereTarget,
  PortalSettings,
  PortalStats,
  SaveReservations,
  TargetPath,
} from "../ports/classic-plane.ts";
import type { Log } from "../ports/log.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import { boundPort, close, listenTcp } from "../sys/index.ts";
import type { PlaneLimits } from "./reactor-limits.ts";
import type { ReactorCommand, ReactorMessage } from "./reactor-protocol.ts";
import type { ReactorThread } from "./reactor-thread.ts";

/** Connections that the kernel completes before we take them. */
const BACKLOG = 128;

type ClassicMessage = Extract<ReactorMessage, { kind: "reservation" | "portal" }>;

export interface PlaneClassicModules {
  readonly threads: readonly ReactorThread[];
  readonly limits: PlaneLimits;
  readonly log: Log;
  readonly settings: PortalSettings | null;
  /** Null: reservations are forgotten with the process. */
  readonly save: SaveReservations | null;
}

interface Served {
  readonly spec: ClassicSpec;
  readonly thread: ReactorThread;
  /** On other nodes. */
  others: readonly TargetPath[];
}

export class PlaneClassic {
  private readonly modules: PlaneClassicModules;
  /** Addresses by thread; a promise, so that two attaches open one portal. */
  private readonly portals: Map<ReactorThread, Promise<string>> = new Map();
  private readonly served: Map<string, Served> = new Map();
  private readonly told: Map<ReactorThread, PortalStats> = new Map();
  private elsewhere: readonly ElsewhereTarget[] = [];

  constructor(modules: PlaneClassicModules) {
    this.modules = modules;
    for (const thread of modules.threads) {
      thread.onClassic = (message) => this.take(thread, message);
    }
  }

  /** Rejects with RingstoreError when the portal cannot listen, or the reactor refuses. */
  async attach(thread: ReactorThread, spec: ClassicSpec, onLate: () => void): Promise<string> {
    const { limits } = this.modules;
    const door = await this.openDoor();
    await this.portalOf(thread);
    const command = { op: "attachClassic", spec } as const;
    await thread.request(command, { timeoutMs: limits.commandMs, onLate });
    this.served.set(spec.volumeId, { spec, thread, others: [] });
    await this.tellRedirects();
    return door;
  }

  async detached(volumeId: string): Promise<void> {
    if (this.served.delete(volumeId)) await this.tellRedirects();
  }

  /** The address that is printed is the first reactor's, whichever has the volume. */
  openDoor(): Promise<string> {
    const [first] = this.modules.threads as [ReactorThread];
    return this.portalOf(first);
  }

  async leadElsewhere(targets: readonly ElsewhereTarget[]): Promise<void> {
    this.elsewhere = targets;
    await this.tellRedirects();
  }

  /** Nothing where it has been detached meanwhile. */
  async setPaths(volumeId: string, others: readonly TargetPath[]): Promise<void> {
    const one = this.served.get(volumeId);
    if (one === undefined) return;
    one.others = others;
    one.thread.post({ op: "setPaths", volumeId, others });
    await this.tellRedirects();
  }

  /** The same. Rejects with RingstoreError where the record is damaged. */
  async setReservations(volumeId: string, record: ReservationRecord): Promise<void> {
    const { commandMs: timeoutMs } = this.modules.limits;
    const thread = this.served.get(volumeId)?.thread;
    await thread?.request({ op: "setReservations", volumeId, record }, { timeoutMs });
  }

  private portalOf(thread: ReactorThread): Promise<string> {
    const known = this.portals.get(thread);
    if (known !== undefined) return known;
    const opening = this.openPortal(thread);
    this.portals.set(thread, opening);
    // The next attach tries again.
    opening.catch(() => this.portals.delete(thread));
    return opening;
  }

  private async openPortal(thread: ReactorThread): Promise<string> {
    const { settings, limits } = this.modules;
    if (settings === null) {
      throw new RingstoreError("UNSUPPORTED", "this daemon has no address for iSCSI", {
        advice: "start ringstored with --iscsi-listen HOST:PORT",
      });
    }
    const { host, connectionsMax, connectionsPerAddressMax, discovery } = settings;
    const port = settings.port === 0 ? 0 : settings.port + thread.index;
    const listenFd = listenTcp({ host, port }, BACKLOG);
    if (listenFd < 0) throw listenFailure(host, port, listenFd);
    const address = `${host.includes(":") ? `[${host}]` : host}:${boundPort(listenFd)}`;
    const portal = { listenFd, address, connectionsMax, connectionsPerAddressMax, discovery };
    try {
      await thread.request({ op: "startPortal", ...portal }, { timeoutMs: limits.commandMs });
    } catch (error) {
      // A reactor that may still take it keeps the descriptor.
      if ((error as RingstoreError).code !== "TIMED_OUT") close(listenFd);
      throw error;
    }
    this.modules.log.log("info", "iscsi.listening", { address, reactor: thread.index });
    return address;
  }

  private async tellRedirects(): Promise<void> {
    const addresses = new Map<ReactorThread, string>();
    for (const [thread, opening] of this.portals) {
      const address = await opening.catch(() => null);
      if (address !== null) addresses.set(thread, address);
    }
    for (const thread of addresses.keys()) {
      const redirects = [...this.served.values()]
        .filter((one) => one.thread !== thread)
        .map(({ spec: { targetName, initiators, portTag }, thread: home, others }) => {
          const address = addresses.get(home) as string;
          const paths = [{ address, portTag, isActive: true }, ...others];
          return { targetName, initiators, address, paths };
        });
      thread.post({ op: "setRedirects", redirects: [...redirects, ...this.elsewhere] });
    }
  }

  private take(thread: ReactorThread, message: ClassicMessage): void {
    if (message.kind === "portal") {
      this.told.set(thread, { reactor: thread.index, ...message.stats });
      return;
    }
    const { saveId, volumeId, record } = message;
    const answer = (result: number): void => {
      const command: ReactorCommand = { op: "reservationSaved", saveId, result };
      thread.post(command);
    };
    const { save, log } = this.modules;
    if (save === null) {
      answer(0);
      return;
    }
    save(volumeId, record).then(
      () => answer(0),
      (error: Error) => {
        const fields = { volumeId, message: error.message };
        log.log("error", "iscsi.reservations-not-kept", fields);
        answer(-EIO);
      },
    );
  }

  stats(): readonly PortalStats[] {
    return [...this.told.values()];
  }
}

function listenFailure(host: string, port: number, result: number): RingstoreError {
  const message = `cannot listen for iSCSI on ${host} port ${port}: ${errnoName(result)}`;
  const advice =
    "Start ringstored with --iscsi-listen, an IP address of this node and a port that nobody has.";
  return new RingstoreError("BACKING_FAILED", message, { advice });
}
