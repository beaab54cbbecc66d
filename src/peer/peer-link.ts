// @hot
// A link: the connection of this reactor, as an owner, to the server of replicas in one reactor of
// another daemon. It dials, proves itself, sends what the replicas behind it ask, notices when the
// peer is dead, and dials again.
//
//   down -- timer --> dialling -- handshake --> up -- error, silence, close --> ending --> down
//
// The pause between attempts grows while nobody asks. It ends early when a replica behind the link
// is fenced, or when the peer shows itself (dialSoon): a takeover waits for no timer.
//
// Heartbeats go out while it is up; the peer answers each with a grant: for so long it lets nobody
// else take over what this daemon owns. A grant counts from when its heartbeat was queued.
//
// Invariants:
//  - at most one connection at a time, and the next begins when the last has let go of memory;
//  - requests complete with -ENOTCONN then, all of them; replicas that were ready resume.

import { errnoName, type SegmentCopier, TWO_32 } from "../base/index.ts";
import type {
  ClusterSecret,
  Log,
  Poller,
  Random,
  ReactorPort,
  StreamDialer,
  TimerHandler,
} from "../ports/index.ts";
import {
  decodeGrant,
  getWide,
  HEADER_BAD_FIELD,
  HEADER_VERDICTS,
  headerType,
  MESSAGE_ANSWER,
  MESSAGE_CLOSE,
  MESSAGE_COMMITTED,
  MESSAGE_FENCED,
  MESSAGE_GRANT,
  MESSAGE_HEARTBEAT,
  putWide,
  SESSIONS_MAX,
  W_COMMITTED,
  W_EPOCH,
  W_SEQUENCE,
  W_SESSION,
} from "../wire/index.ts";
import type { PeerIdentity } from "./handshake.ts";
import {
  DialHandshake,
  type HandshakeFailed,
  type HandshakeOk,
  type SpokenVersions,
} from "./handshake.ts";
import {
  BACK_OFF_MAX_MS,
  BACK_OFF_MIN_MS,
  DEAD_MS,
  DIAL_SOON_MS,
  GRANT_PART,
  HEARTBEAT_MS,
  REQUESTS_MAX,
} from "./limits.ts";
import { LinkRequests } from "./link-requests.ts";
import { type MessageHandler, MessageStream } from "./message-stream.ts";
import { RemoteReplica, type RemoteReplicaOptions, type ReplicaLink } from "./remote-replica.ts";

export interface PeerLinkOptions {
  readonly identity: PeerIdentity;
  readonly targetNodeId: string;
  /** For tests of other versions. */
  readonly versions?: SpokenVersions;
  /** Told when a connection is up: what waited for the node need not wait any more. */
  readonly cameUp?: () => void;
}

export interface PeerLinkModules {
  readonly reactor: ReactorPort;
  readonly dialer: StreamDialer;
  readonly secret: ClusterSecret;
  readonly random: Random;
  readonly copier: SegmentCopier;
  readonly log: Log;
}

export type PeerLinkState = "down" | "dialling" | "up" | "ending" | "closed";

/** What a link counts, for telemetry. */
export interface PeerLinkCounters {
  connectionCount: number;
  failedCount: number;
  grantCount: number;
}

const TICK = 0;
const REDIAL = 1;
const HEARTBEATS = 16;
const SESSION_MASK: number = SESSIONS_MAX - 1;
const LOW = 0;
/** Times that change in place: when something was heard last, the grant, the last attempt. */
const HEARD_US = LOW;
const GRANTED_US = 1;
const DIALLED_US = 2;
/** When the timer fires that begins the next attempt. */
const DUE_US = 3;

/** Why a connection ended, in words. */
// @cold
export function endReasonText(reason: number): string {
  if (reason < 0) return errnoName(reason);
  return HEADER_VERDICTS[reason] ?? `reason ${reason}`;
}

