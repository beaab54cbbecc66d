// Repairs in the simulated cluster: each node counts losses and plans as its daemon does, with the
// real planner (meta/repair-plan.ts) and the real count (daemon/cluster-losses.ts), on its own clock.
// One leads, by a key that it loses when it is not heard of; what it has sent may arrive late, also
// after another leads. A step is a swap: the record and the leader's key are as they were.
//
// Checked at every change of a record:
//  - no step of a plan makes fewer copies count: who is in sync before it is in sync after it;
//  - a copy is put out because it is to go only once the one that replaces it is in sync;
//  - the last copy in sync is never dropped, by nobody.

import { DiskLosses } from "../../daemon/cluster-losses.ts";
import type { VolumeRecord } from "../../meta/records.ts";
import {
  leavingOf,
  planRepairs,
  type RepairStep,
  type RepairView,
} from "../../meta/repair-plan.ts";
import type { OwnedRecord } from "../../ports/index.ts";
import type { ClusterNode, NodeProcess } from "./cluster-node.ts";
import type { ClusterOwner } from "./cluster-owner.ts";
import {
  diskRecordOf,
  nodeRecordOf,
  ownedRecordOf,
  type PlannedRecord,
  volumeRecordOf,
} from "./cluster-plan-records.ts";
import type { ClusterSim } from "./cluster-sim.ts";
import { ClusterFailure, type ClusterVolume } from "./cluster-volume.ts";

const LOOK_US = 200_000;
/** A node that was not heard of for so long is missing, and leads no more. */
const LIVE_US = 1_500_000;
const STEP_US = 20_000;
/** Of a leader that is held up. */
const LATE_US = 3_000_000;
const NODES_LEFT_MIN = 3;

interface Sent {
  readonly step: RepairStep;
  readonly volume: ClusterVolume;
  readonly before: PlannedRecord;
  readonly revision: number;
  readonly leaderRevision: number;
}

export class ClusterPlanner {
  readonly counts: Map<string, number> = new Map();
  /** How long a step of a plan takes to the metadata; a test may hold them up. */
  stepUs: number = STEP_US;
  private readonly sim: ClusterSim;
  private readonly afterMs: number;
  private readonly replicaCounts: Map<ClusterVolume, number> = new Map();
  private readonly losses: Map<NodeProcess, DiskLosses> = new Map();
  private readonly seenUs: number[];
  private readonly draining: Set<number> = new Set();
  /** Copies that are being made, by process and volume. */
  private readonly making: Set<string> = new Set();
  /** The record that an owner was told of last. */
  private readonly told: Map<ClusterOwner, number> = new Map();
  private leader: NodeProcess | null = null;
  /** The revision of the leader's key. */
  private leaderRevision = 0;

  constructor(sim: ClusterSim) {
    this.sim = sim;
    this.afterMs = sim.prng.pick([1000, 2500, 5000]);
    this.seenUs = sim.nodes.map(() => 0);
    for (const volume of sim.volumes) {
      this.replicaCounts.set(volume, volume.members.length);
      let before = volume.entry.record as PlannedRecord;
      volume.store.onChange = () => {
        const after = volume.entry.record as PlannedRecord;
        this.checkRecord(before, after);
        before = after;
      };
    }
  }

  private get nowUs(): number {
    return this.sim.world.clock.nowUs();
  }

  private count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  get leadingNode(): number {
    return this.leader?.node ?? -1;
  }

  begin(): void {
    for (const { index } of this.sim.nodes) this.lookLater(index);
  }

  // What befalls nodes ----------------------------------------------------------------------------

  /** For good; unless it has the last copy of something. */
  lose(node: ClusterNode): void {
    const left = this.sim.nodes.filter(({ isLost }) => !isLost);
    if (node.isLost || left.length <= NODES_LEFT_MIN) return;
    const isSpared = this.sim.volumes.some(({ entry }) => {
      const inSync = this.inSyncHere(entry.record);
      return inSync.length === 1 && inSync[0] === node.disk;
    });
    if (isSpared) return;
    this.count("lost");
    node.isLost = true;
    this.sim.crash(node, "power");
  }

  /** It is to be emptied, for so long; mostly long enough. */
  drain({ index }: ClusterNode, us: number = 2_000_000 + this.sim.prng.unit() * 8_000_000): void {
    if (this.draining.size > 0) return;
    this.count("drained");
    this.draining.add(index);
    this.sim.after(us, () => this.draining.delete(index));
  }

  heal(): void {
    this.draining.clear();
    this.find();
  }

