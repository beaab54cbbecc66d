// Two daemons in the simulator: an owner's link and a server of replicas over a simulated network,
// a disk that holds fake replicas and remembers what landed in which order, and an owner that
// writes, loses connections and sends again.

import { type Prng, SegmentCopier } from "../base/index.ts";
import type {
  FenceAnswer,
  Log,
  Replica,
  ReplicaFailure,
  ReplicaHandler,
  ReplicaProvider,
  SlabImage,
  SlabPage,
} from "../ports/index.ts";
import { HmacSecret } from "../sys/index.ts";
import {
  type SimConnection,
  SimMemory,
  SimNetwork,
  SimReactor,
  SimScheduler,
} from "../testing/sim/index.ts";
import { PeerGrants } from "./peer-grants.ts";
import { PeerLink, type PeerLinkOptions } from "./peer-link.ts";
import type { PeerPlantedBugs } from "./planted.ts";
import type { RemoteReplica } from "./remote-replica.ts";
import { ReplicaServer } from "./replica-server.ts";

export const CLUSTER = "11111111-0000-4000-8000-000000000001";
export const NODE_A = "aaaaaaaa-0000-4000-8000-000000000001";
export const NODE_B = "bbbbbbbb-0000-4000-8000-000000000002";
export const NODE_C = "cccccccc-0000-4000-8000-000000000003";
export const VOLUME = "99999999-0000-4000-8000-000000000009";
export const DISK = "dddddddd-0000-4000-8000-00000000000d";
export const KEY: Uint8Array = new Uint8Array(32).fill(7);

export interface Landed {
  readonly block: number;
  readonly epoch: number;
  readonly sequence: number;
  readonly value: number;
}

/** One disk of the member: blocks, the epoch it is fenced to, and all that ever landed. */
export class FakeDisk implements ReplicaProvider {
  readonly rig: PeerRig;
  epoch = 0;
  committed = 0;
  readonly blocks: Map<number, number> = new Map();
  readonly landed: Landed[] = [];
  /** Sees each block as it lands. */
  watch: (landed: Landed) => void = () => {};
  readonly open: FakeReplica[] = [];
  openCount = 0;
  /** Writes that a fence found on their way: the server should have let them end. */
  overtakenCount = 0;
  /** Of a write or read, by chance. */
  delayMaxUs = 300;
  /** While set nothing completes. */
  isStuck = false;
  stuck: (() => void)[] = [];
  fenceAnswer: Partial<FenceAnswer> = {};
  readonly slabs: SlabPage = {
    slabs: [
      { extentIndex: 1, slab: 2, epoch: 3, sequence: 2 ** 40 + 4 },
      { extentIndex: 5, slab: 6, epoch: 7, sequence: 8 },
    ],
    cursor: 77,
  };

  constructor(rig: PeerRig) {
    this.rig = rig;
  }

  openReplica(
    volumeUuid: string,
    diskUuid: string,
    handler: ReplicaHandler,
  ): Replica | ReplicaFailure {
    if (volumeUuid !== VOLUME || diskUuid !== DISK) {
      return { code: "unknown-volume", message: `no volume ${volumeUuid} here` };
    }
    const replica = new FakeReplica(this, handler);
    this.open.push(replica);
    this.openCount += 1;
    return replica;
  }

  later(action: () => void): void {
    const run = (): void => {
      if (this.isStuck) this.stuck.push(action);
      else action();
    };
    const delayUs = this.rig.prng.unit() * this.delayMaxUs;
    this.rig.scheduler.after(delayUs, run, { label: "disk" });
  }

  unstick(): void {
    this.isStuck = false;
    for (const action of this.stuck.splice(0)) action();
  }
}

export class FakeReplica implements Replica {
  readonly name = "fake";
  readonly isLocal = true;
  isClosed = false;
  epoch = 0;
  inflight = 0;
  private readonly disk: FakeDisk;
  private readonly handler: ReplicaHandler;

  constructor(disk: FakeDisk, handler: ReplicaHandler) {
    this.disk = disk;
    this.handler = handler;
  }

  write(
    tag: number,
    op: number,
    firstBlock: number,
    blockCount: number,
    address: number,
    sequence: number,
  ): void {
    if (this.isClosed) throw new Error("a write of a closed replica");
    const epoch = this.epoch;
    this.inflight += 1;
    this.disk.later(() => {
      this.inflight -= 1;
      if (epoch !== 0 && epoch < this.disk.epoch) {
        this.disk.overtakenCount += 1;
        this.handler.replicaCompleted(tag, -116);
        return;
      }
      for (let index = 0; index < blockCount; index++) {
        const block = firstBlock + index;
        const value = op === 1 ? 0 : this.disk.rig.serverWord(address + index * 4096);
        if (op === 1 && index > 64) break;
        this.disk.blocks.set(block, value);
        this.disk.landed.push({ block, epoch, sequence, value });
        this.disk.watch({ block, epoch, sequence, value });
      }
      this.handler.replicaCompleted(tag, 0);
    });
  }

