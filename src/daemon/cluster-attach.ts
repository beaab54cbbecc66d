// Attaching volumes of the cluster to this node, and detaching them:
//
//   attach  declare the settings -> record: attached here -> open (takes over), listen
//   detach  declare "detaching"  -> drain, surrender, close -> record: attached nowhere -> forget
//
// A crash in between leaves a declaration without an attachment, which is dropped, an attachment
// that is served at the next start, or a detach that is ended then.

import type { AttachResult } from "../api/control-plane.ts";
import type { VolumeRecord } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import { QUEUE_COUNT_MAX } from "../model/limits.ts";
import type { DetachReply, Volume, VolumeAttach } from "../model/types.ts";
import { checkQueueCount } from "../model/volume-rules.ts";
import type { MetaStore } from "../ports/meta-store.ts";
import { type ClusterContext, changeVolume, readVolume } from "./cluster-context.ts";
import type { ClusterServing } from "./cluster-serve.ts";
import type { ServedVolume } from "./cluster-served.ts";
import { asApiError } from "./failure.ts";
import { requireSameSettings } from "./volume-operations.ts";

export class ClusterAttaching {
  readonly #context: ClusterContext;
  readonly #serving: ClusterServing;
  readonly #view: (record: VolumeRecord) => Volume;

  constructor(
    context: ClusterContext,
    serving: ClusterServing,
    view: (record: VolumeRecord) => Volume,
  ) {
    this.#context = context;
    this.#serving = serving;
    this.#view = view;
  }

  async attach({ id, name }: VolumeRecord, request: VolumeAttach): Promise<AttachResult> {
    const { host } = this.#context;
    host.requireRunning();
    if (request.queueCountMax !== undefined) checkQueueCount(request.queueCountMax);
    this.#serving.checkName(name);
    const entry = this.#serving.entryOf(id, name);
    return await entry.exclusively(async () => {
      host.requireRunning();
      // Another operation may have let go of it while this one waited.
      this.#context.served.set(id, entry);
      try {
        return await this.#attach(entry, request);
      } finally {
        if (entry.declared === null && !entry.open) this.#context.served.delete(id);
      }
    });
  }

