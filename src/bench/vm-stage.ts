// Where the paths are compared: three nodes on one machine, one volume with two copies, attached at
// its owner in one way after the other. What was measured over one path is gone before the next.

import { type FioResult, fioCommand, parseFio } from "../daemon/show/fio.ts";
import {
  type IscsiLoadReport,
  type LoadReport,
  processCpuUs,
  runIscsiLoadInChild,
  runLoadInChild,
} from "../load/index.ts";
import type { AttachReply } from "../model/types.ts";
import { freePort } from "../sys/index.ts";
import { NodeCluster } from "../testing/nodes/node-cluster.ts";
import { Qsd } from "../testing/qsd.ts";
import type { Cleanup } from "../testing/soak/cleanup.ts";
import { type BootOptions, bootGuest, type Guest } from "../vm/index.ts";
import { drainRings } from "./drain.ts";
import { fioWords, type VmFigures, type VmPath, type VmRow } from "./vm-rows.ts";

const VOLUME = "vm";
const FILL_BYTES = 262144;
const WARM_UP_REQUESTS = 100_000;
const WARM_UP_MS = 300;
/** A row lasts seconds. */
const GUEST_TIMEOUT_MS = 120_000;

export interface VmStageOptions {
  readonly folder: string;
  readonly diskBytes: number;
  readonly volumeBytes: number;
  readonly sliceMs: number;
}

/** The volume as it is attached now. */
interface Way {
  readonly path: VmPath;
  /** Where virtio-blk is served; null: by QEMU itself, over `url`. */
  readonly socketPath: string | null;
  readonly url: string;
  readonly guest: Partial<Pick<BootOptions, "disks" | "extraArguments">>;
  /** qemu-storage-daemon, where it is in the way. */
  readonly qsd: Qsd | null;
}

export class VmStage {
  private readonly cluster: NodeCluster;
  private readonly options: VmStageOptions;
  private way: Way | null = null;
  private guest: Guest | null = null;

  private constructor(cluster: NodeCluster, options: VmStageOptions) {
    this.cluster = cluster;
    this.options = options;
  }

  static async start(cleanup: Cleanup, options: VmStageOptions): Promise<VmStage> {
    const { folder, diskBytes, volumeBytes: sizeBytes } = options;
    const flags = ["--iscsi-listen", `127.0.0.1:${freePort("127.0.0.1")}`];
    const cluster = await NodeCluster.start(cleanup, { nodeCount: 3, diskBytes, folder, flags });
    await cluster.api(0).createVolume({ name: VOLUME, sizeBytes, blockBytes: 4096, replicas: 2 });
    const stage = new VmStage(cluster, options);
    cleanup.after(() => stage.close());
    return stage;
  }

  /** Every block is written, and every path has served enough that its code is compiled. */
  async prepare(paths: readonly VmPath[]): Promise<void> {
    const fill: VmRow = {
      name: "fill",
      blockBytes: FILL_BYTES,
      depth: 8,
      readPercent: 0,
      pattern: "sequential",
    };
    for (const [index, path] of paths.entries()) {
      await this.open(path);
      if (index === 0) await this.load(fill, this.options.volumeBytes / FILL_BYTES);
      const mixed = { ...fill, blockBytes: 4096, depth: 32, readPercent: 50 };
      await this.load({ ...mixed, pattern: "random" }, WARM_UP_REQUESTS);
      await this.close();
    }
  }

  /** Attaches the volume that way. */
  async open(path: VmPath): Promise<void> {
    await this.close();
    await drainRings(this.cluster.nodes);
    const api = this.cluster.api(0);
    if (path === "boost") {
      const { socket } = await api.attachVolume(VOLUME, {});
      if (socket === null) throw new Error("the volume has no socket");
      const guest = { disks: [{ kind: "vhost-user-blk", socket, queueCount: 1 }] } as const;
      this.way = { path, socketPath: socket, url: "", guest, qsd: null };
      return;
    }
    const reply: AttachReply = await api.attachVolume(VOLUME, { classic: {} });
    const url = reply.classic?.url ?? "";
    if (path === "classic") {
      const guest = { extraArguments: reply.qemu["7.2"] ?? [] };
      this.way = { path, socketPath: null, url, guest, qsd: null };
      return;
    }
    const qsd = await Qsd.start({ backing: { kind: "iscsi", url } });
    const socket = qsd.socketPath;
    const guest = { disks: [{ kind: "vhost-user-blk", socket, queueCount: 1 }] } as const;
    this.way = { path, socketPath: socket, url, guest, qsd };
  }

