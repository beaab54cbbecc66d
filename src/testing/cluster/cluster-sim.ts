// A cluster of real code in virtual time, from one seed: nodes with stores on lying disks, links
// between them, owners of volumes, clients; and everything that may go wrong with them. See
// cluster-node.ts for what is real, cluster-volume.ts for what is checked all the time.
//
// Then the faults stop. Within a bound every volume must be served, every member be in sync, and all
// requests be answered; everything is read once more, and the copies are compared byte by byte.

import type { Prng } from "../../base/index.ts";
import { SimScheduler } from "../sim/index.ts";
import type { ClusterBugs } from "./cluster-bugs.ts";
import { FAULTS, type FaultName, Faults, REPAIR_FAULTS } from "./cluster-faults.ts";
import { ClusterNetwork } from "./cluster-network.ts";
import { ClusterNode, diskUuid, volumeUuid } from "./cluster-node.ts";
import { ClusterOwner } from "./cluster-owner.ts";
import { ClusterPlanner } from "./cluster-planner.ts";
import { ClusterFailure, ClusterVolume } from "./cluster-volume.ts";
import { compareCopies } from "./compare-copies.ts";

const BLOCK_BYTES = 4096;
const BLOCKS = 128;
const STEPS_MAX = 20_000_000;
const SETTLE_US = 60_000_000;
const SETTLE_STEP_US = 50_000;
const TAKEOVER_PAUSE_US = 3_000_000;
const RETURN_MS = 300;

export interface ClusterOptions {
  /** Nodes with a copy, for each volume. */
  readonly volumes?: readonly (readonly number[])[];
  /** All of them by default; one that is named twice comes twice as often. */
  readonly faults?: readonly FaultName[];
  /** How many times longer than usual it is quiet between two faults; by the seed by default. */
  readonly pace?: number;
  /** Slow disks have more under way; by the seed by default. */
  readonly diskLatencyMaxUs?: number;
  /** Of faults, in virtual time. */
  readonly milliseconds?: number;
  /** Of each volume. */
  readonly sizeBlocks?: number;
  /** Blocks in use: few make requests meet. */
  readonly blocks?: number;
  readonly bugs?: ClusterBugs;
  /** Of owners: see OwnerTimings. */
  readonly returnMs?: number;
  /** Nobody reads or writes but the test. */
  readonly isIdle?: boolean;
  /** Five nodes, on which the planner of repairs runs; some are lost for good. */
  readonly isRepairing?: boolean;
}

/** As `npm run sim` and the tests run a seed: every third with repairs. */
export function optionsOf(seed: number): ClusterOptions {
  return { isRepairing: seed % 3 === 0 };
}

export interface ClusterOutcome {
  readonly requests: number;
  readonly takeovers: number;
  readonly starts: number;
  readonly connections: number;
  readonly resumes: number;
  readonly exclusions: number;
  readonly returns: number;
  readonly equalised: number;
  readonly slabsCompared: number;
  readonly steps: number;
  readonly faults: Readonly<Record<string, number>>;
  /** Steps of plans, and what befell nodes; empty where nobody plans. */
  readonly repairs: Readonly<Record<string, number>>;
}

const NODE_COUNT = 3;
const NODE_COUNT_REPAIRING = 5;

export class ClusterSim {
  readonly world: SimScheduler;
  readonly network: ClusterNetwork;
  readonly nodes: readonly ClusterNode[];
  readonly volumes: readonly ClusterVolume[];
  /** Nodes that do not reach the metadata. */
  readonly cutOff: Set<number> = new Set();
  readonly options: ClusterOptions;
  readonly sizeBytes: number;
  readonly nodeCount: number;
  /** null: nobody plans. */
  readonly planner: ClusterPlanner | null;
  owners: ClusterOwner[] = [];
  isOver = false;
  private readonly counts = { requests: 0, connections: 0, resumes: 0, equalised: 0 };
  private readonly events: Map<string, number> = new Map();
  private readonly faults: Faults;
  private readonly blocks: number;
  private readonly diskLatencyMaxUs: number;

  constructor(seed: number, options: ClusterOptions = {}) {
    this.options = options;
    const sizeBlocks = options.sizeBlocks ?? BLOCKS;
    this.sizeBytes = sizeBlocks * BLOCK_BYTES;
    this.blocks = options.blocks ?? sizeBlocks;
    this.world = new SimScheduler(seed, { stepsMax: STEPS_MAX });
    this.nodeCount = options.isRepairing === true ? NODE_COUNT_REPAIRING : NODE_COUNT;
    this.network = new ClusterNetwork(this.world, this.nodeCount);
    this.diskLatencyMaxUs = options.diskLatencyMaxUs ?? this.prng.pick([200, 2000, 10_000]);
    const members = options.volumes ?? [
      [0, 1, 2],
      this.prng.pick([
        [0, 1],
        [1, 2],
        [2, 0],
      ]),
    ];
    this.volumes = members.map(
      (nodes, index) => new ClusterVolume(this.world, index, nodes, this.cutOff),
    );
    const length = this.nodeCount;
    this.nodes = Array.from({ length }, (_, index) => this.makeNode(index, members));
    this.planner = options.isRepairing === true ? new ClusterPlanner(this) : null;
    this.faults = new Faults(this);
  }

