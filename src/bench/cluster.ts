// npm run bench:cluster: a volume with two copies on three daemons of this machine, against plain
// processes and an unreplicated store on the same disk, in turns within one run. Writes
// docs/bench/cluster.md and cluster.json.
//
// Options: --pairs N (5), --slice-ms N (2000), --disk-mib N (1024), --volume-mib N (512), --rows
// TEXT (only rows whose name contains it), --absence-s N (60; 0 leaves the resync out), --folder
// FOLDER (the disk measured), --out FOLDER, --dry.

import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MIB } from "../base/index.ts";
import { PROJECT_FOLDER } from "../testing/daemon.ts";
import { type ClusterRowResult, renderCluster } from "./cluster-report.ts";
import type { ResyncFigures } from "./cluster-resync.ts";
import { type ClusterPair, type ClusterRow, clusterRows } from "./cluster-rows.ts";
import { ClusterStage } from "./cluster-stage.ts";
import { describeMachine, loadText } from "./machine.ts";
import { onPlace, runCleanup } from "./place.ts";

const { values } = parseArgs({
  options: {
    pairs: { type: "string", default: "5" },
    "slice-ms": { type: "string", default: "2000" },
    "disk-mib": { type: "string", default: "1024" },
    "volume-mib": { type: "string", default: "512" },
    rows: { type: "string", default: "" },
    "absence-s": { type: "string", default: "60" },
    folder: { type: "string", default: tmpdir() },
    out: { type: "string", default: join(PROJECT_FOLDER, "docs", "bench") },
    dry: { type: "boolean", default: false },
  },
});
const pairCount = Number(values.pairs);
const sliceMs = Number(values["slice-ms"]);
const diskBytes = Number(values["disk-mib"]) * MIB;
const volumeBytes = Number(values["volume-mib"]) * MIB;
const absenceMs = Number(values["absence-s"]) * 1000;

async function runRow(stage: ClusterStage, row: ClusterRow): Promise<ClusterRowResult> {
  const pairs: ClusterPair[] = [];
  const count = Math.min(pairCount, row.pairsMax ?? pairCount);
  await stage.warmUp(row);
  for (let index = 0; index < count; index++) {
    await stage.drain();
    let pair: ClusterPair;
    if (index % 2 === 0) {
      const theirs = await stage.theirs(row, index + 1);
      pair = { ours: await stage.ours(row, index + 1), theirs };
    } else {
      const ours = await stage.ours(row, index + 1);
      await stage.drain();
      pair = { ours, theirs: await stage.theirs(row, index + 1) };
    }
    pairs.push(pair);
    const { ours, theirs } = pair;
    process.stderr.write(
      `${row.name}  ${index + 1}/${count}  ${ours.perSecond.toFixed(0)} per second, mean ` +
        `${ours.meanUs.toFixed(0)} us, CPU ${ours.cpuUs.toFixed(1)} us; ${row.against}: ` +
        `${theirs?.perSecond.toFixed(0) ?? "–"}, ${theirs?.meanUs.toFixed(0) ?? "–"} us\n`,
    );
  }
  return { row, pairs };
}

const cleanup = runCleanup();
try {
  const machine = describeMachine();
  const load = loadText();
  const rows: ClusterRowResult[] = [];
  let ringBytes = 0;
  const resyncs: ResyncFigures[] = [];
  for (const place of ["disk", "tmpfs"] as const) {
    const isWanted = (row: ClusterRow): boolean =>
      row.place === place && row.name.includes(values.rows);
    if (!clusterRows(1).some(isWanted)) continue;
    const where = { place, diskFolder: values.folder, prefix: "bench-cluster-" };
    await onPlace(cleanup, where, async (inner, folder) => {
      const stage = await ClusterStage.start(inner, { folder, diskBytes, volumeBytes, sliceMs });
      if (place === "disk" || ringBytes === 0) ringBytes = stage.ringBytes;
      for (const row of clusterRows(stage.ringBytes).filter(isWanted)) {
        rows.push(await runRow(stage, row));
      }
      if (place === "disk" && absenceMs > 0) resyncs.push(await stage.resync(absenceMs));
    });
  }
  const [resync = null] = resyncs;
  const run = { machine, load, rows, resync, ringMib: ringBytes / MIB, sliceMs };
  const text = renderCluster(run);
  process.stdout.write(text);
  if (!values.dry) {
    mkdirSync(values.out, { recursive: true });
    writeFileSync(join(values.out, "cluster.md"), text);
    writeFileSync(join(values.out, "cluster.json"), `${JSON.stringify(run, null, 1)}\n`);
  }
} finally {
  await cleanup.run();
}
