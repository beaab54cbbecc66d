// @hot
// Disk over one open file description, asynchronous through the ring. Completions carry the tag
// straight to the DiskHandler.
//
// Files on memory file systems (tmpfs) get SyncDisk instead: the kernel cannot do buffered tmpfs
// writes without blocking semantics, so io_uring would hand each to a kernel thread, while a
// direct system call is one bounded memory copy. Both deliver completions from the loop.

import { assert } from "../base/index.ts";
import { type Address, DEALLOCATE_PUNCH, type Disk, type DiskHandler } from "../ports/index.ts";
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  RWF_DSYNC,
} from "../sys/index.ts";
import type { CompletionHandler, Ring, RingFile } from "./ring.ts";

export interface DiskGeometry {
  readonly capacityBytes: number;
  readonly memoryAlignmentBytes: number;
  readonly offsetAlignmentBytes: number;
}

/** A Disk whose owner can resize and close it. */
export interface OwnedDisk extends Disk {
  /** Who hears of completions. Set once, before the first submit. */
  setHandler(handler: DiskHandler): void;
  /** After the file was truncated or grown. */
  setCapacity(bytes: number): void;
  readonly inflightCount: number;
  /** Lets go of the ring's reference to the file. inflightCount must be 0. */
  detach(): void;
}

/** Stands in until setHandler. */
export const NO_HANDLER: DiskHandler = {
  diskCompleted(): void {
    assert(false, "a disk without a handler completed");
  },
};

export function deallocateMode(mode: number): number {
  return mode === DEALLOCATE_PUNCH
    ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
}

export class UringDisk implements OwnedDisk, CompletionHandler {
  capacityBytes: number;
  readonly memoryAlignmentBytes: number;
  readonly offsetAlignmentBytes: number;
  inflightCount = 0;
  private readonly ring: Ring;
  private readonly file: RingFile;
  private readonly handlerIndex: number;
  private handler: DiskHandler = NO_HANDLER;

  constructor(ring: Ring, fd: number, geometry: DiskGeometry) {
    this.ring = ring;
    this.file = ring.registerFile(fd);
    this.handlerIndex = ring.addHandler(this);
    this.capacityBytes = geometry.capacityBytes;
    this.memoryAlignmentBytes = geometry.memoryAlignmentBytes;
    this.offsetAlignmentBytes = geometry.offsetAlignmentBytes;
  }

  setHandler(handler: DiskHandler): void {
    this.handler = handler;
  }

  setCapacity(bytes: number): void {
    this.capacityBytes = bytes;
  }

  detach(): void {
    assert(this.inflightCount === 0, "disk detached with I/O in flight");
    this.ring.unregisterFile(this.file);
    this.ring.removeHandler(this.handlerIndex);
  }

  read(tag: number, offsetBytes: number, address: Address, bytes: number): void {
    this.inflightCount += 1;
    this.ring.read(this.file, offsetBytes, address, bytes, this.handlerIndex, tag);
  }

  write(tag: number, offsetBytes: number, address: Address, bytes: number, durable: boolean): void {
    this.inflightCount += 1;
    const flags = durable ? RWF_DSYNC : 0;
    this.ring.write(this.file, offsetBytes, address, bytes, flags, this.handlerIndex, tag);
  }

  readv(tag: number, offsetBytes: number, iovecs: Address, count: number): void {
    this.inflightCount += 1;
    this.ring.readv(this.file, offsetBytes, iovecs, count, this.handlerIndex, tag);
  }

  writev(tag: number, offsetBytes: number, iovecs: Address, count: number, durable: boolean): void {
    this.inflightCount += 1;
    const flags = durable ? RWF_DSYNC : 0;
    this.ring.writev(this.file, offsetBytes, iovecs, count, flags, this.handlerIndex, tag);
  }

  sync(tag: number): void {
    this.inflightCount += 1;
    this.ring.fdatasync(this.file, this.handlerIndex, tag);
  }

  deallocate(tag: number, offsetBytes: number, bytes: number, mode: number): void {
    this.inflightCount += 1;
    const kernelMode = deallocateMode(mode);
    this.ring.fallocate(this.file, kernelMode, offsetBytes, bytes, this.handlerIndex, tag);
  }

  completed(tag: number, result: number, _flags: number): void {
    assert(this.inflightCount > 0, "completion without I/O in flight");
    this.inflightCount -= 1;
    this.handler.diskCompleted(tag, result);
  }
}
