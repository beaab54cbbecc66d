// @hot
// Big-endian fields in a window of bytes, and what a header says about the length of its PDU.

import { BHS_BYTES, DIGEST_BYTES } from "./layouts.ts";

export function getU16(u8: Uint8Array, at: number): number {
  return (u8[at] << 8) | u8[at + 1];
}

export function putU16(u8: Uint8Array, at: number, value: number): void {
  u8[at] = value >>> 8;
  u8[at + 1] = value;
}

export function getU24(u8: Uint8Array, at: number): number {
  return (u8[at] << 16) | (u8[at + 1] << 8) | u8[at + 2];
}

export function putU24(u8: Uint8Array, at: number, value: number): void {
  u8[at] = value >>> 16;
  u8[at + 1] = value >>> 8;
  u8[at + 2] = value;
}

export function getU32(u8: Uint8Array, at: number): number {
  return ((u8[at] << 24) | (u8[at + 1] << 16) | (u8[at + 2] << 8) | u8[at + 3]) >>> 0;
}

export function putU32(u8: Uint8Array, at: number, value: number): void {
  u8[at] = value >>> 24;
  u8[at + 1] = value >>> 16;
  u8[at + 2] = value >>> 8;
  u8[at + 3] = value;
}

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
  return BHS_BYTES + u8[at + 4] * 4 + (hasDigest ? DIGEST_BYTES : 0);
}

/** Bytes that fill a data segment up to the next word. */
export function padBytes(bytes: number): number {
  return -bytes & 3;
}

/** Serial number arithmetic (RFC 1982): is `a` before `b`? */
export function isBefore(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}
