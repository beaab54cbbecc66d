// The operations on disks: init, check; remove is in disk-removal.ts. Each is a sequence of durable
// declarations and work on the disk in an order that a crash anywhere leaves either undone, or to
// be finished at the next start (disk-opening.ts):
//
//   init     declare formatting -> format, in a process of its own -> open -> declare ready
//   check    close -> examine, in a process of its own -> open
//
// Formatting and checking go on after the call was answered: whoever wants to know looks at the
// disk's task.

import { existsSync } from "node:fs";
import { basename, dirname, isAbsolute, normalize } from "node:path";
import type { Caller, RequestOptions } from "../api/control-plane.ts";
import type { DeclaredDisk } from "../model/declared.ts";
import type { Disk, DiskCreate } from "../model/disk-types.ts";
import { ApiError } from "../model/errors.ts";
import { DISK_COUNT_MAX, STORE_BLOCK_BYTES, VOLUME_NAME_LENGTH_MAX } from "../model/limits.ts";
import { checkVolumeName, quote } from "../model/volume-rules.ts";
import type { FormatJob, Formatting } from "../ports/store-disk.ts";
import { checkNotUsed, checkPathAllowed, inspectBacking, isBlockDevicePath } from "./backing.ts";
import { DiskEntry } from "./disk-entry.ts";
import type { DiskHost } from "./disk-host.ts";
import { openDisk, startOpening } from "./disk-opening.ts";
import { asApiError } from "./failure.ts";

export interface DiskRequestOptions extends RequestOptions {
  readonly allowPaths: readonly string[];
  /** Files and devices that volumes lie on, by volume. */
  readonly usedFiles: Iterable<readonly [volumeName: string, path: string]>;
}

export async function createDisk(
  host: DiskHost,
  request: DiskCreate,
  caller: Caller,
  options: DiskRequestOptions,
): Promise<Disk> {
  requireRunning(host);
  const { declared, job } = planDisk(host, request, caller, options);
  if (options.dryRun) return host.view(new DiskEntry(declared));
  // The name is taken from here on, before the first wait.
  const entry = host.add(declared);
  const { tools, store } = host.modules;
  return await entry.exclusively(async () => {
    let formatting: Formatting;
    try {
      await store.save(declared);
      entry.task = { kind: "format", step: "start", doneBytes: 0, totalBytes: 0 };
      formatting = tools.format(job, (progress) => {
        entry.task = { kind: "format", ...progress };
      });
      // Whoever waits for `accepted` hears of it.
      formatting.done.catch(() => undefined);
      await formatting.accepted;
    } catch (error) {
      await forget(host, entry);
      throw asApiError(error, `cannot make disk ${declared.name}`);
    }
    entry.opening = entry.exclusively(() => finishFormat(host, entry, formatting));
    return host.view(entry);
  });
}

/** Never rejects. */
async function finishFormat(
  host: DiskHost,
  entry: DiskEntry,
  formatting: Formatting,
): Promise<void> {
  const { name, path, id } = entry.declared;
  try {
    await formatting.done;
    entry.task = null;
    await openDisk(host, entry);
    host.modules.events.addDisk("disk.added", name, path);
  } catch (error) {
    entry.task = null;
    await host.modules.tools.takeBack({ id, path }).catch(() => undefined);
    const failure = asApiError(error, `formatting ${path}`);
    if (!(failure instanceof ApiError)) {
      host.modules.fatal(failure);
      return;
    }
    const { message } = failure;
    entry.state = "failed";
    entry.problem = { code: "DISK_FORMAT_FAILED", severity: "error", message };
    host.modules.events.addDisk("disk.unavailable", name, message);
    host.modules.log.log("error", "disk.format-failed", { disk: name, message });
  }
}

/** Undoes an init that was refused. */
async function forget(host: DiskHost, entry: DiskEntry): Promise<void> {
  const { name, id, path } = entry.declared;
  entry.task = null;
  try {
    await host.modules.tools.takeBack({ id, path });
    await host.modules.store.remove(name);
    host.entries.delete(name);
  } catch (error) {
    entry.state = "failed";
    const message = `making it failed and could not be undone: ${(error as Error).message}`;
    entry.problem = { code: "DISK_FORMAT_FAILED", severity: "error", message };
  }
}

