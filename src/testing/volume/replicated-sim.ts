// A replicated volume under everything that may go wrong, from one seed: owners that crash, pause and
// take over from each other, cut and slow links, nodes that crash, metadata that is away or loses its
// answers. Several owners answer clients at the same time; one model checks every read of all.
//
// Then the faults stop. Within a bound the last owner must serve, every node be in sync, and all
// nodes be equal: that is checked too, and every block is read once more.

import { assert } from "../../base/index.ts";
import type { OwnerBugs } from "../../volume/index.ts";
import { ModelVolume, SimScheduler } from "../sim/index.ts";
import { SimLink } from "./sim-link.ts";
import { BLOCK_BYTES, NO_NODE_BUGS, type NodeBugs, SimNode, type SlowDisk } from "./sim-node.ts";
import { SimProcess } from "./sim-process.ts";
import { SimRecordStore } from "./sim-records.ts";

const SLABS = 4;
const BLOCKS = SLABS * 16;
const STEPS_MAX = 3_000_000;
const SETTLE_US = 60_000_000;

const FAULTS = [
  "crashNode",
  "powerCut",
  "takeOver",
  "metadata",
  "damage",
  "cut",
  "cutForward",
  "cutBackward",
  "isolate",
  "slow",
  "break",
  "pause",
  "crashOwner",
  "orphan",
] as const;

export type FaultName = (typeof FAULTS)[number];

export interface SimOptions {
  /** Nobody reads or writes but the test. */
  readonly isIdle?: boolean;
  /** All of them by default; one that is named twice comes twice as often. */
  readonly faults?: readonly FaultName[];
  /** How many writes to a node's disk take long, and how long at most. */
  readonly slowDisk?: SlowDisk;
  readonly nodes?: number;
  /** Of faults, in virtual time. */
  readonly milliseconds?: number;
  readonly owner?: OwnerBugs;
  readonly node?: Partial<NodeBugs>;
  /** Blocks in use: few make requests meet. */
  readonly blocks?: number;
}

export interface SimOutcome {
  readonly requests: number;
  readonly takeovers: number;
  readonly exclusions: number;
  readonly returns: number;
  readonly repairs: number;
  readonly equalised: number;
  readonly steps: number;
}

/** A promise was broken. */
class SimFailure extends Error {
  override readonly name = "SimFailure";
}

export class ReplicatedSim {
  readonly scheduler: SimScheduler;
  readonly nodes: readonly SimNode[];
  readonly store: SimRecordStore;
  readonly model: ModelVolume = new ModelVolume();
  private readonly options: SimOptions;
  private readonly processes: SimProcess[] = [];
  private incarnation = 0;
  private isOver = false;
  /** The node whose host is cut off; -1 = none. */
  private isolated = -1;
  private requestCount = 0;
  private readonly blocks: number;

  constructor(seed: number, options: SimOptions = {}) {
    this.options = options;
    this.blocks = options.blocks ?? BLOCKS;
    this.scheduler = new SimScheduler(seed, { stepsMax: STEPS_MAX });
    const bugs = { ...NO_NODE_BUGS, ...options.node };
    const count = options.nodes ?? 3;
    this.nodes = Array.from(
      { length: count },
      (_, index) => new SimNode(`disk${index}`, this.scheduler, bugs, options.slowDisk),
    );
    this.store = new SimRecordStore(this.scheduler, {
      epoch: 0,
      owner: null,
      state: "clean",
      members: this.nodes.map(({ disk }) => disk),
      out: [],
      membershipVersion: 1,
      clusterGeneration: 1,
    });
    this.store.onChange = () => this.checkMembers();
  }

  private get prng(): SimScheduler["prng"] {
    return this.scheduler.prng;
  }

  private after(us: number, action: () => void): void {
    this.scheduler.after(us, action, { label: "campaign" });
  }

  // Owners ----------------------------------------------------------------------------------------

  /** A new incarnation, on the host of one of the nodes. */
  startOwner(home: number): SimProcess {
    this.incarnation += 1;
    const links = this.nodes.map((_, index) => new SimLink(this.scheduler, index === home));
    const process = new SimProcess({
      name: `owner${this.incarnation}`,
      home,
      scheduler: this.scheduler,
      nodes: this.nodes,
      links,
      store: this.store,
      model: this.model,
      capacityBytes: BLOCKS * BLOCK_BYTES,
      ...(this.options.owner === undefined ? {} : { planted: this.options.owner }),
    });
    this.processes.push(process);
    if (this.isolated !== -1) this.cutOff(process);
    process.volume.takeOver(() => {});
    this.drive(process);
    return process;
  }

  private alive(): SimProcess[] {
    return this.processes.filter((one) => !one.isGone && one.volume.state !== "surrendered");
  }

  private serving(): SimProcess[] {
    return this.alive().filter((one) => one.volume.state === "serving");
  }

