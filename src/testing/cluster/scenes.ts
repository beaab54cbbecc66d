// Scenes with a fixed course, for what chance finds too rarely. Each throws when a promise is broken;
// each hole that it is for is named beside it in planted-bugs.test.ts.

import type { ClusterBugs } from "./cluster-bugs.ts";
import type { ClusterOwner } from "./cluster-owner.ts";
import { ClusterSim } from "./cluster-sim.ts";
import type { ClusterVolume } from "./cluster-volume.ts";

const SECOND_US = 1_000_000;
const BLOCK_BYTES = 4096;
/** Of a small disk: behind ring, log and pages. */
const SLABS_FROM_BYTES = 1048576;

export type Scene = (seed: number, bugs?: ClusterBugs) => void;

/** One volume with copies on `members`, owned on the node `home`, with something written. */
function begin(
  seed: number,
  bugs: ClusterBugs,
  members: readonly number[],
  home: number,
): { readonly sim: ClusterSim; readonly volume: ClusterVolume; readonly owner: ClusterOwner } {
  const sim = new ClusterSim(seed, { isIdle: true, bugs, volumes: [members] });
  sim.startNodes();
  const [volume] = sim.volumes;
  // Until what an earlier life may have promised has passed.
  sim.world.runFor(3 * SECOND_US);
  const owner = takeOver(sim, volume, home);
  untilServing(sim, owner);
  owner.write(0, 20 * BLOCK_BYTES);
  sim.world.runFor(SECOND_US);
  return { sim, volume, owner };
}

function takeOver(sim: ClusterSim, volume: ClusterVolume, node: number): ClusterOwner {
  const owner = sim.takeOver(volume, sim.nodes[node]);
  if (owner === null) throw new Error(`node ${node} cannot take the volume over`);
  return owner;
}

function untilServing(sim: ClusterSim, owner: ClusterOwner): void {
  const isServing = (): boolean => owner.owned.state === "serving";
  sim.world.runUntil(isServing, `${owner.process.name} serves`);
}

/** The node gets an empty copy, which nobody counts yet. */
function keep(sim: ClusterSim, volume: ClusterVolume, node: number): void {
  let isKept = false;
  sim.nodes[node].process?.keep(volume.uuid, sim.sizeBytes, () => {
    isKept = true;
  });
  sim.world.runUntil(() => isKept, "a new copy");
}

function isolate(sim: ClusterSim, node: number): void {
  sim.cutOff.add(node);
  for (const other of [0, 1, 2]) {
    if (other === node) continue;
    sim.network.close(node, other);
    sim.network.close(other, node);
  }
}

function restart(sim: ClusterSim, node: number): void {
  sim.crash(sim.nodes[node], "process");
  sim.nodes[node].start();
  sim.world.runUntil(() => sim.nodes[node].process?.isReady === true, "the node");
}

/** `old` goes on reading while `successor` takes over and writes. */
function readOn(sim: ClusterSim, old: ClusterOwner, successor: ClusterOwner): void {
  let hasWritten = false;
  for (let round = 0; round < 200; round++) {
    if (old.isAlive) old.read(0, BLOCK_BYTES);
    if (!hasWritten && successor.owned.state === "serving") {
      hasWritten = true;
      successor.write(0, BLOCK_BYTES);
    }
    sim.world.runFor(SECOND_US / 50);
  }
}

/** Nobody reads or writes when the last member in sync starts anew: another one must still return. */
export const restartsUnnoticed: Scene = (seed, bugs = {}) => {
  const { sim, owner } = begin(seed, bugs, [1, 2], 0);
  sim.crash(sim.nodes[1], "process");
  owner.write(0, BLOCK_BYTES);
  sim.world.runFor(4 * SECOND_US);
  restart(sim, 2);
  sim.finish();
};

/** The owner is cut off with its copy; whoever has the other copy gave it grants. */
export const fencesItsOwnDisk: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 1);
  isolate(sim, 1);
  readOn(sim, owner, takeOver(sim, volume, 0));
  sim.finish();
};

