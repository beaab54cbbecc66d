// The cluster as the data plane's main thread sees it: the port is taken here, everything else goes
// to the first reactor. Questions about records come back from there and are put to the host.
//
// Invariants: an answer of the host's is passed on once; a host that fails after all is taken for
// one that does not know.

import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { errnoName, RingstoreError } from "../base/index.ts";
import type {
  ClusterBacking,
  ClusterPeer,
  ClusterStart,
  FrontState,
  ListedReplica,
  OwnerStats,
  PeerStats,
  ResyncPaceStats,
  ResyncPlane,
  StoredReplica,
  VolumeMembers,
  VolumeRecordsHost,
} from "../ports/cluster-plane.ts";
import type { ReplicaNote } from "../ports/replica-note.ts";
import type { RecordEntry, RecordSwap } from "../ports/volume-records.ts";
import { boundPort, close, listenTcp } from "../sys/index.ts";
import type { PlaneDisks } from "./plane-disks.ts";
import type { PlaneLimits } from "./reactor-limits.ts";
import type { ClusterCommand, ReactorMessage } from "./reactor-protocol.ts";
import type { ReactorThread } from "./reactor-thread.ts";

/** Connections that the kernel completes before we take them. */
const BACKLOG = 128;

export interface PlaneClusterModules {
  readonly thread: ReactorThread;
  readonly disks: PlaneDisks;
  readonly limits: PlaneLimits;
}

export interface ClusterModules {
  readonly records: VolumeRecordsHost;
  readonly ownerChanged: (stats: OwnerStats) => void;
  readonly frontChanged: (state: FrontState) => void;
}

type ClusterMessage = Extract<
  ReactorMessage,
  { kind: "record" | "owner" | "front" | "peers" | "pace" }
>;

export class PlaneCluster implements ResyncPlane {
  private readonly modules: PlaneClusterModules;
  private readonly owners: Map<string, OwnerStats> = new Map();
  private peers: readonly PeerStats[] = [];
  private told: ResyncPaceStats | null = null;
  private isStarted = false;

  constructor(modules: PlaneClusterModules) {
    this.modules = modules;
  }

  async start(start: ClusterStart, modules: ClusterModules): Promise<{ readonly port: number }> {
    if (this.isStarted) {
      throw new RingstoreError("INVALID_REQUEST", "the cluster has been started already");
    }
    const { identity, key, listen } = start;
    const listenFd = listenTcp(listen, BACKLOG);
    if (listenFd < 0) throw listenFailure(listen, listenFd);
    this.isStarted = true;
    this.modules.disks.keepTogether();
    const port = boundPort(listenFd);
    this.modules.thread.onCluster = (message) => this.take(message, modules);
    try {
      await this.ask({ op: "startCluster", identity, key, listenFd });
    } catch (error) {
      // A reactor that may still take it keeps the descriptor.
      if ((error as RingstoreError).code !== "TIMED_OUT") close(listenFd);
      throw error;
    }
    return { port };
  }

  private take(message: ClusterMessage, modules: ClusterModules): void {
    const { records, ownerChanged } = modules;
    switch (message.kind) {
      case "front":
        modules.frontChanged(message.state);
        return;
      case "owner":
        this.owners.set(message.stats.volumeId, message.stats);
        ownerChanged(message.stats);
        return;
      case "peers":
        this.peers = message.peers;
        return;
      case "pace":
        this.told = message.pace;
        return;
      case "record": {
        const { askId, volumeId, swap } = message;
        const answer = (known: RecordEntry | RecordSwap | null): void =>
          this.modules.thread.post({ op: "record", askId, answer: known });
        if (swap === null) void records.read(volumeId).then(answer, () => answer(null));
        else {
          const swapped = records.swap(volumeId, swap.revision, swap.record);
          void swapped.then(answer, () => answer({ outcome: "unknown" }));
        }
      }
    }
  }

  private ask(command: ClusterCommand): Promise<unknown> {
    const { thread, limits } = this.modules;
    return thread.request(command, { timeoutMs: limits.commandMs });
  }

  /** For what is answered when a disk, or other nodes, have done something. */
  private askPatiently(command: ClusterCommand): Promise<unknown> {
    const { thread, limits } = this.modules;
    return thread.request(command, { timeoutMs: limits.detachMs });
  }

  /** Names are looked up now; one that is not known makes a link that says so. */
  async setPeers(peers: readonly ClusterPeer[]): Promise<void> {
    const resolved = peers.map(async (peer) => ({ ...peer, host: await addressOf(peer.host) }));
    await this.ask({ op: "setPeers", peers: await Promise.all(resolved) });
  }

  async makeReplica(diskId: string, replica: StoredReplica): Promise<void> {
    this.requireNear(diskId);
    await this.askPatiently({ op: "makeReplica", diskId, replica });
  }

  async deleteReplica(diskId: string, volumeId: string): Promise<void> {
    this.requireNear(diskId);
    await this.askPatiently({ op: "deleteReplica", diskId, volumeId });
  }

  async listReplicas(diskId: string): Promise<readonly ListedReplica[]> {
    this.requireNear(diskId);
    return (await this.ask({ op: "listReplicas", diskId })) as readonly ListedReplica[];
  }

  async noteReplica(diskId: string, volumeId: string, note: ReplicaNote): Promise<void> {
    this.requireNear(diskId);
    await this.askPatiently({ op: "noteReplica", diskId, volumeId, note });
  }

  /** A disk that was opened before the cluster was started may be on another reactor. */
  private requireNear(diskId: string): void {
    const { disks, thread } = this.modules;
    const { index } = disks.threadOf(diskId);
    if (index === thread.index) return;
    const message = `disk ${diskId} was opened before the cluster was started, on reactor ${index}`;
    throw new RingstoreError("UNSUPPORTED", message, { advice: "Restart the daemon." });
  }

  ownerStats(): readonly OwnerStats[] {
    return [...this.owners.values()];
  }

  peerStats(): readonly PeerStats[] {
    return this.peers;
  }

  pace(): ResyncPaceStats | null {
    return this.told;
  }

  async setLimit(bytesPerSecond: number | null): Promise<void> {
    await this.ask({ op: "setResyncLimit", bytesPerSecond });
  }

  async surrender(volumeId: string): Promise<void> {
    await this.askPatiently({ op: "surrender", volumeId });
  }

  async takeVolume(volumeId: string, backing: ClusterBacking): Promise<void> {
    await this.ask({ op: "take", volumeId, backing });
  }

  async handOver(volumeId: string, to: string): Promise<void> {
    await this.askPatiently({ op: "handOver", volumeId, to });
  }

  async cutWaiting(volumeId: string): Promise<void> {
    await this.ask({ op: "cutWaiting", volumeId });
  }

  async setMembers(volumeId: string, members: VolumeMembers): Promise<void> {
    await this.ask({ op: "setMembers", volumeId, members });
  }

  /** Its volume has been closed. */
  forget(volumeId: string): void {
    this.owners.delete(volumeId);
  }
}

async function addressOf(host: string): Promise<string> {
  if (isIP(host) !== 0) return host;
  try {
    return (await lookup(host)).address;
  } catch {
    return host;
  }
}

function listenFailure(listen: ClusterStart["listen"], result: number): RingstoreError {
  const { host, port } = listen;
  const message = `cannot listen for the cluster on ${host} port ${port}: ${errnoName(result)}`;
  const advice = "Give an IP address of this node and a port that nobody else has.";
  return new RingstoreError("BACKING_FAILED", message, { advice });
}
