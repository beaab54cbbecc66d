// What a store says about itself, as plain data for the main thread.

import type { DiskFacts, Store } from "../chunk/index.ts";
import type { HealthItem } from "../ports/data-plane.ts";
import type { StoreDiskFacts, StoreDiskStats, StoreDiskUsage } from "../ports/store-disk.ts";

export function diskFactsOf(facts: DiskFacts): StoreDiskFacts {
  const { uuid: id, label, incarnation, diskBytes, dataBytes, ringBytes, durability } = facts;
  return { id, label, incarnation, diskBytes, dataBytes, ringBytes, durability };
}

const NO_USAGE: StoreDiskUsage = {
  totalBytes: 0,
  usedBytes: 0,
  freeBytes: 0,
  quarantinedBytes: 0,
  badBlockCount: 0,
  scrubPositionBytes: 0,
  ringBytes: 0,
  ringUsedBytes: 0,
  uncertainCount: 0,
};

export function diskStatsOf(diskId: string, store: Store): StoreDiskStats {
  const progress = store.progress();
  if (store.phase === "opening" || store.phase === "closed") {
    return { diskId, phase: "opening", progress, usage: NO_USAGE, counters: {}, health: [] };
  }
  const usage = store.usage();
  const health: HealthItem[] = [];
  if (store.failure !== null) health.push({ code: "DISK_WRITE_FAILED", message: store.failure });
  if (usage.damagedPageCount > 0) {
    const message = `${usage.damagedPageCount} pages of its tables are damaged`;
    health.push({ code: "DISK_PAGES_DAMAGED", message });
  }
  return {
    diskId,
    phase: store.phase,
    progress,
    usage: {
      totalBytes: usage.totalBytes,
      usedBytes: usage.usedBytes,
      freeBytes: usage.freeBytes,
      quarantinedBytes: usage.quarantinedBytes,
      badBlockCount: usage.badBlockCount,
      scrubPositionBytes: usage.scrubPositionBytes,
      ringBytes: usage.ringBytes,
      ringUsedBytes: usage.ringUsedBytes,
      uncertainCount: usage.recovery?.uncertain.length ?? 0,
    },
    counters: { ...usage.counters },
    health,
  };
}