/** The same, and the successor has no copy of its own. */
export const fencesFromElsewhere: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 1);
  isolate(sim, 1);
  readOn(sim, owner, takeOver(sim, volume, 2));
  sim.finish();
};

/** The same, and the node with the other copy starts anew in between. */
export const restartsUnderGrants: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 1);
  isolate(sim, 1);
  restart(sim, 0);
  readOn(sim, owner, takeOver(sim, volume, 0));
  sim.finish();
};

/** An owner that does nothing loses its only copy, on its own node, to one elsewhere. */
export const losesItsOwnDisk: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0], 0);
  const successor = takeOver(sim, volume, 1);
  untilServing(sim, successor);
  if (owner.isAlive) throw new Error("the owner was not told of its fence before it was answered");
  sim.finish();
};

/** The same, and the copy is on a third node. */
export const losesAnothersDisk: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [1], 0);
  untilServing(sim, takeOver(sim, volume, 2));
  sim.world.runFor(SECOND_US / 100);
  if (owner.isAlive) throw new Error("the owner was not told that it was fenced");
  sim.finish();
};

/** A daemon dies while it takes over and starts again: whom it waited for may still read. */
export const diesTakingOver: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1, 2], 0);
  isolate(sim, 0);
  takeOver(sim, volume, 1);
  sim.world.runFor(SECOND_US / 10);
  if (volume.entry.record.epoch !== owner.owned.epoch + 1) throw new Error("nothing was claimed");
  restart(sim, 1);
  readOn(sim, owner, takeOver(sim, volume, 1));
  sim.finish();
};

/** A daemon that starts again finds its own old name in the record, and another when it claims. */
export const overtakenAtStart: Scene = (seed, bugs = {}) => {
  const { sim, volume } = begin(seed, bugs, [0, 1, 2], 0);
  restart(sim, 0);
  sim.cutOff.add(0);
  const late = takeOver(sim, volume, 0);
  const between = takeOver(sim, volume, 1);
  untilServing(sim, between);
  between.write(0, BLOCK_BYTES);
  sim.world.runFor(SECOND_US);
  isolate(sim, 1);
  sim.cutOff.delete(0);
  readOn(sim, between, late);
  sim.finish();
};

/** A write reaches one copy, then its owner dies. */
export const diesAmongWrites: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 2);
  sim.network.close(2, 1);
  owner.write(0, BLOCK_BYTES);
  sim.world.runFor(SECOND_US / 10);
  sim.network.break(2, 1, true);
  sim.crash(sim.nodes[2], "process");
  sim.network.open(2, 1);
  untilServing(sim, takeOver(sim, volume, 1));
  sim.finish();
};

/** A member is gone and not yet put out when a write comes; then the other one is gone. */
export const losesTheOther: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 2);
  sim.network.close(2, 1);
  sim.network.break(2, 1, true);
  owner.write(0, BLOCK_BYTES);
  sim.world.runFor(SECOND_US / 5);
  sim.crash(sim.nodes[2], "process");
  isolate(sim, 0);
  const successor = takeOver(sim, volume, 1);
  untilServing(sim, successor);
  successor.read(0, BLOCK_BYTES);
  sim.finish();
};

/**
 * Of two writes to one slab the first has not reached the medium of one node when its power goes,
 * the second has: the slabs have one stamp and differ.
 */
export const losesTheFirst: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 2);
  const slow = { kind: "slow", on: "write", delayUs: SECOND_US, count: 1 } as const;
  sim.nodes[1].process?.disk.faults.add({ ...slow, fromBytes: SLABS_FROM_BYTES });
  owner.write(32 * BLOCK_BYTES, BLOCK_BYTES);
  sim.world.runFor(SECOND_US / 100);
  owner.write(33 * BLOCK_BYTES, BLOCK_BYTES);
  sim.world.runFor(SECOND_US / 10);
  sim.crash(sim.nodes[2], "process");
  sim.crash(sim.nodes[1], "power");
  sim.nodes[1].start();
  untilServing(sim, takeOver(sim, volume, 0));
  sim.finish();
};

