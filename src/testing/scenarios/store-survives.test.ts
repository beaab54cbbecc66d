// A volume in the store survives kill -9 of the daemon under load: no error, no lost write, no wrong
// byte, and after each death the checker finds nothing wrong on the disk.

import assert from "node:assert/strict";
import { test } from "node:test";
import { cleanupOf } from "../soak/cleanup.ts";
import { brokenPromises, LoadedDaemon, pausesOf } from "../soak/loaded-daemon.ts";
import { checkDiskOffline, STORE_DISK, STORE_VOLUMES } from "../soak/store-volumes.ts";

const ROUNDS = 10;
const SEED = 20260201;
test("kill -9 under load, ten times, the disk checked after each", async (t) => {
  const checked: string[] = [];
  const loaded = await LoadedDaemon.start(cleanupOf(t), {
    volumes: STORE_VOLUMES,
    seed: SEED,
    disks: [STORE_DISK],
    between: async ([path = ""]) => {
      checked.push(await checkDiskOffline(path));
    },
  });
  for (let round = 0; round < ROUNDS; round++) {
    await loaded.round("kill");
    assert.deepEqual(checked, new Array(round + 1).fill(""), `round ${round}`);
  }
  const reports = await loaded.finish();
  const { count, longestMs } = pausesOf(reports);
  t.diagnostic(`${ROUNDS} rounds, ${count} pauses, longest ${longestMs.toFixed(0)} ms`);
  for (const [index, report] of reports.entries()) {
    const name = STORE_VOLUMES[index]?.volume.name;
    assert.deepEqual(brokenPromises(report), [], `volume ${name}`);
    assert.ok(report.reconnectCount >= ROUNDS, `${name}: ${report.reconnectCount} reconnects`);
  }
  const disk = await loaded.api.showDisk("disk1");
  assert.equal(disk.usage?.badBlockCount, 0);
});
