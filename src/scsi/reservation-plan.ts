// What the service actions of PERSISTENT RESERVE OUT make of a state (SPC-4 5.12 and 6.14): pure
// functions from a state and a request to a plan: the next state, who gets which unit attention,
// whose tasks are aborted; or the reason why not.
//
// Invariant: a refused request has no plan to change anything.

import {
  isAllRegistrants,
  isShared,
  REGISTRATIONS_MAX,
  type Registration,
  type ReservationState,
  registrationOf,
} from "./reservations.ts";
import {
  SENSE_INVALID_FIELD_IN_PARAMETERS,
  SENSE_INVALID_RELEASE,
  SENSE_NO_REGISTRATION_ROOM,
  UA_REGISTRATIONS_PREEMPTED,
  UA_RESERVATIONS_PREEMPTED,
  UA_RESERVATIONS_RELEASED,
} from "./sense.ts";

const PR_OUT_REGISTER = 0;
export const PR_OUT_RESERVE = 1;
export const PR_OUT_RELEASE = 2;
const PR_OUT_CLEAR = 3;
export const PR_OUT_PREEMPT = 4;
export const PR_OUT_PREEMPT_AND_ABORT = 5;
const PR_OUT_REGISTER_AND_IGNORE = 6;

const KEY_NONE = "0000000000000000";

/** The request of one nexus. Keys are 16 hexadecimal digits. */
export interface ReserveRequest {
  readonly action: number;
  readonly type: number;
  readonly self: Omit<Registration, "key">;
  readonly key: string;
  readonly actionKey: string;
  readonly aptpl: boolean;
}

export interface Attention {
  readonly id: string;
  readonly code: number;
}

export interface ReservePlan {
  /** RESERVATION CONFLICT status. */
  readonly isConflict: boolean;
  /** A sense code, or 0. */
  readonly sense: number;
  /** Null: nothing changes, the answer is GOOD. */
  readonly next: ReservationState | null;
  readonly attentions: readonly Attention[];
  /** Nexuses whose tasks PREEMPT AND ABORT ends. */
  readonly aborted: readonly string[];
}

const NOTHING: ReservePlan = {
  isConflict: false,
  sense: 0,
  next: null,
  attentions: [],
  aborted: [],
};
const CONFLICT: ReservePlan = { ...NOTHING, isConflict: true };

function refusal(sense: number): ReservePlan {
  return { ...NOTHING, sense };
}

export function planReserve(state: ReservationState, asked: ReserveRequest): ReservePlan {
  // Who has no key to show registers this very nexus, whatever its initiator has at other ports.
  const isNew = asked.action === PR_OUT_REGISTER && asked.key === KEY_NONE;
  const own = isNew
    ? state.registrations.find((one) => one.id === asked.self.id)
    : registrationOf(state, asked.self.id);
  const request = own === undefined ? asked : { ...asked, self: own };
  switch (request.action) {
    case PR_OUT_REGISTER:
      if ((own?.key ?? KEY_NONE) !== request.key) return CONFLICT;
      return planRegister(state, request, own);
    case PR_OUT_REGISTER_AND_IGNORE:
      return planRegister(state, request, own);
    default:
      break;
  }
  if (own === undefined || own.key !== request.key) return CONFLICT;
  switch (request.action) {
    case PR_OUT_RESERVE:
      return planReservation(state, request);
    case PR_OUT_RELEASE:
      return planRelease(state, request);
    case PR_OUT_CLEAR:
      return planClear(state, request);
    default:
      return planPreempt(state, request, own);
  }
}

function planRegister(
  state: ReservationState,
  request: ReserveRequest,
  own: Registration | undefined,
): ReservePlan {
  if (request.actionKey === KEY_NONE) {
    return own === undefined ? NOTHING : planUnregister(state, own, request.aptpl);
  }
  const entry = { ...request.self, key: request.actionKey };
  if (own === undefined && state.registrations.length >= REGISTRATIONS_MAX) {
    return refusal(SENSE_NO_REGISTRATION_ROOM);
  }
  const registrations =
    own === undefined
      ? [...state.registrations, entry]
      : state.registrations.map((one) => (one === own ? entry : one));
  const next = { ...grown(state), aptpl: request.aptpl, registrations };
  return { ...NOTHING, next };
}