/** Waits until `owner` has named the process that runs on `node`; returns when. */
function handOver(sim: ClusterSim, owner: ClusterOwner, node: number): number {
  let isDone = false;
  owner.handOver(sim.nodes[node].process?.name ?? "", () => {
    isDone = true;
  });
  sim.world.runUntil(() => isDone, "the volume is handed over");
  return sim.world.clock.nowUs();
}

/** Given by name there is nothing to wait for; who is named and dies before it takes is no loss. */
export const handsOver: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 0);
  owner.write(0, 20 * BLOCK_BYTES);
  const fromUs = handOver(sim, owner, 2);
  if (owner.inflightCount > 0) throw new Error("requests were left behind");
  const successor = takeOver(sim, volume, 2);
  untilServing(sim, successor);
  const tookUs = sim.world.clock.nowUs() - fromUs;
  if (tookUs > SECOND_US / 2) throw new Error(`it took ${tookUs} us to serve`);
  const { epoch, equalisedCount } = successor.owned;
  if (epoch !== 2 || equalisedCount > 0) throw new Error(`epoch ${epoch}, ${equalisedCount} slabs`);
  successor.write(0, 20 * BLOCK_BYTES);
  sim.world.runFor(SECOND_US);
  handOver(sim, successor, 1);
  restart(sim, 1);
  untilServing(sim, takeOver(sim, volume, 1));
  sim.finish();
};

/** An owner that is to hand over dies while a write has reached one copy and not the other. */
export const handsOverAmongWrites: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 2);
  sim.network.close(2, 1);
  owner.write(0, 20 * BLOCK_BYTES);
  sim.world.runFor(SECOND_US / 50);
  owner.handOver(sim.nodes[0].process?.name ?? "", () => {});
  sim.world.runFor(SECOND_US / 5);
  sim.crash(sim.nodes[2], "process");
  untilServing(sim, takeOver(sim, volume, 0));
  sim.finish();
};

/** A copy is given to another node while the volume is in use, and an old one taken away after it. */
export const moves: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 0);
  const [, old, fresh] = sim.nodes;
  keep(sim, volume, 2);
  if (volume.plan(fresh.disk) !== "added") throw new Error("the new copy was not added");
  owner.membersChanged();
  owner.write(0, BLOCK_BYTES);
  sim.world.runFor(3 * SECOND_US);
  if (!owner.owned.inSync.includes(fresh.disk)) throw new Error("the new copy is not in sync");
  sim.crash(old, "process");
  owner.write(0, BLOCK_BYTES);
  sim.world.runFor(3 * SECOND_US);
  if (volume.plan(old.disk) !== "removed") throw new Error("the old copy was not out");
  owner.membersChanged();
  sim.world.runFor(SECOND_US);
  const disks = owner.owned.inSync.join(" ");
  if (disks !== `${sim.nodes[0].disk} ${fresh.disk}`) throw new Error(`in sync are ${disks}`);
  sim.finish();
};

/** A member is to be put out, nobody hears of it, and a disk is added at the same time. */
export const plannedMeanwhile: Scene = (seed, bugs = {}) => {
  const { sim, volume, owner } = begin(seed, bugs, [0, 1], 2);
  keep(sim, volume, 2);
  volume.slipChance = 0;
  sim.crash(sim.nodes[1], "process");
  sim.cutOff.add(2);
  owner.write(0, BLOCK_BYTES);
  sim.world.runFor(3 * SECOND_US);
  volume.plan(sim.nodes[2].disk);
  sim.cutOff.delete(2);
  sim.world.runFor(SECOND_US / 4);
  // Whatever the owner has made of it: what is answered survives the loss of one node.
  sim.crash(sim.nodes[2], "process");
  isolate(sim, 0);
  sim.nodes[1].start();
  sim.world.runUntil(() => sim.nodes[1].process?.isReady === true, "the node");
  const successor = takeOver(sim, volume, 1);
  sim.world.runFor(5 * SECOND_US);
  if (successor.owned.state === "serving") successor.read(0, BLOCK_BYTES);
  sim.world.runFor(SECOND_US);
  sim.finish();
};
