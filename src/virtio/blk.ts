// @hot
// One virtqueue of a virtio-blk device: takes requests off the ring, checks them, turns them into
// slots of the reactor's request table, and answers them (virtio 1.x, 5.2.6).
//
//   poll():  pop -> header -> range and memory checks -> acquire slot -> device.submit
//   drain:   requestCompleted -> status byte -> push        (any order)
//   flush(): publish -> notify the driver if it asked       (once per loop turn)
//
// Invariants:
// - Every popped head is answered exactly once, or the ring is broken because it cannot be.
// - Guest memory is copied once and only the copy is used (row 32 of the hostile input checklist
//   in TESTING.md; "row" below always means that list).
// - The status byte is the last byte of the last writable descriptor (rows 13, 22).
// - A ring breaks once; the handler hears of it once; what the device has is still answered.
// - Slots of an earlier life of the ring (stop() while requests were out) are recognised by their
//   epoch and only released: guest memory is not touched for them.

import {
  assert,
  EOPNOTSUPP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type RequestOwner,
  type RequestTable,
} from "../base/index.ts";
import type { BlockDevice, GuestMemory, Poller } from "../ports/index.ts";
import { NO_GUEST_MEMORY } from "./_ring-memory.ts";
import type { BlkConfig } from "./blk-config.ts";
import {
  add,
  type BlkMeter,
  COUNTER_ERROR,
  COUNTER_INFLIGHT,
  COUNTER_NOTIFICATION,
  COUNTER_NOTIFICATION_SUPPRESSED,
  COUNTER_OTHER,
  COUNTER_PAUSE,
  COUNTER_RING_ERROR,
  COUNTER_UNSUPPORTED,
  COUNTERS_BYTES_MIN,
  countCompleted,
} from "./blk-meter.ts";
import {
  type BlkQueueModules,
  type BlkQueueStart,
  type CallNotifier,
  NO_NOTIFIER,
  type RingBreakHandler,
} from "./blk-modules.ts";
import {
  fillRange,
  fillTransfer,
  HEADER_BYTES,
  headerType,
  isRangeEmpty,
  isTransferOnDevice,
  readHeader,
  readRange,
  writeSerial,
} from "./blk-request.ts";
import { Chain } from "./chain.ts";
import { mapReadable, mapWritable, markSegmentsDirty } from "./chain-memory.ts";
import {
  BLK_S_IOERR,
  BLK_S_OK,
  BLK_S_UNSUPP,
  BLK_T_DISCARD,
  BLK_T_FLUSH,
  BLK_T_FLUSH_OUT,
  BLK_T_GET_ID,
  BLK_T_IN,
  BLK_T_OUT,
  BLK_T_WRITE_ZEROES,
  F_RING_PACKED,
  hasFeature,
} from "./layouts.ts";
import { PackedQueue } from "./packed-queue.ts";
import { SplitQueue } from "./split-queue.ts";
import {
  BROKEN_INFLIGHT,
  BROKEN_NO_STATUS,
  BROKEN_STATUS_UNREACHABLE,
  NONE,
  type RingLog,
  type Virtqueue,
} from "./virtqueue.ts";

/** Requests taken per poll: keeps one busy queue from starving the others (row 37). */
export const POLL_BATCH_MAX = 64;

/** The thread's chain: a queue has done with it before another queue pops. */
const THREAD_CHAIN: Chain = new Chain();

const NO_HEADS: Uint16Array = new Uint16Array(0);
const NO_ADDRESSES: Float64Array = new Float64Array(0);

export class BlkQueue implements RequestOwner, Poller {
  readonly index: number;
  /** 0, or the reason why the ring is broken. */
  brokenReason = 0;

