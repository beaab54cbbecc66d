// volume create, list, show, resize, delete, detach; attach is in volume-attach.ts.

import { resolve } from "node:path";
import { formatBytes } from "../../base/units.ts";
import { ClientError } from "../../client/index.ts";
import type {
  Attachment,
  BackingKind,
  DirectMode,
  Volume,
  VolumeCreate,
} from "../../model/types.ts";
import { checkVolumeName, checkVolumeSize } from "../../model/volume-rules.ts";
import type { CommandRun, OptionValues } from "../command-spec.ts";
import { countOf } from "../format.ts";
import type { Column, Result } from "../output.ts";
import { copiesText, copyRows, placesText, stateText } from "../volume-copies.ts";

const LIST_COLUMNS: readonly Column[] = [
  { title: "NAME" },
  { title: "SIZE", right: true },
  { title: "STATE" },
  { title: "BACKING" },
  { title: "HEALTH" },
  { title: "BLOCK", right: true, wide: true },
  { title: "MODE", wide: true },
  { title: "SERIAL", wide: true },
  { title: "SOCKET", wide: true },
  { title: "COPIES", wide: true },
  { title: "CREATED", wide: true },
  { title: "ID", wide: true },
];

function listRow(volume: Volume): readonly string[] {
  return [
    volume.name,
    formatBytes(volume.sizeBytes),
    stateText(volume),
    backingText(volume),
    volume.health.map((item) => item.code).join(",") || "ok",
    String(volume.blockBytes),
    volume.readOnly ? "read-only" : "read-write",
    volume.serial,
    placeOf(volume),
    volume.backing.kind === "cluster" ? placesText(volume.backing) : "-",
    volume.createdAt,
    volume.id,
  ];
}

function placeOf({ attachment, backing }: Volume): string {
  const { socket = null, classic = null, scsi = null } = attachment ?? {};
  if (scsi !== null) return `${socket} LUN ${scsi.lun}`;
  const elsewhere = backing.kind === "cluster" ? backing.targetUrl : null;
  return socket ?? classic?.url ?? elsewhere ?? "-";
}

function backingText(volume: Volume): string {
  const { backing } = volume;
  if (backing.kind === "cluster") return copiesText(backing);
  if (backing.kind === "store") return `store on ${backing.disk}`;
  return backing.kind === "file" && !backing.managed ? backing.path : backing.kind;
}

export const list: CommandRun = async (context) => {
  const reply = await context.client.listVolumes();
  if (reply.volumes.length === 0 && context.global.form === "table") {
    context.note("no volumes yet: ringstore volume create NAME --size 20G");
  }
  return {
    data: reply,
    shown: { columns: LIST_COLUMNS, rows: reply.volumes.map(listRow) },
    names: reply.volumes.map((volume) => volume.name),
  };
};

export const show: CommandRun = async (context, { arguments: [name = ""] }) => {
  checkVolumeName(name);
  const volume = await context.client.showVolume(name);
  return { data: volume, shown: describeVolume(volume), names: [volume.name] };
};

