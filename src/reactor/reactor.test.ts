// The loop: adaptive polling against a clock the test moves, pollers that come and go, work that
// is never missed, an idle reactor that costs nothing, and the ways things wait for the next turn.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { OP_READ, Prng, type RequestOwner } from "../base/index.ts";
import type { Clock, Poller, TimerHandler } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import type { DeferredSource } from "../uring/index.ts";
import { Mailbox } from "./mailbox.ts";
import { Reactor } from "./reactor.ts";

const POLL_MAX_US = 50;

class TestClock implements Clock {
  us = 1_000_000;

  nowUs(): number {
    return this.us;
  }
}

function makeReactor(clock: Clock = new sys.SystemClock(), pollMaxUs = POLL_MAX_US): Reactor {
  return new Reactor(
    { requestSlots: 64, ringEntries: 64, watchesMax: 256, timersMax: 64, pollMaxUs },
    { memory: new sys.SystemMemory(), clock, log: { log(): void {} } },
  );
}

/** A poller whose work and armed state the test sets, and which checks what is done to it. */
class TestPoller implements Poller {
  armed = true;
  waiting = 0;
  pollCount = 0;
  flushCount = 0;
  onPoll: (() => void) | null = null;
  onFlush: (() => void) | null = null;

  poll(): number {
    assert.equal(this.armed, false, "polled while armed");
    this.pollCount += 1;
    this.onPoll?.();
    const done = this.waiting;
    this.waiting = 0;
    return done;
  }

  arm(): boolean {
    assert.equal(this.armed, false, "armed twice");
    this.armed = true;
    return this.waiting > 0;
  }

  disarm(): void {
    assert.equal(this.armed, true, "disarmed twice");
    this.armed = false;
  }

  flush(): void {
    this.flushCount += 1;
    this.onFlush?.();
  }
}

/** Moves the clock in steps of 1 us, a turn after each; returns when the poller went to sleep. */
function turnsUntilArmed(reactor: Reactor, clock: TestClock, poller: TestPoller): number {
  const startUs = clock.us;
  while (!poller.armed) {
    assert.ok(clock.us - startUs < 10_000, "never armed");
    clock.us += 1;
    reactor.turn();
  }
  return clock.us - startUs;
}

/** Work arrives: the reactor is woken if it must be, and takes it in the next turn. */
function deliverWork(reactor: Reactor, poller: TestPoller): void {
  poller.waiting = 1;
  if (poller.armed) reactor.activate(poller);
  assert.ok(reactor.turn() > 0);
  assert.equal(poller.waiting, 0);
}

/** What was taken is answered: the window begins. */
function answer(reactor: Reactor, poller: TestPoller): void {
  reactor.requestFlush(poller);
  reactor.turn();
}

