// What goes wrong in the simulated cluster, and how it is put right.

import type { Prng } from "../../base/index.ts";
import type { ClusterNode } from "./cluster-node.ts";
import type { ClusterOwner } from "./cluster-owner.ts";
import type { ClusterSim } from "./cluster-sim.ts";

export const FAULTS = [
  "kill",
  "powerCut",
  "powerOut",
  "restart",
  "takeOver",
  "handOver",
  "metadata",
  "shutOneWay",
  "shutBothWays",
  "isolate",
  "stutter",
  "break",
  "breakUnnoticed",
  "pause",
  "failDisk",
  "slowDisk",
  "plan",
] as const;

/** Where a planner runs, nobody else plans; and nodes are lost for good, or to be emptied. */
export const REPAIR_FAULTS: readonly FaultName[] = [
  ...FAULTS.filter((name) => name !== "plan"),
  "lose",
  "lose",
  "drain",
];

const WATCH_US = 400_000;

export type FaultName = (typeof FAULTS)[number] | "lose" | "drain";

export class Faults {
  readonly counts: Map<string, number> = new Map();
  private readonly sim: ClusterSim;
  private readonly isolated: Set<number> = new Set();
  private names: readonly FaultName[] = FAULTS;
  private pace = 1;
  private readonly actions: Readonly<Record<FaultName, () => void>>;

  constructor(sim: ClusterSim) {
    this.sim = sim;
    this.actions = {
      kill: () => this.kill(this.anyNode(), "process"),
      powerCut: () => this.kill(this.anyNode(), "power"),
      powerOut: () => this.powerOut(),
      restart: () => this.restart(),
      takeOver: () => this.takeOver(),
      handOver: () => this.handOver(),
      metadata: () => this.metadata(),
      shutOneWay: () => this.shut(true),
      shutBothWays: () => this.shut(false),
      isolate: () => this.isolate(),
      stutter: () => this.stutter(),
      break: () => this.break(true),
      breakUnnoticed: () => this.break(false),
      pause: () => this.anyNode().process?.pause(this.prng.unit() * 6_000_000),
      failDisk: () => this.failDisk(),
      slowDisk: () => this.slowDisk(),
      plan: () => this.plan(),
      lose: () => this.sim.planner?.lose(this.anyNode()),
      drain: () => this.sim.planner?.drain(this.anyNode()),
    };
  }

  private get prng(): Prng {
    return this.sim.prng;
  }

  /** `pace`: how many times longer it is quiet between two faults. */
  begin(names: readonly FaultName[], pace: number): void {
    this.names = names;
    this.pace = pace;
    this.sim.after(this.prng.unit() * 300_000, () => this.next());
    this.watch();
  }

  private next(): void {
    if (this.sim.isOver) return;
    const name = this.prng.pick(this.names);
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
    this.actions[name]();
    const longUs = this.prng.chance(0.3) ? 2_000_000 : 200_000;
    const pauseUs = (20_000 + this.prng.unit() * longUs) * this.pace;
    this.sim.after(pauseUs, () => this.next());
  }

  /** Somebody always takes over, sooner or later. */
  private watch(): void {
    if (this.sim.isOver) return;
    this.sim.checkOwners();
    for (const volume of this.sim.volumes) {
      if (this.sim.alive(volume).length === 0) this.sim.takeOver(volume, this.anyNode());
    }
    this.sim.after(this.prng.unit() * WATCH_US, () => this.watch());
  }

  /** Everything that can be put right is; what heals by itself goes on doing so. */
  heal(): void {
    const { sim } = this;
    this.isolated.clear();
    sim.cutOff.clear();
    sim.planner?.heal();
    for (const volume of sim.volumes) {
      volume.store.isUp = true;
      volume.store.lossChance = 0;
    }
    for (const node of sim.nodes) {
      // A store that failed to write stays failed: the next process opens it again.
      if (node.process?.hasBadDisk === true) sim.crash(node, "process");
      node.process?.goOn();
      node.start();
      for (const other of sim.nodes) {
        if (other !== node) sim.network.open(node.index, other.index);
      }
    }
  }

  isIsolated(node: number): boolean {
    return this.isolated.has(node);
  }

  // Nodes -----------------------------------------------------------------------------------------

  private anyNode(): ClusterNode {
    return this.prng.pick(this.sim.nodes);
  }

  private kill(node: ClusterNode, kind: "process" | "power"): void {
    const longUs = this.prng.chance(0.3) ? 6_000_000 : 300_000;
    this.endAndStart(node, kind, this.prng.unit() * longUs);
  }

  /** Everything at once: only what is durable is left. */
  private powerOut(): void {
    for (const node of this.sim.nodes) {
      this.endAndStart(node, "power", this.prng.unit() * 300_000);
    }
  }

  /** The daemon is restarted at once. */
  private restart(): void {
    this.endAndStart(this.anyNode(), "process", 0);
  }

  /** It takes back what it owned, if it can. */
  private endAndStart(node: ClusterNode, kind: "process" | "power", us: number): void {
    const owned = this.sim.owners.filter((one) => one.isAlive && one.process === node.process);
    this.sim.crash(node, kind);
    this.sim.after(us, () => {
      node.start();
      this.takeBack(node, owned);
    });
  }

