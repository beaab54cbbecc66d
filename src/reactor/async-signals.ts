// Signals for descriptors whose write may block: eventfds that their owner left blocking, pipes.
// A kernel thread does the write, so that a peer who lets its descriptor fill up stalls nobody.
//
// Invariants: at most one write per descriptor is on its way; signals that come meanwhile are
// merged into one that follows; a descriptor given to close() is closed when its write has ended.

import { assert } from "../base/index.ts";
import type { Arena, Memory } from "../ports/index.ts";
import { closeReceived } from "../sys/index.ts";
import type { CompletionHandler, Ring } from "../uring/index.ts";

/** No descriptor has this number. */
const CANCEL_TAG = 0xffffffff;

interface Signal {
  again: boolean;
  closing: boolean;
}

export class AsyncSignals implements CompletionHandler {
  private readonly ring: Ring;
  private readonly memory: Memory;
  private readonly one: Arena;
  private readonly handlerIndex: number;
  private readonly busy: Map<number, Signal> = new Map();

  constructor(ring: Ring, memory: Memory) {
    this.ring = ring;
    this.memory = memory;
    this.handlerIndex = ring.addHandler(this);
    this.one = memory.allocate(4096);
    this.one.u32[0] = 1;
  }

  signal(fd: number): void {
    const signal = this.busy.get(fd);
    if (signal !== undefined) {
      assert(!signal.closing, "signal on a closing descriptor");
      signal.again = true;
      return;
    }
    this.busy.set(fd, { again: false, closing: false });
    this.write(fd);
  }

  /** Takes ownership of `fd`: closed now, or when its write has ended. */
  close(fd: number): void {
    const signal = this.busy.get(fd);
    if (signal === undefined) {
      closeReceived(fd);
      return;
    }
    signal.closing = true;
    // A write that blocks for ever would keep the descriptor: ask the kernel to give it up.
    this.ring.cancel(this.handlerIndex, fd, this.handlerIndex, CANCEL_TAG);
  }

  private write(fd: number): void {
    this.ring.writeAsync(fd, this.one.address, 8, this.handlerIndex, fd);
  }

  /** Once the ring is closed: nothing is on its way. */
  free(): void {
    this.memory.free(this.one);
  }

  completed(fd: number, _result: number, _flags: number): void {
    if (fd === CANCEL_TAG) return;
    const signal = this.busy.get(fd);
    assert(signal !== undefined, "completion of a signal nobody sent");
    if (signal.again && !signal.closing) {
      signal.again = false;
      this.write(fd);
      return;
    }
    this.busy.delete(fd);
    if (signal.closing) closeReceived(fd);
  }
}
