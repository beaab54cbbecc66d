// JSON schemas of everything that crosses the REST API: what requests are checked against, what
// replies are written through, and what the OpenAPI document is made of. The types they describe,
// with the meaning of each field, are in types.ts.

import Type from "typebox";
import { clusterBacking, clusterView } from "./cluster-schemas.ts";
import { API_ERROR_CODES } from "./errors.ts";
import {
  CHAP_SECRET_LENGTH_MAX,
  INITIATOR_COUNT_MAX,
  ISCSI_NAME_LENGTH_MAX,
  PATH_LENGTH_MAX,
  QUEUE_COUNT_MAX,
  REPLICA_COUNT_MAX,
  SERIAL_PATTERN,
  VOLUME_COUNT_MAX,
  VOLUME_SIZE_MAX_BYTES,
} from "./limits.ts";
import { describes, type SchemaOf } from "./schema.ts";
import { closed, count, health, name, nullable, severity, text, when } from "./schema-parts.ts";
import type {
  AdviseReply,
  AttachReply,
  DeleteReply,
  DetachReply,
  ErrorReply,
  Event,
  EventList,
  StatsReply,
  Status,
  VersionReply,
  Volume,
  VolumeAttach,
  VolumeCreate,
  VolumeList,
  VolumeResize,
} from "./types.ts";

const sizeBytes = Type.Integer({
  minimum: 1,
  maximum: VOLUME_SIZE_MAX_BYTES,
  description: "a multiple of blockBytes",
});
const blockBytes = Type.Enum([512, 4096], { description: "logical block" });
const serial = Type.String({ pattern: SERIAL_PATTERN, description: "what the guest sees" });
const direct = Type.Enum(["auto", "on", "off"], { description: "O_DIRECT" });
const path = Type.String({ minLength: 1, maxLength: PATH_LENGTH_MAX });

const backing = Type.Union(
  [
    Type.Object({ kind: Type.Literal("file"), path, direct, managed: Type.Boolean() }, closed),
    Type.Object({ kind: Type.Literal("memory") }, closed),
    Type.Object({ kind: Type.Literal("null") }, closed),
    Type.Object({ kind: Type.Literal("store"), disk: name }, closed),
    clusterBacking,
  ],
  { title: "Backing" },
);

const classicAttachment = Type.Object(
  {
    target: text("name of the iSCSI target"),
    lun: count(),
    portal: nullable(text("HOST:PORT; null while it is not served")),
    url: nullable(text("iscsi://HOST:PORT/TARGET/LUN")),
    chapUser: nullable(text("what initiators prove themselves as; null: nobody has to")),
    chapTargetUser: nullable(
      text("what the target proves itself as, to initiators that ask; null: it cannot"),
    ),
    initiators: Type.Array(Type.String(), { description: "who may log in; empty: everybody" }),
  },
  { ...closed, title: "ClassicAttachment" },
);

const scsiAttachment = Type.Object(
  { controller: name, lun: count("0 to 255") },
  { ...closed, title: "ScsiAttachment", description: "a unit of a virtio-scsi controller" },
);

const attachment = Type.Object(
  {
    generation: Type.Integer({ minimum: 1, description: "grows with every attach" }),
    socket: nullable(text("absolute path of the vhost-user socket; null: attached as a target")),
    classic: Type.Optional(nullable(classicAttachment)),
    scsi: Type.Optional(nullable(scsiAttachment)),
    queueCountMax: Type.Integer({ minimum: 1, maximum: QUEUE_COUNT_MAX }),
    packedAllowed: Type.Boolean(),
    readOnly: Type.Boolean(),
    attachedAt: when,
    sessionCount: count("sessions open now"),
  },
  { ...closed, title: "Attachment" },
);

const volume = Type.Object(
  {
    id: text("UUID"),
    name,
    sizeBytes,
    blockBytes,
    readOnly: Type.Boolean(),
    serial,
    backing,
    createdAt: when,
    state: Type.Enum([
      "creating",
      "detached",
      "attached",
      "connected",
      "standby",
      "unavailable",
      "deleting",
    ]),
    attachment: nullable(attachment),
    health: Type.Array(health),
  },
  { ...closed, title: "Volume" },
);

export const VolumeSchema: SchemaOf<Volume> = describes<Volume>()(volume);

export const VolumeListSchema: SchemaOf<VolumeList> = describes<VolumeList>()(
  Type.Object(
    { volumes: Type.Array(volume, { maxItems: VOLUME_COUNT_MAX }) },
    { ...closed, title: "VolumeList" },
  ),
);

export const VolumeCreateSchema: SchemaOf<VolumeCreate> = describes<VolumeCreate>()(
  Type.Object(
    {
      name,
      sizeBytes: Type.Optional(sizeBytes),
      blockBytes: Type.Optional(blockBytes),
      readOnly: Type.Optional(Type.Boolean()),
      serial: Type.Optional(serial),
      backing: Type.Optional(Type.Enum(["file", "memory", "null", "store"])),
      path: Type.Optional(path),
      direct: Type.Optional(direct),
      disk: Type.Optional(name),
      replicas: Type.Optional(
        Type.Integer({
          minimum: 1,
          maximum: REPLICA_COUNT_MAX,
          description: "copies in the cluster, each on another node; without any setting of a disk",
        }),
      ),
    },
    { ...closed, title: "VolumeCreate" },
  ),
);

