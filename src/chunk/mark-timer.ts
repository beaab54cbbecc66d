// A while after the last write, what is in place is marked as such in the ring, and the committed
// stamps of replicas go along: after a crash then, nothing of it has to be doubted or compared.

import type { ReactorPort } from "../ports/index.ts";
import type { RingJournal } from "./ring-journal.ts";

const MARK_DELAY_MS = 50;

export interface MarkTimerClient {
  timerFired(tag: number): void;
}

export class MarkTimer {
  private readonly reactor: ReactorPort;
  private readonly client: MarkTimerClient;
  private readonly tag: number;
  private timer = -1;

  constructor(reactor: ReactorPort, client: MarkTimerClient, tag: number) {
    this.reactor = reactor;
    this.client = client;
    this.tag = tag;
  }

  arm(): void {
    if (this.timer !== -1) return;
    this.timer = this.reactor.setTimer(MARK_DELAY_MS, this.client, this.tag);
  }

  cancel(): void {
    if (this.timer !== -1) this.reactor.cancelTimer(this.timer);
    this.timer = -1;
  }

  /** The time has come: marks, or waits once more while there is something on its way. */
  fired(ring: RingJournal, addCommits: () => void): void {
    this.timer = -1;
    if (ring.completeLsn < ring.nextLsn - 1 || ring.hasUnwritten) {
      this.arm();
      return;
    }
    addCommits();
    if (ring.hasUnwritten) ring.flush();
    else ring.writeMark();
  }
}
