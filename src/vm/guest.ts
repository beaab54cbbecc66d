// A running guest as tests and the show see it: run a command in it, talk QMP, plug disks and
// memory, reboot, migrate, end it.
//
// Invariants: every wait has a limit; when QEMU ends, everything pending is rejected with what
// was on the console; kill() always leaves no process and no socket behind.

import { sleep, withTimeout } from "./_wait.ts";
import type { ConsoleLog, TextWaitOptions } from "./console-log.ts";
import { VmError } from "./error.ts";
import type { GuestAgent, RunOptions, RunResult } from "./guest-agent.ts";
import { SCRIPT_EXIT_MARK } from "./guest-scripts.ts";
import { type MigrationOptions, type MigrationResult, migrate } from "./migration.ts";
import {
  type Accelerator,
  diskBackend,
  diskBackendRemoval,
  diskDevice,
  diskId,
  type GuestDisk,
  hotplugPort,
  type QemuVersion,
} from "./qemu-command.ts";
import type { QemuExit, QemuProcess } from "./qemu-process.ts";
import type { QmpClient, QmpEvent, QmpWaitOptions } from "./qmp.ts";
import { describeThreads } from "./thread-states.ts";

export interface GuestParts {
  readonly process: QemuProcess;
  readonly qmp: QmpClient;
  readonly agent: GuestAgent | undefined;
  readonly version: QemuVersion;
  readonly accelerator: Accelerator;
  readonly hotplugPortCount: number;
  readonly disks: readonly GuestDisk[];
  readonly migratable: boolean;
  /** `performance.now()` when QEMU was started. */
  readonly startedAtMs: number;
}

export interface WaitOptions {
  timeoutMs?: number;
}

interface PluggedDisk {
  readonly disk: GuestDisk;
  readonly port: number;
}

// An emulated guest on a machine that is busy with something else takes many times as long as it
// does on a quiet one. These are for guests that hang.
const BOOT_TIMEOUT_MS = 300_000;
const SHUTDOWN_TIMEOUT_MS = 60_000;
const QUIT_TIMEOUT_MS = 5_000;
const PLUG_TIMEOUT_MS = 180_000;
/** A guest that refused to let go of a device, or missed that it was asked, is asked again. */
const ASK_AGAIN_MS = 20_000;
/** QEMU lets go of a removed device's back-end a moment after it says DEVICE_DELETED. */
const RELEASE_POLL_MS = 20;
const RELEASE_ATTEMPTS = 3000;
const PANIC = /Kernel panic - not syncing/;

export class Guest {
  readonly accelerator: Accelerator;
  readonly qemuVersion: QemuVersion;
  readonly #parts: GuestParts;
  readonly #plugged = new Map<string, PluggedDisk>();
  #plugCount = 0;
  #bootMs = Number.NaN;

  constructor(parts: GuestParts) {
    this.#parts = parts;
    this.accelerator = parts.accelerator;
    this.qemuVersion = parts.version;
    const { process, qmp, agent } = parts;
    // What QEMU sent before it ended counts: answers, events, the end of a command.
    const ended = process.exited;
    Promise.all([ended, qmp.drained]).then(() => qmp.close(process.describe()));
    if (agent !== undefined) {
      Promise.all([ended, agent.drained]).then(() => agent.close(process.describe()));
    }
  }

  /** Whether {@link migrateTo} may be called. */
  get migratable(): boolean {
    return this.#parts.migratable;
  }

  get pid(): number {
    const pid = this.#parts.process.pid;
    if (pid === undefined) throw new VmError("gone", "QEMU was never started.");
    return pid;
  }

  /** From the start of QEMU to the agent's first word. NaN before that. */
  get bootMs(): number {
    return this.#bootMs;
  }

  get console(): ConsoleLog {
    return this.#parts.process.console;
  }

  /** What QEMU itself complained about. */
  get qemuStderr(): string {
    return this.#parts.process.stderr;
  }

  /** Resolves when QEMU has ended, for whatever reason. */
  get exited(): Promise<QemuExit> {
    return this.#parts.process.exited;
  }

  get running(): boolean {
    return this.#parts.process.exit === undefined;
  }

  /** Boots seen so far, the first included. */
  get boots(): number {
    return this.agent.boots;
  }

  get agent(): GuestAgent {
    const agent = this.#parts.agent;
    if (agent === undefined) throw new VmError("option", "This guest was started without agent.");
    return agent;
  }

