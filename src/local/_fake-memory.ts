// Test memory: addresses are numbers above 2^40 with gaps between the arenas, so that a copy past
// an end, into freed memory or with a truncated address throws. A part of an arena can be
// "truncated" as a memory file can: plain access then throws (a real process would die by SIGBUS),
// copyFaultable and the fake kernel answer -EFAULT.

import { assert, crc32cTable, EFAULT } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";

const FIRST_ADDRESS = 2 ** 40 + 4096;
const GAP_BYTES = 65536;
const PAGE_BYTES = 4096;

interface Region {
  readonly arena: Arena;
  /** What lies behind is truncated. */
  validBytes: number;
}

export class FakeMemory implements Memory {
  private readonly regions: Region[] = [];
  private nextAddress = FIRST_ADDRESS;
  /** allocate() throws while set. */
  exhausted = false;

  get arenaCount(): number {
    return this.regions.length;
  }

  allocate(bytes: number): Arena {
    if (this.exhausted) throw new Error("out of memory");
    const size = Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    const buffer = new ArrayBuffer(size);
    const arena = {
      address: this.nextAddress,
      bytes: size,
      u8: new Uint8Array(buffer),
      u16: new Uint16Array(buffer),
      u32: new Uint32Array(buffer),
      f64: new Float64Array(buffer),
    };
    this.nextAddress += size + GAP_BYTES;
    this.regions.push({ arena, validBytes: size });
    return arena;
  }

  free(arena: Arena): void {
    const at = this.regions.findIndex((region) => region.arena.address === arena.address);
    assert(at >= 0, "free of an arena that is not there");
    assert(this.regions[at]?.arena.bytes === arena.bytes, "free of a part of an arena");
    this.regions.splice(at, 1);
  }

  /** From now on only the first `validBytes` of the arena can be touched. */
  truncate(arena: Arena, validBytes: number): void {
    const region = this.regions.find((one) => one.arena === arena);
    assert(region !== undefined, "truncate of an arena that is not there");
    region.validBytes = validBytes;
  }

  /** The region's bytes, and where in them `address` lies. */
  private find(address: Address, bytes: number): { region: Region; at: number } {
    for (const region of this.regions) {
      const at = address - region.arena.address;
      if (at >= 0 && at + bytes <= region.arena.bytes) return { region, at };
    }
    throw new Error(`touched ${bytes} bytes at ${address.toString(16)}: nothing is there`);
  }

  /** The bytes at `address` for the test itself, or for a fake kernel. */
  window(address: Address, bytes: number): Uint8Array {
    const { region, at } = this.find(address, bytes);
    if (at + bytes > region.validBytes) throw new Error("SIGBUS");
    return region.arena.u8.subarray(at, at + bytes);
  }

  copy(to: Address, from: Address, bytes: number): void {
    this.window(to, bytes).set(this.window(from, bytes));
  }

  fill(to: Address, byte: number, bytes: number): void {
    this.window(to, bytes).fill(byte);
  }

  compare(a: Address, b: Address, bytes: number): number {
    return Buffer.compare(this.window(a, bytes), this.window(b, bytes));
  }

  isZero(address: Address, bytes: number): boolean {
    return this.window(address, bytes).every((byte) => byte === 0);
  }

  crc32c(address: Address, bytes: number, seed: number): number {
    return crc32cTable(this.window(address, bytes), seed);
  }

  /** How many of `bytes` can be touched from `address` on. */
  touchable(address: Address, bytes: number): number {
    const { region, at } = this.find(address, bytes);
    return Math.max(0, Math.min(bytes, region.validBytes - at));
  }

  copyFaultable(to: Address, from: Address, bytes: number): number {
    const count = Math.min(this.touchable(to, bytes), this.touchable(from, bytes));
    if (count > 0) this.copy(to, from, count);
    return count === bytes ? 0 : -EFAULT;
  }
}
