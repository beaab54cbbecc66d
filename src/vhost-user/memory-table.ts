// @hot
// The memory of one session: up to MEMORY_SLOTS_MAX regions, translated from guest addresses
// (buffers) and user addresses (rings). Implements GuestMemory for the virtqueues.
//
// Invariants:
//  - regions overlap neither in guest nor in user addresses, and are sorted by guest address;
//  - remove() and clear() are called only when nothing is in flight and no ring area is in use
//    (the session quiesces its rings first);
//  - faultable regions are copied by system call, direct ones by loads and stores.

import { assert, GIB } from "../base/index.ts";
import type { Address, Arena, GuestMemory, Memory } from "../ports/index.ts";
import type { DirtyLog } from "./dirty-log.ts";
import type { MemoryRegion } from "./memory-region.ts";

/** What GET_MAX_MEM_SLOTS answers; libvhost-user's number, more than QEMU ever uses. */
export const MEMORY_SLOTS_MAX = 509;
const BOUNCE_BYTES = 64 * 1024;
/**
 * Windows open at a time: of 1 GiB each. One costs milliseconds to make and weighs on the garbage
 * collector; what lies beyond them is copied by address, at some tens of nanoseconds more.
 */
const WINDOWS_MAX = 64;

export class MemoryTable implements GuestMemory {
  contiguousBytes = 0;
  faultable = false;
  logging = false;

  private readonly memory: Memory;
  private readonly bounce: Arena;
  private regions: MemoryRegion[] = [];
  private guestStart: Float64Array = new Float64Array(0);
  private guestEnd: Float64Array = new Float64Array(0);
  private last = 0;
  private windowCount = 0;
  private log: DirtyLog | null = null;

  /** `bounce`: at least 64 KiB, shared by everything on the thread; used within one call. */
  constructor(memory: Memory, bounce: Arena) {
    assert(bounce.bytes >= BOUNCE_BYTES, "bounce memory too small");
    this.memory = memory;
    this.bounce = bounce;
  }

  get count(): number {
    return this.regions.length;
  }

  /** One past the greatest guest address. */
  get guestLimit(): number {
    return this.regions.length === 0 ? 0 : (this.guestEnd[this.regions.length - 1] as number);
  }

  setLog(log: DirtyLog | null): void {
    this.log = log;
    this.logging = log !== null;
  }

  /** Why `region` cannot be added to the table, or null. */
  // @cold
  conflict(region: {
    readonly guestAddress: number;
    readonly userAddress: number;
    readonly bytes: number;
  }): string | null {
    if (this.regions.length >= MEMORY_SLOTS_MAX) return `more than ${MEMORY_SLOTS_MAX} regions`;
    for (let index = 0; index < this.regions.length; index++) {
      const other = this.regions[index] as MemoryRegion;
      if (overlaps(region.guestAddress, region.bytes, other.guestAddress, other.bytes)) {
        return "a region that overlaps another in guest addresses";
      }
      if (overlaps(region.userAddress, region.bytes, other.userAddress, other.bytes)) {
        return "a region that overlaps another in user addresses";
      }
    }
    return null;
  }

  // @cold
  add(region: MemoryRegion): void {
    assert(this.conflict(region) === null, "a conflicting region was added");
    this.regions.push(region);
    this.regions.sort((a, b) => a.guestAddress - b.guestAddress);
    this.reindex();
  }

  // @cold
  has(guestAddress: number, userAddress: number, bytes: number): boolean {
    return this.indexOf(guestAddress, userAddress, bytes) >= 0;
  }

  // @cold
  private indexOf(guestAddress: number, userAddress: number, bytes: number): number {
    return this.regions.findIndex(
      (region) =>
        region.guestAddress === guestAddress &&
        region.userAddress === userAddress &&
        region.bytes === bytes,
    );
  }

  /** Takes a region out and returns it, still mapped; null when there is none like it. */
  // @cold
  remove(guestAddress: number, userAddress: number, bytes: number): MemoryRegion | null {
    const index = this.indexOf(guestAddress, userAddress, bytes);
    if (index < 0) return null;
    const [region] = this.regions.splice(index, 1);
    this.reindex();
    return region as MemoryRegion;
  }

  /** Takes everything out; the caller unmaps what is returned. */
  // @cold
  clear(): MemoryRegion[] {
    const regions = this.regions;
    this.regions = [];
    this.reindex();
    return regions;
  }

  // @cold
  private reindex(): void {
    this.guestStart = Float64Array.from(this.regions, (region) => region.guestAddress);
    this.guestEnd = Float64Array.from(this.regions, (region) => region.guestAddress + region.bytes);
    this.last = 0;
    this.windowCount = this.regions.reduce((sum, region) => sum + region.windowCount, 0);
  }

