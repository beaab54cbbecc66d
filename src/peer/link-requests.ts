// @hot
// The requests of all remote replicas behind one link: a slot each, queued until the peer's credits
// allow them to be sent, answered by number.
//
//   submit -> queued -> sent (a credit taken) -> answered (given back) -> completed
//                  \------- longer than a message: the next piece ------/
//
// Invariants:
//  - a request completes exactly once, from the loop, never inside a submit;
//  - a write's data is not touched after its completion: when a connection breaks, requests
//    complete only when it has let go of memory (MessageHandler.streamEnded -> failAll);
//  - an id is slot + generation: an answer to a question nobody asked ends the connection.

import {
  assert,
  ENOBUFS,
  ENOTCONN,
  type RequestTable,
  type SegmentCopier,
  TWO_32,
} from "../base/index.ts";
import { type Address, type Memory, REPLICA_ZERO, type ReactorPort } from "../ports/index.ts";
import {
  FLAG_FAILURE,
  headerFlags,
  MESSAGE_READ,
  MESSAGE_WRITE,
  MESSAGE_ZERO,
  putWide,
  STREAM_SEQUENCE_MASK,
  W_BLOCK_COUNT,
  W_COMMITTED,
  W_EPOCH,
  W_FIRST_BLOCK,
  W_REQUEST,
  W_RESULT,
  W_SEQUENCE,
  W_STREAM_SEQUENCE,
  WIRE_BLOCK_BYTES,
  WIRE_BLOCKS_MAX,
} from "../wire/index.ts";
import { SMALL_BYTES } from "./limits.ts";
import type { MessageStream } from "./message-stream.ts";
import type { RemoteReplica } from "./remote-replica.ts";

/** What a cold request's answer holds; null = the connection is gone. */
export type ColdDone = (answer: ColdAnswer | null) => void;
export interface ColdAnswer {
  readonly isFailure: boolean;
  readonly u8: Uint8Array;
  readonly payloadAt: number;
  readonly payloadBytes: number;
  /** Of the payload, for copies. */
  readonly address: Address;
}
export interface ColdRequest {
  readonly type: number;
  readonly session: number;
  readonly epoch: number;
  readonly payload: Uint8Array;
  /** Sent behind the payload; stays as it is until the answer. */
  readonly address: Address;
  readonly bytes: number;
  readonly isLarge: boolean;
  readonly done: ColdDone;
}

/** Out slots kept for heartbeats and the like. */
const RESERVED_SLOTS = 16;
const SLOT_MASK = 0xffff;
const FREE = 0;
const QUEUED = 1;
const SENT = 2;
const ERRNO_MAX = 4095;

export class LinkRequests {
  /** Set while a connection is up. */
  stream: MessageStream | null = null;
  smallCredits = 0;
  largeCredits = 0;
  liveCount = 0;

  private readonly requests: RequestTable;
  private readonly memory: Memory;
  private readonly copier: SegmentCopier;
  private readonly capacity: number;
  private readonly state: Uint8Array;
  private readonly type: Uint8Array;
  private readonly isLarge: Uint8Array;
  private readonly generation: Uint16Array;
  /** Number of the session it was submitted in: it is sent in no other. */
  private readonly session: Uint32Array;
  private readonly tag: Int32Array;
  private readonly blockCount: Uint32Array;
  private readonly doneBlocks: Uint32Array;
  private readonly firstBlock: Float64Array;
  private readonly sequence: Float64Array;
  private readonly address: Float64Array;
  private readonly replica: (RemoteReplica | null)[] = [];
  private readonly cold: (ColdRequest | null)[] = [];
  private readonly freeStack: Int32Array;
  private freeCount: number;
  private readonly queue: Int32Array;
  private queueHead = 0;
  private queueTail = 0;
  // Completions that must not run inside their submit; lists that stay at their greatest length.
  private readonly lateReplica: (RemoteReplica | null)[] = [];
  private readonly lateTag: number[] = [];
  private readonly lateType: number[] = [];
  private readonly lateResult: number[] = [];
  private lateCount = 0;

