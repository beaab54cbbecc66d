// Scenes with a fixed course, for what chance finds too rarely. Each throws when a promise is broken.

import type { OwnerBugs } from "../../volume/index.ts";
import { ReplicatedSim } from "./replicated-sim.ts";
import { BLOCK_BYTES, type NodeBugs } from "./sim-node.ts";
import type { SimProcess } from "./sim-process.ts";

const SECOND_US = 1_000_000;

interface SceneBugs {
  readonly owner?: OwnerBugs;
  readonly node?: Partial<NodeBugs>;
}

export type Scene = (seed: number, bugs?: SceneBugs) => void;

function begin(seed: number, bugs: SceneBugs): [ReplicatedSim, SimProcess] {
  const sim = new ReplicatedSim(seed, { isIdle: true, ...bugs });
  const owner = sim.startOwner(0);
  sim.watch();
  untilServing(sim, owner);
  owner.client.write(0, 4 * BLOCK_BYTES);
  sim.scheduler.runFor(SECOND_US);
  // Takes the watermark along: what is in the first slab is known to be everywhere.
  owner.client.write(16 * BLOCK_BYTES, BLOCK_BYTES);
  sim.scheduler.runFor(SECOND_US);
  return [sim, owner];
}

function untilServing(sim: ReplicatedSim, owner: SimProcess): void {
  sim.scheduler.runUntil(() => owner.volume.state === "serving", `${owner.name} serves`);
}

function cutOff(process: SimProcess, index: number, isUp = false): void {
  process.links[index].isForwardUp = isUp;
  process.links[index].isBackwardUp = isUp;
  if (!isUp) process.links[index].breakAll();
}

/** A write reaches one member, its owner dies, that member is away at the takeover, and returns. */
export const returnsWithMore: Scene = (seed, bugs = {}) => {
  const [sim, owner] = begin(seed, bugs);
  cutOff(owner, 1);
  cutOff(owner, 2);
  owner.client.write(0, BLOCK_BYTES);
  sim.scheduler.runFor(SECOND_US / 5);
  owner.crash();
  const successor = sim.startOwner(1);
  cutOff(successor, 0);
  untilServing(sim, successor);
  successor.client.read(0, BLOCK_BYTES);
  sim.scheduler.runFor(SECOND_US);
  cutOff(successor, 0, true);
  sim.finish();
};

/** A member returns while writes are under way that the others have not made durable yet. */
export const returnsAmongWrites: Scene = (seed, bugs = {}) => {
  const [sim, owner] = begin(seed, bugs);
  cutOff(owner, 2);
  owner.client.write(BLOCK_BYTES, BLOCK_BYTES);
  sim.scheduler.runFor(4 * SECOND_US);
  const [first, second] = sim.nodes;
  for (const node of [first, second]) node.slow = { chance: 1, longestUs: 1.5 * SECOND_US };
  for (const block of [8, 20, 40, 56]) owner.client.write(block * BLOCK_BYTES, BLOCK_BYTES);
  cutOff(owner, 2, true);
  sim.scheduler.runFor(2 * SECOND_US);
  for (const node of [first, second]) node.slow = { chance: 0, longestUs: 1 };
  sim.finish();
};

const SLABS = 4;
const SLAB_BYTES = 16 * BLOCK_BYTES;

function writeEverySlab(owner: SimProcess, block: number): void {
  for (let slab = 0; slab < SLABS; slab++) {
    owner.client.write(slab * SLAB_BYTES + block * BLOCK_BYTES, BLOCK_BYTES);
  }
}

/** What the resync that began last had not to copy. */
function keptSlabs({ reactor }: SimProcess): number {
  const started = reactor.entries.filter(({ event }) => event === "resync-started");
  return Number(started.at(-1)?.fields?.["keptSlabs"] ?? 0);
}

/**
 * A member is cut off in the middle of its resync, with writes on their way to slabs that it has got
 * already; `isWritten`: and more when it has been given up. Then it returns.
 */
