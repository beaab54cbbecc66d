// What the model writes: sectors that say which write they belong to and where they lie, so that a
// reader can tell where any content comes from, and that a mixture is nobody's.

import { SECTOR_BYTES } from "./sim-blocks.ts";

const WORDS = SECTOR_BYTES / 4;
const MAGIC = 0x52535442;
/** Of content that no write made. */
export const NOBODY = -1;
/** Of a sector of zeroes. */
export const ZEROES = 0;

/** The content of `count` sectors from `sector` on, as write `id` (> 0) has it. */
export function stampSectors(id: number, sector: number, count: number): Uint8Array {
  const words = new Uint32Array(count * WORDS);
  for (let index = 0; index < count; index++) stamp(words, index * WORDS, id, sector + index);
  return new Uint8Array(words.buffer);
}

function stamp(words: Uint32Array, at: number, id: number, sector: number): void {
  words[at] = MAGIC;
  words[at + 1] = id;
  words[at + 2] = sector;
  words[at + 3] = Math.floor(sector / 4294967296);
  let state = Math.imul(id, 0x9e3779b1) ^ Math.imul(sector, 0x85ebca6b) ^ MAGIC;
  for (let word = 4; word < WORDS; word++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[at + word] = state;
  }
}

const expected: Uint32Array = new Uint32Array(WORDS);
const actual: Uint32Array = new Uint32Array(WORDS);
const actualBytes: Uint8Array = new Uint8Array(actual.buffer);

/** Which write the sector at `at` of `data` is from, when it was read as `sector`. */
export function readStamp(data: Uint8Array, at: number, sector: number): number {
  actualBytes.set(data.subarray(at, at + SECTOR_BYTES));
  if (actual[0] === 0) {
    for (let word = 1; word < WORDS; word++) if (actual[word] !== 0) return NOBODY;
    return ZEROES;
  }
  const id = actual[1];
  stamp(expected, 0, id, sector);
  for (let word = 0; word < WORDS; word++) if (actual[word] !== expected[word]) return NOBODY;
  return id;
}
