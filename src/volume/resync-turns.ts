// Whose resync may copy, of all volumes that a node owns: a few at a time, the most endangered
// first. A volume with one copy in sync goes before one with two, whenever it asks: the turn passes
// on from one slab to the next.
//
// Invariants: at most TURNS have a turn; none of them is less endangered than one that waits,
// unless that one has nothing to do with its turn.

/** Enough to keep disks and links busy; few enough that the first volumes are whole again soon. */
export const TURNS = 4;

export interface TurnTaker {
  /** Copies of its volume that are in sync: the fewer, the sooner. */
  readonly inSyncCount: number;
  /** It may copy from now on. Called from within another's call. */
  turnGiven(): void;
}

export class ResyncTurns {
  private readonly turns: number;
  private readonly isFair: boolean;
  /** In the order of asking. */
  private readonly waiting: Set<TurnTaker> = new Set();
  private readonly holding: Set<TurnTaker> = new Set();

  /** `isUnordered`: planted by tests; whoever asks first goes first. */
  constructor(turns: number = TURNS, isUnordered = false) {
    this.turns = turns;
    this.isFair = !isUnordered;
  }

  has(taker: TurnTaker): boolean {
    return this.holding.has(taker);
  }

  ask(taker: TurnTaker): void {
    if (this.holding.has(taker)) return;
    this.waiting.add(taker);
    this.look();
  }

  /** It is done, or has nothing to do with a turn for now: others may have it. */
  leave(taker: TurnTaker): void {
    this.waiting.delete(taker);
    if (this.holding.delete(taker)) this.look();
  }

  /** How endangered a volume is may have changed. */
  look(): void {
    for (;;) {
      const next = this.best();
      if (next === null) return;
      if (this.holding.size >= this.turns) {
        const last = this.last();
        if (!this.isFair || last.inSyncCount <= next.inSyncCount) return;
        this.holding.delete(last);
        this.waiting.add(last);
      }
      this.waiting.delete(next);
      this.holding.add(next);
      next.turnGiven();
    }
  }

  private best(): TurnTaker | null {
    let best: TurnTaker | null = null;
    for (const one of this.waiting) {
      if (best === null) best = one;
      else if (this.isFair && one.inSyncCount < best.inSyncCount) best = one;
    }
    return best;
  }

  /** Of those that have a turn, the one that needs it least; of equals the one that came last. */
  private last(): TurnTaker {
    let last: TurnTaker | null = null;
    for (const one of this.holding) {
      if (last === null || one.inSyncCount >= last.inSyncCount) last = one;
    }
    return last as TurnTaker;
  }
}
