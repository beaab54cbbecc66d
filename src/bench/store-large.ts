// Facts about large disks, on a sparse file: how much memory a store takes, and how soon it serves
// after a clean stop and with a full ring. Data is not written: metadata is, as if it had been, so
// that a terabyte of it costs gigabytes of pages and no more.

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GIB, MIB, TIB } from "../base/index.ts";
import { BenchRig, VOLUME_UUID } from "../testing/store/real-rig.ts";
import type { StoreFact } from "./store-report.ts";

const DISK_BYTES: number = 8 * TIB;
/** More pages than the cache holds, more blocks than the ring. */
const BASE_BYTES: number = 128 * GIB;
const READY_CLEAN_MS = 1000;
const READY_FULL_MS = 3000;
const MEMORY_MIB_PER_TIB = 300;

function residentMib(): number {
  return process.memoryUsage().rss / MIB;
}

/** `dataBytes` of data: one block in each slab of that range, so that every page is there. */
export function measureLarge(folder: string, dataBytes: number): StoreFact[] {
  const path = join(mkdtempSync(join(folder === "" ? tmpdir() : folder, "store-large-")), "disk");
  try {
    writeFileSync(path, "");
    truncateSync(path, DISK_BYTES);
    return measureFile(path, dataBytes);
  } finally {
    rmSync(join(path, ".."), { recursive: true, force: true });
  }
}

function measureFile(path: string, dataBytes: number): StoreFact[] {
  const facts: StoreFact[] = [];
  const rig = new BenchRig(0);
  rig.format(path, 128 * MIB);
  const before = residentMib();
  const first = rig.openStore(path, DISK_BYTES);
  const emptyMib = residentMib() - before;
  rig.await((done) => first.createVolume({ uuid: VOLUME_UUID, sizeBytes: dataBytes }, done));
  const volume = first.openVolume(VOLUME_UUID, { readOnly: false, serial: "large" });
  // A block of each 2 MiB: every page of metadata exists, and is loaded once. After the first part
  // the ring and the page cache are as full as they get: what comes later grows with the data.
  const stride = 2 * MIB;
  rig.fill(volume, BASE_BYTES, stride);
  const baseMib = residentMib() - before;
  rig.fill(volume, dataBytes, stride);
  const filledMib = residentMib() - before;
  volume.close();
  rig.await<void>((done) => first.close(() => done()));
  const perTib = (filledMib - baseMib) / ((dataBytes - BASE_BYTES) / TIB);
  facts.push({
    name: `memory of a store on 8 TiB, ${dataBytes / GIB} GiB of data touched`,
    text:
      `${emptyMib.toFixed(0)} MiB empty, ` +
      `${baseMib.toFixed(0)} MiB with ring and page cache full, ` +
      `${perTib.toFixed(0)} MiB more per TiB`,
    isMet: perTib <= MEMORY_MIB_PER_TIB,
  });
  facts.push(startFact(path, "after a clean stop", READY_CLEAN_MS));
  return [...facts, ...fullRing(path)];
}

function startFact(path: string, when: string, limitMs: number): StoreFact {
  const rig = new BenchRig(0);
  const startMs = performance.now();
  const store = rig.openStore(path, DISK_BYTES);
  const tookMs = performance.now() - startMs;
  const { recovery } = store.usage();
  rig.abandon();
  return {
    name: `start on 8 TiB ${when}`,
    text: `${tookMs.toFixed(0)} ms (${recovery?.ringRecords ?? 0} records in the ring)`,
    isMet: tookMs <= limitMs,
  };
}

/** Fills the ring without write-back and goes away without a word. */
function fullRing(path: string): StoreFact[] {
  const rig = new BenchRig(0);
  const store = rig.openStore(path, DISK_BYTES, { writeBackAt: 1 });
  const volume = store.openVolume(VOLUME_UUID, { readOnly: false, serial: "large" });
  const countMax = Math.floor((128 * MIB * 0.9) / 8192);
  const work = { op: "write", bytes: 4096, depth: 1, sequential: false } as const;
  rig.measure(volume, volume.info.capacityBytes, { ...work, countMax, timeMaxMs: 120_000 }, 3);
  rig.abandon();
  return [startFact(path, "with a full ring", READY_FULL_MS)];
}
