// Work leaves nothing behind in the daemon: after five million requests the heap of each of its
// threads is as large as before, and so is the process.
//
// V8 itself reports, with --trace-gc: the heap before and after each collection. What a collection
// frees was garbage; per request that may come to a few numbers that V8 boxed on their way from one
// function to the next, never to an object, a closure or a promise.

import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import { type LoadOptions, runLoadInChild } from "../../load/index.ts";
import type { VolumeCreate } from "../../model/types.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, attachVolumes } from "../soak/api.ts";
import { type Cleanup, cleanupOf } from "../soak/cleanup.ts";
import { memoryFolder, sparseFile } from "../soak/places.ts";
import { residentBytes } from "../soak/process-figures.ts";

const REQUEST_COUNT = 5_000_000;
/** Code is compiled and optimised while these run. */
const WARM_UP_COUNT = 1_000_000;
/** Some boxed numbers of 16 bytes each; a promise with its closures takes more than this. */
const GARBAGE_BYTES_MAX = 128;
const HEAP_GROWTH_BYTES_MAX = 1e6;
const GROWTH_BYTES_MAX: number = 16 * MIB;
const VOLUME_BYTES: number = 16 * MIB;

/**
 * `[pid:isolate] MS ms: Scavenge BEFORE (..) -> AFTER (..) MB, ...`; MS since the isolate was made,
 * which is close to the start of the process for all of them.
 */
const COLLECTION =
  /^\[\d+:(0x[0-9a-f]+)\]\s+(\d+) ms: (?:Scavenge|Mark-Compact)[^0-9]*([\d.]+) [^>]*-> ([\d.]+)/;

interface Collection {
  readonly isolate: string;
  readonly atMs: number;
  readonly beforeBytes: number;
  readonly afterBytes: number;
}

function collectionsIn(output: string): Collection[] {
  const collections: Collection[] = [];
  for (const line of output.split("\n")) {
    const found = COLLECTION.exec(line);
    if (found === null) continue;
    collections.push({
      isolate: found[1] as string,
      atMs: Number(found[2]),
      beforeBytes: Number(found[3]) * 1e6,
      afterBytes: Number(found[4]) * 1e6,
    });
  }
  return collections;
}

interface HeapReport {
  readonly count: number;
  readonly garbageBytes: number;
  /** Of the isolate that grew most, from its first collection to its last. */
  readonly growthBytes: number;
}

function reportOf(collections: readonly Collection[]): HeapReport {
  let growthBytes = 0;
  for (const { isolate } of collections) {
    const own = collections.filter((one) => one.isolate === isolate);
    const first = own[0] as Collection;
    growthBytes = Math.max(growthBytes, (own.at(-1) as Collection).afterBytes - first.afterBytes);
  }
  const garbage = collections.map(({ beforeBytes, afterBytes }) => beforeBytes - afterBytes);
  return {
    count: collections.length,
    garbageBytes: garbage.reduce((sum, bytes) => sum + bytes, 0),
    growthBytes,
  };
}

interface Work {
  readonly volume: (cleanup: Cleanup) => VolumeCreate;
  readonly load: Omit<LoadOptions, "socketPath">;
  readonly requestCount: number;
}

async function measure(t: TestContext, work: Work): Promise<void> {
  const cleanup = cleanupOf(t);
  const startedMs = Date.now();
  const daemon = await Daemon.start({ execArgv: ["--trace-gc"], keepOutput: true });
  cleanup.after(() => daemon.stop());
  const [socketPath = ""] = await attachVolumes(apiOf(daemon), [work.volume(cleanup)]);
  const load = { ...work.load, socketPath, warmupMs: 0 };
  await runLoadInChild({ ...load, requestCount: WARM_UP_COUNT });
  await sleep(500);
  const fromMs = Date.now() - startedMs;
  const before = residentBytes(daemon.pid);
  const report = await runLoadInChild({ ...load, requestCount: work.requestCount });
  const growth = residentBytes(daemon.pid) - before;
  const toMs = Date.now() - startedMs;
  // V8's lines leave its buffer when the process ends.
  await daemon.stop();
  const all = collectionsIn(daemon.output);
  assert.ok(all.length > 0, "V8 reported nothing at all");
  const heap = reportOf(all.filter(({ atMs }) => atMs >= fromMs && atMs <= toMs));
  const garbage = heap.garbageBytes / report.requestCount;
  const inMegabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`;
  t.diagnostic(
    `${report.requestCount} requests, ${Math.round(report.iops)} IOPS: ` +
      `heap grew by ${inMegabytes(heap.growthBytes)}, the process by ${inMegabytes(growth)}; ` +
      `${heap.count} collections, ${garbage.toFixed(1)} bytes of garbage per request`,
  );
  assert.ok(heap.growthBytes < HEAP_GROWTH_BYTES_MAX, `heap growth: ${heap.growthBytes} bytes`);
  assert.ok(growth < GROWTH_BYTES_MAX, `growth of the process: ${growth} bytes`);
  assert.ok(garbage < GARBAGE_BYTES_MAX, `${garbage} bytes of garbage per request`);
}

test("five million requests to nothing", async (t) => {
  await measure(t, {
    volume: () => ({ name: "null", sizeBytes: VOLUME_BYTES, backing: "null" }),
    load: { depth: 128, readPercent: 70, flushEvery: 100 },
    requestCount: REQUEST_COUNT,
  });
});

test("a million requests of every kind to a file on tmpfs, packed ring", async (t) => {
  await measure(t, {
    volume: (cleanup) => {
      const path = sparseFile(join(memoryFolder(cleanup), "volume"), VOLUME_BYTES);
      return { name: "tmpfs", path };
    },
    load: {
      packed: true,
      queueCount: 2,
      depth: 32,
      blockBytesMax: 8192,
      readPercent: 60,
      writeZeroesPercent: 2,
      discardPercent: 2,
      flushEvery: 50,
      segmentBytes: 2048,
    },
    requestCount: REQUEST_COUNT / 5,
  });
});
