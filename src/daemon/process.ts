// ringstored as a process: arguments, signals, exit codes, the end after a defect. What it does in
// between is in run.ts. The entry point (main.ts) hands in the real data plane.

import { RingstoreError } from "../base/error.ts";
import { helpText, loadConfig, parseCommandLine } from "./arguments.ts";
import type { DataPlaneFactory } from "./data-plane-factory.ts";
import { DaemonLog } from "./log.ts";
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
): Promise<void> {
  const log = new DaemonLog("info");
  const fatal = (error: unknown): never => endByDefect(log, error);
  process.on("uncaughtException", fatal);
  process.on("unhandledRejection", fatal);
  let daemon: Daemon;
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
    const serviceManager = new ServiceManager(process.env);
    daemon = await startOrStop(
      Daemon.start({ config, flags, configPath }, { createDataPlane, log, serviceManager, fatal }),
    );
  } catch (error) {
    endByStartError(log, error);
    return;
  }
  handleSignals(daemon, log);
}

/** A signal during the start waits for its end: half a start is not stopped cleanly. */
async function startOrStop(starting: Promise<Daemon>): Promise<Daemon> {
  let wanted = false;
  const remember = (): void => void (wanted = true);
  process.on("SIGTERM", remember);
  process.on("SIGINT", remember);
  // Without a listener the signal would end the process.
  process.on("SIGHUP", ignore);
  try {
    const daemon = await starting;
    if (wanted) setImmediate(() => process.kill(process.pid, "SIGTERM"));
    return daemon;
  } finally {
    process.off("SIGTERM", remember);
    process.off("SIGINT", remember);
    process.off("SIGHUP", ignore);
  }
}

function ignore(): void {}

function handleSignals(daemon: Daemon, log: DaemonLog): void {
  let stopping = false;
  const stop = (signal: NodeJS.Signals): void => {
    // Asked twice: whoever asks has no patience left.
    if (stopping) process.kill(process.pid, "SIGKILL");
    stopping = true;
    log.log("info", "daemon.signal", { signal });
    setTimeout(() => {
      log.log("error", "daemon.stop-timed-out", { patienceMs: STOP_PATIENCE_MS });
      // process.exit() would wait for a thread that is stuck in a system call.
      process.kill(process.pid, "SIGKILL");
    }, STOP_PATIENCE_MS);
    void daemon.stop().then(() => process.exit(EXIT_STOPPED));
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  process.on("SIGHUP", () => void daemon.reload());
}

function endByStartError(log: DaemonLog, error: unknown): void {
  if (!(error instanceof RingstoreError)) endByDefect(log, error);
  log.flush();
  const { message, advice, code } = error as RingstoreError;
  const text = `ringstored: ${message}\n${advice === undefined ? "" : `  ${advice}\n`}`;
  process.stderr.write(text, () => {
    const status = code === "invalid_config" ? EXIT_USAGE : EXIT_FAILED;
    process.exit(status);
  });
}

/** Nobody's data may be trusted to this process any more: it ends by signal, at once. */
function endByDefect(log: DaemonLog, error: unknown): never {
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  log.log("error", "daemon.defect", { stack });
  log.flush();
  process.abort();
}
