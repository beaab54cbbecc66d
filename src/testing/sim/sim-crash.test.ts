// What crashes leave: the write cache, tearing, a dead process's late writes, rollback.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Rig, type RigOptions } from "./_sim-rig.ts";
import { sameFate } from "./crash-choice.ts";
import { SimDisk } from "./sim-disk.ts";

const SEEDS: readonly number[] = Array.from({ length: 60 }, (_, index) => index + 1);
const CACHED: RigOptions = { volatileCache: true, splitChance: 0 };

function loseAll(rig: Rig): void {
  rig.disk.crash({ kind: "power", choice: (pending) => sameFate(pending, "none") });
}

describe("a power cut", () => {
  it("loses the cache, but not what a later sync covered or what was durable", () => {
    const rig = new Rig({ ...CACHED, order: "fifo" });
    rig.write(1, 0, 4096, 1);
    rig.run();
    rig.write(2, 4096, 4096, 2);
    // Submitted before the second write completed: does not cover it.
    rig.disk.sync(3);
    rig.write(4, 8192, 4096, 4, true);
    rig.run();
    assert.deepEqual(
      [1, 2, 4].map((tag) => rig.result(tag)),
      [4096, 4096, 4096],
    );
    loseAll(rig);
    assert.deepEqual(
      [0, 4096, 8192].map((at) => rig.bytesAt(at, 512)[0]),
      [1, 0, 4],
    );
  });

  it("does not touch what a protected disk has completed", () => {
    const rig = new Rig();
    rig.write(1, 0, 4096, 1);
    rig.run();
    loseAll(rig);
    assert.deepEqual(rig.bytesAt(0, 512), [1]);
  });

  it("after a failed sync nothing is known, even if the next one succeeds", () => {
    const rig = new Rig(CACHED);
    rig.disk.faults.add({ kind: "eio", on: "sync", count: 1 });
    rig.write(1, 0, 4096, 1);
    rig.run();
    rig.disk.sync(2);
    rig.run();
    rig.disk.sync(3);
    rig.run();
    assert.equal(rig.result(3), 0);
    loseAll(rig);
    assert.deepEqual(rig.bytesAt(0, 512), [0]);
  });

  it("leaves writes old, new, or torn at 4 KiB or 512 B, and garbage only if asked for", () => {
    const seen = { old: 0, new: 0, tornAtBlock: 0, tornAtSector: 0 };
    for (const seed of SEEDS) {
      const rig = new Rig({ ...CACHED, seed });
      rig.write(1, 0, 8192, 1);
      rig.run();
      rig.disk.crash({ kind: "power" });
      const bytes = rig.bytesAt(0, 8192).join("");
      assert.match(bytes, /^[01]{16}$/);
      if (bytes === "0".repeat(16)) seen.old += 1;
      else if (bytes === "1".repeat(16)) seen.new += 1;
      else if (/^(0{8}|1{8})(0{8}|1{8})$/.test(bytes)) seen.tornAtBlock += 1;
      else seen.tornAtSector += 1;
    }
    assert.ok(
      Object.values(seen).every((count) => count > 2),
      JSON.stringify(seen),
    );
    const rig = new Rig(CACHED);
    rig.write(1, 0, 8192, 1);
    rig.run();
    const chances = { keepChance: 1, tornChance: 1, garbageChance: 1 };
    rig.disk.crash({ kind: "power", chances });
    assert.ok(rig.bytesAt(0, 8192).some((byte) => byte > 1));
  });

  it("of two overlapping writes lets either win, in flight or cached", () => {
    const winners = new Set<number>();
    for (const seed of SEEDS) {
      const rig = new Rig({ ...CACHED, seed });
      rig.write(1, 0, 4096, 1);
      rig.run();
      rig.write(2, 0, 4096, 2);
      rig.run();
      assert.deepEqual(rig.bytesAt(0, 512), [2]);
      rig.disk.crash({ kind: "power", chances: { keepChance: 1, tornChance: 0 } });
      winners.add(rig.bytesAt(0, 512)[0]);
    }
    assert.deepEqual([...winners].toSorted(), [1, 2]);
  });

  it("delivers nothing afterwards, and the medium opens again", () => {
    const rig = new Rig(CACHED);
    rig.write(1, 0, 4096, 1);
    rig.disk.crash({ kind: "power" });
    rig.run();
    assert.deepEqual(rig.completions, []);
    assert.throws(() => rig.disk.sync(2), /crashed/);
    const { media, scheduler, memory } = rig;
    const next = new Rig({ media, scheduler, memory, volatileCache: true });
    next.write(3, 0, 4096, 3, true);
    next.run();
    assert.deepEqual([next.result(3), ...media.read(0, 1)], [4096, 3]);
    assert.throws(() => new SimDisk({ media, scheduler, memory }), /held/);
    next.disk.close();
    new SimDisk({ media, scheduler, memory });
  });
});