function planDisk(
  host: DiskHost,
  request: DiskCreate,
  caller: Caller,
  options: DiskRequestOptions,
): { readonly declared: DeclaredDisk; readonly job: FormatJob } {
  if (!isAbsolute(request.path) || request.path.includes("\0")) {
    throw new ApiError("invalid_request", `the path ${quote(request.path)} is not absolute`, {
      advice: "give the whole path, beginning with /",
    });
  }
  const path = normalize(request.path);
  checkPathAllowed(path, caller, options.allowPaths);
  checkNotUsed(path, options.usedFiles);
  checkNotUsed(path, usedDisks(host), "disk");
  const sizeBytes = planSize(path, request);
  const name = planName(host, path, request.name);
  const durability = planDurability(host, path, request);
  const id = host.modules.uuid();
  const declared: DeclaredDisk = {
    id,
    name,
    path,
    phase: "formatting",
    ...durability,
    createdAt: host.modules.now().toISOString(),
    sizeBytes: sizeBytes ?? inspectBacking(path).sizeBytes,
    incarnation: 0,
    clean: true,
  };
  const job: FormatJob = {
    id,
    label: name,
    path,
    sizeBytes,
    allocation: request.allocation ?? "full",
    durability: durability.durability,
    force: request.force ?? false,
  };
  return { declared, job };
}

export function* usedDisks(host: DiskHost): Generator<readonly [string, string]> {
  for (const { declared } of host.entries.values()) yield [declared.name, declared.path];
}

/** What the file is to have; null = what is there is taken as it is. */
function planSize(path: string, request: DiskCreate): number | null {
  const { sizeBytes } = request;
  if (!existsSync(path)) {
    if (sizeBytes === undefined) {
      throw new ApiError("backing_not_found", `${quote(path)} does not exist`, {
        advice: "give a size to have a file made, e.g. --size 100G",
      });
    }
    if (!existsSync(dirname(path))) {
      throw new ApiError("backing_not_found", `${quote(dirname(path))} does not exist`, {
        advice: "make the directory first",
      });
    }
    return checkDiskSize(sizeBytes);
  }
  const existing = inspectBacking(path);
  if (sizeBytes === undefined) return null;
  if (isBlockDevicePath(path)) {
    throw new ApiError("invalid_request", `${quote(path)} is a block device: it has its size`, {
      advice: "leave the size out",
    });
  }
  if (sizeBytes < existing.sizeBytes) {
    const message = `${quote(path)} has ${existing.sizeBytes} bytes, more than ${sizeBytes}`;
    throw new ApiError("invalid_request", message, {
      advice: "leave the size out to use all of it; files are only ever extended",
    });
  }
  return checkDiskSize(sizeBytes);
}

function checkDiskSize(sizeBytes: number): number {
  const below = sizeBytes - (sizeBytes % STORE_BLOCK_BYTES);
  if (below === sizeBytes) return sizeBytes;
  const message = `a disk of ${sizeBytes} bytes is not a multiple of ${STORE_BLOCK_BYTES}`;
  const advice = `use ${below} or ${below + STORE_BLOCK_BYTES}`;
  throw new ApiError("invalid_request", message, { advice });
}

function planName(host: DiskHost, path: string, wanted: string | undefined): string {
  if (host.entries.size + host.damaged.size >= DISK_COUNT_MAX) {
    throw new ApiError("limit_reached", `this node has ${DISK_COUNT_MAX} disks already`, {
      advice: "remove a disk first: ringstore disk remove NAME",
    });
  }
  const isTaken = (name: string): boolean => host.entries.has(name) || host.damaged.has(name);
  if (wanted !== undefined) {
    checkVolumeName(wanted, "disk");
    if (!isTaken(wanted)) return wanted;
    throw new ApiError("disk_exists", `disk ${wanted} exists`, {
      advice: `choose another name, or see: ringstore disk show ${wanted}`,
    });
  }
  const base = nameFrom(path);
  for (let number = 1; ; number++) {
    const name = number === 1 ? base : `${base}-${number}`;
    if (!isTaken(name)) return name;
  }
}

