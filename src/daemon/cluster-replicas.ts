// What the cluster's volumes are to a node that has copies of them: the replicas on its disks are
// made, grown and deleted as the records say, and each is told of by a key.
//
//   creating, ready   make (or grow) the replica  -> put the copy's key
//   ready, and its disk is no member any more: take the copy's key away -> delete the replica
//   deleting          delete the replica          -> take the copy's key away
//   deleting, without any copy's key: record, name and map go, by whoever sees it first
//
// Invariants:
// - A copy's key is put only while the record is as it was when the replica was made (a guard): a
//   record that is "deleting" gets no new ones, so none left means that nothing is left.
// - A replica without a record is deleted only if it is surely nobody's: no owner ever had it, the
//   metadata is that which this node knows, and a linearizable read finds no record. Metadata that
//   was put back from a backup has forgotten volumes: what was ever used is only told.

import { clusterCodec, copyCodec } from "../meta/index.ts";
import { type CopyRecord, RECORD_FORMAT, type VolumeRecord } from "../meta/records.ts";
import type { MetaStore } from "../ports/meta-store.ts";
import type { ReplicaFacts } from "../ports/replica-note.ts";
import { type ClusterContext, isReadyHere, readVolume, transact } from "./cluster-context.ts";
import { takeBackCreation } from "./cluster-create.ts";
import type { Known } from "./cluster-inventory.ts";
import { noMapPages } from "./cluster-placement.ts";

const PROBLEM_LENGTH_MAX = 1000;

export class ClusterReplicas {
  /** Replicas that nobody knows, on disks of this node, and that must not be deleted. */
  orphanCount = 0;
  readonly #context: ClusterContext;
  /** Since when a volume is seen "creating"; monotonic. */
  readonly #creatingMs = new Map<string, number>();
  #orphansAreDue = true;
  /** Made, or begun, and no key tells of it yet: volume, disk. */
  readonly #untold = new Map<string, readonly [volumeId: string, diskId: string]>();

  constructor(context: ClusterContext) {
    this.#context = context;
  }

  /** Looks for replicas without a record at the next time. */
  expectOrphans(): void {
    this.#orphansAreDue = true;
  }

  /** Every volume is tried; the first failure is thrown when all were. */
  async reconcile(): Promise<void> {
    const { inventory } = this.#context;
    let failure: unknown;
    for (const known of [...inventory.volumes.values()]) {
      try {
        await this.#reconcileVolume(known);
      } catch (error) {
        failure ??= error;
      }
    }
    for (const id of this.#creatingMs.keys()) {
      if (inventory.volumes.get(id)?.record.phase !== "creating") this.#creatingMs.delete(id);
    }
    this.#dropUntold();
    if (failure !== undefined) throw failure;
    if (!this.#orphansAreDue) return;
    this.#orphansAreDue = false;
    try {
      await this.#removeOrphans();
    } catch (error) {
      this.expectOrphans();
      throw error;
    }
  }

  /**
   * What was made for a record that went meanwhile is nobody's. Only once the record is gone here
   * too: whoever looked before that would take the copy for one that is about to be told of.
   */
  #dropUntold(): void {
    for (const [name, [volumeId, diskId]] of this.#untold) {
      const record = this.#context.inventory.volumes.get(volumeId)?.record;
      if (record?.members.includes(diskId)) continue;
      this.#untold.delete(name);
      this.expectOrphans();
    }
  }