describe("a process that dies", () => {
  it("keeps the device's cache, which a later power cut still loses", () => {
    const rig = new Rig(CACHED);
    rig.write(1, 0, 4096, 1);
    rig.run();
    rig.disk.crash({ kind: "process" });
    assert.deepEqual(rig.bytesAt(0, 512), [1]);
    const { media, scheduler, memory } = rig;
    const next = new Rig({ media, scheduler, memory });
    loseAll(next);
    assert.deepEqual(next.bytesAt(0, 512), [0]);
  });

  it("leaves what was in flight done or not", () => {
    const seen = new Set<number>();
    for (const seed of SEEDS) {
      const rig = new Rig({ seed });
      rig.write(1, 0, 4096, 1, true);
      rig.disk.crash({ kind: "process" });
      seen.add(rig.bytesAt(0, 512)[0]);
    }
    assert.deepEqual([...seen].toSorted(), [0, 1]);
  });

  it("has writes that land late, over a successor's, unless that one takes the lock", () => {
    for (const exclusive of [false, true]) {
      const rig = new Rig();
      rig.write(1, 0, 4096, 1);
      rig.write(2, 4096, 4096, 2);
      rig.disk.crash({ kind: "process", lateChance: 1 });
      const { media, scheduler, memory } = rig;
      assert.equal(media.lateWritesPending, 2);
      // Pinned pages keep what they held at the crash.
      rig.arena.u8.fill(9);
      const next = new Rig({ media, scheduler, memory, exclusive });
      assert.equal(media.lateWritesPending, exclusive ? 0 : 2);
      next.write(3, 0, 4096, 3);
      next.run();
      media.landLateWrites(1);
      assert.equal(next.bytesAt(0, 512)[0], exclusive ? 3 : 1);
      assert.equal(next.bytesAt(4096, 512)[0], exclusive ? 2 : 0);
      media.dropLateWrites();
      media.landLateWrites();
      assert.equal(next.bytesAt(4096, 512)[0], exclusive ? 2 : 0);
    }
  });
});

describe("a medium", () => {
  it("rolls back as a whole, and a snapshot survives what comes after", () => {
    const rig = new Rig();
    rig.write(1, 0, 4096, 1);
    rig.run();
    const snapshot = rig.media.snapshot();
    rig.write(2, 0, 8192, 2);
    rig.run();
    for (let round = 0; round < 2; round++) {
      rig.media.restore(snapshot);
      assert.deepEqual([...rig.bytesAt(0, 512), ...rig.bytesAt(4096, 512)], [1, 0]);
      rig.write(3, 0, 4096, 3);
      rig.run();
      assert.deepEqual(rig.bytesAt(0, 512), [3]);
    }
  });

  it("shares blocks with its copies and goes its own way", () => {
    const rig = new Rig();
    const copies = [];
    for (let round = 1; round <= 20; round++) {
      rig.media.write(4096 * (round % 3), new Uint8Array(4096).fill(round));
      copies.push({ round, store: rig.media.history.durable.fork() });
    }
    for (const { round, store } of copies) {
      assert.equal(store.block(round % 3)[0], round);
      assert.equal(store.block((round + 1) % 3)[0], Math.max(0, round - 2));
      assert.equal(store.firstDifference(rig.media.view) === -1, round === 20);
    }
  });
});
