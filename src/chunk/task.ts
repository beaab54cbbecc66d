// Background work as generators over the disk: recovery, write-back, checkpoints. A task yields
// the operations it wants done, all at once, and goes on with the first error among them, or 0,
// when every one has ended. Nothing ever blocks, so the same code runs in a reactor, in the
// simulator and, stepped by a loop, in a tool.
//
// Not for requests: a generator allocates at each step.

import { assert, EAGAIN, EINTR, EIO } from "../base/index.ts";
import type { Address, Disk } from "../ports/index.ts";
import { TAG_TASK } from "./parts.ts";

const IO_READ = 0;
export const IO_WRITE = 1;
export const IO_WRITEV = 2;
export const IO_SYNC = 3;

export interface IoRequest {
  readonly kind: number;
  readonly offsetBytes: number;
  readonly address: Address;
  readonly bytes: number;
  readonly durable: boolean;
  /** For IO_WRITEV: `address` is that of so many iovecs. */
  readonly iovecCount: number;
}

/** Resumed with 0, or the first negated errno of what it asked for. */
export type IoTask<T> = Generator<readonly IoRequest[], T, number>;

export function ioRead(offsetBytes: number, address: Address, bytes: number): IoRequest {
  return { kind: IO_READ, offsetBytes, address, bytes, durable: false, iovecCount: 0 };
}

export function ioWrite(
  offsetBytes: number,
  address: Address,
  bytes: number,
  durable: boolean,
): IoRequest {
  return { kind: IO_WRITE, offsetBytes, address, bytes, durable, iovecCount: 0 };
}

export function ioSync(): IoRequest {
  return { kind: IO_SYNC, offsetBytes: 0, address: 0, bytes: 0, durable: false, iovecCount: 0 };
}

/** Operations of one task on the disk at a time, if nobody says otherwise. */
const INFLIGHT_DEFAULT = 32;
const SLOTS_MAX = 256;
const RETRIES_MAX = 8;

interface Run {
  readonly task: IoTask<unknown>;
  readonly done: (result: unknown) => void;
  readonly inflightMax: number;
  requests: readonly IoRequest[];
  next: number;
  inflightCount: number;
  error: number;
}

interface Slot {
  run: Run | null;
  request: IoRequest | null;
  movedBytes: number;
  retries: number;
}

export class TaskRunner {
  private readonly disk: Disk;
  private readonly slots: Slot[] = [];
  private readonly free: number[] = [];
  private readonly waiting: Run[] = [];
  runningCount = 0;

  constructor(disk: Disk) {
    this.disk = disk;
    for (let index = SLOTS_MAX - 1; index >= 0; index--) {
      this.slots[index] = { run: null, request: null, movedBytes: 0, retries: 0 };
      this.free.push(index);
    }
  }

  /** Runs `task`; `done` gets what it returns. An error thrown in it is thrown from here. */
  start<T>(
    task: IoTask<T>,
    done: (result: T) => void,
    inflightMax: number = INFLIGHT_DEFAULT,
  ): void {
    const run: Run = {
      task,
      done: done as (result: unknown) => void,
      inflightMax,
      requests: [],
      next: 0,
      inflightCount: 0,
      error: 0,
    };
    this.runningCount += 1;
    this.step(run);
  }

  private step(run: Run): void {
    for (;;) {
      const { value, done } = run.task.next(run.error);
      if (done === true) {
        this.runningCount -= 1;
        run.done(value);
        return;
      }
      run.requests = value as readonly IoRequest[];
      run.next = 0;
      run.error = 0;
      this.submit(run);
      if (run.inflightCount > 0 || run.next < run.requests.length) return;
    }
  }

  private submit(run: Run): void {
    while (run.next < run.requests.length && run.inflightCount < run.inflightMax) {
      const index = this.free.pop();
      if (index === undefined) {
        if (!this.waiting.includes(run)) this.waiting.push(run);
        return;
      }
      const slot = this.slots[index] as Slot;
      slot.run = run;
      slot.request = run.requests[run.next] as IoRequest;
      slot.movedBytes = 0;
      slot.retries = 0;
      run.next += 1;
      run.inflightCount += 1;
      this.issue(index, slot);
    }
  }

  private issue(index: number, slot: Slot): void {
    const request = slot.request as IoRequest;
    const { disk } = this;
    const tag = TAG_TASK + index;
    const offsetBytes = request.offsetBytes + slot.movedBytes;
    const address = request.address + slot.movedBytes;
    const bytes = request.bytes - slot.movedBytes;
    if (request.kind === IO_READ) disk.read(tag, offsetBytes, address, bytes);
    else if (request.kind === IO_WRITE) {
      disk.write(tag, offsetBytes, address, bytes, request.durable);
    } else if (request.kind === IO_WRITEV) {
      const { iovecCount, durable } = request;
      disk.writev(tag, request.offsetBytes, request.address, iovecCount, durable);
    } else disk.sync(tag);
  }

  completed(index: number, result: number): void {
    const slot = this.slots[index] as Slot;
    const run = slot.run as Run;
    const request = slot.request as IoRequest;
    assert(run !== null, "a task's operation was answered twice");
    if (this.again(index, slot, request, result)) return;
    const moved = slot.movedBytes + Math.max(result, 0);
    const isShort = request.kind !== IO_SYNC && moved !== request.bytes;
    if (run.error === 0 && (result < 0 || isShort)) run.error = result < 0 ? result : -EIO;
    slot.run = null;
    slot.request = null;
    this.free.push(index);
    run.inflightCount -= 1;
    this.submit(run);
    this.serveWaiting();
    if (run.inflightCount === 0 && run.next === run.requests.length) this.step(run);
  }

  /** The same again after a transient error, the rest after a short transfer. */
  private again(index: number, slot: Slot, request: IoRequest, result: number): boolean {
    const isTransient = result === -EAGAIN || result === -EINTR;
    if (isTransient && slot.retries < RETRIES_MAX) {
      slot.retries += 1;
      this.issue(index, slot);
      return true;
    }
    const moves = request.kind === IO_READ || request.kind === IO_WRITE;
    if (!moves || result <= 0 || slot.movedBytes + result >= request.bytes) return false;
    // Only whole blocks of what the disk is read and written in.
    const whole = result - (result % this.disk.offsetAlignmentBytes);
    if (whole === 0 || slot.retries >= RETRIES_MAX) return false;
    slot.retries += 1;
    slot.movedBytes += whole;
    this.issue(index, slot);
    return true;
  }

  private serveWaiting(): void {
    while (this.waiting.length > 0 && this.free.length > 0) {
      this.submit(this.waiting.shift() as Run);
    }
  }
}
