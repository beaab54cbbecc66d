// What happens when writing pauses.
//
//   50 ms after the last write   what is in place is marked as such in the ring, and the committed
//                                stamps of replicas go along: after a crash then, nothing of it has
//                                to be doubted or compared
//   1 s after that               freed slabs become free: what their records wait for is written
//                                back, although nothing presses
//
// Invariants:
// - a store in which nothing waits has no timer, so that it costs nothing;
// - one that closes has none either: no request waits for the group that is a mark, so that nobody
//   would wait for it before its memory goes.

import type { ReactorPort, TimerHandler } from "../ports/index.ts";
import type { RingJournal } from "./ring-journal.ts";
import type { SlabMap } from "./slab-map.ts";
import type { Upkeep } from "./upkeep.ts";

const MARK_DELAY_MS = 50;
const FREE_DELAY_MS = 1000;
const TIMER_MARK = 0;
const TIMER_FREE = 1;

export interface QuietParts {
  readonly parts: { readonly ring: RingJournal; readonly slabs: SlabMap };
  readonly upkeep: Upkeep;
  readonly replicas: { addCommits(): void };
}

export interface QuietClient {
  /** null while nothing is served. */
  readonly served: QuietParts | null;
}

export class QuietTimers implements TimerHandler {
  private readonly reactor: ReactorPort;
  private readonly client: QuietClient;
  private markTimer = -1;
  private freeTimer = -1;
  private isOver = false;

  constructor(reactor: ReactorPort, client: QuietClient) {
    this.reactor = reactor;
    this.client = client;
  }

  /** Something is there to be marked. */
  mark(): void {
    if (this.markTimer !== -1 || this.isOver) return;
    this.markTimer = this.reactor.setTimer(MARK_DELAY_MS, this, TIMER_MARK);
  }

  /** Something is written: what is freed may soon be written again, and waits in the ring. */
  written(): void {
    this.mark();
    if (this.freeTimer !== -1) this.reactor.cancelTimer(this.freeTimer);
    this.freeTimer = -1;
    this.client.served?.upkeep.stopReleasing();
  }

  /** Nothing is being written; if it stays so, slabs in quarantine do not wait for more. */
  quiet(): void {
    const { served } = this.client;
    if (served === null || this.freeTimer !== -1 || this.isOver) return;
    if (served.parts.slabs.quarantineCount === 0) return;
    this.freeTimer = this.reactor.setTimer(FREE_DELAY_MS, this, TIMER_FREE);
  }

  /** The store closes. */
  end(): void {
    this.isOver = true;
    for (const timer of [this.markTimer, this.freeTimer]) {
      if (timer !== -1) this.reactor.cancelTimer(timer);
    }
    this.markTimer = -1;
    this.freeTimer = -1;
  }

  timerFired(tag: number): void {
    if (tag === TIMER_MARK) this.markTimer = -1;
    else this.freeTimer = -1;
    const { served } = this.client;
    if (served === null) return;
    if (tag === TIMER_FREE) served.upkeep.releaseQuarantine();
    else this.markNow(served);
  }

  /** Marks, or waits once more while there is something on its way. */
  private markNow({ parts, replicas }: QuietParts): void {
    const { ring } = parts;
    if (ring.completeLsn < ring.nextLsn - 1 || ring.hasUnwritten) {
      this.mark();
      return;
    }
    replicas.addCommits();
    if (ring.hasUnwritten) ring.flush();
    else ring.writeMark();
    this.quiet();
  }
}
