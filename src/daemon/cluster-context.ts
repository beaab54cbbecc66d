// What the parts of a node's cluster side share, and the two things that most of them do: read a
// volume's record where it counts, and change it.

import { randomBytes } from "node:crypto";
import { type MetaKeys, transactUntilKnown, volumeCodec } from "../meta/index.ts";
import type { ProcessName, VolumeRecord } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import type { ClusterPlane } from "../ports/cluster-plane.ts";
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

/** Linearizable. null: there is no such volume. */
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
  { host, timings, inventory }: ClusterContext,
  store: MetaStore,
  transaction: MetaTransaction,
): Promise<Exclude<MetaOutcome, { outcome: "unknown" }>> {
  const deadlineMs = performance.now() + timings.settleMs;
  const isGivenUp = (): boolean => host.stopping || performance.now() > deadlineMs;
  const outcome = await transactUntilKnown(store, transaction, isGivenUp);
  // A conflict tells that somebody changed something: whoever tries again looks first.
  await inventory.until(() => inventory.revision >= outcome.revision, FOLLOW_MS);
  return outcome;
}

export interface Also {
  readonly guards?: readonly MetaGuard[];
  readonly writes?: readonly MetaWrite[];
}

/**
 * Changes a record as `make` says, on what is there when it happens; null = nothing is to be
 * changed. Returns what is there then. `also` is done in the same transaction.
 */
export async function changeVolume(
  context: ClusterContext,
  volumeId: string,
  what: string,
  make: (record: VolumeRecord) => VolumeRecord | null,
  also: (record: VolumeRecord) => Also = () => ({}),
): Promise<VolumeRecord> {
  const { link, keys } = context;
  return await link.ask(what, async (store) => {
    for (let attempt = 0; attempt < CHANGE_ATTEMPTS_MAX; attempt += 1) {
      const known = await readVolume(context, store, volumeId);
      if (known === null) {
        throw new ApiError("volume_not_found", `${what}: the volume does not exist any more`);
      }
      const made = make(known.record);
      if (made === null) return known.record;
      const record = { ...made, changeId: newChangeId() };
      const key = keys.volumeRecord(volumeId);
      const { guards = [], writes = [] } = also(record);
      const answer = await transact(context, store, {
        guards: [{ key, modRevision: known.modRevision }, ...guards],
        writes: [{ key, value: volumeCodec.encode(record) }, ...writes],
      });
      if (answer.outcome === "applied") return record;
    }
    throw new ApiError("volume_busy", `${what}: others keep changing the volume`, {
      advice: "try again",
    });
  });
}

const CHANGE_ATTEMPTS_MAX = 16;
