// The shape of the command table (command-table.ts): one declaration per command, from which come
// parsing, help, shell completion and man pages. Data only; a command's code is loaded when it
// runs.

import type { Context } from "./context.ts";
import type { Result } from "./output.ts";

/** What a shell can complete an argument with. */
export type Completes = "volume" | "disk" | "node" | "file" | "directory" | "nothing";

export interface ArgumentSpec {
  readonly name: string;
  readonly description: string;
  readonly completes: Completes;
  readonly optional?: boolean;
  /** Takes all words that are left. */
  readonly rest?: boolean;
}

export type OptionKind = "text" | "path" | "directory" | "size" | "integer" | "seconds" | "switch";

export interface OptionSpec {
  /** Without the hyphens, e.g. `dry-run`. */
  readonly long: string;
  readonly short?: string;
  /** Absent for switches. */
  readonly metavar?: string;
  readonly kind: OptionKind;
  readonly description: string;
  readonly choices?: readonly string[];
  readonly minimum?: number;
  readonly maximum?: number;
  /** May be given more than once: its value is the list. Of text and paths only. */
  readonly repeats?: boolean;
}

/** Checked values by camel-cased long name: sizes in bytes, seconds as given. */
export type OptionValues = Readonly<Record<string, OptionValue | undefined>>;
export type OptionValue = string | number | boolean | readonly string[];

export interface Invocation {
  readonly arguments: readonly string[];
  readonly options: OptionValues;
}

/** Null: the command has written what there is to write. */
export type CommandRun = (context: Context, invocation: Invocation) => Promise<Result | null>;

/** Resolves to the exit code. */
export type RawRun = (words: readonly string[]) => Promise<number>;

export interface CommandSpec {
  /** `["volume", "create"]`. */
  readonly path: readonly string[];
  readonly summary: string;
  /** More, for the man page and --help: whole sentences, one paragraph per entry. */
  readonly details?: readonly string[];
  readonly arguments: readonly ArgumentSpec[];
  readonly options: readonly OptionSpec[];
  readonly examples: readonly string[];
  readonly load: () => Promise<CommandRun | RawRun>;
  /** Its words are not ours to parse: they are handed to a RawRun as they are. */
  readonly raw?: boolean;
}

export interface GroupSpec {
  readonly path: readonly string[];
  readonly summary: string;
}

export interface CommandTable {
  readonly commands: readonly CommandSpec[];
  readonly groups: readonly GroupSpec[];
  /** Options that every command takes. */
  readonly globalOptions: readonly OptionSpec[];
}
