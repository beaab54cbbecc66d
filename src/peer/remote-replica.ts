// @hot
// A replica on another node, as its owner sees it: the Replica port over a link.
//
//   idle -- fence --> fencing --> ready -- connection lost --> lost -- back --> resuming --> ready
//                                   |                                               |
//                                   '---- fenced by a higher epoch, or unknown ----> dead
//
// Each fence and each resume gives the session a new number on its connection, under which the
// peer accepts writes; it has let everything of the old number end before it answers. So a write
// that is sent again after a resume never meets its own older copy.
//
// Invariants:
//  - only a ready replica sends writes and reads; otherwise they complete, later, with -ENOTCONN,
//    or -ESTALE when a higher epoch has been there;
//  - grants of the pair count for this replica only as far as they were given while it was ready
//    on that connection: what came after a loss is a promise to somebody else.

import { assert, ENOTCONN, ESTALE } from "../base/index.ts";
import type {
  Address,
  FenceAnswer,
  MetadataVersion,
  Replica,
  ReplicaFailure,
  ReplicaHandler,
  SlabImage,
  SlabPage,
} from "../ports/index.ts";
import {
  decodeFailure,
  decodeFenceAnswer,
  decodeImage,
  decodePage,
  encodeImage,
  encodeList,
  encodeTarget,
  IMAGE,
  LIST,
  MESSAGE_FENCE,
  MESSAGE_LIST_SLABS,
  MESSAGE_READ_SLAB,
  MESSAGE_RESUME,
  MESSAGE_WRITE_SLAB,
  SLAB_BYTES_ON_WIRE,
  TARGET,
} from "../wire/index.ts";
import { type ColdAnswer, type LinkRequests, REQUEST_BLOCKS_MAX } from "./link-requests.ts";

const STATE_IDLE = 0;
const STATE_FENCING = 1;
const STATE_READY = 2;
const STATE_LOST = 3;
const STATE_RESUMING = 4;
const STATE_DEAD = 5;
const STATE_CLOSED = 6;
const STATE_NAMES = ["idle", "fencing", "ready", "lost", "resuming", "dead", "closed"] as const;

/** What a remote replica needs of its link. */
export interface ReplicaLink {
  readonly requests: LinkRequests;
  /** Until when the peer's last grant holds, less the margin; 0 = none. */
  readonly grantedUntilUs: number;
  /** pump() in this turn of the loop. */
  requestPump(): void;
  nextSessionNumber(replica: RemoteReplica): number;
  /** Where there is no connection: makes one now rather than at its time. */
  dialSoon(isThere: boolean): void;
  /** True when nothing will be sent for it any more. */
  forget(replica: RemoteReplica): void;
}

/** Hears what becomes of a replica between its completions. */
export interface RemoteReplicaEvents {
  /** The connection is back, the peer has drained the old one: writes flow again. */
  replicaResumed(replica: RemoteReplica): void;
  /** It has to be fenced again, or is no more. */
  replicaLost(replica: RemoteReplica, failure: ReplicaFailure): void;
}

export interface RemoteReplicaOptions {
  readonly name: string;
  readonly volumeUuid: string;
  readonly diskUuid: string;
  readonly handler: ReplicaHandler;
  readonly events: RemoteReplicaEvents;
}

const LOST: ReplicaFailure = { code: "lost", message: "the connection to the node is gone" };
const GARBLED: ReplicaFailure = { code: "lost", message: "the node's answer cannot be read" };
const GRANTED = 0;
const COMMITTED = 1;
const COMMITTED_SENT = 2;

export class RemoteReplica implements Replica {
  readonly name: string;
  readonly isLocal = false;
  readonly handler: ReplicaHandler;
  /** Of the session on the connection; 0 = none. */
  sessionNumber = 0;
  epoch = 0;
  streamSequence = 0;
  /** What a write or read completes with at once; 0 = it is sent. */
  refusal: number = -ENOTCONN;
  private state = STATE_IDLE;
  private readonly link: ReplicaLink;
  private readonly options: RemoteReplicaOptions;
  /** Frozen grant, committed watermark, and what of it was sent: numbers that change in place. */
  private readonly wide: Float64Array = new Float64Array(3);

