// From the record to serving: docs/replication.md, "Taking over".
//
//   claim --> fence all --> put out who did not answer --> wait for grants --> equalise --> serve
//
// After an owner that let go in good order there is nothing to wait for and nothing to equalise but
// what a member cannot vouch for.
//
// Invariant: nothing is served before every member that is in sync by the record has answered the
// fence, holds the same as all others above the watermark, and has no grant outstanding.

import type { FenceAnswer, Replica, Stamp } from "../ports/index.ts";
import type { OwnerBackground } from "./background.ts";
import { type Answered, areStampsEqual, type EqualiseFailure, Equaliser } from "./equalise.ts";
import type { IoPath } from "./io-path.ts";
import { type Member, ROLE_COUNTED } from "./member.ts";
import {
  ALIVE_FACTOR,
  bugsOf,
  type OwnerModules,
  type OwnerOptions,
  type OwnerTimings,
} from "./owner-settings.ts";
import type { RecordKeeper } from "./record-keeper.ts";
import type { Sessions } from "./sessions.ts";
import { isNewer, slabNumber } from "./slab-work.ts";

const CLAIM_CHECK_MS = 2;

export interface TakeoverParts {
  readonly io: IoPath;
  readonly keeper: RecordKeeper;
  readonly sessions: Sessions;
  readonly options: OwnerOptions;
  readonly timings: OwnerTimings;
  readonly modules: OwnerModules;
  readonly members: readonly Member[];
  readonly background: OwnerBackground;
}

export class Takeover {
  private readonly parts: TakeoverParts;
  private readonly done: () => void;
  private answered: Answered[] = [];
  /** Whose node has said that it has no replica to fence: its disk is not open, or not yet. */
  private readonly refusing: Set<Member> = new Set();
  /** Whoever has not answered by now is put out. */
  private isLate = false;
  private isExcluding = false;
  private isDone = false;
  private watermark: Stamp = { epoch: 0, sequence: 0 };
  private sequence = 0;
  /** The record says that the volume is ours: nothing is written to a member before. */
  isClaimed = false;
  /** Something in our epoch. */
  private hasWritten = false;
  private equalising: Equaliser | null = null;
  /** Slabs rewritten. */
  equalisedCount = 0;

  constructor(parts: TakeoverParts, done: () => void) {
    this.parts = parts;
    this.done = done;
  }

  private get nowUs(): number {
    return this.parts.modules.reactor.clock.nowUs();
  }

  private get isOver(): boolean {
    return this.isDone || this.parts.io.isSurrendered;
  }

  private later(delayMs: number, action: () => void): void {
    const fired = (): void => {
      if (!this.isOver) action();
    };
    this.parts.modules.reactor.setTimer(delayMs, { timerFired: fired }, 0);
  }

  /** The record is ours. */
  start(): void {
    const { members, keeper, io } = this.parts;
    const { record } = keeper;
    io.epoch = record.epoch;
    const out = new Set(record.out.map((one) => one.disk));
    for (const member of members) {
      if (out.has(member.disk) || member.isRemoved) continue;
      member.role = ROLE_COUNTED;
      io.countedMask |= member.bit;
      io.viewMask |= member.bit;
      this.fence(member);
    }
    this.waitForAnswers();
  }

  /**
   * Longer for those whose node is alive and has the fence under way. A node that is just back and
   * opens its disk yet may need seconds for that: it is resynced, nobody waits.
   */
  private waitForAnswers(): void {
    const { timings, members } = this.parts;
    const lastUs = this.nowUs + timings.takeoverMs * ALIVE_FACTOR * 1000;
    const isSlow = (member: Member): boolean =>
      member.role === ROLE_COUNTED &&
      member.replica?.isReachable === true &&
      !this.refusing.has(member) &&
      !this.answered.some((one) => one.member === member);
    const look = (): void => {
      if (this.nowUs < lastUs && members.some(isSlow)) {
        this.later(timings.retryMs, look);
        return;
      }
      this.isLate = true;
      this.proceed();
    };
    this.isLate = false;
    this.later(timings.takeoverMs, look);
  }

  // Fencing ---------------------------------------------------------------------------------------

