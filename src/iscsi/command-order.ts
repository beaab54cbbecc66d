// @hot
// The order of commands (RFC 7143 section 4.2.2.1): each non-immediate one is executed once, when
// all before it have come. Those that come early are held.
//
//   held[cmdSn & 127] = task | NONE | SKIPPED        ExpCmdSN -> the first that is not executed
//
// Invariant: the window has at most COMMANDS_MAX numbers, so that no two of them share a place.

import { isBefore } from "./layout-bytes.ts";
import { COMMANDS_MAX } from "./limits.ts";
import type { PduWriter } from "./pdu-writer.ts";
import { TASK_HELD, type TaskTable } from "./task-table.ts";

const NONE = -1;
/** Refused or aborted before it came: its number counts, it does not. */
const SKIPPED = -2;
const MASK: number = COMMANDS_MAX - 1;

export interface CommandExecutor {
  readonly isOpen: boolean;
  /** The turn of the request in `slot` has come. */
  execute(slot: number): void;
}

export class CommandOrder {
  private readonly writer: PduWriter;
  private readonly tasks: TaskTable;
  private readonly executor: CommandExecutor;
  private readonly held: Int16Array = new Int16Array(COMMANDS_MAX).fill(NONE);

  constructor(writer: PduWriter, tasks: TaskTable, executor: CommandExecutor) {
    this.writer = writer;
    this.tasks = tasks;
    this.executor = executor;
  }

  /** False: too early, too late, or there already. Such a command is ignored. */
  isInWindow(cmdSn: number): boolean {
    if (isBefore(cmdSn, this.writer.expCmdSn)) return false;
    if (isBefore(this.writer.maxCmdSn, cmdSn)) return false;
    return this.held[cmdSn & MASK] === NONE;
  }

  /** A non-immediate request is whole: it and those behind it are executed as far as they can. */
  arrived(slot: number): void {
    const { writer, held } = this;
    const cmdSn = this.tasks.cmdSn[slot];
    if (cmdSn !== writer.expCmdSn) {
      this.tasks.state[slot] = TASK_HELD;
      held[cmdSn & MASK] = slot;
      return;
    }
    writer.expCmdSn = (cmdSn + 1) >>> 0;
    this.executor.execute(slot);
    this.goOn();
  }

  /** The next in order have waited. */
  private goOn(): void {
    const { writer, held } = this;
    while (held[writer.expCmdSn & MASK] !== NONE && this.executor.isOpen) {
      const index = writer.expCmdSn & MASK;
      const slot = held[index];
      held[index] = NONE;
      writer.expCmdSn = (writer.expCmdSn + 1) >>> 0;
      if (slot !== SKIPPED) this.executor.execute(slot);
    }
  }

  /** The command with this number must not be executed, if it comes at all. */
  // @cold
  skip(cmdSn: number): void {
    if (!this.isInWindow(cmdSn)) return;
    this.held[cmdSn & MASK] = SKIPPED;
    if (cmdSn === this.writer.expCmdSn) this.goOn();
  }

  /** A task that is held goes away. */
  // @cold
  forget(slot: number): void {
    if (this.tasks.state[slot] !== TASK_HELD) return;
    this.held[this.tasks.cmdSn[slot] & MASK] = SKIPPED;
  }
}
