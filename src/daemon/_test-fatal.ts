// A process that dies of a planted defect, for reactor-fatal.test.ts: a data plane with two
// reactors, and the defect that the first argument names. Also the entry of its reactor threads.

import { writeSync } from "node:fs";
import { isMainThread } from "node:worker_threads";
import { assert } from "../base/index.ts";
import { createDataPlane } from "./data-plane.ts";
import { endByDefect } from "./reactor-fatal.ts";
import type { ReactorLoop } from "./reactor-loop.ts";
import { runReactor, takeOrder } from "./reactor-run.ts";

const MODE = "RINGSTORE_TEST_DEFECT";
const DELAY_MS = 30;

/** The parent measures from here. */
function announce(): void {
  writeSync(1, `${performance.timeOrigin + performance.now()}\n`);
}

function planted(where: string): never {
  announce();
  throw new Error(`planted ${where}`);
}

function recurse(depth: number): number {
  return recurse(depth + 1) + 1;
}

const IN_THE_LOOP: Readonly<Record<string, (loop: ReactorLoop) => void>> = {
  "reactor-loop": spoken,
  "reactor-loop-main-busy": spoken,
  "reactor-loop-stderr-full": spoken,
  "reactor-assert": () => {
    announce();
    assert(false, "planted assertion");
  },
  "reactor-overflow": () => {
    announce();
    recurse(0);
  },
};

function spoken(loop: ReactorLoop): void {
  loop.reactor.log.log("warn", "last words of the reactor", { why: "a test" });
  planted("in a reactor's loop");
}

function spoil(mode: string, loop: ReactorLoop): void {
  if (mode === "reactor-start") planted("in a reactor's start");
  const defect = IN_THE_LOOP[mode];
  if (defect === undefined) return;
  loop.reactor.setTimer(DELAY_MS, { timerFired: () => defect(loop) }, 0);
}

async function main(mode: string): Promise<void> {
  process.env[MODE] = mode;
  process.on("uncaughtException", (error) => endByDefect(error, -1));
  process.on("unhandledRejection", (error) => endByDefect(error, -1));
  await createDataPlane(
    {
      reactorCount: 2,
      pollUs: 50,
      trustMemory: false,
      log: { log(): void {} },
      changed: () => undefined,
      fatal: (error) => endByDefect(error, -1),
    },
    { workerEntry: new URL(import.meta.url), limits: { lookMs: 60_000 } },
  );
  if (mode === "main-throw") setTimeout(() => planted("on the main thread"), DELAY_MS);
  if (mode === "main-reject") {
    setTimeout(() => {
      announce();
      void Promise.reject(new Error("planted rejection"));
    }, DELAY_MS);
  }
  if (mode === "reactor-loop-main-busy") for (;;);
}

if (isMainThread) {
  await main(process.argv[2] as string);
} else {
  if (process.env[MODE] === "reactor-module") planted("while a reactor's modules load");
  takeOrder((order) => {
    const mode = order.start.index === 1 ? (process.env[MODE] as string) : "";
    if (mode === "reactor-exit") {
      announce();
      process.exit(0);
    }
    runReactor(order, (loop) => spoil(mode, loop));
  });
}
