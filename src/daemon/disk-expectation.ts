// Is what lies at a path the disk that was declared, in the state that was declared? Asked before
// anything of it is opened for writing, so that an old copy of a disk stays what it is.

import { RingstoreError } from "../base/index.ts";
import type { DiskContent } from "../chunk/index.ts";
import type { StoreDiskSpec } from "../ports/store-disk.ts";
import type { OpenedBacking } from "../uring/index.ts";
import { contentOf } from "./disk-io.ts";

/**
 * Reads a few blocks, on the caller's thread: the disk has just been opened and measured there.
 * Throws DISK_STALE, or what is wrong with the store on it.
 */
export function expectDisk(spec: StoreDiskSpec, opened: OpenedBacking): void {
  const problem = contradiction(spec, contentOf(opened.fd, opened.sizeBytes));
  if (problem === null) return;
  throw new RingstoreError("DISK_STALE", `${spec.path} ${problem}`, {
    advice:
      "Put the right disk back. What is on this one is left alone; to use it anew, remove disk " +
      `${spec.name} and init it with --force.`,
  });
}

function contradiction(spec: StoreDiskSpec, content: DiskContent): string | null {
  if (content.kind === "blank") return `is blank, but was disk ${spec.name}`;
  if (content.kind === "foreign") return `holds ${content.what}, but was disk ${spec.name}`;
  const { uuid, label, incarnation, clean } = content.facts;
  if (uuid !== spec.id) return `is another disk: ${label} (${uuid}), not ${spec.name} (${spec.id})`;
  const { incarnationSeen, cleanSeen } = spec;
  if (incarnation < incarnationSeen) {
    const counts = `it has been opened ${incarnation} times, but was opened ${incarnationSeen}`;
    return `holds an old state of disk ${spec.name}: ${counts}`;
  }
  if (cleanSeen && incarnation === incarnationSeen && !clean) {
    return `holds an old state of disk ${spec.name}: it was stopped cleanly after that`;
  }
  return null;
}
