// Taking a volume over, in the protocol model: claim the record, fence the members, put those that
// cannot be reached out of the record, wait out the old owner's grants, equalise, serve.

import {
  guestGoesOn,
  isNamed,
  noteEndOfBefore,
  WRONG_GUEST,
  wrongGuest,
} from "./hand-over-steps.ts";
import { dropMember, ownerIsGone, sendSwap } from "./metadata-steps.ts";
import { fenceReplica } from "./replica-steps.ts";
import { EPOCH_TWICE, notesEpoch, refuses } from "./restore-steps.ts";
import {
  ANSWERED,
  BREAKS,
  BROKEN,
  CAS_HAND_OVER,
  CAS_KIND,
  CAS_TAKE,
  CAS_TAKEOVER,
  CLEAN_BEFORE,
  COMMITTED,
  CONNECTED,
  columnAt,
  DATA,
  DONE,
  EPOCH,
  epochOf,
  FLOATING_KIND,
  GRANT_COUNTED,
  GRANT_HELD,
  IMAGE,
  IMAGE_STAMP,
  isReachable,
  KNOWN_COMMITTED,
  KNOWN_REVISION,
  KNOWN_VERSION,
  NEXT_SEQUENCE,
  OUT,
  OWNER_CRASHES,
  OWNERS,
  ownerAt,
  PHASE,
  PHASE_CLAIMING,
  PHASE_EQUALISING,
  PHASE_FENCING,
  PHASE_NONE,
  PHASE_SERVING,
  RECORD_EPOCH,
  RECORD_OWNER,
  REPLICA_EPOCH,
  REPLICAS,
  RESTORES,
  REVISION,
  SLAB_STAMP,
  type Step,
  stampOf,
  UP,
  VERSION,
  VIEW,
  VIEW_COUNTED,
  viewAt,
} from "./state.ts";

export function takeoverSteps(step: Step, owner: number): void {
  const at = ownerAt(owner);
  switch (step.state[at + PHASE]) {
    case PHASE_NONE:
      claim(step, owner);
      break;
    case PHASE_FENCING:
      for (let replica = 0; replica < REPLICAS; replica++) fence(step, owner, replica);
      endOfFencing(step, owner);
      break;
    case PHASE_EQUALISING:
      for (let replica = 0; replica < REPLICAS; replica++) rewrite(step, owner, replica);
      serve(step, owner);
      break;
  }
}

/** From here on the replica's promise is renewed for as long as the replica can be reached. */
export function takeGrant(next: Uint8Array, owner: number, replica: number): void {
  next[viewAt(replica, owner) + GRANT_HELD] = 1;
  next[viewAt(replica, owner) + GRANT_COUNTED] = 1;
}

/** Reads the record and claims the next epoch; or the present one, where it is named. */
function claim(step: Step, owner: number): void {
  const { state, scope } = step;
  const at = ownerAt(owner);
  const floating = state[at + FLOATING_KIND];
  // A hand-over that is called off while its swap travels: the volume is taken back.
  const isCalledOff = floating === CAS_HAND_OVER && state[RECORD_OWNER] === owner + 1;
  const isGiven = isNamed(state, owner);
  if ((floating !== 0 && !isCalledOff) || (state[RECORD_EPOCH] >= scope.epochs && !isGiven)) return;
  // Who has handed the volume over does not ask for it again; who has crashed does.
  const hasCrashed = state[OWNER_CRASHES] < scope.ownerCrashes || hasGoneBack(step);
  if (state[RECORD_OWNER] === owner + 1 && !hasCrashed && !isCalledOff && !isGiven) return;
  const next = step.begin();
  next[at + PHASE] = isGiven ? PHASE_FENCING : PHASE_CLAIMING;
  next[at + EPOCH] = next[RECORD_EPOCH] + (isGiven ? 0 : 1);
  next[at + KNOWN_REVISION] = next[REVISION];
  next[at + KNOWN_VERSION] = next[VERSION];
  noteEndOfBefore(next, owner);
  for (let replica = 0; replica < REPLICAS; replica++) {
    if (next[columnAt(replica) + OUT] === 0) next[viewAt(replica, owner) + VIEW] = VIEW_COUNTED;
  }
  const isBack = !isGiven && scope.handsOver === true && !hasGoneBack(step);
  if (isBack && wrongGuest(state, owner)) next[BROKEN] = WRONG_GUEST;
  sendSwap(next, owner, isGiven ? CAS_TAKE : CAS_TAKEOVER, 0);
  step.end(isGiven ? "takes" : "claims", owner, 0, 0);
}

