// @hot
// One member of a volume as its owner sees it: its role, and the session with it.
//
//   out --fence--> resyncing --asked to be taken in--> entering --known--> counted
//    ^                                                                      |
//    '------------------ known to be put out ------------------------------ '
//
// Invariants: what completes through a session that is not the member's present one only gives
// memory back; a session is ready once its fence was answered and nothing of an earlier fence is
// outstanding.

import type { Replica, ReplicaHandler } from "../ports/index.ts";

export const ROLE_OUT = 0;
export const ROLE_COUNTED = 1;
/** Gets new writes, counts for nothing. */
export const ROLE_RESYNCING = 2;
/** The swap that takes it in may have been applied: it counts like any other. */
export const ROLE_ENTERING = 3;

/** The volume, as a session tells it. */
export interface SessionOwner {
  pieceCompleted(session: MemberSession, piece: number, result: number): void;
  deposed(): void;
  /** The member's session is over without anything of it having failed. */
  sessionOver(member: Member): void;
}

export class MemberSession implements ReplicaHandler {
  readonly member: Member;
  private readonly owner: SessionOwner;
  /** Calls of write() that have not completed. */
  outstandingCount = 0;
  /** The other side has ended it since the last fence: that must be said again. */
  isOver = false;

  constructor(member: Member, owner: SessionOwner) {
    this.member = member;
    this.owner = owner;
  }

  get isCurrent(): boolean {
    return this.member.session === this;
  }

  replicaCompleted(tag: number, result: number): void {
    this.owner.pieceCompleted(this, tag, result);
  }

  // @cold
  replicaFenced(): void {
    if (this.isCurrent) this.owner.deposed();
  }

  // @cold
  replicaLost(): void {
    this.isOver = true;
    if (this.isCurrent) this.owner.sessionOver(this.member);
  }
}

export class Member {
  readonly index: number;
  readonly bit: number;
  /** Its disk, as the record names it. */
  readonly disk: string;
  role: number = ROLE_OUT;
  session: MemberSession | null = null;
  replica: Replica | null = null;
  /** Writes and reads may go to it. */
  isReady = false;
  isFencing = false;
  /** The swap that puts it out is under way: it is still asked and still counts. */
  isLeaving = false;
  /** The record does not name it any more: it is not brought back. */
  isRemoved = false;
  /** Since when it has not been ready; meaningless while it is. */
  lostSinceUs = 0;
  /** Not before: of the next attempt to fence it. */
  retryAtUs = 0;
  /** How often it was put out for lag: each time it has to wait longer. */
  lagCount = 0;

  constructor(index: number, disk: string) {
    this.index = index;
    this.bit = 1 << index;
    this.disk = disk;
  }

  get isMember(): boolean {
    return this.role === ROLE_COUNTED || this.role === ROLE_ENTERING;
  }
}
