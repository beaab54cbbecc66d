// Bugs on demand in the simulated cluster: those of the rooms, and those of whoever joins them.

import type { PeerPlantedBugs } from "../../peer/index.ts";
import type { OwnerBugs } from "../../volume/index.ts";

export interface ClusterBugs {
  readonly owner?: Partial<OwnerBugs>;
  readonly peer?: Partial<PeerPlantedBugs>;
  /** An owner does not hear when the disk of its own node is fenced. */
  readonly isLocalFenceSilent?: boolean;
  /** An owner that fences the disk of its own node does not ask what was granted there. */
  readonly isLocalFenceAlone?: boolean;
  /** Resyncs take their turns in the order of asking, however endangered their volumes are. */
  readonly isUnordered?: boolean;
  /** A node that starts takes it that it had granted nothing. */
  readonly isForgetful?: boolean;
  /** A step of a plan is written though the record has changed since it was planned. */
  readonly isPlanUnguarded?: boolean;
  /** A copy that is planned counts from the moment it is. */
  readonly isNewCounted?: boolean;
  /** The copy that is replaced leaves the record when the new one is planned. */
  readonly isOldDropped?: boolean;
  /** The owner is told to put a copy out before the one that replaces it is in sync. */
  readonly isLeavingEarly?: boolean;
}
