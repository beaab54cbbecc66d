// @hot
// One coarse timer wheel per reactor: thousands of deadlines cost one array, not one timer each.
//
//   slots  [ 0 ][ 1 ][ 2 ] ... [511]     one tick = 1 ms; a slot is a list of timers whose
//             ^ now                      deadline tick falls on it, in this turn or a later one
//
// Invariants:
//  - a timer is in exactly one list or free; firing removes it first, so that its handler may set
//    a new one; the generation in the id makes cancelling a fired timer harmless;
//  - no timer is due before `earliestTick`. It is a lower bound: cancelling leaves it behind, so
//    the loop may wake once for nothing, but it looks at the lists only when a deadline can have
//    passed, not in every turn.

import { assert } from "../base/index.ts";
import type { TimerHandler } from "../ports/index.ts";

const SLOT_COUNT = 512;
const SLOT_MASK = SLOT_COUNT - 1;
const TICK_US = 1000;
const NONE = -1;
/** A timer's id is its generation times this, plus its index. */
const INDEX_COUNT = 1048576;
const CAPACITY_FIRST = 256;

type TypedArray = Uint8Array | Uint16Array | Uint32Array | Int32Array | Float64Array;

function grown<T extends TypedArray>(from: T, to: T): T {
  to.set(from);
  return to;
}

export class TimerWheel {
  private readonly heads: Int32Array = new Int32Array(SLOT_COUNT).fill(NONE);
  private readonly capacityMax: number;
  private next: Int32Array = new Int32Array(0);
  private previous: Int32Array = new Int32Array(0);
  private deadlineTick: Float64Array = new Float64Array(0);
  private tag: Uint32Array = new Uint32Array(0);
  private generation: Uint16Array = new Uint16Array(0);
  private live: Uint8Array = new Uint8Array(0);
  private readonly handlers: (TimerHandler | null)[] = [];
  private freeHead = NONE;
  private currentTick = 0;
  private earliestTick = Infinity;
  /** No timer is due before: ask before calling advance(), it is cheaper. */
  earliestUs: number = Infinity;
  /** Timers set and not yet fired or cancelled. */
  count = 0;

  /** Grows as needed, up to `capacityMax`. */
  constructor(capacityMax: number, nowUs: number) {
    assert(capacityMax > 0 && capacityMax <= INDEX_COUNT, "timer capacity out of range");
    this.capacityMax = capacityMax;
    this.currentTick = Math.floor(nowUs / TICK_US);
  }

  // @cold
  private grow(): void {
    const before = this.live.length;
    assert(before < this.capacityMax, "too many timers");
    const capacity = Math.min(this.capacityMax, Math.max(CAPACITY_FIRST, before * 2));
    this.next = grown(this.next, new Int32Array(capacity));
    this.previous = grown(this.previous, new Int32Array(capacity));
    this.deadlineTick = grown(this.deadlineTick, new Float64Array(capacity));
    this.tag = grown(this.tag, new Uint32Array(capacity));
    this.generation = grown(this.generation, new Uint16Array(capacity));
    this.live = grown(this.live, new Uint8Array(capacity));
    for (let index = capacity - 1; index >= before; index--) {
      this.handlers[index] = null;
      this.next[index] = this.freeHead;
      this.freeHead = index;
    }
  }

  /** Fires once, no earlier than `delayMs` after `nowUs`. Returns the id to cancel with. */
  set(nowUs: number, delayMs: number, handler: TimerHandler, tag: number): number {
    assert(delayMs >= 0, "a timer in the past");
    assert(delayMs < Infinity, "a timer that never fires");
    if (this.freeHead === NONE) this.grow();
    const index = this.freeHead;
    this.freeHead = this.next[index] as number;
    // Later than the tick being fired now: a handler that sets a timer of 0 ms does not loop.
    const tick = Math.max(this.currentTick + 1, Math.ceil(nowUs / TICK_US + delayMs));
    this.deadlineTick[index] = tick;
    this.tag[index] = tag;
    this.handlers[index] = handler;
    this.live[index] = 1;
    this.link(index, tick & SLOT_MASK);
    this.count += 1;
    if (tick < this.earliestTick) this.noteEarliest(tick);
    return (this.generation[index] as number) * INDEX_COUNT + index;
  }

