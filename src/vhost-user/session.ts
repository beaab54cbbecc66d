// One front-end's session: everything it told us, from its first message to its last, and the
// rings it started. The session owns the state; requests.ts says what each message does to it.
//
// Invariants:
//  - messages are handled one at a time, in order; one that must wait (for a ring to drain) holds
//    up those behind it, and nothing else;
//  - every reply that waits is waiting for the kernel to let go of guest memory, nothing else:
//    GET_VRING_BASE, RESET_DEVICE, SET_STATUS 0, SET_MEM_TABLE and REM_MEM_REG. Everything else is
//    answered at once (front-ends wait for replies in their main thread);
//  - at most one session of a device has rings that run: device.claim() decides;
//  - memory, log and inflight region are unmapped only when no ring runs and the device has let go;
//  - a session that ends answers what it took, signals, and leaves no descriptor, mapping or timer.
// Specification: vhost-user, "Communication" and "Starting and stopping rings".

import { assert } from "../base/index.ts";
import type { Log, LogFields, ReactorPort } from "../ports/index.ts";
import { closeReceived, POLLIN, send, writeNoWait } from "../sys/index.ts";
import { AGAIN, CLOSED, Connection, MESSAGE, MESSAGE_TIMEOUT_MS } from "./connection.ts";
import type { DescriptorBudget } from "./descriptor-budget.ts";
import type { DirtyLog } from "./dirty-log.ts";
import type { DeviceConfig, DeviceModel, GuestDevice } from "./guest-device.ts";
import type { InflightRegion } from "./inflight.ts";
import type { MemoryBudget } from "./memory-budget.ts";
import type { MemoryRegion } from "./memory-region.ts";
import type { MemoryTable } from "./memory-table.ts";
import {
  ANSWER_ACK,
  ANSWER_REPLY_IF_LOG_SHMFD,
  BACKEND_CONFIG_CHANGE_MSG,
  FLAG_VERSION,
  HEADER,
  PROTOCOL_F_BACKEND_REQ,
  PROTOCOL_F_CONFIG,
  PROTOCOL_F_LOG_SHMFD,
  PROTOCOL_F_REPLY_ACK,
  requestInfo,
  requestName,
  VHOST_F_LOG_ALL,
} from "./messages.ts";
import { LATER, OK, type Outcome, REPLIED } from "./outcome.ts";
import { handleRequest } from "./requests.ts";
import type { SleepingRing } from "./second-look.ts";
import { RING_DRAINING, RING_RUNNING, RING_STOPPED, type RingOwner, Vring } from "./vring.ts";

/** Messages handled per wake-up, and the time for them: a flood of them must not hold the loop. */
const MESSAGES_PER_TURN = 64;
const MESSAGES_US_PER_TURN = 1000;
/** How long a second front-end may wait for the first to stop its rings, then it is cut off. */
const CLAIM_TIMEOUT_MS = 900;

const OTHERS_RUN = "another front-end has the device's rings running";

const TIMER_PARTIAL = 1;
const TIMER_CLAIM = 2;
const TIMER_CONTINUE = 3;

/** What a session needs of its device (device.ts). */
export interface SessionDevice {
  readonly name: string;
  readonly reactor: ReactorPort;
  readonly model: DeviceModel;
  readonly trustMemory: boolean;
  readonly memoryBudget: MemoryBudget;
  readonly descriptorBudget: DescriptorBudget;
  /** Limited per event: what it says, a front-end can cause. */
  readonly log: Log;
  /** What the guest whose rings run has set in its configuration space; null where none runs. */
  readonly guestState: number | null;
  newMemoryTable(): MemoryTable;
  /** True when `session` may run rings. False: session.claimFreed() is called when it is free. */
  claim(session: Session): boolean;
  release(session: Session): void;
  /** No session may run rings now; who wants to is not cut off for it. */
  readonly isHeld: boolean;
  sessionEnded(session: Session): void;
}

export class Session implements RingOwner {
  readonly id: number;
  readonly device: SessionDevice;
  readonly connection: Connection;
  readonly guest: GuestDevice;
  readonly config: DeviceConfig;
  readonly memory: MemoryTable;
  readonly rings: Vring[] = [];
  featuresLow = 0;
  featuresHigh = 0;
  protocolLow = 0;
  protocolFeaturesSet = false;
  status = 0;
  inflight: InflightRegion | null = null;
  log: DirtyLog | null = null;
  /** A new memory table, mapped, that waits for the rings to drain. */
  nextRegions: MemoryRegion[] = [];

