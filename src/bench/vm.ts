// npm run bench:vm: Boost on and off. One volume with two copies on three nodes of this machine,
// over each path in turns: without a guest by the project's generators, in a Linux guest by fio.
// Writes vm.md, vm.html and vm.json into docs/bench/.
//
// Options: --rounds N (3), --slice-ms N (2000), --disk-mib N (1024), --volume-mib N (256), --rows
// TEXT (only rows whose name contains it), --places LIST (tmpfs,disk), --where LIST
// (generator,guest), --paths LIST (boost,classic,qsd), --folder FOLDER (the disk measured), --out
// FOLDER, --dry (no files), --json (the figures on standard output instead of the table).

import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { MIB } from "../base/index.ts";
import { PROJECT_FOLDER } from "../testing/daemon.ts";
import { describeMachine, loadText } from "./machine.ts";
import { onPlace, runCleanup } from "./place.ts";
import { renderVmHtml } from "./vm-html.ts";
import { renderVm } from "./vm-report.ts";
import { VM_PATHS, VM_ROWS, type VmFigures, type VmPath, type VmResult } from "./vm-rows.ts";
import { VmStage } from "./vm-stage.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    "slice-ms": { type: "string", default: "2000" },
    "disk-mib": { type: "string", default: "1024" },
    "volume-mib": { type: "string", default: "256" },
    rows: { type: "string", default: "" },
    places: { type: "string", default: "tmpfs,disk" },
    where: { type: "string", default: "generator,guest" },
    paths: { type: "string", default: VM_PATHS.join(",") },
    folder: { type: "string", default: tmpdir() },
    out: { type: "string", default: join(PROJECT_FOLDER, "docs", "bench") },
    dry: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});

function chosen<T extends string>(text: string, all: readonly T[], what: string): readonly T[] {
  const words = text.split(",");
  const wrong = words.find((word) => !(all as readonly string[]).includes(word));
  if (wrong !== undefined) throw new Error(`--${what} ${wrong} is none of ${all.join(", ")}`);
  return all.filter((one) => words.includes(one));
}

const roundCount = Number(values.rounds);
const sliceMs = Number(values["slice-ms"]);
const wheres = chosen(values.where, ["generator", "guest"] as const, "where");
const places = chosen(values.places, ["tmpfs", "disk"] as const, "places");
const wanted = chosen(values.paths, VM_PATHS, "paths");
const rows = VM_ROWS.filter(({ name }) => name.includes(values.rows));
const missing: Partial<Record<VmPath, string>> = {};
let guestText = "";

/** Every row over every path, the paths' order turned round by round. */
async function compare(
  stage: VmStage,
  place: VmResult["place"],
  where: VmResult["where"],
  paths: readonly VmPath[],
): Promise<readonly VmResult[]> {
  const rounds = rows.map((): Partial<Record<VmPath, VmFigures>>[] => []);
  for (let round = 0; round < roundCount; round++) {
    const order = round % 2 === 0 ? paths : [...paths].reverse();
    for (const path of order) {
      await stage.open(path);
      if (where === "guest") guestText = await stage.boot();
      for (const [index, row] of rows.entries()) {
        const run = where === "guest" ? stage.runGuest(row) : stage.runGenerator(row);
        const figures = await run;
        const mine = rounds[index] as Partial<Record<VmPath, VmFigures>>[];
        mine[round] = { ...mine[round], [path]: figures };
        process.stderr.write(
          `${place} ${where} ${round + 1}/${roundCount} ${path}: ${row.name}  ` +
            `${figures.iops.toFixed(0)} IOPS, mean ${figures.meanUs.toFixed(0)} us, CPU ` +
            `${figures.storageCpuUs.toFixed(1)} + ${figures.clientCpuUs.toFixed(1)} us\n`,
        );
      }
      await stage.close();
    }
  }
  return rows.map((row, index) => ({ row, place, where, rounds: rounds[index] ?? [] }));
}

/** qemu-storage-daemon reads iSCSI URLs only with Debian's block drivers beside it. */
async function runnable(stage: VmStage): Promise<readonly VmPath[]> {
  const found: VmPath[] = [];
  for (const path of wanted) {
    try {
      await stage.open(path);
      found.push(path);
    } catch (error) {
      if (path !== "qsd") throw error;
      missing[path] = (error as Error).message.replace(/\s+/g, " ").trim();
    }
    await stage.close();
  }
  return found;
}

const cleanup = runCleanup();
try {
  const machine = describeMachine();
  const load = loadText();
  const results: VmResult[] = [];
  for (const place of places) {
    const where = { place, diskFolder: values.folder, prefix: "bench-vm-" };
    await onPlace(cleanup, where, async (inner, folder) => {
      const diskBytes = Number(values["disk-mib"]) * MIB;
      const volumeBytes = Number(values["volume-mib"]) * MIB;
      const stage = await VmStage.start(inner, { folder, diskBytes, volumeBytes, sliceMs });
      const paths = await runnable(stage);
      await stage.prepare(paths);
      for (const one of wheres) results.push(...(await compare(stage, place, one, paths)));
    });
  }
  const run = { machine, load, guest: guestText, roundCount, sliceMs, results, missing };
  const text = renderVm(run);
  process.stdout.write(values.json ? `${JSON.stringify(run, null, 1)}\n` : text);
  if (!values.dry) {
    mkdirSync(values.out, { recursive: true });
    writeFileSync(join(values.out, "vm.md"), text);
    writeFileSync(join(values.out, "vm.html"), renderVmHtml(run));
    writeFileSync(join(values.out, "vm.json"), `${JSON.stringify(run, null, 1)}\n`);
  }
} finally {
  await cleanup.run();
}
