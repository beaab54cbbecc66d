// A portal: takes connections, sees them through their login, keeps the sessions. One per reactor
// and listening address; nothing in it is hot.
//
//   streamAccepted -> LoginConnection -> [predecessor ends] -> Session -> sessionEnded
//
// Invariants:
//  - what anybody can make us hold is bounded: connections in total and by address, logins under
//    way, their time and memory (limits.ts);
//  - of sessions with the same initiator, ISID and target the later counts, and it begins when the
//    last task of the earlier has stopped (RFC 7143 section 6.3.5).

import type {
  Log,
  ReactorPort,
  Stream,
  StreamAcceptor,
  StreamHandler,
  TimerHandler,
} from "../ports/index.ts";
import { iscsiTransportId } from "../scsi/index.ts";
import { OutstandingChallenges } from "./chap.ts";
import {
  ASYNC_DROP_CONNECTION,
  ASYNC_LOGOUT_REQUEST,
  LOGIN_SESSION_DOES_NOT_EXIST,
  LOGIN_SUCCESS,
  LOGIN_TOO_MANY_CONNECTIONS,
} from "./layouts.ts";
import {
  CONNECTIONS_MAX,
  CONNECTIONS_PER_ADDRESS_MAX,
  LARGE_PIECE_BYTES,
  LOGIN_MS,
  LOGINS_MAX,
  LOGINS_PER_ADDRESS_MAX,
  SEGMENT_BYTES_MAX,
  TICK_MS,
} from "./limits.ts";
import type { Login } from "./login.ts";
import { LoginConnection, type LoginConnectionOwner } from "./login-connection.ts";
import type { TargetWishes } from "./negotiation.ts";
import { Session, type SessionOwner } from "./session.ts";
import type { IscsiTarget, TargetDirectory } from "./target.ts";

export const TARGET_WISHES: TargetWishes = {
  headerDigests: ["None", "CRC32C"],
  dataDigests: ["None", "CRC32C"],
  initialR2T: false,
  immediateData: true,
  maxRecvDataSegmentLength: SEGMENT_BYTES_MAX,
  maxBurstLength: 1048576,
  // The first burst lies in the first piece of a command's memory.
  firstBurstLength: LARGE_PIECE_BYTES,
  maxOutstandingR2T: 8,
};

/** How much of a portal peers may have at once; those of limits.ts by default. */
export interface PortalLimits {
  /** Logged in or not; more are hung up on at once. */
  readonly connections: number;
  readonly connectionsPerAddress: number;
  /** Half-open logins: the oldest is hung up on when more come. */
  readonly logins: number;
  readonly loginsPerAddress: number;
}

const PORTAL_LIMITS: PortalLimits = {
  connections: CONNECTIONS_MAX,
  connectionsPerAddress: CONNECTIONS_PER_ADDRESS_MAX,
  logins: LOGINS_MAX,
  loginsPerAddress: LOGINS_PER_ADDRESS_MAX,
};

export interface PortalOptions {
  /** `address:port` as initiators reach it, for SendTargets. */
  readonly address: string;
  readonly directory: TargetDirectory;
  /** What is asked of initiators; TARGET_WISHES by default. */
  readonly wishes?: TargetWishes;
  readonly limits?: Partial<PortalLimits>;
}

export interface PortalCounters {
  acceptedCount: number;
  /** Hung up on before they said anything: too many. */
  turnedAwayCount: number;
  loginCount: number;
  refusedLoginCount: number;
  reinstatedCount: number;
}

/** Says nothing to a connection that is one too many. */
class Deaf implements StreamHandler {
  streamOpened(): void {}
  streamReceived(): void {}
  streamSent(): void {}
  streamClosed(): void {}
}

export class Portal implements StreamAcceptor, LoginConnectionOwner, SessionOwner, TimerHandler {
  readonly counters: PortalCounters = {
    acceptedCount: 0,
    turnedAwayCount: 0,
    loginCount: 0,
    refusedLoginCount: 0,
    reinstatedCount: 0,
  };
  readonly sessions: Set<Session> = new Set();
  readonly logins: Set<LoginConnection> = new Set();
  private readonly reactor: ReactorPort;
  private readonly log: Log;
  private readonly options: PortalOptions;
  private readonly wishes: TargetWishes;
  private readonly limits: PortalLimits;
  private readonly challenges: OutstandingChallenges = new OutstandingChallenges();
  private readonly byAddress: Map<string, number> = new Map();
  private readonly addressOf: Map<Session, string> = new Map();
  private nextTsih = 0;
  private timer: number;
  private isClosing = false;
  private closed: () => void = () => {};

