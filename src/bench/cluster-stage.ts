// What the cluster's benchmark runs on, in one folder: three daemons with a volume of two copies, a
// daemon with an unreplicated store, and two plain processes with a pre-written file each.

import { type ChildProcess, fork } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type LoadReport, runLoadInChild } from "../load/index.ts";
import { SystemMemory } from "../sys/index.ts";
import { Daemon } from "../testing/daemon.ts";
import { NodeCluster } from "../testing/nodes/node-cluster.ts";
import { apiOf, makeDisks } from "../testing/soak/api.ts";
import type { Cleanup } from "../testing/soak/cleanup.ts";
import { type Measured, prewrite } from "../testing/store/real-rig.ts";
import { ResyncBench, type ResyncFigures } from "./cluster-resync.ts";
import type { ClusterRow, Figures } from "./cluster-rows.ts";
import type { WriterAnswer, WriterOrder } from "./cluster-writer-main.ts";
import { drainRings } from "./drain.ts";

const WARM_UP_MS = 300;
const WARM_UP_ROUNDS = 2;
const WARM_UP_REQUESTS = 200_000;

class Writer {
  private readonly child: ChildProcess;
  private answered: (answer: WriterAnswer) => void = () => undefined;

  constructor(path: string, sizeBytes: number) {
    const entry = fileURLToPath(new URL("./cluster-writer-main.js", import.meta.url));
    this.child = fork(entry, [path, String(sizeBytes)]);
    this.child.on("message", (answer: WriterAnswer) => this.answered(answer));
  }

  next(): Promise<WriterAnswer> {
    return new Promise((resolve, reject) => {
      this.answered = resolve;
      this.child.once("exit", () => reject(new Error("a plain process has ended")));
    });
  }

  measure(order: WriterOrder): Promise<WriterAnswer> {
    const answer = this.next();
    this.child.send(order);
    return answer;
  }

  end(): void {
    this.child.removeAllListeners("exit");
    this.child.kill("SIGKILL");
  }
}

export interface StageOptions {
  readonly folder: string;
  readonly diskBytes: number;
  readonly volumeBytes: number;
  readonly sliceMs: number;
}

export class ClusterStage {
  readonly ringBytes: number;
  private readonly options: StageOptions;
  private readonly cluster: NodeCluster;
  private readonly single: Daemon;
  private readonly socket: string;
  private readonly writers: readonly Writer[];

  private constructor(
    options: StageOptions,
    parts: {
      readonly cluster: NodeCluster;
      readonly single: Daemon;
      readonly socket: string;
      readonly writers: readonly Writer[];
      readonly ringBytes: number;
    },
  ) {
    this.options = options;
    this.cluster = parts.cluster;
    this.single = parts.single;
    this.socket = parts.socket;
    this.writers = parts.writers;
    this.ringBytes = parts.ringBytes;
  }

  static async start(cleanup: Cleanup, options: StageOptions): Promise<ClusterStage> {
    const { folder, diskBytes, volumeBytes } = options;
    const cluster = await NodeCluster.start(cleanup, { nodeCount: 3, diskBytes, folder });
    await cluster.api(0).createVolume({
      name: "twice",
      sizeBytes: volumeBytes,
      blockBytes: 4096,
      replicas: 2,
    });
    await cluster.attach(0, "twice");
    const single = await Daemon.start({ dataDirectory: join(folder, "single") });
    cleanup.after(() => single.stop());
    await makeDisks(apiOf(single), folder, [{ path: "disk-single", sizeBytes: diskBytes }]);
    const size = ["--size", String(volumeBytes), "--backing", "store", "--block-size", "4096"];
    const socket = await single.volume("once", size);
    const writers: Writer[] = [];
    const memory = new SystemMemory();
    for (const name of ["plain1", "plain2"]) {
      prewrite(join(folder, name), volumeBytes, memory);
      const writer = new Writer(join(folder, name), volumeBytes);
      cleanup.after(() => writer.end());
      await writer.next();
      writers.push(writer);
    }
    const disks = await cluster.api(0).listDisks();
    const ringBytes = disks.disks[0]?.usage?.ringBytes ?? 0;
    const stage = new ClusterStage(options, { cluster, single, socket, writers, ringBytes });
    await stage.writeAll();
    await stage.meetEverything();
    return stage;
  }

