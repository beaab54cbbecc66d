// A data plane in a process of its own, called over the IPC channel: for tests that kill it, or
// leave I/O behind in it. The other end is PlaneHost, for the test.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { RingstoreError } from "../base/index.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import { createDataPlane, type ReactorDataPlane, type ReactorPlaneOptions } from "./data-plane.ts";
import { endByDefect } from "./reactor-fatal.ts";

type Method = keyof DataPlane;

interface Call {
  readonly id: number;
  readonly method: Method | "start";
  readonly args: readonly unknown[];
}

interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: { readonly code: string; readonly message: string };
}

const ENTRY = fileURLToPath(import.meta.url);
const MARK = "RINGSTORE_TEST_HOST";

export class PlaneHost {
  readonly child: ChildProcess;
  private readonly waiting: Map<number, (answer: Answer) => void> = new Map();
  private nextId = 1;

  constructor() {
    this.child = fork(ENTRY, [], {
      env: { ...process.env, [MARK]: "1", NODE_TEST_CONTEXT: undefined },
      serialization: "advanced",
    });
    this.child.on("message", (answer: Answer) => this.waiting.get(answer.id)?.(answer));
    this.child.once("exit", () => {
      for (const [id, settle] of this.waiting) {
        settle({ id, error: { code: "ENDED", message: "the host has ended" } });
      }
    });
  }

  async call<T = void>(method: Method | "start", ...args: readonly unknown[]): Promise<T> {
    const id = this.nextId++;
    const call: Call = { id, method, args };
    const answer = await new Promise<Answer>((resolve) => {
      this.waiting.set(id, resolve);
      this.child.send(call);
    });
    this.waiting.delete(id);
    if (answer.error === undefined) return answer.value as T;
    throw new RingstoreError(answer.error.code, answer.error.message);
  }

  start(options: Pick<ReactorPlaneOptions, "limits">): Promise<void> {
    return this.call("start", options);
  }

  /** Resolves when the process is really gone, which I/O in the kernel may delay. */
  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await gone;
  }
}

let plane: ReactorDataPlane | null = null;

async function carryOut({ method, args }: Call): Promise<unknown> {
  if (method === "start") {
    plane = await createDataPlane(
      {
        reactorCount: 1,
        pollUs: 50,
        trustMemory: false,
        log: { log(): void {} },
        changed: () => undefined,
        fatal: (error) => endByDefect(error, -1),
      },
      args[0] as ReactorPlaneOptions,
    );
    return undefined;
  }
  const called = plane as unknown as Record<string, (...args: readonly unknown[]) => unknown>;
  return await called[method]?.(...args);
}

if (process.env[MARK] !== undefined) {
  process.on("message", (call: Call) => {
    const send = (answer: Answer): void => void process.send?.(answer);
    carryOut(call).then(
      (value) => send({ id: call.id, value }),
      ({ code, message }: RingstoreError) => send({ id: call.id, error: { code, message } }),
    );
  });
}
