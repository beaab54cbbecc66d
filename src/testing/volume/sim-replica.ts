// A replica as the owner under test sees it: the Replica port over a SimLink to a SimNode. Each fence
// opens a connection and a session of its own; what was outstanding in the one before completes with
// -ENOTCONN first.

import { EBADMSG, ENOTCONN, type RequestTable } from "../../base/index.ts";
import type {
  FenceAnswer,
  Replica,
  ReplicaFailure,
  ReplicaHandler,
  SlabImage,
  SlabPage,
  Stamp,
} from "../../ports/index.ts";
import { REPLICA_ZERO } from "../../ports/index.ts";
import type { SimMemory } from "../sim/index.ts";
import type { SimConnection, SimLink } from "./sim-link.ts";
import { BLOCK_BYTES, type NodeSession, type SimNode, SLAB_BLOCKS } from "./sim-node.ts";

const LOST: ReplicaFailure = { code: "lost", message: "the node cannot be reached" };

/** Of the owner's process: it may be paused, or gone. */
export interface SimHost {
  readonly name: string;
  readonly memory: SimMemory;
  readonly requests: RequestTable;
  /** Does it when the process runs; never once it is gone. */
  run(action: () => void): void;
  later(delayUs: number, action: () => void): void;
}

export class SimReplica implements Replica {
  readonly name: string;
  readonly isLocal: boolean;
  private readonly host: SimHost;
  private readonly node: SimNode;
  private readonly link: SimLink;
  private readonly handler: ReplicaHandler;
  private connection: SimConnection | null = null;
  private session: NodeSession | null = null;
  private isClosed = false;
  private committed: Stamp = { epoch: 0, sequence: 0 };
  /** What has to be told when the connection breaks. */
  private readonly outstanding: Set<() => void> = new Set();

  constructor(host: SimHost, node: SimNode, link: SimLink, handler: ReplicaHandler) {
    this.name = node.disk;
    this.isLocal = link.isLocal;
    this.host = host;
    this.node = node;
    this.link = link;
    this.handler = handler;
  }

  /** Sends a call, and makes sure that exactly one of `answered` and `lost` follows. */
  private call<Answer>(
    ask: (node: SimNode, session: NodeSession, answer: (value: Answer) => void) => void,
    answered: (value: Answer) => void,
    lost: () => void,
  ): void {
    const { connection, session, node, host } = this;
    const end = (action: () => void): void => {
      if (!this.outstanding.delete(fail)) return;
      host.run(action);
    };
    const fail = (): void => end(lost);
    this.outstanding.add(fail);
    if (connection === null || session === null || !connection.isOpen) {
      host.later(10, fail);
      return;
    }
    connection.toNode(() => {
      if (!node.isUp) {
        connection.break();
        return;
      }
      ask(node, session, (value) => connection.toOwner(() => end(() => answered(value))));
    });
  }

  private leave(): void {
    const before = this.connection;
    this.connection = null;
    this.session = null;
    before?.break();
    for (const fail of Array.from(this.outstanding)) this.host.later(1, fail);
  }

  write(
    tag: number,
    op: number,
    firstBlock: number,
    blockCount: number,
    address: number,
    sequence: number,
  ): void {
    const { memory } = this.host;
    const data: (Uint8Array | null)[] = [];
    for (let at = 0; at < blockCount; at++) {
      const isZero = op === REPLICA_ZERO;
      data.push(isZero ? null : this.take(address + at * BLOCK_BYTES, memory));
    }
    const epoch = this.session?.epoch ?? 0;
    const { committed } = this;
    this.call<number>(
      (node, session, answer) =>
        node.write(session, op, firstBlock, data, { epoch, sequence }, committed, answer),
      (result) => this.handler.replicaCompleted(tag, result),
      () => this.handler.replicaCompleted(tag, -ENOTCONN),
    );
  }

  private take(address: number, memory: SimMemory): Uint8Array {
    const block = new Uint8Array(BLOCK_BYTES);
    memory.load(address, BLOCK_BYTES, block, 0);
    return block;
  }

