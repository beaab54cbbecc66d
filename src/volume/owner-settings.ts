// What an owner is told of its volume, and its patience. The figures follow the design: a member
// that is gone is put out within 3 s, one that lags after 2 s.

import type { ReactorPort, ReadGrants, Replica, VolumeRecords } from "../ports/index.ts";
import type { OwnerBackground } from "./background.ts";
import type { MemberSession } from "./member.ts";
import { NO_OWNER_BUGS, type OwnerBugs } from "./owner-bugs.ts";
import type { OwnerWorkspace } from "./owner-workspace.ts";

export interface OwnerTimings {
  /** Between two looks at what waits for time to pass. */
  readonly tickMs: number;
  /** Between two attempts to fence a member that cannot be reached. */
  readonly retryMs: number;
  /** For so long a member may be gone before it is put out. */
  readonly graceMs: number;
  /** For so long a takeover waits for members that do not answer. */
  readonly takeoverMs: number;
  /** A write that a member has not confirmed for so long puts it out. */
  readonly lagMs: number;
  /** How long a member that was put out for lag stays out; doubles each time. */
  readonly lagPenaltyMs: number;
  /**
   * Between two attempts to bring a member back, at most; they begin with retryMs when it can be
   * reached again. A resync that was cut short begins anew after that.
   */
  readonly returnMs: number;
  /** Longest time that a penalty or a wait for a return grows to. */
  readonly penaltyMaxMs: number;
}

/**
 * How much longer an answer may take from a member whose node is alive: it may have a thousand
 * volumes to fence.
 */
export const ALIVE_FACTOR = 10;

export const OWNER_TIMINGS: OwnerTimings = {
  tickMs: 20,
  retryMs: 100,
  graceMs: 1500,
  takeoverMs: 1000,
  lagMs: 2000,
  lagPenaltyMs: 30_000,
  returnMs: 2000,
  penaltyMaxMs: 3_600_000,
};

export interface OwnerOptions {
  /** Names the incarnation of the daemon; never used twice. */
  readonly owner: string;
  readonly volume: string;
  readonly capacityBytes: number;
  /** At most 20 bytes of ASCII, for the guest; nothing = the volume's id, cut. */
  readonly serial?: string;
  readonly readOnly?: boolean;
  readonly timings?: OwnerTimings;
  /**
   * The record's owner that is proven dead: an earlier run of this daemon, whose locks we hold. Its
   * grants are not waited for, if the record still names it when we claim.
   */
  readonly deadPredecessor?: string;
  readonly planted?: OwnerBugs;
}

export interface OwnerModules {
  readonly reactor: ReactorPort;
  readonly workspace: OwnerWorkspace;
  readonly records: VolumeRecords;
  readonly grants: ReadGrants;
  /** Shared by all owners of the node; absent = it has its own. */
  readonly background?: OwnerBackground;
  /** A replica of the volume on this disk; its first call is a fence. */
  readonly openReplica: (disk: string, session: MemberSession) => Replica;
  /** Whether to try at all to bring the member on this disk back; absent = always. */
  readonly canReach?: (disk: string) => boolean;
  /** Something that people can see of the volume has changed: its state, a member, a resync. */
  readonly changed?: () => void;
}

export const bugsOf = (options: OwnerOptions): OwnerBugs => options.planted ?? NO_OWNER_BUGS;