function adaptiveTests(): void {
  test("a poller polls on for the whole window after an answer, then is armed", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    reactor.turn();
    deliverWork(reactor, poller);
    answer(reactor, poller);
    assert.equal(turnsUntilArmed(reactor, clock, poller), POLL_MAX_US);
    assert.equal(reactor.activePollerCount, 0);
    reactor.close();
  });

  test("work that is not answered yet is polled for an eighth of the window", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    deliverWork(reactor, poller);
    assert.equal(turnsUntilArmed(reactor, clock, poller), Math.ceil(POLL_MAX_US / 8));
    reactor.close();
  });

  test("windows without work halve it to nothing, work found by polling restores it", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    const windows: number[] = [];
    for (let round = 0; round < 10; round++) {
      deliverWork(reactor, poller);
      answer(reactor, poller);
      windows.push(turnsUntilArmed(reactor, clock, poller));
      clock.us += 1000;
    }
    assert.deepEqual(windows.slice(0, 6), [50, 25, 13, 7, 4, 2]);
    assert.equal(windows.at(-1), 0, "armed in the turn of the answer");
    reactor.close();
  });

  test("a short gap that a wake-up ended says nothing for polling: one CPU for two", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    let polledUs = 0;
    // The producer runs only while we sleep, and is quick then.
    for (let round = 0; round < 640; round++) {
      deliverWork(reactor, poller);
      answer(reactor, poller);
      polledUs += turnsUntilArmed(reactor, clock, poller);
      clock.us += 2;
    }
    assert.ok(polledUs < 640 * 2, `${polledUs} us of vain polling in 640 rounds`);
    reactor.close();
  });

  test("the window shut, one answer in 64 opens it again, and one success keeps it open", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    let probes = 0;
    for (let round = 0; round < 640; round++) {
      deliverWork(reactor, poller);
      answer(reactor, poller);
      if (turnsUntilArmed(reactor, clock, poller) === POLL_MAX_US) probes += 1;
      clock.us += 1000;
    }
    // The first window, before the first gap, counts too.
    assert.ok(probes >= 10 && probes <= 11, `${probes} probes`);
    for (let round = 0; round < 64 && poller.armed; round++) {
      deliverWork(reactor, poller);
      answer(reactor, poller);
    }
    assert.equal(poller.armed, false, "a probe polls");
    clock.us += 5;
    deliverWork(reactor, poller);
    answer(reactor, poller);
    assert.equal(turnsUntilArmed(reactor, clock, poller), POLL_MAX_US, "polling pays");
    reactor.close();
  });

  test("with no window at all every poller is armed as soon as it has nothing", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock, 0);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    deliverWork(reactor, poller);
    reactor.turn();
    assert.equal(poller.armed, true);
    reactor.requestFlush(poller);
    reactor.turn();
    assert.equal(poller.flushCount, 1);
    assert.equal(poller.armed, true, "an answer does not open a window of nothing");
    reactor.close();
  });

  test("work that arrives while it is being armed is taken without a wake-up", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    reactor.turn();
    const arm = poller.arm.bind(poller);
    let armCount = 0;
    poller.arm = () => {
      armCount += 1;
      if (armCount === 1) poller.waiting = 1;
      return arm();
    };
    clock.us += 1000;
    reactor.turn();
    assert.equal(armCount, 1);
    assert.equal(poller.armed, false, "awake");
    assert.equal(reactor.turn(), 1);
    assert.equal(poller.waiting, 0);
    reactor.close();
  });
}

function pollerTests(): void {
  test("pollers are removed and added from poll(): polled exactly as long as they are in", () => {
    const prng = new Prng(7);
    const reactor = makeReactor(new TestClock());
    const present = new Set<TestPoller>();
    const gone = new Set<TestPoller>();
    const add = (): void => {
      const poller = new TestPoller();
      poller.onPoll = () => {
        assert.ok(!gone.has(poller), "polled after its removal");
        poller.waiting = prng.below(2);
        if (prng.chance(0.1)) remove(prng.chance(0.5) ? poller : prng.pick([...present]));
        if (prng.chance(0.1) && present.size < 20) add();
      };
      poller.onFlush = () => assert.ok(!gone.has(poller), "flushed after its removal");
      present.add(poller);
      reactor.addPoller(poller);
    };
    const remove = (poller: TestPoller): void => {
      if (!present.delete(poller)) return;
      if (prng.chance(0.5)) reactor.requestFlush(poller);
      reactor.removePoller(poller);
      gone.add(poller);
    };
    for (let turn = 0; turn < 5000; turn++) {
      while (present.size < 3) add();
      const before = [...present].map((poller) => [poller, poller.pollCount] as const);
      reactor.turn();
      for (const [poller, count] of before) {
        if (present.has(poller)) assert.equal(poller.pollCount, count + 1, "polled once a turn");
      }
    }
    assert.equal(reactor.pollerCount, present.size);
    for (const poller of present) reactor.removePoller(poller);
    reactor.turn();
    assert.equal(reactor.activePollerCount, 0);
    reactor.close();
  });

  test("removed and added again at once: one poller, polled once", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    reactor.requestFlush(poller);
    reactor.removePoller(poller);
    poller.armed = true;
    reactor.addPoller(poller);
    reactor.turn();
    assert.equal(poller.pollCount, 1);
    assert.equal(poller.flushCount, 0, "the flush was asked for by the one that left");
    assert.throws(() => reactor.addPoller(poller), /added twice/);
    reactor.removePoller(poller);
    assert.throws(() => reactor.removePoller(poller), /removed twice/);
    reactor.activate(poller);
    reactor.requestFlush(poller);
    reactor.turn();
    assert.equal(poller.pollCount, 1);
    reactor.close();
  });

  test("a flush asked for many times is one; asked for in a flush it comes next turn", () => {
    const reactor = makeReactor(new TestClock());
    const pollers = [new TestPoller(), new TestPoller()];
    for (const poller of pollers) reactor.addPoller(poller);
    for (let count = 0; count < 10; count++) {
      for (const poller of pollers) reactor.requestFlush(poller);
    }
    const [first, second] = pollers as [TestPoller, TestPoller];
    first.onFlush = () => {
      reactor.requestFlush(first);
      reactor.requestFlush(second);
    };
    reactor.turn();
    assert.deepEqual([first.flushCount, second.flushCount], [1, 1]);
    reactor.turn();
    assert.equal(first.flushCount, 2);
    first.onFlush = null;
    reactor.turn();
    reactor.turn();
    assert.deepEqual([first.flushCount, second.flushCount], [3, 2]);
    reactor.close();
  });

  test("a flush that removes its poller, or another dirty one", () => {
    const reactor = makeReactor(new TestClock());
    const pollers = [new TestPoller(), new TestPoller()] as const;
    for (const poller of pollers) {
      reactor.addPoller(poller);
      reactor.requestFlush(poller);
      poller.onFlush = () => {
        for (const one of pollers) reactor.removePoller(one);
      };
    }
    reactor.turn();
    assert.equal(pollers[0].flushCount + pollers[1].flushCount, 1);
    reactor.turn();
    assert.equal(reactor.activePollerCount, 0);
    reactor.close();
  });
}

