// npm run bench:classic: the classic path against tgt, one file behind both, both driven by the
// project's iSCSI generator in turns within one run (A B A B ...). Writes docs/bench/classic.md and
// classic.json.
//
// Options: --pairs N (7), --runtime-ms N (1500), --rows TEXT (only rows whose name contains it),
// --folder FOLDER (the disk measured), --out FOLDER, --dry (no files).

import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { GIB } from "../base/index.ts";
import { runIscsiLoadInChild } from "../load/index.ts";
import { freePort, SystemMemory } from "../sys/index.ts";
import { Daemon, PROJECT_FOLDER } from "../testing/daemon.ts";
import { apiOf } from "../testing/soak/api.ts";
import type { Cleanup } from "../testing/soak/cleanup.ts";
import { prewrite } from "../testing/store/real-rig.ts";
import { Tgt } from "../testing/tgt.ts";
import { type ClassicResult, renderClassic } from "./classic-report.ts";
import { CLASSIC_ROWS, type ClassicRow } from "./classic-rows.ts";
import { describeMachine, loadText } from "./machine.ts";
import type { Pair, RunReport } from "./pair-report.ts";
import { type BenchPlace, onPlace, runCleanup } from "./place.ts";

const FILE_BYTES = GIB;
const VOLUME = "classic";
const WARM_UP_REQUESTS = 100_000;

const { values } = parseArgs({
  options: {
    pairs: { type: "string", default: "7" },
    "runtime-ms": { type: "string", default: "1500" },
    "warmup-ms": { type: "string", default: "300" },
    rows: { type: "string", default: "" },
    folder: { type: "string", default: tmpdir() },
    out: { type: "string", default: join(PROJECT_FOLDER, "docs", "bench") },
    dry: { type: "boolean", default: false },
  },
});
const pairCount = Number(values.pairs);
const runtimeMs = Number(values["runtime-ms"]);
const warmupMs = Number(values["warmup-ms"]);

/** A target, by its URL, and the process that serves it. */
interface Side {
  readonly url: string;
  readonly pid: number;
}

async function sides(
  cleanup: Cleanup,
  place: BenchPlace,
  folder: string,
): Promise<{ readonly ours: Side; readonly theirs: Side }> {
  const path = join(folder, "unit");
  prewrite(path, FILE_BYTES, new SystemMemory());
  const listen = `127.0.0.1:${freePort("127.0.0.1")}`;
  const daemon = await Daemon.start({ flags: ["--iscsi-listen", listen] });
  cleanup.after(() => daemon.stop());
  const api = apiOf(daemon);
  await api.createVolume({ name: VOLUME, backing: "file", path });
  const { classic } = await api.attachVolume(VOLUME, { classic: {} });
  const tgt = await Tgt.start({ path, store: place === "tmpfs" ? "rdwr" : "aio" });
  cleanup.after(() => tgt.stop());
  return { ours: { url: classic?.url ?? "", pid: daemon.pid }, theirs: tgt };
}

async function measure({ url, pid }: Side, work: ClassicRow["work"]): Promise<RunReport> {
  const report = await runIscsiLoadInChild({ runtimeMs, warmupMs, ...work, url, pids: [pid] });
  if (!report.ok) throw new Error(`errors in a run: ${report.failures.join("; ")}`);
  return report;
}

async function runRow(
  row: ClassicRow,
  { ours, theirs }: { readonly ours: Side; readonly theirs: Side },
): Promise<ClassicResult> {
  const pairs: Pair[] = [];
  for (let index = 0; index < pairCount; index++) {
    const isOursFirst = index % 2 === 0;
    const first = await measure(isOursFirst ? ours : theirs, row.work);
    const second = await measure(isOursFirst ? theirs : ours, row.work);
    const pair = isOursFirst ? { ours: first, theirs: second } : { ours: second, theirs: first };
    pairs.push(pair);
    process.stderr.write(
      `${row.name}  ${index + 1}/${pairCount}  ${(pair.ours.iops / 1000).toFixed(1)} k against ` +
        `${(pair.theirs.iops / 1000).toFixed(1)} k IOPS\n`,
    );
  }
  return { row, pairs };
}

function tgtVersion(): string {
  return `tgt ${execFileSync("tgtd", ["--version"], { encoding: "utf8" }).trim()}`;
}

const cleanup = runCleanup();
try {
  const machine = describeMachine();
  const load = loadText();
  const tgt = tgtVersion();
  const results: ClassicResult[] = [];
  for (const place of ["tmpfs", "disk"] as const) {
    const rows = CLASSIC_ROWS.filter(
      (row) => row.place === place && row.name.includes(values.rows),
    );
    if (rows.length === 0) continue;
    const where = { place, diskFolder: values.folder, prefix: "bench-classic-" };
    await onPlace(cleanup, where, async (inner, folder) => {
      const both = await sides(inner, place, folder);
      // Code that the compiler has not met costs a multiple.
      const warm = { blockBytes: 4096, depth: 32, readPercent: 50, requestCount: WARM_UP_REQUESTS };
      await measure(both.ours, { ...warm, warmupMs: 0 });
      for (const row of rows) results.push(await runRow(row, both));
    });
  }
  const text = renderClassic({ machine, load, pairCount, runtimeMs, tgt, results });
  process.stdout.write(text);
  if (!values.dry) {
    mkdirSync(values.out, { recursive: true });
    writeFileSync(join(values.out, "classic.md"), text);
    writeFileSync(join(values.out, "classic.json"), `${JSON.stringify(results)}\n`);
  }
} finally {
  await cleanup.run();
}
