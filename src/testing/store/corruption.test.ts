// Corruption injected is corruption detected: whatever the disk does to what it holds, a read gives
// what the model allows or an error, and the store tells of it: bad blocks, damaged pages, or a
// refusal to open. Without injection it tells of nothing.
//
// What one disk alone cannot know is listed at the end, each with a test that shows it: the loss of
// the last groups of the ring with nothing behind them, data of such groups that never arrived, and
// the whole disk as it once was.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { StoreError } from "../../chunk/index.ts";
import { BLOCK_BYTES, GROUP, GROUP_MAGIC, SUPERBLOCK } from "../../chunk/layouts.ts";
import { type FaultKind, SimMedia } from "../sim/index.ts";
import { readAll } from "./crash-points.ts";
import { areasOf, structureAt, superblockOffsets } from "./medium-bytes.ts";
import { die, load, mustOpen, type Stage, stage, tryOpen } from "./single-faults.ts";
import { walkMedium } from "./walk-medium.ts";

const SIZE_BYTES = 262144;
const asked = process.env["RINGSTORE_SEED"];
const first = Number(asked ?? 1);
const seeds = Array.from({ length: asked === undefined ? 4 : 1 }, (_, index) => first + index);

/** What came of it. */
type Outcome = "refused" | "reported" | "unharmed";

/** A copy that may be damaged without harm to the original. */
function copyOf(one: Stage): Stage {
  const media = SimMedia.over(one.media.history.durable.fork(), one.media);
  return { ...one, media, model: one.model.fork() };
}

/** Opens and reads everything; the model throws at a wrong byte. */
function outcomeOf(one: Stage): Outcome {
  const store = tryOpen(one);
  if (store instanceof StoreError) {
    assert.ok(["DISK_DAMAGED", "DISK_FAILED"].includes(store.code), store.message);
    return "refused";
  }
  readAll(store, one.model, SIZE_BYTES);
  let failed = 0;
  for (let at = 0; at < SIZE_BYTES; at += BLOCK_BYTES) {
    store.volume?.close();
    if (store.plainRead(store.openVolume(), at, BLOCK_BYTES) !== 0) failed += 1;
  }
  const { badBlockCount, damagedPageCount, recovery } = store.store.usage();
  const rotten = recovery?.rottenBlocks ?? 0;
  const isReported = badBlockCount + damagedPageCount + rotten > 0;
  assert.ok(failed === 0 || isReported, `${failed} reads failed and nothing was reported`);
  store.reactor.stop();
  return isReported ? "reported" : "unharmed";
}

function flip(one: Stage, offsetBytes: number, bytes: number): Stage {
  const copy = copyOf(one);
  copy.media.flipBit(offsetBytes + one.prng.below(bytes), one.prng.below(8));
  return copy;
}

function stopped(seed: number): Stage {
  const one = stage(seed);
  const store = mustOpen(one);
  load(one, store, 60);
  store.close();
  return one;
}

/** Died in a pause: everything is marked, much of it still in ring and log. */
function died(seed: number): Stage {
  const one = stopped(seed);
  const store = mustOpen(one, { writeBackAt: 0.75 });
  load(one, store, 12);
  store.scheduler.runFor(200_000);
  die(one, store);
  return one;
}

/** Flips in the ring that were refused, of all seeds. */
let groupsNeeded = 0;

for (const seed of seeds) {
  describe(`one flipped bit, seed ${seed}`, () => {
    const clean = stopped(seed);
    const dead = died(seed);
    const { pages, blocks } = walkMedium(clean.media);

    test("nothing is said where nothing was done", () => {
      assert.equal(outcomeOf(copyOf(clean)), "unharmed");
      assert.equal(outcomeOf(copyOf(dead)), "unharmed");
    });

    test("in one copy of the superblock: the others serve", () => {
      for (const one of [clean, dead]) {
        for (const offset of superblockOffsets(one.media.capacityBytes)) {
          for (let count = 0; count < 4; count++) {
            assert.equal(outcomeOf(flip(one, offset, BLOCK_BYTES)), "unharmed");
          }
        }
      }
    });

    test("in data: an error for that block, and a report", () => {
      for (let count = 0; count < 30; count++) {
        const at = blocks[clean.prng.below(blocks.length)];
        assert.equal(outcomeOf(flip(clean, at, BLOCK_BYTES)), "reported");
      }
    });

    test("in a page that counts: a report or a refusal", () => {
      for (const { at, kind, number } of pages) {
        for (let count = 0; count < 4; count++) {
          const outcome = outcomeOf(flip(clean, at, BLOCK_BYTES));
          assert.notEqual(outcome, "unharmed", `page ${number} of kind ${kind}`);
        }
      }
    });

    test("anywhere in ring, log, pages and slabs, after a stop or a crash: never a wrong byte", () => {
      const counts = { refused: 0, reported: 0, unharmed: 0 };
      for (const one of [clean, dead]) {
        const { ringOffset, ringBytes, logOffset, logBytes, pageOffset, slabOffset } = areasOf(
          one.media,
        );
        const written = one.media.view.writtenBlocks().map((block) => block * BLOCK_BYTES);
        for (const [from, to, count] of [
          [ringOffset, ringOffset + ringBytes, 40],
          [logOffset, logOffset + logBytes, 25],
          [pageOffset, slabOffset, 25],
          [slabOffset, one.media.capacityBytes, 20],
        ] as const) {
          const places = written.filter((at) => at >= from && at < to);
          for (let index = 0; index < count; index++) {
            const at = places[one.prng.below(places.length)];
            counts[outcomeOf(flip(one, at, BLOCK_BYTES))] += 1;
          }
        }
      }
      assert.ok(counts.refused > 0 && counts.reported > 0, JSON.stringify(counts));
    });

    test("in every group that the ring still needs: never a wrong byte", () => {
      const { ringOffset, ringBytes } = areasOf(dead.media);
      for (let at = ringOffset; at < ringOffset + ringBytes; at += BLOCK_BYTES) {
        if (structureAt(dead.media, at).u32(GROUP.magic) !== GROUP_MAGIC) continue;
        if (outcomeOf(flip(dead, at, BLOCK_BYTES)) === "refused") groupsNeeded += 1;
      }
    });
  });
}

