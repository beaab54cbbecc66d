// The command table: every command this device server knows, with what may stand in its way (the
// tables of SPC-4 5.12.10 and SBC-3 4.15 for reservations, SPC-4 5.15.2 for access states) and the
// bits of its CDB that are looked at.

import {
  COMMAND_IN_ANY_STATE,
  COMMAND_IN_STANDBY,
  COMMAND_PASSES_ATTENTION,
  COMMAND_PASSES_RESERVE,
  COMMAND_WITHOUT_MEDIUM,
  RESERVED_ALLOW,
  RESERVED_READ,
  RESERVED_WRITE,
} from "./access.ts";
import { getLbaStatus, readCapacity10, readCapacity16, readDefectData } from "./capacity.ts";
import type { Command } from "./command.ts";
import type { CommandRun, Steps } from "./command-run.ts";
import { extendedCopy, receiveCopyParameters, receiveCopyStatus } from "./copy.ts";
import { inquiry } from "./inquiry.ts";
import {
  preFetch,
  preventAllow,
  requestSense,
  startStopUnit,
  synchronizeCache,
  testUnitReady,
  verify,
} from "./medium.ts";
import { modeSelect, modeSense } from "./mode-pages.ts";
import {
  readFullStatus,
  readKeys,
  readReservation,
  release,
  reportCapabilities,
  reserve,
  reserveOut,
} from "./persistent-reserve.ts";
import { reportGroups, reportLuns, reportManagement, reportOpcodes } from "./report.ts";
import {
  SENSE_INVALID_FIELD_IN_CDB,
  SENSE_INVALID_OPCODE,
  SENSE_LUN_NOT_SUPPORTED,
} from "./sense.ts";
import { compareAndWrite, orWrite, unmap, writeAndVerify, writeSame } from "./write-commands.ts";

const ALLOW = RESERVED_ALLOW;
const READ = RESERVED_READ;
const WRITE = RESERVED_WRITE;

/** INQUIRY, REPORT LUNS, REQUEST SENSE: always answered. */
const ALWAYS =
  COMMAND_PASSES_ATTENTION | COMMAND_IN_ANY_STATE | COMMAND_WITHOUT_MEDIUM | COMMAND_PASSES_RESERVE;
/** About the unit, not its medium: answered in standby, too. */
const ABOUT_UNIT = COMMAND_IN_STANDBY | COMMAND_WITHOUT_MEDIUM;
/**
 * Refused in standby: reservations are one state for all ports, and only the port that serves the
 * unit may change it.
 */
const CHANGES_RESERVATIONS = COMMAND_WITHOUT_MEDIUM;
/** About the medium: answered in standby where it is known. */
const STANDBY = COMMAND_IN_STANDBY;
const IN_ANY_STATE = COMMAND_IN_ANY_STATE | COMMAND_WITHOUT_MEDIUM;

type Run = (run: CommandRun) => Steps | null;

/** A command that waits for nothing. */
function now(serve: (run: CommandRun) => void): Run {
  return (run) => {
    serve(run);
    return null;
  };
}

function command(
  name: string,
  code: readonly [opcode: number, action?: number],
  rest: readonly number[],
  reserved: number,
  flags: number,
  run: Run | null,
): Command {
  const [opcode, action = -1] = code;
  return { name, opcode, action, usage: [opcode, ...rest], reserved, flags, run };
}

/** Fields as they often stand in CDBs, as masks. */
const U16 = [0xff, 0xff];
const U32 = [0xff, 0xff, 0xff, 0xff];
const U64 = [...U32, ...U32];
const CONTROL = 0x04;
/** CDBs of blocks, with `flags` in byte 1; the group number is not looked at. */
const blocks6 = (): number[] => [0x1f, 0xff, 0xff, 0xff, CONTROL];
const blocks10 = (flags: number): number[] => [flags, ...U32, 0, ...U16, CONTROL];
const blocks12 = (flags: number): number[] => [flags, ...U32, ...U32, 0, CONTROL];
const blocks16 = (flags: number): number[] => [flags, ...U64, ...U32, 0, CONTROL];
/** Service action in byte 1, zeroes, a length of 4 bytes before the last two. */
const action12 = (action: number, more: readonly number[]): number[] => [
  action,
  ...more,
  ...U32,
  0,
  CONTROL,
];
const reserveIn = (action: number): number[] => [action, 0, 0, 0, 0, 0, ...U16, CONTROL];
const reserveList = (action: number): number[] => [action, 0xff, 0, 0, ...U32, CONTROL];

