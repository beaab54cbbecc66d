// What a reactor (one worker thread's loop) offers the rooms that run inside it. Everything here
// is called on the reactor's own thread.

import type { RequestTable } from "../base/request-table.ts";
import type { Clock } from "./clock.ts";
import type { Log } from "./log.ts";
import type { Memory } from "./memory.ts";

/**
 * Something the loop looks at while it is awake, and that can ask to be woken: a virtqueue, a
 * mailbox. While the loop polls, notifications are off; before it sleeps it arms every poller and
 * looks once more, so that no wake-up is lost.
 */
export interface Poller {
  /** Does a bounded amount of work; returns how much was done (0 = idle). */
  poll(): number;
  /** Turns notifications on. Returns true when work is there already: the loop must not sleep. */
  arm(): boolean;
  /** Turns notifications off again after a wake-up; the loop is polling. */
  disarm(): void;
  /** Makes gathered completions visible to the other side; see ReactorPort.requestFlush. */
  flush(): void;
}

/** Completion of a poll on a descriptor. `events` = revents, or a negated errno. */
export interface ReadinessHandler {
  ready(tag: number, events: number): void;
}

export interface TimerHandler {
  timerFired(tag: number): void;
}

export interface ReactorPort {
  readonly clock: Clock;
  readonly memory: Memory;
  readonly requests: RequestTable;
  readonly log: Log;
  /** Time of the current loop iteration, monotonic microseconds: cheap, for latency counters. */
  readonly loopTimeUs: number;

  addPoller(poller: Poller): void;
  removePoller(poller: Poller): void;
  /** An armed poller's wake-up arrived, or work came up for it: poll it again from now on. */
  activate(poller: Poller): void;
  /** Calls poller.flush() once, after the completions at hand have been delivered. */
  requestFlush(poller: Poller): void;

  /**
   * Watches `fd` for `pollEvents` (POLLIN...) until unwatch, level by level: the handler runs at
   * least once per new event. Returns a watch id (small integer).
   */
  watch(fd: number, pollEvents: number, handler: ReadinessHandler, tag: number): number;
  /** After this returns the handler is not called again; the kernel's reference ends soon after. */
  unwatch(watchId: number): void;

  /**
   * Adds 1 to an eventfd (or writes 8 bytes to a pipe) through a kernel thread: for descriptors
   * whose write may block. One write per descriptor at a time; more are merged.
   */
  signalAsync(fd: number): void;
  /** Closes `fd` once no signalAsync write is on its way. */
  closeAfterSignals(fd: number): void;

  /** Fires once after `delayMs`, with the wheel's resolution (about 1 ms). Returns a timer id. */
  setTimer(delayMs: number, handler: TimerHandler, tag: number): number;
  /** Cancelling a timer that has fired or was cancelled does nothing. */
  cancelTimer(timerId: number): void;
}
