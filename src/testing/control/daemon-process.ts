// Starts ringstored over the fake data plane as a real process, and the CLI against it. Each
// fixture has its own directory; everything it started is ended and removed by `end`.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { temporaryDirectory } from "./host-fixture.ts";

const DAEMON = fileURLToPath(new URL("./fake-daemon.js", import.meta.url));
const CLI = fileURLToPath(new URL("../../cli/main.js", import.meta.url));
/** Generous: several test files share two cores. */
const START_PATIENCE_MS = 60_000;

export interface Line {
  readonly msg: string;
  readonly level: string;
  readonly [field: string]: unknown;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class DaemonProcess {
  readonly child: ChildProcess;
  readonly lines: Line[] = [];
  stderr = "";
  #waiters: (() => void)[] = [];
  readonly #exit: Promise<unknown>;

  constructor(
    args: readonly string[],
    environment: NodeJS.ProcessEnv = {},
    entry: string = DAEMON,
  ) {
    this.child = spawn(process.execPath, [entry, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...cleanEnvironment(), ...environment },
    });
    this.#exit = once(this.child, "exit");
    let pending = "";
    this.child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
      pending += text;
      const whole = pending.split("\n");
      pending = whole.pop() ?? "";
      for (const line of whole) if (line.startsWith("{")) this.lines.push(JSON.parse(line) as Line);
      for (const wake of this.#waiters.splice(0)) wake();
    });
  }

  get pid(): number {
    return this.child.pid as number;
  }

  /** The first line with this message, waiting for it. */
  async line(msg: string, after = 0): Promise<Line> {
    const deadline = Date.now() + START_PATIENCE_MS;
    for (;;) {
      const found = this.lines.slice(after).find((line) => line.msg === msg);
      if (found !== undefined) return found;
      if (Date.now() > deadline) throw new Error(`no ${msg} in\n${this.stderr}`);
      if (this.child.exitCode !== null || this.child.signalCode !== null) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        if (this.lines.slice(after).some((line) => line.msg === msg)) continue;
        throw new Error(`ended without ${msg}:\n${this.stderr}`);
      }
      await Promise.race([
        new Promise<void>((resolve) => void this.#waiters.push(resolve)),
        this.#exit,
        new Promise((resolve) => setTimeout(resolve, 1000).unref()),
      ]);
    }
  }

  async ready(): Promise<this> {
    await this.line("daemon.ready");
    return this;
  }

  /** Sends the signal and waits for the end. */
  async end(signal: NodeJS.Signals = "SIGTERM"): Promise<Ended> {
    this.child.kill(signal);
    return await this.ended();
  }

  async ended(): Promise<Ended> {
    if (this.child.exitCode === null && this.child.signalCode === null) await this.#exit;
    const { exitCode, signalCode } = this.child;
    return { code: exitCode, signal: signalCode, stdout: "", stderr: this.stderr };
  }
}

/** Without the caller's own RINGSTORE settings and terminal habits. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  const environment = { ...process.env };
  for (const key of Object.keys(environment)) {
    // Node tells children of its test runner to report in a form of their own.
    if (key.startsWith("RINGSTORE_") || key === "NODE_TEST_CONTEXT") delete environment[key];
  }
  return environment;
}

/** Runs a program to its end. */
export async function run(
  program: string,
  args: readonly string[],
  options: {
    readonly env?: NodeJS.ProcessEnv;
    readonly input?: string;
    readonly cwd?: string;
  } = {},
): Promise<Ended> {
  const child = spawn(program, args, {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...cleanEnvironment(), ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => void (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => void (stderr += text));
  // A program that does not read its input may be gone before it is written.
  child.stdin.on("error", () => undefined).end(options.input ?? "");
  const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  return { code, signal, stdout, stderr };
}

/** A directory, the daemons started in it, and the CLI talking to them. */
export class Scene {
  readonly root: string = temporaryDirectory();
  readonly data: string = join(this.root, "d");
  readonly #daemons: DaemonProcess[] = [];

  /** `entry`: the file of another daemon than the one over the fake data plane. */
  daemon(
    args: readonly string[] = [],
    environment: NodeJS.ProcessEnv = {},
    entry?: string,
  ): DaemonProcess {
    const daemon = new DaemonProcess(["--data", this.data, ...args], environment, entry);
    this.#daemons.push(daemon);
    return daemon;
  }

  /** Words as one string; quote nothing. */
  async cli(words: string, env: NodeJS.ProcessEnv = {}): Promise<Ended> {
    return await this.cliWords(["--data", this.data, ...words.split(" ").filter(Boolean)], env);
  }

  async cliWords(words: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
    return await run(process.execPath, [CLI, ...words], { env, cwd: this.root });
  }

  async end(): Promise<void> {
    for (const daemon of this.#daemons) await daemon.end("SIGKILL");
    rmSync(this.root, { recursive: true, force: true });
  }
}
