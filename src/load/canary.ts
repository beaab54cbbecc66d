// @hot
// The late-DMA canary: finds writes into a read buffer after its request has completed. A
// completed read's buffer is filled with a pattern and rests; when its turn comes to be used
// again the pattern must be untouched.
//
//   completion -> verify -> fill -> [ rest: oldest first ] -> check -> next request
//
// A request that was in flight when the back-end died is the dangerous one: the dead process's
// I/O may still land in its buffer, after a successor has completed the request. Such a buffer is
// held apart for `holdUs` after completion, and a spare takes its place.
//
// Invariant: a buffer is in exactly one place: with a slot, resting, held, or spare.

import { assert } from "../base/index.ts";
import type { Arena, Memory } from "../ports/index.ts";
import type { GuestRegion, LoadGuestMemory } from "./guest-memory.ts";

const PATTERN_BYTE = 0xc5;
const FAILURE_MESSAGES_MAX = 10;

export interface CanaryOptions {
  readonly region: GuestRegion;
  readonly bufferBytes: number;
  /** Slots of all queues: so many may be in flight when the back-end dies. */
  readonly slotCount: number;
  /** Buffers that rest at any time. */
  readonly restCount: number;
  readonly holdUs: number;
}

/** Guest memory the canary needs for its buffers, in bytes. */
export function canaryBytes(options: {
  bufferBytes: number;
  slotCount: number;
  restCount: number;
}): number {
  const stride = Math.ceil(options.bufferBytes / 4096) * 4096;
  return (options.restCount + options.slotCount) * stride;
}

export class Canary {
  checkedCount = 0;
  /** Buffers that changed after their request had completed. */
  lateWriteCount = 0;
  readonly failures: string[] = [];
  private readonly memory: Memory;
  private readonly pattern: Arena;
  private readonly bufferBytes: number;
  private readonly holdUs: number;
  private readonly base: number;
  /** Resting buffers (guest addresses), a ring with `restHead` the oldest. */
  private readonly rest: Float64Array;
  private restHead = 0;
  private readonly spare: Float64Array;
  private spareCount: number;
  private readonly held: Float64Array;
  private readonly heldUntilUs: Float64Array;
  /** Buffers held apart now. */
  heldCount = 0;

  constructor(memory: Memory, guest: LoadGuestMemory, options: CanaryOptions) {
    assert(options.restCount > 0, "a canary needs resting buffers");
    this.memory = memory;
    this.bufferBytes = options.bufferBytes;
    this.holdUs = options.holdUs;
    this.base = options.region.host.address - options.region.guestAddress;
    this.pattern = memory.allocate(options.bufferBytes);
    memory.fill(this.pattern.address, PATTERN_BYTE, options.bufferBytes);
    this.rest = new Float64Array(options.restCount);
    this.spare = new Float64Array(options.slotCount);
    this.spareCount = options.slotCount;
    this.held = new Float64Array(options.slotCount);
    this.heldUntilUs = new Float64Array(options.slotCount);
    for (let index = 0; index < options.restCount; index++) {
      this.rest[index] = guest.allocate(options.bufferBytes, 4096, options.region);
      this.fill(this.rest[index]);
    }
    for (let index = 0; index < options.slotCount; index++) {
      this.spare[index] = guest.allocate(options.bufferBytes, 4096, options.region);
      this.fill(this.spare[index]);
    }
  }

  private fill(gpa: number): void {
    this.memory.fill(this.base + gpa, PATTERN_BYTE, this.bufferBytes);
  }

  private check(gpa: number): void {
    this.checkedCount += 1;
    const same = this.memory.compare(this.base + gpa, this.pattern.address, this.bufferBytes);
    if (same !== 0) this.changed(gpa);
  }

  // @cold
  private changed(gpa: number): void {
    this.lateWriteCount += 1;
    this.fill(gpa);
    if (this.failures.length >= FAILURE_MESSAGES_MAX) return;
    this.failures.push(
      `The read buffer at guest address 0x${gpa.toString(16)} was written after its request ` +
        "had completed.",
    );
  }

  /** Takes the buffer of a completed read and returns one whose rest is over. */
  exchange(gpa: number): number {
    this.fill(gpa);
    const oldest = this.rest[this.restHead];
    this.rest[this.restHead] = gpa;
    this.restHead = this.restHead + 1 === this.rest.length ? 0 : this.restHead + 1;
    this.check(oldest);
    return oldest;
  }

  /** As exchange(), for a request that was in flight when a back-end died. */
  exchangeSuspect(gpa: number, nowUs: number): number {
    if (this.spareCount === 0) this.release(0);
    this.fill(gpa);
    this.held[this.heldCount] = gpa;
    this.heldUntilUs[this.heldCount] = nowUs + this.holdUs;
    this.heldCount += 1;
    this.spareCount -= 1;
    return this.spare[this.spareCount];
  }

  private release(index: number): void {
    const gpa = this.held[index];
    this.check(gpa);
    this.heldCount -= 1;
    this.held[index] = this.held[this.heldCount];
    this.heldUntilUs[index] = this.heldUntilUs[this.heldCount];
    this.spare[this.spareCount] = gpa;
    this.spareCount += 1;
  }

  /** Checks the held buffers whose time is over. Now and then. */
  releaseDue(nowUs: number): void {
    for (let index = this.heldCount - 1; index >= 0; index--) {
      if (this.heldUntilUs[index] <= nowUs) this.release(index);
    }
  }

  /** Until when some buffer is held, or 0. */
  heldUntil(): number {
    let untilUs = 0;
    for (let index = 0; index < this.heldCount; index++) {
      untilUs = Math.max(untilUs, this.heldUntilUs[index]);
    }
    return untilUs;
  }

  /** Guest address of a held buffer. */
  heldAddress(index: number): number {
    return this.held[index];
  }

  // @cold
  /** Checks every buffer that rests or is held, at the end of a run. */
  checkAll(): void {
    for (const gpa of this.rest) this.check(gpa);
    for (let index = 0; index < this.heldCount; index++) this.check(this.held[index]);
  }

  // @cold
  close(): void {
    this.memory.free(this.pattern);
  }
}