function cutShort(seed: number, bugs: SceneBugs, isWritten: boolean): void {
  const [sim, owner] = begin(seed, bugs);
  // Only a test looks inside: so slow that it can be caught in the middle.
  owner.volume["parts"].background.pace.setLimit(SLAB_BYTES);
  cutOff(owner, 2);
  writeEverySlab(owner, 1);
  sim.scheduler.runFor(4 * SECOND_US);
  cutOff(owner, 2, true);
  const copied = (): number => owner.volume.resyncProgress?.copiedBytes ?? 0;
  sim.scheduler.runUntil(() => copied() >= 2 * SLAB_BYTES, "half of it is copied");
  owner.links[2].isForwardUp = false;
  writeEverySlab(owner, 2);
  sim.scheduler.runUntil(() => owner.volume.resyncProgress === null, "it is given up");
  if (isWritten) writeEverySlab(owner, 3);
  sim.scheduler.runFor(SECOND_US);
  cutOff(owner, 2, true);
  sim.scheduler.runUntil(() => owner.volume.inSync.length === 3, "it is in sync");
  if (keptSlabs(owner) < 2) throw new Error("nothing was kept of the resync before");
  sim.finish();
}

export const cutShortAmongWrites: Scene = (seed, bugs = {}) => cutShort(seed, bugs, false);
export const cutShortThenWritten: Scene = (seed, bugs = {}) => cutShort(seed, bugs, true);

/** Members restart while their grants are in use, and another owner takes over through them. */
export const restartsUnderGrants: Scene = (seed, bugs = {}) => {
  const [sim, owner] = begin(seed, bugs);
  cutOff(owner, 1);
  cutOff(owner, 2);
  for (const node of sim.nodes.slice(1)) {
    node.crash();
    node.restart();
  }
  const successor = sim.startOwner(1);
  cutOff(successor, 0);
  successor.client.write(0, BLOCK_BYTES);
  for (let round = 0; round < 60; round++) {
    owner.client.read(0, BLOCK_BYTES);
    sim.scheduler.runFor(SECOND_US / 20);
  }
  sim.finish();
};

/** A read while a write is under way to it, whose owner then dies: it must not show what is lost. */
export const readsAhead: Scene = (seed, bugs = {}) => {
  const [sim, owner] = begin(seed, bugs);
  cutOff(owner, 1);
  cutOff(owner, 2);
  owner.client.write(0, BLOCK_BYTES);
  // Long enough for the nearest member to have it.
  sim.scheduler.runFor(SECOND_US / 10);
  owner.client.read(0, BLOCK_BYTES);
  sim.scheduler.runFor(SECOND_US / 10);
  owner.crash();
  const successor = sim.startOwner(1);
  cutOff(successor, 0);
  untilServing(sim, successor);
  successor.client.read(0, BLOCK_BYTES);
  sim.scheduler.runFor(SECOND_US);
  sim.finish();
};

/** A disk that is full answers each fence and refuses each write: its member is put out. */
export const fullMember: Scene = (seed, bugs = {}) => {
  const [sim, owner] = begin(seed, bugs);
  sim.nodes[2].isFull = true;
  owner.client.write(BLOCK_BYTES, BLOCK_BYTES);
  sim.scheduler.runFor(5 * SECOND_US);
  if (owner.client.inflightCount !== 0) throw new Error("a write waits for a disk that is full");
  sim.nodes[2].isFull = false;
  sim.finish();
};

/** A damaged block is read from another member, and made good. */
export const damagedBlock: Scene = (seed, bugs = {}) => {
  const [sim, owner] = begin(seed, bugs);
  sim.nodes[0].damage(1);
  owner.client.read(0, 4 * BLOCK_BYTES);
  sim.scheduler.runFor(SECOND_US);
  if (owner.volume.repairedCount !== 1) throw new Error("the damaged slab was not repaired");
  const blocks = sim.nodes[0].damagedCount;
  if (blocks !== 0) throw new Error(`${blocks} blocks are still damaged`);
  sim.finish();
};

/** A clean end: the next owner has nothing to equalise but what the last message did not say. */
export const handOver: Scene = (seed, bugs = {}) => {
  const [sim, owner] = begin(seed, bugs);
  let isDrained = false;
  owner.client.write(0, 20 * BLOCK_BYTES);
  owner.volume.drain(() => {
    isDrained = true;
  });
  sim.scheduler.runUntil(() => isDrained, "the owner is drained");
  if (owner.client.inflightCount !== 0) throw new Error("requests were left behind");
  const { record } = sim.store.entry;
  if (record.state !== "clean") throw new Error(`the record says ${record.state}`);
  const successor = sim.startOwner(1);
  untilServing(sim, successor);
  sim.finish();
};
