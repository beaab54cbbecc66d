// JSON schemas of what the REST API says about disks; the types, with the meaning of each field,
// are in disk-types.ts.

import Type from "typebox";
import type { Disk, DiskCreate, DiskList, DiskRemoveReply } from "./disk-types.ts";
import {
  DISK_COUNT_MAX,
  DISK_FINDINGS_MAX,
  PATH_LENGTH_MAX,
  VOLUME_SIZE_MAX_BYTES,
} from "./limits.ts";
import { describes, type SchemaOf } from "./schema.ts";
import { closed, count, health, name, nullable, when } from "./schema-parts.ts";

const path = Type.String({ minLength: 1, maxLength: PATH_LENGTH_MAX });
const durability = Type.Enum(["write-through", "plp", "volatile"], {
  description: "what makes a completed write durable",
});

const task = Type.Object(
  {
    kind: Type.Enum(["format", "open", "check"]),
    step: Type.String(),
    doneBytes: count(),
    totalBytes: count(),
  },
  { ...closed, title: "DiskTask" },
);

const usage = Type.Object(
  {
    totalBytes: count("for data: the disk without journals and tables"),
    usedBytes: count(),
    freeBytes: count(),
    quarantinedBytes: count("freed, and not to be used again yet"),
    badBlockCount: count(),
    scrubPositionBytes: count(),
    ringBytes: count(),
    ringUsedBytes: count(),
    uncertainCount: count("writes of which it is not known whether they had been answered"),
  },
  { ...closed, title: "DiskUsage" },
);

const check = Type.Object(
  {
    at: when,
    errorCount: count(),
    warningCount: count(),
    blocksVerified: count(),
    pagesVerified: count(),
    groupsVerified: count(),
    findingCount: count(),
    findings: Type.Array(
      Type.Object(
        {
          severity: Type.Enum(["error", "warning", "note"]),
          where: Type.String(),
          message: Type.String(),
        },
        closed,
      ),
      { maxItems: DISK_FINDINGS_MAX },
    ),
    failure: nullable(Type.String({ description: "why it could not be carried out" })),
  },
  { ...closed, title: "DiskCheck" },
);

const disk = Type.Object(
  {
    id: Type.String({ description: "UUID in its superblock" }),
    name,
    path,
    state: Type.Enum(["formatting", "opening", "ready", "checking", "failed", "missing", "stale"]),
    sizeBytes: count(),
    durability,
    durabilityReason: Type.String({ description: "how that was found out" }),
    createdAt: when,
    incarnation: count("counts openings"),
    usage: nullable(usage),
    volumeCount: count(),
    task: nullable(task),
    lastCheck: nullable(check),
    health: Type.Array(health),
  },
  { ...closed, title: "Disk" },
);

export const DiskSchema: SchemaOf<Disk> = describes<Disk>()(disk);

export const DiskListSchema: SchemaOf<DiskList> = describes<DiskList>()(
  Type.Object(
    { disks: Type.Array(disk, { maxItems: DISK_COUNT_MAX }) },
    { ...closed, title: "DiskList" },
  ),
);

export const DiskCreateSchema: SchemaOf<DiskCreate> = describes<DiskCreate>()(
  Type.Object(
    {
      path,
      name: Type.Optional(name),
      sizeBytes: Type.Optional(
        Type.Integer({
          minimum: 1,
          maximum: VOLUME_SIZE_MAX_BYTES,
          description: "of the file that is made or extended",
        }),
      ),
      allocation: Type.Optional(
        Type.Enum(["full", "sparse"], { description: "full: every byte is written once" }),
      ),
      durability: Type.Optional(Type.Enum(["auto", "write-through", "plp", "volatile"])),
      force: Type.Optional(Type.Boolean({ description: "what is on it now is lost" })),
    },
    { ...closed, title: "DiskCreate" },
  ),
);

export const DiskRemoveReplySchema: SchemaOf<DiskRemoveReply> = describes<DiskRemoveReply>()(
  Type.Object(
    {
      disk: name,
      path,
      volumes: Type.Array(name, { description: "that lived only there and are deleted with it" }),
    },
    { ...closed, title: "DiskRemoveReply" },
  ),
);
