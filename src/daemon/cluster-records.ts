// The records of the volumes that this node owns, as the owners in the data plane read and swap
// them: a part of the metadata's record. Everything else in it is kept as it is.
//
// Whoever hands a volume over moves its attachment with it, in the same swap: nobody ever reads
// that one has moved and not the other.
//
// An owner that got no answer sends the same swap again. It then goes out with the same bytes, so
// that at most one of the two is applied, and the conflict that the second may meet is recognised
// as the first one's success.

import { volumeCodec } from "../meta/index.ts";
import type { Attachment, OutReason, ProcessName, VolumeRecord } from "../meta/records.ts";
import type { VolumeRecordsHost } from "../ports/cluster-plane.ts";
import type { Log } from "../ports/log.ts";
import type { MetaEntry, MetaStore } from "../ports/meta-store.ts";
import type { OwnedRecord, RecordEntry, RecordSwap } from "../ports/volume-records.ts";
import { targetAtStandby } from "./classic-attach.ts";
import { newChangeId, processText } from "./cluster-context.ts";

export interface RecordsModules {
  readonly store: MetaStore;
  readonly keyOf: (volumeId: string) => string;
  /** Opened for work on its copies: not to be claimed where it is attached. */
  readonly isWorker: (volumeId: string) => boolean;
  readonly log: Log;
  readonly now: () => Date;
  /** The disk's node is put aside: its copy is expected back. */
  readonly isInMaintenance: (diskId: string) => boolean;
}

/** A swap that was sent and not answered for certain. */
interface OpenSwap {
  readonly revision: number;
  readonly wanted: string;
  readonly bytes: Uint8Array;
}

const UNKNOWN: RecordSwap = { outcome: "unknown" };

export class ClusterRecords implements VolumeRecordsHost {
  readonly #modules: RecordsModules;
  readonly #open = new Map<string, OpenSwap>();
  /** As last read or swapped, so that a swap need not read first. */
  readonly #known = new Map<string, { readonly record: VolumeRecord; readonly revision: number }>();

  constructor(modules: RecordsModules) {
    this.#modules = modules;
  }

  async read(volumeId: string): Promise<RecordEntry | null> {
    try {
      const entry = await this.#modules.store.get(this.#modules.keyOf(volumeId));
      return entry === null ? null : this.#note(volumeId, entry);
    } catch (error) {
      this.#tell("cluster.record-not-read", volumeId, error);
      return null;
    }
  }

  async swap(volumeId: string, revision: number, wanted: OwnedRecord): Promise<RecordSwap> {
    try {
      return await this.#swap(volumeId, revision, wanted);
    } catch (error) {
      // Surely not applied this time; an earlier time is still open.
      this.#tell("cluster.record-not-swapped", volumeId, error);
      return UNKNOWN;
    }
  }

  async #swap(volumeId: string, revision: number, wanted: OwnedRecord): Promise<RecordSwap> {
    const { store, keyOf } = this.#modules;
    const key = keyOf(volumeId);
    const text = JSON.stringify(wanted);
    let open = this.#open.get(volumeId);
    if (open?.revision !== revision || open.wanted !== text) {
      const before = await this.#recordAt(volumeId, revision);
      if (!("record" in before)) return before;
      // Asked again until it is closed, which is soon: see cluster-workers.ts.
      if (this.#isForbidden(volumeId, before.record, wanted)) return UNKNOWN;
      const record = merged(before.record, wanted, this.#modules);
      open = { revision, wanted: text, bytes: volumeCodec.encode(record) };
      this.#open.set(volumeId, open);
    }
    const answer = await store.compareAndSwap(key, revision, open.bytes);
    if (answer.outcome === "unknown") return UNKNOWN;
    if (answer.outcome === "applied") {
      this.#settled(volumeId, open, answer.revision);
      return answer;
    }
    const found = answer.found[0] ?? null;
    if (found !== null && Buffer.compare(found.value, open.bytes) === 0) {
      this.#settled(volumeId, open, found.modRevision);
      return { outcome: "applied", revision: found.modRevision };
    }
    this.#open.delete(volumeId);
    // The volume is gone: nothing can be told of it. Its owner is closed soon.
    if (found === null) return UNKNOWN;
    return { outcome: "conflict", found: this.#note(volumeId, found) };
  }

  #isForbidden(volumeId: string, { epoch, attachment }: VolumeRecord, to: OwnedRecord): boolean {
    return to.epoch > epoch && attachment.node !== null && this.#modules.isWorker(volumeId);
  }

  #settled(volumeId: string, { bytes }: OpenSwap, revision: number): void {
    this.#open.delete(volumeId);
    const record = volumeCodec.decode(this.#modules.keyOf(volumeId), bytes);
    this.#known.set(volumeId, { record, revision });
  }

  /** The whole record as it was at `revision`, or why the swap cannot be. */
  async #recordAt(
    volumeId: string,
    revision: number,
  ): Promise<{ readonly record: VolumeRecord } | RecordSwap> {
    const known = this.#known.get(volumeId);
    if (known?.revision === revision) return known;
    const entry = await this.#modules.store.get(this.#modules.keyOf(volumeId));
    if (entry === null) return UNKNOWN;
    const found = this.#note(volumeId, entry);
    if (entry.modRevision !== revision) return { outcome: "conflict", found };
    return this.#known.get(volumeId)!;
  }

