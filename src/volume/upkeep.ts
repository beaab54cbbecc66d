// What an owner does beside answering requests: sessions that are lost are resumed, members that
// stay away or lag are put out, and those that are out are brought back.
//
// Nothing of it runs while nothing waits: the tick is armed by a write, a parked read or a lost
// session, and ends with the last of them; members that are out are tried now and then.
//
// A member that is to leave is put out as soon as another can be reached, and not brought back.
//
// Invariant: the last member is never put out, nor one while no other can be reached.

import type { VolumeCare } from "./care.ts";
import type { IoPath } from "./io-path.ts";
import { type Member, ROLE_COUNTED, ROLE_OUT, ROLE_RESYNCING } from "./member.ts";
import { ALIVE_FACTOR } from "./owner-settings.ts";
import { NONE } from "./owner-workspace.ts";
import { Repairs } from "./repair.ts";
import { Resync, type ResyncProgress } from "./resync.ts";
import type { KeptSlabs } from "./resync-kept.ts";
import { Returns } from "./returns.ts";
import type { TakeoverParts } from "./takeover.ts";

const TAG_TICK = 0;
const TAG_RETURN = 1;
const TAG_LEAVE = 2;

export class Upkeep implements VolumeCare {
  private readonly parts: TakeoverParts;
  private readonly io: IoPath;
  private readonly repairs: Repairs;
  private resync: Resync | null = null;
  private isTickArmed = false;
  private readonly returns: Returns;
  private returnTimer = -1;
  private returnTimerUs = 0;
  private isLeaveArmed = false;
  /** The disk whose copy is to go. */
  private leaving: string | null = null;
  private isServing = false;
  private isStopped = false;
  private ungrantedSinceUs = Infinity;
  /** Members whose fence was answered and whose earlier calls have not all completed. */
  private readonly resuming: Set<Member> = new Set();
  /** Of members whose resync was cut short. */
  private readonly kept: WeakMap<Member, KeptSlabs> = new WeakMap();
  private readonly onSurrender: () => void;

  constructor(parts: TakeoverParts, onSurrender: () => void) {
    this.parts = parts;
    this.io = parts.io;
    this.onSurrender = onSurrender;
    this.repairs = new Repairs(parts);
    this.returns = new Returns(parts.timings, () => this.nowUs);
  }

  get resyncProgress(): ResyncProgress | null {
    return this.resync?.progress ?? null;
  }

  get repairedCount(): number {
    return this.repairs.repairedCount;
  }

  private get nowUs(): number {
    return this.parts.modules.reactor.clock.nowUs();
  }

  /** The takeover is done. */
  serve(): void {
    this.isServing = true;
    for (const member of this.parts.members) {
      if (this.canReturn(member)) this.returns.isOut(member);
    }
    this.armReturn();
    this.tryLeave();
    this.wantTick();
  }

  stop(): void {
    this.isStopped = true;
  }

  surrendered(): void {
    this.stop();
    this.resync?.stop();
    for (const member of this.parts.members) this.parts.sessions.close(member);
    this.parts.keeper.stop();
    this.onSurrender();
  }

  lockGranted(entry: number): void {
    if (this.resync?.lockGranted(entry) === true) return;
    this.repairs.lockGranted(entry);
  }

  foundDamage(firstBlock: number, endBlock: number, member: Member): void {
    this.repairs.add(firstBlock, endBlock, member);
  }

  sessionLost(member: Member): void {
    this.parts.sessions.lost(member);
    this.wantTick();
  }

  // Time ------------------------------------------------------------------------------------------

  wantTick(): void {
    if (this.isTickArmed || this.isStopped || !this.isServing) return;
    this.isTickArmed = true;
    this.parts.modules.reactor.setTimer(this.parts.timings.tickMs, this, TAG_TICK);
  }

  membersChanged(): void {
    if (this.isServing) this.armReturn();
  }

  /** The record does not name the member any more: nothing waits for it. */
  removed(member: Member): void {
    this.kept.delete(member);
    if (this.resync?.member === member) {
      // A wish to take it in that is under way finds that it cannot be, and lets go of it.
      this.resync.abort("removed");
      return;
    }
    this.resuming.delete(member);
    this.parts.sessions.close(member);
    this.io.settleAll();
  }

  private canReturn({ role, isRemoved, disk }: Member): boolean {
    return role === ROLE_OUT && !isRemoved && disk !== this.leaving;
  }

