// Running other programs: to the end with their output shown, or for what they print.

import { spawn, spawnSync } from "node:child_process";
import { constants } from "node:os";
import { childEnvironment, ROOT, SetupError } from "./project.mjs";

/** Runs a program with its output on stderr (stdout belongs to results); returns its exit code. */
export function run(command, args, options = {}) {
  const { status, signal, error } = spawnSync(command, args, {
    cwd: ROOT,
    env: childEnvironment(),
    stdio: ["ignore", process.stderr, process.stderr],
    ...options,
  });
  if (error !== undefined) throw new SetupError(`${command} cannot be run: ${error.message}`);
  return status ?? exitCodeOfSignal(signal);
}

/** What a program prints on stdout; null when it fails or is not there. */
export function capture(command, args, options = {}) {
  const { status, stdout, error } = spawnSync(command, args, {
    cwd: ROOT,
    env: { ...childEnvironment(), LC_ALL: "C" },
    stdio: ["ignore", "pipe", "ignore"],
    encoding: "utf8",
    maxBuffer: 1 << 26,
    ...options,
  });
  return error === undefined && status === 0 ? stdout : null;
}

/** Becomes another program, as far as Node can: same terminal, signals passed on, same exit. */
export function become(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: ROOT,
      env: childEnvironment(),
      stdio: "inherit",
      ...options,
    });
    // A terminal sends its signals to both; others send them to us alone.
    const passOn = (signal) => child.kill(signal);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, passOn);
    child.on("error", (error) =>
      reject(new SetupError(`${command} cannot be run: ${error.message}`)),
    );
    child.on("exit", (code, signal) => resolve(code ?? exitCodeOfSignal(signal)));
  });
}

export function exitCodeOfSignal(signal) {
  return 128 + (constants.signals[signal] ?? 0);
}
