// The records of a cluster made again from what its disks say, when the metadata is lost: pure
// planning, from reports to the keys that `cluster recover` writes.
//
// Of each volume one copy becomes the one that counts, all others are out and are resynced from it:
//
//   trusted   its note is as new as the newest metadata that any copy of the volume has seen, and
//             says that it counts. A copy that missed a change of members, or was being resynced
//             when the metadata went, is not.
//   chosen    of those the one with the highest epoch, then the newest write
//
// A trusted copy has everything up to its own committed stamp, so its resync begins there; of the
// others everything is copied. Epochs, membership versions and the generation go on above all that
// was seen, so that no backup and no owner of before is let in beside what was made here.
//
// Invariant: the same reports make the same bytes: a recovery that was cut off is done again.

import { createHash } from "node:crypto";
import type { RecoveredVolume } from "../model/recovery-types.ts";
import { MetaError } from "./errors.ts";
import type { MetaKeys } from "./keys.ts";
import { mapPages } from "./map-pages.ts";
import { clusterCodec, diskCodec, nodeCodec, volumeCodec } from "./record-codec.ts";
import {
  NEVER_AT,
  type NodeRecord,
  RECORD_FORMAT,
  REPLICAS_MAX,
  type RecoveryReport,
  type ReportedDisk,
  type ReportedReplica,
  type VolumeRecord,
} from "./records.ts";

const COPIES_MAX = 8;

interface Copy {
  readonly disk: ReportedDisk;
  readonly node: RecoveryReport["node"];
  readonly replica: ReportedReplica;
}

export interface RecoveryPlan {
  readonly cluster: { readonly id: string; readonly name: string; readonly generation: number };
  readonly nodes: readonly string[];
  readonly disks: readonly string[];
  readonly volumes: readonly RecoveredVolume[];
  /** Volumes of which copies are missing: a newer one may be among them. */
  readonly incomplete: readonly string[];
  /** Replicas that nobody ever wrote to: left where they are. */
  readonly unusedCount: number;
  /** Keys without their root, and values. */
  readonly values: ReadonlyMap<string, Buffer>;
}

export function planRecovery(
  keys: MetaKeys,
  clusterId: string,
  all: readonly RecoveryReport[],
): RecoveryPlan {
  const reports = all.filter(({ cluster }) => cluster.id === clusterId);
  const nodes = nodesOf(reports);
  const copies = copiesOf(reports);
  const { name } = reports[0]?.cluster ?? refuse("no node has told what its disks say");
  const seen = [...copies.values()].flat().map(({ replica }) => replica.clusterGeneration);
  const generation = Math.max(...reports.map(({ cluster }) => cluster.generation), ...seen) + 1;
  const values = new Map<string, Buffer>();
  const put = (key: string, value: Uint8Array): void => {
    values.set(key.slice(keys.root.length), Buffer.from(value));
  };
  for (const node of nodes) {
    const record: NodeRecord = { ...node, changeId: changeId(node.id), phase: "active" };
    put(keys.node(node.id), nodeCodec.encode(record));
  }
  const numbers = putDisks(keys, reports, put);
  const used = [...copies].filter(([, some]) => some.some(isUsed));
  const names = new Set<string>();
  const volumes: RecoveredVolume[] = [];
  for (const [id, some] of used) {
    const { record, volume } = recoverVolume(id, some, { generation, names, reports });
    names.add(record.name);
    volumes.push(volume);
    put(keys.volumeRecord(id), volumeCodec.encode(record));
    put(keys.volumeName(record.name), Buffer.from(id));
    const disks = record.members.slice(0, record.replicaCount);
    const map = disks.map((disk) => numbers.get(disk) as number);
    for (const { key, value } of mapPages(keys, id, record.sizeBytes, map)) {
      if (value !== null) put(key, value);
    }
  }
  const cluster = { id: clusterId, name, generation };
  const made = { changeId: changeId(`${clusterId} ${generation}`), features: 0 };
  const record = { format: RECORD_FORMAT, ...cluster, ...made, createdAt: NEVER_AT };
  put(keys.cluster, clusterCodec.encode(record));
  return {
    cluster,
    nodes: nodes.map((node) => node.name).toSorted(),
    disks: reports
      .flatMap(({ node, disk }) => (disk === null ? [] : [placeOf({ node, disk })]))
      .toSorted(),
    volumes,
    incomplete: volumes
      .filter(({ copyCount, replicaCount }) => copyCount < (replicaCount ?? 0))
      .map((volume) => volume.name),
    unusedCount: copies.size - used.length,
    values,
  };
}

function refuse(problem: string): never {
  throw new MetaError("archive", `Nothing can be made from the disks: ${problem}.`);
}

