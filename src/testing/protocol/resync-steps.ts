// Bringing a returned replica back, in the protocol model: fence it, copy the slab under its lock
// where the stamps say so, take it into the record. The model has one slab.
//
// Under `keeps` an owner that gives a resync up remembers that the slab was copied, and up to which
// stamp the replica has confirmed what it was sent. It forgets that with its epoch, and when it puts
// the replica out or lets go of it; not when others change the record, of which it may not know.

import { dropMember, sendSwap } from "./metadata-steps.ts";
import { fenceReplica } from "./replica-steps.ts";
import { refuses } from "./restore-steps.ts";
import {
  ANSWER,
  CAS_KIND,
  CAS_REENTER,
  columnAt,
  copyAt,
  DONE,
  EPOCH,
  GRANT_HELD,
  hasOpen,
  IMAGE_STAMP,
  IN_CAS,
  isOwn,
  isReachable,
  KEPT,
  NEXT_SEQUENCE,
  OUT,
  ownerAt,
  PHASE,
  PHASE_SERVING,
  REPLICA_EPOCH,
  REPLICAS,
  SINCE,
  SLAB_STAMP,
  STAMP,
  type Step,
  stampOf,
  UP,
  VIEW,
  VIEW_COUNTED,
  VIEW_ENTERING,
  VIEW_OUT,
  VIEW_RESYNCING,
  viewAt,
  WRITE_COUNT,
  writeAt,
} from "./state.ts";
import { forgetImage, putImage, takeGrant, takeImage } from "./takeover-steps.ts";

export function resyncSteps(step: Step, owner: number): void {
  const { state } = step;
  if (state[ownerAt(owner) + PHASE] !== PHASE_SERVING) return;
  for (let replica = 0; replica < REPLICAS; replica++) {
    switch (state[viewAt(replica, owner) + VIEW]) {
      case VIEW_OUT:
        startResync(step, owner, replica);
        break;
      case VIEW_RESYNCING:
        copySlab(step, owner, replica);
        reenter(step, owner, replica);
        giveUp(step, owner, replica);
        break;
    }
  }
}

/** New writes go to it from here on; it counts for nothing. One at a time. */
function startResync(step: Step, owner: number, replica: number): void {
  const { state, holes } = step;
  const at = ownerAt(owner);
  const column = columnAt(replica);
  if (state[at + CAS_KIND] !== 0 || state[column + UP] === 0 || state[column + OUT] !== 1) return;
  if (state[column + REPLICA_EPOCH] > state[at + EPOCH] || refuses(step, owner, replica)) return;
  for (let other = 0; other < REPLICAS; other++) {
    if (state[viewAt(other, owner) + VIEW] >= VIEW_RESYNCING) return;
  }
  const next = step.begin();
  fenceReplica(step, owner, replica);
  const view = viewAt(replica, owner);
  next[view + VIEW] = VIEW_RESYNCING;
  takeGrant(next, owner, replica);
  const kept = next[view + KEPT];
  const since = kept === 0 ? next[column + SINCE] : kept;
  let isNeeded = !holes.has("resyncForgetsTarget") && next[column + SLAB_STAMP] > since;
  for (let other = 0; other < REPLICAS; other++) {
    if (next[viewAt(other, owner) + VIEW] !== VIEW_COUNTED) continue;
    if (next[columnAt(other) + SLAB_STAMP] > since) isNeeded = true;
  }
  // A write under way was not sent to it, and may not have reached the others' stamps.
  if (!holes.has("resyncForgetsInFlight") && hasOpen(next, owner, -1)) isNeeded = true;
  if (kept !== 0 && holes.has("keptThoughWritten")) isNeeded = false;
  next[view + DONE] = isNeeded ? 0 : 1;
  next[view + KEPT] = kept !== 0 && !isNeeded ? 1 : 0;
  step.end("starts a resync", owner, replica, 0);
}

function copySlab(step: Step, owner: number, replica: number): void {
  const { state, holes } = step;
  const at = ownerAt(owner);
  if (state[viewAt(replica, owner) + DONE] === 1) return;
  if (state[at + IMAGE_STAMP] !== 0) {
    if (!isReachable(state, owner, replica)) return;
    const next = step.begin();
    putImage(next, owner, replica);
    forgetImage(next, owner);
    if (step.scope.keeps === true) next[viewAt(replica, owner) + KEPT] = 1;
    step.end("copies to", owner, replica, 0);
    return;
  }
  if (!holes.has("resyncWithoutLock") && hasOpen(state, owner, -1)) return;
  for (let source = 0; source < REPLICAS; source++) {
    const isMember = state[viewAt(source, owner) + VIEW] === VIEW_COUNTED;
    if (!isMember || !isReachable(state, owner, source)) continue;
    const next = step.begin();
    // A slab that was never written has stamp 0, which says "no image" here: 1 is as low.
    takeImage(next, owner, source, Math.max(1, next[columnAt(source) + SLAB_STAMP]));
    step.end("copies from", owner, source, 0);
  }
}

/** Its grant first, then the record: from now on it is asked, and it counts. */
function reenter(step: Step, owner: number, replica: number): void {
  const { state, holes } = step;
  const at = ownerAt(owner);
  const view = viewAt(replica, owner);
  if (state[at + CAS_KIND] !== 0 || state[view + DONE] === 0) return;
  if (!isReachable(state, owner, replica)) return;
  if (!holes.has("enteringNotAsked") && state[view + GRANT_HELD] === 0) return;
  if (!holes.has("reentryBeforeConfirmed")) {
    for (let write = 0; write < state[WRITE_COUNT]; write++) {
      if (isOwn(state, owner, write) && state[copyAt(replica, write) + ANSWER] === 1) return;
    }
  }
  const next = step.begin();
  next[view + VIEW] = VIEW_ENTERING;
  next[view + DONE] = 0;
  next[view + KEPT] = 0;
  next[view + IN_CAS] = 1;
  sendSwap(next, owner, CAS_REENTER, 0);
  step.end("asks to take in", owner, replica, 0);
}

function giveUp(step: Step, owner: number, replica: number): void {
  const { state } = step;
  if (isReachable(state, owner, replica)) return;
  const next = step.begin();
  const isKept = state[viewAt(replica, owner) + KEPT] === 1;
  dropMember(next, owner, replica);
  forgetImage(next, owner);
  if (isKept) next[viewAt(replica, owner) + KEPT] = confirmedBy(step, owner, replica);
  step.end("gives the resync up", owner, replica, 0);
}

/** Everything up to this stamp that was sent to the replica has been confirmed. */
function confirmedBy(step: Step, owner: number, replica: number): number {
  const { state, holes } = step;
  const at = ownerAt(owner);
  let stamp = stampOf(state[at + EPOCH], state[at + NEXT_SEQUENCE] - 1);
  if (holes.has("keptUnconfirmed")) return stamp;
  for (let write = 0; write < state[WRITE_COUNT]; write++) {
    if (!isOwn(state, owner, write) || state[copyAt(replica, write) + ANSWER] !== 1) continue;
    stamp = Math.min(stamp, state[writeAt(write) + STAMP] - 1);
  }
  return stamp;
}
