// What the parts of a node's cluster side share, and the two things that most of them do: read a
// volume's record where it counts, and change it.

import { randomBytes } from "node:crypto";
import { type MetaKeys, type RecordCodec, transactUntilKnown, volumeCodec } from "../meta/index.ts";
import type { ProcessName, VolumeRecord } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import type { ClusterPlane, OwnerStats } from "../ports/cluster-plane.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import type {
  MetaGuard,
  MetaOutcome,
  MetaStore,
  MetaTransaction,
  MetaWrite,
} from "../ports/meta-store.ts";
import type { Membership } from "./cluster-file.ts";
import type { ClusterInventory, Known } from "./cluster-inventory.ts";
import type { MetaLink } from "./cluster-link.ts";
import type { ClusterNotes } from "./cluster-notes.ts";
import type { ClusterReservations } from "./cluster-reservations.ts";
import type { ServedVolume } from "./cluster-served.ts";
import type { ClusterTimings } from "./cluster-timings.ts";
import type { VolumeHost } from "./volume-host.ts";

export interface ClusterContext {
  readonly member: Membership;
  /** Of this run of the daemon. */
  readonly incarnation: number;
  readonly plane: DataPlane & ClusterPlane;
  readonly host: VolumeHost;
  readonly link: MetaLink;
  readonly keys: MetaKeys;
  readonly inventory: ClusterInventory;
  readonly timings: ClusterTimings;
  readonly notes: ClusterNotes;
  readonly reservations: ClusterReservations;
  /** The metadata that this node knows to be its cluster's. */
  readonly trusted: TrustedMetadata;
  /** What this node serves or means to, by volume id. */
  readonly served: Map<string, ServedVolume>;
  /** Looks soon at everything that may have to be done. */
  readonly look: () => void;
}

/** Other metadata, restored or rebuilt, has another birth or generation. */
export interface TrustedMetadata {
  metaBirth: number;
  generation: number;
}

/** Views follow a change within this time, or later by themselves. */
const FOLLOW_MS = 2000;

export function newChangeId(): string {
  return randomBytes(8).toString("hex");
}

/** A run of a daemon, as owners are named in the data plane. */
export function processText({ node, incarnation }: ProcessName): string {
  return `${node}/${incarnation}`;
}

/** Names this run of the daemon in records of volumes that it owns. */
export function ownerName({ member, incarnation }: ClusterContext): string {
  return processText({ node: member.nodeId, incarnation });
}

/** What this node's owner of the volume is doing; undefined = there is none. */
export function ownerOf({ plane }: ClusterContext, volumeId: string): OwnerStats | undefined {
  return plane.ownerStats().find((one) => one.volumeId === volumeId);
}

/** A disk of this node, as the cluster knows it, that takes requests. */
export function isReadyHere({ host, inventory, member }: ClusterContext, diskId: string): boolean {
  return inventory.nodeOf(diskId) === member.nodeId && host.modules.disks.isReady(diskId);
}

/** Linearizable. */
export async function isNodeLive(
  { link, keys }: ClusterContext,
  nodeId: string,
  what: string,
): Promise<boolean> {
  return (await link.ask(what, (store) => store.get(keys.liveNode(nodeId)))) !== null;
}

/** Told when a transaction that may have been applied is not to be tried any more. */
export function givingUp({ host, timings }: ClusterContext): () => boolean {
  const deadlineMs = performance.now() + timings.settleMs;
  return () => host.stopping || performance.now() > deadlineMs;
}

/** Linearizable. null: there is no such volume. */
/**
 * Since which generation a volume that is a SCSI unit has power: that of the attachment that came
 * from nowhere. Undefined: it is none, or has just become one.
 */
export function poweredSince({ target, unit }: VolumeRecord["attachment"]): number | undefined {
  return target?.since ?? unit?.since;
}

export async function readVolume(
  { keys }: ClusterContext,
  store: MetaStore,
  volumeId: string,
): Promise<Known<VolumeRecord> | null> {
  const key = keys.volumeRecord(volumeId);
  const entry = await store.get(key);
  if (entry === null) return null;
  return { record: volumeCodec.decode(key, entry.value), modRevision: entry.modRevision };
}

/** Carries a transaction to a definite end, and waits until the inventory has followed. */
export async function transact(
  context: ClusterContext,
  store: MetaStore,
  transaction: MetaTransaction,
): Promise<Exclude<MetaOutcome, { outcome: "unknown" }>> {
  const { inventory } = context;
  const outcome = await transactUntilKnown(store, transaction, givingUp(context));
  // A conflict tells that somebody changed something: whoever tries again looks first.
  await inventory.until(() => inventory.revision >= outcome.revision, FOLLOW_MS);
  return outcome;
}

export interface Also {
  readonly guards?: readonly MetaGuard[];
  readonly writes?: readonly MetaWrite[];
}

/** A record under one key, and what is said when it cannot be changed. */
export interface ChangedRecord<T> {
  readonly key: string;
  readonly codec: RecordCodec<T>;
  readonly what: string;
  readonly missing: () => ApiError;
  readonly contended: () => ApiError;
}

const CHANGE_ATTEMPTS_MAX = 16;

/**
 * Changes a record as `make` says, on what is there when it happens; null = nothing is to be
 * changed. Returns what is there then, and whether that was our doing. `also` is done in the same
 * transaction.
 */
export async function changeRecord<T extends object>(
  context: ClusterContext,
  { key, codec, what, missing, contended }: ChangedRecord<T>,
  make: (record: T) => T | null,
  also: (record: T) => Also = () => ({}),
): Promise<{ readonly record: T; readonly isChanged: boolean }> {
  return await context.link.ask(what, async (store) => {
    for (let attempt = 0; attempt < CHANGE_ATTEMPTS_MAX; attempt += 1) {
      const entry = await store.get(key);
      if (entry === null) throw missing();
      const found = codec.decode(key, entry.value);
      const made = make(found);
      if (made === null) return { record: found, isChanged: false };
      const record = { ...made, changeId: newChangeId() };
      const { guards = [], writes = [] } = also(record);
      const answer = await transact(context, store, {
        guards: [{ key, modRevision: entry.modRevision }, ...guards],
        writes: [{ key, value: codec.encode(record) }, ...writes],
      });
      if (answer.outcome === "applied") return { record, isChanged: true };
    }
    throw contended();
  });
}

/** changeRecord() of a volume's. */
export async function changeVolume(
  context: ClusterContext,
  volumeId: string,
  what: string,
  make: (record: VolumeRecord) => VolumeRecord | null,
  also?: (record: VolumeRecord) => Also,
): Promise<VolumeRecord> {
  const changed = {
    key: context.keys.volumeRecord(volumeId),
    codec: volumeCodec,
    what,
    missing: () => new ApiError("volume_not_found", `${what}: the volume does not exist any more`),
    contended: () =>
      new ApiError("volume_busy", `${what}: others keep changing the volume`, {
        advice: "try again",
      }),
  };
  return (await changeRecord(context, changed, make, also)).record;
}
