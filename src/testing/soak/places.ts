// Where the files of a scenario lie: on a disk, which O_DIRECT reaches, and in memory.

import { closeSync, mkdtempSync, openSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as sys from "../../sys/index.ts";
import type { Cleanup } from "./cleanup.ts";

/** A new folder, gone with the cleanup. */
export function diskFolder(cleanup: Cleanup, parent: string = tmpdir()): string {
  const folder = mkdtempSync(join(parent, "rs-scenario-"));
  cleanup.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A new folder on tmpfs, which vhost-user needs anyway for guests' memory. */
export function memoryFolder(cleanup: Cleanup): string {
  return diskFolder(cleanup, "/dev/shm");
}

/** True when files there can be opened with O_DIRECT: not on tmpfs of older kernels. */
export function takesDirectIo(folder: string): boolean {
  const path = join(folder, "direct-io-probe");
  closeSync(openSync(path, "w"));
  const fd = sys.open(path, sys.O_RDWR | sys.O_DIRECT);
  const onTmpfs = fd >= 0 && sys.fileSystemType(fd) === sys.TMPFS_MAGIC;
  if (fd >= 0) sys.close(fd);
  rmSync(path);
  return fd >= 0 && !onTmpfs;
}

/** Makes a sparse file; returns its path. */
export function sparseFile(path: string, bytes: number): string {
  closeSync(openSync(path, "w"));
  truncateSync(path, bytes);
  return path;
}