  async #reconcileVolume(known: Known<VolumeRecord>): Promise<void> {
    const { record } = known;
    if (record.phase === "deleting") {
      await this.#remove(known);
      return;
    }
    const sizeBytes = record.growToBytes ?? record.sizeBytes;
    for (const diskId of record.members) {
      if (!isReadyHere(this.#context, diskId)) continue;
      const copy = this.#context.inventory.copy(record.id, diskId);
      if (copy === null || copy.sizeBytes < sizeBytes) await this.#make(known, diskId, sizeBytes);
    }
    if (record.phase === "creating") await this.#takeBackAbandoned(record);
    for (const diskId of this.#context.inventory.copyDisks(record.id)) {
      if (record.members.includes(diskId) || !isReadyHere(this.#context, diskId)) continue;
      await this.#giveUp(known, diskId);
    }
  }

  /**
   * The copy has left the volume. Its key goes first, while the record is as it was: were the disk
   * a member again by then, its replica would be there. Without a key it is nobody's.
   */
  async #giveUp({ record, modRevision }: Known<VolumeRecord>, diskId: string): Promise<void> {
    const { link, keys } = this.#context;
    const { id, name } = record;
    await link.ask(`cannot give up the copy of volume ${name}`, async (store) => {
      const guards = [{ key: keys.volumeRecord(id), modRevision }];
      const writes = [{ key: keys.volumeCopy(id, diskId), value: null }];
      const answer = await transact(this.#context, store, { guards, writes });
      if (answer.outcome === "applied") this.expectOrphans();
      else this.#context.look();
    });
  }

  async #make(known: Known<VolumeRecord>, diskId: string, sizeBytes: number): Promise<void> {
    const { plane } = this.#context;
    const { id } = known.record;
    const name = `${id}/${diskId}`;
    this.#untold.set(name, [id, diskId]);
    try {
      await plane.makeReplica(diskId, { volumeId: id, sizeBytes });
    } catch (error) {
      await this.#tellProblem(known, diskId, (error as Error).message);
      throw error;
    }
    if (await this.#tell(known, { disk: diskId, sizeBytes })) this.#untold.delete(name);
  }

  /** Whoever waits for the copy need not wait any longer. */
  async #tellProblem(known: Known<VolumeRecord>, disk: string, message: string): Promise<void> {
    const present = this.#context.inventory.copy(known.record.id, disk);
    const problem = message.slice(0, PROBLEM_LENGTH_MAX) || "it failed";
    if (present?.problem === problem) return;
    await this.#tell(known, { disk, sizeBytes: present?.sizeBytes ?? 0, problem });
  }

  /** False: the record is not any more as it was when the copy was made. */
  async #tell(
    known: Known<VolumeRecord>,
    what: Pick<CopyRecord, "disk" | "sizeBytes" | "problem">,
  ): Promise<boolean> {
    const { link, keys, host } = this.#context;
    const { id, name } = known.record;
    const madeAt = host.modules.now().toISOString();
    const copy = { format: RECORD_FORMAT, madeAt, ...what };
    return await link.ask(`cannot tell of the copy of volume ${name}`, async (store) => {
      const key = keys.volumeRecord(id);
      const answer = await transact(this.#context, store, {
        guards: [{ key, modRevision: known.modRevision }],
        writes: [{ key: keys.volumeCopy(id, what.disk), value: copyCodec.encode(copy) }],
      });
      if (answer.outcome === "applied") return true;
      this.#context.look();
      return false;
    });
  }

  /** Its creator would have ended it, one way or the other, long ago. */
  async #takeBackAbandoned(record: VolumeRecord): Promise<void> {
    const { timings, host } = this.#context;
    const { id, name } = record;
    const nowMs = performance.now();
    const sinceMs = this.#creatingMs.get(id);
    if (sinceMs === undefined) this.#creatingMs.set(id, nowMs);
    if (sinceMs === undefined || nowMs - sinceMs < timings.abandonedMs) return;
    await takeBackCreation(this.#context, record);
    host.modules.log.log("info", "cluster.create-taken-back", { volume: name });
  }

