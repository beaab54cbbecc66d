// Volumes that move from node to node, and nodes that are put aside for a while, as they cross the
// REST API; the schemas in move-schemas.ts are checked against them by the compiler.

import type { NodePhase } from "./cluster-types.ts";

export interface VolumeHandOver {
  /** Name of the node that shall have the volume. */
  readonly node: string;
}

export interface HandOverReply {
  readonly volume: string;
  readonly node: string;
  /** False when that node had it before. */
  readonly changed: boolean;
}

export interface NodeMaintenance {
  readonly on: boolean;
}

export interface NodeMaintenanceReply {
  readonly node: string;
  readonly phase: NodePhase;
  /** Volumes that it had, and who has them now; of a dry run, who would. */
  readonly handedOver: readonly { readonly volume: string; readonly node: string }[];
  /** Volumes that it still has, and why. */
  readonly kept: readonly { readonly volume: string; readonly reason: string }[];
}
