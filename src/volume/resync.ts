// Brings one member back: docs/replication.md, "Bringing a member back".
//
//   fence --> slabs under way, its own, the others' : each held, read, written
//         --> what was sent to it is confirmed --> its grant --> the record --> counted
//
// Invariants: from the fence on it is sent every new write; a slab is copied only while it is held;
// from before the record is asked to take it in, it counts and is asked for its grant.

import type { Replica, SlabStamp, Stamp } from "../ports/index.ts";
import { type Member, ROLE_COUNTED, ROLE_ENTERING, ROLE_RESYNCING } from "./member.ts";
import { bugsOf } from "./owner-settings.ts";
import { BLOCKS_PER_SLAB, NONE, SLAB_BYTES } from "./owner-workspace.ts";
import { SlabCopier } from "./slab-copier.ts";
import { slabNumber } from "./slab-work.ts";
import type { TakeoverParts } from "./takeover.ts";

const CHECK_MS = 5;

export interface ResyncProgress {
  readonly disk: string;
  readonly copiedSlabs: number;
  readonly copiedBytes: number;
  /** Slabs known to be left; more may be found. */
  readonly waitingSlabs: number;
  readonly stage: "fencing" | "copying" | "entering";
}

export class Resync {
  private readonly parts: TakeoverParts;
  readonly member: Member;
  private readonly done: () => void;
  private replica: Replica | null = null;
  private copier: SlabCopier | null = null;
  private since: Stamp = { epoch: 0, sequence: 0 };
  private readonly waiting: number[] = [];
  /** Where the lists go on: of the member itself first, then of another; null = that was all. */
  private ownCursor: number | null = 0;
  private otherCursor: number | null = 0;
  private isOver = false;
  private isAsked = false;
  private isListing = false;
  private copiedSlabs = 0;
  private stage: ResyncProgress["stage"] = "fencing";

  constructor(parts: TakeoverParts, member: Member, done: () => void) {
    this.parts = parts;
    this.member = member;
    this.done = done;
  }

  get progress(): ResyncProgress {
    return {
      disk: this.member.disk,
      copiedSlabs: this.copiedSlabs,
      copiedBytes: this.copiedSlabs * SLAB_BYTES,
      waitingSlabs: this.waiting.length,
      stage: this.stage,
    };
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
    const { member } = this;
    const { sessions, keeper, io, options, modules } = this.parts;
    const out = keeper.record.out.find(({ disk }) => disk === member.disk);
    if (out === undefined) {
      // Its return was asked for and is not known to have failed.
      this.end();
      return;
    }
    this.since = out.sinceStamp;
    sessions.fence(member, (answer) => {
      if (this.isEnded) return;
      if ("code" in answer) {
        this.abort(answer.code);
        return;
      }
      const target = member.replica as Replica;
      this.replica = target;
      if (!bugsOf(options).resyncForgetsInFlight) this.addInFlight();
      if (bugsOf(options).resyncForgetsTarget) this.ownCursor = null;
      member.role = ROLE_RESYNCING;
      io.viewMask |= member.bit;
      sessions.makeReady(member);
      this.copier = new SlabCopier(this.parts, {
        target,
        sources: () => this.sources(),
        copied: (problem) => this.copied(problem),
      });
      this.stage = "copying";
      modules.reactor.log.log("info", "resync-started", {
        volume: options.volume,
        disk: member.disk,
      });
      this.next();
    });
  }

  /** Writes under way were not sent to it, and may be on no stamp yet. */
  private addInFlight(): void {
    const { io } = this.parts;
    const { shared } = io;
    const slabs = new Set<number>();
    for (let at = io.firstPiece; at !== NONE; at = shared.pieceNext[at]) {
      const first = Math.floor(shared.pieceFirst[at] / BLOCKS_PER_SLAB);
      const end = Math.ceil((shared.pieceFirst[at] + shared.pieceBlocks[at]) / BLOCKS_PER_SLAB);
      for (let slab = first; slab < end; slab++) slabs.add(slab);
    }
    this.waiting.push(...slabs);
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
    if (this.isListing || this.isEnded || this.stage !== "copying") return;
    for (let slab = this.waiting.pop(); slab !== undefined; slab = this.waiting.pop()) {
      if (!copier.take(slab)) {
        this.waiting.push(slab);
        if (copier.isIdle) this.later(CHECK_MS, () => this.next());
        return;
      }
      if (this.isEnded) return;
    }
    if (this.ownCursor !== null) {
      this.list(this.replica as Replica, this.ownCursor, (cursor) => {
        this.ownCursor = cursor;
      });
    } else if (this.otherCursor !== null) {
      const [source] = this.sources();
      if (source === undefined) {
        if (copier.isIdle) this.later(CHECK_MS, () => this.next());
        return;
      }
      this.list(source, this.otherCursor, (cursor) => {
        this.otherCursor = cursor;
      });
    } else if (copier.isIdle) {
      this.enter();
    }
  }

  private list(from: Replica, cursor: number, go: (cursor: number | null) => void): void {
    this.isListing = true;
    from.listSlabs(this.since, cursor, (page) => {
      this.isListing = false;
      if (this.isEnded) return;
      if ("code" in page) {
        // Another source may be asked from the same place; the member itself must answer.
        if (from === this.replica) this.abort(page.code);
        else this.later(CHECK_MS, () => this.next());
        return;
      }
      this.waiting.push(...page.slabs.map((slab: SlabStamp) => slabNumber(slab)));
      go(page.cursor);
      this.next();
    });
  }

  /** True when it was ours. */
  lockGranted(entry: number): boolean {
    return this.copier?.lockGranted(entry) === true;
  }

  private copied(problem: string | null): void {
    if (this.isEnded) return;
    if (problem !== null) {
      this.abort(problem);
      return;
    }
    this.copiedSlabs += 1;
    this.parts.modules.changed?.();
    this.next();
  }

  // Entering --------------------------------------------------------------------------------------

  /** From here on it counts: answers wait for it, and reads for its grant. */
  private enter(): void {
    const { io, options } = this.parts;
    this.stage = "entering";
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
    modules.reactor.log.log("info", "resync-given-up", {
      volume: options.volume,
      disk: this.member.disk,
      reason,
    });
    sessions.close(this.member);
    this.end();
    io.settleAll();
  }

  /** The volume has surrendered. */
  stop(): void {
    this.end();
  }

  private end(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.copier?.stop();
    this.done();
    this.parts.modules.changed?.();
  }
}
