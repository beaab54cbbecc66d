// @hot
// One owner's session with one replica, on the side of the replica: which epoch, under which
// number on which connection, what is on its way to the disk, and which writes are done.
//
// Invariants (what is sent again must never meet its own older copy):
//  - at most one session of a (volume, disk) accepts messages, under one number of one connection;
//  - a session that was superseded accepts nothing more, from the moment a fence or a resume
//    arrives; what is on its way ends before either is answered.

import { assert } from "../base/index.ts";
import type { Replica, ReplicaHandler } from "../ports/index.ts";
import { REMEMBERED_WRITES } from "./limits.ts";
import type { ServerLink } from "./server-link.ts";

/** How the session's news reach the server. */
export interface SessionOwner {
  /** chunk/ says that somebody fenced a higher epoch past us. */
  sessionFenced(session: ServerSession, epoch: number): void;
}

export class ServerSession implements ReplicaHandler {
  readonly key: string;
  readonly epoch: number;
  /** Whose it is: node and incarnation. */
  readonly nodeId: string;
  readonly incarnation: number;
  /** Where its operations are; and, while `number` > 0, the connection that it accepts from. */
  link: ServerLink;
  number: number;
  /** Last message's; each counts one on. */
  streamSequence = 0;
  inflightCount = 0;
  replica: Replica | null = null;
  /** It is being fenced: the replica has not answered yet. */
  isFencing = false;
  isSuperseded = false;
  /** By which epoch. */
  fencedEpoch = 0;
  /** Of its owner, as far as any message told. */
  committed = 0;
  /** Since when it has no connection; 0 = it has one. */
  orphanedUs = 0;
  /** Writes up to this sequence may have been sent before a resume. */
  resumedSequence = 0;
  private highestSequence = 0;
  private readonly owner: SessionOwner;
  private readonly doneSequence: Float64Array = new Float64Array(REMEMBERED_WRITES).fill(-1);
  private readonly doneBlock: Float64Array = new Float64Array(REMEMBERED_WRITES);
  private readonly doneCount: Uint32Array = new Uint32Array(REMEMBERED_WRITES);
  private doneAt = 0;
  private waiters: (() => void)[] = [];

  constructor(key: string, epoch: number, link: ServerLink, number: number, owner: SessionOwner) {
    this.key = key;
    this.epoch = epoch;
    this.link = link;
    this.number = number;
    this.nodeId = link.nodeId;
    this.incarnation = link.incarnation;
    this.owner = owner;
  }

  replicaCompleted(tag: number, result: number): void {
    this.link.localDone(this, tag, result);
  }

  // @cold
  replicaFenced(epoch: number): void {
    this.owner.sessionFenced(this, epoch);
  }

  began(sequence: number): void {
    this.inflightCount += 1;
    if (sequence > this.highestSequence) this.highestSequence = sequence;
  }

  ended(): void {
    assert(this.inflightCount > 0, "a session's operation ended twice");
    this.inflightCount -= 1;
    if (this.inflightCount === 0 && this.waiters.length > 0) this.settle();
  }

  /** A write of it is durable here. */
  remember(sequence: number, firstBlock: number, blockCount: number): void {
    const at = this.doneAt;
    this.doneSequence[at] = sequence;
    this.doneBlock[at] = firstBlock;
    this.doneCount[at] = blockCount;
    this.doneAt = (at + 1) % REMEMBERED_WRITES;
  }

  /** Was exactly this write done before a resume? Then it must be answered, not done again. */
  isDone(sequence: number, firstBlock: number, blockCount: number): boolean {
    if (sequence > this.resumedSequence) return false;
    for (let at = 0; at < REMEMBERED_WRITES; at++) {
      if (
        this.doneSequence[at] === sequence &&
        this.doneBlock[at] === firstBlock &&
        this.doneCount[at] === blockCount
      ) {
        return true;
      }
    }
    return false;
  }

  /** Goes on under another number, on another connection. Nothing of it may be on its way. */
  // @cold
  resume(link: ServerLink, number: number): void {
    assert(this.inflightCount === 0, "a session resumed with operations on their way");
    this.link = link;
    this.number = number;
    this.streamSequence = 0;
    this.resumedSequence = this.highestSequence;
    this.orphanedUs = 0;
  }

  /** Calls back when nothing of it is on its way; at once where that is so. */
  // @cold
  whenIdle(action: () => void): void {
    this.waiters.push(action);
    this.settle();
  }

  fenceEnded(): void {
    this.isFencing = false;
    this.settle();
  }

  // @cold
  private settle(): void {
    if (this.inflightCount > 0 || this.isFencing) return;
    const { waiters } = this;
    this.waiters = [];
    for (const waiter of waiters) waiter();
  }
}
