// The life of ringstored: start, serve, stop. The order of the start is the point of this file: a
// killed daemon's guests wait, so their sockets are served before anything else is even loaded.
//
//   arguments -> data directory -> lock -> reactor threads -> declared state -> attachments
//   -> (log, REST, metrics, unfinished work) -> ready
//
// Stop is the other way round and bounded: what cannot be stopped in time is killed.

import { randomUUID } from "node:crypto";
import type { DaemonConfig } from "../model/config.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import type { Log } from "../ports/log.ts";
import type { DiskTools } from "../ports/store-disk.ts";
import {
  type ListenAddress,
  listenForApi,
  listenWarning,
  parseListen,
  readApiTls,
} from "./api-listener.ts";
import { loadConfig } from "./arguments.ts";
import { portalSettingsOf } from "./classic-attach.ts";
import { ClassicKeeper } from "./classic-keeper.ts";
import { makeCluster } from "./cluster-making.ts";
import { clusterTimingsOf } from "./cluster-timings.ts";
import { DaemonControl } from "./control.ts";
import {
  type DataDirectory,
  groupIdOf,
  layOutDataDirectory,
  makeDataDirectory,
} from "./data-directory.ts";
import { type DataLock, lockDataDirectory } from "./data-lock.ts";
import type { DataPlaneFactory } from "./data-plane-factory.ts";
import { DiskHost } from "./disk-host.ts";
import { openDeclared } from "./disk-opening.ts";
import { EventLog } from "./event-log.ts";
import { connectPino, type DaemonLog } from "./log.ts";
import type { DaemonCluster } from "./no-cluster.ts";
import { readOrMakeIdentity } from "./node-identity.ts";
import type { ServiceManager } from "./service-manager.ts";
import { nodeStateFs } from "./state-fs.ts";
import { DISK_STATE, StateStore, VOLUME_STATE } from "./state-store.ts";
import { TokenFile } from "./token-file.ts";
import { readVersion } from "./version.ts";
import { VolumeHost } from "./volume-host.ts";
import { diskBecameReady, finishStart, placeDeclared, serveDeclared } from "./volume-recovery.ts";

export interface DaemonOptions {
  readonly config: DaemonConfig;
  readonly flags: Partial<DaemonConfig>;
  readonly configPath: string;
}

export interface DaemonModules {
  readonly createDataPlane: DataPlaneFactory;
  readonly diskTools: DiskTools;
  readonly log: DaemonLog;
  readonly serviceManager: ServiceManager;
  /** Ends the process by signal. */
  readonly fatal: (error: unknown) => never;
}

const nowMs = (): number => performance.now();
const now = (): Date => new Date();

/** Operations under way get this long at a stop. */
const SETTLE_PATIENCE_MS = 5000;

/** A device that hangs while unfinished work is finished must not keep the API from starting. */
const FINISH_PATIENCE_MS = 2000;
const STOP_PATIENCE_MS = 5000;

/** Waits for `work`, but no longer than `patienceMs`: true when it came to its end. */
async function within(patienceMs: number, work: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, patienceMs, false);
  });
  const done = await Promise.race([work.then(() => true), patience]);
  clearTimeout(timer);
  return done;
}

/** Volumes and disks, each with its declared state. */
function makeHost(
  { paths, socketGroupId, config }: HostParts,
  modules: {
    dataPlane: DataPlane;
    tools: DiskTools;
    classic: ClassicKeeper;
    log: Log;
    fatal: (error: unknown) => void;
  },
): VolumeHost {
  const shared = { ...modules, events: new EventLog(now), now, uuid: randomUUID };
  const disks = new DiskHost({
    ...shared,
    store: new StateStore(paths.diskDirectory, nodeStateFs, DISK_STATE),
  });
  const store = new StateStore(paths.stateDirectory, nodeStateFs, VOLUME_STATE);
  const options = { paths, socketGroupId, allowPaths: config.allowPaths };
  return new VolumeHost(options, { ...shared, store, disks, classic: modules.classic });
}

interface HostParts {
  readonly paths: DataDirectory;
  readonly socketGroupId: number;
  readonly config: DaemonConfig;
}