function changeId(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

function placeOf({ node, disk }: Pick<Copy, "node" | "disk">): string {
  return `${node.name}/${disk.name}`;
}

function byId<T extends { readonly id: string }>(a: T, b: T): number {
  return a.id < b.id ? -1 : 1;
}

function nodesOf(reports: readonly RecoveryReport[]): readonly RecoveryReport["node"][] {
  const nodes = new Map(reports.map(({ node }) => [node.id, node]));
  return [...nodes.values()].toSorted(byId);
}

function copiesOf(reports: readonly RecoveryReport[]): ReadonlyMap<string, readonly Copy[]> {
  const found = new Map<string, Copy[]>();
  const sorted = reports.flatMap((one) => (one.disk === null ? [] : [{ ...one, disk: one.disk }]));
  for (const { node, disk } of sorted.toSorted((a, b) => byId(a.disk, b.disk))) {
    for (const replica of disk.replicas) {
      const some = found.get(replica.volume) ?? [];
      some.push({ node, disk, replica });
      found.set(replica.volume, some);
    }
  }
  return new Map([...found].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

function isUsed({ replica }: Copy): boolean {
  return replica.epoch > 0 || replica.note !== null || replica.newest.epoch > 0;
}

/** Returns their numbers. */
function putDisks(
  keys: MetaKeys,
  reports: readonly RecoveryReport[],
  put: (key: string, value: Uint8Array) => void,
): ReadonlyMap<string, number> {
  const numbers = new Map<string, number>();
  const found = reports.flatMap((one) =>
    one.disk === null ? [] : [{ ...one.disk, on: one.node }],
  );
  for (const { on, replicas: _, ...disk } of found.toSorted(byId)) {
    if (numbers.has(disk.id)) refuse(`disk ${disk.name} is told of twice, on ${on.name} too`);
    const number = numbers.size + 1;
    numbers.set(disk.id, number);
    const fixed = { format: RECORD_FORMAT, changeId: changeId(disk.id), phase: "active" } as const;
    put(keys.disk(disk.id), diskCodec.encode({ ...fixed, ...disk, number, node: on.id }));
    put(keys.diskNumber(number), Buffer.from(disk.id));
  }
  return numbers;
}

/** Newest first. */
function byAge({ replica: a }: Copy, { replica: b }: Copy): number {
  if (a.epoch !== b.epoch) return b.epoch - a.epoch;
  if (a.newest.epoch !== b.newest.epoch) return b.newest.epoch - a.newest.epoch;
  return b.newest.sequence - a.newest.sequence;
}

/** Its note is as new as what any owner or note has left on any copy. */
function isTrusted({ replica }: Copy, newestVersion: number): boolean {
  const { note } = replica;
  return note !== null && !note.isOut && note.membershipVersion === newestVersion;
}

interface Surroundings {
  readonly generation: number;
  readonly names: ReadonlySet<string>;
  readonly reports: readonly RecoveryReport[];
}

function recoverVolume(
  id: string,
  found: readonly Copy[],
  { generation, names, reports }: Surroundings,
): { readonly record: VolumeRecord; readonly volume: RecoveredVolume } {
  const lost: string[] = [];
  const newestVersion = Math.max(...found.map(({ replica }) => replica.membershipVersion));
  const trusted = found.filter((copy) => isTrusted(copy, newestVersion));
  if (trusted.length === 0) lost.push("which copies were in sync: the newest one is taken");
  const candidates = trusted.length > 0 ? trusted : found.filter(isUsed);
  const source = candidates.toSorted(byAge)[0] as Copy;
  const others = found.filter((copy) => copy !== source).toSorted(byAge);
  const members = [source, ...others].slice(0, COPIES_MAX);
  const { note } = members.find(({ replica }) => replica.note !== null)?.replica ?? { note: null };
  const named = found.map(({ replica }) => replica.note?.name ?? null).find((one) => one !== null);
  const holder = reports.find(({ attached }) => attached.some(({ volume }) => volume === id));
  const told = holder?.attached.find(({ volume }) => volume === id)?.name;
  const name = nameFor(id, named ?? told ?? null, names, lost);
  if (note === null) lost.push("block size (512 taken), number of replicas (the copies found)");
  const inSync = trusted.length > 0 ? trusted : [source];
  const sizeBytes = Math.min(...inSync.map(({ replica }) => replica.sizeBytes));
  const record: VolumeRecord = {
    format: RECORD_FORMAT,
    changeId: changeId(`${id} ${generation}`),
    id,
    name,
    sizeBytes,
    blockBytes: note?.blockBytes ?? 512,
    replicaCount: note?.replicaCount ?? Math.min(members.length, REPLICAS_MAX),
    phase: "ready",
    createdAt: NEVER_AT,
    clusterGeneration: generation,
    epoch: Math.max(...found.map(({ replica }) => Math.max(replica.epoch, replica.newest.epoch))),
    owner: null,
    state: "open",
    members: members.map(({ disk }) => disk.id),
    out: members.slice(1).map((copy) => ({
      disk: copy.disk.id,
      sinceStamp: trusted.includes(copy) ? copy.replica.committed : { epoch: 0, sequence: 0 },
      reason: "missing",
      since: NEVER_AT,
    })),
    membershipVersion: newestVersion + 1,
    attachment: { generation: 1, node: null, readOnly: false },
    layers: [0],
  };
  const volume: RecoveredVolume = {
    id,
    name,
    sizeBytes,
    copyCount: found.length,
    replicaCount: note?.replicaCount ?? null,
    source: placeOf(source),
    out: members.slice(1).map(placeOf),
    attachedTo: holder?.node.name ?? null,
    lost,
  };
  return { record, volume };
}

function nameFor(
  id: string,
  wanted: string | null,
  taken: ReadonlySet<string>,
  lost: string[],
): string {
  if (wanted !== null && !taken.has(wanted)) return wanted;
  const made = `recovered-${id.slice(0, 8)}`;
  const name = taken.has(made) ? `recovered-${id}` : made;
  lost.push(wanted === null ? "its name" : `its name: another volume is called ${wanted}`);
  return name;
}
