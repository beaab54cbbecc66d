// @hot
// Big-endian fields in byte arrays: SCSI puts the most significant byte first everywhere.
//
// 64-bit fields are read as JS numbers: exact up to 2^53, and anything above reads as a number
// above 2^53, which is out of every range that is checked afterwards.

import { TWO_32 } from "../base/index.ts";

export function getU16(from: Uint8Array, at: number): number {
  return (from[at] << 8) | from[at + 1];
}

export function getU24(from: Uint8Array, at: number): number {
  return (from[at] << 16) | (from[at + 1] << 8) | from[at + 2];
}

export function getU32(from: Uint8Array, at: number): number {
  return ((from[at] << 24) | (from[at + 1] << 16) | (from[at + 2] << 8) | from[at + 3]) >>> 0;
}

export function getU64(from: Uint8Array, at: number): number {
  return getU32(from, at) * TWO_32 + getU32(from, at + 4);
}

export function putU16(to: Uint8Array, at: number, value: number): void {
  to[at] = value >>> 8;
  to[at + 1] = value;
}

export function putU32(to: Uint8Array, at: number, value: number): void {
  to[at] = value >>> 24;
  to[at + 1] = value >>> 16;
  to[at + 2] = value >>> 8;
  to[at + 3] = value;
}

/** `value` a non-negative safe integer. */
export function putU64(to: Uint8Array, at: number, value: number): void {
  putU32(to, at, Math.floor(value / TWO_32));
  putU32(to, at + 4, value >>> 0);
}

/** ASCII, padded with blanks or cut to `bytes`. Bytes that are no printable ASCII become "?". */
// @cold
export function putAscii(to: Uint8Array, at: number, bytes: number, text: string): void {
  for (let index = 0; index < bytes; index++) {
    const code = index < text.length ? text.charCodeAt(index) : 0x20;
    to[at + index] = code >= 0x20 && code < 0x7f ? code : 0x3f;
  }
}

// @cold
export function hexOf(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/** What hexOf() wrote, as bytes; null when the text is not hexadecimal. */
// @cold
export function bytesOfHex(text: string): Uint8Array | null {
  if (!/^(?:[0-9a-f]{2})*$/i.test(text)) return null;
  const bytes = new Uint8Array(text.length / 2);
  for (let index = 0; index < bytes.length; index++) {
    bytes[index] = Number.parseInt(text.slice(2 * index, 2 * index + 2), 16);
  }
  return bytes;
}
