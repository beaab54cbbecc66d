// Attaching volumes of the cluster to this node, and detaching them:
//
//   attach  declare the settings -> record: attached here -> open (takes over), listen
//   detach  declare "detaching"  -> drain, surrender, close -> record: attached nowhere -> forget
//
// A crash in between leaves a declaration without an attachment, which is dropped, an attachment
// that is served at the next start, or a detach that is ended then.

import type { AttachResult } from "../api/control-plane.ts";
import type { AttachedTarget, VolumeRecord } from "../meta/records.ts";
import { ApiError } from "../model/errors.ts";
import { QUEUE_COUNT_MAX } from "../model/limits.ts";
import type { DetachReply, Volume, VolumeAttach } from "../model/types.ts";
import { checkQueueCount } from "../model/volume-rules.ts";
import {
  howProven,
  planClassic,
  portTagOf,
  requireSameClassic,
  secretsOf,
  standbyTagOf,
} from "./classic-attach.ts";
import {
  type ClusterContext,
  changeVolume,
  isNodeLive,
  poweredSince,
  readVolume,
} from "./cluster-context.ts";
import { attachedTarget } from "./cluster-portals.ts";
import type { ClusterServing } from "./cluster-serve.ts";
import type { ServedVolume } from "./cluster-served.ts";
import { type ClusterStandbys, isReady } from "./cluster-standby.ts";
import { asApiError } from "./failure.ts";
import { planScsi, requireSameScsi, requireUnitRequest, unitText } from "./scsi-attach.ts";
import { detachedText, requireSameSettings, restoredText } from "./volume-attach.ts";
import { placeText } from "./volume-entry.ts";

export class ClusterAttaching {
  readonly #context: ClusterContext;
  readonly #serving: ClusterServing;
  readonly #standbys: ClusterStandbys;
  readonly #view: (record: VolumeRecord) => Volume;

  constructor(
    context: ClusterContext,
    parts: { readonly serving: ClusterServing; readonly standbys: ClusterStandbys },
    view: (record: VolumeRecord) => Volume,
  ) {
    this.#context = context;
    this.#serving = parts.serving;
    this.#standbys = parts.standbys;
    this.#view = view;
  }

