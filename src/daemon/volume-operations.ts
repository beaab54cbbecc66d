// The operations on volumes: create, resize, delete; volume-attach.ts has attach and detach. Each
// is a sequence of durable declarations and data-plane calls in an order that a crash anywhere
// leaves either undone, or to be finished at the next start (volume-recovery.ts):
//
//   create   declare creating -> make the backing -> declare ready
//   resize   declare the wish -> resize           -> declare the size
//   delete   declare deleting -> remove backing   -> remove the declaration

import type { Caller, RequestOptions } from "../api/control-plane.ts";
import { formatBytes } from "../base/units.ts";
import type { DeclaredBacking, DeclaredVolume } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { BLOCK_BYTES_DEFAULT, STORE_BLOCK_BYTES, VOLUME_COUNT_MAX } from "../model/limits.ts";
import type {
  BackingKind,
  DeleteReply,
  Volume,
  VolumeCreate,
  VolumeResize,
} from "../model/types.ts";
import { checkSerial, checkVolumeName, checkVolumeSize } from "../model/volume-rules.ts";
import { checkNotUsed, checkPathAllowed, chooseKind, inspectBacking } from "./backing.ts";
import { nameBytesMax } from "./data-directory.ts";
import { usedDisks } from "./disk-operations.ts";
import { asApiError } from "./failure.ts";
import { isManaged, serialOf, specOf, staysOpen, VolumeEntry, viewOf } from "./volume-entry.ts";
import type { VolumeHost } from "./volume-host.ts";

export async function createVolume(
  host: VolumeHost,
  request: VolumeCreate,
  caller: Caller,
  options: RequestOptions,
): Promise<Volume> {
  host.requireRunning();
  const declared = planVolume(host, request, caller);
  if (options.dryRun) return viewOf(host.surroundings, new VolumeEntry(declared), undefined);
  // The name is taken from here on, before the first wait.
  const entry = host.add(declared);
  return await entry.exclusively(async () => {
    try {
      await host.modules.store.save(declared);
      await host.openBacking(entry, declared.backing.kind !== "file" || isManaged(declared));
      if (!staysOpen(declared)) await host.closeBacking(entry);
      await host.declare(entry, { phase: "ready" });
    } catch (error) {
      await takeBack(host, entry);
      throw asApiError(error, `cannot create volume ${declared.name}`);
    }
    host.modules.events.add("volume.created", declared.name, formatBytes(declared.sizeBytes));
    return host.view(entry);
  });
}

function planVolume(host: VolumeHost, request: VolumeCreate, caller: Caller): DeclaredVolume {
  const { name, blockBytes = BLOCK_BYTES_DEFAULT } = request;
  checkVolumeName(name);
  const kind = chooseKind(request, host.modules.disks.usable().length > 0);
  checkRoom(host, name);
  const id = host.modules.uuid();
  const serial = request.serial ?? serialOf(id);
  checkSerial(serial);
  const { sizeBytes, backing } = planBacking(host, request, caller, kind);
  return {
    id,
    name,
    sizeBytes,
    blockBytes,
    readOnly: request.readOnly ?? false,
    serial,
    backing,
    createdAt: host.modules.now().toISOString(),
    phase: "creating",
    resizeToBytes: null,
    generation: 0,
    attachment: null,
  };
}

/** Is there room for one more volume on this node, of that name? */
export function checkRoom(host: VolumeHost, name: string): void {
  if (host.entries.has(name) || host.damaged.has(name)) {
    throw new ApiError("volume_exists", `volume ${name} exists`, {
      advice: `choose another name, or see: ringstore volume show ${name}`,
    });
  }
  if (host.entries.size + host.damaged.size >= VOLUME_COUNT_MAX) {
    throw new ApiError("limit_reached", `this daemon has ${VOLUME_COUNT_MAX} volumes already`, {
      advice: "delete volumes, or run a second daemon with its own data directory",
    });
  }
  const lengthMax = nameBytesMax(host.options.paths);
  if (name.length > lengthMax) {
    const message = `volume name ${name} makes its socket path too long for Linux`;
    throw new ApiError("invalid_request", message, {
      advice: `use at most ${lengthMax} characters, or start ringstored with a short --socket-dir`,
    });
  }
}