  submitRead(slot: number): void {
    const { requests } = this.host;
    const first = requests.offsetBytes[slot] / BLOCK_BYTES;
    const count = requests.lengthBytes[slot] / BLOCK_BYTES;
    this.call<(Uint8Array | null)[] | number>(
      (node, session, answer) => answer(node.read(session, first, count)),
      (blocks) => {
        if (typeof blocks === "number") {
          requests.complete(slot, blocks === -74 ? -EBADMSG : blocks);
          return;
        }
        this.scatter(slot, blocks);
        requests.complete(slot, 0);
      },
      () => requests.complete(slot, -ENOTCONN),
    );
  }

  private scatter(slot: number, blocks: readonly (Uint8Array | null)[]): void {
    const { requests, memory } = this.host;
    const data = new Uint8Array(blocks.length * BLOCK_BYTES);
    for (const [at, block] of blocks.entries())
      if (block !== null) data.set(block, at * BLOCK_BYTES);
    let done = 0;
    for (let index = 0; index < requests.segmentCount[slot]; index++) {
      const bytes = requests.segmentBytes(slot, index);
      memory.store(requests.segmentAddress(slot, index), bytes, data, done);
      done += bytes;
    }
  }

  setCommitted(sequence: number): void {
    this.committed = { epoch: this.session?.epoch ?? 0, sequence };
  }

  fence(epoch: number, done: (answer: FenceAnswer | ReplicaFailure) => void): void {
    this.leave();
    const connection = this.isClosed ? null : this.link.connect();
    this.connection = connection;
    this.session = { epoch, process: this.host.name };
    this.committed = { epoch, sequence: 0 };
    if (connection !== null) {
      const crashed = (): void => connection.break();
      this.node.onCrash.add(crashed);
      connection.onBreak = () => {
        this.node.onCrash.delete(crashed);
        if (this.connection !== connection) return;
        for (const fail of Array.from(this.outstanding)) this.host.later(1, fail);
      };
    }
    this.call<FenceAnswer | ReplicaFailure>(
      (node, session, answer) => node.fence(session, answer),
      done,
      () => done(LOST),
    );
  }

  listSlabs(since: Stamp, cursor: number, done: (page: SlabPage | ReplicaFailure) => void): void {
    this.call<SlabPage | null>(
      (node, session, answer) => answer(node.listSlabs(session, since, cursor)),
      (page) => done(page ?? LOST),
      () => done(LOST),
    );
  }

  readSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    address: number,
    done: (image: SlabImage | ReplicaFailure) => void,
  ): void {
    this.call<ReturnType<SimNode["readSlab"]>>(
      (node, session, answer) => answer(node.readSlab(session, at.extentIndex * 4096 + at.slab)),
      (content) => {
        if (content === null) done(LOST);
        else if (content === "damaged") done({ code: "damaged", message: "a block is damaged" });
        else {
          let states = 0;
          for (const [index, block] of content.blocks.entries()) {
            const target = address + index * BLOCK_BYTES;
            if (block === null) this.host.memory.fill(target, 0, BLOCK_BYTES);
            else this.host.memory.store(target, BLOCK_BYTES, block, 0);
            states += (block === null ? 2 : 1) * 4 ** index;
          }
          done({ ...content.stamp, states });
        }
      },
      () => done(LOST),
    );
  }

  writeSlab(
    at: { readonly extentIndex: number; readonly slab: number },
    image: SlabImage,
    address: number,
    done: (failure: ReplicaFailure | null) => void,
  ): void {
    const blocks: (Uint8Array | null)[] = [];
    for (let index = 0; index < SLAB_BLOCKS; index++) {
      const state = Math.floor(image.states / 4 ** index) % 4;
      blocks.push(state === 1 ? this.take(address + index * BLOCK_BYTES, this.host.memory) : null);
    }
    const stamp = { epoch: image.epoch, sequence: image.sequence };
    const slab = at.extentIndex * 4096 + at.slab;
    this.call<boolean>(
      (node, session, answer) => node.writeSlab(session, slab, { stamp, blocks }, answer),
      (isDone) => done(isDone ? null : LOST),
      () => done(LOST),
    );
  }

  close(): void {
    this.isClosed = true;
    this.leave();
  }
}
