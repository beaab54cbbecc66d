// @hot
// A reactor: one worker thread's loop. It owns an io_uring, a request table, a timer wheel and the
// pollers (virtqueues, mailboxes) of everything that lives on its thread.
//
//   enter -> reap completions -> deliver finished requests -> flush queues -> poll -> timers
//     ^                                                                                 |
//     '------- sleep in io_uring_enter when nothing is active and nothing is due <------'
//
// Adaptive polling: a poller that gave an answer stays active for a window after it, so that the
// next request needs no wake-up (40 to 50 us on a sleeping core). After taking work without an
// answer it polls for an eighth of that only: what comes next is the device's completion. The
// window is at most `pollMaxUs` and follows what polling brings: work found while polling opens it
// to the full, a window that ends without work halves it, down to nothing; every 64th answer
// without a window tries one again. What counts is whether polling found the work, not how short
// the gap was: where producer and reactor share a CPU, gaps are short because we slept, and
// polling only keeps the producer from running. An idle reactor sleeps and burns nothing.
//
// Invariants:
//  - everything runs on this thread, from this loop; nothing here is re-entered;
//  - an inactive poller is armed: whoever makes work for it causes a wake-up;
//  - before a sleep every poller was armed and looked at once more, and nothing waits for the next
//    turn (completions, deferred sources, flushes).

import { assert, RequestTable, segmentArenaBytes } from "../base/index.ts";
import type {
  Arena,
  Clock,
  Log,
  Memory,
  Poller,
  ReactorPort,
  ReadinessHandler,
  TimerHandler,
} from "../ports/index.ts";
import type { DeferredScheduler, DeferredSource } from "../uring/index.ts";
import { Ring } from "../uring/index.ts";
import { CQ_ENTRIES_MAX } from "../uring/layouts.ts";
import { AsyncSignals } from "./async-signals.ts";
import { type LoopClock, loopClockOf } from "./loop-clock.ts";
import { TimerWheel } from "./timer-wheel.ts";
import { Watches } from "./watches.ts";

export interface ReactorOptions {
  /** Requests in flight on this reactor, power of two. */
  readonly requestSlots: number;
  readonly ringEntries: number;
  /** Bounds of tables that grow as needed: reaching one is a defect. */
  readonly watchesMax: number;
  readonly timersMax: number;
  /** Longest time to poll after the last work; 0 = always event-driven. */
  readonly pollMaxUs: number;
}

/** Is shown the reactor's counters now and then, on its thread: before a sleep, and while awake. */
export interface ReactorObserver {
  observe(reactor: Reactor): void;
}

export interface ReactorModules {
  readonly memory: Memory;
  readonly clock: Clock;
  readonly log: Log;
  readonly observer?: ReactorObserver;
}

/** Counters a reactor keeps; owned by its thread. */
export interface ReactorCounters {
  loopCount: number;
  sleepCount: number;
  /** Time of turns that did something, and of those that only looked. The rest was slept. */
  busyUs: number;
  pollUs: number;
  /** The longest single turn. */
  longestLoopUs: number;
  /** Timers fired. */
  timerCount: number;
  /** Requests whose completion was delivered to its owner. */
  completionCount: number;
}

/** Completions handled per turn before queues are polled: bounds the time between polls. */
const REAP_BATCH = 256;
const DELIVER_BATCH = 256;
/** One answer in this many without a window opens it again, to see whether polling pays now. */
const PROBE_EVERY = 64;
/** After work was taken and not yet answered, this part of the window is polled. */
const TAKEN_PART = 8;
/** While awake the observer is called this often. */
const OBSERVE_EVERY_US = 10_000;
const FIXED_FILES = 1024;
const CQ_ENTRIES_MIN = 1024;

/** Where the reactor keeps what it knows of a poller. */
interface PollerState {
  readonly poller: Poller;
  active: boolean;
  dirty: boolean;
  removed: boolean;
  /** A window runs since the last answer: does it find work? */
  answered: boolean;
  /** The window that runs is a trial. */
  probing: boolean;
  /** Answers since the window was shut. */
  shutCount: number;
  /** Fractional numbers change in place here; in fields they may become new heap numbers. */
  readonly times: Float64Array;
}