export class PeerLink implements MessageHandler, Poller, TimerHandler, ReplicaLink {
  readonly requests: LinkRequests;
  readonly counters: PeerLinkCounters = { connectionCount: 0, failedCount: 0, grantCount: 0 };
  /** Of the last failure, for people. */
  lastFailure = "";
  /** Why it is down, as the log has it; "" = it is up, or nothing was said. */
  private toldReason = "";
  private readonly options: PeerLinkOptions;
  private readonly modules: PeerLinkModules;
  private readonly reactor: ReactorPort;
  private readonly replicas: (RemoteReplica | null)[] = [];
  private readonly sentUs: Float64Array = new Float64Array(HEARTBEATS);
  private readonly times: Float64Array = new Float64Array(4);
  private currentState: PeerLinkState = "down";
  private stream: MessageStream | null = null;
  private handshake: DialHandshake | null = null;
  private heartbeat = 0;
  private sessionGeneration = 0;
  private connection = 0;
  private backOffMs = BACK_OFF_MIN_MS;
  private timerId = -1;
  private isClosing = false;

  constructor(options: PeerLinkOptions, modules: PeerLinkModules) {
    this.options = options;
    this.modules = modules;
    this.reactor = modules.reactor;
    this.requests = new LinkRequests(REQUESTS_MAX, modules.reactor, modules.copier);
    modules.reactor.addPoller(this);
    // The first attempt is no repetition.
    this.times[DIALLED_US] = -Infinity;
    this.dialIn(0);
  }

  get state(): PeerLinkState {
    return this.currentState;
  }

  get grantedUntilUs(): number {
    return this.times[GRANTED_US] as number;
  }

  /** A replica behind this link; fence it first. */
  // @cold
  openReplica(options: RemoteReplicaOptions): RemoteReplica {
    const replica = new RemoteReplica(options, this);
    const free = this.replicas.indexOf(null);
    if (free >= 0) this.replicas[free] = replica;
    else if (this.replicas.length < SESSIONS_MAX) this.replicas.push(replica);
    else throw new RangeError(`more than ${SESSIONS_MAX} replicas behind one link`);
    return replica;
  }

  nextSessionNumber(replica: RemoteReplica): number {
    this.sessionGeneration = (this.sessionGeneration + 1) & 0x7ffff;
    return ((this.sessionGeneration << 12) | this.replicas.indexOf(replica)) >>> 0;
  }

  // @cold
  forget(replica: RemoteReplica): void {
    const index = this.replicas.indexOf(replica);
    if (index < 0) return;
    this.replicas[index] = null;
    this.finishClose();
    const { stream } = this;
    // Without room for it the peer learns it from the next fence, or when the session times out.
    if (stream === null || replica.sessionNumber === 0 || stream.freeSlots === 0) return;
    stream.finish(stream.begin(MESSAGE_CLOSE, 0, 0, replica.sessionNumber), 0, 0, 0, -1);
    this.requestPump();
  }

  /** Ends it for good: what is under way completes with -ENOTCONN. */
  // @cold
  close(): void {
    this.isClosing = true;
    if (this.timerId >= 0) this.reactor.cancelTimer(this.timerId);
    this.timerId = -1;
    if (this.stream !== null) this.end("closed");
    else if (this.handshake !== null) this.handshake.abort("closed");
    else this.wentDown();
  }

  // --- the loop ----------------------------------------------------------------------------------

  requestPump(): void {
    this.reactor.requestFlush(this);
  }

  poll(): number {
    return 0;
  }

  arm(): boolean {
    return false;
  }

  disarm(): void {}

  flush(): void {
    this.requests.pump();
    if (this.requests.hasLate) this.requestPump();
  }

  // --- dialling ----------------------------------------------------------------------------------

  /**
   * Ends the pause between two attempts: a replica is to be fenced, or the peer was seen to be
   * there (`isThere`), after which the pauses grow from the shortest again. However many ask, there
   * is one attempt in DIAL_SOON_MS.
   */
  // @cold
  dialSoon(isThere: boolean): void {
    if (isThere) this.backOffMs = BACK_OFF_MIN_MS;
    if (this.currentState !== "down" || this.isClosing) return;
    const nowUs = this.reactor.clock.nowUs();
    const dueUs = Math.max(nowUs, (this.times[DIALLED_US] as number) + DIAL_SOON_MS * 1000);
    if (dueUs >= (this.times[DUE_US] as number)) return;
    this.reactor.cancelTimer(this.timerId);
    this.dialIn((dueUs - nowUs) / 1000);
  }

