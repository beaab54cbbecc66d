// A reactor thread from its first line to its last. Everything imported here is loaded while guests
// of a restarted daemon wait: no control-plane library belongs here.

import { type MessagePort, workerData } from "node:worker_threads";
import { RingstoreError } from "../base/index.ts";
import { endByDefect, registerLogRing } from "./reactor-fatal.ts";
import { ReactorLoop, toWire } from "./reactor-loop.ts";
import type { ReactorMessage, ReactorStart } from "./reactor-protocol.ts";

interface WorkerData {
  readonly start: ReactorStart;
  readonly port: MessagePort;
}

/** Runs the thread to its end. `prepare` is for tests: it sees the loop before it runs. */
export function runReactor(prepare: (loop: ReactorLoop) => void = () => undefined): void {
  const { start, port } = workerData as WorkerData;
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
