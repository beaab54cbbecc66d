// A disk that answers with errors, has no room, is slow or stuck: each has a defined outcome. No
// request hangs, nothing is acknowledged that is not durable, and everything acknowledged is there
// after the next opening.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EIO, ENOSPC } from "../../base/index.ts";
import { StoreError } from "../../chunk/index.ts";
import type { FaultKind } from "../sim/index.ts";
import { checkBooks, readAll } from "./crash-points.ts";
import { areasOf, type MediumAreas, superblockOffsets } from "./medium-bytes.ts";
import type { SimStore } from "./sim-store.ts";
import { die, load, mustOpen, type Stage, stage, tryOpen } from "./single-faults.ts";

const SIZE_BYTES = 262144;
const BLOCK = 4096;

type Range = readonly [fromBytes: number, toBytes: number];

function writeAreas(areas: MediumAreas, capacityBytes: number): Record<string, Range> {
  const [second] = superblockOffsets(capacityBytes).slice(1);
  return {
    superblock: [0, second + BLOCK],
    ring: [areas.ringOffset, areas.ringOffset + areas.ringBytes],
    log: [areas.logOffset, areas.logOffset + areas.logBytes],
    pages: [areas.pageOffset, areas.slabOffset],
    data: [areas.slabOffset, capacityBytes - 2 * 65536],
  };
}

/** After a failure: writes are refused, reads go on, and a stop ends. */
function endsWell(one: Stage, store: SimStore, isPower: boolean): void {
  assert.equal(store.store.phase, "failed");
  assert.match(store.store.failure ?? "", /^[a-z]/);
  assert.equal(store.plainWrite(0, new Uint8Array(BLOCK)), -EIO);
  readAll(store, one.model, SIZE_BYTES);
  if (isPower) die(one, store, "power");
  else store.close();
  const next = mustOpen(one);
  readAll(next, one.model, SIZE_BYTES);
  checkBooks(next);
}

describe("an error of the disk on a write", () => {
  for (const area of ["superblock", "ring", "log", "pages", "data"]) {
    for (const kind of ["eio", "enospc", "short"] as const) {
      test(`${kind} in the ${area}: the store fails, and has lost nothing`, () => {
        let failures = 0;
        for (let seed = 1; seed <= 6; seed++) failures += writeFails(area, kind, seed) ? 1 : 0;
        // A short write of one block cannot be; of many the rest is written, where that is safe.
        if (kind !== "short") assert.ok(failures >= 4, `${failures} of 6 runs failed`);
      });
    }
  }

  function writeFails(area: string, kind: FaultKind, seed: number): boolean {
    const one = stage(seed, undefined, seed % 2 === 0);
    const store = mustOpen(one);
    const areas = writeAreas(areasOf(one.media), one.media.capacityBytes);
    const [fromBytes, toBytes] = areas[area];
    load(one, store, 20);
    const skip = one.prng.below(4);
    store.disk.faults.add({ kind, on: "write", fromBytes, toBytes, skip, count: 1 });
    load(one, store, 120);
    store.disk.faults.clear();
    if (store.store.phase === "ready") {
      store.close();
      readAll2(one);
      return false;
    }
    endsWell(one, store, seed % 3 === 0);
    return true;
  }

  function readAll2(one: Stage): void {
    const next = mustOpen(one);
    readAll(next, one.model, SIZE_BYTES);
    checkBooks(next);
  }

  test("of a flush: the store fails, and has lost nothing", () => {
    for (let seed = 1; seed <= 6; seed++) {
      const one = stage(seed, undefined, true);
      const store = mustOpen(one);
      store.disk.faults.add({ kind: "eio", on: "sync", skip: seed % 3, count: 1 });
      load(one, store, 150);
      store.disk.faults.clear();
      endsWell(one, store, seed % 2 === 0);
    }
  });

  test("of an opening: it is refused by name, and the next one serves", () => {
    const one = stage(7);
    const store = mustOpen(one);
    load(one, store, 30);
    die(one, store);
    for (const on of ["read", "write"] as const) {
      const refused = tryOpen(one, {}, (disk) =>
        disk.faults.add({ kind: "eio", on, skip: on === "read" ? 4 : 0 }),
      );
      assert.ok(refused instanceof StoreError);
      assert.equal(refused.code, "DISK_FAILED");
    }
    const next = mustOpen(one);
    readAll(next, one.model, SIZE_BYTES);
    checkBooks(next);
  });

  test("reads that find no room among pages that cannot be written any more end with an error", () => {
    const one = stage(3);
    const store = mustOpen(one, { pageCacheCount: 2 });
    store.createVolume(64 * 1048576, "44444444-2222-3333-4444-555555555555");
    const wide = store.openVolume("44444444-2222-3333-4444-555555555555");
    const { pageOffset, slabOffset } = areasOf(one.media);
    store.disk.faults.add({ kind: "eio", on: "write", fromBytes: pageOffset, toBytes: slabOffset });
    for (let page = 0; page < 8; page++) {
      store.plainWriteTo(wide, page * 2 * 1048576, new Uint8Array(BLOCK).fill(page));
    }
    assert.equal(store.store.phase, "failed");
    for (let page = 0; page < 8; page++) {
      assert.ok([0, -EIO].includes(store.plainRead(wide, page * 2 * 1048576, BLOCK)));
    }
    store.close();
  });
});

