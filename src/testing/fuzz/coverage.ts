// What the fuzzers have reached, and where to look next. A key names a thing and what came of it,
// such as "SET_MEM_TABLE/flip/refused". A profile emphasises one mutation; profiles whose rounds
// find new keys are chosen more often.

import type { Prng } from "../../base/index.ts";

export class Coverage {
  private readonly counts: Map<string, number> = new Map();

  /** True when `key` is new. */
  note(key: string): boolean {
    const count = this.counts.get(key) ?? 0;
    this.counts.set(key, count + 1);
    return count === 0;
  }

  get size(): number {
    return this.counts.size;
  }

  /** Keys and how often each was reached, rarest first. */
  entries(): (readonly [key: string, count: number])[] {
    return [...this.counts].sort((a, b) => a[1] - b[1]);
  }
}

/** Chooses profiles: every one now and then, those that pay more often. */
export class ProfileChooser {
  private readonly uses: number[];
  private readonly found: number[];

  constructor(count: number) {
    this.uses = new Array<number>(count).fill(0);
    this.found = new Array<number>(count).fill(0);
  }

  choose(prng: Prng): number {
    const weights = this.uses.map((uses, at) => (1 + (this.found[at] as number)) / (1 + uses));
    return pickWeighted(prng, weights);
  }

  learn(profile: number, foundCount: number): void {
    this.uses[profile] = (this.uses[profile] as number) + 1;
    // What was found long ago says less.
    this.found[profile] = (this.found[profile] as number) * 0.95 + foundCount;
  }
}

/** An index, with the probability of its weight. */
export function pickWeighted(prng: Prng, weights: readonly number[]): number {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let left = prng.unit() * total;
  for (let index = 0; index < weights.length; index++) {
    left -= weights[index] as number;
    if (left < 0) return index;
  }
  return weights.length - 1;
}
