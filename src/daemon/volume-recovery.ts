// The start after a stop, a crash or a reboot: every declared attachment is served again, and what
// was cut short is finished or taken back. Guests wait for the first part, so it does nothing
// else: attachments first, all at once; everything else after.
//
// One volume that cannot be served never holds up the others: it is reported, and tried again.

import type { DeclaredVolume } from "../model/declared.ts";
import { ApiError } from "../model/errors.ts";
import { asApiError } from "./failure.ts";
import { type ClusterUnit, heldSpecOf, placementGroups } from "./scsi-attach.ts";
import { isDamaged, type LoadedState } from "./state-store.ts";
import { restoredText } from "./volume-attach.ts";
import { serialOf, staysOpen, type VolumeEntry } from "./volume-entry.ts";
import type { VolumeHost } from "./volume-host.ts";
import { removeEverything } from "./volume-operations.ts";

const RETRY_FIRST_MS = 1000;
const RETRY_MAX_MS = 30_000;
/** One device that hangs while it is opened must not keep the API from starting. */
const SERVE_PATIENCE_MS = 2000;

/** Before any disk or volume is opened: what has to be on one reactor. */
export function placeDeclared(host: VolumeHost, state: LoadedState<DeclaredVolume>): void {
  host.modules.dataPlane.placeTogether(placementGroups(state.declared, host.clusterUnits()));
}

/** Part one. Resolves when every attachment is served, has failed, or was waited for enough. */
export async function serveDeclared(
  host: VolumeHost,
  state: LoadedState<DeclaredVolume>,
): Promise<void> {
  for (const file of state.damaged) host.damaged.set(file.name, file);
  const entries = state.declared.map((declared) => admit(host, declared));
  const served = entries.filter(isToBeServed);
  const units = host.clusterUnits().filter(({ isLeaving }) => !isLeaving);
  host.controllerWaits.expect(
    served.map(({ declared }) => declared),
    units,
  );
  const attempts = served.map((entry) => tryToServe(host, entry));
  for (const unit of units) attempts.push(holdClusterUnit(host, unit));
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, SERVE_PATIENCE_MS);
  });
  await Promise.race([Promise.all(attempts), patience]);
  clearTimeout(timer);
}

/** Part two: files to be examined, unfinished work, memory volumes. */
export async function finishStart(
  host: VolumeHost,
  state: LoadedState<DeclaredVolume>,
): Promise<void> {
  for (const suspect of state.suspects) {
    const result = await host.modules.store.examine(suspect);
    if (isDamaged(result)) {
      host.damaged.set(result.name, result);
      continue;
    }
    const entry = admit(host, result);
    if (isToBeServed(entry)) await tryToServe(host, entry);
  }
  for (const file of host.damaged.values()) {
    const { path, problem } = file;
    host.modules.log.log("error", "state.damaged", { path, problem });
  }
  for (const entry of [...host.entries.values()]) {
    // Those on a disk that is not open yet are finished when it is.
    if (isReachable(host, entry)) await finishEntry(host, entry);
  }
}

function isReachable(host: VolumeHost, entry: VolumeEntry): boolean {
  const { backing } = entry.declared;
  return backing.kind !== "store" || host.modules.disks.isReady(backing.diskId);
}

/** A disk of the store has been opened: its volumes are served, its unfinished work is finished. */
export async function diskBecameReady(host: VolumeHost, diskId: string): Promise<void> {
  for (const entry of host.entriesOn(diskId)) {
    if (host.stopping) return;
    entry.cancelRetry();
    if (!isToBeServed(entry)) await finishEntry(host, entry);
    else if (!entry.serving) await tryToServe(host, entry);
  }
}

/** Two declarations with one id would share a data file: the second is refused. */
function admit(host: VolumeHost, declared: DeclaredVolume): VolumeEntry | null {
  const { id, name } = declared;
  for (const { declared: other } of host.entries.values()) {
    if (other.id !== id) continue;
    const problem = `field volume.id is ${id}, which volume ${other.name} has already`;
    host.damaged.set(name, { name, path: host.modules.store.pathOf(name), problem });
    return null;
  }
  return host.add(declared);
}

function isToBeServed(entry: VolumeEntry | null): entry is VolumeEntry {
  return entry !== null && entry.declared.phase === "ready" && entry.declared.attachment !== null;
}

/** Never rejects. */
async function tryToServe(host: VolumeHost, entry: VolumeEntry): Promise<void> {
  // As it is now: it may be detached before its turn comes, and is waited for no more.
  const { declared } = entry;
  await attempt(host, entry);
  if (!entry.serving) await host.holdUnit(entry);
  const controller = declared.attachment?.scsi?.controller ?? "";
  if (host.controllerWaits.tried(declared.id, controller)) await openController(host, controller);
}

/**
 * A volume of the cluster is served when the metadata has said that it is still attached here;
 * until then its place is held. What a killed predecessor still had on its way into guests' memory
 * came from the node's disks: nobody is told of an end before they are open, or cannot be. Never
 * rejects.
 */