/** Then nobody knows any more who had let go of the volume. */
function hasGoneBack({ state, scope }: Step): boolean {
  return scope.restores === 1 && state[RESTORES] === 0;
}

function fence(step: Step, owner: number, replica: number): void {
  const { state } = step;
  const view = viewAt(replica, owner);
  const column = columnAt(replica);
  const epoch = state[ownerAt(owner) + EPOCH];
  if (state[view + VIEW] !== VIEW_COUNTED || state[view + ANSWERED] === 1) return;
  if (state[column + UP] === 1 && refuses(step, owner, replica)) {
    if (step.holes.has("refusedIsPutOut")) return;
    step.begin();
    ownerIsGone(step, owner);
    step.end("is refused", owner, replica, 0);
    return;
  }
  if (state[column + UP] === 0 || state[column + REPLICA_EPOCH] > epoch) return;
  const next = step.begin();
  fenceReplica(step, owner, replica);
  next[view + ANSWERED] = 1;
  const at = ownerAt(owner);
  next[at + COMMITTED] = Math.max(next[at + COMMITTED], next[column + KNOWN_COMMITTED]);
  step.end("fences", owner, replica, 0);
  if (state[column + REPLICA_EPOCH] === epoch || state[BREAKS] === 0) return;
  step.begin()[BREAKS] -= 1;
  fenceReplica(step, owner, replica);
  step.next[view + CONNECTED] = 0;
  step.end("fences, unheard", owner, replica, 0);
}

function endOfFencing(step: Step, owner: number): void {
  const { state, holes } = step;
  const isTaking = state[ownerAt(owner) + CAS_KIND] === CAS_TAKE && holes.has("servesBeforeOpen");
  if (state[ownerAt(owner) + CAS_KIND] !== 0 && !isTaking) return;
  const members = membersOf(state, owner);
  const answered = members.filter((replica) => state[viewAt(replica, owner) + ANSWERED] === 1);
  if (answered.length === 0) return;
  const mayLeaveOut = holes.has("serveWithoutExclusion");
  if (answered.length < members.length && !mayLeaveOut) return;
  const stamps = answered.map((replica) => state[columnAt(replica) + SLAB_STAMP]);
  const highest = Math.max(...stamps);
  const isAfterHandOver = isClean(step, owner, highest);
  if (step.scope.reads && !holes.has("grantsNotWaitedFor") && !isAfterHandOver) {
    for (const replica of answered) if (grantsToOthers(state, owner, replica)) return;
  }
  let isNeeded = highest > state[ownerAt(owner) + COMMITTED] && !isAfterHandOver;
  if (holes.has("noEqualise")) isNeeded = false;
  if (holes.has("equalStampsSkipped") && stamps.every((stamp) => stamp === highest)) {
    isNeeded = false;
  }
  if (!isNeeded) {
    begin(step, owner, answered);
    startServing(step, owner, 0);
    step.end("serves", owner, 0, 0);
    return;
  }
  for (const replica of answered) {
    const column = columnAt(replica);
    if (state[column + SLAB_STAMP] !== highest || !isReachable(state, owner, replica)) continue;
    const next = begin(step, owner, answered);
    takeImage(next, owner, replica, stampOf(next[ownerAt(owner) + EPOCH], 1));
    next[ownerAt(owner) + PHASE] = PHASE_EQUALISING;
    step.end("reads the slab", owner, replica, 0);
  }
}

