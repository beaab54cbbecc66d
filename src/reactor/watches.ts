// @hot
// Descriptors the reactor watches: kick eventfds, sockets, the wake-up eventfd. Each is a
// multishot poll in the ring, so that an event costs one completion and no new submission.
//
//   FREE --add--> ACTIVE --remove--> ENDING --the kernel reports the end--> FREE
//                   '--the poll failed--> FAILED --remove--> FREE
//
// Invariants:
//  - a watch that was removed never calls its handler again, though completions may still arrive;
//  - the kernel may end a multishot poll at any time (no MORE flag): it is submitted again, but
//    not for ever: a descriptor that is always ready and reports nothing (a file) would spin;
//  - a watch is ended by cancelling it: POLL_REMOVE fails (EALREADY), and leaves the poll in
//    place, when an event is just being delivered;
//  - a slot is reused only after the kernel has reported the end of its poll, so a completion
//    never reaches the watch that came after;
//  - a watch belongs to whoever added it until remove(), also when its poll has failed.

import { assert, ECANCELED, EPERM } from "../base/index.ts";
import type { ReadinessHandler } from "../ports/index.ts";
import { CQE_F_MORE } from "../uring/layouts.ts";
import type { CompletionHandler, Ring } from "../uring/ring.ts";

const FREE = 0;
const ACTIVE = 1;
const ENDING = 2;
const FAILED = 3;
/** Polls of a watch that ended at once, in a row: then it counts as one that cannot be polled. */
const ENDS_MAX = 1000;

const CAPACITY_FIRST = 256;

function grown<T extends Uint8Array | Uint16Array | Uint32Array | Int32Array>(from: T, to: T): T {
  to.set(from);
  return to;
}

class IgnoreCompletions implements CompletionHandler {
  completed(): void {}
}

export class Watches implements CompletionHandler {
  private readonly ring: Ring;
  private readonly handlerIndex: number;
  private readonly ignoreIndex: number;
  private readonly capacityMax: number;
  private state: Uint8Array = new Uint8Array(0);
  private fds: Int32Array = new Int32Array(0);
  private events: Int32Array = new Int32Array(0);
  private tags: Uint32Array = new Uint32Array(0);
  private endCount: Uint16Array = new Uint16Array(0);
  private readonly handlers: (ReadinessHandler | null)[] = [];
  private freeStack: Int32Array = new Int32Array(0);
  private freeCount = 0;

  /** Grows as needed. Each watch needs a descriptor: the process runs out of those first. */
  constructor(ring: Ring, capacityMax: number) {
    this.ring = ring;
    this.handlerIndex = ring.addHandler(this);
    this.ignoreIndex = ring.addHandler(new IgnoreCompletions());
    this.capacityMax = capacityMax;
  }

  /** Watches in use, including those whose end the kernel has not reported yet. */
  get count(): number {
    return this.state.length - this.freeCount;
  }

  // @cold
  private grow(): void {
    const before = this.state.length;
    assert(before < this.capacityMax, "too many watched descriptors");
    const capacity = Math.min(this.capacityMax, Math.max(CAPACITY_FIRST, before * 2));
    this.state = grown(this.state, new Uint8Array(capacity));
    this.fds = grown(this.fds, new Int32Array(capacity).fill(-1));
    this.events = grown(this.events, new Int32Array(capacity));
    this.tags = grown(this.tags, new Uint32Array(capacity));
    this.endCount = grown(this.endCount, new Uint16Array(capacity));
    this.freeStack = new Int32Array(capacity);
    for (let index = capacity - 1; index >= before; index--) {
      this.handlers[index] = null;
      this.freeStack[this.freeCount] = index;
      this.freeCount += 1;
    }
  }

  add(fd: number, pollEvents: number, handler: ReadinessHandler, tag: number): number {
    if (this.freeCount === 0) this.grow();
    this.freeCount -= 1;
    const id = this.freeStack[this.freeCount] as number;
    assert(this.state[id] === FREE, "watch slot in use");
    this.state[id] = ACTIVE;
    this.fds[id] = fd;
    this.events[id] = pollEvents;
    this.tags[id] = tag;
    this.endCount[id] = 0;
    this.handlers[id] = handler;
    this.ring.pollMultishot(fd, pollEvents, this.handlerIndex, id);
    return id;
  }

  /**
   * The handler is not called again. The caller may close the descriptor at once: the removal, and
   * the watch itself if it was still waiting, are with the kernel before this returns.
   */
  remove(id: number): void {
    if (this.state[id] === FAILED) {
      this.release(id);
      return;
    }
    assert(this.state[id] === ACTIVE, "watch removed twice");
    this.state[id] = ENDING;
    this.handlers[id] = null;
    this.ring.cancel(this.handlerIndex, id, this.ignoreIndex, 0);
    this.ring.submitAll();
  }

  completed(id: number, result: number, flags: number): void {
    const more = (flags & CQE_F_MORE) !== 0;
    if (this.state[id] === ENDING) {
      if (!more) this.release(id);
      return;
    }
    assert(this.state[id] === ACTIVE, "completion of a watch that has ended");
    const handler = this.handlers[id] as ReadinessHandler;
    const tag = this.tags[id] as number;
    if (more) {
      this.endCount[id] = 0;
      handler.ready(tag, result);
      return;
    }
    const ends = (this.endCount[id] as number) + 1;
    this.endCount[id] = ends;
    if (result >= 0 && ends < ENDS_MAX) {
      const fd = this.fds[id] as number;
      this.ring.pollMultishot(fd, this.events[id] as number, this.handlerIndex, id);
      handler.ready(tag, result);
      return;
    }
    // A descriptor that cannot be polled: say so once, and wait for remove().
    assert(result !== -ECANCELED, "a watch was cancelled behind our back");
    this.state[id] = FAILED;
    handler.ready(tag, result < 0 ? result : -EPERM);
  }

  private release(id: number): void {
    this.state[id] = FREE;
    this.fds[id] = -1;
    this.handlers[id] = null;
    this.freeStack[this.freeCount] = id;
    this.freeCount += 1;
  }
}
