// Where everything lies on a disk of a given size. Decided once, when the disk is formatted, and
// read from the superblock ever after.
//
// Invariants: areas follow each other without overlap; every area begins on a 64 KiB boundary; a
// group fits twice into the ring; each extent has its own leaf pages, so that the page of a block
// is found by arithmetic.

import { alignDown, alignUp, assert, formatBytes, GIB, MIB } from "../base/index.ts";
import { StoreError } from "./errors.ts";
import {
  BLOCK_BYTES,
  EXTENT_BYTES,
  EXTENT_PAGES,
  EXTENTS_PER_PAGE,
  L2_POINTERS_MAX,
  PAGE_PAYLOAD_WORDS,
  SLAB_BYTES,
  SLABS_PER_BITMAP_PAGE,
  VOLUMES_PER_PAGE,
} from "./layouts.ts";

/** What the superblock says of the areas. */
export interface Areas {
  readonly diskBytes: number;
  readonly ringOffsetBytes: number;
  readonly ringBytes: number;
  readonly logOffsetBytes: number;
  readonly logBytes: number;
  readonly pageOffsetBytes: number;
  readonly slabOffsetBytes: number;
  readonly slabCount: number;
  readonly extentCount: number;
  readonly volumePageCount: number;
  /** Header and data of the largest group. */
  readonly groupBytesMax: number;
}

/** The areas and what follows from them. Page numbers count leaves, then L1, then L2 pages. */
export interface Geometry extends Areas {
  readonly ringBlocks: number;
  readonly logBlocks: number;
  readonly volumeCount: number;
  readonly extentPageStart: number;
  readonly bitmapPageStart: number;
  readonly slabPageStart: number;
  readonly leafCount: number;
  readonly l1Count: number;
  readonly l2Count: number;
}

export interface AreaSizes {
  readonly ringBytes?: number;
  readonly logBytes?: number;
  readonly groupBytesMax?: number;
  /** Extents per 256 MiB of disk: volumes may be larger together than the disk. */
  readonly overcommit?: number;
  readonly volumePageCount?: number;
  /** Exactly so many extents, whatever `overcommit` says. */
  readonly extentCount?: number;
}

const SUPERBLOCK_AREA_BYTES: number = 2 * SLAB_BYTES;
const RING_BYTES_DEFAULT: number = 128 * MIB;
const LOG_BYTES_DEFAULT: number = 64 * MIB;
/** 1 MiB of data behind a header: large enough to cost the disk nothing more per byte. */
const GROUP_BYTES_DEFAULT: number = MIB + BLOCK_BYTES;
const OVERCOMMIT_DEFAULT = 2;
const EXTENT_COUNT_MIN = 64;
const VOLUME_PAGES_DEFAULT = 50;
const SLAB_COUNT_MIN = 4;
const DISK_BYTES_MAX: number = 256 * 1024 * GIB;

export function planAreas(diskBytes: number, sizes: AreaSizes = {}): Areas {
  const usableBytes = alignDown(diskBytes, SLAB_BYTES);
  if (diskBytes > DISK_BYTES_MAX) {
    throw new StoreError("DISK_TOO_LARGE", `a disk of ${formatBytes(diskBytes)}`, {
      advice: `A store manages at most ${formatBytes(DISK_BYTES_MAX)}: use partitions.`,
    });
  }
  // On small disks the journals take a sixteenth each.
  const shareBytes = Math.max(alignDown(usableBytes / 16, SLAB_BYTES), MIB);
  const ringBytes = sizes.ringBytes ?? Math.min(RING_BYTES_DEFAULT, shareBytes);
  const logBytes = sizes.logBytes ?? Math.min(LOG_BYTES_DEFAULT, shareBytes / 2);
  const groupBytesMax =
    sizes.groupBytesMax ?? Math.min(GROUP_BYTES_DEFAULT, ringBytes / 8 + BLOCK_BYTES);
  const overcommit = sizes.overcommit ?? OVERCOMMIT_DEFAULT;
  const byCapacity = Math.ceil((usableBytes / EXTENT_BYTES) * overcommit);
  const extentCount = sizes.extentCount ?? Math.max(byCapacity, EXTENT_COUNT_MIN);
  const volumePageCount = sizes.volumePageCount ?? VOLUME_PAGES_DEFAULT;
  const ringOffsetBytes = SUPERBLOCK_AREA_BYTES;
  const logOffsetBytes = ringOffsetBytes + alignUp(ringBytes, SLAB_BYTES);
  const pageOffsetBytes = logOffsetBytes + alignUp(logBytes, SLAB_BYTES);
  // The bitmap is laid out for all of the disk: a few pages too many, but no circle.
  const counts = countPages(extentCount, volumePageCount, Math.ceil(usableBytes / SLAB_BYTES));
  const pageBytes = (counts.leafCount + counts.l1Count + counts.l2Count) * 2 * BLOCK_BYTES;
  const slabOffsetBytes = pageOffsetBytes + alignUp(pageBytes, SLAB_BYTES);
  const slabBytes = usableBytes - SUPERBLOCK_AREA_BYTES - slabOffsetBytes;
  const slabCount = Math.floor(slabBytes / SLAB_BYTES);
  if (slabCount < SLAB_COUNT_MIN) {
    throw new StoreError("DISK_TOO_SMALL", `a disk of ${formatBytes(diskBytes)}`, {
      advice: `Journals and tables alone need ${formatBytes(slabOffsetBytes + 6 * SLAB_BYTES)}.`,
    });
  }
  return {
    diskBytes: usableBytes,
    ringOffsetBytes,
    ringBytes,
    logOffsetBytes,
    logBytes,
    pageOffsetBytes,
    slabOffsetBytes,
    slabCount,
    extentCount,
    volumePageCount,
    groupBytesMax,
  };
}

