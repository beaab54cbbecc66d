// Where a benchmark's files lie, and that nothing of it outlives it.

import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Cleanup } from "../testing/soak/cleanup.ts";

export type BenchPlace = "tmpfs" | "disk";

const TMPFS = "/dev/shm";

/** What a run has started ends with it, also when it is cut short. */
export function runCleanup(): Cleanup {
  const cleanup = new Cleanup();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => void cleanup.run().finally(() => process.exit(1)));
  }
  return cleanup;
}

/** Runs `work` in a new folder on tmpfs or in `diskFolder`; it and what was started go after. */
export async function onPlace(
  cleanup: Cleanup,
  {
    place,
    diskFolder,
    prefix,
  }: {
    readonly place: BenchPlace;
    readonly diskFolder: string;
    readonly prefix: string;
  },
  work: (inner: Cleanup, folder: string) => Promise<void>,
): Promise<void> {
  const inner = new Cleanup();
  cleanup.after(() => inner.run());
  const folder = mkdtempSync(join(place === "disk" ? diskFolder : TMPFS, prefix));
  inner.after(() => rmSync(folder, { recursive: true, force: true }));
  await work(inner, folder);
  await inner.run();
}
