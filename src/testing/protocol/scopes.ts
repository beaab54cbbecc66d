// How large the protocol model is where it is checked, and for each hole the scope and the step at
// which it is found. docs/replication.md lists the same figures.

import type { Hole, Scope } from "./state.ts";

const SMALL: Scope = {
  blocks: 1,
  writes: 1,
  epochs: 2,
  ownerCrashes: 0,
  replicaCrashes: 0,
  breaks: 0,
  reads: false,
};

const scope = (changes: Partial<Scope>): Scope => ({ ...SMALL, ...changes });

/** The backup was made between a hand-over and its taking. */
const handedBack = {
  handsOver: true,
  startsHanded: true,
  restores: 1,
  ownerCrashes: 1,
  members: 2,
} as const;

/** A member may have been put out since. */
const goingBack = { restores: 1, members: 2, replicaCrashes: 1 } as const;

/** Checked to the end in every test run. */
export const SCOPES: Readonly<Record<string, Scope>> = {
  "a session breaks": scope({ breaks: 1 }),
  "an owner crashes, two writes": scope({ writes: 2, ownerCrashes: 1 }),
  "a replica crashes": scope({ replicaCrashes: 1 }),
  "two takeovers": scope({ epochs: 3 }),
  "reads and grants": scope({ reads: true }),
  "resync, two writes, a session breaks": scope({
    writes: 2,
    epochs: 1,
    breaks: 1,
    startsOut: true,
  }),
  "a member is replaced, a takeover": scope({ replaces: true }),
  "a member is replaced, a session breaks": scope({ replaces: true, epochs: 1, breaks: 1 }),
  "a resync is cut short and goes on, twice": scope({
    writes: 2,
    epochs: 1,
    breaks: 2,
    startsOut: true,
    keeps: true,
  }),
  "a resync is cut short by a crash": scope({
    blocks: 2,
    writes: 2,
    epochs: 1,
    replicaCrashes: 1,
    startsOut: true,
    keeps: true,
  }),
  "a resync is cut short, a takeover": scope({ breaks: 1, startsOut: true, keeps: true }),
  "a resync is cut short, a member is replaced": scope({
    replaces: true,
    epochs: 1,
    breaks: 1,
    keeps: true,
  }),
  "handed over, and called off": scope({ handsOver: true, epochs: 3, members: 2 }),
  "handed over, reads and grants": scope({ handsOver: true, reads: true, epochs: 3, members: 2 }),
  "the metadata goes back, a replica crashes": scope(goingBack),
  "the metadata goes back to a hand-over": scope({ ...handedBack, epochs: 3 }),
  "one owner, two blocks, a crash and a break": scope({
    blocks: 2,
    writes: 2,
    epochs: 1,
    replicaCrashes: 1,
    breaks: 1,
  }),
};

/** Minutes and gigabytes: for the soak run. */
export const LARGE_SCOPES: Readonly<Record<string, Scope>> = {
  "two takeovers, a crash of an owner": scope({ epochs: 3, ownerCrashes: 1 }),
  "a member is replaced, a takeover, a session breaks": scope({ replaces: true, breaks: 1 }),
  "a member is replaced, an owner crashes": scope({ replaces: true, ownerCrashes: 1 }),
  "handed over, an owner crashes": scope({
    handsOver: true,
    epochs: 4,
    ownerCrashes: 1,
    members: 2,
  }),
  "handed over, three members": scope({ handsOver: true, epochs: 3 }),
  "the metadata goes back, two takeovers": scope({ ...goingBack, epochs: 3 }),
  "the metadata goes back, three members": scope({ restores: 1, replicaCrashes: 1 }),
  "two blocks": scope({ blocks: 2, writes: 2 }),
  "two blocks, an owner crashes": scope({ blocks: 2, writes: 2, ownerCrashes: 1 }),
  "reads, two writes": scope({ writes: 2, reads: true }),
  "reads, a replica was out": scope({ reads: true, startsOut: true }),
  "reads, a session breaks": scope({ reads: true, breaks: 1 }),
  "reads, a replica crashes": scope({ reads: true, replicaCrashes: 1 }),
};

interface Finding {
  readonly scope: Scope;
  /** Steps of the shortest way to the harm. */
  readonly steps: number;
}

const out = { startsOut: true, epochs: 1 };
const cutShort = { ...out, writes: 2, breaks: 1, keeps: true };
const replacing = { replaces: true, epochs: 1 };
const handing = { handsOver: true, members: 2 } as const;