  // @cold
  private dialIn(delayMs: number): void {
    this.times[DUE_US] = this.reactor.clock.nowUs() + delayMs * 1000;
    this.timerId = this.reactor.setTimer(delayMs, this, REDIAL);
  }

  // @cold
  private dial(): void {
    const { identity, targetNodeId, versions } = this.options;
    const { dialer } = this.modules;
    this.times[DIALLED_US] = this.reactor.clock.nowUs();
    this.currentState = "dialling";
    this.connection += 1;
    const dialOptions = { identity, targetNodeId, connection: this.connection };
    this.handshake = new DialHandshake(
      versions === undefined ? dialOptions : { ...dialOptions, versions },
      this.modules,
      (outcome) => {
        this.handshake = null;
        if (outcome.kind === "ok") this.cameUp(outcome);
        else this.didNotComeUp(outcome);
      },
    );
    this.handshake.dialled(dialer.dial(this.handshake));
  }

  // @cold
  private didNotComeUp(outcome: HandshakeFailed): void {
    this.counters.failedCount += 1;
    this.lastFailure = outcome.reason;
    if (outcome.isLasting) this.backOffMs = BACK_OFF_MAX_MS;
    // Once when it goes: that it does not answer for hours is told by health, not here. A refusal
    // in its own words is news.
    const isNews = outcome.isLasting ? outcome.reason !== this.toldReason : this.toldReason === "";
    if (isNews) {
      this.toldReason = outcome.reason;
      this.modules.log.log("warn", "no connection to a peer", {
        node: this.options.targetNodeId,
        target: this.modules.dialer.target,
        reason: outcome.reason,
      });
    }
    this.wentDown();
  }

  // @cold
  private cameUp(outcome: HandshakeOk): void {
    const stream = new MessageStream(this.reactor.memory, outcome.stream, this);
    this.stream = stream;
    this.currentState = "up";
    this.counters.connectionCount += 1;
    this.backOffMs = BACK_OFF_MIN_MS;
    this.requests.stream = stream;
    this.requests.smallCredits = outcome.welcome.smallCredits;
    this.requests.largeCredits = outcome.welcome.largeCredits;
    this.times[HEARD_US] = this.reactor.clock.nowUs();
    this.toldReason = "";
    this.modules.log.log("info", "connected to a peer", { node: outcome.nodeId });
    if (this.isClosing) {
      this.end("closed");
      return;
    }
    this.timerId = this.reactor.setTimer(HEARTBEAT_MS, this, TICK);
    this.sendHeartbeat();
    for (const replica of this.replicas) replica?.connected();
    stream.open(outcome.leftover);
    this.requestPump();
    this.options.cameUp?.();
  }

  // @cold
  timerFired(tag: number): void {
    this.timerId = -1;
    if (tag === REDIAL) {
      this.dial();
      return;
    }
    if (this.stream === null) return;
    const silentUs = this.reactor.clock.nowUs() - (this.times[HEARD_US] as number);
    if (silentUs > DEAD_MS * 1000) {
      this.end(`nothing heard for ${DEAD_MS} ms`);
      return;
    }
    this.timerId = this.reactor.setTimer(HEARTBEAT_MS, this, TICK);
    this.sendHeartbeat();
    this.sendCommitted();
    this.requestPump();
  }

  private sendHeartbeat(): void {
    const { stream } = this;
    // A full outbox means that the peer does not read: no grant is due then.
    if (stream === null || stream.freeSlots === 0) return;
    this.heartbeat += 1;
    this.sentUs[this.heartbeat % HEARTBEATS] = this.reactor.clock.nowUs();
    const at = stream.begin(MESSAGE_HEARTBEAT, 0, 0, 0);
    putWide(stream.out.u32, at + W_SEQUENCE, this.heartbeat);
    stream.finish(at, 0, 0, 0, -1);
  }

