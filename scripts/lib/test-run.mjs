// Runs test files: each in a process of its own, a few side by side, each with a time limit, each
// with a temporary folder of its own, and each answerable for what it leaves behind.
//
// The runner is node:test itself, in the file's process; this decides which files run and when,
// and adds up.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { findFiles, findMarkedProcesses } from "./leftovers.mjs";
import { endProcess } from "./processes.mjs";
import { childEnvironment, DIST, ROOT } from "./project.mjs";

const REPORTER = fileURLToPath(new URL("./reporter.mjs", import.meta.url));
const MARK = "RINGSTORE_TEST_RUN";
/** After SIGTERM; a thread that hangs in a system call needs SIGKILL. */
const GRACE_MS = 5_000;
/** A process that ends by itself is given this long to take its children with it. */
const SETTLE_MS = 2_000;
/** A file that is silent for so long is named, so that nobody wonders what it waits for. */
const SILENCE_MS = 60_000;

/**
 * Runs files, `group.concurrency` at a time, and calls `write` with whole lines of output.
 * Returns one outcome per file. An aborted `signal` ends those running and skips the rest.
 */
export async function runGroup(group, { folder, signal, write }) {
  const outcomes = [];
  const queue = group.files.map((path, index) => ({ path, id: `${group.name}${index}` }));
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      if (signal.aborted) outcomes.push(notRun(file.path));
      else outcomes.push(await runFile(file, group.limitMs, { folder, signal, write }));
    }
  };
  await Promise.all(Array.from({ length: group.concurrency }, worker));
  return outcomes;
}

/** `virtio/split-queue` for its test in dist/, `scripts/lib/lock` for a script's. */
export function nameOf(path) {
  const inDist = relative(DIST, path);
  const name = inDist.startsWith("..") ? relative(ROOT, path) : inDist;
  return name.replace(/\.test\.m?js$/, "");
}

async function runFile({ path, id }, limitMs, { folder, signal, write }) {
  const name = nameOf(path);
  const temporary = join(folder, id);
  const results = join(folder, `${id}.results`);
  mkdirSync(temporary);
  const mark = `${process.pid}.${id}`;
  const startedMs = Date.now();
  const child = spawn(
    process.execPath,
    [
      "--enable-source-maps",
      `--test-reporter=${REPORTER}`,
      "--test-reporter-destination=stdout",
      path,
    ],
    {
      cwd: ROOT,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...childEnvironment(),
        // Set where we are ourselves run by node:test; it would silence the reporter.
        NODE_TEST_CONTEXT: undefined,
        TMPDIR: temporary,
        [MARK]: mark,
        RINGSTORE_TEST_FILE: name,
        RINGSTORE_TEST_RESULTS: results,
      },
    },
  );
  const end = await watch(child, { name, limitMs, signal, write, results });
  const problems = end === null ? [] : [end];
  problems.push(...(await clearProcesses(mark)));
  const entries = readResults(results);
  if (problems.length === 0 && !entries.some((entry) => entry.type === "end")) {
    problems.push("ended before its tests did");
  }
  const counts = count(entries);
  if (counts.fail + counts.cancelled === 0 && problems.length === 0 && child.exitCode !== 0) {
    problems.push(`exit code ${child.exitCode}, though no test failed`);
  }
  for (const left of findFiles(temporary))
    write(`  ${name} › left ${left} in the temporary folder\n`);
  rmSync(temporary, { recursive: true, force: true });
  for (const problem of problems) write(`✖ ${name} › ${problem}\n`);
  return { name, durationMs: Date.now() - startedMs, counts, problems, entries };
}

/** Waits for the end of a process; null if it ended by itself, otherwise what happened. */
function watch(child, { name, limitMs, signal, write, results }) {
  return new Promise((resolve) => {
    let why = null;
    let lastOutputMs = Date.now();
    const insist = (reason) => {
      if (why !== null) return;
      why = `${reason}; last begun: ${lastBegun(results)}`;
      child.kill("SIGTERM");
      setTimeout(() => child.kill("SIGKILL"), GRACE_MS).unref();
    };
    const limit = setTimeout(() => insist(`took longer than ${limitMs / 1000} s`), limitMs);
    const silence = setInterval(() => {
      if (Date.now() - lastOutputMs < SILENCE_MS) return;
      lastOutputMs = Date.now();
      write(`  ${name} › still at: ${lastBegun(results)}\n`);
    }, SILENCE_MS / 4);
    const onAbort = () => insist("stopped");
    signal.addEventListener("abort", onAbort);
    for (const stream of [child.stdout, child.stderr]) {
      forwardLines(stream, (text) => {
        lastOutputMs = Date.now();
        write(text);
      });
    }
    child.on("error", (error) => insist(`cannot be started: ${error.message}`));
    const finish = (exitSignal) => {
      clearTimeout(limit);
      clearInterval(silence);
      signal.removeEventListener("abort", onAbort);
      if (why === null && exitSignal !== null) {
        why = `was ended by ${exitSignal}; last begun: ${lastBegun(results)}`;
      }
      resolve(why);
    };
    // "close" waits for the pipes, which a child left behind may hold open for ever.
    child.on("exit", (_code, exitSignal) => {
      const settle = setTimeout(() => finish(exitSignal), SETTLE_MS);
      child.on("close", () => {
        clearTimeout(settle);
        finish(exitSignal);
      });
    });
  });
}

/** Hands on whole lines, so that files that run side by side do not cut into each other's. */
function forwardLines(stream, write) {
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (text) => {
    const whole = (rest + text).lastIndexOf("\n") + 1;
    const all = rest + text;
    rest = all.slice(whole);
    if (whole > 0) write(all.slice(0, whole));
  });
  stream.on("end", () => {
    if (rest !== "") write(`${rest}\n`);
  });
}

/** Ends what a file's tests started and did not end. Each is a defect of the test. */
async function clearProcesses(mark) {
  const problems = [];
  let left = findMarkedProcesses(MARK, mark);
  for (let waitedMs = 0; left.length > 0 && waitedMs < SETTLE_MS; waitedMs += 100) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    left = findMarkedProcesses(MARK, mark);
  }
  for (const one of left) {
    await endProcess(one, { graceMs: GRACE_MS, killMs: GRACE_MS });
    problems.push(`left a process running: ${one.pid} ${one.command.slice(0, 200)}`);
  }
  return problems;
}

function readResults(path) {
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line.endsWith("}"))
    .map((line) => JSON.parse(line));
}

function lastBegun(path) {
  return readResults(path).findLast((entry) => entry.type === "start")?.name ?? "nothing yet";
}

function count(entries) {
  const counts = { tests: 0, suites: 0, pass: 0, fail: 0, cancelled: 0, skipped: 0, todo: 0 };
  for (const entry of entries) {
    if (entry.type !== "result") continue;
    if (entry.isSuite) {
      counts.suites++;
      continue;
    }
    counts.tests++;
    counts[entry.outcome]++;
  }
  return counts;
}

function notRun(path) {
  const counts = count([]);
  return { name: nameOf(path), durationMs: 0, counts, problems: ["was not run"], entries: [] };
}
