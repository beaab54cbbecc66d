// Simulated connections: the Stream port in virtual time, with what networks do to them. Every
// connection is two pipes; a pipe takes bytes in pieces of any size, holds a window of them, delays
// them, and keeps their order. Faults are set on a connection, usually by the `connected` hook.
//
// Invariants:
//  - memory given to a send is read at its completion, or just before streamClosed: whoever reuses
//    it earlier sends what he should not, or touches freed memory;
//  - a cut loses what is in transit; each end hears of it in its own time, or never (half-open);
//  - the end of a process that is gone touches no memory and tells nobody anything.

import { ECANCELED, ECONNREFUSED, ECONNRESET, type Prng } from "../../base/index.ts";
import type {
  Address,
  Stream,
  StreamAcceptor,
  StreamDialer,
  StreamHandler,
} from "../../ports/index.ts";
import type { SimMemory } from "./sim-memory.ts";
import type { SimScheduler } from "./sim-scheduler.ts";

export interface SimNetworkOptions {
  readonly scheduler: SimScheduler;
  readonly memory: SimMemory;
  /** From one end to the other; 30 us by default, up to twice that by chance. */
  readonly delayUs?: number;
  /** Bytes a pipe holds; 256 KiB by default. */
  readonly windowBytes?: number;
  /** Sends and receives move only a part now and then; by default they do. */
  readonly isShort?: boolean;
  /** Sees each connection before a byte goes over it. */
  readonly connected?: (connection: SimConnection) => void;
}

/** The process at one end: whose memory bytes come from, and whose time things happen in. */
export interface SimEnd {
  readonly memory: SimMemory;
  readonly scheduler: SimScheduler;
}

export class SimNetwork {
  readonly options: SimNetworkOptions;
  readonly prng: Prng;
  readonly connections: SimConnection[] = [];
  /** While false every dial is refused. */
  isReachable = true;

  constructor(options: SimNetworkOptions) {
    this.options = options;
    this.prng = options.scheduler.fork();
  }

  /** Dials `acceptor`. */
  dialer(acceptor: StreamAcceptor): StreamDialer {
    return {
      target: "simulated",
      dial: (handler: StreamHandler): Stream => {
        const connection = new SimConnection(this);
        const { scheduler } = this.options;
        const { dialled, accepted } = connection;
        dialled.setHandler(handler);
        const opened = (): void => {
          if (dialled.isClosing) return;
          if (!this.isReachable) {
            handler.streamOpened(-ECONNREFUSED);
            return;
          }
          this.connections.push(connection);
          this.options.connected?.(connection);
          scheduler.after(connection.delayUs(), () => acceptor.streamAccepted(accepted));
          handler.streamOpened(0);
        };
        scheduler.after(connection.delayUs(), opened, { label: "dial" });
        return dialled;
      },
    };
  }
}

export class SimConnection {
  readonly network: SimNetwork;
  readonly dialled: SimStream;
  readonly accepted: SimStream;
  readonly toAccepted: SimPipe;
  readonly toDialled: SimPipe;

  constructor(network: SimNetwork, dialling?: SimEnd, accepting?: SimEnd) {
    this.network = network;
    this.toAccepted = new SimPipe(this);
    this.toDialled = new SimPipe(this);
    const { options } = network;
    this.dialled = new SimStream(this, this.toAccepted, this.toDialled, dialling ?? options);
    this.accepted = new SimStream(this, this.toDialled, this.toAccepted, accepting ?? options);
    this.toAccepted.receiver = this.accepted;
    this.toAccepted.sender = this.dialled;
    this.toDialled.receiver = this.dialled;
    this.toDialled.sender = this.accepted;
  }

  delayUs(): number {
    const delayUs = this.network.options.delayUs ?? 30;
    return delayUs * (1 + this.network.prng.unit());
  }

  /** Both ends hear of it; what is in transit is lost. */
  cut(): void {
    this.toAccepted.lose();
    this.toDialled.lose();
    this.dialled.broke(this.delayUs());
    this.accepted.broke(this.delayUs());
  }

  /** Only the dialling end hears of it; what is on its way to the other still arrives. */
  cutDialledEnd(): void {
    this.toDialled.lose();
    this.dialled.broke(this.delayUs());
  }
}

/** One direction. */
export class SimPipe {
  receiver!: SimStream;
  sender!: SimStream;
  /** Bytes taken from the sender so far; a test may look. */
  takenBytes = 0;
  /** After this many bytes the connection is cut; see SimConnection. */
  cutAtBytes: number = Infinity;
  cut: (connection: SimConnection) => void = (connection) => connection.cut();
  /** Changes bytes as they pass: `at` = the place of the first of them. */
  corrupt: ((bytes: Uint8Array, at: number) => void) | null = null;
  private readonly connection: SimConnection;
  private arrived: Uint8Array[] = [];
  private held: Uint8Array[] = [];
  private inTransitBytes = 0;
  private lastArrivalUs = 0;
  private isLost = false;
  private isHeld = false;
  private hasEnded = false;

