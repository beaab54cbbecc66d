// uring/: submission and completion rings as typed arrays; implements Disk
// and Stream. Never interprets data.

export { BackingError, type BackingErrorCode, explainOpen, failure } from "./backing-error.ts";
export { createDisk, type DiskModules } from "./create-disk.ts";
export { type DiskGeometry, type OwnedDisk, UringDisk } from "./disk.ts";
export type { BackingKind, BackingShape } from "./measure.ts";
export {
  BackingOpening,
  closeBacking,
  type OpenBackingOptions,
  type OpenedBacking,
} from "./open.ts";
export { type CompletionHandler, Ring, type RingFile, type RingOptions } from "./ring.ts";
export { UringUnavailable } from "./setup.ts";
export { UringDialer, UringListener, UringStream } from "./stream.ts";
export { type DeferredScheduler, type DeferredSource, SyncDisk } from "./sync-disk.ts";
