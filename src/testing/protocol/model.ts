// The protocol between the owners of a volume, its replicas and the metadata store, as a model to
// be checked exhaustively: takeover, writes with the shrink before an answer, read grants, resync.
// docs/replication.md has it in words, and what the checks found.
//
// One volume of one slab with one or two blocks, three replicas, two slots for owners. Any message
// may be late or, when its session breaks, lost or delivered after its successor. Time is abstract:
// a grant expires at any moment, and never at its holder later than at its giver.
//
// What is checked in every state:
//  - what a client has been told, by the answer to a write or to a read, every member that is in
//    sync by the record still has, or something newer;
//  - no read answers with less than a client had been told when the read began;
//  - no write that was issued after a newer owner began to serve is answered;
//  - members in sync are equal when the newest owner serves and has nothing under way;
//  - where members are replaced: somebody is in sync by the record;
//  - where volumes are handed over: nobody takes back what is attached to it when its guest has gone
//    on elsewhere;
//  - where the metadata may go back: no two owners serve in one epoch. The record lies then: in sync
//    are the members of who serves in the highest epoch in which anybody has.

import type { CheckedModel, Visit } from "./checker.ts";
import { WRONG_GUEST } from "./hand-over-steps.ts";
import { forgetFloating, metadataSteps, ownerCrashes } from "./metadata-steps.ts";
import { learnsAmongPlans, looksAtRecord, planSteps } from "./plan-steps.ts";
import { replicaSteps } from "./replica-steps.ts";
import { EPOCH_TWICE, firstRecord, goesBack, newestServing } from "./restore-steps.ts";
import { resyncSteps } from "./resync-steps.ts";
import { KINDS, sentenceOf } from "./sentences.ts";
import { LATE_ACK, READ_WENT_BACK, servingSteps } from "./serving-steps.ts";
import {
  ACKED,
  ADDITIONS,
  ANSWER,
  ATTACHED,
  BREAKS,
  BROKEN,
  CARRIED,
  CLEAN_BEFORE,
  COLUMN_BYTES,
  COMMITTED,
  CONNECTED,
  COPY,
  columnAt,
  copyAt,
  DATA,
  EMPTY,
  EPOCH,
  EPOCH_OF,
  FLOATING_KIND,
  FLOATING_REVISION,
  GUEST,
  type Hole,
  hasOpen,
  isOpen,
  KNOWN_COMMITTED,
  KNOWN_REVISION,
  KNOWN_VERSION,
  LATE,
  NEXT_SEQUENCE,
  NOT_NAMED,
  OLD_COPY,
  OUT,
  OWNER_CRASHES,
  OWNERS,
  ownerAt,
  PHASE,
  PHASE_SERVING,
  READ,
  READ_HAS_VALUE,
  READ_VALUE,
  RECORD_EPOCH,
  RECORD_OWNER,
  REMOVALS,
  REPLICA_CRASHES,
  REPLICA_EPOCH,
  REPLICAS,
  RESTORES,
  REVISION,
  type Scope,
  SEEN,
  SERVED,
  SETTLED,
  SINCE,
  SLAB_STAMP,
  STATE_BYTES,
  Step,
  stampOf,
  UP,
  type Variant,
  VIEW,
  VIEW_COUNTED,
  versionOf,
  viewAt,
  WRITE_COUNT,
  writeAt,
} from "./state.ts";
import { takeGrant, takeoverSteps } from "./takeover-steps.ts";

export class ProtocolModel implements CheckedModel {
  readonly stateByteCount: number = STATE_BYTES;
  private readonly scope: Scope;
  private readonly step: Step;
  private readonly spare = new Uint8Array(COLUMN_BYTES);

  constructor(scope: Scope, holes: readonly (Hole | Variant)[] = []) {
    this.scope = scope;
    this.step = new Step(scope, new Set(holes), KINDS);
  }

