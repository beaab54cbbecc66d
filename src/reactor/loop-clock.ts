// The clock as a loop reads it: into a cell. A fractional number that is returned may be boxed on
// the heap, depending on what the compiler inlines; one that is stored is not.

import type { Clock } from "../ports/index.ts";

export type LoopClock = Required<Clock>;

/** `clock` itself where it can store, otherwise something that stores what it returns. */
export function loopClockOf(clock: Clock): LoopClock {
  return canStore(clock) ? clock : new StoringClock(clock);
}

function canStore(clock: Clock): clock is LoopClock {
  return clock.storeNowUs !== undefined;
}

class StoringClock implements LoopClock {
  private readonly clock: Clock;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  nowUs(): number {
    return this.clock.nowUs();
  }

  storeNowUs(cell: Float64Array): void {
    cell[0] = this.clock.nowUs();
  }
}
