// The server of replicas of one reactor: lets peers in, keeps one session for each replica that an
// owner holds, fences and resumes them, gives grants. The replicas come from a ReplicaProvider.
//
//   accepted -> handshake -> ServerLink --+
//   accepted -> handshake -> ServerLink --+-> sessions by (volume, disk) -> Replica
//
// Invariants:
//  - one connection per daemon and reactor: a newer one ends the older, and an older one is
//    refused when it comes late;
//  - a fence or resume supersedes the session that was there at once, tells its owner before any
//    later grant can, and is answered when all of it has ended;
//  - a session without a connection waits SESSION_KEEP_MS for its owner, then it is closed;
//  - what strangers can hold: HANDSHAKES_MAX buffers of 4 KiB, HANDSHAKE_MS long.

import type {
  ClusterSecret,
  FenceAnswer,
  Log,
  ReactorPort,
  ReplicaFailure,
  ReplicaProvider,
  Stream,
  StreamAcceptor,
  StreamHandler,
  TimerHandler,
} from "../ports/index.ts";
import {
  decodeTarget,
  encodeFenceAnswer,
  headerType,
  MESSAGE_FENCE,
  MESSAGE_LIST_SLABS,
  MESSAGE_RESUME,
  MESSAGE_WRITE_SLAB,
  type ReplicaTarget,
  W_EPOCH,
  W_SESSION,
} from "../wire/index.ts";
import { AcceptHandshake, type HandshakeOk, type PeerIdentity } from "./handshake.ts";
import {
  DEAD_MS,
  HANDSHAKES_MAX,
  HEARTBEAT_MS,
  LARGE_CREDITS,
  SERVER_SESSIONS_MAX,
  SESSION_KEEP_MS,
  SMALL_CREDITS,
} from "./limits.ts";
import type { PeerGrants } from "./peer-grants.ts";
import { endReasonText } from "./peer-link.ts";
import { NO_PEER_BUGS, type PeerPlantedBugs } from "./planted.ts";
import { type LinkServer, ServerLink } from "./server-link.ts";
import { bufferWindow, slabMessage } from "./server-messages.ts";
import { ServerSession, type SessionOwner } from "./server-session.ts";

/** What a server counts, for telemetry. */
export interface ReplicaServerCounters {
  acceptedCount: number;
  refusedCount: number;
  fenceCount: number;
  resumeCount: number;
  /** Sessions that a higher epoch has taken over. */
  fencedCount: number;
}

export interface ReplicaServerOptions {
  readonly identity: PeerIdentity;
  /** Nodes that may talk to us: the members of the cluster. */
  isKnownNode(nodeId: string): boolean;
  readonly planted?: PeerPlantedBugs;
}

export interface ReplicaServerModules {
  readonly reactor: ReactorPort;
  readonly provider: ReplicaProvider;
  readonly secret: ClusterSecret;
  readonly grants: PeerGrants;
  readonly log: Log;
}

const NOTHING = new Uint8Array(0);

/** For a stream that is hung up on at once. */
const DEAF: StreamHandler = {
  streamOpened(): void {},
  streamReceived(): void {},
  streamSent(): void {},
  streamClosed(): void {},
};

interface NewestConnection {
  readonly incarnation: number;
  readonly connection: number;
}

export class ReplicaServer implements StreamAcceptor, LinkServer, SessionOwner, TimerHandler {
  readonly counters: ReplicaServerCounters = {
    acceptedCount: 0,
    refusedCount: 0,
    fenceCount: 0,
    resumeCount: 0,
    fencedCount: 0,
  };
  private readonly options: ReplicaServerOptions;
  private readonly modules: ReplicaServerModules;
  private readonly reactor: ReactorPort;
  private readonly planted: PeerPlantedBugs;
  private readonly handshakes: Set<AcceptHandshake> = new Set();
  private readonly links: Map<string, ServerLink> = new Map();
  private readonly endingLinks: Set<ServerLink> = new Set();
  private readonly newest: Map<string, NewestConnection> = new Map();
  private readonly sessions: Map<string, ServerSession> = new Map();
  private timerId = -1;
  private isClosed = false;

  constructor(options: ReplicaServerOptions, modules: ReplicaServerModules) {
    this.options = options;
    this.modules = modules;
    this.reactor = modules.reactor;
    this.planted = options.planted ?? NO_PEER_BUGS;
  }