  private fence(member: Member): void {
    const { sessions, timings } = this.parts;
    sessions.fence(member, (answer) => {
      if (this.isOver) return;
      if ("code" in answer) {
        if (answer.code === "unknown-volume" || answer.code === "disk") this.refusing.add(member);
        else this.refusing.delete(member);
        this.later(timings.retryMs, () => {
          if (!this.hasAnswered(member)) this.fence(member);
        });
        return;
      }
      this.refusing.delete(member);
      if (this.isRecordOlder({ member, answer })) this.parts.io.deposed();
      else this.listAbove(member, answer);
    });
  }

  /** Or it will, or is not asked any more. */
  private hasAnswered(member: Member): boolean {
    if (member.role !== ROLE_COUNTED || member.isFencing) return true;
    return this.answered.some((one) => one.member === member);
  }

  /** What did not fit into the answer is listed. */
  private listAbove(member: Member, answer: FenceAnswer): void {
    const one: Answered = {
      member,
      answer,
      grantsEndUs: this.nowUs + (answer.grantWaitUs ?? 0),
      stamps: new Map(),
      uncertain: new Set(answer.uncertain.map(slabNumber)),
    };
    for (const stamp of answer.above) one.stamps.set(slabNumber(stamp), stamp);
    const since = { epoch: answer.committedEpoch, sequence: answer.committedSequence };
    const { replica } = member;
    const page = (cursor: number | null): void => {
      if (cursor === null) {
        this.answered.push(one);
        this.proceed();
        return;
      }
      (replica as Replica).listSlabs(since, cursor, (slabs) => {
        if (this.isOver || member.replica !== replica) return;
        if ("code" in slabs) {
          this.later(this.parts.timings.retryMs, () => {
            if (member.replica === replica && !this.hasAnswered(member)) this.fence(member);
          });
          return;
        }
        for (const stamp of slabs.slabs) {
          if (isNewer(stamp, { ...since, states: 0 })) one.stamps.set(slabNumber(stamp), stamp);
          else one.uncertain.add(slabNumber(stamp));
        }
        page(slabs.cursor);
      });
    };
    page(answer.cursor ?? null);
  }

  private proceed(): void {
    const { members, options } = this.parts;
    if (this.isOver || this.isExcluding || this.equalising !== null) return;
    if (this.answered.length === 0) return;
    const missing = members.filter(
      (one) => one.role === ROLE_COUNTED && !this.answered.some(({ member }) => member === one),
    );
    if (missing.length > 0 && !this.isLate) return;
    for (const { answer } of this.answered) {
      const { committedEpoch: epoch, committedSequence: sequence } = answer;
      const mark = { epoch, sequence, states: 0 };
      if (isNewer(mark, { ...this.watermark, states: 0 })) this.watermark = { epoch, sequence };
    }
    if (missing.length === 0) {
      this.waitForGrants();
    } else if (bugsOf(options).serveWithoutExclusion) {
      for (const member of missing) this.parts.sessions.close(member);
      this.proceed();
    } else {
      this.exclude(missing, "did not answer the takeover");
    }
  }

  private exclude(missing: readonly Member[], reason: string): void {
    const { keeper, sessions, io } = this.parts;
    this.isExcluding = true;
    for (const member of missing) member.isLeaving = true;
    const sinceStamp = this.watermark;
    keeper.change(
      (record) => {
        const isOut = new Set(record.out.map(({ disk }) => disk));
        const isIn = (disk: string): boolean => record.members.includes(disk) && !isOut.has(disk);
        const added = missing.filter(({ disk }) => isIn(disk));
        if (added.length === 0) return record;
        return {
          ...record,
          out: [...record.out, ...added.map(({ disk }) => ({ disk, sinceStamp, reason }))],
          membershipVersion: record.membershipVersion + 1,
        };
      },
      (outcome) => {
        this.isExcluding = false;
        if (outcome === "deposed") {
          io.deposed();
          return;
        }
        for (const member of missing) sessions.close(member);
        this.answered = this.answered.filter(({ member }) => !missing.includes(member));
        this.proceed();
      },
    );
  }

  /**
   * The owner before let go in good order, so it uses no grant, and all members in sync are equal.
   * Where one holds a write that there cannot be by the record, that is older than the disks, or we
   * have begun before: then nothing is taken for granted.
   */
  private get isAfterSurrender(): boolean {
    const { keeper, options, io } = this.parts;
    const { cleanBefore } = keeper;
    if (cleanBefore === 0) return false;
    const before = bugsOf(options).handedIsClean ? io.epoch : cleanBefore;
    return this.answered.every(({ answer }) => answer.epoch < before);
  }

