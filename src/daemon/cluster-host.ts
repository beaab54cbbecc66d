// The daemon's cluster side as everything else sees it: in no cluster at first, or in one since the
// last start. Light: what speaks to the metadata is loaded when it is needed, so that a daemon that
// is in no cluster pays nothing, and guests of others do not wait for it.

import type { ClusterControl, DrainOptions } from "../api/cluster-control.ts";
import type { RequestOptions } from "../api/control-plane.ts";
import type {
  ClusterInit,
  ClusterJoin,
  ClusterNode,
  ClusterTokenReply,
  ClusterView,
  DrainReply,
  NodeRemoveReply,
  Rebuild,
} from "../model/cluster-types.ts";
import { ApiError } from "../model/errors.ts";
import type {
  HandOverReply,
  NodeMaintenance,
  NodeMaintenanceReply,
  VolumeHandOver,
} from "../model/move-types.ts";
import type { RebuildLimit, RebuildLimitChange } from "../model/rebuild-types.ts";
import type {
  ClusterRecover,
  MetadataArchiveReply,
  MetadataArchiveRequest,
  RecoveryReply,
} from "../model/recovery-types.ts";
import type { Health } from "../model/types.ts";
import { quote } from "../model/volume-rules.ts";
import type { ClusterPlane } from "../ports/cluster-plane.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import type { TrustedMetadata } from "./cluster-context.ts";
import type { ClusterFile, Membership } from "./cluster-file.ts";
import type { FormingModules } from "./cluster-forming.ts";
import { MemberPlane, type MemberPlaneParts } from "./cluster-member-plane.ts";
import type { ClusterRuntime } from "./cluster-runtime.ts";
import type { AttachmentStore } from "./cluster-serve.ts";
import type { ClusterTimings } from "./cluster-timings.ts";
import type { ClusterVolumes } from "./cluster-volumes.ts";
import { asApiError } from "./failure.ts";
import type { DaemonCluster } from "./no-cluster.ts";
import { OperationQueue } from "./operation-queue.ts";
import { rebuildLimitOf, setRebuildLimit } from "./rebuild-limit.ts";
import { clusterUnitOf } from "./scsi-attach.ts";
import type { VolumeHost } from "./volume-host.ts";

export interface ClusterHostModules {
  readonly file: ClusterFile;
  readonly plane: DataPlane & ClusterPlane;
  readonly host: VolumeHost;
  readonly attachments: AttachmentStore;
  readonly timings: ClusterTimings;
  /** Who this daemon is, as in node.json. */
  readonly nodeId: () => Promise<string>;
}

/** Until the cluster's volumes are known, every disk may have copies of some. */
const UNKNOWN_USERS = [{ name: "volumes of the cluster that are not known yet", active: true }];

/** An init or a join answers when the node is seen to be alive, or after this time. */
const FIRST_SIGHT_MS = 3000;

export class ClusterHost implements ClusterControl, DaemonCluster {
  volumes: ClusterVolumes | null = null;
  readonly #modules: ClusterHostModules;
  readonly #forming = new OperationQueue("limit_reached", "the cluster");
  #runtime: ClusterRuntime | null = null;
  /** Why a cluster that this daemon is in cannot be used, "" = it can. */
  #problem = "";
  #prepared: MemberPlane | null = null;
  #starting: Promise<void> = Promise.resolve();

  constructor(modules: ClusterHostModules) {
    this.#modules = modules;
  }

  /** At the daemon's start, before disks are opened: the data plane takes part. Rejects never. */
  async prepare(): Promise<void> {
    try {
      const member = this.#modules.file.read();
      if (member?.step !== "member") return;
      this.#expectUnits();
      this.#modules.host.clusterUsersOf = () => UNKNOWN_USERS;
      this.#prepared = await this.#takePart(member);
    } catch (error) {
      this.#note(error);
    }
  }

