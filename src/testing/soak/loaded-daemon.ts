// The real daemon under verified load on several volumes, and what may happen to it meanwhile:
// killed, killed again while it starts, stopped cleanly, paused. The guests' side (load/) sees
// every error, every lost or repeated write (stamps), every page that changes late (canary), and
// measures every pause.
//
// Invariants:
//  - a daemon that ends by itself fails the round, with its log;
//  - a round begins only when every volume has answered requests since the last one, so that each
//    disturbance meets work in flight;
//  - the moments come from the seed; what the machine makes of them does not.

import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Prng } from "../../base/index.ts";
import type { RingstoreClient } from "../../client/index.ts";
import {
  type LoadOptions,
  type LoadProcess,
  type LoadReport,
  startLoad,
} from "../../load/index.ts";
import type { DiskCreate } from "../../model/disk-types.ts";
import type { VolumeCreate } from "../../model/types.ts";
import { Daemon } from "../daemon.ts";
import { apiOf, attachVolumes, makeDisks } from "./api.ts";
import type { Cleanup } from "./cleanup.ts";
import { diskFolder } from "./places.ts";

export type Disturbance =
  /** SIGKILL, and at once a successor. */
  | "kill"
  /** The same, and the successor is killed at any moment of its start. */
  | "kill-twice"
  /** SIGTERM, the end awaited, a successor. */
  | "stop"
  /** SIGSTOP, some time, SIGCONT. */
  | "pause"
  /** SIGSTOP, some time, SIGKILL, a successor. */
  | "kill-paused";

export interface LoadedVolume {
  readonly volume: VolumeCreate;
  readonly load: Partial<LoadOptions>;
}

export interface LoadedDaemonOptions {
  readonly volumes: readonly LoadedVolume[];
  readonly seed: number;
  readonly flags?: readonly string[];
  /** Disks of the store that are made first; their paths are names in the scenario's folder. */
  readonly disks?: readonly DiskCreate[];
  /** While no daemon runs, between a death and the start of the successor. */
  readonly between?: (diskPaths: readonly string[]) => Promise<void>;
}

const SERVED_TIMEOUT_MS = 30_000;
const RUNTIME_MS_MAX = 24 * 3600 * 1000;
const POLL_MS = 10;
/** A disturbance comes after this much of undisturbed work, at most. */
const WORK_MS_MAX = 300;
const PAUSE_MS_MAX = 400;
/** A start takes about so long: the second kill shall meet all of it. */
const START_MS = 400;

export class LoadedDaemon {
  readonly daemon: Daemon;
  readonly api: RingstoreClient;
  roundCount = 0;
  private readonly prng: Prng;
  private readonly stopFile: string;
  private readonly loads: readonly LoadProcess[];
  /** Of each load, the last progress line. */
  private readonly phases: string[];
  private failure: Error | null = null;
  private readonly between: (() => Promise<void>) | null = null;

  private constructor(
    options: LoadedDaemonOptions,
    parts: {
      daemon: Daemon;
      sockets: readonly string[];
      folder: string;
      diskPaths: readonly string[];
    },
  ) {
    const { between } = options;
    if (between !== undefined) this.between = () => between(parts.diskPaths);
    this.daemon = parts.daemon;
    this.api = apiOf(parts.daemon);
    this.prng = new Prng(options.seed);
    this.stopFile = join(parts.folder, "stop-load");
    this.phases = options.volumes.map(() => "");
    this.loads = options.volumes.map(({ load }, index) =>
      startLoad({
        socketPath: parts.sockets[index] as string,
        verify: true,
        reconnect: true,
        canary: true,
        warmupMs: 0,
        runtimeMs: RUNTIME_MS_MAX,
        stopFile: this.stopFile,
        seed: options.seed + index,
        ...load,
        progress: (line) => {
          this.phases[index] = line;
        },
      }),
    );
    for (const load of this.loads) {
      load.report.catch((error: Error) => {
        this.failure ??= error;
      });
    }
  }

  /** Starts the daemon and the loads; returns when all have written their area and go on. */
  static async start(cleanup: Cleanup, options: LoadedDaemonOptions): Promise<LoadedDaemon> {
    const folder = diskFolder(cleanup);
    const daemon = await Daemon.start({
      dataDirectory: join(folder, "data"),
      ...(options.flags === undefined ? {} : { flags: options.flags }),
    });
    cleanup.after(() => daemon.stop());
    const diskPaths = await makeDisks(apiOf(daemon), folder, options.disks ?? []);
    const volumes = options.volumes.map(({ volume }) => volume);
    const sockets = await attachVolumes(apiOf(daemon), volumes);
    const loaded = new LoadedDaemon(options, { daemon, sockets, folder, diskPaths });
    cleanup.after(() => loaded.end());
    while (!loaded.phases.every((line) => line.startsWith("run:"))) {
      loaded.check();
      await sleep(POLL_MS);
    }
    await loaded.untilServed();
    return loaded;
  }