function describeVolume(volume: Volume): string {
  const { backing, attachment } = volume;
  const rows: (readonly [string, string])[] = [
    ["name", volume.name],
    ["state", stateText(volume)],
    ["size", `${formatBytes(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
    ["block", `${volume.blockBytes} bytes`],
    ["mode", volume.readOnly ? "read-only" : "read-write"],
    ["serial", volume.serial],
    ["id", volume.id],
    ["created", volume.createdAt],
    ["backing", backing.kind === "cluster" ? copiesText(backing) : backing.kind],
  ];
  if (backing.kind === "file") {
    rows.push(["path", backing.managed ? backing.path : `${backing.path} (not ours to delete)`]);
    rows.push(["direct i/o", backing.direct]);
  }
  if (backing.kind === "cluster") rows.push(...copyRows(backing));
  if (backing.kind === "store") rows.push(["disk", backing.disk]);
  if (attachment === null && backing.kind === "cluster" && (backing.targetUrl ?? null) !== null) {
    rows.push(["iscsi", String(backing.targetUrl)]);
  }
  if (attachment !== null) {
    rows.push(...placeRows(attachment));
    rows.push(["attached", `${attachment.attachedAt}, generation ${attachment.generation}`]);
    if (attachment.readOnly && !volume.readOnly) rows.push(["attached as", "read-only"]);
    rows.push(["sessions", String(attachment.sessionCount)]);
  }
  for (const item of volume.health) rows.push([item.severity, `${item.code}: ${item.message}`]);
  return rows.map(([key, value]) => `${key.padEnd(14)}${value}\n`).join("");
}

/** Where front-ends or initiators find it. */
function placeRows(attachment: Attachment): readonly (readonly [string, string])[] {
  const { socket, classic = null, scsi = null, queueCountMax, packedAllowed } = attachment;
  if (classic === null) {
    return [
      ["socket", socket ?? "-"],
      ...(scsi === null
        ? []
        : ([
            ["controller", scsi.controller],
            ["lun", String(scsi.lun)],
          ] as const)),
      ["queues", `at most ${queueCountMax}`],
      ["packed rings", packedAllowed ? "offered" : "not offered"],
    ];
  }
  return [
    ["iscsi", classic.url ?? "not served"],
    ["target", classic.target],
    ["chap", classic.chapUser === null ? "nobody has to prove anything" : classic.chapUser],
    ...((classic.chapTargetUser ?? null) === null
      ? []
      : ([["target chap", `${classic.chapTargetUser}`]] as const)),
    ["initiators", classic.initiators.join(", ") || "all"],
  ];
}

function created(volume: Volume, text: string): Result {
  return { data: volume, shown: text, names: [volume.name] };
}

export const create: CommandRun = async (context, { arguments: [name = ""], options }) => {
  checkVolumeName(name);
  const backing = options["backing"] as BackingKind | undefined;
  const path = options["path"] as string | undefined;
  const sizeBytes = options["size"] as number | undefined;
  const blockBytes = options["blockSize"] === undefined ? undefined : Number(options["blockSize"]);
  if (sizeBytes === undefined && path === undefined) {
    throw new ClientError("usage", "--size is missing", {
      advice: "give a size, e.g. --size 20G, or --path with something that exists",
    });
  }
  refuseReplicasBeside(options);
  if (sizeBytes !== undefined && path === undefined) checkVolumeSize(sizeBytes, blockBytes ?? 512);
  const request: VolumeCreate = {
    name,
    ...(sizeBytes === undefined ? {} : { sizeBytes }),
    ...(blockBytes === undefined ? {} : { blockBytes: blockBytes as 512 | 4096 }),
    ...(options["readOnly"] === true ? { readOnly: true } : {}),
    ...(options["serial"] === undefined ? {} : { serial: String(options["serial"]) }),
    ...(backing === undefined ? {} : { backing }),
    ...(path === undefined ? {} : { path: resolve(path) }),
    ...(options["disk"] === undefined ? {} : { disk: String(options["disk"]) }),
    ...(options["replicas"] === undefined ? {} : { replicas: Number(options["replicas"]) }),
    ...(options["direct"] === undefined ? {} : { direct: options["direct"] as DirectMode }),
  };
  const dryRun = options["dryRun"] === true;
  const volume = await context.client.createVolume(request, { dryRun });
  const kept =
    volume.backing.kind === "cluster"
      ? `${copiesText(volume.backing)}: ${placesText(volume.backing)}`
      : `backing ${backingText(volume)}`;
  const what = `${formatBytes(volume.sizeBytes)}, ${kept}`;
  const verb = dryRun ? "would be created" : "created";
  return created(volume, `volume ${volume.name} ${verb}: ${what}`);
};

/** What says how a volume lies on one node says nothing about copies on several. */
function refuseReplicasBeside(options: OptionValues): void {
  if (options["replicas"] === undefined) return;
  const other = ["backing", "disk", "path", "direct"].find((key) => options[key] !== undefined);
  if (other === undefined) return;
  throw new ClientError("usage", `--replicas does not go with --${other}`, {
    advice: "a volume of the cluster is placed by the cluster: leave one of them out",
  });
}

export const resize: CommandRun = async (context, { arguments: [name = "", size], options }) => {
  checkVolumeName(name);
  const sizeBytes = Number(size);
  const shrinks = options["allowDataLoss"] === true;
  const dryRun = options["dryRun"] === true;
  if (shrinks && !dryRun) {
    await context.confirm(
      `Cut volume ${name} to ${formatBytes(sizeBytes)}, losing what is beyond?`,
    );
  }
  const request = shrinks ? { sizeBytes, allowDataLoss: true } : { sizeBytes };
  const volume = await context.client.resizeVolume(name, request, { dryRun });
  const verb = dryRun ? "would have" : "has";
  return created(volume, `volume ${volume.name} ${verb} ${formatBytes(volume.sizeBytes)}`);
};

export const remove: CommandRun = async (context, { arguments: [name = ""], options }) => {
  checkVolumeName(name);
  const dryRun = options["dryRun"] === true;
  if (!dryRun) await context.confirm(`Delete volume ${name} and its data?`);
  const reply = await context.client.deleteVolume(name, { dryRun });
  const verb = dryRun ? "would be deleted" : "deleted";
  // An older daemon does not say anything about disks.
  const disk = reply.removedFromDisk ?? null;
  const copies = reply.removedCopyCount;
  let data = reply.removedPath ?? "no data file of ours";
  if (disk !== null) data = `its space on disk ${disk}`;
  else if (copies !== undefined) data = countOf(copies, "copy", "copies");
  return { data: reply, shown: `volume ${name} ${verb}: ${data}`, names: [name] };
};

export const detach: CommandRun = async (context, { arguments: [name = ""] }) => {
  checkVolumeName(name);
  if (!context.global.yes && context.streams.canAsk) {
    const { state, backing } = await context.client.showVolume(name);
    // One that stands by is given the volume; its guest loses nothing.
    const isLeft = backing.kind === "cluster" && backing.standby !== null;
    const question = `A front-end uses volume ${name}: its guest loses the disk. Detach?`;
    if (state === "connected" && !isLeft) await context.confirm(question);
  }
  const reply = await context.client.detachVolume(name);
  const text = reply.changed ? `volume ${name} detached` : `volume ${name} was not attached`;
  return { data: reply, shown: text, names: [name] };
};
