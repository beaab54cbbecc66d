// A copy that was away for a minute, under load: its resync moves the slabs that were written
// meanwhile, and no others. On real stores; bytes are those that the owner counts.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { ClusterOwner } from "./cluster-owner.ts";
import { ClusterSim } from "./cluster-sim.ts";

const SECOND_US = 1_000_000;
const BLOCK_BYTES = 4096;
const SLAB_BYTES = 65536;
const SLABS = 32;
const AWAY_SECONDS = 60;

class Absence {
  readonly sim: ClusterSim;
  readonly owner: ClusterOwner;

  constructor(seed: number) {
    const sizeBlocks = (SLABS * SLAB_BYTES) / BLOCK_BYTES;
    this.sim = new ClusterSim(seed, { isIdle: true, volumes: [[0, 1]], sizeBlocks });
    const { sim } = this;
    sim.startNodes();
    sim.world.runFor(3 * SECOND_US);
    this.owner = sim.takeOver(sim.volumes[0], sim.nodes[0]) as ClusterOwner;
    sim.world.runUntil(() => this.owner.owned.state === "serving", "the owner");
    for (let slab = 0; slab < SLABS; slab++) {
      this.owner.write(slab * SLAB_BYTES, SLAB_BYTES);
      sim.world.runFor(SECOND_US / 20);
    }
    // The last answer is told by the write after it.
    this.write(0);
    this.write(0);
    sim.world.runFor(SECOND_US);
  }

  write(slab: number): void {
    const block = this.sim.prng.below(SLAB_BYTES / BLOCK_BYTES);
    this.owner.write(slab * SLAB_BYTES + block * BLOCK_BYTES, BLOCK_BYTES);
    this.sim.world.runFor(SECOND_US / 10);
  }

  /** Writes to slabs from `first` on while `isWanted`; which ones. */
  load(first: number, count: number, isWanted: () => boolean): Set<number> {
    const written = new Set<number>();
    while (isWanted()) {
      const slab = first + this.sim.prng.below(count);
      written.add(slab);
      this.write(slab);
    }
    return written;
  }

  /** The other copy is killed, and is away for a minute of load. */
  away(first: number, count: number): Set<number> {
    const { sim } = this;
    const [, other] = sim.nodes;
    sim.crash(other, "process");
    const untilUs = sim.world.clock.nowUs() + AWAY_SECONDS * SECOND_US;
    const written = this.load(first, count, () => sim.world.clock.nowUs() < untilUs);
    assert.ok(!this.owner.owned.inSync.includes(other.disk));
    other.start();
    return written;
  }

  get isWhole(): boolean {
    return this.owner.owned.inSync.length === 2;
  }

  /** What the resync that came to its end has moved. */
  get movedSlabs(): number {
    const done = this.owner.process.reactor.entries.filter(({ event }) => event === "resync-done");
    assert.equal(done.length, 1);
    const [{ fields }] = done;
    return fields?.["slabs"] as number;
  }
}

test("nothing is written when it returns: exactly what changed is moved", (t) => {
  const scene = new Absence(1);
  const written = scene.away(4, 12);
  for (let waited = 0; !scene.isWhole; waited++) {
    assert.ok(waited < 100, "the copy comes back");
    scene.sim.world.runFor(SECOND_US / 10);
  }
  const { movedBytes } = scene.owner.process.background.pace;
  t.diagnostic(`${movedBytes} of ${SLABS * SLAB_BYTES} bytes`);
  assert.equal(movedBytes, written.size * SLAB_BYTES);
  assert.equal(scene.movedSlabs, written.size);
  assert.ok(written.size >= 12 && written.size < SLABS / 2);
  scene.sim.finish();
});

test("the load goes on elsewhere when it returns: nothing is moved that nobody wrote", (t) => {
  const scene = new Absence(2);
  const written = scene.away(4, 12);
  const after = scene.load(24, 6, () => !scene.isWhole);
  const { movedBytes } = scene.owner.process.background.pace;
  t.diagnostic(`${movedBytes} bytes; ${written.size} slabs written away, ${after.size} after`);
  assert.ok(movedBytes >= written.size * SLAB_BYTES);
  assert.ok(movedBytes <= new Set([...written, ...after]).size * SLAB_BYTES);
  scene.sim.finish();
});

test("its resync is cut short, and goes on: nothing is moved twice", (t) => {
  const scene = new Absence(3);
  const { sim, owner } = scene;
  const { pace } = owner.process.background;
  pace.setLimit(4 * SLAB_BYTES);
  const written = scene.away(4, 12);
  const [, other] = sim.nodes;
  const copied = (): number => owner.owned.resyncProgress?.copiedBytes ?? 0;
  sim.world.runUntil(() => copied() >= 5 * SLAB_BYTES, "some of it is copied");
  const before = copied() / SLAB_BYTES;
  sim.crash(other, "process");
  sim.world.runUntil(() => owner.owned.resyncProgress === null, "the resync is given up");
  scene.write(8);
  other.start();
  sim.world.runUntil(() => scene.isWhole, "the copy comes back");
  t.diagnostic(
    `${written.size} slabs written away, ${before} copied before, ${scene.movedSlabs} after`,
  );
  // On its way when the other died, and written since: those again.
  assert.ok(scene.movedSlabs <= written.size - before + 1);
  assert.ok(pace.movedBytes <= (written.size + 4 + 1) * SLAB_BYTES);
  sim.finish();
});
