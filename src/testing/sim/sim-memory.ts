// The simulator's memory: the Memory port on one ArrayBuffer, under addresses that mean nothing
// elsewhere.
//
// Invariants:
//  - every access lies in one live arena, or it throws: a page table says which arena a page
//    belongs to, and an unused page lies between any two arenas;
//  - freed memory is filled with 0xdd, and is used again as late as possible, so that whoever still
//    looks at it sees poison;
//  - arenas are whole pages, as the system's are.
//
// Foreign memory stands for a guest's: a test may scribble on it at any moment, or truncate it,
// after which plain access throws (a process would die by SIGBUS) and copyFaultable says -EFAULT.

import { alignUp, crc32cTable, EFAULT, MIB, PAGE_BYTES, type Prng } from "../../base/index.ts";
import type { Address, Arena, Memory } from "../../ports/index.ts";

export const POISON_BYTE = 0xdd;
const FIRST_ADDRESS = 0x10000;
const PAGE_SHIFT = 12;
const GUARD = -1;
const DEFAULT_BYTES: number = 32 * MIB;

interface Region {
  readonly arena: Arena;
  readonly isForeign: boolean;
  /** Offset in the buffer behind the last byte that can be touched. */
  validEnd: number;
}

export class SimMemory implements Memory {
  /** All of it; an address's byte is at `address - FIRST_ADDRESS`. */
  private readonly u8: Uint8Array;
  private readonly bytes: Buffer;
  private readonly u32: Uint32Array;
  /** By page: 0 unused, GUARD, or index of its region + 1. */
  private readonly regionOfPage: Int32Array;
  private readonly regions: (Region | null)[] = [];
  private readonly freeIndices: number[] = [];
  private nextPage = 0;
  /** allocate() throws while set. */
  exhausted = false;

  constructor(bytes: number = DEFAULT_BYTES) {
    const buffer = new ArrayBuffer(alignUp(bytes, PAGE_BYTES));
    this.u8 = new Uint8Array(buffer);
    this.bytes = Buffer.from(buffer);
    this.u32 = new Uint32Array(buffer);
    this.regionOfPage = new Int32Array(buffer.byteLength / PAGE_BYTES);
  }

  get arenaCount(): number {
    return this.regions.length - this.freeIndices.length;
  }

  allocate(bytes: number): Arena {
    return this.take(bytes, false);
  }

  /** Memory as a guest's: see the opening comment. Freed like any other. */
  foreign(bytes: number): Arena {
    return this.take(bytes, true);
  }

  private take(bytes: number, isForeign: boolean): Arena {
    if (this.exhausted || bytes <= 0) throw new Error(`no memory for ${bytes} bytes`);
    const pages = Math.ceil(bytes / PAGE_BYTES);
    const page = this.findPages(pages + 1);
    const index = this.freeIndices.pop() ?? this.regions.push(null) - 1;
    this.regionOfPage.fill(index + 1, page, page + pages);
    this.regionOfPage[page + pages] = GUARD;
    this.nextPage = page + pages + 1;
    const at = page * PAGE_BYTES;
    const size = pages * PAGE_BYTES;
    const { buffer } = this.u8;
    this.u8.fill(0, at, at + size);
    const arena = {
      address: FIRST_ADDRESS + at,
      bytes: size,
      u8: new Uint8Array(buffer, at, size),
      u16: new Uint16Array(buffer, at, size / 2),
      u32: new Uint32Array(buffer, at, size / 4),
      f64: new Float64Array(buffer, at, size / 8),
    };
    this.regions[index] = { arena, isForeign, validEnd: at + size };
    return arena;
  }

  /** The first of `count` unused pages in a row, looking on from where the last search ended. */
  private findPages(count: number): number {
    const total = this.regionOfPage.length;
    for (const [first, last] of [
      [this.nextPage, total],
      [0, total],
    ]) {
      let run = 0;
      for (let page = first; page < last; page++) {
        run = this.regionOfPage[page] === 0 ? run + 1 : 0;
        if (run === count) return page - count + 1;
      }
    }
    throw new Error(`the simulated memory of ${this.u8.length} bytes is used up`);
  }

  free(arena: Arena): void {
    const at = arena.address - FIRST_ADDRESS;
    const page = at / PAGE_BYTES;
    const index = this.regionOfPage[page] - 1;
    const region = this.regions[index];
    if (region === undefined || region === null || region.arena !== arena) {
      throw new Error(`free of what is no arena at ${arena.address.toString(16)}`);
    }
    this.u8.fill(POISON_BYTE, at, at + arena.bytes);
    this.regionOfPage.fill(0, page, page + arena.bytes / PAGE_BYTES + 1);
    this.regions[index] = null;
    this.freeIndices.push(index);
  }

