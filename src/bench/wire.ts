// npm run bench:wire: 4 KiB messages over loopback TCP, a remote replica against the same bytes
// with nothing in between, in turns within one run (A B A B ...). The far end is another thread;
// CPU is that of both ends together. Writes docs/bench/wire.md.
//
// Options: --pairs N (5), --slice-ms N (1000), --poll-us N (50), --out FOLDER, --dry.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import type { Reactor } from "../reactor/index.ts";
import { PROJECT_FOLDER } from "../testing/daemon.ts";
import { LoopbackOwner, newReactor } from "../testing/peer/loopback.ts";
import { RawClient } from "../testing/peer/raw-echo.ts";
import { UringDialer } from "../uring/index.ts";
import { describeMachine, loadText } from "./machine.ts";
import { median } from "./pair-report.ts";
import { type MemberData, PORT, STOP } from "./wire-shared.ts";

const { values } = parseArgs({
  options: {
    pairs: { type: "string", default: "5" },
    "slice-ms": { type: "string", default: "1000" },
    "poll-us": { type: "string", default: "50" },
    out: { type: "string", default: join(PROJECT_FOLDER, "docs", "bench") },
    dry: { type: "boolean", default: false },
  },
});
const pairCount = Number(values.pairs);
const sliceMs = Number(values["slice-ms"]);
const pollMaxUs = Number(values["poll-us"]);
const DEPTHS = [1, 32];

/** Something that sends messages and counts answers. */
interface Driver {
  readonly completedCount: number;
  readonly inflightCount: number;
  isRunning: boolean;
  start(depth: number): void;
}

interface Measured {
  readonly perSecond: number;
  readonly meanUs: number;
  readonly cpuUs: number;
}

class Side {
  readonly shared: Int32Array = new Int32Array(new SharedArrayBuffer(8));
  readonly reactor: Reactor = newReactor(pollMaxUs);
  readonly worker: Worker;
  driver!: Driver;

  constructor(isRaw: boolean) {
    const data: MemberData = { isRaw, pollMaxUs, shared: this.shared };
    this.worker = new Worker(new URL("./wire-member.js", import.meta.url), { workerData: data });
  }

  get port(): number {
    return Atomics.load(this.shared, PORT);
  }

  /** The loop, until the condition holds. */
  run(isOver: () => boolean): void {
    const { reactor } = this;
    const watch = {
      timerFired: (): void => {
        if (isOver()) reactor.stop();
        else reactor.setTimer(1, watch, 0);
      },
    };
    reactor.setTimer(1, watch, 0);
    reactor.run();
  }

  measure(depth: number): Measured {
    const { driver } = this;
    const cpu = process.cpuUsage();
    const startMs = performance.now();
    const before = driver.completedCount;
    driver.start(depth);
    this.run(() => performance.now() - startMs >= sliceMs);
    const count = driver.completedCount - before;
    const elapsedMs = performance.now() - startMs;
    const used = process.cpuUsage(cpu);
    driver.isRunning = false;
    this.run(() => driver.inflightCount === 0);
    return {
      perSecond: (count * 1000) / elapsedMs,
      meanUs: (elapsedMs * 1000 * depth) / count,
      cpuUs: (used.user + used.system) / count,
    };
  }
}

function openRaw(side: Side): void {
  const client = new RawClient(side.reactor);
  const { ring, memory } = side.reactor;
  client.dialled(
    new UringDialer(ring, memory, { host: "127.0.0.1", port: side.port }).dial(client),
  );
  side.run(() => client.isOpen);
  side.driver = client;
}

function openLink(side: Side): void {
  const owner = new LoopbackOwner(side.reactor, side.port, Math.max(...DEPTHS), 1);
  let isReady = false;
  side.run(() => owner.link.state === "up");
  owner.replica.fence(1, (answer) => {
    if ("code" in answer) throw new Error(answer.message);
    isReady = true;
  });
  side.run(() => isReady);
  side.driver = owner;
}

function row(depth: number, raw: Measured[], link: Measured[]): string {
  const of = (list: Measured[], key: keyof Measured): number => median(list.map((one) => one[key]));
  const ratio = (key: keyof Measured): string =>
    median(link.map((one, at) => one[key] / (raw[at] as Measured)[key])).toFixed(2);
  const figures = (list: Measured[]): string =>
    `${Math.round(of(list, "perSecond"))} | ${of(list, "meanUs").toFixed(1)} | ` +
    of(list, "cpuUs").toFixed(2);
  const ratios = `${ratio("meanUs")} | ${ratio("cpuUs")}`;
  return `| ${depth} | ${figures(raw)} | ${figures(link)} | ${ratios} |`;
}

function report(rows: readonly string[], load: string): string {
  const machine = describeMachine();
  return [
    "# The wire over loopback",
    "",
    "4 KiB messages, each answered, over loopback TCP between two threads of one process. *Raw* is",
    "the same bytes with nothing in between: no headers made, nothing checked, nothing copied.",
    "*Wire* is `RemoteReplica.write` to a replica in memory: headers, two checksums of the data,",
    "two copies, of which one stands for the disk. CPU is of both ends together, per message; with",
    "polling on, waiting at depth 1 costs CPU as well. Medians of the turns; ratios are medians of",
    "the ratios pair by pair. Made by `npm run bench:wire`.",
    "",
    "| depth | raw: messages/s | mean us | CPU us | wire: messages/s | mean us | CPU us " +
      "| mean ratio | CPU ratio |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...rows,
    "",
    `${machine.cpuCount} × ${machine.cpu}, ${machine.memory}, Linux ${machine.kernel}, ` +
      `Node.js ${machine.node}, commit ${machine.commit}, ${machine.date}. ${pairCount} pairs of ` +
      `${sliceMs} ms, polling ${pollMaxUs} us. ${load}`,
    "",
  ].join("\n");
}

const load = loadText();
const rawSide = new Side(true);
const linkSide = new Side(false);
for (const side of [rawSide, linkSide]) {
  while (side.port === 0) await new Promise((resolve) => setTimeout(resolve, 5));
}
openRaw(rawSide);
openLink(linkSide);
const rows: string[] = [];
for (const depth of DEPTHS) {
  // Once for the compiler.
  rawSide.measure(depth);
  linkSide.measure(depth);
  const raw: Measured[] = [];
  const link: Measured[] = [];
  for (let at = 0; at < pairCount; at++) {
    raw.push(rawSide.measure(depth));
    link.push(linkSide.measure(depth));
  }
  rows.push(row(depth, raw, link));
}
const text = report(rows, load);
process.stdout.write(`${text}\n`);
if (!values.dry) {
  mkdirSync(values.out, { recursive: true });
  writeFileSync(join(values.out, "wire.md"), text);
}
for (const side of [rawSide, linkSide]) Atomics.store(side.shared, STOP, 1);
setTimeout(() => process.exit(0), 100);
