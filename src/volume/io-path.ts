// @hot
// A volume whose blocks lie on several replicas, as its owner: orders writes, sends each to all
// members, answers when all that count have it. docs/replication.md has the protocol; this file and
// read-path.ts are its hot half. The other half is in takeover.ts (from the record to serving),
// upkeep.ts (sessions, putting members out), resync.ts and repair.ts.
//
//   submit --> order --> pieces --> every member --> answered --> finished --> memory given back
//
// Invariants:
//  - a change is answered when every member that may be in sync by the record has it durable, and
//    finished, so that the next change of its blocks may start, when one under resync has it too;
//  - a read is answered with nothing that is not yet answered to its writer: it waits for changes
//    before it, and at its end for those that began meanwhile;
//  - a read is answered only while grants of all members that may be in sync are held;
//  - `watermark` = every change up to it is answered;
//  - whoever is deposed answers nothing but errors from then on.
//
// FLUSH has nothing to do: what is answered is durable on every member.

import {
  assert,
  EIO,
  EROFS,
  ESTALE,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  type RequestTable,
} from "../base/index.ts";
import { REPLICA_WRITE, REPLICA_ZERO, type Replica } from "../ports/index.ts";
import type { IoPathOptions, VolumeCare } from "./care.ts";
import { ChangeOrder, ENTRY_CHANGE, ENTRY_READ, type OrderClient } from "./change-order.ts";
import type { Member, MemberSession, SessionOwner } from "./member.ts";
import { BLOCKS_PER_SLAB, ENTRY_LOCK, NONE, type OwnerWorkspace } from "./owner-workspace.ts";
import { type ReadHost, ReadPath } from "./read-path.ts";

const BLOCK_BYTES = 4096;
/** A piece of zeroes may be longer than a slab, and stays within an extent. */
const BLOCKS_PER_EXTENT = 65536;

/** The hot half: see the opening comment. */
export class IoPath implements OrderClient, SessionOwner, ReadHost {
  readonly order: ChangeOrder;
  readonly reads: ReadPath;
  members: readonly Member[] = [];
  /** Members that may be in sync; those, and the one under resync. */
  countedMask = 0;
  viewMask = 0;
  epoch = 0;
  isSurrendered = false;
  inflightCount = 0;
  /** Pieces not yet given back, in the order of their sequences. */
  firstPiece: number = NONE;
  private lastPiece: number = NONE;
  care: VolumeCare | null = null;
  readonly shared: OwnerWorkspace;
  private readonly requests: RequestTable;
  private readonly options: IoPathOptions;
  /** Sequence of the last piece, and the watermark: numbers that change in place. */
  private readonly wide: Float64Array = new Float64Array(2);

  constructor(shared: OwnerWorkspace, options: IoPathOptions) {
    this.shared = shared;
    this.requests = shared.requests;
    this.options = options;
    this.order = new ChangeOrder(shared, this, options.bugs.noBlockOrder);
    this.reads = new ReadPath(this, options);
  }

  get sequence(): number {
    return this.wide[0] as number;
  }

  get watermark(): number {
    return this.wide[1] as number;
  }

  // @cold
  startEpoch(epoch: number, sequence: number): void {
    this.epoch = epoch;
    this.wide[0] = sequence;
    this.wide[1] = sequence;
  }

  // Requests --------------------------------------------------------------------------------------

  submit(slot: number): void {
    const { requests } = this;
    const op = requests.op[slot] as number;
    if (this.isSurrendered) {
      requests.complete(slot, -EIO);
      return;
    }
    if (op === OP_FLUSH) {
      requests.complete(slot, 0);
      return;
    }
    if (op !== OP_READ && this.options.readOnly) {
      requests.complete(slot, -EROFS);
      return;
    }
    const offset = requests.offsetBytes[slot] as number;
    const length = requests.lengthBytes[slot] as number;
    if (offset + length > this.options.capacityBytes() || ((offset | length) & 4095) !== 0) {
      requests.complete(slot, -EIO);
      return;
    }
    const first = offset / BLOCK_BYTES;
    const end = first + length / BLOCK_BYTES;
    this.inflightCount += 1;
    if (op !== OP_READ) {
      this.order.add(ENTRY_CHANGE, slot, first, end);
      this.order.run();
      return;
    }
    this.reads.begin(slot, first, end);
  }