export const VolumeResizeSchema: SchemaOf<VolumeResize> = describes<VolumeResize>()(
  Type.Object(
    { sizeBytes, allowDataLoss: Type.Optional(Type.Boolean()) },
    { ...closed, title: "VolumeResize" },
  ),
);

/** Loose: the daemon says better what is wrong with a name or a secret (classic-rules.ts). */
const chapProof = {
  user: Type.String({ minLength: 1, maxLength: 64 }),
  secret: Type.String({ minLength: 1, maxLength: CHAP_SECRET_LENGTH_MAX }),
};

const classicAttach = Type.Object(
  {
    chap: Type.Optional(
      Type.Object(
        {
          ...chapProof,
          target: Type.Optional(
            Type.Object(chapProof, {
              ...closed,
              description: "what the target proves itself with, to initiators that ask",
            }),
          ),
        },
        closed,
      ),
    ),
    initiators: Type.Optional(
      Type.Array(Type.String({ maxLength: ISCSI_NAME_LENGTH_MAX }), {
        maxItems: INITIATOR_COUNT_MAX,
      }),
    ),
  },
  { ...closed, title: "ClassicAttach", description: "as an iSCSI target, not by vhost-user" },
);

/** Loose: the daemon says better what is wrong with a name or a number (scsi-rules.ts). */
const scsiAttach = Type.Object(
  {
    controller: Type.String({ maxLength: 255, description: "made with its first volume" }),
    lun: Type.Optional(Type.Number({ description: "0 to 255; by default the lowest free one" })),
  },
  { ...closed, title: "ScsiAttach", description: "as a unit of a virtio-scsi controller" },
);

export const VolumeAttachSchema: SchemaOf<VolumeAttach> = describes<VolumeAttach>()(
  Type.Object(
    {
      classic: Type.Optional(classicAttach),
      scsi: Type.Optional(scsiAttach),
      queueCountMax: Type.Optional(Type.Integer({ minimum: 1, maximum: QUEUE_COUNT_MAX })),
      packedAllowed: Type.Optional(Type.Boolean()),
      readOnly: Type.Optional(Type.Boolean()),
      takeOver: Type.Optional(Type.Boolean({ description: "from a node that is alive" })),
      standby: Type.Optional(
        Type.Boolean({
          description:
            "for a guest that moves here from another node, or a target whose node is lost",
        }),
      ),
      vmMemoryBytes: Type.Optional(
        Type.Integer({ minimum: 1, maximum: VOLUME_SIZE_MAX_BYTES, multipleOf: 4096 }),
      ),
    },
    { ...closed, title: "VolumeAttach" },
  ),
);

const qemuArguments = Type.Object(
  { "7.2": Type.Array(Type.String()), "9.2": Type.Array(Type.String()) },
  {
    ...closed,
    title: "QemuArguments",
    description: "argument lists by the first QEMU version they are right for",
  },
);

export const AttachReplySchema: SchemaOf<AttachReply> = describes<AttachReply>()(
  Type.Object(
    {
      volume: name,
      socket: nullable(text("absolute path of the vhost-user socket; null: see classic")),
      classic: Type.Optional(nullable(classicAttachment)),
      scsi: Type.Optional(nullable(scsiAttachment)),
      generation: Type.Integer({ minimum: 1 }),
      changed: Type.Boolean({ description: "false when it was attached before" }),
      qemu: qemuArguments,
      qemuDevice: qemuArguments,
      libvirtXml: text(
        "a <disk> element for virsh attach-device; a <qemu:commandline> for a controller",
      ),
      libvirtMemoryXml: text("the <memoryBacking> element the domain must have"),
    },
    { ...closed, title: "AttachReply" },
  ),
);

export const DetachReplySchema: SchemaOf<DetachReply> = describes<DetachReply>()(
  Type.Object({ volume: name, changed: Type.Boolean() }, { ...closed, title: "DetachReply" }),
);

export const DeleteReplySchema: SchemaOf<DeleteReply> = describes<DeleteReply>()(
  Type.Object(
    {
      volume: name,
      removedPath: nullable(Type.String()),
      removedFromDisk: nullable(name),
      removedCopyCount: Type.Optional(count("of a volume of the cluster")),
    },
    { ...closed, title: "DeleteReply" },
  ),
);

const latency = Type.Object(
  {
    meanUs: Type.Number({ minimum: 0 }),
    p50Us: Type.Number({ minimum: 0 }),
    p99Us: Type.Number({ minimum: 0 }),
    p999Us: Type.Number({ minimum: 0 }),
  },
  { ...closed, title: "Latency" },
);

