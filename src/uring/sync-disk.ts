// @hot
// Disk over a file whose I/O is a memory copy (tmpfs): each submit is one system call, done when
// it returns. The completion is queued and delivered from the loop, as the Disk port demands.
// Only deallocation goes through the ring: freeing a gigabyte of pages takes the kernel tens of
// milliseconds, which one of its own threads shall spend, not the reactor.
// See disk.ts for why io_uring is the wrong tool for the rest.
//
//   results [ . | r | r | r | . ]   submit adds at tail, deliver() takes at head; power of two
//
// Invariants:
//  - at most `capacity` undelivered completions; the reactor's request table bounds the requests
//    in flight, and a FileDevice has at most one operation per request;
//  - the disk is with its scheduler exactly while completions are undelivered, so that an idle
//    disk costs the loop nothing.

import { assert } from "../base/index.ts";
import type { Address, DiskHandler } from "../ports/index.ts";
import { fdatasync, pread, preadv2, pwrite, pwritev2 } from "../sys/index.ts";
import { type DiskGeometry, deallocateMode, NO_HANDLER, type OwnedDisk } from "./disk.ts";
import type { CompletionHandler, Ring, RingFile } from "./ring.ts";

/** Something that has completions to deliver from the loop. */
export interface DeferredSource {
  /** Delivers up to `countMax` completions; returns how many. */
  deliver(countMax: number): number;
  /** Completions wait for deliver(); asked after deliver(): false = forget the source. */
  readonly hasDeferred: boolean;
}

/** The loop, as a source sees it. */
export interface DeferredScheduler {
  /** Calls source.deliver() from the loop until hasDeferred is false. Once per filling. */
  scheduleDeferred(source: DeferredSource): void;
}

export class SyncDisk implements OwnedDisk, DeferredSource, CompletionHandler {
  capacityBytes: number;
  readonly memoryAlignmentBytes: number;
  readonly offsetAlignmentBytes: number;
  private readonly scheduler: DeferredScheduler;
  private readonly ring: Ring;
  private readonly file: RingFile;
  private readonly handlerIndex: number;
  private readonly fd: number;
  private handler: DiskHandler = NO_HANDLER;
  private readonly tags: Uint32Array;
  private readonly results: Int32Array;
  private readonly mask: number;
  private head = 0;
  private tail = 0;
  private scheduled = false;
  private ringCount = 0;

  /** `capacity`: power of two, at least the size of the request table. */
  constructor(
    modules: { readonly ring: Ring; readonly scheduler: DeferredScheduler },
    fd: number,
    geometry: DiskGeometry,
    capacity: number,
  ) {
    assert(capacity > 0 && (capacity & (capacity - 1)) === 0, "capacity must be a power of two");
    this.scheduler = modules.scheduler;
    this.ring = modules.ring;
    this.handlerIndex = modules.ring.addHandler(this);
    this.file = { fd, sqeFd: fd, sqeFlags: 0 };
    this.fd = fd;
    this.capacityBytes = geometry.capacityBytes;
    this.memoryAlignmentBytes = geometry.memoryAlignmentBytes;
    this.offsetAlignmentBytes = geometry.offsetAlignmentBytes;
    this.tags = new Uint32Array(capacity);
    this.results = new Int32Array(capacity);
    this.mask = capacity - 1;
  }

  get inflightCount(): number {
    return this.tail - this.head + this.ringCount;
  }

  setHandler(handler: DiskHandler): void {
    this.handler = handler;
  }

  setCapacity(bytes: number): void {
    this.capacityBytes = bytes;
  }

  detach(): void {
    assert(this.inflightCount === 0, "disk detached with completions undelivered");
    this.ring.removeHandler(this.handlerIndex);
  }

  private done(tag: number, result: number): void {
    assert(this.tail - this.head <= this.mask, "too many operations on one disk");
    this.tags[this.tail & this.mask] = tag;
    this.results[this.tail & this.mask] = result;
    this.tail += 1;
    if (this.scheduled) return;
    this.scheduled = true;
    this.scheduler.scheduleDeferred(this);
  }

  get hasDeferred(): boolean {
    return this.head !== this.tail;
  }

  deliver(countMax: number): number {
    let count = 0;
    while (this.head !== this.tail && count < countMax) {
      const at = this.head & this.mask;
      const tag = this.tags[at] as number;
      const result = this.results[at] as number;
      this.head += 1;
      count += 1;
      // May submit again: the new completion waits behind those already here.
      this.handler.diskCompleted(tag, result);
    }
    this.scheduled = this.head !== this.tail;
    if (!this.scheduled) {
      // Small numbers for ever: the positions never leave the range of small integers.
      this.head = 0;
      this.tail = 0;
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
    this.ringCount += 1;
    const kernelMode = deallocateMode(mode);
    this.ring.fallocate(this.file, kernelMode, offsetBytes, bytes, this.handlerIndex, tag);
  }

  completed(tag: number, result: number, _flags: number): void {
    assert(this.ringCount > 0, "completion without I/O in flight");
    this.ringCount -= 1;
    this.handler.diskCompleted(tag, result);
  }
}
