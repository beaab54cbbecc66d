// What a crash does to writes that are not durable: each survives wholly, not at all, or torn into
// blocks or sectors that are old, new or garbage; and in which order they land.

import type { Prng } from "../../base/index.ts";
import { applyFragment, type BlockStore, garbageBlock } from "./sim-blocks.ts";
import type { PendingFragment } from "./write-history.ts";

/** By block, bits of sectors: those that are new, and those that are neither old nor new. */
export interface TornFate {
  readonly keep: Uint8Array;
  readonly garbage: Uint8Array | null;
}

export type Fate = "none" | "whole" | TornFate;

export interface CrashChoice {
  /** By pending fragment, in data order. */
  readonly fates: readonly Fate[];
  /** Indices of fragments in the order of landing; null is data order. */
  readonly order: readonly number[] | null;
}

export interface CrashChances {
  /** Survives at all. */
  readonly keepChance: number;
  /** Of those: is torn; and torn at 512 B rather than at 4 KiB. */
  readonly tornChance: number;
  readonly tornSectorChance: number;
  /** Of what is torn: a piece that is lost is garbage instead of old. */
  readonly garbageChance: number;
}

export const CRASH_CHANCES: CrashChances = {
  keepChance: 0.6,
  tornChance: 0.4,
  tornSectorChance: 0.5,
  garbageChance: 0,
};

/** The same fate for all, in data order. */
export function sameFate(pending: readonly PendingFragment[], fate: Fate): CrashChoice {
  return { fates: pending.map(() => fate), order: null };
}

export function randomChoice(
  pending: readonly PendingFragment[],
  prng: Prng,
  chances: Partial<CrashChances> = {},
): CrashChoice {
  const all = { ...CRASH_CHANCES, ...chances };
  const fates = pending.map((one): Fate => {
    if (!prng.chance(all.keepChance)) return "none";
    return prng.chance(all.tornChance) ? randomTorn(one.masks, prng, all) : "whole";
  });
  const order = pending.map((_, index) => index);
  for (let index = order.length - 1; index > 0; index--) {
    const other = prng.below(index + 1);
    [order[index], order[other]] = [order[other], order[index]];
  }
  return { fates, order };
}

function randomTorn(masks: Uint8Array, prng: Prng, chances: CrashChances): TornFate {
  const bySector = prng.chance(chances.tornSectorChance);
  const draw = (chance: number): number => {
    if (!bySector) return prng.chance(chance) ? 0xff : 0;
    let bits = 0;
    for (let bit = 0; bit < 8; bit++) if (prng.chance(chance)) bits |= 1 << bit;
    return bits;
  };
  const keep = masks.map((mask) => mask & draw(0.5));
  if (chances.garbageChance === 0) return { keep, garbage: null };
  const garbage = masks.map((mask, index) => mask & ~keep[index] & draw(chances.garbageChance));
  return { keep, garbage };
}

/** What a fragment leaves where a piece is neither old nor new. */
export function garbageOf(one: PendingFragment, block: number): Uint8Array {
  return garbageBlock(block, one.operation + 1);
}

/** Lands what the choice lets survive on `store`. */
export function applyChoice(
  store: BlockStore,
  pending: readonly PendingFragment[],
  choice: CrashChoice,
): void {
  const order = choice.order ?? pending.map((_, index) => index);
  for (const index of order) {
    const one = pending[index];
    const fate = choice.fates[index];
    if (fate === "none") continue;
    if (fate === "whole") {
      applyFragment(store, one.fragment, one.masks);
      continue;
    }
    applyFragment(store, one.fragment, fate.keep);
    if (fate.garbage === null) continue;
    for (const [at, mask] of fate.garbage.entries()) {
      const block = one.fragment.firstBlock + at;
      if (mask !== 0) store.setSectors(block, mask, garbageOf(one, block));
    }
  }
}
