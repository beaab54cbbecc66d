// A vhost-user device: one virtio device behind one unix socket. Accepts front-ends, each with a
// session of its own, and decides whose rings may run.
//
// Invariants:
//  - any number of sessions up to SESSIONS_MAX may negotiate; at most one has rings that run;
//  - the socket appears under its name with its final owner and mode, never before;
//  - close() answers only when every session has drained and nothing of the device is left.

import { assert, EAGAIN, EMFILE, type RingstoreError } from "../base/index.ts";
import type { Arena, ReactorPort } from "../ports/index.ts";
import {
  accept,
  chmod,
  chown,
  close,
  hangUp,
  isSocket,
  listenUnix,
  POLLIN,
  rename,
  SysError,
  unlink,
} from "../sys/index.ts";
import { LimitedLog } from "../telemetry/index.ts";
import { COUNTER_CONNECTED, COUNTER_OPEN_SESSIONS, COUNTER_SESSION } from "../virtio/index.ts";
import { DescriptorBudget } from "./descriptor-budget.ts";
import type { FrontGate, GatedFront } from "./front-gate.ts";
import type { DeviceModel } from "./guest-device.ts";
import { MemoryBudget } from "./memory-budget.ts";
import { MemoryTable } from "./memory-table.ts";
import { Session, type SessionDevice } from "./session.ts";

/** Connections to one socket at a time; more are closed at once. */
export const SESSIONS_MAX = 16;
const BACKLOG = 16;
const ACCEPT_RETRY_MS = 100;
const BOUNCE_BYTES = 64 * 1024;

export interface VhostDeviceOptions {
  /** Name of the volume or controller, for logs. */
  readonly name: string;
  readonly socketPath: string;
  readonly socketMode: number;
  /** Numeric group, or -1 to leave it. */
  readonly socketGroupId: number;
  /** Touch memory directly that its owner could truncate: faster, and a SIGBUS ends the daemon. */
  readonly trustMemory: boolean;
  /** Rings run only while it is open; none = always. */
  readonly gate?: FrontGate;
}

export class VhostUserDevice implements SessionDevice, GatedFront {
  readonly name: string;
  readonly reactor: ReactorPort;
  readonly model: DeviceModel;
  readonly trustMemory: boolean;
  readonly memoryBudget: MemoryBudget = new MemoryBudget();
  readonly descriptorBudget: DescriptorBudget;
  readonly log: LimitedLog;

  private readonly options: VhostDeviceOptions;
  private readonly bounce: Arena;
  private readonly sessions: Session[] = [];
  private listenFd = -1;
  private listenWatch = -1;
  private retryTimer = -1;
  private nextId = 1;
  private owner: Session | null = null;
  private onClosed: (() => void) | null = null;

  constructor(reactor: ReactorPort, model: DeviceModel, options: VhostDeviceOptions) {
    assert(model.ringCountMax >= 1 && model.ringCountMax <= 256, "queue count out of range");
    this.reactor = reactor;
    this.model = model;
    this.options = options;
    this.name = options.name;
    this.trustMemory = options.trustMemory;
    this.descriptorBudget = new DescriptorBudget(model.ringCountMax);
    this.log = new LimitedLog(
      { fields: { volume: options.name } },
      { log: reactor.log, clock: reactor.clock },
    );
    this.bounce = reactor.memory.allocate(BOUNCE_BYTES);
  }

  get sessionCount(): number {
    return this.sessions.length;
  }

  /** A front-end has rings running. */
  get connected(): boolean {
    return this.owner !== null;
  }

  /** Listens on the socket path; a stale socket there is replaced. 0 or a negated errno. */
  listen(): number {
    const { socketPath, socketMode, socketGroupId } = this.options;
    if (isSocket(socketPath)) unlink(socketPath);
    // Bound under another name first: it must never be reachable with the wrong owner or mode.
    const temporary = `${socketPath}~`;
    unlink(temporary);
    const fd = listenUnix(temporary, BACKLOG);
    if (fd < 0) return fd;
    let result = chmod(temporary, socketMode);
    if (result >= 0 && socketGroupId >= 0) result = chown(temporary, -1, socketGroupId);
    if (result >= 0) result = rename(temporary, socketPath);
    if (result < 0) {
      unlink(temporary);
      close(fd);
      return result;
    }
    this.listenFd = fd;
    this.listenWatch = this.reactor.watch(fd, POLLIN, this, 0);
    this.options.gate?.guard(this);
    return 0;
  }

  /** ReadinessHandler: somebody connects. */
  ready(_tag: number, events: number): void {
    if (this.listenFd < 0) return;
    if (events < 0) {
      this.log.log("error", "vhost_user.listen_failed");
      return;
    }
    this.acceptAll();
  }