/** In PollerState.times: until when it polls, and the length of its window. */
const POLL_UNTIL_US = 0;
const WINDOW_US = 1;

export class Reactor implements ReactorPort, DeferredScheduler {
  readonly clock: Clock;
  readonly memory: Memory;
  readonly log: Log;
  readonly requests: RequestTable;
  readonly ring: Ring;
  readonly counters: ReactorCounters;
  // Times begin as numbers: a field that begins undefined holds a new heap number at every store.
  loopTimeUs = 0;

  private readonly loopClock: LoopClock;
  private readonly clockCell: Float64Array = new Float64Array(1);
  private readonly observer: ReactorObserver | null;
  private readonly pollMaxUs: number;
  private readonly timers: TimerWheel;
  private readonly watches: Watches;
  private readonly signals: AsyncSignals;
  private readonly states: Map<Poller, PollerState> = new Map();
  /** The state asked for last: completions come in batches of one queue. */
  private lastState: PollerState | null = null;
  // Lists that grow to their greatest length and stay there; the counts say how much is in use.
  private readonly active: PollerState[] = [];
  private activeCount = 0;
  private readonly dirty: PollerState[] = [];
  private dirtyCount = 0;
  private readonly deferred: DeferredSource[] = [];
  private deferredCount = 0;
  private readonly requestArena: Arena;
  private workedLastTurn = false;
  private turnStartUs = 0;
  private observeAtUs = 0;
  private stopping = false;

