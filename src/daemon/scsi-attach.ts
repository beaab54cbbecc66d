// Attaching a volume as a unit of a virtio-scsi controller: which number it gets, what is declared,
// and what the data plane is told of it.
//
// A controller is nothing but its volumes: it is declared by each of them, made with the first and
// gone with the last. What is said once for all of them, its queues, is the same in each.
//
// Invariant: a number is a volume's from the moment it is planned until the volume is declared
// detached; of two requests at once one is refused, or gets the next.

import type { DeclaredAttachment, DeclaredScsi, DeclaredVolume } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { LUN_MAX, QUEUE_COUNT_MAX, SOCKET_MODE, UNIX_PATH_MAX_BYTES } from "../model/limits.ts";
import { checkScsi } from "../model/scsi-rules.ts";
import type { ScsiAttach, VolumeAttach } from "../model/types.ts";
import type { PlacementGroup, ScsiSpec } from "../ports/scsi-plane.ts";
import { naaOf } from "./classic-attach.ts";
import type { ClassicKeeper } from "./classic-keeper.ts";
import { controllerSocketOf, type DataDirectory } from "./data-directory.ts";
import type { VolumeEntry } from "./volume-entry.ts";

type Entries = ReadonlyMap<string, VolumeEntry>;

/** What is the controller's and not the unit's. */
type ControllerSettings = Pick<DeclaredAttachment, "queueCountMax" | "packedAllowed">;
export type PlannedScsi = ControllerSettings & { readonly scsi: DeclaredScsi };

interface Unit extends PlannedScsi {
  readonly name: string;
}

function* unitsOf(entries: Entries, controller: string): Generator<Unit> {
  for (const { declared, planned } of entries.values()) {
    const { name, attachment } = declared;
    const { scsi } = attachment ?? {};
    if (attachment !== null && scsi?.controller === controller) yield { ...attachment, scsi, name };
    else if (planned?.scsi.controller === controller) yield { ...planned, name };
  }
}

/** Throws ApiError for what a controller has not got, and for a number that is taken. */
export function planScsi(
  host: { readonly entries: Entries; readonly options: { readonly paths: DataDirectory } },
  request: VolumeAttach,
  wanted: ScsiAttach,
): PlannedScsi {
  for (const field of ["classic", "takeOver", "standby"] as const) {
    if (request[field] === undefined) continue;
    throw new ApiError("invalid_request", `${field} does not go with scsi`, {
      advice: "a controller is of vhost-user, and has volumes of this node alone: leave it out",
    });
  }
  checkScsi(wanted);
  const { controller } = wanted;
  checkSocketPath(host.options.paths, controller);
  const units = [...unitsOf(host.entries, controller)];
  const settings = settingsFor(controller, request, units[0]);
  return { ...settings, scsi: { controller, lun: lunFor(wanted, units) } };
}

function checkSocketPath(paths: DataDirectory, controller: string): void {
  const excess = Buffer.byteLength(controllerSocketOf(paths, controller)) - UNIX_PATH_MAX_BYTES;
  if (excess <= 0) return;
  const message = `controller name ${controller} makes its socket path too long for Linux`;
  throw new ApiError("invalid_request", message, {
    advice:
      `use at most ${controller.length - excess} characters, ` +
      "or start ringstored with a short --socket-dir",
  });
}

function settingsFor(
  controller: string,
  request: VolumeAttach,
  present: Unit | undefined,
): ControllerSettings {
  if (present === undefined) {
    const { queueCountMax = QUEUE_COUNT_MAX, packedAllowed = true } = request;
    return { queueCountMax, packedAllowed };
  }
  for (const field of ["queueCountMax", "packedAllowed"] as const) {
    const value = request[field];
    if (value === undefined || value === present[field]) continue;
    const message = `controller ${controller} has ${field} ${present[field]}, not ${value}`;
    throw new ApiError("attachment_differs", message, {
      advice: `leave ${field} out: it was settled with the controller's first volume`,
    });
  }
  const { queueCountMax, packedAllowed } = present;
  return { queueCountMax, packedAllowed };
}

