// The handshake over a Stream: four short messages, one buffer of 4 KiB, one deadline. Until it has
// ended well nothing else is read from a peer. See wire/handshake.ts for what is proved.
//
// Invariants:
//  - a message longer than HANDSHAKE_BYTES_MAX, out of turn or damaged ends it, with a refusal
//    that says why where the peer can use it;
//  - `done` is called exactly once: with the peer's facts and nothing under way on the stream,
//    which then belongs to the caller; or with the reason, after the stream has closed.

import { assert, errnoName, high32 } from "../base/index.ts";
import type {
  Arena,
  ClusterSecret,
  ReactorPort,
  Stream,
  StreamHandler,
  TimerHandler,
} from "../ports/index.ts";
import {
  beginHeader,
  challengeProves,
  checkHeader,
  decodeChallenge,
  decodeHello,
  decodeRefusal,
  decodeWelcome,
  encodeChallenge,
  encodeHello,
  encodeProof,
  encodeRefusal,
  encodeWelcome,
  HANDSHAKE_BYTES_MAX,
  HEADER_BAD_VERSION,
  HEADER_BYTES,
  HEADER_OK,
  HEADER_VERDICTS,
  type Hello,
  headerType,
  headerVersion,
  MESSAGE_CHALLENGE,
  MESSAGE_HELLO,
  MESSAGE_PROOF,
  MESSAGE_REFUSE,
  MESSAGE_WELCOME,
  NONCE_BYTES,
  proofProves,
  type RefuseCode,
  sealHeader,
  W_PAYLOAD_BYTES,
  W_PAYLOAD_CRC,
  type Welcome,
  WIRE_FEATURES,
  WIRE_VERSION,
} from "../wire/index.ts";
import { HANDSHAKE_MS } from "./limits.ts";

/** Who we are to other daemons. */
export interface PeerIdentity {
  readonly clusterId: string;
  readonly nodeId: string;
  /** Of this run of the process; different from every earlier one. */
  readonly incarnation: number;
  /** Index of the reactor whose link or server this is. */
  readonly reactor: number;
}

export interface HandshakeModules {
  readonly reactor: ReactorPort;
  readonly secret: ClusterSecret;
}

export interface HandshakeOk {
  readonly kind: "ok";
  readonly stream: Stream;
  /** What came behind the handshake. */
  readonly leftover: Uint8Array;
  readonly nodeId: string;
  readonly incarnation: number;
  /** What the dialling side counts its connections with. */
  readonly connection: number;
  /** Of the dialling side. */
  readonly reactor: number;
  readonly welcome: Welcome;
}
export interface HandshakeFailed {
  readonly kind: "failed";
  readonly reason: string;
  /** Waiting will not help: versions, keys or names do not fit. */
  readonly isLasting: boolean;
}
export type HandshakeDone = (outcome: HandshakeOk | HandshakeFailed) => void;

const BUFFER_BYTES = 4096;
const OUT_AT = 2048;
const IOVEC_AT = 4032;
const PAYLOAD_MAX: number = HANDSHAKE_BYTES_MAX - HEADER_BYTES;

abstract class Handshake implements StreamHandler, TimerHandler {
  protected readonly identity: PeerIdentity;
  protected readonly secret: ClusterSecret;
  private readonly reactor: ReactorPort;
  private readonly buffer: Arena;
  private readonly done: HandshakeDone;
  private readonly timerId: number;
  private stream: Stream | null = null;
  private receivedBytes = 0;
  private outBytes = 0;
  private outSent = 0;
  private isReceiving = false;
  private isSending = false;
  /** The stream was told to close: what was on its way to it may still be answered well. */
  private isClosing = false;
  private queued: { readonly type: number; readonly payload: Uint8Array } | null = null;
  private outcome: HandshakeOk | HandshakeFailed | null = null;
  private isOver = false;

  constructor(identity: PeerIdentity, modules: HandshakeModules, done: HandshakeDone) {
    this.identity = identity;
    this.secret = modules.secret;
    this.reactor = modules.reactor;
    this.done = done;
    this.buffer = modules.reactor.memory.allocate(BUFFER_BYTES);
    this.timerId = modules.reactor.setTimer(HANDSHAKE_MS, this, 0);
  }

  /** The next message in turn. Anything that is not refused or ended goes on receiving. */
  protected abstract message(type: number, payload: Uint8Array): void;

  protected start(stream: Stream): void {
    this.stream = stream;
  }

  /** Ends it from outside. */
  abort(reason: string): void {
    this.fail(reason, false);
  }