  submitRead(slot: number): void {
    const { requests, memory } = this.disk.rig.server;
    this.disk.later(() => {
      const first = (requests.offsetBytes[slot] as number) / 4096;
      const address = requests.segmentAddress(slot, 0);
      for (let index = 0; index < (requests.lengthBytes[slot] as number) / 4096; index++) {
        const value = this.disk.blocks.get(first + index) ?? 0;
        if (value === 0xbad) {
          requests.complete(slot, -74);
          return;
        }
        memory.fill(address + index * 4096, 0, 4096);
        this.disk.rig.putServerWord(address + index * 4096, value);
      }
      requests.complete(slot, 0);
    });
  }

  /** As the store says it when somebody else fences. */
  fencedBy(epoch: number): void {
    this.handler.replicaFenced?.(epoch);
  }

  setCommitted(sequence: number): void {
    this.disk.committed = sequence;
  }

  fence(epoch: number, done: (answer: FenceAnswer | ReplicaFailure) => void): void {
    this.disk.later(() => {
      if (epoch < this.disk.epoch) {
        const { epoch: held } = this.disk;
        done({ code: "stale-epoch", message: `epoch ${held} has been here`, epoch: held });
        return;
      }
      this.disk.epoch = epoch;
      this.epoch = epoch;
      const none = { epoch: 0, sequence: 0, committedEpoch: 0, committedSequence: 0 };
      done({ ...none, above: [], uncertain: [], ...this.disk.fenceAnswer });
    });
  }

  listSlabs(
    _since: { readonly epoch: number; readonly sequence: number },
    _cursor: number,
    done: (page: SlabPage | ReplicaFailure) => void,
  ): void {
    this.disk.later(() => done(this.disk.slabs));
  }

  readSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    address: number,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void {
    this.disk.later(() => {
      this.disk.rig.server.memory.fill(address, at.slab, 65536);
      done({ epoch: 4, sequence: 5, states: 0x55555555 });
    });
  }

  writeSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    image: SlabImage,
    address: number,
    done: (failure: ReplicaFailure | null) => void,
  ): void {
    this.disk.later(() => {
      const value = this.disk.rig.serverWord(address);
      const { epoch, sequence } = image;
      this.disk.landed.push({ block: at.slab, epoch, sequence, value });
      done(image.states === 0 ? { code: "disk", message: "no such states" } : null);
    });
  }

  close(): void {
    if (this.inflight > 0) throw new Error("a replica was closed with writes on their way");
    this.isClosed = true;
    this.disk.open.splice(this.disk.open.indexOf(this), 1);
  }
}

export interface RigOptions {
  readonly seed: number;
  readonly planted?: PeerPlantedBugs;
  readonly connected?: (connection: SimConnection) => void;
  readonly windowBytes?: number;
  readonly ownerKey?: Uint8Array;
  readonly link?: Partial<PeerLinkOptions>;
  readonly isShort?: boolean;
}

const QUIET: Log = { log(): void {} };

export class PeerRig {
  readonly scheduler: SimScheduler;
  readonly prng: Prng;
  readonly memory: SimMemory = new SimMemory(128 * 1048576);
  readonly owner: SimReactor;
  readonly server: SimReactor;
  readonly network: SimNetwork;
  readonly disk: FakeDisk;
  readonly serverGrants: PeerGrants;
  readonly replicaServer: ReplicaServer;
  readonly link: PeerLink;
  private readonly options: RigOptions;
  private readonly words: Uint8Array = new Uint8Array(4);

  constructor(options: RigOptions) {
    this.options = options;
    this.scheduler = new SimScheduler(options.seed, { stepsMax: 5_000_000 });
    this.prng = this.scheduler.fork();
    const reactorOptions = { scheduler: this.scheduler, memory: this.memory, requestSlots: 64 };
    this.owner = new SimReactor(reactorOptions);
    this.server = new SimReactor(reactorOptions);
    this.network = new SimNetwork({
      scheduler: this.scheduler,
      memory: this.memory,
      ...(options.connected === undefined ? {} : { connected: options.connected }),
      ...(options.windowBytes === undefined ? {} : { windowBytes: options.windowBytes }),
      ...(options.isShort === undefined ? {} : { isShort: options.isShort }),
    });
    this.disk = new FakeDisk(this);
    this.serverGrants = new PeerGrants(this.scheduler.clock);
    this.replicaServer = this.newServer();
    this.link = this.newLink(NODE_A, 1000);
  }

  private newServer(): ReplicaServer {
    const identity = { clusterId: CLUSTER, nodeId: NODE_B, incarnation: 2000, reactor: 0 };
    const isKnownNode = (nodeId: string): boolean => nodeId === NODE_A || nodeId === NODE_C;
    const { planted } = this.options;
    const options = { identity, isKnownNode };
    return new ReplicaServer(planted === undefined ? options : { ...options, planted }, {
      reactor: this.server,
      provider: this.disk,
      secret: new HmacSecret(KEY),
      grants: this.serverGrants,
      log: QUIET,
    });
  }