  start(entry: number): void {
    const { shared, order } = this;
    const kind = shared.entryKind[entry] as number;
    const slot = shared.entrySlot[entry] as number;
    if (kind === ENTRY_CHANGE) {
      shared.entryAt[entry] = shared.entryFirst[entry] as number;
      this.issue(entry);
    } else if (kind === ENTRY_LOCK) {
      (this.care as VolumeCare).lockGranted(entry);
    } else {
      order.end(entry);
      if (kind === ENTRY_READ) this.reads.dispatch(slot);
      else this.reads.finish(slot);
    }
  }

  // Changes ---------------------------------------------------------------------------------------

  readDone(slot: number, result: number): void {
    this.reads.done(slot, result);
  }

  pieceFreed(entry: number): void {
    this.issue(entry);
    this.order.run();
  }

  /** Makes and sends the pieces of a change, as far as there are any to be had. */
  private issue(entry: number): void {
    const { shared, requests } = this;
    const slot = shared.entrySlot[entry] as number;
    const end = shared.entryEnd[entry] as number;
    const op = requests.op[slot] as number;
    let at = shared.entryAt[entry] as number;
    while (at < end) {
      const unit = op === OP_WRITE ? BLOCKS_PER_SLAB : BLOCKS_PER_EXTENT;
      const count = Math.min(end - at, unit - (at % unit));
      const piece = shared.takePiece(entry);
      if (piece === NONE) {
        shared.entryAt[entry] = at;
        return;
      }
      if (op === OP_WRITE) {
        const skip = (at - (shared.entryFirst[entry] as number)) * BLOCK_BYTES;
        const target = shared.pieceAddress[piece] as number;
        const copied = shared.copier.gather(slot, skip, target, count * BLOCK_BYTES);
        if (copied !== 0) {
          shared.entryResult[entry] = copied;
          at = end;
          shared.entryAt[entry] = at;
          shared.releasePiece(piece);
          break;
        }
      }
      shared.pieceOp[piece] = op === OP_WRITE ? REPLICA_WRITE : REPLICA_ZERO;
      shared.pieceFirst[piece] = at;
      shared.pieceBlocks[piece] = count;
      at += count;
      shared.entryAt[entry] = at;
      this.send(piece, entry);
    }
    this.settleEntry(entry);
  }

  private send(piece: number, entry: number): void {
    const { shared, members, wide } = this;
    wide[0] = (wide[0] as number) + 1;
    shared.pieceSequence[piece] = wide[0] as number;
    shared.pieceStartedUs[piece] = this.options.clock.nowUs();
    shared.awaitedMask[piece] = this.viewMask;
    shared.outstandingMask[piece] = 0;
    shared.pieceAnswered[piece] = 0;
    shared.pieceFinished[piece] = 0;
    shared.entryUnanswered[entry] = (shared.entryUnanswered[entry] as number) + 1;
    shared.entryUnfinished[entry] = (shared.entryUnfinished[entry] as number) + 1;
    shared.piecePrevious[piece] = this.lastPiece;
    shared.pieceNext[piece] = NONE;
    if (this.lastPiece === NONE) this.firstPiece = piece;
    else shared.pieceNext[this.lastPiece] = piece;
    this.lastPiece = piece;
    for (let at = 0; at < members.length; at++) {
      const member = members[at] as Member;
      if ((this.viewMask & member.bit) !== 0 && member.isReady) this.sendTo(member, piece);
    }
    (this.care as VolumeCare).wantTick();
  }

  sendTo(member: Member, piece: number): void {
    const { shared } = this;
    const session = member.session as MemberSession;
    session.outstandingCount += 1;
    shared.outstandingMask[piece] = (shared.outstandingMask[piece] as number) | member.bit;
    (member.replica as Replica).write(
      piece,
      shared.pieceOp[piece] as number,
      shared.pieceFirst[piece] as number,
      shared.pieceBlocks[piece] as number,
      shared.pieceAddress[piece] as number,
      shared.pieceSequence[piece] as number,
    );
  }

