// Objects of a cluster that cross the REST API, as plain types; the schemas in cluster-schemas.ts
// are checked against them by the compiler. Rules as in types.ts.

import type { NodePhase } from "./move-types.ts";
import type { Health } from "./types.ts";

export interface ClusterInit {
  readonly name: string;
  /** Where other nodes reach this one: `HOST:PORT`. */
  readonly address: string;
  /** etcd's API: `HOST:PORT` or URLs; the embedded server or etcd. */
  readonly metadata: readonly string[];
  /** What this node is called; default: the host's name. */
  readonly nodeName?: string;
  /** Failure domain: copies of a volume go to different ones where they can. */
  readonly rack?: string;
}

export interface ClusterJoin {
  /** What `cluster token` printed on a node of the cluster. Secret. */
  readonly token: string;
  readonly address: string;
  readonly nodeName?: string;
  readonly rack?: string;
}

/** Secret: whoever has it can join. */
export interface ClusterTokenReply {
  readonly token: string;
}

export interface ClusterReply {
  /** null: this daemon is in no cluster. */
  readonly cluster: ClusterView | null;
}

export interface ClusterView {
  readonly id: string;
  readonly name: string;
  readonly generation: number;
  /** The node that answers. */
  readonly node: string;
  readonly metadata: {
    readonly endpoints: readonly string[];
    readonly reachable: boolean;
  };
  readonly nodeCount: number;
  readonly liveNodeCount: number;
  readonly volumeCount: number;
  /** Volumes with a copy that is out. */
  readonly degradedCount: number;
  /** So many nodes can be lost without a volume losing its last copy. */
  readonly canLoseNodes: number;
  readonly health: readonly Health[];
}

export type NodeState = "alive" | "missing";

export interface ClusterNode {
  readonly id: string;
  readonly name: string;
  readonly address: string;
  readonly rack: string | null;
  readonly state: NodeState;
  /** "maintenance": it is put aside for a while, and nobody makes its copies anew elsewhere. */
  readonly phase: NodePhase;
  /** The node that answers. */
  readonly isThis: boolean;
  readonly joinedAt: string;
  readonly disks: readonly ClusterDisk[];
  /** Names of the volumes that it owns, and with a copy on it. */
  readonly ownedVolumes: readonly string[];
  readonly copiesOf: readonly string[];
  /** How the answering node's link to it is; null for itself. */
  readonly link: "down" | "dialling" | "up" | "ending" | null;
}

export interface ClusterDisk {
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly freeBytes: number;
}

export interface ClusterNodeList {
  readonly nodes: readonly ClusterNode[];
}

export interface NodeRemoveReply {
  readonly node: string;
  /** Volumes that would lose, or have lost, a copy that nothing replaces yet. */
  readonly volumes: readonly string[];
}

export type CopyState = "in-sync" | "resyncing" | "out" | "unknown";

/** Where a copy of a volume is. */
export interface VolumeCopy {
  readonly node: string;
  readonly disk: string;
  readonly state: CopyState;
  /** Why it is out, and since when; null = it is not. */
  readonly reason: string | null;
  readonly since: string | null;
  /** Of a resync under way, as its owner knows it; null elsewhere. */
  readonly resync: { readonly doneBytes: number; readonly totalBytes: number } | null;
}

/** Of a volume that is kept on several nodes: Volume.backing with kind "cluster". */
export interface ClusterBackingView {
  readonly kind: "cluster";
  readonly replicaCount: number;
  readonly copies: readonly VolumeCopy[];
  readonly epoch: number;
  /** The node that serves it, or did last; null = none yet. */
  readonly owner: string | null;
  /** The node that it is attached to; null = none. */
  readonly attachedTo: string | null;
  /** The node that stands by for a guest that moves; null = none. */
  readonly standby: string | null;
}

/** A resync, as the node that owns the volume knows it. */
export interface Rebuild {
  readonly volume: string;
  readonly node: string;
  readonly disk: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly bytesPerSecond: number;
  /** null: not known yet. */
  readonly secondsLeft: number | null;
}

export interface RebuildList {
  readonly rebuilds: readonly Rebuild[];
}
