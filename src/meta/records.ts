// The records of a cluster's metadata, plain types; their schemas are in record-schemas.ts, how
// they become bytes is in record-codec.ts.
//
// Rules:
// - Every record carries the format it is written in. A record in a newer format is refused by name
//   and never written back: this version does not know what it would lose.
// - A record is changed only by a swap on its revision. `changeId` is drawn anew with each change,
//   so that who lost the answer to a swap can tell its own change from anybody else's (swap.ts).
// - Times are for people. No decision compares clocks of two machines.

import type { OwnedState, ReplicaFacts, ReservationRecord, Stamp } from "../ports/index.ts";

/** Numbers are never used again. */
export const RECORD_FORMAT = 1;
/**
 * Of a volume whose target proves itself, or is served through the second of its ports: a node that
 * does not know how must not serve it.
 */
export const RECORD_FORMAT_MUTUAL = 2;

/** A time that nobody knows. */
export const NEVER_AT = "1970-01-01T00:00:00.000Z";

/** A process: a daemon that restarted is another one. */
export interface ProcessName {
  readonly node: string;
  readonly incarnation: number;
}

export type OutReason = "drained" | "failed" | "lagging" | "maintenance" | "missing" | "new";

/** A member whose copy does not count until it is resynced. */
export interface OutMember {
  readonly disk: string;
  /** It has everything up to this write; 0, 0 = nothing. */
  readonly sinceStamp: Stamp;
  readonly reason: OutReason;
  /** When it went out. */
  readonly since: string;
}

/** Why a copy is made elsewhere: its disk is lost, or to be emptied; there are too few copies. */
export type ReplacementReason = "lost" | "drain" | "too-few";

/**
 * A copy that is being made: `to` is a member, out at first. `from` leaves the members when `to` is
 * in sync, and not before. One at a time for each volume.
 */
export interface Replacement {
  /** null: it comes in addition. */
  readonly from: string | null;
  readonly to: string;
  readonly reason: ReplacementReason;
  /** When it was planned. */
  readonly since: string;
}

export interface Attachment {
  /** Rises with every attach and detach; an older one serves nothing. */
  readonly generation: number;
  /** null: attached nowhere. */
  readonly node: string | null;
  readonly readOnly: boolean;
  /** Another node that stands by to take the attachment over, with its owner. */
  readonly standby?: Standby;
  /** Absent: by vhost-user. */
  readonly target?: AttachedTarget;
  /** Absent: with a socket, or as a target, of its own. */
  readonly unit?: AttachedUnit;
}

/** The volume as a unit of a virtio-scsi controller of its node. */
export interface AttachedUnit {
  readonly controller: string;
  /** 0 to 255. */
  readonly lun: number;
  /** As a target's: see there. */
  readonly since: number;
}

/** The volume as an iSCSI target: where it is, and what every node must know of it. No secrets. */
export interface AttachedTarget {
  /** `HOST:PORT` of the portal that serves it, or is about to. */
  readonly portal: string;
  /** What initiators prove themselves as; null: nobody has to. */
  readonly chapUser: string | null;
  /** What the target proves itself as; absent: it cannot. Only with a chapUser. */
  readonly chapTargetUser?: string;
  /** Who may log in, in lower case, sorted; empty: everybody. */
  readonly initiators: readonly string[];
  /**
   * The generation of the attachment that came from nowhere. It stays while the target moves from
   * node to node: a target with another has been without power.
   */
  readonly since: number;
  /**
   * Which of its two target ports the portal is: 1 or 2; absent: 1. The standby's is the other, and
   * stays that when it becomes the one that serves.
   */
  readonly portTag?: number;
}

/** A node whose socket for the volume is open while another node has the volume. */
export interface Standby {
  readonly node: string;
  /** Of the run of its daemon that has the socket open; 0 = none has told yet. */
  readonly incarnation: number;
  /** It asks for the volume: whoever has it hands it over, or says no where its guest runs. */
  readonly isWanted: boolean;
  /** Whoever has the volume shall not stand by in turn. */
  readonly isMove: boolean;
  /** Of a target: `HOST:PORT` of the portal that has it in standby, and will serve it. */
  readonly portal?: string;
}

/**
 * ```
 *  creating ──► ready ──► deleting ──► (nothing)
 * ```
 * One that is found "creating" was never promised to anybody.
 */
export type VolumePhase = "creating" | "ready" | "deleting";

