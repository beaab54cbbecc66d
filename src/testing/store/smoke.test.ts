// The store under random load in the simulator, without faults: every read is checked against the
// model, and everything is there again after each restart.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ModelVolume, SimMedia } from "../sim/index.ts";
import { step } from "./program.ts";
import { formatMedia, SimStore } from "./sim-store.ts";

const SIZE_BYTES = 2 * 1048576;
const DISK_BYTES = 8 * 1048576;

for (let seed = 1; seed <= Number(process.env.SEEDS ?? 20); seed++) {
  test(`random load and clean restarts, seed ${seed}`, () => {
    const media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache: true });
    formatMedia(media);
    const model = new ModelVolume();
    for (let round = 0; round < 3; round++) {
      const one = new SimStore({ media, seed: seed * 10 + round });
      assert.equal(one.open(), null);
      if (round === 0) one.createVolume(SIZE_BYTES);
      const client = one.client(model, true);
      client.read(0, SIZE_BYTES);
      for (let request = 0; request < 400; request++) {
        step(client, one.prng, SIZE_BYTES);
        const depth = one.prng.below(24);
        one.scheduler.runUntil(() => client.inflightCount <= depth, "requests");
      }
      one.scheduler.runUntil(() => client.inflightCount === 0, "the last requests");
      client.read(0, SIZE_BYTES);
      one.scheduler.runUntil(() => client.inflightCount === 0, "the last read");
      assert.equal(one.store.usage().badBlockCount, 0);
      one.close();
    }
    assert.ok(model.checkedSectors > 10000);
  });
}
