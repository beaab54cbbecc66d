// Commands that report about the target: REPORT LUNS, REPORT SUPPORTED OPERATION CODES, REPORT
// SUPPORTED TASK MANAGEMENT FUNCTIONS, REPORT TARGET PORT GROUPS (SPC-4 6.33 to 6.37).

import { putU16, putU32 } from "../base/index.ts";
import type { Command } from "./command.ts";
import type { CommandRun } from "./command-run.ts";
import type { TargetPortGroup } from "./logical-unit.ts";
import { UA_LUNS_CHANGED } from "./sense.ts";

const LUN_ENTRY_BYTES = 8;

export function reportLuns(run: CommandRun): void {
  const select = run.u8(2);
  const allocation = run.u32(6);
  if (select > 2) {
    run.refuseField(2);
    return;
  }
  if (allocation < 16) {
    run.refuseField(6);
    return;
  }
  const units = run.target.units;
  const data = run.page(8 + units.length * LUN_ENTRY_BYTES);
  let at = 8;
  // Select 1 asks for well known logical units: there are none.
  for (let lun = 0; lun < units.length && select !== 1; lun++) {
    if (units[lun] === null) continue;
    data[at + 1] = lun;
    at += LUN_ENTRY_BYTES;
  }
  putU32(data, 0, at - 8);
  for (const link of run.target.linksOf(run.link.nexus)) link.forget(UA_LUNS_CHANGED);
  run.reply(at, allocation);
}

const TIMEOUTS_BYTES = 12;
const REPORT_ALL = 0;
const REPORT_OPCODE = 1;
const REPORT_ACTION = 2;
const REPORT_EITHER = 3;

/** `commands` is the whole table: it lists itself. */
export function reportOpcodes(run: CommandRun, commands: readonly Command[]): void {
  const options = run.u8(2) & 7;
  const hasTimeouts = (run.u8(2) & 0x80) !== 0;
  const allocation = run.u32(6);
  if (options > REPORT_EITHER) {
    run.refuseField(2, 2);
    return;
  }
  if (options === REPORT_ALL) {
    run.reply(listCommands(run, commands, hasTimeouts), allocation);
    return;
  }
  const opcode = run.u8(3);
  const action = run.u16(4);
  const sharing = commands.filter((one) => one.opcode === opcode);
  const hasActions = sharing.some((one) => one.action >= 0);
  if (options === REPORT_OPCODE && hasActions) {
    run.refuseField(2, 2);
    return;
  }
  if (options === REPORT_ACTION && sharing.length > 0 && !hasActions) {
    run.refuseField(2, 2);
    return;
  }
  const found = sharing.find((one) => one.action < 0 || one.action === action);
  run.reply(describeCommand(run, found, hasTimeouts), allocation);
}

function listCommands(run: CommandRun, commands: readonly Command[], hasTimeouts: boolean): number {
  const entry = 8 + (hasTimeouts ? TIMEOUTS_BYTES : 0);
  const data = run.page(4 + commands.length * entry);
  let at = 4;
  for (const command of commands) {
    data[at] = command.opcode;
    putU16(data, at + 2, Math.max(0, command.action));
    data[at + 5] = (hasTimeouts ? 2 : 0) | (command.action >= 0 ? 1 : 0);
    putU16(data, at + 6, command.usage.length);
    // No timeout is known: zeroes behind the descriptor's length.
    if (hasTimeouts) putU16(data, at + 8, TIMEOUTS_BYTES - 2);
    at += entry;
  }
  putU32(data, 0, at - 4);
  return at;
}

function describeCommand(
  run: CommandRun,
  command: Command | undefined,
  hasTimeouts: boolean,
): number {
  const usage = command?.usage ?? [];
  const total = 4 + usage.length + (hasTimeouts && command !== undefined ? TIMEOUTS_BYTES : 0);
  const data = run.page(total);
  // SUPPORT: 1 not supported, 3 as the standard says.
  data[1] = command === undefined ? 1 : 3;
  if (command === undefined) return 4;
  putU16(data, 2, usage.length);
  data.set(usage, 4);
  data[4] = command.opcode;
  if (hasTimeouts) {
    data[1] |= 0x80;
    putU16(data, 4 + usage.length, TIMEOUTS_BYTES - 2);
  }
  return total;
}

export function reportManagement(run: CommandRun): void {
  const isExtended = (run.u8(2) & 0x80) !== 0;
  const bytes = isExtended ? 16 : 4;
  const data = run.page(bytes);
  // ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, QUERY TASK.
  data[0] = 0x80 | 0x40 | 0x10 | 0x08 | 0x04;
  // QUERY TASK SET, I_T NEXUS RESET.
  data[1] = 0x02 | 0x01;
  if (isExtended) data[3] = 0x0c;
  run.reply(bytes, run.u32(6));
}

const GROUP_BYTES = 8;
const PORT_BYTES = 4;

export function reportGroups(run: CommandRun): void {
  const format = run.u8(1) >>> 5;
  const { groups } = run.unit;
  run.link.asksForStates = true;
  if (format > 1) {
    run.refuseField(1, 7);
    return;
  }
  if (groups.length === 0) {
    // TPGS in the standard INQUIRY data is 00b.
    run.refuseField(1, 4);
    return;
  }
  const head = format === 1 ? 8 : 4;
  const size = (group: TargetPortGroup): number => GROUP_BYTES + group.ports.length * PORT_BYTES;
  const total = groups.reduce((sum, group) => sum + size(group), head);
  const data = run.page(total);
  putU32(data, 0, total - 4);
  if (format === 1) data[4] = 0x10;
  let at = head;
  for (const group of groups) {
    data[at] = (group.isPreferred ? 0x80 : 0) | group.state;
    // Transitioning, unavailable, standby, active non-optimized and optimized occur.
    data[at + 1] = 0x8f;
    putU16(data, at + 2, group.id);
    // STATUS CODE: changed by the target itself.
    data[at + 5] = 0x02;
    data[at + 7] = group.ports.length;
    at += GROUP_BYTES;
    for (const port of group.ports) {
      putU16(data, at + 2, port);
      at += PORT_BYTES;
    }
  }
  run.reply(total, run.u32(6));
}
