// The disks of the store as the data plane's main thread holds them: opened and locked here, handed
// to a reactor, closed when the reactor said that nothing is in flight on them.
//
// Invariant: as for volumes' files, a descriptor whose reactor does not say so stays open, and with
// it the lock, until the process ends.

import { RingstoreError } from "../base/index.ts";
import type { HealthItem } from "../ports/data-plane.ts";
import type { StoreDiskFacts, StoreDiskSpec, StoreDiskStats } from "../ports/store-disk.ts";
import { closeBacking, type OpenedBacking } from "../uring/index.ts";
import { expectDisk } from "./disk-expectation.ts";
import { openWithPatience } from "./reactor-backing.ts";
import type { PlaneLimits } from "./reactor-limits.ts";
import type { ReactorThread } from "./reactor-thread.ts";

/** Blocks of the store: what it reads and writes at least. */
const STORE_BLOCK_BYTES = 4096;

export interface PlaneDisksModules {
  readonly threads: readonly ReactorThread[];
  readonly limits: PlaneLimits;
  /** Where a disk has to be for another reason than its load; otherwise what `pick` says. */
  readonly threadOf: (diskId: string, pick: () => ReactorThread) => ReactorThread;
  /** What is the matter with a thread, if anything. */
  readonly threadHealth: (thread: ReactorThread) => readonly HealthItem[];
}

interface OpenDisk {
  readonly spec: StoreDiskSpec;
  readonly thread: ReactorThread;
  readonly opened: OpenedBacking;
}

export class PlaneDisks {
  private readonly modules: PlaneDisksModules;
  private readonly disks: Map<string, OpenDisk> = new Map();
  private isStopped = false;
  areTogether = false;
  private failedCount = 0;

  constructor(modules: PlaneDisksModules) {
    this.modules = modules;
  }

  /** What is opened from now on is opened on the first reactor, where the cluster is. */
  keepTogether(): void {
    this.areTogether = true;
  }

  async open(spec: StoreDiskSpec): Promise<StoreDiskFacts> {
    if (this.disks.has(spec.id)) {
      throw new RingstoreError("DISK_BUSY", `disk ${spec.name} is open already`);
    }
    const { path } = spec;
    const options = {
      path,
      direct: "auto",
      sizeBytes: STORE_BLOCK_BYTES,
      blockBytes: STORE_BLOCK_BYTES,
      create: false,
      readOnly: false,
    } as const;
    const opened = await openWithPatience(options, this.modules.limits.lockMs);
    try {
      if (this.isStopped) throw new RingstoreError("SHUTTING_DOWN", "the data plane has stopped");
      expectDisk(spec, opened);
    } catch (error) {
      closeBacking(opened);
      throw error;
    }
    const thread = this.modules.threadOf(spec.id, () => this.pick());
    const disk = { spec, thread, opened };
    this.disks.set(spec.id, disk);
    try {
      return await this.openOnThread(disk);
    } catch (error) {
      if ((error as RingstoreError).code !== "TIMED_OUT") this.forget(disk);
      throw error;
    }
  }

  private async openOnThread(disk: OpenDisk): Promise<StoreDiskFacts> {
    const { spec, thread, opened } = disk;
    const { openDiskMs } = this.modules.limits;
    // Opened after nobody waited any more: closed again, so that a second attempt can succeed.
    const onLate = (): void => void this.close(spec.id).catch(() => undefined);
    const command = { op: "openDisk", spec, backing: opened } as const;
    const facts = await thread.request(command, { timeoutMs: openDiskMs, onLate });
    return facts as StoreDiskFacts;
  }

  private forget({ spec, thread, opened }: OpenDisk): void {
    this.disks.delete(spec.id);
    thread.diskStats.delete(spec.id);
    closeBacking(opened);
  }

  async close(diskId: string): Promise<void> {
    const disk = this.find(diskId);
    const { detachMs } = this.modules.limits;
    await disk.thread.request({ op: "closeDisk", diskId }, { timeoutMs: detachMs });
    this.forget(disk);
  }

  private find(diskId: string): OpenDisk {
    const disk = this.disks.get(diskId);
    if (disk !== undefined) return disk;
    throw new RingstoreError("STORE_CLOSED", `disk ${diskId} is not open`);
  }

  /** A volume in the store lives where its disk does. */
  threadOf(diskId: string): ReactorThread {
    return this.find(diskId).thread;
  }

  async deleteVolume(diskId: string, volumeId: string): Promise<void> {
    const { thread } = this.find(diskId);
    const { detachMs: timeoutMs } = this.modules.limits;
    await thread.request({ op: "deleteStored", diskId, volumeId }, { timeoutMs });
  }

  stats(): readonly StoreDiskStats[] {
    const all: StoreDiskStats[] = [];
    for (const { spec, thread } of this.disks.values()) {
      const stats = thread.diskStats.get(spec.id);
      if (stats === undefined) continue;
      const health = [...stats.health, ...this.modules.threadHealth(thread)];
      all.push({ ...stats, health });
    }
    return all;
  }

  /** Whether a disk has failed, or one that had is well or gone, since this was asked last. */
  haveChanged(): boolean {
    let failedCount = 0;
    for (const { spec, thread } of this.disks.values()) {
      if (thread.diskStats.get(spec.id)?.phase === "failed") failedCount += 1;
    }
    const isNews = failedCount !== this.failedCount;
    this.failedCount = failedCount;
    return isNews;
  }

  /** Where a disk would be opened now. */
  pick(): ReactorThread {
    const { threads } = this.modules;
    if (this.areTogether) return threads[0] as ReactorThread;
    const countOf = (thread: ReactorThread): number =>
      [...this.disks.values()].filter((disk) => disk.thread === thread).length;
    const first = threads[0] as ReactorThread;
    return threads.reduce((best, one) => (countOf(one) < countOf(best) ? one : best), first);
  }

  /** At the end: `drained` says of each thread whether nothing is in flight on it. */
  closeDescriptors(drained: readonly boolean[]): void {
    this.isStopped = true;
    for (const { thread, opened } of this.disks.values()) {
      if (drained[thread.index] === true) closeBacking(opened);
    }
    this.disks.clear();
  }
}