  /** Opens a window of a direct region, if there may be one more. */
  // @cold
  private openWindow(region: MemoryRegion, index: number): void {
    if (this.windowCount >= WINDOWS_MAX) return;
    region.openWindow(index);
    this.windowCount += 1;
  }

  private viewOf(region: MemoryRegion, index: number): DataView | null {
    const view = region.views[index] as DataView | null;
    if (view !== null) return view;
    this.openWindow(region, index);
    return region.views[index] as DataView | null;
  }

  private windowOf(region: MemoryRegion, index: number): Uint8Array | null {
    const window = region.windows[index] as Uint8Array | null;
    if (window !== null) return window;
    this.openWindow(region, index);
    return region.windows[index] as Uint8Array | null;
  }

  /** The region that holds guest address `gpa`, or -1. Mostly the one that hit last. */
  private find(gpa: number): number {
    const last = this.last;
    const starts = this.guestStart;
    if (last < starts.length && gpa >= starts[last]! && gpa < this.guestEnd[last]!) return last;
    let low = 0;
    let high = starts.length - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      if (gpa < starts[middle]!) high = middle - 1;
      else if (gpa >= this.guestEnd[middle]!) low = middle + 1;
      else {
        this.last = middle;
        return middle;
      }
    }
    return -1;
  }

  translate(gpa: number): Address {
    const index = this.find(gpa);
    if (index < 0) return -1;
    const region = this.regions[index] as MemoryRegion;
    const offset = gpa - region.guestAddress;
    this.contiguousBytes = region.bytes - offset;
    this.faultable = !region.direct;
    return region.hostAddress + offset;
  }

  /** The region that holds all of [userAddress, userAddress + bytes), or null. */
  findByUserAddress(userAddress: number, bytes: number): MemoryRegion | null {
    for (let index = 0; index < this.regions.length; index++) {
      const region = this.regions[index] as MemoryRegion;
      const offset = userAddress - region.userAddress;
      if (offset >= 0 && offset < region.bytes) {
        return offset + bytes <= region.bytes ? region : null;
      }
    }
    return null;
  }

  read(gpa: number, target: Uint8Array, targetOffset: number, bytes: number): boolean {
    let at = gpa;
    let left = bytes;
    let to = targetOffset;
    while (left > 0) {
      const index = this.find(at);
      if (index < 0) return false;
      const region = this.regions[index] as MemoryRegion;
      const piece = this.readPiece(region, at - region.guestAddress, target, to, left);
      if (piece === 0) return false;
      at += piece;
      to += piece;
      left -= piece;
    }
    return true;
  }

  readWords(gpa: number, target: Uint32Array, targetWord: number, wordCount: number): boolean {
    const index = this.find(gpa);
    if (index < 0) return false;
    const region = this.regions[index] as MemoryRegion;
    const offset = gpa - region.guestAddress;
    if (region.direct) {
      const windowIndex = offset < GIB ? 0 : Math.floor(offset / GIB);
      const view = this.viewOf(region, windowIndex);
      const from = offset - windowIndex * GIB;
      if (view !== null && from + wordCount * 4 <= view.byteLength) {
        for (let word = 0; word < wordCount; word++) {
          target[targetWord + word] = view.getUint32(from + word * 4, true);
        }
        return true;
      }
    }
    return this.readWordsSlowly(gpa, target, targetWord, wordCount);
  }

  /** Words in memory without a window, or cut by the end of a window or of a region. */
  private readWordsSlowly(
    gpa: number,
    target: Uint32Array,
    targetWord: number,
    wordCount: number,
  ): boolean {
    const { u8, u32, address } = this.bounce;
    let done = 0;
    while (done < wordCount) {
      const words = Math.min(wordCount - done, BOUNCE_BYTES / 8);
      // The upper half of the bounce memory takes the words, the lower half serves read().
      const half = BOUNCE_BYTES / 2;
      if (
        this.translate(gpa + done * 4) >= 0 &&
        this.contiguousBytes >= words * 4 &&
        this.faultable
      ) {
        const from = this.translate(gpa + done * 4);
        if (this.memory.copyFaultable(address + half, from, words * 4) !== 0) return false;
      } else if (!this.read(gpa + done * 4, u8, half, words * 4)) {
        return false;
      }
      for (let word = 0; word < words; word++) {
        target[targetWord + done + word] = u32[(half >>> 2) + word]!;
      }
      done += words;
    }
    return true;
  }

  /** Copies what one window (or one bounce) can give; returns how many bytes, 0 on a fault. */
  private readPiece(
    region: MemoryRegion,
    offset: number,
    target: Uint8Array,
    to: number,
    bytes: number,
  ): number {
    if (!region.direct) return this.readCopied(region, offset, target, to, bytes);
    const windowIndex = Math.floor(offset / GIB);
    const window = this.windowOf(region, windowIndex);
    if (window === null) return this.readCopied(region, offset, target, to, bytes);
    const from = offset - windowIndex * GIB;
    const room = window.length - from;
    const piece = bytes < room ? bytes : room;
    for (let index = 0; index < piece; index++) target[to + index] = window[from + index]!;
    return piece;
  }

  private readCopied(
    region: MemoryRegion,
    offset: number,
    target: Uint8Array,
    to: number,
    bytes: number,
  ): number {
    const room = Math.min(region.bytes - offset, BOUNCE_BYTES / 2);
    const piece = bytes < room ? bytes : room;
    const { address, u8 } = this.bounce;
    const from = region.hostAddress + offset;
    if (region.direct) this.memory.copy(address, from, piece);
    else if (this.memory.copyFaultable(address, from, piece) !== 0) return 0;
    for (let index = 0; index < piece; index++) target[to + index] = u8[index]!;
    return piece;
  }

  write(gpa: number, source: Uint8Array, sourceOffset: number, bytes: number): boolean {
    let at = gpa;
    let left = bytes;
    let from = sourceOffset;
    while (left > 0) {
      const index = this.find(at);
      if (index < 0) return false;
      const region = this.regions[index] as MemoryRegion;
      const piece = this.writePiece(region, at - region.guestAddress, source, from, left);
      if (piece === 0) return false;
      at += piece;
      from += piece;
      left -= piece;
    }
    if (this.log !== null) this.log.mark(gpa, bytes);
    return true;
  }

  private writePiece(
    region: MemoryRegion,
    offset: number,
    source: Uint8Array,
    from: number,
    bytes: number,
  ): number {
    if (!region.direct) return this.writeCopied(region, offset, source, from, bytes);
    const windowIndex = Math.floor(offset / GIB);
    const window = this.windowOf(region, windowIndex);
    if (window === null) return this.writeCopied(region, offset, source, from, bytes);
    const to = offset - windowIndex * GIB;
    const room = window.length - to;
    const piece = bytes < room ? bytes : room;
    for (let index = 0; index < piece; index++) window[to + index] = source[from + index]!;
    return piece;
  }

  private writeCopied(
    region: MemoryRegion,
    offset: number,
    source: Uint8Array,
    from: number,
    bytes: number,
  ): number {
    const room = Math.min(region.bytes - offset, BOUNCE_BYTES);
    const piece = bytes < room ? bytes : room;
    const { address, u8 } = this.bounce;
    for (let index = 0; index < piece; index++) u8[index] = source[from + index]!;
    const to = region.hostAddress + offset;
    if (region.direct) this.memory.copy(to, address, piece);
    else if (this.memory.copyFaultable(to, address, piece) !== 0) return 0;
    return piece;
  }

  writeU8(gpa: number, value: number): boolean {
    const index = this.find(gpa);
    if (index < 0) return false;
    const region = this.regions[index] as MemoryRegion;
    const offset = gpa - region.guestAddress;
    const windowIndex = offset < GIB ? 0 : Math.floor(offset / GIB);
    const window = region.direct ? this.windowOf(region, windowIndex) : null;
    if (window !== null) {
      window[offset - windowIndex * GIB] = value;
    } else {
      this.bounce.u8[0] = value;
      const to = region.hostAddress + offset;
      if (region.direct) this.memory.copy(to, this.bounce.address, 1);
      else if (this.memory.copyFaultable(to, this.bounce.address, 1) !== 0) return false;
    }
    if (this.log !== null) this.log.mark(gpa, 1);
    return true;
  }

  markDirty(gpa: number, bytes: number): void {
    if (this.log !== null) this.log.mark(gpa, bytes);
  }

  markHostDirty(address: Address, bytes: number): void {
    if (this.log === null) return;
    const end = address + bytes;
    for (let index = 0; index < this.regions.length; index++) {
      const region = this.regions[index] as MemoryRegion;
      const from = Math.max(address, region.hostAddress);
      const to = Math.min(end, region.hostAddress + region.bytes);
      if (from < to) this.log.mark(region.guestAddress + (from - region.hostAddress), to - from);
    }
  }
}

function overlaps(a: number, aBytes: number, b: number, bBytes: number): boolean {
  return a < b + bBytes && b < a + aBytes;
}
