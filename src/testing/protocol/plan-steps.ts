// Whoever plans, in the protocol model: adds a new, empty replica to the record and takes one away,
// with the same swap as owners use; and what an owner makes of a record that others change too.
//
// The planner's own answers may be lost like anybody's: what it does next depends on nothing but the
// record, so that makes no difference.

import { dropMember, knownApplied, ownerEnds } from "./metadata-steps.ts";
import {
  ADDITIONS,
  CAS_EXCLUDE,
  CAS_KIND,
  CAS_REENTER,
  CAS_REVISION,
  CAS_STAGE,
  columnAt,
  EPOCH,
  IN_CAS,
  KNOWN_COMMITTED,
  KNOWN_REVISION,
  NOT_NAMED,
  OUT,
  ownerAt,
  PHASE,
  PHASE_FENCING,
  RECORD_EPOCH,
  RECORD_OWNER,
  REMOVALS,
  REPLICAS,
  REVISION,
  SINCE,
  STAGE_DECIDED,
  STAGE_SENT,
  type Step,
  VIEW,
  VIEW_OUT,
  viewAt,
} from "./state.ts";
import { forgetImage } from "./takeover-steps.ts";

export function planSteps(step: Step): void {
  const { state } = step;
  for (let replica = 0; replica < REPLICAS; replica++) {
    const out = state[columnAt(replica) + OUT];
    if (state[ADDITIONS] > 0 && out === NOT_NAMED) add(step, replica);
    if (state[REMOVALS] > 0 && out !== NOT_NAMED) takeAway(step, replica);
  }
}

/** As out, with a stamp below all others: everything has to be copied. */
function add(step: Step, replica: number): void {
  const { holes } = step;
  const next = step.begin();
  const column = columnAt(replica);
  next[ADDITIONS] -= 1;
  next[REVISION] += 1;
  next[column + OUT] = holes.has("newIsInSync") ? 0 : 1;
  next[column + SINCE] = holes.has("newSinceNow") ? highestCommitted(next) : 0;
  step.end("is added", 0, replica, 0);
}

function highestCommitted(state: Uint8Array): number {
  let highest = 0;
  for (let replica = 0; replica < REPLICAS; replica++) {
    highest = Math.max(highest, state[columnAt(replica) + KNOWN_COMMITTED]);
  }
  return highest;
}

/** Only one that is out: what is in sync is the owner's to decide. */
function takeAway(step: Step, replica: number): void {
  const { state, holes } = step;
  const column = columnAt(replica);
  if (state[column + OUT] === 0 && !(holes.has("inSyncTakenAway") && hasOther(state, replica))) {
    return;
  }
  const next = step.begin();
  next[REMOVALS] -= 1;
  next[REVISION] += 1;
  next[column + OUT] = NOT_NAMED;
  next[column + SINCE] = 0;
  step.end("is taken away", 0, replica, 0);
}

/** The hole's idea of enough: another one is named. */
function hasOther(state: Uint8Array, replica: number): boolean {
  for (let other = 0; other < REPLICAS; other++) {
    if (other !== replica && state[columnAt(other) + OUT] !== NOT_NAMED) return true;
  }
  return false;
}

/** The owner reads the record because somebody said so: who is not named any more is let go of. */
export function looksAtRecord(step: Step, owner: number): void {
  const { state } = step;
  const at = ownerAt(owner);
  if (state[at + PHASE] < PHASE_FENCING || state[at + CAS_KIND] !== 0) return;
  if (state[at + KNOWN_REVISION] === state[REVISION] || !isOurs(state, owner)) return;
  const next = step.begin();
  next[at + KNOWN_REVISION] = next[REVISION];
  for (let replica = 0; replica < REPLICAS; replica++) {
    const isMember = next[viewAt(replica, owner) + VIEW] !== VIEW_OUT;
    if (isMember && next[columnAt(replica) + OUT] === NOT_NAMED) letGo(next, owner, replica);
  }
  step.end("looks at the record", owner, 0, 0);
}

/** What was read for its resync goes with it. */
function letGo(next: Uint8Array, owner: number, replica: number): void {
  dropMember(next, owner, replica);
  forgetImage(next, owner);
}

function isOurs(state: Uint8Array, owner: number): boolean {
  return state[RECORD_OWNER] === owner + 1 && state[RECORD_EPOCH] === state[ownerAt(owner) + EPOCH];
}

/**
 * An owner reads the record after its swap, whose answer it may not have heard. Others change the
 * record too: what counts is not its revision but whether it is as the swap would make it.
 */
export function learnsAmongPlans(step: Step, owner: number): void {
  const { state, holes } = step;
  const at = ownerAt(owner);
  if (state[at + CAS_STAGE] !== STAGE_DECIDED) return;
  if (!isOurs(state, owner)) {
    ownerEnds(step.begin(), owner);
    step.end("learns that it lost", owner, 0, 0);
    return;
  }
  const isNext = state[REVISION] === state[at + CAS_REVISION] + 1;
  if (isFulfilled(state, owner) || (isNext && holes.has("versionIsEnough"))) {
    const kind = state[at + CAS_KIND];
    knownApplied(step, owner);
    const { next } = step;
    next[at + KNOWN_REVISION] = next[REVISION];
    for (let replica = 0; replica < REPLICAS; replica++) {
      const wasAsked = state[viewAt(replica, owner) + IN_CAS] === 1 && kind === CAS_REENTER;
      // Taken away before it was taken in.
      if (wasAsked && next[columnAt(replica) + OUT] === NOT_NAMED) letGo(next, owner, replica);
    }
    step.end("learns that it was applied", owner, 0, 0);
    return;
  }
  const next = step.begin();
  next[at + KNOWN_REVISION] = next[REVISION];
  next[at + CAS_REVISION] = next[REVISION];
  next[at + CAS_STAGE] = STAGE_SENT;
  step.end("asks again", owner, 0, 0);
}

function isFulfilled(state: Uint8Array, owner: number): boolean {
  const kind = state[ownerAt(owner) + CAS_KIND];
  for (let replica = 0; replica < REPLICAS; replica++) {
    if (state[viewAt(replica, owner) + IN_CAS] === 0) continue;
    const out = state[columnAt(replica) + OUT];
    if (kind === CAS_EXCLUDE && out === 0) return false;
    if (kind === CAS_REENTER && out === 1) return false;
  }
  return true;
}
