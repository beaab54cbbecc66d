// A control plane that is in a cluster, or in none, and the API over it: for tests of the routes
// and of the CLI. Everything it says is made up, and it refuses what a real one refuses.

import { join } from "node:path";
import type { ClusterControl, DrainOptions } from "../../api/cluster-control.ts";
import type { AttachResult, ControlPlane, RequestOptions } from "../../api/control-plane.ts";
import { createApiServer } from "../../api/index.ts";
import type {
  ClusterInit,
  ClusterJoin,
  ClusterNode,
  ClusterTokenReply,
  ClusterView,
  DrainReply,
  NodeRemoveReply,
  PlannedCopy,
  Rebuild,
  VolumeCopy,
} from "../../model/cluster-types.ts";
import { ApiError, type ApiErrorCode } from "../../model/errors.ts";
import { API_SOCKET_NAME } from "../../model/limits.ts";
import type {
  HandOverReply,
  NodeMaintenance,
  NodeMaintenanceReply,
  VolumeHandOver,
} from "../../model/move-types.ts";
import type { RebuildLimit, RebuildLimitChange } from "../../model/rebuild-types.ts";
import type {
  ClusterRecover,
  MetadataArchiveReply,
  MetadataArchiveRequest,
  RecoveryReply,
} from "../../model/recovery-types.ts";
import type { DeleteReply, Status, Volume, VolumeAttach, VolumeCreate } from "../../model/types.ts";
import type { LogFields } from "../../ports/log.ts";

const GIB = 2 ** 30;
const AT = "2026-01-02T03:04:05.678Z";
/** Looked for in logs, so it must not be part of anything else. */
export const CLUSTER_TOKEN = "rscluster1-7d1f3c9e5b";

function refuse(code: ApiErrorCode, message: string): never {
  throw new ApiError(code, message);
}

function idOf(last: number): string {
  return `00000000-0000-4000-8000-${String(last).padStart(12, "0")}`;
}

function nodeOf(number: number, more: Partial<ClusterNode> = {}): ClusterNode {
  return {
    id: idOf(number),
    name: `host-${number}`,
    address: `10.0.0.${number}:7400`,
    rack: null,
    state: "alive",
    phase: "active",
    isThis: number === 1,
    joinedAt: AT,
    disks: [
      {
        id: idOf(10 + number),
        name: "nvme0",
        sizeBytes: 100 * GIB,
        freeBytes: 60 * GIB,
        phase: "active",
      },
    ],
    ownedVolumes: [],
    copiesOf: ["db1"],
    link: number === 1 ? null : "up",
    ...more,
  };
}

const RECOVERED: RecoveryReply = {
  cluster: "prod",
  generation: 4,
  nodes: ["host-1", "host-2"],
  disks: ["host-1/nvme0", "host-2/nvme0"],
  volumes: [
    {
      id: idOf(200),
      name: "db1",
      sizeBytes: GIB,
      copyCount: 2,
      replicaCount: 3,
      source: "host-2/nvme0",
      out: ["host-1/nvme0"],
      attachedTo: "host-1",
      lost: ["its name"],
    },
  ],
  incomplete: ["db1"],
  unusedCount: 1,
  lost: ["attachments"],
};

class FakeCluster implements ClusterControl {
  view: ClusterView | null = null;
  nodes: ClusterNode[] = [];
  work: Rebuild[] = [];
  /** What it was asked for, in order. */
  readonly asked: (ClusterInit | ClusterJoin | MetadataArchiveRequest | ClusterRecover)[] = [];

  async show(): Promise<ClusterView | null> {
    return this.view;
  }

  async init(request: ClusterInit, options: RequestOptions): Promise<ClusterView> {
    if (this.view !== null) refuse("in_cluster", `this daemon is in cluster ${this.view.name}`);
    return this.#become(request, request.name, request.metadata, options);
  }

  async join(request: ClusterJoin, options: RequestOptions): Promise<ClusterView> {
    if (this.view !== null) refuse("in_cluster", `this daemon is in cluster ${this.view.name}`);
    if (request.token !== CLUSTER_TOKEN) refuse("join_refused", "the token opens no cluster");
    if (request.nodeName === "host-2") refuse("node_exists", "the cluster has a node host-2");
    return this.#become(request, "prod", ["10.0.0.1:2379"], options);
  }

