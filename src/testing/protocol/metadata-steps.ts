// The metadata store in the protocol model: one record, changed by compare-and-swap on its revision.
// A swap travels, is applied or refused, and its answer arrives or is lost; the swap of an owner
// that has crashed may still be applied.
//
// An owner that hears no answer reads the record again: where its swap was applied, that is as good as
// the answer; where it was not, the owner repeats the very same swap. So "the answer is lost" is the
// same as "the answer is late" here, and only the holes have a step "gives up".

import {
  handOverApplied,
  isHandedToAsker,
  takeApplied,
  takesWhatItIsGiven,
} from "./hand-over-steps.ts";
import { leaveSession } from "./replica-steps.ts";
import { listChanged } from "./restore-steps.ts";
import {
  ANSWER,
  ATTACHED,
  CAS_EXCLUDE,
  CAS_HAND_OVER,
  CAS_KIND,
  CAS_REENTER,
  CAS_REVISION,
  CAS_SINCE,
  CAS_STAGE,
  CAS_TAKE,
  CAS_TAKEOVER,
  CLEAN_BEFORE,
  columnAt,
  copyAt,
  EPOCH,
  EPOCH_OF,
  FLOATING_KIND,
  FLOATING_REVISION,
  FLOATING_SINCE,
  GRANT_COUNTED,
  GRANT_HELD,
  GUEST,
  IN_CAS,
  IN_FLOATING,
  isOwn,
  KEPT,
  KNOWN_REVISION,
  KNOWN_VERSION,
  NOT_NAMED,
  OUT,
  OWNER_CRASHES,
  ownerAt,
  PHASE,
  PHASE_CLAIMING,
  PHASE_FENCING,
  PHASE_NONE,
  RECORD_EPOCH,
  RECORD_OWNER,
  RECORD_STATE,
  REPLICAS,
  REVISION,
  SINCE,
  STAGE_DECIDED,
  STAGE_GIVEN_UP,
  STAGE_SENT,
  STATE_OPEN,
  type Step,
  VIEW,
  VIEW_COUNTED,
  VIEW_OUT,
  VIEW_RESYNCING,
  viewAt,
  WRITE_COUNT,
} from "./state.ts";

export function metadataSteps(step: Step, owner: number): void {
  const { state } = step;
  const at = ownerAt(owner);
  const isFloating = state[at + FLOATING_KIND] !== 0;
  if (isFloating && state[at + FLOATING_REVISION] === state[REVISION]) {
    floatingSwapArrives(step, owner);
  }
  const stage = state[at + CAS_STAGE];
  if (stage === STAGE_SENT) storeDecides(step, owner);
  // Where others change the record too, see plan-steps.ts.
  if (stage === STAGE_DECIDED && step.scope.replaces !== true) learns(step, owner);
  if (stage >= STAGE_DECIDED) takesForGranted(step, owner);
}

/** The swap leaves; what it is about has been marked IN_CAS. */
export function sendSwap(next: Uint8Array, owner: number, kind: number, since: number): void {
  const at = ownerAt(owner);
  next[at + CAS_KIND] = kind;
  next[at + CAS_STAGE] = STAGE_SENT;
  next[at + CAS_REVISION] = next[at + KNOWN_REVISION];
  next[at + CAS_SINCE] = since;
}

function storeDecides(step: Step, owner: number): void {
  const next = step.begin();
  const at = ownerAt(owner);
  const isApplied = next[at + CAS_REVISION] === next[REVISION];
  if (isApplied) applySwap(step, owner, next[at + CAS_KIND], next[at + CAS_SINCE], IN_CAS);
  next[at + CAS_STAGE] = STAGE_DECIDED;
  step.end(isApplied ? "applies" : "refuses", owner, 0, 0);
  const { holes } = step;
  if (!holes.has("unknownIsApplied") && !holes.has("unknownIsRefused")) return;
  step.begin()[at + CAS_STAGE] = STAGE_GIVEN_UP;
  step.end("gives up", owner, 0, 0);
}