  get prng(): Prng {
    return this.world.prng;
  }

  private makeNode(index: number, members: readonly (readonly number[])[]): ClusterNode {
    const { sizeBytes } = this;
    const own = members.flatMap((nodes, volume) =>
      nodes.includes(index) ? [{ uuid: volumeUuid(volume), sizeBytes }] : [],
    );
    const { world, network, options } = this;
    const place = { world, network, index, nodeCount: this.nodeCount, volumes: own };
    const { diskLatencyMaxUs } = this;
    return new ClusterNode({ ...place, bugs: options.bugs ?? {}, diskLatencyMaxUs });
  }

  after(us: number, action: () => void): void {
    this.world.after(us, action, { label: "campaign" });
  }

  // Nodes and owners ------------------------------------------------------------------------------

  crash(node: ClusterNode, kind: "process" | "power"): void {
    const { process } = node;
    if (process === null) return;
    this.note(node);
    node.crash(kind);
  }

  /** What a process has done, before it is forgotten. */
  private note(node: ClusterNode): void {
    const { process } = node;
    if (process === null) return;
    for (const { event } of process.reactor.entries) {
      this.events.set(event, (this.events.get(event) ?? 0) + 1);
    }
    for (const link of process.links.values()) {
      this.counts.connections += link.counters.connectionCount;
    }
    this.counts.resumes += process.server.sessionCounters.resumeCount;
    for (const owner of this.owners) {
      if (owner.process !== process) continue;
      this.counts.requests += owner.requestCount;
      this.counts.equalised += owner.owned.equalisedCount;
    }
  }

  alive(volume: ClusterVolume): ClusterOwner[] {
    return this.owners.filter((one) => one.volume === volume && one.isAlive);
  }

  /** A new owner of the volume on the node, unless there is one already, or nobody runs there. */
  takeOver(volume: ClusterVolume, node: ClusterNode): ClusterOwner | null {
    const { process } = node;
    if (process === null || !process.isReady || process.isPaused) return null;
    if (this.alive(volume).some((one) => one.process === process)) return null;
    const { bugs = {}, returnMs = RETURN_MS } = this.options;
    const capacityBytes = this.sizeBytes;
    const owner = new ClusterOwner({ process, volume, capacityBytes, returnMs, bugs });
    this.owners.push(owner);
    this.drive(owner);
    return owner;
  }

  /** A client that keeps a few requests in flight, as long as the owner lives. */
  private drive(owner: ClusterOwner): void {
    if (this.options.isIdle === true || this.isOver || !owner.isAlive) return;
    const { prng } = this;
    // Whoever is cut off soon waits with all its writes: it goes on reading.
    const isCutOff = this.faults.isIsolated(owner.process.node);
    if (owner.inflightCount < (isCutOff ? 16 : 8)) this.request(owner, isCutOff);
    // Now and then it is quiet so long that nobody notices a lost connection by a lost request.
    const longestUs = prng.chance(0.0008) ? 3_000_000 : prng.chance(0.005) ? 100_000 : 3000;
    this.after(prng.unit() * longestUs, () => this.drive(owner));
  }

  private request(owner: ClusterOwner, isRead: boolean): void {
    if (owner.process.isPaused) return;
    const { prng } = this;
    const block = prng.below(this.blocks);
    const most = prng.chance(0.1) ? 20 : 3;
    const bytes = Math.min(1 + prng.below(most), this.blocks - block) * BLOCK_BYTES;
    const at = block * BLOCK_BYTES;
    if (isRead || prng.chance(0.45)) owner.read(at, bytes);
    else if (prng.chance(0.9)) owner.write(at, bytes);
    else owner.zero(at, bytes, prng.chance(0.5));
  }

  // A run -----------------------------------------------------------------------------------------

  startNodes(): void {
    for (const node of this.nodes) node.start();
    const isReady = (): boolean => this.nodes.every(({ process }) => process?.isReady === true);
    this.world.runUntil(isReady, "the nodes");
    this.planner?.begin();
  }

  /** Everybody runs, and somebody owns each volume. */
  private begin(): void {
    this.startNodes();
    for (const volume of this.volumes) this.takeOver(volume, this.prng.pick(this.nodes));
  }

  run(): ClusterOutcome {
    this.begin();
    const { faults, pace, isRepairing } = this.options;
    const usual = isRepairing === true ? REPAIR_FAULTS : FAULTS;
    this.faults.begin(faults ?? usual, pace ?? this.prng.pick([1, 2, 4]));
    this.world.runFor((this.options.milliseconds ?? 10_000) * 1000);
    return this.finish();
  }

  /** The faults stop; everything must come right. */
  finish(): ClusterOutcome {
    this.isOver = true;
    this.settle();
    this.readEverything();
    const slabsCompared = this.compare();
    return this.outcome(slabsCompared);
  }

