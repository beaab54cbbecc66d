// Every test, after the same set-up as everything else: style, then unit tests, then scenarios.
//
//   npm test                   all of it
//   npm test -- PATTERN        only the files whose path matches (a regular expression)
//
// Exit code 0 only if every test passed, no file ended early or left a process, and the style
// check found nothing.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { checkStyle } from "./lib/build.mjs";
import { prepare } from "./lib/prepare.mjs";
import { DIST, main, ROOT, SetupError, say } from "./lib/project.mjs";
import { listFiles } from "./lib/stamp.mjs";
import { nameOf, runGroup } from "./lib/test-run.mjs";

const TOTAL_LIMIT_MS = 75 * 60_000;
/** Unit tests are seconds each; the limit is for a slow machine under load. */
const UNIT_LIMIT_MS = 15 * 60_000;
/** A scenario boots guests, perhaps without KVM. Its tests have limits of their own. */
const SCENARIO_LIMIT_MS = 30 * 60_000;
const CONCURRENCY = 2;
const SLOWEST_COUNT = 10;

const SCENARIOS = "testing/scenarios/";
const isScenario = (path) => nameOf(path).startsWith(SCENARIOS);
/** They measure pauses, memory, or what a process that has nothing to do costs. */
const ALONE =
  /^(cluster-idle|idle-costs-nothing|late-dma|memory-|restart-|store-survives|cluster-migration)/;
const isAlone = (path) => ALONE.test(nameOf(path).slice(SCENARIOS.length));
/**
 * Begun first, in this order, so that the two lanes end together: what takes longest (measured).
 * The others take less, and their order does not matter.
 */
const LONGEST = [
  "vm/qemu",
  "testing/store/planted-bugs",
  "testing/store/crash-points",
  "testing/scenarios/guest-first-run",
  "testing/scenarios/guest-filesystem",
  "testing/scenarios/cluster-faults",
  "testing/scenarios/guest-store",
  "testing/scenarios/cluster-disk-errors",
  "testing/scenarios/cluster-repairs",
  "testing/scenarios/guest-boots-from-volume",
  "testing/scenarios/cluster-survives",
  "testing/scenarios/guest-hotplug",
];

await main(async () => {
  const startedMs = Date.now();
  const pattern = readPattern(process.argv.slice(2));
  await prepare();
  const files = [...listFiles(DIST), ...listFiles(join(ROOT, "scripts"))].filter((path) =>
    /\.test\.m?js$/.test(path),
  );
  const chosen = files.filter((path) => pattern === null || pattern.test(relative(ROOT, path)));
  if (chosen.length === 0) {
    throw new SetupError(`No test file matches ${pattern}; there are ${files.length} without it.`);
  }
  const gone = LONGEST.filter((name) => !files.some((path) => nameOf(path) === name));
  if (gone.length > 0) throw new SetupError(`scripts/test.mjs names no test file: ${gone}`);
  const isStyled = pattern !== null || checkStyle();
  const outcomes = await runAll(chosen, TOTAL_LIMIT_MS - (Date.now() - startedMs));
  const isPassed = summarize(outcomes, Date.now() - startedMs);
  if (!isStyled) say("The style check failed (above). Most of it is mended by: npm run format");
  return isPassed && isStyled ? 0 : 1;
});

function readPattern(args) {
  if (args.length > 1 || args[0]?.startsWith("-")) {
    throw new SetupError("Usage: npm test [-- PATTERN]");
  }
  try {
    return args.length === 0 ? null : new RegExp(args[0]);
  } catch (error) {
    throw new SetupError(`"${args[0]}" is not a regular expression: ${error.message}`);
  }
}

function longestFirst(files) {
  const rank = (path) => {
    const at = LONGEST.indexOf(nameOf(path));
    return at < 0 ? LONGEST.length : at;
  };
  return [...files].sort((a, b) => rank(a) - rank(b));
}

async function runAll(files, limitMs) {
  const folder = mkdtempSync(join(tmpdir(), "rs-test-"));
  const stop = new AbortController();
  const limit = setTimeout(() => {
    say(`The tests took longer than ${TOTAL_LIMIT_MS / 60_000} minutes; stopping.`);
    stop.abort();
  }, limitMs);
  const onSignal = () => stop.abort();
  // Whoever read the output has gone (`npm test | head`): end what runs, and do not just die.
  process.stdout.on("error", onSignal);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, onSignal);
  const write = (text) => process.stdout.write(text);
  const options = { folder, signal: stop.signal, write };
  const scenarios = files.filter(isScenario);
  const unit = { name: "u", files: longestFirst(files.filter((path) => !isScenario(path))) };
  const beside = longestFirst(scenarios.filter((path) => !isAlone(path)));
  const shared = { name: "g", files: beside, limitMs: SCENARIO_LIMIT_MS };
  const rest = scenarios.filter(isAlone);
  const alone = { name: "s", files: rest, limitMs: SCENARIO_LIMIT_MS };
  try {
    return [
      ...(await runGroup({ ...unit, concurrency: CONCURRENCY, limitMs: UNIT_LIMIT_MS }, options)),
      // Guests without KVM wait for an emulated CPU, clusters for one another: none fills both
      // cores all the time.
      ...(await runGroup({ ...shared, concurrency: CONCURRENCY }, options)),
      ...(await runGroup({ ...alone, concurrency: 1 }, options)),
    ];
  } finally {
    clearTimeout(limit);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.off(signal, onSignal);
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Prints what matters once all lines have gone by; true if everything passed. */
function summarize(outcomes, durationMs) {
  const out = (text) => process.stdout.write(`${text}\n`);
  const totals = { tests: 0, suites: 0, pass: 0, fail: 0, cancelled: 0, skipped: 0, todo: 0 };
  const failures = [];
  const skips = [];
  for (const { name, counts, problems, entries } of outcomes) {
    for (const key of Object.keys(totals)) totals[key] += counts[key];
    // A file that ended early, or left something, is a failed test of its own.
    totals.tests += problems.length;
    totals.fail += problems.length;
    failures.push(...problems.map((problem) => `${name} › ${problem}`));
    for (const entry of entries) {
      const line = `${name} › ${entry.name}`;
      const isFailure = entry.outcome === "fail" || entry.outcome === "cancelled";
      // With the error: between the first line and this one there are thousands.
      const error = (entry.error ?? "").replace(/^(?=.)/gm, "    ");
      if (isFailure && !entry.isEcho) failures.push(error === "" ? line : `${line}\n${error}`);
      if (entry.outcome === "skipped")
        skips.push(`${line}${entry.reason ? `: ${entry.reason}` : ""}`);
    }
  }
  const slowest = [...outcomes].sort((a, b) => b.durationMs - a.durationMs);
  out(`\nslowest of ${outcomes.length} files`);
  for (const one of slowest.slice(0, SLOWEST_COUNT)) {
    out(`  ${(one.durationMs / 1000).toFixed(1).padStart(6)} s  ${one.name}`);
  }
  if (skips.length > 0) out(`\nskipped\n${skips.map((line) => `  ${line}`).join("\n")}`);
  if (failures.length > 0) out(`\nfailed\n${failures.map((line) => `  ✖ ${line}`).join("\n")}`);
  out("");
  for (const [key, value] of Object.entries(totals)) out(`# ${key} ${value}`);
  out(`# duration_ms ${durationMs}`);
  return totals.fail + totals.cancelled === 0 && totals.tests > 0;
}
