// npm run bench:boost: Ringstore against qemu-storage-daemon, both driven by the project's load
// generator, in turns within one run (A B A B ...), so that a machine whose speed drifts drifts
// for both. Writes docs/bench/boost.md and boost.json.
//
// What is measured is the build that users get: the daemon started as they start it, with inflight
// tracking, validation, counters and assertions on. qemu-storage-daemon gets its best options: one
// iothread with its adaptive polling, io_uring for direct files and for tmpfs whichever of threads
// and io_uring is faster (--qsd-aio), and the same queue count.
//
// Options: --pairs N (9), --runtime-ms N (1500), --rows TEXT (only rows whose name contains it),
// --out FOLDER, --dry (no files).

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type LoadReport, runLoadInChild } from "../load/index.ts";
import { PROJECT_FOLDER } from "../testing/daemon.ts";
import { type QueueResult, type RowResult, renderBoost } from "./boost-report.ts";
import { QUEUE_ROWS, ROWS, type Row } from "./boost-rows.ts";
import { BoostTargets } from "./boost-targets.ts";
import { describeMachine, loadText } from "./machine.ts";
import type { Pair } from "./pair-report.ts";

const { values } = parseArgs({
  options: {
    pairs: { type: "string", default: "9" },
    "runtime-ms": { type: "string", default: "1500" },
    "warmup-ms": { type: "string", default: "400" },
    rows: { type: "string", default: "" },
    out: { type: "string", default: join(PROJECT_FOLDER, "docs", "bench") },
    "qsd-aio": { type: "string", default: "io_uring" },
    dry: { type: "boolean", default: false },
  },
});
const pairCount = Number(values.pairs);
const runtimeMs = Number(values["runtime-ms"]);
const warmupMs = Number(values["warmup-ms"]);

async function measure(socketPath: string, work: Row["work"]): Promise<LoadReport> {
  const report = await runLoadInChild({
    socketPath,
    runtimeMs,
    warmupMs,
    polling: true,
    ...work,
  });
  if (!report.ok) throw new Error(`errors in a run: ${report.failures.join("; ")}`);
  return report;
}

async function runRow(targets: BoostTargets, row: Row): Promise<RowResult> {
  const pairs: Pair[] = [];
  for (let index = 0; index < pairCount; index++) {
    const oursFirst = index % 2 === 0;
    const one = (ours: boolean): Promise<LoadReport> =>
      ours ? targets.ours(row, measure) : targets.theirs(row, measure);
    const first = await one(oursFirst);
    const second = await one(!oursFirst);
    const [ours, theirs] = oursFirst ? [first, second] : [second, first];
    pairs.push({ ours, theirs });
    process.stderr.write(
      `${row.name}  ${index + 1}/${pairCount}  ` +
        `${(ours.iops / 1000).toFixed(0)} k against ${(theirs.iops / 1000).toFixed(0)} k IOPS, ` +
        `mean ${ours.latency.meanUs.toFixed(1)} against ${theirs.latency.meanUs.toFixed(1)} us, ` +
        `CPU ${ours.targetCpuUsPerRequest?.toFixed(2)} against ` +
        `${theirs.targetCpuUsPerRequest?.toFixed(2)} us\n`,
    );
  }
  return { row, pairs };
}

async function runQueues(
  targets: BoostTargets,
  row: (typeof QUEUE_ROWS)[number],
): Promise<QueueResult> {
  const base: Row = { ...row, work: {}, bars: [], pollUs: 50 };
  const four: LoadReport[] = [];
  const one: LoadReport[] = [];
  for (let index = 0; index < pairCount; index++) {
    const run = (queueCount: number): Promise<LoadReport> =>
      targets.ours({ ...base, work: { depth: 32, queueCount } }, measure);
    four.push(await run(4));
    one.push(await run(1));
    process.stderr.write(`${row.name}  ${index + 1}/${pairCount}\n`);
  }
  return { name: row.name, four, one };
}

const load = loadText();
const targets = new BoostTargets({
  tmpfsAio: values["qsd-aio"] === "threads" ? "threads" : "io_uring",
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  // Back-ends and their files do not outlive a run that is cut short.
  process.once(signal, () => void targets.stop().finally(() => process.exit(1)));
}
try {
  const results: RowResult[] = [];
  for (const row of ROWS.filter(({ name }) => name.includes(values.rows))) {
    results.push(await runRow(targets, row));
  }
  const queues: QueueResult[] = [];
  for (const row of QUEUE_ROWS.filter(({ name }) => name.includes(values.rows))) {
    queues.push(await runQueues(targets, row));
  }
  const text = renderBoost(results, queues, {
    machine: describeMachine(),
    load,
    pairCount,
    runtimeMs,
  });
  process.stdout.write(text);
  if (!values.dry) {
    mkdirSync(values.out, { recursive: true });
    writeFileSync(join(values.out, "boost.md"), text);
    writeFileSync(join(values.out, "boost.json"), `${JSON.stringify({ results, queues })}\n`);
  }
} finally {
  await targets.stop();
}
