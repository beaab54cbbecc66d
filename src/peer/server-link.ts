// @hot
// One connection of an owner's daemon to this reactor's server of replicas: takes its messages,
// gives them to local replicas, answers. Every message that wants an answer holds one operation
// with a buffer of its own; the peer's credits say how many it may have.
//
//   message -> operation (payload copied) -> replica.write / submitRead -> answer queued -> sent
//
// Invariants:
//  - there are twice as many operations as credits: one set may be in answers that the kernel has
//    taken and not yet reported, while the peer has their credits back; a peer that needs more has
//    broken its word, and the connection ends;
//  - an operation's buffer is the replica's, then the kernel's, and free after messageSent; when
//    the connection ends it is free as soon as neither has it.

import {
  assert,
  EINVAL,
  ESTALE,
  OP_READ,
  type RequestOwner,
  type RequestTable,
} from "../base/index.ts";
import {
  type Arena,
  type Memory,
  type Poller,
  REPLICA_WRITE,
  REPLICA_ZERO,
  type ReactorPort,
  type ReplicaFailure,
} from "../ports/index.ts";
import {
  encodeFailure,
  encodeGrant,
  FLAG_FAILURE,
  getWide,
  HEADER_BAD_FIELD,
  headerType,
  MESSAGE_ANSWER,
  MESSAGE_CLOSE,
  MESSAGE_COMMITTED,
  MESSAGE_FENCED,
  MESSAGE_GRANT,
  MESSAGE_HEARTBEAT,
  MESSAGE_READ,
  MESSAGE_RESUME,
  MESSAGE_WRITE,
  MESSAGE_ZERO,
  PAYLOAD_BYTES_MAX,
  putWide,
  SESSIONS_MAX,
  STREAM_SEQUENCE_MASK,
  W_BLOCK_COUNT,
  W_COMMITTED,
  W_EPOCH,
  W_FIRST_BLOCK,
  W_REQUEST,
  W_RESULT,
  W_SEQUENCE,
  W_SESSION,
  W_STREAM_SEQUENCE,
  WIRE_BLOCK_BYTES,
  WIRE_BLOCKS_MAX,
} from "../wire/index.ts";
import type { HandshakeOk } from "./handshake.ts";
import { LARGE_CREDITS, SMALL_BYTES, SMALL_CREDITS } from "./limits.ts";
import { type MessageHandler, MessageStream } from "./message-stream.ts";
import type { ServerSession } from "./server-session.ts";

/** What a connection tells its server; all of it cold. */
export interface LinkServer {
  /** A message that is not hot, with the operation that will answer it. */
  coldMessage(link: ServerLink, op: number, at: number, payloadAt: number, bytes: number): void;
  closeSession(session: ServerSession): void;
  heartbeat(link: ServerLink): number;
  linkEnded(link: ServerLink): void;
}

const SMALL_OPS: number = 2 * SMALL_CREDITS;
const OPS: number = SMALL_OPS + 2 * LARGE_CREDITS;
const SESSION_MASK: number = SESSIONS_MAX - 1;

const FREE = 0;
/** Read in; the replica, or the server, has it. */
const LOCAL = 1;
/** A read for which the reactor's request table had no slot yet. */
const WAITING = 2;
const SENDING = 3;

export class ServerLink implements MessageHandler, RequestOwner, Poller {
  readonly nodeId: string;
  readonly incarnation: number;
  /** Node and reactor: who has one connection at a time. */
  readonly peerKey: string;
  readonly stream: MessageStream;
  readonly buffers: Arena;
  /** When its last message came, for the server's watch. */
  heardUs = 0;
  private readonly server: LinkServer;
  private readonly reactor: ReactorPort;
  private readonly requests: RequestTable;
  private readonly memory: Memory;
  private readonly ownerIndex: number;
  private readonly sessions: (ServerSession | null)[] = [];
  private readonly state: Uint8Array = new Uint8Array(OPS);
  private readonly type: Uint8Array = new Uint8Array(OPS);
  private readonly request: Uint32Array = new Uint32Array(OPS);
  private readonly session: (ServerSession | null)[] = [];
  private readonly sequence: Float64Array = new Float64Array(OPS);
  private readonly firstBlock: Float64Array = new Float64Array(OPS);
  private readonly blockCount: Uint32Array = new Uint32Array(OPS);
  private readonly freeSmall: Int32Array = new Int32Array(SMALL_OPS);
  private readonly freeLarge: Int32Array = new Int32Array(2 * LARGE_CREDITS);
  private smallCount = 0;
  private largeCount = 0;
  private waitingCount = 0;
  private isEnded = false;

