// Builds the commander program from the command table and runs one command of it. Nothing here
// knows any command by name.

import { Command, Option } from "commander";
import { ClientError } from "../client/index.ts";
import { EXIT_CODES } from "../model/errors.ts";
import type {
  CommandSpec,
  CommandTable,
  Invocation,
  OptionSpec,
  OptionValues,
} from "./command-spec.ts";
import { checkOptions } from "./option-values.ts";

/** What was asked for, checked: the command and the values of all its options. */
export interface ParsedCommand {
  readonly spec: CommandSpec;
  readonly invocation: Invocation;
  readonly global: OptionValues;
}

export interface ProgramOptions {
  readonly version: string;
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly columns: number;
}

/** Null: help or the version was asked for and has been written. Throws a usage ClientError. */
export async function parseCommand(
  table: CommandTable,
  words: readonly string[],
  options: ProgramOptions,
): Promise<ParsedCommand | null> {
  let parsed: ParsedCommand | null = null;
  const program = buildProgram(table, options, (spec, command, values) => {
    const typed = command.optsWithGlobals();
    parsed = {
      spec,
      invocation: {
        arguments: checkSizes(spec, values),
        options: checkOptions(spec.options, typed),
      },
      global: checkOptions(table.globalOptions, typed),
    };
  });
  try {
    await program.parseAsync([...words], { from: "user" });
  } catch (error) {
    if (!isCommanderError(error)) throw error;
    if (error.exitCode === 0) return null;
    // Commander has written what was wrong and how to go on.
    throw new ClientError("usage", "");
  }
  return parsed;
}

function isCommanderError(error: unknown): error is Error & { exitCode: number } {
  return error instanceof Error && "exitCode" in error;
}

/** The raw command that the words begin with, after options of our own, and the words after it. */
export function findRaw(
  table: CommandTable,
  words: readonly string[],
): { readonly spec: CommandSpec; readonly words: readonly string[] } | null {
  for (let at = 0; at < words.length; at++) {
    const word = words[at] as string;
    if (word.startsWith("-")) {
      const takesValue = table.globalOptions.some(
        ({ long, short, metavar }) =>
          metavar !== undefined && (word === `--${long}` || word === `-${short}`),
      );
      if (takesValue) at += 1;
      continue;
    }
    const spec = table.commands.find(({ path, raw }) => raw === true && path[0] === word);
    return spec === undefined ? null : { spec, words: words.slice(at + 1) };
  }
  return null;
}

type Action = (spec: CommandSpec, command: Command, values: readonly string[]) => void;

function buildProgram(table: CommandTable, options: ProgramOptions, action: Action): Command {
  const program = new Command("ringstore");
  program
    .description("Volumes for virtual machines over vhost-user.")
    .version(options.version, "--version", "print the version of this program")
    .helpOption("-h, --help", "print help")
    .exitOverride()
    .configureHelp({ showGlobalOptions: true, helpWidth: options.columns })
    .configureOutput({
      writeOut: options.out,
      writeErr: options.err,
      outputError: (text, write) => write(errorText(text)),
    })
    .showHelpAfterError("  see: ringstore --help")
    .addHelpText("after", `\n${exitCodeHelp()}`);
  for (const spec of table.globalOptions) program.addOption(optionOf(spec));
  const groups = new Map<string, Command>();
  for (const { path, summary } of table.groups) {
    const group = program.command(path.join(" ")).description(summary);
    groups.set(path.join(" "), group);
  }
  for (const spec of table.commands) addCommand(groups, program, spec, action);
  return program;
}

function addCommand(
  groups: ReadonlyMap<string, Command>,
  program: Command,
  spec: CommandSpec,
  action: Action,
): void {
  const parent = groups.get(spec.path.slice(0, -1).join(" ")) ?? program;
  const name = spec.path[spec.path.length - 1] as string;
  const command = parent.command(name).summary(spec.summary);
  command.description([`${spec.summary}.`, ...(spec.details ?? [])].join("\n\n"));
  command.showHelpAfterError(`  see: ringstore ${spec.path.join(" ")} --help`);
  for (const argument of spec.arguments) {
    const rest = argument.rest === true ? "..." : "";
    const form =
      argument.optional === true ? `[${argument.name}${rest}]` : `<${argument.name}${rest}>`;
    command.argument(form, argument.description);
  }
  for (const option of spec.options) command.addOption(optionOf(option));
  if (spec.examples.length > 0) {
    command.addHelpText(
      "after",
      `\nExamples:\n${spec.examples.map((one) => `  ${one}`).join("\n")}`,
    );
  }
  command.action(() => action(spec, command, command.processedArgs.flat().filter(isText)));
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function optionOf(spec: OptionSpec): Option {
  const short = spec.short === undefined ? "" : `-${spec.short}, `;
  const value = spec.metavar === undefined ? "" : ` <${spec.metavar}>`;
  const option = new Option(`${short}--${spec.long}${value}`, spec.description);
  // Commander turns --no-x into x=false; the table says what it means: a switch like any other.
  option.negate = false;
  option.attributeName = () =>
    spec.long.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
  if (spec.repeats === true) {
    option.argParser((word, before: readonly string[] | undefined) => [...(before ?? []), word]);
  }
  return option;
}

/** Arguments called "size" are sizes: bytes, as text. */
function checkSizes(spec: CommandSpec, values: readonly string[]): readonly string[] {
  const sizes = spec.arguments.map((argument) => argument.name === "size");
  return values.map((value, index) => {
    if (sizes[index] !== true) return value;
    const [option] = Object.values(
      checkOptions([{ long: "size", metavar: "SIZE", kind: "size", description: "" }], {
        size: value,
      }),
    );
    return String(option);
  });
}

function errorText(text: string): string {
  return text.replace(/^error: /, "ringstore: ");
}

function exitCodeHelp(): string {
  const lines = EXIT_CODES.map(([code, meaning]) => `  ${String(code).padStart(2)}  ${meaning}`);
  return `Exit codes:\n${lines.join("\n")}`;
}
