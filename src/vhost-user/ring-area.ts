// @hot
// Ring areas over guest memory (ports: RingArea). Direct: the windows lie over the ring itself.
// Shadow: over a private copy, for memory that somebody could truncate under us; pull and push
// move bytes by system call and report a fault instead of dying of SIGBUS.

import { alignUp, assert } from "../base/index.ts";
import type { Arena, Memory, RingArea } from "../ports/index.ts";
import { SysError, windowOver } from "../sys/index.ts";
import {
  PACKED_EVENT,
  packedDescriptorBytes,
  splitAvailBytes,
  splitDescriptorBytes,
  splitUsedBytes,
} from "../virtio/index.ts";
import type { MemoryRegion } from "./memory-region.ts";
import type { MemoryTable } from "./memory-table.ts";

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

/** User addresses of a ring's three areas. */
export interface RingAddresses {
  readonly descriptorAddress: number;
  /** Avail ring, or driver area. */
  readonly driverAddress: number;
  /** Used ring, or device area. */
  readonly deviceAddress: number;
}

export interface RingAreas {
  readonly descriptors: RingArea;
  readonly driver: RingArea;
  readonly device: RingArea;
  /** Guest address of the descriptors. */
  readonly descriptorGuest: number;
}

type WantedArea = readonly [userAddress: number, bytes: number, alignment: number];

// @cold
function wantedAreas(addresses: RingAddresses, size: number, packed: boolean): WantedArea[] {
  const { descriptorAddress, driverAddress, deviceAddress } = addresses;
  return packed
    ? [
        [descriptorAddress, packedDescriptorBytes(size), 16],
        [driverAddress, PACKED_EVENT.BYTES, 4],
        [deviceAddress, PACKED_EVENT.BYTES, 4],
      ]
    : [
        [descriptorAddress, splitDescriptorBytes(size), 16],
        [driverAddress, splitAvailBytes(size), 2],
        [deviceAddress, splitUsedBytes(size), 4],
      ];
}

/**
 * The areas of a ring of `size` entries; null when a part of them lies in no region, a string when
 * they cannot be used where they lie.
 */
// @cold
export function openRingAreas(
  table: MemoryTable,
  memory: Memory,
  addresses: RingAddresses,
  { size, packed }: { readonly size: number; readonly packed: boolean },
): RingAreas | string | null {
  const wanted = wantedAreas(addresses, size, packed);
  const regions: MemoryRegion[] = [];
  // All are found before any is opened: opening costs.
  for (const [userAddress, bytes, alignment] of wanted) {
    const region = table.findByUserAddress(userAddress, bytes);
    if (region === null) return null;
    // The address was aligned, but the region may lie askew in its file: atomic operations on what
    // crosses a cache line stop every processor of the machine.
    if (hostAddress(region, userAddress) % alignment !== 0) return "the ring is not aligned";
    regions.push(region);
  }
  const areas: RingArea[] = [];
  for (const [index, [userAddress, bytes]] of wanted.entries()) {
    const area = openArea(memory, regions[index] as MemoryRegion, userAddress, bytes);
    if (typeof area === "string") {
      for (const open of areas) closeRingArea(open);
      return area;
    }
    areas.push(area);
  }
  const [descriptors, driver, device] = areas as [RingArea, RingArea, RingArea];
  const first = regions[0] as MemoryRegion;
  const descriptorGuest = first.guestAddress + (addresses.descriptorAddress - first.userAddress);
  return { descriptors, driver, device, descriptorGuest };
}

// @cold
function hostAddress(region: MemoryRegion, userAddress: number): number {
  return region.hostAddress + (userAddress - region.userAddress);
}

// @cold
function openArea(
  memory: Memory,
  region: MemoryRegion,
  userAddress: number,
  bytes: number,
): RingArea | string {
  const address = hostAddress(region, userAddress);
  if (region.direct) return new DirectArea(address, bytes);
  try {
    return new ShadowArea(memory, address, bytes);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    return "no memory for a copy of the ring";
  }
}

// @cold
export function closeRingAreas(areas: RingAreas): void {
  closeRingArea(areas.descriptors);
  closeRingArea(areas.driver);
  closeRingArea(areas.device);
}

/** Nothing may use the area afterwards. */
function closeRingArea(area: RingArea): void {
  if (area instanceof ShadowArea) area.release();
}
