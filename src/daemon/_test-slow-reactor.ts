// The entry of a reactor thread that is deaf for a while now and then, for tests of time limits: it
// is when the file that RINGSTORE_TEST_DEAF names exists, until it is gone.

import { existsSync } from "node:fs";
import { isMainThread } from "node:worker_threads";
import type { ReactorLoop } from "./reactor-loop.ts";
import { runReactor, takeOrder } from "./reactor-run.ts";

const LOOK_MS = 5;

function listen(loop: ReactorLoop): void {
  const path = process.env["RINGSTORE_TEST_DEAF"] as string;
  const timerFired = (): void => {
    while (existsSync(path));
    loop.reactor.setTimer(LOOK_MS, { timerFired }, 0);
  };
  timerFired();
}

if (!isMainThread) takeOrder((order) => runReactor(order, listen));
