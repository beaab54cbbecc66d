// @hot
// Writes of replicas on their way: cut into the slabs they touch, as request-flow.ts does with
// requests, and answered through their owner's handler when the last part has ended.
//
// A write is an index into these arrays, which grow when there are more writes than ever before:
// whoever writes bounds how many. Lists are linked by `next`: free ones, those that wait for an
// operation or for room, those that have ended and are to be told.
//
// Invariants: writes begin in the order they came, so that those of one block are carried out in
// that order (block-locks.ts); nobody is told within the call that began the write; an index is
// used again only when its owner was told.

import { assert, EBADMSG, EIO, ENOSPC, ENOTCONN } from "../base/index.ts";
import type { Address, ReplicaHandler } from "../ports/index.ts";
import { REPLICA_ZERO } from "../ports/index.ts";
import { BLOCK_BYTES, BLOCK_ZERO, EXTENT_BLOCKS, SLAB_BLOCKS } from "./layouts.ts";
import { OP_KIND_CLEAR, OP_KIND_WRITE, type OpTable } from "./op-table.ts";
import type { ReplicaGate } from "./replica-gate.ts";
import type { FlowVolume } from "./request-flow.ts";
import { EXTENT_NONE } from "./tables.ts";

/** Who began a write. */
export interface ReplicaWriter {
  readonly gate: ReplicaGate;
  readonly handler: ReplicaHandler;
  readonly isClosed: boolean;
}

export interface ReplicaWritesClient {
  readonly writesFailed: boolean;
  beginWrite(op: number): void;
  takeExtent(volume: FlowVolume, index: number): number;
  /** Somebody is to be told: call deliver() from the loop. */
  answersWait(): void;
  /** Let a group of the ring take the committed stamp along. */
  commitMoved(gate: ReplicaGate): void;
  /** No write to the replica is on its way any more. */
  gateDrained(gate: ReplicaGate): void;
}

const COUNT_FIRST = 256;
const COUNT_MAX = 65536;

export class ReplicaWrites {
  /** Not answered yet, or not yet ended. */
  inflightCount = 0;
  private readonly ops: OpTable;
  private readonly client: ReplicaWritesClient;
  private readonly commitsAlone: boolean;
  private readonly writers: (ReplicaWriter | null)[] = [];
  private tags: Float64Array = new Float64Array(COUNT_FIRST);
  private kinds: Uint8Array = new Uint8Array(COUNT_FIRST);
  private firstBlocks: Float64Array = new Float64Array(COUNT_FIRST);
  private blockCounts: Uint32Array = new Uint32Array(COUNT_FIRST);
  private addresses: Float64Array = new Float64Array(COUNT_FIRST);
  private stampLows: Uint32Array = new Uint32Array(COUNT_FIRST);
  private stampHighs: Uint32Array = new Uint32Array(COUNT_FIRST);
  /** Blocks that operations were begun for. */
  private begun: Uint32Array = new Uint32Array(COUNT_FIRST);
  private remaining: Int32Array = new Int32Array(COUNT_FIRST);
  private results: Int32Array = new Int32Array(COUNT_FIRST);
  private next: Int32Array = new Int32Array(COUNT_FIRST);
  private freeHead = -1;
  private parkedHead = -1;
  private parkedTail = -1;
  private doneHead = -1;
  private doneTail = -1;
  private count = 0;
  private resuming = false;

  constructor(ops: OpTable, client: ReplicaWritesClient, commitsAlone: boolean) {
    this.ops = ops;
    this.commitsAlone = commitsAlone;
    this.client = client;
    this.addIndices(COUNT_FIRST);
  }

  get hasParked(): boolean {
    return this.parkedHead !== -1;
  }

  get hasAnswers(): boolean {
    return this.doneHead !== -1;
  }