class Owner implements RequestOwner {
  readonly results: number[] = [];
  onCompletion: ((slot: number) => void) | null = null;

  requestCompleted(slot: number, result: number): void {
    this.results.push(result);
    this.onCompletion?.(slot);
  }
}

/** A source that always has a few completions, and adds more while it delivers. */
class ChattySource implements DeferredSource {
  waiting = 0;
  delivered = 0;
  onDeliver: (() => void) | null = null;

  get hasDeferred(): boolean {
    return this.waiting > 0;
  }

  deliver(countMax: number): number {
    const count = Math.min(countMax, this.waiting);
    this.waiting -= count;
    this.delivered += count;
    this.onDeliver?.();
    return count;
  }
}

/** Runs the loop for `ms`, as a worker would. */
function runFor(reactor: Reactor, ms: number): void {
  const handler: TimerHandler = { timerFired: () => reactor.stop() };
  reactor.setTimer(ms, handler, 0);
  reactor.run();
}

function loopTests(): void {
  test("requests complete in the loop, not in submit; their flush follows in that turn", () => {
    const reactor = makeReactor(new TestClock());
    const owner = new Owner();
    const index = reactor.requests.addOwner(owner);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    owner.onCompletion = (slot) => {
      reactor.requests.release(slot);
      reactor.requestFlush(poller);
    };
    const slot = reactor.requests.acquire(index);
    reactor.requests.op[slot] = OP_READ;
    reactor.requests.complete(slot, -5);
    assert.deepEqual(owner.results, []);
    reactor.turn();
    assert.deepEqual(owner.results, [-5]);
    assert.equal(poller.flushCount, 1);
    assert.equal(reactor.counters.completionCount, 1);
    reactor.close();
  });

  test("deferred sources are served until they are empty, those scheduled on the way too", () => {
    const reactor = makeReactor(new TestClock());
    const first = new ChattySource();
    const second = new ChattySource();
    first.waiting = 1000;
    first.onDeliver = () => {
      first.onDeliver = null;
      second.waiting = 3;
      reactor.scheduleDeferred(second);
    };
    reactor.scheduleDeferred(first);
    assert.ok(reactor.turn() > 0);
    assert.equal(second.delivered, 3);
    while (reactor.turn() > 0);
    assert.equal(first.delivered, 1000);
    reactor.scheduleDeferred(second);
    second.waiting = 2;
    reactor.turn();
    assert.equal(second.delivered, 5);
    reactor.close();
  });

  test("run() sleeps until a timer, not longer, and stop() ends it", () => {
    const reactor = makeReactor();
    const start = performance.now();
    runFor(reactor, 60);
    const elapsedMs = performance.now() - start;
    assert.ok(elapsedMs >= 60, `${elapsedMs} ms`);
    assert.ok(reactor.counters.loopCount < 50, `${reactor.counters.loopCount} turns`);
    assert.ok(reactor.counters.sleepCount >= 1);
    reactor.close();
  });

  test("work left by timers, watches and flushes is done before the loop sleeps", () => {
    // Everything below would wait for the end of the 5 s if the loop slept with it undone. Without
    // a polling window, so that no poller keeps the loop awake.
    const reactor = makeReactor(new sys.SystemClock(), 0);
    const poller = new TestPoller();
    const source = new ChattySource();
    reactor.addPoller(poller);
    let steps = 0;
    poller.onFlush = () => {
      steps += 1;
      if (steps < 5) reactor.requestFlush(poller);
      else if (steps === 5) {
        source.waiting = 1;
        reactor.scheduleDeferred(source);
      }
    };
    source.onDeliver = () => reactor.stop();
    reactor.setTimer(1, { timerFired: () => reactor.requestFlush(poller) }, 0);
    reactor.setTimer(5000, { timerFired: () => reactor.stop() }, 0);
    const start = performance.now();
    reactor.run();
    assert.equal(source.delivered, 1);
    assert.ok(performance.now() - start < 4000);
    reactor.close();
  });

  test("an idle reactor with 100 armed pollers and 100 watches burns under 1 % of a core", () => {
    const reactor = makeReactor();
    const fds = Array.from({ length: 100 }, () => sys.check(sys.eventfd(), "eventfd"));
    const watches = fds.map((fd) => reactor.watch(fd, sys.POLLIN, { ready(): void {} }, 0));
    for (let count = 0; count < 100; count++) reactor.addPoller(new TestPoller());
    runFor(reactor, 50);
    const before = process.cpuUsage();
    runFor(reactor, 1000);
    const used = process.cpuUsage(before);
    const share = (used.user + used.system) / 1e6;
    assert.ok(share < 0.01, `${(share * 100).toFixed(2)} % of a core`);
    for (const watch of watches) reactor.unwatch(watch);
    for (const fd of fds) sys.close(fd);
    reactor.close();
  });

  test("time is told apart: working and looking", () => {
    const clock = new TestClock();
    const reactor = makeReactor(clock, 1e6);
    const poller = new TestPoller();
    reactor.addPoller(poller);
    reactor.turn();
    const before = { ...reactor.counters };
    poller.onPoll = () => void (clock.us += poller.waiting === 1 ? 1000 : 3);
    for (let round = 0; round < 20; round++) {
      poller.waiting = 1;
      reactor.turn();
      reactor.turn();
      reactor.turn();
    }
    const { busyUs, pollUs, longestLoopUs } = reactor.counters;
    assert.equal(busyUs - before.busyUs, 20 * 1000);
    // The last turn ends when the next begins.
    assert.equal(pollUs - before.pollUs, 40 * 3 - 3);
    assert.equal(longestLoopUs, 1000);
    reactor.close();
  });

  test("time slept is on nobody's account", () => {
    const reactor = makeReactor();
    reactor.addPoller(new TestPoller());
    runFor(reactor, 500);
    const { busyUs, pollUs } = reactor.counters;
    assert.ok(busyUs + pollUs < 400_000, `busy ${busyUs} us, polling ${pollUs} us of 500 ms`);
    reactor.close();
  });

  test("the observer sees the counters before each sleep and while awake", () => {
    const clock = new TestClock();
    let observed = 0;
    const reactor = new Reactor(
      { requestSlots: 64, ringEntries: 64, watchesMax: 4, timersMax: 4, pollMaxUs: 1e9 },
      {
        memory: new sys.SystemMemory(),
        clock,
        log: { log(): void {} },
        observer: {
          observe: (seen) => {
            observed += 1;
            assert.equal(seen, reactor);
          },
        },
      },
    );
    reactor.addPoller(new TestPoller());
    for (let ms = 0; ms < 100; ms++) {
      clock.us += 1000;
      reactor.turn();
    }
    assert.ok(observed >= 9 && observed <= 11, `${observed} times in 100 ms`);
    reactor.close();
  });

  test("a closed reactor leaves no descriptor behind", () => {
    const count = (): number => readdirSync("/proc/self/fd").length;
    makeReactor().close();
    const before = count();
    for (let round = 0; round < 20; round++) {
      const reactor = makeReactor();
      runFor(reactor, 1);
      reactor.close();
    }
    assert.equal(count(), before);
  });

  test("signals for a descriptor that blocks do not stop the loop; it closes in the end", () => {
    const reactor = makeReactor();
    const [readEnd, writeEnd] = sys.pipe();
    const arena = reactor.memory.allocate(65536);
    // Filled to the brim: a plain write would block this thread for ever.
    while (sys.pollOne(writeEnd, sys.POLLOUT, 0) !== 0) sys.write(writeEnd, arena.address, 4096);
    for (let count = 0; count < 5; count++) reactor.signalAsync(writeEnd);
    runFor(reactor, 20);
    assert.equal(reactor.ring.inflightCount, 1, "one write waits, the others are merged into it");
    reactor.closeAfterSignals(writeEnd);
    for (let round = 0; round < 100 && reactor.ring.inflightCount > 0; round++) runFor(reactor, 10);
    assert.equal(reactor.ring.inflightCount, 0);
    assert.ok(sys.statusFlags(writeEnd) < 0, "closed");
    sys.close(readEnd);
    reactor.close();
  });
}

