// A node of the simulated cluster: a disk that lies, and one process after another on it. A process is
// what a daemon has in one reactor: the store, the server of its replicas, links to the other nodes,
// and the volumes that it owns. All of it is the real code.
//
// Invariant: nothing of a process happens after its end but what it had handed to disk and network.

import { SegmentCopier } from "../../base/index.ts";
import { Store, StoreError } from "../../chunk/index.ts";
import {
  NO_PEER_BUGS,
  PeerGrants,
  PeerLink,
  type RemoteReplica,
  type RemoteReplicaOptions,
  ReplicaServer,
} from "../../peer/index.ts";
import type {
  Log,
  Replica,
  ReplicaFailure,
  ReplicaHandler,
  ReplicaProvider,
  StreamAcceptor,
} from "../../ports/index.ts";
import { HmacSecret } from "../../sys/index.ts";
import { type OwnedVolume, OwnerBackground } from "../../volume/index.ts";
import { SimDisk, SimMedia, SimMemory, type SimReactor, type SimScheduler } from "../sim/index.ts";
import { formatMedia, SMALL_OPTIONS } from "../store/sim-store.ts";
import type { ClusterBugs } from "./cluster-bugs.ts";
import { HostReactor, HostScheduler } from "./cluster-host.ts";
import type { ClusterNetwork, NetworkPeer } from "./cluster-network.ts";

/** Volumes that may resync at once: a simulated cluster has few. */
export const TURNS = 1;
const CLUSTER = "11111111-0000-4000-8000-000000000001";
const KEY: Uint8Array = new Uint8Array(32).fill(7);
const DISK_BYTES = 8 * 1048576;
const MEMORY_BYTES = 176 * 1048576;

const uuidOf = (kind: string, index: number): string =>
  `${kind.repeat(8)}-0000-4000-8000-00000000000${index}`;
export const nodeUuid = (index: number): string => uuidOf("a", index);
export const diskUuid = (index: number): string => uuidOf("d", index);
export const volumeUuid = (index: number): string => uuidOf("9", index);

export interface NodeOptions {
  readonly world: SimScheduler;
  readonly network: ClusterNetwork;
  readonly index: number;
  readonly nodeCount: number;
  /** What is kept on its disk from the start. */
  readonly volumes: readonly { readonly uuid: string; readonly sizeBytes: number }[];
  readonly bugs: ClusterBugs;
  readonly diskLatencyMaxUs: number;
}

export class ClusterNode {
  readonly options: NodeOptions;
  readonly index: number;
  readonly disk: string;
  readonly media: SimMedia;
  readonly memory: SimMemory = new SimMemory(MEMORY_BYTES);
  /** Who runs now; null: nobody. */
  process: NodeProcess | null = null;
  /** For good: it does not start again. */
  isLost = false;
  startCount = 0;

  constructor(options: NodeOptions) {
    this.options = options;
    this.index = options.index;
    this.disk = diskUuid(options.index);
    this.media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache: true });
    formatMedia(this.media);
  }

  start(): void {
    if (this.process !== null || this.isLost) return;
    this.startCount += 1;
    this.process = new NodeProcess(this, this.startCount);
  }

  /** The process dies, or all of the node's power goes. */
  crash(kind: "process" | "power"): void {
    this.process?.crash(kind);
    this.process = null;
  }
}

export class NodeProcess implements NetworkPeer, ReplicaProvider {
  readonly name: string;
  readonly node: number;
  readonly incarnation: number;
  readonly scheduler: HostScheduler;
  readonly memory: SimMemory;
  readonly reactor: SimReactor;
  readonly copier: SegmentCopier;
  readonly disk: SimDisk;
  readonly store: Store;
  readonly grants: PeerGrants;
  readonly server: ReplicaServer;
  readonly links: Map<number, PeerLink> = new Map();
  /** Owners here, who hear whose disk can be reached again. */
  readonly owners: Set<OwnedVolume> = new Set();
  /** Shared by the owners in it. */
  readonly background: OwnerBackground;
  acceptor: StreamAcceptor | null = null;
  isPaused = false;
  /** The store is open: peers may come, volumes may be owned. */
  isReady = false;
  /** Its disk fails writes for the rest of this process's life. */
  hasBadDisk = false;
  private readonly own: ClusterNode;