  start(
    writer: ReplicaWriter,
    tag: number,
    kind: number,
    firstBlock: number,
    blockCount: number,
    address: Address,
    low: number,
    high: number,
  ): void {
    const write = this.take(writer, tag);
    this.kinds[write] = kind;
    this.firstBlocks[write] = firstBlock;
    this.blockCounts[write] = blockCount;
    this.addresses[write] = address;
    this.stampLows[write] = low;
    this.stampHighs[write] = high;
    this.begun[write] = 0;
    this.remaining[write] = 1;
    writer.gate.writeCount += 1;
    if (this.hasParked || !this.issueSome(write)) this.park(write);
    else this.oneDone(write, 0);
  }

  /** A write that is not let in. */
  refuse(writer: ReplicaWriter, tag: number, result: number): void {
    const write = this.take(writer, tag);
    this.results[write] = result;
    this.addDone(write);
  }

  private take(writer: ReplicaWriter, tag: number): number {
    if (this.freeHead === -1) this.grow();
    const write = this.freeHead;
    this.freeHead = this.next[write] as number;
    this.writers[write] = writer;
    this.tags[write] = tag;
    this.results[write] = 0;
    this.inflightCount += 1;
    return write;
  }

  private park(write: number): void {
    this.next[write] = -1;
    if (this.parkedTail === -1) this.parkedHead = write;
    else this.next[this.parkedTail] = write;
    this.parkedTail = write;
  }

  /** Operations or room have become free. */
  resume(): void {
    if (this.resuming) return;
    this.resuming = true;
    while (this.parkedHead !== -1 && this.ops.freeCount > 1) {
      const write = this.parkedHead;
      const before = this.begun[write] as number;
      if (!this.issueSome(write)) {
        // Still the first of those that wait; without progress there is nothing to be had.
        if (this.begun[write] === before) break;
        continue;
      }
      this.parkedHead = this.next[write] as number;
      if (this.parkedHead === -1) this.parkedTail = -1;
      this.oneDone(write, 0);
    }
    this.resuming = false;
  }

  /** Begins operations from where the write stands; false when it has to wait. */
  private issueSome(write: number): boolean {
    const { gate } = this.writers[write] as ReplicaWriter;
    const blockCount = this.blockCounts[write] as number;
    const isZero = this.kinds[write] === REPLICA_ZERO;
    while ((this.begun[write] as number) < blockCount) {
      const begun = this.begun[write] as number;
      const block = (this.firstBlocks[write] as number) + begun;
      const index = Math.floor(block / EXTENT_BLOCKS);
      const inExtent = block - index * EXTENT_BLOCKS;
      let extent = gate.map[index] as number;
      if (this.client.writesFailed) {
        this.results[write] = -EIO;
        return true;
      }
      if (extent === EXTENT_NONE && isZero) {
        // Zeroes where nothing was ever written leave no trace: every replica reads them there.
        this.begun[write] = begun + Math.min(EXTENT_BLOCKS - inExtent, blockCount - begun);
        continue;
      }
      if (extent === EXTENT_NONE) {
        extent = this.client.takeExtent(gate, index);
        if (extent === EXTENT_NONE) return false;
        if (extent < 0) {
          this.results[write] = -ENOSPC;
          return true;
        }
      }
      if (!this.beginOp(write, extent, inExtent, isZero)) return false;
    }
    return true;
  }

  private beginOp(write: number, extent: number, inExtent: number, isZero: boolean): boolean {
    const ops = this.ops;
    const op = ops.acquire(isZero ? OP_KIND_CLEAR : OP_KIND_WRITE, -1);
    if (op === -1) return false;
    const begun = this.begun[write] as number;
    const first = inExtent % SLAB_BLOCKS;
    const count = Math.min(SLAB_BLOCKS - first, (this.blockCounts[write] as number) - begun);
    ops.write[op] = write;
    ops.address[op] = (this.addresses[write] as number) + begun * BLOCK_BYTES;
    ops.extent[op] = extent;
    ops.slab[op] = Math.floor(inExtent / SLAB_BLOCKS);
    ops.firstBlock[op] = first;
    ops.blockCount[op] = count;
    ops.clearState[op] = BLOCK_ZERO;
    ops.stampLow[op] = this.stampLows[write] as number;
    ops.stampHigh[op] = this.stampHighs[write] as number;
    this.begun[write] = begun + count;
    this.remaining[write] = (this.remaining[write] as number) + 1;
    this.client.beginWrite(op);
    return true;
  }

