// The typed REST client: one method per route. Replies are trusted to have the types of
// model/types.ts once they prove to be JSON objects with the fields that every version has.

import type {
  ClusterInit,
  ClusterJoin,
  ClusterNode,
  ClusterNodeList,
  ClusterReply,
  ClusterTokenReply,
  ClusterView,
  Drain,
  DrainReply,
  NodeRemoveReply,
  RebuildList,
} from "../model/cluster-types.ts";
import type { Disk, DiskCreate, DiskList, DiskRemoveReply } from "../model/disk-types.ts";
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
import type {
  AdviseReply,
  AttachReply,
  DeleteReply,
  DetachReply,
  ErrorReply,
  Event,
  EventList,
  StatsReply,
  Status,
  VersionReply,
  Volume,
  VolumeAttach,
  VolumeCreate,
  VolumeList,
  VolumeResize,
} from "../model/types.ts";
import { quote } from "../model/volume-rules.ts";
import { EventParser } from "./event-parser.ts";
import { ClientError, type ClientRequest, type Transport } from "./transport.ts";

export interface CallOptions {
  /** The server checks everything and changes nothing. */
  readonly dryRun?: boolean;
}

export class RingstoreClient {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  async listVolumes(): Promise<VolumeList> {
    return await this.#call({ method: "GET", path: "/v1/volumes" }, ["volumes"]);
  }

  async showVolume(name: string): Promise<Volume> {
    return await this.#call({ method: "GET", path: volumePath(name) }, VOLUME_FIELDS);
  }

  async createVolume(body: VolumeCreate, options: CallOptions = {}): Promise<Volume> {
    const path = `/v1/volumes${query(options)}`;
    return await this.#call({ method: "POST", path, body }, VOLUME_FIELDS);
  }

  async resizeVolume(name: string, body: VolumeResize, options: CallOptions = {}): Promise<Volume> {
    const path = `${volumePath(name)}/resize${query(options)}`;
    return await this.#call({ method: "POST", path, body }, VOLUME_FIELDS);
  }

  async attachVolume(name: string, body: VolumeAttach): Promise<AttachReply> {
    const path = `${volumePath(name)}/attach`;
    const request = { method: "POST", path, body, secretFields: ATTACH_SECRETS } as const;
    return await this.#call(request, ["socket", "qemu"]);
  }

  async detachVolume(name: string): Promise<DetachReply> {
    const path = `${volumePath(name)}/detach`;
    return await this.#call({ method: "POST", path, body: {} }, ["volume", "changed"]);
  }

  async deleteVolume(name: string, options: CallOptions = {}): Promise<DeleteReply> {
    const path = `${volumePath(name)}${query(options)}`;
    return await this.#call({ method: "DELETE", path }, ["volume"]);
  }

  async listDisks(): Promise<DiskList> {
    return await this.#call({ method: "GET", path: "/v1/disks" }, ["disks"]);
  }

  async showDisk(name: string): Promise<Disk> {
    return await this.#call({ method: "GET", path: diskPath(name) }, DISK_FIELDS);
  }

  async createDisk(body: DiskCreate, options: CallOptions = {}): Promise<Disk> {
    const path = `/v1/disks${query(options)}`;
    return await this.#call({ method: "POST", path, body }, DISK_FIELDS);
  }

  async checkDisk(name: string): Promise<Disk> {
    const path = `${diskPath(name)}/check`;
    return await this.#call({ method: "POST", path, body: {} }, DISK_FIELDS);
  }

  async removeDisk(
    name: string,
    options: CallOptions & { readonly force?: boolean } = {},
  ): Promise<DiskRemoveReply> {
    const path = `${diskPath(name)}${query(options)}`;
    return await this.#call({ method: "DELETE", path }, ["disk"]);
  }

  async showCluster(): Promise<ClusterReply> {
    return await this.#call({ method: "GET", path: "/v1/cluster" }, ["cluster"]);
  }

  async initCluster(body: ClusterInit, options: CallOptions = {}): Promise<ClusterView> {
    const path = `/v1/cluster/init${query(options)}`;
    const request = { method: "POST", path, body, secretFields: INIT_SECRETS } as const;
    return await this.#call(request, CLUSTER_FIELDS);
  }

  async joinCluster(body: ClusterJoin, options: CallOptions = {}): Promise<ClusterView> {
    const path = `/v1/cluster/join${query(options)}`;
    const request = { method: "POST", path, body, secretFields: JOIN_SECRETS } as const;
    return await this.#call(request, CLUSTER_FIELDS);
  }

  async clusterToken(): Promise<ClusterTokenReply> {
    return await this.#call({ method: "GET", path: "/v1/cluster/token" }, ["token"]);
  }

  async exportMetadata(body: MetadataArchiveRequest): Promise<MetadataArchiveReply> {
    const path = "/v1/cluster/export";
    return await this.#call({ method: "POST", path, body }, ["path", "revision"]);
  }

  async importMetadata(
    body: MetadataArchiveRequest,
    options: CallOptions = {},
  ): Promise<MetadataArchiveReply> {
    const path = `/v1/cluster/import${query(options)}`;
    return await this.#call({ method: "POST", path, body }, ["path", "revision"]);
  }

  async recoverCluster(body: ClusterRecover, options: CallOptions = {}): Promise<RecoveryReply> {
    const path = `/v1/cluster/recover${query(options)}`;
    return await this.#call({ method: "POST", path, body }, ["volumes", "lost"]);
  }

  async listNodes(): Promise<ClusterNodeList> {
    return await this.#call({ method: "GET", path: "/v1/nodes" }, ["nodes"]);
  }