  private readonly reactor: ReactorPort;
  private socketWatch: number;
  private backendFd = -1;
  private timers: [partial: number, claim: number, continued: number] = [-1, -1, -1];
  private allEnabled = false;
  private closing = false;
  private ended = false;
  /** What happens when no ring drains any more, or null. */
  private onDrained: (() => void) | null = null;
  /** The message being handled waits; nothing more is read. */
  private deferred: { request: number; needReply: boolean } | null = null;
  private claimed = false;

  constructor(id: number, fd: number, device: SessionDevice) {
    this.id = id;
    this.device = device;
    this.reactor = device.reactor;
    this.connection = new Connection(fd, device.reactor.memory);
    this.memory = device.newMemoryTable();
    this.guest = device.model.newGuest(device.guestState);
    this.config = this.guest.config;
    this.socketWatch = this.reactor.watch(fd, POLLIN, this, 0);
  }

  say(level: "info" | "warn", event: string, fields: LogFields = {}): void {
    this.device.log.log(level, event, { session: this.id, ...fields });
  }

  // Messages --------------------------------------------------------------------------------------

  /** ReadinessHandler: bytes, or the end, of the socket. */
  ready(_tag: number, events: number): void {
    if (events < 0) this.end("the socket cannot be watched");
    else this.receive();
  }

  private receive(): void {
    const { clock } = this.reactor;
    const untilUs = clock.nowUs() + MESSAGES_US_PER_TURN;
    for (let count = 0; count < MESSAGES_PER_TURN && clock.nowUs() < untilUs; count++) {
      if (this.closing || this.deferred !== null) return;
      const what = this.connection.receive();
      if (what === AGAIN) {
        this.watchPartial();
        return;
      }
      this.stopTimer(TIMER_PARTIAL);
      if (what === CLOSED) {
        this.end(this.connection.problem);
        return;
      }
      assert(what === MESSAGE, "receive() answers one of three");
      this.handle();
    }
    if (!this.closing) this.startTimer(TIMER_CONTINUE, 0);
  }

  private watchPartial(): void {
    if (this.connection.partial) {
      if (this.timers[TIMER_PARTIAL - 1] === -1) {
        this.startTimer(TIMER_PARTIAL, MESSAGE_TIMEOUT_MS);
      }
    } else {
      this.stopTimer(TIMER_PARTIAL);
    }
  }

  private handle(): void {
    const { connection } = this;
    const request = connection.request;
    const info = requestInfo(request);
    const needReply = connection.needReply;
    if (info === undefined) {
      this.finish(request, needReply, "a request this back-end does not know");
      return;
    }
    const bytes = connection.payloadBytes;
    if (bytes < info.payloadBytesMin || bytes > info.payloadBytesMax) {
      this.end(`${info.name} with a payload of ${bytes} bytes`);
      return;
    }
    if (connection.descriptorCount > info.fdCountMax) {
      this.end(`${info.name} with ${connection.descriptorCount} descriptors`);
      return;
    }
    const outcome = handleRequest(this, request, connection);
    if (outcome === LATER) {
      // A drain that ended at once has called its continuation already: nothing to wait for.
      if (this.onDrained !== null) this.deferred = { request, needReply };
      else this.finish(request, needReply, this.laterOutcome);
      return;
    }
    this.finish(request, needReply, outcome);
  }

  /** Outcome of a deferred request, set by its continuation. */
  laterOutcome: Outcome = OK;

  private finish(request: number, needReply: boolean, outcome: Outcome): void {
    if (this.closing || outcome === REPLIED) return;
    const refused = typeof outcome === "string";
    if (refused)
      this.say("warn", "vhost_user.refused", { request: requestName(request), why: outcome });
    const acks = needReply && this.negotiated(PROTOCOL_F_REPLY_ACK);
    if (acks) this.sent(this.connection.replyU64(request, refused ? 1 : 0, 0));
    else if (refused) this.end(`${requestName(request)}: ${outcome}`);
    if (!acks && !refused) assert(!this.hasReply(request), "a request that has a reply got none");
  }

