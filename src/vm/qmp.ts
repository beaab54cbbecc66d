// The client side of QMP, QEMU's control protocol (docs/interop/qmp-spec): JSON lines over a
// unix socket. QEMU greets, we enable the capabilities, then commands carry an id and events
// arrive in between.
//
// Invariants: every command has a time limit; when the connection ends, everything pending is
// rejected with the reason; events are kept (the last EVENTS_MAX) from the start, so that a wait
// begun after the event finds it.

import type { Socket } from "node:net";
import { LineSplitter } from "./_lines.ts";
import { type Deferred, deferred, withTimeout } from "./_wait.ts";
import { VmError } from "./error.ts";

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly timestamp: { readonly seconds: number; readonly microseconds: number };
}

export interface QmpWaitOptions {
  timeoutMs?: number;
  /** Only events for which this says true. */
  match?: (event: QmpEvent) => boolean;
  /** Only events after this position; see {@link QmpClient.eventCount}. Default 0: all. */
  since?: number;
}

interface QmpMessage {
  QMP?: unknown;
  id?: number;
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
}

interface EventWaiter {
  readonly since: number;
  readonly accepts: (event: QmpEvent) => boolean;
  readonly found: Deferred<QmpEvent>;
}

const COMMAND_TIMEOUT_MS = 120_000;
const EVENT_TIMEOUT_MS = 120_000;
/** query-qmp-schema answers with 200 KB; nothing is larger. */
const LINE_BYTES_MAX = 4 * 1024 * 1024;
const EVENTS_MAX = 10_000;

export class QmpClient {
  readonly #socket: Socket;
  readonly #greeted = deferred<void>();
  readonly #pending = new Map<number, Deferred<unknown>>();
  readonly #waiters = new Set<EventWaiter>();
  readonly #events: QmpEvent[] = [];
  readonly #drained = deferred<void>();
  #droppedEvents = 0;
  #nextId = 1;
  #closed: VmError | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    const lines = new LineSplitter(LINE_BYTES_MAX, (line) => this.#onLine(line));
    socket.on("data", (chunk) => lines.push(chunk));
    socket.on("error", () => undefined); // "close" follows
    socket.on("close", () => this.#drained.resolve());
  }

  /** Completes the handshake; commands are accepted afterwards. */
  async negotiate(timeoutMs: number): Promise<void> {
    await withTimeout(this.#greeted.promise, timeoutMs, () => {
      return new VmError("timeout", `QEMU sent no QMP greeting within ${timeoutMs} ms.`);
    });
    await this.execute("qmp_capabilities", undefined, timeoutMs);
  }

  /** Runs one command and returns its `return` value. */
  async execute(
    command: string,
    args?: Readonly<Record<string, unknown>>,
    timeoutMs: number = COMMAND_TIMEOUT_MS,
  ): Promise<unknown> {
    if (this.#closed !== undefined) throw this.#closed;
    const id = this.#nextId++;
    const answer = deferred<unknown>();
    this.#pending.set(id, answer);
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    try {
      return await withTimeout(answer.promise, timeoutMs, () => {
        return new VmError("timeout", `QEMU did not answer ${command} within ${timeoutMs} ms.`);
      });
    } catch (error) {
      if (!(error instanceof VmError) || error.code !== "qmp") throw error;
      throw new VmError("qmp", `QEMU refused ${command}: ${error.message}`);
    } finally {
      this.#pending.delete(id);
    }
  }

  /** Events seen so far: a position for {@link QmpWaitOptions.since}. */
  get eventCount(): number {
    return this.#droppedEvents + this.#events.length;
  }

  /** The first event of that name, seen already or to come. */
  async waitForEvent(name: string, options: QmpWaitOptions = {}): Promise<QmpEvent> {
    const since = options.since ?? 0;
    const accepts = (event: QmpEvent): boolean => {
      return event.event === name && (options.match === undefined || options.match(event));
    };
    const start = Math.max(0, since - this.#droppedEvents);
    const seen = this.#events.slice(start).find(accepts);
    if (seen !== undefined) return seen;
    if (this.#closed !== undefined) throw this.#closed;
    const waiter: EventWaiter = { since, accepts, found: deferred() };
    this.#waiters.add(waiter);
    const timeoutMs = options.timeoutMs ?? EVENT_TIMEOUT_MS;
    try {
      return await withTimeout(waiter.found.promise, timeoutMs, () => {
        return new VmError("timeout", `No QEMU event ${name} within ${timeoutMs} ms.`);
      });
    } finally {
      this.#waiters.delete(waiter);
    }
  }

  /** Resolves when the connection has ended and its last byte has been read. */
  get drained(): Promise<void> {
    return this.#drained.promise;
  }

  /** Called by the owner, who knows why the connection ended. */
  close(reason: string): void {
    if (this.#closed !== undefined) return;
    this.#closed = new VmError("gone", reason);
    this.#socket.destroy();
    this.#greeted.reject(this.#closed);
    for (const pending of this.#pending.values()) pending.reject(this.#closed);
    for (const waiter of this.#waiters) waiter.found.reject(this.#closed);
  }

  #onLine(line: string): void {
    let message: QmpMessage;
    try {
      message = JSON.parse(line) as QmpMessage;
    } catch {
      this.close(`QEMU sent something that is not QMP: ${line.slice(0, 200)}`);
      return;
    }
    if (message.QMP !== undefined) this.#greeted.resolve();
    else if (message.event !== undefined) this.#onEvent(message as QmpEvent);
    else if (message.id !== undefined) this.#onAnswer(message.id, message);
  }

  #onAnswer(id: number, message: QmpMessage): void {
    // An answer that comes after its time limit has nobody waiting for it.
    const pending = this.#pending.get(id);
    if (message.error === undefined) pending?.resolve(message.return);
    else pending?.reject(new VmError("qmp", message.error.desc));
  }

  #onEvent(event: QmpEvent): void {
    this.#events.push(event);
    if (this.#events.length > EVENTS_MAX) {
      this.#events.shift();
      this.#droppedEvents += 1;
    }
    for (const waiter of this.#waiters) {
      if (this.eventCount > waiter.since && waiter.accepts(event)) waiter.found.resolve(event);
    }
  }
}
