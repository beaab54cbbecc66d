// @hot
// A descriptor chain as a device sees it: buffers with guest addresses and lengths, the readable
// ones first. One Chain is filled again and again; it belongs to whoever called pop() until the
// next pop().
//
// Invariants:
// - Every value here is a private copy, read from guest memory once.
// - Descriptors of length 0 are left out (row 14 of the hostile input checklist).
// - The byte sums are exact up to CHAIN_BYTES_MAX and saturate there with CHAIN_TOO_LARGE, so that
//   they stay small integers.

import { SAFE_HIGH_MAX, TWO_32 } from "../base/index.ts";
import { DESCRIPTOR_F_WRITE } from "./layouts.ts";

/** Descriptors per chain, direct or indirect: eight times what we advertise as seg_max. */
export const CHAIN_DESCRIPTORS_MAX = 1024;
/** The most that one readv/writev moves on Linux (MAX_RW_COUNT); larger requests are refused. */
export const CHAIN_BYTES_MAX = 0x7ffff000;

/** A readable descriptor follows a writable one (row 13): the arrays are in the chain's order. */
export const CHAIN_MISORDERED = 1;
/** A descriptor lies where no guest memory can be (row 15); its address here is meaningless. */
export const CHAIN_UNREACHABLE = 2;
/** One of the sums exceeds CHAIN_BYTES_MAX. */
export const CHAIN_TOO_LARGE = 4;

export class Chain {
  readonly addresses: Float64Array = new Float64Array(CHAIN_DESCRIPTORS_MAX);
  readonly lengths: Uint32Array = new Uint32Array(CHAIN_DESCRIPTORS_MAX);
  /** Descriptors in the arrays. */
  count = 0;
  readableCount = 0;
  readableBytes = 0;
  writableBytes = 0;
  /** Index of the last writable descriptor, or -1: its last byte is where a status goes. */
  lastWritable = -1;
  /** 0 for a well-formed chain, else CHAIN_... bits. */
  flags = 0;

  reset(): void {
    this.count = 0;
    this.readableCount = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
    this.lastWritable = -1;
    this.flags = 0;
  }

  /**
   * Appends the descriptor whose address and length are words `at` to `at + 2` of `words`, read
   * here and nowhere else; `descriptorFlags` were read by the caller. False when the chain is full.
   * (Words are fetched in here because a u32 argument may not fit a small integer.)
   */
  add(words: Uint32Array, at: number, descriptorFlags: number): boolean {
    const bytes = words[at + 2] as number;
    if (bytes === 0) return true;
    const index = this.count;
    if (index === CHAIN_DESCRIPTORS_MAX) return false;
    const high = words[at + 1] as number;
    // One step below the bound, so that address + bytes is exact as well.
    if (high < SAFE_HIGH_MAX) {
      this.addresses[index] = high * TWO_32 + (words[at] as number);
    } else {
      this.flags |= CHAIN_UNREACHABLE;
      this.addresses[index] = SAFE_HIGH_MAX * TWO_32;
    }
    this.lengths[index] = bytes;
    this.count = index + 1;
    if ((descriptorFlags & DESCRIPTOR_F_WRITE) !== 0) {
      this.lastWritable = index;
      const sum = this.writableBytes + bytes;
      this.writableBytes = sum <= CHAIN_BYTES_MAX ? sum : this.saturated();
    } else {
      if (this.readableCount !== index) this.flags |= CHAIN_MISORDERED;
      this.readableCount += 1;
      const sum = this.readableBytes + bytes;
      this.readableBytes = sum <= CHAIN_BYTES_MAX ? sum : this.saturated();
    }
    return true;
  }

  private saturated(): number {
    this.flags |= CHAIN_TOO_LARGE;
    return CHAIN_BYTES_MAX;
  }
}