  #become(
    request: ClusterInit | ClusterJoin,
    name: string,
    endpoints: readonly string[],
    options: RequestOptions,
  ): ClusterView {
    this.asked.push(request);
    const view: ClusterView = {
      id: idOf(100),
      name,
      generation: 1,
      node: request.nodeName ?? "host-1",
      metadata: { endpoints, reachable: true },
      nodeCount: 3,
      liveNodeCount: 2,
      volumeCount: 1,
      degradedCount: 1,
      canLoseNodes: 0,
      health: [{ code: "NODE_MISSING", severity: "warn", message: "host-3 does not answer" }],
    };
    if (options.dryRun) return view;
    this.view = view;
    this.nodes = [nodeOf(1, { ownedVolumes: ["db1"] }), nodeOf(2, { rack: "b" })];
    this.nodes.push(nodeOf(3, { state: "missing", link: "dialling" }));
    return view;
  }

  async token(): Promise<ClusterTokenReply> {
    this.#require();
    return { token: CLUSTER_TOKEN };
  }

  async listNodes(): Promise<readonly ClusterNode[]> {
    this.#require();
    return this.nodes;
  }

  async showNode(name: string): Promise<ClusterNode> {
    this.#require();
    const found = this.nodes.find((node) => node.name === name);
    return found ?? refuse("node_not_found", `the cluster has no node ${name}`);
  }

  async removeNode(name: string, options: RequestOptions): Promise<NodeRemoveReply> {
    const node = await this.showNode(name);
    if (node.state === "alive") refuse("node_alive", `node ${name} is alive`);
    if (!options.dryRun) this.nodes = this.nodes.filter((other) => other !== node);
    return { node: name, volumes: node.copiesOf, copies: this.#copiesOf(name) };
  }

  /** On a node whose last figure is 2: to host-3. Elsewhere there is no place. */
  #copiesOf(name: string): readonly PlannedCopy[] {
    const to = name === "host-2" ? { node: "host-3", disk: "nvme0" } : null;
    const why = to === null ? "no other node has a disk with 1 GiB free" : "the most room";
    return [{ volume: "db1", from: { node: name, disk: "nvme0" }, to, why }];
  }

  async drainNode(name: string, { cancel, dryRun }: DrainOptions): Promise<DrainReply> {
    const node = await this.showNode(name);
    const copies = this.#copiesOf(name);
    if (!cancel && copies[0]?.to === null) refuse("no_space", "no place for copies of db1");
    // It is emptied at once.
    const phase = cancel ? "active" : "draining";
    const emptied = { ...node, phase, copiesOf: cancel ? node.copiesOf : [] } as const;
    if (!dryRun) this.nodes = this.nodes.map((other) => (other === node ? emptied : other));
    return { node: name, disk: null, draining: !cancel, copies };
  }

  async drainDisk(name: string, { cancel }: DrainOptions): Promise<DrainReply> {
    this.#require();
    const copies = this.#copiesOf("host-2");
    return { node: "host-1", disk: name, draining: !cancel, copies };
  }

  async handOver(name: string, { node }: VolumeHandOver): Promise<HandOverReply> {
    const { name: found } = await this.showNode(node);
    if (found === "host-3") refuse("volume_attached", `volume ${name} serves a guest`);
    return { volume: name, node, changed: found !== "host-1" };
  }

  async maintain(
    name: string,
    { on }: NodeMaintenance,
    options: RequestOptions,
  ): Promise<NodeMaintenanceReply> {
    const node = await this.showNode(name);
    const phase = on ? "maintenance" : "active";
    if (!options.dryRun) this.nodes[this.nodes.indexOf(node)] = { ...node, phase };
    const handedOver = on ? [{ volume: "db1", node: "host-2" }] : [];
    const kept = on ? [{ volume: "db2", reason: "its guest runs there" }] : [];
    return { node: name, phase, handedOver, kept };
  }

  async exportMetadata({ path }: MetadataArchiveRequest): Promise<MetadataArchiveReply> {
    this.#require();
    return { path, cluster: idOf(1), generation: 3, revision: 77, at: AT };
  }

  async importMetadata(
    request: MetadataArchiveRequest,
    options: RequestOptions,
  ): Promise<MetadataArchiveReply> {
    const reply = await this.exportMetadata(request);
    if (!options.dryRun) this.asked.push(request);
    return reply;
  }

  async recover(request: ClusterRecover, options: RequestOptions): Promise<RecoveryReply> {
    this.#require();
    if (!options.dryRun) this.asked.push(request);
    return { ...RECOVERED };
  }

  async rebuilds(): Promise<readonly Rebuild[]> {
    this.#require();
    return this.work;
  }

  limit: RebuildLimit = {
    bytesPerSecond: null,
    currentBytesPerSecond: 16 * 1_048_576,
    movedBytes: 0,
  };

  async rebuildLimit(): Promise<RebuildLimit> {
    this.#require();
    return this.limit;
  }

  async setRebuildLimit({ bytesPerSecond }: RebuildLimitChange): Promise<RebuildLimit> {
    this.#require();
    const currentBytesPerSecond = bytesPerSecond ?? 16 * 1_048_576;
    this.limit = { bytesPerSecond, currentBytesPerSecond, movedBytes: 0 };
    return this.limit;
  }

  #require(): void {
    if (this.view === null) refuse("no_cluster", "this daemon is in no cluster");
  }
}

