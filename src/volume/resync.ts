// Brings one member back: docs/replication.md, "Bringing a member back".
//
//   its turn --> fence --> slabs under way, its own, the others' : each held, read, written
//            --> what was sent to it is confirmed --> its grant --> the record --> counted
//
// One that is cut short leaves to the next what it has brought (resync-kept.ts).
//
// Invariants: from the fence on it is sent every new write, so that a slab that was held and copied
// once is never copied again; a slab is copied only while it is held, and only while the volume has
// its turn (resync-turns.ts); from before the record is asked to take it in, it counts and is asked
// for its grant.

import type { FenceAnswer, Replica, SlabStamp, Stamp } from "../ports/index.ts";
import { type Member, ROLE_COUNTED, ROLE_ENTERING, ROLE_RESYNCING } from "./member.ts";
import { bugsOf } from "./owner-settings.ts";
import { BLOCKS_PER_SLAB, NONE, SLAB_BYTES } from "./owner-workspace.ts";
import { CopiedSlabs, type KeptSlabs, stillGood } from "./resync-kept.ts";
import type { TurnTaker } from "./resync-turns.ts";
import { type CopyProblem, SlabCopier } from "./slab-copier.ts";
import { SlabSet } from "./slab-set.ts";
import { slabNumber } from "./slab-work.ts";
import type { TakeoverParts } from "./takeover.ts";

const CHECK_MS = 5;
/** A fence that is not answered for so long leaves the turn to others. */
const FENCE_PATIENCE_MS = 1000;

export interface ResyncProgress {
  readonly disk: string;
  readonly copiedBytes: number;
  /** Known to be left. */
  readonly leftBytes: number;
  /** No more will be found. */
  readonly isAllKnown: boolean;
  /** "waiting": for its turn. */
  readonly stage: "waiting" | "fencing" | "copying" | "entering";
}

/** Whoever began it hears what becomes of it. */
export interface ResyncWatcher {
  /** The member has answered its fence. */
  readonly begun: () => void;
  /** It has not, or said why it cannot. */
  readonly notBegun: (reason: string) => void;
  /** At the end, however it ended: what the next one may begin with. */
  readonly done: (kept: KeptSlabs | null) => void;
}

export class Resync implements TurnTaker {
  private readonly parts: TakeoverParts;
  readonly member: Member;
  private readonly watcher: ResyncWatcher;
  /** What the one before has brought; and what of it holds, with what this one brings. */
  private kept: KeptSlabs | null;
  private have: CopiedSlabs | null = null;
  private replica: Replica | null = null;
  private copier: SlabCopier | null = null;
  private since: Stamp = { epoch: 0, sequence: 0 };
  /** To be copied, and what need not be any more. */
  private readonly left: SlabSet = new SlabSet();
  private readonly begun: SlabSet = new SlabSet();
  /**
   * Where the lists go on; null = that was all. Of the member itself: what it can vouch for no more
   * of what was kept, then what it has beyond the others. Then of another.
   */
  private doubtCursor: number | null = null;
  private ownCursor: number | null = 0;
  private otherCursor: number | null = 0;
  private isOver = false;
  private isAsked = false;
  private isListing = false;
  private isTimerArmed = false;
  private copiedSlabs = 0;
  private stage: ResyncProgress["stage"] = "waiting";

  constructor(
    parts: TakeoverParts,
    member: Member,
    kept: KeptSlabs | null,
    watcher: ResyncWatcher,
  ) {
    this.parts = parts;
    this.member = member;
    this.kept = kept;
    this.watcher = watcher;
  }

  get progress(): ResyncProgress {
    const { stage } = this;
    const copyingCount = this.begun.size - this.copiedSlabs;
    const isKept = stage === "copying" && !this.parts.background.turns.has(this);
    return {
      disk: this.member.disk,
      copiedBytes: this.copiedSlabs * SLAB_BYTES,
      leftBytes: (this.left.size + copyingCount) * SLAB_BYTES,
      isAllKnown: stage === "entering" || (stage === "copying" && this.isListed),
      stage: isKept ? "waiting" : stage,
    };
  }

  get inSyncCount(): number {
    return this.parts.members.filter(({ role }) => role === ROLE_COUNTED).length;
  }

  private get isListed(): boolean {
    const { doubtCursor, ownCursor, otherCursor } = this;
    return doubtCursor === null && ownCursor === null && otherCursor === null;
  }

  private get isEnded(): boolean {
    return this.isOver || this.parts.io.isSurrendered;
  }

  private later(delayMs: number, action: () => void): void {
    const fired = (): void => {
      if (!this.isEnded) action();
    };
    this.parts.modules.reactor.setTimer(delayMs, { timerFired: fired }, 0);
  }

  start(): void {
    this.parts.background.turns.ask(this);
    if (this.stage === "waiting") this.parts.modules.changed?.();
  }

  turnGiven(): void {
    if (this.isEnded) return;
    if (this.stage === "waiting") this.fence();
    else this.next();
  }

