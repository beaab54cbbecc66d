// Runs a program of the host to its end, with a time limit and an output limit, and without a
// shell. What it prints becomes the result or the error; nothing is shown to the user directly.

import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { VmError } from "./error.ts";

export interface HostProgramOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** Default 120 s. */
  timeoutMs?: number;
  /** Exit codes other than 0 that are results, not errors. */
  acceptExitCodes?: readonly number[];
}

export interface HostProgramResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

const TIMEOUT_MS_DEFAULT = 120_000;
/** Far more than any tool used here prints; a runaway one must not fill our memory. */
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;
/** Administrators' programs live here, and are not on everybody's PATH. */
const SYSTEM_DIRECTORIES = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/** The absolute path of `program` on this system, or undefined. */
export function findOnSystem(program: string): string | undefined {
  const fromPath = (process.env["PATH"] ?? "").split(delimiter).filter((entry) => entry !== "");
  for (const directory of [...fromPath, ...SYSTEM_DIRECTORIES]) {
    const path = join(directory, program);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here: look in the next folder.
    }
  }
  return undefined;
}

/** The same, but an error with the package to install when it is missing. */
export function requireOnSystem(program: string, debianPackage: string): string {
  const path = findOnSystem(program);
  if (path !== undefined) return path;
  throw new VmError("unsupported", `The program ${program} is not installed.`, {
    advice: `Install it: apt-get install ${debianPackage}`,
  });
}

/** Rejects with a {@link VmError} when the program cannot start, fails, or takes too long. */
export function runHostProgram(
  file: string,
  args: readonly string[],
  options: HostProgramOptions = {},
): Promise<HostProgramResult> {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS_DEFAULT;
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: timeoutMs,
      killSignal: "SIGKILL",
    });
    const output = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name].setEncoding("utf8").on("data", (text: string) => {
        if (output[name].length < OUTPUT_BYTES_MAX) output[name] += text;
        else child.kill("SIGKILL");
      });
    }
    const line = [file, ...args].join(" ");
    child.on("error", (cause) => {
      reject(new VmError("program", `Cannot start ${line}: ${cause.message}`, { cause }));
    });
    child.on("close", (exitCode, signal) => {
      if (exitCode === 0 || options.acceptExitCodes?.includes(exitCode ?? -1)) {
        resolve({ exitCode: exitCode ?? 0, ...output });
        return;
      }
      const how = exitCode === null ? `ended by ${signal} (limit ${timeoutMs} ms)` : `${exitCode}`;
      const printed = (output.stderr || output.stdout).trim().slice(-2000);
      reject(new VmError("program", `${line}: ${how}\n${printed}`));
    });
  });
}