  #note(volumeId: string, { value, modRevision }: MetaEntry): RecordEntry {
    const record = volumeCodec.decode(this.#modules.keyOf(volumeId), value);
    this.#known.set(volumeId, { record, revision: modRevision });
    return { record: ownedPart(record), revision: modRevision };
  }

  #tell(event: string, volume: string, error: unknown): void {
    this.#modules.log.log("warn", event, { volume, message: (error as Error).message });
  }
}

function ownerText(owner: ProcessName | null): string | null {
  return owner === null ? null : processText(owner);
}

function ownedPart(record: VolumeRecord): OwnedRecord {
  const { epoch, state, members, membershipVersion, clusterGeneration } = record;
  const out = record.out.map(({ disk, sinceStamp, reason }) => ({ disk, sinceStamp, reason }));
  const owner = ownerText(record.owner);
  return { epoch, owner, state, members, out, membershipVersion, clusterGeneration };
}

function merged(
  before: VolumeRecord,
  wanted: OwnedRecord,
  { now, isInMaintenance }: RecordsModules,
): VolumeRecord {
  const known = new Map(before.out.map((one) => [one.disk, one]));
  const { epoch, state, members, membershipVersion, clusterGeneration } = wanted;
  const owner = processOf(wanted.owner);
  return {
    ...before,
    changeId: newChangeId(),
    epoch,
    owner,
    attachment: state === "handed-over" ? movedTo(owner, before) : before.attachment,
    state,
    members,
    membershipVersion,
    clusterGeneration,
    out: wanted.out.map(({ disk, sinceStamp, reason }) => {
      const earlier = known.get(disk);
      const at = { disk, sinceStamp };
      if (earlier !== undefined) return { ...at, reason: earlier.reason, since: earlier.since };
      const told = isInMaintenance(disk) ? "maintenance" : reasonOf(reason);
      return { ...at, reason: told, since: now().toISOString() };
    }),
  };
}

/** To the node of the new owner; the one before stands by in turn, unless it was not to. */
function movedTo(to: ProcessName | null, { attachment, owner }: VolumeRecord): Attachment {
  const { generation, node, readOnly, standby, target } = attachment;
  if (to === null || node === null || node === to.node) return attachment;
  const portal = standby?.node === to.node ? standby.portal : undefined;
  const moved = {
    generation: generation + 1,
    node: to.node,
    readOnly,
    ...(target === undefined || portal === undefined
      ? {}
      : { target: targetAtStandby(target, portal) }),
  };
  if (standby?.isMove === true || owner?.node !== node) return moved;
  const { incarnation } = owner;
  const before = { node, incarnation, isWanted: false, isMove: false };
  const place = target === undefined ? {} : { portal: target.portal };
  return { ...moved, standby: { ...before, ...place } };
}

function processOf(owner: string | null): ProcessName | null {
  if (owner === null) return null;
  const at = owner.lastIndexOf("/");
  return { node: owner.slice(0, at), incarnation: Number(owner.slice(at + 1)) };
}

/** Reasons of members that could not be reached; others are the copy's own failures. */
const MISSING = /unreach|did not answer|lost|closed|missing|timed? ?out/i;
const KNOWN: readonly string[] = ["drained", "failed", "lagging", "maintenance", "missing", "new"];

/** The owner's words, as the closed list of the record. */
function reasonOf(words: string): OutReason {
  if (KNOWN.includes(words)) return words as OutReason;
  if (words === "lag") return "lagging";
  return MISSING.test(words) ? "missing" : "failed";
}