  /** A link of another owner. */
  newLink(nodeId: string, incarnation: number, reactor = 0): PeerLink {
    const identity = { clusterId: CLUSTER, nodeId, incarnation, reactor };
    return new PeerLink(
      { identity, targetNodeId: NODE_B, ...this.options.link },
      {
        reactor: this.owner,
        dialer: this.network.dialer(this.replicaServer),
        secret: new HmacSecret(this.options.ownerKey ?? KEY),
        random: this.scheduler.fork(),
        copier: new SegmentCopier(this.owner.requests, this.memory),
        log: QUIET,
      },
    );
  }

  serverWord(address: number): number {
    this.memory.load(address, 4, this.words, 0);
    return new DataView(this.words.buffer).getUint32(0, true);
  }

  putServerWord(address: number, value: number): void {
    const word = new Uint8Array(4);
    new DataView(word.buffer).setUint32(0, value, true);
    this.memory.store(address, 4, word, 0);
  }

  runUntil(condition: () => boolean, what: string, limitMs = 60_000): void {
    const untilUs = this.scheduler.clock.nowUs() + limitMs * 1000;
    const isOver = (): boolean => condition() || this.scheduler.clock.nowUs() > untilUs;
    this.scheduler.runUntil(isOver, what);
    if (!condition()) throw new Error(`seed ${this.options.seed}: waited in vain for ${what}`);
  }

  runFor(ms: number): void {
    this.scheduler.runFor(ms * 1000);
  }
}

/** Writes blocks, one write of a block at a time, and sends again what a connection took along. */
export class MiniOwner implements ReplicaHandler {
  readonly rig: PeerRig;
  readonly link: PeerLink;
  replica: RemoteReplica;
  sequence = 0;
  fencedBy = 0;
  lost: ReplicaFailure | null = null;
  resumeCount = 0;
  /** Of each block the value of the last write that was acknowledged. */
  readonly acked: Map<number, number> = new Map();
  readonly results: number[] = [];
  private readonly pending: Map<number, PendingWrite> = new Map();
  private readonly locked: Set<number> = new Set();
  private readonly arena;
  private nextValue = 1;

  constructor(rig: PeerRig, link: PeerLink = rig.link, name = "b/d") {
    this.rig = rig;
    this.link = link;
    this.arena = rig.memory.allocate(64 * 4096);
    this.replica = link.openReplica({
      name,
      volumeUuid: VOLUME,
      diskUuid: DISK,
      handler: this,
      events: {
        replicaResumed: () => this.resumed(),
        replicaLost: (_replica, failure) => {
          this.lost = failure;
        },
      },
    });
  }

  get pendingCount(): number {
    return this.pending.size;
  }

  fence(epoch: number): FenceAnswer | ReplicaFailure {
    let answer: FenceAnswer | ReplicaFailure | null = null;
    this.replica.fence(epoch, (known) => {
      answer = known;
    });
    this.rig.runUntil(() => answer !== null, "a fence's answer");
    return answer as unknown as FenceAnswer | ReplicaFailure;
  }

  /** Fences until it works: the first dial may not have ended. */
  fenceSurely(epoch: number): void {
    for (let attempt = 0; attempt < 200; attempt++) {
      if (!("code" in this.fence(epoch))) return;
      this.rig.runFor(30);
    }
    throw new Error(`no fence: ${this.link.lastFailure}`);
  }

  /** One block; false when a write of it is under way, or too many are. */
  write(block: number): boolean {
    if (this.locked.has(block) || this.pending.size >= 64) return false;
    let tag = 0;
    while (this.pending.has(tag)) tag += 1;
    const value = this.nextValue;
    this.nextValue += 1;
    this.sequence += 1;
    const address = this.arena.address + tag * 4096;
    this.rig.putServerWord(address, value);
    this.locked.add(block);
    const write = { block, value, address, sequence: this.sequence };
    this.pending.set(tag, { ...write, isSent: true });
    this.replica.write(tag, 0, block, 1, address, write.sequence);
    return true;
  }

  replicaCompleted(tag: number, result: number): void {
    const write = this.pending.get(tag);
    if (write === undefined || !write.isSent) throw new Error(`tag ${tag} completed twice`);
    this.results.push(result);
    if (result === 0) {
      this.acked.set(write.block, write.value);
      this.pending.delete(tag);
      this.locked.delete(write.block);
    } else {
      write.isSent = false;
      if (this.replica.isReady) this.send(tag, write);
    }
  }

  private send(tag: number, write: PendingWrite): void {
    write.isSent = true;
    this.replica.write(tag, 0, write.block, 1, write.address, write.sequence);
  }

  private resumed(): void {
    this.resumeCount += 1;
    for (const [tag, write] of this.pending) if (!write.isSent) this.send(tag, write);
  }

  replicaFenced(epoch: number): void {
    this.fencedBy = epoch;
  }
}

interface PendingWrite {
  readonly block: number;
  readonly value: number;
  readonly address: number;
  readonly sequence: number;
  isSent: boolean;
}
