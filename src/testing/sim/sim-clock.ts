// Virtual time: a clock that moves only when it is told to, and the events that wait for it.
//
// Invariants: events fire by (time, priority, order in which they were set), each with the clock
// at its time; time never goes back. Whoever wants chance in the order of what is due at one time
// draws the priorities (see SimScheduler).

import { assert } from "../../base/index.ts";
import type { Clock } from "../../ports/index.ts";

export interface SimEvent {
  readonly id: number;
  readonly dueUs: number;
  readonly priority: number;
  readonly action: () => void;
  /** Who set it, so that everything of one owner can end at once; null is nobody. */
  readonly owner: unknown;
  /** Does not keep a run going: see SimScheduler.runUntilQuiet. */
  readonly isBackground: boolean;
  /** For error messages. */
  readonly label: string;
}

export type SimEventOptions = Omit<SimEvent, "id" | "dueUs">;

function isBefore(a: SimEvent, b: SimEvent): boolean {
  if (a.dueUs !== b.dueUs) return a.dueUs < b.dueUs;
  if (a.priority !== b.priority) return a.priority < b.priority;
  return a.id < b.id;
}

export class SimClock implements Clock {
  private timeUs = 0;
  private nextId = 1;
  /** A binary heap. */
  private heap: SimEvent[] = [];
  /** Events that wait, without those cancelled, by id: cancelled ones stay in the heap a while. */
  private readonly waiting: Map<number, SimEvent> = new Map();
  private foregroundCount = 0;

  nowUs(): number {
    return this.timeUs;
  }

  storeNowUs(cell: Float64Array): void {
    cell[0] = this.timeUs;
  }

  get eventCount(): number {
    return this.waiting.size;
  }

  /** Events that are not in the background. */
  get foregroundEventCount(): number {
    return this.foregroundCount;
  }

  events(): IterableIterator<SimEvent> {
    return this.waiting.values();
  }

  /** Calls `action` at `dueUs`, or now if that has passed. Returns an id to cancel with. */
  set(dueUs: number, options: SimEventOptions): number {
    assert(dueUs < Infinity, "an event that never comes");
    // Field by field: a spread costs more than all the rest of an event.
    const { action, priority, owner, isBackground, label } = options;
    const id = this.nextId;
    const at = Math.max(dueUs, this.timeUs);
    const event: SimEvent = { id, dueUs: at, priority, action, owner, isBackground, label };
    this.nextId += 1;
    this.waiting.set(event.id, event);
    if (!event.isBackground) this.foregroundCount += 1;
    this.push(event);
    return event.id;
  }

  /** Does nothing when the event has fired or was cancelled. */
  cancel(id: number): void {
    const event = this.waiting.get(id);
    if (event !== undefined) this.forget(event);
  }

  cancelOwned(owner: unknown): void {
    for (const event of this.waiting.values()) if (event.owner === owner) this.forget(event);
  }

  private forget(event: SimEvent): void {
    this.waiting.delete(event.id);
    if (!event.isBackground) this.foregroundCount -= 1;
  }

  /** The event that comes next, null when nothing waits. */
  peek(): SimEvent | null {
    while (this.heap.length > 0) {
      const first = this.heap[0];
      if (this.waiting.has(first.id)) return first;
      this.pop();
    }
    return null;
  }

  /** Moves time to the next event and fires it. False when nothing waits. */
  fireNext(): boolean {
    const event = this.peek();
    if (event === null) return false;
    this.pop();
    this.forget(event);
    this.timeUs = event.dueUs;
    event.action();
    return true;
  }

  /** Moves time by `us`, firing what becomes due on the way. Returns how many were fired. */
  advance(us: number): number {
    assert(us >= 0, "time goes back");
    const untilUs = this.timeUs + us;
    let fired = 0;
    for (let next = this.peek(); next !== null && next.dueUs <= untilUs; next = this.peek()) {
      this.fireNext();
      fired += 1;
    }
    this.timeUs = untilUs;
    return fired;
  }

  private push(event: SimEvent): void {
    const { heap } = this;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      if (!isBefore(event, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = event;
  }

  private pop(): void {
    const { heap } = this;
    const last = heap.pop() as SimEvent;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child += 1;
      if (!isBefore(heap[child], last)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = last;
  }
}
