// @hot
// What the three kinds of rings of a virtio-scsi device share: the life of the virtqueue, taking
// chains in bounded turns, pushing answers, breaking. What a chain means is each kind's
// (scsi-requests.ts, scsi-control.ts, scsi-events.ts).
//
// Invariants:
//  - a ring is stopped only with nothing taken (deviceCount 0); every popped head is pushed once,
//    or the ring is broken because its answer has no place;
//  - guest memory is copied once and only the copy is used;
//  - a ring breaks once; the handler hears of it once; what is under way is still answered.

import { assert } from "../base/index.ts";
import type { GuestMemory } from "../ports/index.ts";
import {
  add,
  type BlkQueueStart,
  BROKEN_INFLIGHT,
  BROKEN_STATUS_UNREACHABLE,
  type CallNotifier,
  Chain,
  COUNTER_INFLIGHT,
  COUNTER_NOTIFICATION,
  COUNTER_NOTIFICATION_SUPPRESSED,
  COUNTER_PAUSE,
  COUNTER_RING_ERROR,
  F_RING_PACKED,
  hasFeature,
  NO_GUEST_MEMORY,
  NO_NOTIFIER,
  NONE,
  PackedQueue,
  POLL_BATCH_MAX,
  type RingLog,
  SplitQueue,
  type Virtqueue,
} from "../virtio/index.ts";
import type { QueueSeams, RingQueue } from "./guest-device.ts";

/** The thread's chain: whoever popped into it has done with it before another ring pops. */
const THREAD_CHAIN: Chain = new Chain();
const NO_HEADS: Uint16Array = new Uint16Array(0);

export abstract class ScsiRing implements RingQueue {
  readonly index: number;
  brokenReason = 0;
  protected readonly seams: QueueSeams;
  protected readonly chain: Chain = THREAD_CHAIN;
  protected queue: Virtqueue = new SplitQueue();
  protected memory: GuestMemory = NO_GUEST_MEMORY;
  protected taking = false;
  private readonly counters: Float64Array;
  private isPacked = false;
  private notifier: CallNotifier = NO_NOTIFIER;
  private started = false;
  private pushedCount = 0;
  private inflightReported = 0;
  private resubmit: Uint16Array = NO_HEADS;
  private resubmitNext = 0;

  constructor(index: number, seams: QueueSeams, counters: Float64Array) {
    this.index = index;
    this.seams = seams;
    this.counters = counters;
  }

  /** Answers that are still to come. */
  abstract readonly deviceCount: number;

  /** Decides about the chain that was popped as `head`. */
  protected abstract take(head: number): void;

  /** The same for a chain that an earlier process had taken. */
  protected abstract retake(head: number): void;

  /** False: nothing can be taken now, for want of room; asked before each chain. */
  protected abstract hasRoom(): boolean;

  get resubmitCount(): number {
    return this.resubmit.length - this.resubmitNext;
  }

  get base(): number {
    return this.queue.base;
  }

  // @cold
  start(options: BlkQueueStart): number {
    assert(!this.started, "queue started twice");
    const { ring } = options;
    const packed = hasFeature(ring.featuresLow, ring.featuresHigh, F_RING_PACKED);
    if (packed !== this.isPacked) {
      this.queue = packed ? new PackedQueue() : new SplitQueue();
      this.isPacked = packed;
    }
    const reason = this.queue.start(ring);
    if (reason !== 0) {
      this.queue.stop();
      return reason;
    }
    this.resubmit = options.resubmit ?? NO_HEADS;
    this.resubmitNext = 0;
    for (let at = 0; at < this.resubmit.length; at++) {
      if (this.queue.markInflight(this.resubmit[at])) continue;
      this.queue.stop();
      return BROKEN_INFLIGHT;
    }
    this.memory = ring.memory;
    this.notifier = options.notifier;
    this.started = true;
    this.taking = true;
    // An earlier process may have died between making elements visible and saying so.
    this.notifier.signal();
    return 0;
  }

