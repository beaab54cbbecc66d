// @hot
// The data of fresh and redirected writes on its way to its slabs: gathered during a turn of the
// loop, and sent at its end, neighbours in one operation. Slabs taken one after the other mostly
// lie side by side, so a large write is one operation, and one flush of the disk's cache, not one
// for each slab.
//
//   add, add, add --flush()--> [op, op] [op]   lists by OpTable.dataNext; the first has the answer
//
// Invariant: an operation is in at most one list from add() until the disk's answer was taken.

import type { Address } from "../ports/index.ts";
import type { BufferPool } from "./buffer-pool.ts";
import { BLOCK_BYTES, BLOCK_SHIFT, SLAB_BYTES } from "./layouts.ts";
import type { OpTable } from "./op-table.ts";
import type { StoreParts } from "./parts.ts";
import { IOVECS_PER_OP, type SegmentView } from "./segments.ts";

interface DataParts extends StoreParts {
  readonly buffers: BufferPool;
  readonly segments: SegmentView;
}

export class DataWrites {
  private readonly parts: DataParts;
  private readonly ops: OpTable;
  private head = -1;
  private tail = -1;

  constructor(parts: DataParts) {
    this.parts = parts;
    this.ops = parts.ops;
  }

  /**
   * Where the data lies: in a buffer, or where a replica's owner keeps it. That memory is the
   * owner's own and stays as it is until the answer (ports/replica.ts), so it needs no copy.
   */
  addressOf(op: number): Address {
    const buffer = this.ops.buffer[op] as number;
    return buffer === -1 ? (this.ops.address[op] as number) : this.parts.buffers.addressOf(buffer);
  }

  /** The operation's data is there; `location` says where it goes. */
  add(op: number): void {
    if (this.parts.planted.noPrivateCopy && (this.ops.slot[op] as number) >= 0) {
      this.writeCallersMemory(op);
      return;
    }
    if (this.tail === -1) this.head = op;
    else this.ops.dataNext[this.tail] = op;
    this.tail = op;
  }

  flush(): void {
    let op = this.head;
    this.head = -1;
    this.tail = -1;
    while (op !== -1) op = this.write(op);
  }

  /** Writes the data of `first` and of those behind it that lie next on the disk. */
  private write(first: number): number {
    const ops = this.ops;
    const { disk, segments, flushNeeded } = this.parts;
    const offset = this.diskOffset(first);
    const address = this.addressOf(first);
    let last = first;
    let bytes = this.bytesOf(first);
    let count = 1;
    segments.setIovec(first, 0, address, bytes);
    let next = ops.dataNext[first] as number;
    while (next !== -1 && count < IOVECS_PER_OP && this.diskOffset(next) === offset + bytes) {
      const nextBytes = this.bytesOf(next);
      segments.setIovec(first, count, this.addressOf(next), nextBytes);
      bytes += nextBytes;
      count += 1;
      last = next;
      next = ops.dataNext[next] as number;
    }
    ops.dataNext[last] = -1;
    if (count > 1) disk.writev(first, offset, segments.iovecsOf(first), count, flushNeeded);
    else disk.write(first, offset, address, bytes, flushNeeded);
    return next;
  }

  /** Bytes of the disk operation that `first` stands for. */
  totalBytes(first: number): number {
    let bytes = 0;
    let op = first;
    while (op !== -1) {
      bytes += this.bytesOf(op);
      op = this.ops.dataNext[op] as number;
    }
    return bytes;
  }

  /** The disk has failed: what was not sent will not be, and nobody waits for it. */
  drop(): void {
    const ops = this.ops;
    let op = this.head;
    this.head = -1;
    this.tail = -1;
    while (op !== -1) {
      const next = ops.dataNext[op] as number;
      ops.dataNext[op] = -1;
      ops.dataDone[op] = 1;
      op = next;
    }
  }

  private bytesOf(op: number): number {
    return (this.ops.blockCount[op] as number) * BLOCK_BYTES;
  }

  private diskOffset(op: number): number {
    const slab = (this.ops.location[op] as number) - 1;
    const inSlab = (this.ops.firstBlock[op] as number) << BLOCK_SHIFT;
    return this.parts.geometry.slabOffsetBytes + slab * SLAB_BYTES + inSlab;
  }

  /** For the planted bug of that name: the disk reads what the caller may still change. */
  private writeCallersMemory(op: number): void {
    const { disk, segments, flushNeeded } = this.parts;
    const slot = this.ops.slot[op] as number;
    const skip = this.ops.skipBytes[op] as number;
    const bytes = this.bytesOf(op);
    let address = this.addressOf(op);
    if (segments.prepare(op, slot, skip, bytes, 511, 511) && segments.iovecCount === 1) {
      address = segments.address;
    }
    disk.write(op, this.diskOffset(op), address, bytes, flushNeeded);
  }
}
