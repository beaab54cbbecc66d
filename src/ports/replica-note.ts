// What a disk keeps of a replica besides its data, for the day when the metadata is lost or put
// back from a backup: a note of the volume's record, and what owners have left there.
//
// A note is written after the record it comes from, so it may lag behind it and never leads it. A
// record that is older than the note is one that was put back.

import type { Stamp } from "./volume-records.ts";

/** Of the volume's record: what cannot be told from the replica itself. */
export interface ReplicaNote {
  readonly name: string;
  readonly blockBytes: 512 | 4096;
  readonly replicaCount: number;
  /** By the record this copy does not count until it is resynced. */
  readonly isOut: boolean;
  readonly epoch: number;
  readonly membershipVersion: number;
  readonly clusterGeneration: number;
}

/** The note as the disk has it. */
export interface StoredNote {
  /** null: there was no room for it. */
  readonly name: string | null;
  readonly blockBytes: 512 | 4096;
  readonly replicaCount: number;
  readonly isOut: boolean;
  readonly membershipVersion: number;
}

/** What a disk knows of a replica whose owner is gone. */
export interface ReplicaFacts {
  /** The highest that took it over. */
  readonly epoch: number;
  /** The newest metadata that an owner came with, or a note came from. */
  readonly membershipVersion: number;
  readonly clusterGeneration: number;
  readonly committed: Stamp;
  readonly newest: Stamp;
  /** null: none was ever written. */
  readonly note: StoredNote | null;
}
