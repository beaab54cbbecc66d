// Volumes that two nodes of the cluster have open, so that a VM can move between them: one has the
// volume, the other stands by. Its front-ends may connect; their rings start when it has been given
// the volume, which takes a swap of the record and a fence.
//
//   the holder                                     the standby
//   rings stop, or the standby asks  -- record --> named as the next owner: takes it
//   rings run, and the standby asks  -- "no" ----> hangs up on whoever waits
//   no word for takeOverMs, or dead                attaches itself, takes over as from a crash
//
// An iSCSI target has no rings that wait: its standby asks for nothing, has the target in standby
// (reactor-target.ts), and takes the volume over when the holder's liveness has expired. Whoever
// slept meanwhile is fenced by the takeover before the standby serves, so that no late write of the
// old path lands; when it is back it stands by in turn.
//
// A migration that is cancelled goes the same way back: whoever gave the volume away stands by.
//
// Invariants: what happens to one volume happens in its queue, after a linearizable read; nobody
// whose guest runs gives the volume away; the wish is in the record, so that it outlives daemons.

import type { Standby, VolumeRecord } from "../meta/records.ts";
import type { FrontState } from "../ports/cluster-plane.ts";
import { targetAtStandby } from "./classic-attach.ts";
import {
  type ClusterContext,
  changeVolume,
  isNodeLive,
  ownerOf,
  processText,
  readVolume,
} from "./cluster-context.ts";
import type { ClusterServing } from "./cluster-serve.ts";
import type { ServedVolume } from "./cluster-served.ts";

/** Between two attempts at something that did not succeed. */
const RETRY_MS = 200;

/** The run of the node's daemon that has the socket open is alive. */
export function isReady({ inventory }: ClusterContext, standby: Standby | undefined): boolean {
  if (standby === undefined || standby.incarnation === 0) return false;
  const live = inventory.live.get(standby.node)?.record;
  return live?.process.incarnation === standby.incarnation;
}

export class ClusterStandbys {
  readonly #context: ClusterContext;
  readonly #serving: ClusterServing;
  readonly #align: (entry: ServedVolume) => void;

  constructor(
    context: ClusterContext,
    serving: ClusterServing,
    align: (entry: ServedVolume) => void,
  ) {
    this.#context = context;
    this.#serving = serving;
    this.#align = align;
  }