  private readonly reactor: BlkQueueModules["reactor"];
  private readonly requests: RequestTable;
  private readonly device: BlockDevice;
  private readonly config: BlkConfig;
  private readonly meter: BlkMeter;
  private readonly counters: Float64Array;
  private readonly breakHandler: RingBreakHandler;
  private readonly ownerIndex: number;
  private readonly chain: Chain = THREAD_CHAIN;
  private queue: Virtqueue = new SplitQueue();
  private isPacked = false;
  private memory: GuestMemory = NO_GUEST_MEMORY;
  private notifier: CallNotifier = NO_NOTIFIER;
  private started = false;
  private taking = false;
  /** Tags the slots of this life of the ring. */
  private epoch = 0;
  /** Slots at the device, of this life and of earlier ones. */
  private submittedCount = 0;
  private pushedCount = 0;
  private inflightReported = 0;
  /** Where the status of each head goes. */
  private statusAddresses: Float64Array = NO_ADDRESSES;
  private resubmit: Uint16Array = NO_HEADS;
  private resubmitNext = 0;

  constructor(index: number, modules: BlkQueueModules) {
    assert(modules.meter.counters.byteLength >= COUNTERS_BYTES_MIN, "meter has too few counters");
    this.index = index;
    this.reactor = modules.reactor;
    this.requests = modules.reactor.requests;
    this.device = modules.device;
    this.config = modules.config;
    this.meter = modules.meter;
    this.counters = modules.meter.counters;
    this.breakHandler = modules.breakHandler;
    this.ownerIndex = this.requests.addOwner(this);
  }

  /** Requests taken from the ring and not yet answered. */
  get inflightCount(): number {
    return this.queue.inflightCount;
  }

  /** Requests at the device; above inflightCount when a stop() left some behind. */
  get deviceCount(): number {
    return this.submittedCount;
  }

  /** Heads of an earlier process that wait to be taken up again. */
  get resubmitCount(): number {
    return this.resubmit.length - this.resubmitNext;
  }

  /** What GET_VRING_BASE answers, also after stop(). */
  get base(): number {
    return this.queue.base;
  }

