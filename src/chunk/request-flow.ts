// @hot
// From requests to operations and back: a request of the block device is cut into the slabs it
// touches, and answered when the last of its operations has ended, with the first error.
//
// Invariants: a request is answered once; none is begun before those that wait for a free
// operation or for room; what is not there reads as zeroes and costs no operation.

import {
  assert,
  EBADMSG,
  EIO,
  ENOSPC,
  EROFS,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  type RequestTable,
  type SegmentCopier,
} from "../base/index.ts";
import {
  BLOCK_BYTES,
  BLOCK_SHIFT,
  BLOCK_ZERO,
  EXTENT_BYTES,
  SLAB_BLOCKS,
  SLAB_BYTES,
} from "./layouts.ts";
import { OP_KIND_CLEAR, OP_KIND_READ, OP_KIND_WRITE, type OpTable } from "./op-table.ts";
import { stampHigh, stampLow } from "./stamps.ts";
import { EXTENT_NONE } from "./tables.ts";

/** What a request needs to know of its volume. */
export interface FlowVolume {
  readonly volume: number;
  readonly info: { readonly capacityBytes: number; readonly readOnly: boolean };
  /** Extent of each 256 MiB, EXTENT_NONE where nothing was written. */
  readonly map: Int32Array;
  readonly epoch: number;
  /** Of the last write. */
  sequence: number;
  inflightCount: number;
  /** -EBADMSG for a damaged block is passed on: there is another copy to be read. */
  readonly tellsDamage: boolean;
}

export interface FlowClient {
  readonly writesFailed: boolean;
  beginRead(op: number): void;
  beginWrite(op: number): void;
  /** An extent for this part of the volume: its number, EXTENT_NONE = no room now, or -ENOSPC. */
  takeExtent(volume: FlowVolume, index: number): number;
}

export class RequestFlow {
  readonly requests: RequestTable;
  inflightCount = 0;
  private readonly ops: OpTable;
  private readonly copier: SegmentCopier;
  private readonly client: FlowClient;
  private readonly volumes: (FlowVolume | null)[];
  private readonly remaining: Int32Array;
  private readonly result: Int32Array;
  private readonly nextBytes: Float64Array;
  private readonly parked: Int32Array;
  private parkedHead = 0;
  private parkedTail = 0;
  private resuming = false;

  constructor(requests: RequestTable, ops: OpTable, copier: SegmentCopier, client: FlowClient) {
    this.requests = requests;
    this.ops = ops;
    this.copier = copier;
    this.client = client;
    this.volumes = new Array<FlowVolume | null>(requests.capacity).fill(null);
    this.remaining = new Int32Array(requests.capacity);
    this.result = new Int32Array(requests.capacity);
    this.nextBytes = new Float64Array(requests.capacity);
    this.parked = new Int32Array(requests.capacity);
  }

  /** The disk has failed: it takes no more writes. */
  get writesFailed(): boolean {
    return this.client.writesFailed;
  }

  get hasParked(): boolean {
    return this.parkedHead !== this.parkedTail;
  }

  submit(slot: number, volume: FlowVolume): void {
    const { requests } = this;
    const refused = this.refusal(slot, volume);
    if (refused <= 0) {
      requests.complete(slot, refused);
      return;
    }
    this.volumes[slot] = volume;
    this.remaining[slot] = 1;
    this.result[slot] = 0;
    this.nextBytes[slot] = 0;
    volume.inflightCount += 1;
    this.inflightCount += 1;
    if (this.hasParked) this.park(slot);
    else this.issue(slot);
  }

  /** 0: nothing to do; a negated errno; 1: to be carried out. */
  private refusal(slot: number, volume: FlowVolume): number {
    const { requests } = this;
    const op = requests.op[slot] as number;
    // What was answered is durable: nothing is left to be flushed.
    if (op === OP_FLUSH) return 0;
    if (op !== OP_READ && volume.info.readOnly) return -EROFS;
    if (op !== OP_READ && this.client.writesFailed) return -EIO;
    const offsetBytes = requests.offsetBytes[slot] as number;
    const lengthBytes = requests.lengthBytes[slot] as number;
    if (offsetBytes + lengthBytes > volume.info.capacityBytes) return -EIO;
    assert(offsetBytes % BLOCK_BYTES === 0, "a request that begins within a block");
    assert(lengthBytes % BLOCK_BYTES === 0, "a request that ends within a block");
    return lengthBytes === 0 ? 0 : 1;
  }

  private park(slot: number): void {
    this.parked[this.parkedTail % this.parked.length] = slot;
    this.parkedTail += 1;
  }