/** Nothing was under way when the owner before let go, and nobody has written since. */
function isClean({ state, holes }: Step, owner: number, highest: number): boolean {
  const at = ownerAt(owner);
  const before = state[at + CLEAN_BEFORE];
  if (before === 0) return false;
  return epochOf(highest) < (holes.has("handedIsClean") ? state[at + EPOCH] : before);
}

function begin(step: Step, owner: number, kept: readonly number[]): Uint8Array {
  const next = step.begin();
  for (const replica of membersOf(next, owner)) {
    if (!kept.includes(replica)) dropMember(next, owner, replica);
  }
  return next;
}

function membersOf(state: Uint8Array, owner: number): number[] {
  const members: number[] = [];
  for (let replica = 0; replica < REPLICAS; replica++) {
    if (state[viewAt(replica, owner) + VIEW] === VIEW_COUNTED) members.push(replica);
  }
  return members;
}

function grantsToOthers(state: Uint8Array, owner: number, replica: number): boolean {
  for (let other = 0; other < OWNERS; other++) {
    if (other !== owner && state[viewAt(replica, other) + GRANT_COUNTED] === 1) return true;
  }
  return false;
}

export function takeImage(next: Uint8Array, owner: number, source: number, stamp: number): void {
  const at = ownerAt(owner);
  const column = columnAt(source);
  next[at + IMAGE_STAMP] = stamp;
  next[at + IMAGE] = next[column + DATA];
  next[at + IMAGE + 1] = next[column + DATA + 1];
}

export function putImage(next: Uint8Array, owner: number, target: number): void {
  const at = ownerAt(owner);
  const column = columnAt(target);
  next[column + DATA] = next[at + IMAGE];
  next[column + DATA + 1] = next[at + IMAGE + 1];
  next[column + SLAB_STAMP] = next[at + IMAGE_STAMP];
  next[viewAt(target, owner) + DONE] = 1;
}

export function forgetImage(next: Uint8Array, owner: number): void {
  const at = ownerAt(owner);
  for (let field = IMAGE_STAMP; field <= IMAGE + 1; field++) next[at + field] = 0;
}

function rewrite(step: Step, owner: number, replica: number): void {
  const { state } = step;
  const view = viewAt(replica, owner);
  if (state[view + VIEW] !== VIEW_COUNTED || state[view + DONE] === 1) return;
  if (!isReachable(state, owner, replica)) return;
  putImage(step.begin(), owner, replica);
  step.end("rewrites the slab", owner, replica, 0);
}

function serve(step: Step, owner: number): void {
  const { state } = step;
  if (state[ownerAt(owner) + CAS_KIND] !== 0) return;
  if (membersOf(state, owner).some((replica) => state[viewAt(replica, owner) + DONE] === 0)) return;
  step.begin();
  startServing(step, owner, 1);
  step.end("serves", owner, 0, 0);
}

function startServing({ next, scope }: Step, owner: number, sequence: number): void {
  const at = ownerAt(owner);
  if (scope.handsOver === true) guestGoesOn(next, owner);
  if (scope.restores === 1 && !notesEpoch(next, owner)) next[BROKEN] = EPOCH_TWICE;
  next[at + PHASE] = PHASE_SERVING;
  next[at + CLEAN_BEFORE] = 0;
  next[at + NEXT_SEQUENCE] = sequence + 1;
  next[at + COMMITTED] = stampOf(next[at + EPOCH], sequence);
  forgetImage(next, owner);
  for (let replica = 0; replica < REPLICAS; replica++) {
    const view = viewAt(replica, owner);
    next[view + ANSWERED] = 0;
    next[view + DONE] = 0;
    if (next[view + CONNECTED] === 1) takeGrant(next, owner, replica);
  }
}
