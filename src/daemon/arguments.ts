// The command line of ringstored and its configuration file, from the settings table in
// model/config.ts. No argument library: this runs before guests are served.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import {
  CONFIG_DEFAULTS,
  ConfigError,
  type ConfigKey,
  checkConfigFile,
  checkSetting,
  type DaemonConfig,
  parseSettingText,
  SETTINGS,
} from "../model/config.ts";

export type CommandLine =
  | { readonly kind: "run"; readonly flags: Partial<DaemonConfig>; readonly configPath: string }
  | { readonly kind: "help" }
  | { readonly kind: "version" };

type ParseOptions = Record<
  string,
  { type: "string" | "boolean"; multiple?: boolean; short?: string }
>;

export function parseCommandLine(
  argv: readonly string[],
  environment: NodeJS.ProcessEnv,
): CommandLine {
  const options: ParseOptions = {
    config: { type: "string" },
    help: { type: "boolean", short: "h" },
    version: { type: "boolean" },
  };
  for (const { flag, kind } of SETTINGS) {
    options[flag] = { type: kind === "switch" ? "boolean" : "string", multiple: kind === "paths" };
  }
  let values: Record<string, unknown>;
  try {
    ({ values } = parseArgs({ args: [...argv], options, allowPositionals: false }));
  } catch (error) {
    throw new ConfigError("invalid_config", (error as Error).message, {
      advice: "see: ringstored --help",
    });
  }
  if (values["help"] === true) return { kind: "help" };
  if (values["version"] === true) return { kind: "version" };
  const flags: Partial<Record<ConfigKey, unknown>> = {};
  if (environment["RINGSTORE_DATA"]) flags.dataDirectory = environment["RINGSTORE_DATA"];
  for (const setting of SETTINGS) {
    const given = values[setting.flag];
    if (given === undefined) continue;
    // A switch on the command line turns its fallback around.
    const value = setting.kind === "switch" ? !setting.fallback : fromText(setting, given);
    flags[setting.key] = checkSetting(setting, value, `--${setting.flag}`);
  }
  const configPath = values["config"] === undefined ? "" : resolve(String(values["config"]));
  return { kind: "run", flags: flags as Partial<DaemonConfig>, configPath };
}

function fromText(setting: (typeof SETTINGS)[number], given: unknown): unknown {
  return typeof given === "string" ? parseSettingText(setting, given) : given;
}

/** Flags before file before defaults. `configPath` "" = no file. */
export async function loadConfig(
  flags: Partial<DaemonConfig>,
  configPath: string,
): Promise<DaemonConfig> {
  const fromFile = configPath === "" ? {} : await readConfigFile(configPath);
  return { ...CONFIG_DEFAULTS, ...fromFile, ...flags };
}

async function readConfigFile(path: string): Promise<Partial<DaemonConfig>> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new ConfigError("invalid_config", `cannot read the configuration ${path}: ${code}`);
  }
  return checkConfigFile(await parseFile(text, path), path);
}

/** JSON when it is named so, otherwise YAML. */
async function parseFile(text: string, path: string): Promise<unknown> {
  try {
    if (path.endsWith(".json")) return JSON.parse(text);
    const { parse } = await import("yaml");
    return parse(text);
  } catch (error) {
    const reason = (error as Error).message.split("\n")[0];
    throw new ConfigError("invalid_config", `${path} is not understood: ${reason}`);
  }
}

export function helpText(): string {
  const rows = SETTINGS.map((setting) => {
    const head = `--${setting.flag}${setting.metavar === "" ? "" : ` ${setting.metavar}`}`;
    const fallback = String(setting.fallback);
    const shown = setting.kind === "switch" || fallback === "" ? "" : ` (default ${fallback})`;
    return [head, `${setting.description}${shown}`] as const;
  });
  rows.push(["--config FILE", "YAML or JSON file with these settings, by their long names"]);
  rows.push(["--version", "print the version"], ["-h, --help", "print this"]);
  const lines = rows.map(([head, text]) => `  ${head}\n${wrap(text, 8)}`);
  return `ringstored - serves volumes to virtual machines over vhost-user

Usage: ringstored [options]

Runs in the foreground. SIGTERM and SIGINT stop it cleanly, SIGHUP reads the tokens and the
configuration again. RINGSTORE_DATA is used where --data is not given.

Options:
${lines.join("\n")}

ringstored --role disk-check --path PATH verifies a disk of the store that no daemon has open, and
prints what is wrong: exit code 0 nothing, 1 errors, 2 it could not be carried out.

ringstored --role meta --data DIR [--listen HOST:PORT] is the metadata server of a cluster on one
machine; docs/metadata.md has the rest.

Exit codes: 0 stopped cleanly, 1 cannot start or failed, 2 wrong usage.
`;
}

function wrap(text: string, indent: number): string {
  const lines: string[] = [];
  let line = " ".repeat(indent);
  for (const word of text.split(" ")) {
    if (line.length + word.length > 98 && line.trim() !== "") {
      lines.push(line.trimEnd());
      line = " ".repeat(indent);
    }
    line += `${word} `;
  }
  return [...lines, line.trimEnd()].join("\n");
}
