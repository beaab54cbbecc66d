// Links from this reactor to the other nodes of the cluster, one each, and what is known of them.
//
// Invariants:
//  - a peer whose address changes keeps its connection: the new address is for the next one;
//  - a peer that has gone lets go of every member behind its link; one that comes back gets a new
//    link, which members find when they are fenced next.

import type { SegmentCopier } from "../base/index.ts";
import { type PeerIdentity, PeerLink } from "../peer/index.ts";
import type {
  ClusterPeer,
  ClusterSecret,
  PeerStats,
  Random,
  Stream,
  StreamDialer,
  StreamHandler,
} from "../ports/index.ts";
import type { Reactor } from "../reactor/index.ts";
import { UringDialer } from "../uring/index.ts";

export interface ReactorPeersModules {
  readonly reactor: Reactor;
  readonly secret: ClusterSecret;
  readonly random: Random;
  readonly copier: SegmentCopier;
  /** A connection to that node is up. */
  readonly cameUp: (nodeId: string) => void;
}

/** Dials wherever the peer is said to be at the moment. */
class PeerDialer implements StreamDialer {
  private readonly reactor: Reactor;
  private inner: UringDialer;
  private place = "";

  constructor(reactor: Reactor, peer: ClusterPeer) {
    this.reactor = reactor;
    this.inner = this.towards(peer);
  }

  get target(): string {
    return this.inner.target;
  }

  private towards({ host, port }: ClusterPeer): UringDialer {
    const { ring, memory } = this.reactor;
    this.place = `${host} ${port}`;
    return new UringDialer(ring, memory, { host, port });
  }

  move(peer: ClusterPeer): void {
    if (this.place !== `${peer.host} ${peer.port}`) this.inner = this.towards(peer);
  }

  dial(handler: StreamHandler): Stream {
    return this.inner.dial(handler);
  }
}

interface Peer {
  readonly link: PeerLink;
  readonly dialer: PeerDialer;
}

export class ReactorPeers {
  private readonly identity: PeerIdentity;
  private readonly modules: ReactorPeersModules;
  private readonly peers: Map<string, Peer> = new Map();
  /** Told to close, and not yet closed. */
  private readonly closing: Set<PeerLink> = new Set();

  constructor(identity: PeerIdentity, modules: ReactorPeersModules) {
    this.identity = identity;
    this.modules = modules;
  }

  isKnown(nodeId: string): boolean {
    return this.peers.has(nodeId);
  }

  link(nodeId: string): PeerLink | null {
    return this.peers.get(nodeId)?.link ?? null;
  }

  /** Returns the ids of those that have gone. */
  set(peers: readonly ClusterPeer[]): readonly string[] {
    const wanted = new Map(peers.map((peer) => [peer.nodeId, peer]));
    wanted.delete(this.identity.nodeId);
    const gone = [...this.peers.keys()].filter((nodeId) => !wanted.has(nodeId));
    for (const nodeId of gone) this.remove(nodeId);
    for (const peer of wanted.values()) {
      const known = this.peers.get(peer.nodeId);
      if (known === undefined) this.add(peer);
      else known.dialer.move(peer);
    }
    return gone;
  }

  private add(peer: ClusterPeer): void {
    const { modules, identity } = this;
    const { reactor } = modules;
    const dialer = new PeerDialer(reactor, peer);
    const { nodeId } = peer;
    const cameUp = (): void => modules.cameUp(nodeId);
    const options = { identity, targetNodeId: nodeId, cameUp };
    const link = new PeerLink(options, { ...modules, dialer, log: reactor.log });
    this.peers.set(nodeId, { link, dialer });
  }

  private remove(nodeId: string): void {
    const { link } = this.peers.get(nodeId) as Peer;
    this.peers.delete(nodeId);
    this.closing.add(link);
    link.close();
  }

  closeAll(): void {
    for (const nodeId of [...this.peers.keys()]) this.remove(nodeId);
  }

  /** After closeAll(): no connection is left. */
  get haveEnded(): boolean {
    for (const link of this.closing) if (link.state === "closed") this.closing.delete(link);
    return this.closing.size === 0 && this.peers.size === 0;
  }

  stats(): PeerStats[] {
    return Array.from(this.peers, ([nodeId, { link }]) => ({
      nodeId,
      state: link.state === "closed" ? "ending" : link.state,
      lastFailure: link.lastFailure,
    }));
  }
}