  constructor(outcome: HandshakeOk, server: LinkServer, reactor: ReactorPort) {
    this.nodeId = outcome.nodeId;
    this.incarnation = outcome.incarnation;
    this.peerKey = `${outcome.nodeId}/${outcome.reactor}`;
    this.server = server;
    this.reactor = reactor;
    this.requests = reactor.requests;
    this.memory = reactor.memory;
    this.heardUs = reactor.loopTimeUs;
    this.buffers = reactor.memory.allocate(
      SMALL_OPS * SMALL_BYTES + 2 * LARGE_CREDITS * PAYLOAD_BYTES_MAX,
    );
    for (let op = 0; op < OPS; op++) this.session.push(null);
    for (let op = OPS - 1; op >= 0; op--) this.pushFree(op);
    this.ownerIndex = reactor.requests.addOwner(this);
    this.stream = new MessageStream(reactor.memory, outcome.stream, this);
    reactor.addPoller(this);
  }

  get freeOps(): number {
    return this.smallCount + this.largeCount;
  }

  get isOpen(): boolean {
    return this.stream.isOpen;
  }

  // --- the loop ----------------------------------------------------------------------------------

  poll(): number {
    if (this.waitingCount === 0) return 0;
    return this.retryWaiting();
  }

  arm(): boolean {
    return this.waitingCount > 0;
  }

  disarm(): void {}

  flush(): void {
    this.stream.flush();
  }

  // --- operations --------------------------------------------------------------------------------

  private pushFree(op: number): void {
    this.state[op] = FREE;
    this.session[op] = null;
    if (op < SMALL_OPS) {
      this.freeSmall[this.smallCount] = op;
      this.smallCount += 1;
    } else {
      this.freeLarge[this.largeCount] = op;
      this.largeCount += 1;
    }
  }

  /** -1: the peer has more unanswered messages than it was allowed. */
  private takeOp(isLarge: boolean): number {
    if (isLarge) {
      if (this.largeCount === 0) return -1;
      this.largeCount -= 1;
      return this.freeLarge[this.largeCount] as number;
    }
    if (this.smallCount === 0) return -1;
    this.smallCount -= 1;
    return this.freeSmall[this.smallCount] as number;
  }

  /** Of an operation: where its buffer is. */
  bufferAt(op: number): number {
    if (op < SMALL_OPS) return this.buffers.address + op * SMALL_BYTES;
    const large = (op - SMALL_OPS) * PAYLOAD_BYTES_MAX;
    return this.buffers.address + SMALL_OPS * SMALL_BYTES + large;
  }

  // --- messages ----------------------------------------------------------------------------------

  messageReceived(at: number, payloadAt: number, payloadBytes: number): void {
    const words = this.stream.in.u32;
    this.heardUs = this.reactor.loopTimeUs;
    const type = headerType(words, at);
    if (type >= MESSAGE_WRITE && type <= MESSAGE_READ) {
      this.hotMessage(type, at, payloadAt, payloadBytes);
    } else if (type === MESSAGE_HEARTBEAT) {
      this.answerHeartbeat(at);
    } else if (type === MESSAGE_COMMITTED || type === MESSAGE_CLOSE) {
      const session = this.sessionOf(words[at + W_SESSION] as number);
      if (session === null) return;
      if (type === MESSAGE_CLOSE) this.server.closeSession(session);
      else if (words[at + W_EPOCH] === session.epoch) this.takeCommitted(session, at);
    } else {
      const op = this.takeOp(type !== MESSAGE_RESUME);
      if (op < 0) {
        this.broken();
        return;
      }
      this.state[op] = LOCAL;
      this.type[op] = type;
      this.request[op] = words[at + W_REQUEST] as number;
      this.server.coldMessage(this, op, at, payloadAt, payloadBytes);
    }
  }

  /** The session that accepts messages under this number here. */
  sessionOf(number: number): ServerSession | null {
    const session = this.sessions[number & SESSION_MASK];
    if (session === undefined || session === null || session.number !== number) return null;
    return session;
  }

  private takeCommitted(session: ServerSession, at: number): void {
    const committed = getWide(this.stream.in.u32, at + W_COMMITTED);
    if (committed <= session.committed || session.replica === null) return;
    session.committed = committed;
    session.replica.setCommitted(committed);
  }

