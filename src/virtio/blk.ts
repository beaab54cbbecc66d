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
// - Header and range segments are copied once and only the copy is used (row 32 of the hostile
//   input checklist in TESTING.md; "row" below always means that list).
// - Sectors are two u32 words until they are known to lie on the device; nothing rounds (row 24).
// - The status byte is the last byte of the last writable descriptor (rows 13, 22).
// - A ring breaks once; the handler hears of it once; what the device has is still answered.
// - Slots of an earlier life of the ring (stop() while requests were out) are recognised by their
//   epoch and only released: guest memory is not touched for them.

import {
  assert,
  EOPNOTSUPP,
  FLAG_DURABLE,
  FLAG_FAULTABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type RequestOwner,
  type RequestTable,
  SECTOR_BYTES,
  TWO_32,
} from "../base/index.ts";
import type { BlockDevice, GuestMemory, Poller, ReactorPort } from "../ports/index.ts";
import { NO_GUEST_MEMORY } from "./_ring-memory.ts";
import {
  type BlkConfig,
  DISCARD_SECTORS_MAX,
  RANGE_SEGMENTS_MAX,
  WRITE_ZEROES_SECTORS_MAX,
} from "./blk-config.ts";
import {
  type BlkMeter,
  COUNTER_DISCARD,
  COUNTER_DISCARD_BYTES,
  COUNTER_ERROR,
  COUNTER_FLUSH,
  COUNTER_INFLIGHT,
  COUNTER_NOTIFICATION,
  COUNTER_NOTIFICATION_SUPPRESSED,
  COUNTER_OTHER,
  COUNTER_PAUSE,
  COUNTER_READ,
  COUNTER_READ_BYTES,
  COUNTER_RING_ERROR,
  COUNTER_UNSUPPORTED,
  COUNTER_WRITE,
  COUNTER_WRITE_BYTES,
  COUNTER_WRITE_ZEROES,
  COUNTER_WRITE_ZEROES_BYTES,
  COUNTERS_BYTES_MIN,
} from "./blk-meter.ts";
import { Chain } from "./chain.ts";
import { gatherReadable, scatterWritable } from "./chain-memory.ts";
import {
  BLK_ID_BYTES,
  BLK_RANGE_F_UNMAP,
  BLK_RANGE_SEGMENT,
  BLK_REQUEST_HEADER,
  BLK_S_IOERR,
  BLK_S_OK,
  BLK_S_UNSUPP,
  BLK_T_BARRIER,
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
  type VirtqueueStart,
} from "./virtqueue.ts";

/** Requests taken per poll: keeps one busy queue from starving the others (row 37). */
export const POLL_BATCH_MAX = 64;

const HEADER_BYTES: number = BLK_REQUEST_HEADER.BYTES;
const SEGMENT_BYTES: number = BLK_RANGE_SEGMENT.BYTES;
const TYPE_MASK = BLK_T_BARRIER - 1;
/** Byte offsets stay exact: sector * 512 < 2^53. */
const SECTOR_HIGH_MAX = 0xfff;

/** Private copy of the header, then of the range segment; one per thread, used within a call. */
const COPY_U8: Uint8Array = new Uint8Array(HEADER_BYTES);
const COPY_WORDS: Uint32Array = new Uint32Array(COPY_U8.buffer);
const TYPE_WORD: number = BLK_REQUEST_HEADER.type >>> 2;
const SECTOR_WORD: number = BLK_REQUEST_HEADER.sector >>> 2;
const SEGMENT_SECTOR_WORD: number = BLK_RANGE_SEGMENT.sector >>> 2;
const SEGMENT_COUNT_WORD: number = BLK_RANGE_SEGMENT.num_sectors >>> 2;
const SEGMENT_FLAGS_WORD: number = BLK_RANGE_SEGMENT.flags >>> 2;

/** The thread's chain: a queue has done with it before another queue pops. */
const THREAD_CHAIN: Chain = new Chain();

const NO_HEADS: Uint16Array = new Uint16Array(0);
const NO_ADDRESSES: Float64Array = new Float64Array(0);

/** Interrupts the driver; vhost-user's call descriptor. Must never block. */
export interface CallNotifier {
  signal(): void;
}

export interface RingBreakHandler {
  /**
   * Called once when a ring broke the rules; `reason` is a BROKEN_... code. Called from within
   * poll() or a completion: the handler must not stop the queue before that has returned.
   */
  ringBroken(queueIndex: number, reason: number): void;
}

export interface BlkQueueModules {
  readonly reactor: Pick<ReactorPort, "requests" | "loopTimeUs" | "requestFlush">;
  readonly device: BlockDevice;
  readonly config: BlkConfig;
  readonly meter: BlkMeter;
  readonly breakHandler: RingBreakHandler;
}