  /** For status and tests. */
  openLinks(): ServerLink[] {
    return [...this.links.values()];
  }

  get linkCount(): number {
    return this.links.size;
  }

  get handshakeCount(): number {
    return this.handshakes.size;
  }

  get sessionCount(): number {
    return this.sessions.size;
  }

  /** Hangs up on everybody and closes every replica. */
  close(): void {
    this.isClosed = true;
    if (this.timerId >= 0) this.reactor.cancelTimer(this.timerId);
    for (const handshake of this.handshakes) handshake.abort("the server is closing");
    for (const link of this.links.values()) link.close();
    for (const session of [...this.sessions.values()]) this.closeSession(session);
  }

  // --- connections -------------------------------------------------------------------------------

  streamAccepted(stream: Stream): void {
    if (this.handshakes.size >= HANDSHAKES_MAX || this.isClosed) {
      stream.setHandler(DEAF);
      stream.close();
      return;
    }
    const { identity } = this.options;
    const acceptOptions = {
      identity,
      welcome: { smallCredits: SMALL_CREDITS, largeCredits: LARGE_CREDITS },
      isSuperseded: (nodeId: string, incarnation: number, connection: number): boolean =>
        this.isSuperseded(nodeId, incarnation, connection),
      isKnownNode: (nodeId: string): boolean => this.options.isKnownNode(nodeId),
    };
    const handshake = new AcceptHandshake(acceptOptions, this.modules, stream, (outcome) => {
      this.handshakes.delete(handshake);
      if (outcome.kind === "ok") this.letIn(outcome);
      else this.refusedPeer(outcome.reason);
    });
    this.handshakes.add(handshake);
  }

  private refusedPeer(reason: string): void {
    this.counters.refusedCount += 1;
    this.modules.log.log("warn", "refused a peer", { reason });
  }

  private isSuperseded(nodeId: string, incarnation: number, connection: number): boolean {
    if (this.planted.oldConnectionLives) return false;
    const newest = this.newest.get(nodeId);
    return newest?.incarnation === incarnation && newest.connection >= connection;
  }

  private letIn(outcome: HandshakeOk): void {
    const { nodeId, incarnation, connection } = outcome;
    const older = this.links.get(nodeId);
    // It may have proved itself before a newer one did, and have ended its handshake after it.
    if (this.isClosed || this.isSuperseded(nodeId, incarnation, connection)) {
      outcome.stream.setHandler(DEAF);
      outcome.stream.close();
      return;
    }
    this.newest.set(nodeId, { incarnation, connection });
    this.counters.acceptedCount += 1;
    const link = new ServerLink(outcome, this, this.reactor);
    this.links.set(nodeId, link);
    if (older !== undefined) {
      this.endingLinks.add(older);
      if (!this.planted.oldConnectionLives) older.close();
    }
    this.watch();
    this.modules.log.log("info", "a peer connected", { node: nodeId });
    link.stream.open(outcome.leftover);
  }

  linkEnded(link: ServerLink): void {
    const isCurrent = this.links.get(link.nodeId) === link;
    if (isCurrent) this.links.delete(link.nodeId);
    this.endingLinks.delete(link);
    for (const session of link.liveSessions()) {
      link.removeSession(session);
      this.orphan(session);
    }
    this.watch();
    this.modules.log.log(isCurrent ? "warn" : "info", "a peer's connection ended", {
      node: link.nodeId,
      reason: endReasonText(link.stream.endReason),
    });
  }

  heartbeat(link: ServerLink): number {
    return this.modules.grants.give(link.nodeId);
  }

  /** Its connection is gone: its owner may come back within SESSION_KEEP_MS. */
  private orphan(session: ServerSession): void {
    session.number = 0;
    session.orphanedUs = this.reactor.clock.nowUs();
    this.watch();
  }

  /** A timer runs while there is something to watch. */
  private watch(): void {
    if (this.timerId >= 0 || this.isClosed) return;
    if (this.links.size === 0 && this.sessions.size === 0) return;
    this.timerId = this.reactor.setTimer(HEARTBEAT_MS * 2, this, 0);
  }

  timerFired(): void {
    this.timerId = -1;
    const nowUs = this.reactor.clock.nowUs();
    for (const link of this.links.values()) {
      if (nowUs - link.heardUs > DEAD_MS * 1000) link.close();
    }
    for (const session of [...this.sessions.values()]) {
      const { orphanedUs } = session;
      if (orphanedUs > 0 && nowUs - orphanedUs > SESSION_KEEP_MS * 1000) this.closeSession(session);
    }
    this.watch();
  }

