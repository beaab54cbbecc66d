// @hot
// A reactor: one worker thread's loop. It owns an io_uring, a request table, a timer wheel and the
// pollers (virtqueues, mailboxes) of everything that lives on its thread.
//
//   reap completions -> deliver finished requests -> flush queues -> poll active queues -> timers
//        ^                                                                                 |
//        '------- sleep in io_uring_enter when nothing is active and nothing is due <------'
//
// Adaptive polling: a poller that found work stays active for a window after its last work, so
// that the next request needs no wake-up (40 to 50 us on a sleeping core). The window is at most
// `pollMaxUs`, and follows the gaps the poller sees: gaps longer than the maximum halve it to
// nothing, gaps within it restore it. An idle reactor sleeps and burns nothing.
//
// Invariants:
//  - everything runs on this thread, from this loop; nothing here is re-entered;
//  - an inactive poller is armed: whoever makes work for it causes a wake-up;
//  - before a sleep every poller was armed and looked at once more.

import { assert, RequestTable, segmentArenaBytes } from "../base/index.ts";
import type {
  Clock,
  Log,
  Memory,
  Poller,
  ReactorPort,
  ReadinessHandler,
  TimerHandler,
} from "../ports/index.ts";
import type { DeferredSource } from "../uring/index.ts";
import { Ring } from "../uring/index.ts";
import { TimerWheel } from "./timer-wheel.ts";
import { Watches } from "./watches.ts";

export interface ReactorOptions {
  /** Requests in flight on this reactor, power of two. */
  readonly requestSlots: number;
  readonly ringEntries: number;
  readonly watchesMax: number;
  readonly timersMax: number;
  /** Longest time to poll after the last work; 0 = always event-driven. */
  readonly pollMaxUs: number;
}

export interface ReactorModules {
  readonly memory: Memory;
  readonly clock: Clock;
  readonly log: Log;
}

/** Counters a reactor keeps; read by telemetry. Plain numbers, owned by the thread. */
export interface ReactorCounters {
  loopCount: number;
  sleepCount: number;
  busyUs: number;
  pollUs: number;
}

/** Completions handled per turn before queues are polled: bounds the time between polls. */
const REAP_BATCH = 256;
const DELIVER_BATCH = 256;
/** One long gap in this many opens the whole window again, to see whether polling pays now. */
const PROBE_EVERY = 64;

/** Where the reactor keeps what it knows of a poller. */
interface PollerState {
  readonly poller: Poller;
  active: boolean;
  dirty: boolean;
  removed: boolean;
  lastWorkUs: number;
  windowUs: number;
  longGapCount: number;
}

export class Reactor implements ReactorPort {
  readonly clock: Clock;
  readonly memory: Memory;
  readonly log: Log;
  readonly requests: RequestTable;
  readonly ring: Ring;
  readonly counters: ReactorCounters = { loopCount: 0, sleepCount: 0, busyUs: 0, pollUs: 0 };
  loopTimeUs: number;

  private readonly pollMaxUs: number;
  private readonly timers: TimerWheel;
  private readonly watches: Watches;
  private readonly states: Map<Poller, PollerState> = new Map();
  private readonly active: PollerState[] = [];
  private readonly dirty: PollerState[] = [];
  private readonly deferred: DeferredSource[] = [];
  private stopping = false;

  constructor(options: ReactorOptions, modules: ReactorModules) {
    this.clock = modules.clock;
    this.memory = modules.memory;
    this.log = modules.log;
    this.pollMaxUs = options.pollMaxUs;
    this.ring = new Ring(modules.memory, {
      entries: options.ringEntries,
      // Every request, watch and removal can complete at once without overflowing.
      cqEntries: nextPowerOfTwo(options.requestSlots * 2 + options.watchesMax * 2),
      fixedFiles: FIXED_FILES,
    });
    const arena = modules.memory.allocate(segmentArenaBytes(options.requestSlots));
    this.requests = new RequestTable(options.requestSlots, arena);
    this.loopTimeUs = modules.clock.nowUs();
    this.timers = new TimerWheel(options.timersMax, this.loopTimeUs);
    this.watches = new Watches(this.ring, options.watchesMax);
  }

  /** Descriptors watched and timers pending, for leak tests. */
  get watchCount(): number {
    return this.watches.count;
  }

  get timerCount(): number {
    return this.timers.count;
  }

  get pollerCount(): number {
    return this.states.size;
  }

  /** Adds a poller, active: it is polled at once, and armed when it turns out idle. */
  addPoller(poller: Poller): void {
    assert(!this.states.has(poller), "poller added twice");
    const state: PollerState = {
      poller,
      active: false,
      dirty: false,
      removed: false,
      lastWorkUs: this.loopTimeUs,
      windowUs: this.pollMaxUs,
      longGapCount: 0,
    };
    this.states.set(poller, state);
    this.activateState(state);
  }

  removePoller(poller: Poller): void {
    const state = this.states.get(poller);
    assert(state !== undefined, "poller removed twice");
    state.removed = true;
    this.states.delete(poller);
  }

