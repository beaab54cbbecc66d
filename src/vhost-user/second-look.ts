// @hot
// A second look at a ring that sleeps, because a wake-up can get lost on the driver's side.
//
// Both sides of a virtqueue store "I sleep, wake me from here on", then look once more (virtio 1.2,
// 2.7.10): a full fence between the two is all that keeps both from sleeping for ever. We have it.
// A guest has it only if its machine does: where QEMU emulates a machine of one CPU it leaves out
// fences and locks (seen with 7.2), although devices run beside that CPU. Such a guest loses a kick
// or an interrupt now and then under load, and its disk would stand still.
//
//   ring sleeps --LOOK_MS--> look --LOOK_MS--> look    nothing to see: left alone till next time
//                              \_ requests on the ring, or an interrupt owed: look again; still so,
//                                 and no kick meanwhile: take them, or interrupt, and count it
//
// Invariants:
//  - a ring that is polled, drained or stopped is not looked at;
//  - a ring that sleeps has no timer after two looks that saw nothing: idle rings cost nothing;
//  - what one look sees may be on its way (a kick between its store and its eventfd): only what
//    two looks see, with nothing between them, is called late;
//  - without EVENT_IDX a driver does not say how far it has looked: it is interrupted once more,
//    which is harmless, and that is not counted.

import type { Poller, ReactorPort, TimerHandler } from "../ports/index.ts";
import { add, type BlkMeter, COUNTER_LATE_INTERRUPT, COUNTER_LATE_KICK } from "../virtio/index.ts";
import type { RingQueue } from "./guest-device.ts";

const LOOK_MS = 50;
const REQUESTS = 1;
const INTERRUPT = 2;
const NO_TIMER = -1;

/** What is looked at. */
export interface SleepingRing extends Poller {
  readonly index: number;
  readonly enabled: boolean;
}

export interface LateOwner {
  /** A wake-up came late, the first of this ring: `lost` is a kick or an interrupt. */
  ringLate(ring: SleepingRing, lost: string): void;
}

export interface SecondLookModules {
  readonly reactor: ReactorPort;
  readonly meter: BlkMeter;
  readonly owner: LateOwner;
}

export class SecondLook implements TimerHandler {
  private readonly reactor: ReactorPort;
  private readonly owner: LateOwner;
  private readonly counters: Float64Array;
  private readonly ring: SleepingRing;
  private queue: RingQueue | null = null;
  private timerId = NO_TIMER;
  private asleep = false;
  /** The driver says exactly what it waits for (EVENT_IDX). */
  private exact = false;
  /** The next look has one before it, with nothing between. */
  private compare = false;
  private seen = 0;
  private told = false;

  constructor(modules: SecondLookModules, ring: SleepingRing) {
    this.reactor = modules.reactor;
    this.owner = modules.owner;
    this.counters = modules.meter.counters;
    this.ring = ring;
  }

  // @cold
  start(queue: RingQueue, exact: boolean): void {
    this.queue = queue;
    this.exact = exact;
  }

  // @cold
  stop(): void {
    this.queue = null;
    this.asleep = false;
    if (this.timerId !== NO_TIMER) this.reactor.cancelTimer(this.timerId);
    this.timerId = NO_TIMER;
  }

  /** The ring waits for a kick from now on. */
  slept(): void {
    this.asleep = true;
    this.compare = false;
    if (this.timerId === NO_TIMER) this.timerId = this.reactor.setTimer(LOOK_MS, this, 0);
  }

  /** The ring is polled from now on. */
  woke(): void {
    this.asleep = false;
  }

  timerFired(_tag: number): void {
    this.timerId = NO_TIMER;
    const queue = this.queue;
    if (queue === null || !this.asleep || !this.ring.enabled) return;
    // In this order: what arm() shows the driver may be what it is owed an interrupt for.
    const seen = (queue.arm() ? REQUESTS : 0) | (queue.owesNotification() ? INTERRUPT : 0);
    const late = this.compare ? seen & this.seen : 0;
    const again = seen !== 0 || !this.compare;
    this.seen = seen & ~late;
    this.compare = true;
    if (again) this.timerId = this.reactor.setTimer(LOOK_MS, this, 0);
    if ((late & INTERRUPT) !== 0) {
      if (this.exact) this.count(COUNTER_LATE_INTERRUPT, "interrupt");
      queue.remind();
    }
    if ((late & REQUESTS) !== 0) {
      this.count(COUNTER_LATE_KICK, "kick");
      this.reactor.activate(this.ring);
    }
  }

  private count(counter: number, lost: string): void {
    add(this.counters, counter, 1);
    if (this.told) return;
    this.told = true;
    this.owner.ringLate(this.ring, lost);
  }
}
