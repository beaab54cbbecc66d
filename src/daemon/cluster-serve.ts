// Serving volumes of the cluster on this node: the steps. The operations are in cluster-attach.ts.
//
// Invariants:
// - Nothing is served unless a linearizable read has just said that the volume is attached here. A
//   watch is only a reason to read.
// - Nothing is served from records that are older than what their copies have seen.
// - Who becomes the owner has the size of the record before the first ring runs, whatever it was
//   when the volume was opened here.
// - What has moved away is let go of: its front end is cut off, within bounds, then it is closed.
//   It is not surrendered: its owner is deposed, and another writes.

import type { AttachedTarget, VolumeRecord } from "../meta/records.ts";
import type { DeclaredClusterAttachment, DeclaredScsi } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { QUEUE_COUNT_MAX } from "../model/limits.ts";
import type { ClusterBacking, ReplicaPlace } from "../ports/cluster-plane.ts";
import type { VolumeSpec } from "../ports/data-plane.ts";
import { attachFront } from "./attach-front.ts";
import { classicOf, portTagOf, standbyTagOf } from "./classic-attach.ts";
import type { KeptReservations } from "./classic-keeper.ts";
import {
  type ClusterContext,
  changeVolume,
  ownerName,
  ownerOf,
  processText,
  readVolume,
} from "./cluster-context.ts";
import type { Known } from "./cluster-inventory.ts";
import { ServedVolume } from "./cluster-served.ts";
import { nameBytesMax } from "./data-directory.ts";
import { asApiError } from "./failure.ts";
import type { StateStore } from "./state-store.ts";
import { restoredText } from "./volume-attach.ts";
import { serialOf } from "./volume-entry.ts";

const LOST = "it was taken over by another node, for which this one stands by";
const TAKEN = "this node was given it, and serves it";

/** What a node is to a volume, by its record; null = nothing. */
export type Role = "owner" | "standby";

export function roleOf({ phase, attachment }: VolumeRecord, nodeId: string): Role | null {
  if (phase !== "ready") return null;
  if (attachment.node === nodeId) return "owner";
  return attachment.standby?.node === nodeId ? "standby" : null;
}

export type AttachmentStore = StateStore<DeclaredClusterAttachment>;

export class ClusterServing {
  readonly #context: ClusterContext;
  readonly #store: AttachmentStore;

  constructor(context: ClusterContext, store: AttachmentStore) {
    this.#context = context;
    this.#store = store;
  }

  /** At the start: what was declared when the daemon ended. */
  async load(): Promise<void> {
    const { declared, suspects, damaged } = this.#store.load();
    for (const one of declared) this.entryOf(one.volumeId, one.name).declared = one;
    const { log } = this.#context.host.modules;
    for (const { path } of suspects) {
      log.log("warn", "state.damaged", { path, problem: "has no checksum" });
    }
    for (const { path, problem } of damaged) log.log("warn", "state.damaged", { path, problem });
  }

  entryOf(volumeId: string, name: string): ServedVolume {
    const { served } = this.#context;
    const known = served.get(volumeId);
    if (known !== undefined) return known;
    const entry = new ServedVolume(volumeId, name);
    served.set(volumeId, entry);
    return entry;
  }

  /** Runs alone on the entry, which is forgotten afterwards unless something has come of it. */
  async alone<T>(entry: ServedVolume, work: () => Promise<T>): Promise<T> {
    const { served } = this.#context;
    return await entry.exclusively(async () => {
      // Another operation may have let go of it while this one waited.
      served.set(entry.id, entry);
      try {
        return await work();
      } finally {
        if (entry.declared === null && !entry.open) served.delete(entry.id);
      }
    });
  }

  async declare(entry: ServedVolume, wanted: DeclaredClusterAttachment | null): Promise<void> {
    const before = entry.declared;
    if (wanted !== null) await this.#store.save(wanted);
    else if (before !== null) await this.#store.remove(entry.name);
    entry.declared = wanted;
    await this.#dropPlace(entry, before?.scsi);
    const hadSecret = (before?.classic?.chapUser ?? null) !== null;
    if (wanted === null && hadSecret) {
      await this.#context.host.modules.classic.forgetSecrets(entry.id);
    }
  }

  /** A place that was held for it since the start, and that it will not take. */
  async #dropPlace(entry: ServedVolume, before: DeclaredScsi | undefined): Promise<void> {
    const { scsi } = entry.declared ?? {};
    const isSame = scsi?.controller === before?.controller && scsi?.lun === before?.lun;
    if (before === undefined || isSame) return;
    await this.#context.plane
      .dropUnit(entry.id)
      .catch((error) => this.#report("give its unit's place up", entry, error));
  }