  async showNode(name: string): Promise<ClusterNode> {
    return await this.#call({ method: "GET", path: nodePath(name) }, NODE_FIELDS);
  }

  async removeNode(name: string, options: CallOptions = {}): Promise<NodeRemoveReply> {
    const path = `${nodePath(name)}${query(options)}`;
    return await this.#call({ method: "DELETE", path }, ["node", "volumes"]);
  }

  async handOverVolume(name: string, body: VolumeHandOver): Promise<HandOverReply> {
    const path = `${volumePath(name)}/hand-over`;
    return await this.#call({ method: "POST", path, body }, ["volume", "node"]);
  }

  async setNodeMaintenance(
    name: string,
    body: NodeMaintenance,
    options: CallOptions = {},
  ): Promise<NodeMaintenanceReply> {
    const path = `${nodePath(name)}/maintenance${query(options)}`;
    return await this.#call({ method: "POST", path, body }, ["node", "phase"]);
  }

  async drainNode(name: string, body: Drain, options: CallOptions = {}): Promise<DrainReply> {
    const path = `${nodePath(name)}/drain${query(options)}`;
    return await this.#call({ method: "POST", path, body }, DRAIN_FIELDS);
  }

  async drainDisk(name: string, body: Drain, options: CallOptions = {}): Promise<DrainReply> {
    const path = `${diskPath(name)}/drain${query(options)}`;
    return await this.#call({ method: "POST", path, body }, DRAIN_FIELDS);
  }

  async listRebuilds(): Promise<RebuildList> {
    return await this.#call({ method: "GET", path: "/v1/rebuilds" }, ["rebuilds"]);
  }

  async rebuildLimit(): Promise<RebuildLimit> {
    return await this.#call({ method: "GET", path: REBUILD_LIMIT }, ["bytesPerSecond"]);
  }

  async setRebuildLimit(body: RebuildLimitChange): Promise<RebuildLimit> {
    return await this.#call({ method: "PUT", path: REBUILD_LIMIT, body }, ["bytesPerSecond"]);
  }

  async stats(): Promise<StatsReply> {
    return await this.#call({ method: "GET", path: "/v1/stats" }, ["atMs", "volumes"]);
  }

  async status(): Promise<Status> {
    return await this.#call({ method: "GET", path: "/v1/status" }, ["health", "volumes"]);
  }

  async advise(): Promise<AdviseReply> {
    return await this.#call({ method: "GET", path: "/v1/advise" }, ["advice"]);
  }

  async version(): Promise<VersionReply> {
    return await this.#call({ method: "GET", path: "/v1/version" }, ["version"]);
  }

  async events(): Promise<EventList> {
    return await this.#call({ method: "GET", path: "/v1/events" }, ["events"]);
  }

  /** Hands over events as they happen, earlier ones first, until the server ends the stream. */
  async followEvents(received: (event: Event) => void): Promise<void> {
    const parser = new EventParser((data) => received(parseJson(data) as Event));
    await this.#transport.stream("/v1/events", (text) => parser.push(text));
  }

  /** Any path: the reply's text as it is. */
  async get(path: string): Promise<string> {
    const response = await this.#transport.send({ method: "GET", path });
    if (response.status >= 400) throw errorOf(response.status, response.text);
    return response.text;
  }

  async #call<T>(request: ClientRequest, fields: readonly string[]): Promise<T> {
    const { status, text } = await this.#transport.send(request);
    if (status >= 400) throw errorOf(status, text);
    const reply = parseJson(text);
    for (const field of fields) {
      if (reply !== null && typeof reply === "object" && field in reply) continue;
      throw badReply(`the reply has no ${field}: ${quote(text)}`);
    }
    return reply as T;
  }
}

const REBUILD_LIMIT = "/v1/rebuilds/limit";
const ATTACH_SECRETS = ["classic.chap.secret", "classic.chap.target.secret"];

const INIT_SECRETS = ["metadataPassword"];

const JOIN_SECRETS = ["token", "metadataPassword"];

const VOLUME_FIELDS = ["id", "name", "sizeBytes", "state"];

const DISK_FIELDS = ["id", "name", "state"];

const CLUSTER_FIELDS = ["id", "name", "node", "metadata"];

const DRAIN_FIELDS = ["node", "draining", "copies"];

const NODE_FIELDS = ["id", "name", "state", "disks"];

function nodePath(name: string): string {
  return `/v1/nodes/${encodeURIComponent(name)}`;
}

function diskPath(name: string): string {
  return `/v1/disks/${encodeURIComponent(name)}`;
}

function volumePath(name: string): string {
  return `/v1/volumes/${encodeURIComponent(name)}`;
}

function query(options: CallOptions & { readonly force?: boolean }): string {
  const words = [
    options.dryRun === true ? "dryRun=true" : "",
    options.force === true ? "force=true" : "",
  ].filter((word) => word !== "");
  return words.length === 0 ? "" : `?${words.join("&")}`;
}

/** The server's own error, or that there is none to be understood. */
function errorOf(status: number, text: string): ClientError {
  let reply: Partial<ErrorReply> | null = null;
  try {
    reply = JSON.parse(text) as Partial<ErrorReply> | null;
  } catch {
    // Not from ringstored.
  }
  if (typeof reply?.code !== "string" || typeof reply.message !== "string") {
    return badReply(`HTTP status ${status} with ${quote(text)}`);
  }
  const { advice } = reply;
  const options = typeof advice === "string" ? { advice } : {};
  return new ClientError(reply.code, reply.message, options);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw badReply(`the reply is not JSON: ${quote(text)}`);
  }
}

function badReply(message: string): ClientError {
  return new ClientError("bad_reply", message, {
    advice: "check that the address is that of ringstored, and that both have the same version",
  });
}
