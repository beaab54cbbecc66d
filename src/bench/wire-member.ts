// The far end of the wire's benchmark, a thread of its own: a member that serves replicas in
// memory, or the raw echo it is compared with. Says its port, and runs until it is told to stop.

import { workerData } from "node:worker_threads";
import type { TimerHandler } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { LoopbackMember, newReactor } from "../testing/peer/loopback.ts";
import { RawServer } from "../testing/peer/raw-echo.ts";
import { UringListener } from "../uring/index.ts";
import { type MemberData, PORT, STOP } from "./wire-shared.ts";

const { isRaw, pollMaxUs, shared } = workerData as MemberData;
const reactor = newReactor(pollMaxUs);

function listenRaw(): number {
  const fd = sys.check(sys.listenTcp({ host: "127.0.0.1", port: 0 }, 4), "listen");
  new UringListener(reactor.ring, reactor.memory, fd, new RawServer(reactor));
  return sys.boundPort(fd);
}

const watch: TimerHandler = {
  timerFired(): void {
    if (Atomics.load(shared, STOP) === 1) reactor.stop();
    else reactor.setTimer(20, watch, 0);
  },
};
reactor.setTimer(20, watch, 0);
Atomics.store(shared, PORT, isRaw ? listenRaw() : new LoopbackMember(reactor).port);
Atomics.notify(shared, PORT);
reactor.run();