/** `/srv/Disk_1.img` to `disk-1`. */
function nameFrom(path: string): string {
  const stem = basename(path).toLowerCase().split(".")[0] ?? "";
  const name = stem
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, VOLUME_NAME_LENGTH_MAX - 4)
    .replace(/^-+|-+$/g, "");
  return name === "" ? "disk" : name;
}

function planDurability(
  host: DiskHost,
  path: string,
  request: DiskCreate,
): Pick<DeclaredDisk, "durability" | "durabilityReason"> {
  const found = host.modules.tools.detectDurability(existsSync(path) ? path : dirname(path));
  const wanted = request.durability ?? "auto";
  if (wanted === "auto") return { durability: found.durability, durabilityReason: found.reason };
  const doubt = wanted === found.durability ? "" : `, against what was found: ${found.reason}`;
  return { durability: wanted, durabilityReason: `chosen by the operator${doubt}` };
}

export async function checkDisk(host: DiskHost, name: string): Promise<Disk> {
  requireRunning(host);
  const entry = requireIdle(host, name);
  return await entry.exclusively(async () => {
    requireRunning(host);
    const { path } = entry.declared;
    requireUnused(host, entry, "examined");
    entry.cancelRetry();
    try {
      if (entry.state === "ready") await closeDisk(host, entry);
    } catch (error) {
      throw asApiError(error, `cannot close disk ${name}`);
    }
    entry.state = "checking";
    entry.task = { kind: "check", step: "start", doneBytes: 0, totalBytes: 0 };
    void entry.exclusively(async () => {
      await examine(host, entry, path);
      if (!host.stopping) startOpening(host, entry);
    });
    return host.view(entry);
  });
}

/** Never rejects. */
async function examine(host: DiskHost, entry: DiskEntry, path: string): Promise<void> {
  const { tools, now, events } = host.modules;
  const { name } = entry.declared;
  const at = now().toISOString();
  try {
    const report = await tools.check(path, (progress) => {
      entry.task = { kind: "check", ...progress };
    });
    entry.lastCheck = { at, ...report, failure: null };
    const counts = `${report.errorCount} errors, ${report.warningCount} warnings`;
    events.addDisk("disk.checked", name, counts);
  } catch (error) {
    const failure = (error as Error).message;
    entry.lastCheck = { at, ...NOTHING_CHECKED, failure };
    events.addDisk("disk.checked", name, `not carried out: ${failure}`);
  }
  entry.task = null;
}

const NOTHING_CHECKED = {
  errorCount: 0,
  warningCount: 0,
  blocksVerified: 0,
  pagesVerified: 0,
  groupsVerified: 0,
  findingCount: 0,
  findings: [],
} as const;

export async function closeDisk(host: DiskHost, entry: DiskEntry): Promise<void> {
  await host.modules.dataPlane.closeDisk(entry.declared.id);
  entry.state = "checking";
  await host.declare(entry, { clean: true });
}

export function requireUnused(host: DiskHost, entry: DiskEntry, what: string): void {
  const { id, name } = entry.declared;
  const active = host.usersOf(id).filter((user) => user.active);
  if (active.length === 0) return;
  const names = listOf(active.map((user) => user.name));
  throw new ApiError("disk_busy", `disk ${name} cannot be ${what}: it serves ${names}`, {
    advice:
      "detach these volumes first: ringstore volume detach NAME; " +
      `copies of the cluster's volumes move: ringstore disk drain ${name}`,
  });
}

export function requireIdle(host: DiskHost, name: string): DiskEntry {
  const entry = host.find(name);
  if (!entry.busy && entry.task === null) return entry;
  const what = entry.task === null ? entry.state : `busy: ${entry.task.kind}`;
  throw new ApiError("disk_busy", `disk ${name} is ${what}`, {
    advice: `wait until that is done; see: ringstore disk show ${name}`,
  });
}

export function requireRunning(host: DiskHost): void {
  if (!host.stopping) return;
  throw new ApiError("shutting_down", "the daemon is stopping", {
    advice: "try again when it has been started",
  });
}

const LIST_LENGTH_MAX = 10;

export function listOf(names: readonly string[]): string {
  const shown = names.slice(0, LIST_LENGTH_MAX).join(", ");
  return names.length > LIST_LENGTH_MAX
    ? `${shown} and ${names.length - LIST_LENGTH_MAX} more`
    : shown;
}