  /** A process has ended: everything is freed at once. */
  reset(): void {
    for (const region of this.regions) if (region !== null) this.free(region.arena);
  }

  /** From now on only the first `validBytes` of this foreign arena can be touched. */
  truncate(arena: Arena, validBytes: number): void {
    const region = this.regions.find((one) => one?.arena === arena);
    if (region?.isForeign !== true) throw new Error("only foreign memory can be truncated");
    region.validEnd = arena.address - FIRST_ADDRESS + validBytes;
  }

  /** Changes a byte of each foreign arena, as a guest does that does not wait for us. */
  scribble(prng: Prng): void {
    for (const region of this.regions) {
      if (region?.isForeign === true) region.arena.u8[prng.below(region.arena.bytes)] = prng.u32();
    }
  }

  /** Where in the buffer `address` lies. Throws unless all `bytes` are in one live arena. */
  private at(address: Address, bytes: number): number {
    const at = address - FIRST_ADDRESS;
    if (bytes === 0) return 0;
    // Also refuses fractions, negative numbers and NaN.
    if (at >>> 0 === at && bytes > 0 && at < this.u8.length) {
      const index = this.regionOfPage[at >>> PAGE_SHIFT];
      if (index > 0) {
        const region = this.regions[index - 1] as Region;
        if (at + bytes <= region.validEnd) return at;
        const isInside = at + bytes <= region.arena.address - FIRST_ADDRESS + region.arena.bytes;
        if (isInside) throw new Error(`SIGBUS: ${bytes} bytes at ${address.toString(16)}`);
      }
    }
    throw new Error(`touched ${bytes} bytes at ${address.toString(16)}: nothing is there`);
  }

  /** How many of `bytes` can be touched from `address` on; throws as plain access does. */
  touchable(address: Address, bytes: number): number {
    if (bytes === 0) return 0;
    const at = address - FIRST_ADDRESS;
    const region = this.regions[this.regionOfPage[at >>> PAGE_SHIFT] - 1];
    if (region === undefined || region === null || region.validEnd >= at + bytes) {
      this.at(address, bytes);
      return bytes;
    }
    if (at + bytes > region.arena.address - FIRST_ADDRESS + region.arena.bytes) {
      this.at(address, bytes);
    }
    return Math.max(0, region.validEnd - at);
  }

  /** A view of live memory, for tests. */
  window(address: Address, bytes: number): Uint8Array {
    const at = this.at(address, bytes);
    return this.u8.subarray(at, at + bytes);
  }

  /** Memory into `target`, as a device reads it. */
  load(address: Address, bytes: number, target: Uint8Array, targetAt: number): void {
    const at = this.at(address, bytes);
    target.set(this.u8.subarray(at, at + bytes), targetAt);
  }

  /** `source` into memory, as a device writes it. */
  store(address: Address, bytes: number, source: Uint8Array, sourceAt: number): void {
    this.u8.set(source.subarray(sourceAt, sourceAt + bytes), this.at(address, bytes));
  }

  copy(to: Address, from: Address, bytes: number): void {
    const target = this.at(to, bytes);
    const source = this.at(from, bytes);
    this.u8.copyWithin(target, source, source + bytes);
  }

  fill(to: Address, byte: number, bytes: number): void {
    const at = this.at(to, bytes);
    this.u8.fill(byte, at, at + bytes);
  }

  compare(a: Address, b: Address, bytes: number): number {
    const first = this.at(a, bytes);
    const second = this.at(b, bytes);
    return this.bytes.compare(this.bytes, second, second + bytes, first, first + bytes);
  }

  isZero(address: Address, bytes: number): boolean {
    let at = this.at(address, bytes);
    const end = at + bytes;
    for (; at < end && (at & 3) !== 0; at++) if (this.u8[at] !== 0) return false;
    for (; at + 4 <= end; at += 4) if (this.u32[at >>> 2] !== 0) return false;
    for (; at < end; at++) if (this.u8[at] !== 0) return false;
    return true;
  }

  crc32c(address: Address, bytes: number, seed: number): number {
    const at = this.at(address, bytes);
    return crc32cTable(this.u8, seed, at, at + bytes);
  }

  copyFaultable(to: Address, from: Address, bytes: number): number {
    const count = Math.min(this.touchable(to, bytes), this.touchable(from, bytes));
    this.copy(to, from, count);
    return count === bytes ? 0 : -EFAULT;
  }
}
