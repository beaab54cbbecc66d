// A transaction that ends in a definite answer. A swap of one key is the smallest: swap.ts says why
// a read does not settle it, and saying the same again does.
//
// One of its writes is of a key that is also guarded, with a value that nobody else writes (records
// carry a change id), or takes that key away. A conflict after an answer that was lost is ours if
// all such keys are found as the transaction leaves them.

import type { MetaOutcome, MetaStore, MetaTransaction } from "../ports/meta-store.ts";
import { MetaError } from "./errors.ts";

/** Before it is said again: some answers of "unknown" come at once. */
const AGAIN_MS = 100;

/**
 * Applied or conflict; rejected with code "unknown": still open, with any other: not applied.
 * `wasSent`: it was said before, and what became of it is not known.
 */
export async function transactUntilKnown(
  store: MetaStore,
  transaction: MetaTransaction,
  isGivenUp: () => boolean,
  wasSent = false,
): Promise<Exclude<MetaOutcome, { outcome: "unknown" }>> {
  let isOpen = wasSent;
  for (;;) {
    let answer: MetaOutcome;
    try {
      answer = await store.transact(transaction);
    } catch (error) {
      if (!isOpen) throw error;
      // This attempt came to nothing; what became of the earlier one is still open.
      if (!(error instanceof MetaError) || error.code !== "unavailable" || isGivenUp()) {
        throw stillUnknown(transaction, error);
      }
      continue;
    }
    if (answer.outcome === "applied") return answer;
    if (answer.outcome === "conflict") {
      const revision = isOpen ? ourRevision(transaction, answer) : null;
      return revision === null ? answer : { outcome: "applied", revision };
    }
    isOpen = true;
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    if (isGivenUp()) throw stillUnknown(transaction, new Error(answer.reason));
  }
}

/**
 * When what was found is what an earlier attempt left there: its revision, where a key that it
 * wrote tells, otherwise one that is not older. null: it is somebody else's.
 */
function ourRevision(
  { guards, writes }: MetaTransaction,
  { found, revision }: Extract<MetaOutcome, { outcome: "conflict" }>,
): number | null {
  const wanted = new Map(writes.map(({ key, value }) => [key, value]));
  let ours: number | null = null;
  for (const [index, { key }] of guards.entries()) {
    const value = wanted.get(key);
    if (value === undefined) continue;
    const present = found[index] ?? null;
    if (value === null || present === null) {
      if (value !== (present?.value ?? null)) return null;
      ours ??= revision;
    } else {
      if (Buffer.compare(value, present.value) !== 0) return null;
      ours = present.modRevision;
    }
  }
  return ours;
}

function stillUnknown({ guards }: MetaTransaction, cause: unknown): MetaError {
  const message = `It is not known what became of a change of ${guards[0]?.key}.`;
  return new MetaError("unknown", message, { cause });
}
