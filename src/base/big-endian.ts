// @hot
// Big-endian fields in byte arrays, as SCSI and iSCSI have them everywhere.
//
// 64-bit fields are read as JS numbers: exact up to 2^53, and anything above reads as a number
// above 2^53, which is out of every range that is checked afterwards.

import { TWO_32 } from "./units.ts";

export function getU16(from: Uint8Array, at: number): number {
  return ((from[at] as number) << 8) | (from[at + 1] as number);
}

export function getU24(from: Uint8Array, at: number): number {
  return ((from[at] as number) << 16) | ((from[at + 1] as number) << 8) | (from[at + 2] as number);
}

export function getU32(from: Uint8Array, at: number): number {
  return (
    (((from[at] as number) << 24) |
      ((from[at + 1] as number) << 16) |
      ((from[at + 2] as number) << 8) |
      (from[at + 3] as number)) >>>
    0
  );
}

export function getU64(from: Uint8Array, at: number): number {
  return getU32(from, at) * TWO_32 + getU32(from, at + 4);
}

export function putU16(to: Uint8Array, at: number, value: number): void {
  to[at] = value >>> 8;
  to[at + 1] = value;
}

export function putU24(to: Uint8Array, at: number, value: number): void {
  to[at] = value >>> 16;
  to[at + 1] = value >>> 8;
  to[at + 2] = value;
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