  /** `capacity`: a power of two, at most 65536. */
  constructor(capacity: number, reactor: ReactorPort, copier: SegmentCopier) {
    assert((capacity & (capacity - 1)) === 0 && capacity <= 65536, "capacity: a power of two");
    this.requests = reactor.requests;
    this.memory = reactor.memory;
    this.copier = copier;
    this.capacity = capacity;
    this.state = new Uint8Array(capacity);
    this.type = new Uint8Array(capacity);
    this.isLarge = new Uint8Array(capacity);
    this.generation = new Uint16Array(capacity);
    this.session = new Uint32Array(capacity);
    this.tag = new Int32Array(capacity);
    this.blockCount = new Uint32Array(capacity);
    this.doneBlocks = new Uint32Array(capacity);
    this.firstBlock = new Float64Array(capacity);
    this.sequence = new Float64Array(capacity);
    this.address = new Float64Array(capacity);
    for (let slot = 0; slot < capacity; slot++) {
      this.replica.push(null);
      this.cold.push(null);
    }
    this.freeStack = new Int32Array(capacity);
    for (let index = 0; index < capacity; index++) this.freeStack[index] = capacity - 1 - index;
    this.freeCount = capacity;
    this.queue = new Int32Array(capacity);
  }

  // --- submits -----------------------------------------------------------------------------------

  submitWrite(
    replica: RemoteReplica,
    tag: number,
    op: number,
    firstBlock: number,
    blockCount: number,
    address: Address,
    sequence: number,
  ): void {
    const type = op === REPLICA_ZERO ? MESSAGE_ZERO : MESSAGE_WRITE;
    const slot = this.take(replica, type, tag);
    if (slot < 0) return;
    this.firstBlock[slot] = firstBlock;
    this.blockCount[slot] = blockCount;
    this.address[slot] = address;
    this.sequence[slot] = sequence;
    this.enqueue(slot);
  }

  /** `requestSlot` of the reactor's table: whole blocks. */
  submitRead(replica: RemoteReplica, requestSlot: number): void {
    const slot = this.take(replica, MESSAGE_READ, requestSlot);
    if (slot < 0) return;
    this.firstBlock[slot] = (this.requests.offsetBytes[requestSlot] as number) / WIRE_BLOCK_BYTES;
    this.blockCount[slot] = (this.requests.lengthBytes[requestSlot] as number) / WIRE_BLOCK_BYTES;
    this.enqueue(slot);
  }

  private take(replica: RemoteReplica, type: number, tag: number): number {
    const refusal = replica.refusal;
    if (refusal !== 0 || this.freeCount === 0) {
      this.completeLater(replica, type, tag, refusal !== 0 ? refusal : -ENOBUFS);
      return -1;
    }
    this.freeCount -= 1;
    this.liveCount += 1;
    const slot = this.freeStack[this.freeCount] as number;
    this.type[slot] = type;
    this.tag[slot] = tag;
    this.replica[slot] = replica;
    this.session[slot] = replica.sessionNumber;
    this.doneBlocks[slot] = 0;
    return slot;
  }

  private enqueue(slot: number): void {
    this.state[slot] = QUEUED;
    this.queue[this.queueTail & (this.capacity - 1)] = slot;
    this.queueTail += 1;
  }

  /** Waits for a connection if there is none. */
  // @cold
  submitCold(request: ColdRequest): void {
    if (this.freeCount === 0) {
      request.done(null);
      return;
    }
    this.freeCount -= 1;
    this.liveCount += 1;
    const slot = this.freeStack[this.freeCount] as number;
    this.type[slot] = request.type;
    this.cold[slot] = request;
    this.enqueue(slot);
  }

  private completeLater(replica: RemoteReplica, type: number, tag: number, result: number): void {
    const at = this.lateCount;
    this.lateReplica[at] = replica;
    this.lateType[at] = type;
    this.lateTag[at] = tag;
    this.lateResult[at] = result;
    this.lateCount += 1;
  }

  // --- the loop's turn ---------------------------------------------------------------------------

  /** Completes what was refused, sends what may be sent. */
  pump(): void {
    // What they submit in turn is completed in the next turn, or this would not end.
    const count = this.lateCount;
    for (let at = 0; at < count; at++) {
      const replica = this.lateReplica[at] as RemoteReplica;
      const type = this.lateType[at] as number;
      this.complete(replica, type, this.lateTag[at] as number, this.lateResult[at] as number);
    }
    for (let at = count; at < this.lateCount; at++) this.moveLate(at, at - count);
    this.lateCount -= count;
    const stream = this.stream;
    if (stream === null || !stream.isOpen) return;
    while (this.queueHead !== this.queueTail && stream.freeSlots > RESERVED_SLOTS) {
      const slot = this.queue[this.queueHead & (this.capacity - 1)] as number;
      if (this.isStale(slot)) {
        this.queueHead += 1;
        this.drop(slot);
        continue;
      }
      if (!this.takeCredit(slot)) break;
      this.queueHead += 1;
      this.state[slot] = SENT;
      if (this.type[slot] <= MESSAGE_READ) this.sendHot(stream, slot);
      else this.sendCold(stream, slot);
    }
    if (this.queueHead === this.queueTail) {
      this.queueHead = 0;
      this.queueTail = 0;
    }
    stream.flush();
  }

