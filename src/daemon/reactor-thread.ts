// One reactor thread as the main thread sees it: started, asked, counted, ended.
//
// Invariants:
//  - every request is answered or rejected within its time limit; an answer that comes later is
//    handed to the request's `onLate`, which undoes what nobody waits for any more;
//  - a thread that ends without having been told to is a defect: the process ends.

import {
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  type Worker,
} from "node:worker_threads";
import { RingstoreError } from "../base/index.ts";
import type { ReactorStats } from "../ports/data-plane.ts";
import type { StoreDiskStats } from "../ports/store-disk.ts";
import { check, close, eventfd, eventSignal } from "../sys/index.ts";
import {
  type CounterBlock,
  LogRingReader,
  type ReactorCounter,
  reactorCounters,
} from "../telemetry/index.ts";
import { takeReactorWorker } from "./reactor-early.ts";
import type {
  ReactorCommand,
  ReactorMessage,
  ReactorOrder,
  ReactorRequest,
  ReactorStart,
  WireError,
} from "./reactor-protocol.ts";

export interface ReactorThreadModules {
  /** Called once when the thread dies of a defect. Does not return. */
  readonly fatal: (error: unknown) => void;
  /** The worker's entry where it is not the ordinary one: tests have their own. */
  readonly entry: URL | undefined;
}

type ClusterMessage = Extract<
  ReactorMessage,
  { kind: "record" | "owner" | "front" | "peers" | "pace" }
>;

type ClassicMessage = Extract<ReactorMessage, { kind: "reservation" | "portal" }>;

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export interface RequestOptions {
  readonly timeoutMs: number;
  /** The command was carried out after its time limit. */
  readonly onLate?: () => void;
}

export class ReactorThread {
  readonly index: number;
  readonly counters: CounterBlock<ReactorCounter>;
  readonly logReader: LogRingReader;
  /** Resolves when the loop runs; rejects with RingstoreError where it cannot. */
  readonly ready: Promise<void>;
  /** True: the thread has ended. False: I/O hangs in the kernel and keeps it. */
  readonly ended: Promise<boolean>;

  /** What was told last about each disk that is open or being opened on it. */
  readonly diskStats: Map<string, StoreDiskStats> = new Map();

  /** Who hears of records, owners and peers. */
  onCluster: (message: ClusterMessage) => void = () => undefined;

  /** Who hears of reservations and portals. */
  onClassic: (message: ClassicMessage) => void = () => undefined;

  private readonly worker: Worker;
  private readonly port: MessagePort;
  private readonly wakeFd: number;
  private readonly pending: Map<number, Pending> = new Map();
  private readonly late: Map<number, () => void> = new Map();
  private readonly fatal: (error: unknown) => void;
  private nextId = 1;
  private isOver = false;
  private becomeReady: () => void = () => undefined;
  private refuse: (error: Error) => void = () => undefined;
  private end: (isDrained: boolean) => void = () => undefined;

  constructor(start: Omit<ReactorStart, "wakeFd" | "counters">, modules: ReactorThreadModules) {
    this.index = start.index;
    this.fatal = modules.fatal;
    this.counters = reactorCounters();
    this.logReader = new LogRingReader(start.logRings[start.index] as SharedArrayBuffer);
    this.wakeFd = check(eventfd(), "eventfd");
    const { port1, port2 } = new MessageChannel();
    this.port = port1;
    this.port.on("message", (message: ReactorMessage) => this.take(message));
    const full: ReactorStart = { ...start, wakeFd: this.wakeFd, counters: this.counters.shared };
    this.worker = takeReactorWorker(modules.entry);
    const order: ReactorOrder = { start: full, port: port2 };
    this.worker.postMessage(order, [port2]);
    this.ready = new Promise((resolve, reject) => {
      this.becomeReady = resolve;
      this.refuse = reject;
    });
    // Whoever waits for it hears of it; until then it is not an unhandled rejection.
    this.ready.catch(() => undefined);
    this.worker.once("error", (error) => this.fatal(error));
    this.ended = new Promise((resolve) => {
      this.end = resolve;
    });
    this.worker.once("exit", () => this.exited());
  }

