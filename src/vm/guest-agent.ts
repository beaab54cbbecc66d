// The host's side of the guest agent: runs shell commands in the guest and brings back what they
// printed. The protocol is described in guest-scripts.ts.
//
// Invariants:
// - A command is answered at most once, and every promise settles: by END, by its time limit, by
//   a reboot of the guest, or by the end of the connection.
// - A command that is not acknowledged is sent again; the guest ignores ids it knows.
// - Commands survive live migration: the destination's agent adopts the source's unfinished
//   commands together with the half line the source received last.

import type { Socket } from "node:net";
import { assert } from "../base/index.ts";
import { LineSplitter } from "./_lines.ts";
import { type Deferred, deferred, withTimeout } from "./_wait.ts";
import { VmError } from "./error.ts";
import { AGENT_VERSION, OUTPUT_BYTES_MAX } from "./guest-scripts.ts";

export interface RunOptions {
  /** Default 5 min. The command is killed in the guest when it is over. */
  timeoutMs?: number;
}

export interface RunResult {
  /** 128 + signal number when a signal ended it, as a shell reports it. */
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface PendingRun {
  readonly command: string;
  readonly line: string;
  readonly result: Deferred<RunResult>;
  acknowledged: boolean;
  stdout: string;
  stderr: string;
}

interface BootWaiter {
  readonly boots: number;
  readonly reached: Deferred<void>;
}

const RUN_TIMEOUT_MS = 300_000;
/** Longer than a loaded machine takes to acknowledge; sending too often does no harm. */
const RESEND_MS = 5_000;
/** The guest's shell reads a line byte by byte; a longer command belongs into a file. */
const COMMAND_BYTES_MAX = 64 * 1024;
/** Base64 of the largest output, and some room for the words before it. */
const LINE_BYTES_MAX: number = Math.ceil(OUTPUT_BYTES_MAX / 3) * 4 + 1024;
/** A test that has more commands under way than this has lost count of them. */
const PENDING_MAX = 256;

export class GuestAgent {
  readonly #pending = new Map<number, PendingRun>();
  readonly #waiters = new Set<BootWaiter>();
  readonly #lines = new LineSplitter(LINE_BYTES_MAX, (line) => this.#onLine(line));
  readonly #resendMs: number;
  readonly #drained = deferred<void>();
  #socket: Socket | undefined;
  /** On the destination of a migration: bytes that wait until the source has been adopted. */
  #held: Buffer[] | undefined;
  #nextId = 1;
  #boots = 0;
  #closed: VmError | undefined;
  #released = false;

  /** `incoming`: hold everything back until {@link adopt}. `resendMs`: for tests. */
  constructor(options: { incoming: boolean; resendMs?: number }) {
    if (options.incoming) this.#held = [];
    this.#resendMs = options.resendMs ?? RESEND_MS;
  }

