// One volume as the daemon holds it: what is declared, what is really open and served, and the
// queue of operations on it. And how it looks to others: as the data plane's spec, as the API's
// Volume.

import type { DeclaredVolume } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { SOCKET_MODE, VOLUME_WAITER_MAX } from "../model/limits.ts";
import type { Attachment, Health, Volume, VolumeBacking, VolumeState } from "../model/types.ts";
import type { AttachmentSpec, Backing, VolumeSpec, VolumeStats } from "../ports/data-plane.ts";
import { type DataDirectory, socketPathOf, volumeFileOf } from "./data-directory.ts";

export class VolumeEntry {
  declared: DeclaredVolume;
  /** The data plane holds the backing open. */
  open = false;
  /** The data plane listens on the socket. */
  serving = false;
  /** Why a declared attachment is not served, or an operation could not be finished. */
  problem: Health | null = null;
  retryTimer: NodeJS.Timeout | null = null;
  retryCount = 0;
  #tail: Promise<unknown> = Promise.resolve();
  #waiterCount = 0;

  constructor(declared: DeclaredVolume) {
    this.declared = declared;
  }

  /** Operations on one volume happen one after the other, in the order they were asked for. */
  exclusively<T>(operation: () => Promise<T>): Promise<T> {
    if (this.#waiterCount >= VOLUME_WAITER_MAX) {
      const message = `${VOLUME_WAITER_MAX} operations wait for volume ${this.declared.name}`;
      throw new ApiError("volume_busy", message, { advice: "try again when they are done" });
    }
    this.#waiterCount += 1;
    const result = this.#tail.then(operation);
    this.#tail = result
      .catch(() => undefined)
      .finally(() => {
        this.#waiterCount -= 1;
      });
    return result;
  }

  get busy(): boolean {
    return this.#waiterCount > 0;
  }

  cancelRetry(): void {
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    this.retryTimer = null;
  }
}

export function isManaged(declared: DeclaredVolume): boolean {
  return declared.backing.kind === "file" && declared.backing.path === null;
}

/** Memory loses its contents when it is closed, so it stays open while it exists. */
export function staysOpen(declared: DeclaredVolume): boolean {
  return declared.backing.kind === "memory";
}

function backingOf(paths: DataDirectory, declared: DeclaredVolume): Backing {
  const { backing } = declared;
  if (backing.kind !== "file") return backing;
  const path = backing.path ?? volumeFileOf(paths, declared.id);
  return { kind: "file", path, direct: backing.direct };
}

/** `sizeBytes` differs from the declared one while a resize is finished. */
export function specOf(
  paths: DataDirectory,
  declared: DeclaredVolume,
  sizeBytes: number = declared.sizeBytes,
): VolumeSpec {
  const { id, name, blockBytes, readOnly, serial } = declared;
  const backing = backingOf(paths, declared);
  return { id, name, sizeBytes, blockBytes, readOnly, serial, backing };
}

export function attachmentSpecOf(
  paths: DataDirectory,
  declared: DeclaredVolume,
  socketGroupId: number,
): AttachmentSpec {
  const { attachment } = declared;
  if (attachment === null) throw new Error(`volume ${declared.name} is not declared attached`);
  return {
    volumeId: declared.id,
    socketPath: socketPathOf(paths, declared.name),
    socketMode: SOCKET_MODE,
    socketGroupId,
    queueCountMax: attachment.queueCountMax,
    packedAllowed: attachment.packedAllowed,
    readOnly: attachment.readOnly,
  };
}

function stateOf(entry: VolumeEntry, stats: VolumeStats | undefined): VolumeState {
  const { phase, attachment } = entry.declared;
  if (phase !== "ready") return phase;
  if (attachment === null) return "detached";
  if (!entry.serving) return "unavailable";
  return stats?.connected === true ? "connected" : "attached";
}

export function healthOf(entry: VolumeEntry, stats: VolumeStats | undefined): readonly Health[] {
  const items: Health[] = entry.problem === null ? [] : [entry.problem];
  for (const { code, message } of stats?.health ?? []) {
    items.push({ code, severity: "error", message });
  }
  return items;
}

export function viewOf(
  paths: DataDirectory,
  entry: VolumeEntry,
  stats: VolumeStats | undefined,
): Volume {
  const { declared } = entry;
  const spec = specOf(paths, declared);
  const backing: VolumeBacking =
    spec.backing.kind === "file" ? { ...spec.backing, managed: isManaged(declared) } : spec.backing;
  const attachment: Attachment | null =
    declared.attachment === null
      ? null
      : {
          generation: declared.generation,
          socket: socketPathOf(paths, declared.name),
          queueCountMax: declared.attachment.queueCountMax,
          packedAllowed: declared.attachment.packedAllowed,
          readOnly: declared.attachment.readOnly,
          attachedAt: declared.attachment.attachedAt,
          sessionCount: stats?.sessionCount ?? 0,
        };
  return {
    id: declared.id,
    name: declared.name,
    sizeBytes: declared.sizeBytes,
    blockBytes: declared.blockBytes,
    readOnly: declared.readOnly,
    serial: declared.serial,
    backing,
    createdAt: declared.createdAt,
    state: stateOf(entry, stats),
    attachment,
    health: healthOf(entry, stats),
  };
}
