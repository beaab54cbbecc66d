// Attaching a volume as a unit of a virtio-scsi controller: which number it gets, what is declared,
// and what the data plane is told of it.
//
// A controller is nothing but its volumes, of the node and of the cluster: it is declared by each
// of them, made with the first and gone with the last. What is said once for all of them, its
// queues, is the same in each.
//
// Invariant: a number is a volume's from the moment it is planned until the volume is declared
// detached; of two requests at once one is refused, or gets the next.

import type {
  DeclaredAttachment,
  DeclaredClusterAttachment,
  DeclaredScsi,
  DeclaredVolume,
} from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { LUN_MAX, QUEUE_COUNT_MAX, SOCKET_MODE, UNIX_PATH_MAX_BYTES } from "../model/limits.ts";
import { checkScsi } from "../model/scsi-rules.ts";
import type { ScsiAttach, VolumeAttach } from "../model/types.ts";
import type { HeldUnitSpec, PlacementGroup, ScsiSpec } from "../ports/scsi-plane.ts";
import { naaOf } from "./classic-attach.ts";
import type { KeptReservations } from "./classic-keeper.ts";
import { controllerSocketOf, type DataDirectory } from "./data-directory.ts";
import type { VolumeEntry } from "./volume-entry.ts";

/** Who knows all volumes that may be units of controllers here. */
interface UnitHost {
  readonly entries: ReadonlyMap<string, VolumeEntry>;
  /** Of the cluster's. */
  readonly clusterUnits: () => Iterable<NamedUnit>;
  readonly options: { readonly paths: DataDirectory };
}

/** What is the controller's and not the unit's. */
type ControllerSettings = Pick<DeclaredAttachment, "queueCountMax" | "packedAllowed">;
export type PlannedScsi = ControllerSettings & { readonly scsi: DeclaredScsi };

/** What a volume is, or is about to be, declared as. */
export interface NamedUnit extends PlannedScsi {
  readonly name: string;
}

/** A volume of the cluster that is declared to be a unit here. */
export interface ClusterUnit extends NamedUnit {
  readonly volumeId: string;
  readonly readOnly: boolean;
  /** It is being detached: its number is still taken, it is served no more. */
  readonly isLeaving: boolean;
}

function* unitsOf({ entries, clusterUnits }: UnitHost, controller: string): Generator<NamedUnit> {
  for (const { declared, planned } of entries.values()) {
    const { name, attachment } = declared;
    const { scsi } = attachment ?? {};
    if (attachment !== null && scsi?.controller === controller) yield { ...attachment, scsi, name };
    else if (planned?.scsi.controller === controller) yield { ...planned, name };
  }
  for (const unit of clusterUnits()) if (unit.scsi.controller === controller) yield unit;
}

const OF_A_NODE = "and this volume is on this node alone: leave it out";
const OF_THE_CLUSTER = "whose volumes do not move with a VM: detach it there, and attach it here";

/** Throws ApiError for what a controller has not got. */
export function requireUnitRequest(request: VolumeAttach, isOfCluster: boolean): void {
  const fields = ["classic", "standby", ...(isOfCluster ? [] : ["takeOver"])] as const;
  for (const field of fields) {
    if (request[field as keyof VolumeAttach] === undefined) continue;
    throw new ApiError("invalid_request", `${field} does not go with scsi`, {
      advice: `a controller is of vhost-user, ${isOfCluster ? OF_THE_CLUSTER : OF_A_NODE}`,
    });
  }
}