  /** A client that keeps a few requests in flight, as long as the owner lives. */
  private drive(process: SimProcess): void {
    if (
      this.options.isIdle === true ||
      this.isOver ||
      process.isGone ||
      process.volume.state === "surrendered"
    )
      return;
    const { prng } = this;
    // Who is cut off can only read, and soon nothing but what it was not writing.
    const isCutOff = process.home === this.isolated;
    if (process.client.inflightCount < (isCutOff ? 16 : 6)) this.request(process, isCutOff);
    this.after(prng.unit() * (prng.chance(0.02) ? 100_000 : 1500), () => this.drive(process));
  }

  private request(process: SimProcess, isRead: boolean): void {
    const { prng } = this;
    const block = prng.below(this.blocks);
    const most = prng.chance(0.1) ? 20 : 3;
    const count = Math.min(1 + prng.below(most), this.blocks - block);
    const at = block * BLOCK_BYTES;
    this.requestCount += 1;
    if (isRead || prng.chance(0.45)) process.client.read(at, count * BLOCK_BYTES);
    else if (prng.chance(0.9)) process.client.write(at, count * BLOCK_BYTES);
    else if (prng.chance(0.5)) process.client.discard(at, count * BLOCK_BYTES);
    else process.client.writeZeroes(at, count * BLOCK_BYTES, true);
  }

  // Faults ----------------------------------------------------------------------------------------

  private fault(): void {
    if (this.isOver) return;
    const { prng } = this;
    this.pickFault();
    this.after(20_000 + prng.unit() * (prng.chance(0.3) ? 2_000_000 : 200_000), () => this.fault());
  }

  private pickFault(): void {
    const [process] = this.shuffledAlive();
    const name = this.prng.pick(this.options.faults ?? FAULTS);
    if (process === undefined) {
      this.takeOver();
      return;
    }
    const link = this.prng.pick(process.links.filter(({ isLocal }) => !isLocal));
    const faults: Readonly<Record<FaultName, () => void>> = {
      crashNode: () => this.crashNode(this.prng.pick(this.nodes)),
      powerCut: () => this.powerCut(),
      takeOver: () => this.takeOver(),
      metadata: () => this.metadataTrouble(),
      damage: () => this.damageBlock(),
      cut: () => this.cut(link, true, true),
      cutForward: () => this.cut(link, true, false),
      cutBackward: () => this.cut(link, false, true),
      isolate: () => this.isolate(process),
      slow: () => this.slow(link),
      break: () => link.breakAll(),
      pause: () => process.pause(this.prng.unit() * 6_000_000),
      crashOwner: () => this.crashOwner(process),
      orphan: () => this.orphan(process),
    };
    faults[name]();
  }

  private shuffledAlive(): SimProcess[] {
    const alive = this.alive();
    return alive.length === 0 ? [] : [this.prng.pick(alive)];
  }

  private crashNode(node: SimNode): void {
    node.crash();
    const long = this.prng.chance(0.3) ? 6_000_000 : 300_000;
    this.after(this.prng.unit() * long, () => node.restart());
  }

  private cut(link: SimLink, forward: boolean, backward: boolean): void {
    if (forward) link.isForwardUp = false;
    if (backward) link.isBackwardUp = false;
    this.after(this.prng.unit() * 4_000_000, () => link.heal());
  }

  /** A host is cut off, with its node and its owner, and somebody else takes over. */
  private isolate(process: SimProcess): void {
    this.isolated = process.home;
    for (const one of this.alive()) this.cutOff(one);
    this.after(this.prng.unit() * 100_000, () => this.takeOver());
    this.after(1_000_000 + this.prng.unit() * 6_000_000, () => {
      this.isolated = -1;
      for (const one of this.alive()) for (const link of one.links) link.heal();
    });
  }

  private cutOff(process: SimProcess): void {
    for (const [index, link] of process.links.entries()) {
      if ((index === this.isolated) === (process.home === this.isolated)) continue;
      link.isForwardUp = false;
      link.isBackwardUp = false;
    }
  }

  /** An owner dies, and its successor does not reach the node that was nearest to it for a while. */
  private orphan(process: SimProcess): void {
    process.crash();
    this.isolate(process);
  }

  /** Everything at once: only what is durable is left. */
  private powerCut(): void {
    for (const process of this.alive()) process.crash();
    for (const node of this.nodes) {
      node.crash();
      this.after(this.prng.unit() * 300_000, () => node.restart());
    }
    this.after(this.prng.unit() * 100_000, () => this.takeOver());
  }

  private slow(link: SimLink): void {
    link.slowness = 2 + this.prng.unit() * 20_000;
    this.after(this.prng.unit() * 4_000_000, () => link.heal());
  }

  private crashOwner(process: SimProcess): void {
    process.crash();
    // The daemon is both: owner and node.
    if (this.prng.chance(0.5)) this.crashNode(this.nodes[process.home]);
    this.after(this.prng.unit() * 1_000_000, () => this.takeOver());
  }

  private takeOver(): void {
    if (!this.isOver && this.alive().length < 4)
      this.startOwner(this.prng.below(this.nodes.length));
  }

  /** Bitrot, while there are other copies. */
  private damageBlock(): void {
    const node = this.prng.pick(this.nodes);
    for (let count = 0; count < 4; count++) node.damage(this.prng.below(this.blocks));
  }

