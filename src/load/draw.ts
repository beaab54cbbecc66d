// @hot
// Random numbers for the workload (xoshiro128**, as base/prng.ts), 31 bits at a time: those are
// small integers to the engine, whatever it inlines, so that drawing never makes garbage.

import { Prng } from "../base/index.ts";

/** draw() is below this. */
export const DRAW_LIMIT: number = 2 ** 31;

export class Draw {
  private readonly state: Int32Array;

  constructor(seed: number) {
    const prng = new Prng(seed);
    this.state = Int32Array.of(prng.u32(), prng.u32(), prng.u32(), prng.u32() | 1);
  }

  /** Uniform in [0, DRAW_LIMIT). */
  draw(): number {
    const state = this.state;
    const second = state[1];
    const scaled = Math.imul(second, 5);
    const result = Math.imul((scaled << 7) | (scaled >>> 25), 9) >>> 1;
    state[2] ^= state[0];
    state[3] ^= second;
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= second << 9;
    state[3] = (state[3] << 11) | (state[3] >>> 21);
    return result;
  }

  /** Uniform in [0, bound), bound <= DRAW_LIMIT. */
  below(bound: number): number {
    return Math.floor((this.draw() * bound) / DRAW_LIMIT);
  }

  /** True in `share` of DRAW_LIMIT cases. */
  chance(share: number): boolean {
    return this.draw() < share;
  }
}
