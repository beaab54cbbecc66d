// What a node of a cluster asks of its data plane beside DataPlane: replicas on its disks, links to
// other nodes, and volumes that it owns. Plain data: it crosses threads by structured clone.
//
//   control plane (main thread)                     data plane (one reactor)
//   startCluster, setPeers          ------------>   listens, dials, lets peers in
//   makeReplica, deleteReplica      ------------>   volumes on the node's own disks
//   openVolume (backing "cluster")  ------------>   OwnedVolume: takes over, serves
//   setMembers                      ------------>   looks at the record, at members come and gone
//   VolumeRecordsHost               <------------   reads and swaps the records of what it owns
//   ownerChanged                    <------------   taking over, serving, deposed; members, resync
//   takeVolume, handOverVolume      ------------>   a standby becomes the owner, and the other way
//   frontChanged                    <------------   the guest's rings run, stop, or wait to run
//
// All cluster disks and volumes of a node are on one reactor, the first: disks that are opened
// after startCluster() are put there. A replica on one that was opened before, on another reactor,
// is refused with UNSUPPORTED until the daemon has been restarted.

import type { ReplicaFacts, ReplicaNote } from "./replica-note.ts";
import type { OwnedRecord, RecordEntry, RecordSwap } from "./volume-records.ts";

/** Who this daemon is to its cluster. Ids are UUIDs in lower case. */
export interface ClusterIdentity {
  readonly clusterId: string;
  readonly nodeId: string;
  /** Of this run of the daemon; never used twice by the node, and rising. */
  readonly incarnation: number;
}

export interface ClusterStart {
  readonly identity: ClusterIdentity;
  /** 32 bytes that all daemons of the cluster share. */
  readonly key: Uint8Array;
  /** Where peers reach us; port 0 = any free one. */
  readonly listen: { readonly host: string; readonly port: number };
}

export interface ClusterPeer {
  readonly nodeId: string;
  readonly host: string;
  readonly port: number;
}

/** One copy of a volume: a disk, and the node that has it. */
export interface ReplicaPlace {
  readonly diskId: string;
  readonly nodeId: string;
}

/** Who has copies of an open volume by its record, now that the record has changed. */
export interface VolumeMembers {
  readonly members: readonly ReplicaPlace[];
  /** A disk that its owner puts out when another copy is in sync, and does not bring back. */
  readonly leaving: string | null;
}

/** Of Backing: a volume that this daemon owns, or is about to. */
export interface ClusterBacking {
  readonly kind: "cluster";
  /** Names this run of the daemon in the record; see OwnedRecord.owner. */
  readonly owner: string;
  readonly members: readonly ReplicaPlace[];
  /** The record's owner, where that was an earlier run of this daemon, whose locks we hold. */
  readonly deadPredecessor: string | null;
  /**
   * Another node has the volume: it is opened without being taken. Front-ends may connect, and
   * their rings start when takeVolume() has succeeded.
   */
  readonly isStandby?: boolean;
}

/** What front-ends of a cluster's volume do with its rings. */
export interface FrontState {
  readonly volumeId: string;
  readonly isRunning: boolean;
  /** They could run, and the volume is not ours. */
  readonly isWaiting: boolean;
}

/**
 * The metadata, as the owners in the data plane need it. Never rejects, and always answers: an
 * owner asks nothing else meanwhile. Needed until DataPlane.stop(), which writes "clean", has
 * resolved.
 */
export interface VolumeRecordsHost {
  read(volumeId: string): Promise<RecordEntry | null>;
  swap(volumeId: string, revision: number, record: OwnedRecord): Promise<RecordSwap>;
}

export type MemberState = "in-sync" | "resyncing" | "out";

export interface ResyncStats {
  readonly diskId: string;
  /** "waiting": for its turn; "entering": all is copied, and is being confirmed. */
  readonly stage: "waiting" | "copying" | "entering";
  readonly doneBytes: number;
  /** As far as is known. */
  readonly totalBytes: number;
  /** No more will be found. */
  readonly isTotalKnown: boolean;
}

/** Of all resyncs of a node's volumes. */
export interface ResyncPaceStats {
  /** null = the rate follows what clients see. */
  readonly limitBytesPerSecond: number | null;
  /** In force now. */
  readonly bytesPerSecond: number;
  /** Since the cluster was started. */
  readonly movedBytes: number;
}

