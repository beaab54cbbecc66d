// Where the iSCSI targets of a cluster are, told both ways: the records hear where this node serves
// its own, and this node's portal leads initiators to those of the others. So one address that an
// initiator knows leads to every target, wherever it has moved. Discovery names, on every node, the
// portal that serves a target and the one that has it in standby, for those that want two paths.
//
// Nothing here decides where a target is served: a record that is old sends an initiator to a
// portal that sends it on, or tells it to come again.
//
// Invariants:
//  - nothing of a secret is in the records; leading somebody on asks for no proof, discovery shows
//    a target to those that may log in to it, here as at its own portal;
//  - an initiator is not sent to an address that is this portal's own, or that means another
//    machine to it than to whoever wrote it (loopback);
//  - a portal that cannot listen keeps nothing else from being done.

import type { AttachedTarget, VolumeRecord } from "../meta/records.ts";
import type { DeclaredClassic } from "../model/declared.ts";
import type { ElsewhereTarget, TargetPath } from "../ports/classic-plane.ts";
import { classicOf, portTagOf, standbyTagOf, targetNameOf } from "./classic-attach.ts";
import { type ClusterContext, changeVolume } from "./cluster-context.ts";
import type { ServedVolume } from "./cluster-served.ts";
import { isReady } from "./cluster-standby.ts";

/** What every node may know of a target. */
export function attachedTarget(
  classic: DeclaredClassic,
  portal: string,
  since: number,
  portTag: number,
): AttachedTarget {
  const told = { portal, ...classicOf(classic), since };
  return portTag === 1 ? told : { ...told, portTag };
}

function isLoopback(address: string): boolean {
  return address.startsWith("127.") || address.startsWith("[::1]");
}

/** Whether an initiator that has reached `own` reaches `there`, and is further then. */
function leadsOn(own: string, there: string): boolean {
  return own !== there && (isLoopback(own) || !isLoopback(there));
}

export class ClusterPortals {
  readonly #context: ClusterContext;
  #told = "[]";
  #problem = "";

  constructor(context: ClusterContext) {
    this.#context = context;
  }

  async reconcile(): Promise<void> {
    await this.#lead();
    await this.#tellOwn();
  }

  // The others' targets ---------------------------------------------------------------------------

