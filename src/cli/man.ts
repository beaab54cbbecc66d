// Man pages from the command table, in man(7) macros: one overview, one page per command, and
// ringstored(8) from the settings table.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ClientError } from "../client/index.ts";
import { SETTINGS } from "../model/config.ts";
import { EXIT_CODES } from "../model/errors.ts";
import { VOLUME_NAME_LENGTH_MAX } from "../model/limits.ts";
import type { CommandRun, CommandSpec, CommandTable, OptionSpec } from "./command-spec.ts";
import { readVersion } from "./version.ts";

export const man: CommandRun = async (context, { arguments: words, options }) => {
  const pages = manPages(context.table);
  if (options["write"] !== undefined) {
    for (const [name, text] of pages) {
      const folder = join(String(options["write"]), `man${name.slice(-1)}`);
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, name), text);
    }
    context.note(`${pages.size} pages written`);
    return null;
  }
  const wanted =
    words[0] === "ringstored" ? "ringstored.8" : `${["ringstore", ...words].join("-")}.1`;
  const page = pages.get(wanted);
  if (page === undefined) {
    const commands = context.table.commands.map((one) => one.path.join(" ")).join(", ");
    throw new ClientError("usage", `there is no page ${JSON.stringify(words.join(" "))}`, {
      advice: `the commands are ${commands}`,
    });
  }
  context.streams.out(page);
  return null;
};

/** By file name. */
export function manPages(table: CommandTable): Map<string, string> {
  const pages = new Map([
    ["ringstore.1", overview(table)],
    ["ringstored.8", daemonPage()],
  ]);
  for (const command of table.commands) {
    pages.set(`ringstore-${command.path.join("-")}.1`, commandPage(command));
  }
  return pages;
}

function header(name: string, section: number): string {
  return `.TH ${name.toUpperCase()} ${section} "" "Ringstore ${readVersion()}" "Ringstore Manual"`;
}

/** A hyphen that is typed, and text that would be read as a macro. */
function roff(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^([.'])/gm, "\\&$1");
}

function options(specs: readonly OptionSpec[]): string[] {
  return specs.flatMap((spec) => {
    const short = spec.short === undefined ? "" : `\\fB\\-${spec.short}\\fR, `;
    const value = spec.metavar === undefined ? "" : ` \\fI${spec.metavar}\\fR`;
    return [".TP", `${short}\\fB${roff(`--${spec.long}`)}\\fR${value}`, roff(spec.description)];
  });
}

function exitStatus(): string[] {
  return [
    ".SH EXIT STATUS",
    ...EXIT_CODES.flatMap(([code, meaning]) => [".TP", `\\fB${code}\\fR`, roff(meaning)]),
  ];
}

function overview(table: CommandTable): string {
  return lines([
    header("ringstore", 1),
    ".SH NAME",
    "ringstore \\- volumes for virtual machines over vhost\\-user",
    ".SH SYNOPSIS",
    "\\fBringstore\\fR [\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]",
    ".SH DESCRIPTION",
    roff(
      "Talks to a running ringstored over the unix socket in its data directory, or over TCP. " +
        "Data goes to standard output; warnings and errors go to standard error.",
    ),
    ".SH COMMANDS",
    ...table.commands.flatMap((command) => [
      ".TP",
      `\\fBringstore ${roff(command.path.join(" "))}\\fR`,
      roff(command.summary),
    ]),
    ".SH OPTIONS",
    ...options(table.globalOptions),
    ...exitStatus(),
    ".SH ENVIRONMENT",
    roff(
      "RINGSTORE_DATA, RINGSTORE_URL, RINGSTORE_TOKEN_FILE and RINGSTORE_CA_FILE stand for the " +
        "options of the same name; NO_COLOR turns colours off.",
    ),
    ".SH NOTES",
    roff(
      `Volume names have 1 to ${VOLUME_NAME_LENGTH_MAX} lower-case letters, digits and hyphens.`,
    ),
    ".SH SEE ALSO",
    "\\fBringstored\\fR(8)",
  ]);
}

function commandPage(command: CommandSpec): string {
  const name = `ringstore-${command.path.join("-")}`;
  const words = command.arguments.map((argument) => {
    const word = `\\fI${argument.name}\\fR${argument.rest === true ? " ..." : ""}`;
    return argument.optional === true ? `[${word}]` : word;
  });
  const typed = `\\fBringstore ${roff(command.path.join(" "))}\\fR`;
  const body = [
    header(name, 1),
    ".SH NAME",
    `${roff(name)} \\- ${roff(command.summary)}`,
    ".SH SYNOPSIS",
    `${typed} [\\fIoptions\\fR] ${words.join(" ")}`.trimEnd(),
  ];
  if (command.details !== undefined || command.arguments.length > 0) {
    body.push(".SH DESCRIPTION");
    for (const paragraph of command.details ?? []) body.push(".PP", roff(paragraph));
    for (const argument of command.arguments) {
      body.push(".TP", `\\fI${argument.name}\\fR`, roff(argument.description));
    }
  }
  if (command.options.length > 0) body.push(".SH OPTIONS", ...options(command.options));
  body.push(".PP", roff("The options that every command takes are in ringstore(1)."));
  body.push(".SH EXAMPLES", ".nf", ...command.examples.map(roff), ".fi");
  body.push(...exitStatus(), ".SH SEE ALSO", "\\fBringstore\\fR(1), \\fBringstored\\fR(8)");
  return lines(body);
}

function daemonPage(): string {
  const settings = SETTINGS.flatMap((setting) => {
    const value = setting.metavar === "" ? "" : ` \\fI${setting.metavar}\\fR`;
    const key = `In the configuration file: ${setting.key}.`;
    const reload = setting.reloadable === true ? " Taken up by SIGHUP." : "";
    return [
      ".TP",
      `\\fB${roff(`--${setting.flag}`)}\\fR${value}`,
      roff(`${setting.description}. ${key}${reload}`),
    ];
  });
  return lines([
    header("ringstored", 8),
    ".SH NAME",
    "ringstored \\- serves volumes to virtual machines over vhost\\-user",
    ".SH SYNOPSIS",
    "\\fBringstored\\fR [\\fIoptions\\fR]",
    ".SH DESCRIPTION",
    roff(
      "Runs in the foreground and logs to standard error. Every volume that was attached is " +
        "served again after a restart. SIGTERM and SIGINT stop it cleanly; SIGHUP reads the " +
        "tokens and the configuration again.",
    ),
    ".SH OPTIONS",
    ...settings,
    ".TP",
    "\\fB\\-\\-config\\fR \\fIFILE\\fR",
    "YAML or JSON file with these settings. An option goes before the file.",
    ".SH EXIT STATUS",
    "0 stopped cleanly, 1 cannot start or failed, 2 wrong usage.",
    ".SH SEE ALSO",
    "\\fBringstore\\fR(1)",
  ]);
}

function lines(parts: readonly string[]): string {
  return `${parts.join("\n")}\n`;
}