  /** What was put out while a node went leaves that one with the last copy: it is found again. */
  private find(): void {
    for (const { entry } of this.sim.volumes) {
      if (this.inSyncHere(entry.record).length > 0) continue;
      const inSync = membersOf(entry.record);
      const node = this.sim.nodes.find(({ disk }) => inSync.includes(disk));
      if (node === undefined) continue;
      this.count("found");
      node.isLost = false;
      node.start();
    }
  }

  /** On nodes that are not lost. */
  private inSyncHere(record: OwnedRecord): readonly string[] {
    const here = this.sim.nodes.filter(({ isLost }) => !isLost).map(({ disk }) => disk);
    return membersOf(record).filter((disk) => here.includes(disk));
  }

  /** As many copies as there should be, where nobody is lost, and nothing is planned. */
  isDone(volume: ClusterVolume): boolean {
    const record = volume.entry.record as PlannedRecord;
    const isWhole = record.members.length === this.replicaCounts.get(volume);
    return (
      isWhole &&
      record.replacement === undefined &&
      this.inSyncHere(record).length === record.members.length
    );
  }

  // A node's daemon -------------------------------------------------------------------------------

  private lookLater(index: number): void {
    const us = LOOK_US * (0.5 + this.sim.prng.unit());
    this.sim.world.after(us, () => this.look(index), { label: "planner" });
  }

  private look(index: number): void {
    this.lookLater(index);
    const { process } = this.sim.nodes[index];
    if (process === null || !process.isReady || process.isPaused) return;
    if (this.sim.cutOff.has(index)) return;
    this.seenUs[index] = this.nowUs;
    this.find();
    this.makeCopies(process);
    this.tellOwners(process);
    const view = this.viewOf(process);
    if (this.leads(process)) {
      for (const step of planRepairs(view).steps) this.send(process, step);
    }
  }

  private isAlive(index: number): boolean {
    return this.nowUs - this.seenUs[index] < LIVE_US;
  }

  /** The copies that records name on its disk. */
  private makeCopies({ store, name, node, hasBadDisk }: NodeProcess): void {
    const { disk } = this.sim.nodes[node];
    for (const { uuid, entry } of this.sim.volumes) {
      const key = `${name} ${uuid}`;
      const isThere = store.listVolumes().some((one) => one.uuid === uuid);
      if (isThere || hasBadDisk || !entry.record.members.includes(disk)) continue;
      if (this.making.has(key)) continue;
      this.making.add(key);
      const { sizeBytes } = this.sim;
      store.createVolume({ uuid, sizeBytes, isReplica: true }, () => this.making.delete(key));
    }
  }

  private tellOwners(process: NodeProcess): void {
    for (const owner of this.sim.owners) {
      if (owner.process !== process || !owner.isAlive) continue;
      const { record, revision } = owner.volume.entry;
      if (this.told.get(owner) === revision) continue;
      this.told.set(owner, revision);
      owner.membersChanged();
      const planned = record as PlannedRecord;
      const { isLeavingEarly } = this.sim.options.bugs ?? {};
      const early = isLeavingEarly === true ? (planned.replacement?.from ?? null) : null;
      owner.setLeaving(early ?? leavingOf(this.recordOf(owner.volume)));
    }
  }

  private recordOf(volume: ClusterVolume): VolumeRecord {
    return volumeRecordOf(volume, this.replicaCounts.get(volume) ?? 0, this.sim.sizeBytes);
  }

  private viewOf(process: NodeProcess): RepairView {
    const { sim } = this;
    const nodes = new Map(sim.nodes.map(({ index }) => [nodeRecordOf(index).id, index]));
    const shelf = <T extends { readonly id: string }>(all: readonly T[]): Map<string, T> =>
      new Map(all.map((one) => [one.id, one]));
    const known = {
      nodes: shelf(sim.nodes.map(({ index }) => nodeRecordOf(index))),
      disks: shelf(sim.nodes.map(({ index }) => diskRecordOf(index, this.draining.has(index)))),
      volumes: sim.volumes.map((volume) => this.recordOf(volume)),
      isAlive: (id: string) => this.isAlive(nodes.get(id) ?? -1),
    };
    let losses = this.losses.get(process);
    if (losses === undefined) {
      losses = new DiskLosses(this.lossView(), () => process.reactor.clock.nowUs() / 1000);
      this.losses.set(process, losses);
    }
    losses.look();
    const lostMs = (disk: string): number => (losses as DiskLosses).lostMs(disk);
    // What only an owner sees is not simulated: meta/repair-plan.test.ts has it.
    const reach = { cutOffMs: () => 0, isReachable: () => true };
    return { ...known, ...reach, lostMs, afterMs: this.afterMs, now: "" };
  }

