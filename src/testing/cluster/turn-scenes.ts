// Several volumes of one node have lost a copy with the same other node, which comes back: who is
// brought up to date first. Throws when a promise is broken, like scenes.ts.

import type { ClusterBugs } from "./cluster-bugs.ts";
import { TURNS } from "./cluster-node.ts";
import type { ClusterOwner } from "./cluster-owner.ts";
import { ClusterSim } from "./cluster-sim.ts";

const SECOND_US = 1_000_000;
const SLAB_BYTES = 65536;
const SLABS = 4;
/** More than may copy at once. */
const SAFE_VOLUMES = 3;
const RATE = 4 * SLAB_BYTES;

/** Many volumes with three copies, and the last one with two: the one that is endangered. */
export function mostEndangeredFirst(seed: number, bugs: ClusterBugs = {}): void {
  const volumes = Array.from({ length: SAFE_VOLUMES }, () => [0, 1, 2]);
  volumes.push([0, 1]);
  const sizeBlocks = (SLABS * SLAB_BYTES) / 4096;
  const sim = new ClusterSim(seed, { isIdle: true, bugs, volumes, sizeBlocks });
  sim.startNodes();
  sim.world.runFor(3 * SECOND_US);
  const owners = sim.volumes.map((volume) => sim.takeOver(volume, sim.nodes[0]) as ClusterOwner);
  sim.world.runUntil(() => owners.every(({ owned }) => owned.state === "serving"), "the owners");
  const endangered = owners.at(-1) as ClusterOwner;
  sim.crash(sim.nodes[1], "process");
  for (let slab = 0; slab < SLABS; slab++) {
    for (const owner of owners) owner.write(slab * SLAB_BYTES, SLAB_BYTES);
    sim.world.runFor(SECOND_US);
  }
  const outCount = (): number =>
    sim.volumes.filter(({ entry }) => entry.record.out.length > 0).length;
  if (outCount() < volumes.length) throw new Error("not all copies there are out");
  const { pace, turns } = endangered.process.background;
  pace.setLimit(RATE);
  sim.nodes[1].start();
  sim.world.runUntil(() => outCount() < volumes.length, "the first copy that is back");
  const { record } = endangered.volume.entry;
  if (record.out.length > 0) throw new Error("a volume with two copies went before one with one");
  const untilUs = sim.world.clock.nowUs() + 60 * SECOND_US;
  let most = 0;
  while (outCount() > 0) {
    if (sim.world.clock.nowUs() > untilUs) throw new Error("a copy does not come back");
    sim.world.runFor(SECOND_US / 20);
    most = Math.max(most, turns["holding"].size);
  }
  if (most > TURNS) throw new Error(`${most} volumes copied at once`);
  const wanted = volumes.length * SLABS * SLAB_BYTES;
  if (pace.movedBytes !== wanted) throw new Error(`${pace.movedBytes} bytes moved, not ${wanted}`);
  pace.setLimit(null);
  sim.finish();
}