  constructor(own: ClusterNode, count: number) {
    const { world, index, network, bugs } = own.options;
    this.own = own;
    this.name = `node${index}/${count}`;
    this.node = index;
    this.incarnation = index * 1000 + count;
    this.scheduler = new HostScheduler(world);
    this.memory = own.memory;
    const { scheduler, memory } = this;
    this.reactor = new HostReactor(scheduler, memory);
    const { reactor } = this;
    const isUnordered = bugs.isUnordered === true;
    this.background = new OwnerBackground(reactor, null, { turns: TURNS, isUnordered });
    this.copier = new SegmentCopier(reactor.requests, memory);
    const { diskLatencyMaxUs: latencyMaxUs } = own.options;
    this.disk = new SimDisk({ media: own.media, memory, scheduler, latencyMaxUs });
    this.store = new Store(SMALL_OPTIONS, { disk: this.disk, reactor });
    this.disk.setHandler(this.store);
    // As the daemon: what an earlier run promised counts from this run's start.
    let isStarted = bugs.isForgetful !== true;
    this.grants = new PeerGrants({ nowUs: () => (isStarted ? reactor.clock.nowUs() : 0) });
    isStarted = true;
    const identity = {
      clusterId: CLUSTER,
      nodeId: nodeUuid(index),
      incarnation: this.incarnation,
      reactor: 0,
    };
    const secret = new HmacSecret(KEY);
    const log: Log = reactor.log;
    this.server = new ReplicaServer(
      {
        identity,
        isKnownNode: () => true,
        peerConnected: (nodeId) => this.linkOf(nodeId)?.dialSoon(true),
        planted: { ...NO_PEER_BUGS, ...bugs.peer },
      },
      { reactor, provider: this, secret, grants: this.grants, log },
    );
    network.started(this);
    this.open(own.options, identity, secret);
  }

  private open(
    options: NodeOptions,
    identity: { clusterId: string; nodeId: string; incarnation: number; reactor: number },
    secret: HmacSecret,
  ): void {
    const { reactor, scheduler, copier } = this;
    this.store.open((error) => {
      if (error !== null) throw error;
      this.makeVolumes(options.volumes, () => {
        this.isReady = true;
        this.acceptor = this.server;
        for (let peer = 0; peer < options.nodeCount; peer++) {
          if (peer === this.node) continue;
          const dialer = options.network.dialer(this, peer);
          const random = scheduler.fork();
          const modules = { reactor, dialer, secret, random, copier, log: reactor.log };
          const cameUp = (): void => {
            for (const owner of this.owners) owner.memberIsBack(diskUuid(peer));
          };
          const linkOptions = { identity, targetNodeId: nodeUuid(peer), cameUp };
          this.links.set(peer, new PeerLink(linkOptions, modules));
        }
      });
    });
  }

  private linkOf(nodeId: string): PeerLink | undefined {
    for (const [peer, link] of this.links) if (nodeUuid(peer) === nodeId) return link;
    return undefined;
  }

  /** As an owner is told: its own disk always, another node's while the link to it is up. */
  canReach(disk: string): boolean {
    for (const [peer, link] of this.links) if (diskUuid(peer) === disk) return link.state === "up";
    return true;
  }

  /** Keeps a copy of this volume too, from now on. */
  keep(uuid: string, sizeBytes: number, done: () => void): void {
    this.makeVolumes([{ uuid, sizeBytes }], done);
  }

  private makeVolumes(volumes: NodeOptions["volumes"], done: () => void): void {
    const known = new Set(this.store.listVolumes().map(({ uuid }) => uuid));
    const missing = volumes.find(({ uuid }) => !known.has(uuid));
    if (missing === undefined) {
      done();
      return;
    }
    this.store.createVolume({ ...missing, isReplica: true }, (error) => {
      if (error !== null) throw error;
      this.makeVolumes(volumes, done);
    });
  }

  openReplica(volume: string, disk: string, handler: ReplicaHandler): Replica | ReplicaFailure {
    if (disk !== this.own.disk) return { code: "unknown-volume", message: `no disk ${disk} here` };
    try {
      return this.store.openReplica(volume, { name: this.name, handler });
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      return { code: "unknown-volume", message: error.message };
    }
  }

  /** The replica on another node's disk. */
  openRemote(disk: string, options: Omit<RemoteReplicaOptions, "events">): RemoteReplica {
    for (const [peer, link] of this.links) {
      if (diskUuid(peer) !== disk) continue;
      // The owner finds out by itself: what it sends fails, or it is not granted.
      const events = { replicaResumed: () => {}, replicaLost: () => {} };
      return link.openReplica({ ...options, events });
    }
    throw new Error(`no node has disk ${disk}`);
  }

  pause(us: number): void {
    if (this.isPaused) return;
    this.isPaused = true;
    this.scheduler.hold();
    this.own.options.world.after(us, () => this.goOn(), { label: `${this.name} goes on` });
  }

  goOn(): void {
    if (!this.isPaused) return;
    this.isPaused = false;
    this.scheduler.release();
  }

  crash(kind: "process" | "power"): void {
    this.own.options.network.ended(this, kind === "process");
    this.disk.crash({ kind, lateChance: 0.5 });
    if (kind === "power") this.own.media.dropLateWrites();
    this.reactor.stop();
    this.scheduler.end();
    this.memory.reset();
  }
}