  /** Its session is over: it must not go out in the one that followed. */
  private isStale(slot: number): boolean {
    const replica = this.replica[slot] as RemoteReplica | null;
    if (replica === null) return false;
    return replica.refusal !== 0 || replica.sessionNumber !== this.session[slot];
  }

  private drop(slot: number): void {
    const replica = this.replica[slot] as RemoteReplica;
    const result = replica.refusal !== 0 ? replica.refusal : -ENOTCONN;
    this.completeLater(replica, this.type[slot] as number, this.tag[slot] as number, result);
    this.release(slot);
  }

  get hasLate(): boolean {
    return this.lateCount > 0;
  }

  private moveLate(from: number, to: number): void {
    this.lateReplica[to] = this.lateReplica[from] as RemoteReplica;
    this.lateType[to] = this.lateType[from] as number;
    this.lateTag[to] = this.lateTag[from] as number;
    this.lateResult[to] = this.lateResult[from] as number;
  }

  private takeCredit(slot: number): boolean {
    const cold = this.cold[slot] as ColdRequest | null;
    const large =
      cold !== null
        ? cold.isLarge
        : this.type[slot] !== MESSAGE_ZERO &&
          this.pieceBlocks(slot) * WIRE_BLOCK_BYTES > SMALL_BYTES;
    if (large) {
      if (this.largeCredits === 0) return false;
      this.largeCredits -= 1;
    } else {
      if (this.smallCredits === 0) return false;
      this.smallCredits -= 1;
    }
    this.isLarge[slot] = large ? 1 : 0;
    return true;
  }

  /** Blocks of the message that is or will be under way. */
  private pieceBlocks(slot: number): number {
    const left = (this.blockCount[slot] as number) - (this.doneBlocks[slot] as number);
    if (this.type[slot] === MESSAGE_ZERO) return left;
    return left < WIRE_BLOCKS_MAX ? left : WIRE_BLOCKS_MAX;
  }

  private id(slot: number): number {
    return (((this.generation[slot] as number) << 16) | slot) >>> 0;
  }

  private sendHot(stream: MessageStream, slot: number): void {
    const replica = this.replica[slot] as RemoteReplica;
    const type = this.type[slot] as number;
    const done = this.doneBlocks[slot] as number;
    const piece = this.pieceBlocks(slot);
    const at = stream.begin(type, 0, this.id(slot), replica.sessionNumber);
    const words = stream.out.u32;
    words[at + W_EPOCH] = replica.epoch;
    replica.streamSequence = (replica.streamSequence + 1) & STREAM_SEQUENCE_MASK;
    words[at + W_STREAM_SEQUENCE] = replica.streamSequence;
    putWide(words, at + W_SEQUENCE, this.sequence[slot] as number);
    putWide(words, at + W_COMMITTED, replica.takeCommitted());
    putWide(words, at + W_FIRST_BLOCK, (this.firstBlock[slot] as number) + done);
    words[at + W_BLOCK_COUNT] = piece;
    if (type === MESSAGE_WRITE) {
      const address = (this.address[slot] as number) + done * WIRE_BLOCK_BYTES;
      stream.finish(at, 0, address, piece * WIRE_BLOCK_BYTES, -1);
    } else {
      stream.finish(at, 0, 0, 0, -1);
    }
  }

  private sendCold(stream: MessageStream, slot: number): void {
    const request = this.cold[slot] as ColdRequest;
    const at = stream.begin(request.type, 0, this.id(slot), request.session);
    stream.out.u32[at + W_EPOCH] = request.epoch;
    stream.out.u8.set(request.payload, stream.inlineAt(at));
    stream.finish(at, request.payload.length, request.address, request.bytes, -1);
  }

  // --- answers -----------------------------------------------------------------------------------

