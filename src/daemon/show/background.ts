// The processes that `npm start` leaves running: started detached, recorded in the state folder's
// run/ so that `npm stop` ends them and nothing else (the record's format:
// scripts/lib/processes.mjs).
//
// A process of an older build is replaced: a daemon's guests see a pause, and what is shown is what
// is there.

import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { runTool } from "./tool.ts";

export interface BackgroundOptions {
  readonly stateDirectory: string;
  /** Of its record and its log. */
  readonly name: string;
  /** Of ringstored. */
  readonly args: readonly string[];
  /** The smallest is ended first. */
  readonly stopOrder: number;
  /** It has started and does its work. */
  readonly answers: () => Promise<boolean>;
}

export interface BackgroundProcess {
  /** 0: not one that we started. */
  readonly pid: number;
  readonly how: "started" | "running already" | "restarted: it was an older build";
}

interface ProcessRecord {
  readonly pid: number;
  readonly startTicks: number;
  readonly bootId: string;
  readonly stopOrder: number;
  readonly build: string;
}

const ENTRY: string = fileURLToPath(new URL("../../bundle/main.js", import.meta.url));
/** Written by the build when it is complete: a hash of all sources. */
const STAMP: string = fileURLToPath(new URL("../../.stamp", import.meta.url));
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 20_000;
const POLL_MS = 100;
const START_TICKS_FIELD = 22;
const LOG_LINES_SHOWN = 8;

const STOP_ORDER_DAEMON = 10;

/** A daemon on that data directory; it answers when its API does. */
export function daemonOptions(
  stateDirectory: string,
  name: string,
  dataDirectory: string,
): BackgroundOptions {
  const answers = async (): Promise<boolean> =>
    (await runTool(dataDirectory, ["volume", "list"])).exitCode === 0;
  const args = ["--data", dataDirectory];
  return { stateDirectory, name, args, stopOrder: STOP_ORDER_DAEMON, answers };
}

/** Starts it unless it runs; returns when it answers. */
export async function ensureProcess(options: BackgroundOptions): Promise<BackgroundProcess> {
  mkdirSync(join(options.stateDirectory, "run"), { recursive: true, mode: 0o700 });
  const build = readText(STAMP);
  const record = readRecord(recordPath(options));
  const runs = record !== null && startTicks(record.pid) === record.startTicks;
  if (runs && record.build === build) {
    await waitForAnswer(options, record.pid);
    return { pid: record.pid, how: "running already" };
  }
  if (runs) await end(record.pid);
  // Somebody's own daemon on this data: ours could not start beside it.
  else if (await options.answers()) return { pid: 0, how: "running already" };
  const pid = await start(options, build);
  return { pid, how: runs ? "restarted: it was an older build" : "started" };
}

/** SIGKILL to what ensureProcess() started; the next ensureProcess() starts it again. */
export async function killProcess(options: BackgroundOptions): Promise<void> {
  const record = readRecord(recordPath(options));
  if (record === null || startTicks(record.pid) !== record.startTicks) return;
  process.kill(record.pid, "SIGKILL");
  while (startTicks(record.pid) === record.startTicks) await sleep(POLL_MS);
}

export function logPath(options: BackgroundOptions): string {
  return join(options.stateDirectory, "run", `${options.name}.log`);
}

function recordPath(options: BackgroundOptions): string {
  return join(options.stateDirectory, "run", `${options.name}.pid`);
}

async function start(options: BackgroundOptions, build: string): Promise<number> {
  const log = openSync(logPath(options), "a", 0o600);
  const child = spawn(process.execPath, ["--enable-source-maps", ENTRY, ...options.args], {
    detached: true,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  const { pid } = child;
  if (pid === undefined) throw new Error("ringstored could not be started");
  const bootId = readText("/proc/sys/kernel/random/boot_id").trim();
  const { stopOrder } = options;
  const record: ProcessRecord = { pid, startTicks: startTicks(pid), bootId, stopOrder, build };
  writeFileSync(recordPath(options), `${JSON.stringify(record)}\n`);
  child.unref();
  await waitForAnswer(options, pid);
  return pid;
}

async function waitForAnswer(options: BackgroundOptions, pid: number): Promise<void> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  while (!(await options.answers())) {
    const lives = startTicks(pid) > 0;
    if (lives && Date.now() < deadline) {
      await sleep(POLL_MS);
      continue;
    }
    const log = readText(logPath(options)).trimEnd().split("\n").slice(-LOG_LINES_SHOWN);
    const what = lives ? "does not answer" : "ended at its start";
    throw new Error(`ringstored (${options.name}) ${what}:\n  ${log.join("\n  ")}`);
  }
}

async function end(pid: number): Promise<void> {
  const deadline = Date.now() + STOP_TIMEOUT_MS;
  process.kill(pid, "SIGTERM");
  while (startTicks(pid) > 0) {
    if (Date.now() > deadline) process.kill(pid, "SIGKILL");
    await sleep(POLL_MS);
  }
}

/** Field 22 of /proc/PID/stat: with the number it names one process for good. 0: it is gone. */
function startTicks(pid: number): number {
  const stat = readText(`/proc/${pid}/stat`);
  const [state, ...fields] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (stat === "" || state === "Z" || state === "X") return 0;
  return Number(fields[START_TICKS_FIELD - 4]);
}

function readRecord(path: string): ProcessRecord | null {
  try {
    return JSON.parse(readText(path)) as ProcessRecord;
  } catch {
    return null; // Nothing was started, or the record is damaged: npm stop says so.
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
