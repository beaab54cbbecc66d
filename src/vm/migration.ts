// Live migration between two QEMUs of this machine, over a unix socket, with the commands that
// run in the guest carried along: a `run()` begun on the source is answered by the destination.
//
//   1. source ──migrate──► socket ──► target (booted with `incoming`, stopped)
//   2. both are stopped: where asked, their memories are compared, page by page
//   3. target goes on
//   4. source ends; its last bytes of the agent's port are read; target's agent takes over
//
// The comparison finds what nothing else shows at once: a page that was written after it had been
// sent and whose new content was never sent. That is a back-end that forgot to log a write.
//
// QEMU before 9.0 under TCG forgets such pages by itself: it clears a page's dirty bit without
// dropping the translations that may write the page unseen (fixed by its commit 03bfc2188f,
// "physmem: Fix migration dirty bitmap coherency with TCG memory access"). Measured with 7.2 under
// disk I/O: 23 to 33 pages lost in 4 of 4 migrations that synchronised the bitmap while the guest
// ran (not with the three synchronisations that every migration has). Only its quick path forgets
// them, which takes 64 pages at a time and only memory that is a multiple of them: a guest with two
// pages more goes the other way, page by page, which drops the translations. Hence `migratable`,
// which adds those two pages (QEMU rounds memory up to 8 KiB).

import { sleep } from "./_wait.ts";
import { VmError } from "./error.ts";
import type { Guest } from "./guest.ts";
import { compareMemory } from "./memory-compare.ts";
import type { Accelerator, QemuVersion } from "./qemu-command.ts";

export interface MigrationOptions {
  /** Default 120 s; then the migration is cancelled and the source goes on. */
  timeoutMs?: number;
  /** Slow it down, to have something happen meanwhile. Default: QEMU's, 128 MiB/s and more. */
  bandwidthBytesPerSecond?: number;
  /** How long the guest may stand still at the end. Default: QEMU's, 300 ms. */
  downtimeLimitMs?: number;
  /** Asked every 20 ms while memory is copied; true cancels. */
  cancelWhen?: (progress: MigrationProgress) => boolean;
  /** Compare both memories before the target goes on. Default false: takes 0.2 s for 256 MiB. */
  compareMemory?: boolean;
  /** Capabilities to set on both sides, e.g. `{ "auto-converge": true }`. */
  capabilities?: Readonly<Record<string, boolean>>;
}

export interface MigrationProgress {
  readonly status: string;
  readonly transferredBytes: number;
  readonly remainingBytes: number;
}

export interface MigrationResult {
  readonly status: "completed" | "cancelled";
  readonly totalMs: number;
  /** NaN when cancelled. */
  readonly downtimeMs: number;
  /** Guest pages that differ, as byte offsets. Empty when they were not compared. */
  readonly differingPages: readonly number[];
}

interface MigrateInfo {
  readonly status?: string;
  readonly "error-desc"?: string;
  readonly "total-time"?: number;
  readonly downtime?: number;
  readonly ram?: { readonly transferred?: number; readonly remaining?: number };
}

/** What memory has to be beyond a multiple of 256 KiB for such a QEMU not to lose pages of it. */
export const WHOLE_BITMAP_SPARE_KIB = 8;
const TIMEOUT_MS = 300_000;
const POLL_MS = 20;
const FINAL = ["completed", "failed", "cancelled"];

/** `Guest.migrateTo` does this. After "completed" the source is gone; use the target. */
export async function migrate(
  guests: { source: Guest; target: Guest },
  options: MigrationOptions,
): Promise<MigrationResult> {
  const { source, target } = guests;
  if (!source.migratable && losesDirtyPages(source.qemuVersion, source.accelerator)) {
    const version = `QEMU ${source.qemuVersion.text} under TCG`;
    throw new VmError("option", `${version} would lose writes of this guest in a migration.`, {
      advice: "Boot it with `migratable: true`.",
    });
  }
  const uri = `unix:${target.socketPath("migration")}`;
  for (const guest of [source, target]) await configure(guest, options);
  await target.qmp("migrate-incoming", { uri });
  await source.qmp("migrate", { uri });
  const info = await follow(source, options);
  if (info.status === "failed") {
    throw new VmError("qmp", `The migration failed: ${info["error-desc"] ?? "no reason given"}`);
  }
  const totalMs = info["total-time"] ?? Number.NaN;
  if (info.status === "cancelled") {
    return { status: "cancelled", totalMs, downtimeMs: Number.NaN, differingPages: [] };
  }
  const differingPages =
    options.compareMemory === true ? compareMemory(source.pid, target.pid) : [];
  await target.qmp("cont");
  await handOver(guests);
  const downtimeMs = info.downtime ?? Number.NaN;
  return { status: "completed", totalMs, downtimeMs, differingPages };
}

/** Whether this QEMU forgets writes of a migrating guest; see above. */
export function losesDirtyPages(version: QemuVersion, accelerator: Accelerator): boolean {
  return accelerator === "tcg" && version.major < 9;
}

async function configure(guest: Guest, options: MigrationOptions): Promise<void> {
  const capabilities = Object.entries(options.capabilities ?? {});
  if (capabilities.length > 0) {
    await guest.qmp("migrate-set-capabilities", {
      capabilities: capabilities.map(([capability, state]) => ({ capability, state })),
    });
  }
  const parameters: Record<string, number> = {};
  if (options.bandwidthBytesPerSecond !== undefined) {
    parameters["max-bandwidth"] = options.bandwidthBytesPerSecond;
  }
  if (options.downtimeLimitMs !== undefined) parameters["downtime-limit"] = options.downtimeLimitMs;
  if (Object.keys(parameters).length > 0) await guest.qmp("migrate-set-parameters", parameters);
}

async function follow(source: Guest, options: MigrationOptions): Promise<MigrateInfo> {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  const deadlineMs = performance.now() + timeoutMs;
  let cancelling = false;
  for (;;) {
    const info = (await source.qmp("query-migrate")) as MigrateInfo;
    if (FINAL.includes(info.status ?? "")) return info;
    const late = performance.now() > deadlineMs;
    if (!cancelling && (late || options.cancelWhen?.(progressOf(info)) === true)) {
      cancelling = true;
      await source.qmp("migrate_cancel");
    }
    // Cancelling takes a moment; one that does not end is as bad as a migration that does not.
    if (performance.now() > deadlineMs + timeoutMs) {
      throw new VmError("timeout", `The migration is ${info.status} after ${2 * timeoutMs} ms.`);
    }
    await sleep(POLL_MS);
  }
}

function progressOf(info: MigrateInfo): MigrationProgress {
  return {
    status: info.status ?? "none",
    transferredBytes: info.ram?.transferred ?? 0,
    remainingBytes: info.ram?.remaining ?? 0,
  };
}

async function handOver({ source, target }: { source: Guest; target: Guest }): Promise<void> {
  // The agent's port delivers what QEMU had sent before it ends; only then is the half line known.
  source.agent.release();
  await source.quit();
  await source.agent.drained;
  target.agent.adopt(source.agent);
}
