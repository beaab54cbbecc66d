// What a node keeps of its cluster, in the data directory:
//
//   DATA/cluster.json         which cluster, as which node, where its metadata is
//   DATA/cluster.key          0600, the 32 bytes that all its daemons share, in base64
//   DATA/cluster.access       0600, how it gets into the metadata: authority, user, password
//   DATA/cluster.incarnation  counts the daemon's starts while in the cluster
//   DATA/cluster.peers        the other nodes and where they were, when last heard of
//   DATA/cluster.rebuild-limit  bytes per second, or "auto"; none is "auto"
//
// Invariants: cluster.json is written after key and access, and replaced whole. Its step tells
// how far an init or a join got: until it is "member" the daemon is in no cluster, and the same
// command given again goes on with the ids that are written there. An incarnation is durable
// before it is used.

import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import { RingstoreError } from "../base/error.ts";
import type { ClusterPeer } from "../ports/cluster-plane.ts";
import { type MetadataAccess, OPEN_ACCESS } from "./cluster-access.ts";
import type { StateFs } from "./state-fs.ts";

export type MembershipStep = "init" | "join" | "member";

export interface Membership {
  readonly step: MembershipStep;
  readonly clusterId: string;
  readonly clusterName: string;
  /** Of the cluster record when this was written. */
  readonly generation: number;
  /** Revision at which the cluster record was made: other metadata has another. 0: not known. */
  readonly metaBirth: number;
  readonly nodeId: string;
  readonly nodeName: string;
  /** Where other nodes reach this one: `HOST:PORT`. */
  readonly address: string;
  readonly rack: string | null;
  readonly endpoints: readonly string[];
}

const FORMAT = 1;
const AUTOMATIC = "auto";
const KEY_BYTES = 32;
const TEXTS = ["clusterId", "clusterName", "nodeId", "nodeName", "address"] as const;
const STEPS: readonly unknown[] = ["init", "join", "member"];

export class ClusterFile {
  readonly path: string;
  readonly #keyPath: string;
  readonly #accessPath: string;
  readonly #incarnationPath: string;
  readonly #peersPath: string;
  readonly #rebuildLimitPath: string;
  readonly #fs: StateFs;

  constructor(root: string, fs: StateFs) {
    this.path = join(root, "cluster.json");
    this.#keyPath = join(root, "cluster.key");
    this.#accessPath = join(root, "cluster.access");
    this.#incarnationPath = join(root, "cluster.incarnation");
    this.#peersPath = join(root, "cluster.peers");
    this.#rebuildLimitPath = join(root, "cluster.rebuild-limit");
    this.#fs = fs;
  }

  /** null: there is none. Light: every daemon asks at its start. */
  read(): Membership | null {
    const text = this.#text(this.path);
    if (text === null) return null;
    let found: { format?: unknown; cluster?: Partial<Membership> } | null;
    try {
      found = JSON.parse(text) as typeof found;
    } catch (error) {
      throw damaged(this.path, `is not JSON: ${(error as Error).message}`);
    }
    if (found?.format !== FORMAT) {
      const format = JSON.stringify(found?.format);
      throw damaged(this.path, `has format ${format}; this version reads ${FORMAT}`);
    }
    const cluster = found.cluster ?? {};
    for (const field of TEXTS) {
      if (typeof cluster[field] === "string") continue;
      throw damaged(this.path, `has no field cluster.${field}`);
    }
    const { endpoints, step } = cluster;
    if (!Array.isArray(endpoints) || endpoints.length === 0 || !STEPS.includes(step)) {
      throw damaged(this.path, "has no step, or no endpoints");
    }
    return cluster as Membership;
  }

  async save(cluster: Membership): Promise<void> {
    await this.#replace(this.path, `${JSON.stringify({ format: FORMAT, cluster }, null, 2)}\n`);
  }

