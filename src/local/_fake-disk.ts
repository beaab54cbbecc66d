// Test disk: a file in an array. Operations wait until the test lets one complete, in any order;
// only then are memory and file touched, so whatever was changed too early shows. Faults are
// chosen by the test per operation. It refuses what a kernel refuses: misaligned direct I/O, and
// memory that has been truncated.

import { assert, EFAULT, EINVAL, EOPNOTSUPP } from "../base/index.ts";
import { type Address, DEALLOCATE_PUNCH, type Disk, type DiskHandler } from "../ports/index.ts";
import type { FakeMemory } from "./_fake-memory.ts";

export type DiskOperationKind = "read" | "write" | "sync" | "punch" | "zero";

export interface DiskOperation {
  readonly kind: DiskOperationKind;
  readonly tag: number;
  readonly offsetBytes: number;
  readonly bytes: number;
  /** Address and length of each piece of memory, as they were when it was submitted. */
  readonly pieces: readonly (readonly [Address, number])[];
  readonly durable: boolean;
  /** Where the iovecs lie, 0 if there are none. */
  readonly iovecs: Address;
}

/** Negative: that error and nothing happens. Otherwise at most so many bytes are moved. */
export type DiskFault = (operation: DiskOperation) => number;

export interface FakeDiskOptions {
  /** Where the file ends; it grows when written past its end. */
  readonly fileBytes: number;
  readonly capacityBytes: number;
  readonly memoryAlignmentBytes?: number;
  readonly offsetAlignmentBytes?: number;
}

const NO_FAULT: DiskFault = () => Number.MAX_SAFE_INTEGER;

export class FakeDisk implements Disk {
  capacityBytes: number;
  readonly memoryAlignmentBytes: number;
  readonly offsetAlignmentBytes: number;
  readonly data: Uint8Array;
  fileBytes: number;
  fault: DiskFault = NO_FAULT;
  supportsPunch = true;
  supportsZero = true;
  readonly pending: DiskOperation[] = [];
  /** Everything submitted so far, oldest first. */
  readonly log: DiskOperation[] = [];
  /** Bytes changed and not yet durable. */
  isDirty = false;
  handler: DiskHandler | null = null;
  private readonly memory: FakeMemory;

  constructor(options: FakeDiskOptions, memory: FakeMemory) {
    this.memory = memory;
    this.capacityBytes = options.capacityBytes;
    this.fileBytes = options.fileBytes;
    this.memoryAlignmentBytes = options.memoryAlignmentBytes ?? 1;
    this.offsetAlignmentBytes = options.offsetAlignmentBytes ?? 1;
    this.data = new Uint8Array(options.capacityBytes);
  }

  private submit(
    kind: DiskOperationKind,
    tag: number,
    offsetBytes: number,
    pieces: readonly (readonly [Address, number])[],
    options: { durable?: boolean; iovecs?: Address; bytes?: number } = {},
  ): void {
    assert(!this.pending.some((one) => one.tag === tag), "two operations with one tag");
    const bytes = options.bytes ?? pieces.reduce((sum, [, length]) => sum + length, 0);
    const { durable = false, iovecs = 0 } = options;
    const operation = { kind, tag, offsetBytes, bytes, pieces, durable, iovecs };
    this.pending.push(operation);
    this.log.push(operation);
  }

  read(tag: number, offsetBytes: number, address: Address, bytes: number): void {
    this.submit("read", tag, offsetBytes, [[address, bytes]]);
  }

  write(tag: number, offsetBytes: number, address: Address, bytes: number, durable: boolean): void {
    this.submit("write", tag, offsetBytes, [[address, bytes]], { durable });
  }

  readv(tag: number, offsetBytes: number, iovecs: Address, count: number): void {
    this.submit("read", tag, offsetBytes, this.iovecsAt(iovecs, count), { iovecs });
  }

  writev(tag: number, offsetBytes: number, iovecs: Address, count: number, durable: boolean): void {
    this.submit("write", tag, offsetBytes, this.iovecsAt(iovecs, count), { durable, iovecs });
  }