/** WRPROTECT and its kin, DPO, FUA. */
const PROTECT = 0xe0;
const DPO_FUA = 0x18;
const BYTCHK = 0x06;

export const COMMANDS: readonly Command[] = [
  command("TEST UNIT READY", [0x00], [0, 0, 0, 0, CONTROL], ALLOW, 0, now(testUnitReady)),
  command("REQUEST SENSE", [0x03], [1, 0, 0, 0xff, CONTROL], ALLOW, ALWAYS, now(requestSense)),
  command("READ (6)", [0x08], blocks6(), READ, 0, null),
  command("WRITE (6)", [0x0a], blocks6(), WRITE, 0, null),
  command("INQUIRY", [0x12], [1, 0xff, ...U16, CONTROL], ALLOW, ALWAYS, now(inquiry)),
  command("MODE SELECT (6)", [0x15], [0x11, 0, 0, 0xff, CONTROL], WRITE, ABOUT_UNIT, modeSelect),
  command("RESERVE (6)", [0x16], [0x11, 0, 0, 0, CONTROL], ALLOW, 0, now(reserve)),
  command(
    "RELEASE (6)",
    [0x17],
    [0x11, 0, 0, 0, CONTROL],
    ALLOW,
    COMMAND_PASSES_RESERVE,
    now(release),
  ),
  command(
    "MODE SENSE (6)",
    [0x1a],
    [8, 0xff, 0xff, 0xff, CONTROL],
    READ,
    ABOUT_UNIT,
    now(modeSense),
  ),
  command(
    "START STOP UNIT",
    [0x1b],
    [1, 0, 0, 0xf7, CONTROL],
    WRITE,
    COMMAND_WITHOUT_MEDIUM,
    startStopUnit,
  ),
  command(
    "PREVENT ALLOW MEDIUM REMOVAL",
    [0x1e],
    [0, 0, 0, 3, CONTROL],
    READ,
    COMMAND_WITHOUT_MEDIUM,
    now(preventAllow),
  ),
  command(
    "READ CAPACITY (10)",
    [0x25],
    [0, ...U32, 0, 0, 1, CONTROL],
    ALLOW,
    STANDBY,
    now(readCapacity10),
  ),
  command("READ (10)", [0x28], blocks10(PROTECT | DPO_FUA), READ, 0, null),
  command("WRITE (10)", [0x2a], blocks10(PROTECT | DPO_FUA), WRITE, 0, null),
  command(
    "WRITE AND VERIFY (10)",
    [0x2e],
    blocks10(PROTECT | 0x10 | BYTCHK),
    WRITE,
    0,
    writeAndVerify,
  ),
  command("VERIFY (10)", [0x2f], blocks10(PROTECT | 0x10 | BYTCHK), READ, 0, verify),
  command("PRE-FETCH (10)", [0x34], blocks10(2), READ, 0, now(preFetch)),
  command("SYNCHRONIZE CACHE (10)", [0x35], blocks10(2), WRITE, 0, synchronizeCache),
  command(
    "READ DEFECT DATA (10)",
    [0x37],
    [0, 0x1f, 0, 0, 0, 0, ...U16, CONTROL],
    READ,
    0,
    now(readDefectData),
  ),
  command("WRITE SAME (10)", [0x41], blocks10(PROTECT | 0x18), WRITE, 0, writeSame),
  command("UNMAP", [0x42], [1, 0, 0, 0, 0, 0, ...U16, CONTROL], WRITE, 0, unmap),
  command(
    "MODE SELECT (10)",
    [0x55],
    [0x11, 0, 0, 0, 0, 0, ...U16, CONTROL],
    WRITE,
    ABOUT_UNIT,
    modeSelect,
  ),
  command("RESERVE (10)", [0x56], [0x11, 0, 0, 0, 0, 0, 0, 0, CONTROL], ALLOW, 0, now(reserve)),
  command(
    "RELEASE (10)",
    [0x57],
    [0x11, 0, 0, 0, 0, 0, 0, 0, CONTROL],
    ALLOW,
    COMMAND_PASSES_RESERVE,
    now(release),
  ),
  command(
    "MODE SENSE (10)",
    [0x5a],
    [0x18, 0xff, 0xff, 0, 0, 0, ...U16, CONTROL],
    READ,
    ABOUT_UNIT,
    now(modeSense),
  ),
  command("READ KEYS", [0x5e, 0], reserveIn(0x1f), ALLOW, ABOUT_UNIT, now(readKeys)),
  command("READ RESERVATION", [0x5e, 1], reserveIn(0x1f), ALLOW, ABOUT_UNIT, now(readReservation)),
  command(
    "REPORT CAPABILITIES",
    [0x5e, 2],
    reserveIn(0x1f),
    ALLOW,
    ABOUT_UNIT,
    now(reportCapabilities),
  ),
  command("READ FULL STATUS", [0x5e, 3], reserveIn(0x1f), ALLOW, ABOUT_UNIT, now(readFullStatus)),
  command("REGISTER", [0x5f, 0], reserveList(0x1f), ALLOW, CHANGES_RESERVATIONS, reserveOut),
  command("RESERVE", [0x5f, 1], reserveList(0x1f), ALLOW, CHANGES_RESERVATIONS, reserveOut),
  command("RELEASE", [0x5f, 2], reserveList(0x1f), ALLOW, CHANGES_RESERVATIONS, reserveOut),
  command("CLEAR", [0x5f, 3], reserveList(0x1f), ALLOW, CHANGES_RESERVATIONS, reserveOut),
  command("PREEMPT", [0x5f, 4], reserveList(0x1f), ALLOW, CHANGES_RESERVATIONS, reserveOut),
  command(
    "PREEMPT AND ABORT",
    [0x5f, 5],
    reserveList(0x1f),
    ALLOW,
    CHANGES_RESERVATIONS,
    reserveOut,
  ),
  command(
    "REGISTER AND IGNORE EXISTING KEY",
    [0x5f, 6],
    reserveList(0x1f),
    ALLOW,
    CHANGES_RESERVATIONS,
    reserveOut,
  ),
  command("EXTENDED COPY (LID1)", [0x83, 0], blocks16Copy(), WRITE, 0, extendedCopy),
  command("RECEIVE COPY STATUS (LID1)", [0x84, 0], copyResults(), READ, 0, now(receiveCopyStatus)),
  command(
    "RECEIVE COPY OPERATING PARAMETERS",
    [0x84, 3],
    copyResults(),
    READ,
    0,
    now(receiveCopyParameters),
  ),
  command("READ (16)", [0x88], blocks16(PROTECT | DPO_FUA), READ, 0, null),
  command(
    "COMPARE AND WRITE",
    [0x89],
    [PROTECT | DPO_FUA, ...U64, 0, 0, 0, 0xff, 0, CONTROL],
    WRITE,
    0,
    compareAndWrite,
  ),
  command("WRITE (16)", [0x8a], blocks16(PROTECT | DPO_FUA), WRITE, 0, null),
  command("ORWRITE (16)", [0x8b], blocks16(PROTECT | DPO_FUA), WRITE, 0, orWrite),
  command(
    "WRITE AND VERIFY (16)",
    [0x8e],
    blocks16(PROTECT | 0x10 | BYTCHK),
    WRITE,
    0,
    writeAndVerify,
  ),
  command("VERIFY (16)", [0x8f], blocks16(PROTECT | 0x10 | BYTCHK), READ, 0, verify),
  command("PRE-FETCH (16)", [0x90], blocks16(2), READ, 0, now(preFetch)),
  command("SYNCHRONIZE CACHE (16)", [0x91], blocks16(2), WRITE, 0, synchronizeCache),
  command("WRITE SAME (16)", [0x93], blocks16(PROTECT | 0x19), WRITE, 0, writeSame),
  command(
    "WRITE ATOMIC (16)",
    [0x9c],
    [PROTECT | DPO_FUA, ...U64, ...U16, ...U16, 0, CONTROL],
    WRITE,
    0,
    null,
  ),
  command("READ CAPACITY (16)", [0x9e, 0x10], blocks16(0x1f), ALLOW, STANDBY, now(readCapacity16)),
  command("GET LBA STATUS", [0x9e, 0x12], blocks16(0x1f), READ, 0, getLbaStatus),
  command("REPORT LUNS", [0xa0], action12(0, [0xff, 0, 0, 0]), ALLOW, ALWAYS, now(reportLuns)),
  command(
    "REPORT TARGET PORT GROUPS",
    [0xa3, 0x0a],
    action12(0xff, [0, 0, 0, 0]),
    ALLOW,
    IN_ANY_STATE,
    now(reportGroups),
  ),
  command(
    "REPORT SUPPORTED OPERATION CODES",
    [0xa3, 0x0c],
    action12(0x1f, [0x87, 0xff, 0xff, 0xff]),
    ALLOW,
    ABOUT_UNIT,
    now((run) => reportOpcodes(run, commandsOf(run))),
  ),
  command(
    "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
    [0xa3, 0x0d],
    action12(0x1f, [0x80, 0, 0, 0]),
    ALLOW,
    ABOUT_UNIT,
    now(reportManagement),
  ),
  command("READ (12)", [0xa8], blocks12(PROTECT | DPO_FUA), READ, 0, null),
  command("WRITE (12)", [0xaa], blocks12(PROTECT | DPO_FUA), WRITE, 0, null),
  command(
    "WRITE AND VERIFY (12)",
    [0xae],
    blocks12(PROTECT | 0x10 | BYTCHK),
    WRITE,
    0,
    writeAndVerify,
  ),
  command("VERIFY (12)", [0xaf], blocks12(PROTECT | 0x10 | BYTCHK), READ, 0, verify),
  command(
    "READ DEFECT DATA (12)",
    [0xb7],
    [0x1f, 0, 0, 0, 0, ...U32, 0, CONTROL],
    READ,
    0,
    now(readDefectData),
  ),
];