export interface BlkQueueStart {
  readonly ring: VirtqueueStart;
  readonly notifier: CallNotifier;
  /** Heads that an earlier process left in flight, oldest first; answered before anything new. */
  readonly resubmit: Uint16Array | null;
}

class NoNotifier implements CallNotifier {
  signal(): void {}
}
const NO_NOTIFIER: CallNotifier = new NoNotifier();

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
  /** Where the data begins: set by seekData(). */
  private dataIndex = 0;
  private dataSkip = 0;

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

  get isStarted(): boolean {
    return this.started;
  }

  /** What GET_VRING_BASE answers, also after stop(). */
  get base(): number {
    return this.queue.base;
  }

  // @cold
  /**
   * Starts the ring and takes requests from the next poll() on. Returns 0 or a BROKEN_... reason
   * (the handler is not called). The driver is interrupted once: an earlier process may have died
   * between making elements visible and saying so.
   */
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
    this.resubmit = options.resubmit === null ? NO_HEADS : options.resubmit;
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

  // @cold
  /**
   * Stops the ring. Normally drained before (stopTaking, then inflightCount 0); otherwise the
   * requests still out are somebody else's to answer (a tracker's), and `deviceCount` tells when
   * the device has let go of guest memory.
   */
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

  // @cold
  /** Ends the queue for good. Nothing of it may be at the device. */
  close(): void {
    this.stop();
    assert(this.submittedCount === 0, "queue closed with requests at the device");
    this.requests.removeOwner(this.ownerIndex);
  }

  /** Takes no further request; what was taken is still answered. */
  stopTaking(): void {
    this.taking = false;
  }

  /** Takes requests again; the caller activates the poller. */
  resumeTaking(): void {
    this.taking = this.started && this.brokenReason === 0;
  }

  setMemory(memory: GuestMemory): void {
    if (!this.started) return;
    this.memory = memory;
    this.queue.setMemory(memory);
  }

  setNotifier(notifier: CallNotifier): void {
    this.notifier = notifier;
  }

  setRingLog(ringLog: RingLog | null): void {
    this.queue.setRingLog(ringLog);
  }

  // Poller ----------------------------------------------------------------------------------------

  poll(): number {
    if (!this.taking) return 0;
    if (this.resubmitNext !== this.resubmit.length) return this.pollResubmitted();
    let taken = 0;
    while (taken < POLL_BATCH_MAX) {
      if (this.requests.freeSlots === 0) {
        this.counters[COUNTER_PAUSE] = (this.counters[COUNTER_PAUSE] as number) + 1;
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
    if (!this.taking) return false;
    if (this.resubmitNext !== this.resubmit.length) return true;
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
    this.counters[counter] = (this.counters[counter] as number) + 1;
    this.reportInflight();
    if (queue.broken !== 0) this.breakRing(queue.broken);
  }

  // RequestOwner ----------------------------------------------------------------------------------

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
      if (this.memory.logging) this.markSegmentsDirty(slot);
      if (result >= 0) usedBytes = bytes + 1;
    }
    this.meter.recordLatency(op, this.reactor.loopTimeUs - (requests.startedUs[slot] as number));
    requests.release(slot);
    if (result >= 0) {
      this.count(op, bytes);
      this.answer(head, BLK_S_OK, usedBytes);
    } else {
      this.count(op, 0);
      this.refuse(head, result === -EOPNOTSUPP ? BLK_S_UNSUPP : BLK_S_IOERR);
    }
  }

  // Taking requests -------------------------------------------------------------------------------

  private pollResubmitted(): number {
    let taken = 0;
    while (this.resubmitNext < this.resubmit.length && this.taking && taken < POLL_BATCH_MAX) {
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
    if (chain.flags !== 0 || chain.readableBytes < HEADER_BYTES || !this.readHeader()) {
      this.answerOther(head, BLK_S_IOERR, 1);
      return;
    }
    const type = (COPY_WORDS[TYPE_WORD] as number) & TYPE_MASK;
    if (type === BLK_T_IN) {
      this.dataIndex = chain.readableCount;
      this.dataSkip = 0;
      this.takeTransfer(head, OP_READ, chain.writableBytes - 1);
    } else if (type === BLK_T_OUT) {
      this.seekData();
      this.takeTransfer(head, OP_WRITE, chain.readableBytes - HEADER_BYTES);
    } else {
      this.takeRare(head, type);
    }
  }

  private readHeader(): boolean {
    const chain = this.chain;
    if ((chain.lengths[0] as number) >= HEADER_BYTES) {
      return this.memory.readWords(chain.addresses[0] as number, COPY_WORDS, 0, HEADER_BYTES >>> 2);
    }
    return gatherReadable(chain, this.memory, 0, COPY_U8, HEADER_BYTES);
  }

  /** Finds the first readable byte behind the header, which may be cut anywhere (row 19). */
  private seekData(): void {
    let index = 0;
    let skip = HEADER_BYTES;
    while (index < this.chain.readableCount && skip >= (this.chain.lengths[index] as number)) {
      skip -= this.chain.lengths[index] as number;
      index += 1;
    }
    this.dataIndex = index;
    this.dataSkip = skip;
  }

  private takeTransfer(head: number, op: number, bytes: number): void {
    const config = this.config;
    const sectorLow = COPY_WORDS[SECTOR_WORD] as number;
    const sectorHigh = COPY_WORDS[SECTOR_WORD + 1] as number;
    if (
      (bytes & config.blockBytesMask) !== 0 ||
      !this.isOnDevice(sectorLow, sectorHigh, bytes >>> 9) ||
      (op === OP_WRITE && config.readOnly)
    ) {
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
    if (!this.mapData(slot, bytes)) {
      requests.release(slot);
      this.answerOther(head, BLK_S_IOERR, 1);
      return;
    }
    if (op === OP_WRITE && config.durableWrites) {
      requests.flags[slot] = (requests.flags[slot] as number) | FLAG_DURABLE;
    }
    this.submit(head, slot, op, (sectorHigh * TWO_32 + sectorLow) * SECTOR_BYTES);
  }

  /** True when [sector, sector + count) lies on the device and sector is a whole block's. */
  private isOnDevice(sectorLow: number, sectorHigh: number, sectorCount: number): boolean {
    if (sectorHigh > SECTOR_HIGH_MAX) return false;
    if ((sectorLow & this.config.blockSectorsMask) !== 0) return false;
    const end = sectorHigh * TWO_32 + sectorLow + sectorCount;
    return end <= this.config.capacitySectors;
  }

  /** Gives the slot the host memory of `bytes` of data (rows 16, 17). False: not all is there. */
  private mapData(slot: number, bytes: number): boolean {
    const chain = this.chain;
    const memory = this.memory;
    const requests = this.requests;
    let index = this.dataIndex;
    let skip = this.dataSkip;
    let missing = bytes;
    while (missing > 0) {
      let gpa = (chain.addresses[index] as number) + skip;
      let left = (chain.lengths[index] as number) - skip;
      if (left > missing) left = missing;
      missing -= left;
      skip = 0;
      index += 1;
      while (left > 0) {
        const address = memory.translate(gpa);
        if (address < 0) return false;
        const piece = memory.contiguousBytes < left ? memory.contiguousBytes : left;
        if (memory.faultable) {
          requests.flags[slot] = (requests.flags[slot] as number) | FLAG_FAULTABLE;
        }
        if (!requests.addSegment(slot, address, piece)) return false;
        gpa += piece;
        left -= piece;
      }
    }
    return true;
  }

  private submit(head: number, slot: number, op: number, offsetBytes: number): void {
    const requests = this.requests;
    requests.op[slot] = op;
    requests.offsetBytes[slot] = offsetBytes;
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
      this.submit(head, slot, OP_FLUSH, 0);
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
    const room = this.chain.writableBytes - 1;
    const bytes = room < BLK_ID_BYTES ? room : BLK_ID_BYTES;
    if (scatterWritable(this.chain, this.memory, this.config.serial, bytes)) {
      this.answerOther(head, BLK_S_OK, bytes + 1);
    } else {
      this.answerOther(head, BLK_S_IOERR, 1);
    }
  }

  /** DISCARD and WRITE_ZEROES of one segment, in the order of checks that peers have (row 29). */
  private takeRange(head: number, op: number): void {
    const status = this.checkRange(op);
    if (status !== BLK_S_OK) {
      this.answerOther(head, status, 1);
      return;
    }
    const sectorCount = COPY_WORDS[SEGMENT_COUNT_WORD] as number;
    if (sectorCount === 0) {
      this.answerOther(head, BLK_S_OK, 1);
      return;
    }
    const low = COPY_WORDS[SEGMENT_SECTOR_WORD] as number;
    const high = COPY_WORDS[SEGMENT_SECTOR_WORD + 1] as number;
    const requests = this.requests;
    const slot = requests.acquire(this.ownerIndex);
    assert(slot >= 0, "a slot was free before the request was taken");
    let flags = 0;
    if (op === OP_WRITE_ZEROES) {
      const unmaps = ((COPY_WORDS[SEGMENT_FLAGS_WORD] as number) & BLK_RANGE_F_UNMAP) !== 0;
      if (unmaps && this.config.canDiscard) flags |= FLAG_UNMAP;
      if (this.config.durableWrites) flags |= FLAG_DURABLE;
    }
    requests.flags[slot] = flags;
    requests.lengthBytes[slot] = sectorCount * SECTOR_BYTES;
    this.submit(head, slot, op, (high * TWO_32 + low) * SECTOR_BYTES);
  }

  /** Copies the segment and judges it (rows 26, 28, 29). */
  private checkRange(op: number): number {
    const config = this.config;
    if (config.readOnly) return BLK_S_IOERR;
    if (op === OP_DISCARD && !config.canDiscard) return BLK_S_UNSUPP;
    const bytes = this.chain.readableBytes - HEADER_BYTES;
    if (bytes === 0 || bytes % SEGMENT_BYTES !== 0) return BLK_S_UNSUPP;
    if (bytes > RANGE_SEGMENTS_MAX * SEGMENT_BYTES) return BLK_S_UNSUPP;
    if (!gatherReadable(this.chain, this.memory, HEADER_BYTES, COPY_U8, SEGMENT_BYTES)) {
      return BLK_S_IOERR;
    }
    const flags = COPY_WORDS[SEGMENT_FLAGS_WORD] as number;
    const allowed = op === OP_WRITE_ZEROES ? BLK_RANGE_F_UNMAP : 0;
    if ((flags & ~allowed) !== 0) return BLK_S_UNSUPP;
    const sectorCount = COPY_WORDS[SEGMENT_COUNT_WORD] as number;
    const max = op === OP_DISCARD ? DISCARD_SECTORS_MAX : WRITE_ZEROES_SECTORS_MAX;
    if (sectorCount > max) return BLK_S_IOERR;
    if ((sectorCount & config.blockSectorsMask) !== 0) return BLK_S_IOERR;
    const low = COPY_WORDS[SEGMENT_SECTOR_WORD] as number;
    const high = COPY_WORDS[SEGMENT_SECTOR_WORD + 1] as number;
    return this.isOnDevice(low, high, sectorCount) ? BLK_S_OK : BLK_S_IOERR;
  }

  // Answering -------------------------------------------------------------------------------------

  /** Answers a request that never reached the device. */
  private answerOther(head: number, status: number, usedBytes: number): void {
    this.counters[COUNTER_OTHER] = (this.counters[COUNTER_OTHER] as number) + 1;
    if (status === BLK_S_OK) this.answer(head, status, usedBytes);
    else this.refuse(head, status);
  }

  private refuse(head: number, status: number): void {
    const counter = status === BLK_S_UNSUPP ? COUNTER_UNSUPPORTED : COUNTER_ERROR;
    this.counters[counter] = (this.counters[counter] as number) + 1;
    this.answer(head, status, 1);
  }

  private answer(head: number, status: number, usedBytes: number): void {
    if (!this.memory.writeU8(this.statusAddresses[head] as number, status)) {
      this.queue.abandon(head);
      this.breakRing(BROKEN_STATUS_UNREACHABLE);
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
    this.counters[COUNTER_RING_ERROR] = (this.counters[COUNTER_RING_ERROR] as number) + 1;
    this.breakHandler.ringBroken(this.index, reason);
  }

  private markSegmentsDirty(slot: number): void {
    const requests = this.requests;
    const count = requests.segmentCount[slot] as number;
    for (let index = 0; index < count; index++) {
      this.memory.markHostDirty(
        requests.segmentAddress(slot, index),
        requests.segmentBytes(slot, index),
      );
    }
  }

  private count(op: number, bytes: number): void {
    const counters = this.counters;
    if (op === OP_READ) {
      counters[COUNTER_READ] = (counters[COUNTER_READ] as number) + 1;
      counters[COUNTER_READ_BYTES] = (counters[COUNTER_READ_BYTES] as number) + bytes;
    } else if (op === OP_WRITE) {
      counters[COUNTER_WRITE] = (counters[COUNTER_WRITE] as number) + 1;
      counters[COUNTER_WRITE_BYTES] = (counters[COUNTER_WRITE_BYTES] as number) + bytes;
    } else if (op === OP_FLUSH) {
      counters[COUNTER_FLUSH] = (counters[COUNTER_FLUSH] as number) + 1;
    } else if (op === OP_DISCARD) {
      counters[COUNTER_DISCARD] = (counters[COUNTER_DISCARD] as number) + 1;
      counters[COUNTER_DISCARD_BYTES] = (counters[COUNTER_DISCARD_BYTES] as number) + bytes;
    } else {
      counters[COUNTER_WRITE_ZEROES] = (counters[COUNTER_WRITE_ZEROES] as number) + 1;
      counters[COUNTER_WRITE_ZEROES_BYTES] =
        (counters[COUNTER_WRITE_ZEROES_BYTES] as number) + bytes;
    }
  }

  private reportInflight(): void {
    const now = this.queue.inflightCount;
    if (now === this.inflightReported) return;
    this.counters[COUNTER_INFLIGHT] =
      (this.counters[COUNTER_INFLIGHT] as number) + (now - this.inflightReported);
    this.inflightReported = now;
  }
}