  private armReturn(): void {
    if (this.isStopped || !this.isServing) return;
    const atUs = this.nextReturnUs();
    if (atUs === Infinity || (this.returnTimer >= 0 && this.returnTimerUs <= atUs)) return;
    const { reactor } = this.parts.modules;
    if (this.returnTimer >= 0) reactor.cancelTimer(this.returnTimer);
    this.returnTimerUs = atUs;
    const delayMs = Math.ceil((atUs - this.nowUs) / 1000);
    this.returnTimer = reactor.setTimer(delayMs, this, TAG_RETURN);
  }

  /** When to look whom to bring back; Infinity: nobody is out. */
  private nextReturnUs(): number {
    const { timings, members } = this.parts;
    const { nowUs } = this;
    const out = members.filter((one) => this.canReturn(one));
    if (out.length === 0) return Infinity;
    const lastUs = nowUs + timings.returnMs * 1000;
    if (this.resync !== null) return lastUs;
    const dueUs = out.filter((one) => this.canReach(one)).map((one) => this.returns.dueUs(one));
    return Math.max(nowUs + timings.tickMs * 1000, Math.min(lastUs, ...dueUs));
  }

  private canReach({ disk }: Member): boolean {
    return this.parts.modules.canReach?.(disk) !== false;
  }

  /** Its node can be reached again. */
  isBack(member: Member): void {
    if (!this.isServing || this.isStopped || !this.canReturn(member)) return;
    this.returns.isBack(member);
    this.armReturn();
  }

  timerFired(tag: number): void {
    if (tag === TAG_RETURN) this.returnTimer = -1;
    else if (tag === TAG_LEAVE) this.isLeaveArmed = false;
    else this.isTickArmed = false;
    if (this.isStopped || this.io.isSurrendered) return;
    if (tag === TAG_LEAVE) {
      this.tryLeave();
      return;
    }
    if (tag === TAG_RETURN) {
      this.bringBack();
      this.armReturn();
      return;
    }
    for (const member of this.parts.members) {
      if (member.role !== ROLE_OUT) this.lookAfter(member);
    }
    this.lookAtGrants();
    this.io.reads.retryParked();
    if (this.hasWork()) this.wantTick();
  }

  private hasWork(): boolean {
    const { io } = this;
    if (io.firstPiece !== NONE || io.reads.hasParked || this.resuming.size > 0) return true;
    return this.parts.members.some((one) => one.role !== ROLE_OUT && !one.isReady);
  }

  // Members ---------------------------------------------------------------------------------------

  private lookAfter(member: Member): void {
    const { timings, sessions } = this.parts;
    const { nowUs } = this;
    if (member.isReady) {
      const waitedUs = nowUs - this.io.awaitedSinceUs(member);
      if (waitedUs > timings.lagMs * 1000) this.giveUp(member, "lag");
      return;
    }
    // It is resumed again and again and fails each time, as a disk does that is full: it is hardly
    // ever ready, and never gone for long, but what it has not confirmed grows old.
    const failedForUs = member.lostSinceUs - this.io.awaitedSinceUs(member);
    if (failedForUs > timings.lagMs * 1000) this.giveUp(member, "failed");
    if (this.resuming.has(member)) {
      if (sessions.makeReady(member)) this.resuming.delete(member);
    } else if (!member.isFencing && nowUs >= member.retryAtUs) {
      sessions.fence(member, (answer) => {
        if (this.isStopped || this.io.isSurrendered) return;
        this.wantTick();
        if (!("code" in answer)) {
          if (!sessions.makeReady(member)) this.resuming.add(member);
        } else if (answer.code !== "lost" && answer.code !== "limit") {
          this.giveUp(member, answer.code);
        }
      });
    }
    const isSlow = member.isFencing && member.replica?.isReachable === true;
    const patienceMs = timings.graceMs * (isSlow ? ALIVE_FACTOR : 1);
    if (!member.isReady && nowUs - member.lostSinceUs > patienceMs * 1000) {
      this.giveUp(member, "unreachable");
    }
  }

  /** Reads wait for a grant that does not come: that member is treated like one that is gone. */
  private lookAtGrants(): void {
    const { modules, timings, members, sessions } = this.parts;
    if (!this.io.reads.hasUngranted) {
      this.ungrantedSinceUs = Infinity;
      return;
    }
    const { nowUs } = this;
    this.ungrantedSinceUs = Math.min(this.ungrantedSinceUs, nowUs);
    const isOver = nowUs - this.ungrantedSinceUs >= timings.graceMs * 1000;
    if (isOver) this.ungrantedSinceUs = nowUs;
    for (const member of members) {
      if (!member.isMember || modules.grants.grantedUntilUs(member.disk) > nowUs) continue;
      // Where its node is known to be gone there is nothing to wait for.
      if (isOver || member.replica?.isReachable === false) sessions.lost(member);
    }
  }