  private fence(): void {
    const { member } = this;
    const { sessions, keeper, background } = this.parts;
    const out = keeper.record.out.find(({ disk }) => disk === member.disk);
    if (out === undefined || member.isFencing) {
      // Its return was asked for and is not known to have failed.
      this.end();
      return;
    }
    this.since = out.sinceStamp;
    this.stage = "fencing";
    this.later(FENCE_PATIENCE_MS, () => {
      if (this.stage === "fencing") background.turns.leave(this);
    });
    sessions.fence(member, (answer) => {
      if (this.isEnded) return;
      if ("code" in answer) this.abort(answer.code);
      else this.begin(answer);
    });
  }

  /** The member has let everybody else go. */
  private begin(answer: FenceAnswer): void {
    const { member } = this;
    const { sessions, io, options, modules, background, keeper } = this.parts;
    this.replica = member.replica as Replica;
    // It has nothing: whatever it is said to have had.
    if (answer.epoch === 0) this.since = { epoch: 0, sequence: 0 };
    const kept = stillGood(this.kept, keeper.record, answer);
    this.have = new CopiedSlabs(kept, keeper.record, answer);
    this.kept = null;
    if (kept !== null) this.doubtCursor = 0;
    if (!bugsOf(options).resyncForgetsInFlight) this.addInFlight();
    if (bugsOf(options).resyncForgetsTarget) this.ownCursor = null;
    member.role = ROLE_RESYNCING;
    io.viewMask |= member.bit;
    sessions.makeReady(member);
    this.copier = new SlabCopier(this.parts, {
      target: this.replica,
      sources: () => this.sources(),
      copied: (slab, problem) => this.copied(slab, problem),
    });
    this.stage = "copying";
    background.pace.begin();
    this.watcher.begun();
    modules.reactor.log.log("info", "resync-started", {
      volume: options.volume,
      disk: member.disk,
      keptSlabs: kept?.slabs.size ?? 0,
    });
    background.turns.ask(this);
    this.next();
  }

  /** Writes under way were not sent to it, and may be on no stamp yet. */
  private addInFlight(): void {
    const { io } = this.parts;
    const { shared } = io;
    for (let at = io.firstPiece; at !== NONE; at = shared.pieceNext[at]) {
      const first = Math.floor(shared.pieceFirst[at] / BLOCKS_PER_SLAB);
      const end = Math.ceil((shared.pieceFirst[at] + shared.pieceBlocks[at]) / BLOCKS_PER_SLAB);
      for (let slab = first; slab < end; slab++) this.want(slab);
    }
  }

  // Copying ---------------------------------------------------------------------------------------

  /** Other members, the local one first. */
  private sources(): Replica[] {
    const others = this.parts.members.filter((one) => one.role === ROLE_COUNTED && one.isReady);
    return others
      .map((one) => one.replica as Replica)
      .sort((a, b) => Number(b.isLocal) - Number(a.isLocal));
  }

  private next(): void {
    const copier = this.copier as SlabCopier;
    const { turns } = this.parts.background;
    if (this.isEnded || this.stage !== "copying" || !turns.has(this)) return;
    if (this.sources().length === 0) {
      this.waitForSource();
      return;
    }
    this.listOn();
    for (let slab = this.left.first(); slab !== null; slab = this.left.first()) {
      if (!copier.take(slab)) {
        this.nextLater(this.parts.background.pace.waitMs);
        return;
      }
      this.begun.add(slab);
      this.left.delete(slab);
      if (this.isEnded) return;
    }
    if (this.isListed && copier.isIdle) this.enter();
  }

  /** A slab that is copied meanwhile leads here by itself. */
  private nextLater(delayMs: number): void {
    if (this.isTimerArmed || !(this.copier as SlabCopier).isIdle) return;
    this.isTimerArmed = true;
    this.later(Math.max(delayMs, CHECK_MS), () => {
      this.isTimerArmed = false;
      this.next();
    });
  }

  private listOn(): void {
    if (this.isListing || this.isListed) return;
    const replica = this.replica as Replica;
    if (this.doubtCursor !== null) {
      const since = this.have?.since as Stamp;
      this.list(replica, since, this.doubtCursor, (slabs, cursor) => {
        for (const stamp of slabs) this.want(slabNumber(stamp));
        this.doubtCursor = cursor;
      });
    } else if (this.ownCursor !== null) {
      this.list(replica, this.since, this.ownCursor, (slabs, cursor) => {
        this.found(slabs);
        this.ownCursor = cursor;
      });
    } else {
      const [source] = this.sources();
      this.list(source, this.since, this.otherCursor as number, (slabs, cursor) => {
        this.found(slabs);
        this.otherCursor = cursor;
      });
    }
  }

  /** Sessions with all others are lost for now: others may have the turn meanwhile. */
  private waitForSource(): void {
    const { background, timings } = this.parts;
    background.turns.leave(this);
    this.later(timings.retryMs, () => background.turns.ask(this));
  }

