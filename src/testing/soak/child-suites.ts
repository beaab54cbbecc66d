// Suites that are programs of their own: the fuzzers, and the scenarios with real guests, whose
// counts are raised through their environment.

import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { basename } from "node:path";
import { builtFile } from "../daemon.ts";
import type { SoakOptions } from "./options.ts";
import type { SuiteContext, SuiteResult } from "./suite.ts";

const OUTPUT_CHARS_MAX = 4000;
/** Beyond the minutes it was given, before it counts as stuck. */
const GRACE_MS = 10 * 60_000;
/** More than `npm test` has time for. */
const OTHER_ROUNDS: Readonly<Record<string, string>> = {
  RINGSTORE_ROUNDS_PLUG: "20",
  RINGSTORE_ROUNDS_MEMORY: "4",
  RINGSTORE_ROUNDS_RESIZE: "4",
  RINGSTORE_ROUNDS_CUT: "4",
};

interface Outcome {
  readonly exitCode: number | null;
  readonly output: string;
  readonly late: boolean;
}

function run(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  limitMs: number,
): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ["--enable-source-maps", ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    let output = "";
    let late = false;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (text: Buffer) => {
        output = (output + text.toString("utf8")).slice(-OUTPUT_CHARS_MAX);
      });
    }
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGTERM");
    }, limitMs);
    child.on("close", (exitCode) => {
      clearTimeout(timer);
      resolve({ exitCode, output, late });
    });
  });
}

function problemOf(what: string, outcome: Outcome): string[] {
  if (outcome.late) return [`${what} did not end in time: ${outcome.output.slice(-500)}`];
  if (outcome.exitCode === 0) return [];
  return [`${what}: exit code ${outcome.exitCode}: ${outcome.output.slice(-1500)}`];
}

export async function fuzzSuite(context: SuiteContext, minutes: number): Promise<SuiteResult> {
  const entry = builtFile("testing/fuzz/main.js");
  if (!existsSync(entry)) return { counts: "not built", broken: ["there is no fuzzer"] };
  const left = Math.max(1, Math.min(minutes, Math.floor(context.leftMs() / 60_000)));
  const args = [entry, "--minutes", String(left), "--seed", String(context.seed)];
  const outcome = await run(args, {}, left * 60_000 + GRACE_MS);
  const said = outcome.output.trim().split("\n").pop() ?? "";
  return { counts: `${left} minutes; ${said}`, broken: problemOf("the fuzzers", outcome) };
}

/** Runs every scenario with a real guest; the counts go to those that know them. */
export async function guestSuite(
  context: SuiteContext,
  options: Pick<SoakOptions, "rebootCount" | "guestKillCount">,
): Promise<SuiteResult> {
  const folder = builtFile("testing/scenarios");
  const files = readdirSync(folder).filter((name) => /^guest-.*\.test\.js$/.test(name));
  const env = {
    RINGSTORE_ROUNDS_BOOT: String(options.rebootCount),
    RINGSTORE_ROUNDS_KILL: String(options.guestKillCount),
    ...OTHER_ROUNDS,
  };
  const done: string[] = [];
  const broken: string[] = [];
  for (const name of files) {
    if (context.expired()) break;
    const outcome = await run([`${folder}/${name}`], env, context.leftMs() + GRACE_MS);
    broken.push(...problemOf(name, outcome));
    done.push(basename(name, ".test.js").replace("guest-", ""));
    context.say(`guests: ${done.length} of ${files.length} scenarios, ${broken.length} broken`);
  }
  const { rebootCount, guestKillCount } = options;
  const counts =
    `${done.length} of ${files.length} scenarios (${done.join(", ")}), ` +
    `${rebootCount} reboots, ${guestKillCount} kills where they have them`;
  return { counts, broken };
}
