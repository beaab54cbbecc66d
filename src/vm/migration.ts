// Live migration between two QEMUs of this machine, over a unix socket, with the commands that
// run in the guest carried along: a `run()` begun on the source is answered by the destination.
//
//   source  ──migrate──► socket ──► target (booted with `incoming`)
//   source ends, its last bytes of the agent's port are read, target's agent adopts its commands

import { sleep } from "./_wait.ts";
import { VmError } from "./error.ts";
import type { Guest } from "./guest.ts";

export interface MigrationOptions {
  /** Default 120 s; then the migration is cancelled and the source goes on. */
  timeoutMs?: number;
  /** Slow it down, to have something happen meanwhile. Default: QEMU's, 128 MiB/s and more. */
  bandwidthBytesPerSecond?: number;
  /** How long the guest may stand still at the end. Default: QEMU's, 300 ms. */
  downtimeLimitMs?: number;
  /** Asked every 20 ms while memory is copied; true cancels. */
  cancelWhen?: (progress: MigrationProgress) => boolean;
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
}

interface MigrateInfo {
  readonly status?: string;
  readonly "error-desc"?: string;
  readonly "total-time"?: number;
  readonly downtime?: number;
  readonly ram?: { readonly transferred?: number; readonly remaining?: number };
}

const TIMEOUT_MS = 120_000;
const POLL_MS = 20;
const FINAL = ["completed", "failed", "cancelled"];

/** `Guest.migrateTo` does this. After "completed" the source is gone; use the target. */
export async function migrate(
  guests: { source: Guest; target: Guest },
  options: MigrationOptions,
): Promise<MigrationResult> {
  const { source, target } = guests;
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
    return { status: "cancelled", totalMs, downtimeMs: Number.NaN };
  }
  await handOver(guests);
  return { status: "completed", totalMs, downtimeMs: info.downtime ?? Number.NaN };
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
