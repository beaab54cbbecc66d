// @hot
// Whether a command may run at all: unit attention, reservations, access state, medium (SPC-4
// 5.12.10 table of commands under persistent reservations, SPC-2 5.5 for RESERVE, SPC-4 5.15 for
// access states).
//
// Invariant: these are asked in one order for every command: unit attention, then access state,
// then reservations, then medium. A port in standby says so whoever holds what: an initiator with
// several paths takes a conflict for final, and tries no other.

import {
  ACCESS_NON_OPTIMIZED,
  ACCESS_STANDBY,
  ACCESS_TRANSITIONING,
  type NexusLink,
} from "./logical-unit.ts";
import {
  PR_EXCLUSIVE_ACCESS,
  PR_EXCLUSIVE_ACCESS_ALL,
  PR_EXCLUSIVE_ACCESS_REGISTRANTS,
  PR_WRITE_EXCLUSIVE,
} from "./reservations.ts";
import {
  SENSE_BECOMING_READY,
  SENSE_NO_MEDIUM,
  SENSE_NONE,
  SENSE_STANDBY,
  SENSE_TRANSITION,
  SENSE_UNAVAILABLE,
} from "./sense.ts";

/** Allowed whoever holds a persistent reservation. */
export const RESERVED_ALLOW = 0;
/** Allowed under write exclusive types. */
export const RESERVED_READ = 1;
/** Allowed only to holders and, for the registrants types, registrants. */
export const RESERVED_WRITE = 2;

/** Not a bar: INQUIRY, REPORT LUNS, REQUEST SENSE neither report nor clear unit attentions. */
export const COMMAND_PASSES_ATTENTION = 1;
/** Answered through ports in standby. */
export const COMMAND_IN_STANDBY = 2;
/** Answered in every access state. */
export const COMMAND_IN_ANY_STATE = 4;
/** Answered without a medium. */
export const COMMAND_WITHOUT_MEDIUM = 8;
/** Allowed to others under RESERVE(6) and RESERVE(10). */
export const COMMAND_PASSES_RESERVE = 16;

/** False: RESERVATION CONFLICT. */
export function isAllowedByReservations(link: NexusLink, reserved: number, flags: number): boolean {
  const { unit } = link;
  if (unit.reserver !== null && unit.reserver !== link) {
    if ((flags & COMMAND_PASSES_RESERVE) === 0) return false;
  }
  const { type } = unit.reservations.state;
  if (type === 0 || reserved === RESERVED_ALLOW || link.isHolder) return true;
  if (type !== PR_WRITE_EXCLUSIVE && type !== PR_EXCLUSIVE_ACCESS && link.isRegistered) return true;
  if (reserved === RESERVED_WRITE) return false;
  return (
    type !== PR_EXCLUSIVE_ACCESS &&
    type !== PR_EXCLUSIVE_ACCESS_REGISTRANTS &&
    type !== PR_EXCLUSIVE_ACCESS_ALL
  );
}

/** By the state of the port and the unit: a sense code, or SENSE_NONE. */
export function judgeState({ unit, accessState }: NexusLink, flags: number): number {
  // Only what is answered always passes unit attentions, too.
  if (unit.isPending && (flags & COMMAND_PASSES_ATTENTION) === 0) return SENSE_BECOMING_READY;
  if ((flags & COMMAND_IN_ANY_STATE) !== 0) return SENSE_NONE;
  if (accessState <= ACCESS_NON_OPTIMIZED && unit.device !== null) return SENSE_NONE;
  if (accessState === ACCESS_TRANSITIONING) return SENSE_TRANSITION;
  if (accessState > ACCESS_STANDBY) return SENSE_UNAVAILABLE;
  return (flags & COMMAND_IN_STANDBY) === 0 ? SENSE_STANDBY : SENSE_NONE;
}

/** By the medium: a sense code, or SENSE_NONE. */
export function judgeMedium({ unit }: NexusLink, flags: number): number {
  const isNeeded = (flags & COMMAND_WITHOUT_MEDIUM) === 0;
  return isNeeded && !unit.isLoaded ? SENSE_NO_MEDIUM : SENSE_NONE;
}