  /** Runs a shell command in the guest; any number at once. A non-zero exit is a result. */
  run(command: string, options: RunOptions = {}): Promise<RunResult> {
    const result = this.agent.run(command, options).catch(async (error: unknown) => {
      if (!(error instanceof VmError) || error.code !== "timeout") throw error;
      const threads = await describeThreads(this.pid);
      throw new VmError("timeout", `${error.message}\nQEMU meanwhile: ${threads}`);
    });
    // Whoever ends the guest with a command need not wait for its end.
    result.catch(() => undefined);
    return result;
  }

  /** The same, but a non-zero exit is an error. Returns stdout. */
  async must(command: string, options: RunOptions = {}): Promise<string> {
    const result = await this.run(command, options);
    if (result.exitCode === 0) return result.stdout;
    const printed = `${result.stdout}${result.stderr}`.slice(-4000);
    const how = `In the guest: exit code ${result.exitCode} from ${command}`;
    throw new VmError("command", `${how}\n${printed}`);
  }

  /** Waits for text on the console. */
  async waitForText(pattern: string | RegExp, options: TextWaitOptions = {}): Promise<string> {
    return (await this.console.waitFor(pattern, options))[0];
  }

  /** Waits for the end of the script given at boot; returns its exit status. */
  async waitForScript(options: WaitOptions = {}): Promise<number> {
    const pattern = new RegExp(`${SCRIPT_EXIT_MARK} (\\d+)`);
    return Number((await this.console.waitFor(pattern, options))[1]);
  }

  qmp(
    command: string,
    args?: Readonly<Record<string, unknown>>,
    options: WaitOptions = {},
  ): Promise<unknown> {
    return this.#parts.qmp.execute(command, args, options.timeoutMs);
  }

  waitForEvent(name: string, options: QmpWaitOptions = {}): Promise<QmpEvent> {
    return this.#parts.qmp.waitForEvent(name, options);
  }

  /** Events seen so far, as a position for {@link waitForEvent}. */
  get eventCount(): number {
    return this.#parts.qmp.eventCount;
  }