test("groups were needed, and their damage refused", { skip: asked !== undefined }, () => {
  assert.ok(groupsNeeded > 0);
});

describe("a disk that lies while it runs", () => {
  const kinds: readonly [FaultKind, "read" | "write"][] = [
    ["lost", "write"],
    ["misdirected", "write"],
    ["rot", "write"],
    ["misdirected", "read"],
    ["rot", "read"],
  ];
  for (const [kind, on] of kinds) {
    test(`${kind} ${on}s: right or an error, then and after a restart`, () => {
      let found = 0;
      for (let seed = first; seed < first + (asked === undefined ? 12 : 1); seed++) {
        const one = stopped(seed);
        const store = mustOpen(one);
        store.disk.faults.add({ kind, on, chance: 0.25 });
        load(one, store, 50);
        readAll(store, one.model, SIZE_BYTES);
        store.disk.faults.clear();
        // What follows the lies proves them: see the list below.
        load(one, store, 12);
        store.scheduler.runFor(200_000);
        const { injected } = store.disk;
        assert.ok(injected.length > 0);
        if (seed % 2 === 0) die(one, store);
        else store.close();
        if (outcomeOf(one) !== "unharmed") found += 1;
      }
      assert.ok(on === "read" || asked !== undefined || found > 3, `${found} found`);
    });
  }

  test("a rotten read is read once more before it counts", () => {
    const one = stopped(first);
    const store = mustOpen(one);
    const { slabOffset } = areasOf(one.media);
    store.disk.faults.add({ kind: "rot", on: "read", fromBytes: slabOffset, count: 1 });
    readAll(store, one.model, SIZE_BYTES);
    assert.equal(store.store.usage().counters.readRetries, 1);
    assert.equal(store.store.usage().badBlockCount, 0);
    store.close();
  });
});

describe("what one disk alone cannot know", () => {
  /** Acknowledged, not marked yet, nothing behind it. */
  function justWritten(): { readonly one: Stage; readonly data: Uint8Array } {
    const one = stopped(first);
    const store = mustOpen(one);
    const { id, data } = one.model.startWrite(0, 65536);
    const client = store.client(one.model);
    store.scheduler.runFor(1000);
    const plain = store.plainWrite(0, data);
    assert.equal(plain, 0);
    one.model.endWrite(id, 0);
    assert.equal(client.inflightCount, 0);
    store.disk.crash({ kind: "process" });
    return { one, data };
  }

  test("the loss of the last group of the ring: the write is gone, and nothing shows it", () => {
    const { one } = justWritten();
    const { ringOffset, ringBytes } = areasOf(one.media);
    let last = { at: 0, lsn: 0 };
    for (let at = ringOffset; at < ringOffset + ringBytes; at += BLOCK_BYTES) {
      const group = structureAt(one.media, at);
      if (group.u32(GROUP.magic) !== GROUP_MAGIC || group.u64(GROUP.lsn) < last.lsn) continue;
      last = { at, lsn: group.u64(GROUP.lsn) };
    }
    one.media.write(last.at, new Uint8Array(BLOCK_BYTES));
    assert.throws(() => outcomeOf(one), { name: "ModelViolation" });
  });

  test("data of the last group that never arrived: the write is dropped, and reported", () => {
    const { one } = justWritten();
    const { slabOffset } = areasOf(one.media);
    const places = one.media.view.writtenBlocks().map((block) => block * BLOCK_BYTES);
    for (const at of places) {
      const { model } = one;
      if (at < slabOffset || !startsLike(one.media.read(at, 512), model)) continue;
      one.media.write(at, new Uint8Array(BLOCK_BYTES));
    }
    const store = tryOpen(one);
    assert.ok(!(store instanceof StoreError));
    assert.ok((store.store.usage().recovery?.uncertain.length ?? 0) > 0);
    const dropped = store.reactor.entries.filter(({ event }) => event === "store.uncertain-write");
    assert.ok(dropped.length > 0);
  });

  function startsLike(sector: Uint8Array, model: Stage["model"]): boolean {
    const newest = model.startRead(0, 512);
    try {
      model.endRead(newest, 0, sector);
      return true;
    } catch {
      return false;
    }
  }

  test("the whole disk as it once was: only the incarnation that was seen since shows it", () => {
    const one = stopped(first);
    const before = one.media.snapshot();
    const store = mustOpen(one);
    load(one, store, 20);
    const { incarnation } = store.store.facts();
    store.close();
    one.media.restore(before);
    const untold = copyOf(one);
    assert.throws(() => outcomeOf(untold), { name: "ModelViolation" });
    const told = tryOpen(copyOf(one), { incarnationMin: incarnation });
    assert.ok(told instanceof StoreError);
    assert.equal(told.code, "DISK_STALE");
    assert.equal(one.media.read(0, SUPERBLOCK.BYTES).length, SUPERBLOCK.BYTES);
  });
});
