// Do the tests test? Each flag puts one hole back, into the owner, the links, or what joins them; for
// each a scene or a few seeds of a campaign must find it, and nothing in the same run without it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { findHole } from "../find-hole.ts";
import type { ClusterBugs } from "./cluster-bugs.ts";
import { type ClusterOptions, ClusterSim } from "./cluster-sim.ts";
import { emptied, losesMore, plannedTooLate } from "./repair-scenes.ts";
import { goesBackAnEpoch, goesBackToHandOver } from "./restore-scenes.ts";
import {
  diesAmongWrites,
  diesTakingOver,
  fencesFromElsewhere,
  fencesItsOwnDisk,
  handsOverAmongWrites,
  losesAnothersDisk,
  losesItsOwnDisk,
  losesTheFirst,
  losesTheOther,
  overtakenAtStart,
  plannedMeanwhile,
  restartsUnderGrants,
  type Scene,
} from "./scenes.ts";
import { mostEndangeredFirst } from "./turn-scenes.ts";

const three = [[0, 1, 2]] as const;
const campaign =
  (options: ClusterOptions): Scene =>
  (seed, bugs = {}) =>
    void new ClusterSim(seed, { milliseconds: 8000, volumes: three, ...options, bugs }).run();

const breaks = campaign({
  faults: ["break", "breakUnnoticed", "breakUnnoticed"],
  blocks: 6,
  pace: 0.3,
  diskLatencyMaxUs: 5000,
});
type Hole = readonly [name: string, bugs: ClusterBugs, finder: Scene, seeds: number];

const HOLES: readonly Hole[] = [
  ["grants not waited for", { owner: { grantsNotWaitedFor: true } }, fencesFromElsewhere, 1],
  ["reads without grants", { owner: { readsWithoutGrants: true } }, fencesFromElsewhere, 1],
  ["a fence of the own disk waits for nobody", { isLocalFenceAlone: true }, fencesItsOwnDisk, 1],
  ["grants forgotten at a restart", { isForgetful: true }, restartsUnderGrants, 1],
  ["a fence not told to the local owner", { isLocalFenceSilent: true }, losesItsOwnDisk, 1],
  ["a fence not told to a remote owner", { peer: { silentFence: true } }, losesAnothersDisk, 1],
  ["a dead owner never served", { owner: { deadIsBelieved: true } }, diesTakingOver, 1],
  ["a dead owner was not the last", { owner: { deadIsBelieved: true } }, overtakenAtStart, 1],
  ["a version is enough", { owner: { versionIsEnough: true } }, plannedMeanwhile, 1],
  ["equal stamps skipped", { owner: { equalStampsSkipped: true } }, losesTheFirst, 3],
  ["nothing equalised", { owner: { noEqualise: true } }, diesAmongWrites, 1],
  ["acked before all members", { owner: { ackBeforeShrink: true } }, losesTheOther, 1],
  ["turns in the order of asking", { isUnordered: true }, mostEndangeredFirst, 3],
  [
    "surrendered before the drain",
    { owner: { surrenderBeforeDrain: true } },
    handsOverAmongWrites,
    1,
  ],
  ["a hand-over is believed", { owner: { handedIsClean: true } }, goesBackToHandOver, 1],
  ["an epoch is used twice", { owner: { epochTwice: true } }, goesBackAnEpoch, 1],
  ["a planned copy counts at once", { isNewCounted: true }, losesMore, 1],
  ["the old copy goes before the new one is there", { isOldDropped: true }, emptied, 1],
  ["a copy is put out before the new one is there", { isLeavingEarly: true }, emptied, 1],
  ["a plan is carried out whatever has changed", { isPlanUnguarded: true }, plannedTooLate, 1],
  ["the old connection lives", { peer: { oldConnectionLives: true } }, breaks, 4],
  ["a resume does not drain", { peer: { resumeWithoutDrain: true } }, breaks, 4],
];

for (const [name, bugs, finder, seeds] of HOLES) {
  test(`the hole is found: ${name}`, (t) => {
    const found = findHole(finder, bugs, seeds);
    assert.notEqual(found, null, `${seeds} seeds did not find it`);
    const [seed, error] = found as readonly [number, Error];
    t.diagnostic(`seed ${seed}: ${error.message}`);
    // The very run that found it is sound without the hole.
    finder(seed, {});
  });
}
