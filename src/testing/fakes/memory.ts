// Memory for tests: addresses above 2^40, each arena exactly as long as was asked for, with gaps
// between them, so that one byte touched outside throws.

import { crc32cTable } from "../../base/index.ts";
import type { Address, Arena, Memory } from "../../ports/index.ts";

const FIRST_ADDRESS = 2 ** 40 + 4096;
const GAP_BYTES = 65536;

export class TestMemory implements Memory {
  private readonly arenas: Map<number, Arena> = new Map();
  private nextAddress = FIRST_ADDRESS;

  allocate(bytes: number): Arena {
    const buffer = new ArrayBuffer(bytes);
    const words = new ArrayBuffer(0);
    const arena = {
      address: this.nextAddress,
      bytes,
      u8: new Uint8Array(buffer),
      u16: new Uint16Array(words),
      u32: new Uint32Array(words),
      f64: new Float64Array(words),
    };
    this.arenas.set(arena.address, arena);
    this.nextAddress += Math.ceil((bytes + GAP_BYTES) / GAP_BYTES) * GAP_BYTES;
    return arena;
  }

  free(arena: Arena): void {
    if (!this.arenas.delete(arena.address)) throw new Error("free of what is not there");
  }

  window(address: Address, bytes: number): Uint8Array {
    for (const arena of this.arenas.values()) {
      const at = address - arena.address;
      if (at >= 0 && at + bytes <= arena.bytes) return arena.u8.subarray(at, at + bytes);
    }
    throw new Error(`touched ${bytes} bytes at ${address.toString(16)}: nothing is there`);
  }

  copy(to: Address, from: Address, bytes: number): void {
    this.window(to, bytes).set(this.window(from, bytes));
  }

  fill(to: Address, byte: number, bytes: number): void {
    this.window(to, bytes).fill(byte);
  }

  compare(a: Address, b: Address, bytes: number): number {
    const left = this.window(a, bytes);
    const right = this.window(b, bytes);
    return Buffer.compare(left, right);
  }

  isZero(address: Address, bytes: number): boolean {
    const window = this.window(address, bytes);
    for (let at = 0; at < bytes; at++) if (window[at] !== 0) return false;
    return true;
  }

  crc32c(address: Address, bytes: number, seed: number): number {
    return crc32cTable(this.window(address, bytes), seed);
  }

  copyFaultable(to: Address, from: Address, bytes: number): number {
    this.copy(to, from, bytes);
    return 0;
  }
}
