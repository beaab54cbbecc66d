// Schemas of the metadata's records. A record that does not match is somebody's mistake, or
// something's damage: it is refused with the field, its value and what it must be.

import Type from "typebox";
import { reservationRecord } from "../model/declared-schema.ts";
import {
  CHAP_USER_PATTERN,
  INITIATOR_COUNT_MAX,
  ISCSI_NAME_LENGTH_MAX,
  LUN_MAX,
  VOLUME_NAME_LENGTH_MAX,
  VOLUME_NAME_PATTERN,
  VOLUME_SIZE_MAX_BYTES,
} from "../model/limits.ts";
import { describes, type SchemaOf } from "../model/schema.ts";
import { DISK_NUMBER_MAX } from "./keys.ts";
import {
  type ClusterRecord,
  type CopyRecord,
  type DiskRecord,
  type LiveRecord,
  type NodeRecord,
  RECORD_FORMAT,
  RECORD_FORMAT_MUTUAL,
  REPLICAS_MAX,
  type RecoveryReport,
  type ReservationsRecord,
  VOLUME_MEMBERS_MAX,
  type VolumeRecord,
} from "./records.ts";

const closed = { additionalProperties: false } as const;
const id = Type.String({ pattern: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" });
const name = Type.String({ pattern: VOLUME_NAME_PATTERN, maxLength: VOLUME_NAME_LENGTH_MAX });
const when = Type.String({ pattern: "^\\d{4}-\\d\\d-\\d\\dT[0-9:.]{8,12}Z$" });
const format = Type.Integer({ minimum: 1, maximum: RECORD_FORMAT });
const changeId = Type.String({ pattern: "^[0-9a-f]{16}$" });
const count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });

const EPOCH_MAX: number = 2 ** 20 - 1;
const SEQUENCE_MAX: number = 2 ** 44 - 1;
const epoch = Type.Integer({ minimum: 0, maximum: EPOCH_MAX });

const process = Type.Object({ node: id, incarnation: count }, closed);

const stamp = Type.Object(
  { epoch, sequence: Type.Integer({ minimum: 0, maximum: SEQUENCE_MAX }) },
  closed,
);

const out = Type.Object(
  {
    disk: id,
    sinceStamp: stamp,
    reason: Type.Enum(["drained", "failed", "lagging", "maintenance", "missing", "new"]),
    since: when,
  },
  closed,
);

const replacement = Type.Object(
  {
    from: Type.Union([id, Type.Null()]),
    to: id,
    reason: Type.Enum(["lost", "drain", "too-few"]),
    since: when,
  },
  closed,
);

const place = Type.String({ pattern: "^[^\\s]{1,255}:\\d{1,5}$" });

const standby = Type.Object(
  {
    node: id,
    incarnation: count,
    isWanted: Type.Boolean(),
    isMove: Type.Boolean(),
    portal: Type.Optional(place),
  },
  closed,
);

const target = Type.Object(
  {
    portal: place,
    chapUser: Type.Union([Type.String({ pattern: CHAP_USER_PATTERN }), Type.Null()]),
    chapTargetUser: Type.Optional(Type.String({ pattern: CHAP_USER_PATTERN })),
    initiators: Type.Array(Type.String({ minLength: 1, maxLength: ISCSI_NAME_LENGTH_MAX }), {
      maxItems: INITIATOR_COUNT_MAX,
    }),
    since: count,
    portTag: Type.Optional(Type.Integer({ minimum: 1, maximum: 2 })),
  },
  closed,
);

const unit = Type.Object(
  { controller: name, lun: Type.Integer({ minimum: 0, maximum: LUN_MAX }), since: count },
  closed,
);

const attachment = Type.Object(
  {
    generation: count,
    node: Type.Union([id, Type.Null()]),
    readOnly: Type.Boolean(),
    standby: Type.Optional(standby),
    target: Type.Optional(target),
    unit: Type.Optional(unit),
  },
  closed,
);

