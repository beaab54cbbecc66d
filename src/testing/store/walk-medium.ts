// The books of a store that was stopped cleanly, checked on the medium itself: from the superblock
// through every page to every block of data. Nothing here comes from the store's own code but the
// layout tables.
//
// It demands: every page is what its pointer says; every slab that a page names lies on the disk,
// belongs to one place only and is marked used; every slab marked used is named; a slab holds at
// least one block of data; only extents that somebody owns hold anything; all data matches.

import { crc32cTable } from "../../base/index.ts";
import {
  BLOCK_ABSENT,
  BLOCK_BYTES,
  BLOCK_DATA,
  EXTENT_ENTRY,
  EXTENT_PAGES,
  EXTENTS_PER_PAGE,
  PAGE,
  PAGE_KIND_L1,
  PAGE_KIND_L2,
  PAGE_KIND_LEAF,
  PAGE_MAGIC,
  PAGE_PAYLOAD_OFFSET,
  PAGE_PAYLOAD_WORDS,
  PAGE_SLABS,
  SLAB_BLOCKS,
  SLAB_BYTES,
  SLAB_ENTRY,
  SLABS_PER_BITMAP_PAGE,
  STATE_CLEAN,
  SUPERBLOCK,
} from "../../chunk/layouts.ts";
import {
  areasOf,
  type MediumAreas,
  type MediumBytes,
  type Structure,
  structureAt,
  superblockOffsets,
} from "./medium-bytes.ts";

class BooksWrong extends Error {
  override readonly name = "BooksWrong";
}

export interface Books {
  /** Slabs named by a page, all of them marked used. */
  readonly usedSlabs: number;
  readonly dataBlocks: number;
  /** Byte offset of every page that counts, by what it is. */
  readonly pages: readonly {
    readonly kind: number;
    readonly number: number;
    readonly at: number;
  }[];
  /** Byte offset of every block of data that counts. */
  readonly blocks: readonly number[];
}

function demand(condition: boolean, what: string): asserts condition {
  if (!condition) throw new BooksWrong(what);
}

export function walkMedium(media: MediumBytes): Books {
  return new Walk(media).books();
}

class Walk {
  private readonly media: MediumBytes;
  private readonly areas: MediumAreas;
  private readonly extentCount: number;
  private readonly volumePages: number;
  private readonly bitmapStart: number;
  private readonly slabStart: number;
  private readonly leafCount: number;
  private readonly pages: { kind: number; number: number; at: number }[] = [];
  private readonly blocks: number[] = [];
  /** By location: the place that has it. */
  private readonly owners: Map<number, string> = new Map();

  constructor(media: MediumBytes) {
    this.media = media;
    this.areas = areasOf(media);
    const { superblock } = this.areas;
    this.extentCount = superblock.u32(SUPERBLOCK.extentCount);
    this.volumePages = superblock.u32(SUPERBLOCK.volumePageCount);
    this.bitmapStart = this.volumePages + Math.ceil(this.extentCount / EXTENTS_PER_PAGE);
    const slabsOfDisk = Math.ceil(superblock.u64(SUPERBLOCK.diskBytes) / SLAB_BYTES);
    this.slabStart = this.bitmapStart + Math.ceil(slabsOfDisk / SLABS_PER_BITMAP_PAGE);
    this.leafCount = this.slabStart + this.extentCount * EXTENT_PAGES;
  }

  books(): Books {
    const { superblock } = this.areas;
    const sequence = superblock.u64(SUPERBLOCK.sequence);
    for (const offset of superblockOffsets(this.media.capacityBytes)) {
      const copy = structureAt(this.media, offset);
      demand(copy.isWhole(SUPERBLOCK.crc), `superblock at ${offset}: checksum`);
      demand(copy.u64(SUPERBLOCK.sequence) === sequence, "copies of the superblock differ");
    }
    demand(superblock.u32(SUPERBLOCK.state) === STATE_CLEAN, "the store was not stopped cleanly");
    const leaves = this.leaves();
    const owned = this.ownedExtents(leaves);
    for (let leaf = this.slabStart; leaf < this.leafCount; leaf++) {
      const pointer = leaves[leaf];
      if (pointer !== 0) this.slabPage(leaf, this.page(PAGE_KIND_LEAF, leaf, pointer), owned);
    }
    this.compareBitmap(leaves);
    const { pages, blocks } = this;
    return { usedSlabs: this.owners.size, dataBlocks: blocks.length, pages, blocks };
  }

  private page(kind: number, number: number, pointer: number): Structure {
    const l1Count = Math.ceil(this.leafCount / PAGE_PAYLOAD_WORDS);
    let index = number;
    if (kind === PAGE_KIND_L1) index += this.leafCount;
    else if (kind === PAGE_KIND_L2) index += this.leafCount + l1Count;
    const at = this.areas.pageOffset + (index * 2 + (pointer & 1)) * BLOCK_BYTES;
    const page = structureAt(this.media, at);
    const name = `page ${number} of kind ${kind}`;
    demand(page.u32(PAGE.magic) === PAGE_MAGIC, `${name}: no page`);
    demand(page.isWhole(PAGE.crc), `${name}: checksum`);
    demand(page.u32(PAGE.generation) === pointer >>> 1, `${name}: another generation`);
    demand(page.u32(PAGE.number) === number, `${name}: another number`);
    demand(page.bytes[PAGE.kind] === kind, `${name}: another kind`);
    this.pages.push({ kind, number, at });
    return page;
  }

