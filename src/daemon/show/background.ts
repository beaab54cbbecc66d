// The daemon that `npm start` leaves running: started detached, recorded in .ringstore/run/ so that
// `npm stop` ends it and nothing else (the record's format: scripts/lib/processes.mjs).

import { spawn } from "node:child_process";
import { mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { runTool } from "./tool.ts";

export interface BackgroundOptions {
  readonly root: string;
  readonly stateDirectory: string;
  readonly dataDirectory: string;
}

export interface BackgroundDaemon {
  readonly pid: number;
  /** False: it was running already. */
  readonly started: boolean;
}

const ENTRY: string = fileURLToPath(new URL("../main.js", import.meta.url));
const START_TIMEOUT_MS = 20_000;
const START_TICKS_FIELD = 22;

/** Field 22 of /proc/PID/stat: with the number it names one process for good. */
function startTicks(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const behindName = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(behindName[START_TICKS_FIELD - 3]);
}

async function answers(dataDirectory: string): Promise<boolean> {
  return (await runTool(dataDirectory, ["version"])).exitCode === 0;
}

/** Starts the daemon unless it answers already; returns when it does. */
export async function ensureDaemon(options: BackgroundOptions): Promise<BackgroundDaemon> {
  const { dataDirectory } = options;
  if (await answers(dataDirectory)) return { pid: 0, started: false };
  const runDirectory = join(options.stateDirectory, "run");
  mkdirSync(runDirectory, { recursive: true, mode: 0o700 });
  const logPath = join(runDirectory, "ringstored.log");
  const log = openSync(logPath, "a", 0o600);
  const args = ["--enable-source-maps", ENTRY, "--data", dataDirectory];
  const child = spawn(process.execPath, args, {
    cwd: options.root,
    detached: true,
    stdio: ["ignore", log, log],
  });
  const pid = child.pid;
  if (pid === undefined) throw new Error("ringstored could not be started");
  const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  const record = { pid, startTicks: startTicks(pid), bootId, stopOrder: 10 };
  writeFileSync(join(runDirectory, "ringstored.pid"), `${JSON.stringify(record)}\n`);
  const deadline = Date.now() + START_TIMEOUT_MS;
  while (!(await answers(dataDirectory))) {
    if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
      const text = readFileSync(logPath, "utf8").split("\n").slice(-6).join("\n");
      throw new Error(`ringstored did not start:\n${text}`);
    }
    await sleep(100);
  }
  child.unref();
  return { pid, started: true };
}