export const HOLES: Readonly<Record<Hole, Finding>> = {
  readsWithoutGrants: { scope: scope({ reads: true }), steps: 19 },
  grantsNotWaitedFor: { scope: scope({ reads: true }), steps: 18 },
  restartForgetsGrants: { scope: scope({ reads: true, replicaCrashes: 1 }), steps: 20 },
  excludedNotAsked: { scope: scope({ reads: true, breaks: 1 }), steps: 20 },
  enteringNotAsked: { scope: scope({ reads: true, startsOut: true }), steps: 22 },
  readUncommitted: { scope: scope({ reads: true }), steps: 6 },
  readOvertaken: { scope: scope({ reads: true }), steps: 6 },
  fenceWithoutDrain: { scope: SMALL, steps: 10 },
  serveWithoutExclusion: { scope: SMALL, steps: 9 },
  noEqualise: { scope: SMALL, steps: 9 },
  equalStampsSkipped: { scope: scope({ blocks: 2, writes: 2 }), steps: 13 },
  watermarkBeforeAck: { scope: SMALL, steps: 9 },
  overlappingWrites: { scope: scope({ writes: 2, epochs: 1 }), steps: 11 },
  ackBeforeShrink: { scope: scope({ epochs: 1, breaks: 1 }), steps: 7 },
  oldSessionNotFenced: { scope: scope({ writes: 2, epochs: 1, breaks: 1 }), steps: 20 },
  unknownIsApplied: { scope: scope({ epochs: 1, breaks: 1 }), steps: 10 },
  unknownIsRefused: { scope: scope(out), steps: 10 },
  recordWithoutOwner: { scope: scope({ epochs: 3, ownerCrashes: 1 }), steps: 20 },
  resyncForgetsTarget: { scope: SMALL, steps: 15 },
  resyncForgetsInFlight: { scope: scope(out), steps: 9 },
  resyncWithoutLock: { scope: scope(out), steps: 11 },
  keptThoughWritten: { scope: scope(cutShort), steps: 20 },
  keptUnconfirmed: { scope: scope(cutShort), steps: 20 },
  reentryBeforeConfirmed: { scope: scope(out), steps: 9 },
  reentryCountsLater: { scope: scope(out), steps: 9 },
  newIsInSync: { scope: scope(replacing), steps: 1 },
  newSinceNow: { scope: scope(replacing), steps: 5 },
  inSyncTakenAway: { scope: scope({ replaces: true }), steps: 7 },
  versionIsEnough: { scope: scope({ ...replacing, breaks: 1 }), steps: 9 },
  handedBeforeDrain: { scope: scope(handing), steps: 10 },
  servesBeforeOpen: { scope: scope({ ...handing, epochs: 3, reads: true }), steps: 21 },
  cancelGoesOn: { scope: scope(handing), steps: 10 },
  attachmentLater: { scope: scope({ ...handing, epochs: 3 }), steps: 9 },
  handedIsTaken: { scope: scope({ ...handing, epochs: 3, reads: true }), steps: 23 },
  handedIsClean: { scope: scope({ ...handedBack, epochs: 3 }), steps: 15 },
  olderVersionServed: { scope: scope(goingBack), steps: 17 },
  refusedIsPutOut: { scope: scope(goingBack), steps: 18 },
  epochTwice: { scope: scope({ restores: 1, members: 2, epochs: 3 }), steps: 14 },
  nothingNoted: { scope: scope(goingBack), steps: 17 },
};

/**
 * What disks cannot know: whoever remembers the change that a backup has forgotten must be there,
 * and be heard, before it is put out of that backup's record.
 */
export const LIMITS: Readonly<Record<string, Finding>> = {
  "all that remember are away": { scope: scope({ ...goingBack, replicaCrashes: 2 }), steps: 19 },
  "those that remember are put out unheard": {
    scope: scope({ ...goingBack, isUnheard: true }),
    steps: 18,
  },
};

/** Holes that are found in another scope as well: where a member is replaced. */
export const HOLES_OF_REPLACING: Readonly<Partial<Record<Hole, Finding>>> = {
  reentryBeforeConfirmed: { scope: scope(replacing), steps: 13 },
  resyncWithoutLock: { scope: scope(replacing), steps: 13 },
};

/** Like LARGE_SCOPES. */
export const LARGE_HOLES: Readonly<Partial<Record<Hole, Finding>>> = {
  enteringNotAsked: {
    scope: scope({ reads: true, replaces: true, startsOut: true }),
    steps: 25,
  },
};

/** A variant that does no harm: the grants are looked at when a read begins, not when it ends. */
export const HARMLESS_SCOPE: Scope = scope({ reads: true });
