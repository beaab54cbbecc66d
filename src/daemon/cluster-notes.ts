// What the metadata says of a volume is kept beside each of its copies on this node's disks, and
// what disks have seen is held against the metadata: records that are older than a note were put
// back from a backup. Nothing is served from such records (ports/replica-note.ts).
//
// Invariants:
// - A note is made from a record of the metadata, so a refusal proves something only about what a
//   linearizable read finds after it.
// - A volume that was found older stays so until its record, or the metadata, is another one.

import type { VolumeRecord } from "../meta/records.ts";
import { isInSync } from "../meta/repair-plan.ts";
import { ApiError } from "../model/errors.ts";
import type { OwnerStats } from "../ports/cluster-plane.ts";
import type { ReplicaNote } from "../ports/replica-note.ts";
import {
  type ClusterContext,
  isReadyHere,
  ownerName,
  processText,
  readVolume,
} from "./cluster-context.ts";
import type { Known } from "./cluster-inventory.ts";

interface Verdict {
  readonly name: string;
  /** The record that it is about, and which metadata had it. */
  readonly basis: string;
  readonly reason: string;
}

const NOTES_AT_ONCE = 32;

export class ClusterNotes {
  readonly #context: ClusterContext;
  /** Told to which disk, by `volume/disk`, as text. */
  readonly #noted = new Map<string, string>();
  /** By volume: what is older than this node's disks, or refused by others. */
  readonly #verdicts = new Map<string, Verdict>();

  constructor(context: ClusterContext) {
    this.#context = context;
  }

  /** Names of the volumes whose records are older than what disks have seen. */
  get olderVolumes(): readonly string[] {
    return [...this.#verdicts.values()].map(({ name }) => name).sort();
  }

  #basisOf({ epoch, membershipVersion, clusterGeneration }: VolumeRecord): string {
    const { birth } = this.#context.inventory;
    return [birth, clusterGeneration, membershipVersion, epoch].join(" ");
  }

  /** Every volume is tried; the first failure is thrown when all were. */
  async reconcile(): Promise<void> {
    const { inventory } = this.#context;
    for (const id of this.#verdicts.keys()) {
      if (!inventory.volumes.has(id)) this.#verdicts.delete(id);
    }
    const left = [...inventory.volumes.values()];
    let failure: unknown;
    while (left.length > 0) {
      const some = left.splice(0, NOTES_AT_ONCE).map((known) => this.#noteAll(known));
      for (const ended of await Promise.allSettled(some)) {
        if (ended.status === "rejected") failure ??= ended.reason;
      }
    }
    if (failure !== undefined) throw failure;
  }

  /** Of a record that has just been read. Throws when nothing may be served from it. */
  async requireCurrent(record: VolumeRecord): Promise<void> {
    for (const disk of this.#disksOf(record)) {
      // Whatever was told before: the disk may have seen more since.
      this.#noted.delete(`${record.id}/${disk}`);
      const older = await this.#note(record, disk);
      if (older !== null) this.#judge(record, older);
    }
    const verdict = this.#verdicts.get(record.id);
    if (verdict === undefined) return;
    if (verdict.basis !== this.#basisOf(record)) {
      this.#verdicts.delete(record.id);
      return;
    }
    const message = `the metadata of volume ${record.name} is older than its copies`;
    throw new ApiError("volume_unavailable", `${message}: ${verdict.reason}`, {
      advice: "see: ringstore cluster show; nothing is served from a backup that is too old",
    });
  }

  /**
   * An owner of this node has given up. Unless its record names another one by now, a copy has
   * seen what this metadata has not.
   */
  ownerGaveUp(record: VolumeRecord, { epoch }: OwnerStats): boolean {
    const owner = record.owner === null ? "" : processText(record.owner);
    const isOlder = record.epoch < epoch;
    if (!isOlder && (record.epoch > epoch || owner !== ownerName(this.#context))) return false;
    this.#judge(record, `epoch ${epoch} of this node was refused by a copy`);
    return true;
  }

  #judge(record: VolumeRecord, reason: string): void {
    const { id, name } = record;
    const basis = this.#basisOf(record);
    if (this.#verdicts.get(id)?.basis === basis) return;
    this.#verdicts.set(id, { name, basis, reason });
    const { log } = this.#context.host.modules;
    log.log("error", "cluster.metadata-older", { volume: name, message: reason });
  }

  #disksOf({ id, members, phase }: VolumeRecord): readonly string[] {
    const { inventory } = this.#context;
    if (phase !== "ready") return [];
    return members.filter(
      (disk) => isReadyHere(this.#context, disk) && inventory.copy(id, disk) !== null,
    );
  }

  async #noteAll(known: Known<VolumeRecord>): Promise<void> {
    const { record } = known;
    const { link, look } = this.#context;
    for (const disk of this.#disksOf(record)) {
      const isKnown = this.#verdicts.get(record.id)?.basis === this.#basisOf(record);
      if (isKnown || (await this.#note(record, disk)) === null) continue;
      // The watch may be behind: only what is there now counts.
      const what = `cannot look at volume ${record.name} again`;
      const now = await link.ask(what, (store) => readVolume(this.#context, store, record.id));
      if (now === null || now.modRevision !== known.modRevision) {
        look();
        continue;
      }
      const older = await this.#note(now.record, disk);
      if (older !== null) this.#judge(now.record, older);
    }
  }

  /** null: noted, or it was already. Otherwise what the disk has to say. */
  async #note(record: VolumeRecord, disk: string): Promise<string | null> {
    const { plane } = this.#context;
    const key = `${record.id}/${disk}`;
    const note = noteOf(record, disk);
    const text = JSON.stringify(note);
    if (this.#noted.get(key) === text) return null;
    try {
      await plane.noteReplica(disk, record.id, note);
      this.#noted.set(key, text);
    } catch (error) {
      const { code, message } = error as { code?: unknown; message: string };
      if (code === "ROLLED_BACK") return message;
      // The copy is still to be made; its node looks again then.
      if (code !== "VOLUME_UNKNOWN" && code !== "STORE_CLOSED") throw error;
    }
    return null;
  }
}

function noteOf(record: VolumeRecord, disk: string): ReplicaNote {
  const { name, blockBytes, replicaCount, epoch, membershipVersion, clusterGeneration } = record;
  const isOut = !isInSync(record, disk);
  return { name, blockBytes, replicaCount, isOut, epoch, membershipVersion, clusterGeneration };
}
