// The volumes and loads of the store's restart scenarios, and the checker that runs on their disk
// between two lives of the daemon. Areas are small, so that the same blocks are written again and
// again, and the disk is small, so that ring and log go round.

import { execFile } from "node:child_process";
import { KIB, MIB } from "../../base/index.ts";
import type { DiskCreate } from "../../model/disk-types.ts";
import { builtFile } from "../daemon.ts";
import type { LoadedVolume } from "./loaded-daemon.ts";

const AREA_BYTES: number = 24 * MIB;

export const STORE_DISK: DiskCreate = { path: "disk1", sizeBytes: 160 * MIB };

export const STORE_VOLUMES: readonly LoadedVolume[] = [
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

/** `ringstored --role disk-check`: "", or what it printed when it found something. */
export async function checkDiskOffline(path: string): Promise<string> {
  const args = [builtFile("bundle/main.js"), "--role", "disk-check", "--path", path];
  return await new Promise((resolve) => {
    execFile(process.execPath, args, { maxBuffer: 1 << 26 }, (error, stdout, stderr) => {
      resolve(error === null ? "" : `${error.message}\n${stdout}${stderr}`);
    });
  });
}