  /** Every volume is served, every member in sync, nothing under way. */
  private settle(): void {
    const untilUs = this.world.clock.nowUs() + SETTLE_US;
    const askedUs = new Map<ClusterVolume, number>();
    for (;;) {
      this.faults.heal();
      this.checkOwners();
      const waiting = this.volumes.filter((volume) => !this.isSettled(volume, askedUs));
      if (waiting.length === 0) return;
      if (this.world.clock.nowUs() > untilUs) this.fail("not settled in time");
      this.world.runFor(SETTLE_STEP_US);
    }
  }

  private isSettled(volume: ClusterVolume, askedUs: Map<ClusterVolume, number>): boolean {
    const nowUs = this.world.clock.nowUs();
    const owner = this.owners.find((one) => one.volume === volume && one.isServing);
    if (owner === undefined) {
      const isTrying = this.alive(volume).some((one) => one.owned.state === "taking-over");
      if (!isTrying && nowUs - (askedUs.get(volume) ?? -Infinity) > TAKEOVER_PAUSE_US) {
        if (this.takeOver(volume, this.prng.pick(this.nodes)) !== null) askedUs.set(volume, nowUs);
      }
      return false;
    }
    const { out, members } = volume.entry.record;
    const isPlanned = this.planner === null || this.planner.isDone(volume);
    const isWhole = isPlanned && out.length === 0 && owner.owned.inSync.length === members.length;
    if (!isWhole) owner.membersChanged();
    // Whoever owned it before has heard of its end, though nobody asked it for anything.
    const isAlone = this.alive(volume).length === 1;
    return isWhole && isAlone && owner.inflightCount === 0 && owner.owned.resyncProgress === null;
  }

  checkOwners(): void {
    const owner = this.owners.find((one) => one.isDeposedByNobody);
    if (owner !== undefined) this.fail(`${owner.process.name} has given up, deposed by nobody`);
  }

  private serving(volume: ClusterVolume): ClusterOwner {
    const owner = this.owners.find((one) => one.volume === volume && one.isServing);
    if (owner === undefined) this.fail(`nobody serves ${volume.uuid}`);
    return owner as ClusterOwner;
  }

  private readEverything(): void {
    for (const volume of this.volumes) {
      const owner = this.serving(volume);
      for (let round = 0; round < 2; round++) {
        const step = 8 * BLOCK_BYTES;
        for (let at = 0; at < this.sizeBytes; at += step) owner.read(at, step);
        const untilUs = this.world.clock.nowUs() + SETTLE_US;
        while (owner.inflightCount > 0) {
          if (this.world.clock.nowUs() > untilUs) this.fail("reads at the end do not end");
          this.world.runFor(SETTLE_STEP_US);
        }
      }
    }
  }

  private compare(): number {
    let compared = 0;
    for (const volume of this.volumes) {
      const owner = this.serving(volume);
      const { members } = volume.entry.record;
      const holders = this.nodes.filter(({ index }) => members.includes(diskUuid(index)));
      const slabCount = this.sizeBytes / 65536;
      const difference = compareCopies(this.world, holders, volume.uuid, owner, slabCount);
      if (difference !== null) this.fail(difference);
      compared += slabCount;
    }
    return compared;
  }

  // What is said of it ----------------------------------------------------------------------------

  fail(what: string): never {
    const records = this.volumes.map(({ entry }) => JSON.stringify(entry.record));
    const owners = this.owners
      .filter((one) => one.isAlive)
      .map((one) => {
        const { owned, process, inflightCount } = one;
        const { state, epoch, inSync } = owned;
        const disks = inSync.map((disk) => disk.slice(-1)).join(" ");
        return `${process.name} ${state} ${epoch}, in sync ${disks}, ${inflightCount} in flight`;
      });
    throw new ClusterFailure(`${what}; ${records.join("; ")}; ${owners.join("; ")}`);
  }

  /** What the processes that are left have logged last. */
  lastLines(count: number): string[] {
    return this.nodes.flatMap(({ process }) =>
      (process?.reactor.entries ?? []).slice(-count).map(({ timeUs, event, fields }) => {
        return `${process?.name} ${Math.round(timeUs / 1000)} ms: ${event} ${JSON.stringify(fields)}`;
      }),
    );
  }

  private outcome(slabsCompared: number): ClusterOutcome {
    for (const node of this.nodes) this.note(node);
    const count = (event: string): number => this.events.get(event) ?? 0;
    const { requests, connections, resumes, equalised } = this.counts;
    return {
      requests,
      takeovers: this.volumes.reduce((sum, { entry }) => sum + entry.record.epoch, 0),
      starts: this.nodes.reduce((sum, { startCount }) => sum + startCount, 0),
      connections,
      resumes,
      exclusions: count("member-put-out"),
      returns: count("resync-done"),
      equalised,
      slabsCompared,
      steps: this.world.stepCount,
      faults: Object.fromEntries(this.faults.counts),
      repairs: Object.fromEntries(this.planner?.counts ?? []),
    };
  }
}
