// @hot
// What both queue kinds share: the thread's scratch for indirect tables, and the place-holders a
// queue holds while no ring is started.
//
// The scratch is one per thread: pop() fills it and has done with it before it returns.

import { SAFE_HIGH_MAX, TWO_32 } from "../base/index.ts";
import type { GuestMemory, RingArea } from "../ports/index.ts";
import { CHAIN_DESCRIPTORS_MAX } from "./chain.ts";
import {
  BROKEN_INDIRECT_BYTES,
  BROKEN_INDIRECT_TOO_LONG,
  BROKEN_INDIRECT_UNREACHABLE,
} from "./virtqueue.ts";

const DESCRIPTOR_BYTES = 16;
/** Indirect tables are copied in pieces of at most this, whatever length the guest claims. */
const COPY_WORDS_MAX = 1024;

/** Private copy of the indirect table read last, 4 words per descriptor. */
export const INDIRECT_TABLE: Uint32Array = new Uint32Array(CHAIN_DESCRIPTORS_MAX * 4);

/** Raw descriptors of the packed chain popped last, for inflight tracking; 4 words each. */
export const RAW_DESCRIPTORS: Uint32Array = new Uint32Array(CHAIN_DESCRIPTORS_MAX * 4);

export const EMPTY_U8: Uint8Array = new Uint8Array(0);
export const EMPTY_U16: Uint16Array = new Uint16Array(0);
export const EMPTY_I32: Int32Array = new Int32Array(0);
export const EMPTY_U32: Uint32Array = new Uint32Array(0);

class NoRingArea implements RingArea {
  readonly u8 = EMPTY_U8;
  readonly u16 = EMPTY_U16;
  readonly u32 = EMPTY_U32;
  readonly shadow = false;
  pull(): boolean {
    return false;
  }
  push(): boolean {
    return false;
  }
}

class NoGuestMemory implements GuestMemory {
  readonly contiguousBytes = 0;
  readonly faultable = false;
  readonly logging = false;
  translate(): number {
    return -1;
  }
  read(): boolean {
    return false;
  }
  readWords(): boolean {
    return false;
  }
  write(): boolean {
    return false;
  }
  writeU8(): boolean {
    return false;
  }
  markDirty(): void {}
  markHostDirty(): void {}
}

export const NO_RING_AREA: RingArea = new NoRingArea();
export const NO_GUEST_MEMORY: GuestMemory = new NoGuestMemory();

/**
 * Copies the indirect table that the descriptor at words[at] names into INDIRECT_TABLE, once, and
 * returns how many descriptors it has, or why the ring is broken (rows 10, 11, 12: a table may
 * cross regions).
 */
export function readIndirectTable(memory: GuestMemory, words: Uint32Array, at: number): number {
  const high = words[at + 1] as number;
  const bytes = words[at + 2] as number;
  if (bytes === 0 || (bytes & (DESCRIPTOR_BYTES - 1)) !== 0) return BROKEN_INDIRECT_BYTES;
  if (bytes > CHAIN_DESCRIPTORS_MAX * DESCRIPTOR_BYTES) return BROKEN_INDIRECT_TOO_LONG;
  if (high >= SAFE_HIGH_MAX) return BROKEN_INDIRECT_UNREACHABLE;
  const table = high * TWO_32 + (words[at] as number);
  const wordCount = bytes >>> 2;
  for (let done = 0; done < wordCount; done += COPY_WORDS_MAX) {
    const left = wordCount - done;
    const piece = left < COPY_WORDS_MAX ? left : COPY_WORDS_MAX;
    if (!memory.readWords(table + (done << 2), INDIRECT_TABLE, done, piece)) {
      return BROKEN_INDIRECT_UNREACHABLE;
    }
  }
  return bytes >>> 4;
}

/** Copies a ring descriptor's words for the tracker, id and flags as they were read already. */
export function keepRaw(ring: Uint32Array, at: number, to: number, tail: number): void {
  RAW_DESCRIPTORS[to] = ring[at] as number;
  RAW_DESCRIPTORS[to + 1] = ring[at + 1] as number;
  RAW_DESCRIPTORS[to + 2] = ring[at + 2] as number;
  RAW_DESCRIPTORS[to + 3] = tail;
}

/** The same words, signed: an atomic load of them is then always a small integer. */
// @cold
export function signedWords(words: Uint32Array): Int32Array {
  return new Int32Array(words.buffer, words.byteOffset, words.length);
}
