// The ControlPlane that the API talks to: operations on the volumes, and what there is to see.

import { readdirSync } from "node:fs";
import { statfs } from "node:fs/promises";
import type { ClusterControl } from "../api/cluster-control.ts";
import type {
  AttachResult,
  Caller,
  ControlPlane,
  DiskRemoveOptions,
  RequestOptions,
} from "../api/control-plane.ts";
import type { ClusterView } from "../model/cluster-types.ts";
import type { Disk, DiskCreate, DiskRemoveReply } from "../model/disk-types.ts";
import { ApiError } from "../model/errors.ts";
import { API_VERSION } from "../model/limits.ts";
import type { SupportReply } from "../model/support-types.ts";
import type {
  AdviseReply,
  DeleteReply,
  DetachReply,
  Event,
  Latency,
  StatsReply,
  Status,
  StatusItem,
  VersionReply,
  Volume,
  VolumeAttach,
  VolumeCreate,
  VolumeIo,
  VolumeResize,
} from "../model/types.ts";
import type { LatencySummary, VolumeStats } from "../ports/data-plane.ts";
import type { ApiRequestCount, DaemonSample, MetricsExporter } from "../telemetry/prometheus.ts";
import type { ClusterVolumes } from "./cluster-volumes.ts";
import type { DiskHost } from "./disk-host.ts";
import { checkDisk, createDisk } from "./disk-operations.ts";
import { removeDisk } from "./disk-removal.ts";
import { asApiError } from "./failure.ts";
import { Observer } from "./observer.ts";
import { adviceFor, clusterItems, type FilesystemSpace, statusItems, summaryOf } from "./status.ts";
import { NO_SUPPORT, type SupportSources, supportReply } from "./support.ts";
import { attachVolume, detachVolume } from "./volume-attach.ts";
import { viewOf } from "./volume-entry.ts";
import type { VolumeHost } from "./volume-host.ts";
import {
  checkRoom,
  createVolume,
  removeVolume,
  resizeVolume,
  usedFiles,
} from "./volume-operations.ts";

export interface ControlOptions {
  readonly version: string;
  readonly nodeId: string;
  readonly startedAt: Date;
  readonly volumeMetrics: boolean;
  /** Why the TCP listener deserves a warning, null when it does not. */
  readonly listenWarning: string | null;
  readonly support?: SupportSources;
}

export interface ControlModules {
  readonly host: VolumeHost;
  readonly cluster: ClusterControl;
  /** The cluster's volumes; null: in no cluster. */
  readonly clusterVolumes?: () => ClusterVolumes | null;
  /** Monotonic milliseconds. */
  readonly nowMs: () => number;
}

export class DaemonControl implements ControlPlane {
  readonly observer: Observer;
  readonly #options: ControlOptions;
  readonly #modules: ControlModules;
  readonly #startedAtMs: number;
  readonly #requests = new Map<string, ApiRequestCount>();
  #exporter: MetricsExporter | null = null;

  constructor(options: ControlOptions, modules: ControlModules) {
    this.#options = options;
    this.#modules = modules;
    this.#startedAtMs = modules.nowMs();
    const others = (): readonly (readonly [string, string])[] => this.#shared?.served() ?? [];
    this.observer = new Observer(modules.host, modules.nowMs, others);
  }