  constructor(connection: SimConnection) {
    this.connection = connection;
  }

  get roomBytes(): number {
    const window = this.connection.network.options.windowBytes ?? 262144;
    const waiting = this.arrived.reduce((sum, piece) => sum + piece.length, 0);
    return Math.max(0, window - this.inTransitBytes - waiting);
  }

  /** Bytes that may be taken before a cut. */
  get allowedBytes(): number {
    return Math.min(this.roomBytes, this.cutAtBytes - this.takenBytes);
  }

  take(bytes: Uint8Array): void {
    this.corrupt?.(bytes, this.takenBytes);
    this.takenBytes += bytes.length;
    if (!this.isLost) this.carry(bytes);
    if (this.takenBytes < this.cutAtBytes) return;
    this.cutAtBytes = Infinity;
    this.cut(this.connection);
  }

  private carry(bytes: Uint8Array): void {
    const { scheduler } = this.connection.network.options;
    this.inTransitBytes += bytes.length;
    const nowUs = scheduler.clock.nowUs();
    // Never at the same moment as the piece before: the seed orders what is due at one time.
    const earliestUs = this.lastArrivalUs + 0.01;
    this.lastArrivalUs = Math.max(earliestUs, nowUs + this.connection.delayUs());
    scheduler.after(this.lastArrivalUs - nowUs, () => this.arrive(bytes), {
      label: "bytes arrive",
    });
  }

  private arrive(bytes: Uint8Array): void {
    if (this.isLost) return;
    if (this.isHeld) {
      this.held.push(bytes);
      return;
    }
    this.inTransitBytes -= bytes.length;
    this.arrived.push(bytes);
    this.receiver.wake();
  }

  /** Nothing arrives until release(): a network that delays. */
  hold(): void {
    this.isHeld = true;
  }

  release(): void {
    this.isHeld = false;
    for (const bytes of this.held.splice(0)) this.arrive(bytes);
    this.receiver.wake();
  }

  lose(): void {
    this.isLost = true;
    this.arrived = [];
    this.held = [];
    this.inTransitBytes = 0;
  }

  /** The sender has closed: the receiver reads to the end, then 0. */
  end(): void {
    const { scheduler } = this.connection.network.options;
    const nowUs = scheduler.clock.nowUs();
    const untilUs = Math.max(this.lastArrivalUs, nowUs + this.connection.delayUs()) - nowUs + 1;
    scheduler.after(untilUs, () => {
      this.hasEnded = true;
      this.receiver.wake();
    });
  }

  get hasData(): boolean {
    return this.arrived.length > 0 || (this.hasEnded && !this.isHeld);
  }

  /** At most `bytesMax`; empty = the end. */
  give(bytesMax: number): Uint8Array {
    const first = this.arrived[0];
    if (first === undefined) return new Uint8Array(0);
    const piece = first.subarray(0, bytesMax);
    if (piece.length === first.length) this.arrived.shift();
    else this.arrived[0] = first.subarray(piece.length);
    this.sender.wake();
    return piece;
  }
}

const STEP_US = 2;

export class SimStream implements Stream {
  isClosing = false;
  private readonly connection: SimConnection;
  private readonly outgoing: SimPipe;
  private readonly incoming: SimPipe;
  private readonly end: SimEnd;
  private handler: StreamHandler | null = null;
  private receiving: { readonly address: Address; readonly bytes: number } | null = null;
  private sending: { readonly iovecs: Address; readonly count: number } | null = null;
  /** Of a send that the network has taken, and whose completion is not delivered yet. */
  private lateSent = 0;
  private isBroken = false;
  private isWaking = false;

  constructor(connection: SimConnection, outgoing: SimPipe, incoming: SimPipe, end: SimEnd) {
    this.connection = connection;
    this.outgoing = outgoing;
    this.incoming = incoming;
    this.end = end;
  }

  setHandler(handler: StreamHandler): void {
    const isBusy = this.receiving !== null || this.sending !== null || this.lateSent > 0;
    if (isBusy) throw new Error("handler in use");
    this.handler = handler;
  }

  receive(address: Address, bytes: number): void {
    if (this.receiving !== null) throw new Error("two receives at once");
    if (bytes <= 0) throw new Error("a receive of nothing");
    this.receiving = { address, bytes };
    this.wake();
  }