  // @cold
  close(): void {
    assert(this.deviceCount === 0, "queue closed with requests under way");
    if (!this.started) return;
    this.flush();
    this.queue.stop();
    this.reportInflight();
    this.started = false;
    this.taking = false;
    this.memory = NO_GUEST_MEMORY;
    this.notifier = NO_NOTIFIER;
  }

  stopTaking(): void {
    this.taking = false;
  }

  setRingLog(ringLog: RingLog | null): void {
    this.queue.setRingLog(ringLog);
  }

  // Poller ----------------------------------------------------------------------------------------

  poll(): number {
    if (this.resubmitNext !== this.resubmit.length) return this.pollResubmitted();
    if (!this.taking) return 0;
    let taken = 0;
    while (taken < POLL_BATCH_MAX) {
      if (!this.hasRoom()) {
        add(this.counters, COUNTER_PAUSE, 1);
        break;
      }
      const head = this.queue.pop(this.chain);
      if (head < 0) {
        if (head !== NONE) this.breakRing(head);
        break;
      }
      taken += 1;
      this.take(head);
    }
    if (taken !== 0) this.reportInflight();
    return taken;
  }

  private pollResubmitted(): number {
    let taken = 0;
    while (this.resubmitNext < this.resubmit.length && taken < POLL_BATCH_MAX) {
      if (!this.hasRoom()) break;
      const head = this.queue.resubmit(this.resubmit[this.resubmitNext], this.chain);
      if (head < 0) {
        this.breakRing(head);
        break;
      }
      this.resubmitNext += 1;
      taken += 1;
      this.retake(head);
    }
    this.reportInflight();
    return taken;
  }

  /** Where there was no room this stays true: the loop spins until an answer makes some. */
  arm(): boolean {
    this.flush();
    if (this.resubmitNext !== this.resubmit.length) return true;
    if (!this.taking) return false;
    return this.queue.enableNotifications();
  }

  disarm(): void {
    if (this.taking) this.queue.disableNotifications();
  }

  flush(): void {
    if (this.pushedCount === 0) return;
    this.pushedCount = 0;
    const { queue } = this;
    queue.publish();
    let counter = COUNTER_NOTIFICATION_SUPPRESSED;
    if (queue.needsNotification()) {
      counter = COUNTER_NOTIFICATION;
      this.notifier.signal();
    }
    add(this.counters, counter, 1);
    this.reportInflight();
    if (queue.broken !== 0) this.breakRing(queue.broken);
  }

  owesNotification(): boolean {
    return this.queue.owesNotification();
  }

  remind(): void {
    this.queue.notified();
    this.notifier.signal();
  }

  // Answering -------------------------------------------------------------------------------------

  protected push(head: number, usedBytes: number): void {
    this.queue.push(head, usedBytes);
    this.pushedCount += 1;
    if (this.pushedCount === 1) this.seams.reactor.requestFlush(this);
  }

  /** The place of the answer lies outside guest memory: it cannot be given. */
  protected answerLost(head: number): void {
    this.giveUp(head, BROKEN_STATUS_UNREACHABLE);
    // Nothing is to be shown, but whoever waits for the last answer must hear of it.
    this.seams.reactor.requestFlush(this);
  }

  protected giveUp(head: number, reason: number): void {
    this.queue.abandon(head);
    this.breakRing(reason);
  }

  protected breakRing(reason: number): void {
    if (this.brokenReason !== 0) return;
    this.brokenReason = reason;
    this.taking = false;
    this.queue.breakRing(reason);
    // Heads that were to be resubmitted will not be answered any more.
    while (this.resubmitNext < this.resubmit.length) {
      this.queue.abandon(this.resubmit[this.resubmitNext]);
      this.resubmitNext += 1;
    }
    add(this.counters, COUNTER_RING_ERROR, 1);
    this.seams.breakHandler.ringBroken(this.index, reason);
  }

  private reportInflight(): void {
    const now = this.queue.inflightCount;
    if (now === this.inflightReported) return;
    add(this.counters, COUNTER_INFLIGHT, now - this.inflightReported);
    this.inflightReported = now;
  }
}
