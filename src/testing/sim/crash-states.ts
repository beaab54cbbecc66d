// Every state in which a crash at one point of a trace may leave the medium, or a good sample of
// them when there are too many.
//
// A state is a source per sector: the old content, or one of the pending fragments. States are
// found as arrays of small integers; sources with equal content have one number, so that a state
// comes once however many choices lead to it; only new ones become a medium, which shares all
// blocks with the others. Exhaustive: if all combinations of fates are at most `subsetsMax`, all
// are tried, in data order and, where writes overlap, in the reverse. Otherwise: none, all, each
// prefix, each one lost or alone, each torn in three surroundings, then random ones by the seed.

import { Prng } from "../../base/index.ts";
import { type CrashChoice, type Fate, garbageOf } from "./crash-choice.ts";
import {
  ALL_SECTORS,
  BLOCK_BYTES,
  type BlockStore,
  SECTOR_BYTES,
  SECTORS_PER_BLOCK,
} from "./sim-blocks.ts";
import { SimMedia } from "./sim-media.ts";
import type { SimTrace } from "./sim-trace.ts";
import { tornFates } from "./torn-fates.ts";
import { replayHistory } from "./trace-replay.ts";
import type { PendingFragment, WriteHistory } from "./write-history.ts";

export interface CrashStatesOptions {
  /** Combinations of fates tried at most; the states found are at most as many (default 256). */
  readonly subsetsMax?: number;
  /** Ways of tearing each fragment (default 4). */
  readonly tornVariants?: number;
  /** Tears at blocks, at sectors, or both (the default). */
  readonly tornAt?: "block" | "sector" | "both";
  /** Each torn fragment once more with garbage where it is torn. */
  readonly garbage?: boolean;
  readonly seed?: number;
  /** What lies under the trace, if not what did when it was recorded. */
  readonly base?: BlockStore;
}

export interface CrashState {
  readonly media: SimMedia;
  /** For replayPrefix. */
  readonly choice: CrashChoice;
}

/** Fate of each fragment as an index into its list of fates: 0 none, 1 whole, then torn. */
interface Combination {
  readonly picks: Uint8Array;
  readonly isReverse: boolean;
}

const SUBSETS_DEFAULT = 256;
const GARBAGE_BIT = 0x8000;

export function* crashStates(
  trace: SimTrace,
  prefix: number,
  options: CrashStatesOptions = {},
): Generator<CrashState, void, void> {
  const history = replayHistory(trace, prefix, options.base ?? trace.base);
  const space = new StateSpace(history);
  const fates = history.pending.map((one): Fate[] => ["none", "whole", ...tornFates(one, options)]);
  const seen = new Set<number>();
  for (const combination of combinations(fates, space.hasOverlaps, options)) {
    const choice = choiceOf(combination, fates);
    const key = space.enter(choice);
    if (seen.has(key)) continue;
    seen.add(key);
    yield { media: SimMedia.over(space.build(), trace), choice };
  }
}

function choiceOf({ picks, isReverse }: Combination, fates: readonly Fate[][]): CrashChoice {
  const chosen = fates.map((list, index) => list[picks[index]]);
  return { fates: chosen, order: isReverse ? fates.map((_, at) => fates.length - 1 - at) : null };
}

function* combinations(
  fates: readonly Fate[][],
  hasOverlaps: boolean,
  options: CrashStatesOptions,
): Generator<Combination, void, void> {
  const countMax = options.subsetsMax ?? SUBSETS_DEFAULT;
  const orders = hasOverlaps ? [false, true] : [false];
  const total = fates.reduce((product, list) => product * list.length, orders.length);
  if (total > countMax) {
    yield* sampled(fates, hasOverlaps, countMax, options.seed ?? 1);
    return;
  }
  for (const isReverse of orders) {
    const picks = new Uint8Array(fates.length);
    for (;;) {
      yield { picks, isReverse };
      let digit = 0;
      while (digit < picks.length && picks[digit] === fates[digit].length - 1) {
        picks[digit] = 0;
        digit += 1;
      }
      if (digit === picks.length) break;
      picks[digit] += 1;
    }
  }
}

