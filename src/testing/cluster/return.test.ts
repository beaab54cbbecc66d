// A node that is just back, and what others do meanwhile: it answers for its disk only when that is
// open, which may take seconds, and is gone again before that. Real owners, links and stores.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { ReplicaFailure } from "../../ports/index.ts";
import type { ClusterNode, NodeProcess } from "./cluster-node.ts";
import type { ClusterOwner } from "./cluster-owner.ts";
import { type ClusterOptions, ClusterSim } from "./cluster-sim.ts";

const SECOND_US = 1_000_000;
const SLAB_BYTES = 65536;
const SLABS = 32;

const NOT_OPEN: ReplicaFailure = { code: "unknown-volume", message: "the disk is not open yet" };

/** Its process runs and is connected, its disk is not open until the returned function is called. */
function startWithClosedDisk(sim: ClusterSim, node: ClusterNode): () => void {
  node.start();
  const process = node.process as NodeProcess;
  const open = process.openReplica.bind(process);
  process.openReplica = () => NOT_OPEN;
  sim.world.runUntil(() => process.isReady, "the node");
  return () => {
    process.openReplica = open;
  };
}

class Scene {
  readonly sim: ClusterSim;
  readonly owner: ClusterOwner;

  /** Two copies, on nodes 0 and 1; owned by node 0, every slab written. */
  constructor(seed: number, options: ClusterOptions = {}) {
    const sizeBlocks = (SLABS * SLAB_BYTES) / 4096;
    this.sim = new ClusterSim(seed, { isIdle: true, volumes: [[0, 1]], sizeBlocks, ...options });
    this.sim.startNodes();
    this.sim.world.runFor(3 * SECOND_US);
    this.owner = this.takeOver(0);
    this.served(this.owner);
    for (let slab = 0; slab < SLABS; slab++) this.write(slab);
    this.sim.world.runFor(SECOND_US);
  }

  takeOver(node: number): ClusterOwner {
    const { sim } = this;
    return sim.takeOver(sim.volumes[0], sim.nodes[node]) as ClusterOwner;
  }

  /** Returns how long it took, in milliseconds. */
  served(owner: ClusterOwner): number {
    const { world } = this.sim;
    const sinceUs = world.clock.nowUs();
    world.runUntil(() => owner.owned.state === "serving", "the owner");
    return (world.clock.nowUs() - sinceUs) / 1000;
  }

  write(slab: number, owner: ClusterOwner = this.owner): void {
    owner.write(slab * SLAB_BYTES, SLAB_BYTES);
    this.sim.world.runFor(SECOND_US / 20);
  }

  isWhole(owner: ClusterOwner = this.owner): boolean {
    return owner.owned.inSync.length === 2;
  }

  /** Lines about bringing members back, of the owner's process. */
  lines(owner: ClusterOwner = this.owner): string[] {
    return owner.process.reactor.entries
      .filter(({ event }) => event.startsWith("resync-"))
      .map(({ event, fields }) => {
        const reason = fields?.["reason"];
        return reason === undefined ? event : `${event}: ${reason}`;
      });
  }
}

test("a takeover does not wait for the disk of a node that is just back", (t) => {
  for (const seed of [1, 2, 3]) {
    const scene = new Scene(seed);
    const { sim } = scene;
    sim.crash(sim.nodes[0], "process");
    const owner = scene.takeOver(1);
    const open = startWithClosedDisk(sim, sim.nodes[0]);
    const ms = scene.served(owner);
    t.diagnostic(`seed ${seed}: served after ${Math.round(ms)} ms`);
    // What the owner before was granted ends in 2 s.
    assert.ok(ms < 2500, `${ms} ms`);
    scene.write(3, owner);
    sim.world.runFor(3 * SECOND_US);
    assert.ok(!scene.isWhole(owner), "its copy is not there");
    open();
    sim.world.runUntil(() => scene.isWhole(owner), "the copy is back");
    sim.finish();
  }
});

test("it waits for a node whose disk answers late", () => {
  const scene = new Scene(4);
  const { sim } = scene;
  const other = sim.nodes[1].process as NodeProcess;
  sim.crash(sim.nodes[0], "process");
  sim.nodes[0].start();
  sim.world.runUntil(() => sim.nodes[0].process?.isReady === true, "the node");
  // Both are alive; the other one's disk has something to do first.
  const { store } = other;
  const openReplica = store.openReplica.bind(store);
  store.openReplica = (...args) => {
    const replica = openReplica(...args);
    const fence = replica.fence.bind(replica);
    replica.fence = (epoch, done, metadata) => {
      fence(epoch, (answer) => void sim.after(4 * SECOND_US, () => done(answer)), metadata);
    };
    return replica;
  };
  sim.world.runFor(SECOND_US);
  const owner = scene.takeOver(0);
  assert.ok(scene.served(owner) > 3900);
  assert.ok(scene.isWhole(owner), "nobody was put out");
  sim.finish();
});

test("a resync whose member comes and goes says each thing once, and loses no work", (t) => {
  const scene = new Scene(5);
  const { sim, owner } = scene;
  const other = sim.nodes[1];
  const { pace } = owner.process.background;
  sim.crash(other, "process");
  for (let slab = 0; slab < SLABS / 2; slab++) scene.write(slab);
  sim.world.runFor(4 * SECOND_US);
  assert.equal(owner.owned.inSync.length, 1);
  assert.deepEqual(scene.lines(), [], "nobody is asked who cannot be reached");

  pace.setLimit(4 * SLAB_BYTES);
  const copied = (): number => owner.owned.resyncProgress?.copiedBytes ?? 0;
  other.start();
  sim.world.runUntil(() => copied() >= 6 * SLAB_BYTES, "some of it is copied");
  sim.crash(other, "process");
  sim.world.runFor(60 * SECOND_US);
  const cut = ["resync-started", "resync-given-up"];
  const heads = (): string[] => scene.lines().map((line) => line.split(":")[0] as string);
  assert.deepEqual(heads(), cut);

  // It is there for a minute, and its disk is not.
  const open = startWithClosedDisk(sim, other);
  sim.world.runFor(60 * SECOND_US);
  const waits = "resync-waits: unknown-volume";
  assert.deepEqual(scene.lines().slice(2), [waits]);
  open();
  sim.world.runUntil(() => scene.isWhole(), "the copy comes back");
  assert.deepEqual(heads(), [...cut, "resync-waits", "resync-started", "resync-done"]);
  const movedSlabs = pace.movedBytes / SLAB_BYTES;
  t.diagnostic(`${SLABS / 2} slabs were written, ${movedSlabs} moved`);
  // Those that were on their way when it went, twice.
  assert.ok(movedSlabs <= SLABS / 2 + 4, `${movedSlabs}`);
  sim.finish();
});

test("a copy is brought back as soon as its disk is open", () => {
  // Of the longest pause between two attempts nothing is waited for.
  const scene = new Scene(7, { returnMs: 10_000 });
  const { sim } = scene;
  const other = sim.nodes[1];
  sim.crash(other, "process");
  scene.write(1);
  sim.world.runFor(30 * SECOND_US);
  const open = startWithClosedDisk(sim, other);
  sim.world.runFor(SECOND_US / 5);
  open();
  const sinceUs = sim.world.clock.nowUs();
  sim.world.runUntil(() => scene.isWhole(), "the copy comes back");
  assert.ok(sim.world.clock.nowUs() - sinceUs < SECOND_US);
  sim.finish();
});
