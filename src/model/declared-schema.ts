// Schemas of the declared state files: what a file is checked against when its checksum does not
// already prove that this program wrote it.

import Type, { type TUnsafe } from "typebox";
import type {
  DeclaredClusterAttachment,
  DeclaredDisk,
  DeclaredNode,
  DeclaredReservations,
  DeclaredVolume,
} from "./declared.ts";
import {
  CHAP_USER_PATTERN,
  INITIATOR_COUNT_MAX,
  ISCSI_NAME_LENGTH_MAX,
  LUN_MAX,
  PATH_LENGTH_MAX,
  QUEUE_COUNT_MAX,
  SERIAL_PATTERN,
  VOLUME_NAME_LENGTH_MAX,
  VOLUME_NAME_PATTERN,
  VOLUME_SIZE_MAX_BYTES,
} from "./limits.ts";
import { describes, partOf, type SchemaOf } from "./schema.ts";

const closed = { additionalProperties: false } as const;
const id = Type.String({ pattern: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" });
const when = Type.String({ pattern: "^\\d{4}-\\d\\d-\\d\\dT[0-9:.]{8,12}Z$" });
const sizeBytes = Type.Integer({ minimum: 512, maximum: VOLUME_SIZE_MAX_BYTES });

const backing = Type.Union([
  Type.Object(
    {
      kind: Type.Literal("file"),
      path: Type.Union([Type.String({ pattern: "^/", maxLength: PATH_LENGTH_MAX }), Type.Null()]),
      direct: Type.Enum(["auto", "on", "off"]),
    },
    closed,
  ),
  Type.Object({ kind: Type.Literal("memory") }, closed),
  Type.Object({ kind: Type.Literal("null") }, closed),
  Type.Object({ kind: Type.Literal("store"), diskId: id }, closed),
]);

const classic = Type.Object(
  {
    chapUser: Type.Union([Type.String({ pattern: CHAP_USER_PATTERN }), Type.Null()]),
    chapTargetUser: Type.Optional(Type.String({ pattern: CHAP_USER_PATTERN })),
    initiators: Type.Array(Type.String({ maxLength: ISCSI_NAME_LENGTH_MAX }), {
      maxItems: INITIATOR_COUNT_MAX,
    }),
  },
  closed,
);

const scsi = Type.Object(
  {
    controller: Type.String({ pattern: VOLUME_NAME_PATTERN, maxLength: VOLUME_NAME_LENGTH_MAX }),
    lun: Type.Integer({ minimum: 0, maximum: LUN_MAX }),
  },
  closed,
);

const attachment = Type.Object(
  {
    queueCountMax: Type.Integer({ minimum: 1, maximum: QUEUE_COUNT_MAX }),
    packedAllowed: Type.Boolean(),
    readOnly: Type.Boolean(),
    attachedAt: when,
    classic: Type.Optional(classic),
    scsi: Type.Optional(scsi),
  },
  closed,
);

const registration = Type.Object(
  {
    transportId: Type.String({ pattern: "^([0-9a-f]{8}){2,128}$" }),
    relativePort: Type.Integer({ minimum: 1, maximum: 65535 }),
    key: Type.String({ pattern: "^[0-9a-f]{16}$" }),
  },
  closed,
);

/** What scsi/ wants kept, wherever it lies. */
export const reservationRecord: TUnsafe<DeclaredReservations["record"]> = partOf<
  DeclaredReservations["record"]
>()(
  Type.Object(
    {
      generation: Type.Integer({ minimum: 0, maximum: 0xffffffff }),
      aptpl: Type.Boolean(),
      type: Type.Integer({ minimum: 0, maximum: 8 }),
      holder: Type.Integer({ minimum: -1, maximum: 191 }),
      registrations: Type.Array(registration, { maxItems: 192 }),
    },
    closed,
  ),
);

export const DeclaredReservationsSchema: SchemaOf<DeclaredReservations> =
  describes<DeclaredReservations>()(
    Type.Object(
      {
        name: id,
        bootId: Type.String({ maxLength: 64 }),
        record: reservationRecord,
      },
      closed,
    ),
  );

export const DeclaredVolumeSchema: SchemaOf<DeclaredVolume> = describes<DeclaredVolume>()(
  Type.Object(
    {
      id,
      name: Type.String({ pattern: VOLUME_NAME_PATTERN, maxLength: VOLUME_NAME_LENGTH_MAX }),
      sizeBytes,
      blockBytes: Type.Enum([512, 4096]),
      readOnly: Type.Boolean(),
      serial: Type.String({ pattern: SERIAL_PATTERN }),
      backing,
      createdAt: when,
      phase: Type.Enum(["creating", "ready", "deleting"]),
      resizeToBytes: Type.Union([sizeBytes, Type.Null()]),
      generation: Type.Integer({ minimum: 0 }),
      attachment: Type.Union([attachment, Type.Null()]),
    },
    closed,
  ),
);

export const DeclaredDiskSchema: SchemaOf<DeclaredDisk> = describes<DeclaredDisk>()(
  Type.Object(
    {
      id,
      name: Type.String({ pattern: VOLUME_NAME_PATTERN, maxLength: VOLUME_NAME_LENGTH_MAX }),
      path: Type.String({ pattern: "^/", maxLength: PATH_LENGTH_MAX }),
      phase: Type.Enum(["formatting", "ready"]),
      durability: Type.Enum(["write-through", "plp", "volatile"]),
      durabilityReason: Type.String(),
      createdAt: when,
      sizeBytes: Type.Integer({ minimum: 0 }),
      incarnation: Type.Integer({ minimum: 0 }),
      clean: Type.Boolean(),
    },
    closed,
  ),
);

export const DeclaredNodeSchema: SchemaOf<DeclaredNode> = describes<DeclaredNode>()(
  Type.Object({ id, createdAt: when }, closed),
);

export const DeclaredClusterAttachmentSchema: SchemaOf<DeclaredClusterAttachment> =
  describes<DeclaredClusterAttachment>()(
    Type.Object(
      {
        volumeId: id,
        name: Type.String({ pattern: VOLUME_NAME_PATTERN, maxLength: VOLUME_NAME_LENGTH_MAX }),
        phase: Type.Enum(["attached", "detaching"]),
        queueCountMax: Type.Integer({ minimum: 1, maximum: QUEUE_COUNT_MAX }),
        packedAllowed: Type.Boolean(),
        readOnly: Type.Boolean(),
        attachedAt: when,
        classic: Type.Optional(classic),
        scsi: Type.Optional(scsi),
      },
      closed,
    ),
  );