  /** An operation of the write has ended. */
  opDone(write: number, result: number): void {
    if (result === 0) {
      const { gate } = this.writers[write] as ReplicaWriter;
      gate.applied(this.stampLows[write] as number, this.stampHighs[write] as number);
    }
    this.oneDone(write, result);
  }

  /** An operation of the write has ended, or all of them were begun. */
  private oneDone(write: number, result: number): void {
    // To the owner a page that cannot be read is a disk that does not take the write.
    if (result !== 0 && this.results[write] === 0) {
      this.results[write] = result === -EBADMSG ? -EIO : result;
    }
    const remaining = (this.remaining[write] as number) - 1;
    this.remaining[write] = remaining;
    assert(remaining >= 0, "a write has ended more often than it began");
    if (remaining > 0) return;
    const { gate } = this.writers[write] as ReplicaWriter;
    if (this.results[write] === 0 && this.commitsAlone) this.commitAlone(gate, write);
    this.addDone(write);
    gate.writeCount -= 1;
    if (gate.writeCount === 0) this.client.gateDrained(gate);
  }

  /** For the planted bug of that name. */
  private commitAlone(gate: ReplicaGate, write: number): void {
    const isNew = gate.commit(this.stampLows[write] as number, this.stampHighs[write] as number);
    if (isNew) this.client.commitMoved(gate);
  }

  private addDone(write: number): void {
    this.next[write] = -1;
    if (this.doneTail === -1) this.doneHead = write;
    else this.next[this.doneTail] = write;
    this.doneTail = write;
    this.client.answersWait();
  }

  /** Tells the owners what has ended so far. */
  deliver(): void {
    let write = this.doneHead;
    this.doneHead = -1;
    this.doneTail = -1;
    while (write !== -1) {
      const following = this.next[write] as number;
      const writer = this.writers[write] as ReplicaWriter;
      const tag = this.tags[write] as number;
      const result = writer.isClosed ? -ENOTCONN : (this.results[write] as number);
      this.writers[write] = null;
      this.next[write] = this.freeHead;
      this.freeHead = write;
      this.inflightCount -= 1;
      writer.handler.replicaCompleted(tag, result);
      write = following;
    }
  }

  private addIndices(count: number): void {
    for (let write = count - 1; write >= this.count; write--) {
      this.writers[write] = null;
      this.next[write] = this.freeHead;
      this.freeHead = write;
    }
    this.count = count;
  }

  // @cold
  private grow(): void {
    const count = this.count * 2;
    assert(count <= COUNT_MAX, "more writes to replicas on their way than any owner may have");
    const grown = <T extends { set(from: T): void }>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.tags = grown(new Float64Array(count), this.tags);
    this.kinds = grown(new Uint8Array(count), this.kinds);
    this.firstBlocks = grown(new Float64Array(count), this.firstBlocks);
    this.blockCounts = grown(new Uint32Array(count), this.blockCounts);
    this.addresses = grown(new Float64Array(count), this.addresses);
    this.stampLows = grown(new Uint32Array(count), this.stampLows);
    this.stampHighs = grown(new Uint32Array(count), this.stampHighs);
    this.begun = grown(new Uint32Array(count), this.begun);
    this.remaining = grown(new Int32Array(count), this.remaining);
    this.results = grown(new Int32Array(count), this.results);
    this.next = grown(new Int32Array(count), this.next);
    this.addIndices(count);
  }
}