export interface VolumeRecord {
  readonly format: number;
  readonly changeId: string;
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** A size that its copies are grown to before it becomes `sizeBytes`. */
  readonly growToBytes?: number;
  readonly blockBytes: 512 | 4096;
  readonly replicaCount: number;
  readonly phase: VolumePhase;
  readonly createdAt: string;
  /** Of the cluster record when this was written; a disk refuses a lower one than it has seen. */
  readonly clusterGeneration: number;
  /** Rises by one with every takeover, a restarted owner's too. 0: never owned. */
  readonly epoch: number;
  readonly owner: ProcessName | null;
  /**
   * "clean": nothing was under way when the owner let go, and there is nothing to equalise.
   * "handed-over": the same, and `owner` is whom it was given to, in an epoch not yet written in.
   */
  readonly state: OwnedState;
  /** Disks that hold copies. In sync are those that are not in `out`. */
  readonly members: readonly string[];
  readonly out: readonly OutMember[];
  /** Rises with every change of `members` or `out`. */
  readonly membershipVersion: number;
  readonly replacement?: Replacement;
  readonly attachment: Attachment;
  /** Newest last; one until there are snapshots. */
  readonly layers: readonly number[];
}

/**
 * The disk has the volume's replica. Made by the disk's node while the record is there, taken away
 * by it when the replica is gone: a volume without such keys has nothing on any disk.
 */
export interface CopyRecord {
  readonly format: number;
  /** UUID of the disk. */
  readonly disk: string;
  /** 0: there is none yet. */
  readonly sizeBytes: number;
  readonly madeAt: string;
  /** Why it could not be made, or grown, at the last attempt. */
  readonly problem?: string;
}

/**
 * Persistent reservations of a volume that is, or was, a SCSI unit. Changed only by the run of
 * a daemon that has the volume attached and has put its name here, in one transaction with a guard
 * on the volume's record: whoever lost the volume changes nothing any more.
 */
export interface ReservationsRecord {
  readonly format: number;
  readonly changeId: string;
  readonly keeper: ProcessName;
  /** See AttachedTarget: without APTPL the reservations are of that time of power alone. */
  readonly since: number;
  readonly record: ReservationRecord;
}

export type NodePhase = "active" | "maintenance" | "draining";

export interface NodeRecord {
  readonly format: number;
  readonly changeId: string;
  readonly id: string;
  readonly name: string;
  /** Where other nodes reach it: `host:port`. */
  readonly address: string;
  /** Failure domain; null = none was told. */
  readonly rack: string | null;
  readonly phase: NodePhase;
  readonly joinedAt: string;
  /** Lowest and highest format of messages that it speaks. */
  readonly wireFormats: readonly [number, number];
}

/** Behind a lease. */
export interface LiveRecord {
  readonly format: number;
  readonly process: ProcessName;
  readonly startedAt: string;
}

export type ClusterDiskPhase = "active" | "draining" | "failed";

export interface DiskRecord {
  readonly format: number;
  readonly changeId: string;
  /** UUID in its superblock. */
  readonly id: string;
  /** What placement pages call it: 1 to 65535, never given to another disk while it is here. */
  readonly number: number;
  readonly node: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** For data, when it was last reported. */
  readonly freeBytes: number;
  readonly phase: ClusterDiskPhase;
  /** Of its last opening: a disk that says less was rolled back. */
  readonly incarnation: number;
}

export interface ClusterRecord {
  readonly format: number;
  readonly changeId: string;
  readonly id: string;
  readonly name: string;
  /**
   * Rises when the metadata was restored or rebuilt. Disks keep the highest they have seen and
   * refuse lower ones, so that an old backup cannot come to life beside newer disks.
   */
  readonly generation: number;
  /** Bits of FEATURES: who does not know one must not join. */
  readonly features: number;
  readonly createdAt: string;
}

/**
 * What a node tells while the metadata holds no cluster, for `cluster recover`: itself, and in
 * another report for each of its disks what that disk knows. Behind a lease.
 */
export interface RecoveryReport {
  readonly format: number;
  readonly cluster: { readonly id: string; readonly name: string; readonly generation: number };
  readonly node: Omit<NodeRecord, "changeId" | "phase">;
  /** Of volumes that this node has declared as attached to it. */
  readonly attached: readonly { readonly volume: string; readonly name: string }[];
  /** null: the report of the node itself. */
  readonly disk: ReportedDisk | null;
}

export interface ReportedDisk {
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly freeBytes: number;
  readonly incarnation: number;
  readonly replicas: readonly ReportedReplica[];
}

export interface ReportedReplica extends ReplicaFacts {
  readonly volume: string;
  readonly sizeBytes: number;
}

/** What a cluster can be built with, by bit. None yet: the first release is the base. */
export const FEATURES: readonly string[] = [];

export const VOLUME_MEMBERS_MAX = 64;
export const REPLICAS_MAX = 3;
