// Makes members equal at a takeover: docs/replication.md, "Taking over", step 5. Each slab is read
// from the member with the highest stamp and written to all, a few slabs at a time.
//
//   lane: slab --> read from the best --> a sequence of its own --> written to all --> next
//
// Slabs do not depend on each other: each has its own stamp, and none is counted before all are
// done. So their order is free, and what a crash leaves half done the next takeover finds above
// the same watermark.
//
// Invariants: one lane always goes on, more as far as the node has lanes to spare; nothing is told
// before the slab I/O of every lane has ended, and with the first failure no slab is begun.

import type { Arena, FenceAnswer, Replica, SlabStamp } from "../ports/index.ts";
import type { Member } from "./member.ts";
import { bugsOf } from "./owner-settings.ts";
import { SLAB_BYTES } from "./owner-workspace.ts";
import { isNewer, placeOf, readFromAny } from "./slab-work.ts";
import type { TakeoverParts } from "./takeover.ts";

/** Enough to hide round trips; a guest waits meanwhile. */
const LANES_MAX = 8;

/** A member that has answered its fence. */
export interface Answered {
  readonly member: Member;
  readonly answer: FenceAnswer;
  readonly grantsEndUs: number;
  /** What it has stamped above the watermark, by slab number. */
  readonly stamps: Map<number, SlabStamp>;
  readonly uncertain: Set<number>;
}

export interface EqualiseFailure {
  /** Who failed; null = nobody could be read from. */
  readonly members: readonly Member[] | null;
  readonly reason: string;
}

export interface EqualiseEnds {
  /** Nobody waits for it any more. */
  readonly isOver: () => boolean;
  readonly nextSequence: () => number;
  /** All is done, or something failed; all lanes have ended. */
  readonly done: (failure: EqualiseFailure | null) => void;
}

export class Equaliser {
  rewrittenCount = 0;
  private readonly parts: TakeoverParts;
  private readonly answered: readonly Answered[];
  private readonly ends: EqualiseEnds;
  private readonly failed: Set<Member> = new Set();
  private failure: EqualiseFailure | null = null;
  private left: number[] = [];
  private laneCount = 0;

  constructor(parts: TakeoverParts, answered: readonly Answered[], ends: EqualiseEnds) {
    this.parts = parts;
    this.answered = answered;
    this.ends = ends;
  }

  run(slabs: Iterable<number>): void {
    const { background, modules } = this.parts;
    this.left = Array.from(slabs);
    const wanted = Math.min(LANES_MAX, this.left.length);
    if (wanted === 0) {
      this.ends.done(null);
      return;
    }
    this.laneCount = 1 + Math.min(wanted - 1, background.spareLanes);
    background.spareLanes -= this.laneCount - 1;
    const arenas = Array.from({ length: this.laneCount }, () =>
      modules.reactor.memory.allocate(SLAB_BYTES),
    );
    for (const arena of arenas) this.next(arena);
  }

  private next(arena: Arena): void {
    const isStopped = this.ends.isOver() || this.failure !== null;
    const number = isStopped ? undefined : this.left.pop();
    if (number === undefined) {
      this.laneEnds(arena);
      return;
    }
    const sources = this.sourcesOf(number).map(({ member }) => member.replica as Replica);
    readFromAny(sources, number, arena.address, (read) => {
      if (this.ends.isOver()) {
        this.laneEnds(arena);
      } else if ("failures" in read) {
        this.fails(null, read.failures[0]?.message ?? "no member can be reached");
        this.laneEnds(arena);
      } else {
        this.rewrite(number, read.image.states, arena);
      }
    });
  }

  private rewrite(number: number, states: number, arena: Arena): void {
    const { io } = this.parts;
    const image = { epoch: io.epoch, sequence: this.ends.nextSequence(), states };
    let waiting = this.answered.length;
    let isWhole = true;
    for (const { member } of this.answered) {
      const replica = member.replica as Replica;
      replica.writeSlab(placeOf(number), image, arena.address, (failure) => {
        if (failure !== null) {
          isWhole = false;
          this.fails(member, "lost");
        }
        waiting -= 1;
        if (waiting > 0) return;
        if (isWhole) this.rewrittenCount += 1;
        this.next(arena);
      });
    }
  }

  /** Of several failures all who failed are named; that nobody can be read from says the most. */
  private fails(member: Member | null, reason: string): void {
    if (member !== null) this.failed.add(member);
    const isAll = member === null || this.failure?.members === null;
    this.failure = { members: isAll ? null : Array.from(this.failed), reason };
  }

  private laneEnds(arena: Arena): void {
    const { background, modules, options } = this.parts;
    modules.reactor.memory.free(arena);
    this.laneCount -= 1;
    if (this.laneCount > 0) background.spareLanes += 1;
    const isEarly = bugsOf(options).equaliseEndsEarly && !this.ends.isOver();
    if (this.laneCount === 0 || isEarly) this.ends.done(this.failure);
  }

  /** The member with the highest stamp first; who cannot vouch for the slab last. */
  private sourcesOf(number: number): Answered[] {
    return this.answered.toSorted((a, b) => {
      const doubt = Number(a.uncertain.has(number)) - Number(b.uncertain.has(number));
      if (doubt !== 0) return doubt;
      const first = a.stamps.get(number);
      const second = b.stamps.get(number);
      if (first === undefined || second === undefined) {
        return Number(first === undefined) - Number(second === undefined);
      }
      return isNewer(first, second) ? -1 : isNewer(second, first) ? 1 : 0;
    });
  }
}

/** For a planted hole: all members have stamped the slab, and with one stamp. */
export function areStampsEqual(answered: readonly Answered[], number: number): boolean {
  const stamps = answered.map(({ stamps: known }) => known.get(number));
  const first = stamps[0];
  return stamps.every(
    (one) =>
      one !== undefined &&
      first !== undefined &&
      one.epoch === first.epoch &&
      one.sequence === first.sequence,
  );
}
