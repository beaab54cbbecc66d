// Opening disks: all that are declared at the start of the daemon, side by side, and again later
// where that failed. A disk that is missing, damaged or slow holds up nobody but its own volumes.
//
//   open:  data plane opens it (and refuses one that was rolled back, before it writes anything)
//          -> declare the incarnation -> its volumes are served
//
// A crash in between leaves a disk that has counted one opening more than was declared: that is
// taken as it is. One that has counted fewer is stale.

import type { DeclaredDisk } from "../model/declared.ts";
import type { DiskState } from "../model/disk-types.ts";
import { ApiError, type ApiErrorCode } from "../model/errors.ts";
import { type DiskEntry, diskSpecOf } from "./disk-entry.ts";
import type { DiskHost } from "./disk-host.ts";
import { asApiError } from "./failure.ts";
import { isDamaged, type LoadedState } from "./state-store.ts";

const RETRY_FIRST_MS = 1000;
const RETRY_MAX_MS = 30_000;

/** Trying again does not help, and reading a damaged disk through again costs. */
const FINAL: readonly ApiErrorCode[] = ["disk_damaged", "disk_newer", "unsupported"];

/** Starts opening every declared disk; does not wait for any. */
export function openDeclared(host: DiskHost, state: LoadedState<DeclaredDisk>): void {
  for (const file of state.damaged) noteDamaged(host, file);
  for (const declared of state.declared) admit(host, declared);
  void examine(host, state).catch(host.modules.fatal);
}

async function examine(host: DiskHost, state: LoadedState<DeclaredDisk>): Promise<void> {
  for (const suspect of state.suspects) {
    const result = await host.modules.store.examine(suspect);
    if (isDamaged(result)) noteDamaged(host, result);
    else admit(host, result);
  }
}

function noteDamaged(host: DiskHost, file: { name: string; path: string; problem: string }): void {
  host.damaged.set(file.name, file);
  const { path, problem } = file;
  host.modules.log.log("error", "state.damaged", { path, problem });
}

function admit(host: DiskHost, declared: DeclaredDisk): void {
  const { name, id } = declared;
  const other = host.findById(id);
  if (other !== undefined) {
    const problem = `field disk.id is ${id}, which disk ${other.declared.name} has already`;
    noteDamaged(host, { name, path: host.modules.store.pathOf(name), problem });
    return;
  }
  const entry = host.add(declared);
  startOpening(host, entry);
}

/** `entry.opening` resolves when the attempt is over, whatever came of it. */
export function startOpening(host: DiskHost, entry: DiskEntry): void {
  entry.cancelRetry();
  const wasFormatting = entry.declared.phase === "formatting";
  entry.state = "opening";
  entry.opening = entry
    .exclusively(async () => {
      try {
        await openDisk(host, entry);
      } catch (error) {
        if (wasFormatting) await takeBack(host, entry);
        else noteFailure(host, entry, error);
      }
    })
    .catch((error) => host.modules.fatal(error));
}

/** Rejects when it cannot be opened; the caller says what becomes of it. */
export async function openDisk(host: DiskHost, entry: DiskEntry): Promise<void> {
  const { dataPlane, events, log } = host.modules;
  const { name, id, incarnation } = entry.declared;
  entry.state = "opening";
  const facts = await dataPlane.openDisk(diskSpecOf(entry.declared));
  try {
    await host.declare(entry, {
      phase: "ready",
      clean: false,
      incarnation: facts.incarnation,
      sizeBytes: facts.diskBytes,
    });
  } catch (error) {
    await dataPlane.closeDisk(id);
    throw error;
  }
  entry.state = "ready";
  entry.problem = null;
  entry.retryCount = 0;
  events.addDisk("disk.ready", name, `opening ${facts.incarnation}, ${facts.durability}`);
  log.log("info", "disk.ready", {
    disk: name,
    incarnation: facts.incarnation,
    before: incarnation,
  });
  host.becameReady(id);
}

function stateAfter(code: ApiErrorCode): DiskState {
  if (code === "backing_not_found") return "missing";
  return code === "disk_stale" ? "stale" : "failed";
}

const PROBLEM_CODES: Partial<Record<DiskState, string>> = {
  missing: "DISK_MISSING",
  stale: "DISK_STALE",
};

export function noteFailure(host: DiskHost, entry: DiskEntry, error: unknown): void {
  const { name } = entry.declared;
  const failure = asApiError(error, `cannot open disk ${name}`);
  if (!(failure instanceof ApiError)) {
    host.modules.fatal(failure);
    return;
  }
  const { code, message } = failure;
  const state = stateAfter(code);
  entry.state = state;
  if (entry.problem?.message !== message) {
    host.modules.events.addDisk("disk.unavailable", name, message);
    host.modules.log.log("error", "disk.unavailable", { disk: name, code, message });
  }
  const problemCode = PROBLEM_CODES[state] ?? "DISK_NOT_OPEN";
  entry.problem = { code: problemCode, severity: "error", message };
  if (!FINAL.includes(code)) scheduleRetry(host, entry);
}

/** A disk that appears late is served without anyone's help. */
function scheduleRetry(host: DiskHost, entry: DiskEntry): void {
  if (host.stopping) return;
  const delayMs = Math.min(RETRY_FIRST_MS * 2 ** Math.min(entry.retryCount, 10), RETRY_MAX_MS);
  entry.retryCount += 1;
  entry.cancelRetry();
  entry.retryTimer = setTimeout(() => {
    entry.retryTimer = null;
    const isCurrent = host.entries.get(entry.declared.name) === entry;
    const isClosed = ["missing", "stale", "failed"].includes(entry.state);
    if (isCurrent && isClosed && !host.stopping) startOpening(host, entry);
  }, delayMs);
}

/** A format that was cut short was promised to nobody. */
async function takeBack(host: DiskHost, entry: DiskEntry): Promise<void> {
  const { name, path, id } = entry.declared;
  try {
    await host.modules.tools.takeBack({ id, path });
    await host.modules.store.remove(name);
  } catch (error) {
    noteFailure(host, entry, error);
    return;
  }
  host.entries.delete(name);
  host.modules.log.log("info", "disk.rolled-back", { disk: name, path });
  host.modules.events.addDisk("disk.rolled-back", name, `formatting ${path} had been cut short`);
}
