// The mailbox between two real threads: nothing lost, nothing out of order, no lost wake-up; and
// every interleaving of the atomic steps of post() with those of arm(), disarm() and take().
//
// This file is also the producer's thread: it is started again as a worker.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { Prng } from "../base/index.ts";
import { check, close, eventClear, eventfd, POLLIN, pollOne } from "../sys/index.ts";
import { Mailbox } from "./mailbox.ts";

const LOST_AFTER_MS = 10_000;

interface FloodOrder {
  readonly job: "flood";
  readonly shared: SharedArrayBuffer;
  readonly wakeFd: number;
  readonly wordCount: number;
}

interface StepOrder {
  readonly job: "steps";
  readonly shared: SharedArrayBuffer;
  readonly baton: SharedArrayBuffer;
  readonly wakeFd: number;
}

/** The word at `index`: uses all 32 bits. */
function wordAt(index: number): number {
  return Math.imul(index, 0x9e3779b1) >>> 0;
}

function flood(order: FloodOrder): void {
  const mailbox = new Mailbox(order.shared, order.wakeFd);
  const prng = new Prng(order.wordCount);
  for (let index = 0; index < order.wordCount; index++) {
    while (!mailbox.post(wordAt(index)));
    // Pauses of every length, so that the consumer is met polling, arming and asleep.
    if (prng.below(256) !== 0) continue;
    const until = performance.now() + prng.pick([0.001, 0.01, 0.05]);
    while (performance.now() < until);
  }
}

// The real Atomics, whatever a test puts in their place.
const real = Atomics;

// baton[0]: 0 = the consumer's turn, 1 = the producer may take one step, 2 = it runs a post, 3 =
// end. baton[1]: 1 while a post is under way.
const TURN = 0;
const POSTING = 1;
const WORD = 2;

/** The producer's thread of the step test: each atomic operation waits for permission. */
function stepThroughPosts(order: StepOrder): void {
  const baton = new Int32Array(order.baton);
  const mailbox = new Mailbox(order.shared, order.wakeFd);
  const waitForStep = (): void => {
    real.store(baton, TURN, 0);
    real.notify(baton, TURN);
    while (real.load(baton, TURN) === 0) real.wait(baton, TURN, 0);
  };
  for (;;) {
    waitForStep();
    const turn = real.load(baton, TURN);
    if (turn === 3) break;
    assert.equal(turn, 2);
    globalThis.Atomics = stepped(waitForStep);
    mailbox.post(baton[WORD] as number);
    globalThis.Atomics = real;
    real.store(baton, POSTING, 0);
  }
}

/** Atomics that call `before` ahead of each operation. */
function stepped(before: () => void): typeof Atomics {
  const wrap =
    (operation: (...args: never[]) => unknown) =>
    (...args: never[]): unknown => {
      before();
      return operation(...args);
    };
  return {
    ...real,
    load: wrap(real.load as never) as never,
    store: wrap(real.store as never) as never,
    compareExchange: wrap(real.compareExchange as never) as never,
  };
}

/** The wrong order, which the enumeration must be able to tell from the right one. */
class ForgetfulMailbox extends Mailbox {
  override arm(): boolean {
    const hasMail = this.hasMail;
    super.arm();
    return hasMail;
  }
}

class Interleaver {
  private readonly baton = new Int32Array(new SharedArrayBuffer(16));
  private readonly shared = Mailbox.allocate(4);
  private readonly wakeFd = check(eventfd(), "eventfd");
  private readonly mailbox: Mailbox;
  private readonly worker: Worker;
  private schedule = 0;
  private nextWord = 1;
  private toPost = 0;

  constructor(make: new (shared: SharedArrayBuffer, wakeFd: number) => Mailbox) {
    this.mailbox = new make(this.shared, this.wakeFd);
    const order: StepOrder = {
      job: "steps",
      shared: this.shared,
      baton: this.baton.buffer as SharedArrayBuffer,
      wakeFd: this.wakeFd,
    };
    real.store(this.baton, TURN, 9);
    this.worker = new Worker(new URL(import.meta.url), { workerData: order });
  }

  async start(): Promise<void> {
    while (real.load(this.baton, TURN) !== 0) await new Promise((done) => setTimeout(done, 1));
  }

  async end(): Promise<void> {
    const ended = new Promise((done) => this.worker.once("exit", done));
    this.give(3);
    await ended;
    close(this.wakeFd);
  }

  private give(turn: number): void {
    real.store(this.baton, TURN, turn);
    real.notify(this.baton, TURN);
  }

  /** Lets the producer do its next atomic operation; false when it has nothing more to post. */
  private stepProducer(): boolean {
    if (real.load(this.baton, POSTING) === 0) {
      if (this.toPost === 0) return false;
      this.toPost -= 1;
      real.store(this.baton, WORD, this.nextWord++);
      real.store(this.baton, POSTING, 1);
      this.give(2);
    } else {
      this.give(1);
    }
    for (;;) {
      const turn = real.load(this.baton, TURN);
      if (turn === 0) return true;
      real.wait(this.baton, TURN, turn);
    }
  }

  /** Before each atomic operation of the consumer: producer steps while the schedule says so. */
  private readonly beforeConsumer = (): void => {
    while ((this.schedule & 1) === 1) {
      this.schedule >>>= 1;
      if (!this.stepProducer()) break;
    }
    this.schedule >>>= 1;
  };