  constructor(options: RemoteReplicaOptions, link: ReplicaLink) {
    this.options = options;
    this.name = options.name;
    this.handler = options.handler;
    this.link = link;
  }

  get stateName(): string {
    return STATE_NAMES[this.state] as string;
  }

  get isClosed(): boolean {
    return this.state === STATE_CLOSED;
  }

  get isReady(): boolean {
    return this.state === STATE_READY;
  }

  // --- hot ---------------------------------------------------------------------------------------

  write(
    tag: number,
    op: number,
    firstBlock: number,
    blockCount: number,
    address: Address,
    sequence: number,
  ): void {
    assert(blockCount > 0 && blockCount <= REQUEST_BLOCKS_MAX, "a write of no or too many blocks");
    this.link.requests.submitWrite(this, tag, op, firstBlock, blockCount, address, sequence);
    this.link.requestPump();
  }

  submitRead(slot: number): void {
    this.link.requests.submitRead(this, slot);
    this.link.requestPump();
  }

  setCommitted(sequence: number): void {
    this.wide[COMMITTED] = sequence;
  }

  /** The watermark, for a message that is being made. */
  takeCommitted(): number {
    this.wide[COMMITTED_SENT] = this.wide[COMMITTED] as number;
    return this.wide[COMMITTED] as number;
  }

  /** No message has carried the watermark yet. */
  get hasNewCommitted(): boolean {
    return this.wide[COMMITTED] !== this.wide[COMMITTED_SENT];
  }

  /** See ReadGrants. */
  get grantedUntilUs(): number {
    return this.state === STATE_READY ? this.link.grantedUntilUs : (this.wide[GRANTED] as number);
  }

  // --- cold: what the owner asks -----------------------------------------------------------------

  // @cold
  fence(
    epoch: number,
    done: (answer: FenceAnswer | ReplicaFailure) => void,
    metadata?: MetadataVersion,
  ): void {
    assert(this.state !== STATE_CLOSED, "a closed replica was fenced");
    this.enter(STATE_FENCING);
    this.epoch = epoch;
    const session = this.link.nextSessionNumber(this);
    this.sessionNumber = session;
    this.wide[COMMITTED] = 0;
    this.wide[COMMITTED_SENT] = 0;
    this.link.dialSoon(false);
    this.ask(MESSAGE_FENCE, this.target(metadata ?? null), true, (answer) => {
      const known = this.read(answer, decodeFenceAnswer);
      if (this.sessionNumber !== session || this.state !== STATE_FENCING) {
        done("code" in known ? known : LOST);
        return;
      }
      if ("code" in known) this.die(known, false);
      else this.begin();
      done(known);
    });
  }

  // @cold
  listSlabs(
    since: { readonly epoch: number; readonly sequence: number },
    cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void {
    const payload = new Uint8Array(LIST.BYTES);
    encodeList(payload, 0, { since, cursor });
    this.ask(MESSAGE_LIST_SLABS, payload, true, (answer) => done(this.read(answer, decodePage)));
  }

  // @cold
  readSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    address: Address,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void {
    const payload = new Uint8Array(IMAGE.BYTES);
    encodeImage(payload, 0, at, { epoch: 0, sequence: 0, states: 0 });
    this.ask(MESSAGE_READ_SLAB, payload, true, (answer) => {
      const image = this.read(answer, (u8, from, bytes) =>
        decodeImage(u8, from, bytes, SLAB_BYTES_ON_WIRE),
      );
      if (!("code" in image) && answer !== null) {
        this.link.requests.copyOut(address, answer.address + IMAGE.BYTES, SLAB_BYTES_ON_WIRE);
      }
      done(image);
    });
  }

  // @cold
  writeSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    image: SlabImage,
    address: Address,
    done: (failure: ReplicaFailure | null) => void,
  ): void {
    const payload = new Uint8Array(IMAGE.BYTES);
    encodeImage(payload, 0, at, image);
    const answered = (answer: ColdAnswer | null): void => {
      const failure = this.read(answer, (_u8, _from, bytes) => (bytes === 0 ? {} : null));
      done("code" in failure ? (failure as ReplicaFailure) : null);
    };
    this.ask(MESSAGE_WRITE_SLAB, payload, true, answered, address, SLAB_BYTES_ON_WIRE);
  }

