// Making a store of a disk, and telling what a disk holds. Blocking, for a tool or a thread of its
// own, through BlockIo; never on a reactor.
//
// Invariant: the superblock is written last, so that a formatting that is cut short leaves no
// store, and nothing of an older one: its superblocks are the first to go.

import { formatBytes } from "../base/index.ts";
import type { Arena, Memory } from "../ports/index.ts";
import { subArena } from "./checkpoint.ts";
import { StoreError } from "./errors.ts";
import { type AreaSizes, geometryOf, planAreas, superblockOffset } from "./geometry.ts";
import { BLOCK_BYTES, FORMAT_VERSION, STATE_CLEAN, SUPERBLOCK_COPIES } from "./layouts.ts";
import { guessContent } from "./signatures.ts";
import {
  type CopyFound,
  checkVersion,
  chooseSuperblock,
  decodeSuperblock,
  encodeSuperblock,
  type Superblock,
} from "./superblock.ts";
import { type DiskFacts, type Durability, durabilityCode, factsOf } from "./superblock-facts.ts";

/** A disk, driven with blocking calls; results are bytes, 0, or a negated errno. */
export interface BlockIo {
  readonly capacityBytes: number;
  read(offsetBytes: number, address: number, bytes: number): number;
  write(offsetBytes: number, address: number, bytes: number): number;
  sync(): number;
}

export interface FormatOptions extends AreaSizes {
  /** 16 bytes. */
  readonly uuid: Uint8Array;
  readonly label: string;
  readonly durability: Durability;
  /** Random, 32 bits: journals of an earlier formatting are not this one's. */
  readonly journalId: number;
  readonly createdAtMs: number;
}

export type DiskContent =
  | { readonly kind: "blank" }
  | { readonly kind: "foreign"; readonly what: string }
  | { readonly kind: "store"; readonly facts: DiskFacts };

const CHUNK_BYTES = 1048576;

function must(result: number, bytes: number, what: string): void {
  if (result === bytes) return;
  throw new StoreError("DISK_FAILED", `${what}: ${result < 0 ? `errno ${-result}` : "short"}`);
}

/**
 * Makes a store. With `prewrite` every byte of the disk is written once, so that a file system
 * has nothing left to allocate when data comes; without, only the journals' areas are.
 */
export function formatDisk(
  io: BlockIo,
  memory: Memory,
  options: FormatOptions,
  progress: (doneBytes: number, totalBytes: number) => void,
  prewrite: boolean,
): DiskFacts {
  const areas = planAreas(io.capacityBytes, options);
  const geometry = geometryOf(areas);
  const buffer = memory.allocate(CHUNK_BYTES);
  for (let copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
    const offset = superblockOffset(areas.diskBytes, copy);
    must(io.write(offset, buffer.address, BLOCK_BYTES), BLOCK_BYTES, "write of the superblock");
  }
  must(io.sync(), 0, "flush");
  const endBytes = prewrite ? areas.diskBytes : areas.pageOffsetBytes;
  zero(io, buffer, areas.ringOffsetBytes, endBytes - areas.ringOffsetBytes, progress);
  must(io.sync(), 0, "flush");
  const superblock: Superblock = {
    ...areas,
    version: FORMAT_VERSION,
    featuresIncompatible: 0,
    featuresReadOnlyCompatible: 0,
    featuresCompatible: 0,
    uuid: options.uuid,
    sequence: 1,
    incarnation: 0,
    state: STATE_CLEAN,
    durability: durabilityCode(options.durability),
    journalId: options.journalId,
    generation: 1,
    checkpointLsn: 0,
    logTailBlock: 0,
    logTailPreviousCrc: 0,
    logTailSequence: 1,
    ringTailBlock: 0,
    ringTailPreviousCrc: 0,
    createdAtMs: options.createdAtMs,
    scrubPage: 0,
    scrubRounds: 0,
    label: options.label,
    l2Pointers: new Uint32Array(geometry.l2Count),
  };
  for (let copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
    encodeSuperblock(superblock, copy, buffer, memory);
    const offset = superblockOffset(areas.diskBytes, copy);
    must(io.write(offset, buffer.address, BLOCK_BYTES), BLOCK_BYTES, "write of the superblock");
  }
  must(io.sync(), 0, "flush");
  memory.free(buffer);
  return factsOf(superblock);
}

function zero(
  io: BlockIo,
  buffer: Arena,
  offsetBytes: number,
  bytes: number,
  progress: (doneBytes: number, totalBytes: number) => void,
): void {
  buffer.u8.fill(0);
  for (let done = 0; done < bytes; done += CHUNK_BYTES) {
    const piece = Math.min(CHUNK_BYTES, bytes - done);
    must(io.write(offsetBytes + done, buffer.address, piece), piece, "write");
    progress(done + piece, bytes);
  }
}

/** The superblock that counts; null when there is none at all. Throws StoreError. */
function loadSuperblock(io: BlockIo, memory: Memory): Superblock | null {
  const arena = memory.allocate(SUPERBLOCK_COPIES * BLOCK_BYTES);
  const found: CopyFound[] = [];
  for (let copy = 0; copy < SUPERBLOCK_COPIES; copy++) {
    const offset = superblockOffset(io.capacityBytes, copy);
    const result =
      offset < 0 ? -1 : io.read(offset, arena.address + copy * BLOCK_BYTES, BLOCK_BYTES);
    if (result === BLOCK_BYTES) found.push(decodeSuperblock(subArena(arena, copy), memory));
    else found.push({ kind: "damaged", reason: `read: ${result}` });
  }
  memory.free(arena);
  return chooseSuperblock(found);
}

/** What is on the disk? Throws StoreError for a store that is damaged or too new. */
export function inspectDisk(io: BlockIo, memory: Memory): DiskContent {
  const superblock = loadSuperblock(io, memory);
  if (superblock !== null) {
    checkVersion(superblock);
    return { kind: "store", facts: factsOf(superblock) };
  }
  const bytes = Math.min(CHUNK_BYTES, io.capacityBytes - (io.capacityBytes % BLOCK_BYTES));
  if (bytes === 0) {
    throw new StoreError("DISK_TOO_SMALL", `a disk of ${formatBytes(io.capacityBytes)}`);
  }
  const buffer = memory.allocate(CHUNK_BYTES);
  must(io.read(0, buffer.address, bytes), bytes, "read");
  const front = guessContent(buffer.u8.subarray(0, bytes));
  let isBlank = front === null;
  if (isBlank) {
    // Some things begin at the end: backup partition tables, RAID superblocks.
    const tail = Math.floor((io.capacityBytes - bytes) / BLOCK_BYTES) * BLOCK_BYTES;
    must(io.read(tail, buffer.address, bytes), bytes, "read");
    isBlank = buffer.u8.subarray(0, bytes).every((byte) => byte === 0);
  }
  memory.free(buffer);
  if (isBlank) return { kind: "blank" };
  return { kind: "foreign", what: front ?? "data at its end" };
}