  attach(socket: Socket): void {
    assert(this.#socket === undefined, "QEMU connects the agent's port once");
    this.#socket = socket;
    socket.on("error", () => undefined); // "close" follows
    socket.on("close", () => this.#drained.resolve());
    socket.on("data", (chunk) => {
      if (this.#held === undefined) this.#lines.push(chunk);
      else this.#held.push(chunk);
    });
  }

  /** How often the guest's agent has reported for duty. */
  get boots(): number {
    return this.#boots;
  }

  /** Resolves when the agent has started for the `boots`-th time. */
  async waitForBoot(boots: number, timeoutMs: number): Promise<void> {
    if (this.#boots >= boots) return;
    if (this.#closed !== undefined) throw this.#closed;
    const waiter: BootWaiter = { boots, reached: deferred() };
    this.#waiters.add(waiter);
    try {
      await withTimeout(waiter.reached.promise, timeoutMs, () => {
        return new VmError("timeout", `The guest's agent did not start within ${timeoutMs} ms.`);
      });
    } finally {
      this.#waiters.delete(waiter);
    }
  }

  /** Runs `command` with the guest's /bin/sh. Any number may run at once. */
  run(command: string, options: RunOptions = {}): Promise<RunResult> {
    const result = this.#run(command, options);
    // A command may be left running on purpose: that the guest's end rejects it is no accident.
    result.catch(() => undefined);
    return result;
  }

  async #run(command: string, options: RunOptions): Promise<RunResult> {
    if (this.#closed !== undefined) throw this.#closed;
    if (this.#boots === 0) throw new VmError("option", "The guest's agent has not started yet.");
    if (Buffer.byteLength(command) > COMMAND_BYTES_MAX) {
      throw new VmError("option", `A guest command is limited to ${COMMAND_BYTES_MAX} bytes.`);
    }
    if (this.#pending.size >= PENDING_MAX) {
      throw new VmError("option", `${PENDING_MAX} commands are running in the guest already.`);
    }
    const id = this.#nextId++;
    const payload = Buffer.from(`${command}\n`, "utf8").toString("base64");
    const line = `RUN ${id} ${payload.length} ${payload}\n`;
    const result = deferred<RunResult>();
    const run: PendingRun = { command, line, result, acknowledged: false, stdout: "", stderr: "" };
    this.#pending.set(id, run);
    this.#socket?.write(line);
    const resend = setInterval(() => {
      if (!run.acknowledged) (adopters.get(run) ?? this).#repeat(run);
    }, this.#resendMs);
    const timeoutMs = options.timeoutMs ?? RUN_TIMEOUT_MS;
    const limited = withTimeout(result.promise, timeoutMs, () => {
      // After a migration the command belongs to another agent, which is then asked to kill it.
      const owner = adopters.get(run) ?? this;
      owner.#forget(id);
      const sent = run.acknowledged ? "" : " (the guest never acknowledged it)";
      const text = command.slice(0, 200);
      return new VmError("timeout", `In the guest: no end within ${timeoutMs} ms${sent}: ${text}`);
    });
    return limited.finally(() => clearInterval(resend));
  }

  /** Takes over the guest from the agent of the QEMU it migrated from. */
  adopt(source: GuestAgent): void {
    assert(this.#held !== undefined, "only the destination of a migration adopts");
    this.#boots = source.#boots;
    this.#nextId = source.#nextId;
    for (const [id, run] of source.#pending) {
      this.#pending.set(id, run);
      adopters.set(run, this);
    }
    source.#pending.clear();
    const held = [...source.#lines.takeParts(), ...this.#held];
    this.#held = undefined;
    for (const chunk of held) this.#lines.push(chunk);
    for (const run of this.#pending.values()) if (!run.acknowledged) this.#repeat(run);
  }

  /** Resolves when the connection has ended and its last byte has been read. */
  get drained(): Promise<void> {
    return this.#drained.promise;
  }

  /** On the source of a migration: the end of the connection rejects nothing any more. */
  release(): void {
    this.#released = true;
  }

  close(reason: string): void {
    if (this.#closed !== undefined) return;
    this.#closed = new VmError("gone", reason);
    this.#socket?.destroy();
    if (!this.#released) this.#rejectAll(this.#closed);
    for (const waiter of this.#waiters) waiter.reached.reject(this.#closed);
  }

  /** Sends a command once more; a line feed ends whatever half line the guest may have. */
  #repeat(run: PendingRun): void {
    if (this.#closed === undefined) this.#socket?.write(`\n${run.line}`);
  }

  #forget(id: number): void {
    this.#pending.delete(id);
    if (this.#closed === undefined) this.#socket?.write(`KILL ${id}\n`);
  }

  #rejectAll(error: VmError): void {
    for (const run of this.#pending.values()) {
      const text = run.command.slice(0, 200);
      run.result.reject(new VmError(error.code, `${error.message} It was running: ${text}`));
    }
    this.#pending.clear();
  }

  #onLine(line: string): void {
    const [verb, first, ...rest] = line.split(" ");
    if (verb === "READY") {
      this.#onReady(Number(first));
      return;
    }
    const id = Number(first);
    const run = this.#pending.get(id);
    // Lines of a command that ran into its limit, or noise before the port was made raw.
    if (run === undefined) return;
    switch (verb) {
      case "ACK":
        run.acknowledged = true;
        break;
      case "OUT":
        run.stdout = Buffer.from(rest[0] ?? "", "base64").toString("utf8");
        break;
      case "ERR":
        run.stderr = Buffer.from(rest[0] ?? "", "base64").toString("utf8");
        break;
      case "END":
        this.#pending.delete(id);
        this.#onEnd(run, rest.map(Number));
        break;
    }
  }

  #onReady(version: number): void {
    if (version !== AGENT_VERSION) {
      this.close(`The guest's agent speaks version ${version}, not ${AGENT_VERSION}.`);
      return;
    }
    this.#boots += 1;
    this.#rejectAll(new VmError("gone", "The guest started anew."));
    // The agent counts from 0 after a boot, so ids may go on growing from anywhere.
    for (const waiter of this.#waiters) {
      if (this.#boots >= waiter.boots) waiter.reached.resolve();
    }
  }

  #onEnd(run: PendingRun, fields: readonly number[]): void {
    const [exitCode = Number.NaN, stdoutBytes = 0, stderrBytes = 0] = fields;
    if (Number.isNaN(exitCode)) {
      run.result.reject(new VmError("format", "The guest's agent sent a damaged END line."));
      return;
    }
    const most = Math.max(stdoutBytes, stderrBytes);
    if (most > OUTPUT_BYTES_MAX) {
      const limit = `${most} bytes of output, the limit is ${OUTPUT_BYTES_MAX}`;
      run.result.reject(new VmError("command", `In the guest: ${limit}: ${run.command}`));
      return;
    }
    run.result.resolve({ exitCode, stdout: run.stdout, stderr: run.stderr });
  }
}

/** Which agent a command moved to, for its time limit. */
const adopters = new WeakMap<PendingRun, GuestAgent>();