  // @cold
  close(): void {
    if (this.state === STATE_CLOSED) return;
    this.enter(STATE_CLOSED);
    this.link.forget(this);
  }

  // --- cold: what the link tells -----------------------------------------------------------------

  /** The connection is up again. */
  // @cold
  connected(): void {
    if (this.state !== STATE_LOST) return;
    this.enter(STATE_RESUMING);
    const session = this.link.nextSessionNumber(this);
    this.sessionNumber = session;
    this.ask(MESSAGE_RESUME, this.target(null), false, (answer) => {
      if (this.sessionNumber !== session || this.state !== STATE_RESUMING) return;
      if (answer === null) {
        this.enter(STATE_LOST);
        return;
      }
      const outcome = this.read(answer, (_u8, _from, bytes) => (bytes === 0 ? {} : null));
      if ("code" in outcome) {
        this.die(outcome as ReplicaFailure, true);
        return;
      }
      this.begin();
      this.options.events.replicaResumed(this);
    });
  }

  /** The connection is ending: nothing more is sent on it. Its last grant is all there is. */
  // @cold
  disconnected(): void {
    if (this.state === STATE_READY) {
      this.wide[GRANTED] = this.link.grantedUntilUs;
      this.enter(STATE_LOST);
    }
  }

  /** The peer says that a higher epoch is there. */
  // @cold
  fenced(epoch: number): void {
    if (this.state === STATE_CLOSED || this.state === STATE_DEAD || epoch <= this.epoch) return;
    const message = `epoch ${epoch} has fenced our epoch ${this.epoch}`;
    this.die({ code: "stale-epoch", message, epoch }, true);
  }

  // @cold
  private begin(): void {
    this.streamSequence = 0;
    this.enter(STATE_READY);
  }

  // @cold
  private die(failure: ReplicaFailure, isNews: boolean): void {
    this.wide[GRANTED] = 0;
    this.enter(STATE_DEAD);
    const isStale = failure.code === "stale-epoch";
    if (isStale) this.refusal = -ESTALE;
    if (!isNews) return;
    this.options.events.replicaLost(this, failure);
    if (isStale) this.handler.replicaFenced?.(failure.epoch ?? this.epoch + 1);
    else this.handler.replicaLost?.();
  }

  // @cold
  private enter(state: number): void {
    this.state = state;
    this.refusal = state === STATE_READY ? 0 : -ENOTCONN;
  }

  // @cold
  private target(metadata: MetadataVersion | null): Uint8Array {
    const payload = new Uint8Array(TARGET.BYTES);
    const { volumeUuid, diskUuid } = this.options;
    encodeTarget(payload, 0, { volumeUuid, diskUuid, metadata });
    return payload;
  }

  // @cold
  private ask(
    type: number,
    payload: Uint8Array,
    isLarge: boolean,
    done: (answer: ColdAnswer | null) => void,
    address: Address = 0,
    bytes = 0,
  ): void {
    const session = this.sessionNumber;
    const { epoch } = this;
    const rest = { type, session, epoch, payload, address, bytes, isLarge, done };
    this.link.requests.submitCold(rest);
    this.link.requestPump();
  }

  /** What an answer holds, or the failure it is. */
  // @cold
  private read<T extends object>(
    answer: ColdAnswer | null,
    decode: (u8: Uint8Array, at: number, bytes: number) => T | null,
  ): T | ReplicaFailure {
    if (answer === null) return LOST;
    const { u8, payloadAt, payloadBytes } = answer;
    const decoder = answer.isFailure ? decodeFailure : decode;
    return decoder(u8, payloadAt, payloadBytes) ?? GARBLED;
  }
}