function blocks16Copy(): number[] {
  return [0x1f, 0, 0, 0, 0, 0, 0, 0, 0, ...U32, 0, CONTROL];
}

function copyResults(): number[] {
  return [0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, ...U32, 0, CONTROL];
}

const UNMAP = 0x42;
const WRITE_ATOMIC = 0x9c;

/** What this logical unit can do of it. */
function commandsOf(run: CommandRun): readonly Command[] {
  const canDiscard = run.unit.info?.canDiscard === true;
  return COMMANDS.filter((one) => {
    if (one.opcode === UNMAP) return canDiscard;
    return one.opcode !== WRITE_ATOMIC || run.unit.atomicBytesMax > 0;
  });
}

/** opcode -> the command, or those that share it. */
const BY_OPCODE: readonly (readonly Command[])[] = Array.from({ length: 256 }, (_, opcode) =>
  COMMANDS.filter((one) => one.opcode === opcode),
);

/** The command, or the sense code with which a unit refuses it. */
export function findCommand(opcode: number, action: number, isAbsent: boolean): Command | number {
  const sharing = BY_OPCODE[opcode];
  if (isAbsent && sharing.every((one) => one.flags !== ALWAYS)) return SENSE_LUN_NOT_SUPPORTED;
  if (sharing.length === 0) return SENSE_INVALID_OPCODE;
  const found = sharing.find((one) => one.action < 0 || one.action === action);
  return found ?? SENSE_INVALID_FIELD_IN_CDB;
}
