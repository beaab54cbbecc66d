// Placement pages: which disks hold a volume, packed. One page is one value in the metadata and
// speaks for up to 1024 segments of 64 extents (16 GiB), so for 16 TiB.
//
//   header (32 bytes)  entries (16 bytes each)  exceptions (16 bytes each)
//
// An entry says which disks hold a segment. An exception says it of one extent that was moved
// alone. Disks are named by their numbers (disk records); 0 = none. Bytes are little-endian. The
// checksum covers the whole page, itself as zero. A page in a newer format is refused by name.

import { assert, crc32cTable, layout } from "../base/index.ts";
import { MetaError } from "./errors.ts";
import { DISK_NUMBER_MAX } from "./keys.ts";
import { REPLICAS_MAX } from "./records.ts";

const EXTENT_BYTES: number = 256 * 1024 * 1024;
export const SEGMENT_EXTENTS = 64;
export const SEGMENT_BYTES: number = EXTENT_BYTES * SEGMENT_EXTENTS;
export const PAGE_SEGMENTS = 1024;
/** Beyond this a whole segment is moved instead. */
const PAGE_EXCEPTIONS_MAX = 256;
const PAGE_FORMAT = 1;

const HEADER = layout("PlacementPageHeader", 32, {
  magic: [0, 4],
  format: [4, 2],
  entryBytes: [6, 2],
  page: [8, 4],
  checksum: [12, 4],
  entryCount: [16, 4],
  exceptionCount: [20, 4],
  volumeTag: [24, 4],
  reserved: [28, 4],
});

const ENTRY = layout("PlacementEntry", 16, {
  disk0: [0, 2],
  disk1: [2, 2],
  disk2: [4, 2],
  diskCount: [6, 1],
  flags: [7, 1],
  layer: [8, 4],
  /** Of an exception: which extent of the page; 0 in an entry. */
  extent: [12, 4],
});

const MAGIC = 0x50505352;

assert(REPLICAS_MAX === 3, "an entry has room for three disks");
assert(HEADER.BYTES + (PAGE_SEGMENTS + PAGE_EXCEPTIONS_MAX) * ENTRY.BYTES < 32 * 1024, "small");

export interface Placement {
  /** Numbers of the disks that hold it, at most three, none twice. Empty = held by none yet. */
  readonly disks: readonly number[];
  /** Of the volume's layers; 0 until there are snapshots. */
  readonly layer: number;
  /** Reserved for delta extents; 0. */
  readonly flags: number;
}

export interface PlacementException extends Placement {
  /** Index of the extent within the page. */
  readonly extent: number;
}

export interface PlacementPage {
  readonly page: number;
  readonly segments: readonly Placement[];
  /** By rising extent. */
  readonly exceptions: readonly PlacementException[];
}