  /** What an attachment is without a word about it. */
  defaultsOf({ id, name, attachment }: VolumeRecord): DeclaredClusterAttachment {
    const { target, unit } = attachment;
    return {
      volumeId: id,
      name,
      phase: "attached",
      queueCountMax: QUEUE_COUNT_MAX,
      packedAllowed: true,
      readOnly: attachment.readOnly,
      attachedAt: this.#context.host.modules.now().toISOString(),
      ...(target === undefined ? {} : { classic: classicOf(target) }),
      ...(unit === undefined ? {} : { scsi: { controller: unit.controller, lun: unit.lun } }),
    };
  }

  /** A socket has one name: a volume of this node alone may have it already. */
  checkName(name: string): void {
    const { host } = this.#context;
    if (host.entries.has(name) || host.damaged.has(name)) {
      throw new ApiError("volume_exists", `this node has a volume ${name} of its own`, {
        advice: "attach it on another node, or delete the one that is only here",
      });
    }
    const lengthMax = nameBytesMax(host.options.paths);
    if (name.length <= lengthMax) return;
    const message = `volume name ${name} makes its socket path too long for Linux`;
    throw new ApiError("invalid_request", message, {
      advice: "start ringstored with a short --socket-dir",
    });
  }

  /** The record has just been read, and says that it is attached here. */
  async serve(entry: ServedVolume, record: VolumeRecord): Promise<void> {
    const { plane, notes } = this.#context;
    if (!entry.serving || entry.isStandby) await notes.requireCurrent(record);
    if (entry.open) await this.#grow(entry, record);
    if (entry.open && entry.isStandby) {
      entry.toldMembers = "";
      // What holds is known before the first command runs.
      if (entry.serving && entry.portal !== null) await this.#renewReservations(entry);
      await plane.takeVolume(entry.id, this.#backingOf(record));
      entry.isStandby = false;
    }
    if (!entry.open && entry.isStandby) {
      // A target whose secret was not here: until now nothing of it was open.
      entry.isStandby = false;
      entry.serving = false;
    }
    if (!entry.serving) await this.#listen(entry, record, false);
  }

  async #renewReservations({ id, name }: ServedVolume): Promise<void> {
    const { plane, reservations } = this.#context;
    const record = await reservations.claimRecord(id, name);
    try {
      await plane.setReservations(id, record);
    } catch (error) {
      throw asApiError(error, `cannot serve the target of volume ${name}`);
    }
  }

