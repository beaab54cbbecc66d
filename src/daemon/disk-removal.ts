// Letting go of a disk. What is on it stays on it, so that it can be found again elsewhere.
//
//   remove            close -> remove the declaration
//   remove, by force  remove the declarations of its volumes -> remove its own
//
// Force is for a disk that is gone for good: one that cannot be opened, or fails. Its volumes lived
// only there, so nothing of them is left but their declarations. A crash in between leaves a disk
// with fewer volumes, and the command to be given again.

import type { DiskRemoveOptions } from "../api/control-plane.ts";
import type { DiskRemoveReply } from "../model/disk-types.ts";
import { ApiError } from "../model/errors.ts";
import { type DiskEntry, diskStateOf } from "./disk-entry.ts";
import type { DiskHost } from "./disk-host.ts";
import { noteFailure, startOpening } from "./disk-opening.ts";
import {
  closeDisk,
  listOf,
  requireIdle,
  requireRunning,
  requireUnused,
} from "./disk-operations.ts";
import { asApiError } from "./failure.ts";

export async function removeDisk(
  host: DiskHost,
  name: string,
  options: DiskRemoveOptions,
): Promise<DiskRemoveReply> {
  requireRunning(host);
  const entry = requireIdle(host, name);
  const { path } = entry.declared;
  if (options.dryRun) return { disk: name, path, volumes: doomed(host, entry, options) };
  return await entry.exclusively(async () => {
    const volumes = doomed(host, entry, options);
    entry.cancelRetry();
    try {
      if (entry.state === "ready") await closeDisk(host, entry);
    } catch (error) {
      noteFailure(host, entry, error);
      throw asApiError(error, `cannot remove disk ${name}`);
    }
    try {
      await host.forgetUsers(entry.declared.id);
      await host.modules.store.remove(name);
    } catch (error) {
      startOpening(host, entry);
      throw asApiError(error, `cannot remove disk ${name}`);
    }
    entry.state = "failed";
    host.entries.delete(name);
    host.modules.events.addDisk("disk.removed", name, `${path} keeps what is on it`);
    return { disk: name, path, volumes };
  });
}

/** The volumes that go with it. Refuses what must not be done. */
function doomed(host: DiskHost, entry: DiskEntry, options: DiskRemoveOptions): readonly string[] {
  const { id, name } = entry.declared;
  requireUnused(host, entry, "removed");
  const volumes = host.usersOf(id).map((user) => user.name);
  if (volumes.length === 0) return [];
  const message = `disk ${name} holds volumes: ${listOf(volumes)}`;
  const isGone = isLost(host, entry);
  if (options.force && isGone) return volumes;
  const byForce = `if it is gone for good, --force deletes them with it`;
  const advice = isGone ? `bring the disk back; ${byForce}` : "delete them first";
  throw new ApiError("disk_busy", message, { advice });
}

function isLost(host: DiskHost, entry: DiskEntry): boolean {
  const state = diskStateOf(entry, host.statsById().get(entry.declared.id));
  return state === "missing" || state === "stale" || state === "failed";
}