function lunFor({ controller, lun }: ScsiAttach, units: readonly Unit[]): number {
  const taken = new Map(units.map((unit) => [unit.scsi.lun, unit.name]));
  let free = 0;
  while (taken.has(free)) free += 1;
  if (lun === undefined) {
    if (free <= LUN_MAX) return free;
    throw new ApiError("limit_reached", `controller ${controller} has ${LUN_MAX + 1} volumes`, {
      advice: "name another controller, or detach a volume of this one",
    });
  }
  const other = taken.get(lun);
  if (other === undefined) return lun;
  throw new ApiError("lun_taken", `LUN ${lun} of controller ${controller} is volume ${other}`, {
    advice:
      (free <= LUN_MAX ? `use LUN ${free}, leave it out, or ` : "") +
      `detach the other first: ringstore volume detach ${other}`,
  });
}

/** Asked again, with what it has or with the controller alone. Throws ApiError otherwise. */
export function requireSameScsi(
  { name }: Pick<DeclaredVolume, "name">,
  present: DeclaredScsi | undefined,
  wanted: ScsiAttach | undefined,
): void {
  if (present === undefined && wanted === undefined) return;
  if (wanted !== undefined) checkScsi(wanted);
  const isSame =
    present?.controller === wanted?.controller && (wanted?.lun ?? present?.lun) === present?.lun;
  if (isSame) return;
  const how = present === undefined ? "to no controller" : `as ${unitText(present)}`;
  throw new ApiError("attachment_differs", `volume ${name} is attached ${how}`, {
    advice: `detach it first: ringstore volume detach ${name}`,
  });
}

export function unitText({ controller, lun }: DeclaredScsi): string {
  return `LUN ${lun} of controller ${controller}`;
}

/** `listens`: front-ends may connect to the controller, because no unit of it is missing. */
export async function scsiSpecOf(
  { paths, socketGroupId }: { readonly paths: DataDirectory; readonly socketGroupId: number },
  { id, name }: Pick<DeclaredVolume, "id" | "name">,
  attachment: Pick<DeclaredAttachment, "queueCountMax" | "packedAllowed" | "readOnly">,
  scsi: DeclaredScsi,
  parts: { readonly keeper: ClassicKeeper; readonly listens: boolean },
): Promise<ScsiSpec> {
  const { queueCountMax, packedAllowed, readOnly } = attachment;
  const { record, powerWasLost } = await parts.keeper.reservationsOf(id, name);
  return {
    ...scsi,
    volumeId: id,
    readOnly,
    naa: naaOf(id),
    reservations: record,
    powerWasLost,
    socketPath: controllerSocketOf(paths, scsi.controller),
    socketMode: SOCKET_MODE,
    socketGroupId,
    queueCountMax,
    packedAllowed,
    listens: parts.listens,
  };
}

/** Controllers and disks of the store that have to share a reactor, from what is declared. */
export function placementGroups(volumes: readonly DeclaredVolume[]): readonly PlacementGroup[] {
  let groups: { controllers: Set<string>; diskIds: Set<string> }[] = [];
  for (const { backing, attachment } of volumes) {
    const controller = attachment?.scsi?.controller;
    if (controller === undefined) continue;
    const diskId = backing.kind === "store" ? backing.diskId : null;
    const isOf = ({ controllers, diskIds }: (typeof groups)[number]): boolean =>
      controllers.has(controller) || (diskId !== null && diskIds.has(diskId));
    const joined = { controllers: new Set([controller]), diskIds: new Set<string>() };
    if (diskId !== null) joined.diskIds.add(diskId);
    for (const one of groups.filter(isOf)) {
      for (const name of one.controllers) joined.controllers.add(name);
      for (const id of one.diskIds) joined.diskIds.add(id);
    }
    groups = [...groups.filter((one) => !isOf(one)), joined];
  }
  return groups.map(({ controllers, diskIds }) => {
    return { controllers: [...controllers], diskIds: [...diskIds] };
  });
}
