// Do the tests test? Each flag of planted.ts puts one hole back into the store; for each a suite must
// find it within so many seeds, and find nothing in the same runs without it. A flag that nobody
// finds fails here, and so does one without a line below.
//
// The seed that is known to find it soonest is tried first; flags share seeds, so that what is run
// without a hole is run once. Where the store has changed and that seed finds nothing any more, the
// others are tried, and the test says which one does.

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

/** Who finds it, the seed that is known to do so soonest, and how many seeds from 1 on it may take. */
type Found = readonly [name: string, Finder, first: number, seeds: number];

const FINDERS: Readonly<Record<keyof PlantedBugs, Found>> = {
  launderMismatch: ["flipped data", flippedData, 1, 3],
  noBlockOrder: ["random crashes", randomly, 2, 6],
  noPrivateCopy: ["a restless guest", restlessGuest, 1, 3],
  trustCompletion: ["random crashes", randomly, 4, 12],
  ackOutOfOrder: ["crash points", crashPoints, 4, 12],
  cutAnywhere: ["a damaged middle", damagedMiddle, 1, 3],
  noQuarantine: ["a reused slab", reusedSlab, 1, 5],
  discardKeepsData: ["random crashes", randomly, 2, 3],
  acceptAnyPage: ["a lost page", lostPage, 3, 6],
  freeBeforeSettled: ["crash points", crashPoints, 6, 8],
  applyEarly: ["random crashes", randomly, 10, 16],
  superblockFirst: ["crash points", crashPoints, 4, 8],
  ignoreIncarnation: ["torn, then written", tornThenWritten, 7, 30],
  trustTail: ["crash points", crashPoints, 4, 8],
  writeBackEarly: ["an overtaken read", overtakenRead, 1, 3],
  keepUncertain: ["crash points", crashPoints, 7, 12],
  logBeforeFlush: ["crash points", crashPoints, 6, 12],
  markUnfinished: ["crash points", crashPoints, 4, 12],
  replayLeaks: ["crash points", crashPoints, 4, 8],
  superblockFixedOrder: ["crash points", crashPoints, 2, 12],
  fenceWithoutDrain: ["random crashes", randomly, 4, 6],
  silentFence: ["random crashes", randomly, 2, 4],
  epochInMemory: ["crash points", crashPoints, 4, 8],
  commitAlone: ["random crashes", randomly, 4, 4],
  forgetUncertain: ["crash points", crashPoints, 4, 8],
  lastStampWins: ["an overtaken stamp", overtakenStamp, 1, 3],
};

/** Runs without a hole that found nothing: each is run once, for all flags that share it. */
const sound = new Set<string>();

function mustBeSound(name: string, finder: Finder, seed: number): void {
  if (sound.has(`${name} ${seed}`)) return;
  assert.doesNotThrow(() => finder(seed, NO_BUGS), `seed ${seed} without the bug`);
  sound.add(`${name} ${seed}`);
}

/** The first seed is tried alone, then all. */
function find(
  finder: Finder,
  bugs: PlantedBugs,
  first: number,
  seeds: number,
): ReturnType<typeof findHole> {
  return findHole(finder, bugs, 1, first) ?? findHole(finder, bugs, seeds);
}

test("every flag has a finder", () => {
  assert.deepEqual(Object.keys(FINDERS).sort(), Object.keys(NO_BUGS).sort());
});

for (const [flag, [name, finder, first, seeds]] of Object.entries(FINDERS)) {
  test(`${flag} is found by ${name} within ${seeds} seeds`, (t) => {
    const found = find(finder, { ...NO_BUGS, [flag]: true }, first, seeds);
    assert.ok(found !== null, `${seeds} seeds found nothing`);
    const [seed, { message }] = found;
    const moved = seed === first ? "" : `, seed ${first} does not find it any more`;
    t.diagnostic(`seed ${seed}${moved}: ${message.split("\n")[0]}`);
    mustBeSound(name, finder, seed);
  });
}

test("late writes of a dead process are found within 12 seeds where nobody waits for them", (t) => {
  const manyDeaths = { rounds: 24, requests: 40 };
  const late: Finder = (seed) => void randomCrashes(seed, { ...manyDeaths, exclusive: false });
  const found = find(late, NO_BUGS, 3, 12);
  assert.ok(found !== null);
  t.diagnostic(`seed ${found[0]}: ${found[1].message.split("\n")[0]}`);
  assert.doesNotThrow(() => randomCrashes(found[0], manyDeaths));
});
