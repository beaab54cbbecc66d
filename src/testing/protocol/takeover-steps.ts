// Taking a volume over, in the protocol model: claim the record, fence the members, put those that
// cannot be reached out of the record, wait out the old owner's grants, equalise, serve.

import { dropMember, sendSwap } from "./metadata-steps.ts";
import { fenceReplica } from "./replica-steps.ts";
import {
  ANSWERED,
  BREAKS,
  CAS_KIND,
  CAS_TAKEOVER,
  COMMITTED,
  CONNECTED,
  columnAt,
  DATA,
  DONE,
  EPOCH,
  FLOATING_KIND,
  GRANT_COUNTED,
  GRANT_HELD,
  IMAGE,
  IMAGE_STAMP,
  isReachable,
  KNOWN_COMMITTED,
  KNOWN_REVISION,
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
  REVISION,
  SLAB_STAMP,
  type Step,
  stampOf,
  UP,
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

/** Reads the record and claims the next epoch. */
function claim(step: Step, owner: number): void {
  const { state, scope } = step;
  const at = ownerAt(owner);
  if (state[RECORD_EPOCH] >= scope.epochs || state[at + FLOATING_KIND] !== 0) return;
  // Who has handed the volume over does not ask for it again; who has crashed does.
  const hasCrashed = state[OWNER_CRASHES] < scope.ownerCrashes;
  if (state[RECORD_OWNER] === owner + 1 && !hasCrashed) return;
  const next = step.begin();
  next[at + PHASE] = PHASE_CLAIMING;
  next[at + EPOCH] = next[RECORD_EPOCH] + 1;
  next[at + KNOWN_REVISION] = next[REVISION];
  for (let replica = 0; replica < REPLICAS; replica++) {
    if (next[columnAt(replica) + OUT] === 0) next[viewAt(replica, owner) + VIEW] = VIEW_COUNTED;
  }
  sendSwap(next, owner, CAS_TAKEOVER, 0);
  step.end("claims", owner, 0, 0);
}

function fence(step: Step, owner: number, replica: number): void {
  const { state } = step;
  const view = viewAt(replica, owner);
  const column = columnAt(replica);
  const epoch = state[ownerAt(owner) + EPOCH];
  if (state[view + VIEW] !== VIEW_COUNTED || state[view + ANSWERED] === 1) return;
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
  if (state[ownerAt(owner) + CAS_KIND] !== 0) return;
  const members = membersOf(state, owner);
  const answered = members.filter((replica) => state[viewAt(replica, owner) + ANSWERED] === 1);
  if (answered.length === 0) return;
  const mayLeaveOut = holes.has("serveWithoutExclusion");
  if (answered.length < members.length && !mayLeaveOut) return;
  if (step.scope.reads && !holes.has("grantsNotWaitedFor")) {
    for (const replica of answered) if (grantsToOthers(state, owner, replica)) return;
  }
  const stamps = answered.map((replica) => state[columnAt(replica) + SLAB_STAMP]);
  const highest = Math.max(...stamps);
  let isNeeded = highest > state[ownerAt(owner) + COMMITTED];
  if (holes.has("noEqualise")) isNeeded = false;
  if (holes.has("equalStampsSkipped") && stamps.every((stamp) => stamp === highest)) {
    isNeeded = false;
  }
  if (!isNeeded) {
    begin(step, owner, answered);
    startServing(step.next, owner, 0);
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
  startServing(step.begin(), owner, 1);
  step.end("serves", owner, 0, 0);
}

function startServing(next: Uint8Array, owner: number, sequence: number): void {
  const at = ownerAt(owner);
  next[at + PHASE] = PHASE_SERVING;
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