function applySwap(step: Step, owner: number, kind: number, since: number, marked: number): void {
  const { next, scope } = step;
  next[REVISION] += 1;
  if (kind === CAS_HAND_OVER) {
    handOverApplied(step, owner);
    return;
  }
  if (kind === CAS_TAKE) {
    takeApplied(next);
    return;
  }
  if (kind === CAS_TAKEOVER) {
    next[RECORD_EPOCH] += 1;
    next[RECORD_OWNER] = owner + 1;
    if (scope.handsOver === true) {
      next[RECORD_STATE] = STATE_OPEN;
      // Attached where it is taken over: there its guest is started, or goes on.
      next[ATTACHED] = owner + 1;
      next[GUEST] = owner + 1;
    }
    return;
  }
  for (let replica = 0; replica < REPLICAS; replica++) {
    if (next[viewAt(replica, owner) + marked] === 0) continue;
    const column = columnAt(replica);
    if (next[column + OUT] === NOT_NAMED) continue;
    next[column + OUT] = kind === CAS_EXCLUDE ? 1 : 0;
    next[column + SINCE] = kind === CAS_EXCLUDE ? since : 0;
  }
  if (scope.restores === 1) listChanged(step);
}

/** By the answer, or by reading the record again when there was none. */
function learns(step: Step, owner: number): void {
  const { state, holes } = step;
  const at = ownerAt(owner);
  const isNext = state[REVISION] === state[at + CAS_REVISION] + 1;
  const isOurs = holes.has("recordWithoutOwner")
    ? state[RECORD_EPOCH] === state[at + EPOCH]
    : state[RECORD_OWNER] === owner + 1;
  if (isNext && isOurs && isHandedToAsker(step, owner)) {
    takesWhatItIsGiven(step, owner);
    return;
  }
  if (isNext && isOurs) knownApplied(step, owner);
  else ownerEnds(step.begin(), owner);
  step.end(isNext && isOurs ? "learns that it was applied" : "learns that it lost", owner, 0, 0);
}

/** Holes: what is not known is believed. */
function takesForGranted(step: Step, owner: number): void {
  const { state, holes } = step;
  const at = ownerAt(owner);
  const isGivenUp = state[at + CAS_STAGE] === STAGE_GIVEN_UP;
  if (holes.has("unknownIsApplied")) {
    knownApplied(step, owner);
    if (isGivenUp) swapFloats(step.next, state, owner);
    step.end("takes it for applied", owner, 0, 0);
  }
  if (holes.has("unknownIsRefused") && state[at + CAS_KIND] !== CAS_TAKEOVER) {
    takenForRefused(step.begin(), owner);
    if (isGivenUp) swapFloats(step.next, state, owner);
    step.end("takes it for refused", owner, 0, 0);
  }
}

function takenForRefused(next: Uint8Array, owner: number): void {
  const at = ownerAt(owner);
  for (let replica = 0; replica < REPLICAS; replica++) {
    const view = viewAt(replica, owner);
    if (next[view + IN_CAS] === 1 && next[at + CAS_KIND] === CAS_REENTER) {
      next[view + VIEW] = VIEW_RESYNCING;
    }
  }
  clearSwap(next, owner);
}

function clearSwap(next: Uint8Array, owner: number): void {
  const at = ownerAt(owner);
  for (let field = CAS_KIND; field <= CAS_SINCE; field++) next[at + field] = 0;
  for (let replica = 0; replica < REPLICAS; replica++) next[viewAt(replica, owner) + IN_CAS] = 0;
}

export function knownApplied(step: Step, owner: number): void {
  const next = step.begin();
  const at = ownerAt(owner);
  const kind = next[at + CAS_KIND];
  if (next[at + PHASE] === PHASE_CLAIMING) next[at + PHASE] = PHASE_FENCING;
  next[at + KNOWN_REVISION] = next[at + CAS_REVISION] + 1;
  const isOfList = kind === CAS_EXCLUDE || kind === CAS_REENTER;
  if (isOfList && step.scope.restores === 1) next[at + KNOWN_VERSION] += 1;
  for (let replica = 0; replica < REPLICAS; replica++) {
    const view = viewAt(replica, owner);
    if (next[view + IN_CAS] === 0) continue;
    next[view + KEPT] = 0;
    if (kind === CAS_REENTER) next[view + VIEW] = VIEW_COUNTED;
    else dropMember(next, owner, replica);
  }
  clearSwap(next, owner);
}

