// Guest memory as a virtqueue sees it: guest-physical addresses translated through the regions of
// one vhost-user session. The guest and the front-end may change the bytes at any moment and the
// front-end may even truncate the memory: everything read here is copied once, then checked, and
// only the copy is used.
//
// Guest addresses are JS numbers; callers reject anything whose high half exceeds SAFE_HIGH_MAX
// before they join it.

import type { Address } from "./memory.ts";

export interface GuestMemory {
  /**
   * Host address of guest address `gpa`, or -1 when no region holds that byte. After a hit
   * `contiguousBytes` says how many bytes follow in the same region (>= 1) and `faultable` whether
   * they lie in a region that could be truncated under us. Does not allocate.
   */
  translate(gpa: number): Address;
  readonly contiguousBytes: number;
  readonly faultable: boolean;

  /**
   * Copies [gpa, gpa + bytes) out of guest memory, region by region. False when a byte lies in no
   * region or could not be read. `bytes` small (headers, segments, indirect tables).
   */
  read(gpa: number, target: Uint8Array, targetOffset: number, bytes: number): boolean;
  /**
   * As read, for `wordCount` little-endian u32 from any byte address into a word array: one
   * DataView load per word, a third of the time that bytes take. Headers and indirect tables come
   * this way, once or twice per request.
   */
  readWords(gpa: number, target: Uint32Array, targetWord: number, wordCount: number): boolean;
  /** Copies into guest memory and logs the pages as dirty. False as for read. */
  write(gpa: number, source: Uint8Array, sourceOffset: number, bytes: number): boolean;
  /** Stores one byte and logs its page. False when it lies in no region. */
  writeU8(gpa: number, value: number): boolean;
  /** Marks [gpa, gpa + bytes) dirty for migration. Nothing when no log is set. */
  markDirty(gpa: number, bytes: number): void;
  /**
   * As markDirty, for host addresses that translate() gave: what a device wrote by itself. The
   * range may cross regions that happen to be mapped side by side. Only called while logging.
   */
  markHostDirty(address: Address, bytes: number): void;
  /** True while a migration log is set: callers may skip markDirty loops when false. */
  readonly logging: boolean;
}

/**
 * One ring area (descriptor table, avail or driver area, used or device area) as typed windows.
 * For memory that cannot be truncated the windows lie directly over guest memory and pull/push do
 * nothing. For faultable memory they lie over a private copy that pull() refreshes and push()
 * writes back, through system calls that fail instead of raising SIGBUS.
 */
export interface RingArea {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  /** True when the windows are a private copy: the queue must pull before and push after. */
  readonly shadow: boolean;
  /** Copies [offset, offset + bytes) from guest memory into the window; false on a fault. */
  pull(offset: number, bytes: number): boolean;
  /** Copies [offset, offset + bytes) of the window into guest memory; false on a fault. */
  push(offset: number, bytes: number): boolean;
}
