// chunk/: the store, a crash-proof, checksummed storage engine for one disk.

export { StoreError, type StoreErrorCode } from "./errors.ts";
export {
  type BlockIo,
  type DiskContent,
  type FormatOptions,
  formatDisk,
  inspectDisk,
} from "./format-disk.ts";
export { Store, type StoreOptions, type StorePhase, type StoreUsage } from "./store.ts";
export { StoreVolume } from "./store-volume.ts";
export type { DiskFacts, Durability } from "./superblock-facts.ts";
