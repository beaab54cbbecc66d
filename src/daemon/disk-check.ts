// The offline checker of a disk: everything on it is read and verified.

import { RingstoreError } from "../base/index.ts";
import type { BlockIo } from "../chunk/index.ts";
import type { Memory } from "../ports/index.ts";
import type { DiskFinding } from "../ports/store-disk.ts";
import type { ReportCounts } from "./disk-role-lines.ts";

export interface CheckListener {
  finding(finding: DiskFinding): void;
  progress(doneBytes: number, totalBytes: number): void;
}

export function checkDisk(_io: BlockIo, _memory: Memory, _listener: CheckListener): ReportCounts {
  throw new RingstoreError("UNSUPPORTED", "this build cannot check disks");
}
