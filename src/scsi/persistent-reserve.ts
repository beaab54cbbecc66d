// PERSISTENT RESERVE IN and OUT (SPC-4 6.13, 6.14), RESERVE and RELEASE of SPC-2.
//
// A change runs in one piece: its turn in the queue of the Reservations object, plan, save, adopt,
// unit attentions. A PERSISTENT RESERVE OUT that is aborted meanwhile has no status, but what it
// has changed is changed as a whole.

import { putU16, putU32 } from "../base/index.ts";
import { hexOf } from "./bytes.ts";
import type { CommandRun, Steps } from "./command-run.ts";
import {
  PR_OUT_PREEMPT,
  PR_OUT_PREEMPT_AND_ABORT,
  PR_OUT_RELEASE,
  PR_OUT_RESERVE,
  planReserve,
  type ReservePlan,
  type ReserveRequest,
} from "./reservation-plan.ts";
import {
  isAllRegistrants,
  isReservationType,
  type ReservationState,
  registrationOf,
} from "./reservations.ts";
import { SENSE_NO_RESOURCES, SENSE_PARAMETER_LENGTH } from "./sense.ts";

const OUT_LIST_BYTES = 24;
const SPEC_I_PT = 0x08;
const ALL_TG_PT = 0x04;
const APTPL = 0x01;

export function readKeys(run: CommandRun): void {
  const { generation, registrations } = run.unit.reservations.state;
  const total = 8 + registrations.length * 8;
  const data = run.page(total);
  putU32(data, 0, generation);
  putU32(data, 4, total - 8);
  for (const [index, one] of registrations.entries()) putKey(data, 8 + index * 8, one.key);
  run.reply(total, run.u16(7));
}

export function readReservation(run: CommandRun): void {
  const { generation, type, holder, registrations } = run.unit.reservations.state;
  const total = type === 0 ? 8 : 24;
  const data = run.page(total);
  putU32(data, 0, generation);
  if (type !== 0) {
    putU32(data, 4, 16);
    const owner = registrations.find((one) => one.id === holder);
    if (owner !== undefined) putKey(data, 8, owner.key);
    data[21] = type;
  }
  run.reply(total, run.u16(7));
}

export function reportCapabilities(run: CommandRun): void {
  const data = run.page(8);
  putU16(data, 0, 8);
  // PTPL_C; TMV with the six types; PTPL_A.
  data[2] = 0x01;
  data[3] = 0x80 | (run.unit.reservations.state.aptpl ? 0x01 : 0);
  data[4] = 0xea;
  data[5] = 0x01;
  run.reply(8, run.u16(7));
}

export function readFullStatus(run: CommandRun): void {
  const { generation, type, holder, registrations } = run.unit.reservations.state;
  const total = registrations.reduce((sum, one) => sum + 24 + one.transportId.length, 8);
  const data = run.page(total);
  putU32(data, 0, generation);
  putU32(data, 4, total - 8);
  let at = 8;
  for (const one of registrations) {
    putKey(data, at, one.key);
    if (type !== 0 && (isAllRegistrants(type) || one.id === holder)) {
      data[at + 12] = 0x01;
      data[at + 13] = type;
    }
    putU16(data, at + 18, one.relativePort);
    putU32(data, at + 20, one.transportId.length);
    data.set(one.transportId, at + 24);
    at += 24 + one.transportId.length;
  }
  run.reply(total, run.u16(7));
}

function putKey(data: Uint8Array, at: number, key: string): void {
  putU32(data, at, Number.parseInt(key.slice(0, 8), 16));
  putU32(data, at + 4, Number.parseInt(key.slice(8), 16));
}

interface Outcome {
  plan: ReservePlan | null;
  /** What the plan was made for. */
  before: ReservationState;
}