  /** Operations or room have become free. */
  resume(): void {
    if (this.resuming || !this.hasParked) return;
    this.resuming = true;
    while (this.hasParked && this.ops.freeCount > 1) {
      const slot = this.parked[this.parkedHead % this.parked.length] as number;
      const before = this.nextBytes[slot] as number;
      if (!this.issueSome(slot)) {
        // Still the first of those that wait; without progress there is nothing to be had.
        if (this.nextBytes[slot] === before) break;
        continue;
      }
      this.parkedHead += 1;
      this.oneDone(slot, 0);
    }
    this.resuming = false;
  }

  private issue(slot: number): void {
    if (this.issueSome(slot)) this.oneDone(slot, 0);
    else this.park(slot);
  }

  /** Begins operations from where the request stands; false when it has to wait. */
  private issueSome(slot: number): boolean {
    const { requests } = this;
    const volume = this.volumes[slot] as FlowVolume;
    const lengthBytes = requests.lengthBytes[slot] as number;
    const op = requests.op[slot] as number;
    while ((this.nextBytes[slot] as number) < lengthBytes) {
      const next = this.nextBytes[slot] as number;
      const at = (requests.offsetBytes[slot] as number) + next;
      const index = Math.floor(at / EXTENT_BYTES);
      const inExtent = at - index * EXTENT_BYTES;
      let extent = volume.map[index] as number;
      if (extent === EXTENT_NONE) {
        if (op !== OP_WRITE) {
          const bytes = Math.min(EXTENT_BYTES - inExtent, lengthBytes - next);
          const zeroed = op === OP_READ ? this.copier.zero(slot, next, bytes) : 0;
          if (zeroed !== 0) this.result[slot] = zeroed;
          this.nextBytes[slot] = next + bytes;
          continue;
        }
        extent = this.client.takeExtent(volume, index);
        if (extent === EXTENT_NONE) return false;
        if (extent < 0) {
          if (this.result[slot] === 0) this.result[slot] = -ENOSPC;
          return true;
        }
      }
      const bytes = Math.min(SLAB_BYTES - (inExtent % SLAB_BYTES), lengthBytes - next);
      if (!this.beginOp(slot, op, extent, inExtent, bytes, volume)) return false;
    }
    return true;
  }

  private beginOp(
    slot: number,
    requestOp: number,
    extent: number,
    inExtent: number,
    bytes: number,
    volume: FlowVolume,
  ): boolean {
    const ops = this.ops;
    const isRead = requestOp === OP_READ;
    const kind = isRead ? OP_KIND_READ : requestOp === OP_WRITE ? OP_KIND_WRITE : OP_KIND_CLEAR;
    const op = ops.acquire(kind, slot);
    if (op === -1) return false;
    const block = inExtent >>> BLOCK_SHIFT;
    ops.skipBytes[op] = this.nextBytes[slot] as number;
    ops.extent[op] = extent;
    ops.slab[op] = Math.floor(block / SLAB_BLOCKS);
    ops.firstBlock[op] = block % SLAB_BLOCKS;
    ops.blockCount[op] = bytes >>> BLOCK_SHIFT;
    this.nextBytes[slot] = (this.nextBytes[slot] as number) + bytes;
    this.remaining[slot] = (this.remaining[slot] as number) + 1;
    if (isRead) {
      this.client.beginRead(op);
      return true;
    }
    volume.sequence += 1;
    ops.stampLow[op] = stampLow(volume.sequence);
    ops.stampHigh[op] = stampHigh(volume.epoch, volume.sequence);
    ops.clearState[op] = BLOCK_ZERO;
    this.client.beginWrite(op);
    return true;
  }

  /** Age of the volume's oldest request on its way. */
  // @cold
  oldestUs(volume: FlowVolume, nowUs: number): number {
    let oldestUs = 0;
    for (let slot = 0; slot < this.volumes.length; slot++) {
      if (this.volumes[slot] !== volume) continue;
      oldestUs = Math.max(oldestUs, nowUs - (this.requests.startedUs[slot] as number));
    }
    return oldestUs;
  }

  /** An operation of the request in `slot` has ended. */
  oneDone(slot: number, result: number): void {
    if (result !== 0 && this.result[slot] === 0) this.result[slot] = result;
    const remaining = (this.remaining[slot] as number) - 1;
    this.remaining[slot] = remaining;
    assert(remaining >= 0, "a request has ended more often than it began");
    if (remaining > 0) return;
    const volume = this.volumes[slot] as FlowVolume;
    this.volumes[slot] = null;
    volume.inflightCount -= 1;
    this.inflightCount -= 1;
    const answer = this.result[slot] as number;
    this.requests.complete(slot, answer === -EBADMSG && !volume.tellsDamage ? -EIO : answer);
  }
}