  private acceptAll(): void {
    for (let count = 0; count < BACKLOG; count++) {
      const fd = accept(this.listenFd);
      if (fd === -EAGAIN) return;
      if (fd < 0) {
        // Out of descriptors, most likely: those waiting are taken when some are free again.
        const why = fd === -EMFILE ? "no file descriptor is free" : "accept failed";
        this.log.log("warn", "vhost_user.accept_failed", { why });
        break;
      }
      this.open(fd);
    }
    if (this.retryTimer === -1) this.retryTimer = this.reactor.setTimer(ACCEPT_RETRY_MS, this, 0);
  }

  timerFired(_tag: number): void {
    this.retryTimer = -1;
    if (this.listenFd >= 0) this.acceptAll();
  }

  private open(fd: number): void {
    if (this.sessions.length >= SESSIONS_MAX) {
      const fields = { sessions: this.sessions.length };
      this.log.log("warn", "vhost_user.too_many_sessions", fields);
      hangUp(fd);
      return;
    }
    const session = this.newSession(fd);
    if (session === null) return;
    this.sessions.push(session);
    this.nextId += 1;
    const { counters } = this.model.meter;
    counters[COUNTER_SESSION] = (counters[COUNTER_SESSION] as number) + 1;
    counters[COUNTER_OPEN_SESSIONS] = this.sessions.length;
  }

  private newSession(fd: number): Session | null {
    try {
      return new Session(this.nextId, fd, this);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.log.log("warn", "vhost_user.no_session", { why: error.message });
      hangUp(fd);
      return null;
    }
  }

  // SessionDevice ---------------------------------------------------------------------------------

  get guestState(): number | null {
    return this.owner === null ? null : this.owner.config.guestState;
  }

  newMemoryTable(): MemoryTable {
    return new MemoryTable(this.reactor.memory, this.bounce);
  }

  /** Whoever wants to run rings waits for a word from elsewhere, however long that takes. */
  get isHeld(): boolean {
    return this.options.gate?.isHeld === true;
  }

  claim(session: Session): boolean {
    if (this.isHeld) {
      this.options.gate?.changed();
      return false;
    }
    if (this.owner !== null && this.owner !== session) return false;
    this.setOwner(session);
    return true;
  }

  release(session: Session): void {
    assert(this.owner === session, "rings released by a session that did not hold them");
    this.setOwner(null);
    const { guestState } = session.config;
    for (const other of this.sessions) if (other !== session) other.inheritGuestState(guestState);
    for (const other of this.sessions) {
      if (this.owner !== null) return;
      if (other !== session) other.claimFreed();
    }
  }

  private setOwner(owner: Session | null): void {
    if (this.owner === owner) return;
    this.owner = owner;
    this.model.meter.counters[COUNTER_CONNECTED] = owner === null ? 0 : 1;
    const event = owner === null ? "vhost_user.stopped" : "vhost_user.started";
    this.log.log("info", event);
    this.options.gate?.changed();
  }

  sessionEnded(session: Session): void {
    const index = this.sessions.indexOf(session);
    assert(index >= 0, "a session ended twice");
    this.sessions.splice(index, 1);
    this.model.meter.counters[COUNTER_OPEN_SESSIONS] = this.sessions.length;
    this.options.gate?.changed();
    this.finishClosing();
  }

  // GatedFront ------------------------------------------------------------------------------------

  get isWaiting(): boolean {
    return this.sessions.some((session) => session.wantsToRun);
  }

  gateOpened(): void {
    for (const session of [...this.sessions]) session.claimFreed();
  }

  cutWaiting(): void {
    for (const session of [...this.sessions]) if (session.wantsToRun) session.cutWaiting();
  }

  // Management ------------------------------------------------------------------------------------

  /** A block device was resized: every front-end that listens is told. */
  capacityChanged(): void {
    for (const session of this.sessions) session.capacityChanged();
  }

  /** Stops listening and ends every session; `done` runs when nothing of the device is left. */
  close(done: () => void): void {
    assert(this.onClosed === null, "a device closed twice");
    this.onClosed = done;
    if (this.retryTimer !== -1) this.reactor.cancelTimer(this.retryTimer);
    if (this.listenFd >= 0) {
      this.reactor.unwatch(this.listenWatch);
      close(this.listenFd);
      unlink(this.options.socketPath);
    }
    this.listenFd = -1;
    this.options.gate?.guard(null);
    for (const session of [...this.sessions]) session.end("");
    this.finishClosing();
  }

  private finishClosing(): void {
    const done = this.onClosed;
    if (done === null || this.sessions.length > 0) return;
    this.onClosed = null;
    this.log.flush({ isClosing: true });
    this.reactor.memory.free(this.bounce);
    done();
  }
}

/** Turns what listen() returned into an error a person can act on. */
export function listenError(path: string, result: number): RingstoreError {
  return new SysError("listen", result, path);
}
