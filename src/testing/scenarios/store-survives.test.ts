// A volume in the store survives kill -9 of the daemon under load: no error, no lost write, no wrong
// byte, and after each death the checker finds nothing wrong on the disk.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { KIB, MIB } from "../../base/index.ts";
import { builtFile } from "../daemon.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import {
  brokenPromises,
  LoadedDaemon,
  type LoadedVolume,
  pausesOf,
} from "../soak/loaded-daemon.ts";

const ROUNDS = 10;
const SEED = 20260201;
const AREA_BYTES: number = 24 * MIB;

const VOLUMES: readonly LoadedVolume[] = [
  {
    volume: { name: "sectors", sizeBytes: AREA_BYTES, backing: "store" },
    load: {
      queueCount: 2,
      depth: 16,
      blockBytes: 512,
      blockBytesMax: 64 * KIB,
      alignBytes: 512,
      readPercent: 40,
      flushEvery: 32,
      writeZeroesPercent: 2,
      discardPercent: 2,
    },
  },
  {
    volume: { name: "blocks", sizeBytes: AREA_BYTES, backing: "store", blockBytes: 4096 },
    load: {
      packed: true,
      queueCount: 1,
      depth: 64,
      blockBytes: 4 * KIB,
      blockBytesMax: 256 * KIB,
      alignBytes: 4 * KIB,
      readPercent: 40,
    },
  },
];

/** `ringstored --role disk-check`: what it printed, when it found something. */
async function checkDisk(path: string): Promise<string> {
  const args = [builtFile("daemon/main.js"), "--role", "disk-check", "--path", path];
  return await new Promise((resolve) => {
    execFile(process.execPath, args, { maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve(error === null ? "" : `${stdout}${stderr}`);
    });
  });
}

test("kill -9 under load, ten times, the disk checked after each", async (t) => {
  const checked: string[] = [];
  const loaded = await LoadedDaemon.start(cleanupOf(t), {
    volumes: VOLUMES,
    seed: SEED,
    disks: [{ path: "disk1", sizeBytes: 160 * MIB }],
    between: async ([path = ""]) => {
      checked.push(await checkDisk(path));
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
    const name = VOLUMES[index]?.volume.name;
    assert.deepEqual(brokenPromises(report), [], `volume ${name}`);
    assert.ok(report.reconnectCount >= ROUNDS, `${name}: ${report.reconnectCount} reconnects`);
  }
  const disk = await loaded.api.showDisk("disk1");
  assert.equal(disk.usage?.badBlockCount, 0);
});