  frontChanged({ volumeId, isRunning, isWaiting }: FrontState): void {
    const entry = this.#context.served.get(volumeId);
    if (entry === undefined) return;
    const hasStopped = entry.front.isRunning && !isRunning;
    entry.front = { isRunning, isWaiting };
    const standby = this.#recordOf(entry)?.attachment.standby;
    // The guest may be about to go on at the standby: it is given the volume before it asks.
    if (isRunning) entry.isLeaving = false;
    else if (hasStopped && isReady(this.#context, standby)) entry.isLeaving = true;
    this.#notice(entry);
  }

  /** Anything may have changed: the records, the owners, who is alive. */
  notice(): void {
    for (const entry of this.#context.served.values()) this.#notice(entry);
  }

  #recordOf({ id }: ServedVolume): VolumeRecord | undefined {
    return this.#context.inventory.volumes.get(id)?.record;
  }

  #notice(entry: ServedVolume): void {
    const record = this.#recordOf(entry);
    const { host, member } = this.#context;
    if (record === undefined || entry.busy || !entry.serving || host.stopping) return;
    if (performance.now() < entry.noticeAtMs) return;
    const { node, standby } = record.attachment;
    const isHere = node === member.nodeId;
    if (entry.isStandby && isHere) this.#align(entry);
    else if (entry.isStandby && standby?.node === member.nodeId) {
      if (record.attachment.target === undefined) this.#wait(entry, standby);
      else this.#watch(entry, node, standby);
    } else if (!entry.isStandby && isHere && standby !== undefined) this.#hold(entry, standby);
  }

  // The standby of a target -----------------------------------------------------------------------

  #watch(entry: ServedVolume, holder: string | null, { portal }: Standby): void {
    // Without the secret it could let nobody in.
    if (holder === null || portal === undefined) return;
    if (this.#context.inventory.isAlive(holder)) return;
    this.#run(entry, () => this.#succeed(entry));
  }

  /** What a watch tells is a reason to look, no more. */
  async #succeed(entry: ServedVolume): Promise<void> {
    const { link, member } = this.#context;
    const what = `cannot take volume ${entry.name} over`;
    const known = await link.ask(what, (store) => readVolume(this.#context, store, entry.id));
    const { node = null, standby } = known?.record.attachment ?? {};
    if (node === null || node === member.nodeId || standby?.node !== member.nodeId) return;
    if (await isNodeLive(this.#context, node, what)) return;
    await this.#takeOver(entry);
  }

  // The standby -----------------------------------------------------------------------------------

  #wait(entry: ServedVolume, { isWanted, isMove }: Standby): void {
    const { isWaiting } = entry.front;
    const { takeOverMs } = this.#context.timings;
    if (entry.askedAtMs === 0) {
      if (isWaiting) this.#run(entry, () => this.#ask(entry));
      return;
    }
    if (!isWanted) {
      entry.askedAtMs = 0;
      this.#run(entry, () => this.#refused(entry));
    } else if (!isWaiting) {
      entry.askedAtMs = 0;
      if (!isMove) this.#run(entry, () => this.#setWanted(entry, false));
    } else if (performance.now() - entry.askedAtMs >= takeOverMs) {
      this.#run(entry, () => this.#takeOver(entry));
    }
  }

  async #ask(entry: ServedVolume): Promise<void> {
    const { link, member, timings } = this.#context;
    const { id, name } = entry;
    const what = `cannot ask for volume ${name}`;
    const known = await link.ask(what, (store) => readVolume(this.#context, store, id));
    const { node = null, standby } = known?.record.attachment ?? {};
    if (node === null || node === member.nodeId || standby?.node !== member.nodeId) return;
    if (!(await isNodeLive(this.#context, node, what))) {
      await this.#takeOver(entry);
      return;
    }
    entry.askedAtMs = performance.now();
    await this.#setWanted(entry, true);
    setTimeout(() => this.#notice(entry), timings.takeOverMs + 1).unref();
  }

  async #setWanted({ id, name }: ServedVolume, isWanted: boolean): Promise<void> {
    await changeVolume(this.#context, id, `cannot ask for volume ${name}`, (record) => {
      const { attachment } = record;
      const { standby } = attachment;
      if (standby === undefined || standby.isWanted === isWanted) return null;
      return { ...record, attachment: { ...attachment, standby: { ...standby, isWanted } } };
    });
  }

  async #refused({ id, name }: ServedVolume): Promise<void> {
    const { host, plane, inventory } = this.#context;
    const node = inventory.volumes.get(id)?.record.attachment.node ?? "";
    const fields = { volume: name, holder: inventory.nodeName(node) };
    host.modules.log.log("warn", "cluster.volume-not-given", fields);
    await plane.cutWaiting(id);
  }

  /** From a node that is gone, or says nothing. */
  async #takeOver(entry: ServedVolume): Promise<void> {
    const { member, host } = this.#context;
    const { id, name } = entry;
    entry.askedAtMs = 0;
    const what = `cannot take volume ${name} over`;
    const record = await changeVolume(this.#context, id, what, (found) => {
      const { generation, node, readOnly, standby, target } = found.attachment;
      if (standby?.node !== member.nodeId || node === null) return null;
      const moved = { generation: generation + 1, node: member.nodeId, readOnly };
      const { portal } = entry;
      if (target === undefined || portal === null) return { ...found, attachment: moved };
      // The two go on having it between them: the other stands by as soon as it is there.
      const other = { node, incarnation: 0, isWanted: false, isMove: false };
      const taken = { ...moved, target: targetAtStandby(target, portal), standby: other };
      return { ...found, attachment: taken };
    });
    if (record.attachment.node !== member.nodeId) return;
    host.modules.log.log("warn", "cluster.standby-takes-over", { volume: name });
    host.modules.events.add("volume.taken", name, "the node that had it gave no answer");
    await this.#serving.serve(entry, record);
  }

  // The holder ------------------------------------------------------------------------------------

  #hold(entry: ServedVolume, standby: Standby): void {
    if (entry.declared?.phase === "detaching" || !isReady(this.#context, standby)) return;
    if (!standby.isWanted && !entry.isLeaving) return;
    if (entry.declared?.scsi !== undefined) {
      // One of several disks of a guest: it does not move alone, and the guest not with it.
      if (standby.isWanted) this.#run(entry, () => this.#setWanted(entry, false));
    } else if (entry.declared?.classic !== undefined) {
      this.#holdTarget(entry, standby);
    } else if (entry.front.isRunning) {
      if (standby.isWanted) this.#run(entry, () => this.#setWanted(entry, false));
    } else if (ownerOf(this.#context, entry.id)?.state === "serving") {
      this.#run(entry, () => this.#give(entry));
    }
  }

  /**
   * Sessions do not keep a target: they go on in standby, or initiators come again by themselves
   * and are led on. But it goes only where its portal listens, and its secret is known.
   */
  #holdTarget(entry: ServedVolume, { isWanted, portal }: Standby): void {
    if (!isWanted) return;
    if (portal === undefined) this.#run(entry, () => this.#setWanted(entry, false));
    else if (ownerOf(this.#context, entry.id)?.state === "serving") {
      this.#run(entry, () => this.#giveTarget(entry));
    }
  }

  /** Whom the volume may be handed to, by a linearizable read; null = nobody. */
  async #heir({ id, name }: ServedVolume): Promise<Standby | null> {
    const { link, member } = this.#context;
    const what = `cannot hand volume ${name} over`;
    const known = await link.ask(what, (store) => readVolume(this.#context, store, id));
    const { node, standby } = known?.record.attachment ?? {};
    const isOurs = node === member.nodeId && isReady(this.#context, standby);
    return isOurs ? (standby ?? null) : null;
  }

  async #giveTarget(entry: ServedVolume): Promise<void> {
    const heir = await this.#heir(entry);
    if (heir !== null) await this.handOver(entry, heir);
  }

  async #give(entry: ServedVolume): Promise<void> {
    const heir = await this.#heir(entry);
    if (heir === null || entry.front.isRunning) return;
    entry.isLeaving = false;
    await this.handOver(entry, heir);
  }

  /** In the entry's queue; the front end is stopped, has no rings that run, or is a target. */
  async handOver(entry: ServedVolume, to: Standby): Promise<void> {
    const { plane, host, inventory } = this.#context;
    const beganMs = performance.now();
    await plane.handOverVolume(entry.id, processText(to));
    entry.isStandby = true;
    entry.reservationsRevision = 0;
    const where = inventory.nodeName(to.node);
    host.modules.events.add("volume.handed-over", entry.name, `node ${where} has it now`);
    const tookMs = Math.round(performance.now() - beganMs);
    const fields = { volume: entry.name, to: where, tookMs };
    host.modules.log.log("info", "cluster.handed-over", fields);
  }

  // -----------------------------------------------------------------------------------------------

  #run(entry: ServedVolume, operation: () => Promise<void>): void {
    const { host, served, look } = this.#context;
    const running = entry.exclusively(async () => {
      if (!host.stopping && served.get(entry.id) === entry) await operation();
    });
    const again = (): void => {
      look();
      this.#notice(entry);
    };
    const failed = (error: Error): void => {
      entry.noticeAtMs = performance.now() + RETRY_MS;
      setTimeout(again, RETRY_MS + 1).unref();
      if (host.stopping || entry.stepProblem === error.message) return;
      entry.stepProblem = error.message;
      const fields = { volume: entry.name, message: error.message };
      host.modules.log.log("warn", "cluster.standby-step-failed", fields);
    };
    // The queue counts it as busy until its own turn has come to note the end.
    const done = (): void => {
      entry.stepProblem = "";
      setImmediate(again);
    };
    void running.then(done, failed);
  }
}
