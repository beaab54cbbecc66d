// Saving, putting back and making again the metadata of a cluster, as it crosses the REST API.

/** Where an archive of the metadata is, or shall be, on the daemon's machine. */
export interface MetadataArchiveRequest {
  readonly path: string;
}

export interface MetadataArchiveReply {
  readonly path: string;
  /** Of the cluster whose metadata it is. */
  readonly cluster: string;
  readonly generation: number;
  /** Of the metadata store when it was saved, and when that was. */
  readonly revision: number;
  readonly at: string;
}

export interface ClusterRecover {
  /** Go on although copies are missing: what comes back may be an older state. */
  readonly partial?: boolean;
}

/** A volume whose record was made again from its copies. */
export interface RecoveredVolume {
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly copyCount: number;
  /** How many there should be; null = not known. */
  readonly replicaCount: number | null;
  /** `NODE/DISK` of the copy that counts; the others are resynced from it. */
  readonly source: string;
  readonly out: readonly string[];
  /** The node that says it had the volume attached; null = none says so. */
  readonly attachedTo: string | null;
  /** What is not known of it any more. */
  readonly lost: readonly string[];
}

export interface RecoveryReply {
  readonly cluster: string;
  readonly generation: number;
  /** Who has told, and of which disks. */
  readonly nodes: readonly string[];
  readonly disks: readonly string[];
  readonly volumes: readonly RecoveredVolume[];
  /** Volumes with copies that nobody told of. */
  readonly incomplete: readonly string[];
  /** Replicas that were never written to: left alone. */
  readonly unusedCount: number;
  readonly lost: readonly string[];
}
