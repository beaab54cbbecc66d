// Disks of the store as the control plane sees them: what the data plane is asked to open, what it
// tells about an open disk, and the tools that work on a disk nobody has open. Plain data, so that
// it crosses threads and processes.

import type { HealthItem } from "./data-plane.ts";

/** What makes a completed write durable: see docs and the superblock. */
export type DiskDurability = "write-through" | "plp" | "volatile";

export interface StoreDiskSpec {
  /** UUID in its superblock. */
  readonly id: string;
  readonly name: string;
  readonly path: string;
  /**
   * What the last opening left: a disk that says less was rolled back, and is refused before
   * anything is written to it.
   */
  readonly incarnationSeen: number;
  readonly cleanSeen: boolean;
}

export interface StoreDiskFacts {
  readonly id: string;
  readonly label: string;
  /** Counts openings. */
  readonly incarnation: number;
  readonly diskBytes: number;
  readonly dataBytes: number;
  readonly ringBytes: number;
  readonly durability: DiskDurability;
}

export interface StoreDiskUsage {
  readonly totalBytes: number;
  readonly usedBytes: number;
  readonly freeBytes: number;
  readonly quarantinedBytes: number;
  readonly badBlockCount: number;
  readonly scrubPositionBytes: number;
  readonly ringBytes: number;
  readonly ringUsedBytes: number;
  /** Writes found at the last opening of which it is not known whether they had been answered. */
  readonly uncertainCount: number;
}

export interface DiskProgress {
  readonly step: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** failed = a write failed: reads go on, writes get EIO. */
export type StoreDiskPhase = "opening" | "ready" | "failed";

export interface StoreDiskStats {
  readonly diskId: string;
  readonly phase: StoreDiskPhase;
  readonly progress: DiskProgress;
  readonly usage: StoreDiskUsage;
  /** What the store counted since it was opened, by name. */
  readonly counters: Readonly<Record<string, number>>;
  readonly health: readonly HealthItem[];
}

export interface DiskFinding {
  readonly severity: "error" | "warning" | "note";
  readonly where: string;
  readonly message: string;
}

export interface DiskReport {
  readonly errorCount: number;
  readonly warningCount: number;
  readonly blocksVerified: number;
  readonly pagesVerified: number;
  readonly groupsVerified: number;
  /** The first of them; `findingCount` says how many there were. */
  readonly findings: readonly DiskFinding[];
  readonly findingCount: number;
}

export interface FormatJob {
  readonly id: string;
  readonly label: string;
  readonly path: string;
  /** Size of the file to be made, or that the file there is extended to; null = as it is. */
  readonly sizeBytes: number | null;
  /** full: every byte of a file is written once, so that later writes need no new extents. */
  readonly allocation: "full" | "sparse";
  readonly durability: DiskDurability;
  /** Whatever is on it now is lost. */
  readonly force: boolean;
}

/** A format that is under way. */
export interface Formatting {
  /** Everything was checked, nothing is in the way: from here on the disk is written. */
  readonly accepted: Promise<void>;
  readonly done: Promise<StoreDiskFacts>;
}

/** Work on a disk that nobody has open, off every reactor. Rejects with RingstoreErrors. */
export interface DiskTools {
  /** What the system says about the device's write cache, or about the one under a file. */
  detectDurability(path: string): { readonly durability: DiskDurability; readonly reason: string };
  format(job: FormatJob, progress: (progress: DiskProgress) => void): Formatting;
  check(path: string, progress: (progress: DiskProgress) => void): Promise<DiskReport>;
  /** Removes what a format that was cut short has left behind of a file it was to make. */
  takeBack(job: { readonly id: string; readonly path: string }): Promise<void>;
  /** Ends what runs. */
  stop(): Promise<void>;
}