  /**
   * Starts the ring and takes requests from the next poll() on. Returns 0 or a BROKEN_... reason
   * (the handler is not called). The driver is interrupted once: an earlier process may have died
   * between making elements visible and saying so.
   */
  // @cold
  start(options: BlkQueueStart): number {
    assert(!this.started, "queue started twice");
    const ring = options.ring;
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
      if (this.queue.markInflight(this.resubmit[at] as number)) continue;
      this.queue.stop();
      return BROKEN_INFLIGHT;
    }
    this.statusAddresses = new Float64Array(ring.size);
    this.memory = ring.memory;
    this.notifier = options.notifier;
    this.epoch = (this.epoch + 1) >>> 0;
    this.brokenReason = 0;
    this.pushedCount = 0;
    this.started = true;
    this.taking = true;
    this.notifier.signal();
    return 0;
  }

  /**
   * Stops the ring. Normally drained before (stopTaking, then inflightCount 0); otherwise what is
   * still out is a tracker's to answer, and the device lets go of guest memory at deviceCount 0.
   */
  // @cold
  stop(): void {
    if (!this.started) return;
    this.flush();
    this.queue.stop();
    this.reportInflight();
    this.started = false;
    this.taking = false;
    this.epoch = (this.epoch + 1) >>> 0;
    this.memory = NO_GUEST_MEMORY;
    this.notifier = NO_NOTIFIER;
    this.statusAddresses = NO_ADDRESSES;
    this.resubmit = NO_HEADS;
    this.resubmitNext = 0;
  }

  /** Ends the queue for good. Nothing of it may be at the device. */
  // @cold
  close(): void {
    this.stop();
    assert(this.submittedCount === 0, "queue closed with requests at the device");
    this.requests.removeOwner(this.ownerIndex);
  }

  /**
   * Takes no further request. What was taken is still answered, and what an earlier process had
   * taken is still resubmitted.
   */
  stopTaking(): void {
    this.taking = false;
  }

  setMemory(memory: GuestMemory): void {
    if (!this.started) return;
    this.memory = memory;
    this.queue.setMemory(memory);
  }

  setRingLog(ringLog: RingLog | null): void {
    this.queue.setRingLog(ringLog);
  }

  // Poller, RequestOwner --------------------------------------------------------------------------

  poll(): number {
    if (this.resubmitNext !== this.resubmit.length) return this.pollResubmitted();
    if (!this.taking) return 0;
    let taken = 0;
    while (taken < POLL_BATCH_MAX) {
      if (this.requests.freeSlots === 0) {
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

  /** Without a free slot this stays true: the loop spins until a completion frees one. */
  arm(): boolean {
    this.flush();
    if (this.resubmitNext !== this.resubmit.length) return true;
    if (!this.taking) return false;
    return this.queue.enableNotifications();
  }

  disarm(): void {
    if (this.taking) this.queue.disableNotifications();
  }

  /** Makes what was pushed visible and interrupts the driver if it wants that. */
  flush(): void {
    if (this.pushedCount === 0) return;
    this.pushedCount = 0;
    const queue = this.queue;
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

  requestCompleted(slot: number, result: number): void {
    const requests = this.requests;
    this.submittedCount -= 1;
    if (requests.ownerTagB[slot] !== this.epoch) {
      requests.release(slot);
      return;
    }
    const head = requests.ownerTagA[slot] as number;
    const op = requests.op[slot] as number;
    const bytes = requests.lengthBytes[slot] as number;
    let usedBytes = 1;
    if (op === OP_READ) {
      // A failed read may have written some of the data: the pages are dirty all the same.
      if (this.memory.logging) markSegmentsDirty(requests, slot, this.memory);
      if (result >= 0) usedBytes = bytes + 1;
    }
    this.meter.recordLatency(op, this.reactor.loopTimeUs - (requests.startedUs[slot] as number));
    requests.release(slot);
    if (result >= 0) {
      countCompleted(this.counters, op, bytes);
      this.answer(head, BLK_S_OK, usedBytes);
    } else {
      countCompleted(this.counters, op, 0);
      this.refuse(head, result === -EOPNOTSUPP ? BLK_S_UNSUPP : BLK_S_IOERR);
    }
  }

  // Taking requests -------------------------------------------------------------------------------

  private pollResubmitted(): number {
    let taken = 0;
    while (this.resubmitNext < this.resubmit.length && taken < POLL_BATCH_MAX) {
      if (this.requests.freeSlots === 0) break;
      const head = this.queue.resubmit(this.resubmit[this.resubmitNext] as number, this.chain);
      if (head < 0) {
        this.breakRing(head);
        break;
      }
      this.resubmitNext += 1;
      taken += 1;
      this.take(head);
    }
    this.reportInflight();
    return taken;
  }

  /** Decides about the request in the chain: at the device, or answered, or the ring is broken. */
  private take(head: number): void {
    const chain = this.chain;
    const last = chain.lastWritable;
    if (last < 0) {
      this.queue.abandon(head);
      this.breakRing(BROKEN_NO_STATUS);
      return;
    }
    this.statusAddresses[head] =
      (chain.addresses[last] as number) + (chain.lengths[last] as number) - 1;
    // Rows 13, 15, 20, 25: nothing of such a request is looked at.
    const readable = chain.flags === 0 && chain.readableBytes >= HEADER_BYTES;
    if (!readable || !readHeader(chain, this.memory)) {
      this.answerOther(head, BLK_S_IOERR, 1);
      return;
    }
    const type = headerType();
    if (type === BLK_T_IN) {
      this.takeTransfer(head, OP_READ, chain.writableBytes - 1);
    } else if (type === BLK_T_OUT) {
      this.takeTransfer(head, OP_WRITE, chain.readableBytes - HEADER_BYTES);
    } else {
      this.takeRare(head, type);
    }
  }

  private takeTransfer(head: number, op: number, bytes: number): void {
    const config = this.config;
    if (!isTransferOnDevice(config, bytes) || (op === OP_WRITE && config.readOnly)) {
      this.answerOther(head, BLK_S_IOERR, 1);
      return;
    }
    if (bytes === 0) {
      this.answerOther(head, BLK_S_OK, 1);
      return;
    }
    const requests = this.requests;
    const slot = requests.acquire(this.ownerIndex);
    assert(slot >= 0, "a slot was free before the request was taken");
    const mapped =
      op === OP_READ
        ? mapWritable(this.chain, this.memory, bytes, requests, slot)
        : mapReadable(this.chain, this.memory, HEADER_BYTES, bytes, requests, slot);
    if (!mapped) {
      requests.release(slot);
      this.answerOther(head, BLK_S_IOERR, 1);
      return;
    }
    fillTransfer(requests, slot, config, op);
    this.submit(head, slot, op);
  }

  /** Hands over a slot whose offset, length, flags and segments are set. */
  private submit(head: number, slot: number, op: number): void {
    const requests = this.requests;
    requests.op[slot] = op;
    requests.ownerTagA[slot] = head;
    requests.ownerTagB[slot] = this.epoch;
    requests.startedUs[slot] = this.reactor.loopTimeUs;
    this.submittedCount += 1;
    this.device.submit(slot);
  }

  private takeRare(head: number, type: number): void {
    if (type === BLK_T_FLUSH || type === BLK_T_FLUSH_OUT) {
      const slot = this.requests.acquire(this.ownerIndex);
      assert(slot >= 0, "a slot was free before the request was taken");
      this.requests.offsetBytes[slot] = 0;
      this.submit(head, slot, OP_FLUSH);
    } else if (type === BLK_T_GET_ID) {
      this.takeGetId(head);
    } else if (type === BLK_T_DISCARD) {
      this.takeRange(head, OP_DISCARD);
    } else if (type === BLK_T_WRITE_ZEROES) {
      this.takeRange(head, OP_WRITE_ZEROES);
    } else {
      this.answerOther(head, BLK_S_UNSUPP, 1);
    }
  }

  private takeGetId(head: number): void {
    const bytes = writeSerial(this.chain, this.memory, this.config);
    if (bytes >= 0) this.answerOther(head, BLK_S_OK, bytes + 1);
    else this.answerOther(head, BLK_S_IOERR, 1);
  }

  private takeRange(head: number, op: number): void {
    const status = readRange(this.chain, this.memory, this.config, op);
    if (status !== BLK_S_OK || isRangeEmpty()) {
      this.answerOther(head, status, 1);
      return;
    }
    const slot = this.requests.acquire(this.ownerIndex);
    assert(slot >= 0, "a slot was free before the request was taken");
    fillRange(this.requests, slot, this.config, op);
    this.submit(head, slot, op);
  }

  // Answering -------------------------------------------------------------------------------------

  /** Answers a request that never reached the device. */
  private answerOther(head: number, status: number, usedBytes: number): void {
    add(this.counters, COUNTER_OTHER, 1);
    if (status === BLK_S_OK) this.answer(head, status, usedBytes);
    else this.refuse(head, status);
  }

  private refuse(head: number, status: number): void {
    add(this.counters, status === BLK_S_UNSUPP ? COUNTER_UNSUPPORTED : COUNTER_ERROR, 1);
    this.answer(head, status, 1);
  }

  private answer(head: number, status: number, usedBytes: number): void {
    if (!this.memory.writeU8(this.statusAddresses[head] as number, status)) {
      this.queue.abandon(head);
      this.breakRing(BROKEN_STATUS_UNREACHABLE);
      // Nothing is to be shown, but whoever waits for the last answer must hear of it.
      this.reactor.requestFlush(this);
      return;
    }
    this.queue.push(head, usedBytes);
    this.pushedCount += 1;
    if (this.pushedCount === 1) this.reactor.requestFlush(this);
  }

  private breakRing(reason: number): void {
    if (this.brokenReason !== 0) return;
    this.brokenReason = reason;
    this.taking = false;
    this.queue.breakRing(reason);
    // Heads that were to be resubmitted will not be answered any more.
    while (this.resubmitNext < this.resubmit.length) {
      this.queue.abandon(this.resubmit[this.resubmitNext] as number);
      this.resubmitNext += 1;
    }
    add(this.counters, COUNTER_RING_ERROR, 1);
    this.breakHandler.ringBroken(this.index, reason);
  }

  private reportInflight(): void {
    const now = this.queue.inflightCount;
    if (now === this.inflightReported) return;
    add(this.counters, COUNTER_INFLIGHT, now - this.inflightReported);
    this.inflightReported = now;
  }
}