  private leaves(): number[] {
    const { superblock } = this.areas;
    const l1: number[] = [];
    for (let l2 = 0; l2 < superblock.u32(SUPERBLOCK.l2Count); l2++) {
      const pointer = superblock.u32(SUPERBLOCK.l2Pointers + l2 * 4);
      l1.push(...this.pointersIn(PAGE_KIND_L2, l2, pointer));
    }
    const leaves: number[] = [];
    const l1Count = Math.ceil(this.leafCount / PAGE_PAYLOAD_WORDS);
    for (let number = 0; number < l1Count; number++) {
      leaves.push(...this.pointersIn(PAGE_KIND_L1, number, l1[number]));
    }
    return leaves;
  }

  private pointersIn(kind: number, number: number, pointer: number): number[] {
    if (pointer === 0) return new Array<number>(PAGE_PAYLOAD_WORDS).fill(0);
    const page = this.page(kind, number, pointer);
    const { buffer, byteOffset } = page.bytes;
    const from = byteOffset + PAGE_PAYLOAD_OFFSET;
    return Array.from(new Uint32Array(buffer, from, PAGE_PAYLOAD_WORDS));
  }

  private ownedExtents(leaves: readonly number[]): Set<number> {
    const owned = new Set<number>();
    for (let leaf = 0; leaf < this.volumePages; leaf++) {
      if (leaves[leaf] !== 0) this.page(PAGE_KIND_LEAF, leaf, leaves[leaf]);
    }
    for (let leaf = this.volumePages; leaf < this.bitmapStart; leaf++) {
      if (leaves[leaf] === 0) continue;
      const page = this.page(PAGE_KIND_LEAF, leaf, leaves[leaf]);
      const first = (leaf - this.volumePages) * EXTENTS_PER_PAGE;
      for (let index = 0; index < EXTENTS_PER_PAGE; index++) {
        const at = PAGE_PAYLOAD_OFFSET + index * EXTENT_ENTRY.BYTES;
        if (page.u32(at + EXTENT_ENTRY.volume) !== 0) owned.add(first + index);
      }
    }
    return owned;
  }

  private slabPage(leaf: number, page: Structure, owned: ReadonlySet<number>): void {
    const extent = Math.floor((leaf - this.slabStart) / EXTENT_PAGES);
    const firstSlab = ((leaf - this.slabStart) % EXTENT_PAGES) * PAGE_SLABS;
    for (let index = 0; index < PAGE_SLABS; index++) {
      const at = PAGE_PAYLOAD_OFFSET + index * SLAB_ENTRY.BYTES;
      const location = page.u32(at + SLAB_ENTRY.location);
      const states = page.u32(at + SLAB_ENTRY.states);
      const name = `extent ${extent} slab ${firstSlab + index}`;
      if (location + states === 0) continue;
      const isOwned = owned.has(extent);
      demand(isOwned, `${name}: nobody owns the extent`);
      if (location !== 0) this.claim(location - 1, name);
      let dataBlocks = 0;
      for (let block = 0; block < SLAB_BLOCKS; block++) {
        const state = (states >>> (block * 2)) & 3;
        demand(state >= BLOCK_ABSENT && state < 3, `${name} block ${block}: state ${state}`);
        if (state !== BLOCK_DATA) continue;
        dataBlocks += 1;
        demand(location !== 0, `${name}: data without a place`);
        const crc = page.u32(at + SLAB_ENTRY.crcs + block * 4);
        this.block(location - 1, (firstSlab + index) * SLAB_BLOCKS + block, crc, name);
      }
      demand(location === 0 || dataBlocks > 0, `${name}: has a slab and no data`);
    }
  }

  private claim(slab: number, name: string): void {
    demand(slab < this.areas.slabCount, `${name}: slab ${slab} is not on the disk`);
    const other = this.owners.get(slab);
    demand(other === undefined, `slab ${slab} belongs to ${other} and to ${name}`);
    this.owners.set(slab, name);
  }

  private block(slab: number, blockOfExtent: number, crc: number, name: string): void {
    const at =
      this.areas.slabOffset + slab * SLAB_BYTES + (blockOfExtent % SLAB_BLOCKS) * BLOCK_BYTES;
    const seed = Math.imul(blockOfExtent + 1, 0x9e3779b1) >>> 0;
    const found = crc32cTable(this.media.read(at, BLOCK_BYTES), seed);
    demand(found === crc, `${name} block ${blockOfExtent % SLAB_BLOCKS}: data does not match`);
    this.blocks.push(at);
  }

  private compareBitmap(leaves: readonly number[]): void {
    let marked = 0;
    for (let leaf = this.bitmapStart; leaf < this.slabStart; leaf++) {
      if (leaves[leaf] === 0) continue;
      const page = this.page(PAGE_KIND_LEAF, leaf, leaves[leaf]);
      const first = (leaf - this.bitmapStart) * SLABS_PER_BITMAP_PAGE;
      for (let index = 0; index < SLABS_PER_BITMAP_PAGE; index++) {
        const byte = page.bytes[PAGE_PAYLOAD_OFFSET + (index >>> 3)];
        if (byte === 0) index |= 7;
        if ((byte & (1 << (index & 7))) === 0) continue;
        marked += 1;
        demand(this.owners.has(first + index), `slab ${first + index} is marked used by nobody`);
      }
    }
    demand(marked === this.owners.size, `${this.owners.size} slabs are in use, ${marked} marked`);
  }
}
