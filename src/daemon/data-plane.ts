// The data plane as the control plane calls it: reactor threads, and which volume lives on which.
//
//   openVolume: open and lock the backing here -> hand its descriptor to the least loaded reactor
//   attach, detach, resize, close: asked of that reactor, answered within a time limit
//   stats: read from shared memory, nobody is asked
//
// Invariants:
//  - a volume belongs to one reactor from open to close;
//  - a backing's descriptor is closed only after the reactor said that nothing is in flight on it;
//    where it does not say so, the descriptor, and with it the lock, stays until the process ends;
//  - calls for one volume come one after the other (the control plane sees to it).

import { RingstoreError } from "../base/index.ts";
import type { ClassicSpec, PortalStats } from "../ports/classic-plane.ts";
import type {
  AttachmentSpec,
  Backing,
  DataPlane,
  HealthItem,
  OpenOptions,
  ReactorStats,
  VolumeSpec,
  VolumeStats,
} from "../ports/data-plane.ts";
import type { LogFields, LogLevel } from "../ports/log.ts";
import type { ScsiSpec } from "../ports/scsi-plane.ts";
import type { StoreDiskFacts, StoreDiskSpec, StoreDiskStats } from "../ports/store-disk.ts";
import { affinity } from "../sys/index.ts";
import { createLogRing, VolumeMeter } from "../telemetry/index.ts";
import { closeBacking, type OpenedBacking } from "../uring/index.ts";
import type { DataPlaneOptions } from "./data-plane-factory.ts";
import { PlaneClassic } from "./plane-classic.ts";
import { PlaneCluster } from "./plane-cluster.ts";
import { PlaneClusterHalf } from "./plane-cluster-half.ts";
import { PlaneDisks } from "./plane-disks.ts";
import { attachedError, stopped } from "./plane-errors.ts";
import { leastLoaded } from "./plane-loads.ts";
import { PlaneScsi } from "./plane-scsi.ts";
import {
  backingBytes,
  cutBacking,
  deleteFile,
  forReactor,
  growBacking,
  openFileBacking,
} from "./reactor-backing.ts";
import { drainLogRings, forgetLogRings, registerLogRing } from "./reactor-fatal.ts";
import { PLANE_LIMITS, type PlaneLimits, pollWindowUs } from "./reactor-limits.ts";
import { prepareProcess } from "./reactor-process.ts";
import type { OpenedForReactor } from "./reactor-protocol.ts";
import { deviceHealth, signatureOf, statsOf } from "./reactor-stats.ts";
import { ReactorThread, type RequestOptions } from "./reactor-thread.ts";

const REACTOR_OPTIONS = {
  requestSlots: 4096,
  ringEntries: 1024,
  watchesMax: 1_048_576,
  timersMax: 1_048_576,
};

const LINES_PER_LOOK = 1000;

/** What only tests and special set-ups change. */
export interface ReactorPlaneOptions {
  /** CPUs for each reactor; reactors beyond the list, and all without one, run anywhere. */
  readonly reactorCpus?: readonly (readonly number[])[];
  readonly workerEntry?: URL;
  readonly limits?: Partial<PlaneLimits>;
}

interface OpenVolume {
  readonly spec: VolumeSpec;
  readonly thread: ReactorThread;
  readonly opened: OpenedBacking | null;
  readonly meter: VolumeMeter;
  sizeBytes: number;
  attached: boolean;
  /** What was last told through `changed`. */
  seen: number;
}

/** Starts the threads; resolves when every one of them runs its loop. */
export async function createDataPlane(
  options: DataPlaneOptions,
  more: ReactorPlaneOptions = {},
): Promise<ReactorDataPlane> {
  prepareProcess();
  const plane = new ReactorDataPlane(options, more);
  try {
    await plane.ready();
  } catch (error) {
    await plane.stop();
    throw error;
  }
  return plane;
}

export class ReactorDataPlane extends PlaneClusterHalf implements DataPlane {
  private readonly options: DataPlaneOptions;
  private readonly limits: PlaneLimits;
  private readonly threads: ReactorThread[] = [];
  private readonly volumes: Map<string, OpenVolume> = new Map();
  /** Being opened: counted for the load, and not to be opened twice. */
  private readonly opening: Map<string, ReactorThread> = new Map();
  private readonly disks: PlaneDisks;
  protected readonly cluster: PlaneCluster;
  protected readonly classic: PlaneClassic;
  protected readonly scsi: PlaneScsi;
  private readonly unresponsiveSinceMs: Map<ReactorThread, number> = new Map();
  private lookTimer: NodeJS.Timeout | null;
  private pingTimer: NodeJS.Timeout | null;
  private stopping: Promise<readonly string[]> | null = null;

