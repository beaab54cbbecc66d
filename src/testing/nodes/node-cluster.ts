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
import { decodeToken, encodeToken } from "../../daemon/cluster-token.ts";
import {
  type LoadOptions,
  type LoadProcess,
  type LoadReport,
  startLoad,
} from "../../load/index.ts";
import { MetaKeys, nodeCodec } from "../../meta/index.ts";
import type { ClusterBackingView, CopyState } from "../../model/cluster-types.ts";
import type { Volume } from "../../model/types.ts";
import { freePort } from "../../sys/index.ts";
import { Daemon } from "../daemon.ts";
import { type MetaKind, MetaProcess } from "../meta/meta-process.ts";
import { apiOf, makeDisks, untilAnswering } from "../soak/api.ts";
import type { Cleanup } from "../soak/cleanup.ts";
import { diskFolder } from "../soak/places.ts";
import { compareReplicas } from "../store/compare-replicas.ts";
import { FaultNetwork } from "./fault-network.ts";

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
/** Of each node's log, where something did not become true. */
const LOG_CHARS_SHOWN = 4000;
const POLL_MS = 20;
const SOON_MS = 60_000;
/** A copy is made anew, records are made again. */
const REPAIR_MS = 120_000;

function indexOf(nodeName: string): number {
  return Number(nodeName.replace("node", "")) - 1;
}

export interface NodeClusterOptions {
  readonly nodeCount: number;
  readonly diskBytes: number;
  /** Where data directories and disk files lie; default: on a disk. */
  readonly folder?: string;
  readonly flags?: readonly string[];
  /** Default: the embedded server. */
  readonly metadata?: MetaKind;
  /** Everything between nodes, and between them and the metadata, passes proxies: `faults`. */
  readonly hasFaultyNetwork?: boolean;
  /** Each node has a portal for iSCSI at a port of its own. */
  readonly hasPortals?: boolean;
  /** Of the disk files; default: full. */
  readonly allocation?: "full" | "sparse";
  /** Disk files of these nodes lie elsewhere. */
  readonly diskFolders?: Readonly<Record<number, string>>;
}

export class NodeCluster {
  readonly nodes: readonly Daemon[];
  readonly metadata: MetaProcess;
  readonly folder: string;
  private readonly network: FaultNetwork | null;
  private readonly options: NodeClusterOptions;
  private readonly cleanup: Cleanup;
  private readonly portals: string[] = [];

  private constructor(
    cleanup: Cleanup,
    parts: Pick<NodeCluster, "nodes" | "metadata" | "folder"> & {
      readonly network: FaultNetwork | null;
      readonly options: NodeClusterOptions;
    },
  ) {
    this.cleanup = cleanup;
    this.nodes = parts.nodes;
    this.metadata = parts.metadata;
    this.folder = parts.folder;
    this.network = parts.network;
    this.options = parts.options;
  }