  /** Sends a command. Rejects with RingstoreError when refused, or when time is up. */
  request(command: ReactorCommand, options: RequestOptions): Promise<unknown> {
    const { timeoutMs, onLate } = options;
    return new Promise((resolve, reject) => {
      if (this.isOver) {
        reject(shuttingDown());
        return;
      }
      const id = this.nextId++;
      const timer = setTimeout(() => {
        this.pending.delete(id);
        if (onLate !== undefined) this.late.set(id, onLate);
        const message = `reactor ${this.index} did not finish ${command.op} in ${timeoutMs} ms`;
        const advice = "Its device may hang: see the volume's health and the kernel's log.";
        reject(new RingstoreError("TIMED_OUT", message, { advice }));
      }, timeoutMs);
      this.pending.set(id, { resolve, reject, timer });
      const request: ReactorRequest = { id, command };
      this.port.postMessage(request);
      eventSignal(this.wakeFd);
    });
  }

  /** Sends a command that is not answered. To a thread that has ended, nothing. */
  post(command: ReactorCommand): void {
    if (this.isOver) return;
    const request: ReactorRequest = { id: 0, command };
    this.port.postMessage(request);
    eventSignal(this.wakeFd);
  }

  private take(message: ReactorMessage): void {
    switch (message.kind) {
      case "ready":
        this.becomeReady();
        return;
      case "refused":
        this.isOver = true;
        this.refuse(fromWire(message.error));
        return;
      case "stopped":
        this.isOver = true;
        if (!message.drained) this.leaveBehind();
        return;
      case "answer":
        this.answered(message.id, message.error, message.value);
        return;
      case "disk":
        this.diskStats.set(message.stats.diskId, message.stats);
        return;
      case "record":
      case "owner":
      case "front":
      case "peers":
      case "pace":
        this.onCluster(message);
        return;
      case "reservation":
      case "portal":
        this.onClassic(message);
        return;
    }
  }

  private answered(id: number, error: WireError | null, value: unknown): void {
    const pending = this.pending.get(id);
    if (pending !== undefined) {
      this.pending.delete(id);
      clearTimeout(pending.timer);
      if (error === null) pending.resolve(value);
      else pending.reject(fromWire(error));
      return;
    }
    const onLate = this.late.get(id);
    this.late.delete(id);
    if (onLate !== undefined && error === null) onLate();
  }

  /** Nothing in this process waits for the thread any more; only a signal or _exit ends it. */
  private leaveBehind(): void {
    this.worker.unref();
    this.port.unref();
    this.end(false);
  }

  private exited(): void {
    // What the thread said last may still be on its way when its end is reported.
    if (!this.isOver) this.readLastWords();
    this.port.close();
    close(this.wakeFd);
    const wasTold = this.isOver;
    this.isOver = true;
    if (!wasTold) this.fatal(new Error(`reactor ${this.index} ended by itself`));
    for (const { reject, timer } of this.pending.values()) {
      clearTimeout(timer);
      reject(shuttingDown());
    }
    this.pending.clear();
    this.end(true);
  }

  private readLastWords(): void {
    for (;;) {
      const received = receiveMessageOnPort(this.port) as { message: ReactorMessage } | undefined;
      if (received === undefined) return;
      this.take(received.message);
    }
  }

  stats(): ReactorStats {
    const { counters } = this;
    return {
      index: this.index,
      volumeCount: counters.get("volumeCount"),
      loopCount: counters.get("loopCount"),
      sleepCount: counters.get("sleepCount"),
      enterCount: counters.get("enterCount"),
      busyUs: counters.get("busyUs"),
      pollUs: counters.get("pollUs"),
    };
  }
}

function fromWire({ code, message, advice }: WireError): RingstoreError {
  return new RingstoreError(code, message, advice === undefined ? {} : { advice });
}

function shuttingDown(): RingstoreError {
  return new RingstoreError("SHUTTING_DOWN", "the reactor has ended", {
    advice: "Try again when the daemon has been started.",
  });
}
