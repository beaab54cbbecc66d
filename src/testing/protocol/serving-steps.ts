// Serving, in the protocol model: writes to all members, the shrink before an answer, sessions that
// are resumed, grants, and reads.

import { ownerEnds, sendSwap } from "./metadata-steps.ts";
import { fenceReplica } from "./replica-steps.ts";
import { refuses } from "./restore-steps.ts";
import {
  ACKED,
  ANSWER,
  ANSWERED,
  BLOCK,
  BROKEN,
  CARRIED,
  CAS_EXCLUDE,
  CAS_HAND_OVER,
  CAS_KIND,
  COMMITTED,
  CONNECTED,
  COPY,
  columnAt,
  copyAt,
  DATA,
  EMPTY,
  EPOCH,
  FLOATING_KIND,
  FLOATING_REVISION,
  GRANT_COUNTED,
  GRANT_HELD,
  GUEST,
  hasOpen,
  IMAGE_STAMP,
  IN_CAS,
  isOwn,
  isReachable,
  KNOWN_COMMITTED,
  KNOWN_REVISION,
  LATE,
  NEXT_SEQUENCE,
  OWNERS,
  ownerAt,
  PHASE,
  PHASE_FENCING,
  PHASE_NONE,
  PHASE_SERVING,
  READ,
  READ_FLOOR,
  READ_GRANTED,
  READ_HAS_VALUE,
  READ_IS_OLD,
  READ_VALUE,
  REPLICA_EPOCH,
  REPLICAS,
  SETTLED,
  STAMP,
  type Step,
  stampOf,
  TRAVELLING,
  UP,
  VIEW,
  VIEW_COUNTED,
  VIEW_ENTERING,
  VIEW_OUT,
  VIEW_RESYNCING,
  versionOf,
  viewAt,
  WRITE_COUNT,
  WRITER,
  writeAt,
} from "./state.ts";
import { takeGrant } from "./takeover-steps.ts";

/** What a broken state says of itself. */
export const READ_WENT_BACK = 1;
export const LATE_ACK = 2;

export function servingSteps(step: Step, owner: number): void {
  const phase = step.state[ownerAt(owner) + PHASE];
  if (phase < PHASE_FENCING) return;
  for (let replica = 0; replica < REPLICAS; replica++) {
    resumeSession(step, owner, replica);
    exclude(step, owner, replica);
    if (phase === PHASE_SERVING && step.scope.reads) grantExpires(step, owner, replica);
    if (phase === PHASE_SERVING && step.scope.restores === 1) tellsWatermark(step, owner, replica);
  }
  if (phase !== PHASE_SERVING) return;
  for (let block = 0; block < step.scope.blocks; block++) issue(step, owner, block);
  for (let write = 0; write < step.state[WRITE_COUNT]; write++) ack(step, owner, write);
  if (step.scope.reads) reads(step, owner);
  if (step.scope.handsOver === true) handsOver(step, owner);
  else surrender(step, owner);
}

/** A new session in the same epoch: what is not answered is sent again. */
function resumeSession(step: Step, owner: number, replica: number): void {
  const { state } = step;
  const view = viewAt(replica, owner);
  const column = columnAt(replica);
  const epoch = state[ownerAt(owner) + EPOCH];
  const isMember = state[view + VIEW] === VIEW_COUNTED || state[view + VIEW] === VIEW_ENTERING;
  if (!isMember || state[view + CONNECTED] === 1) return;
  if (state[column + UP] === 0 || state[column + REPLICA_EPOCH] !== epoch) return;
  if (state[ownerAt(owner) + PHASE] !== PHASE_SERVING && state[view + ANSWERED] === 0) return;
  if (refuses(step, owner, replica)) return;
  const next = step.begin();
  fenceReplica(step, owner, replica);
  for (let write = 0; write < next[WRITE_COUNT]; write++) {
    const copy = copyAt(replica, write);
    if (isOwn(next, owner, write) && next[copy + ANSWER] === 1) next[copy + COPY] = TRAVELLING;
  }
  const isServing = next[ownerAt(owner) + PHASE] === PHASE_SERVING;
  if (isServing) takeGrant(next, owner, replica);
  step.end("resumes the session", owner, replica, 0);
}

