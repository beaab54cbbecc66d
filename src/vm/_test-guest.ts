// Shared by the tests that boot guests: a working folder, and guests that are gone afterwards.

import { rmSync } from "node:fs";
import { mkdtemp, open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { Guest } from "./guest.ts";
import { type BootOptions, bootGuest } from "./qemu.ts";

/** A folder that is removed when the test has ended. */
export async function testDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "ringstore-vmtest-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Boots a guest that is killed when the test has ended, however it ended. */
export async function testGuest(t: TestContext, options: BootOptions): Promise<Guest> {
  const guest = await bootGuest({ log: (line) => t.diagnostic(line), ...options });
  t.after(() => guest.kill());
  if (!Number.isNaN(guest.bootMs)) t.diagnostic(`booted in ${Math.round(guest.bootMs)} ms`);
  return guest;
}

/** An empty sparse file. */
export async function sparseFile(path: string, sizeBytes: number): Promise<string> {
  const file = await open(path, "w");
  await file.truncate(sizeBytes);
  await file.close();
  return path;
}

/** Whether a process with this id exists (a zombie does). */
export function processExists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
