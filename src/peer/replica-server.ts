// The server of replicas of one reactor: lets peers in, keeps one session for each replica that an
// owner holds, fences and resumes them, gives grants. The replicas come from a ReplicaProvider.
//
//   accepted -> handshake -> ServerLink --+
//   accepted -> handshake -> ServerLink --+-> sessions by (volume, disk) -> Replica
//
// Invariants:
//  - one connection for each reactor of a daemon: a newer one ends the older, and an older one
//    is refused when it comes late;
//  - a fence or resume supersedes the session that was there at once, tells its owner before any
//    later grant can, and is answered when all of it has ended;
//  - a session without a connection waits SESSION_KEEP_MS for its owner, then it is closed;
//  - what strangers can hold: HANDSHAKES_MAX buffers of 4 KiB, HANDSHAKE_MS long; the oldest
//    goes when more come.

import type {
  ClusterSecret,
  Log,
  ReactorPort,
  ReplicaProvider,
  Stream,
  StreamAcceptor,
  StreamHandler,
  TimerHandler,
} from "../ports/index.ts";
import { LimitedLog } from "../telemetry/limited-log.ts";
import {
  decodeTarget,
  headerType,
  MESSAGE_FENCE,
  MESSAGE_LIST_SLABS,
  MESSAGE_RESUME,
  MESSAGE_WRITE_SLAB,
  W_EPOCH,
  W_SESSION,
} from "../wire/index.ts";
import { AcceptHandshake, type HandshakeOk, type PeerIdentity } from "./handshake.ts";
import { DEAD_MS, HANDSHAKES_MAX, HEARTBEAT_MS, LARGE_CREDITS, SMALL_CREDITS } from "./limits.ts";
import type { PeerGrants } from "./peer-grants.ts";
import { endReasonText } from "./peer-link.ts";
import { NO_PEER_BUGS, type PeerPlantedBugs } from "./planted.ts";
import { type LinkServer, ServerLink } from "./server-link.ts";
import { slabMessage } from "./server-messages.ts";
import type { ServerSession } from "./server-session.ts";
import { type SessionCounters, SessionTable } from "./session-table.ts";

/** What happened to connections, for telemetry. */
export interface ReplicaServerCounters {
  acceptedCount: number;
  refusedCount: number;
}

export interface ReplicaServerOptions {
  readonly identity: PeerIdentity;
  /** Nodes that may talk to us: the members of the cluster. */
  isKnownNode(nodeId: string): boolean;
  /** A node has proved itself: it is there, and can be dialled. */
  peerConnected?(nodeId: string): void;
  readonly planted?: PeerPlantedBugs;
}

export interface ReplicaServerModules {
  readonly reactor: ReactorPort;
  readonly provider: ReplicaProvider;
  readonly secret: ClusterSecret;
  readonly grants: PeerGrants;
  readonly log: Log;
}

/** For a stream that is hung up on at once. */
const DEAF: StreamHandler = {
  streamOpened(): void {},
  streamReceived(): void {},
  streamSent(): void {},
  streamClosed(): void {},
};

/** Of one reactor of one run of one node; connections are counted by the dialling side. */
interface PeerConnection {
  readonly nodeId: string;
  readonly reactor: number;
  readonly incarnation: number;
  readonly connection: number;
}

export class ReplicaServer implements StreamAcceptor, LinkServer, TimerHandler {
  readonly counters: ReplicaServerCounters = { acceptedCount: 0, refusedCount: 0 };
  private readonly options: ReplicaServerOptions;
  private readonly modules: ReplicaServerModules;
  private readonly reactor: ReactorPort;
  private readonly planted: PeerPlantedBugs;
  /** Strangers can cause lines. */
  private readonly log: Log;
  private readonly handshakes: Set<AcceptHandshake> = new Set();
  /** Those that were not told to end, the oldest first. */
  private readonly waiting: Set<AcceptHandshake> = new Set();
  private readonly links: Map<string, ServerLink> = new Map();
  private readonly endingLinks: Set<ServerLink> = new Set();
  private readonly newest: Map<string, PeerConnection> = new Map();
  private readonly sessions: SessionTable;
  private timerId = -1;
  private isClosed = false;

  constructor(options: ReplicaServerOptions, modules: ReplicaServerModules) {
    this.options = options;
    this.modules = modules;
    this.reactor = modules.reactor;
    this.planted = options.planted ?? NO_PEER_BUGS;
    this.sessions = new SessionTable(modules, this.planted);
    this.log = new LimitedLog({}, { log: modules.log, clock: modules.reactor.clock });
  }

  /** For status and tests. */
  openLinks(): ServerLink[] {
    return [...this.links.values()];
  }

  get linkCount(): number {
    return this.links.size;
  }

  get handshakeCount(): number {
    return this.waiting.size;
  }

  get sessionCount(): number {
    return this.sessions.size;
  }

  get sessionCounters(): SessionCounters {
    return this.sessions.counters;
  }

  /** Hangs up on everybody and closes every replica. */
  close(): void {
    this.isClosed = true;
    if (this.timerId >= 0) this.reactor.cancelTimer(this.timerId);
    for (const handshake of this.handshakes) handshake.abort("the server is closing");
    for (const link of this.links.values()) link.close();
    this.sessions.closeAll();
  }

