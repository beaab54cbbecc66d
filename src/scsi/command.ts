// What the command table (commands.ts) says of each command.

import type { CommandRun, Steps } from "./command-run.ts";

export interface Command {
  readonly name: string;
  readonly opcode: number;
  /** Service action (byte 1, bits 4-0), or -1 for commands without. */
  readonly action: number;
  /**
   * CDB usage data of REPORT SUPPORTED OPERATION CODES: a bit is 1 where it is looked at. Its
   * length is that of the CDB.
   */
  readonly usage: readonly number[];
  /** A RESERVED_... of access.ts. */
  readonly reserved: number;
  /** COMMAND_... flags of access.ts. */
  readonly flags: number;
  /**
   * Runs it: null when it has waited for nothing. The field is null for READ and WRITE, which the
   * engine serves itself.
   */
  readonly run: ((run: CommandRun) => Steps | null) | null;
}
