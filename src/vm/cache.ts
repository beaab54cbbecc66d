// The cache folder of everything that guests are made of: unpacked packages, initramfs and disk
// images, the remembered accelerator. It can be deleted at any time and is then filled again.
//
// Invariants:
// - A name in the cache is either absent or complete: things are built under a temporary name in
//   the same file system and renamed. Two processes may build the same thing; the first rename
//   wins and the second result, equal by construction, is thrown away.
// - Nothing outside the folder is written, and nothing is installed into the system.

import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { assert } from "../base/index.ts";
import { VmError } from "./error.ts";

/** Reports progress a person may want to see. One line, no line feed. */
export type VmLog = (line: string) => void;

export interface CacheOptions {
  /** Default: {@link defaultCacheDirectory}. */
  cacheDirectory?: string;
  /** Default: silent. */
  log?: VmLog;
}

/** Left-overs of builds that died are removed after this time; no build takes as long. */
const STALE_MS = 60 * 60 * 1000;
/** Levels climbed from this file to the package's root: `dist/vm/` and `.build/x/vm/` are 2, 3. */
const CLIMB_MAX = 6;

/** `.cache/vm` in the project this file belongs to, or `$RINGSTORE_CACHE/vm` when that is set. */
export function defaultCacheDirectory(): string {
  const fromEnvironment = process.env["RINGSTORE_CACHE"];
  if (fromEnvironment !== undefined && fromEnvironment !== "") return join(fromEnvironment, "vm");
  let directory = dirname(fileURLToPath(import.meta.url));
  for (let level = 0; level < CLIMB_MAX; level++) {
    if (isProjectRoot(directory)) return join(directory, ".cache", "vm");
    directory = dirname(directory);
  }
  throw new VmError("unsupported", "No cache folder: this file is not inside the project.", {
    advice: "Set RINGSTORE_CACHE to a folder with 200 MB to spare.",
  });
}

function isProjectRoot(directory: string): boolean {
  const file = join(directory, "package.json");
  if (!existsSync(file)) return false;
  return (JSON.parse(readFileSync(file, "utf8")) as { name?: string }).name === "ringstore";
}

/** A fresh name beside `path`, for building what will be renamed to `path`. */
export function temporaryBeside(path: string): string {
  return join(dirname(path), `.new-${randomBytes(8).toString("hex")}`);
}

/** Writes `path` in one step: readers see the old file, or the whole new one. */
export async function publishFile(path: string, content: string | Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = temporaryBeside(path);
  await writeFile(temporary, content);
  await rename(temporary, path);
}

/**
 * Makes the folder `path` unless it is there: `build` fills an empty temporary folder, which is
 * then renamed. Returns whether `build` had to run.
 */
export async function publishDirectory(
  path: string,
  build: (directory: string) => Promise<void>,
): Promise<boolean> {
  if (existsSync(path)) return false;
  await mkdir(dirname(path), { recursive: true });
  await removeStale(dirname(path));
  const temporary = temporaryBeside(path);
  await mkdir(temporary);
  try {
    await build(temporary);
    await rename(temporary, path).catch((error: NodeJS.ErrnoException) => {
      // Another process was faster. Its folder was made from the same package: use that one.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  assert(existsSync(path), "a published folder exists");
  return true;
}

/** Notes that a cached file was used, so that {@link keepNewest} keeps it. */
export async function touch(path: string): Promise<void> {
  const now = new Date();
  // The file may have been pruned by another process since; its reader already has it open.
  await utimes(path, now, now).catch(() => undefined);
}

/** Removes all but the `count` most recently used files, and never one used within the hour. */
export async function keepNewest(directory: string, count: number): Promise<void> {
  const files: { path: string; mtimeMs: number }[] = [];
  for (const name of await readdir(directory)) {
    const path = join(directory, name);
    const status = await stat(path).catch(() => undefined);
    if (status?.isFile()) files.push({ path, mtimeMs: status.mtimeMs });
  }
  files.sort((a, b) => b.mtimeMs - a.mtimeMs);
  for (const file of files.slice(count)) {
    if (Date.now() - file.mtimeMs > STALE_MS) await rm(file.path, { force: true });
  }
}

async function removeStale(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (!name.startsWith(".new-")) continue;
    const path = join(directory, name);
    const status = await stat(path).catch(() => undefined);
    if (status !== undefined && Date.now() - status.mtimeMs > STALE_MS) {
      await rm(path, { recursive: true, force: true });
    }
  }
}