  /** `log` should be a limited one: peers can cause its lines. */
  constructor(reactor: ReactorPort, log: Log, options: PortalOptions) {
    this.reactor = reactor;
    this.log = log;
    this.options = options;
    this.wishes = options.wishes ?? TARGET_WISHES;
    this.limits = { ...PORTAL_LIMITS, ...options.limits };
    this.timer = reactor.setTimer(TICK_MS, this, 0);
  }

  // --- connections ------------------------------------------------------------------------------

  streamAccepted(stream: Stream, from: string = ""): void {
    this.counters.acceptedCount += 1;
    const count = this.byAddress.get(from) ?? 0;
    const total = this.logins.size + this.sessions.size;
    const { limits } = this;
    const isFull = total >= limits.connections || count >= limits.connectionsPerAddress;
    if (this.isClosing || isFull || this.loginsFrom(from) >= limits.loginsPerAddress) {
      this.counters.turnedAwayCount += 1;
      stream.setHandler(new Deaf());
      stream.close();
      return;
    }
    if (this.logins.size >= limits.logins) this.hangUpOldest();
    this.byAddress.set(from, count + 1);
    const { directory } = this.options;
    const connection = new LoginConnection(
      this.reactor.memory,
      stream,
      from,
      this.reactor.loopTimeUs,
      {
        directory,
        wishes: this.wishes,
        challenges: this.challenges,
        admit: (login) => this.admit(login),
      },
      this,
    );
    this.logins.add(connection);
    connection.open();
  }

  private loginsFrom(from: string): number {
    let count = 0;
    for (const login of this.logins) if (login.from === from && login.endReason === "") count += 1;
    return count;
  }

  private hangUpOldest(): void {
    for (const login of this.logins) {
      if (login.endReason !== "") continue;
      login.close("too many logins at once");
      return;
    }
  }

  private leaveAddress(from: string): void {
    const left = (this.byAddress.get(from) ?? 1) - 1;
    if (left > 0) this.byAddress.set(from, left);
    else this.byAddress.delete(from);
  }

  loginEnded(connection: LoginConnection): void {
    this.logins.delete(connection);
    this.leaveAddress(connection.from);
    if (connection.login.refusal !== "") {
      this.counters.refusedLoginCount += 1;
      this.log.log("warn", "iSCSI login refused", {
        from: connection.from,
        initiator: connection.login.initiatorName,
        reason: connection.login.refusal,
      });
    }
    this.answerHeld();
    this.finishClose();
  }

  // --- sessions ---------------------------------------------------------------------------------

  private admit(login: Login): number {
    let { tsih } = login;
    if (tsih !== 0) {
      const existing = this.findByTsih(tsih, login);
      if (existing === null) return LOGIN_SESSION_DOES_NOT_EXIST;
      // One connection a session: only its own can be taken over.
      if (existing.options.facts.cid !== login.cid) return LOGIN_TOO_MANY_CONNECTIONS;
    } else {
      tsih = this.takeTsih();
    }
    login.tsih = tsih;
    for (const session of this.predecessors(login)) {
      this.counters.reinstatedCount += 1;
      session.close("the initiator has logged in again");
    }
    return LOGIN_SUCCESS;
  }

  private findByTsih(tsih: number, login: Login): Session | null {
    for (const session of this.sessions) {
      const { facts, isid } = session.options;
      const isSame = facts.initiatorName === login.initiatorName && isid === login.isid;
      if (session.options.tsih === tsih && isSame && facts.target === login.target) return session;
    }
    return null;
  }

  private takeTsih(): number {
    const used = new Set<number>();
    for (const session of this.sessions) used.add(session.options.tsih);
    do this.nextTsih = (this.nextTsih % 65535) + 1;
    while (used.has(this.nextTsih));
    return this.nextTsih;
  }

  private predecessors(login: Login): Session[] {
    const found: Session[] = [];
    for (const session of this.sessions) {
      const { facts, isid } = session.options;
      if (facts.initiatorName !== login.initiatorName || isid !== login.isid) continue;
      if (facts.target?.name === login.target?.name) found.push(session);
    }
    return found;
  }

  /** One login at a time, and only when no session is in its place any more. */
  mayAnswer(connection: LoginConnection): boolean {
    if (this.predecessors(connection.login).length > 0) return false;
    for (const other of this.logins) {
      const isRival = other !== connection && other.isAnswered;
      if (isRival && isSamePlace(other.login, connection.login)) return false;
    }
    return true;
  }

  private answerHeld(): void {
    for (const login of this.logins) {
      if (login.isHeld && this.mayAnswer(login)) login.answerNow();
    }
  }

