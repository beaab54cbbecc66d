// @hot
// The migration log: one bit per 4 KiB page of guest-physical memory, in memory shared with the
// front-end (SET_LOG_BASE). While a VM migrates, every page written here gets its bit set, or the
// destination would start with an older page.
//
// Invariants:
//  - bits are set with an atomic OR: the front-end clears them with an exchange at any time;
//  - a bit is set after the page was written, so that a page copied between the two is copied
//    again;
//  - every bit is checked against the log's length: guest addresses and the length come from
//    outside. Pages beyond the log are counted, not written.
// Specification: vhost-user, "Migration".

import { assert, PAGE_BYTES } from "../base/index.ts";
import {
  fstatNoWait,
  MAP_SHARED,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
  windowOver,
} from "../sys/index.ts";
import { plainAccessProblem } from "./memory-file.ts";

/** A log of 1 GiB covers 32 TiB of guest memory. */
const LOG_BYTES_MAX = 1024 * 1024 * 1024;

export class DirtyLog {
  /** Pages that lay beyond the log; the front-end's mistake, counted for its operator. */
  beyondCount = 0;
  private readonly bytes: Uint8Array;
  private readonly mapAddress: number;
  private readonly mapBytes: number;

  private constructor(bytes: Uint8Array, mapAddress: number, mapBytes: number) {
    this.bytes = bytes;
    this.mapAddress = mapAddress;
    this.mapBytes = mapBytes;
  }

  /**
   * Maps the log that a front-end offers. Returns the reason when it cannot be used. Does not take
   * ownership of `fd`. A log that could be truncated under us is refused: bits need plain stores.
   */
  // @cold
  static map(fd: number, bytes: number, offsetBytes: number, trusted: boolean): DirtyLog | string {
    if (bytes < 1 || bytes > LOG_BYTES_MAX) return `a log of ${bytes} bytes`;
    if (offsetBytes % PAGE_BYTES !== 0) return `a log offset of ${offsetBytes}, not page-aligned`;
    const problem = plainAccessProblem(fd, trusted);
    if (problem !== null) return `a log in a file ${problem}`;
    const status = fstatNoWait(fd);
    if (typeof status === "number") return "a log descriptor that cannot be examined";
    if (status.sizeBytes < offsetBytes + bytes) {
      return `a log file of ${status.sizeBytes} bytes for ${offsetBytes} + ${bytes}`;
    }
    const address = mmap(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offsetBytes);
    if (address < 0) return "a log that cannot be mapped";
    return new DirtyLog(new Uint8Array(windowOver(address, bytes)), address, bytes);
  }

  /** Does the log have a bit for the last byte below `guestEnd`? */
  covers(guestEnd: number): boolean {
    return guestEnd <= this.bytes.length * 8 * PAGE_BYTES;
  }

  /** Marks the pages of [address, address + bytes) as written. */
  mark(address: number, bytes: number): void {
    if (bytes === 0) return;
    const first = Math.floor(address / PAGE_BYTES);
    const last = Math.floor((address + bytes - 1) / PAGE_BYTES);
    for (let page = first; page <= last; page++) this.markPage(page);
  }

  private markPage(page: number): void {
    const at = Math.floor(page / 8);
    if (at >= this.bytes.length) {
      this.beyondCount += 1;
      return;
    }
    Atomics.or(this.bytes, at, 1 << (page % 8));
  }

  /** No mark() may follow. */
  unmap(): void {
    const result = munmap(this.mapAddress, this.mapBytes);
    assert(result === 0, "munmap of a log failed");
  }
}