/** A member that cannot be reached is put out of the record; never the last one. */
function exclude(step: Step, owner: number, replica: number): void {
  const { state } = step;
  const at = ownerAt(owner);
  const view = viewAt(replica, owner);
  if (state[at + CAS_KIND] !== 0 || state[view + VIEW] !== VIEW_COUNTED) return;
  if (state[view + CONNECTED] === 1) return;
  const isTakingOver = state[at + PHASE] !== PHASE_SERVING;
  if (isTakingOver && isHeardFirst(step, owner, replica)) return;
  let others = 0;
  for (let other = 0; other < REPLICAS; other++) {
    const otherView = viewAt(other, owner);
    if (other === replica || state[otherView + VIEW] !== VIEW_COUNTED) continue;
    if (!isTakingOver || state[otherView + ANSWERED] === 1) others += 1;
  }
  if (others === 0) return;
  const next = step.begin();
  next[view + IN_CAS] = 1;
  sendSwap(next, owner, CAS_EXCLUDE, state[at + COMMITTED]);
  step.end("asks to exclude", owner, replica, 0);
}

/**
 * The watermark also travels alone. What it covers is not equalised, so a member that lacks it must
 * not be counted by a record that has forgotten so.
 */
function tellsWatermark(step: Step, owner: number, replica: number): void {
  const { state } = step;
  const column = columnAt(replica);
  const committed = state[ownerAt(owner) + COMMITTED];
  if (state[viewAt(replica, owner) + VIEW] !== VIEW_COUNTED) return;
  if (state[column + KNOWN_COMMITTED] >= committed || !isReachable(state, owner, replica)) return;
  step.begin()[column + KNOWN_COMMITTED] = committed;
  step.end("hears what is durable", owner, replica, 0);
}

/** Where the metadata may have gone back: see restore-steps.ts. */
function isHeardFirst(step: Step, owner: number, replica: number): boolean {
  const { state, scope, holes } = step;
  if (scope.restores === undefined || scope.isUnheard === true) return false;
  if (state[columnAt(replica) + UP] === 0) return false;
  return !(holes.has("refusedIsPutOut") && refuses(step, owner, replica));
}

function issue(step: Step, owner: number, block: number): void {
  const { state, scope, holes } = step;
  const at = ownerAt(owner);
  const write = state[WRITE_COUNT];
  if (write === scope.writes) return;
  if (!holes.has("overlappingWrites") && hasOpen(state, owner, block)) return;
  if (!holes.has("resyncWithoutLock") && state[at + IMAGE_STAMP] !== 0) return;
  const next = step.begin();
  const fields = writeAt(write);
  const sequence = next[at + NEXT_SEQUENCE];
  next[WRITE_COUNT] += 1;
  next[at + NEXT_SEQUENCE] += 1;
  next[fields + STAMP] = stampOf(next[at + EPOCH], sequence);
  next[fields + BLOCK] = block;
  if (holes.has("watermarkBeforeAck")) next[at + COMMITTED] = next[fields + STAMP];
  next[fields + CARRIED] = next[at + COMMITTED];
  next[LATE + write] = isOvertaken(next, owner) ? 1 : 0;
  if (scope.restores === 1) next[WRITER + write] = owner + 1;
  for (let replica = 0; replica < REPLICAS; replica++) {
    const view = viewAt(replica, owner);
    if (next[view + VIEW] === VIEW_OUT) continue;
    const copy = copyAt(replica, write);
    next[copy + ANSWER] = 1;
    if (next[view + CONNECTED] === 1) next[copy + COPY] = TRAVELLING;
  }
  step.end("writes", owner, 0, block);
}

function isOvertaken(state: Uint8Array, owner: number): boolean {
  for (let other = 0; other < OWNERS; other++) {
    const at = ownerAt(other);
    if (state[at + PHASE] === PHASE_SERVING && state[at + EPOCH] > state[ownerAt(owner) + EPOCH]) {
      return true;
    }
  }
  return false;
}

