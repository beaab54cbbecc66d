// What a resync has brought its member, kept when it is cut short, so that the owner's next one
// goes on from there: docs/replication.md, "Bringing a member back", says why that is safe.
//
// Invariants:
//  - a slab that is kept was copied, and that was confirmed; each write to it since then up to
//    `upTo` was sent to the member and confirmed; what is above shows in the stamps of the others;
//  - it is worth nothing once anybody has changed the list of members, or the member holds less
//    than it did: its replica may be another one.

import type { FenceAnswer, OwnedRecord, Stamp } from "../ports/index.ts";
import { SlabSet } from "./slab-set.ts";
import { isNewer } from "./slab-work.ts";

export interface KeptSlabs {
  readonly membershipVersion: number;
  /** Of the newest write that the member held when the resync began. */
  readonly newest: Stamp;
  readonly upTo: Stamp;
  readonly slabs: SlabSet;
}

/** What of it still holds: the member was fenced again, in the same epoch. */
export function stillGood(
  kept: KeptSlabs | null,
  { membershipVersion }: OwnedRecord,
  answer: FenceAnswer,
): KeptSlabs | null {
  if (kept === null || kept.membershipVersion !== membershipVersion) return null;
  const isAnother = answer.epoch === 0 || isNewer(kept.newest, answer);
  return isAnother ? null : kept;
}

/** The slabs that one resync need not copy, and those that it has copied. */
export class CopiedSlabs {
  private readonly before: KeptSlabs | null;
  private readonly now: SlabSet = new SlabSet();
  private readonly membershipVersion: number;
  private readonly newest: Stamp;

  constructor(before: KeptSlabs | null, record: OwnedRecord, answer: FenceAnswer) {
    this.before = before;
    this.membershipVersion = record.membershipVersion;
    this.newest = { epoch: answer.epoch, sequence: answer.sequence };
  }

  /** Above this the member may lack what others have; null = nothing was kept. */
  get since(): Stamp | null {
    return this.before?.upTo ?? null;
  }

  /** The member has it as the one that lists it with this stamp. */
  has(slab: number, stamp: Stamp): boolean {
    const { before } = this;
    return before?.slabs.has(slab) === true && !isNewer(stamp, before.upTo);
  }

  /** It has to be copied. */
  forget(slab: number): void {
    this.before?.slabs.delete(slab);
  }

  add(slab: number): void {
    this.now.add(slab);
  }

  /**
   * At the end: for the next resync. `isListed`: whatever was written to earlier slabs while the
   * member was away has been found. If it has not, they are good as far as they were, no further.
   */
  keep(isListed: boolean, upTo: Stamp): KeptSlabs | null {
    const { before, now, membershipVersion, newest } = this;
    if (before !== null && !isListed) return before;
    if (before !== null) now.addAll(before.slabs);
    return now.size === 0 ? null : { membershipVersion, newest, upTo, slabs: now };
  }
}