function planUnregister(state: ReservationState, own: Registration, aptpl: boolean): ReservePlan {
  const registrations = state.registrations.filter((one) => one !== own);
  const isReleased = isAllRegistrants(state.type)
    ? registrations.length === 0
    : state.holder === own.id;
  const base = { ...grown(state), aptpl, registrations };
  if (!isReleased) return { ...NOTHING, next: base };
  return {
    ...NOTHING,
    next: { ...base, type: 0, holder: "" },
    attentions: isShared(state.type) ? tell(registrations, UA_RESERVATIONS_RELEASED) : [],
  };
}

function planReservation(state: ReservationState, request: ReserveRequest): ReservePlan {
  const { type, self } = request;
  if (state.type !== 0) {
    const isHolder = isAllRegistrants(state.type) || state.holder === self.id;
    return isHolder && state.type === type ? NOTHING : CONFLICT;
  }
  return { ...NOTHING, next: { ...state, type, holder: isAllRegistrants(type) ? "" : self.id } };
}

function planRelease(state: ReservationState, request: ReserveRequest): ReservePlan {
  const { self } = request;
  const isHolder = isAllRegistrants(state.type) || (state.type !== 0 && state.holder === self.id);
  if (!isHolder) return NOTHING;
  if (state.type !== request.type) return refusal(SENSE_INVALID_RELEASE);
  const others = state.registrations.filter((one) => one.id !== self.id);
  return {
    ...NOTHING,
    next: { ...state, type: 0, holder: "" },
    attentions: isShared(state.type) ? tell(others, UA_RESERVATIONS_RELEASED) : [],
  };
}

function planClear(state: ReservationState, request: ReserveRequest): ReservePlan {
  const others = state.registrations.filter((one) => one.id !== request.self.id);
  return {
    ...NOTHING,
    next: { ...grown(state), type: 0, holder: "", registrations: [] },
    attentions: tell(others, UA_RESERVATIONS_PREEMPTED),
  };
}

function planPreempt(
  state: ReservationState,
  request: ReserveRequest,
  own: Registration,
): ReservePlan {
  const { actionKey } = request;
  const isAll = isAllRegistrants(state.type);
  const holder = state.registrations.find((one) => one.id === state.holder);
  const takesOver = isAll ? actionKey === KEY_NONE : holder?.key === actionKey;
  if (actionKey === KEY_NONE && !takesOver) return refusal(SENSE_INVALID_FIELD_IN_PARAMETERS);
  const isNamed = (one: Registration): boolean => (isAll && takesOver) || one.key === actionKey;
  const named = state.registrations.filter(isNamed);
  if (named.length === 0) return CONFLICT;
  // Who preempts stays registered, also where its own key is the one that was named.
  const removed = named.filter((one) => one !== own);
  const registrations = state.registrations.filter((one) => one === own || !isNamed(one));
  const base = { ...grown(state), registrations };
  const attentions: Attention[] = tell(removed, UA_REGISTRATIONS_PREEMPTED);
  const abortsTasks = request.action === PR_OUT_PREEMPT_AND_ABORT;
  const aborted = abortsTasks ? removed.map((one) => one.id) : [];
  if (!takesOver) {
    const isEmptied = isAll && registrations.length === 0;
    const next = isEmptied ? { ...base, type: 0, holder: "" } : base;
    return { ...NOTHING, next, attentions, aborted };
  }
  const { type } = request;
  if (type !== state.type && isShared(state.type)) {
    const left = registrations.filter((one) => one !== own);
    attentions.push(...tell(left, UA_RESERVATIONS_RELEASED));
  }
  const next = { ...base, type, holder: isAllRegistrants(type) ? "" : own.id };
  return { ...NOTHING, next, attentions, aborted };
}

function grown(state: ReservationState): ReservationState {
  return { ...state, generation: (state.generation + 1) >>> 0 };
}

function tell(registrations: readonly Registration[], code: number): Attention[] {
  return registrations.map((one) => ({ id: one.id, code }));
}
