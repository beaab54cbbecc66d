// What replicas and the network do in the protocol model: deliver, refuse, make durable, crash,
// come back; and the fence, which an owner's steps call.

import { fenceNoted, nodeNotes } from "./restore-steps.ts";
import {
  ANSWER,
  BLOCK,
  BREAKS,
  CARRIED,
  CONNECTED,
  COPY,
  columnAt,
  copyAt,
  DATA,
  EPOCH,
  epochOf,
  GRANT_COUNTED,
  isOwn,
  KNOWN_COMMITTED,
  NOT_NAMED,
  OLD_COPY,
  OUT,
  OWNERS,
  ownerAt,
  QUEUED,
  REPLICA_CRASHES,
  REPLICA_EPOCH,
  REPLICAS,
  SLAB_STAMP,
  STAMP,
  type Step,
  TRAVELLING,
  UP,
  viewAt,
  WRITE_COUNT,
  writeAt,
} from "./state.ts";

export function replicaSteps(step: Step): void {
  for (let replica = 0; replica < REPLICAS; replica++) {
    messageSteps(step, replica);
    crashAndRestart(step, replica);
    for (let owner = 0; owner < OWNERS; owner++) sessionBreaks(step, owner, replica);
  }
}

function messageSteps(step: Step, replica: number): void {
  const { state } = step;
  const column = columnAt(replica);
  if (state[column + UP] === 0) return;
  for (let write = 0; write < state[WRITE_COUNT]; write++) {
    const copy = copyAt(replica, write);
    const isCurrent = epochOf(state[writeAt(write) + STAMP]) === state[column + REPLICA_EPOCH];
    if (state[copy + COPY] === TRAVELLING && isCurrent) {
      step.begin()[copy + COPY] = QUEUED;
      step.end("arrives", 0, replica, write);
    }
    if (state[copy + COPY] === QUEUED) {
      const next = step.begin();
      makeDurable(next, replica, write);
      next[copy + COPY] = 0;
      next[copy + ANSWER] = 2;
      step.end("is durable", 0, replica, write);
    }
    if (state[copy + OLD_COPY] === TRAVELLING && isCurrent) {
      step.begin()[copy + OLD_COPY] = QUEUED;
      step.end("arrives late", 0, replica, write);
    }
    if (state[copy + OLD_COPY] === QUEUED) {
      const next = step.begin();
      makeDurable(next, replica, write);
      next[copy + OLD_COPY] = 0;
      step.end("is durable, unheard", 0, replica, write);
    }
  }
}

function makeDurable(next: Uint8Array, replica: number, write: number): void {
  const column = columnAt(replica);
  const fields = writeAt(write);
  next[column + DATA + next[fields + BLOCK]] = write + 1;
  next[column + SLAB_STAMP] = Math.max(next[column + SLAB_STAMP], next[fields + STAMP]);
  next[column + KNOWN_COMMITTED] = Math.max(next[column + KNOWN_COMMITTED], next[fields + CARRIED]);
}

/** What is not durable yet is lost, and every session ends. Durable data, epochs and stamps stay. */
function crashAndRestart(step: Step, replica: number): void {
  const { state, scope } = step;
  const column = columnAt(replica);
  if (scope.members === 2 && state[column + OUT] === NOT_NAMED) return;
  if (state[column + UP] === 0) {
    step.begin()[column + UP] = 1;
    if (scope.restores === 1) nodeNotes(step, replica);
    step.end("restarts", 0, replica, 0);
    return;
  }
  if (state[REPLICA_CRASHES] === 0) return;
  const next = step.begin();
  next[REPLICA_CRASHES] -= 1;
  next[column + UP] = 0;
  for (let owner = 0; owner < OWNERS; owner++) {
    next[viewAt(replica, owner) + CONNECTED] = 0;
    if (step.holes.has("restartForgetsGrants")) next[viewAt(replica, owner) + GRANT_COUNTED] = 0;
  }
  for (let write = 0; write < state[WRITE_COUNT]; write++) {
    next[copyAt(replica, write) + COPY] = 0;
    next[copyAt(replica, write) + OLD_COPY] = 0;
  }
  step.end("crashes", 0, replica, 0);
}

function sessionBreaks(step: Step, owner: number, replica: number): void {
  const { state } = step;
  if (state[BREAKS] === 0 || state[viewAt(replica, owner) + CONNECTED] === 0) return;
  const next = step.begin();
  next[BREAKS] -= 1;
  leaveSession(next, owner, replica);
  step.end("session breaks", owner, replica, 0);
}

/** The owner hears nothing more; what it has sent may still arrive. */
export function leaveSession(next: Uint8Array, owner: number, replica: number): void {
  next[viewAt(replica, owner) + CONNECTED] = 0;
  for (let write = 0; write < next[WRITE_COUNT]; write++) {
    if (!isOwn(next, owner, write)) continue;
    const copy = copyAt(replica, write);
    if (next[copy + COPY] === 0) continue;
    next[copy + OLD_COPY] = next[copy + COPY];
    next[copy + COPY] = 0;
  }
}

/**
 * A new session of `owner`: with a higher epoch, a takeover; with the same, a resumption. What has
 * passed the gate becomes durable first, what has not never will.
 */
export function fenceReplica(step: Step, owner: number, replica: number): void {
  const { next, holes } = step;
  const column = columnAt(replica);
  const epoch = next[ownerAt(owner) + EPOCH];
  const isResumption = next[column + REPLICA_EPOCH] === epoch;
  next[column + REPLICA_EPOCH] = epoch;
  if (step.scope.restores === 1) fenceNoted(next, owner, replica);
  for (let other = 0; other < OWNERS; other++) {
    if (other !== owner) next[viewAt(replica, other) + CONNECTED] = 0;
  }
  const isLeftAlone = isResumption
    ? holes.has("oldSessionNotFenced")
    : holes.has("fenceWithoutDrain");
  for (let write = 0; write < next[WRITE_COUNT]; write++) {
    const copy = copyAt(replica, write);
    const left = Math.max(next[copy + COPY], next[copy + OLD_COPY]);
    if (left === 0) continue;
    next[copy + COPY] = 0;
    next[copy + OLD_COPY] = 0;
    const mayStay = isLeftAlone && (isResumption || left === QUEUED);
    if (mayStay) next[copy + OLD_COPY] = left;
    else if (left === QUEUED) makeDurable(next, replica, write);
  }
  next[viewAt(replica, owner) + CONNECTED] = 1;
}
