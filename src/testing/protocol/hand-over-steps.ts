// Handing a volume over, in the protocol model: the record names the next owner in the next epoch,
// and the attachment moves in the same swap. Who is named takes it in that epoch: it fences while its
// swap travels, and serves when both are done. What the owner before does is in serving-steps.ts.
//
// A guest moves with the volume: it stops before the hand-over, and goes on at the new owner once
// that serves, or where it was once the volume is back. A
// migration may be called off before the swap has been applied (early), or after it (late): then the
// volume is taken over as from anybody.

import {
  ATTACHED,
  CAS_KIND,
  CAS_REVISION,
  CAS_STAGE,
  CAS_TAKE,
  CAS_TAKEOVER,
  CLEAN_BEFORE,
  EPOCH,
  GUEST,
  KNOWN_REVISION,
  ownerAt,
  RECORD_EPOCH,
  RECORD_OWNER,
  RECORD_STATE,
  REVISION,
  STAGE_SENT,
  STATE_HANDED,
  STATE_OPEN,
  type Step,
} from "./state.ts";

/** What a broken state says of itself. */
export const WRONG_GUEST = 3;

/** The store applies it: one change of the record, attachment and all. */
export function handOverApplied({ next, holes }: Step, owner: number): void {
  const other = 1 - owner;
  next[RECORD_EPOCH] += 1;
  next[RECORD_OWNER] = other + 1;
  next[RECORD_STATE] = STATE_HANDED;
  if (!holes.has("attachmentLater")) next[ATTACHED] = other + 1;
}

export function takeApplied(next: Uint8Array): void {
  next[RECORD_STATE] = STATE_OPEN;
}

/** The record says that the volume was handed over to this slot. */
export function isNamed(state: Uint8Array, owner: number): boolean {
  return state[RECORD_STATE] === STATE_HANDED && state[RECORD_OWNER] === owner + 1;
}

/** It has asked for the very epoch in which somebody has handed the volume to it meanwhile. */
export function isHandedToAsker({ state, holes }: Step, owner: number): boolean {
  const at = ownerAt(owner);
  if (!isNamed(state, owner) || holes.has("handedIsTaken")) return false;
  return state[at + CAS_KIND] === CAS_TAKEOVER && state[at + EPOCH] === state[RECORD_EPOCH];
}

/** The record is not as the swap would make it: it is sent again, on what is there now. */
export function takesWhatItIsGiven(step: Step, owner: number): void {
  const next = step.begin();
  const at = ownerAt(owner);
  next[at + CAS_KIND] = CAS_TAKE;
  next[at + CAS_STAGE] = STAGE_SENT;
  next[at + CAS_REVISION] = next[REVISION];
  next[at + KNOWN_REVISION] = next[REVISION];
  noteEndOfBefore(next, owner);
  step.end("takes what it is given", owner, 0, 0);
}

/** What the record that is claimed says of the owner before. */
export function noteEndOfBefore(next: Uint8Array, owner: number): void {
  next[ownerAt(owner) + CLEAN_BEFORE] =
    next[RECORD_STATE] === STATE_HANDED ? next[RECORD_EPOCH] : 0;
}

/**
 * Who starts anew takes back what is attached to it, with what its guest had under way: that guest
 * must not have gone on elsewhere.
 */
export function wrongGuest(state: Uint8Array, owner: number): boolean {
  return state[ATTACHED] === owner + 1 && state[GUEST] !== 0 && state[GUEST] !== owner + 1;
}

/** The guest that waited here goes on, unless the record is another's by now. */
export function guestGoesOn(next: Uint8Array, owner: number): void {
  const isOurs = next[RECORD_OWNER] === owner + 1;
  if (isOurs && next[RECORD_EPOCH] === next[ownerAt(owner) + EPOCH]) next[GUEST] = owner + 1;
}