  /**
   * `postCount` posts against a consumer that takes what is there, arms, and sleeps until it is
   * signalled. `schedule`: bits, lowest first, 1 = a step of the producer, 0 = of the consumer.
   * Returns the words missing because the consumer slept and nobody woke it.
   */
  run(schedule: number, postCount: number): number {
    this.schedule = schedule;
    this.toPost = postCount;
    const first = this.nextWord;
    const received: number[] = [];
    globalThis.Atomics = stepped(this.beforeConsumer);
    try {
      let rounds = 0;
      while (received.length < postCount) {
        while (this.mailbox.hasMail) received.push(this.mailbox.take());
        if (received.length === postCount) break;
        if (!this.mailbox.arm()) {
          // Asleep: the producer runs to its end, and must have left a signal.
          while (this.stepProducer());
          if (eventClear(this.wakeFd) < 0) break;
        }
        this.mailbox.disarm();
        assert.ok(++rounds < 100, "the consumer does not come to rest");
      }
    } finally {
      globalThis.Atomics = real;
    }
    while (this.stepProducer());
    const missing = postCount - received.length;
    while (this.mailbox.hasMail) received.push(this.mailbox.take());
    this.mailbox.disarm();
    eventClear(this.wakeFd);
    const expected = Array.from({ length: postCount }, (_, index) => first + index);
    assert.deepEqual(received, expected, `schedule ${schedule.toString(2)}`);
    return missing;
  }
}

function defineTests(): void {
  test("a million words through a small ring: none lost, in order, no lost wake-up", async () => {
    const shared = Mailbox.allocate(256);
    const wakeFd = check(eventfd(), "eventfd");
    const wordCount = 1_000_000;
    const order: FloodOrder = { job: "flood", shared, wakeFd, wordCount };
    const worker = new Worker(new URL(import.meta.url), { workerData: order });
    const failed = new Promise<never>((_, reject) => worker.once("error", reject));
    const mailbox = new Mailbox(shared, wakeFd);
    let next = 0;
    let sleepCount = 0;
    while (next < wordCount) {
      while (mailbox.hasMail) {
        const word = mailbox.take();
        if (word !== wordAt(next)) assert.fail(`word ${next} is ${word}`);
        next += 1;
      }
      if (next === wordCount) break;
      if (!mailbox.arm()) {
        sleepCount += 1;
        const events = pollOne(wakeFd, POLLIN, LOST_AFTER_MS);
        assert.equal(events, POLLIN, `asleep with ${next} words received and nobody woke us`);
        eventClear(wakeFd);
      }
      mailbox.disarm();
    }
    await Promise.race([failed, new Promise((done) => worker.once("exit", done))]);
    assert.ok(sleepCount > 100, `the consumer slept only ${sleepCount} times: nothing was tested`);
    assert.equal(mailbox.hasMail, false);
    close(wakeFd);
  });

  test("every interleaving of two posts with a consumer that goes to sleep", async () => {
    const interleaver = new Interleaver(Mailbox);
    await interleaver.start();
    for (let schedule = 0; schedule < 4096; schedule++) {
      const missing = interleaver.run(schedule, 2);
      assert.equal(missing, 0, `lost wake-up in schedule ${schedule.toString(2)}`);
    }
    await interleaver.end();
  });

  test("the enumeration notices a consumer that looks before it arms", async () => {
    const interleaver = new Interleaver(ForgetfulMailbox);
    await interleaver.start();
    let lostCount = 0;
    for (let schedule = 0; schedule < 256; schedule++) lostCount += interleaver.run(schedule, 1);
    await interleaver.end();
    assert.ok(lostCount > 0);
  });

  test("full and empty are told apart, one signal per sleep", () => {
    const wakeFd = check(eventfd(), "eventfd");
    const mailbox = new Mailbox(Mailbox.allocate(4), wakeFd);
    assert.equal(mailbox.hasMail, false);
    assert.throws(() => mailbox.take(), /mailbox is empty/);
    for (let round = 0; round < 10; round++) {
      for (let word = 0; word < 3; word++) assert.equal(mailbox.post(0xfffffff0 + word), true);
      assert.equal(mailbox.post(9), false, "one entry of four is the gap");
      assert.deepEqual(
        [mailbox.take(), mailbox.take(), mailbox.take()],
        [0xfffffff0, 0xfffffff1, 0xfffffff2],
      );
    }
    assert.ok(eventClear(wakeFd) < 0, "an awake consumer is not signalled");
    assert.equal(mailbox.arm(), false);
    for (let word = 0; word < 3; word++) mailbox.post(word);
    assert.equal(eventClear(wakeFd), 8);
    assert.ok(eventClear(wakeFd) < 0);
    assert.equal(mailbox.arm(), true, "mail is there already");
    mailbox.disarm();
    close(wakeFd);
    assert.throws(() => new Mailbox(new SharedArrayBuffer((48 + 3) * 4), 0), /power of two/);
  });
}

if (isMainThread) defineTests();
else if ((workerData as FloodOrder | StepOrder).job === "flood") flood(workerData as FloodOrder);
else stepThroughPosts(workerData as StepOrder);