async function holdClusterUnit(host: VolumeHost, unit: ClusterUnit): Promise<void> {
  const { disks, dataPlane, log } = host.modules;
  const { volumeId: id, name, scsi } = unit;
  await Promise.all([...disks.entries.values()].map(({ opening }) => opening));
  const isStill = host.clusterUnits().some((one) => one.volumeId === id && !one.isLeaving);
  if (isStill && !host.stopping) {
    const identity = { id, name, serial: serialOf(id) };
    try {
      await dataPlane.holdUnit(heldSpecOf(host.options, identity, unit, scsi));
    } catch (error) {
      const { message } = error as Error;
      log.log("error", "volume.step-failed", {
        step: "hold its unit's place",
        volume: name,
        message,
      });
    }
  }
  const { controller } = scsi;
  if (host.controllerWaits.tried(id, controller)) await openController(host, controller);
}

async function openController(host: VolumeHost, controller: string): Promise<void> {
  const { dataPlane } = host.modules;
  try {
    await dataPlane.openController(controller);
  } catch (error) {
    // Its volumes are served by nobody, and each is tried again.
    for (const entry of host.entries.values()) {
      if (entry.declared.attachment?.scsi?.controller !== controller || !entry.serving) continue;
      await entry.exclusively(async () => {
        await dataPlane.detach(entry.declared.id);
        entry.serving = false;
        await host.restBacking(entry);
      });
      noteFailure(host, entry, error);
    }
  }
}

async function attempt(host: VolumeHost, entry: VolumeEntry): Promise<void> {
  const { name, backing, generation } = entry.declared;
  let wasServed = true;
  try {
    await entry.exclusively(async () => {
      // Whoever came first has told about it.
      wasServed = entry.serving;
      if (isToBeServed(entry)) await host.serve(entry);
    });
  } catch (error) {
    noteFailure(host, entry, error);
    return;
  }
  if (!entry.serving || wasServed) return;
  host.modules.events.add("volume.restored", name, restoredText(entry.declared.attachment));
  const fields = { volume: name, generation };
  if (backing.kind === "memory") host.modules.log.log("warn", "volume.memory-is-empty", fields);
  host.modules.log.log("info", "volume.served", fields);
}

function noteFailure(host: VolumeHost, entry: VolumeEntry, error: unknown): void {
  const failure = asApiError(error, "cannot serve it");
  if (!(failure instanceof ApiError)) {
    host.modules.fatal(failure);
    return;
  }
  const { name } = entry.declared;
  const code = problemCodeOf(failure);
  if (entry.problem === null) {
    host.modules.events.add("volume.unavailable", name, failure.message);
    const fields = { volume: name, code: failure.code, message: failure.message };
    host.modules.log.log("error", "volume.unavailable", fields);
  }
  entry.problem = { code, severity: "error", message: failure.message };
  scheduleRetry(host, entry);
}

function problemCodeOf(failure: ApiError): string {
  if (failure.code.startsWith("backing")) return "BACKING_UNAVAILABLE";
  return failure.code.startsWith("disk") ? "DISK_UNAVAILABLE" : "NOT_SERVED";
}

/** A disk that appears late, a file that is put back: served without anyone's help. */
function scheduleRetry(host: VolumeHost, entry: VolumeEntry): void {
  if (host.stopping) return;
  const delayMs = Math.min(RETRY_FIRST_MS * 2 ** Math.min(entry.retryCount, 10), RETRY_MAX_MS);
  entry.retryCount += 1;
  entry.cancelRetry();
  entry.retryTimer = setTimeout(() => {
    entry.retryTimer = null;
    const current = host.entries.get(entry.declared.name) === entry;
    if (current && !host.stopping && isToBeServed(entry)) void tryToServe(host, entry);
  }, delayMs);
}

async function finishEntry(host: VolumeHost, entry: VolumeEntry): Promise<void> {
  const { name } = entry.declared;
  try {
    await entry.exclusively(async () => {
      if (host.entries.get(name) !== entry) return;
      const { phase, resizeToBytes, attachment } = entry.declared;
      if (phase !== "ready") {
        await removeEverything(host, entry);
        host.modules.log.log("info", "volume.rolled-back", { volume: name, phase });
        host.modules.events.add("volume.rolled-back", name, `it was ${phase} at the last stop`);
        return;
      }
      if (attachment !== null) return;
      if (resizeToBytes === null && !staysOpen(entry.declared)) return;
      await host.reopenBacking(entry);
      await host.restBacking(entry);
    });
  } catch (error) {
    host.report("finish at start", entry, error);
    const failure = asApiError(error, "cannot be finished");
    const code = entry.declared.phase === "ready" ? "BACKING_UNAVAILABLE" : "REMOVAL_UNFINISHED";
    entry.problem = { code, severity: "error", message: failure.message };
  }
}