  sync(tag: number): void {
    this.submit("sync", tag, 0, []);
  }

  deallocate(tag: number, offsetBytes: number, bytes: number, mode: number): void {
    const kind = mode === DEALLOCATE_PUNCH ? "punch" : "zero";
    this.submit(kind, tag, offsetBytes, [], { bytes });
  }

  private iovecsAt(iovecs: Address, count: number): [Address, number][] {
    const copy = this.memory.allocate(count * 16);
    this.memory.copy(copy.address, iovecs, count * 16);
    const words = Array.from(copy.u32.subarray(0, count * 4));
    this.memory.free(copy);
    return Array.from({ length: count }, (_, index) => {
      const [low, high, bytes, zero] = words.slice(index * 4, index * 4 + 4) as number[];
      assert(zero === 0, "the high half of an iovec's length");
      return [(high as number) * 2 ** 32 + (low as number), bytes as number];
    });
  }

  /** Lets the operation at `index` of `pending` happen and tells the device. */
  complete(index = 0): void {
    const operation = this.pending.splice(index, 1)[0];
    assert(operation !== undefined, "no such operation");
    if (operation.iovecs !== 0) {
      const now = this.iovecsAt(operation.iovecs, operation.pieces.length);
      const same = JSON.stringify(now) === JSON.stringify(operation.pieces);
      assert(same, "the iovecs changed while the kernel had them");
    }
    const result = this.perform(operation);
    assert(this.handler !== null, "the disk has no handler");
    this.handler.diskCompleted(operation.tag, result);
  }

  completeAll(): void {
    while (this.pending.length > 0) this.complete();
  }

  private perform(operation: DiskOperation): number {
    const { kind, offsetBytes, bytes } = operation;
    const limit = this.fault(operation);
    if (limit < 0) return limit;
    if (kind === "sync") {
      this.isDirty = false;
      return 0;
    }
    if (kind === "punch" || kind === "zero") {
      if (!(kind === "punch" ? this.supportsPunch : this.supportsZero)) return -EOPNOTSUPP;
      this.data.fill(0, offsetBytes, offsetBytes + bytes);
      this.isDirty = true;
      return 0;
    }
    const offsetMask = this.offsetAlignmentBytes - 1;
    const memoryMask = this.memoryAlignmentBytes - 1;
    if ((offsetBytes & offsetMask) !== 0) return -EINVAL;
    for (const [address, length] of operation.pieces) {
      if (((address & memoryMask) | (length & offsetMask)) !== 0) return -EINVAL;
    }
    // What a file skips when it grows reads as zeroes.
    const growsFrom =
      kind === "write" && offsetBytes > this.fileBytes ? this.fileBytes : offsetBytes;
    this.data.fill(0, growsFrom, offsetBytes);
    const moved = this.move(operation, limit);
    if (kind === "write" && moved > 0) {
      this.fileBytes = Math.max(this.fileBytes, offsetBytes + moved);
      if (!operation.durable) this.isDirty = true;
    }
    return moved;
  }

  private move(operation: DiskOperation, limit: number): number {
    const { kind, offsetBytes, pieces } = operation;
    const end = kind === "read" ? this.fileBytes : this.capacityBytes;
    const most = Math.max(0, Math.min(limit, end - offsetBytes));
    let moved = 0;
    for (const [address, length] of pieces) {
      const wanted = Math.min(length, most - moved);
      const count = this.memory.touchable(address, wanted);
      this.moveBytes(kind, offsetBytes + moved, address, count);
      moved += count;
      if (count < wanted) return moved > 0 ? moved : -EFAULT;
      if (count < length) break;
    }
    return moved;
  }

  private moveBytes(kind: string, at: number, address: Address, bytes: number): void {
    if (bytes === 0) return;
    const window = this.memory.window(address, bytes);
    if (kind === "read") window.set(this.data.subarray(at, at + bytes));
    else this.data.set(window, at);
  }
}
