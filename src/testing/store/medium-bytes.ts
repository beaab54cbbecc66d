// Reading a store's structures off a medium, field by field, without any of the store's own code
// but the layout tables: what a checker says must not rest on what it checks.

import { crc32cTable } from "../../base/index.ts";
import { BLOCK_BYTES, SLAB_BYTES, SUPERBLOCK, SUPERBLOCK_COPIES } from "../../chunk/layouts.ts";
import type { SimMedia } from "../sim/index.ts";

export type MediumBytes = Pick<SimMedia, "read" | "capacityBytes">;

/** One 4 KiB structure. */
export class Structure {
  readonly bytes: Uint8Array;
  private readonly view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  u32(offset: number): number {
    return this.view.getUint32(offset, true);
  }

  u64(offset: number): number {
    return Number(this.view.getBigUint64(offset, true));
  }

  /** Does the CRC at `offset` cover the rest? */
  isWhole(offset: number): boolean {
    const copy = this.bytes.slice(0, BLOCK_BYTES);
    copy.fill(0, offset, offset + 4);
    return crc32cTable(copy, 0) === this.u32(offset);
  }

  setU32(offset: number, value: number): void {
    this.view.setUint32(offset, value, true);
  }

  /** Makes the CRC at `offset` right again after a change. */
  seal(offset: number): void {
    this.setU32(offset, 0);
    this.setU32(offset, crc32cTable(this.bytes.subarray(0, BLOCK_BYTES), 0));
  }
}

export function structureAt(media: MediumBytes, offsetBytes: number): Structure {
  return new Structure(media.read(offsetBytes, BLOCK_BYTES));
}

/** Where the four copies lie. */
export function superblockOffsets(capacityBytes: number): number[] {
  const end = capacityBytes - (capacityBytes % SLAB_BYTES);
  return [0, SLAB_BYTES, end - 2 * SLAB_BYTES, end - SLAB_BYTES];
}

/** The areas of a store that was never damaged, from the first good copy of its superblock. */
export interface MediumAreas {
  readonly superblock: Structure;
  readonly ringBytes: number;
  readonly ringOffset: number;
  readonly logBytes: number;
  readonly logOffset: number;
  readonly pageOffset: number;
  readonly slabOffset: number;
  readonly slabCount: number;
}

export function areasOf(media: MediumBytes): MediumAreas {
  for (const offset of superblockOffsets(media.capacityBytes)) {
    const superblock = structureAt(media, offset);
    if (!superblock.isWhole(SUPERBLOCK.crc)) continue;
    return {
      superblock,
      ringOffset: superblock.u64(SUPERBLOCK.ringOffsetBytes),
      ringBytes: superblock.u64(SUPERBLOCK.ringBytes),
      logOffset: superblock.u64(SUPERBLOCK.logOffsetBytes),
      logBytes: superblock.u64(SUPERBLOCK.logBytes),
      pageOffset: superblock.u64(SUPERBLOCK.pageOffsetBytes),
      slabOffset: superblock.u64(SUPERBLOCK.slabOffsetBytes),
      slabCount: superblock.u32(SUPERBLOCK.slabCount),
    };
  }
  throw new Error(`none of ${SUPERBLOCK_COPIES} copies of the superblock is good`);
}
