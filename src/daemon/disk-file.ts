// The file or device that becomes a disk of the store: made or opened, checked, written. Blocking,
// in a tool's process.
//
// Invariant: a file that is made has its name only when it is a disk, whole: until then it is
// called by the disk's UUID too, so that what a crash leaves behind is known for what it is.

import { existsSync, linkSync, unlinkSync } from "node:fs";
import { dirname } from "node:path";
import { RingstoreError } from "../base/index.ts";
import { type DiskFacts, formatDisk, StoreError } from "../chunk/index.ts";
import type { FormatJob } from "../ports/store-disk.ts";
import { close, fallocate, fsync, ftruncate, O_RDONLY, open, SystemMemory } from "../sys/index.ts";
import { failure } from "../uring/index.ts";
import { blockIo, contentOf, type LockedDisk, lockDisk } from "./disk-io.ts";

export function temporaryPathOf(job: { readonly id: string; readonly path: string }): string {
  return `${job.path}.${job.id}.new`;
}

/** `progress` is called first when everything was checked and the disk is being written. */
export function makeDisk(
  job: FormatJob,
  random: { readonly journalId: number; readonly nowMs: number },
  progress: (doneBytes: number, totalBytes: number) => void,
): DiskFacts {
  const isNew = !existsSync(job.path);
  const target = isNew ? temporaryPathOf(job) : job.path;
  const disk = lockDisk(target, isNew);
  try {
    if (!isNew && !job.force) requireBlank(disk);
    const sizeBytes = giveSize(disk, job);
    const options = {
      uuid: Uint8Array.from(Buffer.from(job.id.replaceAll("-", ""), "hex")),
      label: job.label,
      durability: job.durability,
      journalId: random.journalId,
      createdAtMs: random.nowMs,
    };
    const prewrite = !disk.isDevice && job.allocation === "full";
    const io = blockIo(disk.fd, sizeBytes);
    const facts = formatDisk(io, new SystemMemory(), options, progress, prewrite);
    if (isNew) giveName(target, job.path);
    return facts;
  } catch (error) {
    if (isNew) unlinkSync(target);
    throw error;
  } finally {
    close(disk.fd);
  }
}

/** Throws DISK_FOREIGN, or what is wrong with the store that is there. */
function requireBlank(disk: LockedDisk): void {
  const { path, fd, sizeBytes } = disk;
  const content = contentOf(fd, sizeBytes);
  if (content.kind === "blank") return;
  const what =
    content.kind === "foreign"
      ? content.what
      : `disk ${content.facts.label} of a store (${content.facts.uuid})`;
  throw new StoreError("DISK_FOREIGN", `${path} holds ${what}`, {
    advice: "Choose another disk, or lose what is on this one with --force.",
  });
}

/** What the disk has in the end. */
function giveSize(disk: LockedDisk, job: FormatJob): number {
  const { fd, path } = disk;
  const sizeBytes = job.sizeBytes ?? disk.sizeBytes;
  if (disk.isDevice) return sizeBytes;
  const isExtended = sizeBytes > disk.sizeBytes;
  if (!isExtended && job.allocation === "sparse") return sizeBytes;
  // Refused now, where there is no room, rather than in the middle of a guest's write.
  const result =
    job.allocation === "full" ? fallocate(fd, 0, 0, sizeBytes) : ftruncate(fd, sizeBytes);
  if (result < 0) throw failure(path, `cannot be made ${sizeBytes} bytes large`, result);
  return sizeBytes;
}

function giveName(from: string, to: string): void {
  try {
    // Unlike a rename, this never puts it in the place of something else.
    linkSync(from, to);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    throw new RingstoreError("BACKING_IN_USE", `${to} cannot be given its name: ${code}`, {
      cause: error,
    });
  }
  unlinkSync(from);
  const fd = open(dirname(to), O_RDONLY);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}