function* sampled(
  fates: readonly Fate[][],
  hasOverlaps: boolean,
  countMax: number,
  seed: number,
): Generator<Combination, void, void> {
  const prng = new Prng(seed);
  const [none, all, ...others] = telling(fates);
  for (let index = others.length - 1; index > 0; index--) {
    const other = prng.below(index + 1);
    [others[index], others[other]] = [others[other], others[index]];
  }
  let count = 0;
  // A quarter of the room is for what nobody thought of.
  const tellingMax = Math.max(2, Math.floor(countMax * 0.75));
  for (const picks of [none, all, ...others].slice(0, tellingMax)) {
    yield { picks, isReverse: hasOverlaps && count % 2 === 1 };
    count += 1;
  }
  for (; count < countMax; count++) {
    const picks = Uint8Array.from(fates, (list) => {
      if (list.length > 2 && prng.chance(0.2)) return prng.between(2, list.length - 1);
      return prng.below(2);
    });
    yield { picks, isReverse: hasOverlaps && prng.chance(0.5) };
  }
}

/** The combinations that find most: see the opening comment. The first two are none and all. */
function telling(fates: readonly Fate[][]): Uint8Array[] {
  const count = fates.length;
  const list = [new Uint8Array(count), new Uint8Array(count).fill(1)];
  const add = (rest: (index: number) => number, at: number, pick: number): void => {
    const picks = Uint8Array.from({ length: count }, (_, index) => rest(index));
    picks[at] = pick;
    list.push(picks);
  };
  for (let at = 0; at < count; at++) {
    const isEarlier = (index: number): number => (index < at ? 1 : 0);
    if (at > 0) add(isEarlier, at, 0);
    add(() => 0, at, 1);
    add(() => 1, at, 0);
    for (let pick = 2; pick < fates[at].length; pick++) {
      add(isEarlier, at, pick);
      add(() => 0, at, pick);
      add(() => 1, at, pick);
    }
  }
  return list;
}

class StateSpace {
  private readonly durable: BlockStore;
  private readonly pending: readonly PendingFragment[];
  /** Blocks that any fragment touches. */
  private readonly blocks: number[] = [];
  private readonly placeOfBlock: Map<number, number> = new Map();
  /** By fragment, block and sector: the number of that content. */
  private readonly sources: Uint16Array[] = [];
  /** By place and sector: where its content comes from in the state entered last. */
  private readonly state: Uint16Array;
  private readonly words: Uint32Array;
  hasOverlaps = false;

  constructor(history: WriteHistory) {
    this.durable = history.durable;
    this.pending = history.pending;
    for (const { fragment } of this.pending) {
      for (let at = 0; at < fragment.masks.length; at++) {
        const block = fragment.firstBlock + at;
        if (this.placeOfBlock.has(block)) continue;
        this.placeOfBlock.set(block, this.blocks.push(block) - 1);
      }
    }
    this.state = new Uint16Array(this.blocks.length * SECTORS_PER_BLOCK);
    this.words = new Uint32Array(this.state.buffer);
    this.numberSources();
  }

