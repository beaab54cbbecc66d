// From what was typed to what a command is given: every option checked against its declaration, so
// that commands see numbers in range, bytes and known choices.

import { ClientError } from "../client/index.ts";
import { parseSize, quote } from "../model/volume-rules.ts";
import type { OptionSpec, OptionValue, OptionValues } from "./command-spec.ts";

/** `dry-run` to `dryRun`. */
function keyOf(long: string): string {
  return long.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** `typed`: text by key, true for switches, undefined where nothing was typed. */
export function checkOptions(
  specs: readonly OptionSpec[],
  typed: Readonly<Record<string, unknown>>,
): OptionValues {
  const values: Record<string, OptionValue | undefined> = {};
  for (const spec of specs) {
    const text = typed[keyOf(spec.long)];
    if (text === undefined) continue;
    const all = spec.repeats === true ? (text as readonly string[]) : null;
    values[keyOf(spec.long)] =
      all === null ? checkOption(spec, text) : all.map((one) => String(checkOption(spec, one)));
  }
  return values;
}

function checkOption(spec: OptionSpec, typed: unknown): string | number | boolean {
  if (spec.kind === "switch") return typed === true;
  const text = String(typed);
  const name = `--${spec.long}`;
  if (spec.choices !== undefined && !spec.choices.includes(text)) {
    throw usage(`${name} ${quote(text)} is not one of its choices`, spec.choices.join(", "));
  }
  switch (spec.kind) {
    case "size":
      return parseSize(name, text);
    case "integer":
    case "seconds":
      return checkNumber(spec, name, text);
    default:
      if (text === "") throw usage(`${name} is empty`, spec.metavar ?? "something");
      return text;
  }
}

function checkNumber(spec: OptionSpec, name: string, text: string): number {
  const { minimum = 0, maximum = Number.MAX_SAFE_INTEGER } = spec;
  const pattern = spec.kind === "integer" ? /^\d{1,15}$/ : /^\d{1,9}(\.\d{1,6})?$/;
  const value = pattern.test(text) ? Number(text) : Number.NaN;
  if (value >= minimum && value <= maximum) return value;
  throw usage(`${name} ${quote(text)} is out of range`, `${minimum} to ${maximum}`);
}

function usage(message: string, choices: string): ClientError {
  return new ClientError("usage", message, { advice: `use ${choices}` });
}