  constructor(options: DataPlaneOptions, more: ReactorPlaneOptions) {
    super();
    this.options = options;
    this.limits = { ...PLANE_LIMITS, ...more.limits };
    const entry = more.workerEntry;
    const logRings = Array.from({ length: options.reactorCount }, () => createLogRing());
    for (const shared of logRings) registerLogRing(shared);
    const pollMaxUs = pollWindowUs(options.pollUs, affinity().length);
    const fatal = (error: unknown): void => {
      drainLogRings();
      options.fatal(error);
    };
    for (let index = 0; index < options.reactorCount; index++) {
      const start = {
        index,
        options: { ...REACTOR_OPTIONS, pollMaxUs },
        trustMemory: options.trustMemory,
        scrubMibPerSecond: options.scrubMibPerSecond ?? 0,
        cpus: more.reactorCpus?.[index] ?? [],
        logRings,
      };
      this.threads.push(new ReactorThread(start, { fatal, entry }));
    }
    const [thread] = this.threads as [ReactorThread];
    this.scsi = new PlaneScsi(thread, this.limits);
    this.disks = new PlaneDisks({
      threads: this.threads,
      limits: this.limits,
      threadOf: (diskId, pick) => this.scsi.threadOfDisk(diskId, pick),
      threadHealth: (thread) => this.threadHealth(thread),
    });
    this.cluster = new PlaneCluster({ thread, disks: this.disks, limits: this.limits });
    this.classic = new PlaneClassic({
      threads: this.threads,
      limits: this.limits,
      log: options.log,
      settings: options.portal ?? null,
      save: options.saveReservations ?? null,
    });
    this.lookTimer = setInterval(() => this.look(), this.limits.lookMs);
    this.pingTimer = setInterval(() => void this.ping(), this.limits.pingMs);
    this.pingTimer.unref();
  }

  private get quick(): RequestOptions {
    return { timeoutMs: this.limits.commandMs };
  }