  /** Does nothing when the timer has fired or was cancelled. */
  cancel(id: number): void {
    const index = id % INDEX_COUNT;
    if (id < 0 || index >= this.live.length || this.live[index] === 0) return;
    if (this.generation[index] !== Math.floor(id / INDEX_COUNT)) return;
    this.remove(index);
  }

  private noteEarliest(tick: number): void {
    this.earliestTick = tick;
    this.earliestUs = tick * TICK_US;
  }

  private link(index: number, slot: number): void {
    const head = this.heads[slot] as number;
    this.next[index] = head;
    this.previous[index] = NONE;
    if (head !== NONE) this.previous[head] = index;
    this.heads[slot] = index;
  }

  private remove(index: number): void {
    const before = this.previous[index] as number;
    const after = this.next[index] as number;
    if (before === NONE) this.heads[(this.deadlineTick[index] as number) & SLOT_MASK] = after;
    else this.next[before] = after;
    if (after !== NONE) this.previous[after] = before;
    this.live[index] = 0;
    this.generation[index] = (this.generation[index] as number) + 1;
    this.handlers[index] = null;
    this.next[index] = this.freeHead;
    this.freeHead = index;
    this.count -= 1;
  }

  /** Fires everything due at `nowUs`. Returns how many. */
  advance(nowUs: number): number {
    const targetTick = Math.floor(nowUs / TICK_US);
    if (targetTick < this.earliestTick) return 0;
    if (targetTick <= this.currentTick) return 0;
    // After a long sleep one turn of the wheel visits every list: later turns find nothing new.
    const firstTick = Math.max(this.currentTick + 1, targetTick - SLOT_COUNT + 1);
    this.currentTick = targetTick;
    let fired = 0;
    for (let tick = firstTick; tick <= targetTick; tick++) {
      fired += this.fireSlot(tick & SLOT_MASK, targetTick);
    }
    this.noteEarliest(this.findEarliest());
    return fired;
  }

  private fireSlot(slot: number, targetTick: number): number {
    let fired = 0;
    let index = this.heads[slot] as number;
    while (index !== NONE) {
      if ((this.deadlineTick[index] as number) <= targetTick) {
        const handler = this.handlers[index] as TimerHandler;
        const tag = this.tag[index] as number;
        this.remove(index);
        fired += 1;
        handler.timerFired(tag);
        // The handler may have changed this list: begin again at its head.
        index = this.heads[slot] as number;
      } else {
        index = this.next[index] as number;
      }
    }
    return fired;
  }

  /** The deadline that comes first, or Infinity. Every timer lies after currentTick. */
  private findEarliest(): number {
    let earliest = Infinity;
    if (this.count === 0) return earliest;
    for (let step = 1; step <= SLOT_COUNT; step++) {
      const tick = this.currentTick + step;
      // Slots come in the order of their ticks in this turn of the wheel: none can be earlier.
      if (earliest <= tick) return earliest;
      let index = this.heads[tick & SLOT_MASK] as number;
      while (index !== NONE) {
        const deadline = this.deadlineTick[index] as number;
        if (deadline < earliest) earliest = deadline;
        index = this.next[index] as number;
      }
    }
    return earliest;
  }

  /**
   * Microseconds from `nowUs` until a deadline can be due, or Infinity. Never later than the next
   * deadline; earlier when the timer that came first was cancelled.
   */
  nextDelayUs(nowUs: number): number {
    if (this.count === 0) return Infinity;
    return Math.max(0, this.earliestUs - nowUs);
  }
}