  /** Ends what uses the volume, and detaches it. */
  async close(): Promise<void> {
    await this.guest?.kill();
    this.guest = null;
    const { way } = this;
    this.way = null;
    await way?.qsd?.stop();
    if (way !== null) await this.cluster.api(0).detachVolume(VOLUME);
  }

  /** A guest with the volume as its disk; returns what it is, in words. */
  async boot(): Promise<string> {
    const guest = await bootGuest({ ...this.current.guest });
    this.guest = guest;
    const kernel = (await guest.must("uname -r")).trim();
    const qemu = `QEMU ${guest.qemuVersion.text} (${guest.accelerator.toUpperCase()})`;
    return `Linux ${kernel}, one CPU, under ${qemu}`;
  }

  private get current(): Way {
    if (this.way === null) throw new Error("the volume is not attached");
    return this.way;
  }

  private get storagePids(): readonly number[] {
    const { qsd } = this.current;
    const daemons = this.cluster.nodes.map(({ pid }) => pid);
    return qsd === null ? daemons : [...daemons, qsd.pid];
  }

  /** The row in the guest. */
  async runGuest(row: VmRow): Promise<VmFigures> {
    const guest = this.guest as Guest;
    const pids = this.storagePids;
    const cpuUs = (some: readonly number[]): number =>
      some.reduce((sum, pid) => sum + processCpuUs(pid), 0);
    await drainRings(this.cluster.nodes);
    const before = { storage: cpuUs(pids), client: cpuUs([guest.pid]) };
    const seconds = Math.max(1, Math.round(this.options.sliceMs / 1000));
    const command = fioCommand("/dev/vda", seconds, fioWords(row));
    const said = await guest.must(command, { timeoutMs: GUEST_TIMEOUT_MS }).catch(async (error) => {
      const [io] = (await this.cluster.api(0).stats()).volumes;
      throw new Error(`${row.name}: the guest has no answer; its volume: ${JSON.stringify(io)}`, {
        cause: error,
      });
    });
    const fio: FioResult = parseFio(row.name, said);
    const requests = fio.bytes / row.blockBytes;
    const { iops, bytesPerSecond, meanUs, p50Us, p99Us, p999Us } = fio;
    return {
      iops,
      bytesPerSecond,
      meanUs,
      p50Us,
      p99Us,
      p999Us,
      storageCpuUs: (cpuUs(pids) - before.storage) / requests,
      clientCpuUs: (cpuUs([guest.pid]) - before.client) / requests,
    };
  }

  /** The row by the generator of the protocol in which the volume is served. */
  async runGenerator(row: VmRow): Promise<VmFigures> {
    await drainRings(this.cluster.nodes);
    const pids = this.storagePids;
    const report = await this.load(row, 0, pids);
    const { iops, bytesPerSecond, latency } = report;
    const { meanUs, p50Us, p99Us, p999Us } = latency;
    return {
      iops,
      bytesPerSecond,
      meanUs,
      p50Us,
      p99Us,
      p999Us,
      storageCpuUs: report.storageCpuUs,
      clientCpuUs: report.ownCpuUsPerRequest,
    };
  }

  /** For as long as a slice lasts, or so many requests. */
  private async load(
    { blockBytes, depth, readPercent, pattern }: VmRow,
    requestCount: number,
    pids: readonly number[] = [],
  ): Promise<(LoadReport | IscsiLoadReport) & { readonly storageCpuUs: number }> {
    const { socketPath, url } = this.current;
    const length =
      requestCount > 0
        ? { requestCount, warmupMs: 0 }
        : { runtimeMs: this.options.sliceMs, warmupMs: WARM_UP_MS };
    const work = { blockBytes, depth, readPercent, pattern, ...length };
    const cpuUs = (): number => pids.reduce((sum, pid) => sum + processCpuUs(pid), 0);
    const before = cpuUs();
    const report =
      socketPath === null
        ? await runIscsiLoadInChild({ ...work, url })
        : await runLoadInChild({ ...work, socketPath });
    if (!report.ok) throw new Error(`a run failed: ${report.failures.join(" ")}`);
    // The warm-up's requests cost as much as the others.
    const share = (report.durationMs + length.warmupMs) / report.durationMs;
    const storageCpuUs = (cpuUs() - before) / (report.requestCount * share);
    return { ...report, storageCpuUs };
  }
}
