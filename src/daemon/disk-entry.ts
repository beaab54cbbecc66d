// One disk of the store as the daemon holds it: what is declared, in which state it is, the work
// under way on it. And how it looks to others: as the data plane's spec, as the API's Disk.

import type { DeclaredDisk } from "../model/declared.ts";
import type { Disk, DiskCheck, DiskState, DiskTask, DiskUsage } from "../model/disk-types.ts";
import type { Health } from "../model/types.ts";
import type { StoreDiskSpec, StoreDiskStats } from "../ports/store-disk.ts";
import { OperationQueue } from "./operation-queue.ts";

export class DiskEntry extends OperationQueue {
  declared: DeclaredDisk;
  state: DiskState;
  /** Why it is not ready. */
  problem: Health | null = null;
  task: DiskTask | null = null;
  lastCheck: DiskCheck | null = null;
  /** The attempt to open it that is under way; never rejects. */
  opening: Promise<void> = Promise.resolve();
  retryTimer: NodeJS.Timeout | null = null;
  retryCount = 0;

  constructor(declared: DeclaredDisk) {
    super("disk_busy", `disk ${declared.name}`);
    this.declared = declared;
    this.state = declared.phase === "formatting" ? "formatting" : "opening";
  }

  cancelRetry(): void {
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    this.retryTimer = null;
  }
}

export function diskSpecOf(declared: DeclaredDisk): StoreDiskSpec {
  const { id, name, path, incarnation, clean } = declared;
  return { id, name, path, incarnationSeen: incarnation, cleanSeen: clean };
}

/** A disk that is open tells by itself that a write failed. */
export function diskStateOf(entry: DiskEntry, stats: StoreDiskStats | undefined): DiskState {
  return entry.state === "ready" && stats?.phase === "failed" ? "failed" : entry.state;
}

export function diskHealthOf(
  entry: DiskEntry,
  stats: StoreDiskStats | undefined,
): readonly Health[] {
  const { name, path } = entry.declared;
  const items: Health[] = entry.problem === null ? [] : [entry.problem];
  if (entry.state !== "ready" || stats === undefined) return items;
  if (stats.phase === "failed") {
    const message = `${path} failed a write: disk ${name} answers reads and refuses writes`;
    items.push({ code: "DISK_FAILED", severity: "error", message });
  }
  const { badBlockCount, uncertainCount, freeBytes, totalBytes } = stats.usage;
  if (badBlockCount > 0) {
    const message = `${badBlockCount} blocks on disk ${name} do not match their checksums`;
    items.push({ code: "DISK_CORRUPTION", severity: "error", message });
  }
  if (uncertainCount > 0) {
    const message = `${uncertainCount} writes at the end of the journal may or may not be kept`;
    items.push({ code: "DISK_UNCERTAIN_TAIL", severity: "warn", message });
  }
  if (freeBytes < totalBytes * SPACE_WARN_SHARE) {
    const message = `disk ${name} is nearly full: ${freeBytes} bytes are free`;
    items.push({ code: "DISK_LOW_SPACE", severity: "warn", message });
  }
  for (const { code, message } of stats.health) items.push({ code, severity: "error", message });
  return items;
}

const SPACE_WARN_SHARE = 0.05;

function usageOf(stats: StoreDiskStats): DiskUsage {
  return { ...stats.usage };
}

function taskOf(entry: DiskEntry, stats: StoreDiskStats | undefined): DiskTask | null {
  if (entry.task !== null) return entry.task;
  if (stats?.phase !== "opening") return null;
  return { kind: "open", ...stats.progress };
}

export function viewDisk(
  entry: DiskEntry,
  stats: StoreDiskStats | undefined,
  volumeCount: number,
): Disk {
  const { declared } = entry;
  const isOpen = entry.state === "ready" && stats !== undefined && stats.phase !== "opening";
  return {
    id: declared.id,
    name: declared.name,
    path: declared.path,
    state: diskStateOf(entry, stats),
    sizeBytes: declared.sizeBytes,
    durability: declared.durability,
    durabilityReason: declared.durabilityReason,
    createdAt: declared.createdAt,
    incarnation: declared.incarnation,
    usage: isOpen ? usageOf(stats) : null,
    volumeCount,
    task: taskOf(entry, stats),
    lastCheck: entry.lastCheck,
    health: diskHealthOf(entry, stats),
  };
}