function planBacking(
  host: VolumeHost,
  request: VolumeCreate,
  caller: Caller,
  kind: BackingKind,
): { readonly sizeBytes: number; readonly backing: DeclaredBacking } {
  const { blockBytes = BLOCK_BYTES_DEFAULT } = request;
  if (request.path !== undefined) {
    checkPathAllowed(request.path, caller, host.options.allowPaths);
    const existing = inspectBacking(request.path);
    checkNotUsed(existing.path, usedFiles(host));
    checkNotUsed(existing.path, usedDisks(host.modules.disks), "disk");
    // A file's last, incomplete block is not served.
    const wholeBytes = existing.sizeBytes - (existing.sizeBytes % blockBytes);
    const sizeBytes = request.sizeBytes ?? wholeBytes;
    checkVolumeSize(sizeBytes, blockBytes, blockBytes);
    if (sizeBytes > existing.sizeBytes) {
      const message = `${existing.path} has ${existing.sizeBytes} bytes, fewer than ${sizeBytes}`;
      const advice = "enlarge it first, e.g. with truncate -s, or leave the size out";
      throw new ApiError("backing_too_small", message, { advice });
    }
    const backing = {
      kind: "file",
      path: existing.path,
      direct: request.direct ?? "auto",
    } as const;
    return { sizeBytes, backing };
  }
  if (request.sizeBytes === undefined) {
    throw new ApiError("invalid_request", "sizeBytes is missing", {
      advice: "give a size; it may be left out only when path names something that exists",
    });
  }
  if (kind === "store") {
    checkVolumeSize(request.sizeBytes, STORE_BLOCK_BYTES);
    const diskId = host.modules.disks.choose(request.disk).declared.id;
    return { sizeBytes: request.sizeBytes, backing: { kind, diskId } };
  }
  checkVolumeSize(request.sizeBytes, blockBytes);
  if (kind !== "file") return { sizeBytes: request.sizeBytes, backing: { kind } };
  const backing = { kind: "file", path: null, direct: request.direct ?? "auto" } as const;
  return { sizeBytes: request.sizeBytes, backing };
}

export function* usedFiles(host: VolumeHost): Generator<readonly [string, string]> {
  for (const { declared } of host.entries.values()) {
    const { backing } = specOf(host.options.paths, declared);
    if (backing.kind === "file") yield [declared.name, backing.path];
  }
}

/** Undoes a create that failed. What cannot be undone now is undone by delete or the next start. */
async function takeBack(host: VolumeHost, entry: VolumeEntry): Promise<void> {
  try {
    await removeEverything(host, entry);
  } catch (error) {
    host.report("take back create", entry, error);
    entry.problem = {
      code: "CREATE_UNFINISHED",
      severity: "error",
      message: "creating failed and could not be undone; delete the volume",
    };
  }
}

/** Closes and removes the backing if it is ours, secrets, the declaration, then the entry. */
export async function removeEverything(host: VolumeHost, entry: VolumeEntry): Promise<void> {
  const { declared } = entry;
  await host.closeBacking(entry);
  if (isManaged(declared)) {
    const { backing } = declared;
    if (backing.kind === "store") await host.modules.disks.requireReady(backing.diskId);
    await host.modules.dataPlane.deleteBacking(specOf(host.options.paths, declared));
  }
  await host.modules.classic.forget(declared.id);
  await host.modules.store.remove(declared.name);
  host.entries.delete(declared.name);
}

