// What a store tells of itself: space, to the byte, and what it has done.

import {
  BLOCK_BYTES,
  RECORD_FRESH,
  RECORD_JOURNAL,
  RECORD_REDIRECT,
  SLAB_BYTES,
} from "./layouts.ts";
import type { RecoveryReport } from "./recovery.ts";
import type { StoreAssembly } from "./store-assembly.ts";

export interface StoreUsage {
  readonly totalBytes: number;
  readonly usedBytes: number;
  readonly freeBytes: number;
  readonly quarantinedBytes: number;
  /** Promised to writes on their way. */
  readonly reservedBytes: number;
  readonly ringBytes: number;
  readonly ringUsedBytes: number;
  readonly logBytes: number;
  readonly logUsedBytes: number;
  readonly badBlockCount: number;
  readonly damagedPageCount: number;
  readonly scrubPositionBytes: number;
  readonly scrubRounds: number;
  readonly counters: StoreCounters;
  readonly recovery: RecoveryReport | null;
}

export interface StoreCounters {
  readonly freshWrites: number;
  readonly redirectedWrites: number;
  readonly journaledWrites: number;
  readonly groupsWritten: number;
  readonly ringBlocksWritten: number;
  readonly logBlocksWritten: number;
  readonly writtenBackBlocks: number;
  readonly overtakenBlocks: number;
  readonly checkpoints: number;
  readonly pagesWritten: number;
  readonly pagesLoaded: number;
  readonly readRetries: number;
  readonly noSpaceErrors: number;
}

/** Space first; `recovery` is what the last opening found. */
export function usageOf(all: StoreAssembly, recovery: RecoveryReport | null): StoreUsage {
  const { geometry, slabs, ring, metadataLog, checkpoint, damage } = all.parts;
  const heldCount = slabs.slabCount - slabs.freeCount - slabs.usedCount - slabs.quarantineCount;
  return {
    totalBytes: slabs.slabCount * SLAB_BYTES,
    usedBytes: slabs.usedCount * SLAB_BYTES,
    freeBytes: slabs.freeCount * SLAB_BYTES,
    quarantinedBytes: slabs.quarantineCount * SLAB_BYTES,
    reservedBytes: heldCount * SLAB_BYTES,
    ringBytes: geometry.ringBytes,
    ringUsedBytes: ring.usedBlocks * BLOCK_BYTES,
    logBytes: geometry.logBytes,
    logUsedBytes: metadataLog.usedBlocks * BLOCK_BYTES,
    badBlockCount: damage.blockCount,
    damagedPageCount: damage.pageCount,
    scrubPositionBytes: all.scrub.positionBytes,
    scrubRounds: checkpoint.scrubRounds,
    recovery,
    counters: countersOf(all),
  };
}

function countersOf(all: StoreAssembly): StoreCounters {
  const { ring, metadataLog, checkpoint, writeBack, cache } = all.parts;
  return {
    freshWrites: all.writes.classCounts[RECORD_FRESH] as number,
    redirectedWrites: all.writes.classCounts[RECORD_REDIRECT] as number,
    journaledWrites: all.writes.classCounts[RECORD_JOURNAL] as number,
    groupsWritten: ring.groupsWritten,
    ringBlocksWritten: ring.blocksWritten,
    logBlocksWritten: metadataLog.blocksWritten,
    writtenBackBlocks: writeBack.blocksWritten,
    overtakenBlocks: writeBack.blocksOvertaken,
    checkpoints: checkpoint.count,
    pagesWritten: checkpoint.pagesWritten,
    pagesLoaded: cache.loadCount,
    readRetries: all.reads.retryCount,
    noSpaceErrors: all.writes.noSpaceCount,
  };
}
