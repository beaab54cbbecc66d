// A volume's record in the metadata store, as its owner uses it: read, and changed by compare-and-
// swap. One record at a time; the caller never asks for two things at once.
//
// An answer may be "unknown": the swap may have been applied, or may still be. Nothing may be taken
// for granted then; the owner asks again until it knows.

/** Which write of a volume: epochs in order, sequences in order within one. */
export interface Stamp {
  readonly epoch: number;
  readonly sequence: number;
}

export interface OutMember {
  readonly disk: string;
  /** Everything up to it is on the disk. */
  readonly sinceStamp: Stamp;
  readonly reason: string;
}

/**
 * "clean": nothing was under way when the owner let go. "handed-over": the same, and `owner` is
 * whom it gave the volume to, in an epoch that nobody has written in yet. Otherwise "open".
 */
export type OwnedState = "clean" | "open" | "handed-over";

export interface OwnedRecord {
  readonly epoch: number;
  /** The incarnation of the daemon that owns the volume; null = nobody. */
  readonly owner: string | null;
  readonly state: OwnedState;
  /** Disks with a replica. In sync are those that are not in `out`. */
  readonly members: readonly string[];
  readonly out: readonly OutMember[];
  /** Rises with each change of `members` or `out`. */
  readonly membershipVersion: number;
  readonly clusterGeneration: number;
}

export interface RecordEntry {
  readonly record: OwnedRecord;
  /** Of the key's last change; opaque. */
  readonly revision: number;
}

export type RecordSwap =
  | { readonly outcome: "applied"; readonly revision: number }
  /** Somebody changed it since `revision`; what is there now. */
  | { readonly outcome: "conflict"; readonly found: RecordEntry }
  | { readonly outcome: "unknown" };

export interface VolumeRecords {
  /** Linearizable. null: no answer; ask again later. */
  read(done: (entry: RecordEntry | null) => void): void;
  swap(revision: number, record: OwnedRecord, done: (answer: RecordSwap) => void): void;
}
