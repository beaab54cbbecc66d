// @hot
// The load generator's inner loop: keeps every slot of every queue busy with what the workload
// picks, measures, verifies. It runs on one thread that belongs to it alone, and returns from
// run() with the reason: time is up, the work is done, the back-end is gone, or it is stuck.
//
// Time stamps: one clock call per batch of completions taken together (what they share is the
// moment they were seen), and one more before the batch's successors are shown to the device,
// unless the batch is so small that the first stamp is as good (see submitStamp). At depth 1 both
// are always taken: a latency there is right to the clock call, about 50 ns.
//
// Invariants:
//  - started[slot] is taken before avail->idx (or the first flags) is stored, `now` after the
//    completion was seen: a latency is never too short;
//  - with verification on, the units of a request are locked from pick to completion.

import { assert, EAGAIN } from "../base/index.ts";
import type { Clock } from "../ports/index.ts";
import { eventClear, POLLIN, pollTwo } from "../sys/index.ts";
import { BLK_RANGE_F_UNMAP, BLK_S_OK } from "../virtio/index.ts";
import type { BlkQueue } from "./blk-queue.ts";
import type { Canary } from "./canary.ts";
import {
  type CellClock,
  END_DONE,
  END_LOST,
  END_STALLED,
  END_TIME,
  type GeneratorModules,
  type GeneratorOptions,
  hasCells,
  type Peer,
  type Recorder,
} from "./generator-parts.ts";
import { Histogram } from "./histogram.ts";
import { Pauses } from "./pauses.ts";
import { UNKNOWN, type Verifier, ZEROES } from "./verify.ts";
import {
  KIND_COUNT,
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_NAMES,
  KIND_READ,
  KIND_WRITE,
  KIND_WRITE_ZEROES,
  TYPE_OF_KIND,
  type Workload,
} from "./workload.ts";

const RANGE_SEGMENT_BYTES = 16;
/** Idle looks at the rings between two looks at clock and socket: about 100 us. */
const SPINS_PER_CHECK = 4096;
const SOCKET_CHECK_US = 2000;
const SLEEP_MS = 100;
/** Tries to find a place that no request in flight holds, before the slot waits a round. */
const PICK_TRIES = 16;
/** Batches below this, at depths above 1, are stamped once: under 0.3 us, of 10 us and more. */
const STAMP_AGAIN_FROM = 4;
const FAILURE_MESSAGES_MAX = 10;

// Indices into Generator.times: when a back-end was last known to be there, when the socket was
// last looked at, when run() shall end.
const ALIVE_US = 0;
const SOCKET_CHECK_AT_US = 1;
const UNTIL_US = 2;
const TIMES_COUNT = 3;

export class Generator {
  readonly histograms: readonly Histogram[];
  /** Completed requests and bytes by kind, since the last resetCounters(). */
  readonly countByKind: Float64Array = new Float64Array(KIND_COUNT);
  readonly bytesByKind: Float64Array = new Float64Array(KIND_COUNT);
  errorCount = 0;
  readonly failures: string[] = [];
  readonly pauses: Pauses = new Pauses();
  batchCount = 0;
  wakeCount = 0;
  /** Looks at all queues that found nothing. */
  emptyPassCount = 0;
  inflightCount = 0;
  peer: Peer | null = null;
  /** Requests still to be picked; run() ends when it is 0 and all have completed. */
  requestsLeft: number = Number.POSITIVE_INFINITY;
  /** False: pick nothing more, only finish what is in flight. */
  picking = true;
  /** False: completions are not counted. */
  counting = true;
  private readonly clock: Clock;
  private readonly cellClock: CellClock | null;
  private readonly queues: readonly BlkQueue[];
  private readonly workload: Workload;
  private readonly verifier: Verifier | null;
  private readonly canary: Canary | null;
  private readonly recorder: Recorder | null;
  private readonly callFd: number;
  private readonly polling: boolean;
  private readonly rewriteAfterLoss: boolean;
  private readonly unmapWriteZeroes: boolean;
  private unmapNext = 0;
  private readonly stallUs: number;
  private readonly slotCount: number;
  private readonly unitBytes: number;
  // By queue * slotCount + slot.
  private readonly kind: Uint8Array;
  private readonly startedUs: Float64Array;
  private readonly offsetBytes: Float64Array;
  private readonly lengthBytes: Float64Array;
  private readonly generation: Uint32Array;
  private readonly suspect: Uint8Array;
  /** Slots with nothing in flight because no free place was found. */
  private readonly waiting: Uint8Array;
  private waitingCount = 0;
  private readonly issued: Int32Array;
  private issuedCount = 0;
  // Times live in cells: as arguments or results they would be new heap numbers.
  private readonly now: Float64Array = new Float64Array(1);
  private readonly stamped: Float64Array = new Float64Array(1);
  private readonly times: Float64Array = new Float64Array(TIMES_COUNT);
  private exhausted = false;

