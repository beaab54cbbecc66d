// A daemon that is killed, stopped or paused under its guests' I/O is a pause to them and nothing
// else: no error, no lost write, no write done twice, no page changed late.
//
// The pause is measured by the guests' side. The goal is below 1 s; a loaded machine takes longer,
// so the test fails at 5 s only and prints what it saw.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type Cleanup, cleanupOf } from "../soak/cleanup.ts";
import {
  brokenPromises,
  type Disturbance,
  LoadedDaemon,
  type LoadedVolume,
  pausesOf,
} from "../soak/loaded-daemon.ts";
import { memoryFolder } from "../soak/places.ts";
import { diskVolumes, tmpfsVolumes } from "../soak/restart-volumes.ts";

const PAUSE_GOAL_MS = 1000;
const PAUSE_MS_MAX = 20_000;
const SEED = 20260101;

async function disturbed(
  t: TestContext,
  volumesIn: (cleanup: Cleanup) => readonly LoadedVolume[],
  disturbances: readonly Disturbance[],
): Promise<void> {
  const cleanup = cleanupOf(t);
  const volumes = volumesIn(cleanup);
  const loaded = await LoadedDaemon.start(cleanup, { volumes, seed: SEED });
  for (const disturbance of disturbances) await loaded.round(disturbance);
  const reports = await loaded.finish();
  const { count, medianMs, longestMs } = pausesOf(reports);
  t.diagnostic(
    `${disturbances.length} rounds, ${count} pauses: median ${medianMs.toFixed(0)} ms, ` +
      `longest ${longestMs.toFixed(0)} ms (goal ${PAUSE_GOAL_MS} ms)`,
  );
  const losses = disturbances.filter((disturbance) => disturbance !== "pause").length;
  for (const [index, report] of reports.entries()) {
    const name = volumes[index]?.volume.name;
    assert.deepEqual(brokenPromises(report), [], `volume ${name}`);
    assert.ok(report.reconnectCount >= losses, `${name}: ${report.reconnectCount} reconnects`);
    assert.ok(report.lossPausesMs.length >= losses, `${name}: a loss went unseen`);
  }
  assert.ok(longestMs < PAUSE_MS_MAX, `a pause of ${longestMs} ms`);
}

const KILLS: readonly Disturbance[] = [
  ...(["kill", "kill", "kill-twice", "kill", "kill-paused"] as const),
  ...(["kill", "kill-twice", "kill", "kill", "kill-twice"] as const),
];

test("kill -9 under load, ten times, volumes on a disk with O_DIRECT", async (t) => {
  await disturbed(t, diskVolumes, KILLS);
});

test("kill -9 under load, ten times, volumes on tmpfs", async (t) => {
  await disturbed(t, (cleanup) => tmpfsVolumes(memoryFolder(cleanup)), KILLS);
});

test("clean stops and pauses under load", async (t) => {
  const volumesIn = (cleanup: Cleanup): LoadedVolume[] => [
    diskVolumes()[0] as LoadedVolume,
    tmpfsVolumes(memoryFolder(cleanup))[1] as LoadedVolume,
  ];
  await disturbed(t, volumesIn, [
    "stop",
    "pause",
    "stop",
    "pause",
    "pause",
    "stop",
    "kill",
    "stop",
  ]);
});