function countPages(
  extentCount: number,
  volumePageCount: number,
  slabCount: number,
): Pick<
  Geometry,
  "extentPageStart" | "bitmapPageStart" | "slabPageStart" | "leafCount" | "l1Count" | "l2Count"
> {
  const extentPageStart = volumePageCount;
  const bitmapPageStart = extentPageStart + Math.ceil(extentCount / EXTENTS_PER_PAGE);
  const slabPageStart = bitmapPageStart + Math.ceil(slabCount / SLABS_PER_BITMAP_PAGE);
  const leafCount = slabPageStart + extentCount * EXTENT_PAGES;
  const l1Count = Math.ceil(leafCount / PAGE_PAYLOAD_WORDS);
  const l2Count = Math.ceil(l1Count / PAGE_PAYLOAD_WORDS);
  return { extentPageStart, bitmapPageStart, slabPageStart, leafCount, l1Count, l2Count };
}

/** Throws StoreError when the areas contradict each other: they come from a disk. */
export function geometryOf(areas: Areas): Geometry {
  const reason = contradiction(areas);
  if (reason !== null) throw new StoreError("DISK_DAMAGED", `the superblock's areas: ${reason}`);
  const usableSlabs = Math.ceil(areas.diskBytes / SLAB_BYTES);
  const counts = countPages(areas.extentCount, areas.volumePageCount, usableSlabs);
  return {
    ...(Object.fromEntries(AREA_NAMES.map((name) => [name, areas[name]])) as unknown as Areas),
    ...counts,
    ringBlocks: areas.ringBytes / BLOCK_BYTES,
    logBlocks: areas.logBytes / BLOCK_BYTES,
    volumeCount: areas.volumePageCount * VOLUMES_PER_PAGE,
  };
}

/** As the superblock's layout calls them. */
export const AREA_NAMES = [
  "diskBytes",
  "ringOffsetBytes",
  "ringBytes",
  "logOffsetBytes",
  "logBytes",
  "pageOffsetBytes",
  "slabOffsetBytes",
  "slabCount",
  "extentCount",
  "volumePageCount",
  "groupBytesMax",
] as const;

function contradiction(areas: Areas): string | null {
  for (const name of AREA_NAMES) {
    const value = areas[name];
    if (!Number.isSafeInteger(value) || value <= 0) return `${name} is ${value}`;
    if (name.endsWith("Bytes") && value % BLOCK_BYTES !== 0) return `${name} is ${value}`;
  }
  const { ringOffsetBytes, logOffsetBytes, pageOffsetBytes, slabOffsetBytes } = areas;
  if (ringOffsetBytes < SUPERBLOCK_AREA_BYTES) return "the ring overlaps the superblock";
  if (ringOffsetBytes + areas.ringBytes > logOffsetBytes) return "the ring overlaps the log";
  if (logOffsetBytes + areas.logBytes > pageOffsetBytes) return "the log overlaps the pages";
  const usableSlabs = Math.ceil(areas.diskBytes / SLAB_BYTES);
  const counts = countPages(areas.extentCount, areas.volumePageCount, usableSlabs);
  const pageBytes = (counts.leafCount + counts.l1Count + counts.l2Count) * 2 * BLOCK_BYTES;
  if (pageOffsetBytes + pageBytes > slabOffsetBytes) return "the pages overlap the slabs";
  const slabEnd = slabOffsetBytes + areas.slabCount * SLAB_BYTES;
  if (slabEnd + SUPERBLOCK_AREA_BYTES > areas.diskBytes) return "the slabs leave the disk";
  if (areas.groupBytesMax * 2 > areas.ringBytes) return "a group does not fit into the ring";
  if (areas.groupBytesMax < 2 * BLOCK_BYTES + SLAB_BYTES - BLOCK_BYTES) {
    return "a group does not hold a slab";
  }
  if (counts.l2Count > L2_POINTERS_MAX) return "more pages than the superblock can point to";
  return null;
}

/** Offset of a superblock's copy. Two at the front, two at the end. */
export function superblockOffset(diskBytes: number, copy: number): number {
  assert(copy >= 0 && copy < 4, "a superblock has four copies");
  if (copy < 2) return copy * SLAB_BYTES;
  return alignDown(diskBytes, SLAB_BYTES) - (4 - copy) * SLAB_BYTES;
}