  constructor(options: GeneratorOptions, modules: GeneratorModules) {
    const count = options.slotCount * modules.queues.length;
    this.clock = modules.clock;
    this.cellClock = hasCells(modules.clock) ? modules.clock : null;
    this.queues = modules.queues;
    this.workload = modules.workload;
    this.verifier = modules.verifier;
    this.canary = modules.canary;
    this.recorder = modules.recorder;
    this.callFd = modules.callFd;
    this.polling = options.polling;
    this.rewriteAfterLoss = options.rewriteAfterLoss;
    this.unmapWriteZeroes = options.unmapWriteZeroes;
    this.stallUs = options.stallTimeoutMs * 1000;
    this.slotCount = options.slotCount;
    this.unitBytes = modules.verifier === null ? 1 : modules.verifier.unitBytes;
    this.histograms = Array.from({ length: KIND_COUNT }, () => new Histogram());
    this.kind = new Uint8Array(count);
    this.startedUs = new Float64Array(count);
    this.offsetBytes = new Float64Array(count);
    this.lengthBytes = new Float64Array(count);
    this.generation = new Uint32Array(count);
    this.suspect = new Uint8Array(count);
    this.waiting = new Uint8Array(count).fill(1);
    this.waitingCount = count;
    this.issued = new Int32Array(count);
  }

  resetCounters(): void {
    for (let kind = 0; kind < KIND_COUNT; kind++) {
      this.histograms[kind].reset();
      this.countByKind[kind] = 0;
      this.bytesByKind[kind] = 0;
    }
    this.pauses.reset();
    this.batchCount = 0;
    this.wakeCount = 0;
    this.emptyPassCount = 0;
  }

  /** Starts a phase: the workload has been told what to pick. */
  restart(): void {
    assert(this.inflightCount === 0, "phase changed with requests in flight");
    this.look(this.now);
    this.pauses.begin(this.now);
    this.times[ALIVE_US] = this.now[0];
    this.exhausted = false;
    this.picking = true;
    this.waiting.fill(1);
    this.waitingCount = this.waiting.length;
  }

  /**
   * Runs until `untilUs` (END_TIME, with requests still in flight), until the work is done and
   * nothing is in flight (END_DONE), the connection is lost, or nothing completes any more.
   */
  run(untilUs: number): number {
    this.times[UNTIL_US] = untilUs;
    this.look(this.now);
    if (this.waitingCount > 0 && this.picking) this.fillWaiting();
    let spins = 0;
    for (;;) {
      if (this.pass() > 0) {
        spins = 0;
        if (this.now[0] >= this.times[UNTIL_US]) return END_TIME;
        continue;
      }
      this.emptyPassCount += 1;
      if (this.inflightCount === 0 && this.finished()) return END_DONE;
      spins += 1;
      if (this.polling && spins < SPINS_PER_CHECK) continue;
      spins = 0;
      const end = this.idle();
      if (end >= 0) return end;
    }
  }

  private finished(): boolean {
    return !this.picking || this.exhausted || this.requestsLeft <= 0;
  }

