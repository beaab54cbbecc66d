// A metadata store that goes back, in the protocol model: its one record is again as it was at first,
// as from a backup, whatever has happened since. Revisions do not come twice.
//
// What keeps it safe: every node notes on its disks how new the list of members is when that changes,
// and a disk refuses an owner that comes with an older list, or in an epoch in which it has been
// fenced by another one. Who is refused gives the volume up, and puts nobody out for it.
//
// That is as much as disks can know. So the model takes it that whoever is there has noted the last
// change, and is heard before it is put out of an older record; LIMITS in scopes.ts shows what
// becomes of it where that does not hold.

import {
  ATTACHED,
  columnAt,
  EPOCH,
  EPOCH_OF,
  KNOWN_VERSION,
  NOT_NAMED,
  OUT,
  OWNERS,
  ownerAt,
  PHASE,
  PHASE_SERVING,
  RECORD_EPOCH,
  RECORD_OWNER,
  RECORD_STATE,
  REPLICA_EPOCH,
  REPLICAS,
  RESTORES,
  REVISION,
  SEEN,
  SERVED,
  SINCE,
  STATE_HANDED,
  STATE_OPEN,
  type Step,
  UP,
  VERSION,
} from "./state.ts";

/** What a broken state says of itself. */
export const EPOCH_TWICE = 4;

/** The record is as it was; no swap of before can be applied to it. */
export function goesBack(step: Step): void {
  const { state, scope } = step;
  if (state[RESTORES] === 0 || state[REVISION] === 1) return;
  const next = step.begin();
  next[RESTORES] -= 1;
  // Never the one that a swap under way would have made.
  next[REVISION] += 2;
  firstRecord(next, scope.startsHanded === true);
  for (let replica = 0; replica < REPLICAS; replica++) {
    const column = columnAt(replica);
    if (next[column + OUT] === NOT_NAMED) continue;
    next[column + OUT] = 0;
    next[column + SINCE] = 0;
  }
  step.end("goes back", 0, 0, 0);
}

/** A's, or just handed to B. */
export function firstRecord(next: Uint8Array, isHanded: boolean): void {
  next[RECORD_EPOCH] = isHanded ? 2 : 1;
  next[RECORD_OWNER] = isHanded ? 2 : 1;
  next[RECORD_STATE] = isHanded ? STATE_HANDED : STATE_OPEN;
  if (isHanded || next[ATTACHED] !== 0) next[ATTACHED] = isHanded ? 2 : 1;
  next[VERSION] = 1;
}

/** The list of members has changed: who is there notes it. */
export function listChanged(step: Step): void {
  step.next[VERSION] += 1;
  for (let replica = 0; replica < REPLICAS; replica++) nodeNotes(step, replica);
}

/** As when the list changes, when the replica's node starts. */
export function nodeNotes({ next, holes }: Step, replica: number): void {
  const column = columnAt(replica);
  if (next[column + OUT] === NOT_NAMED || next[column + UP] === 0) return;
  if (!holes.has("nothingNoted")) {
    next[column + SEEN] = Math.max(next[column + SEEN], next[VERSION]);
  }
}

/** Does the disk know better than the owner? */
export function refuses({ state, scope, holes }: Step, owner: number, replica: number): boolean {
  if (scope.restores === undefined) return false;
  const column = columnAt(replica);
  const at = ownerAt(owner);
  if (state[column + REPLICA_EPOCH] > state[at + EPOCH]) return true;
  const isAnothers =
    state[column + REPLICA_EPOCH] === state[at + EPOCH] && state[column + EPOCH_OF] !== owner + 1;
  if (isAnothers && !holes.has("epochTwice")) return true;
  const isOlder = state[column + SEEN] > state[at + KNOWN_VERSION];
  return isOlder && !holes.has("olderVersionServed");
}

/** An owner begins to serve. Was its epoch one in which nobody had served? */
export function notesEpoch(next: Uint8Array, owner: number): boolean {
  const bit = 1 << next[ownerAt(owner) + EPOCH];
  const isNew = (next[SERVED] & bit) === 0;
  next[SERVED] |= bit;
  return isNew;
}

/** Who serves in the newest epoch in which anybody has served; -1: nobody does any more. */
export function newestServing(state: Uint8Array): number {
  const epoch = 31 - Math.clz32(state[SERVED]);
  for (let owner = 0; owner < OWNERS; owner++) {
    const at = ownerAt(owner);
    if (state[at + PHASE] === PHASE_SERVING && state[at + EPOCH] === epoch) return owner;
  }
  return -1;
}

/** What was told to the disk by a fence. */
export function fenceNoted(next: Uint8Array, owner: number, replica: number): void {
  const column = columnAt(replica);
  next[column + SEEN] = Math.max(next[column + SEEN], next[ownerAt(owner) + KNOWN_VERSION]);
  next[column + EPOCH_OF] = owner + 1;
}