  send(iovecs: Address, count: number): void {
    if (this.sending !== null || this.lateSent > 0) throw new Error("two sends at once");
    if (count <= 0 || count > 1024) throw new Error(`${count} iovecs`);
    this.sending = { iovecs, count };
    this.wake();
  }

  /** Something may go on: looked at a moment later, never inside a call. */
  wake(): void {
    if (this.isWaking) return;
    this.isWaking = true;
    const delayUs = this.connection.network.prng.unit() * STEP_US;
    this.end.scheduler.after(delayUs, () => this.step(), { label: "stream" });
  }

  private step(): void {
    this.isWaking = false;
    if (this.handler === null) return;
    if (this.isClosing) {
      this.finishClose(this.handler);
      return;
    }
    if (this.sending !== null) this.stepSend(this.handler);
    if (this.receiving !== null && !this.isClosing) this.stepReceive(this.handler);
  }

  private stepSend(handler: StreamHandler): void {
    const allowed = this.isBroken ? Infinity : this.outgoing.allowedBytes;
    if (allowed <= 0) return;
    const bytes = this.gather(Math.min(allowed, 1 << 20));
    this.sending = null;
    if (this.isBroken) {
      handler.streamSent(-ECONNRESET);
      return;
    }
    this.outgoing.take(bytes);
    this.reportSent(handler, bytes.length);
  }

  /** At once, or by chance so late that an answer may be there first. */
  private reportSent(handler: StreamHandler, bytes: number): void {
    const { options, prng } = this.connection.network;
    if (!prng.chance(0.1)) {
      handler.streamSent(bytes);
      return;
    }
    this.lateSent = bytes;
    const delayUs = prng.unit() * 10 * (options.delayUs ?? 30);
    const label = "late completion";
    this.end.scheduler.after(delayUs, () => this.deliverLate(), { label });
  }

  private deliverLate(): void {
    const bytes = this.lateSent;
    this.lateSent = 0;
    if (bytes > 0) this.handler?.streamSent(bytes);
  }

  private stepReceive(handler: StreamHandler): void {
    const { receiving } = this;
    if (receiving === null) return;
    if (this.isBroken) {
      this.receiving = null;
      handler.streamReceived(-ECONNRESET);
      return;
    }
    if (!this.incoming.hasData) return;
    const piece = this.incoming.give(this.shorten(receiving.bytes));
    this.end.memory.store(receiving.address, piece.length, piece, 0);
    this.receiving = null;
    handler.streamReceived(piece.length);
  }

  private shorten(bytes: number): number {
    const { options, prng } = this.connection.network;
    if (options.isShort === false || !prng.chance(0.2)) return bytes;
    return prng.between(1, bytes);
  }

  /** Reads what the send under way points to, as the kernel would. */
  private gather(bytesMax: number): Uint8Array {
    const { memory } = this.end;
    const pieces: Uint8Array[] = [];
    const iovec = new Uint8Array(16);
    const words = new Uint32Array(iovec.buffer);
    let total = 0;
    for (let index = 0; index < (this.sending?.count ?? 0); index++) {
      memory.load((this.sending?.iovecs ?? 0) + index * 16, 16, iovec, 0);
      const piece = new Uint8Array(words[2] as number);
      const address = (words[1] as number) * 4294967296 + (words[0] as number);
      memory.load(address, piece.length, piece, 0);
      pieces.push(piece);
      total += piece.length;
    }
    const all = Buffer.concat(pieces);
    return Uint8Array.from(all.subarray(0, this.shorten(Math.min(total, bytesMax))));
  }

  /** The network lets this end know, after `delayUs`, that the connection is gone. */
  broke(delayUs: number): void {
    this.connection.network.options.scheduler.after(delayUs, () => {
      this.isBroken = true;
      this.wake();
    });
  }

  close(): void {
    if (this.isClosing) return;
    this.isClosing = true;
    this.outgoing.end();
    this.wake();
  }

  /** Its process is gone. What was sent arrives; the peer hears the end only `isKilled`. */
  abandon(isKilled: boolean): void {
    this.handler = null;
    this.sending = null;
    this.receiving = null;
    if (isKilled && !this.isClosing) this.outgoing.end();
    this.isClosing = true;
  }

  private finishClose(handler: StreamHandler): void {
    this.deliverLate();
    if (this.sending !== null) {
      this.gather(0x7fffffff);
      this.sending = null;
      handler.streamSent(-ECANCELED);
    }
    if (this.receiving !== null) {
      this.receiving = null;
      handler.streamReceived(-ECANCELED);
    }
    this.handler = null;
    handler.streamClosed();
  }
}
