// Repair that needs nobody: what meta/repair-plan.ts finds is to be done, carried out by the node
// that leads. Every other node looks too, and shows what is in the way.
//
// Each step is one transaction: the record is as it was when the step was planned, the disk that
// is to take a copy too, and this node leads; but for copies that are cut off from their owner
// alone, which the owner's node sees and nobody else. What is under way is in the records, so that
// another leader goes on with it.

import { volumeCodec } from "../meta/index.ts";
import { planRepairs, type RepairStep, type RepairView } from "../meta/repair-plan.ts";
import type { EventType } from "../model/types.ts";
import { type ClusterContext, newChangeId, transact } from "./cluster-context.ts";
import { Leadership } from "./cluster-leader.ts";
import type { Liveness } from "./cluster-liveness.ts";
import { CutOffs, DiskLosses } from "./cluster-losses.ts";
import { mapOf } from "./cluster-placement.ts";

const EVENTS: Readonly<Record<RepairStep["kind"], EventType>> = {
  begin: "copy.planned",
  finish: "copy.replaced",
  drop: "copy.dropped",
};

export class ClusterRepair {
  /** Copies for which there is no place, by volume: why. */
  blocked: ReadonlyMap<string, string> = new Map();
  readonly #context: ClusterContext;
  readonly #leadership: Leadership;
  readonly #losses: DiskLosses;
  readonly #cutOffs: CutOffs;

  constructor(context: ClusterContext, liveness: Liveness) {
    this.#context = context;
    this.#leadership = new Leadership(context, () => liveness.lease);
    const nowMs = (): number => performance.now();
    this.#losses = new DiskLosses(context.inventory, nowMs);
    this.#cutOffs = new CutOffs(context, nowMs);
  }

  /** Until a copy that is lost has been lost for long enough. */
  get nextDueMs(): number {
    const { repairAfterMs } = this.#context.timings;
    const dueMs = [this.#losses, this.#cutOffs].map((one) => one.nextDueMs(repairAfterMs));
    return Math.min(...dueMs);
  }

  /** An owner here has lost a member, or has one again: time is not counted over that. */
  ownerChanged(): void {
    if (this.#cutOffs.isCounting) this.#cutOffs.look();
  }

  view(): RepairView {
    const { inventory, timings, host } = this.#context;
    const recordsOf = <T>(shelf: ReadonlyMap<string, { readonly record: T }>): Map<string, T> =>
      new Map([...shelf].map(([id, { record }]) => [id, record]));
    this.#losses.look();
    this.#cutOffs.look();
    return {
      nodes: recordsOf(inventory.nodes),
      disks: recordsOf(inventory.disks),
      volumes: [...inventory.volumes.values()].map(({ record }) => record),
      isAlive: (nodeId) => inventory.isAlive(nodeId),
      lostMs: (diskId) => this.#losses.lostMs(diskId),
      cutOffMs: (volumeId, diskId) => this.#cutOffs.cutOffMs(volumeId, diskId),
      isReachable: (nodeId) => this.#cutOffs.isReachable(nodeId),
      afterMs: timings.repairAfterMs,
      now: host.modules.now().toISOString(),
    };
  }

  async reconcile(): Promise<void> {
    const { steps, blocked } = planRepairs(this.view());
    this.blocked = new Map(blocked.map(({ volume, message }) => [volume.id, message]));
    const leaderRevision = await this.#leadership.claim();
    for (const step of steps) {
      if (step.isOwners) await this.#carryOut(step, null);
      else if (leaderRevision !== null) await this.#carryOut(step, leaderRevision);
    }
  }

  /** `leaderRevision`: this node must lead. */
  async #carryOut(step: RepairStep, leaderRevision: number | null): Promise<void> {
    const { inventory, keys, link } = this.#context;
    const { kind, volume, next, replacement, why } = step;
    const known = inventory.volumes.get(volume.id);
    // Changed since it was planned: the next look plans anew.
    if (known?.record !== volume) return;
    const key = keys.volumeRecord(volume.id);
    const record = { ...next, changeId: newChangeId() };
    const { from, to } = replacement;
    const guards = [{ key, modRevision: known.modRevision }];
    if (leaderRevision !== null) guards.push({ key: keys.leader, modRevision: leaderRevision });
    if (kind === "begin") {
      const modRevision = inventory.disks.get(to)?.modRevision ?? 0;
      guards.push({ key: keys.disk(to), modRevision });
    }
    // Where the disk is known, its node takes the copy away, and says so.
    const isForgotten = kind === "finish" && from !== null && !inventory.disks.has(from);
    const answer = await link.ask(`cannot plan a copy of volume ${volume.name}`, (store) =>
      transact(this.#context, store, {
        guards,
        writes: [
          { key, value: volumeCodec.encode(record) },
          ...mapOf(keys, inventory, record),
          ...(isForgotten ? [{ key: keys.volumeCopy(volume.id, from), value: null }] : []),
        ],
      }),
    );
    if (answer.outcome !== "applied") {
      this.#context.look();
      return;
    }
    const { events, log } = this.#context.host.modules;
    const where = `${from === null ? "" : `${this.#nameOf(from)} -> `}${this.#nameOf(to)}`;
    events.add(EVENTS[kind], volume.name, `${where}: ${why}`);
    const fields = { volume: volume.name, from: from ?? "", to, reason: replacement.reason, why };
    log.log("info", `cluster.${EVENTS[kind].replace(".", "-")}`, fields);
  }

  #nameOf(diskId: string): string {
    const { inventory } = this.#context;
    const disk = inventory.disks.get(diskId)?.record;
    return disk === undefined ? diskId : `${disk.name} on ${inventory.nodeName(disk.node)}`;
  }
}