interface FloodOrder {
  readonly shared: SharedArrayBuffer;
  readonly wakeFd: number;
  readonly wordCount: number;
}

/** The consumer's end of a mailbox in a reactor, as work from other threads reaches one. */
class MailboxPoller implements Poller {
  next = 0;
  private readonly mailbox: Mailbox;
  private readonly done: () => void;
  private readonly wordCount: number;

  constructor(mailbox: Mailbox, wordCount: number, done: () => void) {
    this.mailbox = mailbox;
    this.wordCount = wordCount;
    this.done = done;
  }

  poll(): number {
    let count = 0;
    while (count < 64 && this.mailbox.hasMail) {
      assert.equal(this.mailbox.take(), this.next);
      this.next += 1;
      count += 1;
    }
    if (this.next === this.wordCount) this.done();
    return count;
  }

  arm(): boolean {
    return this.mailbox.arm();
  }

  disarm(): void {
    this.mailbox.disarm();
  }

  flush(): void {}
}

function flood(order: FloodOrder): void {
  const mailbox = new Mailbox(order.shared, order.wakeFd);
  const prng = new Prng(order.wordCount);
  for (let word = 0; word < order.wordCount; word++) {
    while (!mailbox.post(word));
    if (prng.below(32) !== 0) continue;
    // From nothing to a few hundred microseconds: within the window, around it, beyond it.
    const until = performance.now() + prng.pick([0.005, 0.04, 0.06, 0.15]);
    while (performance.now() < until);
  }
}

