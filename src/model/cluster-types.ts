// Objects of a cluster that cross the REST API, as plain types; the schemas in cluster-schemas.ts
// are checked against them by the compiler. Rules as in types.ts.

import type { Health } from "./types.ts";

/** How a node gets into metadata that is not open to everybody. Paths are the daemon's. */
export interface MetadataAccessRequest {
  /** PEM, of who signed the certificates of the metadata's servers: TLS. */
  readonly metadataCa?: string;
  /** PEM, of this node, where the servers ask for one; and its key. */
  readonly metadataCert?: string;
  readonly metadataKey?: string;
  readonly metadataUser?: string;
  /** Secret. */
  readonly metadataPassword?: string;
}

export interface ClusterInit extends MetadataAccessRequest {
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

/** Authority, user and password come with the token; what is given here counts instead. */
export interface ClusterJoin extends MetadataAccessRequest {
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

/** What it is meant for: "draining" gets no new copies, and loses those that it has. */
export type NodePhase = "active" | "maintenance" | "draining";

export interface ClusterNode {
  readonly id: string;
  readonly name: string;
  readonly address: string;
  readonly rack: string | null;
  readonly state: NodeState;
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
  readonly phase: "active" | "draining" | "failed";
}

export interface ClusterNodeList {
  readonly nodes: readonly ClusterNode[];
}

export interface CopyPlace {
  readonly node: string;
  readonly disk: string;
}

/** Where a copy is going to be made, in place of another. */
export interface PlannedCopy {
  readonly volume: string;
  /** null: it comes in addition. */
  readonly from: CopyPlace | null;
  /** null: there is no place for it. */
  readonly to: CopyPlace | null;
  /** Why there, or why nowhere. */
  readonly why: string;
}

export interface NodeRemoveReply {
  readonly node: string;
  /** Volumes that would lose, or have lost, a copy. */
  readonly volumes: readonly string[];
  /** Where these copies are going to be made anew. */
  readonly copies: readonly PlannedCopy[];
}

export interface Drain {
  /** Ends it: copies that have not moved stay. */
  readonly cancel?: boolean;
}

export interface DrainReply {
  readonly node: string;
  /** null: all disks of the node. */
  readonly disk: string | null;
  readonly draining: boolean;
  /** Copies that have not begun to move, and where they would go now. */
  readonly copies: readonly PlannedCopy[];
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

export interface CopyReplacement {
  readonly from: CopyPlace | null;
  readonly to: CopyPlace;
  readonly reason: "lost" | "drain" | "too-few";
  readonly since: string;
}

/** Of a volume that is kept on several nodes: Volume.backing with kind "cluster". */
export interface ClusterBackingView {
  readonly kind: "cluster";
  readonly replicaCount: number;
  readonly copies: readonly VolumeCopy[];
  /** A copy that is being made in place of another; null = none. */
  readonly replacement: CopyReplacement | null;
  readonly epoch: number;
  /** The node that serves it, or did last; null = none yet. */
  readonly owner: string | null;
  /** The node that it is attached to; null = none. */
  readonly attachedTo: string | null;
  /** The node that stands by for a guest that moves, or for a target; null = none. */
  readonly standby: string | null;
  /**
   * Where the target is served, on whichever node; null: it is none, or nobody serves it at the
   * moment. A daemon before it left it out.
   */
  readonly targetUrl?: string | null;
}

type RebuildStage = "waiting" | "copying" | "entering";

/** A resync, as the node that owns the volume knows it. */
export interface Rebuild {
  readonly volume: string;
  readonly node: string;
  readonly disk: string;
  /** Why the copy was out. */
  readonly reason: string | null;
  /** "waiting": for its turn; "entering": all is copied, and is being confirmed. */
  readonly stage: RebuildStage;
  readonly doneBytes: number;
  /** As far as is known. */
  readonly totalBytes: number;
  /** No more will be found. */
  readonly isTotalKnown: boolean;
  /** Over the last seconds. */
  readonly bytesPerSecond: number;
  /** null: not known yet. */
  readonly secondsLeft: number | null;
}

export interface RebuildList {
  readonly rebuilds: readonly Rebuild[];
}