/** As much of a control plane as a cluster's volumes need. */
export class FakeClusterPlane {
  readonly cluster: FakeCluster = new FakeCluster();
  readonly volumes: Map<string, Volume> = new Map();
  attachRequest: VolumeAttach | null = null;

  /** A volume with a copy on each node from host-1 on. */
  volumeOf(request: VolumeCreate, copies: readonly Partial<VolumeCopy>[] = []): Volume {
    const replicaCount = request.replicas ?? 1;
    const inSync = { state: "in-sync", reason: null, since: null, resync: null } as const;
    return {
      id: idOf(200 + this.volumes.size),
      name: request.name,
      sizeBytes: request.sizeBytes ?? 0,
      blockBytes: 512,
      readOnly: false,
      serial: "S1",
      backing: {
        kind: "cluster",
        replicaCount,
        copies: Array.from({ length: replicaCount }, (_, at) => {
          return { node: `host-${at + 1}`, disk: "nvme0", ...inSync, ...copies[at] };
        }),
        replacement: null,
        epoch: 4,
        owner: null,
        attachedTo: null,
        standby: null,
      },
      createdAt: AT,
      state: "detached",
      attachment: null,
      health: [],
    };
  }

  list(): readonly Volume[] {
    return [...this.volumes.values()];
  }

  show(name: string): Volume {
    const found = this.volumes.get(name);
    return found ?? refuse("volume_not_found", `volume "${name}" does not exist`);
  }

  async create(request: VolumeCreate, _: unknown, options: RequestOptions): Promise<Volume> {
    const volume = this.volumeOf(request);
    if (!options.dryRun) this.volumes.set(volume.name, volume);
    return volume;
  }

  async attach(name: string, request: VolumeAttach): Promise<AttachResult> {
    this.attachRequest = request;
    const volume = this.show(name);
    const { backing } = volume;
    const holder = backing.kind === "cluster" ? backing.attachedTo : null;
    if (holder !== null && request.takeOver !== true) {
      refuse("attached_elsewhere", `node ${holder} has volume ${name}`);
    }
    const attachment = {
      generation: 2,
      socket: `/run/${name}.sock`,
      queueCountMax: 128,
      packedAllowed: true,
      readOnly: false,
      attachedAt: AT,
      sessionCount: 0,
    };
    return { volume: { ...volume, state: "attached", attachment }, changed: true };
  }

  async remove(name: string, options: RequestOptions): Promise<DeleteReply> {
    const { backing } = this.show(name);
    if (!options.dryRun) this.volumes.delete(name);
    const removedCopyCount = backing.kind === "cluster" ? backing.copies.length : 0;
    return { volume: name, removedPath: null, removedFromDisk: null, removedCopyCount };
  }

  async status(): Promise<Status> {
    const rates = { readsPerSecond: 0, writesPerSecond: 0 };
    return {
      health: "ok",
      version: "1.2.3",
      nodeId: "n1",
      uptimeSeconds: 60,
      dataDirectory: "/d",
      volumes: { total: 1, attached: 0, connected: 0, unavailable: 0, declaredBytes: GIB },
      disks: { total: 0, ready: 0, totalBytes: 0, freeBytes: 0 },
      dataFilesystem: { totalBytes: 0, availableBytes: 0 },
      cluster: this.cluster.view,
      reactorCount: 1,
      residentBytes: 0,
      io: { ...rates, readBytesPerSecond: 0, writeBytesPerSecond: 0 },
      items: [],
    };
  }
}

type Server = Awaited<ReturnType<typeof createApiServer>>;

export interface FakeClusterApi {
  readonly plane: FakeClusterPlane;
  /** Everything that was logged, as text. */
  readonly log: string[];
  readonly server: Server;
}

export async function fakeClusterApi(transport: "unix" | "tcp" = "unix"): Promise<FakeClusterApi> {
  const plane = new FakeClusterPlane();
  const log: string[] = [];
  const server = await createApiServer(
    { transport, tokens: () => [] },
    {
      // What is left out is asked for by no test of the cluster.
      controlPlane: plane as unknown as ControlPlane,
      log: {
        log: (level: string, event: string, fields: LogFields = {}) =>
          void log.push(JSON.stringify({ level, event, ...fields })),
      },
      answered: () => undefined,
      fatal: (error) => void log.push(String(error)),
    },
  );
  return { plane, log, server };
}

/** On the unix socket of a data directory, for the CLI. */
export async function serveFakeCluster(dataDirectory: string): Promise<FakeClusterApi> {
  const api = await fakeClusterApi();
  await api.server.listen({ path: join(dataDirectory, API_SOCKET_NAME) });
  return api;
}