function wakeTests(): void {
  for (const pollMaxUs of [0, POLL_MAX_US]) {
    test(`armed pollers never miss work from another thread, window ${pollMaxUs} us`, async () => {
      const reactor = makeReactor(new sys.SystemClock(), pollMaxUs);
      const shared = Mailbox.allocate(64);
      const wakeFd = sys.check(sys.eventfd(), "eventfd");
      const wordCount = 100_000;
      const mailbox = new Mailbox(shared, wakeFd);
      const poller = new MailboxPoller(mailbox, wordCount, () => reactor.stop());
      reactor.addPoller(poller);
      const ready = {
        ready: () => {
          sys.eventClear(wakeFd);
          reactor.activate(poller);
        },
      };
      reactor.watch(wakeFd, sys.POLLIN, ready, 0);
      const order: FloodOrder = { shared, wakeFd, wordCount };
      const worker = new Worker(new URL(import.meta.url), { workerData: order });
      await new Promise((done) => worker.once("online", done));
      const lost: TimerHandler = {
        timerFired: () => assert.fail(`stuck with ${poller.next} of ${wordCount} words`),
      };
      reactor.setTimer(60_000, lost, 0);
      reactor.run();
      assert.equal(poller.next, wordCount);
      const { sleepCount } = reactor.counters;
      assert.ok(sleepCount > 100, `slept only ${sleepCount} times: nothing was tested`);
      await worker.terminate();
      sys.close(wakeFd);
      reactor.close();
    });
  }
}

if (isMainThread) {
  adaptiveTests();
  pollerTests();
  loopTests();
  wakeTests();
} else {
  flood(workerData as FloodOrder);
}