  private lossView(): ConstructorParameters<typeof DiskLosses>[0] {
    const { sim } = this;
    const nodes = new Map(sim.nodes.map(({ index }) => [nodeRecordOf(index).id, index]));
    const shelf = <T extends { readonly id: string }>(
      all: readonly T[],
    ): Map<string, { readonly record: T }> => new Map(all.map((record) => [record.id, { record }]));
    const disks = shelf(sim.nodes.map(({ index }) => diskRecordOf(index, false)));
    const recordsNow = (): Map<string, { readonly record: VolumeRecord }> =>
      shelf(sim.volumes.map((volume) => this.recordOf(volume)));
    return {
      disks,
      nodes: shelf(sim.nodes.map(({ index }) => nodeRecordOf(index))),
      get volumes() {
        return recordsNow();
      },
      isAlive: (id: string) => this.isAlive(nodes.get(id) ?? -1),
    };
  }

  // Plans -----------------------------------------------------------------------------------------

  private leads(process: NodeProcess): boolean {
    const { leader } = this;
    if (leader === null || leader.scheduler.isGone || !this.isAlive(leader.node)) {
      this.leaderRevision += 1;
      this.leader = process;
      this.count("led");
    }
    return this.leader === process;
  }

  private send(process: NodeProcess, step: RepairStep): void {
    const { prng } = this.sim;
    const volume = this.sim.volumes.find(({ uuid }) => uuid === step.volume.id) as ClusterVolume;
    const { record, revision } = volume.entry;
    const before = record as PlannedRecord;
    const { leaderRevision } = this;
    const sent = { step, volume, before, revision, leaderRevision };
    const isLate = prng.chance(0.1);
    const us = this.stepUs === STEP_US ? prng.unit() * (isLate ? LATE_US : STEP_US) : this.stepUs;
    const arrive = (): void => {
      const isCutOff = this.sim.cutOff.has(process.node) || !volume.store.isUp;
      if (!isCutOff || prng.chance(volume.slipChance)) this.carryOut(sent);
    };
    process.scheduler.after(us, arrive, { label: "plan" });
  }

  private carryOut({ step, volume, before, revision, leaderRevision }: Sent): void {
    const { isPlanUnguarded, isNewCounted, isOldDropped } = this.sim.options.bugs ?? {};
    const now = volume.entry;
    const isAsPlanned = now.revision === revision && leaderRevision === this.leaderRevision;
    if (!isAsPlanned && isPlanUnguarded !== true) {
      this.count("refused");
      return;
    }
    let record = ownedRecordOf(step.next, before);
    if (step.kind === "begin" && isNewCounted === true) record = { ...record, out: before.out };
    if (step.kind === "begin" && isOldDropped === true) {
      const { from } = step.replacement;
      record = { ...record, members: record.members.filter((disk) => disk !== from) };
    }
    this.checkStep(step, now.record, record);
    this.count(step.kind);
    volume.store.entry = { record, revision: now.revision + 1 };
    volume.store.onChange?.();
  }

  // What is checked -------------------------------------------------------------------------------

  private checkStep({ kind, why }: RepairStep, before: OwnedRecord, after: OwnedRecord): void {
    const [had, has] = [membersOf(before), membersOf(after)];
    const gone = had.find((disk) => !has.includes(disk));
    const come = has.find((disk) => !had.includes(disk));
    if (gone !== undefined) throw new ClusterFailure(`"${kind}" (${why}) drops ${gone}, in sync`);
    if (come !== undefined) throw new ClusterFailure(`"${kind}" (${why}) counts ${come} in sync`);
  }

  private checkRecord(before: PlannedRecord, after: PlannedRecord): void {
    const inSync = membersOf(after);
    if (inSync.length === 0) throw new ClusterFailure("the last copy in sync was dropped");
    const left = after.out.find(
      ({ disk, reason }) => reason === "drained" && before.out.every((one) => one.disk !== disk),
    );
    const { replacement } = after;
    if (left === undefined || replacement === undefined || left.disk !== replacement.from) return;
    if (inSync.includes(replacement.to)) return;
    throw new ClusterFailure(`${left.disk} was put out before ${replacement.to} was in sync`);
  }
}

function membersOf({ members, out }: OwnedRecord): readonly string[] {
  return members.filter((disk) => out.every((one) => one.disk !== disk));
}
