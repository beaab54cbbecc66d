// A Disk is one open file or block device, driven asynchronously. `uring/` implements it on an
// open file description, the simulator on memory with faults. A submit takes a tag and returns at
// once; the completion arrives later in the reactor's loop, never inside the submit.

import type { Address } from "./memory.ts";

export interface DiskHandler {
  /** `tag` as given to the submit; `result` = bytes or 0, or a negated errno. May be short. */
  diskCompleted(tag: number, result: number): void;
}

/** How `deallocate` treats the range. */
export const DEALLOCATE_PUNCH = 0;
/** Reads return zeroes afterwards; space may stay allocated. */
export const DEALLOCATE_ZERO = 1;

export interface Disk {
  /** Size when opened or last changed by truncate, in bytes. */
  readonly capacityBytes: number;
  /** Alignment that memory addresses must have (1 when buffered). */
  readonly memoryAlignmentBytes: number;
  /** Alignment that offsets and lengths must have (1 when buffered). */
  readonly offsetAlignmentBytes: number;

  read(tag: number, offsetBytes: number, address: Address, bytes: number): void;
  write(tag: number, offsetBytes: number, address: Address, bytes: number, durable: boolean): void;
  /** `iovecs` is the address of `count` struct iovec; it must stay unchanged until completion. */
  readv(tag: number, offsetBytes: number, iovecs: Address, count: number): void;
  writev(tag: number, offsetBytes: number, iovecs: Address, count: number, durable: boolean): void;
  /** Everything completed before this call is durable when it completes (fdatasync). */
  sync(tag: number): void;
  deallocate(tag: number, offsetBytes: number, bytes: number, mode: number): void;
}