  async ready(): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.ready));
  }

  // Volumes ---------------------------------------------------------------------------------------

  async openVolume(spec: VolumeSpec, options: OpenOptions): Promise<void> {
    this.requireRunning();
    if (this.volumes.has(spec.id) || this.opening.has(spec.id)) {
      throw new RingstoreError("VOLUME_BUSY", `volume ${spec.name} is open already`);
    }
    const { backing } = spec;
    const isStored = backing.kind === "store";
    const { controller = null } = options;
    const thread = this.threadFor(backing, controller);
    if (controller !== null) this.scsi.claim(controller, spec.id, thread);
    this.opening.set(spec.id, thread);
    try {
      const opened = await this.openBacking(spec, options.create);
      const meter = new VolumeMeter();
      const create = isStored && options.create;
      await this.openOnThread(thread, spec, forReactor(spec, opened, create), opened, meter);
      const { sizeBytes } = spec;
      const volume = { spec, thread, opened, meter, sizeBytes, attached: false, seen: 0 };
      this.volumes.set(spec.id, volume);
    } catch (error) {
      this.scsi.release(spec.id);
      throw error;
    } finally {
      this.opening.delete(spec.id);
    }
  }

  private threadFor(backing: Backing, controller: string | null): ReactorThread {
    if (backing.kind === "store") return this.disks.threadOf(backing.diskId);
    if (backing.kind === "cluster") return this.threads[0] as ReactorThread;
    return controller === null ? this.leastLoaded() : this.placeOf(controller);
  }

  /** In a cluster a controller begins on the first reactor: it may get volumes of that. */
  protected placeOf(controller: string): ReactorThread {
    return this.scsi.threadFor(controller, (besideDisks) =>
      besideDisks || this.disks.areTogether ? this.disks.pick() : this.leastLoaded(),
    );
  }

  private leastLoaded(): ReactorThread {
    const used = [...this.volumes.values()].map(({ thread }) => thread);
    return leastLoaded(this.threads, [...used, ...this.opening.values()]);
  }

  private async openBacking(spec: VolumeSpec, create: boolean): Promise<OpenedBacking | null> {
    if (spec.backing.kind !== "file") return null;
    const opened = await openFileBacking(spec, create, this.limits.lockMs);
    if (this.stopping === null) return opened;
    closeBacking(opened);
    throw stopped();
  }

  private async openOnThread(
    thread: ReactorThread,
    spec: VolumeSpec,
    backing: OpenedForReactor,
    opened: OpenedBacking | null,
    meter: VolumeMeter,
  ): Promise<void> {
    const release = (): void => {
      if (opened !== null) closeBacking(opened);
    };
    let isLate = false;
    // Opened after nobody waited any more: closed again, so that a second attempt can succeed.
    const onLate = (): void => {
      const closing = thread.request({ op: "close", volumeId: spec.id }, this.quick);
      void closing.then(release, () => undefined);
    };
    try {
      const command = { op: "open", spec, backing, meter: meter.shared } as const;
      await thread.request(command, { timeoutMs: this.limits.commandMs, onLate });
    } catch (error) {
      isLate = (error as RingstoreError).code === "TIMED_OUT";
      // A thread that may still open it keeps the descriptor.
      if (!isLate) release();
      throw error;
    }
  }

  async closeVolume(volumeId: string): Promise<void> {
    const volume = this.find(volumeId);
    if (volume.attached) throw attachedError(volume.spec.name, "closed");
    await volume.thread.request({ op: "close", volumeId }, this.quick);
    this.volumes.delete(volumeId);
    this.scsi.release(volumeId);
    this.cluster.forget(volumeId);
    if (volume.opened !== null) closeBacking(volume.opened);
  }

  async deleteBacking(spec: VolumeSpec): Promise<void> {
    this.requireRunning();
    if (this.volumes.has(spec.id) || this.opening.has(spec.id)) {
      throw new RingstoreError("VOLUME_BUSY", `volume ${spec.name} is open`);
    }
    const { backing, id } = spec;
    if (backing.kind === "file") await deleteFile(backing.path);
    if (backing.kind === "store") await this.disks.deleteVolume(backing.diskId, id);
  }

  async openDisk(spec: StoreDiskSpec): Promise<StoreDiskFacts> {
    this.requireRunning();
    return await this.disks.open(spec);
  }

  async closeDisk(diskId: string): Promise<void> {
    this.requireRunning();
    await this.disks.close(diskId);
  }

  diskStats(): readonly StoreDiskStats[] {
    return this.disks.stats();
  }

  async resizeVolume(volumeId: string, sizeBytes: number): Promise<void> {
    const volume = this.find(volumeId);
    const { opened } = volume;
    const isCut = sizeBytes < volume.sizeBytes;
    if (isCut && volume.attached) throw attachedError(volume.spec.name, "made smaller");
    if (opened !== null && !isCut) await growBacking(opened, sizeBytes);
    await this.resizeOnThread(volume, sizeBytes);
    if (opened !== null && isCut) await cutBacking(opened, sizeBytes);
    volume.sizeBytes = sizeBytes;
  }

  private async resizeOnThread(volume: OpenVolume, sizeBytes: number): Promise<void> {
    const { opened, spec, thread } = volume;
    const bytes = opened === null ? sizeBytes : backingBytes(opened);
    const command = { op: "resize", volumeId: spec.id, sizeBytes, backingBytes: bytes } as const;
    // In the store a size is changed on the disk.
    const isStored = spec.backing.kind === "store";
    await thread.request(command, isStored ? { timeoutMs: this.limits.detachMs } : this.quick);
  }

  async attach(spec: AttachmentSpec): Promise<void> {
    const volume = this.find(spec.volumeId);
    if (volume.attached) throw attachedError(volume.spec.name, "attached twice");
    const { thread } = volume;
    const onLate = (): void => this.detachLate(volume);
    await thread.request({ op: "attach", spec }, { timeoutMs: this.limits.commandMs, onLate });
    volume.attached = true;
  }

  async attachClassic(spec: ClassicSpec): Promise<string> {
    const volume = this.find(spec.volumeId);
    if (volume.attached) throw attachedError(volume.spec.name, "attached twice");
    const address = await this.classic.attach(volume.thread, spec, () => this.detachLate(volume));
    volume.attached = true;
    return address;
  }

  async attachScsi(spec: ScsiSpec): Promise<void> {
    const volume = this.find(spec.volumeId);
    if (volume.attached) throw attachedError(volume.spec.name, "attached twice");
    await this.scsi.attach(volume.thread, spec, () => this.detachLate(volume));
    volume.attached = true;
  }

  /** Attached after nobody waited any more. */
  private detachLate({ spec, thread }: OpenVolume): void {
    const { detachMs: timeoutMs } = this.limits;
    const detaching = thread.request({ op: "detach", volumeId: spec.id }, { timeoutMs });
    void detaching.catch(() => undefined);
  }

  async detach(volumeId: string): Promise<void> {
    const volume = this.find(volumeId);
    const detached = async (): Promise<void> => {
      volume.attached = false;
      this.scsi.release(volumeId);
      await this.classic.detached(volumeId);
    };
    const options = { timeoutMs: this.limits.detachMs, onLate: () => void detached() };
    await volume.thread.request({ op: "detach", volumeId }, options);
    await detached();
  }

  // For the cluster's half -----------------------------------------------------------------------

  protected requireRunning(): void {
    if (this.stopping !== null) throw stopped();
  }

  protected requireOpen(volumeId: string): void {
    this.find(volumeId);
  }

  private find(volumeId: string): OpenVolume {
    this.requireRunning();
    const volume = this.volumes.get(volumeId);
    if (volume !== undefined) return volume;
    throw new RingstoreError("VOLUME_NOT_FOUND", `volume ${volumeId} is not open`);
  }

  // What there is to see --------------------------------------------------------------------------

  volumeStats(): readonly VolumeStats[] {
    return [...this.volumes.values()]
      .filter((volume) => volume.attached)
      .map((volume) => statsOf(volume, this.healthOf(volume)));
  }

  portalStats(): readonly PortalStats[] {
    return this.classic.stats();
  }

  private healthOf(volume: OpenVolume): readonly HealthItem[] {
    return [...deviceHealth(volume, this.limits.stuckMs), ...this.threadHealth(volume.thread)];
  }

  private threadHealth(thread: ReactorThread): readonly HealthItem[] {
    const sinceMs = this.unresponsiveSinceMs.get(thread);
    if (sinceMs === undefined) return [];
    const seconds = Math.floor((performance.now() - sinceMs) / 1000);
    const message = `reactor ${thread.index} has not answered for ${seconds} s`;
    return [{ code: "REACTOR_STUCK", message }];
  }

  reactorStats(): readonly ReactorStats[] {
    return this.threads.map((thread) => thread.stats());
  }

  /** What the watchdog wants to know. */
  async responds(timeoutMs: number): Promise<boolean> {
    const answers = this.threads.map((thread) =>
      thread.request({ op: "ping" }, { timeoutMs }).then(
        () => true,
        () => false,
      ),
    );
    return (await Promise.all(answers)).every((answered) => answered);
  }

  private async ping(): Promise<void> {
    await Promise.all(
      this.threads.map(async (thread) => {
        const askedMs = performance.now();
        try {
          await thread.request({ op: "ping" }, { timeoutMs: this.limits.pingMs * 0.9 });
          this.unresponsiveSinceMs.delete(thread);
        } catch {
          if (!this.unresponsiveSinceMs.has(thread)) this.unresponsiveSinceMs.set(thread, askedMs);
        }
      }),
    );
  }

  /** Passes on what the reactors logged, and notices what changed. */
  private look(): void {
    for (const thread of this.threads) {
      thread.logReader.drain((line) => this.relay(line), LINES_PER_LOOK);
    }
    let changed = this.disks.haveChanged();
    for (const volume of this.volumes.values()) {
      const isDeaf = this.unresponsiveSinceMs.has(volume.thread);
      const seen = signatureOf(volume, this.limits.stuckMs) * 2 + (isDeaf ? 1 : 0);
      if (seen === volume.seen) continue;
      volume.seen = seen;
      changed = true;
    }
    if (changed) this.options.changed();
  }

  private relay(line: Uint8Array): void {
    const text = Buffer.from(line).toString("utf8");
    let record: Record<string, string | number | boolean | null>;
    try {
      record = JSON.parse(text) as typeof record;
    } catch {
      record = { level: "warn", event: "log.damaged", text: text.slice(0, 200) };
    }
    const { level, event, time: _time, ...fields } = record;
    this.options.log.log(level as LogLevel, String(event), fields as LogFields);
  }

  // The end ---------------------------------------------------------------------------------------

  /** Bounded: a device that hangs is left to the process's end. */
  stop(): Promise<readonly string[]> {
    this.stopping ??= this.stopThreads();
    return this.stopping;
  }

  private async stopThreads(): Promise<readonly string[]> {
    if (this.pingTimer !== null) clearInterval(this.pingTimer);
    const cleanDiskIds: string[] = [];
    const drained = await Promise.all(
      this.threads.map((thread) => this.stopThread(thread, cleanDiskIds)),
    );
    this.look();
    if (this.lookTimer !== null) clearInterval(this.lookTimer);
    this.lookTimer = null;
    this.pingTimer = null;
    for (const { thread, opened } of this.volumes.values()) {
      if (opened !== null && drained[thread.index] === true) closeBacking(opened);
    }
    this.volumes.clear();
    this.disks.closeDescriptors(drained);
    forgetLogRings();
    return cleanDiskIds;
  }

  /** True when the thread has ended with nothing in flight. */
  private async stopThread(thread: ReactorThread, cleanDiskIds: string[]): Promise<boolean> {
    const { stopMs: patienceMs, stopGraceMs } = this.limits;
    const timeoutMs = patienceMs + stopGraceMs;
    try {
      const diskIds = await thread.request({ op: "stop", patienceMs }, { timeoutMs });
      cleanDiskIds.push(...((diskIds ?? []) as readonly string[]));
    } catch {
      // It has ended already, or it is stuck: the wait below tells.
    }
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<null>((resolve) => {
      timer = setTimeout(resolve, stopGraceMs, null);
    });
    const isDrained = await Promise.race([thread.ended, patience]);
    clearTimeout(timer);
    if (isDrained === null) {
      this.options.log.log("error", "reactor.left_behind", { reactor: thread.index });
    }
    return isDrained === true;
  }
}