  private hotMessage(type: number, at: number, payloadAt: number, payloadBytes: number): void {
    const words = this.stream.in.u32;
    const blockCount = words[at + W_BLOCK_COUNT] as number;
    const bytes = type === MESSAGE_ZERO ? 0 : blockCount * WIRE_BLOCK_BYTES;
    const isBounded = type === MESSAGE_ZERO || blockCount <= WIRE_BLOCKS_MAX;
    if (blockCount === 0 || !isBounded || payloadBytes !== (type === MESSAGE_WRITE ? bytes : 0)) {
      this.broken();
      return;
    }
    const op = this.takeOp(bytes > SMALL_BYTES);
    if (op < 0) {
      this.broken();
      return;
    }
    this.type[op] = type;
    this.request[op] = words[at + W_REQUEST] as number;
    this.state[op] = LOCAL;
    const session = this.sessionOf(words[at + W_SESSION] as number);
    if (session === null || session.epoch !== words[at + W_EPOCH] || session.replica === null) {
      this.answer(op, -ESTALE);
      return;
    }
    const streamSequence = (session.streamSequence + 1) & STREAM_SEQUENCE_MASK;
    if (words[at + W_STREAM_SEQUENCE] !== streamSequence) {
      this.freeOp(op);
      this.broken();
      return;
    }
    session.streamSequence = streamSequence;
    this.takeCommitted(session, at);
    const firstBlock = getWide(words, at + W_FIRST_BLOCK);
    const sequence = getWide(words, at + W_SEQUENCE);
    this.session[op] = session;
    this.firstBlock[op] = firstBlock;
    this.blockCount[op] = blockCount;
    this.sequence[op] = sequence;
    if (type === MESSAGE_READ) {
      session.began(0);
      this.startRead(op);
      return;
    }
    if (session.isDone(sequence, firstBlock, blockCount)) {
      this.answer(op, 0);
      return;
    }
    session.began(sequence);
    const buffer = this.bufferAt(op);
    if (bytes > 0) this.memory.copy(buffer, this.stream.in.address + payloadAt, bytes);
    const kind = type === MESSAGE_WRITE ? REPLICA_WRITE : REPLICA_ZERO;
    session.replica.write(op, kind, firstBlock, blockCount, buffer, sequence);
  }

  private startRead(op: number): void {
    const slot = this.requests.acquire(this.ownerIndex);
    if (slot < 0) {
      // Tried again with every turn of the loop, until other requests give slots back.
      this.state[op] = WAITING;
      this.waitingCount += 1;
      this.reactor.activate(this);
      return;
    }
    const requests = this.requests;
    requests.op[slot] = OP_READ;
    requests.offsetBytes[slot] = (this.firstBlock[op] as number) * WIRE_BLOCK_BYTES;
    requests.startedUs[slot] = this.reactor.loopTimeUs;
    requests.ownerTagA[slot] = op;
    const bytes = (this.blockCount[op] as number) * WIRE_BLOCK_BYTES;
    requests.addSegment(slot, this.bufferAt(op), bytes);
    const session = this.session[op] as ServerSession;
    assert(session.replica !== null, "a read of a session without a replica");
    session.replica.submitRead(slot);
  }

  private retryWaiting(): number {
    let started = 0;
    for (let op = 0; op < OPS && this.requests.freeSlots > 0; op++) {
      if (this.state[op] !== WAITING) continue;
      this.state[op] = LOCAL;
      this.waitingCount -= 1;
      started += 1;
      this.startRead(op);
    }
    return started;
  }

  requestCompleted(slot: number, result: number): void {
    const op = this.requests.ownerTagA[slot] as number;
    this.requests.release(slot);
    this.localDone(this.session[op] as ServerSession, op, result > 0 ? 0 : result);
  }

  /** The local replica has ended the operation. */
  localDone(session: ServerSession, op: number, result: number): void {
    assert(this.state[op] === LOCAL && this.session[op] === session, "an operation ended twice");
    if (result === 0 && this.type[op] !== MESSAGE_READ) {
      const blockCount = this.blockCount[op] as number;
      session.remember(this.sequence[op] as number, this.firstBlock[op] as number, blockCount);
    }
    this.answer(op, result);
    session.ended();
  }

  // --- answers -----------------------------------------------------------------------------------

  private answer(op: number, result: number): void {
    if (!this.stream.isOpen) {
      this.freeOp(op);
      return;
    }
    const hasData = this.type[op] === MESSAGE_READ && result === 0;
    const bytes = hasData ? (this.blockCount[op] as number) * WIRE_BLOCK_BYTES : 0;
    const at = this.stream.begin(MESSAGE_ANSWER, 0, this.request[op] as number, 0);
    this.stream.out.u32[at + W_RESULT] = result;
    this.state[op] = SENDING;
    this.stream.finish(at, 0, this.bufferAt(op), bytes, op);
    this.reactor.requestFlush(this);
  }