export async function resizeVolume(
  host: VolumeHost,
  name: string,
  request: VolumeResize,
  options: RequestOptions,
): Promise<Volume> {
  return await host.withVolume(name, async (entry) => {
    requireReady(entry);
    const { sizeBytes: wantedBytes } = request;
    const { sizeBytes: presentBytes, blockBytes, attachment } = entry.declared;
    const isStore = entry.declared.backing.kind === "store";
    checkVolumeSize(wantedBytes, isStore ? STORE_BLOCK_BYTES : blockBytes);
    if (isStore && wantedBytes < presentBytes) {
      const message = `volume ${name} has ${presentBytes} bytes, more than ${wantedBytes}`;
      throw new ApiError("unsupported", message, {
        advice: "volumes in the store only grow; make a smaller one and copy what is needed",
      });
    }
    if (wantedBytes < presentBytes && request.allowDataLoss !== true) {
      const message = `volume ${name} has ${presentBytes} bytes; ${wantedBytes} would cut data off`;
      const advice = "to lose everything beyond the new size, allow data loss (--allow-data-loss)";
      throw new ApiError("invalid_request", message, { advice });
    }
    if (attachment !== null && !entry.serving) throw unavailable(entry);
    if (options.dryRun) return { ...host.view(entry), sizeBytes: wantedBytes };
    if (wantedBytes === presentBytes) return host.view(entry);
    await host.declare(entry, { resizeToBytes: wantedBytes });
    try {
      const wasOpen = entry.open;
      if (wasOpen) await applyResize(host, entry, wantedBytes);
      else await host.reopenBacking(entry);
    } catch (error) {
      await host.declare(entry, { resizeToBytes: null });
      throw asApiError(error, `cannot resize volume ${name}`);
    } finally {
      if (!entry.serving) await host.restBacking(entry);
    }
    const change = `${formatBytes(presentBytes)} to ${formatBytes(wantedBytes)}`;
    host.modules.events.add("volume.resized", name, change);
    return host.view(entry);
  });
}

async function applyResize(host: VolumeHost, entry: VolumeEntry, bytes: number): Promise<void> {
  await host.modules.dataPlane.resizeVolume(entry.declared.id, bytes);
  await host.declare(entry, { sizeBytes: bytes, resizeToBytes: null });
}

export async function removeVolume(
  host: VolumeHost,
  name: string,
  options: RequestOptions,
): Promise<DeleteReply> {
  return await host.withVolume(name, async (entry) => {
    const { declared } = entry;
    if (declared.attachment !== null) {
      throw new ApiError("volume_attached", `volume ${name} is attached`, {
        advice: `detach it first: ringstore volume detach ${name}`,
      });
    }
    const { backing } = specOf(host.options.paths, declared);
    const removedPath = backing.kind === "file" && isManaged(declared) ? backing.path : null;
    const disks = host.modules.disks;
    const removedFromDisk = backing.kind === "store" ? disks.nameOf(backing.diskId) : null;
    if (backing.kind === "store") await disks.requireReady(backing.diskId);
    const reply = { volume: name, removedPath, removedFromDisk };
    if (options.dryRun) return reply;
    try {
      await host.declare(entry, { phase: "deleting" });
      await removeEverything(host, entry);
    } catch (error) {
      throw asApiError(error, `cannot delete volume ${name}`);
    }
    const onDisk =
      removedFromDisk === null ? null : `its space on disk ${removedFromDisk} is freed`;
    const what = removedPath ?? onDisk ?? "its data was not ours to remove";
    host.modules.events.add("volume.deleted", name, what);
    return reply;
  });
}

export function requireReady(entry: VolumeEntry): void {
  const { phase, name } = entry.declared;
  if (phase === "ready") return;
  throw new ApiError("volume_unavailable", `volume ${name} is ${phase}`, {
    advice: `wait, or finish it with: ringstore volume delete ${name}`,
  });
}

function unavailable(entry: VolumeEntry): ApiError {
  const { name } = entry.declared;
  const reason = entry.problem?.message ?? "it is not served";
  return new ApiError("volume_unavailable", `volume ${name} is unavailable: ${reason}`, {
    advice: "see: ringstore advise",
  });
}