  loginDone(connection: LoginConnection, stream: Stream, before: Uint8Array): void {
    const { login } = connection;
    this.logins.delete(connection);
    this.counters.loginCount += 1;
    const session = new Session(
      this.reactor,
      stream,
      {
        facts: {
          initiatorName: login.initiatorName,
          target: login.target,
          cid: login.cid,
          directory: this.options.directory,
          portalAddress: this.options.address,
        },
        isid: login.isid,
        tsih: login.tsih,
        parameters: login.negotiation.finish(),
        transportId: iscsiTransportId(login.initiatorName, Buffer.from(login.isid, "hex")),
        statSn: connection.statSn,
        cmdSn: login.cmdSn,
      },
      this,
    );
    this.sessions.add(session);
    this.addressOf.set(session, connection.from);
    if (this.isClosing) session.close("the portal is closing");
    else session.open(before);
    // Who has waited for the same place comes later, and counts.
    for (const other of this.logins) {
      if (!other.isHeld || !isSamePlace(other.login, login)) continue;
      session.close("the initiator has logged in again");
    }
  }

  sessionEnded(session: Session): void {
    this.sessions.delete(session);
    this.leaveAddress(this.addressOf.get(session) ?? "");
    this.addressOf.delete(session);
    if (session.endReason !== "logout") {
      this.log.log("info", "iSCSI session ended", {
        initiator: session.options.facts.initiatorName,
        target: session.options.facts.target?.name ?? "",
        reason: session.endReason,
      });
    }
    this.answerHeld();
    this.finishClose();
  }

  coldReset(session: Session): void {
    const { target } = session.options.facts;
    for (const other of this.sessions) {
      if (other.options.facts.target !== target) continue;
      other.closeWhenSent("target cold reset");
    }
  }

  /** Sessions of a target, for whoever manages it. */
  sessionsOf(target: IscsiTarget): Session[] {
    return [...this.sessions].filter((one) => one.options.facts.target?.name === target.name);
  }

  /** Whoever is about to log in has to begin anew, and is told then where to. */
  private dropLogins(target: IscsiTarget, reason: string): void {
    for (const one of this.logins) {
      if (one.login.target?.name === target.name) one.close(reason);
    }
  }

  /** Asks the initiators of a target to log out, and hangs up on those that have not after it. */
  moveAway(target: IscsiTarget, seconds: number): void {
    this.dropLogins(target, "the target moves");
    for (const session of this.sessionsOf(target)) {
      if (!session.isOpen) continue;
      if (session.stream.freeSlots > 1) session.control.sendAsync(ASYNC_LOGOUT_REQUEST, seconds);
      session.closeAfter(seconds);
    }
  }

  /** Ends the sessions of a target now; each has ended when it is no longer in sessionsOf(). */
  drop(target: IscsiTarget, reason: string): void {
    this.dropLogins(target, reason);
    this.dropSessions(target, reason, () => true);
  }

  /** Those over whose nexus `isMeant` says so; whoever is about to log in is left. */
  dropSessions(target: IscsiTarget, reason: string, isMeant: (nexus: number) => boolean): void {
    for (const session of this.sessionsOf(target)) {
      if (!session.isOpen || !isMeant(session.nexusIndex)) continue;
      if (session.stream.freeSlots > 1) session.control.sendAsync(ASYNC_DROP_CONNECTION, 0);
      session.stream.flush();
      session.close(reason);
    }
  }

  // --- time -------------------------------------------------------------------------------------

  timerFired(_tag: number): void {
    const nowUs = this.reactor.loopTimeUs;
    for (const login of this.logins) {
      if (nowUs - login.acceptedUs > LOGIN_MS * 1000) login.close("the login took too long");
    }
    for (const session of this.sessions) session.tick();
    this.timer = this.reactor.setTimer(TICK_MS, this, 0);
  }

  /** Ends everything; `closed` is called when the last session has. */
  close(closed: () => void): void {
    this.isClosing = true;
    this.closed = closed;
    this.reactor.cancelTimer(this.timer);
    for (const login of this.logins) login.close("the portal is closing");
    for (const session of this.sessions) session.close("the portal is closing");
    this.finishClose();
  }

  private finishClose(): void {
    if (!this.isClosing || this.logins.size > 0 || this.sessions.size > 0) return;
    const { closed } = this;
    this.closed = () => {};
    closed();
  }
}

/** Both would be the session of one initiator port at one target. */
function isSamePlace(a: Login, b: Login): boolean {
  const isSamePort = a.initiatorName === b.initiatorName && a.isid === b.isid;
  return isSamePort && a.target?.name === b.target?.name;
}
