// Processes that `npm start` left running, and how to end them and no others.
//
// A process is named by its number and by when it started (field 22 of /proc/PID/stat, in clock
// ticks since boot): a number is used again one day, the pair is not. Whoever starts a process
// writes `.ringstore/run/NAME.pid`:
//
//   {"pid": 1234, "startTicks": 567890, "bootId": "…", "stopOrder": 1}
//
// bootId (/proc/sys/kernel/random/boot_id) and stopOrder are optional; the smallest stopOrder is
// ended first (a guest before the daemon that serves its disk), 0 where none is given.

import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 50;

/** When a process started, in ticks since boot; null when it is gone (or dead and unburied). */
export function startTicksOf(pid) {
  let stat;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return null;
  }
  // The second field is the name in brackets, which may hold spaces and brackets itself.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state] = fields;
  return state === "Z" || state === "X" ? null : Number(fields[22 - 3]);
}

/** The records of a folder, in the order in which to end them. */
export function readRecords(folder) {
  let names;
  try {
    names = readdirSync(folder);
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
  return names
    .filter((name) => name.endsWith(".pid"))
    .map((name) => ({ path: join(folder, name), name: name.slice(0, -".pid".length) }))
    .map((file) => ({ ...file, ...parseRecord(readFileSync(file.path, "utf8")) }))
    .sort((a, b) => a.stopOrder - b.stopOrder || (a.name < b.name ? -1 : 1));
}

/** A record that cannot be read names no process: pid 0, which nothing is sent to. */
function parseRecord(text) {
  const nobody = { pid: 0, startTicks: 0, bootId: null, stopOrder: 0 };
  let record;
  try {
    record = JSON.parse(text);
  } catch {
    return nobody;
  }
  const { pid, startTicks } = record ?? {};
  if (!Number.isSafeInteger(pid) || pid <= 1 || !Number.isSafeInteger(startTicks)) return nobody;
  const stopOrder = Number.isFinite(record.stopOrder) ? record.stopOrder : 0;
  return { pid, startTicks, bootId: record.bootId ?? null, stopOrder };
}

export function isRunning(record) {
  if (record.pid <= 1 || startTicksOf(record.pid) !== record.startTicks) return false;
  return record.bootId === null || record.bootId === bootId();
}

function bootId() {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

/**
 * Ends one process: asks, waits, then insists. Says how it went: "gone" before we came, "ended"
 * when asked, "killed", or "stuck" when not even that helped.
 */
export async function endProcess(record, { graceMs, killMs }) {
  if (!send(record, "SIGTERM")) return "gone";
  if (await waitUntilGone(record, graceMs)) return "ended";
  send(record, "SIGKILL");
  return (await waitUntilGone(record, killMs)) ? "killed" : "stuck";
}

/** Looked at right before each signal: the process may have ended in the meantime. */
function send(record, signal) {
  if (!isRunning(record)) return false;
  try {
    process.kill(record.pid, signal);
    return true;
  } catch (error) {
    if (error.code === "ESRCH") return false;
    throw error;
  }
}

async function waitUntilGone(record, limitMs) {
  for (let waitedMs = 0; waitedMs < limitMs; waitedMs += POLL_MS) {
    if (!isRunning(record)) return true;
    await sleep(POLL_MS);
  }
  return !isRunning(record);
}

export function forget(record) {
  rmSync(record.path, { force: true });
}
