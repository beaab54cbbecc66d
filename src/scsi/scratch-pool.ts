// Memory of our own for commands that compare, copy or repeat blocks: a few buffers for all tasks
// of an engine, so that no number of commands makes it hold more. Who finds none waits in order.

import type { Arena, Memory } from "../ports/index.ts";
import { SCRATCH_BYTES } from "./command-run.ts";

const SCRATCH_COUNT = 8;

export class ScratchPool {
  private readonly memory: Memory;
  private readonly arenas: Arena[] = [];
  private readonly free: Arena[] = [];
  private readonly waiting: number[] = [];

  constructor(memory: Memory) {
    this.memory = memory;
    for (let index = 0; index < SCRATCH_COUNT; index++) {
      this.arenas.push(memory.allocate(SCRATCH_BYTES));
    }
    this.free.push(...this.arenas);
  }

  close(): void {
    for (const arena of this.arenas) this.memory.free(arena);
  }

  /** A buffer, or null: then `task` waits, and giveBack() names it when its turn has come. */
  take(task: number): Arena | null {
    const arena = this.free.pop() ?? null;
    if (arena === null) this.waiting.push(task);
    return arena;
  }

  /** Returns the task that now gets one by take(), or -1. */
  giveBack(arena: Arena): number {
    this.free.push(arena);
    return this.waiting.shift() ?? -1;
  }

  forget(task: number): void {
    const at = this.waiting.indexOf(task);
    if (at >= 0) this.waiting.splice(at, 1);
  }
}