export function* reserveOut(run: CommandRun): Steps {
  const action = run.u8(1) & 0x1f;
  const type = run.u8(2) & 0x0f;
  const bytes = run.u32(5);
  if (bytes !== OUT_LIST_BYTES) {
    run.refuse(SENSE_PARAMETER_LENGTH);
    return;
  }
  if (usesType(action)) {
    if (run.u8(2) >>> 4 !== 0) {
      run.refuseField(2, 7);
      return;
    }
    if (!isReservationType(type)) {
      run.refuseField(2, 3);
      return;
    }
  }
  const list = yield* run.parameters(bytes);
  if (list === null) return;
  if ((list[20] & (SPEC_I_PT | ALL_TG_PT)) !== 0) {
    // REPORT CAPABILITIES says that neither is there.
    run.refuseParameter(20, (list[20] & SPEC_I_PT) !== 0 ? 3 : 2);
    return;
  }
  const { id, identity } = run.link.nexus;
  const { transportId, relativePort } = identity;
  const request: ReserveRequest = {
    action,
    type,
    self: { id, transportId, relativePort },
    key: hexOf(list.subarray(0, 8)),
    actionKey: hexOf(list.subarray(8, 16)),
    aptpl: (list[20] & APTPL) !== 0,
  };
  const outcome: Outcome = { plan: null, before: run.unit.reservations.state };
  const result = yield* run.wait((done) => change(run, request, outcome, done));
  if (result < 0 || outcome.plan === null) {
    run.refuse(SENSE_NO_RESOURCES);
    return;
  }
  const { isConflict, sense, aborted } = outcome.plan;
  if (isConflict) run.conflict();
  else if (sense !== 0) run.refuse(sense);
  else if (aborted.length > 0) {
    // Also those that come through other ports of theirs: who is shut out lands nothing any more.
    const ids = nexusesOf(run, outcome.before, aborted);
    yield* run.wait((done) => run.host.abortOthers(run.unit, ids, () => done(0)));
  }
}

function usesType(action: number): boolean {
  return (
    action === PR_OUT_RESERVE ||
    action === PR_OUT_RELEASE ||
    action === PR_OUT_PREEMPT ||
    action === PR_OUT_PREEMPT_AND_ABORT
  );
}

/** Plans and makes the change when it is its turn; `done` hears 0 or a negated errno. */
function change(
  run: CommandRun,
  request: ReserveRequest,
  outcome: Outcome,
  done: (result: number) => void,
): void {
  const { reservations } = run.unit;
  const finish = (result: number): void => {
    if (result === 0 && outcome.plan !== null) attend(run, outcome.plan, outcome.before);
    reservations.isChanging = false;
    reservations.queue.shift()?.();
    done(result);
  };
  const start = (): void => {
    reservations.isChanging = true;
    outcome.before = reservations.state;
    const plan = planReserve(outcome.before, request);
    outcome.plan = plan;
    if (plan.next === null) finish(0);
    else reservations.change(plan.next, finish);
  };
  if (reservations.isChanging) reservations.queue.push(start);
  else start();
}

function attend(run: CommandRun, plan: ReservePlan, before: ReservationState): void {
  for (const link of run.unit.links) {
    if (link === run.link) continue;
    const registered = registrationOf(before, link.nexus.id)?.id;
    for (const { id, code } of plan.attentions) if (id === registered) link.attend(code);
  }
}

/** The nexuses for which one of these registrations stood. */
function nexusesOf(run: CommandRun, before: ReservationState, ids: readonly string[]): string[] {
  return [...run.unit.links]
    .map((link) => link.nexus.id)
    .filter((id) => ids.includes(registrationOf(before, id)?.id ?? ""));
}

/** RESERVE(6), RESERVE(10): the whole logical unit, for this nexus, until it lets go. */
export function reserve(run: CommandRun): void {
  if (!checkWholeUnit(run)) return;
  if (run.unit.reservations.state.registrations.length > 0) run.conflict();
  else run.unit.reserver = run.link;
}

export function release(run: CommandRun): void {
  if (!checkWholeUnit(run)) return;
  if (run.unit.reservations.state.registrations.length > 0) run.conflict();
  else if (run.unit.reserver === run.link) run.unit.reserver = null;
}

/** Third parties and extents are long obsolete. */
function checkWholeUnit(run: CommandRun): boolean {
  if ((run.u8(1) & 0x10) !== 0) return run.refuseField(1, 4);
  return (run.u8(1) & 0x01) === 0 || run.refuseField(1, 0);
}
