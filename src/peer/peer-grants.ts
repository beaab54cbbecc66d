// Read grants, both sides. A grant is a promise between two daemons: "for 2 s I let nobody else
// take over what you own with a replica of mine". An owner answers reads only while every in-sync
// member's grant holds when the read completes.
//
//   owner:  heartbeat queued at t ......... grant arrives: counts until t + 2 s less 10 %
//   member: heartbeat arrives, grant given: promised until now + 2 s, of its own clock
//
// The owner's end is always the earlier one: it starts counting sooner and counts less, so that
// clocks may run apart by up to 10 %. A member that has just started does not know what it promised
// before: it takes it that everybody has a grant until 2 s after its start.

import type { Clock } from "../ports/index.ts";
import { GRANT_MS } from "./limits.ts";

/** What a member's grant is asked from, as its owner counts it: its replica. */
export interface GrantSource {
  readonly grantedUntilUs: number;
}

/** The member's side: what it has promised. */
export class PeerGrants {
  private readonly clock: Clock;
  private readonly given: Map<string, number> = new Map();
  private readonly forgottenUntilUs: number;

  constructor(clock: Clock) {
    this.clock = clock;
    this.forgottenUntilUs = clock.nowUs() + GRANT_MS * 1000;
  }

  /** Promises the daemon of `nodeId`; returns for how long, in microseconds from now. */
  give(nodeId: string): number {
    this.given.set(nodeId, this.clock.nowUs() + GRANT_MS * 1000);
    return GRANT_MS * 1000;
  }

  /** Until when what was promised to that daemon may be in use. */
  givenUntilUs(nodeId: string): number {
    return Math.max(this.given.get(nodeId) ?? 0, this.forgottenUntilUs);
  }

  /** Until when promises of an earlier run of this process may be in use. */
  get earlierRunUntilUs(): number {
    return this.forgottenUntilUs;
  }
}
