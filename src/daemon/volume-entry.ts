// One volume as the daemon holds it: what is declared, and what is really open and served. And how
// it looks to others: as the data plane's spec, as the API's
// Volume.

import type { DeclaredAttachment, DeclaredVolume } from "../model/declared.ts";
import { SERIAL_LENGTH_MAX, SOCKET_MODE } from "../model/limits.ts";
import type { Attachment, Health, Volume, VolumeBacking, VolumeState } from "../model/types.ts";
import type { AttachmentSpec, Backing, VolumeSpec, VolumeStats } from "../ports/data-plane.ts";
import { shownClassic } from "./classic-attach.ts";
import {
  controllerSocketOf,
  type DataDirectory,
  socketPathOf,
  volumeFileOf,
} from "./data-directory.ts";
import { OperationQueue } from "./operation-queue.ts";
import { type PlannedScsi, unitText } from "./scsi-attach.ts";

export class VolumeEntry extends OperationQueue {
  declared: DeclaredVolume;
  /** The data plane holds the backing open. */
  open = false;
  /** The data plane listens on the socket, or has the target. */
  serving = false;
  /** Of a target that is served: the portal's `HOST:PORT`. */
  portal: string | null = null;
  /** What it is about to be declared as: the number is taken. */
  planned: PlannedScsi | null = null;
  /** Why a declared attachment is not served, or an operation could not be finished. */
  problem: Health | null = null;
  retryTimer: NodeJS.Timeout | null = null;
  retryCount = 0;

  constructor(declared: DeclaredVolume) {
    super("volume_busy", `volume ${declared.name}`);
    this.declared = declared;
  }

  cancelRetry(): void {
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    this.retryTimer = null;
  }
}

/** Its data was made by us, and is removed with it. */
export function isManaged({ backing }: DeclaredVolume): boolean {
  return backing.kind === "store" || (backing.kind === "file" && backing.path === null);
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

/** What a guest sees where nobody chose another. */
export function serialOf(volumeId: string): string {
  return volumeId.replaceAll("-", "").slice(0, SERIAL_LENGTH_MAX);
}

export type AttachmentSettings = Pick<
  AttachmentSpec,
  "queueCountMax" | "packedAllowed" | "readOnly"
>;

export function attachmentSpecOf(
  { paths, socketGroupId }: { readonly paths: DataDirectory; readonly socketGroupId: number },
  { id, name }: { readonly id: string; readonly name: string },
  { queueCountMax, packedAllowed, readOnly }: AttachmentSettings,
): AttachmentSpec {
  return {
    volumeId: id,
    socketPath: socketPathOf(paths, name),
    socketMode: SOCKET_MODE,
    socketGroupId,
    queueCountMax,
    packedAllowed,
    readOnly,
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

/** What a volume looks like depends on where things lie and what disks are called. */
export interface Surroundings {
  readonly paths: DataDirectory;
  readonly diskNameOf: (diskId: string) => string;
  /** Why volumes on it cannot be opened now, null when they can. */
  readonly diskProblemOf: (diskId: string) => string | null;
}

/** A volume may be well and its disk not. */
function diskHealth(surroundings: Surroundings, entry: VolumeEntry): readonly Health[] {
  const { backing } = entry.declared;
  if (backing.kind !== "store" || entry.problem !== null) return [];
  const message = surroundings.diskProblemOf(backing.diskId);
  return message === null ? [] : [{ code: "DISK_UNAVAILABLE", severity: "error", message }];
}

function shownBacking(surroundings: Surroundings, declared: DeclaredVolume): VolumeBacking {
  const { backing } = specOf(surroundings.paths, declared);
  switch (backing.kind) {
    case "file":
      return { ...backing, managed: isManaged(declared) };
    case "store":
      return { kind: "store", disk: surroundings.diskNameOf(backing.diskId) };
    case "cluster":
      throw new Error(`volume ${declared.name}: the cluster's volumes are not declared here`);
    default:
      return backing;
  }
}

/** `portal`: of a target that is served. */
export function shownAttachment(
  paths: DataDirectory,
  identity: Pick<DeclaredVolume, "id" | "name">,
  settings: DeclaredAttachment,
  {
    generation,
    portal,
    stats,
  }: {
    readonly generation: number;
    readonly portal: string | null;
    readonly stats: VolumeStats | undefined;
  },
): Attachment {
  const { queueCountMax, packedAllowed, readOnly, attachedAt, classic, scsi } = settings;
  const isSocket = classic === undefined;
  const socket =
    scsi === undefined
      ? socketPathOf(paths, identity.name)
      : controllerSocketOf(paths, scsi.controller);
  return {
    generation,
    socket: isSocket ? socket : null,
    classic: isSocket ? null : shownClassic(identity, classic, portal),
    scsi: scsi ?? null,
    queueCountMax,
    packedAllowed,
    readOnly,
    attachedAt,
    sessionCount: stats?.sessionCount ?? 0,
  };
}

/** Where it is served, for events. */
export function placeText({ attachment }: Volume): string {
  const { classic = null, scsi = null } = attachment ?? {};
  if (scsi !== null) return unitText(scsi);
  return classic === null ? `socket ${attachment?.socket}` : `target ${classic.target}`;
}

export function viewOf(
  surroundings: Surroundings,
  entry: VolumeEntry,
  stats: VolumeStats | undefined,
): Volume {
  const { declared, serving } = entry;
  const { attachment, generation } = declared;
  const backing = shownBacking(surroundings, declared);
  const portal = serving ? entry.portal : null;
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
    attachment:
      attachment === null
        ? null
        : shownAttachment(surroundings.paths, declared, attachment, { generation, portal, stats }),
    health: [...healthOf(entry, stats), ...diskHealth(surroundings, entry)],
  };
}
