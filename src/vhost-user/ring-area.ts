// @hot
// Ring areas over guest memory (ports: RingArea). Direct: the windows lie over the ring itself.
// Shadow: over a private copy, for memory that somebody could truncate under us; pull and push
// move bytes by system call and report a fault instead of dying of SIGBUS.

import { alignUp, assert } from "../base/index.ts";
import type { Arena, Memory, RingArea } from "../ports/index.ts";
import { windowOver } from "../sys/index.ts";
import type { MemoryRegion } from "./memory-region.ts";

class DirectArea implements RingArea {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly shadow = false;

  constructor(address: number, bytes: number) {
    const buffer = windowOver(address, bytes);
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer, 0, bytes >>> 1);
    this.u32 = new Uint32Array(buffer, 0, bytes >>> 2);
  }

  pull(_offset: number, _bytes: number): boolean {
    return true;
  }

  push(_offset: number, _bytes: number): boolean {
    return true;
  }
}

class ShadowArea implements RingArea {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly shadow = true;
  private readonly memory: Memory;
  private readonly arena: Arena;
  private readonly address: number;
  private readonly bytes: number;

  constructor(memory: Memory, address: number, bytes: number) {
    this.memory = memory;
    this.address = address;
    this.bytes = bytes;
    this.arena = memory.allocate(alignUp(bytes, 8));
    this.u8 = this.arena.u8;
    this.u16 = this.arena.u16;
    this.u32 = this.arena.u32;
  }

  pull(offset: number, bytes: number): boolean {
    assert(offset + bytes <= this.bytes, "pull beyond the ring area");
    const { memory, arena, address } = this;
    return memory.copyFaultable(arena.address + offset, address + offset, bytes) === 0;
  }

  push(offset: number, bytes: number): boolean {
    assert(offset + bytes <= this.bytes, "push beyond the ring area");
    const { memory, arena, address } = this;
    return memory.copyFaultable(address + offset, arena.address + offset, bytes) === 0;
  }

  release(): void {
    this.memory.free(this.arena);
  }
}

/** An area of `bytes` at user address `userAddress`, which lies wholly in `region`. */
export function openRingArea(
  memory: Memory,
  region: MemoryRegion,
  userAddress: number,
  bytes: number,
): RingArea {
  const address = region.hostAddress + (userAddress - region.userAddress);
  if (region.direct) return new DirectArea(address, bytes);
  return new ShadowArea(memory, address, bytes);
}

/** Nothing may use the area afterwards. */
export function closeRingArea(area: RingArea): void {
  if (area instanceof ShadowArea) area.release();
}
