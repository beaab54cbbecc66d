// Do the tests test? Each flag puts one hole back, into the owner or into the replicas; for each a
// scene or a few seeds of a campaign must find it, and find nothing in the same runs without it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { NO_OWNER_BUGS, type OwnerBugs } from "../../volume/index.ts";
import { findHole } from "../find-hole.ts";
import { type FaultName, ReplicatedSim, type SimOptions } from "./replicated-sim.ts";
import {
  cutShortAmongWrites,
  cutShortThenWritten,
  readsAhead,
  restartsUnderGrants,
  returnsAmongWrites,
  returnsWithMore,
  type Scene,
} from "./scenes.ts";
import type { NodeBugs } from "./sim-node.ts";

interface Bugs {
  readonly owner?: OwnerBugs;
  readonly node?: Partial<NodeBugs>;
}

/** Runs a seed; throws when it finds something. */
type Finder = (seed: number, bugs: Bugs) => void;

const scene = (one: Scene): Finder => one;
const campaign =
  (faults: readonly FaultName[], options: SimOptions = {}): Finder =>
  (seed, bugs) =>
    void new ReplicatedSim(seed, { faults, milliseconds: 8000, ...options, ...bugs }).run();

const cuts = campaign(["cut", "cut", "crashOwner", "metadata"], {
  blocks: 40,
  slowDisk: { chance: 0.2, longestUs: 50_000 },
});
const breaks = campaign(["break", "break", "break", "takeOver"], {
  blocks: 6,
  slowDisk: { chance: 0.2, longestUs: 50_000 },
});
const powerCuts = campaign(["powerCut"], {
  blocks: 6,
  slowDisk: { chance: 0.2, longestUs: 50_000 },
});
const slowDisks = campaign(["takeOver"], {
  blocks: 16,
  slowDisk: { chance: 0.05, longestUs: 4_000_000 },
});
const slowSlabs = campaign(["takeOver"], {
  slowDisk: { chance: 0.3, longestUs: 400_000 },
});
const crashes = campaign(["crashOwner", "crashNode", "cut"], { blocks: 8 });

/** How many seeds, from which on. */
type Found = readonly [Finder, seeds: number, first?: number];

/** Found in testing/cluster/: here nobody is proven dead, hands over by name, plans, or goes back. */
type Elsewhere =
  | "deadIsBelieved"
  | "surrenderBeforeDrain"
  | "versionIsEnough"
  | "handedIsClean"
  | "epochTwice";

const OWNER_FINDERS: Readonly<Record<Exclude<keyof OwnerBugs, Elsewhere>, Found>> = {
  noBlockOrder: [crashes, 5],
  ackBeforeShrink: [crashes, 5],
  readsWithoutGrants: [scene(restartsUnderGrants), 1],
  grantsNotWaitedFor: [scene(restartsUnderGrants), 1],
  serveWithoutExclusion: [crashes, 5],
  readUncommitted: [scene(readsAhead), 1],
  noEqualise: [powerCuts, 12],
  equalStampsSkipped: [powerCuts, 16],
  equaliseEndsEarly: [slowSlabs, 3],
  resyncForgetsTarget: [scene(returnsWithMore), 1],
  resyncForgetsInFlight: [scene(returnsAmongWrites), 1],
  keptThoughWritten: [scene(cutShortThenWritten), 1],
  keptUnconfirmed: [scene(cutShortAmongWrites), 1],
  resyncWithoutLock: [cuts, 8],
  reentryBeforeConfirmed: [cuts, 2, 4],
  unknownIsApplied: [campaign(["cut", "metadata"], { blocks: 32 }), 3, 12],
};

const NODE_FINDERS: Readonly<Record<keyof NodeBugs, Found>> = {
  fenceWithoutDrain: [slowDisks, 8],
  oldSessionNotFenced: [breaks, 8],
  restartForgetsGrants: [scene(restartsUnderGrants), 1],
};

function check(name: string, how: Found, bugs: Bugs): void {
  test(`the hole is found: ${name}`, (t) => {
    const found = findHole(how[0], bugs, how[1], how[2]);
    assert.notEqual(found, null, `${how[1]} seeds did not find it`);
    const [seed, error] = found as readonly [number, Error];
    t.diagnostic(`seed ${seed}: ${error.message}`);
    // The very run that found it is sound without the hole.
    how[0](seed, {});
  });
}

for (const [name, how] of Object.entries(OWNER_FINDERS)) {
  check(name, how, { owner: { ...NO_OWNER_BUGS, [name]: true } });
}
for (const [name, how] of Object.entries(NODE_FINDERS)) {
  check(name, how, { node: { [name]: true } });
}
