// The network between the nodes of a simulated cluster: connections of bytes over ways that can be
// shut in either direction, for moments or for long, and broken.
//
//   a way that is shut holds what was sent until it opens, as a sender that repeats itself does;
//   a break loses what is in transit, and is noticed at both ends or at the dialling one only.
//
// A node is dialled where its process listens; one that does not listen refuses, one without power
// says nothing.

import { ECONNREFUSED } from "../../base/index.ts";
import type { StreamAcceptor, StreamDialer, StreamHandler } from "../../ports/index.ts";
import {
  SimConnection,
  type SimEnd,
  SimMemory,
  SimNetwork,
  type SimPipe,
  type SimScheduler,
} from "../sim/index.ts";

const BREAK_NOTICED_US = 3_000_000;
const LATE_US = 300_000;

/** A process of a node, as the network sees it. */
export interface NetworkPeer extends SimEnd {
  readonly node: number;
  /** null: it does not listen yet. */
  readonly acceptor: StreamAcceptor | null;
}

interface Known {
  readonly connection: SimConnection;
  readonly from: NetworkPeer;
  readonly to: NetworkPeer;
}

export class ClusterNetwork {
  /** Who runs on a node now; null: nobody, or there is no power. */
  readonly peers: (NetworkPeer | null)[];
  private readonly world: SimScheduler;
  private readonly network: SimNetwork;
  private connections: Known[] = [];
  private readonly shut: boolean[][];
  private readonly isPowered: boolean[];

  constructor(world: SimScheduler, nodeCount: number) {
    this.world = world;
    // Ends have memory of their own.
    this.network = new SimNetwork({ scheduler: world, memory: new SimMemory(4096) });
    this.peers = new Array<NetworkPeer | null>(nodeCount).fill(null);
    this.isPowered = new Array<boolean>(nodeCount).fill(true);
    this.shut = this.peers.map(() => new Array<boolean>(nodeCount).fill(false));
  }

  dialer(from: NetworkPeer, to: number): StreamDialer {
    return {
      target: `node ${to}`,
      dial: (handler: StreamHandler) => this.dial(from, to, handler).dialled,
    };
  }

  private dial(from: NetworkPeer, to: number, handler: StreamHandler): SimConnection {
    const target = this.peers[to];
    const connection = new SimConnection(this.network, from, target ?? from);
    const { dialled, accepted } = connection;
    dialled.setHandler(handler);
    const opened = (): void => {
      if (dialled.isClosing || this.isSilent(from.node, to)) return;
      if (target === null || this.peers[to] !== target || target.acceptor === null) {
        if (this.isPowered[to]) handler.streamOpened(-ECONNREFUSED);
        return;
      }
      const { acceptor } = target;
      this.connections = this.connections.filter((one) => !isOver(one.connection));
      this.connections.push({ connection, from, to: target });
      const accept = (): void => acceptor.streamAccepted(accepted);
      target.scheduler.after(this.delayUs(), accept, { label: "accept" });
      handler.streamOpened(0);
    };
    from.scheduler.after(2 * this.delayUs(), opened, { label: "dial" });
    return connection;
  }

  private delayUs(): number {
    return 40 * (1 + this.world.prng.unit());
  }

  private isSilent(a: number, b: number): boolean {
    return this.shut[a][b] || this.shut[b][a];
  }

  /** Pipes that lead from one node to another. */
  private pipes(from: number, to: number): SimPipe[] {
    return this.connections.flatMap((one) => {
      if (one.from.node === from && one.to.node === to) return [one.connection.toAccepted];
      if (one.to.node === from && one.from.node === to) return [one.connection.toDialled];
      return [];
    });
  }

  close(from: number, to: number): void {
    this.shut[from][to] = true;
    for (const pipe of this.pipes(from, to)) pipe.hold();
  }

  open(from: number, to: number): void {
    this.shut[from][to] = false;
    for (const pipe of this.pipes(from, to)) pipe.release();
  }

  /** For so long nothing arrives, then all of it: again and again, until the way is opened. */
  stutter(from: number, to: number, us: number): void {
    this.close(from, to);
    this.world.after(us, () => this.open(from, to), { label: "the way opens" });
  }

  /** Breaks every connection between the two. */
  break(a: number, b: number, isNoticed: boolean): void {
    for (const { connection, from, to } of this.connections) {
      const isBetween = (from.node === a && to.node === b) || (from.node === b && to.node === a);
      if (!isBetween || isOver(connection)) continue;
      if (isNoticed) connection.cut();
      else this.breakUnnoticed(connection);
    }
  }

  /** Who dialled has given it up; what it sent before arrives late, among what it sends next. */
  private breakUnnoticed(connection: SimConnection): void {
    const pipe = connection.toAccepted;
    connection.cutDialledEnd();
    pipe.hold();
    const release = (): void => pipe.release();
    this.world.after(this.world.prng.unit() * LATE_US, release, { label: "late bytes" });
  }

  /** A process is there. */
  started(peer: NetworkPeer): void {
    this.peers[peer.node] = peer;
    this.isPowered[peer.node] = true;
  }

  /** It is gone: killed, which its peers hear soon; or without power, which they may not. */
  ended(peer: NetworkPeer, isKilled: boolean): void {
    if (this.peers[peer.node] === peer) this.peers[peer.node] = null;
    this.isPowered[peer.node] = isKilled;
    for (const { connection, from, to } of this.connections) {
      const own = from === peer ? connection.dialled : to === peer ? connection.accepted : null;
      if (own === null) continue;
      own.abandon(isKilled);
      const other = from === peer ? connection.accepted : connection.dialled;
      if (!isKilled) other.broke(this.world.prng.unit() * BREAK_NOTICED_US);
    }
  }
}

function isOver(connection: SimConnection): boolean {
  return connection.dialled.isClosing && connection.accepted.isClosing;
}
