// The real daemon as tests and benchmarks use it: bin/ringstored on a data folder of its own,
// driven through bin/ringstore as a user would. Ended by its process id; never left behind.

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { HttpTransport } from "../cli/transport.ts";
import { RingstoreClient } from "../client/index.ts";
import { processCpuUs } from "../load/index.ts";

const START_TIMEOUT_MS = 120_000;
const ANSWER_TIMEOUT_MS = 10_000;
const ANSWER_POLL_MS = 10;
const STOP_TIMEOUT_MS = 30_000;
const LOG_CHARS_MAX = 1 << 20;

/** The checkout: the folder that holds package.json, above wherever this was built to. */
export const PROJECT_FOLDER: string = findProject(dirname(fileURLToPath(import.meta.url)));

function findProject(start: string): string {
  for (let folder = start; folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return folder;
  }
  throw new Error(`no package.json above ${start}`);
}

/** The built file of `room/file.js`, beside this one's own build. */
export function builtFile(path: string): string {
  return join(dirname(fileURLToPath(import.meta.url)), "..", path);
}

export interface DaemonOptions {
  /** Kept over restarts; a temporary folder that stop() removes when not given. */
  readonly dataDirectory?: string;
  /** More flags of ringstored. */
  readonly flags?: readonly string[];
  /** Arguments of node itself. */
  readonly execArgv?: readonly string[];
  /** Keep what it writes to stdout in `output`; thrown away otherwise. */
  readonly keepOutput?: boolean;
}

export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class Daemon {
  readonly dataDirectory: string;
  /** Everything the daemon wrote to stderr, over all its lives, newest part. */
  log = "";
  /** Everything it wrote to stdout, where that is kept. */
  output = "";
  private readonly options: DaemonOptions;
  private readonly temporary: boolean;
  private child: ChildProcess | null = null;
  private readonly endWithUs = (): void => this.kill();

  private constructor(options: DaemonOptions) {
    this.options = options;
    this.temporary = options.dataDirectory === undefined;
    this.dataDirectory = options.dataDirectory ?? mkdtempSync(join(tmpdir(), "rs-data-"));
    process.on("exit", this.endWithUs);
  }

  static async start(options: DaemonOptions = {}): Promise<Daemon> {
    const daemon = new Daemon(options);
    try {
      await daemon.launch();
      await daemon.waitForApi();
    } catch (error) {
      await daemon.stop();
      throw error;
    }
    return daemon;
  }

  get pid(): number {
    return this.child?.pid ?? 0;
  }

  get running(): boolean {
    const child = this.child;
    return child !== null && child.exitCode === null && child.signalCode === null;
  }

  /** Starts the process; does not wait for anything. */
  async launch(): Promise<void> {
    const { execArgv = [], flags = [], keepOutput = false } = this.options;
    const entry = builtFile("bundle/main.js");
    const args = [...execArgv, entry, "--data", this.dataDirectory, ...flags];
    const stdout = keepOutput ? "pipe" : "ignore";
    const child = spawn(process.execPath, args, { stdio: ["ignore", stdout, "pipe"] });
    child.stdout?.on("data", (text: Buffer) => {
      this.output += text.toString("utf8");
    });
    child.stderr?.on("data", (text: Buffer) => {
      this.log = (this.log + text.toString("utf8")).slice(-LOG_CHARS_MAX);
    });
    child.on("error", (error) => {
      this.log += error.message;
    });
    this.child = child;
  }

  /** Waits until the REST API answers. */
  async waitForApi(): Promise<void> {
    const where = { kind: "unix", dataDirectory: this.dataDirectory } as const;
    const api = new RingstoreClient(new HttpTransport(where, ANSWER_TIMEOUT_MS));
    const deadline = Date.now() + START_TIMEOUT_MS;
    for (;;) {
      if (!this.running) throw new Error(`ringstored ended at its start:\n${this.log}`);
      // Not by the command line: its process would take the time that the start needs.
      const answered = await api.status().then(
        () => true,
        () => false,
      );
      if (answered) return;
      if (Date.now() > deadline) throw new Error(`ringstored does not answer:\n${this.log}`);
      await sleep(ANSWER_POLL_MS);
    }
  }

  /** Runs `ringstore ARGS` against this daemon. */
  async command(args: readonly string[]): Promise<CommandResult> {
    const entry = builtFile("cli/main.js");
    return await new Promise((resolve) => {
      execFile(
        process.execPath,
        [entry, "--data", this.dataDirectory, ...args],
        { maxBuffer: 1 << 26 },
        (error, stdout, stderr) => {
          const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
          resolve({ exitCode: code, stdout, stderr });
        },
      );
    });
  }

  /** Runs a command that must succeed, and returns its JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: the shape depends on the command.
  async json(args: readonly string[]): Promise<any> {
    const { exitCode, stdout, stderr } = await this.command([...args, "-o", "json"]);
    if (exitCode !== 0) throw new Error(`ringstore ${args.join(" ")}: exit ${exitCode}\n${stderr}`);
    return JSON.parse(stdout);
  }

  /** Creates a volume and attaches it; returns its socket. */
  async volume(name: string, createArgs: readonly string[]): Promise<string> {
    await this.json(["volume", "create", name, ...createArgs]);
    return (await this.json(["volume", "attach", name])).socket;
  }

  cpuUs(): number {
    return processCpuUs(this.pid);
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running) this.child?.kill(signal);
  }

  /** SIGKILL, at once. */
  kill(): void {
    this.signal("SIGKILL");
  }

  async waitForExit(): Promise<void> {
    while (this.running) await sleep(2);
  }

  /** Ends the daemon cleanly, by force when it does not go, and removes a temporary folder. */
  async stop(): Promise<void> {
    this.signal("SIGTERM");
    const deadline = Date.now() + STOP_TIMEOUT_MS;
    while (this.running && Date.now() < deadline) await sleep(10);
    this.kill();
    await this.waitForExit();
    process.off("exit", this.endWithUs);
    if (this.temporary) rmSync(this.dataDirectory, { recursive: true, force: true });
  }
}