  protected nonce(): Uint8Array {
    const nonce = new Uint8Array(NONCE_BYTES);
    this.secret.fillRandom(nonce);
    return nonce;
  }

  protected send(type: number, payload: Uint8Array): void {
    if (this.isSending) {
      // The peer has answered before we were told that our message is out.
      assert(this.queued === null, "two handshake messages wait");
      this.queued = { type, payload };
      return;
    }
    const { u32, u8, address } = this.buffer;
    const at = OUT_AT >>> 2;
    beginHeader(u32, at, type, 0, 0, 0);
    u8.set(payload, OUT_AT + HEADER_BYTES);
    u32[at + W_PAYLOAD_BYTES] = payload.length;
    const payloadAt = address + OUT_AT + HEADER_BYTES;
    u32[at + W_PAYLOAD_CRC] = this.reactor.memory.crc32c(payloadAt, payload.length, 0);
    sealHeader(u32, u8, at);
    this.outBytes = HEADER_BYTES + payload.length;
    this.outSent = 0;
    this.sendMore();
  }

  private sendMore(): void {
    if (this.isClosing) return;
    const words = this.buffer.u32;
    const address = this.buffer.address + OUT_AT + this.outSent;
    words[IOVEC_AT >>> 2] = address >>> 0;
    words[(IOVEC_AT >>> 2) + 1] = high32(address);
    words[(IOVEC_AT >>> 2) + 2] = this.outBytes - this.outSent;
    words[(IOVEC_AT >>> 2) + 3] = 0;
    this.isSending = true;
    this.stream?.send(this.buffer.address + IOVEC_AT, 1);
  }

  protected receive(): void {
    if (this.isReceiving || this.outcome !== null || this.stream === null) return;
    const room = HANDSHAKE_BYTES_MAX - this.receivedBytes;
    assert(room > 0, "a full handshake buffer without a whole message");
    this.isReceiving = true;
    this.stream.receive(this.buffer.address + this.receivedBytes, room);
  }

  streamOpened(_result: number): void {
    assert(false, "an accepted stream was opened");
  }

  streamSent(result: number): void {
    this.isSending = false;
    if (result <= 0) {
      this.fail(`the connection broke: ${errnoName(result)}`, false);
      return;
    }
    this.outSent += result;
    const { queued } = this;
    if (this.outSent < this.outBytes) {
      this.sendMore();
    } else if (queued !== null) {
      this.queued = null;
      this.send(queued.type, queued.payload);
    } else if (this.outcome !== null) {
      this.conclude();
    }
  }

  streamReceived(result: number): void {
    this.isReceiving = false;
    if (this.outcome !== null) return;
    if (result <= 0) {
      const why = result === 0 ? "the peer hung up" : `the connection broke: ${errnoName(result)}`;
      this.fail(why, false);
      return;
    }
    this.receivedBytes += result;
    this.parse();
    this.receive();
  }

  private parse(): void {
    const { u8, u32 } = this.buffer;
    while (this.outcome === null && this.receivedBytes >= HEADER_BYTES) {
      const verdict = checkHeader(u32, u8, 0, PAYLOAD_MAX);
      const type = headerType(u32, 0);
      if (verdict === HEADER_BAD_VERSION && type === MESSAGE_HELLO) {
        this.refuseVersion(headerVersion(u32, 0), headerVersion(u32, 0));
        return;
      }
      const isForeignRefusal = verdict === HEADER_BAD_VERSION && type === MESSAGE_REFUSE;
      const bytes = u32[W_PAYLOAD_BYTES] as number;
      if ((verdict !== HEADER_OK && !isForeignRefusal) || bytes > PAYLOAD_MAX) {
        this.refuse("protocol", `${HEADER_VERDICTS[verdict]}: this is no handshake`);
        return;
      }
      if (this.receivedBytes < HEADER_BYTES + bytes) return;
      const payload = u8.slice(HEADER_BYTES, HEADER_BYTES + bytes);
      const crc = this.reactor.memory.crc32c(this.buffer.address + HEADER_BYTES, bytes, 0);
      if (crc !== u32[W_PAYLOAD_CRC]) {
        this.refuse("protocol", "the payload does not match its checksum");
        return;
      }
      u8.copyWithin(0, HEADER_BYTES + bytes, this.receivedBytes);
      this.receivedBytes -= HEADER_BYTES + bytes;
      if (type === MESSAGE_REFUSE) this.refused(payload);
      else this.message(type, payload);
    }
  }