  // --- messages ----------------------------------------------------------------------------------

  coldMessage(link: ServerLink, op: number, at: number, payloadAt: number, bytes: number): void {
    const words = link.stream.in.u32;
    const type = headerType(words, at);
    const number = words[at + W_SESSION] as number;
    const epoch = words[at + W_EPOCH] as number;
    if (type === MESSAGE_FENCE || type === MESSAGE_RESUME) {
      const target = decodeTarget(link.stream.in.u8, payloadAt, bytes);
      if (target === null || number === 0 || epoch === 0) link.brokenBy(op);
      else if (type === MESSAGE_FENCE) this.fence(link, op, number, epoch, target);
      else this.resume(link, op, number, epoch, target);
      return;
    }
    if (type < MESSAGE_LIST_SLABS || type > MESSAGE_WRITE_SLAB) {
      link.brokenBy(op);
      return;
    }
    const session = link.sessionOf(number);
    if (session === null || session.epoch !== epoch) {
      const message = "the session is over: another fence or resume has superseded it";
      link.answerFailure(op, { code: "lost", message });
      return;
    }
    const message = { link, op, type, payloadAt, payloadBytes: bytes };
    if (!slabMessage(message, session, this.reactor.memory)) link.brokenBy(op);
  }

  // --- sessions ----------------------------------------------------------------------------------

  private fence(
    link: ServerLink,
    op: number,
    number: number,
    epoch: number,
    target: ReplicaTarget,
  ): void {
    const key = `${target.volumeUuid}/${target.diskUuid}`;
    this.counters.fenceCount += 1;
    const before = this.sessions.get(key);
    const isSame =
      before !== undefined &&
      before.nodeId === link.nodeId &&
      before.incarnation === link.incarnation;
    if (before !== undefined && (before.epoch > epoch || (before.epoch === epoch && !isSame))) {
      link.answerFailure(op, staleFailure(before.epoch));
      return;
    }
    if (before === undefined && this.sessions.size >= SERVER_SESSIONS_MAX) {
      const message = `this node serves ${SERVER_SESSIONS_MAX} sessions already`;
      link.answerFailure(op, { code: "limit", message });
      return;
    }
    const waitUntilUs =
      before === undefined
        ? this.modules.grants.earlierRunUntilUs
        : isSame
          ? 0
          : this.modules.grants.givenUntilUs(before.nodeId);
    const session = new ServerSession(key, epoch, link, number, this);
    session.isFencing = true;
    this.sessions.set(key, session);
    if (before !== undefined) this.supersede(before, epoch);
    const goOn = (): void => {
      before?.replica?.close();
      this.fenceReplica(session, op, target, waitUntilUs);
    };
    if (before === undefined) goOn();
    else before.whenIdle(goOn);
  }

  /** Nothing more is accepted from it; its owner hears of it unless it is the one who fences. */
  private supersede(session: ServerSession, epoch: number): void {
    session.isSuperseded = true;
    session.fencedEpoch = epoch;
    if (epoch > session.epoch) this.counters.fencedCount += 1;
    if (session.number === 0) return;
    session.link.removeSession(session);
    const isNews = epoch > session.epoch && !this.planted.silentFence;
    if (isNews) session.link.sendFenced(session, epoch);
    session.number = 0;
  }

  private fenceReplica(
    session: ServerSession,
    op: number,
    target: ReplicaTarget,
    waitUntilUs: number,
  ): void {
    const { provider } = this.modules;
    const found = provider.openReplica(target.volumeUuid, target.diskUuid, session);
    if ("code" in found) {
      this.fenced(session, op, found, 0);
      return;
    }
    found.fence(session.epoch, (answer) => {
      if ("code" in answer) found.close();
      else session.replica = found;
      const nowUs = this.reactor.clock.nowUs();
      this.fenced(session, op, answer, Math.max(0, waitUntilUs - nowUs));
    });
  }

  private fenced(
    session: ServerSession,
    op: number,
    answer: FenceAnswer | ReplicaFailure,
    grantWaitUs: number,
  ): void {
    const { link } = session;
    const wasSuperseded = session.isSuperseded;
    if ("code" in answer) {
      if (this.sessions.get(session.key) === session) this.sessions.delete(session.key);
      link.answerFailure(op, answer);
    } else if (wasSuperseded) {
      const newer = this.sessions.get(session.key)?.epoch ?? session.epoch;
      link.answerFailure(op, staleFailure(newer));
    } else {
      this.answerFence(session, op, { ...answer, grantWaitUs });
    }
    session.fenceEnded();
  }

