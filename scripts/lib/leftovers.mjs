// What a test left behind: processes, by a mark in their environment that every child inherits,
// and files in the temporary folder that it was given.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { startTicksOf } from "./processes.mjs";

/** The processes whose environment has NAME=VALUE, this one excepted. */
export function findMarkedProcesses(name, value) {
  const mark = `${name}=${value}`;
  const found = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) continue;
    if (!readProc(entry, "environ").split("\0").includes(mark)) continue;
    const pid = Number(entry);
    const startTicks = startTicksOf(pid);
    if (startTicks === null) continue;
    const command = readProc(entry, "cmdline").split("\0").join(" ").trim();
    found.push({ pid, startTicks, bootId: null, command });
  }
  return found;
}

function readProc(pid, name) {
  try {
    return readFileSync(join("/proc", pid, name), "utf8");
  } catch {
    return "";
  }
}

/** Names in a folder, of whatever kind. */
export function findFiles(folder) {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
}