  /** Both volumes are written once, so that what follows overwrites. */
  private async writeAll(): Promise<void> {
    const requestCount = this.options.volumeBytes / 262144;
    const work = { blockBytes: 262144, depth: 8, readPercent: 0, pattern: "sequential" } as const;
    for (const socketPath of [this.cluster.link("twice"), this.socket]) {
      await runLoadInChild({ ...work, socketPath, requestCount, warmupMs: 0 });
    }
    await this.drain();
  }

  /**
   * A daemon that has just started runs uncompiled code for its first ten thousand requests, which
   * at depth 1 last longer than a row.
   */
  private async meetEverything(): Promise<void> {
    const work = { blockBytes: 4096, depth: 32, readPercent: 30, pattern: "random" } as const;
    for (const socketPath of [this.cluster.link("twice"), this.socket]) {
      await runLoadInChild({ ...work, socketPath, requestCount: WARM_UP_REQUESTS, warmupMs: 0 });
    }
    await this.drain();
  }

  async drain(): Promise<void> {
    await drainRings([...this.cluster.nodes, this.single]);
  }

  /** Compilers and caches have met the row's work before it is measured. */
  async warmUp(row: ClusterRow): Promise<void> {
    const work = { ...row, totalBytes: null };
    for (let round = 0; round < WARM_UP_ROUNDS; round++) {
      await this.ours(work, round);
      await this.theirs(work, round);
    }
  }

  /** Leaves the volume with both copies in sync. */
  async resync(absenceMs: number): Promise<ResyncFigures> {
    return await new ResyncBench(this.cluster, "twice", 0, this.options.volumeBytes).run(absenceMs);
  }

  async ours(row: ClusterRow, seed: number): Promise<Figures> {
    return await this.throughBoost(row, this.cluster.link("twice"), this.cluster.nodes, seed);
  }

  async theirs(row: ClusterRow, seed: number): Promise<Figures | null> {
    if (row.against === "nothing") return null;
    if (row.against === "store") {
      return await this.throughBoost(row, this.socket, [this.single], seed);
    }
    const writers = row.against === "one writer" ? this.writers.slice(0, 1) : this.writers;
    const { blockBytes, depth } = row.work;
    const work = {
      op: row.op,
      bytes: blockBytes,
      depth,
      sequential: row.work.pattern === "sequential",
      countMax: 1e9,
      timeMaxMs: this.options.sliceMs,
    };
    const rangeBytes = this.options.volumeBytes;
    const all = (await Promise.all(
      writers.map((writer, index) => writer.measure({ work, rangeBytes, seed: seed * 2 + index })),
    )) as Measured[];
    const slower = all.reduce((one, other) => (other.meanUs > one.meanUs ? other : one));
    const { perSecond, meanUs, p50Us, p99Us, p9999Us: p999Us, cpuUs } = slower;
    return { perSecond, meanUs, p50Us, p99Us, p999Us, cpuUs };
  }

  private async throughBoost(
    row: ClusterRow,
    socketPath: string,
    daemons: readonly Daemon[],
    seed: number,
  ): Promise<Figures> {
    const cpuOf = (): number => daemons.reduce((sum, daemon) => sum + daemon.cpuUs(), 0);
    const { totalBytes, work } = row;
    const length =
      totalBytes === null
        ? { runtimeMs: this.options.sliceMs, warmupMs: WARM_UP_MS }
        : { requestCount: Math.floor(totalBytes / work.blockBytes), warmupMs: 0 };
    const before = cpuOf();
    const report: LoadReport = await runLoadInChild({ ...work, ...length, socketPath, seed });
    const wholeMs = report.durationMs + (totalBytes === null ? WARM_UP_MS : 0);
    // The warm-up's requests cost as much as the others.
    const requests = (report.requestCount * wholeMs) / report.durationMs;
    if (!report.ok) throw new Error(`${row.name}: ${report.failures.join(" ")}`);
    const { meanUs, p50Us, p99Us, p999Us } = report.latency;
    const cpuUs = (cpuOf() - before) / requests;
    return { perSecond: report.iops, meanUs, p50Us, p99Us, p999Us, cpuUs };
  }
}