  async #lead(): Promise<void> {
    const { plane, host } = this.#context;
    const records = [...this.#context.inventory.volumes.values()]
      .map(({ record }) => record)
      .filter(({ phase, attachment: { target } }) => phase === "ready" && target !== undefined)
      .sort((a, b) => (a.id < b.id ? -1 : 1));
    if (records.length === 0 && this.#told === "[]") return;
    try {
      const own = await plane.openPortal();
      const targets = records.flatMap((record) => this.#elsewhere(record, own));
      const text = JSON.stringify(targets);
      if (text !== this.#told) await plane.leadElsewhere(targets);
      this.#told = text;
      this.#problem = "";
    } catch (error) {
      const { code, message } = error as { readonly code?: unknown; readonly message: string };
      // The node was started without an address for iSCSI.
      if (code === "UNSUPPORTED" || message === this.#problem) return;
      this.#problem = message;
      host.modules.log.log("warn", "cluster.portal-not-open", { message });
    }
  }

  #elsewhere(record: VolumeRecord, own: string): readonly ElsewhereTarget[] {
    const { id, name, attachment, owner, state } = record;
    const { member, inventory, served } = this.#context;
    const { node, target } = attachment;
    if (target === undefined || node === null) return [];
    const { initiators, portal } = target;
    const paths = this.#pathsOf(record, "").filter((one) => leadsOn(own, one.address));
    const lead = (address: string | null): readonly ElsewhereTarget[] => [
      { targetName: targetNameOf({ id, name }), initiators, address, paths },
    ];
    if (node === member.nodeId) {
      const entry = served.get(id);
      // About to be: initiators that come now come again.
      return entry?.serving === true && !entry.isStandby ? [] : lead(null);
    }
    // Nobody answers there; it comes back, or whoever stands by takes over.
    if (!inventory.isAlive(node)) return lead(null);
    if (!leadsOn(own, portal)) return [];
    // It is about to take the volume: until then its portal may have the target in standby.
    const isThere = owner?.node === node && state !== "handed-over";
    return lead(isThere ? portal : null);
  }

  // Our own targets -------------------------------------------------------------------------------

  async #tellOwn(): Promise<void> {
    for (const entry of [...this.#context.served.values()]) {
      const record = this.#context.inventory.volumes.get(entry.id)?.record;
      if (record === undefined) continue;
      await this.#showPaths(entry, record);
      await this.#showReservations(entry);
      if (this.#isUntold(entry, record)) await this.#tell(entry);
    }
  }

  /** All portals that have the target at the moment, but for that of `except`. */
  #pathsOf({ attachment }: VolumeRecord, except: string): readonly TargetPath[] {
    const { node, target, standby } = attachment;
    const { inventory } = this.#context;
    const paths: TargetPath[] = [];
    if (target === undefined || node === null) return paths;
    if (node !== except && inventory.isAlive(node)) {
      paths.push({ address: target.portal, portTag: portTagOf(target), isActive: true });
    }
    const address = standby?.portal;
    if (address !== undefined && standby?.node !== except && isReady(this.#context, standby)) {
      paths.push({ address, portTag: standbyTagOf(target), isActive: false });
    }
    return paths;
  }

  /** To the initiators of a target that is here, active or in standby. */
  async #showPaths(entry: ServedVolume, record: VolumeRecord): Promise<void> {
    const { plane, member } = this.#context;
    const { portal } = entry;
    if (portal === null || !entry.serving || !entry.open || entry.busy) return;
    if (entry.isStandby === (record.attachment.node === member.nodeId)) return;
    const others = this.#pathsOf(record, member.nodeId).filter((one) =>
      leadsOn(portal, one.address),
    );
    const text = JSON.stringify(others);
    if (text === entry.toldPaths) return;
    entry.toldPaths = text;
    await plane.setPaths(entry.id, others);
  }

  /** To those in standby: what the node that serves it has changed. */
  async #showReservations(entry: ServedVolume): Promise<void> {
    const { plane, inventory } = this.#context;
    const known = inventory.reservations.get(entry.id);
    if (known === undefined || !entry.isStandby || !entry.open || entry.busy) return;
    if (entry.portal === null || known.modRevision === entry.reservationsRevision) return;
    entry.reservationsRevision = known.modRevision;
    await plane.setReservations(entry.id, known.record.record);
  }

  #isUntold(entry: ServedVolume, { attachment }: VolumeRecord): boolean {
    const { node, target } = attachment;
    if (node !== this.#context.member.nodeId || entry.busy) return false;
    if (!entry.serving || entry.isStandby) return false;
    const wanted = this.#targetOf(entry, attachment);
    return JSON.stringify(wanted ?? null) !== JSON.stringify(target ?? null);
  }

  /** Undefined: it is no target. */
  #targetOf(
    { declared, portal }: ServedVolume,
    { target, generation }: VolumeRecord["attachment"],
  ): AttachedTarget | undefined {
    if (declared?.classic === undefined || portal === null) return undefined;
    const since = target?.since ?? generation;
    return attachedTarget(declared.classic, portal, since, portTagOf(target));
  }

  async #tell(entry: ServedVolume): Promise<void> {
    const { id, name } = entry;
    await changeVolume(this.#context, id, `cannot tell where volume ${name} is`, (found) => {
      if (!this.#isUntold(entry, found)) return null;
      const { target: _, ...attachment } = found.attachment;
      const target = this.#targetOf(entry, found.attachment);
      const told = target === undefined ? attachment : { ...attachment, target };
      return { ...found, attachment: told };
    });
  }
}