  pieceCompleted(session: MemberSession, piece: number, result: number): void {
    const { shared } = this;
    const { member } = session;
    session.outstandingCount -= 1;
    shared.outstandingMask[piece] = (shared.outstandingMask[piece] as number) & ~member.bit;
    if (session.isCurrent) {
      if (result === 0) {
        shared.awaitedMask[piece] = (shared.awaitedMask[piece] as number) & ~member.bit;
      } else if (result === -ESTALE) {
        this.deposed();
        return;
      } else {
        (this.care as VolumeCare).sessionLost(member);
      }
    }
    this.settle(piece);
    this.order.run();
  }

  /**
   * What the masks say of the piece now: answered, finished, free. A piece that a closed session
   * still has outlives its entry.
   */
  settle(piece: number): void {
    const { shared } = this;
    const entry = shared.pieceEntry[piece] as number;
    const awaited = shared.awaitedMask[piece] as number;
    let isNews = false;
    if (shared.pieceAnswered[piece] === 0 && this.isDurable(awaited)) {
      shared.pieceAnswered[piece] = 1;
      shared.entryUnanswered[entry] = (shared.entryUnanswered[entry] as number) - 1;
      this.advanceWatermark();
      isNews = true;
    }
    if (shared.pieceFinished[piece] === 0 && (awaited & this.viewMask) === 0) {
      shared.pieceFinished[piece] = 1;
      shared.entryUnfinished[entry] = (shared.entryUnfinished[entry] as number) - 1;
      isNews = true;
    }
    const isFree = shared.pieceFinished[piece] === 1 && shared.outstandingMask[piece] === 0;
    if (isFree) this.unlink(piece);
    if (isNews) this.settleEntry(entry);
    if (isFree) shared.releasePiece(piece);
  }

  private isDurable(awaited: number): boolean {
    if (this.options.bugs.ackBeforeShrink) return (awaited & this.readyMask()) === 0;
    return (awaited & this.countedMask) === 0;
  }

  // @cold
  private readyMask(): number {
    let mask = 0;
    for (const member of this.members) if (member.isReady && member.isMember) mask |= member.bit;
    return mask === 0 ? this.countedMask : mask;
  }

  private unlink(piece: number): void {
    const { piecePrevious, pieceNext } = this.shared;
    const before = piecePrevious[piece] as number;
    const after = pieceNext[piece] as number;
    if (before === NONE) this.firstPiece = after;
    else pieceNext[before] = after;
    if (after === NONE) this.lastPiece = before;
    else piecePrevious[after] = before;
  }

  private settleEntry(entry: number): void {
    const { shared } = this;
    if ((shared.entryAt[entry] as number) < (shared.entryEnd[entry] as number)) return;
    if (shared.entryUnanswered[entry] === 0 && shared.entrySlot[entry] !== NONE) {
      const slot = shared.entrySlot[entry] as number;
      shared.entrySlot[entry] = NONE;
      this.inflightCount -= 1;
      this.requests.complete(slot, shared.entryResult[entry] as number);
    }
    if (shared.entryUnfinished[entry] === 0 && shared.entrySlot[entry] === NONE) {
      this.order.end(entry);
    }
  }

  private advanceWatermark(): void {
    const { shared, wide, members } = this;
    let at = this.firstPiece;
    while (at !== NONE && shared.pieceAnswered[at] === 1) at = shared.pieceNext[at] as number;
    const mark = at === NONE ? (wide[0] as number) : (shared.pieceSequence[at] as number) - 1;
    if (mark <= (wide[1] as number)) return;
    wide[1] = mark;
    for (let index = 0; index < members.length; index++) {
      const member = members[index] as Member;
      if (member.isReady && (this.viewMask & member.bit) !== 0) {
        (member.replica as Replica).setCommitted(mark);
      }
    }
  }

  // Called by the cold half -----------------------------------------------------------------------

