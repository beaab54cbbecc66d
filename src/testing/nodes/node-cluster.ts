// A cluster of real processes on this machine: a metadata server, daemons with a disk file each,
// volumes with copies on several of them, and verified load that can follow a volume from node to
// node: its socket is a link, which is set anew when the volume is attached elsewhere.
//
// Invariant: everything that was started is gone when the cleanup has run.

import { renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { KIB } from "../../base/index.ts";
import type { RingstoreClient } from "../../client/index.ts";
import {
  type LoadOptions,
  type LoadProcess,
  type LoadReport,
  startLoad,
} from "../../load/index.ts";
import type { ClusterBackingView, CopyState } from "../../model/cluster-types.ts";
import type { Volume } from "../../model/types.ts";
import { freePort } from "../../sys/index.ts";
import { Daemon } from "../daemon.ts";
import { type MetaKind, MetaProcess } from "../meta/meta-process.ts";
import { apiOf, makeDisks, untilAnswering } from "../soak/api.ts";
import type { Cleanup } from "../soak/cleanup.ts";
import { diskFolder } from "../soak/places.ts";

/** What users do to a volume, small enough that the same blocks are written again and again. */
export const CLUSTER_LOAD: Partial<LoadOptions> = {
  queueCount: 2,
  depth: 16,
  blockBytes: 4 * KIB,
  blockBytesMax: 64 * KIB,
  alignBytes: 4 * KIB,
  readPercent: 40,
  flushEvery: 32,
};

const LOAD_RUNTIME_MS = 24 * 3600 * 1000;
const POLL_MS = 20;
const SOON_MS = 60_000;

export interface NodeClusterOptions {
  readonly nodeCount: number;
  readonly diskBytes: number;
  /** Where data directories and disk files lie; default: on a disk. */
  readonly folder?: string;
  readonly flags?: readonly string[];
  /** Default: the embedded server. */
  readonly metadata?: MetaKind;
}

export class NodeCluster {
  readonly nodes: readonly Daemon[];
  readonly metadata: MetaProcess;
  readonly folder: string;
  private readonly cleanup: Cleanup;

  private constructor(
    cleanup: Cleanup,
    parts: { nodes: readonly Daemon[]; metadata: MetaProcess; folder: string },
  ) {
    this.cleanup = cleanup;
    this.nodes = parts.nodes;
    this.metadata = parts.metadata;
    this.folder = parts.folder;
  }

  /** Resolves when all nodes are in the cluster, each with a disk that takes data. */
  static async start(cleanup: Cleanup, options: NodeClusterOptions): Promise<NodeCluster> {
    const folder = options.folder ?? diskFolder(cleanup);
    const metadata = await MetaProcess.start(options.metadata ?? "embedded");
    cleanup.after(async () => void (await metadata.stop()));
    const nodes: Daemon[] = [];
    for (let index = 0; index < options.nodeCount; index++) {
      const dataDirectory = join(folder, `node${index + 1}`);
      const { flags = [] } = options;
      const daemon = await Daemon.start({ dataDirectory, flags });
      cleanup.after(() => daemon.stop());
      nodes.push(daemon);
      const disk = { path: `disk${index + 1}`, sizeBytes: options.diskBytes };
      await makeDisks(apiOf(daemon), folder, [disk]);
      const address = `127.0.0.1:${freePort("127.0.0.1")}`;
      const common = ["--address", address, "--node-name", `node${index + 1}`];
      if (index === 0) {
        await daemon.json(["cluster", "init", "trio", "--metadata", metadata.endpoint, ...common]);
        continue;
      }
      const { token } = await (nodes[0] as Daemon).json(["cluster", "token"]);
      const tokenFile = join(folder, "token");
      writeFileSync(tokenFile, token, { mode: 0o600 });
      await daemon.json(["cluster", "join", "--cluster-token-file", tokenFile, ...common]);
    }
    const cluster = new NodeCluster(cleanup, { nodes, metadata, folder });
    await cluster.roomIsKnown();
    return cluster;
  }

  /** Each node knows of each other's disk that it takes data. */
  private async roomIsKnown(): Promise<void> {
    const deadline = Date.now() + SOON_MS;
    for (const index of this.nodes.keys()) {
      for (;;) {
        const { nodes } = await this.api(index).listNodes();
        const roomy = nodes.filter(({ disks }) => disks.some(({ freeBytes }) => freeBytes > 0));
        if (roomy.length === this.nodes.length) break;
        if (Date.now() > deadline) throw new Error(`room on ${roomy.map(({ name }) => name)} only`);
        await sleep(POLL_MS);
      }
    }
  }

  node(index: number): Daemon {
    return this.nodes[index] as Daemon;
  }

  api(index: number): RingstoreClient {
    return apiOf(this.node(index));
  }

  /** The link that loads use; leads nowhere before the first attach. */
  link(name: string): string {
    return join(this.folder, `${name}.link`);
  }

  /** Attaches on that node, and leads the link there; returns how long the attach took. */
  async attach(
    index: number,
    name: string,
    isTakeOver = false,
    isStandby = false,
  ): Promise<number> {
    const beganMs = performance.now();
    const request = isStandby ? { standby: true } : { takeOver: isTakeOver };
    const { socket } = await this.api(index).attachVolume(name, request);
    const tookMs = performance.now() - beganMs;
    const fresh = `${this.link(name)}.new`;
    symlinkSync(socket, fresh);
    renameSync(fresh, this.link(name));
    return tookMs;
  }

  /** SIGKILL, and the end awaited. */
  async kill(index: number): Promise<void> {
    this.node(index).kill();
    await this.node(index).waitForExit();
  }

  /** Starts a node that was killed. */
  async restart(index: number): Promise<void> {
    await this.node(index).launch();
    await untilAnswering(this.node(index));
  }

  /** The volume as that node sees it; waits while it has not heard of the metadata yet. */
  async volume(index: number, name: string): Promise<Volume & { backing: ClusterBackingView }> {
    const volume = await this.showSoon(index, name);
    if (volume.backing.kind !== "cluster") throw new Error(`${name} is no volume of the cluster`);
    return { ...volume, backing: volume.backing };
  }

  /** The nodes with a copy, by index, in the order of the volume's members. */
  async holders(index: number, name: string): Promise<readonly number[]> {
    const { copies } = (await this.volume(index, name)).backing;
    return copies.map(({ node }) => Number(node.replace("node", "")) - 1);
  }

  private async showSoon(index: number, name: string): Promise<Volume> {
    const deadline = Date.now() + SOON_MS;
    for (;;) {
      try {
        return await this.api(index).showVolume(name);
      } catch (error) {
        const isEarly = (error as { code?: unknown }).code === "metadata_unavailable";
        if (!isEarly || Date.now() > deadline) throw error;
      }
      await sleep(POLL_MS);
    }
  }

  /** Waits until the copies on `nodeNames` are in that state, as the node sees it. */
  async copiesSoon(
    index: number,
    name: string,
    wanted: Readonly<Record<string, CopyState>>,
    timeoutMs: number = SOON_MS,
  ): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const { copies } = (await this.volume(index, name)).backing;
      const states = new Map(copies.map(({ node, state }) => [node, state]));
      if (Object.entries(wanted).every(([node, state]) => states.get(node) === state)) return;
      if (Date.now() > deadline) {
        const seen = JSON.stringify(copies);
        throw new Error(`not ${JSON.stringify(wanted)} in ${timeoutMs} ms, but ${seen}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** Verified load on a volume that is attached; resolves when its first pass is written. */
  async load(name: string, options: Partial<LoadOptions>): Promise<VolumeLoad> {
    const load = new VolumeLoad(this.link(name), join(this.folder, `${name}.stop`), options);
    this.cleanup.after(() => load.end());
    await load.running;
    return load;
  }
}

export class VolumeLoad {
  /** Resolves when the whole area has been written once and the load goes on. */
  readonly running: Promise<void>;
  private readonly stopFile: string;
  private readonly process: LoadProcess;

  constructor(socketPath: string, stopFile: string, options: Partial<LoadOptions>) {
    this.stopFile = stopFile;
    rmSync(stopFile, { force: true });
    let runs: () => void = () => undefined;
    const began = new Promise<void>((resolve) => {
      runs = resolve;
    });
    this.process = startLoad({
      socketPath,
      verify: true,
      reconnect: true,
      canary: true,
      warmupMs: 0,
      runtimeMs: LOAD_RUNTIME_MS,
      stopFile,
      stallTimeoutMs: SOON_MS,
      reconnectTimeoutMs: SOON_MS,
      ...options,
      progress: (line) => {
        if (line.startsWith("run:")) runs();
      },
    });
    // Whoever waits for it hears of a failure, also one that comes before the first pass.
    this.running = Promise.race([began, this.process.report.then(() => undefined)]);
    this.process.report.catch(() => undefined);
  }

  /** Throws when the load has ended by itself within that time: it shall go on. */
  async goesOn(milliseconds: number): Promise<void> {
    const ended = await Promise.race([
      sleep(milliseconds).then(() => null),
      this.process.report.then((report) => JSON.stringify(report.failures)),
    ]);
    if (ended !== null) throw new Error(`the load has ended: ${ended}`);
  }

  /** Ends it: everything is read back and compared. */
  async finish(): Promise<LoadReport> {
    writeFileSync(this.stopFile, "");
    return await this.process.report;
  }

  end(): void {
    this.process.kill();
  }
}
