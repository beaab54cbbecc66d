// A load generator whose requests overlap, in a process of its own, and the history that it leaves.
// It may fail, be cut off or be killed: its history is good up to there.

import { type ChildProcess, fork } from "node:child_process";
import { closeSync, openSync, statSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { KIB } from "../../base/index.ts";
import { type LoadOptions, type LoadReport, onceEnded, runLoadSync } from "../../load/index.ts";
import { CLIENT_MAX, HistoryRecorder, type HistoryRequest, readHistory } from "./history-file.ts";

const MARK = "RINGSTORE_HISTORY_CLIENT";
const ENTRY: string = fileURLToPath(import.meta.url);
const LONG_MS = 3600_000;

/**
 * Few sectors, and all queues on all of them. About every fifth sector is under way at any time: with
 * more, nearly every fault could be explained by what overlaps it (the canaries show it).
 */
export const CONTENDED: Partial<LoadOptions> = {
  queueCount: 3,
  depth: 3,
  blockBytes: 512,
  blockBytesMax: 6 * KIB,
  alignBytes: 512,
  areaBytes: 160 * KIB,
  readPercent: 55,
  writeZeroesPercent: 3,
  flushEvery: 40,
};

interface Order {
  readonly load: LoadOptions;
  readonly path: string;
  readonly client: number;
}

export interface HistoryEnd {
  readonly report: LoadReport | null;
  /** Why there is no report. */
  readonly problem: string;
}

export class HistoryClient {
  readonly ended: Promise<HistoryEnd>;
  private readonly path: string;
  private readonly stopFile: string;
  private readonly child: ChildProcess;

  /** `client`, 1 to 255, tells its stamps from others'. `path`: of a file that is not there yet. */
  constructor(client: number, path: string, load: LoadOptions) {
    if (client < 1 || client > CLIENT_MAX) throw new Error(`client ${client} has no stamps`);
    this.path = path;
    this.stopFile = `${path}.stop`;
    this.child = fork(ENTRY, [], {
      env: { ...process.env, [MARK]: "1" },
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    const { child, stopFile } = this;
    this.ended = new Promise((resolve) => {
      child.once("message", () => {
        child.send({ client, path, load: { runtimeMs: LONG_MS, stopFile, ...load } });
        child.once("message", (end: HistoryEnd) => resolve(end));
      });
      onceEnded(child, (how) => resolve({ report: null, problem: `it ended with ${how}` }));
    });
  }

  /** Waits until its history is so much longer. */
  async more(bytes: number): Promise<void> {
    const length = (): number => statSync(this.path, { throwIfNoEntry: false })?.size ?? 0;
    const wanted = length() + bytes;
    while (length() < wanted) await this.goesOn(50);
  }

  /** Throws when it has ended by itself within that time. */
  async goesOn(milliseconds: number): Promise<void> {
    const end = await Promise.race([sleep(milliseconds).then(() => null), this.ended]);
    if (end !== null) throw new Error(`the client has ended early: ${end.problem}`);
  }

  async stop(): Promise<HistoryEnd> {
    writeFileSync(this.stopFile, "");
    return await this.ended;
  }

  kill(): void {
    this.child.kill("SIGKILL");
  }

  read(): HistoryRequest[] {
    return readHistory(this.path);
  }
}

function serveParent(): void {
  process.once("message", ({ client, path, load }: Order) => {
    const fd = openSync(path, "ax");
    let end: HistoryEnd;
    try {
      end = { report: runLoadSync(load, new HistoryRecorder(fd, client)), problem: "" };
    } catch (error) {
      end = { report: null, problem: (error as Error).message };
    }
    closeSync(fd);
    process.send?.(end, () => process.disconnect());
  });
  process.send?.("ready");
}

if (process.env[MARK] === "1" && process.argv[1] === ENTRY) serveParent();