describe("an error of the disk on a read", () => {
  test("once: it is read again, and nobody sees it", () => {
    const one = stage(1);
    const store = mustOpen(one);
    load(one, store, 40);
    store.close();
    const next = mustOpen(one);
    const { slabOffset } = areasOf(one.media);
    next.disk.faults.add({ kind: "eio", on: "read", fromBytes: slabOffset, count: 1 });
    readAll(next, one.model, SIZE_BYTES);
    const { counters, badBlockCount } = next.store.usage();
    assert.deepEqual([counters.readRetries, badBlockCount], [1, 0]);
    next.close();
  });

  test("again and again: the reader alone gets EIO, and it is counted", () => {
    const one = stage(2);
    const store = mustOpen(one);
    const data = new Uint8Array(65536).fill(7);
    const volume = store.openVolume();
    for (const at of [0, 65536]) assert.equal(store.plainWriteTo(volume, at, data), 0);
    const { slabOffset } = areasOf(one.media);
    const toBytes = slabOffset + 65536;
    store.disk.faults.add({ kind: "eio", on: "read", fromBytes: slabOffset, toBytes });
    const results = [0, 65536].map((at) => store.plainRead(volume, at, 65536));
    assert.deepEqual(results.sort(), [-EIO, 0].sort());
    assert.equal(store.store.phase, "ready");
    assert.ok(store.store.usage().badBlockCount > 0);
    assert.equal(store.plainWriteTo(volume, 0, data), 0);
    store.close();
  });

  test("short: the rest is read", () => {
    const one = stage(3);
    const store = mustOpen(one);
    load(one, store, 40);
    store.close();
    const next = mustOpen(one, {}, (disk) =>
      disk.faults.add({ kind: "short", on: "read", chance: 0.1 }),
    );
    next.disk.faults.clear();
    next.disk.faults.add({ kind: "short", on: "read", count: 2 });
    readAll(next, one.model, SIZE_BYTES);
    assert.equal(next.store.usage().badBlockCount, 0);
    next.close();
  });

  test("of a page while a deleted volume is given back: the extent has no new owner yet", () => {
    const other = "44444444-2222-3333-4444-555555555555";
    const one = stage(5);
    const store = mustOpen(one);
    assert.equal(store.plainWriteTo(store.openVolume(), 0, new Uint8Array(65536).fill(9)), 0);
    store.close();
    const second = mustOpen(one);
    const { pageOffset, slabOffset } = areasOf(one.media);
    const range = { fromBytes: pageOffset, toBytes: slabOffset };
    second.disk.faults.add({ kind: "eio", on: "read", ...range });
    assert.equal(second.deleteVolume(), null);
    second.settle();
    second.disk.faults.clear();
    for (const uuid of [other, other.replaceAll("4", "5"), other.replaceAll("4", "6")]) {
      second.createVolume(SIZE_BYTES, uuid);
      const volume = second.openVolume(uuid);
      assert.equal(second.plainWriteTo(volume, 131072, new Uint8Array(BLOCK).fill(1)), 0);
      assert.ok(second.readBytes(volume, 0, BLOCK).every((byte) => byte === 0));
    }
    second.close();
    const third = mustOpen(one);
    third.settle();
    checkBooks(third);
  });
});

describe("a full disk", () => {
  test("new data is refused; overwrites, discards and deletes go on, and space comes back", () => {
    const filler = "44444444-2222-3333-4444-555555555555";
    const one = stage(9);
    const store = mustOpen(one);
    load(one, store, 40);
    const own = store.volume;
    store.createVolume(64 * 1048576, filler);
    const wide = store.openVolume(filler);
    const slab = new Uint8Array(65536).fill(3);
    let written = 0;
    while (store.plainWriteTo(wide, written * 65536, slab) === 0) written += 1;
    assert.equal(store.plainWriteTo(wide, written * 65536, slab), -ENOSPC);
    assert.equal(store.store.usage().freeBytes, 0);
    assert.ok(store.store.usage().counters.noSpaceErrors > 0);
    assert.ok(written > 8);
    for (let index = 0; index < 8; index++) {
      assert.equal(store.plainWriteTo(wide, index * 65536, slab.fill(index + 10)), 0);
      assert.equal(store.plainWriteTo(wide, index * 65536 + BLOCK, slab.subarray(0, BLOCK)), 0);
    }
    assert.equal(store.plainDiscard(wide, 0, 4 * 65536), 0);
    // Nobody reads meanwhile: quarantine must end by itself.
    for (let index = 0; index < 4; index++) {
      assert.equal(store.plainWriteTo(wide, (written + index) * 65536, slab), 0);
    }
    assert.equal(store.plainWriteTo(wide, (written + 4) * 65536, slab), -ENOSPC);
    wide.close();
    store.volume = own;
    assert.equal(store.deleteVolume(filler), null);
    readAll(store, one.model, SIZE_BYTES);
    store.settle();
    store.closeVolumes();
    checkBooks(store);
    const next = mustOpen(one);
    readAll(next, one.model, SIZE_BYTES);
    assert.ok(next.store.usage().freeBytes >= written * 65536);
    checkBooks(next);
  });
});