  private hasReply(request: number): boolean {
    const answer = requestInfo(request)?.answer;
    if (answer === ANSWER_REPLY_IF_LOG_SHMFD) return this.negotiated(PROTOCOL_F_LOG_SHMFD);
    return answer !== ANSWER_ACK;
  }

  /** Ends the session when a reply could not be sent. Returns `sent`. */
  sent(sent: boolean): boolean {
    if (!sent) this.end("the front-end does not read its replies");
    return sent;
  }

  negotiated(bit: number): boolean {
    return ((this.protocolLow >>> bit) & 1) === 1;
  }

  // Rings -----------------------------------------------------------------------------------------

  /** The ring, made at its first mention; null beyond ringCountMax. */
  ring(index: number): Vring | null {
    if (index >= this.device.model.ringCountMax) return null;
    let ring = this.rings[index];
    if (ring === undefined) {
      for (let at = this.rings.length; at <= index; at++) {
        this.rings.push(
          new Vring(at, {
            reactor: this.reactor,
            guest: this.guest,
            meter: this.device.model.meter,
            memory: this.memory,
            descriptors: this.device.descriptorBudget,
            owner: this,
          }),
        );
        if (this.allEnabled) (this.rings[at] as Vring).enabled = true;
      }
      ring = this.rings[index] as Vring;
    }
    return ring;
  }

  /** Features without PROTOCOL_FEATURES: rings need no enabling. */
  enableAllRings(): void {
    this.allEnabled = true;
    for (const ring of this.rings) ring.enabled = true;
    this.startRings();
  }

  get ringsRunning(): boolean {
    return this.rings.some((ring) => ring.state !== RING_STOPPED);
  }

  /** The memory table is another one: rings that waited for it may start. */
  memoryChanged(): void {
    for (const ring of this.rings) ring.memoryChanged();
    this.startRings();
  }

  /** Starts every ring that can run now. */
  startRings(): void {
    if (this.closing || this.onDrained !== null) return;
    if (!this.rings.some((ring) => ring.startable)) return;
    if (!this.claimed && !this.device.claim(this)) {
      const isTimed = this.device.isHeld || this.timers[TIMER_CLAIM - 1] !== -1;
      if (!isTimed) this.startTimer(TIMER_CLAIM, CLAIM_TIMEOUT_MS);
      return;
    }
    if (!this.claimed) this.guest.begin();
    this.claimed = true;
    this.stopTimer(TIMER_CLAIM);
    const { featuresLow, featuresHigh, inflight } = this;
    for (const ring of this.rings) {
      if (!ring.startable) continue;
      ring.setDirtyLog(this.activeLog);
      ring.start({ featuresLow, featuresHigh, inflight });
    }
    this.releaseIfIdle();
  }

  private releaseIfIdle(): void {
    if (!this.claimed || this.ringsRunning) return;
    this.claimed = false;
    this.device.release(this);
  }

  /**
   * Another session's rings have stopped, and this one may be where its guest goes on: it migrates.
   * Front-ends do not tell the destination's back-end what the guest set.
   */
  inheritGuestState(state: number): void {
    if (this.ringsRunning) return;
    this.config.restoreGuestState(state);
    this.inflight?.saveGuestState(state);
  }

  /** The device's rings are free: try again. */
  claimFreed(): void {
    this.startRings();
  }

  /** It has rings that could run, and does not run any. */
  get wantsToRun(): boolean {
    return !this.claimed && !this.closing && this.rings.some((ring) => ring.startable);
  }

  cutWaiting(): void {
    this.end(OTHERS_RUN);
  }

  /** The log that writes go to, when one is set and asked for by the features. */
  get activeLog(): DirtyLog | null {
    return this.log !== null && ((this.featuresLow >>> VHOST_F_LOG_ALL) & 1) === 1
      ? this.log
      : null;
  }

  /** After the log, its address or the features changed. */
  updateLogging(): void {
    this.memory.setLog(this.activeLog);
    for (const ring of this.rings) ring.setDirtyLog(this.activeLog);
  }

  ringKicked(_ring: Vring): void {
    this.startRings();
  }

  ringBroken(ring: Vring, reason: string): void {
    this.say("warn", "vhost_user.ring_broken", { ring: ring.index, reason });
  }

