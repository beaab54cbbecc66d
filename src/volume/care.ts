// The two halves of an owner, as they see each other: what the hot one asks of the cold one, and
// what it is made with.

import type { ReadGrants } from "../ports/index.ts";
import type { Member } from "./member.ts";
import type { OwnerBugs } from "./owner-bugs.ts";

/** The cold half, as the hot one calls it. */
export interface VolumeCare {
  /** Something waits for time to pass: look after it soon. */
  wantTick(): void;
  sessionLost(member: Member): void;
  /** A block of the request is damaged on the member, and another one has it. */
  foundDamage(firstBlock: number, endBlock: number, member: Member): void;
  lockGranted(entry: number): void;
  surrendered(): void;
}

export interface IoPathOptions {
  readonly capacityBytes: () => number;
  readonly readOnly: boolean;
  readonly grants: ReadGrants;
  readonly bugs: OwnerBugs;
  readonly clock: { nowUs(): number };
}