export const StatsReplySchema: SchemaOf<StatsReply> = describes<StatsReply>()(
  Type.Object(
    {
      atMs: Type.Number({ description: "monotonic clock of the daemon" }),
      volumes: Type.Array(
        Type.Object(
          {
            name,
            connected: Type.Boolean(),
            sessionCount: count(),
            readCount: count(),
            readBytes: count(),
            writeCount: count(),
            writeBytes: count(),
            flushCount: count(),
            discardCount: count(),
            errorCount: count(),
            ringErrorCount: count(),
            lateKickCount: count(),
            lateInterruptCount: count(),
            inflightCount: count(),
            readLatency: latency,
            writeLatency: latency,
          },
          { ...closed, title: "VolumeIo" },
        ),
      ),
    },
    { ...closed, title: "Stats" },
  ),
);

const statusItem = {
  code: Type.String(),
  severity,
  message: Type.String(),
  volume: nullable(name),
  disk: nullable(name),
};
const rate = Type.Number({ minimum: 0 });

export const StatusSchema: SchemaOf<Status> = describes<Status>()(
  Type.Object(
    {
      health: Type.Enum(["ok", "warn", "error"]),
      version: Type.String(),
      nodeId: Type.String(),
      uptimeSeconds: Type.Number({ minimum: 0 }),
      dataDirectory: Type.String(),
      volumes: Type.Object(
        {
          total: count(),
          attached: count("declared attached"),
          connected: count("with a front-end that has started rings"),
          unavailable: count("declared attached but not served"),
          declaredBytes: count(),
        },
        closed,
      ),
      disks: Type.Object(
        {
          total: count("disks of the store that this node has"),
          ready: count(),
          totalBytes: count("for data, of those that are ready"),
          freeBytes: count(),
        },
        closed,
      ),
      dataFilesystem: Type.Object({ totalBytes: count(), availableBytes: count() }, closed),
      cluster: nullable(clusterView),
      portals: Type.Optional(
        Type.Array(Type.Object({ address: text("HOST:PORT"), sessionCount: count() }, closed), {
          description: "where initiators reach volumes that are attached as iSCSI targets",
        }),
      ),
      reactorCount: count(),
      residentBytes: count("memory of the daemon"),
      io: Type.Object(
        {
          readsPerSecond: rate,
          readBytesPerSecond: rate,
          writesPerSecond: rate,
          writeBytesPerSecond: rate,
        },
        closed,
      ),
      items: Type.Array(Type.Object(statusItem, { ...closed, title: "StatusItem" })),
    },
    { ...closed, title: "Status" },
  ),
);

export const AdviseReplySchema: SchemaOf<AdviseReply> = describes<AdviseReply>()(
  Type.Object(
    {
      advice: Type.Array(Type.Object({ ...statusItem, command: nullable(Type.String()) }, closed)),
    },
    { ...closed, title: "AdviceList" },
  ),
);

const event = Type.Object(
  {
    seq: Type.Integer({ minimum: 1 }),
    at: when,
    type: Type.Enum([
      "daemon.started",
      "daemon.reloaded",
      "volume.created",
      "volume.deleted",
      "volume.resized",
      "volume.attached",
      "volume.detached",
      "volume.restored",
      "volume.handed-over",
      "volume.taken",
      "volume.unavailable",
      "volume.connected",
      "volume.disconnected",
      "volume.health",
      "volume.rolled-back",
      "copy.planned",
      "copy.replaced",
      "copy.dropped",
      "node.draining",
      "node.active",
      "node.removed",
      "disk.draining",
      "disk.active",
      "disk.added",
      "disk.ready",
      "disk.unavailable",
      "disk.failed",
      "disk.corruption",
      "disk.health",
      "disk.checked",
      "disk.removed",
      "disk.rolled-back",
    ]),
    volume: nullable(Type.String()),
    disk: nullable(Type.String()),
    message: Type.String(),
  },
  { ...closed, title: "Event" },
);

export const EventSchema: SchemaOf<Event> = describes<Event>()(event);

export const EventListSchema: SchemaOf<EventList> = describes<EventList>()(
  Type.Object({ events: Type.Array(event) }, { ...closed, title: "EventList" }),
);

export const VersionReplySchema: SchemaOf<VersionReply> = describes<VersionReply>()(
  Type.Object(
    { version: Type.String(), apiVersion: Type.Integer(), node: Type.String() },
    { ...closed, title: "Version" },
  ),
);

export const ErrorReplySchema: SchemaOf<ErrorReply> = describes<ErrorReply>()(
  Type.Object(
    {
      code: Type.String({ description: `one of ${API_ERROR_CODES.join(", ")}` }),
      message: Type.String(),
      advice: Type.Optional(Type.String({ description: "what to do" })),
    },
    { ...closed, title: "Error" },
  ),
);

export const VolumeParamsSchema: SchemaOf<{ readonly name: string }> = describes<{
  readonly name: string;
}>()(Type.Object({ name }, closed));