  /** Throws when a load or the daemon has ended by itself. */
  private check(): void {
    if (this.failure !== null) throw this.failure;
    if (!this.daemon.running) throw new Error(`ringstored ended by itself:\n${this.daemon.log}`);
  }

  /** Waits until this life of the daemon has answered requests of every volume. */
  async untilServed(): Promise<void> {
    const deadline = Date.now() + SERVED_TIMEOUT_MS;
    for (;;) {
      this.check();
      const volumes = await this.api.stats().then(
        (reply) => reply.volumes,
        () => [],
      );
      const served = volumes.filter((one) => one.connected && one.readCount + one.writeCount > 0);
      if (served.length === this.loads.length) return;
      if (Date.now() > deadline) {
        const seen = JSON.stringify(volumes.map(({ name, connected }) => ({ name, connected })));
        throw new Error(`not every volume is served: ${seen}\n${this.daemon.log}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** One disturbance at a random moment, and the return of service awaited. */
  async round(disturbance: Disturbance): Promise<void> {
    await sleep(this.prng.below(WORK_MS_MAX));
    this.check();
    await this.disturb(disturbance);
    await this.untilServed();
    this.roundCount += 1;
  }

  private async disturb(disturbance: Disturbance): Promise<void> {
    const { daemon, prng } = this;
    if (disturbance === "pause" || disturbance === "kill-paused") {
      daemon.signal("SIGSTOP");
      await sleep(prng.below(PAUSE_MS_MAX));
      if (disturbance === "pause") {
        daemon.signal("SIGCONT");
        return;
      }
    }
    if (disturbance === "stop") {
      daemon.signal("SIGTERM");
      await daemon.waitForExit();
    } else {
      daemon.kill();
    }
    if (this.between !== null) {
      await daemon.waitForExit();
      await this.between();
    }
    await daemon.launch();
    if (disturbance !== "kill-twice") return;
    await sleep(prng.below(START_MS));
    this.check();
    daemon.kill();
    await daemon.launch();
  }

  /** Ends the loads: they finish what is in flight, read everything back, and report. */
  async finish(): Promise<LoadReport[]> {
    writeFileSync(this.stopFile, "");
    return await Promise.all(this.loads.map((load) => load.report));
  }

  private end(): void {
    for (const load of this.loads) load.kill();
    if (existsSync(this.stopFile)) rmSync(this.stopFile);
  }
}

/** What is wrong with a load's report, one sentence each; empty when every promise was kept. */
export function brokenPromises(report: LoadReport): string[] {
  const broken: string[] = [...report.failures];
  const { verify, canary } = report;
  if (report.errorCount > 0) broken.push(`${report.errorCount} I/O errors`);
  if (report.wrongLengthCount > 0) broken.push(`${report.wrongLengthCount} wrong used lengths`);
  if (verify === null || verify.checkedBlocks === 0) broken.push("nothing was verified");
  else if (verify.failureCount > 0) broken.push(`${verify.failureCount} wrong blocks`);
  if (canary === null || canary.checkedBuffers === 0) broken.push("no buffer was watched");
  else if (canary.lateWriteCount > 0) broken.push(`${canary.lateWriteCount} pages changed late`);
  if (!report.ok && broken.length === 0) broken.push("the load's report is not ok");
  return broken;
}

/** The README's promise for a restart. */
const PROMISED_PAUSE_MS = 1000;

/** Pauses over all loads, in milliseconds: how many, the median, the longest, how many too long. */
export function pausesOf(reports: readonly LoadReport[]): {
  readonly count: number;
  readonly medianMs: number;
  readonly longestMs: number;
  readonly tooLongCount: number;
} {
  const pausesMs = reports.flatMap((report) => report.lossPausesMs).sort((a, b) => a - b);
  return {
    count: pausesMs.length,
    medianMs: pausesMs[pausesMs.length >> 1] ?? 0,
    longestMs: Math.max(0, ...reports.map((report) => report.longestPauseMs)),
    tooLongCount: pausesMs.filter((pauseMs) => pauseMs > PROMISED_PAUSE_MS).length,
  };
}