  /** Nothing has completed for a while: look at clock and socket, sleep if we may. */
  private idle(): number {
    const { now, times } = this;
    if (this.inflightCount === 0) {
      this.fillWaiting(); // Nothing holds a place any more, so every slot finds one.
      assert(this.inflightCount > 0 || this.finished(), "no request can be issued");
    }
    this.look(now);
    if (!this.polling && now[0] < times[UNTIL_US]) {
      this.sleep();
      this.look(now);
    }
    if (now[0] - times[SOCKET_CHECK_AT_US] > SOCKET_CHECK_US) {
      times[SOCKET_CHECK_AT_US] = now[0];
      if (this.canary !== null) this.canary.releaseDue(now[0]);
      const peer = this.peer;
      // What it completed before it died has been taken: pass() found nothing.
      if (peer?.hungUp() === true && this.pass() === 0) return END_LOST;
    }
    if (now[0] >= times[UNTIL_US]) return END_TIME;
    const sinceUs = now[0] - Math.max(this.pauses.lastUs, times[ALIVE_US]);
    if (this.inflightCount > 0 && sinceUs > this.stallUs) return END_STALLED;
    return -1;
  }

  /** Puts the time into `cell`. */
  private look(cell: Float64Array): void {
    if (this.cellClock !== null) this.cellClock.storeNowUs(cell);
    else cell[0] = this.clock.nowUs();
  }

  private sleep(): void {
    for (let index = 0; index < this.queues.length; index++) {
      // A completion that is there already needs no sleep; armed notifications are harmless.
      if (this.queues[index].armNotifications()) return;
    }
    const leftUs = this.times[UNTIL_US] - this.now[0];
    const leftMs = Math.min(SLEEP_MS, Math.ceil(leftUs / 1000));
    const peerFd = this.peer === null ? -1 : this.peer.fd;
    const ready = pollTwo(this.callFd, POLLIN, peerFd, 0, leftMs);
    if ((ready & 1) !== 0) {
      const cleared = eventClear(this.callFd);
      assert(cleared === 8 || cleared === -EAGAIN, "call eventfd cannot be read");
      this.wakeCount += 1;
    }
    // A hang-up shows at once, not at the next look.
    if (ready > 1) this.times[SOCKET_CHECK_AT_US] = 0;
    for (let index = 0; index < this.queues.length; index++) {
      this.queues[index].suppressNotifications();
    }
  }

  /** Takes what has completed on all queues and submits successors. Returns completions. */
  private pass(): number {
    let total = 0;
    for (let index = 0; index < this.queues.length; index++) {
      const queue = this.queues[index];
      const pending = queue.pending();
      if (pending === 0) continue;
      this.look(this.now);
      this.noteTime();
      this.issuedCount = 0;
      const first = index * this.slotCount;
      for (let left = pending; left > 0; left--) {
        const slot = queue.takeCompleted();
        this.completed(queue, first + slot, slot);
        if (this.picking) this.issue(queue, first + slot, slot);
      }
      this.submitStamp(this.issuedCount >= STAMP_AGAIN_FROM || this.slotCount === 1);
      queue.publish();
      total += pending;
    }
    if (this.waitingCount > 0 && total > 0 && this.picking) this.fillWaiting();
    return total;
  }

  private noteTime(): void {
    const { now, times } = this;
    this.pauses.note(now);
    this.batchCount += 1;
    if (now[0] - times[SOCKET_CHECK_AT_US] > SOCKET_CHECK_US && this.canary !== null) {
      times[SOCKET_CHECK_AT_US] = now[0];
      this.canary.releaseDue(now[0]);
    }
  }

  /**
   * Stamps the requests issued since issuedCount was 0, with a new look at the clock or with the
   * last one; the device has not seen them yet.
   */
  private submitStamp(again: boolean): void {
    const cell = again ? this.stamped : this.now;
    if (again) this.look(cell);
    const stampUs = cell[0];
    const count = this.issuedCount;
    for (let index = 0; index < count; index++) this.startedUs[this.issued[index]] = stampUs;
  }

