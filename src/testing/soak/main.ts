// The promises at their full counts: `npm run soak`. Each suite runs on its own, and adds its line
// to the log as soon as it has ended, so that an interrupted run keeps what it has done.

import { fuzzSuite, guestSuite } from "./child-suites.ts";
import { clusterFaultsSuite } from "./cluster-faults-suite.ts";
import { failoverSuite } from "./failover-suite.ts";
import { appendEntry, currentCommit, formatEntry, journalPath, KEPT } from "./journal.ts";
import { lateDmaSuite } from "./late-dma.ts";
import { HELP, parseSoakOptions, type SoakOptions, type SuiteName, UsageError } from "./options.ts";
import { reconnectSuite } from "./reconnect-suite.ts";
import { RestartSuite } from "./restart-suite.ts";
import { storeCrashSuite } from "./store-crashes.ts";
import { storePowerCutsSuite, storeRestartsSuite } from "./store-suites.ts";
import type { SuiteContext, SuiteResult } from "./suite.ts";

const EXIT_KEPT = 0;
const EXIT_BROKEN = 1;
/** Of a failure in the log's table; stderr has all of it. */
const FAILURE_CHARS_MAX = 400;
const EXIT_USAGE = 2;

function runSuite(
  name: SuiteName,
  context: SuiteContext,
  options: SoakOptions,
): Promise<SuiteResult> | SuiteResult {
  switch (name) {
    case "store-crash-points":
      return storeCrashSuite(context, options.crashStates);
    case "restarts":
      return new RestartSuite(context).run(options.roundCount);
    case "late-dma":
      return lateDmaSuite(context, options.lateCount);
    case "reconnects":
      return reconnectSuite(context, options.reconnectCount);
    case "fuzz":
      return fuzzSuite(context, options.fuzzMinutes);
    case "guests":
      return guestSuite(context, options);
    case "store-restarts":
      return storeRestartsSuite(context, options.storeRoundCount);
    case "store-power-cuts":
      return storePowerCutsSuite(context, options.cutCount);
    case "failovers":
      return failoverSuite(context, options.failoverCount);
    case "cluster-faults":
      return clusterFaultsSuite(context, options.faultCount);
  }
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function soak(options: SoakOptions): Promise<number> {
  const path = journalPath(options.logPath);
  const commit = currentCommit();
  const endMs = Date.now() + options.minutesMax * 60_000;
  const leftMs = (): number => Math.max(0, endMs - Date.now());
  const { seed } = options;
  const context: SuiteContext = { seed, leftMs, expired: () => leftMs() === 0, say };
  let brokenCount = 0;
  for (const suite of options.suites) {
    if (context.expired()) break;
    say(`${suite}: begins, seed ${seed}`);
    const startedMs = Date.now();
    const { counts, broken } = await runSuite(suite, context, options);
    const durationMs = Date.now() - startedMs;
    const result =
      broken.length === 0 ? KEPT : `BROKEN: ${(broken[0] as string).slice(0, FAILURE_CHARS_MAX)}`;
    const line = formatEntry({ suite, seed, counts, durationMs, result }, commit, new Date());
    appendEntry(path, line);
    say(line.trimEnd());
    for (const problem of broken) say(`  ${problem}`);
    brokenCount += broken.length;
  }
  return brokenCount === 0 ? EXIT_KEPT : EXIT_BROKEN;
}

async function main(): Promise<number> {
  try {
    const options = parseSoakOptions(process.argv.slice(2));
    if (options !== null) return await soak(options);
    process.stdout.write(HELP);
    return EXIT_KEPT;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`soak: ${error.message}\n  see: npm run soak -- --help\n`);
    return EXIT_USAGE;
  }
}

process.exitCode = await main();