  /** After close(): nobody is connected any more, and nothing is on its way to any disk. */
  get hasEnded(): boolean {
    const linkCount = this.links.size + this.endingLinks.size + this.handshakes.size;
    return this.isClosed && linkCount === 0 && this.sessions.closingCount === 0;
  }

  /** Nodes have gone from the cluster: their connections end. */
  dropStrangers(): void {
    for (const link of this.links.values()) {
      if (!this.options.isKnownNode(link.nodeId)) link.close();
    }
  }

  /** See SessionTable. */
  dropReplicas(diskUuid: string, volumeUuid: string | null): void {
    this.sessions.drop(diskUuid, volumeUuid);
  }

  // --- connections -------------------------------------------------------------------------------

  streamAccepted(stream: Stream): void {
    if (this.handshakes.size >= 2 * HANDSHAKES_MAX || this.isClosed) {
      stream.setHandler(DEAF);
      stream.close();
      return;
    }
    if (this.waiting.size >= HANDSHAKES_MAX) this.evict();
    const { identity } = this.options;
    const acceptOptions = {
      identity,
      welcome: { smallCredits: SMALL_CREDITS, largeCredits: LARGE_CREDITS },
      isSuperseded: (hello: PeerConnection): boolean => this.isSuperseded(hello),
      isKnownNode: (nodeId: string): boolean => this.options.isKnownNode(nodeId),
    };
    const handshake = new AcceptHandshake(acceptOptions, this.modules, stream, (outcome) => {
      this.handshakes.delete(handshake);
      this.waiting.delete(handshake);
      if (outcome.kind === "ok") this.letIn(outcome);
      else this.refusedPeer(outcome.reason);
    });
    this.handshakes.add(handshake);
    this.waiting.add(handshake);
  }

  /** The stranger who has been here longest makes room: who knows the key needs a moment only. */
  private evict(): void {
    for (const oldest of this.waiting) {
      this.waiting.delete(oldest);
      oldest.abort("others wait to be let in");
      return;
    }
  }

  private refusedPeer(reason: string): void {
    this.counters.refusedCount += 1;
    this.log.log("warn", "refused a peer", { reason });
  }

  private isSuperseded(peer: PeerConnection): boolean {
    if (this.planted.oldConnectionLives) return false;
    const newest = this.newest.get(`${peer.nodeId}/${peer.reactor}`);
    return newest?.incarnation === peer.incarnation && newest.connection >= peer.connection;
  }

  private letIn(outcome: HandshakeOk): void {
    // It may have proved itself before a newer one did, and have ended its handshake after it.
    if (this.isClosed || this.isSuperseded(outcome)) {
      outcome.stream.setHandler(DEAF);
      outcome.stream.close();
      return;
    }
    const { nodeId, reactor, incarnation, connection } = outcome;
    this.counters.acceptedCount += 1;
    const link = new ServerLink(outcome, this, this.reactor);
    const older = this.links.get(link.peerKey);
    this.newest.set(link.peerKey, { nodeId, reactor, incarnation, connection });
    this.links.set(link.peerKey, link);
    if (older !== undefined) {
      this.endingLinks.add(older);
      if (!this.planted.oldConnectionLives) older.close();
    }
    this.watch();
    this.log.log("info", "a peer connected", { node: nodeId });
    link.stream.open(outcome.leftover);
    this.options.peerConnected?.(nodeId);
  }

  linkEnded(link: ServerLink): void {
    const isCurrent = this.links.get(link.peerKey) === link;
    if (isCurrent) this.links.delete(link.peerKey);
    this.endingLinks.delete(link);
    for (const session of link.liveSessions()) {
      link.removeSession(session);
      this.sessions.orphan(session);
    }
    this.watch();
    this.log.log(isCurrent ? "warn" : "info", "a peer's connection ended", {
      node: link.nodeId,
      reason: endReasonText(link.stream.endReason),
    });
  }

  heartbeat(link: ServerLink): number {
    return this.modules.grants.give(link.nodeId);
  }

  /** A timer runs while there is something to watch. */
  private watch(): void {
    if (this.timerId >= 0 || this.isClosed) return;
    if (this.links.size === 0 && !this.sessions.needsSweep) return;
    this.timerId = this.reactor.setTimer(HEARTBEAT_MS * 2, this, 0);
  }

  timerFired(): void {
    this.timerId = -1;
    const nowUs = this.reactor.clock.nowUs();
    for (const link of this.links.values()) {
      if (nowUs - link.heardUs > DEAD_MS * 1000) link.close();
    }
    this.sessions.sweep();
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
      else if (type === MESSAGE_FENCE) this.sessions.fence(link, op, number, epoch, target);
      else this.sessions.resume(link, op, number, epoch, target);
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

  closeSession(session: ServerSession): void {
    this.sessions.close(session);
  }

  /** See SessionTable. */
  fenceLocally(volumeUuid: string, diskUuid: string, epoch: number): number {
    return this.sessions.fenceLocally(volumeUuid, diskUuid, epoch);
  }
}