  async attach({ id, name }: VolumeRecord, request: VolumeAttach): Promise<AttachResult> {
    const { host } = this.#context;
    host.requireRunning();
    if (request.queueCountMax !== undefined) checkQueueCount(request.queueCountMax);
    const { classic, scsi } = request;
    if (scsi !== undefined) requireUnitRequest(request, true);
    if (classic !== undefined) planClassic(request, classic);
    this.#serving.checkName(name);
    const entry = this.#serving.entryOf(id, name);
    return await this.#serving.alone(entry, async () => {
      host.requireRunning();
      if (request.standby === true) return await this.#attachStandby(entry, request);
      return await this.#attach(entry, request);
    });
  }

  async #attach(entry: ServedVolume, request: VolumeAttach): Promise<AttachResult> {
    const { member, host } = this.#context;
    const { id, name } = entry;
    const what = `cannot attach volume ${name}`;
    const found = await this.#find(entry, what);
    const { attachment } = found;
    if (attachment.node === member.nodeId && entry.declared?.phase !== "detaching") {
      return await this.#attachAgain(entry, found, request);
    }
    await this.#requireFree(found, request);
    this.#planUnit(entry, request);
    // What stands by here as a target, or is to be one, begins anew.
    const wasTarget = entry.declared?.classic !== undefined;
    if (entry.isStandby && (wasTarget || request.classic !== undefined)) {
      await this.#serving.cutOff(entry);
    }
    const portal = request.classic === undefined ? null : await this.#openPortal(what);
    const readOnly = request.readOnly ?? false;
    await this.#declare(entry, found, request, readOnly);
    let record: VolumeRecord;
    try {
      record = await changeVolume(this.#context, id, what, (now) => {
        requireReady(now);
        const isAsFound = now.attachment.generation === attachment.generation;
        if (!isAsFound) throw this.#moved(now);
        const generation = attachment.generation + 1;
        const how = this.#unitOf(entry, now, portal);
        return { ...now, attachment: { generation, node: member.nodeId, readOnly, ...how } };
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
    host.modules.events.add("volume.attached", name, placeText(volume));
    return { volume, changed: true };
  }

  async #openPortal(what: string): Promise<string> {
    try {
      return await this.#context.plane.openPortal();
    } catch (error) {
      throw asApiError(error, what);
    }
  }

  /** A target is told with the attachment, so that no initiator is lost while it begins. */
  #unitOf(
    { declared }: ServedVolume,
    { attachment }: VolumeRecord,
    portal: string | null,
  ): Pick<VolumeRecord["attachment"], "target" | "unit"> {
    const { node, target, generation, standby } = attachment;
    const { classic, scsi } = declared ?? {};
    // Taken from another node it keeps its power, and whoever stood by for it his port.
    const since = (node === null ? undefined : poweredSince(attachment)) ?? generation + 1;
    if (scsi !== undefined) return { unit: { ...scsi, since } };
    if (classic === undefined || portal === null) return {};
    if (node === null) return { target: attachedTarget(classic, portal, since, 1) };
    const stoodBy = standby?.node === this.#context.member.nodeId;
    const portTag = stoodBy ? standbyTagOf(target) : portTagOf(target);
    return { target: attachedTarget(classic, portal, since, portTag) };
  }

  /** The number is taken from here on. Throws ApiError where it cannot be such a unit. */
  #planUnit(entry: ServedVolume, request: VolumeAttach): void {
    const { host, plane } = this.#context;
    const { name, declared, open } = entry;
    const { scsi } = request;
    if (open && declared?.phase === "detaching" && (scsi ?? declared.scsi) !== undefined) {
      throw new ApiError("volume_busy", `volume ${name} is being detached`, {
        advice: "try again in a moment",
      });
    }
    if (scsi === undefined) return;
    const planned = planScsi(host, { name, isOfCluster: true }, request, scsi);
    try {
      plane.requireNearCluster(scsi.controller);
    } catch (error) {
      throw asApiError(error, `cannot attach volume ${name}`);
    }
    entry.planned = planned;
  }

  /** A socket for a guest that is about to move here; the volume stays where it is until then. */
  async #attachStandby(entry: ServedVolume, request: VolumeAttach): Promise<AttachResult> {
    const { member, host } = this.#context;
    const { id, name } = entry;
    const what = `cannot stand by for volume ${name}`;
    const found = await this.#find(entry, what);
    this.#requireHeld(found, request);
    const { attachment } = found;
    const wanted = requestOf(name, request, attachment.target);
    if (attachment.standby?.node === member.nodeId && entry.serving) {
      this.#requireSame(entry, found, wanted);
      return { volume: this.#view(found), changed: false };
    }
    await this.#declare(entry, found, wanted, attachment.readOnly);
    try {
      const record = await changeVolume(this.#context, id, what, (now) => {
        this.#requireHeld(now, request);
        const standby = { node: member.nodeId, incarnation: 0, isWanted: false, isMove: false };
        return { ...now, attachment: { ...now.attachment, standby } };
      });
      await this.#serving.standBy(entry, record);
    } catch (error) {
      await this.#endStandby(entry).catch(() => this.#context.look());
      throw asApiError(error, what);
    }
    const record = this.#context.inventory.volumes.get(id)?.record ?? found;
    const volume = this.#view(record);
    const where = volume.attachment?.socket ?? volume.attachment?.classic?.portal;
    host.modules.events.add("volume.attached", name, `stands by at ${where}`);
    return { volume, changed: true };
  }

  async #find({ id, name }: ServedVolume, what: string): Promise<VolumeRecord> {
    const { link } = this.#context;
    const found = await link.ask(what, (store) => readVolume(this.#context, store, id));
    if (found !== null) return found.record;
    throw new ApiError("volume_not_found", `volume ${name} does not exist`);
  }

  async #declare(
    entry: ServedVolume,
    record: VolumeRecord,
    request: VolumeAttach,
    readOnly: boolean,
  ): Promise<void> {
    const { queueCountMax = QUEUE_COUNT_MAX, packedAllowed = true, classic } = request;
    const { planned } = entry;
    const keeper = this.#context.host.modules.classic;
    const chap = classic?.chap;
    if (chap !== undefined) await keeper.saveSecrets(entry.id, secretsOf(chap));
    const settings = {
      queueCountMax,
      packedAllowed,
      readOnly,
      ...(classic === undefined ? {} : { classic: planClassic(request, classic) }),
      ...planned,
    };
    // Who takes a target or a unit over by a socket of its own makes none of it.
    const { classic: _, scsi: __, ...defaults } = this.#serving.defaultsOf(record);
    try {
      await this.#serving.declare(entry, { ...defaults, ...settings });
    } finally {
      entry.planned = null;
    }
  }

  #requireHeld(record: VolumeRecord, { takeOver }: VolumeAttach): void {
    requireReady(record);
    const { member, inventory } = this.#context;
    const { name, attachment } = record;
    const { node, standby } = attachment;
    if (takeOver === true) {
      throw new ApiError("invalid_request", "standby and takeOver exclude each other", {
        advice: "leave one of them out",
      });
    }
    const { unit } = attachment;
    if (unit !== undefined) {
      const where = inventory.nodeName(node ?? "");
      const message = `volume ${name} is attached on node ${where} as ${unitText(unit)}`;
      throw new ApiError("attachment_differs", message, {
        advice: "no VM moves with a controller's volumes: detach it there, then attach it here",
      });
    }
    if (node === null || node === member.nodeId) {
      const where = node === null ? "nowhere" : "on this node";
      throw new ApiError("invalid_request", `volume ${name} is attached ${where}`, {
        advice: "a node stands by for a volume that is attached on another",
      });
    }
    if (standby === undefined || standby.node === member.nodeId) return;
    if (!isReady(this.#context, standby)) return;
    const other = inventory.nodeName(standby.node);
    throw new ApiError("volume_busy", `node ${other} stands by for volume ${name}`, {
      advice: `detach it there first: ringstore volume detach ${name}`,
    });
  }

  /** Closes a socket behind which nothing runs, and says so in the record. */
  async #endStandby(entry: ServedVolume): Promise<void> {
    const { member } = this.#context;
    const { id, name } = entry;
    const { declared } = entry;
    if (declared !== null) await this.#serving.declare(entry, { ...declared, phase: "detaching" });
    if (entry.isStandby) await this.#serving.cutOff(entry);
    await changeVolume(this.#context, id, `cannot detach volume ${name}`, (record) => {
      const { standby, ...attachment } = record.attachment;
      return standby?.node === member.nodeId ? { ...record, attachment } : null;
    });
    await this.#serving.declare(entry, null);
  }

  /** Its guest goes on, or may, at the standby: that gets the volume. */
  async #leaveTo(entry: ServedVolume, what: string): Promise<boolean> {
    const { plane, member } = this.#context;
    const marked = await changeVolume(this.#context, entry.id, what, (record) => {
      const { attachment } = record;
      const { node, standby } = attachment;
      if (node !== member.nodeId || standby === undefined || standby.isMove) return null;
      return { ...record, attachment: { ...attachment, standby: { ...standby, isMove: true } } };
    });
    const { standby } = marked.attachment;
    if (standby === undefined) return false;
    try {
      if (entry.serving) await plane.detach(entry.id);
      entry.serving = false;
      await this.#standbys.handOver(entry, standby);
      await this.#serving.cutOff(entry);
    } catch (error) {
      throw asApiError(error, what);
    }
    await this.#serving.declare(entry, null);
    return true;
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
    const { member, inventory } = this.#context;
    const { name, attachment } = record;
    const { node } = attachment;
    if (node === null || node === member.nodeId || request.takeOver === true) return;
    if (!(await isNodeLive(this.#context, node, `cannot attach volume ${name}`))) return;
    const where = inventory.nodeName(node);
    throw new ApiError("attached_elsewhere", `volume ${name} is attached on node ${where}`, {
      advice: `detach it there, or take it over, which cuts ${where} off: --take-over`,
    });
  }

  /** Asked for once more: with the settings that it has, or with none. Throws ApiError. */
  #requireSame(entry: ServedVolume, record: VolumeRecord, request: VolumeAttach): void {
    const present = entry.declared ?? this.#serving.defaultsOf(record);
    const keeper = this.#context.host.modules.classic;
    requireSameScsi(entry, present.scsi, request.scsi);
    requireSameClassic(entry, present.classic, request, keeper);
    requireSameSettings(entry.name, present, request);
  }

  /** Asked again with the same or no settings, it answers as before. */
  async #attachAgain(
    entry: ServedVolume,
    record: VolumeRecord,
    request: VolumeAttach,
  ): Promise<AttachResult> {
    const { name } = entry;
    this.#requireSame(entry, record, request);
    if (!entry.serving) {
      try {
        await this.#serving.serve(entry, record);
      } catch (error) {
        throw asApiError(error, `cannot serve volume ${name}`);
      }
      const { events } = this.#context.host.modules;
      events.add("volume.restored", name, restoredText(entry.declared));
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
    this.#context.host.requireRunning();
    const entry = this.#serving.entryOf(id, name);
    return await this.#serving.alone(entry, async () => ({
      volume: name,
      changed: await this.finishDetach(entry),
    }));
  }

  /** Runs alone on the entry. Returns whether it was attached. */
  async finishDetach(entry: ServedVolume): Promise<boolean> {
    const { link, member, host, inventory } = this.#context;
    const { id, name } = entry;
    const what = `cannot detach volume ${name}`;
    const found = await link.ask(what, (store) => readVolume(this.#context, store, id));
    const node = found?.record.attachment.node ?? null;
    if (node === null) return false;
    const { standby } = found!.record.attachment;
    if (standby?.node === member.nodeId) {
      await this.#endStandby(entry);
      host.modules.events.add("volume.detached", name, "this node stands by no more");
      return true;
    }
    if (node !== member.nodeId) {
      if (await isNodeLive(this.#context, node, what)) {
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
    if (entry.open && isReady(this.#context, standby) && (await this.#leaveTo(entry, what))) {
      host.modules.events.add("volume.detached", name, "the node that stood by has it");
      return true;
    }
    try {
      await this.#serving.letGo(entry);
    } catch (error) {
      throw asApiError(error, what);
    }
    await this.#detachRecord(entry);
    await this.#serving.declare(entry, null);
    entry.problem = null;
    host.modules.events.add("volume.detached", name, detachedText(declared));
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

/** Whoever stands by for a target lets in whom the holder lets in. Throws ApiError. */
function requestOf(
  name: string,
  request: VolumeAttach,
  target: AttachedTarget | undefined,
): VolumeAttach {
  const { classic } = request;
  const differs = (how: string, advice: string): ApiError =>
    new ApiError("attachment_differs", `volume ${name} is attached ${how}`, { advice });
  if (target === undefined) {
    if (classic === undefined) return request;
    throw differs("by vhost-user, not as an iSCSI target", "stand by for it without --classic");
  }
  if (classic === undefined) {
    throw differs("as an iSCSI target, not by vhost-user", "stand by for it with --classic");
  }
  const { chapUser, chapTargetUser, initiators } = planClassic(request, classic);
  if (chapUser !== target.chapUser) {
    const how = target.chapUser === null ? "without CHAP" : `with CHAP name ${target.chapUser}`;
    throw differs(how, "stand by for it with the same --chap-user, and the same secret");
  }
  if (chapTargetUser !== target.chapTargetUser) {
    const same = "the same --chap-target-user and secret, or without where there is none";
    throw differs(howProven(target), `stand by for it with ${same}`);
  }
  if (classic.initiators !== undefined && initiators.join(" ") !== target.initiators.join(" ")) {
    throw differs("for other initiators", "stand by for it with the same ones, or name none");
  }
  return { ...request, classic: { ...classic, initiators: target.initiators } };
}

export function requireReady({ name, phase }: VolumeRecord): void {
  if (phase === "ready") return;
  throw new ApiError("volume_unavailable", `volume ${name} is ${phase}`, {
    advice: `see: ringstore volume show ${name}`,
  });
}
