// Serving volumes of the cluster on this node: the steps. The operations are in cluster-attach.ts.
//
// Invariants:
// - Nothing is served unless a linearizable read has just said that the volume is attached here. A
//   watch is only a reason to read.
// - What has moved away is let go of: its front end is cut off, within bounds, then it is closed.
//   It is not surrendered: its owner is deposed, and another writes.

import type { VolumeRecord } from "../meta/records.ts";
import type { DeclaredClusterAttachment } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { QUEUE_COUNT_MAX } from "../model/limits.ts";
import type { ReplicaPlace } from "../ports/cluster-plane.ts";
import type { VolumeSpec } from "../ports/data-plane.ts";
import { type ClusterContext, ownerName, processText, readVolume } from "./cluster-context.ts";
import { ServedVolume } from "./cluster-served.ts";
import { nameBytesMax } from "./data-directory.ts";
import { asApiError } from "./failure.ts";
import type { StateStore } from "./state-store.ts";
import { attachmentSpecOf, serialOf } from "./volume-entry.ts";

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

  async declare(entry: ServedVolume, wanted: DeclaredClusterAttachment | null): Promise<void> {
    if (wanted !== null) await this.#store.save(wanted);
    else if (entry.declared !== null) await this.#store.remove(entry.name);
    entry.declared = wanted;
  }

  /** What an attachment is without a word about it. */
  defaultsOf({ id, name, attachment }: VolumeRecord): DeclaredClusterAttachment {
    return {
      volumeId: id,
      name,
      phase: "attached",
      queueCountMax: QUEUE_COUNT_MAX,
      packedAllowed: true,
      readOnly: attachment.readOnly,
      attachedAt: this.#context.host.modules.now().toISOString(),
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
    if (entry.serving) return;
    const { plane, host } = this.#context;
    this.checkName(record.name);
    if (entry.declared === null) await this.declare(entry, this.defaultsOf(record));
    const settings = entry.declared ?? this.defaultsOf(record);
    if (entry.working) {
      entry.working = false;
      if (this.#isDeposed(entry.id)) await this.#close(entry);
    }
    if (!entry.open) await this.open(entry, record);
    const { readOnly } = record.attachment;
    try {
      await plane.attach(attachmentSpecOf(host.options, record, { ...settings, readOnly }));
    } catch (error) {
      await this.#close(entry).catch((second) => this.#report("close after attach", entry, second));
      throw error;
    }
    entry.serving = true;
    entry.problem = null;
    entry.retryCount = 0;
    entry.retryAtMs = 0;
  }

  async open(entry: ServedVolume, record: VolumeRecord): Promise<void> {
    entry.toldMembers = "";
    await this.#context.plane.openVolume(this.#specOf(record), { create: false });
    entry.open = true;
  }

  #isDeposed(volumeId: string): boolean {
    const stats = this.#context.plane.ownerStats().find((one) => one.volumeId === volumeId);
    return stats?.state === "surrendered";
  }

  #specOf(record: VolumeRecord): VolumeSpec {
    const { member, incarnation } = this.#context;
    const { id, name, sizeBytes, blockBytes, owner, attachment } = record;
    // An earlier run of this daemon: we hold the lock that it held.
    const isDead = owner?.node === member.nodeId && owner.incarnation < incarnation;
    return {
      id,
      name,
      sizeBytes,
      blockBytes,
      readOnly: attachment.readOnly,
      serial: serialOf(id),
      backing: {
        kind: "cluster",
        owner: ownerName(this.#context),
        members: this.placesOf(record),
        deadPredecessor: isDead ? processText(owner) : null,
      },
    };
  }

  placesOf({ name, members }: VolumeRecord): readonly ReplicaPlace[] {
    return members.map((diskId) => {
      const node = this.#context.inventory.disks.get(diskId)?.record.node;
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
  }

  /** Another node has it now. */
  async cutOff(entry: ServedVolume): Promise<void> {
    const { plane, timings } = this.#context;
    if (entry.serving) {
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
    const known = await link.ask(what, (store) => readVolume(this.#context, store, id));
    const isHere = known?.record.attachment.node === member.nodeId;
    if (isHere && known.record.phase === "ready") {
      if (entry.declared?.phase === "detaching") {
        await detach(entry);
        return;
      }
      if (entry.serving) return;
      await this.serve(entry, known.record);
      events.add("volume.restored", name, "its socket is served again");
      const { generation } = known.record.attachment;
      log.log("info", "volume.served", { volume: name, generation });
      return;
    }
    const wasServing = entry.serving;
    await this.cutOff(entry);
    await this.declare(entry, null);
    entry.problem = null;
    this.#context.served.delete(id);
    if (!wasServing) return;
    events.add("volume.detached", name, "it was taken over by another node");
    log.log("warn", "cluster.volume-moved", { volume: name });
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