  async remove(): Promise<void> {
    await this.#fs.remove(this.path);
    await this.#fs.remove(this.#keyPath);
    await this.#fs.remove(this.#peersPath);
    await this.#fs.remove(this.#accessPath);
    await this.#fs.syncDirectory(dirname(this.path));
  }

  async saveKey(key: Uint8Array): Promise<void> {
    await this.#replace(this.#keyPath, `${Buffer.from(key).toString("base64")}\n`);
  }

  async saveAccess(access: MetadataAccess): Promise<void> {
    const text = JSON.stringify({ format: FORMAT, access }, null, 2);
    await this.#replace(this.#accessPath, `${text}\n`);
  }

  /** Of a cluster from before there was such a file: open to everybody. */
  readAccess(): MetadataAccess {
    const text = this.#text(this.#accessPath);
    if (text === null) return OPEN_ACCESS;
    let found: { format?: unknown; access?: Partial<MetadataAccess> } | null;
    try {
      found = JSON.parse(text) as typeof found;
    } catch {
      // Without its words: they would repeat what is there.
      throw damaged(this.#accessPath, "is not JSON");
    }
    if (found?.format === FORMAT) return { ...OPEN_ACCESS, ...found.access };
    const format = JSON.stringify(found?.format);
    throw damaged(this.#accessPath, `has format ${format}; this version reads ${FORMAT}`);
  }

  makeKey(): Uint8Array {
    return randomBytes(KEY_BYTES);
  }

  readKey(): Uint8Array {
    const key = Buffer.from(this.#text(this.#keyPath) ?? "", "base64");
    if (key.length === KEY_BYTES) return key;
    throw damaged(this.#keyPath, `holds ${key.length} bytes instead of ${KEY_BYTES}`);
  }

  async savePeers(peers: readonly ClusterPeer[]): Promise<void> {
    await this.#replace(this.#peersPath, `${JSON.stringify(peers)}\n`);
  }

  /** None where nothing is known, or what is there makes no sense: the metadata tells soon. */
  readPeers(): readonly ClusterPeer[] {
    try {
      const found = JSON.parse(this.#text(this.#peersPath) ?? "[]") as readonly ClusterPeer[];
      return found.filter(
        ({ nodeId, host, port }) =>
          typeof nodeId === "string" && typeof host === "string" && Number.isInteger(port),
      );
    } catch {
      return [];
    }
  }

  /** The next one, durable. */
  async raiseIncarnation(): Promise<number> {
    const text = this.#text(this.#incarnationPath) ?? "0";
    const last = Number(text);
    if (!Number.isSafeInteger(last) || last < 0) {
      throw damaged(this.#incarnationPath, `holds ${JSON.stringify(text)}, which is no count`);
    }
    await this.#replace(this.#incarnationPath, `${last + 1}\n`);
    return last + 1;
  }

  /** How fast the node's volumes may rebuild copies, in bytes per second; null = automatic. */
  readRebuildLimit(): number | null {
    const text = (this.#text(this.#rebuildLimitPath) ?? AUTOMATIC).trim();
    if (text === AUTOMATIC) return null;
    const rate = Number(text);
    if (Number.isSafeInteger(rate) && rate > 0) return rate;
    throw damaged(this.#rebuildLimitPath, `holds ${JSON.stringify(text)}, which is no rate`);
  }

  async saveRebuildLimit(bytesPerSecond: number | null): Promise<void> {
    await this.#replace(this.#rebuildLimitPath, `${bytesPerSecond ?? AUTOMATIC}\n`);
  }

  async #replace(path: string, text: string): Promise<void> {
    await this.#fs.writeDurably(`${path}.new`, text);
    await this.#fs.rename(`${path}.new`, path);
    await this.#fs.syncDirectory(dirname(path));
  }

  #text(path: string): string | null {
    try {
      return this.#fs.read(path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
      throw error;
    }
  }
}

function damaged(path: string, problem: string): RingstoreError {
  const advice = "Repair the file, or take it from a backup of the data directory.";
  return new RingstoreError("INTERNAL", `${path} ${problem}`, { advice });
}
