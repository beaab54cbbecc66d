// What a disk tool tells the process that started it: one JSON object per line.

import type { DiskFinding, DiskProgress, DiskReport, StoreDiskFacts } from "../ports/store-disk.ts";

export type ReportCounts = Omit<DiskReport, "findings" | "findingCount">;

export type RoleLine =
  /** Everything was checked: from here on the disk is written. */
  | { readonly kind: "accepted" }
  | { readonly kind: "progress"; readonly progress: DiskProgress }
  | { readonly kind: "finding"; readonly finding: DiskFinding }
  | { readonly kind: "report"; readonly counts: ReportCounts }
  | { readonly kind: "done"; readonly facts: StoreDiskFacts }
  | {
      readonly kind: "error";
      readonly code: string;
      readonly message: string;
      readonly advice?: string;
    };