  messageSent(op: number): void {
    this.freeOp(op);
  }

  private freeOp(op: number): void {
    this.pushFree(op);
    if (this.isEnded && this.freeOps === OPS) this.freeMemory();
  }

  // --- cold --------------------------------------------------------------------------------------

  /** Answers a cold message: `head` goes first, `bytes` of the operation's buffer follow. */
  // @cold
  answerCold(op: number, head: Uint8Array, bytes: number): void {
    this.beginCold(op, 0, head, bytes);
  }

  // @cold
  answerFailure(op: number, failure: ReplicaFailure): void {
    const head = new Uint8Array(256);
    const bytes = encodeFailure(head, 0, failure);
    this.beginCold(op, FLAG_FAILURE, head.subarray(0, bytes), 0);
  }

  // @cold
  private beginCold(op: number, flags: number, head: Uint8Array, bytes: number): void {
    if (!this.stream.isOpen) {
      this.freeOp(op);
      return;
    }
    const at = this.stream.begin(MESSAGE_ANSWER, flags, this.request[op] as number, 0);
    this.stream.out.u8.set(head, this.stream.inlineAt(at));
    this.state[op] = SENDING;
    this.stream.finish(at, head.length, this.bufferAt(op), bytes, op);
    this.reactor.requestFlush(this);
  }

  // @cold
  private answerHeartbeat(at: number): void {
    if (this.stream.freeSlots <= OPS) {
      this.broken();
      return;
    }
    const grantUs = this.server.heartbeat(this);
    const heartbeat = getWide(this.stream.in.u32, at + W_SEQUENCE);
    const to = this.stream.begin(MESSAGE_GRANT, 0, 0, 0);
    putWide(this.stream.out.u32, to + W_SEQUENCE, heartbeat);
    const bytes = encodeGrant(this.stream.out.u8, this.stream.inlineAt(to), grantUs);
    this.stream.finish(to, bytes, 0, 0, -1);
    this.reactor.requestFlush(this);
  }

  /** Accepts messages under `session.number` from now on. */
  // @cold
  addSession(session: ServerSession): void {
    const index = session.number & SESSION_MASK;
    while (this.sessions.length <= index) this.sessions.push(null);
    this.sessions[index] = session;
  }

  /** From now on messages under its number are answered with -ESTALE. */
  // @cold
  removeSession(session: ServerSession): void {
    const index = session.number & SESSION_MASK;
    if (this.sessions[index] === session) this.sessions[index] = null;
  }

  // @cold
  liveSessions(): ServerSession[] {
    return this.sessions.filter((session) => session !== null);
  }

  /** Tells the owner that `epoch` has taken the session's volume over. */
  // @cold
  sendFenced(session: ServerSession, epoch: number): void {
    if (!this.stream.isOpen) return;
    if (this.stream.freeSlots <= OPS) {
      // Every answer has its slot, notices have the rest. It must not get another grant without
      // having heard this.
      this.broken();
      return;
    }
    const at = this.stream.begin(MESSAGE_FENCED, 0, 0, session.number);
    this.stream.out.u32[at + W_EPOCH] = epoch;
    this.stream.finish(at, 0, 0, 0, -1);
    this.reactor.requestFlush(this);
  }

  /** The peer does not keep to the rules. */
  // @cold
  broken(): void {
    this.stream.close(HEADER_BAD_FIELD);
  }

  /** A cold message that makes no sense. */
  // @cold
  brokenBy(op: number): void {
    this.freeOp(op);
    this.broken();
  }

  // @cold
  close(): void {
    this.stream.close(-EINVAL);
  }

  // @cold
  streamEnded(): void {
    this.isEnded = true;
    for (let op = 0; op < OPS; op++) {
      if (this.state[op] === SENDING) this.pushFree(op);
      else if (this.state[op] === WAITING) this.dropWaiting(op);
    }
    this.server.linkEnded(this);
    if (this.freeOps === OPS) this.freeMemory();
  }

  // @cold
  private dropWaiting(op: number): void {
    const session = this.session[op] as ServerSession;
    this.waitingCount -= 1;
    this.pushFree(op);
    session.ended();
  }

  /** Neither the kernel nor a replica has anything of it any more. */
  // @cold
  private freeMemory(): void {
    this.reactor.removePoller(this);
    this.requests.removeOwner(this.ownerIndex);
    this.memory.free(this.buffers);
  }
}