  /** Gives work to slots that have none: at the start, and when no free place was found. */
  private fillWaiting(): void {
    for (let index = 0; index < this.queues.length; index++) {
      const queue = this.queues[index];
      const first = index * this.slotCount;
      this.issuedCount = 0;
      for (let slot = 0; slot < this.slotCount; slot++) {
        if (this.waiting[first + slot] === 0) continue;
        this.waiting[first + slot] = 0;
        this.waitingCount -= 1;
        this.issue(queue, first + slot, slot);
      }
      if (this.issuedCount > 0) {
        this.submitStamp(true);
        queue.publish();
      }
    }
  }

  private issue(queue: BlkQueue, flat: number, slot: number): void {
    if (this.requestsLeft <= 0 || this.exhausted) return;
    if (this.suspect[flat] === 2) {
      // Written again below with a new generation; the lock is still ours.
      this.suspect[flat] = 0;
    } else if (!this.choose(flat)) {
      return;
    }
    this.requestsLeft -= 1;
    this.send(queue, flat, slot);
    this.issued[this.issuedCount] = flat;
    this.issuedCount += 1;
  }

  /** Picks a request for `flat`; false when there is none now, or none left. */
  private choose(flat: number): boolean {
    const workload = this.workload;
    const verifier = this.verifier;
    for (let tries = 0; tries < PICK_TRIES; tries++) {
      if (!workload.pick()) {
        this.exhausted = true;
        return false;
      }
      if (verifier === null || workload.kind === KIND_FLUSH) break;
      const unit = workload.offsetBytes / this.unitBytes;
      if (verifier.tryLock(unit, workload.lengthBytes / this.unitBytes)) break;
      if (tries + 1 === PICK_TRIES) {
        this.waiting[flat] = 1;
        this.waitingCount += 1;
        return false;
      }
    }
    this.kind[flat] = workload.kind;
    this.offsetBytes[flat] = workload.offsetBytes;
    this.lengthBytes[flat] = workload.lengthBytes;
    return true;
  }

  private send(queue: BlkQueue, flat: number, slot: number): void {
    const kind = this.kind[flat];
    const sector = this.offsetBytes[flat] / 512;
    const bytes = this.lengthBytes[flat];
    let dataBytes = bytes;
    if (this.recorder !== null) {
      this.recorder.begin(flat, kind, this.offsetBytes[flat], queue.data(slot, bytes));
    }
    if (kind === KIND_WRITE) {
      if (this.verifier !== null) this.stamp(queue, flat, slot);
    } else if (kind === KIND_READ) {
      // Else what an earlier request left there could pass for what the device should deliver.
      if (this.verifier !== null) this.verifier.scribble(queue.dataAddress[slot], bytes);
    } else if (kind === KIND_DISCARD || kind === KIND_WRITE_ZEROES) {
      const word = queue.dataWord(slot);
      queue.words[word] = sector >>> 0;
      queue.words[word + 1] = Math.floor(sector / 4294967296);
      queue.words[word + 2] = bytes / 512;
      queue.words[word + 3] = kind === KIND_WRITE_ZEROES ? this.unmapNext : 0;
      if (this.unmapWriteZeroes) this.unmapNext ^= BLK_RANGE_F_UNMAP;
      dataBytes = RANGE_SEGMENT_BYTES;
    }
    const inHeader = kind === KIND_READ || kind === KIND_WRITE ? sector : 0;
    queue.submit(slot, TYPE_OF_KIND[kind], inHeader, dataBytes, kind === KIND_READ);
    this.inflightCount += 1;
  }

  private stamp(queue: BlkQueue, flat: number, slot: number): void {
    const verifier = this.verifier as Verifier;
    const generation = verifier.newGeneration();
    this.generation[flat] = generation;
    verifier.stamp(
      this.offsetBytes[flat] / this.unitBytes,
      this.lengthBytes[flat] / this.unitBytes,
      generation,
      queue.words,
      queue.dataWord(slot),
      queue.dataAddress[slot],
    );
  }