  async #attach(entry: ServedVolume, request: VolumeAttach): Promise<AttachResult> {
    const { link, member, host } = this.#context;
    const { id, name } = entry;
    const what = `cannot attach volume ${name}`;
    const found = await link.ask(what, (store) => readVolume(this.#context, store, id));
    if (found === null) throw new ApiError("volume_not_found", `volume ${name} does not exist`);
    const { attachment } = found.record;
    if (attachment.node === member.nodeId && entry.declared?.phase !== "detaching") {
      return await this.#attachAgain(entry, found.record, request);
    }
    await this.#requireFree(found.record, request);
    const readOnly = request.readOnly ?? false;
    await this.#serving.declare(entry, {
      ...this.#serving.defaultsOf(found.record),
      queueCountMax: request.queueCountMax ?? QUEUE_COUNT_MAX,
      packedAllowed: request.packedAllowed ?? true,
      readOnly,
    });
    let record: VolumeRecord;
    try {
      record = await changeVolume(this.#context, id, what, (now) => {
        requireReady(now);
        const isAsFound = now.attachment.generation === attachment.generation;
        if (!isAsFound) throw this.#moved(now);
        const generation = attachment.generation + 1;
        return { ...now, attachment: { generation, node: member.nodeId, readOnly } };
      });
    } catch (error) {
      // Whether it is attached here is not known after a lost answer: the next look finds out.
      await this.#serving.declare(entry, null);
      this.#context.look();
      throw error;
    }
    try {
      await this.#serving.serve(entry, record);
    } catch (error) {
      await this.#takeBack(entry);
      throw asApiError(error, what);
    }
    const volume = this.#view(record);
    host.modules.events.add("volume.attached", name, `socket ${volume.attachment?.socket}`);
    return { volume, changed: true };
  }

  #moved(record: VolumeRecord): ApiError {
    const { node } = record.attachment;
    const where = node === null ? "nowhere" : `on node ${this.#context.inventory.nodeName(node)}`;
    return new ApiError("volume_busy", `volume ${record.name} is attached ${where} meanwhile`, {
      advice: "try again",
    });
  }

  /** Another node that is alive keeps it, unless the caller says otherwise. */
  async #requireFree(record: VolumeRecord, request: VolumeAttach): Promise<void> {
    requireReady(record);
    const { member, link, inventory } = this.#context;
    const { name, attachment } = record;
    const { node } = attachment;
    if (node === null || node === member.nodeId || request.takeOver === true) return;
    const isAlive = await link.ask(`cannot attach volume ${name}`, (store) =>
      this.#isAlive(store, node),
    );
    if (!isAlive) return;
    const where = inventory.nodeName(node);
    throw new ApiError("attached_elsewhere", `volume ${name} is attached on node ${where}`, {
      advice: `detach it there, or take it over, which cuts ${where} off: --take-over`,
    });
  }

  async #isAlive(store: MetaStore, nodeId: string): Promise<boolean> {
    return (await store.get(this.#context.keys.liveNode(nodeId))) !== null;
  }

  /** Asked again with the same or no settings, it answers as before. */
  async #attachAgain(
    entry: ServedVolume,
    record: VolumeRecord,
    request: VolumeAttach,
  ): Promise<AttachResult> {
    const { name } = entry;
    const present = entry.declared ?? this.#serving.defaultsOf(record);
    requireSameSettings(name, present, request);
    if (!entry.serving) {
      try {
        await this.#serving.serve(entry, record);
      } catch (error) {
        throw asApiError(error, `cannot serve volume ${name}`);
      }
      const { events } = this.#context.host.modules;
      events.add("volume.restored", name, "its socket is served again");
    }
    return { volume: this.#view(record), changed: false };
  }

  async #takeBack(entry: ServedVolume): Promise<void> {
    const { host, timings } = this.#context;
    const { declared, name } = entry;
    try {
      if (declared !== null)
        await this.#serving.declare(entry, { ...declared, phase: "detaching" });
      await this.#serving.letGo(entry);
      await this.#detachRecord(entry);
      await this.#serving.declare(entry, null);
    } catch (error) {
      entry.retryAtMs = performance.now() + timings.retryFirstMs;
      const fields = { volume: name, message: (error as Error).message };
      host.modules.log.log("warn", "cluster.attach-not-taken-back", fields);
    }
  }

  /** Of a node that is gone too: its attachment is ended from here. */
  async detach({ id, name }: VolumeRecord): Promise<DetachReply> {
    const { host, served } = this.#context;
    host.requireRunning();
    const entry = this.#serving.entryOf(id, name);
    return await entry.exclusively(async () => {
      try {
        return { volume: name, changed: await this.finishDetach(entry) };
      } finally {
        if (entry.declared === null && !entry.open) served.delete(id);
      }
    });
  }

  /** Runs alone on the entry. Returns whether it was attached. */
  async finishDetach(entry: ServedVolume): Promise<boolean> {
    const { link, member, host, inventory } = this.#context;
    const { id, name } = entry;
    const what = `cannot detach volume ${name}`;
    const found = await link.ask(what, (store) => readVolume(this.#context, store, id));
    const node = found?.record.attachment.node ?? null;
    if (node === null) return false;
    if (node !== member.nodeId) {
      const isAlive = await link.ask(what, (store) => this.#isAlive(store, node));
      if (isAlive) {
        const where = inventory.nodeName(node);
        throw new ApiError("attached_elsewhere", `volume ${name} is attached on node ${where}`, {
          advice: `detach it there: ringstore volume detach ${name}`,
        });
      }
      await this.#detachRecord(entry, node);
      host.modules.events.add("volume.detached", name, "the node that had it is gone");
      return true;
    }
    const declared = entry.declared ?? this.#serving.defaultsOf(found!.record);
    await this.#serving.declare(entry, { ...declared, phase: "detaching" });
    try {
      await this.#serving.letGo(entry);
    } catch (error) {
      throw asApiError(error, what);
    }
    await this.#detachRecord(entry);
    await this.#serving.declare(entry, null);
    entry.problem = null;
    host.modules.events.add("volume.detached", name, "its socket is closed");
    return true;
  }

  async #detachRecord(
    { id, name }: ServedVolume,
    node: string = this.#context.member.nodeId,
  ): Promise<void> {
    await changeVolume(this.#context, id, `cannot detach volume ${name}`, (record) => {
      if (record.attachment.node !== node) return null;
      const generation = record.attachment.generation + 1;
      return { ...record, attachment: { generation, node: null, readOnly: false } };
    });
  }
}

export function requireReady({ name, phase }: VolumeRecord): void {
  if (phase === "ready") return;
  throw new ApiError("volume_unavailable", `volume ${name} is ${phase}`, {
    advice: `see: ringstore volume show ${name}`,
  });
}
