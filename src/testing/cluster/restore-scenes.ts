// Metadata that goes back to what it once was, as from a backup, with a fixed course. Throws when a
// promise is broken, like scenes.ts.

import type { ClusterBugs } from "./cluster-bugs.ts";
import type { ClusterOwner } from "./cluster-owner.ts";
import { ClusterSim } from "./cluster-sim.ts";
import type { Scene } from "./scenes.ts";

const SECOND_US = 1_000_000;
const BLOCK_BYTES = 4096;
/** Longer than sessions and grants outlive their owners. */
const FORGOTTEN_US: number = 70 * SECOND_US;

class Stage {
  readonly sim: ClusterSim;

  /** One volume with copies on the nodes 0 and 1. */
  constructor(seed: number, bugs: ClusterBugs) {
    this.sim = new ClusterSim(seed, { isIdle: true, bugs, volumes: [[0, 1]] });
    this.sim.startNodes();
    this.sim.world.runFor(3 * SECOND_US);
  }

  takeOver(node: number): ClusterOwner {
    const owner = this.sim.takeOver(this.sim.volumes[0], this.sim.nodes[node]);
    if (owner === null) throw new Error(`node ${node} cannot take the volume over`);
    return owner;
  }

  /** Until it serves, and has written so many blocks, one after another. */
  writes(owner: ClusterOwner, blocks: number): void {
    const { world } = this.sim;
    world.runUntil(() => owner.owned.state === "serving", `${owner.process.name} serves`);
    for (let block = 0; block < blocks; block++) {
      owner.write(block * BLOCK_BYTES, BLOCK_BYTES);
      world.runUntil(() => owner.inflightCount === 0, "a write");
    }
    world.runFor(SECOND_US);
  }

  /** One of its writes reaches one copy, then its node starts anew. */
  diesAmongWrites(owner: ClusterOwner): void {
    const { sim } = this;
    const { node } = owner.process;
    sim.network.close(node, 1);
    owner.write(0, BLOCK_BYTES);
    sim.world.runFor(SECOND_US / 10);
    sim.network.break(node, 1, true);
    sim.crash(sim.nodes[node], "process");
    sim.network.open(node, 1);
    sim.nodes[node].start();
    sim.world.runFor(FORGOTTEN_US);
  }

  /** What the record is now is put back later, as another change of it. */
  backup(): () => void {
    const { store } = this.sim.volumes[0];
    const { record } = store.entry;
    return () => {
      store.entry = { record, revision: store.entry.revision + 10 };
    };
  }
}

/** The backup says that nobody has written in the epoch that was handed over. Somebody has. */
export const goesBackToHandOver: Scene = (seed, bugs = {}) => {
  const stage = new Stage(seed, bugs);
  const { sim } = stage;
  const first = stage.takeOver(0);
  stage.writes(first, 20);
  let isGiven = false;
  first.handOver(sim.nodes[2].process?.name ?? "", () => {
    isGiven = true;
  });
  sim.world.runUntil(() => isGiven, "the volume is handed over");
  const putBack = stage.backup();
  const second = stage.takeOver(2);
  stage.writes(second, 2);
  stage.diesAmongWrites(second);
  putBack();
  stage.writes(stage.takeOver(0), 0);
  sim.finish();
};

/** The backup has forgotten an epoch: the next owner asks for it again, and is refused. */
export const goesBackAnEpoch: Scene = (seed, bugs = {}) => {
  const stage = new Stage(seed, bugs);
  const { sim } = stage;
  stage.writes(stage.takeOver(0), 1);
  const putBack = stage.backup();
  const second = stage.takeOver(2);
  stage.writes(second, 40);
  stage.diesAmongWrites(second);
  putBack();
  const third = stage.takeOver(2);
  sim.world.runFor(2 * SECOND_US);
  if (third.isServing) {
    stage.writes(third, 1);
    stage.diesAmongWrites(third);
  }
  // The record has gone on: this epoch is above all that there were.
  stage.writes(stage.takeOver(0), 0);
  sim.finish();
};