  private completed(queue: BlkQueue, flat: number, slot: number): void {
    this.inflightCount -= 1;
    const kind = this.kind[flat];
    if (this.counting) {
      this.histograms[kind].recordSpan(this.startedUs, flat, this.now);
      this.countByKind[kind] += 1;
      this.bytesByKind[kind] += this.lengthBytes[flat];
    }
    const status = queue.status;
    if (status !== BLK_S_OK) this.requestFailed(flat, status);
    if (this.recorder !== null) {
      this.recorder.end(flat, status, this.now, queue.data(slot, this.lengthBytes[flat]));
    }
    if (this.verifier !== null && kind !== KIND_FLUSH) this.settle(queue, flat, slot, status);
    if (kind === KIND_READ && this.canary !== null) {
      const gpa = queue.dataGpa[slot];
      const isSuspect = this.suspect[flat] === 1;
      if (isSuspect) this.suspect[flat] = 0;
      queue.setData(
        slot,
        isSuspect ? this.canary.exchangeSuspect(gpa, this.now[0]) : this.canary.exchange(gpa),
      );
    }
  }

  /** Tells the verifier what became of the request, and frees its units. */
  private settle(queue: BlkQueue, flat: number, slot: number, status: number): void {
    const verifier = this.verifier as Verifier;
    const unit = this.offsetBytes[flat] / this.unitBytes;
    const count = this.lengthBytes[flat] / this.unitBytes;
    const kind = this.kind[flat];
    if (kind === KIND_READ) {
      if (status === BLK_S_OK) {
        verifier.check(unit, count, queue.words, queue.dataWord(slot), queue.dataAddress[slot]);
      }
    } else {
      let state = this.generation[flat];
      if (kind === KIND_DISCARD) state = UNKNOWN;
      if (kind === KIND_WRITE_ZEROES) state = ZEROES;
      if (status === BLK_S_OK) verifier.written(unit, count, state);
      else verifier.writeFailed(unit, count, state);
      if (kind === KIND_WRITE && this.suspect[flat] === 1) {
        this.suspect[flat] = 0;
        if (this.rewriteAfterLoss && this.picking && this.requestsLeft > 0) {
          this.suspect[flat] = 2;
          return;
        }
      }
    }
    verifier.unlock(unit, count);
  }

  // @cold
  private requestFailed(flat: number, status: number): void {
    this.errorCount += 1;
    if (this.failures.length >= FAILURE_MESSAGES_MAX) return;
    const name = KIND_NAMES[this.kind[flat] as 0 | 1 | 2 | 3 | 4];
    this.failures.push(
      `${name} of ${this.lengthBytes[flat]} bytes at ${this.offsetBytes[flat]}: status ${status}`,
    );
  }

  /** A back-end serves the rings again. */
  reconnected(): void {
    this.look(this.now);
    this.times[ALIVE_US] = this.now[0];
    this.pauses.lossMadeGood();
  }

  /** The back-end died: what is in flight now may still be touched by it. */
  markSuspects(): void {
    for (let index = 0; index < this.queues.length; index++) {
      const queue = this.queues[index];
      for (let slot = 0; slot < this.slotCount; slot++) {
        if (queue.inflight[slot] === 1) this.suspect[index * this.slotCount + slot] = 1;
      }
    }
  }

  /** The run ends with requests in flight that nobody will complete: old or new is legal. */
  abandonInflight(): void {
    const verifier = this.verifier;
    for (let index = 0; index < this.queues.length; index++) {
      const queue = this.queues[index];
      for (let slot = 0; slot < this.slotCount; slot++) {
        const flat = index * this.slotCount + slot;
        if (queue.inflight[slot] !== 1 || this.kind[flat] !== KIND_WRITE) continue;
        if (verifier !== null) {
          verifier.writeFailed(
            this.offsetBytes[flat] / this.unitBytes,
            this.lengthBytes[flat] / this.unitBytes,
            this.generation[flat],
          );
        }
      }
    }
  }
}