  async #remove({ record }: Known<VolumeRecord>): Promise<void> {
    const { inventory, plane, link, keys } = this.#context;
    const { id, name } = record;
    const diskIds = new Set([...record.members, ...inventory.copyDisks(id)]);
    for (const diskId of diskIds) {
      if (!isReadyHere(this.#context, diskId)) continue;
      await plane.deleteReplica(diskId, id);
      if (inventory.copy(id, diskId) === null) continue;
      const key = keys.volumeCopy(id, diskId);
      await link.ask(`cannot delete the copy of volume ${name}`, (store) =>
        transact(this.#context, store, { guards: [], writes: [{ key, value: null }] }),
      );
    }
    if (inventory.copyDisks(id).length === 0) {
      await link.ask(`cannot delete volume ${name}`, (store) => this.#forget(store, id));
    }
  }

  /** Anybody may do it, at any time, any number of times. */
  async #forget(store: MetaStore, volumeId: string): Promise<void> {
    const { keys } = this.#context;
    const known = await readVolume(this.#context, store, volumeId);
    if (known === null || known.record.phase !== "deleting") return;
    // What the watch has told may be late; this is what counts.
    if ((await store.list(keys.volumeCopies(volumeId))).entries.length > 0) return;
    const { name, sizeBytes } = known.record;
    const key = keys.volumeRecord(volumeId);
    await transact(this.#context, store, {
      guards: [{ key, modRevision: known.modRevision }],
      writes: [
        { key, value: null },
        { key: keys.volumeName(name), value: null },
        { key: keys.volumeReservations(volumeId), value: null },
        ...noMapPages(keys, volumeId, sizeBytes),
      ],
    });
    this.expectOrphans();
  }

  async #removeOrphans(): Promise<void> {
    const { host, plane, inventory } = this.#context;
    let count = 0;
    for (const { declared } of host.modules.disks.usable()) {
      const disk = declared.id;
      for (const { volumeId, facts } of await plane.listReplicas(disk)) {
        const volume = inventory.volumes.get(volumeId)?.record;
        const isKnown = volume?.members.includes(disk) || volume?.phase === "deleting";
        if (isKnown || inventory.copy(volumeId, disk) !== null) continue;
        if (!(await this.#isNobodys(volumeId, disk, facts))) {
          if (volume === undefined) count += 1;
          continue;
        }
        const event = volume === undefined ? "cluster.orphan-deleted" : "cluster.copy-deleted";
        await this.#deleteOrphan(volumeId, disk, event);
      }
    }
    this.orphanCount = count;
  }

  async #deleteOrphan(volumeId: string, disk: string, event: string): Promise<void> {
    const { host, plane, timings } = this.#context;
    try {
      await plane.deleteReplica(disk, volumeId);
      host.modules.log.log("warn", event, { volume: volumeId, disk });
    } catch (error) {
      // Its owner here has not let go of it yet.
      if ((error as { code?: unknown }).code !== "VOLUME_BUSY") throw error;
      this.expectOrphans();
      setTimeout(() => this.#context.look(), timings.retryFirstMs).unref();
    }
  }

  /** No record names it. */
  async #isNobodys(volumeId: string, diskId: string, facts: ReplicaFacts): Promise<boolean> {
    const { link, keys, host, member, trusted } = this.#context;
    if (host.hasVolume(volumeId)) return false;
    return await link.ask("cannot look for a replica's volume", async (store) => {
      const entry = await store.get(keys.cluster);
      if (entry === null || entry.createRevision !== trusted.metaBirth) return false;
      const { id, generation } = clusterCodec.decode(keys.cluster, entry.value);
      if (id !== member.clusterId || generation !== trusted.generation) return false;
      const volume = await readVolume(this.#context, store, volumeId);
      if (volume === null) return isUnused(facts);
      const { phase, members } = volume.record;
      // Who took it off the list came after everything that the disk has seen.
      const isLater = isLaterThan(volume.record, facts);
      return phase === "ready" && !members.includes(diskId) && isLater;
    });
  }
}

/** Made, and never promised to anybody. */
function isUnused({ epoch, newest, note }: ReplicaFacts): boolean {
  return epoch === 0 && newest.epoch === 0 && note === null;
}

function isLaterThan(record: VolumeRecord, facts: ReplicaFacts): boolean {
  const { clusterGeneration, membershipVersion } = record;
  if (clusterGeneration !== facts.clusterGeneration) {
    return clusterGeneration > facts.clusterGeneration;
  }
  return membershipVersion > facts.membershipVersion;
}
