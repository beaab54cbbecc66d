// Disks of the store as they cross the REST API, as plain types. The rules of types.ts hold here
// too: a field exists here and in disk-schemas.ts, or the build fails.

import type { Health } from "./types.ts";

/**
 * What makes a completed write durable. write-through: the device has no volatile cache. plp: its
 * cache survives a power loss. volatile: writes carry FUA, or the cache is flushed.
 */
export type DiskDurability = "write-through" | "plp" | "volatile";

export type DiskState =
  | "formatting"
  /** Being opened: what was in flight at the last stop is recovered. */
  | "opening"
  | "ready"
  /** Closed, and examined by the checker. */
  | "checking"
  /** A write failed, or it cannot be opened; reads of a disk that was open go on. See `health`. */
  | "failed"
  /** The file or device is not there. */
  | "missing"
  /** Another disk, a blank one, or an older state of this one: never served. */
  | "stale";

/** Work under way. */
export interface DiskTask {
  readonly kind: "format" | "open" | "check";
  readonly step: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface DiskUsage {
  /** For data: the disk without journals and tables. */
  readonly totalBytes: number;
  readonly usedBytes: number;
  readonly freeBytes: number;
  /** Freed, and not to be used again yet. */
  readonly quarantinedBytes: number;
  readonly badBlockCount: number;
  readonly scrubPositionBytes: number;
  readonly ringBytes: number;
  readonly ringUsedBytes: number;
  /** Writes found at the last opening of which it is not known whether they had been answered. */
  readonly uncertainCount: number;
}

export interface DiskCheckFinding {
  readonly severity: "error" | "warning" | "note";
  readonly where: string;
  readonly message: string;
}

export interface DiskCheck {
  readonly at: string;
  readonly errorCount: number;
  readonly warningCount: number;
  readonly blocksVerified: number;
  readonly pagesVerified: number;
  readonly groupsVerified: number;
  readonly findingCount: number;
  /** The first of them. */
  readonly findings: readonly DiskCheckFinding[];
  /** Why the check could not be carried out, null when it was. */
  readonly failure: string | null;
}

export interface Disk {
  /** UUID in its superblock. */
  readonly id: string;
  readonly name: string;
  readonly path: string;
  readonly state: DiskState;
  readonly sizeBytes: number;
  readonly durability: DiskDurability;
  /** How that was found out, or that it was said so. */
  readonly durabilityReason: string;
  readonly createdAt: string;
  /** Counts openings. */
  readonly incarnation: number;
  /** Null unless it is open. */
  readonly usage: DiskUsage | null;
  readonly volumeCount: number;
  readonly task: DiskTask | null;
  /** Since the daemon started. */
  readonly lastCheck: DiskCheck | null;
  readonly health: readonly Health[];
}

export interface DiskList {
  readonly disks: readonly Disk[];
}

export interface DiskCreate {
  /** A block device, or a file: one that exists, or with `sizeBytes` one to be made. */
  readonly path: string;
  /** Also its label; by default made from the path. */
  readonly name?: string;
  readonly sizeBytes?: number;
  readonly allocation?: "full" | "sparse";
  readonly durability?: "auto" | DiskDurability;
  /** Whatever is on it now is lost. */
  readonly force?: boolean;
}

export interface DiskRemoveReply {
  readonly disk: string;
  /** What is on it stays on it. */
  readonly path: string;
  /** Volumes that lived on it and are deleted with it: those of a disk that is gone, by force. */
  readonly volumes: readonly string[];
}
