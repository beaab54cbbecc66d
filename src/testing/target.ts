// A target for tests: a process of its own that serves vhost-user devices on a real reactor, with
// no control plane around it. The test plays the front-end and the guest in its own process and
// sees from outside that the target lives, leaks nothing, and goes on serving others.
//
//   const target = await startTarget(t);
//   const socketPath = await target.add({ name: "victim" });
//   ... FrontEnd.connect(socketPath) ...
//   assert.equal((await target.counts()).fdCount, before.fdCount);
//
// Invariants: the process ends with the test `t`, with stop(), or with this process, however that
// ends; a target that ended by itself makes every later call reject with what it said at its end.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type {
  TargetCounts,
  TargetDeviceOptions,
  TargetLogLine,
  TargetMessage,
  TargetRequest,
} from "./target-protocol.ts";

export type {
  PlantedBug,
  TargetBacking,
  TargetCounts,
  TargetDeviceOptions,
  TargetLogLine,
} from "./target-protocol.ts";

const ENTRY = fileURLToPath(new URL("./target-main.js", import.meta.url));
const ANSWER_TIMEOUT_MS = 60_000;
const STDERR_CHARS_MAX = 16384;
const POLL_MS = 5;

export interface TargetOptions {
  /** Longest adaptive polling of the reactor, microseconds. Default 0: event-driven. */
  readonly pollMaxUs?: number;
  /** Arguments of node itself. */
  readonly execArgv?: readonly string[];
}

/** What startTarget() needs of a test's context. */
export interface TestScope {
  after(hook: () => Promise<void>): void;
}

interface Waiting {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Starts a target that is stopped when the test `scope` has ended. */
export async function startTarget(scope: TestScope, options: TargetOptions = {}): Promise<Target> {
  const target = new Target(options);
  scope.after(() => target.stop());
  await target.counts();
  return target;
}

export class Target {
  /** What the target logged, oldest first. */
  readonly log: TargetLogLine[] = [];
  /** Folder of the sockets; gone with the target. */
  readonly folder: string = mkdtempSync(join(tmpdir(), "rs-target-"));
  private readonly child: ChildProcess;
  private readonly channel: Socket;
  private readonly waiting = new Map<number, Waiting>();
  private readonly ended: Promise<void>;
  private nextId = 1;
  private text = "";
  private stderr = "";
  private readonly endWithUs = (): void => void this.child.kill("SIGKILL");

  constructor(options: TargetOptions = {}) {
    const { pollMaxUs = 0, execArgv = ["--enable-source-maps"] } = options;
    const args = [...execArgv, ENTRY, String(pollMaxUs)];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe", "pipe"] });
    this.child = child;
    process.on("exit", this.endWithUs);
    this.ended = new Promise((resolve) => child.once("exit", () => resolve()));
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on("data", (data: Buffer) => {
        this.stderr = (this.stderr + data.toString("utf8")).slice(-STDERR_CHARS_MAX);
      });
    }
    this.channel = child.stdio[3] as Socket;
    this.channel.setEncoding("utf8");
    this.channel.on("data", (data: string) => this.take(data));
    // The end of the process says more.
    this.channel.on("error", () => undefined);
    child.once("close", () => this.failAll());
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  get alive(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  private get obituary(): string {
    const { exitCode, signalCode } = this.child;
    return `the target has ended (${signalCode ?? `code ${exitCode}`}): ${this.stderr}`;
  }

  private failAll(): void {
    for (const { reject } of this.waiting.values()) reject(new Error(this.obituary));
    this.waiting.clear();
  }

  private take(data: string): void {
    const lines = (this.text + data).split("\n");
    this.text = lines.pop() as string;
    for (const line of lines) this.receive(JSON.parse(line) as TargetMessage);
  }

  private receive(message: TargetMessage): void {
    if (message.log !== undefined) this.log.push(message.log);
    const waiting = this.waiting.get(message.id ?? 0);
    if (waiting === undefined) return;
    this.waiting.delete(message.id as number);
    if (message.error === undefined) waiting.resolve(message.result);
    else waiting.reject(new Error(message.error));
  }

  private async ask(request: TargetRequest): Promise<unknown> {
    if (!this.alive) throw new Error(this.obituary);
    const id = this.nextId;
    this.nextId += 1;
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
    this.channel.write(`${JSON.stringify({ id, ...request })}\n`);
    const limit = new AbortController();
    const late = sleep(ANSWER_TIMEOUT_MS, null, { signal: limit.signal }).then(() => {
      throw new Error(`the target did not answer "${request.op}" in ${ANSWER_TIMEOUT_MS} ms`);
    });
    late.catch(() => undefined);
    try {
      return await Promise.race([answer, late]);
    } finally {
      limit.abort();
    }
  }

  /** Adds a device; returns the path of its socket. */
  async add(device: TargetDeviceOptions): Promise<string> {
    const socketPath = join(this.folder, device.name);
    await this.ask({ op: "add", device, socketPath });
    return socketPath;
  }

  /** Resolves when the device's sessions have drained and nothing of it is left. */
  async remove(name: string): Promise<void> {
    await this.ask({ op: "remove", name });
  }

  async resize(name: string, sizeBytes: number): Promise<void> {
    await this.ask({ op: "resize", name, sizeBytes });
  }

  /** Requests taken from now on stay at the device until release(). */
  async hold(name: string): Promise<void> {
    await this.ask({ op: "hold", name, held: true });
  }

  async release(name: string): Promise<void> {
    await this.ask({ op: "hold", name, held: false });
  }

  /** A virtio-scsi controller gets unit `lun`, the same volume as its unit 0, or loses it. */
  async plug(name: string, lun: number, isThere: boolean): Promise<void> {
    await this.ask({ op: "plug", name, lun, isThere });
  }

  async counts(): Promise<TargetCounts> {
    return (await this.ask({ op: "counts" })) as TargetCounts;
  }

  /** Asks for the counts until `wanted` says yes; fails with the last ones after `timeoutMs`. */
  async until(
    wanted: (counts: TargetCounts) => boolean,
    what: string,
    timeoutMs = 30_000,
  ): Promise<TargetCounts> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const counts = await this.counts();
      if (wanted(counts)) return counts;
      if (Date.now() > deadline) {
        throw new Error(`not ${what} after ${timeoutMs} ms: ${JSON.stringify(counts)}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** Log lines of one event. */
  logged(event: string): TargetLogLine[] {
    return this.log.filter((line) => line.event === event);
  }

  /** SIGKILL, as a crash would look to its front-ends. */
  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.ended;
  }

  async stop(): Promise<void> {
    process.off("exit", this.endWithUs);
    if (this.alive) await this.kill();
    this.channel.destroy();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
