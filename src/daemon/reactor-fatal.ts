// The end of the process after a defect, on whatever thread it shows: the reason and the lines
// still in the log rings go to stderr, then a signal ends every thread at once.
//
// A thread cannot end another that is in a system call, and process.exit() would wait for it; so
// would anything gentler. A signal does not wait.
//
// Invariants:
//  - nothing here throws, and nothing waits longer than DRAIN_PATIENCE_MS for a stderr that nobody
//    reads;
//  - it works on any thread and in any state of the others: it uses system calls and shared memory.

import { writeSync } from "node:fs";
import { exitNow, kill, POLLOUT, pollOne, raise, SIGABRT, SIGKILL } from "../sys/index.ts";
import { formatLine, LogRingReader } from "../telemetry/index.ts";

const STDERR = 2;
const DRAIN_PATIENCE_MS = 50;
const SIGNAL_PATIENCE_MS = 20;
/** What a pipe with room takes without blocking (PIPE_BUF). */
const PIECE_BYTES = 4096;

/** The log rings of every reactor, as this thread knows them. */
const rings: LogRingReader[] = [];

export function registerLogRing(shared: SharedArrayBuffer): void {
  rings.push(new LogRingReader(shared));
}

/** Forgets the rings: their threads have ended and their last lines have been read. */
export function forgetLogRings(): void {
  rings.length = 0;
}

/** Writes to stderr, as far as it takes it within its patience. Never throws. */
class ImpatientStderr {
  private readonly deadlineMs: number = performance.now() + DRAIN_PATIENCE_MS;

  write(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      const leftMs = Math.ceil(this.deadlineMs - performance.now());
      if (leftMs <= 0 || pollOne(STDERR, POLLOUT, leftMs) <= 0) return;
      const pieceBytes = Math.min(PIECE_BYTES, bytes.length - at);
      try {
        at += writeSync(STDERR, bytes, at, pieceBytes);
      } catch {
        return;
      }
    }
  }
}

/** Writes every line that waits in the log rings to stderr. */
export function drainLogRings(): void {
  const stderr = new ImpatientStderr();
  for (const ring of rings) ring.drainFatal((line) => stderr.write(line));
}

/** Ends the process by SIGABRT, now. */
export function endBySignal(): never {
  // To this thread: a signal to the process may wait for a main thread that is busy.
  raise(SIGABRT);
  kill(process.pid, SIGABRT);
  pollOne(-1, 0, SIGNAL_PATIENCE_MS);
  // Blocked or ignored by whoever started us: then the one that cannot be.
  kill(process.pid, SIGKILL);
  for (;;);
}

/**
 * Ends the process with `code` although a reactor may be stuck in the kernel: process.exit() would
 * wait for it.
 */
export function endProcess(code: number): never {
  drainLogRings();
  exitNow(code);
}

/** Says what happened on this thread (-1: the main thread) and ends the process. */
export function endByDefect(error: unknown, reactorIndex: number): never {
  drainLogRings();
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const context = { timeMs: Date.now(), reactorIndex };
  const line = formatLine(context, "error", "daemon.defect", { stack });
  new ImpatientStderr().write(new TextEncoder().encode(`${line}\n`));
  endBySignal();
}