function ack(step: Step, owner: number, write: number): void {
  const { state } = step;
  const fields = writeAt(write);
  if (!isOwn(state, owner, write)) return;
  if (state[fields + ACKED] === 1 || !mayAnswer(step, owner, write)) return;
  const next = step.begin();
  next[fields + ACKED] = 1;
  if (next[LATE + write] === 1) next[BROKEN] = LATE_ACK;
  settle(next, next[fields + BLOCK], write + 1);
  if (!step.holes.has("watermarkBeforeAck")) advanceWatermark(next, owner);
  step.end("answers", owner, 0, write);
}

function mayAnswer(step: Step, owner: number, write: number): boolean {
  const { state, holes } = step;
  let durableCount = 0;
  for (let replica = 0; replica < REPLICAS; replica++) {
    const view = viewAt(replica, owner);
    const answer = state[copyAt(replica, write) + ANSWER];
    if (answer === 2) durableCount += 1;
    if (answer !== 1) continue;
    if (state[view + VIEW] === VIEW_COUNTED) {
      if (!holes.has("ackBeforeShrink") || state[view + CONNECTED] === 1) return false;
    }
    if (state[view + VIEW] === VIEW_ENTERING && !holes.has("reentryCountsLater")) return false;
  }
  return durableCount > 0;
}

function settle(next: Uint8Array, block: number, value: number): void {
  const settled = next[SETTLED + block];
  if (versionOf(next, value) > versionOf(next, settled)) next[SETTLED + block] = value;
}

/** Up to it, every write of this incarnation is answered. */
function advanceWatermark(next: Uint8Array, owner: number): void {
  const at = ownerAt(owner);
  for (let write = 0; write < next[WRITE_COUNT]; write++) {
    const stamp = next[writeAt(write) + STAMP];
    if (stamp === next[at + COMMITTED] + 1 && next[writeAt(write) + ACKED] === 1) {
      next[at + COMMITTED] = stamp;
    }
  }
}

/**
 * A grant is renewed while its giver can be reached in this epoch; to let it expire sooner would only
 * forbid reads. Once a newer owner has been there it may expire at any time.
 */
function grantExpires(step: Step, owner: number, replica: number): void {
  const { state } = step;
  const view = viewAt(replica, owner);
  if (state[view + GRANT_HELD] === 0 && state[view + GRANT_COUNTED] === 0) return;
  if (state[columnAt(replica) + REPLICA_EPOCH] <= state[ownerAt(owner) + EPOCH]) return;
  const next = step.begin();
  next[view + GRANT_HELD] = 0;
  next[view + GRANT_COUNTED] = 0;
  step.end("loses the grant", owner, replica, 0);
}

/** Unexpired grants from all that may be counted in the record. */
function holdsGrants(step: Step, owner: number): boolean {
  const { state, holes } = step;
  const kind = state[ownerAt(owner) + CAS_KIND];
  for (let replica = 0; replica < REPLICAS; replica++) {
    const view = viewAt(replica, owner);
    const role = state[view + VIEW];
    if (role === VIEW_OUT || role === VIEW_RESYNCING) continue;
    if (role === VIEW_ENTERING && holes.has("enteringNotAsked")) continue;
    const isLeaving = state[view + IN_CAS] === 1 && kind === CAS_EXCLUDE;
    if (isLeaving && holes.has("excludedNotAsked")) continue;
    if (state[view + GRANT_HELD] === 0) return false;
  }
  return true;
}

function reads(step: Step, owner: number): void {
  const { state } = step;
  const at = ownerAt(owner);
  if (state[at + READ] === 0) {
    for (let block = 0; block < step.scope.blocks; block++) {
      if (!step.holes.has("readUncommitted") && hasUnanswered(state, owner, block)) continue;
      startRead(step, owner, block);
    }
  } else if (state[at + READ_HAS_VALUE] === 0) {
    for (let replica = 0; replica < REPLICAS; replica++) takeValue(step, owner, replica);
  } else {
    completeRead(step, owner);
  }
}