/** A running daemon. */
export class Daemon {
  readonly #options: DaemonOptions;
  readonly #modules: DaemonModules;
  readonly #paths: DataDirectory;
  readonly #lock: DataLock;
  readonly #dataPlane: DataPlane;
  readonly #host: VolumeHost;
  readonly #cluster: DaemonCluster;
  #closeApi: () => Promise<void> = async () => undefined;
  #tokenFile: TokenFile | null = null;
  #control: DaemonControl | null = null;

  private constructor(
    options: DaemonOptions,
    modules: DaemonModules,
    parts: { paths: DataDirectory; lock: DataLock; dataPlane: DataPlane; host: VolumeHost },
  ) {
    this.#options = options;
    this.#modules = modules;
    this.#paths = parts.paths;
    this.#lock = parts.lock;
    this.#dataPlane = parts.dataPlane;
    this.#host = parts.host;
    const { host, paths, dataPlane } = parts;
    this.#cluster = makeCluster(
      { host, root: paths.root, dataPlane, fs: nodeStateFs },
      () => this.#identity(),
      clusterTimingsOf(options.config),
    );
    const { disks } = host.modules;
    disks.becameReady = (diskId) => {
      void diskBecameReady(host, diskId).catch(modules.fatal);
      this.#cluster.diskBecameReady();
    };
    disks.becameFailed = () => this.#cluster.diskBecameFailed();
  }

  async #identity(): Promise<string> {
    return (await readOrMakeIdentity(this.#paths.nodePath, nodeStateFs, now)).id;
  }

  static async start(options: DaemonOptions, modules: DaemonModules): Promise<Daemon> {
    const { config } = options;
    const { log, fatal, diskTools: tools } = modules;
    const listen = config.listen === "" ? null : parseListen(config.listen);
    const socketGroupId = groupIdOf(config.socketGroup, "--socket-group");
    const portal = portalSettingsOf(config, log);
    const apiGroupId = groupIdOf(config.apiGroup, "--api-group");
    const paths = layOutDataDirectory(config.dataDirectory, config.socketDirectory);
    makeDataDirectory(paths, socketGroupId);
    const lock = await lockDataDirectory(paths.lockPath, nowMs);
    const classic = new ClassicKeeper(paths.iscsiDirectory, nodeStateFs);
    let daemon: Daemon | null = null;
    const dataPlane = await modules.createDataPlane({
      reactorCount: config.reactorCount,
      pollUs: config.pollUs,
      trustMemory: config.trustMemory,
      scrubMibPerSecond: config.scrubMibPerSecond,
      portal,
      saveReservations: async (volumeId, record) => {
        if (daemon?.hasVolume(volumeId) === true) await classic.save(volumeId, record);
        else if (daemon !== null) await daemon.#cluster.saveReservations(volumeId, record);
        else throw new Error("the daemon is starting");
      },
      log,
      changed: () => daemon?.look(),
      fatal,
    });
    try {
      const parts = { dataPlane, tools, classic, log, fatal };
      const host = makeHost({ paths, socketGroupId, config }, parts);
      daemon = new Daemon(options, modules, { paths, lock, dataPlane, host });
      await daemon.#cluster.prepare();
      const { disks, store } = host.modules;
      const state = store.load();
      placeDeclared(host, state);
      openDeclared(disks, disks.modules.store.load());
      await serveDeclared(host, state);
      daemon.#cluster.begin();
      const servedMs = Math.round(nowMs());
      await connectPino(log, process.stderr.isTTY === true);
      await within(FINISH_PATIENCE_MS, finishStart(host, state).catch(fatal));
      await daemon.#openApi(listen, apiGroupId);
      const fields = { pid: process.pid, data: paths.root, servedMs, readyMs: Math.round(nowMs()) };
      log.log("info", "daemon.ready", fields);
    } catch (error) {
      // A thread that is left behind in a system call would keep the process from ending.
      if (!(await within(STOP_PATIENCE_MS, dataPlane.stop()))) fatal(error);
      if (daemon !== null) await daemon.#cluster.stop();
      throw error;
    }
    daemon.#tellReady();
    return daemon;
  }

  async #openApi(listen: ListenAddress | null, apiGroupId: number): Promise<void> {
    const { config } = this.#options;
    const { log, fatal } = this.#modules;
    const nodeId = await this.#identity();
    if (listen !== null) {
      const path = config.tokenFile === "" ? this.#paths.tokenPath : config.tokenFile;
      this.#tokenFile = new TokenFile(path, log);
      this.#tokenFile.read(config.tokenFile === "");
    }
    const tls = readApiTls(config.tlsCert, config.tlsKey);
    const warning = listen === null ? null : listenWarning(listen, tls);
    const control = new DaemonControl(
      {
        version: readVersion(),
        nodeId,
        startedAt: new Date(Date.now() - nowMs()),
        volumeMetrics: config.volumeMetrics,
        listenWarning: warning,
        support: { config: { ...config }, logTail: () => log.tail() },
      },
      {
        host: this.#host,
        cluster: this.#cluster,
        clusterVolumes: () => this.#cluster.volumes,
        nowMs,
      },
    );
    this.#control = control;
    const listeners = await listenForApi(
      {
        socketPath: this.#paths.apiSocket,
        apiGroupId,
        tcp: listen,
        tls,
        tokens: () => this.#tokenFile?.current() ?? [],
      },
      {
        controlPlane: control,
        log,
        answered: (method, route, status) => control.countRequest(method, route, status),
        fatal,
      },
    );
    this.#closeApi = () => listeners.close();
    control.observer.start();
    this.#host.modules.events.add("daemon.started", null, `version ${control.version().version}`);
    log.log("info", "api.listening", { socket: this.#paths.apiSocket, url: listeners.url });
    if (warning !== null) log.log("warn", "api.without-tls", { message: warning });
  }

  hasVolume(volumeId: string): boolean {
    return this.#host.hasVolume(volumeId);
  }

  look(): void {
    this.#control?.observer.look();
  }

  /** SIGHUP: tokens and log level. Anything else that changed needs a restart, and is named. */
  async reload(): Promise<void> {
    const { log, serviceManager } = this.#modules;
    serviceManager.reloading();
    try {
      const { flags, configPath, config } = this.#options;
      const fresh = await loadConfig(flags, configPath);
      log.setLevel(fresh.logLevel);
      this.#tokenFile?.read(false);
      const reloadable = ["logLevel", "tokenFile"];
      const changed = Object.entries(fresh)
        .filter(([key, value]) => {
          const before = config[key as keyof DaemonConfig];
          return !reloadable.includes(key) && JSON.stringify(value) !== JSON.stringify(before);
        })
        .map(([key]) => key);
      log.log("info", "daemon.reloaded", { needsRestart: changed.join(" ") });
      this.#host.modules.events.add("daemon.reloaded", null, "tokens and log level");
    } catch (error) {
      // What was in force stays in force.
      log.log("error", "daemon.reload-failed", { message: (error as Error).message });
    }
    this.#tellReady();
  }

  #tellReady(): void {
    const signOfLife = (timeoutMs: number): Promise<boolean> => this.#dataPlane.responds(timeoutMs);
    this.#modules.serviceManager.ready(`serving ${this.#paths.root}`, signOfLife);
  }

  /** Declared attachments stay declared: the next start serves them again. */
  async stop(): Promise<void> {
    const { log, serviceManager } = this.#modules;
    serviceManager.stopping();
    log.log("info", "daemon.stopping");
    this.#host.stopping = true;
    this.#control?.observer.stop();
    for (const entry of this.#host.entries.values()) entry.cancelRetry();
    const { disks } = this.#host.modules;
    disks.stop();
    await this.#modules.diskTools.stop();
    await this.#settle();
    await this.#closeApi();
    await disks.declareClean(await this.#dataPlane.stop());
    // Its last words, that volumes are clean, went through the cluster's metadata.
    await this.#cluster.stop();
    this.#lock.release();
    log.log("info", "daemon.stopped");
  }

  /** Lets operations that are under way come to their end, which keeps their callers' answers. */
  async #settle(): Promise<void> {
    const deadlineMs = nowMs() + SETTLE_PATIENCE_MS;
    const isBusy = (): boolean =>
      [...this.#host.entries.values()].some((entry) => entry.busy) ||
      this.#cluster.volumes?.isBusy() === true;
    while (isBusy()) {
      if (nowMs() > deadlineMs) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}
