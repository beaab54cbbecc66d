// The simulated cluster's nodes, disks and volumes as the records that the planner of repairs reads;
// and what it makes of a volume's record back again.

import type { DiskRecord, NodeRecord, Replacement, VolumeRecord } from "../../meta/records.ts";
import type { OwnedRecord } from "../../ports/index.ts";
import { diskUuid, nodeUuid } from "./cluster-node.ts";
import type { ClusterVolume } from "./cluster-volume.ts";

const AT = "2026-01-01T00:00:00.000Z";
const DISK_BYTES: number = 2 ** 40;

/** Owners keep what they do not know of a record. */
export interface PlannedRecord extends OwnedRecord {
  readonly replacement?: Replacement;
}

export function nodeRecordOf(index: number): NodeRecord {
  return {
    format: 1,
    changeId: "",
    id: nodeUuid(index),
    name: `node${index}`,
    address: `node${index}:1`,
    rack: null,
    phase: "active",
    joinedAt: AT,
    wireFormats: [1, 1],
  };
}

export function diskRecordOf(index: number, isDraining: boolean): DiskRecord {
  return {
    format: 1,
    changeId: "",
    id: diskUuid(index),
    number: index + 1,
    node: nodeUuid(index),
    name: `disk${index}`,
    sizeBytes: DISK_BYTES,
    freeBytes: DISK_BYTES,
    phase: isDraining ? "draining" : "active",
    incarnation: 1,
  };
}

/** Why a member is out makes no difference to the planner: each is called missing. */
export function volumeRecordOf(
  { uuid, entry }: ClusterVolume,
  replicaCount: number,
  sizeBytes: number,
): VolumeRecord {
  const record = entry.record as PlannedRecord;
  const { epoch, state, members, out, membershipVersion, clusterGeneration } = record;
  const { replacement } = record;
  return {
    format: 1,
    changeId: "",
    id: uuid,
    name: uuid,
    sizeBytes,
    blockBytes: 4096,
    replicaCount,
    phase: "ready",
    createdAt: AT,
    clusterGeneration,
    epoch,
    owner: null,
    state,
    members,
    out: out.map(({ disk, sinceStamp }) => ({ disk, sinceStamp, reason: "missing", since: AT })),
    membershipVersion,
    ...(replacement === undefined ? {} : { replacement }),
    attachment: { generation: 1, node: nodeOf(record.owner), readOnly: false },
    layers: [1],
  };
}

/** A process is called `node1/3`. */
function nodeOf(owner: string | null): string | null {
  if (owner === null) return null;
  return nodeUuid(Number(owner.slice("node".length, owner.indexOf("/"))));
}

/** What the plan makes of `before`: of members it speaks, nothing else changes. */
export function ownedRecordOf(next: VolumeRecord, before: PlannedRecord): PlannedRecord {
  const { replacement: _, ...rest } = before;
  const { members, membershipVersion, replacement } = next;
  const out = next.out.map(
    (one) => before.out.find(({ disk }) => disk === one.disk) ?? { ...one, reason: "new" },
  );
  const plan = replacement === undefined ? {} : { replacement };
  return { ...rest, members, out, membershipVersion, ...plan };
}