  private takeBack(node: ClusterNode, owned: readonly ClusterOwner[]): void {
    const { process } = node;
    const takeBack = (): void => {
      // Lost for good meanwhile.
      if (process === null || node.process !== process || this.sim.isOver) return;
      if (!process.isReady) {
        this.sim.after(5000, takeBack);
        return;
      }
      for (const { volume } of owned) this.sim.takeOver(volume, node);
    };
    takeBack();
  }

  private failDisk(): void {
    const { process } = this.anyNode();
    if (process?.isReady !== true) return;
    process.hasBadDisk = true;
    process.disk.faults.add({ kind: "eio", on: "write", chance: 0.5 });
  }

  private slowDisk(): void {
    const { process } = this.anyNode();
    const delayUs = this.prng.unit() * (this.prng.chance(0.2) ? 3_000_000 : 100_000);
    const on = ["write", "sync"] as const;
    process?.disk.faults.add({ kind: "slow", on, chance: 0.3, count: 40, delayUs });
  }

  // Owners ----------------------------------------------------------------------------------------

  private takeOver(): void {
    const volume = this.prng.pick(this.sim.volumes);
    if (!this.sim.isOver && this.sim.alive(volume).length < 3) {
      this.sim.takeOver(volume, this.anyNode());
    }
  }

  /**
   * An owner lets go in good order, and somebody else takes the volume: mostly whom it has named;
   * now and then another, or the one that is named is late, or has started anew meanwhile.
   */
  private handOver(): void {
    const serving = this.sim.owners.filter((one) => one.isServing && !one.process.isPaused);
    if (serving.length === 0) return;
    const { prng } = this;
    const owner = prng.pick(serving);
    const node = this.anyNode();
    const lateUs = prng.chance(0.2) ? prng.unit() * 400_000 : 0;
    const taken = (): void => {
      const taker = prng.chance(0.1) ? this.anyNode() : node;
      if (!this.sim.isOver) this.sim.after(lateUs, () => this.sim.takeOver(owner.volume, taker));
    };
    if (node.process === null || prng.chance(0.25)) owner.drain(taken);
    else owner.handOver(node.process.name, taken);
  }

  /** Somebody plans: a node gets a copy, or one whose copy is out keeps it no longer. */
  private plan(): void {
    const volume = this.prng.pick(this.sim.volumes);
    const node = this.anyNode();
    const { process } = node;
    if (process?.isReady !== true || process.hasBadDisk || process.isPaused) return;
    process.keep(volume.uuid, this.sim.sizeBytes, () => {
      const planned = volume.plan(node.disk);
      if (planned === null) return;
      this.counts.set(planned, (this.counts.get(planned) ?? 0) + 1);
      const owner = this.sim.owners.find((one) => one.volume === volume && one.isServing);
      // Whoever watches the record may be late, or asleep.
      if (owner === undefined || this.prng.chance(0.3)) return;
      this.sim.after(this.prng.unit() * 500_000, () => owner.membersChanged());
    });
  }

  private metadata(): void {
    const { prng } = this;
    const volume = prng.pick(this.sim.volumes);
    if (prng.chance(0.4)) volume.store.isUp = false;
    volume.store.lossChance = prng.unit();
    this.sim.after(prng.unit() * 2_000_000, () => {
      volume.store.isUp = true;
      volume.store.lossChance = 0;
    });
  }

  // The network -----------------------------------------------------------------------------------

  private anyPair(): readonly [number, number] {
    const { nodeCount } = this.sim;
    const first = this.prng.below(nodeCount);
    return [first, (first + 1 + this.prng.below(nodeCount - 1)) % nodeCount];
  }

  private shut(isOneWay: boolean): void {
    const [from, to] = this.anyPair();
    const { network } = this.sim;
    network.close(from, to);
    if (!isOneWay) network.close(to, from);
    this.sim.after(this.prng.unit() * 4_000_000, () => {
      network.open(from, to);
      network.open(to, from);
    });
  }

  /** A node hears nobody and is heard by nobody, and somebody else takes over what it owns. */
  private isolate(): void {
    const { network, cutOff, nodes } = this.sim;
    const node = this.prng.below(nodes.length);
    const others = nodes.map(({ index }) => index).filter((other) => other !== node);
    this.isolated.add(node);
    cutOff.add(node);
    for (const other of others) {
      network.close(node, other);
      network.close(other, node);
    }
    this.sim.after(this.prng.unit() * 100_000, () => this.takeOver());
    this.sim.after(1_000_000 + this.prng.unit() * 6_000_000, () => {
      this.isolated.delete(node);
      cutOff.delete(node);
      for (const other of others) {
        network.open(node, other);
        network.open(other, node);
      }
    });
  }

  private stutter(): void {
    const [from, to] = this.anyPair();
    for (let round = 0; round < 10; round++) {
      const us = this.prng.unit() * 50_000;
      this.sim.after(round * 60_000, () => this.sim.network.stutter(from, to, us));
    }
  }

  private break(isNoticed: boolean): void {
    const [from, to] = this.anyPair();
    this.sim.network.break(from, to, isNoticed);
  }
}
