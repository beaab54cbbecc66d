// A program of somebody else's that a test or a benchmark is held against: started in the
// foreground with a folder of its own, ended by its process id, and the folder goes with it.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const STDERR_CHARS_MAX = 65536;
const POLL_MS = 10;

export interface ForeignProgramOptions {
  readonly program: string;
  /** Of its folder's name. */
  readonly prefix: string;
  readonly args: (folder: string) => readonly string[];
  readonly env?: (folder: string) => NodeJS.ProcessEnv;
}

export class ForeignProgram {
  readonly folder: string;
  private readonly program: string;
  private readonly child: ChildProcess;
  private stderr = "";

  constructor({ program, prefix, args, env }: ForeignProgramOptions) {
    this.program = program;
    this.folder = mkdtempSync(join(tmpdir(), prefix));
    this.child = spawn(program, args(this.folder), {
      env: env?.(this.folder) ?? process.env,
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.child.on("error", (error) => this.note(error.message));
    this.child.stderr?.on("data", (text: Buffer) => this.note(text.toString("utf8")));
  }

  private note(text: string): void {
    this.stderr = (this.stderr + text).slice(0, STDERR_CHARS_MAX);
  }

  /** 0 when it could not be started. */
  get pid(): number {
    return this.child.pid ?? 0;
  }

  private get isRunning(): boolean {
    return this.pid !== 0 && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Waits until `answers` says so; fails with what the program said when it ends before. */
  async until(answers: () => boolean | Promise<boolean>, timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!(await answers())) {
      if (!this.isRunning || Date.now() > deadline) {
        throw new Error(`${this.program} does not answer: ${this.stderr}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** SIGKILL; the folder stays until stop(). */
  kill(): void {
    this.child.kill("SIGKILL");
  }

  /** Ends it, by SIGKILL if it is not gone after `patienceMs`, and removes the folder. */
  async stop(patienceMs: number): Promise<void> {
    if (this.isRunning) {
      const ended = new Promise<void>((resolve) => this.child.once("exit", () => resolve()));
      const timer = setTimeout(() => this.kill(), patienceMs);
      if (patienceMs > 0) this.child.kill("SIGTERM");
      await ended;
      clearTimeout(timer);
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
