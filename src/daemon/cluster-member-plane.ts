// The data plane's part in the cluster, begun before any disk is opened and before anything that
// speaks to the metadata is loaded: so all disks of the node come to the reactor of the cluster,
// and links to other nodes are up when the first volume is taken over.
//
// Owners that ask for their records meanwhile are told to ask again.

import type {
  ClusterPeer,
  ClusterPlane,
  FrontState,
  OwnerStats,
  VolumeRecordsHost,
} from "../ports/cluster-plane.ts";
import type { DataPlane } from "../ports/data-plane.ts";
import type { Log } from "../ports/log.ts";
import type { RecordEntry, RecordSwap } from "../ports/volume-records.ts";
import { parseAddress } from "./cluster-address.ts";
import type { Membership } from "./cluster-file.ts";

export interface MemberPlaneParts {
  readonly member: Membership;
  readonly incarnation: number;
  readonly key: Uint8Array;
  readonly plane: DataPlane & ClusterPlane;
  readonly log: Log;
  /** Other nodes as they were last heard of: known before the metadata answers. */
  readonly peers: readonly ClusterPeer[];
  readonly savePeers: (peers: readonly ClusterPeer[]) => Promise<void>;
  /** As it was set last; see ResyncPlane. */
  readonly resyncLimit: () => number | null;
}

export class MemberPlane implements VolumeRecordsHost {
  readonly parts: MemberPlaneParts;
  isStarted = false;
  /** Why it takes no part, "" = it does, or has not been asked. */
  problem = "";
  records: VolumeRecordsHost | null = null;
  ownerChanged: (stats: OwnerStats) => void = () => undefined;
  frontChanged: (state: FrontState) => void = () => undefined;

  constructor(parts: MemberPlaneParts) {
    this.parts = parts;
  }

  /** Repeated until it has succeeded. Rejects never. */
  async start(): Promise<void> {
    if (this.isStarted) return;
    const { member, incarnation, key, plane, log } = this.parts;
    const { clusterId, nodeId, address } = member;
    const identity = { clusterId, nodeId, incarnation };
    const modules = {
      records: this,
      ownerChanged: (stats: OwnerStats): void => this.ownerChanged(stats),
      frontChanged: (state: FrontState): void => this.frontChanged(state),
    };
    try {
      const listen = parseAddress(address, "address");
      await plane.startCluster({ identity, key, listen }, modules);
      // Those who are up already need not be refused until the metadata has been read.
      if (this.parts.peers.length > 0) await plane.setPeers(this.parts.peers);
      await this.#limitResyncs();
      this.isStarted = true;
      this.problem = "";
      log.log("info", "cluster.listening", { address, incarnation });
    } catch (error) {
      const message = (error as Error).message;
      const problem = `this node takes no part in its cluster, at ${address}: ${message}`;
      if (problem !== this.problem) log.log("error", "cluster.not-listening", { address, message });
      this.problem = problem;
    }
  }

  /** All other nodes, by the metadata. */
  async setPeers(peers: readonly ClusterPeer[]): Promise<void> {
    const { plane, savePeers, log } = this.parts;
    await plane.setPeers(peers);
    try {
      await savePeers(peers);
    } catch (error) {
      log.log("warn", "cluster.peers-not-saved", { message: (error as Error).message });
    }
  }

  /** A limit that cannot be read is none, and said. */
  async #limitResyncs(): Promise<void> {
    const { resyncLimit, plane, log } = this.parts;
    try {
      await plane.resyncs.setLimit(resyncLimit());
    } catch (error) {
      log.log("error", "cluster.rebuild-limit", { message: (error as Error).message });
    }
  }

  async read(volumeId: string): Promise<RecordEntry | null> {
    return (await this.records?.read(volumeId)) ?? null;
  }

  async swap(...args: Parameters<VolumeRecordsHost["swap"]>): Promise<RecordSwap> {
    return (await this.records?.swap(...args)) ?? { outcome: "unknown" };
  }
}