  /** Source 0 is the old content, n + 1 fragment n; of equal contents the lowest counts. */
  private numberSources(): void {
    const earlier: number[][] = this.blocks.map(() => []);
    for (const [index, { fragment, masks }] of this.pending.entries()) {
      const sources = new Uint16Array(masks.length * SECTORS_PER_BLOCK);
      for (let at = 0; at < masks.length; at++) {
        const place = this.placeOfBlock.get(fragment.firstBlock + at) as number;
        for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
          if ((masks[at] & (1 << sector)) === 0) continue;
          const from = sector * SECTOR_BYTES;
          const rivals = earlier[place].filter((one) => this.carries(one - 1, place, sector));
          if (rivals.length > 0) this.hasOverlaps = true;
          const equal = [0, ...rivals].find((source) =>
            isEqualSector(this.content(source, place), fragment.data[at], from),
          );
          sources[at * SECTORS_PER_BLOCK + sector] = equal ?? index + 1;
        }
        earlier[place].push(index + 1);
      }
      this.sources.push(sources);
    }
  }

  private carries(index: number, place: number, sector: number): boolean {
    const { fragment, masks } = this.pending[index];
    return (masks[this.blocks[place] - fragment.firstBlock] & (1 << sector)) !== 0;
  }

  /** The block at `place` as `source` has it. */
  private content(source: number, place: number): Uint8Array {
    const block = this.blocks[place];
    if (source === 0) return this.durable.block(block);
    const one = this.pending[(source & ~GARBAGE_BIT) - 1];
    if ((source & GARBAGE_BIT) !== 0) return garbageOf(one, block);
    return one.fragment.data[block - one.fragment.firstBlock];
  }

  /** Works out the state that a choice leads to; returns a number that is its own. */
  enter(choice: CrashChoice): number {
    this.state.fill(0);
    const count = this.pending.length;
    for (let step = 0; step < count; step++) {
      const index = choice.order === null ? step : choice.order[step];
      const fate = choice.fates[index];
      if (fate === "none") continue;
      if (fate === "whole") {
        this.land(index, this.pending[index].masks, 0);
      } else {
        this.land(index, fate.keep, 0);
        if (fate.garbage !== null) this.land(index, fate.garbage, GARBAGE_BIT | (index + 1));
      }
    }
    return this.hash();
  }

  private land(index: number, masks: Uint8Array, garbage: number): void {
    const { state, sources } = this;
    const from = sources[index];
    const { firstBlock } = this.pending[index].fragment;
    for (let at = 0; at < masks.length; at++) {
      const mask = masks[at];
      if (mask === 0) continue;
      const to = (this.placeOfBlock.get(firstBlock + at) as number) * SECTORS_PER_BLOCK;
      const source = at * SECTORS_PER_BLOCK;
      for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
        if ((mask & (1 << sector)) === 0) continue;
        state[to + sector] = garbage === 0 ? from[source + sector] : garbage;
      }
    }
  }

  /** 53 bits of the state: two that differ meet once in 10^15 pairs. */
  private hash(): number {
    let a = 0x9e3779b9;
    let b = 0x85ebca6b;
    for (const word of this.words) {
      a = Math.imul(a ^ word, 0x01000193);
      a ^= a >>> 15;
      b = Math.imul(b ^ word, 0xcc9e2d51);
      b ^= b >>> 13;
    }
    return (a >>> 0) * 2097152 + (b >>> 11);
  }

  /** The state entered last as blocks. */
  build(): BlockStore {
    const store = this.durable.fork();
    for (let place = 0; place < this.blocks.length; place++) {
      const at = place * SECTORS_PER_BLOCK;
      const source = this.state[at];
      let isUniform = true;
      for (let sector = 1; sector < SECTORS_PER_BLOCK; sector++) {
        if (this.state[at + sector] !== source) isUniform = false;
      }
      if (!isUniform) this.buildMixed(store, place);
      else if (source !== 0) {
        store.setSectors(this.blocks[place], ALL_SECTORS, this.content(source, place));
      }
    }
    return store;
  }

  private buildMixed(store: BlockStore, place: number): void {
    const block = new Uint8Array(BLOCK_BYTES);
    for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
      const from = sector * SECTOR_BYTES;
      const content = this.content(this.state[place * SECTORS_PER_BLOCK + sector], place);
      block.set(content.subarray(from, from + SECTOR_BYTES), from);
    }
    store.setBlock(this.blocks[place], block);
  }
}

function isEqualSector(a: Uint8Array, b: Uint8Array, from: number): boolean {
  if (a === b) return true;
  for (let at = from; at < from + SECTOR_BYTES; at++) if (a[at] !== b[at]) return false;
  return true;
}