  private answerFence(session: ServerSession, op: number, answer: FenceAnswer): void {
    const { link } = session;
    const bytes = encodeFenceAnswer(bufferWindow(link, op), 0, answer);
    if (bytes < 0) {
      const stamps = answer.above.length + answer.uncertain.length;
      const message = `${stamps} slabs to equalise do not fit one answer`;
      link.answerFailure(op, { code: "limit", message });
      return;
    }
    if (link.isOpen) {
      link.addSession(session);
    } else {
      // Its owner may resume it, or fence again.
      this.orphan(session);
    }
    link.answerCold(op, NOTHING, bytes);
  }

  private resume(
    link: ServerLink,
    op: number,
    number: number,
    epoch: number,
    target: ReplicaTarget,
  ): void {
    const key = `${target.volumeUuid}/${target.diskUuid}`;
    const session = this.sessions.get(key);
    const holder = session?.isSuperseded === true ? session.fencedEpoch : (session?.epoch ?? 0);
    if (holder > epoch) {
      link.answerFailure(op, staleFailure(holder));
      return;
    }
    if (
      session === undefined ||
      session.epoch !== epoch ||
      session.nodeId !== link.nodeId ||
      session.incarnation !== link.incarnation ||
      session.replica === null
    ) {
      const message = "there is no session to resume: fence the replica again";
      link.answerFailure(op, { code: "lost", message });
      return;
    }
    if (this.planted.resumeWithoutDrain || this.planted.oldConnectionLives) {
      this.resumeBadly(link, op, number, session, target);
      return;
    }
    if (session.number !== 0) {
      session.link.removeSession(session);
      this.orphan(session);
    }
    session.whenIdle(() => {
      // Meanwhile a fence may have come, or the connection may be gone.
      if (session.isSuperseded || this.sessions.get(key) !== session) {
        link.answerFailure(op, staleFailure(session.fencedEpoch));
        return;
      }
      if (link.isOpen) {
        session.resume(link, number);
        this.counters.resumeCount += 1;
        link.addSession(session);
        if (this.planted.forgetDone) session.resumedSequence = -1;
      }
      link.answerCold(op, NOTHING, 0);
    });
  }

  /** Planted: a second session beside the first, which ends when it likes. */
  private resumeBadly(
    link: ServerLink,
    op: number,
    number: number,
    before: ServerSession,
    target: ReplicaTarget,
  ): void {
    if (!this.planted.oldConnectionLives) before.link.removeSession(before);
    const session = new ServerSession(before.key, before.epoch, link, number, this);
    this.sessions.set(session.key, session);
    const { provider } = this.modules;
    const found = provider.openReplica(target.volumeUuid, target.diskUuid, session);
    if (!("code" in found)) session.replica = found;
    link.addSession(session);
    link.answerCold(op, NOTHING, 0);
  }

  closeSession(session: ServerSession): void {
    if (this.sessions.get(session.key) === session) this.sessions.delete(session.key);
    if (session.number !== 0) session.link.removeSession(session);
    session.number = 0;
    session.isSuperseded = true;
    session.whenIdle(() => session.replica?.close());
  }

  sessionFenced(session: ServerSession, epoch: number): void {
    if (session.isSuperseded) return;
    this.supersede(session, epoch);
    session.whenIdle(() => {
      if (this.sessions.get(session.key) !== session) return;
      this.sessions.delete(session.key);
      session.replica?.close();
    });
  }

  /**
   * An owner in this process is about to fence a replica of its own node in `epoch`: owners
   * elsewhere lose their session. Returns until when grants that they were given may be in use.
   */
  fenceLocally(volumeUuid: string, diskUuid: string, epoch: number): number {
    const session = this.sessions.get(`${volumeUuid}/${diskUuid}`);
    if (session === undefined) return this.modules.grants.earlierRunUntilUs;
    const untilUs = this.modules.grants.givenUntilUs(session.nodeId);
    if (session.epoch < epoch) this.sessionFenced(session, epoch);
    return untilUs;
  }
}

function staleFailure(epoch: number): ReplicaFailure {
  return { code: "stale-epoch", message: `epoch ${epoch} holds this replica`, epoch };
}
