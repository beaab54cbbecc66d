// The generator's loop makes no garbage: a collection in the middle of a measurement would be
// somebody else's latency.

import assert from "node:assert/strict";
import { constants, PerformanceObserver } from "node:perf_hooks";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { END_DONE } from "./generator-parts.ts";
import { type LoadOptions, resolveOptions } from "./options.ts";
import { LoadRig } from "./rig.ts";
import { SteppingClock } from "./self-check.ts";
import { TrivialDevice } from "./trivial-device.ts";
import { MODE_MIX } from "./workload.ts";

const AREA = 64 * 1024 * 1024;
const WARM_UP = 500_000;
const MEASURED = 1_000_000;
/** One fractional number per request would be 12 MB, 6 collections of 2 MB each or more. */
const SCAVENGES_MAX = 2;

const RUNS: readonly Partial<LoadOptions>[] = [
  {},
  { packed: true, indirect: false, readPercent: 50 },
  { depth: 1, readPercent: 70, discardPercent: 5, writeZeroesPercent: 5, flushEvery: 10 },
  { pattern: "zipf", queueCount: 4, blockBytesMax: 16384, alignBytes: 4096, readPercent: 30 },
];

function makeRig(options: Partial<LoadOptions>): LoadRig {
  const resolved = resolveOptions({ socketPath: "", ...options });
  const clock = new SteppingClock();
  const rig = new LoadRig(resolved, AREA, true, { clock });
  const region = rig.memory.regions[0] as (typeof rig.memory.regions)[0];
  for (const { ring } of rig.rings()) {
    const device = new TrivialDevice(region.host, region.guestAddress, {
      packed: resolved.packed,
      size: ring.size,
      eventIndex: ring.eventIndex,
      descriptorGpa: ring.descriptorGpa,
      availableGpa: ring.availableGpa,
      usedGpa: ring.usedGpa,
    });
    clock.devices.push(device);
  }
  return rig;
}

function run(rig: LoadRig, requestCount: number): void {
  rig.workload.setMode(MODE_MIX);
  rig.generator.requestsLeft = requestCount;
  rig.generator.restart();
  assert.equal(rig.generator.run(Number.POSITIVE_INFINITY), END_DONE);
}

for (const options of RUNS) {
  test(`${MEASURED} requests without garbage: ${JSON.stringify(options)}`, async () => {
    const rig = makeRig(options);
    run(rig, WARM_UP);
    // Whatever the warm-up left to do in the background is done.
    await sleep(50);
    let scavenges = 0;
    let beganMs = 0;
    let endedMs = 0;
    const observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const { kind } = (entry as unknown as { detail: { kind: number } }).detail;
        const isInside = entry.startTime >= beganMs && entry.startTime <= endedMs;
        if (kind === constants.NODE_PERFORMANCE_GC_MINOR && isInside) scavenges += 1;
      }
    });
    observer.observe({ entryTypes: ["gc"] });
    beganMs = performance.now();
    run(rig, MEASURED);
    endedMs = performance.now();
    await sleep(20);
    observer.disconnect();
    assert.ok(scavenges <= SCAVENGES_MAX, `${scavenges} collections`);
    rig.close();
  });
}
