// Do the tests test? Each flag of planted.ts puts one hole back into the store; for each a suite must
// find it within so many seeds, and find nothing in the same runs without it. A flag that nobody
// finds fails here, and so does one without a line below.

import assert from "node:assert/strict";
import { test } from "node:test";
import { NO_BUGS, type PlantedBugs } from "../../chunk/planted.ts";
import { findHole } from "../find-hole.ts";
import { CrashEnumeration } from "./crash-points.ts";
import { randomCrashes } from "./random-crashes.ts";
import {
  damagedMiddle,
  flippedData,
  lostPage,
  overtakenRead,
  overtakenStamp,
  restlessGuest,
  reusedSlab,
  tornThenWritten,
} from "./single-faults.ts";

/** Throws when it finds something. */
type Finder = (seed: number, planted: PlantedBugs) => void;

const crashPoints: Finder = (seed, planted) =>
  new CrashEnumeration({ planted, statesPerPoint: 6, statesMax: 700 }).run(seed);
const randomly: Finder = (seed, planted) =>
  void randomCrashes(seed, { planted, rounds: 3, requests: 150 });

const FINDERS: Readonly<Record<keyof PlantedBugs, readonly [name: string, Finder, seeds: number]>> =
  {
    launderMismatch: ["flipped data", flippedData, 3],
    noBlockOrder: ["random crashes", randomly, 6],
    noPrivateCopy: ["a restless guest", restlessGuest, 3],
    trustCompletion: ["random crashes", randomly, 12],
    ackOutOfOrder: ["crash points", crashPoints, 12],
    cutAnywhere: ["a damaged middle", damagedMiddle, 3],
    noQuarantine: ["a reused slab", reusedSlab, 5],
    discardKeepsData: ["random crashes", randomly, 3],
    acceptAnyPage: ["a lost page", lostPage, 6],
    freeBeforeSettled: ["crash points", crashPoints, 8],
    applyEarly: ["random crashes", randomly, 16],
    superblockFirst: ["crash points", crashPoints, 8],
    ignoreIncarnation: ["torn, then written", tornThenWritten, 30],
    trustTail: ["crash points", crashPoints, 8],
    writeBackEarly: ["an overtaken read", overtakenRead, 3],
    keepUncertain: ["crash points", crashPoints, 12],
    logBeforeFlush: ["crash points", crashPoints, 12],
    markUnfinished: ["crash points", crashPoints, 12],
    replayLeaks: ["crash points", crashPoints, 8],
    superblockFixedOrder: ["crash points", crashPoints, 12],
    fenceWithoutDrain: ["random crashes", randomly, 6],
    silentFence: ["random crashes", randomly, 4],
    epochInMemory: ["crash points", crashPoints, 8],
    commitAlone: ["random crashes", randomly, 4],
    forgetUncertain: ["crash points", crashPoints, 8],
    lastStampWins: ["an overtaken stamp", overtakenStamp, 3],
  };

test("every flag has a finder", () => {
  assert.deepEqual(Object.keys(FINDERS).sort(), Object.keys(NO_BUGS).sort());
});

for (const [flag, [name, finder, seeds]] of Object.entries(FINDERS)) {
  test(`${flag} is found by ${name} within ${seeds} seeds`, (t) => {
    const found = findHole(finder, { ...NO_BUGS, [flag]: true }, seeds);
    assert.ok(found !== null, `${seeds} seeds found nothing`);
    const [seed, { message }] = found;
    t.diagnostic(`seed ${seed}: ${message.split("\n")[0]}`);
    assert.doesNotThrow(() => finder(seed, NO_BUGS), `seed ${seed} without the bug`);
  });
}

test("late writes of a dead process are found within 12 seeds where nobody waits for them", (t) => {
  const manyDeaths = { rounds: 24, requests: 40 };
  const late: Finder = (seed) => void randomCrashes(seed, { ...manyDeaths, exclusive: false });
  const found = findHole(late, NO_BUGS, 12);
  assert.ok(found !== null);
  t.diagnostic(`seed ${found[0]}: ${found[1].message.split("\n")[0]}`);
  assert.doesNotThrow(() => randomCrashes(found[0], manyDeaths));
});
