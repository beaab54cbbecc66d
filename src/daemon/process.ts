// ringstored as a process: arguments, signals, exit codes, the end after a defect. What it does in
// between is in run.ts. The entry point (main.ts) hands in the real data plane.

import { RingstoreError } from "../base/error.ts";
import type { DiskTools } from "../ports/store-disk.ts";
import { helpText, loadConfig, parseCommandLine } from "./arguments.ts";
import type { DataPlaneFactory } from "./data-plane-factory.ts";
import { DaemonLog } from "./log.ts";
import { drainLogRings, endBySignal, endProcess } from "./reactor-fatal.ts";
import { Daemon } from "./run.ts";
import { ServiceManager } from "./service-manager.ts";
import { readVersion } from "./version.ts";

const EXIT_STOPPED = 0;
const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

/** A stop takes milliseconds; a device that hangs must not make it take for ever. */
const STOP_PATIENCE_MS = 20_000;

export async function runDaemonProcess(
  argv: readonly string[],
  createDataPlane: DataPlaneFactory,
  diskTools: DiskTools,
): Promise<void> {
  const log = new DaemonLog("info");
  const fatal = (error: unknown): never => endByDefect(log, error);
  process.on("uncaughtException", fatal);
  process.on("unhandledRejection", fatal);
  try {
    const commandLine = parseCommandLine(argv, process.env);
    if (commandLine.kind !== "run") {
      const text = commandLine.kind === "help" ? helpText() : `${readVersion()}\n`;
      process.stdout.write(text, () => process.exit(EXIT_STOPPED));
      return;
    }
    const { flags, configPath } = commandLine;
    const config = await loadConfig(flags, configPath);
    log.setLevel(config.logLevel);
    const signals = new Signals(log);
    const serviceManager = new ServiceManager(process.env);
    const modules = { createDataPlane, diskTools, log, serviceManager, fatal };
    signals.started(await Daemon.start({ config, flags, configPath }, modules));
  } catch (error) {
    endByStartError(log, error);
  }
}

/**
 * Signals, from the first moment to the last. The listeners are put up once and stay: a signal that
 * arrives while one listener is exchanged for another is lost. One that arrives during the start
 * waits for its end, because half a start is not stopped cleanly.
 */
class Signals {
  readonly #log: DaemonLog;
  #daemon: Daemon | null = null;
  #wanted: NodeJS.Signals | null = null;

  constructor(log: DaemonLog) {
    this.#log = log;
    process.on("SIGTERM", (signal) => this.#stop(signal));
    process.on("SIGINT", (signal) => this.#stop(signal));
    process.on("SIGHUP", () => void this.#daemon?.reload());
  }

  started(daemon: Daemon): void {
    this.#daemon = daemon;
    const wanted = this.#wanted;
    this.#wanted = null;
    if (wanted !== null) this.#stop(wanted);
  }

  #stop(signal: NodeJS.Signals): void {
    // Asked twice: whoever asks has no patience left.
    if (this.#wanted !== null) process.kill(process.pid, "SIGKILL");
    this.#wanted = signal;
    if (this.#daemon === null) return;
    this.#log.log("info", "daemon.signal", { signal });
    setTimeout(() => {
      this.#log.log("error", "daemon.stop-timed-out", { patienceMs: STOP_PATIENCE_MS });
      // process.exit() would wait for a thread that is stuck in a system call.
      process.kill(process.pid, "SIGKILL");
    }, STOP_PATIENCE_MS);
    void this.#daemon.stop().then(() => process.exit(EXIT_STOPPED));
  }
}

function endByStartError(log: DaemonLog, error: unknown): void {
  if (!(error instanceof RingstoreError)) endByDefect(log, error);
  log.flush();
  const { message, advice, code } = error as RingstoreError;
  const text = `ringstored: ${message}\n${advice === undefined ? "" : `  ${advice}\n`}`;
  process.stderr.write(text, () => {
    const status = code === "invalid_config" ? EXIT_USAGE : EXIT_FAILED;
    endProcess(status);
  });
}

/** Nobody's data may be trusted to this process any more: it ends by signal, at once. */
function endByDefect(log: DaemonLog, error: unknown): never {
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  log.log("error", "daemon.defect", { stack });
  log.flush();
  drainLogRings();
  endBySignal();
}