  private refused(payload: Uint8Array): void {
    const refusal = decodeRefusal(payload);
    const text = refusal === null ? "for a reason that cannot be read" : refusal.text;
    const isLasting = refusal !== null && !/^(?:busy|superseded|protocol)$/.test(refusal.code);
    this.fail(`the peer refused us: ${text}`, isLasting);
  }

  protected refuseVersion(low: number, high: number): void {
    const theirs = low === high ? `version ${low}` : `versions ${low} to ${high}`;
    this.refuse(
      "version",
      `this node speaks wire version ${WIRE_VERSION}, the peer ${theirs}: upgrade the older one`,
    );
  }

  /** Tells the peer why, and ends. */
  protected refuse(code: RefuseCode, text: string): void {
    if (this.outcome !== null) return;
    const isLasting = !/^(?:busy|superseded|protocol)$/.test(code);
    this.outcome = { kind: "failed", reason: text, isLasting };
    if (this.isSending) {
      // A message is on its way and the peer is out of step: it gets no reason.
      this.stream?.close();
      return;
    }
    const versions = { versionMin: WIRE_VERSION, versionMax: WIRE_VERSION };
    this.send(MESSAGE_REFUSE, encodeRefusal({ code, text, ...versions }));
  }

  protected fail(reason: string, isLasting: boolean): void {
    if (this.outcome === null || this.outcome.kind === "ok") {
      this.outcome = { kind: "failed", reason, isLasting };
    }
    this.isClosing = true;
    this.stream?.close();
  }

  protected succeed(facts: Omit<HandshakeOk, "kind" | "stream" | "leftover">): void {
    const leftover = this.buffer.u8.slice(0, this.receivedBytes);
    assert(this.stream !== null, "a handshake without a stream");
    this.outcome = { kind: "ok", stream: this.stream, leftover, ...facts };
    if (!this.isSending) this.conclude();
  }

  /** The last message has gone out. */
  private conclude(): void {
    if (this.outcome?.kind === "ok") this.finish();
    else this.stream?.close();
  }

  private finish(): void {
    assert(!this.isOver && this.outcome !== null, "a handshake ended twice");
    this.isOver = true;
    this.reactor.cancelTimer(this.timerId);
    this.reactor.memory.free(this.buffer);
    this.done(this.outcome);
  }

  streamClosed(): void {
    if (this.outcome === null || this.outcome.kind === "ok") {
      this.outcome = { kind: "failed", reason: "the connection closed", isLasting: false };
    }
    this.finish();
  }

  timerFired(): void {
    this.fail(`no handshake within ${HANDSHAKE_MS} ms`, false);
  }
}

export interface SpokenVersions {
  readonly min: number;
  readonly max: number;
  readonly features?: number;
}

export interface DialOptions {
  readonly identity: PeerIdentity;
  readonly targetNodeId: string;
  readonly connection: number;
  /** Which versions and features we say we speak; for tests of other versions. */
  readonly versions?: SpokenVersions;
}

/** The side that dials: an owner's link. */
export class DialHandshake extends Handshake {
  private readonly options: DialOptions;
  private hello: Uint8Array = new Uint8Array(0);
  private peer: { readonly nodeId: string; readonly incarnation: number } | null = null;

  constructor(options: DialOptions, modules: HandshakeModules, done: HandshakeDone) {
    super(options.identity, modules, done);
    this.options = options;
  }

  /** The stream that was dialled with this handshake as its handler. */
  dialled(stream: Stream): void {
    this.start(stream);
  }

  override streamOpened(result: number): void {
    if (result < 0) {
      this.fail(`cannot connect: ${errnoName(result)}`, false);
      return;
    }
    const { identity, targetNodeId, connection, versions } = this.options;
    const hello: Hello = {
      ...identity,
      targetNodeId,
      connection,
      versionMin: versions?.min ?? WIRE_VERSION,
      versionMax: versions?.max ?? WIRE_VERSION,
      features: versions?.features ?? WIRE_FEATURES,
    };
    this.hello = encodeHello(hello, this.nonce());
    this.send(MESSAGE_HELLO, this.hello);
    this.receive();
  }

  protected message(type: number, payload: Uint8Array): void {
    if (type === MESSAGE_CHALLENGE && this.peer === null) this.challenged(payload);
    else if (type === MESSAGE_WELCOME && this.peer !== null) this.welcomed(payload);
    else this.refuse("protocol", "a handshake message out of turn");
  }