export const VOLUME_SCHEMA: SchemaOf<VolumeRecord> = describes<VolumeRecord>()(
  Type.Object(
    {
      format: Type.Integer({ minimum: 1, maximum: RECORD_FORMAT_MUTUAL }),
      changeId,
      id,
      name,
      sizeBytes: Type.Integer({ minimum: 4096, maximum: VOLUME_SIZE_MAX_BYTES }),
      growToBytes: Type.Optional(Type.Integer({ minimum: 4096, maximum: VOLUME_SIZE_MAX_BYTES })),
      blockBytes: Type.Enum([512, 4096]),
      replicaCount: Type.Integer({ minimum: 1, maximum: REPLICAS_MAX }),
      phase: Type.Enum(["creating", "ready", "deleting"]),
      createdAt: when,
      clusterGeneration: count,
      epoch,
      owner: Type.Union([process, Type.Null()]),
      state: Type.Enum(["clean", "open", "handed-over"]),
      members: Type.Array(id, { maxItems: VOLUME_MEMBERS_MAX }),
      out: Type.Array(out, { maxItems: VOLUME_MEMBERS_MAX }),
      membershipVersion: count,
      replacement: Type.Optional(replacement),
      attachment,
      layers: Type.Array(Type.Integer({ minimum: 0, maximum: 0xffffffff }), {
        minItems: 1,
        maxItems: 64,
      }),
    },
    closed,
  ),
);

export const COPY_SCHEMA: SchemaOf<CopyRecord> = describes<CopyRecord>()(
  Type.Object(
    {
      format,
      disk: id,
      sizeBytes: count,
      madeAt: when,
      problem: Type.Optional(Type.String({ minLength: 1, maxLength: 1024 })),
    },
    closed,
  ),
);

export const RESERVATIONS_SCHEMA: SchemaOf<ReservationsRecord> = describes<ReservationsRecord>()(
  Type.Object(
    { format, changeId, keeper: process, since: count, record: reservationRecord },
    closed,
  ),
);

const wireFormat = Type.Integer({ minimum: 1, maximum: 0xffff });

const nodeFields = {
  format,
  id,
  name,
  address: place,
  rack: Type.Union([name, Type.Null()]),
  joinedAt: when,
  wireFormats: Type.Tuple([wireFormat, wireFormat]),
};

export const NODE_SCHEMA: SchemaOf<NodeRecord> = describes<NodeRecord>()(
  Type.Object(
    { ...nodeFields, changeId, phase: Type.Enum(["active", "maintenance", "draining"]) },
    closed,
  ),
);

const note = Type.Object(
  {
    name: Type.Union([name, Type.Null()]),
    blockBytes: Type.Enum([512, 4096]),
    replicaCount: Type.Integer({ minimum: 1, maximum: REPLICAS_MAX }),
    isOut: Type.Boolean(),
    membershipVersion: count,
  },
  closed,
);

const reportedReplica = Type.Object(
  {
    volume: id,
    sizeBytes: count,
    epoch,
    membershipVersion: count,
    clusterGeneration: count,
    committed: stamp,
    newest: stamp,
    note: Type.Union([note, Type.Null()]),
  },
  closed,
);

export const REPORT_SCHEMA: SchemaOf<RecoveryReport> = describes<RecoveryReport>()(
  Type.Object(
    {
      format,
      cluster: Type.Object({ id, name, generation: count }, closed),
      node: Type.Object(nodeFields, closed),
      attached: Type.Array(Type.Object({ volume: id, name }, closed)),
      disk: Type.Union([
        Type.Object(
          {
            id,
            name,
            sizeBytes: count,
            freeBytes: count,
            incarnation: count,
            replicas: Type.Array(reportedReplica),
          },
          closed,
        ),
        Type.Null(),
      ]),
    },
    closed,
  ),
);

export const LIVE_SCHEMA: SchemaOf<LiveRecord> = describes<LiveRecord>()(
  Type.Object({ format, process, startedAt: when }, closed),
);

export const DISK_SCHEMA: SchemaOf<DiskRecord> = describes<DiskRecord>()(
  Type.Object(
    {
      format,
      changeId,
      id,
      number: Type.Integer({ minimum: 1, maximum: DISK_NUMBER_MAX }),
      node: id,
      name,
      sizeBytes: count,
      freeBytes: count,
      phase: Type.Enum(["active", "draining", "failed"]),
      incarnation: count,
    },
    closed,
  ),
);

export const CLUSTER_SCHEMA: SchemaOf<ClusterRecord> = describes<ClusterRecord>()(
  Type.Object(
    {
      format,
      changeId,
      id,
      name,
      generation: count,
      features: Type.Integer({ minimum: 0, maximum: 0x7fffffff }),
      createdAt: when,
    },
    closed,
  ),
);
