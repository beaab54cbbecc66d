// A transaction that ends in a definite answer: what swap.ts does for one key, for several.
//
// One of its writes is of a key that is also guarded, with a value that nobody else writes (records
// carry a change id), or takes that key away. A conflict after an answer that was lost is ours if
// all such keys are found as the transaction leaves them.

import type { MetaEntry, MetaOutcome, MetaStore, MetaTransaction } from "../ports/meta-store.ts";
import { MetaError } from "./errors.ts";

const AGAIN_MS = 100;

/** Applied or conflict; rejected with code "unknown": still open, with any other: not applied. */
export async function transactUntilKnown(
  store: MetaStore,
  transaction: MetaTransaction,
  isGivenUp: () => boolean,
): Promise<Exclude<MetaOutcome, { outcome: "unknown" }>> {
  let isOpen = false;
  for (;;) {
    let answer: MetaOutcome;
    try {
      answer = await store.transact(transaction);
    } catch (error) {
      if (!isOpen) throw error;
      if (!(error instanceof MetaError) || error.code !== "unavailable" || isGivenUp()) {
        throw stillUnknown(transaction, error);
      }
      continue;
    }
    if (answer.outcome === "applied") return answer;
    if (answer.outcome === "conflict") {
      if (!isOpen || !isOurs(transaction, answer.found)) return answer;
      return { outcome: "applied", revision: answer.revision };
    }
    isOpen = true;
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    if (isGivenUp()) throw stillUnknown(transaction, new Error(answer.reason));
  }
}

function isOurs(
  { guards, writes }: MetaTransaction,
  found: readonly (MetaEntry | null)[],
): boolean {
  const wanted = new Map(writes.map(({ key, value }) => [key, value]));
  let isAny = false;
  for (const [index, { key }] of guards.entries()) {
    const value = wanted.get(key);
    if (value === undefined) continue;
    const present = found[index]?.value ?? null;
    const isSame =
      value === null || present === null ? value === present : Buffer.compare(value, present) === 0;
    if (!isSame) return false;
    isAny = true;
  }
  return isAny;
}

function stillUnknown({ guards }: MetaTransaction, cause: unknown): MetaError {
  const message = `It is not known what became of a change of ${guards[0]?.key}.`;
  return new MetaError("unknown", message, { cause });
}