  /**
   * Resolves when all nodes are in the cluster and reach each other, each with a disk that takes
   * data.
   */
  static async start(cleanup: Cleanup, options: NodeClusterOptions): Promise<NodeCluster> {
    const folder = options.folder ?? diskFolder(cleanup);
    const metadata = await MetaProcess.start(options.metadata ?? "embedded");
    cleanup.after(async () => void (await metadata.stop()));
    let network: FaultNetwork | null = null;
    if (options.hasFaultyNetwork === true) {
      const faulty = await FaultNetwork.start(options.nodeCount, metadata.port);
      cleanup.after(() => faulty.close());
      network = faulty;
    }
    const nodes: Daemon[] = [];
    const cluster = new NodeCluster(cleanup, { nodes, metadata, folder, network, options });
    const indexes = Array.from({ length: options.nodeCount }, (_, index) => index);
    // All are waited for: what starts after a failure would outlive the cleanup.
    const begun = await Promise.allSettled(indexes.map((index) => cluster.begin(index)));
    for (const [index, outcome] of begun.entries()) {
      if (outcome.status === "rejected") throw outcome.reason;
      nodes[index] = outcome.value;
    }
    for (const index of indexes) await cluster.enter(index);
    if (network !== null) await cluster.reroute(network);
    // An owner whose links are not up yet goes on without the copies there.
    for (const index of indexes) await cluster.joined(index);
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

  /** A daemon with its disk, which is in no cluster yet. */
  private async begin(index: number): Promise<Daemon> {
    const { folder, options, cleanup } = this;
    const dataDirectory = join(folder, `node${index + 1}`);
    const { flags = [] } = options;
    const listen = options.hasPortals === true ? ["--iscsi-listen", this.portal(index)] : [];
    const daemon = await Daemon.start({ dataDirectory, flags: [...flags, ...listen] });
    cleanup.after(() => daemon.stop());
    const disk = {
      path: `disk${index + 1}`,
      sizeBytes: options.diskBytes,
      allocation: options.allocation ?? "full",
    } as const;
    await makeDisks(apiOf(daemon), options.diskFolders?.[index] ?? folder, [disk]);
    return daemon;
  }

  /** It makes the cluster, or joins it. */
  private async enter(index: number): Promise<void> {
    const { network, metadata } = this;
    const api = this.api(index);
    const address = `127.0.0.1:${freePort("127.0.0.1")}`;
    const common = { address, nodeName: `node${index + 1}` };
    const endpoint = network?.metadataEndpoint(index) ?? metadata.endpoint;
    if (index === 0) {
      await api.initCluster({ name: "trio", metadata: [endpoint], ...common });
      return;
    }
    const { token } = await this.api(0).clusterToken();
    const own = encodeToken({ ...decodeToken(token), endpoints: [endpoint] });
    await api.joinCluster({ token: own, ...common });
  }

  /**
   * The machine is gone, with its disk; the cluster forgets it, and a new one of the same name joins.
   * Not the first node, which gives out the token.
   */
  async replace(index: number): Promise<void> {
    const node = this.node(index);
    await this.kill(index);
    rmSync(node.dataDirectory, { recursive: true });
    rmSync(this.diskPath(index));
    await this.removeSoon(`node${index + 1}`);
    (this.nodes as Daemon[])[index] = await this.begin(index);
    await this.enter(index);
    for (const each of this.nodes.keys()) await this.joined(each);
  }

  /** A node is removed when it counts as missing, which takes a lease's life. */
  private async removeSoon(name: string): Promise<void> {
    const deadline = Date.now() + SOON_MS;
    for (;;) {
      const refusal = await this.api(0)
        .removeNode(name)
        .then(() => "", String);
      if (refusal === "") return;
      if (Date.now() > deadline) throw new Error(refusal);
      await sleep(POLL_MS);
    }
  }

  /** From now on the nodes reach each other by the proxies' addresses only. */
  private async reroute(network: FaultNetwork): Promise<void> {
    const store = this.metadata.connect();
    const keys = new MetaKeys();
    for (const { key, value, modRevision } of (await store.list(keys.nodes)).entries) {
      const record = nodeCodec.decode(key, value);
      const port = Number(record.address.split(":")[1]);
      const address = network.place(indexOf(record.name), record.id, port);
      const moved = nodeCodec.encode({ ...record, address });
      const { outcome } = await store.compareAndSwap(key, modRevision, moved);
      if (outcome !== "applied") throw new Error(`the address of ${record.name}: ${outcome}`);
    }
    store.close();
    // A link that is up stays as it is, and a daemon that starts begins with where others were.
    for (const node of this.nodes) {
      node.signal("SIGTERM");
      await node.waitForExit();
      rmSync(join(node.dataDirectory, "cluster.peers"), { force: true });
    }
    await Promise.all([...this.nodes.keys()].map((index) => this.restart(index)));
    for (const index of this.nodes.keys()) await this.joined(index);
  }

  /** Waits until the node reaches the metadata and all others. */
  private async joined(index: number): Promise<void> {
    const deadline = Date.now() + SOON_MS;
    for (;;) {
      const seen = await this.api(index)
        .listNodes()
        .catch((error: Error) => ({ nodes: [], problem: error.message }));
      const reached = seen.nodes.filter(({ state, link }) => {
        return state === "alive" && (link === null || link === "up");
      });
      if (reached.length === this.nodes.length) return;
      if (Date.now() > deadline) throw new Error(`node${index + 1} sees ${JSON.stringify(seen)}`);
      await sleep(POLL_MS);
    }
  }

  /** Where faults are made; the cluster was started with `hasFaultyNetwork`. */
  get faults(): FaultNetwork {
    if (this.network === null) throw new Error("this cluster's nodes reach each other directly");
    return this.network;
  }

  /** Where initiators reach that node, as `HOST:PORT`; the same in all its lives. */
  portal(index: number): string {
    this.portals[index] ??= `127.0.0.1:${freePort("127.0.0.1")}`;
    return this.portals[index] as string;
  }

  /** The file of that node's disk. */
  diskPath(index: number): string {
    return join(this.options.diskFolders?.[index] ?? this.folder, `disk${index + 1}`);
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
    symlinkSync(socket ?? "", fresh);
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
    return copies.map(({ node }) => indexOf(node));
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
        const logs = this.nodes.map(({ log }) => log.slice(-LOG_CHARS_SHOWN)).join("\n---\n");
        throw new Error(`not ${JSON.stringify(wanted)} in ${timeoutMs} ms, but ${seen}\n${logs}`);
      }
      await sleep(POLL_MS);
    }
  }

  /**
   * The end: all daemons stop, and every slab of every copy in sync must be the same, with states and
   * stamps. Returns how many slabs held data, of the volume with the fewest.
   */
  async compareCopies(...names: readonly string[]): Promise<number> {
    const volumes = [];
    for (const name of names) volumes.push(await this.volumeSomewhere(name));
    for (const node of this.nodes) node.signal("SIGTERM");
    for (const node of this.nodes) await node.waitForExit();
    const counts = volumes.map(({ id, sizeBytes, backing: { copies } }) => {
      const inSync = copies.filter(({ state }) => state === "in-sync");
      if (inSync.length < 2) throw new Error(`not two in sync: ${JSON.stringify(copies)}`);
      const paths = inSync.map(({ node }) => this.diskPath(indexOf(node)));
      return compareReplicas(paths, id, sizeBytes).withData;
    });
    return Math.min(...counts);
  }

  /** As its owner sees it: that one knows the copies' states. */
  private async volumeSomewhere(
    name: string,
  ): Promise<Volume & { readonly backing: ClusterBackingView }> {
    const asked = this.nodes.findIndex(({ running }) => running);
    const { attachedTo } = (await this.volume(asked, name)).backing;
    return await this.volume(attachedTo === null ? asked : indexOf(attachedTo), name);
  }

  /** Verified load on a volume that is attached; resolves when its first pass is written. */
  async load(name: string, options: Partial<LoadOptions>): Promise<VolumeLoad> {
    const load = new VolumeLoad(this.link(name), join(this.folder, `${name}.stop`), options);
    this.cleanup.after(() => load.end());
    await load.running;
    return load;
  }
}

/** Waits until `holds`, which the cluster comes to by itself. */
export async function soon(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + REPAIR_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not in ${REPAIR_MS} ms: ${what}`);
    await sleep(POLL_MS);
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
