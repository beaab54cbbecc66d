// libiscsi's iscsi-test-cu (Debian package libiscsi-bin) against a target, and what it says of each
// of its tests. A test that meets a command that the target has not got says SKIPPED and counts as
// passed for the suite: here it does not.

import { execFile } from "node:child_process";
import { requireOnSystem } from "../vm/index.ts";

export interface SuiteTest {
  /** `Suite.Test`. */
  readonly name: string;
  readonly outcome: "passed" | "skipped" | "failed";
  /** What was printed of it. */
  readonly text: string;
}

export interface SuiteOptions {
  /** `iscsi://USER%SECRET@HOST:PORT/TARGET/LUN`. */
  readonly url: string;
  /** Names of two initiators, both of which may log in; the suite's own if there are none. */
  readonly initiators?: readonly [string, string];
  /** Patterns as of file names, parted by commas: e.g. `ALL`, `ALL.Inquiry` or `ALL.[A-F]*`. */
  readonly tests: string;
  readonly timeoutMs: number;
}

const LIST_MS = 60_000;
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;
/** Its tests write where they like. */
const DATA_LOSS = "-d";
const VERBOSE = "-v";

/**
 * Runs the suite to its end. The unit's only path is also its second one, for the tests of several.
 */
export async function runIscsiSuite(options: SuiteOptions): Promise<readonly SuiteTest[]> {
  const { url, initiators, tests, timeoutMs } = options;
  const names = initiators === undefined ? [] : ["-i", initiators[0], "-I", initiators[1]];
  const output = await run([DATA_LOSS, VERBOSE, ...names, "-t", tests, url, url], timeoutMs);
  if (!output.includes("Run Summary:")) throw new Error(`the suite did not end:\n${output}`);
  return testsOf(output);
}

/** Every test there is, as `Suite.Test`, in the suite's order. */
export async function listIscsiSuite(): Promise<readonly string[]> {
  const output = await run(["-l"], LIST_MS);
  return [...output.matchAll(/^ALL\.(\S+\.\S+)$/gm)].map(([, name = ""]) => name);
}

function run(args: readonly string[], timeoutMs: number): Promise<string> {
  const program = requireOnSystem("iscsi-test-cu", "libiscsi-bin");
  const limits = { timeout: timeoutMs, maxBuffer: OUTPUT_BYTES_MAX };
  return new Promise((resolve) => {
    execFile(program, args, limits, (_error, stdout, stderr) => resolve(`${stdout}\n${stderr}`));
  });
}

/** One entry a test, in the suite's order. */
export function testsOf(output: string): readonly SuiteTest[] {
  const found: SuiteTest[] = [];
  for (const suite of output.split(/^Suite: /m).slice(1)) {
    const suiteName = suite.slice(0, suite.indexOf("\n")).trim();
    const [tests = ""] = suite.split(/^Run Summary:/m);
    for (const text of tests.split(/^ {2}Test: /m).slice(1)) {
      const name = `${suiteName}.${text.slice(0, text.indexOf(" "))}`;
      found.push({ name, outcome: outcomeOf(text), text });
    }
  }
  return found;
}

function outcomeOf(text: string): SuiteTest["outcome"] {
  // CUnit's word is at the end of a line, and what a suite says when it is torn down may follow it.
  if (/(^|\.\.\.)FAILED\s*$/m.test(text) || !/(^|\.\.\.)passed/m.test(text)) return "failed";
  return text.includes("[SKIPPED]") ? "skipped" : "passed";
}
