// Records as bytes: JSON that is checked against its schema both ways. What is beyond the schema
// and can be told from the record alone is checked here too.

import { compileValidator, type Validator } from "../model/validate.ts";
import { MetaError } from "./errors.ts";
import {
  CLUSTER_SCHEMA,
  COPY_SCHEMA,
  DISK_SCHEMA,
  LIVE_SCHEMA,
  NODE_SCHEMA,
  REPORT_SCHEMA,
  RESERVATIONS_SCHEMA,
  VOLUME_SCHEMA,
} from "./record-schemas.ts";
import {
  type ClusterRecord,
  type CopyRecord,
  type DiskRecord,
  FEATURES,
  type LiveRecord,
  type NodeRecord,
  RECORD_FORMAT,
  RECORD_FORMAT_MUTUAL,
  type RecoveryReport,
  type ReservationsRecord,
  type VolumeRecord,
} from "./records.ts";

export interface RecordCodec<T> {
  encode(record: T): Uint8Array;
  /** `key` is where it was found, for the words of a refusal. */
  decode(key: string, bytes: Uint8Array): T;
}

type Check<T> = (record: T) => string | null;

/** The lowest format that tells a record's content, and the highest that is read. */
interface Formats<T> {
  readonly of: (record: T) => number;
  readonly max: number;
}

const FIRST_FORMAT: Formats<unknown> = { of: () => RECORD_FORMAT, max: RECORD_FORMAT };

function codec<T extends { readonly format: number }>(
  what: string,
  validate: Validator,
  check: Check<T> = () => null,
  formats: Formats<T> = FIRST_FORMAT,
): RecordCodec<T> {
  const problemOf = (record: unknown): string | null => {
    const violation = validate(record);
    if (violation === null) return check(record as T);
    return `${violation.field === "" ? "it" : violation.field} ${violation.problem}`;
  };
  return {
    encode: (given) => {
      const record = { ...given, format: formats.of(given) };
      const problem = problemOf(record);
      if (problem !== null)
        throw new MetaError("format", `A ${what} cannot be written: ${problem}.`);
      return Buffer.from(JSON.stringify(record));
    },
    decode: (key, bytes) => {
      const record = parse(what, key, bytes);
      refuseNewer(what, key, record, formats.max);
      const problem = problemOf(record);
      if (problem === null) return record as T;
      throw new MetaError("format", `The ${what} at ${key} is not understood: ${problem}.`);
    },
  };
}

function parse(what: string, key: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new MetaError("format", `The ${what} at ${key} is not JSON.`, { cause });
  }
}

function refuseNewer(what: string, key: string, record: unknown, known: number): void {
  const format = (record as { format?: unknown } | null)?.format;
  if (typeof format !== "number" || format <= known) return;
  const message = `The ${what} at ${key} has format ${format}; this version reads up to ${known}.`;
  throw new MetaError("newer-format", message, { advice: "Upgrade this node." });
}

function checkVolume(record: VolumeRecord): string | null {
  const members = new Set(record.members);
  if (members.size !== record.members.length) return "a disk is twice among its members";
  const outs = new Set(record.out.map((one) => one.disk));
  if (outs.size !== record.out.length) return "a disk is twice among those that are out";
  for (const disk of outs) if (!members.has(disk)) return `${disk} is out and no member`;
  const lost = members.size > 0 && outs.size === members.size;
  if (lost && record.phase === "ready") return "all of its members are out";
  if (record.sizeBytes % 4096 !== 0) return "sizeBytes is no multiple of 4096";
  const { growToBytes } = record;
  if (growToBytes !== undefined && (growToBytes % 4096 !== 0 || growToBytes < record.sizeBytes)) {
    return `growToBytes ${growToBytes} is no size that it can grow to`;
  }
  if (record.owner !== null && record.epoch === 0) return "it has an owner without an epoch";
  const { node, standby, target } = record.attachment;
  if (target !== undefined && node === null) return "a volume that is attached nowhere is a target";
  if (target?.chapTargetUser !== undefined && target.chapUser === null) {
    return "its target proves itself to initiators that prove nothing";
  }
  if (standby !== undefined && (node === null || node === standby.node)) {
    return "a node stands by for a volume that is attached nowhere, or there";
  }
  return null;
}

const VOLUME_FORMATS: Formats<VolumeRecord> = {
  of: ({ attachment: { target } }) => {
    const isPlain = target?.chapTargetUser === undefined && target?.portTag === undefined;
    return isPlain ? RECORD_FORMAT : RECORD_FORMAT_MUTUAL;
  },
  max: RECORD_FORMAT_MUTUAL,
};

function checkCluster(record: ClusterRecord): string | null {
  const unknown = record.features & ~(2 ** FEATURES.length - 1);
  if (unknown === 0) return null;
  const bit = 31 - Math.clz32(unknown);
  return `it uses feature ${bit}, which this version does not know: upgrade this node`;
}

export const reportCodec: RecordCodec<RecoveryReport> = codec(
  "report of a disk",
  compileValidator(REPORT_SCHEMA),
);
export const volumeCodec: RecordCodec<VolumeRecord> = codec(
  "volume record",
  compileValidator(VOLUME_SCHEMA),
  checkVolume,
  VOLUME_FORMATS,
);
export const copyCodec: RecordCodec<CopyRecord> = codec(
  "record of a copy",
  compileValidator(COPY_SCHEMA),
);
export const reservationsCodec: RecordCodec<ReservationsRecord> = codec(
  "record of reservations",
  compileValidator(RESERVATIONS_SCHEMA),
);
export const nodeCodec: RecordCodec<NodeRecord> = codec(
  "node record",
  compileValidator(NODE_SCHEMA),
);
export const liveCodec: RecordCodec<LiveRecord> = codec(
  "liveness record",
  compileValidator(LIVE_SCHEMA),
);
export const diskCodec: RecordCodec<DiskRecord> = codec(
  "disk record",
  compileValidator(DISK_SCHEMA),
);
export const clusterCodec: RecordCodec<ClusterRecord> = codec(
  "cluster record",
  compileValidator(CLUSTER_SCHEMA),
  checkCluster,
);
