// A disk of the store as the fakes know it: a small JSON file that stands for the device. It
// survives what a device survives, so that starts after a crash find what was there.

import { existsSync, linkSync, readFileSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { RingstoreError } from "../../base/error.ts";
import type { ReplicaNote } from "../../ports/replica-note.ts";
import type {
  DiskProgress,
  DiskReport,
  DiskTools,
  FormatJob,
  Formatting,
  StoreDiskFacts,
} from "../../ports/store-disk.ts";

export interface FakeDiskFile {
  readonly store: string;
  readonly label: string;
  incarnation: number;
  clean: boolean;
  readonly diskBytes: number;
  /** Size by volume id. */
  readonly volumes: Record<string, number>;
  /** Of volumes of a cluster, the same. */
  replicas?: Record<string, number>;
  /** What was noted of them. */
  notes?: Record<string, ReplicaNote>;
}

/** Null: there is no store in the file. */
export function readDiskFile(path: string): FakeDiskFile | null {
  if (!existsSync(path)) {
    throw new RingstoreError("BACKING_NOT_FOUND", `${path} does not exist`);
  }
  try {
    const disk = JSON.parse(readFileSync(path, "utf8")) as FakeDiskFile;
    return typeof disk.store === "string" ? disk : null;
  } catch {
    return null;
  }
}

export function writeDiskFile(path: string, disk: FakeDiskFile): void {
  writeFileSync(path, JSON.stringify(disk));
}

export function factsOfDiskFile(disk: FakeDiskFile): StoreDiskFacts {
  const { store: id, label, incarnation, diskBytes } = disk;
  const dataBytes = diskBytes / 2;
  return {
    id,
    label,
    incarnation,
    diskBytes,
    dataBytes,
    ringBytes: 4096,
    durability: "volatile",
  };
}

const NOTHING_WRONG: DiskReport = {
  errorCount: 0,
  warningCount: 0,
  blocksVerified: 10,
  pagesVerified: 2,
  groupsVerified: 1,
  findings: [],
  findingCount: 0,
};

export class FakeDiskTools implements DiskTools {
  report: DiskReport = NOTHING_WRONG;
  /** Consulted before each step: throw to fail it, return a promise to delay it. */
  intercept: (step: "accept" | "format" | "check" | "link" | "take back") => void | Promise<void> =
    () => undefined;

  detectDurability(): { durability: "volatile"; reason: string } {
    return { durability: "volatile", reason: "vda: its write cache is on" };
  }

  format(job: FormatJob, progress: (progress: DiskProgress) => void): Formatting {
    const accepted = this.#accept(job);
    const done = accepted.then(async () => {
      progress({ step: "write", doneBytes: 1, totalBytes: 4 });
      await this.intercept("format");
      return await this.#write(job);
    });
    return { accepted, done };
  }

  async #accept(job: FormatJob): Promise<void> {
    await this.intercept("accept");
    if (!existsSync(job.path) || job.force) return;
    if (readFileSync(job.path, "utf8") === "") return;
    const what = readDiskFile(job.path) === null ? "a file of another kind" : "a Ringstore disk";
    throw new RingstoreError("DISK_FOREIGN", `${job.path} holds ${what}`, {
      advice: "to lose what is on it: --force",
    });
  }

  async #write(job: FormatJob): Promise<StoreDiskFacts> {
    const disk: FakeDiskFile = {
      store: job.id,
      label: job.label,
      incarnation: 0,
      clean: true,
      diskBytes: job.sizeBytes ?? 1_048_576,
      volumes: {},
    };
    const isNew = !existsSync(job.path);
    const target = isNew ? temporaryOf(job) : job.path;
    writeDiskFile(target, disk);
    if (isNew) {
      await this.intercept("link");
      linkSync(target, job.path);
      unlinkSync(target);
    }
    return factsOfDiskFile(disk);
  }

  async check(path: string, progress: (progress: DiskProgress) => void): Promise<DiskReport> {
    progress({ step: "blocks", doneBytes: 1, totalBytes: 2 });
    await this.intercept("check");
    if (readDiskFile(path) === null) {
      throw new RingstoreError("DISK_FOREIGN", `${path} holds no Ringstore disk`);
    }
    return this.report;
  }

  async takeBack(job: { readonly id: string; readonly path: string }): Promise<void> {
    await this.intercept("take back");
    rmSync(temporaryOf(job), { force: true });
  }

  async stop(): Promise<void> {}
}

function temporaryOf({ id, path }: { readonly id: string; readonly path: string }): string {
  return `${path}.${id}.new`;
}