/** Throws ApiError for what a controller has not got, and for a number that is taken. */
export function planScsi(
  host: UnitHost,
  { name, isOfCluster }: { readonly name: string; readonly isOfCluster: boolean },
  request: VolumeAttach,
  wanted: ScsiAttach,
): PlannedScsi {
  requireUnitRequest(request, isOfCluster);
  checkScsi(wanted);
  const { controller } = wanted;
  checkSocketPath(host.options.paths, controller);
  const units = [...unitsOf(host, controller)].filter((unit) => unit.name !== name);
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
  present: NamedUnit | undefined,
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

function lunFor({ controller, lun }: ScsiAttach, units: readonly NamedUnit[]): number {
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

interface SocketOptions {
  readonly paths: DataDirectory;
  readonly socketGroupId: number;
}

type Identity = Pick<DeclaredVolume, "id" | "name">;
type UnitSettings = Pick<DeclaredAttachment, "queueCountMax" | "packedAllowed" | "readOnly">;

/** What a volume's unit and its place have in common. */
function unitSpecOf(
  { paths, socketGroupId }: SocketOptions,
  volumeId: string,
  { queueCountMax, packedAllowed, readOnly }: UnitSettings,
  scsi: DeclaredScsi,
): Omit<HeldUnitSpec, "name" | "serial" | "listens"> {
  return {
    ...scsi,
    volumeId,
    readOnly,
    naa: naaOf(volumeId),
    socketPath: controllerSocketOf(paths, scsi.controller),
    socketMode: SOCKET_MODE,
    socketGroupId,
    queueCountMax,
    packedAllowed,
  };
}

/** `listens`: front-ends may connect to the controller, because no unit of it is missing. */
export async function scsiSpecOf(
  options: SocketOptions,
  { id, name }: Identity,
  attachment: UnitSettings,
  scsi: DeclaredScsi,
  parts: {
    readonly reservationsOf: (volumeId: string, name: string) => Promise<KeptReservations>;
    readonly listens: boolean;
  },
): Promise<ScsiSpec> {
  const { record, powerWasLost } = await parts.reservationsOf(id, name);
  return {
    ...unitSpecOf(options, id, attachment, scsi),
    reservations: record,
    powerWasLost,
    listens: parts.listens,
  };
}

/** Of a volume that is declared a unit, and is not there yet. */
export function heldSpecOf(
  options: SocketOptions,
  { id, name, serial }: Identity & { readonly serial: string },
  attachment: UnitSettings,
  scsi: DeclaredScsi,
): HeldUnitSpec {
  return { ...unitSpecOf(options, id, attachment, scsi), name, serial, listens: false };
}

/** Of a volume of the cluster, as it is declared here. */
export function clusterUnitOf({
  volumeId,
  name,
  phase,
  readOnly,
  queueCountMax,
  packedAllowed,
  scsi,
}: DeclaredClusterAttachment): readonly ClusterUnit[] {
  if (scsi === undefined) return [];
  const isLeaving = phase === "detaching";
  return [{ volumeId, name, readOnly, isLeaving, queueCountMax, packedAllowed, scsi }];
}

interface Group {
  readonly controllers: Set<string>;
  readonly diskIds: Set<string>;
  hasCluster: boolean;
}

/** Controllers and disks of the store that have to share a reactor, from what is declared. */
export function placementGroups(
  volumes: readonly DeclaredVolume[],
  clusterUnits: Iterable<NamedUnit> = [],
): readonly PlacementGroup[] {
  let groups: readonly Group[] = [];
  const join = (controller: string, diskId: string | null, hasCluster: boolean): void => {
    const isOf = ({ controllers, diskIds }: Group): boolean =>
      controllers.has(controller) || (diskId !== null && diskIds.has(diskId));
    const joined = { controllers: new Set([controller]), diskIds: new Set<string>(), hasCluster };
    if (diskId !== null) joined.diskIds.add(diskId);
    for (const one of groups.filter(isOf)) {
      for (const name of one.controllers) joined.controllers.add(name);
      for (const id of one.diskIds) joined.diskIds.add(id);
      joined.hasCluster ||= one.hasCluster;
    }
    groups = [...groups.filter((one) => !isOf(one)), joined];
  };
  for (const { backing, attachment } of volumes) {
    const { controller } = attachment?.scsi ?? {};
    if (controller === undefined) continue;
    join(controller, backing.kind === "store" ? backing.diskId : null, false);
  }
  for (const { scsi } of clusterUnits) join(scsi.controller, null, true);
  return groups.map(({ controllers, diskIds, hasCluster }) => {
    return { controllers: [...controllers], diskIds: [...diskIds], hasCluster };
  });
}