  /** Work may be there for an armed poller (its kick arrived): poll it from now on. */
  activate(poller: Poller): void {
    const state = this.states.get(poller);
    if (state !== undefined) this.activateState(state);
  }

  private activateState(state: PollerState): void {
    if (state.active) return;
    state.active = true;
    state.poller.disarm();
    this.active.push(state);
  }

  /** Calls poller.flush() once, after the completions at hand have been delivered. */
  requestFlush(poller: Poller): void {
    const state = this.states.get(poller);
    if (state === undefined || state.dirty) return;
    state.dirty = true;
    this.dirty.push(state);
  }

  /** A disk that completes from the loop (SyncDisk). */
  addDeferred(source: DeferredSource): void {
    this.deferred.push(source);
  }

  removeDeferred(source: DeferredSource): void {
    const index = this.deferred.indexOf(source);
    assert(index >= 0, "deferred source removed twice");
    this.deferred.splice(index, 1);
  }

  watch(fd: number, pollEvents: number, handler: ReadinessHandler, tag: number): number {
    return this.watches.add(fd, pollEvents, handler, tag);
  }

  unwatch(watchId: number): void {
    this.watches.remove(watchId);
  }

  setTimer(delayMs: number, handler: TimerHandler, tag: number): number {
    return this.timers.set(this.clock.nowUs(), delayMs, handler, tag);
  }

  cancelTimer(timerId: number): void {
    this.timers.cancel(timerId);
  }

  /** The loop ends after the current turn. */
  stop(): void {
    this.stopping = true;
  }

  /** Runs until stop(). Never returns to Node's event loop meanwhile. */
  run(): void {
    this.stopping = false;
    while (!this.stopping) {
      const worked = this.turn();
      if (this.stopping) return;
      if (worked === 0) this.idle();
    }
  }

  /** One turn without sleeping. Returns how much was done. Public for tests and simulators. */
  turn(): number {
    this.counters.loopCount += 1;
    if (this.ring.hasPending || this.ring.needsEnter()) this.ring.submit();
    let worked = this.ring.reap(REAP_BATCH);
    worked += this.deliverDeferred();
    worked += this.requests.drain(DELIVER_BATCH);
    this.flushDirty();
    worked += this.pollActive();
    worked += this.timers.count === 0 ? 0 : this.timers.advance(this.loopTimeUs);
    return worked;
  }

  private deliverDeferred(): number {
    let worked = 0;
    for (let index = 0; index < this.deferred.length; index++) {
      worked += (this.deferred[index] as DeferredSource).deliver(DELIVER_BATCH);
    }
    return worked;
  }

  private flushDirty(): void {
    while (this.dirty.length > 0) {
      const state = this.dirty.pop() as PollerState;
      state.dirty = false;
      if (!state.removed) state.poller.flush();
    }
  }

  private pollActive(): number {
    this.loopTimeUs = this.clock.nowUs();
    const now = this.loopTimeUs;
    let worked = 0;
    for (let index = this.active.length - 1; index >= 0; index--) {
      const state = this.active[index] as PollerState;
      if (state.removed) {
        this.dropActive(index);
        continue;
      }
      const done = state.poller.poll();
      if (done > 0) {
        this.noteWork(state, now);
        worked += done;
      } else if (now - state.lastWorkUs >= state.windowUs && !state.removed) {
        this.deactivate(state, index);
      }
    }
    return worked;
  }

  private noteWork(state: PollerState, now: number): void {
    const gapUs = now - state.lastWorkUs;
    state.lastWorkUs = now;
    if (gapUs <= this.pollMaxUs) {
      state.windowUs = this.pollMaxUs;
      return;
    }
    state.windowUs = state.windowUs < 1 ? 0 : state.windowUs / 2;
    // Event-driven, a gap contains our own wake-up, so it never looks short: probe now and then.
    state.longGapCount += 1;
    if (state.longGapCount % PROBE_EVERY === 0) state.windowUs = this.pollMaxUs;
  }

  private deactivate(state: PollerState, index: number): void {
    if (state.poller.arm()) {
      // Work arrived while we armed: stay awake and take it in the next turn.
      state.poller.disarm();
      return;
    }
    state.active = false;
    this.dropActive(index);
  }

  private dropActive(index: number): void {
    const last = this.active.pop() as PollerState;
    if (index < this.active.length) this.active[index] = last;
  }

  /** Nothing was done this turn: spin while a poller is active, otherwise sleep. */
  private idle(): void {
    if (this.active.length > 0) return;
    if (this.requests.hasCompletions || this.ring.hasCompletions()) return;
    const delayUs = this.timers.nextDelayUs(this.loopTimeUs);
    this.counters.sleepCount += 1;
    this.ring.submitAndWait(delayUs);
    this.loopTimeUs = this.clock.nowUs();
  }
}

const FIXED_FILES = 1024;

function nextPowerOfTwo(value: number): number {
  let power = 1;
  while (power < value) power *= 2;
  return power;
}
