// One replica of a volume, as the volume's owner sees it: the store of a disk of this node, in
// process, or that of another node, over the wire. The owner does not know which.
//
// A replica is entered with a fence: from then on it refuses lower epochs, and everything said
// through this object belongs to the fence's epoch. Sequences restart at 1 with each epoch; a stamp
// is (epoch, sequence) and orders all writes of a volume.
//
// The hot half takes integers and completes later, exactly once, never inside the call, through
// ReplicaHandler. The cold half answers through callbacks. Data is whole blocks of 4096 bytes in
// the owner's own memory, never the guest's, and stays as it is until the completion.

import type { Address } from "./memory.ts";

export const REPLICA_WRITE = 0;
/** The blocks read as zeroes from now on; their space is given back. No data. */
export const REPLICA_ZERO = 1;

export interface ReplicaHandler {
  /** `result`: 0, or a negated errno: -ESTALE = a higher epoch has been here; -ENOTCONN = lost. */
  replicaCompleted(tag: number, result: number): void;
  /**
   * A higher epoch has fenced the volume: no grant of this replica counts any more. Called before
   * that fence is answered, or as soon as the news arrives.
   */
  replicaFenced?(epoch: number): void;
  /**
   * The session is over though nobody fenced it, and nothing that was sent may have failed of it:
   * the other side has started anew, or has forgotten us. Fence again.
   */
  replicaLost?(): void;
}

/** A slab of 64 KiB: the unit of stamps, equalising and resync. */
export interface SlabStamp {
  /** Which 256 MiB of the volume. */
  readonly extentIndex: number;
  readonly slab: number;
  readonly epoch: number;
  readonly sequence: number;
}

export interface FenceAnswer {
  /** Of the newest write that this replica holds; 0, 0 when there is none. */
  readonly epoch: number;
  readonly sequence: number;
  /** What it knows to be durable on every member: a stamp as well. */
  readonly committedEpoch: number;
  readonly committedSequence: number;
  /** Slabs stamped above that, and slabs with blocks it cannot vouch for. */
  readonly above: readonly SlabStamp[];
  readonly uncertain: readonly SlabStamp[];
  /**
   * Given when there is no room for all of them here: listSlabs() from the committed stamp on, with
   * this cursor, tells the rest.
   */
  readonly cursor?: number;
  /** For so long read grants that it gave to another owner may still be in use; absent = 0. */
  readonly grantWaitUs?: number;
}

/**
 * How new the metadata is that the owner goes by. A replica remembers the highest it has seen, and
 * refuses what is older as "rolled-back": metadata restored from a backup has forgotten changes.
 */
export interface MetadataVersion {
  /** Of the cluster: grows when its metadata is restored or rebuilt. Compared first. */
  readonly clusterGeneration: number;
  /** Of the volume's list of members. */
  readonly membershipVersion: number;
}

export type ReplicaFailure = {
  readonly code:
    | "stale-epoch"
    | "lost"
    | "disk"
    /** A block of the slab does not match its checksum: writeSlab() makes it good. */
    | "damaged"
    | "unknown-volume"
    | "rolled-back"
    | "limit";
  readonly message: string;
  /** The epoch that refused us. */
  readonly epoch?: number;
};

export interface SlabPage {
  readonly slabs: readonly SlabStamp[];
  /** Give it to the next call; null = that was all. */
  readonly cursor: number | null;
}

/** A slab's blocks beside its data: 2 bits each, 0 absent, 1 data, 2 zero; see chunk/layouts.ts. */
export interface SlabImage {
  readonly epoch: number;
  readonly sequence: number;
  readonly states: number;
}

export interface Replica {
  /** Node and disk, for logs and health. */
  readonly name: string;
  /** In the same process: read here first. */
  readonly isLocal: boolean;

  // --- hot -------------------------------------------------------------------------------------

  /** Durable on this replica when it completes with 0. Writes of one block arrive in order. */
  write(
    tag: number,
    op: number,
    firstBlock: number,
    blockCount: number,
    address: Address,
    sequence: number,
  ): void;
  /**
   * Carries out the READ in `slot` of the reactor's request table, and completes it there.
   * -EBADMSG: a block of it is damaged on this replica.
   */
  submitRead(slot: number): void;
  /** Everything up to `sequence` of this epoch is durable on every member; travels along. */
  setCommitted(sequence: number): void;

  // --- cold ------------------------------------------------------------------------------------

  /**
   * Takes the volume over in `epoch`: refuses lower epochs from now on, lets what is on its way
   * end, makes the epoch durable, answers. Forgets the read grants that it gave for this volume.
   */
  fence(
    epoch: number,
    done: (answer: FenceAnswer | ReplicaFailure) => void,
    metadata?: MetadataVersion,
  ): void;
  /** Slabs stamped above (epoch, sequence), and slabs with uncertain or damaged blocks. */
  listSlabs(
    since: { readonly epoch: number; readonly sequence: number },
    cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void;
  /** Reads a whole slab to `address`: 64 KiB. */
  readSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    address: Address,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void;
  /** Makes a slab what the image says, under its stamp. For equalising, resync and repair. */
  writeSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    image: SlabImage,
    address: Address,
    done: (failure: ReplicaFailure | null) => void,
  ): void;
  /** Nothing more will be said; what is on its way completes with -ENOTCONN. */
  close(): void;
}

/** What the owner asks before it answers a read: do the members still grant it? */
export interface ReadGrants {
  /**
   * Monotonic microseconds of this node until which `member` has promised to let nobody else
   * take the volume over; 0 = no promise. Already less the margin for drift.
   */
  grantedUntilUs(member: string): number;
}
