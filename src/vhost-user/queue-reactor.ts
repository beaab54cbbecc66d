// @hot
// The reactor as a ring's queue sees it: a flush that the queue asks for comes to the ring, so
// that the ring notices the end of a drain.

import type { Poller, ReactorPort } from "../ports/index.ts";

export class QueueReactor {
  readonly requests: ReactorPort["requests"];
  private readonly reactor: ReactorPort;
  private readonly ring: Poller;

  constructor(reactor: ReactorPort, ring: Poller) {
    this.requests = reactor.requests;
    this.reactor = reactor;
    this.ring = ring;
  }

  get loopTimeUs(): number {
    return this.reactor.loopTimeUs;
  }

  requestFlush(_queue: Poller): void {
    this.reactor.requestFlush(this.ring);
  }
}
