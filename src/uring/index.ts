// uring/: submission and completion rings as typed arrays; implements Disk. Never interprets data.

export { type DiskGeometry, type OwnedDisk, UringDisk } from "./disk.ts";
export { type CompletionHandler, Ring, type RingFile, type RingOptions } from "./ring.ts";
export { UringUnavailable } from "./setup.ts";
export { type DeferredScheduler, type DeferredSource, SyncDisk } from "./sync-disk.ts";
