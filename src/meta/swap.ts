// Swaps that end in a definite answer, and many swaps at once.
//
// After "unknown" a read proves nothing: the lost request may still be on its way and be applied
// after it. Saying the same swap again does: at most one of the two can find the guard as it was.
// If the second finds another value, and that is ours byte for byte, the first was applied. So what
// is swapped in must be told from what anybody else could write: records carry a change id.
//
// Revisions never come back, so a definite answer is final; but "there is no such key" does come
// back. A lost request that makes a key may still make it after somebody else made it and took it
// away. So keys that matter have ids that are never used twice, and a volume that is found
// "creating" was promised to nobody.

import {
  META_TRANSACTION_MAX,
  META_VALUE_MAX_BYTES,
  type MetaEntry,
  type MetaOutcome,
  type MetaStore,
  type MetaTransaction,
} from "../ports/meta-store.ts";
import { transactUntilKnown } from "./transact-known.ts";

export interface Swap {
  readonly key: string;
  /** 0 = there must be no such key. */
  readonly modRevision: number;
  readonly value: Uint8Array | null;
}

export type SwapAnswer =
  /** modRevision: of the key from now on; 0 when it was taken away. */
  | { readonly outcome: "applied"; readonly modRevision: number }
  | { readonly outcome: "conflict"; readonly found: MetaEntry | null };

/**
 * One swap, said again until it is known what became of it, or until `isGivenUp` says that it is
 * enough. Rejected with code "unknown": it is still open; with any other: it was not applied.
 */
export function swapUntilKnown(
  store: MetaStore,
  swap: Swap,
  isGivenUp: () => boolean,
): Promise<SwapAnswer> {
  return sayUntilKnown(store, swap, isGivenUp, false);
}

async function sayUntilKnown(
  store: MetaStore,
  swap: Swap,
  isGivenUp: () => boolean,
  wasSent: boolean,
): Promise<SwapAnswer> {
  return settle(swap, await transactUntilKnown(store, transactionOf([swap]), isGivenUp, wasSent));
}

function transactionOf(swaps: readonly Swap[]): MetaTransaction {
  return {
    guards: swaps.map(({ key, modRevision }) => ({ key, modRevision })),
    writes: swaps.map(({ key, value }) => ({ key, value })),
  };
}

/**
 * Swaps that do not depend on each other, as few transactions as possible; the answers in their
 * order. A conflict of one does not keep the others from being applied. Rejected like one swap, and
 * then any of them may have been applied: read again what there is.
 */
export async function swapMany(
  store: MetaStore,
  swaps: readonly Swap[],
  isGivenUp: () => boolean,
): Promise<SwapAnswer[]> {
  const answers = new Array<SwapAnswer>(swaps.length);
  let left: number[] = swaps.map((_, index) => index);
  while (left.length > 0) {
    const batch = takeBatch(swaps, left);
    const conflicts = await swapBatch(store, swaps, batch, answers, isGivenUp);
    // Those that were told of a conflict are done; the others of the batch are said again.
    const again = conflicts ? batch.filter((index) => answers[index] === undefined) : [];
    left = [...again, ...left.slice(batch.length)];
  }
  return answers;
}

function takeBatch(swaps: readonly Swap[], left: readonly number[]): number[] {
  const batch: number[] = [];
  let sizeBytes = 0;
  for (const index of left) {
    sizeBytes += swaps[index]!.value?.length ?? 0;
    const isFull = batch.length === META_TRANSACTION_MAX || sizeBytes > META_VALUE_MAX_BYTES;
    if (isFull && batch.length > 0) break;
    batch.push(index);
  }
  return batch;
}

/** Returns whether there was a conflict; then `answers` has those that it was about. */
async function swapBatch(
  store: MetaStore,
  swaps: readonly Swap[],
  batch: readonly number[],
  answers: SwapAnswer[],
  isGivenUp: () => boolean,
): Promise<boolean> {
  const outcome = await store.transact(transactionOf(batch.map((index) => swaps[index]!)));
  if (outcome.outcome === "unknown") {
    // Rare: each by itself, which is always right.
    for (const index of batch) {
      answers[index] = await sayUntilKnown(store, swaps[index]!, isGivenUp, true);
    }
    return false;
  }
  if (outcome.outcome === "applied") {
    for (const index of batch) answers[index] = settle(swaps[index]!, outcome);
    return false;
  }
  for (const [at, index] of batch.entries()) {
    const found = outcome.found[at] ?? null;
    if ((found?.modRevision ?? 0) === swaps[index]!.modRevision) continue;
    answers[index] = { outcome: "conflict", found };
  }
  return true;
}

function settle(
  { value }: Swap,
  outcome: Exclude<MetaOutcome, { outcome: "unknown" }>,
): SwapAnswer {
  if (outcome.outcome === "conflict") {
    return { outcome: "conflict", found: outcome.found[0] ?? null };
  }
  return { outcome: "applied", modRevision: value === null ? 0 : outcome.revision };
}