function hasUnanswered(state: Uint8Array, owner: number, block: number): boolean {
  for (let write = 0; write < state[WRITE_COUNT]; write++) {
    const fields = writeAt(write);
    if (!isOwn(state, owner, write)) continue;
    if (state[fields + BLOCK] === block && state[fields + ACKED] === 0) return true;
  }
  return false;
}

function startRead(step: Step, owner: number, block: number): void {
  const next = step.begin();
  const at = ownerAt(owner);
  next[at + READ] = 1 + block;
  next[at + READ_FLOOR] = next[SETTLED + block];
  if (step.holes.has("grantsAtStart")) next[at + READ_GRANTED] = holdsGrants(step, owner) ? 1 : 0;
  step.end("begins to read", owner, 0, block);
}

function takeValue(step: Step, owner: number, replica: number): void {
  const { state } = step;
  const at = ownerAt(owner);
  if (state[viewAt(replica, owner) + VIEW] !== VIEW_COUNTED) return;
  if (!isReachable(state, owner, replica)) return;
  const next = step.begin();
  const value = next[columnAt(replica) + DATA + next[at + READ] - 1];
  const isOld = versionOf(next, value) < versionOf(next, next[at + READ_FLOOR]);
  next[at + READ_HAS_VALUE] = 1;
  next[at + READ_FLOOR] = 0;
  next[at + READ_IS_OLD] = isOld ? 1 : 0;
  next[at + READ_VALUE] = value;
  step.end("reads", owner, replica, next[at + READ] - 1);
}

/** What it read may be of a write that began meanwhile: then it waits for that write's answer. */
function completeRead(step: Step, owner: number): void {
  const { state, holes } = step;
  const at = ownerAt(owner);
  const block = state[at + READ] - 1;
  const mayBeUnanswered = holes.has("readUncommitted") || holes.has("readOvertaken");
  if (!mayBeUnanswered && hasUnanswered(state, owner, block)) return;
  if (!holes.has("readsWithoutGrants")) {
    const isGranted = holes.has("grantsAtStart")
      ? state[at + READ_GRANTED] === 1
      : holdsGrants(step, owner);
    if (!isGranted) return;
  }
  const next = step.begin();
  const value = next[at + READ_VALUE];
  if (next[at + READ_IS_OLD] === 1) next[BROKEN] = READ_WENT_BACK;
  settle(next, block, value);
  for (let field = READ; field <= READ_GRANTED; field++) next[at + field] = 0;
  step.end("answers the read", owner, 0, value === EMPTY ? 0 : value);
}

/**
 * Names the other slot. Nothing is under way, and whatever becomes of the swap, this incarnation
 * answers nothing any more: a migration that is called off takes the volume back like anybody.
 */
function handsOver(step: Step, owner: number): void {
  const { state, scope, holes } = step;
  const at = ownerAt(owner);
  const other = ownerAt(1 - owner);
  if (state[at + EPOCH] >= scope.epochs || state[at + FLOATING_KIND] !== 0) return;
  if (state[other + PHASE] !== PHASE_NONE || state[other + FLOATING_KIND] !== 0) return;
  const isAtRest = state[at + READ] === 0 && !hasOpen(state, owner, -1);
  if (state[at + CAS_KIND] !== 0 || (!isAtRest && !holes.has("handedBeforeDrain"))) return;
  const next = step.begin();
  next[at + FLOATING_KIND] = CAS_HAND_OVER;
  next[at + FLOATING_REVISION] = next[at + KNOWN_REVISION];
  next[GUEST] = 0;
  if (!holes.has("cancelGoesOn")) ownerEnds(next, owner);
  step.end("hands over", owner, 0, 0);
}

/** Lets go of the volume: nothing under way, and no grant held from here on. */
function surrender(step: Step, owner: number): void {
  const { state } = step;
  const at = ownerAt(owner);
  if (state[at + CAS_KIND] !== 0 || state[at + READ] !== 0 || hasOpen(state, owner, -1)) return;
  ownerEnds(step.begin(), owner);
  step.end("surrenders", owner, 0, 0);
}
