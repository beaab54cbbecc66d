// What a device needs of a reactor, in virtual time: memory, clock, request table, timers, pollers
// with flushes, and a log that is kept. Descriptors have no place here: those methods throw.
//
// A turn does what a real one does, in its order: finished requests are delivered, queues flushed,
// active pollers polled, and idle ones armed. Turns are events: the seed decides how many
// completions come before the next one.

import { assert, RequestTable, segmentArenaBytes } from "../../base/index.ts";
import type {
  Clock,
  Log,
  LogFields,
  LogLevel,
  Memory,
  Poller,
  ReactorPort,
  TimerHandler,
} from "../../ports/index.ts";
import type { SimMemory } from "./sim-memory.ts";
import type { SimLoop, SimScheduler } from "./sim-scheduler.ts";

export interface SimLogEntry {
  readonly timeUs: number;
  readonly level: LogLevel;
  readonly event: string;
  readonly fields: LogFields;
}

export interface SimReactorOptions {
  readonly scheduler: SimScheduler;
  readonly memory: SimMemory;
  /** Power of two, 64 by default. */
  readonly requestSlots?: number;
  /** The longest time from work to the turn that does it. */
  readonly turnDelayMaxUs?: number;
}

const DELIVER_BATCH = 256;
const TICK_US = 1000;

export class SimReactor implements ReactorPort, SimLoop {
  readonly clock: Clock;
  readonly memory: Memory;
  readonly requests: RequestTable;
  readonly entries: SimLogEntry[] = [];
  readonly log: Log;
  turnCount = 0;
  private readonly scheduler: SimScheduler;
  private readonly turnDelayMaxUs: number;
  private readonly pollers: Set<Poller> = new Set();
  private readonly active: Set<Poller> = new Set();
  private dirty: Set<Poller> = new Set();
  private isTurnDue = false;
  private isStopped = false;

  constructor(options: SimReactorOptions) {
    const { scheduler, memory, requestSlots = 64 } = options;
    this.scheduler = scheduler;
    this.clock = scheduler.clock;
    this.memory = memory;
    this.turnDelayMaxUs = options.turnDelayMaxUs ?? 20;
    this.requests = new RequestTable(
      requestSlots,
      memory.allocate(segmentArenaBytes(requestSlots)),
    );
    this.log = {
      log: (level, event, fields = {}) => {
        this.entries.push({ timeUs: this.clock.nowUs(), level, event, fields });
      },
    };
    scheduler.addLoop(this);
  }

  get loopTimeUs(): number {
    return this.clock.nowUs();
  }

  /** The process is gone: no turn and no timer comes any more. */
  stop(): void {
    this.isStopped = true;
    this.scheduler.removeLoop(this);
    this.scheduler.cancelOwned(this);
  }

  wantsTurn(): boolean {
    return this.requests.hasCompletions || this.dirty.size > 0 || this.active.size > 0;
  }

  scheduleTurn(): void {
    if (this.isTurnDue || this.isStopped) return;
    this.isTurnDue = true;
    const delayUs = this.scheduler.prng.unit() * this.turnDelayMaxUs;
    this.scheduler.after(delayUs, () => this.turn(), { owner: this, label: "reactor turn" });
  }

  private turn(): void {
    this.isTurnDue = false;
    this.turnCount += 1;
    this.requests.drain(DELIVER_BATCH);
    const dirty = this.dirty;
    // What asks for a flush from within one is served in the next turn.
    this.dirty = new Set();
    for (const poller of dirty) if (this.pollers.has(poller)) poller.flush();
    for (const poller of Array.from(this.active)) {
      if (!this.active.has(poller) || poller.poll() > 0 || !this.active.has(poller)) continue;
      // Work that came while it armed keeps it awake.
      if (poller.arm()) poller.disarm();
      else this.active.delete(poller);
    }
  }

  addPoller(poller: Poller): void {
    assert(!this.pollers.has(poller), "poller added twice");
    this.pollers.add(poller);
    this.active.add(poller);
  }

  removePoller(poller: Poller): void {
    this.pollers.delete(poller);
    this.active.delete(poller);
    this.dirty.delete(poller);
  }

  activate(poller: Poller): void {
    assert(this.pollers.has(poller), "an unknown poller was activated");
    if (this.active.has(poller)) return;
    this.active.add(poller);
    poller.disarm();
  }

  requestFlush(poller: Poller): void {
    assert(this.pollers.has(poller), "an unknown poller wants a flush");
    this.dirty.add(poller);
  }

  /** Fires with the first tick of 1 ms that is no earlier; does not keep a run going. */
  setTimer(delayMs: number, handler: TimerHandler, tag: number): number {
    assert(delayMs >= 0 && delayMs < Infinity, "a timer that never fires");
    const nowUs = this.clock.nowUs();
    const tick = Math.max(Math.floor(nowUs / TICK_US) + 1, Math.ceil(nowUs / TICK_US + delayMs));
    return this.scheduler.after(tick * TICK_US - nowUs, () => handler.timerFired(tag), {
      owner: this,
      isBackground: true,
      label: `timer ${tag}`,
    });
  }

  cancelTimer(timerId: number): void {
    this.scheduler.cancel(timerId);
  }

  watch(): number {
    throw new Error("the simulator has no descriptors to watch");
  }

  unwatch(): void {
    throw new Error("the simulator has no descriptors to watch");
  }

  signalAsync(): void {
    throw new Error("the simulator has no descriptors to signal");
  }

  closeAfterSignals(): void {
    throw new Error("the simulator has no descriptors to close");
  }
}