  private list(
    from: Replica,
    since: Stamp,
    cursor: number,
    go: (slabs: readonly SlabStamp[], cursor: number | null) => void,
  ): void {
    this.isListing = true;
    from.listSlabs(since, cursor, (page) => {
      this.isListing = false;
      if (this.isEnded) return;
      if ("code" in page) {
        // Another source may be asked from the same place; the member itself must answer.
        if (from === this.replica) this.abort(page.code);
        else this.nextLater(CHECK_MS);
        return;
      }
      go(page.slabs, page.cursor);
      this.parts.modules.changed?.();
      this.next();
    });
  }

  private found(slabs: readonly SlabStamp[]): void {
    const { keptThoughWritten } = bugsOf(this.parts.options);
    const zero = { epoch: 0, sequence: 0 };
    for (const stamp of slabs) {
      const slab = slabNumber(stamp);
      if (this.have?.has(slab, keptThoughWritten ? zero : stamp) !== true) this.want(slab);
    }
  }

  private want(slab: number): void {
    if (this.begun.has(slab)) return;
    this.have?.forget(slab);
    this.left.add(slab);
  }

  /** True when it was ours. */
  lockGranted(entry: number): boolean {
    return this.copier?.lockGranted(entry) === true;
  }

  private copied(slab: number, problem: CopyProblem | null): void {
    if (this.isEnded) return;
    if (problem === null) {
      this.have?.add(slab);
      this.copiedSlabs += 1;
      this.parts.modules.changed?.();
      this.next();
    } else if (problem.mayPass) {
      // What has been copied counts: the others are waited for, if the member itself stays.
      this.begun.delete(slab);
      this.left.add(slab);
      this.nextLater(CHECK_MS);
    } else {
      this.abort(problem.reason);
    }
  }

  // Entering --------------------------------------------------------------------------------------

  /** From here on it counts: answers wait for it, and reads for its grant. */
  private enter(): void {
    const { io, options } = this.parts;
    this.stage = "entering";
    this.stopCopying();
    if (bugsOf(options).reentryBeforeConfirmed) {
      this.ask();
      return;
    }
    this.member.role = ROLE_ENTERING;
    io.countedMask |= this.member.bit;
    this.waitForConfirmation(io.sequence);
  }

  private waitForConfirmation(sequence: number): void {
    const { io, modules } = this.parts;
    const { member } = this;
    const isGranted = modules.grants.grantedUntilUs(member.disk) > modules.reactor.clock.nowUs();
    if (member.isReady && isGranted && !io.isAwaited(member, sequence)) this.ask();
    else this.later(CHECK_MS, () => this.waitForConfirmation(sequence));
  }

  private ask(): void {
    const { keeper, io, options, modules } = this.parts;
    const { member } = this;
    this.isAsked = true;
    keeper.change(
      (record) => {
        const out = record.out.filter(({ disk }) => disk !== member.disk);
        if (out.length === record.out.length) return record;
        return { ...record, out, membershipVersion: record.membershipVersion + 1 };
      },
      (outcome) => {
        if (io.isSurrendered) return;
        if (outcome === "deposed") {
          io.deposed();
          return;
        }
        if (!keeper.record.members.includes(member.disk)) {
          // Taken away before it was taken in.
          this.isAsked = false;
          this.abort("removed");
          return;
        }
        member.role = ROLE_COUNTED;
        io.countedMask |= member.bit;
        modules.reactor.log.log("info", "resync-done", {
          volume: options.volume,
          disk: member.disk,
          slabs: this.copiedSlabs,
        });
        this.end();
      },
    );
  }

  // The end ---------------------------------------------------------------------------------------

  abortUnlessAsked(reason: string): void {
    if (!this.isAsked) this.abort(reason);
  }

  abort(reason: string): void {
    if (this.isEnded || this.isAsked) return;
    const { sessions, io, modules, options } = this.parts;
    if (this.have === null) {
      this.watcher.notBegun(reason);
    } else {
      const fields = { volume: options.volume, disk: this.member.disk, reason };
      modules.reactor.log.log("info", "resync-given-up", fields);
    }
    this.keep();
    sessions.close(this.member);
    this.end();
    io.settleAll();
  }

  /** While it is known what the member has not confirmed. */
  private keep(): void {
    const { io, options } = this.parts;
    if (this.have === null) return;
    const isHasty = bugsOf(options).keptUnconfirmed;
    const sequence = isHasty ? io.sequence : io.confirmedBy(this.member);
    this.kept = this.have.keep(this.isListed, { epoch: io.epoch, sequence });
  }

  /** The volume has surrendered. */
  stop(): void {
    this.end();
  }

  private end(): void {
    if (this.isOver) return;
    const wasCopying = this.stage === "copying";
    this.isOver = true;
    this.copier?.stop();
    if (wasCopying) this.stopCopying();
    this.parts.background.turns.leave(this);
    this.watcher.done(this.kept);
    this.parts.modules.changed?.();
  }

  private stopCopying(): void {
    const { turns, pace } = this.parts.background;
    pace.end();
    turns.leave(this);
  }
}
