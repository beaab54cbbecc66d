// What an opening says: why a disk is refused before anything is written to it, and what its
// recovery found.

import type { Log } from "../ports/index.ts";
import { StoreError } from "./errors.ts";
import type { RecoveryReport } from "./recovery.ts";
import type { Superblock } from "./superblock.ts";

/** Is the disk an old copy of itself, or cut off? */
export function openingRefusal(
  superblock: Superblock,
  incarnationMin: number | undefined,
  capacityBytes: number,
): StoreError | null {
  if (incarnationMin !== undefined && superblock.incarnation < incarnationMin) {
    return new StoreError(
      "DISK_STALE",
      `the disk was last opened as incarnation ${superblock.incarnation}, ` +
        `but incarnation ${incarnationMin} has been seen: it is an old copy of itself`,
      { advice: "Bring the current disk back, or forget this one and restore its volumes." },
    );
  }
  if (superblock.diskBytes > capacityBytes) {
    const has = `${capacityBytes} of ${superblock.diskBytes} bytes`;
    return new StoreError("DISK_DAMAGED", `the disk has become smaller: ${has}`);
  }
  return null;
}

const UNCERTAIN_LOGGED_MAX = 100;

export function logRecovery(log: Log, report: RecoveryReport): void {
  const level = report.uncertain.length + report.rottenBlocks > 0 ? "warn" : "info";
  log.log(level, "store.recovered", {
    clean: report.wasClean,
    logRecords: report.logRecords,
    ringGroups: report.ringGroups,
    ringRecords: report.ringRecords,
    uncertainWrites: report.uncertain.length,
    rottenBlocks: report.rottenBlocks,
    cutGroups: report.cutGroups,
  });
  for (const { volume, extent, block } of report.uncertain.slice(0, UNCERTAIN_LOGGED_MAX)) {
    log.log("warn", "store.uncertain-write", { volume, extent, block });
  }
}