/** Of a volume that was opened with backing "cluster". */
export interface OwnerStats {
  readonly volumeId: string;
  readonly state: "standby" | "taking-over" | "serving" | "draining" | "surrendered";
  readonly epoch: number;
  readonly members: readonly {
    readonly place: ReplicaPlace;
    readonly state: MemberState;
    /** A session with it is open. */
    readonly isConnected: boolean;
  }[];
  readonly resync: ResyncStats | null;
  /** Slabs rewritten at the takeover, and blocks repaired since. */
  readonly equalisedCount: number;
  readonly repairedCount: number;
}

export interface PeerStats {
  readonly nodeId: string;
  readonly state: "down" | "dialling" | "up" | "ending";
  /** Of the last failure, for people; "" = none. */
  readonly lastFailure: string;
}

/** How fast all resyncs of this node's volumes may copy, together. */
export interface ResyncPlane {
  /** null: the cluster has not been started. */
  pace(): ResyncPaceStats | null;
  /**
   * null = as clients' latency allows. Holds until it is set again, also for resyncs under way; not
   * kept: after startCluster() it is null.
   */
  setLimit(bytesPerSecond: number | null): Promise<void>;
}

export interface StoredReplica {
  readonly volumeId: string;
  readonly sizeBytes: number;
}

/** One that is on a disk, with what the disk knows of it. */
export interface ListedReplica extends StoredReplica {
  readonly facts: ReplicaFacts;
}

export interface ClusterPlane {
  /**
   * Listens for peers and answers them. Once in a daemon's life. `ownerChanged` is called when
   * OwnerStats of a volume have changed, at most every 100 ms for progress.
   */
  startCluster(
    start: ClusterStart,
    modules: {
      readonly records: VolumeRecordsHost;
      readonly ownerChanged: (stats: OwnerStats) => void;
      /** Rings began to run, ceased to, or wait to. */
      readonly frontChanged: (state: FrontState) => void;
    },
  ): Promise<{ readonly port: number }>;
  /**
   * All other nodes: links to those that are new are opened, to those that are gone closed, in both
   * directions. A new address is for the next connection. Names are looked up once, here.
   */
  setPeers(peers: readonly ClusterPeer[]): Promise<void>;
  /** Makes the volume as a replica on the disk, durably, or grows it. Repeating it is no error. */
  makeReplica(diskId: string, replica: StoredReplica): Promise<void>;
  /**
   * Gives its space back, whatever owner elsewhere still has it; one here is VOLUME_BUSY. One that
   * is not there is no error.
   */
  deleteReplica(diskId: string, volumeId: string): Promise<void>;
  listReplicas(diskId: string): Promise<readonly ListedReplica[]>;
  /**
   * Keeps what the volume's record says beside the replica, durably. Rejected with ROLLED_BACK when
   * the disk has seen a newer record: see ReplicaNote.
   */
  noteReplica(diskId: string, volumeId: string, note: ReplicaNote): Promise<void>;
  /**
   * Of a volume that is open with backing "cluster": its owner looks at the record, takes new
   * members in and lets go of those that are gone. Repeating it is no error.
   */
  setMembers(volumeId: string, members: VolumeMembers): Promise<void>;
  ownerStats(): readonly OwnerStats[];
  peerStats(): readonly PeerStats[];
  readonly resyncs: ResyncPlane;
  /**
   * A volume that was opened or left as standby: takes it over, with the members that there are
   * now. Resolves when that has begun; what becomes of it is told by ownerChanged.
   */
  takeVolume(volumeId: string, backing: ClusterBacking): Promise<void>;
  /**
   * Gives the volume to a run of another daemon, by its name, and goes on as its standby: answers
   * what is under way, names it in the record. Resolves when we have let go; whether the record was
   * still ours it does not say. VOLUME_BUSY while rings run, or when it does not serve.
   */
  handOverVolume(volumeId: string, to: string): Promise<void>;
  /** Hangs up on front-ends whose rings wait for a volume that we are not given. */
  cutWaiting(volumeId: string): Promise<void>;
  /**
   * Lets go of a volume in an orderly way: its front end has been detached. Answers what is under
   * way, writes "clean" into the record. closeVolume follows. One that has not been taken over yet
   * ends at once, and what waits for it fails: call this before detach(), which would wait.
   * Rejects with TIMED_OUT while the record cannot be written; closeVolume() ends it all the same.
   */
  surrenderVolume(volumeId: string): Promise<void>;
}