  /** A serves in epoch 1; all members are equal. */
  initial(): Uint8Array {
    const state = new Uint8Array(STATE_BYTES);
    const { scope } = this;
    state[REVISION] = 1;
    state[RECORD_EPOCH] = 1;
    state[RECORD_OWNER] = 1;
    state[OWNER_CRASHES] = scope.ownerCrashes;
    state[REPLICA_CRASHES] = scope.replicaCrashes;
    state[BREAKS] = scope.breaks;
    const at = ownerAt(0);
    state[at + PHASE] = PHASE_SERVING;
    state[at + EPOCH] = 1;
    state[at + NEXT_SEQUENCE] = 1;
    state[at + COMMITTED] = stampOf(1, 0);
    state[at + KNOWN_REVISION] = 1;
    if (scope.handsOver === true) {
      state[ATTACHED] = 1;
      state[GUEST] = scope.startsHanded === true ? 0 : 1;
    }
    if (scope.restores === 1 || scope.startsHanded === true) this.mayGoBack(state);
    if (scope.replaces === true) {
      state[ADDITIONS] = scope.startsOut === true ? 0 : 1;
      state[REMOVALS] = 1;
      state[at + NEXT_SEQUENCE] = 2;
      state[at + COMMITTED] = stampOf(1, 1);
    }
    for (let replica = 0; replica < REPLICAS; replica++) {
      const column = columnAt(replica);
      state[column + UP] = 1;
      state[column + REPLICA_EPOCH] = 1;
      state[column + KNOWN_COMMITTED] = stampOf(1, 0);
      if (scope.restores === 1) {
        state[column + SEEN] = 1;
        state[column + EPOCH_OF] = scope.startsHanded === true ? 0 : 1;
      }
      if (scope.members === 2 && replica === 2) {
        state.fill(0, column + REPLICA_EPOCH, column + COLUMN_BYTES);
        state[column + OUT] = NOT_NAMED;
        continue;
      }
      if (scope.startsHanded === true) continue;
      if (scope.replaces === true) {
        state[column + SLAB_STAMP] = stampOf(1, 1);
        state[column + KNOWN_COMMITTED] = stampOf(1, 1);
        if (replica === 2) {
          state.fill(0, column + REPLICA_EPOCH, column + COLUMN_BYTES);
          state.fill(EMPTY, column + DATA, column + SLAB_STAMP);
          state[column + OUT] = scope.startsOut === true ? 1 : NOT_NAMED;
          continue;
        }
      }
      if (scope.startsOut === true && replica === 2) {
        state[column + OUT] = 1;
        state[column + SINCE] = stampOf(1, 0);
        continue;
      }
      state[viewAt(replica, 0) + VIEW] = VIEW_COUNTED;
      state[viewAt(replica, 0) + CONNECTED] = 1;
      takeGrant(state, 0, replica);
    }
    return state;
  }

  /** What is in the backup is the first record: A's, or what A has just handed to B. */
  private mayGoBack(state: Uint8Array): void {
    const { scope } = this;
    const isHanded = scope.startsHanded === true;
    firstRecord(state, isHanded);
    state[RESTORES] = scope.restores ?? 0;
    state[SERVED] = 1 << 1;
    const at = ownerAt(0);
    if (isHanded) state.fill(0, at, at + CLEAN_BEFORE + 1);
    else state[at + KNOWN_VERSION] = 1;
  }

  successors(state: Uint8Array, visit: Visit): void {
    const { step } = this;
    step.from(state, visit);
    replicaSteps(step);
    if (this.scope.replaces === true) planSteps(step);
    if (this.scope.restores === 1) goesBack(step);
    for (let owner = 0; owner < OWNERS; owner++) {
      metadataSteps(step, owner);
      takeoverSteps(step, owner);
      servingSteps(step, owner);
      resyncSteps(step, owner);
      if (this.scope.replaces === true) {
        learnsAmongPlans(step, owner);
        looksAtRecord(step, owner);
      }
      ownerCrashes(step, owner);
    }
  }

  canonicalise(state: Uint8Array): void {
    for (let owner = 0; owner < OWNERS; owner++) {
      const at = ownerAt(owner);
      if (state[at + FLOATING_KIND] === 0) continue;
      if (state[at + FLOATING_REVISION] < state[REVISION]) forgetFloating(state, owner);
    }
    forgetReads(state);
    forgetWrites(state);
    this.order(state, 0, 1);
    this.order(state, 1, 2);
    this.order(state, 0, 1);
  }

  private order(state: Uint8Array, first: number, second: number): void {
    const a = columnAt(first);
    const b = columnAt(second);
    for (let at = 0; at < COLUMN_BYTES; at++) {
      const difference = state[a + at] - state[b + at];
      if (difference < 0) return;
      if (difference === 0) continue;
      for (let field = at; field < COLUMN_BYTES; field++) {
        this.spare[field] = state[a + field];
        state[a + field] = state[b + field];
        state[b + field] = this.spare[field];
      }
      return;
    }
  }

