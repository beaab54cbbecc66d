// What the REST API asks of the daemon about its cluster. Every method rejects with an ApiError.
// Volumes of the cluster are volumes like others: see ControlPlane.

import type {
  ClusterInit,
  ClusterJoin,
  ClusterNode,
  ClusterTokenReply,
  ClusterView,
  DrainReply,
  NodeRemoveReply,
  Rebuild,
} from "../model/cluster-types.ts";
import type {
  HandOverReply,
  NodeMaintenance,
  NodeMaintenanceReply,
  VolumeHandOver,
} from "../model/move-types.ts";
import type { RebuildLimit, RebuildLimitChange } from "../model/rebuild-types.ts";
import type {
  ClusterRecover,
  MetadataArchiveReply,
  MetadataArchiveRequest,
  RecoveryReply,
} from "../model/recovery-types.ts";
import type { RequestOptions } from "./control-plane.ts";

export interface DrainOptions extends RequestOptions {
  /** Ends it instead. */
  readonly cancel: boolean;
}

/** Volumes that move between nodes, and nodes that are put aside. */
export interface MoveControl {
  /** Resolves when the other node has it. Refused while a guest uses it. */
  handOver(volume: string, request: VolumeHandOver): Promise<HandOverReply>;
  maintain(
    node: string,
    request: NodeMaintenance,
    options: RequestOptions,
  ): Promise<NodeMaintenanceReply>;
}

export interface ClusterControl extends MoveControl {
  /** null: this daemon is in no cluster. */
  show(): Promise<ClusterView | null>;
  /** Makes a cluster of which this daemon is the first node. */
  init(request: ClusterInit, options: RequestOptions): Promise<ClusterView>;
  join(request: ClusterJoin, options: RequestOptions): Promise<ClusterView>;
  token(): Promise<ClusterTokenReply>;
  /** Saves the cluster's metadata to a file of this node. */
  exportMetadata(request: MetadataArchiveRequest): Promise<MetadataArchiveReply>;
  /** Puts an archive back into metadata that holds no cluster. */
  importMetadata(
    request: MetadataArchiveRequest,
    options: RequestOptions,
  ): Promise<MetadataArchiveReply>;
  /** Makes the records again from what the disks of all nodes say, where there is no cluster. */
  recover(request: ClusterRecover, options: RequestOptions): Promise<RecoveryReply>;
  listNodes(): Promise<readonly ClusterNode[]>;
  showNode(name: string): Promise<ClusterNode>;
  /** Answers when it has begun: copies move off the node. */
  drainNode(name: string, options: DrainOptions): Promise<DrainReply>;
  /** The same of one disk of this node. */
  drainDisk(name: string, options: DrainOptions): Promise<DrainReply>;
  /** Of a node that is gone, whose copies are forgotten, or that holds nothing any more. */
  removeNode(name: string, options: RequestOptions): Promise<NodeRemoveReply>;
  rebuilds(): Promise<readonly Rebuild[]>;
  rebuildLimit(): Promise<RebuildLimit>;
  /** At once, and kept. */
  setRebuildLimit(change: RebuildLimitChange): Promise<RebuildLimit>;
}