  /**
   * Nobody else writes in an epoch of ours: the record that we claimed had forgotten one, so it
   * comes from a backup, and our stamps would be below those that are there.
   */
  private isRecordOlder({ member, answer }: Pick<Answered, "member" | "answer">): boolean {
    const { io, options, modules } = this.parts;
    if (this.hasWritten || answer.epoch < io.epoch || bugsOf(options).epochTwice) return false;
    const fields = { member: member.disk, epoch: io.epoch, found: answer.epoch };
    modules.reactor.log.log("error", "volume-metadata-older", fields);
    return true;
  }

  /**
   * The grants that the predecessor had ended with it. Those of owners before it are over too if it
   * came so far as to write: it had waited for them.
   */
  private needsNoGrants(): boolean {
    const { keeper, options, io } = this.parts;
    if (this.isAfterSurrender) return true;
    if (bugsOf(options).grantsNotWaitedFor) return true;
    if (options.deadPredecessor === undefined) return false;
    const isStillNamed = keeper.predecessor === options.deadPredecessor;
    if (bugsOf(options).deadIsBelieved) return true;
    const hasWritten = this.answered.some(({ answer }) => answer.epoch === io.epoch - 1);
    return isStillNamed && hasWritten;
  }

  private waitForGrants(): void {
    const ends = this.answered.map(({ grantsEndUs }) => grantsEndUs);
    const waitUs = Math.max(...ends) - this.nowUs;
    if (waitUs <= 0 || this.needsNoGrants()) {
      this.equalise();
      return;
    }
    this.later(Math.ceil(waitUs / 1000), () => this.proceed());
  }

  // Equalising ------------------------------------------------------------------------------------

  private equalise(): void {
    if (this.equalising !== null) return;
    const slabs = new Set<number>();
    const bugs = bugsOf(this.parts.options);
    const areEqual = this.isAfterSurrender;
    for (const { stamps, uncertain } of this.answered) {
      for (const [number, stamp] of areEqual ? [] : stamps) {
        if (isNewer(stamp, { ...this.watermark, states: 0 })) slabs.add(number);
      }
      for (const number of uncertain) slabs.add(number);
    }
    if (bugs.noEqualise) slabs.clear();
    if (bugs.equalStampsSkipped) {
      for (const number of slabs) if (areStampsEqual(this.answered, number)) slabs.delete(number);
    }
    this.equalising = new Equaliser(this.parts, this.answered, {
      isOver: () => this.isOver,
      nextSequence: () => {
        this.sequence += 1;
        return this.sequence;
      },
      done: (failure) => this.equalised(failure),
    });
    this.runOnceClaimed(slabs);
  }

  private runOnceClaimed(slabs: Set<number>): void {
    if (this.isClaimed || slabs.size === 0 || this.isOver) {
      if (slabs.size > 0) this.hasWritten = true;
      this.equalising?.run(slabs);
      return;
    }
    const timerFired = (): void => this.runOnceClaimed(slabs);
    this.parts.modules.reactor.setTimer(CLAIM_CHECK_MS, { timerFired }, 0);
  }

  private equalised(failure: EqualiseFailure | null): void {
    if (this.equalising === null) return;
    const { rewrittenCount } = this.equalising;
    this.equalisedCount += rewrittenCount;
    this.equalising = null;
    if (this.isOver) return;
    if (failure === null) this.finish();
    else this.failed(failure);
  }

  /** A member went away meanwhile: put it out, or begin again with fences. */
  private failed({ members, reason }: EqualiseFailure): void {
    const { log } = this.parts.modules.reactor;
    const fields = { volume: this.parts.options.volume, reason };
    log.log("warn", "takeover-interrupted", fields);
    const suspects = members ?? this.answered.map(({ member }) => member);
    this.answered = this.answered.filter(({ member }) => !suspects.includes(member));
    this.later(this.parts.timings.retryMs, () => {
      for (const member of suspects) if (!this.hasAnswered(member)) this.fence(member);
    });
    this.waitForAnswers();
  }

  private finish(): void {
    const { io, sessions } = this.parts;
    this.isDone = true;
    io.startEpoch(io.epoch, this.sequence);
    for (const { member } of this.answered) sessions.makeReady(member);
    this.done();
  }
}