  ringLate(ring: SleepingRing, lost: string): void {
    const hint = "the guest's machine lost it: QEMU does, emulating one CPU without KVM";
    this.say("warn", "vhost_user.late_wakeup", { ring: ring.index, lost, hint });
  }

  ringDrained(_ring: Vring): void {
    this.checkDrained();
  }

  /**
   * Stops taking from `rings`; `then` runs when what they took is answered and the device has let
   * go of guest memory: in a later turn, or before this returns when nothing runs.
   */
  drain(rings: readonly Vring[], then: () => void): void {
    assert(this.onDrained === null, "two drains at once");
    this.onDrained = then;
    for (const ring of rings) if (ring.state === RING_RUNNING) ring.drain();
    this.checkDrained();
  }

  private checkDrained(): void {
    const then = this.onDrained;
    if (then === null || this.rings.some((ring) => ring.state === RING_DRAINING)) return;
    this.onDrained = null;
    then();
    this.releaseIfIdle();
    const { deferred } = this;
    if (deferred === null) return;
    this.deferred = null;
    this.finish(deferred.request, deferred.needReply, this.laterOutcome);
    this.receive();
  }

  // Events for the front-end ----------------------------------------------------------------------

  /** Takes ownership of the descriptor of SET_BACKEND_REQ_FD. */
  setBackendFd(fd: number): void {
    if (this.backendFd >= 0) closeReceived(this.backendFd);
    this.backendFd = fd;
  }

  /** The device was resized: configuration space and, where it listens, the front-end follow. */
  capacityChanged(): void {
    if (!this.guest.refresh()) return;
    if (this.backendFd < 0 || !this.negotiated(PROTOCOL_F_BACKEND_REQ)) return;
    if (!this.negotiated(PROTOCOL_F_CONFIG)) return;
    const arena = this.reactor.memory.allocate(4096);
    arena.u32[HEADER.request >>> 2] = BACKEND_CONFIG_CHANGE_MSG;
    arena.u32[HEADER.flags >>> 2] = FLAG_VERSION;
    arena.u32[HEADER.size >>> 2] = 0;
    // No answer is asked for: the front-end reads the configuration when it gets to it. A peer
    // that has stopped reading loses the news, never holds us up.
    if (send(this.backendFd, arena.address, HEADER.BYTES, []) < 0) {
      writeNoWait(this.backendFd, arena.address, HEADER.BYTES);
    }
    this.reactor.memory.free(arena);
  }

  // The end ---------------------------------------------------------------------------------------

  /** Ends the session: rings drain first. `why` is "" for an orderly close. */
  end(why: string): void {
    if (this.closing) return;
    this.closing = true;
    if (why !== "") this.say("warn", "vhost_user.session_cut", { why });
    for (const which of [TIMER_PARTIAL, TIMER_CLAIM, TIMER_CONTINUE]) this.stopTimer(which);
    this.reactor.unwatch(this.socketWatch);
    this.deferred = null;
    this.onDrained = null;
    this.drain(this.rings, () => this.destroy());
  }

  private destroy(): void {
    assert(!this.ended, "a session ended twice");
    this.ended = true;
    for (const ring of this.rings) ring.reset();
    this.guest.end();
    if (this.claimed) {
      this.claimed = false;
      this.device.release(this);
    }
    this.memory.setLog(null);
    for (const region of this.memory.clear()) region.unmap();
    for (const region of this.nextRegions.splice(0)) region.unmap();
    if (this.log !== null) this.log.unmap();
    if (this.inflight !== null) this.inflight.unmap();
    this.setBackendFd(-1);
    this.connection.close();
    this.device.sessionEnded(this);
  }

  // Timers ----------------------------------------------------------------------------------------

  private startTimer(which: number, delayMs: number): void {
    this.stopTimer(which);
    this.timers[which - 1] = this.reactor.setTimer(delayMs, this, which);
  }

  private stopTimer(which: number): void {
    const id = this.timers[which - 1] as number;
    if (id !== -1) this.reactor.cancelTimer(id);
    this.timers[which - 1] = -1;
  }

  timerFired(which: number): void {
    this.timers[which - 1] = -1;
    if (which === TIMER_PARTIAL) this.end("half a message and then silence");
    else if (which === TIMER_CLAIM) this.end(OTHERS_RUN);
    else this.receive();
  }
}
