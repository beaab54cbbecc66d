// Nodes that are lost for good, and nodes that are emptied, with a fixed course: the planner brings the
// copies elsewhere. Throws when a promise is broken, like scenes.ts.

import type { ClusterBugs } from "./cluster-bugs.ts";
import type { ClusterOwner } from "./cluster-owner.ts";
import type { PlannedRecord } from "./cluster-plan-records.ts";
import { ClusterSim } from "./cluster-sim.ts";
import type { ClusterVolume } from "./cluster-volume.ts";
import type { Scene } from "./scenes.ts";

const SECOND_US = 1_000_000;
const SLAB_BYTES = 65536;
const SLABS = 8;
/** Slow enough for something to happen before a copy is whole. */
const SLOW_RATE: number = SLAB_BYTES;

interface Stage {
  readonly sim: ClusterSim;
  readonly volume: ClusterVolume;
  readonly owner: ClusterOwner;
}

/** Copies on the first two of five nodes, owned on `home`, all of it written. */
function begin(seed: number, bugs: ClusterBugs, home = 0): Stage {
  const sim = new ClusterSim(seed, { isIdle: true, isRepairing: true, bugs, volumes: [[0, 1]] });
  sim.startNodes();
  const [volume] = sim.volumes;
  sim.world.runFor(3 * SECOND_US);
  const owner = takeOver(sim, volume, home);
  for (let slab = 0; slab < SLABS; slab++) owner.write(slab * SLAB_BYTES, SLAB_BYTES);
  sim.world.runFor(SECOND_US);
  return { sim, volume, owner };
}

function takeOver(sim: ClusterSim, volume: ClusterVolume, node: number): ClusterOwner {
  const owner = sim.takeOver(volume, sim.nodes[node]);
  if (owner === null) throw new Error(`node ${node} cannot take the volume over`);
  const isServing = (): boolean => owner.owned.state === "serving";
  sim.world.runUntil(isServing, `${owner.process.name} serves`);
  return owner;
}

/** Runs until it is so, while somebody writes; `seen` looks at every moment in between. */
function writeUntil(
  { sim, volume }: Stage,
  isSo: () => boolean,
  what: string,
  seen: () => void = () => {},
): void {
  const untilUs = sim.world.clock.nowUs() + 60 * SECOND_US;
  for (let round = 0; !isSo(); round++) {
    if (sim.world.clock.nowUs() > untilUs) sim.fail(`it has not come to ${what}`);
    const owner = sim.owners.find((one) => one.volume === volume && one.isServing);
    if (owner !== undefined && owner.inflightCount < 4) {
      owner.write((round % SLABS) * SLAB_BYTES, 4096);
      owner.read(((round + 3) % SLABS) * SLAB_BYTES, 4096);
    }
    sim.world.runFor(SECOND_US / 20);
    seen();
  }
}

function recordOf({ volume }: Stage): PlannedRecord {
  return volume.entry.record as PlannedRecord;
}

/** Where a copy is being made, other than `before`. */
function untilPlanned(stage: Stage, before: number): number {
  const place = (): number =>
    stage.sim.nodes.findIndex(({ disk }) => disk === recordOf(stage).replacement?.to);
  const isSo = (): boolean => place() !== -1 && place() !== before;
  writeUntil(stage, isSo, "a new copy");
  return place();
}

/** The copies are in sync, two of them, and none on those nodes. */
function untilWhole(stage: Stage, without: readonly number[]): void {
  const { sim } = stage;
  const gone = without.map((node) => sim.nodes[node].disk);
  const isSo = (): boolean => {
    const { members, out, replacement } = recordOf(stage);
    const isWhole = members.length === 2 && out.length === 0 && replacement === undefined;
    return isWhole && members.every((disk) => !gone.includes(disk));
  };
  writeUntil(stage, isSo, "two copies");
}

/**
 * A node is lost for good; then the one that is to take its copy, in the middle of it; then the
 * owner dies while the third one copies.
 */
export const losesMore: Scene = (seed, bugs = {}) => {
  const stage = begin(seed, bugs);
  const { sim, volume, owner } = stage;
  owner.process.background.pace.setLimit(SLOW_RATE);
  sim.planner?.lose(sim.nodes[1]);
  const first = untilPlanned(stage, -1);
  sim.world.runFor(2 * SECOND_US);
  sim.planner?.lose(sim.nodes[first]);
  const second = untilPlanned(stage, first);
  sim.world.runFor(SECOND_US);
  const home = [2, 3, 4].find((node) => node !== first && node !== second) as number;
  sim.crash(sim.nodes[0], "process");
  sim.nodes[0].start();
  sim.world.runUntil(() => sim.nodes[0].process?.isReady === true, "the node");
  takeOver(sim, volume, home);
  untilWhole(stage, [1, first]);
  sim.finish();
  if (sim.planner?.counts.get("found") !== undefined) throw new Error("a lost node was needed");
};

/** A node is emptied while its copy is in use: as many copies count all the time. */
export const emptied: Scene = (seed, bugs = {}) => {
  const stage = begin(seed, bugs);
  const { sim } = stage;
  sim.planner?.drain(sim.nodes[1], 60 * SECOND_US);
  const isGone = (): boolean => !recordOf(stage).members.includes(sim.nodes[1].disk);
  writeUntil(stage, isGone, "an empty node", () => {
    const { members, out } = recordOf(stage);
    const count = members.length - out.length;
    if (count < 2) throw new Error(`${count} copies count while a node is emptied`);
  });
  untilWhole(stage, [1]);
  sim.finish();
};

/** A node comes back before the copy that was to replace its own is whole: that one is dropped. */
export const comesBack: Scene = (seed, bugs = {}) => {
  const stage = begin(seed, bugs);
  const { sim, owner } = stage;
  sim.crash(sim.nodes[1], "process");
  owner.process.background.pace.setLimit(SLOW_RATE);
  const fresh = untilPlanned(stage, -1);
  sim.nodes[1].start();
  owner.process.background.pace.setLimit(null);
  untilWhole(stage, []);
  sim.finish();
  const members = recordOf(stage).members.length;
  const { counts } = sim.planner ?? { counts: new Map<string, number>() };
  const ends = (counts.get("drop") ?? 0) + (counts.get("finish") ?? 0);
  if (members !== 2 || ends !== 1) throw new Error(`${members} copies, ${ends} ends, on ${fresh}`);
};

/** A step of a plan is on its way for so long that a copy is put out meanwhile. */
export const plannedTooLate: Scene = (seed, bugs = {}) => {
  const stage = begin(seed, bugs, 2);
  const { sim } = stage;
  const { planner } = sim;
  if (planner === null) throw new Error("nobody plans");
  const usualUs = planner.stepUs;
  planner.stepUs = 3 * SECOND_US;
  planner.drain(sim.nodes[1], 60 * SECOND_US);
  sim.world.runFor(SECOND_US);
  const gone = sim.nodes[planner.leadingNode === 1 ? 0 : 1];
  sim.crash(gone, "process");
  const isOut = (): boolean => recordOf(stage).out.some(({ disk }) => disk === gone.disk);
  writeUntil(stage, isOut, "a copy that is out");
  if ((planner.counts.get("begin") ?? 0) > 0) throw new Error("the step was not late");
  planner.stepUs = usualUs;
  const isRefused = (): boolean => (planner.counts.get("refused") ?? 0) > 0;
  writeUntil(stage, isRefused, "a step that is refused");
  gone.start();
  untilWhole(stage, [1]);
  sim.finish();
};