/** The owner has nothing more to do with the replica. */
export function dropMember(next: Uint8Array, owner: number, replica: number): void {
  leaveSession(next, owner, replica);
  const view = viewAt(replica, owner);
  const isInSwap = next[view + IN_CAS];
  const isFloating = next[view + IN_FLOATING];
  for (let field = VIEW; field < IN_CAS; field++) next[view + field] = 0;
  next[view + VIEW] = VIEW_OUT;
  next[view + KEPT] = 0;
  next[view + IN_CAS] = isInSwap;
  next[view + IN_FLOATING] = isFloating;
  for (let write = 0; write < next[WRITE_COUNT]; write++) {
    if (isOwn(next, owner, write)) next[copyAt(replica, write) + ANSWER] = 0;
  }
}

/**
 * An incarnation ends: it surrenders, or crashes. A grant that it held is forgotten on both sides:
 * one that nobody holds only makes others wait, and what waits may as well have waited already.
 */
export function ownerEnds(next: Uint8Array, owner: number): void {
  const at = ownerAt(owner);
  for (let replica = 0; replica < REPLICAS; replica++) {
    const view = viewAt(replica, owner);
    dropMember(next, owner, replica);
    for (const field of [IN_CAS, GRANT_COUNTED, GRANT_HELD, IN_FLOATING + 1])
      next[view + field] = 0;
    const column = columnAt(replica);
    if (next[column + EPOCH_OF] === owner + 1) next[column + EPOCH_OF] = 0;
  }
  for (let field = PHASE; field <= CAS_SINCE; field++) next[at + field] = 0;
  for (let field = FLOATING_SINCE + 1; field <= CLEAN_BEFORE; field++) next[at + field] = 0;
}

/**
 * An incarnation ends at any moment. Its swap, if it is on its way, goes on; unless an earlier one of
 * the same slot still does, a hand-over that was called off: then it has never left.
 */
export function ownerIsGone({ state, next }: Step, owner: number): void {
  const at = ownerAt(owner);
  const isFirst = state[at + FLOATING_KIND] === 0;
  if (state[at + CAS_STAGE] === STAGE_SENT && isFirst) swapFloats(next, state, owner);
  ownerEnds(next, owner);
}

/** An owner's process ends. */
export function ownerCrashes(step: Step, owner: number): void {
  const { state } = step;
  const at = ownerAt(owner);
  if (state[OWNER_CRASHES] === 0 || state[at + PHASE] === PHASE_NONE) return;
  step.begin()[OWNER_CRASHES] -= 1;
  ownerIsGone(step, owner);
  step.end("owner crashes", owner, 0, 0);
}

function swapFloats(next: Uint8Array, before: Uint8Array, owner: number): void {
  const at = ownerAt(owner);
  next[at + FLOATING_KIND] = before[at + CAS_KIND];
  next[at + FLOATING_REVISION] = before[at + CAS_REVISION];
  next[at + FLOATING_SINCE] = before[at + CAS_SINCE];
  for (let replica = 0; replica < REPLICAS; replica++) {
    next[viewAt(replica, owner) + IN_FLOATING] = before[viewAt(replica, owner) + IN_CAS];
  }
}

function floatingSwapArrives(step: Step, owner: number): void {
  const next = step.begin();
  const at = ownerAt(owner);
  applySwap(step, owner, next[at + FLOATING_KIND], next[at + FLOATING_SINCE], IN_FLOATING);
  forgetFloating(next, owner);
  step.end("applies a late swap", owner, 0, 0);
}

/** A swap of an older revision can never be applied. */
export function forgetFloating(next: Uint8Array, owner: number): void {
  const at = ownerAt(owner);
  next[at + FLOATING_KIND] = 0;
  next[at + FLOATING_REVISION] = 0;
  next[at + FLOATING_SINCE] = 0;
  for (let replica = 0; replica < REPLICAS; replica++) {
    next[viewAt(replica, owner) + IN_FLOATING] = 0;
  }
}
