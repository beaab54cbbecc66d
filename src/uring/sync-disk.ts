// @hot
// Disk over a file whose I/O is a memory copy (tmpfs): each submit is one system call, done when
// it returns. The completion is queued and delivered from the loop, as the Disk port demands.
// See disk.ts for why io_uring is the wrong tool there.
//
// Invariant: at most `capacity` undelivered completions; the reactor's request table bounds the
// requests in flight, and a FileDevice has at most one operation per request.

import { assert } from "../base/index.ts";
import type { Address, DiskHandler } from "../ports/index.ts";
import { fallocate, fdatasync, pread, preadv2, pwrite, pwritev2 } from "../sys/index.ts";
import { type DiskGeometry, deallocateMode, type OwnedDisk } from "./disk.ts";

/** Something that has completions to deliver from the loop. */
export interface DeferredSource {
  /** Delivers up to `countMax` completions; returns how many. */
  deliver(countMax: number): number;
}

export class SyncDisk implements OwnedDisk, DeferredSource {
  capacityBytes: number;
  readonly memoryAlignmentBytes: number;
  readonly offsetAlignmentBytes: number;
  private readonly fd: number;
  private handler: DiskHandler | null = null;
  private readonly tags: Uint32Array;
  private readonly results: Int32Array;
  private readonly mask: number;
  private head = 0;
  private tail = 0;

  /** `capacity`: power of two, at least the size of the request table. */
  constructor(fd: number, geometry: DiskGeometry, capacity: number) {
    assert((capacity & (capacity - 1)) === 0, "capacity must be a power of two");
    this.fd = fd;
    this.capacityBytes = geometry.capacityBytes;
    this.memoryAlignmentBytes = geometry.memoryAlignmentBytes;
    this.offsetAlignmentBytes = geometry.offsetAlignmentBytes;
    this.tags = new Uint32Array(capacity);
    this.results = new Int32Array(capacity);
    this.mask = capacity - 1;
  }

  get inflightCount(): number {
    return this.tail - this.head;
  }

  setHandler(handler: DiskHandler): void {
    this.handler = handler;
  }

  setCapacity(bytes: number): void {
    this.capacityBytes = bytes;
  }

  detach(): void {
    assert(this.head === this.tail, "disk detached with completions undelivered");
  }

  private done(tag: number, result: number): void {
    assert(this.tail - this.head <= this.mask, "too many operations on one disk");
    this.tags[this.tail & this.mask] = tag;
    this.results[this.tail & this.mask] = result;
    this.tail += 1;
  }

  deliver(countMax: number): number {
    let count = 0;
    while (this.head !== this.tail && count < countMax) {
      const at = this.head & this.mask;
      this.head += 1;
      count += 1;
      (this.handler as DiskHandler).diskCompleted(
        this.tags[at] as number,
        this.results[at] as number,
      );
    }
    return count;
  }

  read(tag: number, offsetBytes: number, address: Address, bytes: number): void {
    this.done(tag, pread(this.fd, address, bytes, offsetBytes));
  }

  // A memory file is as durable as it will ever be once the copy is done: no flag is needed.
  write(
    tag: number,
    offsetBytes: number,
    address: Address,
    bytes: number,
    _durable: boolean,
  ): void {
    this.done(tag, pwrite(this.fd, address, bytes, offsetBytes));
  }

  readv(tag: number, offsetBytes: number, iovecs: Address, count: number): void {
    this.done(tag, preadv2(this.fd, iovecs, count, offsetBytes, 0));
  }

  writev(
    tag: number,
    offsetBytes: number,
    iovecs: Address,
    count: number,
    _durable: boolean,
  ): void {
    this.done(tag, pwritev2(this.fd, iovecs, count, offsetBytes, 0));
  }

  sync(tag: number): void {
    this.done(tag, fdatasync(this.fd));
  }

  deallocate(tag: number, offsetBytes: number, bytes: number, mode: number): void {
    this.done(tag, fallocate(this.fd, deallocateMode(mode), offsetBytes, bytes));
  }
}