  violation(state: Uint8Array): string | null {
    if (state[BROKEN] === READ_WENT_BACK) return "a read answered with less than was known";
    if (state[BROKEN] === LATE_ACK) return "an old owner answered a write under a newer one";
    if (state[BROKEN] === WRONG_GUEST) {
      return "a node that starts anew takes a volume whose guest has gone on elsewhere";
    }
    if (state[BROKEN] === EPOCH_TWICE) return "two owners have served in one epoch";
    const judge = this.hasGoneBack(state) ? newestServing(state) : -1;
    if (this.hasGoneBack(state) && judge === -1) return null;
    let inSyncCount = 0;
    for (let replica = 0; replica < REPLICAS; replica++) {
      const column = columnAt(replica);
      const isInSync =
        judge === -1
          ? state[column + OUT] === 0
          : state[viewAt(replica, judge) + VIEW] === VIEW_COUNTED;
      if (!isInSync) continue;
      inSyncCount += 1;
      for (let block = 0; block < this.scope.blocks; block++) {
        const held = versionOf(state, state[column + DATA + block]);
        if (held < versionOf(state, state[SETTLED + block])) {
          return "a member in sync lacks what a client was told";
        }
      }
    }
    const isNobody = this.scope.replaces === true && inSyncCount === 0;
    if (isNobody) return "no member is in sync by the record";
    return this.areEqual(state, judge) ? null : "members in sync differ, and nothing is under way";
  }

  /** From then on what the record says proves nothing. */
  private hasGoneBack(state: Uint8Array): boolean {
    return this.scope.restores === 1 && state[RESTORES] === 0;
  }

  private areEqual(state: Uint8Array, judge: number): boolean {
    for (let owner = 0; owner < OWNERS; owner++) {
      const at = ownerAt(owner);
      if (state[at + PHASE] !== PHASE_SERVING || hasOpen(state, owner, -1)) continue;
      const isNewest = judge === -1 ? state[at + EPOCH] === state[RECORD_EPOCH] : owner === judge;
      if (!isNewest) continue;
      let first = -1;
      for (let replica = 0; replica < REPLICAS; replica++) {
        const column = columnAt(replica);
        const isMember = state[viewAt(replica, owner) + VIEW] === VIEW_COUNTED;
        if (!isMember || (state[column + OUT] !== 0 && judge === -1)) continue;
        if (first === -1) first = column;
        if (state[column + DATA] !== state[first + DATA]) return false;
        if (state[column + DATA + 1] !== state[first + DATA + 1]) return false;
      }
    }
    return true;
  }

  kindOf(action: number): string {
    return KINDS[action >> 6];
  }

  sentence(before: Uint8Array, action: number, after: Uint8Array): string {
    return sentenceOf(before, action, after);
  }
}

/** Of a read that will tell nobody anything new, the value does not matter. */
function forgetReads(state: Uint8Array): void {
  for (let owner = 0; owner < OWNERS; owner++) {
    const at = ownerAt(owner);
    if (state[at + READ_HAS_VALUE] === 0) continue;
    const settled = state[SETTLED + state[at + READ] - 1];
    if (versionOf(state, state[at + READ_VALUE]) <= versionOf(state, settled)) {
      state[at + READ_VALUE] = 0;
    }
  }
}

/** Of a write that nobody waits for, only its order and its copies matter. */
function forgetWrites(state: Uint8Array): void {
  for (let write = 0; write < state[WRITE_COUNT]; write++) {
    let isAwaited = false;
    for (let owner = 0; owner < OWNERS; owner++) {
      if (isOpen(state, owner, write)) isAwaited = true;
    }
    let hasCopies = isAwaited;
    for (let replica = 0; replica < REPLICAS; replica++) {
      const copy = copyAt(replica, write);
      if (!isAwaited) state[copy + ANSWER] = 0;
      if (state[copy + COPY] !== 0 || state[copy + OLD_COPY] !== 0) hasCopies = true;
    }
    if (!hasCopies) state[writeAt(write) + CARRIED] = 0;
    if (isAwaited) continue;
    state[writeAt(write) + ACKED] = 1;
    state[LATE + write] = 0;
  }
}
