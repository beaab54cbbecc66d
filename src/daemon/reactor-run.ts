// A reactor thread from its first line to its last. Everything imported here is loaded while guests
// of a restarted daemon wait: no control-plane library belongs here.

import { parentPort } from "node:worker_threads";
import { assert, RingstoreError } from "../base/index.ts";
import { endByDefect, registerLogRing } from "./reactor-fatal.ts";
import { ReactorLoop, toWire } from "./reactor-loop.ts";
import type { ReactorMessage, ReactorOrder } from "./reactor-protocol.ts";

/** The order comes when the main thread knows its configuration; the modules are loaded by then. */
export function takeOrder(then: (order: ReactorOrder) => void): void {
  assert(parentPort !== null, "a reactor runs in a worker");
  // Once: the port keeps the thread alive until it has its order, not after its end.
  parentPort.once("message", then);
}

/** Runs the thread to its end. `prepare` is for tests: it sees the loop before it runs. */
export function runReactor(
  { start, port }: ReactorOrder,
  prepare: (loop: ReactorLoop) => void = () => undefined,
): void {
  try {
    for (const shared of start.logRings) registerLogRing(shared);
    let loop: ReactorLoop;
    try {
      loop = new ReactorLoop(start, port);
    } catch (error) {
      if (!(error instanceof RingstoreError)) throw error;
      const refused: ReactorMessage = { kind: "refused", error: toWire(error) };
      port.postMessage(refused);
      port.close();
      return;
    }
    prepare(loop);
    loop.run();
    port.close();
  } catch (error) {
    endByDefect(error, start.index);
  }
}