  /** Watermarks that no write has carried, as far as there is room; the rest with the next tick. */
  // @cold
  private sendCommitted(): void {
    const { stream } = this;
    if (stream === null) return;
    for (const replica of this.replicas) {
      if (replica === null || !replica.isReady || !replica.hasNewCommitted) continue;
      if (stream.freeSlots < HEARTBEATS) return;
      const at = stream.begin(MESSAGE_COMMITTED, 0, 0, replica.sessionNumber);
      stream.out.u32[at + W_EPOCH] = replica.epoch;
      putWide(stream.out.u32, at + W_COMMITTED, replica.takeCommitted());
      stream.finish(at, 0, 0, 0, -1);
    }
  }

  // --- messages ----------------------------------------------------------------------------------

  messageReceived(at: number, payloadAt: number, payloadBytes: number): void {
    const stream = this.stream as MessageStream;
    this.times[HEARD_US] = this.reactor.loopTimeUs;
    const type = headerType(stream.in.u32, at);
    if (type === MESSAGE_ANSWER) {
      if (!this.requests.answered(at, payloadAt, payloadBytes)) this.garbled();
      else this.requestPump();
    } else if (type === MESSAGE_GRANT) {
      this.granted(stream, at, payloadAt, payloadBytes);
    } else if (type === MESSAGE_FENCED) {
      this.sessionFenced(stream.in.u32, at);
    } else {
      this.garbled();
    }
  }

  private granted(stream: MessageStream, at: number, payloadAt: number, bytes: number): void {
    const grantUs = decodeGrant(stream.in.u8, payloadAt, bytes);
    const heartbeat = getWide(stream.in.u32, at + W_SEQUENCE);
    const age = this.heartbeat - heartbeat;
    if (grantUs < 0 || age < 0 || age >= HEARTBEATS) {
      this.garbled();
      return;
    }
    const untilUs = (this.sentUs[heartbeat % HEARTBEATS] as number) + grantUs * GRANT_PART;
    if (untilUs > (this.times[GRANTED_US] as number)) this.times[GRANTED_US] = untilUs;
    this.counters.grantCount += 1;
  }

  private sessionFenced(words: Uint32Array, at: number): void {
    const session = words[at + W_SESSION] as number;
    const replica = this.replicas[session & SESSION_MASK];
    if (replica === undefined || replica === null || replica.sessionNumber !== session) return;
    replica.fenced(words[at + W_EPOCH] as number);
  }

  private garbled(): void {
    this.end("a message that makes no sense", HEADER_BAD_FIELD);
  }

  messageSent(): void {}

  // --- the end -----------------------------------------------------------------------------------

  // @cold
  private end(reason: string, code: number = HEADER_BAD_FIELD): void {
    if (this.stream === null || !this.stream.isOpen) return;
    this.lastFailure = reason;
    this.stream.close(code);
    this.ending();
  }

  /** From here on nothing is sent; memory is given back when the stream has closed. */
  // @cold
  private ending(): void {
    this.currentState = "ending";
    for (const replica of this.replicas) replica?.disconnected();
  }

  // @cold
  streamEnded(): void {
    const stream = this.stream as MessageStream;
    if (this.currentState === "up") {
      this.lastFailure = endReasonText(stream.endReason);
      this.ending();
    }
    this.stream = null;
    this.toldReason = this.lastFailure;
    this.modules.log.log("warn", "lost the connection to a peer", {
      node: this.options.targetNodeId,
      reason: this.lastFailure,
    });
    this.wentDown();
  }

  // @cold
  private wentDown(): void {
    if (this.timerId >= 0) this.reactor.cancelTimer(this.timerId);
    this.timerId = -1;
    this.currentState = this.isClosing ? "closed" : "down";
    if (!this.isClosing) {
      const jitterMs = (this.modules.random.u32() / TWO_32) * this.backOffMs;
      this.dialIn((this.backOffMs + jitterMs) / 2);
      this.backOffMs = Math.min(this.backOffMs * 2, BACK_OFF_MAX_MS);
    }
    this.requests.failAll();
    this.finishClose();
  }

  /** Closed, and no replica is left whose completions the loop would have to deliver. */
  // @cold
  private finishClose(): void {
    if (this.currentState !== "closed" || this.replicas.some((one) => one !== null)) return;
    if (this.requests.hasLate) this.requests.pump();
    this.reactor.removePoller(this);
  }
}