  /** Controllers have them, also while nobody knows yet whether they are still attached here. */
  #expectUnits(): void {
    const { host, attachments } = this.#modules;
    const units = attachments.load().declared.flatMap(clusterUnitOf);
    host.clusterUnits = () => units;
  }

  /** In the background: everything that needs the metadata. */
  begin(): void {
    const prepared = this.#prepared;
    if (prepared === null) return;
    this.#starting = this.#start(prepared).catch((error) => this.#note(error));
  }

  async #takePart(member: Membership): Promise<MemberPlane> {
    const { file, plane, host } = this.#modules;
    const incarnation = await file.raiseIncarnation();
    const { log } = host.modules;
    const peers = file.readPeers();
    const savePeers: MemberPlaneParts["savePeers"] = (known) => file.savePeers(known);
    const resyncLimit = (): number | null => file.readRebuildLimit();
    const key = file.readKey();
    const known = { peers, savePeers, resyncLimit };
    const taking = new MemberPlane({ member, incarnation, key, plane, log, ...known });
    await taking.start();
    return taking;
  }

  #note(error: unknown): void {
    this.#problem = (error as Error).message;
    const { log } = this.#modules.host.modules;
    log.log("error", "cluster.not-started", { message: this.#problem });
  }

  async #start(memberPlane: MemberPlane): Promise<void> {
    const { host, attachments, timings } = this.#modules;
    const [{ ClusterRuntime: Runtime }, { ClusterVolumes: Volumes }, { connectMetadata }] =
      await Promise.all([
        import("./cluster-runtime.ts"),
        import("./cluster-volumes.ts"),
        import("./cluster-forming.ts"),
      ]);
    if (host.stopping) return;
    const { endpoints } = memberPlane.parts.member;
    const store = connectMetadata(endpoints, timings, this.#modules.file.readAccess());
    const { file } = this.#modules;
    const trustMetadata = (trusted: TrustedMetadata): Promise<void> =>
      file.save({ ...memberPlane.parts.member, ...trusted });
    const modules = { memberPlane, host, store, attachments, timings, trustMetadata };
    const runtime = new Runtime(modules);
    const volumes = new Volumes(runtime);
    await runtime.start();
    host.clusterUnits = () => runtime.units();
    this.#runtime = runtime;
    this.volumes = volumes;
    const { inventory } = runtime.context;
    host.clusterUsersOf = (diskId) =>
      inventory.revision === 0 ? UNKNOWN_USERS : volumes.usersOf(diskId);
  }

  diskBecameReady(): void {
    this.#runtime?.diskBecameReady();
  }

  diskBecameFailed(): void {
    this.#runtime?.look();
  }

  async saveReservations(volumeId: string, record: ReservationRecord): Promise<void> {
    const { context } = await this.#require();
    await context.reservations.save(volumeId, record);
  }

  async show(): Promise<ClusterView | null> {
    await this.#starting;
    if (this.#problem !== "") return unusable(this.#problem);
    const runtime = this.#runtime;
    if (runtime === null) return null;
    const { clusterView } = await import("./cluster-health.ts");
    return clusterView(runtime.context, runtime.troubles);
  }

  /** null: in no cluster. Rejects when it is in one that cannot be used. */
  async #member(): Promise<ClusterRuntime | null> {
    await this.#starting;
    if (this.#problem === "") return this.#runtime;
    throw new ApiError("metadata_unavailable", this.#problem, { advice: "see the daemon's log" });
  }

  async #require(): Promise<ClusterRuntime> {
    const runtime = await this.#member();
    if (runtime !== null) return runtime;
    throw new ApiError("no_cluster", "this daemon is in no cluster", {
      advice: "make one: ringstore cluster init; or join one: ringstore cluster join",
    });
  }

  async init(request: ClusterInit, options: RequestOptions): Promise<ClusterView> {
    const { initCluster } = await import("./cluster-forming.ts");
    return await this.#form("cluster init", async (parts) => {
      const member = await initCluster(request, parts, options.dryRun);
      return member ?? preview(request, request.name, request.metadata);
    });
  }

  async join(request: ClusterJoin, options: RequestOptions): Promise<ClusterView> {
    const [{ joinCluster }, { decodeToken }] = await Promise.all([
      import("./cluster-forming.ts"),
      import("./cluster-token.ts"),
    ]);
    return await this.#form("cluster join", async (parts) => {
      const member = await joinCluster(request, parts, options.dryRun);
      if (member !== null) return member;
      const { name, endpoints } = decodeToken(request.token);
      return preview(request, name, endpoints);
    });
  }

  async #form(
    what: string,
    run: (parts: FormingModules) => Promise<Membership | ClusterView>,
  ): Promise<ClusterView> {
    const { file, timings, host } = this.#modules;
    return await this.#forming.exclusively(async () => {
      host.requireRunning();
      const present = await this.#member();
      if (present !== null) {
        const { clusterName, nodeName } = present.context.member;
        const message = `this daemon is in cluster ${clusterName} already, as ${nodeName}`;
        throw new ApiError("in_cluster", message, { advice: "see: ringstore cluster show" });
      }
      try {
        const nodeId = await this.#modules.nodeId();
        const made = await run({ file, nodeId, timings, now: host.modules.now });
        if (!("step" in made)) return made;
        await this.#start(await this.#takePart(made));
      } catch (error) {
        throw asApiError(error, what);
      }
      return await this.#firstSight();
    });
  }

  async #firstSight(): Promise<ClusterView> {
    const { context } = await this.#require();
    const { inventory, member, link } = context;
    await inventory.until(() => inventory.isAlive(member.nodeId), FIRST_SIGHT_MS);
    context.look();
    const isReady = (): boolean => link.isReachable && inventory.nodes.has(member.nodeId);
    await inventory.until(isReady, FIRST_SIGHT_MS);
    const view = await this.show();
    const message = `node ${member.nodeName} is in cluster ${member.clusterName}`;
    context.host.modules.log.log("info", "cluster.entered", { message });
    return view as ClusterView;
  }

  async token(): Promise<ClusterTokenReply> {
    const { context } = await this.#require();
    const { clusterId, clusterName: name, endpoints } = context.member;
    const { encodeToken } = await import("./cluster-token.ts");
    const key = this.#modules.file.readKey();
    const access = this.#modules.file.readAccess();
    return { token: encodeToken({ clusterId, name, endpoints, key, access }) };
  }

  async exportMetadata(request: MetadataArchiveRequest): Promise<MetadataArchiveReply> {
    const { context } = await this.#require();
    const { exportCluster } = await import("./cluster-restore.ts");
    return await exportCluster(context, request);
  }

  async importMetadata(
    request: MetadataArchiveRequest,
    options: RequestOptions,
  ): Promise<MetadataArchiveReply> {
    const { context } = await this.#require();
    const { importCluster } = await import("./cluster-restore.ts");
    return await importCluster(context, request, options.dryRun);
  }

  async recover(request: ClusterRecover, options: RequestOptions): Promise<RecoveryReply> {
    const { context, reports } = await this.#require();
    const { recoverCluster } = await import("./cluster-restore.ts");
    return await recoverCluster(context, reports, request, options.dryRun);
  }

  async listNodes(): Promise<readonly ClusterNode[]> {
    const { context, views } = await this.#require();
    return [...context.inventory.nodes.values()]
      .map(({ record }) => views.node(record))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async showNode(name: string): Promise<ClusterNode> {
    const { context, views } = await this.#require();
    const record = context.inventory.nodeByName(name);
    if (record === null) throw unknownNode(name);
    return views.node(record);
  }

  async removeNode(name: string, options: RequestOptions): Promise<NodeRemoveReply> {
    const runtime = await this.#require();
    const record = runtime.context.inventory.nodeByName(name);
    if (record === null) throw unknownNode(name);
    const { removeNode } = await import("./cluster-removal.ts");
    try {
      return await removeNode(runtime, record, options);
    } catch (error) {
      throw asApiError(error, `cannot remove node ${name}`);
    }
  }

  async handOver(name: string, { node }: VolumeHandOver): Promise<HandOverReply> {
    const { context } = await this.#require();
    const record = (this.volumes as ClusterVolumes).find(name);
    const { handOverVolume } = await import("./cluster-hand-over.ts");
    try {
      return await handOverVolume(context, record, node);
    } catch (error) {
      throw asApiError(error, `cannot hand volume ${name} over`);
    }
  }

  async maintain(
    name: string,
    { on }: NodeMaintenance,
    options: RequestOptions,
  ): Promise<NodeMaintenanceReply> {
    const { context } = await this.#require();
    const record = context.inventory.nodeByName(name);
    if (record === null) throw unknownNode(name);
    const { setMaintenance } = await import("./cluster-maintenance.ts");
    try {
      return await setMaintenance(context, record, on, options);
    } catch (error) {
      throw asApiError(error, `cannot change the maintenance of node ${name}`);
    }
  }

  async drainNode(name: string, options: DrainOptions): Promise<DrainReply> {
    const runtime = await this.#require();
    const record = runtime.context.inventory.nodeByName(name);
    if (record === null) throw unknownNode(name);
    const { drainNode } = await import("./cluster-drain.ts");
    return await drainNode(runtime, record, options);
  }

  async drainDisk(name: string, options: DrainOptions): Promise<DrainReply> {
    const runtime = await this.#require();
    const { drainDisk } = await import("./cluster-drain.ts");
    return await drainDisk(runtime, name, options);
  }

  async rebuilds(): Promise<readonly Rebuild[]> {
    return (await this.#require()).views.rebuilds();
  }

  async rebuildLimit(): Promise<RebuildLimit> {
    const { context } = await this.#require();
    return rebuildLimitOf(context.plane);
  }

  async setRebuildLimit(change: RebuildLimitChange): Promise<RebuildLimit> {
    const { context } = await this.#require();
    return await setRebuildLimit(change, this.#modules.file, context);
  }

  /** After the data plane has stopped. */
  async stop(): Promise<void> {
    await this.#starting;
    await this.#runtime?.stop();
  }
}

function unknownNode(name: string): ApiError {
  return new ApiError("node_not_found", `node ${quote(name)} does not exist`, {
    advice: "see: ringstore node list",
  });
}

/** In a cluster, by its file, that cannot be used: status goes on, and says so. */
function unusable(problem: string): ClusterView {
  const message = `the cluster side of this daemon has not started: ${problem}`;
  const metadata = { endpoints: [], reachable: false };
  const health: Health[] = [{ code: "CLUSTER_NOT_SERVED", severity: "error", message }];
  return { ...preview({}, "", []), metadata, health };
}

/** What would be, after a dry run. */
function preview(
  { nodeName }: { readonly nodeName?: string },
  name: string,
  endpoints: readonly string[],
): ClusterView {
  return {
    id: "",
    name,
    generation: 1,
    node: nodeName ?? "",
    metadata: { endpoints, reachable: true },
    nodeCount: 0,
    liveNodeCount: 0,
    volumeCount: 0,
    degradedCount: 0,
    canLoseNodes: 0,
    health: [],
  };
}