  /** All copies that count have grown; its front-ends are told. */
  async #grow(entry: ServedVolume, { id, sizeBytes }: VolumeRecord): Promise<void> {
    if (sizeBytes <= entry.sizeBytes) return;
    await this.#context.plane.resizeVolume(id, sizeBytes);
    entry.sizeBytes = sizeBytes;
    entry.problem = null;
    entry.retryCount = 0;
    entry.retryAtMs = 0;
  }

  /** The record has just been read, and says that this node stands by. */
  async standBy(entry: ServedVolume, record: VolumeRecord): Promise<void> {
    const { target } = record.attachment;
    const isAside = target !== undefined && !this.#hasSecrets(entry, target);
    if (entry.open) await this.#grow(entry, record);
    else if (isAside) entry.sizeBytes = record.sizeBytes;
    if (!entry.serving && isAside) await this.#standAside(entry, record);
    else if (!entry.serving) await this.#listen(entry, record, true);
    const { member, incarnation } = this.#context;
    const portal = target !== undefined && !isAside ? entry.portal : null;
    const { id, name } = record;
    await changeVolume(this.#context, id, `cannot stand by for volume ${name}`, (found) => {
      const { attachment } = found;
      const { standby } = attachment;
      if (standby?.node !== member.nodeId || standby.incarnation === incarnation) return null;
      // What an earlier run of this daemon asked for it does not wait for any more.
      const { node, isMove, isWanted } = standby;
      const asked = { node, incarnation, isWanted: isMove && isWanted, isMove };
      const fresh = portal === null ? asked : { ...asked, portal };
      return { ...found, attachment: { ...attachment, standby: fresh } };
    });
  }

  /** Secrets are in no record: whoever was told none cannot let anybody in, nor prove itself. */
  #hasSecrets({ id, name, declared }: ServedVolume, target: AttachedTarget): boolean {
    try {
      this.#context.host.modules.classic.secretsOf(id, name, declared?.classic ?? target);
      return true;
    } catch {
      return false;
    }
  }

  /**
   * For a target that another node has, and whose secret this one has not. Nothing is opened: the
   * portal leads initiators on.
   */
  async #standAside(entry: ServedVolume, record: VolumeRecord): Promise<void> {
    this.checkName(record.name);
    if (entry.declared === null) await this.declare(entry, this.defaultsOf(record));
    entry.working = false;
    if (entry.open) await this.#close(entry);
    entry.portal = await this.#context.plane.openPortal();
    entry.sizeBytes = record.sizeBytes;
    entry.isStandby = true;
    entry.serving = true;
    entry.problem = null;
    entry.retryCount = 0;
    entry.retryAtMs = 0;
  }

  async #listen(entry: ServedVolume, record: VolumeRecord, isStandby: boolean): Promise<void> {
    const { plane, host } = this.#context;
    this.checkName(record.name);
    if (entry.declared === null) await this.declare(entry, this.defaultsOf(record));
    const settings = entry.declared ?? this.defaultsOf(record);
    if (entry.working) {
      entry.working = false;
      if (isStandby || this.#isDeposed(entry.id)) await this.#close(entry);
    }
    if (!entry.open) await this.open(entry, record, isStandby);
    const { readOnly } = record.attachment;
    const { classic: keeper } = host.modules;
    const { reservations } = this.#context;
    const reservationsOf = (id: string, name: string): Promise<KeptReservations> =>
      isStandby ? reservations.look(id, name) : reservations.claim(id, name);
    const isAwaited = (name: string): boolean => host.controllerWaits.isWaiting(name);
    const { target } = record.attachment;
    const portTag = isStandby ? standbyTagOf(target) : portTagOf(target);
    const parts = { options: host.options, plane, keeper, reservationsOf, isAwaited, portTag };
    try {
      entry.portal = await attachFront(parts, record, { ...settings, readOnly });
    } catch (error) {
      await this.#close(entry).catch((second) => this.#report("close after attach", entry, second));
      throw error;
    }
    entry.serving = true;
    entry.toldPaths = "[]";
    entry.reservationsRevision = 0;
    entry.problem = null;
    entry.retryCount = 0;
    entry.retryAtMs = 0;
  }

  async open(entry: ServedVolume, record: VolumeRecord, isStandby = false): Promise<void> {
    entry.toldMembers = "";
    const { controller } = entry.declared?.scsi ?? {};
    const options = controller === undefined ? { create: false } : { create: false, controller };
    await this.#context.plane.openVolume(this.#specOf(record, isStandby), options);
    entry.open = true;
    entry.sizeBytes = record.sizeBytes;
    entry.isStandby = isStandby;
  }

  #isDeposed(volumeId: string): boolean {
    return ownerOf(this.#context, volumeId)?.state === "surrendered";
  }

  #specOf(record: VolumeRecord, isStandby: boolean): VolumeSpec {
    const { id, name, sizeBytes, blockBytes, attachment } = record;
    return {
      id,
      name,
      sizeBytes,
      blockBytes,
      readOnly: attachment.readOnly,
      serial: serialOf(id),
      backing: { ...this.#backingOf(record), isStandby },
    };
  }

  #backingOf(record: VolumeRecord): ClusterBacking {
    const { member, incarnation } = this.#context;
    const { owner } = record;
    // An earlier run of this daemon: we hold the lock that it held.
    const isDead = owner?.node === member.nodeId && owner.incarnation < incarnation;
    return {
      kind: "cluster",
      owner: ownerName(this.#context),
      members: this.placesOf(record),
      deadPredecessor: isDead ? processText(owner) : null,
    };
  }

  placesOf({ name, members }: VolumeRecord): readonly ReplicaPlace[] {
    return members.map((diskId) => {
      const node = this.#context.inventory.nodeOf(diskId);
      if (node !== undefined) return { diskId, nodeId: node };
      throw new ApiError("volume_unavailable", `volume ${name}: disk ${diskId} is not known`);
    });
  }

  /** Orderly: everything is answered, the record says "clean". Then it is closed. */
  async letGo(entry: ServedVolume): Promise<void> {
    const { plane } = this.#context;
    if (entry.serving) await plane.detach(entry.id);
    entry.serving = false;
    if (!entry.open) return;
    try {
      await plane.surrenderVolume(entry.id);
    } catch (error) {
      // The next owner takes over as after a crash.
      this.#report("surrender", entry, error);
    }
    await this.#close(entry);
  }

  async #close(entry: ServedVolume): Promise<void> {
    await this.#context.plane.closeVolume(entry.id);
    entry.open = false;
    entry.isStandby = false;
    entry.askedAtMs = 0;
    entry.isLeaving = false;
  }

  /** Another node has it now. */
  async cutOff(entry: ServedVolume): Promise<void> {
    const { plane, timings } = this.#context;
    if (entry.serving && entry.open) {
      let timer: NodeJS.Timeout | undefined;
      const patience = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, timings.drainMs);
      });
      const drained = plane.detach(entry.id).then(
        () => {
          entry.serving = false;
        },
        (error) => this.#report("detach", entry, error),
      );
      await Promise.race([drained, patience]);
      clearTimeout(timer);
    }
    if (entry.open) await this.#close(entry);
    entry.serving = false;
    entry.isStandby = false;
  }

  /**
   * Brings what is open here in line with the record: serves what is attached here, ends a detach
   * that was cut short (`detach`), lets go of what has moved. Rejects when it must be tried
   * again.
   */
  async align(
    entry: ServedVolume,
    detach: (entry: ServedVolume) => Promise<unknown>,
  ): Promise<void> {
    const { host, member, link } = this.#context;
    const { events, log } = host.modules;
    const { id, name } = entry;
    const what = `cannot serve volume ${name}`;
    let known: Known<VolumeRecord> | null;
    try {
      known = await link.ask(what, (store) => readVolume(this.#context, store, id));
    } catch (error) {
      await this.#hangUp(entry);
      throw error;
    }
    const role = known === null ? null : roleOf(known.record, member.nodeId);
    if (known !== null && role !== null) {
      if (entry.declared?.phase === "detaching") {
        await detach(entry);
        return;
      }
      await this.#assume(role, entry, known.record);
      return;
    }
    const wasServing = entry.serving && !entry.isStandby;
    await this.cutOff(entry);
    await this.declare(entry, null);
    entry.problem = null;
    this.#context.served.delete(id);
    if (!wasServing) return;
    events.add("volume.detached", name, "it was taken over by another node");
    log.log("warn", "cluster.volume-moved", { volume: name });
  }

  /**
   * The metadata does not answer. A target whose owner here is deposed has nothing to give but
   * errors: its initiators are hung up on, so that they look for whoever has it.
   */
  async #hangUp(entry: ServedVolume): Promise<void> {
    if (!entry.open || entry.isStandby || entry.portal === null) return;
    if (!this.#isDeposed(entry.id)) return;
    await this.cutOff(entry);
    const { events } = this.#context.host.modules;
    events.add("volume.detached", entry.name, "another node has it, the metadata is not reached");
  }

  async #assume(role: Role, entry: ServedVolume, record: VolumeRecord): Promise<void> {
    const { events, log } = this.#context.host.modules;
    const { name } = entry;
    const { generation } = record.attachment;
    const { serving: wasServing, isStandby: wasStandby } = entry;
    if (role === "owner") {
      if (wasServing && !wasStandby && this.#hasGivenUp(record)) await this.cutOff(entry);
      await this.serve(entry, record);
      if (wasServing && !wasStandby) return;
      events.add("volume.restored", name, wasStandby ? TAKEN : restoredText(entry.declared));
      log.log("info", "volume.served", { volume: name, generation });
      return;
    }
    const isLost = entry.open && !wasStandby && !(await this.#becomeStandby(entry));
    await this.standBy(entry, record);
    if (isLost && wasServing) events.add("volume.detached", name, LOST);
    if (!wasServing || isLost) log.log("info", "volume.stands-by", { volume: name, generation });
  }

  /** Its owner here was refused by a copy that has seen newer metadata. */
  #hasGivenUp(record: VolumeRecord): boolean {
    const owner = ownerOf(this.#context, record.id);
    return owner?.state === "surrendered" && this.#context.notes.ownerGaveUp(record, owner);
  }

  /**
   * We have handed it over, and perhaps nobody was there to note that. Or we have lost it, which is
   * what false says: then nobody has drained it, and its sessions end.
   */
  async #becomeStandby(entry: ServedVolume): Promise<boolean> {
    const isGiven = ownerOf(this.#context, entry.id)?.state === "standby";
    if (isGiven) entry.isStandby = true;
    else await this.cutOff(entry);
    return isGiven;
  }

  /** Notes why a volume is not served, and when to try again. */
  noteFailure(entry: ServedVolume, error: unknown): void {
    const { host, timings } = this.#context;
    const failure = asApiError(error, `cannot serve volume ${entry.name}`);
    if (!(failure instanceof ApiError)) {
      host.modules.fatal(failure);
      return;
    }
    const { code, message } = failure;
    if (entry.problem?.message !== message) {
      host.modules.events.add("volume.unavailable", entry.name, message);
      host.modules.log.log("error", "volume.unavailable", { volume: entry.name, code, message });
    }
    entry.problem = { code: "NOT_SERVED", severity: "error", message };
    const delayMs = Math.min(timings.retryFirstMs * 2 ** entry.retryCount, timings.retryMaxMs);
    entry.retryCount = Math.min(entry.retryCount + 1, 16);
    entry.retryAtMs = performance.now() + delayMs;
  }

  #report(step: string, entry: ServedVolume, error: unknown): void {
    const { log } = this.#context.host.modules;
    const message = (error as Error).message;
    log.log("error", "volume.step-failed", { step, volume: entry.name, message });
  }
}
