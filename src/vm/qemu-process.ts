// One QEMU process: started, watched, and never left behind.
//
// Invariants:
// - QEMU dies with us, however we die: the kernel sends it SIGKILL when the thread that started
//   it ends (PR_SET_PDEATHSIG, through setpriv), and an orderly exit kills it first.
// - Its working folder (sockets) is removed when it has ended, or at our exit.
// - QEMU is killed by its own pid, which stays ours until Node has reaped it.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deferred, withTimeout } from "./_wait.ts";
import { ConsoleLog } from "./console-log.ts";
import { VmError } from "./error.ts";
import { requireOnSystem } from "./host-program.ts";

export interface QemuExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

const STDERR_CHARACTERS_MAX = 64 * 1024;
/** sun_path of a unix socket, with its final NUL. */
const SOCKET_PATH_BYTES_MAX = 107;
const KILL_TIMEOUT_MS = 10_000;

const living = new Set<QemuProcess>();
let exitHandlerInstalled = false;

export class QemuProcess {
  /** For sockets and whatever else belongs to this guest. */
  readonly directory: string;
  readonly console: ConsoleLog = new ConsoleLog();
  readonly #exit = deferred<QemuExit>();
  #child: ChildProcess | undefined;
  #stderr = "";
  #ended: QemuExit | undefined;

  constructor() {
    installExitHandler();
    this.directory = mkdtempSync(join(tmpdir(), "ringstore-vm-"));
    living.add(this);
  }

  /** The path of a socket in the working folder. */
  socketPath(name: string): string {
    const path = join(this.directory, name);
    if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
      throw new VmError("option", `${path} is too long for a unix socket.`, {
        advice: "Set TMPDIR to a folder with a shorter name.",
      });
    }
    return path;
  }

  /** Starts `binary`. Its stdout is the guest's console. */
  start(binary: string, args: readonly string[]): void {
    const setpriv = requireOnSystem("setpriv", "util-linux");
    const child = spawn(setpriv, ["--pdeathsig", "KILL", binary, ...args], {
      cwd: this.directory,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child = child;
    child.stdout.on("data", (chunk: Buffer) => this.console.append(chunk));
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_CHARACTERS_MAX);
    });
    child.on("error", (cause) => {
      this.#stderr += cause.message;
      this.#onExit({ code: null, signal: null });
    });
    // "close" comes after "exit", when the last output has been read.
    child.on("close", (code, signal) => this.#onExit({ code, signal }));
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Undefined while it runs. */
  get exit(): QemuExit | undefined {
    return this.#ended;
  }

  get exited(): Promise<QemuExit> {
    return this.#exit.promise;
  }

  get stderr(): string {
    return this.#stderr;
  }

  /** How it ended and what it said, for errors. */
  describe(): string {
    const exit = this.#ended;
    const how = exit === undefined ? "QEMU is running." : `QEMU ended (${describeExit(exit)}).`;
    const said = this.#stderr.trim() === "" ? "" : `\nQEMU said: ${this.#stderr.trim()}`;
    const shown = this.console.tail.trim() === "" ? "" : `\nConsole:\n${this.console.tail}`;
    const panic = this.console.panic === undefined ? "" : `\n${this.console.panic}`;
    return how + panic + said + shown;
  }

  /** Ends it at once. Safe to call at any time and more than once. */
  async kill(): Promise<void> {
    if (this.#child === undefined) this.#onExit({ code: null, signal: null });
    this.killNow();
    await withTimeout(this.exited, KILL_TIMEOUT_MS, () => {
      return new VmError("timeout", `QEMU (pid ${this.pid}) does not end after SIGKILL.`);
    });
  }

  killNow(): void {
    if (this.#ended === undefined) this.#child?.kill("SIGKILL");
  }

  removeDirectory(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }

  #onExit(exit: QemuExit): void {
    if (this.#ended !== undefined) return;
    this.#ended = exit;
    living.delete(this);
    this.removeDirectory();
    this.console.end(new VmError("gone", this.describe()));
    this.#exit.resolve(exit);
  }
}

function describeExit(exit: QemuExit): string {
  return exit.signal === null ? `exit code ${exit.code}` : `signal ${exit.signal}`;
}

function installExitHandler(): void {
  if (exitHandlerInstalled) return;
  exitHandlerInstalled = true;
  process.on("exit", () => {
    for (const qemu of living) {
      qemu.killNow();
      qemu.removeDirectory();
    }
  });
}
