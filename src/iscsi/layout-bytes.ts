// @hot
// Digests, what a header says about the length of its PDU, and the order of serial numbers.

import { BHS, BHS_BYTES, DIGEST_BYTES } from "./layouts.ts";

/** A CRC32C travels with its low byte first (RFC 7143 section 12.1, RFC 3385). */
export function getDigest(u8: Uint8Array, at: number): number {
  return (u8[at] | (u8[at + 1] << 8) | (u8[at + 2] << 16) | (u8[at + 3] << 24)) >>> 0;
}

export function putDigest(u8: Uint8Array, at: number, value: number): void {
  u8[at] = value;
  u8[at + 1] = value >>> 8;
  u8[at + 2] = value >>> 16;
  u8[at + 3] = value >>> 24;
}

/** Of the header at `at`: its own bytes, additional segments and digest. */
export function headerBytes(u8: Uint8Array, at: number, hasDigest: boolean): number {
  return BHS_BYTES + u8[at + BHS.totalAhsLength] * 4 + (hasDigest ? DIGEST_BYTES : 0);
}

/** Bytes that fill a data segment up to the next word. */
export function padBytes(bytes: number): number {
  return -bytes & 3;
}

/** Serial number arithmetic (RFC 1982): is `a` before `b`? */
export function isBefore(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}