  /** The masks have changed: what no longer waits for anybody is answered. */
  // @cold
  settleAll(): void {
    const pieces: number[] = [];
    for (let at = this.firstPiece; at !== NONE; at = this.shared.pieceNext[at] as number) {
      pieces.push(at);
    }
    for (const piece of pieces) this.settle(piece);
    this.order.run();
  }

  /** A member's new session: what it has not confirmed is sent again, in the order of sequences. */
  // @cold
  resend(member: Member): void {
    const { shared } = this;
    for (let at = this.firstPiece; at !== NONE; at = shared.pieceNext[at] as number) {
      const isAwaited = ((shared.awaitedMask[at] as number) & member.bit) !== 0;
      if (isAwaited && ((shared.outstandingMask[at] as number) & member.bit) === 0) {
        this.sendTo(member, at);
      }
    }
  }

  /** The member is none any more: nothing waits for it. */
  // @cold
  forgetMember(member: Member): void {
    const { shared } = this;
    this.countedMask &= ~member.bit;
    this.viewMask &= ~member.bit;
    for (let at = this.firstPiece; at !== NONE; at = shared.pieceNext[at] as number) {
      shared.awaitedMask[at] = (shared.awaitedMask[at] as number) & ~member.bit;
    }
  }

  /** Since when the oldest piece waits for the member; Infinity = none does. */
  // @cold
  awaitedSinceUs(member: Member): number {
    const { shared } = this;
    for (let at = this.firstPiece; at !== NONE; at = shared.pieceNext[at] as number) {
      if (((shared.awaitedMask[at] as number) & member.bit) !== 0) {
        return shared.pieceStartedUs[at] as number;
      }
    }
    return Infinity;
  }

  /** Does a piece up to `sequence` still wait for the member? */
  // @cold
  isAwaited(member: Member, sequence: number): boolean {
    const { shared } = this;
    for (let at = this.firstPiece; at !== NONE; at = shared.pieceNext[at] as number) {
      if ((shared.pieceSequence[at] as number) > sequence) return false;
      if (((shared.awaitedMask[at] as number) & member.bit) !== 0) return true;
    }
    return false;
  }

  /** Up to it the member has confirmed everything that it was sent. */
  // @cold
  confirmedBy(member: Member): number {
    const { shared } = this;
    for (let at = this.firstPiece; at !== NONE; at = shared.pieceNext[at] as number) {
      if (((shared.awaitedMask[at] as number) & member.bit) === 0) continue;
      return (shared.pieceSequence[at] as number) - 1;
    }
    return this.sequence;
  }

  // @cold
  sessionOver(member: Member): void {
    (this.care as VolumeCare).sessionLost(member);
  }

  /** Somebody else owns the volume: nothing is answered any more but errors. */
  // @cold
  deposed(): void {
    if (!this.isSurrendered) this.surrender();
  }

  // @cold
  surrender(): void {
    assert(!this.isSurrendered, "surrendered twice");
    const { shared, order } = this;
    this.isSurrendered = true;
    order.isOpen = false;
    order.forgetReady();
    let entry = order.first;
    while (entry !== NONE) {
      const next = shared.entryNext[entry] as number;
      const slot = shared.entrySlot[entry] as number;
      const kind = shared.entryKind[entry] as number;
      shared.entrySlot[entry] = NONE;
      if (kind === ENTRY_CHANGE) {
        shared.stopWaiting(entry);
        shared.entryAt[entry] = shared.entryEnd[entry] as number;
        if (slot !== NONE) this.inflightCount -= 1;
        if (slot !== NONE) this.requests.complete(slot, -EIO);
        if (shared.entryUnfinished[entry] === 0) order.end(entry);
      } else {
        if (kind !== ENTRY_LOCK) this.reads.answer(slot, -EIO);
        order.end(entry);
      }
      entry = next;
    }
    this.reads.failParked();
    this.countedMask = 0;
    this.viewMask = 0;
    for (const member of this.members) this.forgetMember(member);
    (this.care as VolumeCare).surrendered();
    this.settleAll();
  }
}
