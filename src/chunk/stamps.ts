// @hot
// Stamps: (epoch, sequence) of a write in 64 bits, as two words. 20 bits of epoch, then 44 bits of
// sequence: stamps order all writes of a volume, and a new epoch's first comes after every older.

import { assert } from "../base/index.ts";

const TWO_32 = 4294967296;
/** A stamp's high half: 20 bits of epoch, 12 bits of sequence. */
const EPOCH_SHIFT = 12;
const SEQUENCE_HIGH_MASK = 0xfff;
export const EPOCH_MAX = 0xfffff;
export const SEQUENCE_MAX = 17592186044415;

export function stampLow(sequence: number): number {
  return sequence >>> 0;
}

export function stampHigh(epoch: number, sequence: number): number {
  assert(sequence <= SEQUENCE_MAX, "the sequences of an epoch are used up");
  return ((epoch << EPOCH_SHIFT) | Math.floor(sequence / TWO_32)) >>> 0;
}

export function epochOf(high: number): number {
  return high >>> EPOCH_SHIFT;
}

export function sequenceOf(low: number, high: number): number {
  return (high & SEQUENCE_HIGH_MASK) * TWO_32 + low;
}

/** Is stamp a newer than stamp b? */
export function isNewer(aLow: number, aHigh: number, bLow: number, bHigh: number): boolean {
  return aHigh > bHigh || (aHigh === bHigh && aLow > bLow);
}