  private challenged(payload: Uint8Array): void {
    const challenge = decodeChallenge(payload);
    if (challenge === null) {
      this.refuse("protocol", "a challenge of a wrong length");
    } else if (challenge.nodeId !== this.options.targetNodeId) {
      // Also where our own hello was played back to us: we are not whom we dialled.
      this.refuse("target", `we dialled node ${this.options.targetNodeId}, this is another`);
    } else if (challenge.version !== WIRE_VERSION) {
      this.refuseVersion(challenge.version, challenge.version);
    } else if ((challenge.features & ~WIRE_FEATURES) !== 0) {
      const bits = ((challenge.features & ~WIRE_FEATURES) >>> 0).toString(16);
      const text = `the peer wants features 0x${bits}, which this node does not know`;
      this.refuse("version", `${text}: upgrade the older one`);
    } else if (!challengeProves(payload, this.hello, this.secret)) {
      this.refuse("proof", "the peer does not know this cluster's key");
    } else {
      this.peer = { nodeId: challenge.nodeId, incarnation: challenge.incarnation };
      this.send(MESSAGE_PROOF, encodeProof(this.hello, payload, this.secret));
    }
  }

  private welcomed(payload: Uint8Array): void {
    const welcome = decodeWelcome(payload);
    if (welcome === null || welcome.smallCredits === 0 || welcome.largeCredits === 0) {
      this.refuse("protocol", "a welcome that makes no sense");
      return;
    }
    assert(this.peer !== null, "welcomed by nobody");
    const { connection, identity } = this.options;
    this.succeed({ ...this.peer, connection, reactor: identity.reactor, welcome });
  }
}

export interface AcceptOptions {
  readonly identity: PeerIdentity;
  readonly welcome: Welcome;
  /** Is this an older connection than one we have? Asked when the peer has proved itself. */
  isSuperseded(hello: Pick<Hello, "nodeId" | "reactor" | "incarnation" | "connection">): boolean;
  /** May this node talk to us at all? */
  isKnownNode(nodeId: string): boolean;
}

/** The side that listens: a server of replicas. */
export class AcceptHandshake extends Handshake {
  private readonly options: AcceptOptions;
  private helloBytes: Uint8Array = new Uint8Array(0);
  private challengeBytes: Uint8Array = new Uint8Array(0);
  private hello: Hello | null = null;

  constructor(
    options: AcceptOptions,
    modules: HandshakeModules,
    stream: Stream,
    done: HandshakeDone,
  ) {
    super(options.identity, modules, done);
    this.options = options;
    this.start(stream);
    stream.setHandler(this);
    this.receive();
  }

  protected message(type: number, payload: Uint8Array): void {
    if (type === MESSAGE_HELLO && this.hello === null) this.greeted(payload);
    else if (type === MESSAGE_PROOF && this.hello !== null) this.proved(payload, this.hello);
    else this.refuse("protocol", "a handshake message out of turn");
  }

  private greeted(payload: Uint8Array): void {
    const { identity } = this.options;
    const hello = decodeHello(payload);
    if (hello === null) {
      this.refuse("protocol", "a hello that is too short");
    } else if (hello.versionMin > WIRE_VERSION || hello.versionMax < WIRE_VERSION) {
      this.refuseVersion(hello.versionMin, hello.versionMax);
    } else if (hello.clusterId !== identity.clusterId) {
      this.refuse("cluster", `this node belongs to cluster ${identity.clusterId}, not to yours`);
    } else if (hello.targetNodeId !== identity.nodeId) {
      this.refuse("target", `this is node ${identity.nodeId}, not the one that was dialled`);
    } else if (hello.nodeId === identity.nodeId || !this.options.isKnownNode(hello.nodeId)) {
      this.refuse("node", `node ${hello.nodeId} is none of this node's peers`);
    } else {
      this.hello = hello;
      this.helloBytes = payload;
      const challenge = {
        version: WIRE_VERSION,
        features: WIRE_FEATURES,
        nodeId: identity.nodeId,
        incarnation: identity.incarnation,
      };
      const nonce = this.nonce();
      this.challengeBytes = encodeChallenge(challenge, nonce, payload, this.secret);
      this.send(MESSAGE_CHALLENGE, this.challengeBytes);
    }
  }

  private proved(payload: Uint8Array, hello: Hello): void {
    const { nodeId, incarnation, connection, reactor } = hello;
    if (!proofProves(payload, this.helloBytes, this.challengeBytes, this.secret)) {
      this.refuse("proof", "the peer does not know this cluster's key");
    } else if (this.options.isSuperseded(hello)) {
      this.refuse("superseded", "a newer connection of the same node is there");
    } else {
      const { welcome } = this.options;
      this.send(MESSAGE_WELCOME, encodeWelcome(welcome));
      this.succeed({ nodeId, incarnation, connection, reactor, welcome });
    }
  }
}
