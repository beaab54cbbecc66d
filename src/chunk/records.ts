// @hot
// Records: what changes in the store's metadata, as they lie in ring groups and in the metadata
// log. See RECORD in layouts.ts. All functions work on a window of u32 words and the index of the
// record's first word.
//
//   word 0   type | flags << 8 | first block << 16 | block count << 24
//        1   extent           2   slab | record bytes << 16
//        3   location + 1     4   freed + 1
//        5,6 stamp            7   layer
//        8.. CRCs, or a volume entry
//
// Invariant: applying the records of any prefix of the history twice, or once more from an earlier
// point, gives the same pages: each sets what it says and depends on nothing.

import { assert } from "../base/index.ts";
import {
  BLOCK_DATA,
  IMAGE_IN_GROUP,
  RECORD,
  RECORD_BYTES_MAX,
  RECORD_CLEAR,
  RECORD_COMMIT,
  RECORD_DOUBT,
  RECORD_EXTENT,
  RECORD_FRESH,
  RECORD_HEAD_BYTES,
  RECORD_IMAGE,
  RECORD_JOURNAL,
  RECORD_REDIRECT,
  RECORD_VOLUME,
  SLAB_BLOCKS,
  VOLUME_ENTRY,
} from "./layouts.ts";

export const RECORD_HEAD_WORDS: number = RECORD_HEAD_BYTES / 4;
const EXTENT: number = RECORD.extent / 4;
const SLAB: number = RECORD.slab / 4;
const LOCATION: number = RECORD.location / 4;
const FREED: number = RECORD.freed / 4;
const STAMP_LOW: number = RECORD.stampLow / 4;
const STAMP_HIGH: number = RECORD.stampHigh / 4;
/** Words behind the head of an image: 16 CRCs and the states. */
const IMAGE_WORDS: number = SLAB_BLOCKS + 1;
/** In place of a type: the record counts for nothing. Only in memory, after a recovery. */
export const RECORD_VOID = 0;

/** Bytes of a record with `payloadWords` words behind its head; a multiple of 8. */
export function recordBytes(payloadWords: number): number {
  return RECORD_HEAD_BYTES + ((payloadWords + 1) & ~1) * 4;
}

/** Words that follow the head of a block record of this type and count. */
export function blockRecordBytes(type: number, blockCount: number): number {
  if (type === RECORD_IMAGE) return recordBytes(IMAGE_WORDS);
  return type === RECORD_CLEAR ? RECORD_HEAD_BYTES : recordBytes(blockCount);
}

export function typeOf(words: Uint32Array, at: number): number {
  return (words[at] as number) & 0xff;
}

export function firstBlockOf(words: Uint32Array, at: number): number {
  return ((words[at] as number) >>> 16) & 0xff;
}

export function blockCountOf(words: Uint32Array, at: number): number {
  return (words[at] as number) >>> 24;
}

export function extentOf(words: Uint32Array, at: number): number {
  return words[at + EXTENT] as number;
}

export function slabOf(words: Uint32Array, at: number): number {
  return (words[at + SLAB] as number) & 0xffff;
}

export function recordBytesOf(words: Uint32Array, at: number): number {
  return (words[at + SLAB] as number) >>> 16;
}

/** Slab + 1. */
export function locationOf(words: Uint32Array, at: number): number {
  return words[at + LOCATION] as number;
}

/** Slab + 1. */
export function freedOf(words: Uint32Array, at: number): number {
  return words[at + FREED] as number;
}

export function stampLowOf(words: Uint32Array, at: number): number {
  return words[at + STAMP_LOW] as number;
}

export function stampHighOf(words: Uint32Array, at: number): number {
  return words[at + STAMP_HIGH] as number;
}

/** Does the record's data travel in its ring group? */
export function isInGroup(words: Uint32Array, at: number): boolean {
  const type = typeOf(words, at);
  if (type === RECORD_JOURNAL) return true;
  return type === RECORD_IMAGE && (((words[at] as number) >>> 8) & IMAGE_IN_GROUP) !== 0;
}

/** Blocks of data that a record brings along in its ring group. */
export function dataBlocksOf(words: Uint32Array, at: number): number {
  return isInGroup(words, at) ? blockCountOf(words, at) : 0;
}

/** Did the record write data to block `index` of its run? Not for a CLEAR. */
export function hasData(words: Uint32Array, at: number, index: number): boolean {
  if (typeOf(words, at) !== RECORD_IMAGE) return true;
  return ((imageStatesOf(words, at) >>> (index * 2)) & 3) === BLOCK_DATA;
}

export function imageStatesOf(words: Uint32Array, at: number): number {
  return words[at + RECORD_HEAD_WORDS + SLAB_BLOCKS] as number;
}

export function putImageStates(words: Uint32Array, at: number, states: number): void {
  words[at + RECORD_HEAD_WORDS + SLAB_BLOCKS] = states;
  words[at + RECORD_HEAD_WORDS + IMAGE_WORDS] = 0;
}

/** Does the record change the slab that it names? */
export function isBlockRecord(type: number): boolean {
  return (type >= RECORD_FRESH && type <= RECORD_CLEAR) || type === RECORD_IMAGE;
}

export function putHead(
  words: Uint32Array,
  at: number,
  type: number,
  flags: number,
  firstBlock: number,
  blockCount: number,
  extent: number,
  slab: number,
  bytes: number,
): void {
  assert(bytes >= RECORD_HEAD_BYTES && bytes <= RECORD_BYTES_MAX, "a record of a wrong size");
  words[at] = (type | (flags << 8) | (firstBlock << 16) | (blockCount << 24)) >>> 0;
  words[at + 1] = extent;
  words[at + 2] = (slab | (bytes << 16)) >>> 0;
  words[at + 3] = 0;
  words[at + 4] = 0;
  words[at + 5] = 0;
  words[at + 6] = 0;
  words[at + 7] = 0;
}

/**
 * Is what lies at `at` a record within `bytesLeft`? The block around it had a good checksum, so a
 * false answer means a program that writes otherwise, not a damaged disk.
 */
export function isRecord(words: Uint32Array, at: number, bytesLeft: number): boolean {
  if (bytesLeft < RECORD_HEAD_BYTES) return false;
  const bytes = recordBytesOf(words, at);
  if (bytes < RECORD_HEAD_BYTES || bytes > bytesLeft || (bytes & 7) !== 0) return false;
  const type = typeOf(words, at);
  const count = blockCountOf(words, at);
  if (type === RECORD_FRESH || type === RECORD_REDIRECT || type === RECORD_JOURNAL) {
    if (locationOf(words, at) === 0) return false;
    return isRun(words, at) && bytes === recordBytes(count);
  }
  if (type === RECORD_CLEAR) return isRun(words, at) && bytes === RECORD_HEAD_BYTES;
  if (type === RECORD_VOLUME) return bytes === recordBytes(VOLUME_ENTRY.BYTES / 4);
  if (type === RECORD_EXTENT || type === RECORD_COMMIT) return bytes === RECORD_HEAD_BYTES;
  if (type === RECORD_IMAGE) {
    return count === SLAB_BLOCKS && isRun(words, at) && bytes === recordBytes(IMAGE_WORDS);
  }
  // Of whatever record it was made of.
  if (type === RECORD_DOUBT) return isRun(words, at);
  return false;
}

function isRun(words: Uint32Array, at: number): boolean {
  const count = blockCountOf(words, at);
  return count > 0 && firstBlockOf(words, at) + count <= SLAB_BLOCKS;
}
