// @hot
// Checksums of the store. A block's CRC32C begins with the block's index in its extent, so that a
// block found in another block's place never matches, whatever it holds.

import type { Address, Memory } from "../ports/index.ts";
import { BLOCK_BYTES } from "./layouts.ts";

/** What the CRC of block `block` of an extent begins with. */
export function blockSeed(block: number): number {
  return Math.imul(block + 1, 0x9e3779b1) >>> 0;
}

export function blockCrc(memory: Memory, address: Address, block: number): number {
  return memory.crc32c(address, BLOCK_BYTES, blockSeed(block));
}

/**
 * CRC of a structure of one 4 KiB block whose own CRC field, a u32 at `crcOffset`, counts as zero.
 * `words` is a window over the arena that starts at `base`; `at` the structure's first word.
 */
export function structureCrc(
  memory: Memory,
  words: Uint32Array,
  base: Address,
  at: number,
  crcOffset: number,
): number {
  const crcWord = at + (crcOffset >>> 2);
  const kept = words[crcWord] as number;
  words[crcWord] = 0;
  const crc = memory.crc32c(base + at * 4, BLOCK_BYTES, 0);
  words[crcWord] = kept;
  return crc;
}