  constructor(options: ReactorOptions, modules: ReactorModules) {
    assert(options.pollMaxUs >= 0, "a negative polling window");
    this.clock = modules.clock;
    this.loopClock = loopClockOf(modules.clock);
    this.memory = modules.memory;
    this.log = modules.log;
    this.observer = modules.observer ?? null;
    this.pollMaxUs = options.pollMaxUs;
    this.counters = {
      loopCount: 0,
      sleepCount: 0,
      busyUs: 0,
      pollUs: 0,
      longestLoopUs: 0,
      timerCount: 0,
      completionCount: 0,
    };
    // Every request can complete at once, and as many watches. What does not fit the kernel keeps
    // for us (FEAT_NODROP).
    const completions = options.requestSlots * 2;
    this.ring = new Ring(modules.memory, {
      entries: options.ringEntries,
      cqEntries: Math.min(
        Math.max(completions, CQ_ENTRIES_MIN, options.ringEntries * 2),
        CQ_ENTRIES_MAX,
      ),
      fixedFiles: FIXED_FILES,
    });
    this.requestArena = modules.memory.allocate(segmentArenaBytes(options.requestSlots));
    this.requests = new RequestTable(options.requestSlots, this.requestArena);
    this.loopTimeUs = modules.clock.nowUs();
    this.turnStartUs = this.loopTimeUs;
    this.timers = new TimerWheel(options.timersMax, this.loopTimeUs);
    this.watches = new Watches(this.ring, options.watchesMax);
    this.signals = new AsyncSignals(this.ring, modules.memory);
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

  /** Pollers that are being polled; the others are armed. */
  get activePollerCount(): number {
    return this.activeCount;
  }

  /** Adds a poller, active: it is polled at once, and armed when it turns out idle. */
  // @cold
  addPoller(poller: Poller): void {
    assert(!this.states.has(poller), "poller added twice");
    const state: PollerState = {
      poller,
      active: false,
      dirty: false,
      removed: false,
      answered: false,
      probing: false,
      shutCount: 0,
      times: new Float64Array([this.loopTimeUs + this.pollMaxUs, this.pollMaxUs]),
    };
    this.states.set(poller, state);
    this.activateState(state);
  }

  /** Neither poll() nor flush() is called again, also when called from one of them. */
  removePoller(poller: Poller): void {
    const state = this.states.get(poller);
    assert(state !== undefined, "poller removed twice");
    state.removed = true;
    this.states.delete(poller);
    if (this.lastState === state) this.lastState = null;
  }

  private stateOf(poller: Poller): PollerState | null {
    const last = this.lastState;
    if (last !== null && last.poller === poller) return last;
    const state = this.states.get(poller);
    if (state === undefined) return null;
    this.lastState = state;
    return state;
  }

  /** Work may be there for an armed poller (its kick arrived): poll it from now on. */
  activate(poller: Poller): void {
    const state = this.stateOf(poller);
    if (state !== null) this.activateState(state);
  }

  private activateState(state: PollerState): void {
    if (state.active) return;
    state.active = true;
    state.poller.disarm();
    this.active[this.activeCount] = state;
    this.activeCount += 1;
  }

  /** Calls poller.flush() once, after the completions at hand have been delivered. */
  requestFlush(poller: Poller): void {
    const state = this.stateOf(poller);
    if (state === null || state.dirty) return;
    state.dirty = true;
    this.dirty[this.dirtyCount] = state;
    this.dirtyCount += 1;
  }

  /** A disk that completes from the loop (SyncDisk) has something to deliver. */
  scheduleDeferred(source: DeferredSource): void {
    this.deferred[this.deferredCount] = source;
    this.deferredCount += 1;
  }

  watch(fd: number, pollEvents: number, handler: ReadinessHandler, tag: number): number {
    return this.watches.add(fd, pollEvents, handler, tag);
  }

  unwatch(watchId: number): void {
    this.watches.remove(watchId);
  }

  signalAsync(fd: number): void {
    this.signals.signal(fd);
  }

  closeAfterSignals(fd: number): void {
    this.signals.close(fd);
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
    this.stamp();
    this.noteTime();
    let worked = this.ring.reap(REAP_BATCH);
    if (this.deferredCount > 0) worked += this.deliverDeferred();
    if (this.requests.hasCompletions) worked += this.drainRequests();
    if (this.dirtyCount > 0) this.flushDirty();
    // Requests taken now shall not be stamped with the time before all that.
    if (worked > 0) this.stamp();
    if (this.activeCount > 0) worked += this.pollActive();
    if (this.loopTimeUs >= this.timers.earliestUs) worked += this.advanceTimers();
    this.workedLastTurn = worked > 0;
    return worked;
  }

  // Times are handed on in fields and cells: as an argument or a result each would be a new heap
  // number, unless the compiler happens to inline the call.

  private stamp(): void {
    this.loopClock.storeNowUs(this.clockCell);
    this.loopTimeUs = this.clockCell[0] as number;
  }

  /** Begins a turn: the time since the last one began goes to its account. */
  private noteTime(): void {
    const elapsedUs = this.loopTimeUs - this.turnStartUs;
    const counters = this.counters;
    if (this.workedLastTurn) counters.busyUs += elapsedUs;
    else counters.pollUs += elapsedUs;
    if (elapsedUs > counters.longestLoopUs) counters.longestLoopUs = elapsedUs;
    this.turnStartUs = this.loopTimeUs;
    if (this.loopTimeUs >= this.observeAtUs) this.observe();
  }

  private observe(): void {
    this.observeAtUs = this.loopTimeUs + OBSERVE_EVERY_US;
    if (this.observer !== null) this.observer.observe(this);
  }

  private drainRequests(): number {
    const drained = this.requests.drain(DELIVER_BATCH);
    this.counters.completionCount += drained;
    return drained;
  }

  private deliverDeferred(): number {
    let worked = 0;
    let kept = 0;
    // Delivering may schedule other sources: they are appended, and served in this turn too.
    for (let index = 0; index < this.deferredCount; index++) {
      const source = this.deferred[index] as DeferredSource;
      worked += source.deliver(DELIVER_BATCH);
      if (!source.hasDeferred) continue;
      this.deferred[kept] = source;
      kept += 1;
    }
    this.deferredCount = kept;
    return worked;
  }

  private flushDirty(): void {
    // What asks for a flush from within one is served in the next turn.
    const count = this.dirtyCount;
    for (let index = 0; index < count; index++) {
      const state = this.dirty[index] as PollerState;
      state.dirty = false;
      if (state.removed) continue;
      state.poller.flush();
      this.noteAnswer(state);
    }
    for (let index = count; index < this.dirtyCount; index++) {
      this.dirty[index - count] = this.dirty[index] as PollerState;
    }
    this.dirtyCount -= count;
  }

  /** The other side has its answer and may send the next request soon: poll for it. */
  private noteAnswer(state: PollerState): void {
    if (state.removed) return;
    const times = state.times;
    if (times[WINDOW_US] === 0) {
      if (this.pollMaxUs === 0) return;
      state.shutCount += 1;
      if (state.shutCount < PROBE_EVERY) return;
      state.shutCount = 0;
      state.probing = true;
      times[WINDOW_US] = this.pollMaxUs;
    }
    state.answered = true;
    times[POLL_UNTIL_US] = this.loopTimeUs + (times[WINDOW_US] as number);
    this.activateState(state);
  }

  private pollActive(): number {
    let worked = 0;
    for (let index = this.activeCount - 1; index >= 0; index--) {
      const state = this.active[index] as PollerState;
      if (state.removed) {
        this.dropActive(index);
        continue;
      }
      const done = state.poller.poll();
      if (done > 0) {
        this.noteWork(state);
        worked += done;
      } else if (!state.removed && this.isWindowOver(state)) {
        this.deactivate(state, index);
      }
    }
    return worked;
  }

  private isWindowOver(state: PollerState): boolean {
    return this.loopTimeUs >= (state.times[POLL_UNTIL_US] as number);
  }

  /** Work was found: by polling since an answer, or after a wake-up. */
  private noteWork(state: PollerState): void {
    const times = state.times;
    if (state.answered) {
      times[WINDOW_US] = this.pollMaxUs;
      state.answered = false;
      state.probing = false;
    }
    times[POLL_UNTIL_US] = this.loopTimeUs + (times[WINDOW_US] as number) / TAKEN_PART;
  }

  private deactivate(state: PollerState, index: number): void {
    if (state.poller.arm()) {
      // Work arrived while we armed: stay awake and take it in the next turn.
      state.poller.disarm();
      return;
    }
    if (state.answered) this.noteVain(state);
    state.active = false;
    this.dropActive(index);
  }

  /** A whole window of polling found nothing. */
  private noteVain(state: PollerState): void {
    const times = state.times;
    const windowUs = times[WINDOW_US] as number;
    state.answered = false;
    times[WINDOW_US] = state.probing || windowUs < 2 ? 0 : windowUs / 2;
    state.probing = false;
  }

  /** The last takes the place of the one that leaves; it has been visited in this round. */
  private dropActive(index: number): void {
    this.activeCount -= 1;
    this.active[index] = this.active[this.activeCount] as PollerState;
  }

  private advanceTimers(): number {
    const fired = this.timers.advance(this.loopTimeUs);
    this.counters.timerCount += fired;
    return fired;
  }

  /** Nothing was done this turn: spin while a poller is active, otherwise sleep. */
  private idle(): void {
    if (this.activeCount > 0 || this.dirtyCount > 0 || this.deferredCount > 0) return;
    if (this.requests.hasCompletions || this.ring.hasCompletions()) return;
    const delayUs = this.timers.nextDelayUs(this.loopTimeUs);
    this.counters.sleepCount += 1;
    this.observe();
    this.ring.submitAndWait(delayUs);
    // The sleep is on nobody's account.
    this.stamp();
    this.turnStartUs = this.loopTimeUs;
  }

  /** Closes the ring and frees what the reactor allocated. No I/O may be in flight. */
  close(): void {
    this.ring.close();
    this.signals.free();
    this.memory.free(this.requestArena);
  }
}