  get #host(): VolumeHost {
    return this.#modules.host;
  }

  get cluster(): ClusterControl {
    return this.#modules.cluster;
  }

  get #shared(): ClusterVolumes | null {
    return this.#modules.clusterVolumes?.() ?? null;
  }

  /** Those that `name` is to be looked for among; null: this node's own, which come first. */
  #sharedOf(name: string): ClusterVolumes | null {
    const { entries, damaged } = this.#host;
    return entries.has(name) || damaged.has(name) ? null : this.#shared;
  }

  version(): VersionReply {
    return {
      version: this.#options.version,
      apiVersion: API_VERSION,
      node: process.version,
    };
  }

  list(): readonly Volume[] {
    const stats = this.#host.statsById();
    const { surroundings } = this.#host;
    const own = [...this.#host.entries.values()].map((entry) =>
      viewOf(surroundings, entry, stats.get(entry.declared.id)),
    );
    return [...own, ...(this.#shared?.list() ?? [])].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  show(name: string): Volume {
    return this.#sharedOf(name)?.show(name) ?? this.#host.view(this.#host.find(name));
  }

  async create(request: VolumeCreate, caller: Caller, options: RequestOptions): Promise<Volume> {
    return await guard("create", () => {
      if (request.replicas !== undefined) return this.#createShared(request, options);
      // A socket has one name.
      if (this.#shared?.has(request.name) === true) throw taken(request.name);
      return createVolume(this.#host, request, caller, options);
    });
  }

  async #createShared(request: VolumeCreate, options: RequestOptions): Promise<Volume> {
    this.#host.requireRunning();
    const shared = this.#shared;
    if (shared === null) {
      throw new ApiError("no_cluster", "replicas need a cluster, and this daemon is in none", {
        advice: "make one: ringstore cluster init; or leave replicas out",
      });
    }
    checkRoom(this.#host, request.name);
    return await shared.create(request, options);
  }

  async resize(name: string, request: VolumeResize, options: RequestOptions): Promise<Volume> {
    const shared = this.#sharedOf(name);
    return await guard("resize", () =>
      shared === null
        ? resizeVolume(this.#host, name, request, options)
        : shared.resize(name, request, options),
    );
  }

  async attach(name: string, request: VolumeAttach): Promise<AttachResult> {
    const shared = this.#sharedOf(name);
    return await guard("attach", () =>
      shared === null ? attachVolume(this.#host, name, request) : shared.attach(name, request),
    );
  }

  async detach(name: string): Promise<DetachReply> {
    const shared = this.#sharedOf(name);
    return await guard("detach", () =>
      shared === null ? detachVolume(this.#host, name) : shared.detach(name),
    );
  }

  async remove(name: string, options: RequestOptions): Promise<DeleteReply> {
    const shared = this.#sharedOf(name);
    return await guard("delete", () =>
      shared === null ? removeVolume(this.#host, name, options) : shared.remove(name, options),
    );
  }

  get #disks(): DiskHost {
    return this.#host.modules.disks;
  }

  listDisks(): readonly Disk[] {
    return this.#disks.list();
  }

  showDisk(name: string): Disk {
    return this.#disks.view(this.#disks.find(name));
  }

  async createDisk(request: DiskCreate, caller: Caller, options: RequestOptions): Promise<Disk> {
    const { allowPaths } = this.#host.options;
    const all = { ...options, allowPaths, usedFiles: usedFiles(this.#host) };
    return await guard("disk init", () => createDisk(this.#disks, request, caller, all));
  }

  async checkDisk(name: string): Promise<Disk> {
    return await guard("disk check", () => checkDisk(this.#disks, name));
  }

  async removeDisk(name: string, options: DiskRemoveOptions): Promise<DiskRemoveReply> {
    return await guard("disk remove", () => removeDisk(this.#disks, name, options));
  }

  stats(): StatsReply {
    const byId = this.#host.statsById();
    const volumes: VolumeIo[] = [];
    for (const [id, name] of [...this.#host.served(), ...(this.#shared?.served() ?? [])]) {
      const stats = byId.get(id);
      if (stats !== undefined) volumes.push(ioOf(name, stats));
    }
    volumes.sort((a, b) => (a.name < b.name ? -1 : 1));
    return { atMs: this.#modules.nowMs(), volumes };
  }

  async status(): Promise<Status> {
    const volumes = this.list();
    const countOf = (...states: string[]): number =>
      volumes.filter((volume) => states.includes(volume.state)).length;
    const [dataFilesystem, items, cluster] = await this.#itemsNow();
    return {
      health: summaryOf(items),
      version: this.#options.version,
      nodeId: this.#options.nodeId,
      uptimeSeconds: Math.floor((this.#modules.nowMs() - this.#startedAtMs) / 1000),
      dataDirectory: this.#host.options.paths.root,
      volumes: {
        total: volumes.length,
        attached: countOf("attached", "connected", "unavailable"),
        connected: countOf("connected"),
        unavailable: countOf("unavailable"),
        declaredBytes: volumes.reduce((sum, volume) => sum + volume.sizeBytes, 0),
      },
      disks: this.#diskCounts(),
      dataFilesystem,
      cluster,
      portals: this.#host.modules.dataPlane.portalStats().map(({ address, sessionCount }) => {
        return { address, sessionCount };
      }),
      reactorCount: this.#host.modules.dataPlane.reactorStats().length,
      residentBytes: process.memoryUsage.rss(),
      io: this.observer.rate(),
      items,
    };
  }

  #diskCounts(): Status["disks"] {
    const disks = this.listDisks();
    const ready = disks.filter((disk) => disk.state === "ready");
    const sum = (field: "totalBytes" | "freeBytes"): number =>
      ready.reduce((bytes, disk) => bytes + (disk.usage?.[field] ?? 0), 0);
    return {
      total: disks.length,
      ready: ready.length,
      totalBytes: sum("totalBytes"),
      freeBytes: sum("freeBytes"),
    };
  }

  async advise(): Promise<AdviseReply> {
    const [, items, cluster] = await this.#itemsNow();
    return { advice: adviceFor(items, this.#host.options.paths.root, cluster) };
  }

  async #itemsNow(): Promise<
    readonly [FilesystemSpace, readonly StatusItem[], ClusterView | null]
  > {
    const space = await spaceOf(this.#host.options.paths.root);
    const cluster = await this.cluster.show();
    const items = statusItems(this.#host, space, this.#options.listenWarning);
    const ofVolumes = this.#shared?.items() ?? [];
    return [space, [...items, ...clusterItems(cluster), ...ofVolumes], cluster];
  }

  eventsSince(seq: number): readonly Event[] {
    return this.#host.modules.events.since(seq);
  }

  subscribe(listener: (event: Event) => void): () => void {
    return this.#host.modules.events.subscribe(listener);
  }

  support(): SupportReply {
    return supportReply(this.#options.support ?? NO_SUPPORT, this.#host.modules.now());
  }

  countRequest(method: string, route: string, status: number): void {
    const key = `${method} ${route} ${status}`;
    const before = this.#requests.get(key);
    this.#requests.set(key, { method, route, status, count: (before?.count ?? 0) + 1 });
  }

  async metrics(): Promise<string> {
    const [space, items] = await this.#itemsNow();
    const sample: DaemonSample = {
      version: this.#options.version,
      startTimeSeconds: this.#options.startedAt.getTime() / 1000,
      residentBytes: process.memoryUsage.rss(),
      heapUsedBytes: process.memoryUsage().heapUsed,
      cpuUserSeconds: process.cpuUsage().user / 1e6,
      cpuSystemSeconds: process.cpuUsage().system / 1e6,
      openDescriptorCount: readdirSync("/proc/self/fd").length - 1,
      space,
      volumes: this.list(),
      disks: this.listDisks(),
      diskStats: this.#host.modules.dataPlane.diskStats(),
      volumeStats: [...this.#host.statsById().values()],
      reactorStats: this.#host.modules.dataPlane.reactorStats(),
      portalStats: this.#host.modules.dataPlane.portalStats(),
      items,
      apiRequests: [...this.#requests.values()],
      rebuilds: await rebuildsOf(this.cluster),
    };
    // Loaded at the first scrape: many daemons are never scraped.
    if (this.#exporter === null) {
      const { MetricsExporter: Exporter } = await import("../telemetry/prometheus.ts");
      this.#exporter ??= new Exporter({ volumeMetrics: this.#options.volumeMetrics });
    }
    return await this.#exporter.text(sample);
  }
}

/** null: in no cluster, or in one that cannot be used: that is told elsewhere. */
async function rebuildsOf(cluster: ClusterControl): Promise<DaemonSample["rebuilds"]> {
  try {
    const stages = (await cluster.rebuilds()).map(({ stage }) => stage);
    return { stages, limit: await cluster.rebuildLimit() };
  } catch (error) {
    if (error instanceof ApiError) return null;
    throw error;
  }
}

function taken(name: string): ApiError {
  return new ApiError("volume_exists", `the cluster has a volume ${name}`, {
    advice: `choose another name, or see: ringstore volume show ${name}`,
  });
}

/** What was not foreseen below is at least told with its context. */
async function guard<T>(operation: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw asApiError(error, operation);
  }
}

async function spaceOf(path: string): Promise<FilesystemSpace> {
  const { bsize, blocks, bavail } = await statfs(path);
  return { totalBytes: bsize * blocks, availableBytes: bsize * bavail };
}

function ioOf(name: string, stats: VolumeStats): VolumeIo {
  return {
    name,
    connected: stats.connected,
    sessionCount: stats.sessionCount,
    readCount: stats.readCount,
    readBytes: stats.readBytes,
    writeCount: stats.writeCount,
    writeBytes: stats.writeBytes,
    flushCount: stats.flushCount,
    discardCount: stats.discardCount,
    errorCount: stats.errorCount,
    ringErrorCount: stats.ringErrorCount,
    lateKickCount: stats.lateKickCount,
    lateInterruptCount: stats.lateInterruptCount,
    inflightCount: stats.inflightCount,
    readLatency: latencyOf(stats.readLatencyUs),
    writeLatency: latencyOf(stats.writeLatencyUs),
  };
}

function latencyOf(summary: LatencySummary): Latency {
  return {
    meanUs: summary.count === 0 ? 0 : summary.sum / summary.count,
    p50Us: summary.p50,
    p99Us: summary.p99,
    p999Us: summary.p999,
  };
}