  private giveUp(member: Member, reason: string): void {
    const isPunished = (reason === "lag" || reason === "failed") && !member.isLeaving;
    if (isPunished) this.returns.punish(member);
    if (member.role === ROLE_RESYNCING) this.resync?.abort(reason);
    else if (member.role === ROLE_COUNTED) this.exclude(member, reason);
    else this.resync?.abortUnlessAsked(reason);
  }

  /** Its copy is to go, or is to stay after all. */
  setLeaving(disk: string | null): void {
    this.leaving = disk;
    if (!this.isServing) return;
    this.armReturn();
    this.tryLeave();
  }

  /** Tried again while it counts: no other may be reachable now. */
  private tryLeave(): void {
    if (this.isLeaveArmed || this.isStopped || this.leaving === null) return;
    const { members, timings, modules } = this.parts;
    const isHere = (one: Member): boolean => one.disk === this.leaving && one.role === ROLE_COUNTED;
    const member = members.find(isHere);
    if (member === undefined) return;
    this.exclude(member, "drained");
    this.isLeaveArmed = true;
    modules.reactor.setTimer(timings.returnMs, this, TAG_LEAVE);
  }

  private exclude(member: Member, reason: string): void {
    const { members, keeper, sessions, modules, options } = this.parts;
    const isOther = (one: Member): boolean =>
      one !== member && one.role === ROLE_COUNTED && !one.isLeaving && one.isReady;
    if (member.isLeaving || !members.some(isOther)) return;
    member.isLeaving = true;
    modules.reactor.log.log("warn", "member-put-out", {
      volume: options.volume,
      disk: member.disk,
      reason,
    });
    keeper.change(
      (record) => {
        const isOut = record.out.some(({ disk }) => disk === member.disk);
        if (isOut || !record.members.includes(member.disk)) return record;
        // What is answered by now it has: it still counts.
        const sinceStamp = { epoch: this.io.epoch, sequence: this.io.watermark };
        return {
          ...record,
          out: [...record.out, { disk: member.disk, sinceStamp, reason }],
          membershipVersion: record.membershipVersion + 1,
        };
      },
      (outcome) => {
        if (this.io.isSurrendered) return;
        if (outcome === "deposed") {
          this.io.deposed();
          return;
        }
        this.resuming.delete(member);
        sessions.close(member);
        this.io.settleAll();
        this.returns.isOut(member);
        this.armReturn();
        this.parts.background.turns.look();
      },
    );
  }

  private bringBack(): void {
    const { nowUs, returns } = this;
    const isDue = (one: Member): boolean =>
      this.canReturn(one) && this.canReach(one) && !one.isFencing && nowUs >= returns.dueUs(one);
    const member = this.parts.members
      .filter(isDue)
      .reduce<Member | null>(
        (a, b) => (a === null || returns.dueUs(b) < returns.dueUs(a) ? b : a),
        null,
      );
    if (member === null) return;
    // Whoever is gone answers no fence, maybe for ever: it must not keep the others out.
    const isStuck =
      this.resync?.progress.stage === "fencing" &&
      this.resync.member.replica?.isReachable === false;
    if (isStuck) this.resync?.abort("unreachable");
    if (this.resync !== null) return;
    returns.tried(member);
    const before = this.kept.get(member) ?? null;
    this.kept.delete(member);
    this.resync = new Resync(this.parts, member, before, {
      begun: () => returns.begun(member),
      notBegun: (reason) => this.tellOnce(member, reason),
      done: (kept) => {
        this.resync = null;
        if (kept !== null && !member.isRemoved) this.kept.set(member, kept);
        this.armReturn();
        this.wantTick();
      },
    });
    this.resync.start();
  }

  /** A node that opens its disk yet, or has none any more, is asked for hours. */
  private tellOnce(member: Member, reason: string): void {
    if (!this.returns.isNews(member, reason)) return;
    const { modules, options } = this.parts;
    const { disk } = member;
    modules.reactor.log.log("info", "resync-waits", { volume: options.volume, disk, reason });
  }
}
