// A thousand front-ends come and go, each with memory, rings, an inflight region and requests:
// one living target serves them all and is afterwards what it was before.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "../../virtio/index.ts";
import { leaksOf, Scene } from "./scene.ts";
import type { VictimOptions } from "./victim.ts";

const ROUNDS = 1000;
const CHECK_EVERY = 100;
/** What the heap may take meanwhile: garbage is collected when V8 likes. */
const RSS_GROWTH_BYTES_MAX = 64 * 1024 * 1024;

function variant(round: number): VictimOptions {
  return {
    packed: round % 2 === 1,
    kind: round % 3 === 0 ? "memfd-unsealable" : "memfd",
    inflight: round % 5 === 0,
  };
}

test(`${ROUNDS} disconnects and reconnects leave descriptors, mappings and timers as they were`, async (t) => {
  const scene = await Scene.open(t);
  await scene.attack(async () => {
    const { target } = scene;
    const before = leaksOf(await target.until(({ timerCount }) => timerCount === 0, "idle"));
    let rssBytes = 0;
    for (let round = 1; round <= ROUNDS; round++) {
      const victim = scene.victim(variant(round));
      assert.equal(victim.run(victim.read(round % 1000, 4096)).status, v.BLK_S_OK);
      if (round % 4 === 0)
        for (const { index } of victim.queues) victim.frontEnd.getVringBase(index);
      scene.closeVictims();
      if (round % CHECK_EVERY !== 0) continue;
      await scene.settle();
      const counts = await target.counts();
      assert.deepEqual(leaksOf(counts), before);
      // The first rounds compile and fill pools.
      if (round === CHECK_EVERY) rssBytes = counts.rssBytes;
      const growth = counts.rssBytes - rssBytes;
      assert.ok(growth < RSS_GROWTH_BYTES_MAX, `${growth} bytes more after ${round} rounds`);
      scene.probeNeighbour();
    }
  });
});