describe("slow and stuck operations", () => {
  test("a stuck read holds up nobody else, and a stop waits for it", () => {
    const one = stage(4);
    const store = mustOpen(one);
    load(one, store, 40);
    store.close();
    const next = mustOpen(one);
    const { slabOffset } = areasOf(one.media);
    next.disk.faults.add({ kind: "stuck", on: "read", fromBytes: slabOffset, count: 1 });
    const client = next.client(one.model);
    client.read(0, SIZE_BYTES);
    next.scheduler.runFor(10_000);
    assert.equal(client.inflightCount, 1);
    // More than the ring holds: write-back waits for the read, then writers do, and then go on.
    for (let index = 0; index < 60; index++) client.write((index % 60) * BLOCK, BLOCK);
    next.scheduler.runFor(2_000_000);
    next.disk.releaseStuck();
    next.scheduler.runUntil(() => client.inflightCount === 0, "the end of everything");
    readAll(next, one.model, SIZE_BYTES);
    checkBooks(next);
  });

  test("a ring full of records while write-back has to wait is emptied afterwards", () => {
    const one = stage(6);
    const store = mustOpen(one, { freshBlocksMin: 1 });
    const client = store.client(one.model);
    client.write(0, 65536);
    client.write(196608, BLOCK);
    store.scheduler.runUntil(() => client.inflightCount === 0, "the first write");
    const { slabOffset } = areasOf(one.media);
    store.disk.faults.add({ kind: "stuck", on: "read", fromBytes: slabOffset, count: 1 });
    client.read(0, BLOCK);
    store.scheduler.runFor(5000);
    // Overwritten while the read is under way: its group, and all behind it, must wait.
    client.write(0, BLOCK);
    store.scheduler.runFor(5000);
    for (let round = 0; round < 20; round++) {
      for (let block = 0; block < 30; block++) {
        client.discard(65536 + (block % 32) * BLOCK, BLOCK);
        client.write(65536 + (block % 32) * BLOCK, BLOCK);
      }
      store.scheduler.runFor(20_000);
    }
    store.disk.releaseStuck();
    store.scheduler.runUntil(() => client.inflightCount === 0, "all writes");
    readAll(store, one.model, SIZE_BYTES);
    checkBooks(store);
  });

  test("a read that needs a buffer gets it from a write", () => {
    const one = stage(8);
    const store = mustOpen(one, { bufferCount: 1 });
    const client = store.client(one.model, true);
    client.write(0, 65536);
    store.scheduler.runUntil(() => client.inflightCount === 0, "the first write");
    for (let count = 0; count < 40; count++) {
      client.write(65536, 65536);
      client.read(0, 65536);
      store.scheduler.runUntil(() => client.inflightCount === 0, "a write and a read");
    }
    checkBooks(store);
  });
});

test("records of more pages than are loaded at a time, none ever written, are all applied", () => {
  const wideUuid = "44444444-2222-3333-4444-555555555555";
  for (const isTorn of [false, true]) {
    const one = stage(11, undefined, false, 8 * 1048576);
    const store = mustOpen(one, { pageCacheCount: 64, writeBackAt: 1 });
    store.createVolume(128 * 1048576, wideUuid);
    const wide = store.openVolume(wideUuid);
    for (let page = 0; page < 24; page++) {
      const data = new Uint8Array(BLOCK).fill(page + 1);
      assert.equal(store.plainWriteTo(wide, page * 2 * 1048576, data), 0);
    }
    store.disk.crash({ kind: isTorn ? "power" : "process" });
    store.reactor.stop();
    const next = mustOpen(one, { pageCacheCount: 64 });
    const again = next.openVolume(wideUuid);
    for (let page = 0; page < 24; page++) {
      const found = next.readBytes(again, page * 2 * 1048576, BLOCK);
      assert.ok(found.every((byte) => byte === page + 1));
    }
    checkBooks(next);
  }
});

test("a store gives back all its memory, however often it is opened", () => {
  const one = stage(12);
  const counts: number[] = [];
  for (let round = 0; round < 50; round++) {
    const store = mustOpen(one);
    load(one, store, 4);
    store.close();
    counts.push(store.memory.arenaCount);
  }
  // The reactor's request table is the test's own.
  assert.deepEqual(new Set(counts), new Set([1]));
});