export function encodePage(volumeId: string, page: PlacementPage): Uint8Array {
  const { segments, exceptions } = page;
  const problem = problemOf(page);
  if (problem !== null) throw new MetaError("format", `A placement page cannot be: ${problem}.`);
  const bytes = new Uint8Array(HEADER.BYTES + (segments.length + exceptions.length) * ENTRY.BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(HEADER.magic, MAGIC, true);
  view.setUint16(HEADER.format, PAGE_FORMAT, true);
  view.setUint16(HEADER.entryBytes, ENTRY.BYTES, true);
  view.setUint32(HEADER.page, page.page, true);
  view.setUint32(HEADER.entryCount, segments.length, true);
  view.setUint32(HEADER.exceptionCount, exceptions.length, true);
  view.setUint32(HEADER.volumeTag, tagOf(volumeId), true);
  let at = HEADER.BYTES;
  for (const one of segments) at = writeEntry(view, at, one, 0);
  for (const one of exceptions) at = writeEntry(view, at, one, one.extent);
  view.setUint32(HEADER.checksum, crc32cTable(bytes, 0), true);
  return bytes;
}

export function decodePage(volumeId: string, key: string, given: Uint8Array): PlacementPage {
  const refuse = (problem: string): MetaError =>
    new MetaError("format", `The placement page at ${key} is not understood: ${problem}.`);
  if (given.length < HEADER.BYTES) throw refuse(`it has ${given.length} bytes`);
  const bytes = Uint8Array.from(given);
  const view = new DataView(bytes.buffer);
  if (view.getUint32(HEADER.magic, true) !== MAGIC) throw refuse("it begins with something else");
  const format = view.getUint16(HEADER.format, true);
  if (format > PAGE_FORMAT) {
    const message =
      `The placement page at ${key} has format ${format}; ` +
      `this version reads up to ${PAGE_FORMAT}.`;
    throw new MetaError("newer-format", message, { advice: "Upgrade this node." });
  }
  const checksum = view.getUint32(HEADER.checksum, true);
  view.setUint32(HEADER.checksum, 0, true);
  if (crc32cTable(bytes, 0) !== checksum) throw refuse("its checksum is wrong");
  if (view.getUint32(HEADER.volumeTag, true) !== tagOf(volumeId)) {
    throw refuse("it belongs to another volume");
  }
  const entryCount = view.getUint32(HEADER.entryCount, true);
  const exceptionCount = view.getUint32(HEADER.exceptionCount, true);
  const wanted = HEADER.BYTES + (entryCount + exceptionCount) * ENTRY.BYTES;
  if (bytes.length !== wanted) throw refuse(`it has ${bytes.length} bytes instead of ${wanted}`);
  const page: PlacementPage = {
    page: view.getUint32(HEADER.page, true),
    segments: Array.from({ length: entryCount }, (_, index) =>
      readEntry(view, HEADER.BYTES + index * ENTRY.BYTES),
    ),
    exceptions: Array.from({ length: exceptionCount }, (_, index) => {
      const at = HEADER.BYTES + (entryCount + index) * ENTRY.BYTES;
      return { ...readEntry(view, at), extent: view.getUint32(at + ENTRY.extent, true) };
    }),
  };
  const problem = problemOf(page);
  if (problem !== null) throw refuse(problem);
  return page;
}

/** Who holds `extent`, counted within the page; null = beyond it. */
export function placementOf(page: PlacementPage, extent: number): Placement | null {
  const moved = page.exceptions.find((one) => one.extent === extent);
  return moved ?? page.segments[Math.floor(extent / SEGMENT_EXTENTS)] ?? null;
}

function writeEntry(view: DataView, at: number, placement: Placement, extent: number): number {
  const { disks, flags, layer } = placement;
  view.setUint16(at + ENTRY.disk0, disks[0] ?? 0, true);
  view.setUint16(at + ENTRY.disk1, disks[1] ?? 0, true);
  view.setUint16(at + ENTRY.disk2, disks[2] ?? 0, true);
  view.setUint8(at + ENTRY.diskCount, disks.length);
  view.setUint8(at + ENTRY.flags, flags);
  view.setUint32(at + ENTRY.layer, layer, true);
  view.setUint32(at + ENTRY.extent, extent, true);
  return at + ENTRY.BYTES;
}

function readEntry(view: DataView, at: number): Placement {
  const numbers = [ENTRY.disk0, ENTRY.disk1, ENTRY.disk2].map((offset) =>
    view.getUint16(at + offset, true),
  );
  return {
    disks: numbers.slice(0, view.getUint8(at + ENTRY.diskCount)),
    flags: view.getUint8(at + ENTRY.flags),
    layer: view.getUint32(at + ENTRY.layer, true),
  };
}

function problemOf(page: PlacementPage): string | null {
  const { segments, exceptions } = page;
  if (segments.length > PAGE_SEGMENTS) return `${segments.length} segments of ${PAGE_SEGMENTS}`;
  if (exceptions.length > PAGE_EXCEPTIONS_MAX) return `${exceptions.length} exceptions`;
  let previous = -1;
  for (const { extent } of exceptions) {
    if (extent <= previous) return `extent ${extent} is out of order`;
    if (extent >= segments.length * SEGMENT_EXTENTS) return `extent ${extent} is beyond its end`;
    previous = extent;
  }
  for (const { disks } of [...segments, ...exceptions]) {
    if (disks.length > REPLICAS_MAX) return `${disks.length} disks in one entry`;
    if (new Set(disks).size !== disks.length) return `disk ${disks[0]} twice in one entry`;
    const wrong = disks.find((number) => number < 1 || number > DISK_NUMBER_MAX);
    if (wrong !== undefined) return `${wrong} is no disk number`;
  }
  return null;
}

/** So that a page cannot be taken for another volume's. */
function tagOf(volumeId: string): number {
  return crc32cTable(new TextEncoder().encode(volumeId), 0);
}
