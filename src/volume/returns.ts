// When members that are out are tried again, and what was said of those that could not be.
//
//   put out --returnMs--> tried --no--> tried --no--> ...      pauses double, up to returnMs
//                           ^ its node is back: soon
//
// Invariants: a resync that began is not begun again within returnMs, however often its member
// comes and goes; a member that lags or fails stays out for its penalty, whoever says that it is
// back; why a member cannot be brought back is told once, until one of its resyncs begins or the
// reason is another.

import type { Member } from "./member.ts";
import type { OwnerTimings } from "./owner-settings.ts";

interface Turn {
  /** Not to be tried before. */
  atUs: number;
  /** Nor before this, whatever happens. */
  floorUs: number;
  waitMs: number;
  told: string;
}

export class Returns {
  private readonly timings: OwnerTimings;
  private readonly nowUs: () => number;
  private readonly turns: Map<Member, Turn> = new Map();

  constructor(timings: OwnerTimings, nowUs: () => number) {
    this.timings = timings;
    this.nowUs = nowUs;
  }

  private turn(member: Member): Turn {
    const known = this.turns.get(member);
    if (known !== undefined) return known;
    const { retryMs } = this.timings;
    const atUs = this.nowUs() + retryMs * 1000;
    const turn = { atUs, floorUs: 0, waitMs: retryMs, told: "" };
    this.turns.set(member, turn);
    return turn;
  }

  dueUs(member: Member): number {
    const { atUs, floorUs } = this.turn(member);
    return Math.max(atUs, floorUs);
  }

  /** It was put out, or was out when the volume was taken over. */
  isOut(member: Member): void {
    const turn = this.turn(member);
    turn.waitMs = this.timings.returnMs;
    turn.atUs = this.nowUs() + turn.waitMs * 1000;
  }

  /** Its node can be reached again. */
  isBack(member: Member): void {
    const turn = this.turn(member);
    turn.waitMs = this.timings.retryMs;
    turn.atUs = this.nowUs() + turn.waitMs * 1000;
  }

  /** Is being tried: if that comes to nothing it goes to the end of the line. */
  tried(member: Member): void {
    const turn = this.turn(member);
    turn.atUs = this.nowUs() + turn.waitMs * 1000;
    turn.waitMs = Math.min(turn.waitMs * 2, this.timings.returnMs);
  }

  /** Its resync has begun. */
  begun(member: Member): void {
    const turn = this.turn(member);
    turn.told = "";
    turn.floorUs = Math.max(turn.floorUs, this.nowUs() + this.timings.returnMs * 1000);
  }

  /** Each time it lags or fails it stays out twice as long. */
  punish(member: Member): void {
    const { lagPenaltyMs, penaltyMaxMs } = this.timings;
    const penaltyMs = Math.min(lagPenaltyMs * 2 ** member.lagCount, penaltyMaxMs);
    member.lagCount += 1;
    this.turn(member).floorUs = this.nowUs() + penaltyMs * 1000;
  }

  /** Whether people have not been told yet that this is why it is not brought back. */
  isNews(member: Member, reason: string): boolean {
    const turn = this.turn(member);
    const isNews = turn.told !== reason;
    turn.told = reason;
    return isNews;
  }
}
