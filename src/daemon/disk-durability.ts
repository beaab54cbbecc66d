// What the system says about the write cache of a device, or of the device under a file. Never a
// guess: where nothing is known, a completed write is not taken for a durable one.

import type { DiskDurability } from "../ports/store-disk.ts";

export interface DetectedDurability {
  readonly durability: DiskDurability;
  readonly reason: string;
}

export interface DeviceNumber {
  readonly major: number;
  readonly minor: number;
  /** It is the device that a file lies on. */
  readonly isFile: boolean;
}

/** `readFile`: the text of a file of sysfs, null when there is none. */
export function durabilityOf(
  { major, minor, isFile }: DeviceNumber,
  readFile: (path: string) => string | null,
): DetectedDurability {
  const base = `/sys/dev/block/${major}:${minor}`;
  // A partition has its disk's queue.
  const queue = [`${base}/queue`, `${base}/../queue`].find((path) => {
    return readFile(`${path}/write_cache`) !== null;
  });
  const named = readFile(`${base}/uevent`)?.match(/^DEVNAME=(.+)$/m)?.[1];
  const device = named ?? `device ${major}:${minor}`;
  if (queue === undefined) {
    const what = isFile ? "the device under the file is not known" : `${device} says nothing`;
    return { durability: "volatile", reason: `${what}: its write cache is taken for volatile` };
  }
  const cache = readFile(`${queue}/write_cache`);
  const under = isFile ? `${device}, under the file` : device;
  if (cache === "write through") {
    return { durability: "write-through", reason: `${under}: it has no volatile write cache` };
  }
  const fua = readFile(`${queue}/fua`) === "1" ? "with FUA" : "without FUA";
  return { durability: "volatile", reason: `${under}: its write cache is on, ${fua}` };
}
