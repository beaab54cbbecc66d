// chunk/: the store, a crash-proof, checksummed storage engine for one disk.

export { type CheckFinding, type CheckReport, checkDisk } from "./check-disk.ts";
export { StoreError, type StoreErrorCode } from "./errors.ts";
export {
  type BlockIo,
  type DiskContent,
  type FormatOptions,
  formatDisk,
  inspectDisk,
} from "./format-disk.ts";
export { Store, type StorePhase } from "./store.ts";
export type { StoreOptions } from "./store-assembly.ts";
export { StoreReplica, type StoreReplicaOptions } from "./store-replica.ts";
export type { StoreUsage } from "./store-usage.ts";
export { StoreVolume } from "./store-volume.ts";
export type { DiskFacts, Durability } from "./superblock-facts.ts";
