// What the store does when nobody asks anything of it: the slabs that were freed become free, and
// then nothing is written any more.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SimMedia } from "../sim/index.ts";
import { formatMedia, SimStore } from "./sim-store.ts";

const DISK_BYTES = 8 * 1048576;
const SIZE_BYTES = 2 * 1048576;
const SLAB = 65536;
const SLABS = 12;
const SECOND_US = 1e6;

function opened(media: SimMedia, seed: number): SimStore {
  const store = new SimStore({ media, seed });
  assert.equal(store.open(), null);
  return store;
}

function countWrites(store: SimStore): () => number {
  let count = 0;
  const write = store.disk.write.bind(store.disk);
  store.disk.write = (...words) => {
    count += 1;
    write(...words);
  };
  return () => count;
}

for (const way of ["overwritten", "discarded"] as const) {
  test(`slabs that were ${way} are free after a while, and an idle store writes nothing`, () => {
    const media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache: true });
    formatMedia(media);
    const one = opened(media, 3);
    one.createVolume(SIZE_BYTES);
    const volume = one.openVolume();
    const before = one.store.usage().freeBytes;
    for (let round = 1; round <= 2; round++) {
      for (let slab = 0; slab < SLABS; slab++) {
        assert.equal(one.plainWrite(slab * SLAB, new Uint8Array(SLAB).fill(slab + round)), 0);
      }
    }
    if (way === "discarded") assert.equal(one.plainDiscard(volume, 0, SLABS * SLAB), 0);
    assert.ok(one.store.usage().quarantinedBytes > 0, "not at once: they may be written again");
    one.scheduler.runFor(3 * SECOND_US);
    const { freeBytes, quarantinedBytes } = one.store.usage();
    assert.equal(quarantinedBytes, 0);
    const inUse = way === "discarded" ? 0 : SLABS * SLAB;
    assert.equal(freeBytes, before - inUse);
    const writes = countWrites(one);
    one.scheduler.runFor(60 * SECOND_US);
    assert.equal(writes(), 0, "idle");
    // Cut off here, everything is as it was.
    one.disk.crash({ kind: "power" });
    const next = opened(media, 4);
    const again = next.openVolume();
    for (let slab = 0; slab < SLABS; slab++) {
      const byte = way === "discarded" ? 0 : slab + 2;
      const found = next.readBytes(again, slab * SLAB, SLAB);
      assert.ok(
        found.every((value) => value === byte),
        `slab ${slab}`,
      );
    }
  });
}

test("a store that closes leaves nothing under way, whenever its last write was", () => {
  // What is in place is marked some time after the last write: also while the store is closing.
  for (let afterMs = 0; afterMs <= 60; afterMs += 0.25) {
    const media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache: true });
    formatMedia(media);
    const one = opened(media, 5);
    one.createVolume(SIZE_BYTES);
    one.openVolume();
    assert.equal(one.plainWrite(0, new Uint8Array(SLAB).fill(1)), 0);
    one.scheduler.runFor(afterMs * 1000);
    one.closeVolumes();
    let leftCount = -1;
    one.store.close(() => {
      leftCount = one.disk.inflightCount;
    });
    one.scheduler.runFor(5 * SECOND_US);
    assert.equal(leftCount, 0, `closed ${afterMs} ms after the write`);
  }
});
