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

import type { Clock, ReadGrants } from "../ports/index.ts";
import { GRANT_MS } from "./limits.ts";

/** What a member's grant is asked from: a RemoteReplica. */
export interface GrantSource {
  readonly name: string;
  readonly grantedUntilUs: number;
}

export class PeerGrants implements ReadGrants {
  private readonly clock: Clock;
  private readonly members: Map<string, GrantSource> = new Map();
  private readonly given: Map<string, number> = new Map();
  private readonly forgottenUntilUs: number;

  constructor(clock: Clock) {
    this.clock = clock;
    this.forgottenUntilUs = clock.nowUs() + GRANT_MS * 1000;
  }

  // --- as an owner -------------------------------------------------------------------------------

  addMember(source: GrantSource): void {
    this.members.set(source.name, source);
  }

  removeMember(source: GrantSource): void {
    if (this.members.get(source.name) === source) this.members.delete(source.name);
  }

  /** See ReadGrants; 0 for a member that was not added. */
  grantedUntilUs(member: string): number {
    const source = this.members.get(member);
    return source === undefined ? 0 : source.grantedUntilUs;
  }

  // --- as a member -------------------------------------------------------------------------------

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