  private metadataTrouble(): void {
    const { store, prng } = this;
    if (prng.chance(0.4)) store.isUp = false;
    store.lossChance = prng.unit();
    this.after(prng.unit() * 2_000_000, () => {
      store.isUp = true;
      store.lossChance = 0;
    });
  }

  // A run -----------------------------------------------------------------------------------------

  run(): SimOutcome {
    this.startOwner(0);
    this.after(this.prng.unit() * 300_000, () => this.fault());
    this.watch();
    this.scheduler.runFor((this.options.milliseconds ?? 12_000) * 1000);
    return this.finish();
  }

  /** The faults stop; everything must come right. */
  finish(): SimOutcome {
    this.isOver = true;
    this.heal();
    const last = this.settle();
    this.readEverything(last);
    this.checkEqual();
    return this.outcome(last);
  }

  watch(): void {
    this.checkMembers();
    if (!this.isOver) this.after(5000, () => this.watch());
  }

  /** What has been answered, every member that is in sync by the record has. */
  private checkMembers(): void {
    const { record } = this.store.entry;
    const owner = this.serving().find((one) => one.name === record.owner);
    if (owner === undefined || owner.volume.epoch !== record.epoch) return;
    const out = new Set(record.out.map(({ disk }) => disk));
    const [first, ...others] = this.nodes.filter(({ disk }) => !out.has(disk));
    const unanswered = owner.unansweredBlocks();
    for (const other of others) {
      const block = first.firstDifference(other, unanswered);
      if (block === -1) continue;
      const what = `${first.disk} and ${other.disk} are in sync and differ in block ${block}`;
      throw new SimFailure(`${this.where()}: ${what}`);
    }
  }

  private heal(): void {
    this.isolated = -1;
    this.store.isUp = true;
    this.store.lossChance = 0;
    for (const node of this.nodes) {
      node.mend();
      if (!node.isUp) node.restart();
    }
    for (const process of this.processes) {
      if (process.isGone) continue;
      process.resume();
      for (const link of process.links) link.heal();
    }
  }

  /** Somebody serves, everybody is in sync, nothing is under way. */
  private settle(): SimProcess {
    const untilUs = this.scheduler.clock.nowUs() + SETTLE_US;
    let asked = -Infinity;
    const isSettled = (): boolean => {
      const nowUs = this.scheduler.clock.nowUs();
      if (nowUs > untilUs) throw new SimFailure(`${this.where()}: not settled in time`);
      this.heal();
      const { record } = this.store.entry;
      const owner = this.serving().find((one) => one.name === record.owner);
      if (owner === undefined) {
        const isSomebodyTrying = this.alive().some(({ volume }) => volume.state === "taking-over");
        if (!isSomebodyTrying && nowUs - asked > 3_000_000) {
          asked = nowUs;
          this.startOwner(this.prng.below(this.nodes.length));
        }
        return false;
      }
      const isWhole = record.out.length === 0 && owner.volume.inSync.length === this.nodes.length;
      return isWhole && owner.client.inflightCount === 0 && owner.volume.resyncProgress === null;
    };
    while (!isSettled()) this.scheduler.runFor(50_000);
    this.scheduler.runFor(500_000);
    const { record } = this.store.entry;
    return this.serving().find((one) => one.name === record.owner) as SimProcess;
  }

  private where(): string {
    const states = this.alive().map(
      (one) => `${one.name} ${one.volume.state} ${one.volume.inSync}`,
    );
    const { record } = this.store.entry;
    return `seed ${this.scheduler.seed}: record ${JSON.stringify(record)}; ${states.join("; ")}`;
  }

  private readEverything(owner: SimProcess): void {
    for (let round = 0; round < 2; round++) {
      for (let at = 0; at < BLOCKS; at += 8) {
        owner.client.read(at * BLOCK_BYTES, 8 * BLOCK_BYTES);
      }
      const startUs = this.scheduler.clock.nowUs();
      while (owner.client.inflightCount > 0) {
        assert(this.scheduler.clock.nowUs() - startUs < SETTLE_US, "reads at the end do not end");
        this.scheduler.runFor(50_000);
      }
    }
  }

  private checkEqual(): void {
    const [first, ...others] = this.nodes;
    for (const other of others) {
      const block = first.firstDifference(other);
      if (block === -1) continue;
      throw new SimFailure(
        `${this.where()}: ${first.disk} and ${other.disk} differ in block ${block}`,
      );
    }
  }

  private outcome(last: SimProcess): SimOutcome {
    const entries = this.processes.flatMap(({ reactor }) => reactor.entries);
    const count = (event: string): number => entries.filter((one) => one.event === event).length;
    const equalised = this.processes.map(({ volume }) => volume.equalisedCount);
    return {
      requests: this.requestCount,
      takeovers: last.volume.epoch,
      exclusions: count("member-put-out"),
      returns: count("resync-done"),
      repairs: count("slab-repair"),
      equalised: equalised.reduce((sum, one) => sum + one, 0),
      steps: this.scheduler.stepCount,
    };
  }
}