  /** Waits until the agent has started for the `boots`-th time (default: the first). */
  async waitForBoot(options: { boots?: number; timeoutMs?: number } = {}): Promise<void> {
    const timeoutMs = options.timeoutMs ?? BOOT_TIMEOUT_MS;
    await this.agent.waitForBoot(options.boots ?? 1, timeoutMs);
    if (Number.isNaN(this.#bootMs)) this.#bootMs = performance.now() - this.#parts.startedAtMs;
  }

  /** The reset button. Needs `allowReboot`. */
  async reset(options: WaitOptions = {}): Promise<void> {
    const boots = this.boots;
    const since = this.console.length;
    await this.qmp("system_reset");
    await this.#bootsAgain(boots + 1, since, options);
  }

  /** A reboot from inside. Needs `allowReboot`. */
  async reboot(options: WaitOptions = {}): Promise<void> {
    const boots = this.boots;
    const since = this.console.length;
    // It never answers: its agent ends with it.
    void this.run("sync; reboot -f", options);
    await this.#bootsAgain(boots + 1, since, options);
  }

  /** Plugs a disk into a free port; the guest sees it a moment later. Returns its id. */
  async addDisk(disk: GuestDisk): Promise<string> {
    const id = diskId(disk, this.#parts.disks.length + this.#plugCount);
    const port = this.#freePort();
    this.#plugCount += 1;
    this.#plugged.set(id, { disk, port });
    const backend = diskBackend(disk, id, this.qemuVersion);
    try {
      await this.qmp(backend.command, backend.args);
      const device = { ...diskDevice(disk, id), bus: hotplugPort(port) };
      await this.qmp("device_add", device).catch(async (error) => {
        await this.#releaseBackend(disk, id);
        throw error;
      });
    } catch (error) {
      this.#plugged.delete(id);
      throw error;
    }
    return id;
  }

  /** Unplugs a disk of {@link addDisk}: asks the guest, waits until it has let go. */
  async removeDisk(id: string, options: WaitOptions = {}): Promise<void> {
    const plugged = this.#plugged.get(id);
    if (plugged === undefined) throw new VmError("option", `No disk ${id} was plugged.`);
    await this.#removeDevice(id, options);
    await this.#releaseBackend(plugged.disk, id);
    this.#plugged.delete(id);
  }

  /** Plugs a memory module. Needs `memorySlots`. */
  async addMemory(id: string, sizeMiB: number): Promise<void> {
    const size = sizeMiB * 1024 * 1024;
    const backend = { "qom-type": "memory-backend-memfd", id: `${id}-ram`, size, share: true };
    await this.qmp("object-add", backend);
    await this.qmp("device_add", { driver: "pc-dimm", id, memdev: `${id}-ram` });
  }

  /** Unplugs a memory module; the guest must be able to empty it. */
  async removeMemory(id: string, options: WaitOptions = {}): Promise<void> {
    await this.#removeDevice(id, options);
    await this.#release("object-del", { id: `${id}-ram` });
  }

  /** Live-migrates to a guest booted with `incoming`. Needs `migratable`; see migration.ts. */
  migrateTo(target: Guest, options: MigrationOptions = {}): Promise<MigrationResult> {
    return migrate({ source: this, target }, options);
  }

  /** Powers the guest off from inside; ends QEMU in any case before it returns. */
  async shutdown(options: WaitOptions = {}): Promise<void> {
    const timeoutMs = options.timeoutMs ?? SHUTDOWN_TIMEOUT_MS;
    if (this.running && this.#parts.agent !== undefined && this.boots > 0) {
      void this.run("sync; poweroff -f", { timeoutMs });
      await this.#endsWithin(timeoutMs);
    }
    await this.quit();
  }

  /** Ends QEMU in an orderly way, without asking the guest. */
  async quit(): Promise<void> {
    if (this.running) {
      await this.qmp("quit", undefined, { timeoutMs: QUIT_TIMEOUT_MS }).catch(() => undefined);
      await this.#endsWithin(QUIT_TIMEOUT_MS);
    }
    await this.kill();
  }

  /** SIGKILL, and the end awaited. */
  kill(): Promise<void> {
    return this.#parts.process.kill();
  }

  /** For migration.ts: a socket path in this QEMU's own folder. */
  socketPath(name: string): string {
    return this.#parts.process.socketPath(name);
  }

  /** A guest that may reboot stays where it panics: that, and a wait in vain, show its console. */
  async #bootsAgain(boots: number, since: number, options: WaitOptions): Promise<void> {
    const timeoutMs = options.timeoutMs ?? BOOT_TIMEOUT_MS;
    const booted = this.waitForBoot({ boots, timeoutMs });
    const panicked = this.console.waitFor(PANIC, { since, timeoutMs }).then(() => {
      throw new VmError("gone", "The guest panicked.");
    });
    try {
      await Promise.race([booted, panicked]);
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      const shown = `${why}\n${this.#parts.process.describe()}`;
      throw new VmError(error instanceof VmError ? error.code : "gone", shown, { cause: error });
    } finally {
      // The one that lost the race ends by its own limit; nobody awaits it any more.
      booted.catch(() => undefined);
      panicked.catch(() => undefined);
    }
  }

  async #endsWithin(timeoutMs: number): Promise<void> {
    // Being late is no error here: the caller goes on to stronger means.
    const late = (): Error => new VmError("timeout", "still running");
    await withTimeout(this.exited, timeoutMs, late).catch(() => undefined);
  }

  #freePort(): number {
    const taken = new Set([...this.#plugged.values()].map((plugged) => plugged.port));
    for (let port = 0; port < this.#parts.hotplugPortCount; port++) {
      if (!taken.has(port)) return port;
    }
    throw new VmError("option", `All ${this.#parts.hotplugPortCount} ports are in use.`, {
      advice: "Boot the guest with a larger hotplugPortCount.",
    });
  }

  async #removeDevice(id: string, options: WaitOptions): Promise<void> {
    const since = this.eventCount;
    const match = (event: QmpEvent): boolean => event.data["device"] === id;
    await this.qmp("device_del", { id });
    const askAgain = setInterval(() => {
      // Refused where the guest is at it, or has just finished.
      void this.qmp("device_del", { id }).catch(() => undefined);
    }, ASK_AGAIN_MS);
    try {
      const timeoutMs = options.timeoutMs ?? PLUG_TIMEOUT_MS;
      await this.waitForEvent("DEVICE_DELETED", { since, match, timeoutMs });
    } finally {
      clearInterval(askAgain);
    }
  }

  async #releaseBackend(disk: GuestDisk, id: string): Promise<void> {
    const removal = diskBackendRemoval(disk, id);
    await this.#release(removal.command, removal.args);
  }

  async #release(command: string, args: Record<string, unknown>): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.qmp(command, args);
        return;
      } catch (error) {
        const busy = error instanceof VmError && error.code === "qmp";
        if (!busy || attempt >= RELEASE_ATTEMPTS) throw error;
        await sleep(RELEASE_POLL_MS);
      }
    }
  }
}
