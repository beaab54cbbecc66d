// The volumes and loads of the restart scenarios: both ring kinds, several queues, shallow and
// deep, small and large requests, on a disk with O_DIRECT and on tmpfs. Areas are small, so that
// the same blocks are written again and again: a write that is lost, or done once more after a
// later one, cannot stay unseen.

import { join } from "node:path";
import { KIB, MIB } from "../../base/index.ts";
import type { LoadedVolume } from "./loaded-daemon.ts";
import { sparseFile } from "./places.ts";

const AREA_BYTES: number = 48 * MIB;

/** Managed files in the data directory, opened with O_DIRECT. */
export function diskVolumes(): LoadedVolume[] {
  return [
    {
      volume: { name: "disk-split", sizeBytes: AREA_BYTES, direct: "on" },
      load: {
        queueCount: 2,
        depth: 32,
        ...SIZES_LARGE,
        readPercent: 50,
        flushEvery: 32,
        writeZeroesPercent: 2,
        discardPercent: 1,
      },
    },
    {
      volume: { name: "disk-packed", sizeBytes: AREA_BYTES, direct: "on", blockBytes: 4096 },
      load: { packed: true, queueCount: 1, depth: 128, ...SIZES_SMALL, readPercent: 40 },
    },
  ];
}

/** Files in `folder`, which lies on tmpfs. */
export function tmpfsVolumes(folder: string): LoadedVolume[] {
  const file = (name: string): string => sparseFile(join(folder, name), AREA_BYTES);
  return [
    {
      volume: { name: "tmpfs-split", path: file("split") },
      load: {
        queueCount: 1,
        depth: 128,
        indirect: false,
        ...SIZES_SMALL,
        readPercent: 50,
        pattern: "zipf",
      },
    },
    {
      volume: { name: "tmpfs-packed", path: file("packed") },
      load: {
        packed: true,
        queueCount: 4,
        depth: 32,
        ...SIZES_LARGE,
        segmentBytes: 32 * KIB,
        readPercent: 40,
        writeZeroesPercent: 2,
      },
    },
  ];
}

const SIZES_SMALL = { blockBytes: 4 * KIB, blockBytesMax: 64 * KIB, alignBytes: 4 * KIB } as const;
const SIZES_LARGE = { blockBytes: 4 * KIB, blockBytesMax: 256 * KIB, alignBytes: 4 * KIB } as const;