  /** False: no such request waits, or the answer makes no sense. */
  answered(at: number, payloadAt: number, payloadBytes: number): boolean {
    const stream = this.stream as MessageStream;
    const words = stream.in.u32;
    const id = words[at + W_REQUEST] as number;
    const slot = id & SLOT_MASK;
    if (slot >= this.capacity || this.state[slot] !== SENT || this.id(slot) !== id) return false;
    const result = (words[at + W_RESULT] as number) | 0;
    if (result > 0 || result < -ERRNO_MAX) return false;
    if (this.cold[slot] !== null) return this.answeredCold(slot, at, payloadAt, payloadBytes);
    const piece = this.pieceBlocks(slot);
    const isRead = this.type[slot] === MESSAGE_READ;
    const expectedBytes = isRead && result === 0 ? piece * WIRE_BLOCK_BYTES : 0;
    if (payloadBytes !== expectedBytes) return false;
    this.giveCredit(slot);
    let outcome = result;
    if (expectedBytes > 0) {
      const skip = (this.doneBlocks[slot] as number) * WIRE_BLOCK_BYTES;
      const from = stream.in.address + payloadAt;
      outcome = this.copier.scatter(this.tag[slot] as number, skip, from, payloadBytes);
    }
    this.doneBlocks[slot] = (this.doneBlocks[slot] as number) + piece;
    const replica = this.replica[slot] as RemoteReplica;
    if (outcome === 0 && this.doneBlocks[slot] < (this.blockCount[slot] as number)) {
      this.enqueue(slot);
      return true;
    }
    this.finish(slot, replica.isClosed ? -ENOTCONN : outcome);
    return true;
  }

  private giveCredit(slot: number): void {
    if (this.isLarge[slot] === 1) this.largeCredits += 1;
    else this.smallCredits += 1;
  }

  // @cold
  private answeredCold(slot: number, at: number, payloadAt: number, payloadBytes: number): boolean {
    const stream = this.stream as MessageStream;
    const isFailure = (headerFlags(stream.in.u32, at) & FLAG_FAILURE) !== 0;
    const request = this.cold[slot] as ColdRequest;
    this.giveCredit(slot);
    this.release(slot);
    const address = stream.in.address + payloadAt;
    request.done({ isFailure, u8: stream.in.u8, payloadAt, payloadBytes, address });
    return true;
  }

  /** Data of a cold answer to where it was wanted. */
  // @cold
  copyOut(to: Address, from: Address, bytes: number): void {
    this.memory.copy(to, from, bytes);
  }

  private finish(slot: number, result: number): void {
    const replica = this.replica[slot] as RemoteReplica;
    const type = this.type[slot] as number;
    const tag = this.tag[slot] as number;
    this.release(slot);
    this.complete(replica, type, tag, result);
  }

  private release(slot: number): void {
    this.state[slot] = FREE;
    this.generation[slot] = (this.generation[slot] as number) + 1;
    this.replica[slot] = null;
    this.cold[slot] = null;
    this.freeStack[this.freeCount] = slot;
    this.freeCount += 1;
    this.liveCount -= 1;
  }

  private complete(replica: RemoteReplica, type: number, tag: number, result: number): void {
    if (type === MESSAGE_READ) this.requests.complete(tag, result);
    else replica.handler.replicaCompleted(tag, result);
  }

  /** The connection is gone and has let go of memory, or could not be made. */
  // @cold
  failAll(): void {
    this.stream = null;
    this.queueHead = 0;
    this.queueTail = 0;
    // A list first: completions submit again, into slots that are free by then.
    const failed: number[] = [];
    for (let slot = 0; slot < this.capacity; slot++) {
      if (this.state[slot] !== FREE) failed.push(slot);
    }
    const cold = failed.map((slot) => this.cold[slot] as ColdRequest | null);
    const finishes = failed.map((slot) => [this.replica[slot], this.type[slot], this.tag[slot]]);
    for (const slot of failed) this.release(slot);
    for (let index = 0; index < failed.length; index++) {
      const request = cold[index] as ColdRequest | null;
      const [replica, type, tag] = finishes[index] as [RemoteReplica, number, number];
      if (request !== null) request.done(null);
      else this.complete(replica, type, tag, -ENOTCONN);
    }
  }
}

/** The greatest block count that a request may have: what its 32 bits hold. */
export const REQUEST_BLOCKS_MAX: number = TWO_32 - 1;
