// npm run bench:store: a volume of the store against the same disk used raw, in turns within one
// run (A B A B ...). Writes docs/bench/store.md and store.json.
//
// Options: --pairs N (5), --slice-ms N (1000), --size-gib N (3), --ring-mib N (128), --rows TEXT
// (only rows whose name contains it), --folder FOLDER (where the files lie: the disk measured),
// --large-gib N (1024; data of the part about large disks, 0 = without), --out FOLDER, --dry.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { GIB, MIB } from "../base/index.ts";
import type { Store, StoreVolume } from "../chunk/index.ts";
import type { BlockDevice } from "../ports/index.ts";
import { PROJECT_FOLDER } from "../testing/daemon.ts";
import { BenchRig, type Measured, prewrite, VOLUME_UUID } from "../testing/store/real-rig.ts";
import { describeMachine, loadText } from "./machine.ts";
import {
  renderStore,
  type StoreFact,
  type StorePair,
  type StoreRowResult,
} from "./store-report.ts";
import { type StoreRow, storeRows } from "./store-rows.ts";

const { values } = parseArgs({
  options: {
    pairs: { type: "string", default: "5" },
    "slice-ms": { type: "string", default: "1000" },
    "size-gib": { type: "string", default: "3" },
    "ring-mib": { type: "string", default: "128" },
    rows: { type: "string", default: "" },
    folder: { type: "string", default: tmpdir() },
    "large-gib": { type: "string", default: "1024" },
    out: { type: "string", default: join(PROJECT_FOLDER, "docs", "bench") },
    dry: { type: "boolean", default: false },
  },
});
const pairCount = Number(values.pairs);
const sliceMs = Number(values["slice-ms"]);
const fileBytes = Number(values["size-gib"]) * GIB;
const ringBytes = Number(values["ring-mib"]) * MIB;
const volumeBytes = Math.floor((fileBytes * 2) / 3 / GIB) * GIB || fileBytes / 2;
const POLL_US = 50;

class Stage {
  readonly rig: BenchRig = new BenchRig(POLL_US);
  readonly raw: BlockDevice;
  readonly store: Store;
  readonly volume: StoreVolume;

  constructor(folder: string) {
    const [rawPath, storePath] = [join(folder, "raw"), join(folder, "store")];
    for (const path of [rawPath, storePath]) prewrite(path, fileBytes, this.rig.memory);
    this.rig.format(storePath, ringBytes);
    this.raw = this.rig.openRaw(rawPath, fileBytes);
    this.store = this.rig.openStore(storePath, fileBytes);
    const spec = { uuid: VOLUME_UUID, sizeBytes: volumeBytes };
    this.rig.await((done) => this.store.createVolume(spec, done));
    this.volume = this.store.openVolume(VOLUME_UUID, { readOnly: false, serial: "bench" });
    const count = volumeBytes / 262144;
    const work = { op: "write", bytes: 262144, depth: 8, sequential: true } as const;
    const whole = { ...work, countMax: count, timeMaxMs: 600_000 };
    this.rig.measure(this.volume, volumeBytes, whole, 1);
    this.warmUp();
  }

  /** Code is compiled and optimised while this runs: its CPU time is no request's. */
  private warmUp(): void {
    for (const device of [this.raw, this.volume]) {
      for (const op of ["read", "write"] as const) {
        for (const depth of [1, 32]) {
          const work = { op, bytes: 4096, depth, sequential: false, timeMaxMs: 1500 };
          this.rig.measure(device, volumeBytes, { ...work, countMax: 1e9 }, 1);
        }
      }
    }
  }

  /** What the last slice left behind is not the next one's. */
  drain(): void {
    this.rig.await<void>((done) => this.store.drain(() => done()));
  }
}

function runRow(stage: Stage, row: StoreRow): StoreRowResult {
  const pairs: StorePair[] = [];
  const count = Math.min(pairCount, row.pairsMax ?? pairCount);
  for (let index = 0; index < count; index++) {
    stage.drain();
    const raw = (): Measured =>
      stage.rig.measure(stage.raw, volumeBytes, row.rawWork ?? row.work, index + 1);
    const store = (): Measured => stage.rig.measure(stage.volume, volumeBytes, row.work, index + 1);
    const pair =
      index % 2 === 0
        ? { raw: raw(), store: store() }
        : (([own, other]) => ({ raw: other, store: own }))([store(), raw()] as const);
    pairs.push(pair);
    process.stderr.write(
      `${row.name}  ${index + 1}/${count}  ${pair.raw.perSecond.toFixed(0)} raw, ` +
        `${pair.store.perSecond.toFixed(0)} store per second, mean ${pair.raw.meanUs.toFixed(0)} ` +
        `and ${pair.store.meanUs.toFixed(0)} us, WA ${pair.store.amplification.toFixed(2)}, ` +
        `CPU ${pair.raw.cpuUs.toFixed(1)} and ${pair.store.cpuUs.toFixed(1)} us\n`,
    );
  }
  return { row, pairs };
}

function largeFacts(): StoreFact[] {
  const program = fileURLToPath(new URL("./store-large-main.js", import.meta.url));
  const args = [program, values.folder, values["large-gib"]];
  return JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" })) as StoreFact[];
}

const folder = mkdtempSync(join(values.folder, "bench-store-"));
try {
  const machine = describeMachine();
  const stage = new Stage(folder);
  const rows = storeRows(ringBytes / 4096, sliceMs)
    .filter((row) => row.name.includes(values.rows))
    .map((row) => runRow(stage, row));
  const facts = Number(values["large-gib"]) === 0 ? [] : largeFacts();
  const ringMib = ringBytes / MIB;
  const fileGib = fileBytes / GIB;
  const run = { machine, load: loadText(), rows, facts, ringMib, fileGib };
  const text = renderStore(run);
  process.stdout.write(text);
  if (!values.dry) {
    mkdirSync(values.out, { recursive: true });
    writeFileSync(join(values.out, "store.md"), text);
    writeFileSync(join(values.out, "store.json"), `${JSON.stringify(run, null, 1)}\n`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
