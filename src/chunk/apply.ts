// @hot
// What a durable record does to the leaf page of its slab. Runs when a group is durable, and again
// when a recovery replays it.

import {
  BLOCK_ABSENT,
  BLOCK_DATA,
  BLOCK_WORDS,
  PAGE,
  PAGE_PAYLOAD_OFFSET,
  RECORD_CLEAR,
  RECORD_DOUBT,
  RECORD_IMAGE,
  SLAB_BLOCKS,
  SLAB_ENTRY,
} from "./layouts.ts";
import { imageStatesOf, RECORD_HEAD_WORDS } from "./records.ts";
import { isNewer } from "./stamps.ts";

const ENTRY_WORDS: number = SLAB_ENTRY.BYTES / 4;
const LOCATION: number = SLAB_ENTRY.location / 4;
const STATES: number = SLAB_ENTRY.states / 4;
const STAMP_LOW: number = SLAB_ENTRY.stampLow / 4;
const STAMP_HIGH: number = SLAB_ENTRY.stampHigh / 4;
export const CRCS: number = SLAB_ENTRY.crcs / 4;
const PAYLOAD: number = PAGE_PAYLOAD_OFFSET / 4;
/** In a word of states: the bit of each block that has data. */
export const DATA_STATES = 0x55555555;
export const DOUBTS: number = PAGE.doubts / 4;

/** Word of a slab's entry in the page at word `page`. */
export function entryAt(page: number, slab: number): number {
  return page + PAYLOAD + (slab & 31) * ENTRY_WORDS;
}

/** Slab + 1, 0 = none. */
export function entryLocation(words: Uint32Array, entry: number): number {
  return words[entry + LOCATION] as number;
}

export function entryState(words: Uint32Array, entry: number, block: number): number {
  return ((words[entry + STATES] as number) >>> (block * 2)) & 3;
}

export function entryCrc(words: Uint32Array, entry: number, block: number): number {
  return words[entry + CRCS + block] as number;
}

/** Two bits for each of the 16 blocks. */
export function entryStates(words: Uint32Array, entry: number): number {
  return words[entry + STATES] as number;
}

export function entryStampLow(words: Uint32Array, entry: number): number {
  return words[entry + STAMP_LOW] as number;
}

export function entryStampHigh(words: Uint32Array, entry: number): number {
  return words[entry + STAMP_HIGH] as number;
}

/** Has a crash lost a write to the slab, and nothing been written to all of it since? */
export function isDoubted(words: Uint32Array, page: number, slab: number): boolean {
  return ((words[page + DOUBTS] as number) & (1 << (slab & 31))) !== 0;
}

/** Two bits for each block of the mask: all set. */
function statesMask(firstBlock: number, blockCount: number): number {
  const bits = blockCount === 16 ? -1 : (1 << (blockCount * 2)) - 1;
  return (bits << (firstBlock * 2)) >>> 0;
}

/** Is a block of the slab, outside the given run, in state data? */
export function hasOtherData(
  words: Uint32Array,
  entry: number,
  firstBlock: number,
  blockCount: number,
): boolean {
  const data = (words[entry + STATES] as number) & DATA_STATES;
  return (data & ~statesMask(firstBlock, blockCount)) !== 0;
}

/** Is there data in blocks that are not in `mask`, a bit per block? */
export function hasDataOutside(words: Uint32Array, entry: number, mask: number): boolean {
  const data = (words[entry + STATES] as number) & DATA_STATES;
  for (let block = 0; block < 16; block++) {
    if ((mask & (1 << block)) === 0 && (data & (1 << (block * 2))) !== 0) return true;
  }
  return false;
}

/** Nothing was ever written to the slab, or everything about it is forgotten. */
export function isEmptyEntry(words: Uint32Array, entry: number): boolean {
  return (
    words[entry + LOCATION] === 0 &&
    words[entry + STATES] === 0 &&
    words[entry + STAMP_LOW] === 0 &&
    words[entry + STAMP_HIGH] === 0
  );
}

export function hasDataIn(
  words: Uint32Array,
  entry: number,
  firstBlock: number,
  blockCount: number,
): boolean {
  const data = (words[entry + STATES] as number) & DATA_STATES;
  return (data & statesMask(firstBlock, blockCount)) !== 0;
}

/** Applies the block record, or doubt, at word `at` of `record` to the page at word `page`. */
export function applyToPage(
  record: Uint32Array,
  at: number,
  words: Uint32Array,
  page: number,
): void {
  const head = record[at] as number;
  const type = head & 0xff;
  const slab = (record[at + 2] as number) & 0xffff;
  const doubt = 1 << (slab & 31);
  if (type === RECORD_DOUBT) {
    words[page + DOUBTS] = ((words[page + DOUBTS] as number) | doubt) >>> 0;
    return;
  }
  const blockCount = head >>> 24;
  const entry = entryAt(page, slab);
  if (blockCount === SLAB_BLOCKS) {
    // Whatever was lost is overwritten.
    words[page + DOUBTS] = ((words[page + DOUBTS] as number) & ~doubt) >>> 0;
  }
  words[entry + LOCATION] = record[at + 3] as number;
  if (type === RECORD_IMAGE) applyImage(record, at, words, entry);
  else applyRun(record, at, words, entry);
}

function applyImage(record: Uint32Array, at: number, words: Uint32Array, entry: number): void {
  words[entry + STATES] = imageStatesOf(record, at);
  setEntryStamp(record, at, words, entry);
  for (let block = 0; block < SLAB_BLOCKS; block++) {
    words[entry + CRCS + block] = record[at + RECORD_HEAD_WORDS + block] as number;
  }
}

/** Gives the entry the record's stamp, whatever it has. */
export function setEntryStamp(
  record: Uint32Array,
  at: number,
  words: Uint32Array,
  entry: number,
): void {
  words[entry + STAMP_LOW] = record[at + 5] as number;
  words[entry + STAMP_HIGH] = record[at + 6] as number;
}

function applyRun(record: Uint32Array, at: number, words: Uint32Array, entry: number): void {
  const head = record[at] as number;
  const firstBlock = (head >>> 16) & 0xff;
  const blockCount = head >>> 24;
  const isClear = (head & 0xff) === RECORD_CLEAR;
  const mask = statesMask(firstBlock, blockCount);
  const state = isClear ? (head >>> 8) & 3 : BLOCK_DATA;
  const pattern = (state * DATA_STATES) >>> 0;
  const states = words[entry + STATES] as number;
  words[entry + STATES] = ((states & ~mask) | (pattern & mask)) >>> 0;
  const low = words[entry + STAMP_LOW] as number;
  const high = words[entry + STAMP_HIGH] as number;
  // Writes to other blocks of the slab may have been overtaken: the newest counts for all of them.
  const isForgotten = isClear && state === BLOCK_ABSENT;
  if (isForgotten || isNewer(record[at + 5] as number, record[at + 6] as number, low, high)) {
    setEntryStamp(record, at, words, entry);
  }
  const crcs = entry + CRCS + firstBlock;
  for (let block = 0; block < blockCount; block++) {
    words[crcs + block] = isClear ? 0 : (record[at + RECORD_HEAD_WORDS + block] as number);
  }
}

/** Nothing in the page at word `page`: it need not be written at all. */
export function isEmptyPage(words: Uint32Array, page: number): boolean {
  if (words[page + DOUBTS] !== 0) return false;
  for (let word = page + PAYLOAD; word < page + BLOCK_WORDS; word++) {
    if (words[word] !== 0) return false;
  }
  return true;
}
