// @hot
// Private memory for data on its way: fresh and redirected writes, and reads that are verified
// before the caller may see them. A slab each.

import { assert } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";
import { SLAB_BYTES } from "./layouts.ts";

export class BufferPool {
  freeCount: number;
  readonly arena: Arena;
  private readonly address: Address;
  private readonly freeStack: Int32Array;

  constructor(count: number, memory: Memory) {
    this.freeCount = count;
    this.arena = memory.allocate(count * SLAB_BYTES);
    this.address = this.arena.address;
    this.freeStack = new Int32Array(count);
    for (let index = 0; index < count; index++) this.freeStack[index] = count - 1 - index;
  }

  /** -1 when none is free. */
  take(): number {
    if (this.freeCount === 0) return -1;
    this.freeCount -= 1;
    return this.freeStack[this.freeCount] as number;
  }

  giveBack(buffer: number): void {
    assert(this.freeCount < this.freeStack.length, "a buffer is given back twice");
    this.freeStack[this.freeCount] = buffer;
    this.freeCount += 1;
  }

  addressOf(buffer: number): Address {
    return this.address + buffer * SLAB_BYTES;
  }
}
