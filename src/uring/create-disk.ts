// Which Disk serves which backing. Measured on Linux 6.18: through io_uring every operation on
// tmpfs goes to a kernel thread (2.3 us of CPU each), a direct system call is one copy (1 us).

import type { DiskGeometry, OwnedDisk } from "./disk.ts";
import { UringDisk } from "./disk.ts";
import type { BackingKind } from "./measure.ts";
import type { Ring } from "./ring.ts";
import { type DeferredScheduler, SyncDisk } from "./sync-disk.ts";

export interface DiskModules {
  readonly ring: Ring;
  readonly scheduler: DeferredScheduler;
  /** Requests that can be in flight at once; power of two. */
  readonly requestSlots: number;
}

/** The disk over an opened backing's descriptor, to be used on the ring's thread. */
export function createDisk(
  backing: { readonly fd: number; readonly kind: BackingKind } & DiskGeometry,
  modules: DiskModules,
): OwnedDisk {
  if (backing.kind !== "tmpfs") return new UringDisk(modules.ring, backing.fd, backing);
  return new SyncDisk(modules, backing.fd, backing, modules.requestSlots);
}
