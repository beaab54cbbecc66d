// @hot
// Headers: written in place, sealed with their checksum, and checked before a field is believed.
// A header is named by the index of its first u32 in an array of words.
//
// checkHeader survives any bytes: it answers with a reason, never with an exception, and looks at
// nothing behind the 80 bytes. Who reads a field afterwards knows that its CRC and size are right.

import { assert, crc32cTable, SAFE_HIGH_MAX, TWO_32 } from "../base/index.ts";
import {
  HEADER,
  HEADER_BYTES,
  HEADER_WORDS,
  PAYLOAD_BYTES_MAX,
  WIRE_FEATURES,
  WIRE_MAGIC,
  WIRE_VERSION,
} from "./layouts.ts";

/** Word index of each field in a header; `TYPE` holds type, flags and the reserved half word. */
export const W_MAGIC: number = HEADER.magic >>> 2;
export const W_VERSION: number = HEADER.version >>> 2;
export const W_TYPE: number = HEADER.type >>> 2;
export const W_FEATURES: number = HEADER.features >>> 2;
export const W_REQUEST: number = HEADER.request >>> 2;
export const W_SESSION: number = HEADER.session >>> 2;
export const W_EPOCH: number = HEADER.epoch >>> 2;
export const W_STREAM_SEQUENCE: number = HEADER.streamSequence >>> 2;
export const W_SEQUENCE: number = HEADER.sequence >>> 2;
export const W_COMMITTED: number = HEADER.committed >>> 2;
export const W_FIRST_BLOCK: number = HEADER.firstBlock >>> 2;
export const W_BLOCK_COUNT: number = HEADER.blockCount >>> 2;
export const W_RESULT: number = HEADER.result >>> 2;
export const W_PAYLOAD_BYTES: number = HEADER.payloadBytes >>> 2;
export const W_PAYLOAD_CRC: number = HEADER.payloadCrc >>> 2;
const W_RESERVED: number = HEADER.reservedToo >>> 2;
const W_HEADER_CRC: number = HEADER.headerCrc >>> 2;

/** Why a header is not believed. */
export const HEADER_OK = 0;
export const HEADER_BAD_MAGIC = 1;
export const HEADER_BAD_CRC = 2;
export const HEADER_BAD_VERSION = 3;
export const HEADER_BAD_SIZE = 4;
export const HEADER_BAD_FIELD = 5;
/** Of a message: its payload does not match its checksum. */
export const PAYLOAD_BAD_CRC = 6;

export const HEADER_VERDICTS: readonly string[] = [
  "ok",
  "no message of ours begins here",
  "the header does not match its checksum",
  "another version of the wire",
  "longer than allowed",
  "a field out of range",
  "the payload does not match its checksum",
];

const VERSION_WORD = WIRE_VERSION | (HEADER_BYTES << 16);

/** Begins the header at word `at`: everything but type, flags, request and session is zero. */
export function beginHeader(
  words: Uint32Array,
  at: number,
  type: number,
  flags: number,
  request: number,
  session: number,
): void {
  words.fill(0, at, at + HEADER_WORDS);
  words[at + W_MAGIC] = WIRE_MAGIC;
  words[at + W_VERSION] = VERSION_WORD;
  words[at + W_TYPE] = type | (flags << 8);
  words[at + W_FEATURES] = WIRE_FEATURES;
  words[at + W_REQUEST] = request;
  words[at + W_SESSION] = session;
}

/** Stores a non-negative safe integer in two words. */
export function putWide(words: Uint32Array, word: number, value: number): void {
  words[word] = value >>> 0;
  words[word + 1] = Math.floor(value / TWO_32);
}

/** Reads one; checkHeader has made sure that it is exact. */
export function getWide(words: Uint32Array, word: number): number {
  return (words[word + 1] as number) * TWO_32 + (words[word] as number);
}

/** Ends the header: nothing in it may change after this. `u8` covers the same memory. */
export function sealHeader(words: Uint32Array, u8: Uint8Array, at: number): void {
  const from = at * 4;
  words[at + W_HEADER_CRC] = crc32cTable(u8, 0, from, from + HEADER.headerCrc);
}

export function headerType(words: Uint32Array, at: number): number {
  return (words[at + W_TYPE] as number) & 0xff;
}

export function headerFlags(words: Uint32Array, at: number): number {
  return ((words[at + W_TYPE] as number) >>> 8) & 0xff;
}

export function headerVersion(words: Uint32Array, at: number): number {
  return (words[at + W_VERSION] as number) & 0xffff;
}

/** Of the header at word `at`; one of HEADER_*. `payloadBytesMax` is what the reader allows. */
export function checkHeader(
  words: Uint32Array,
  u8: Uint8Array,
  at: number,
  payloadBytesMax: number,
): number {
  assert(payloadBytesMax <= PAYLOAD_BYTES_MAX, "a limit above the wire's own");
  if (words[at + W_MAGIC] !== WIRE_MAGIC) return HEADER_BAD_MAGIC;
  const from = at * 4;
  const crc = crc32cTable(u8, 0, from, from + HEADER.headerCrc);
  if (crc !== words[at + W_HEADER_CRC]) return HEADER_BAD_CRC;
  if (words[at + W_VERSION] !== VERSION_WORD) return HEADER_BAD_VERSION;
  const payloadBytes = words[at + W_PAYLOAD_BYTES] as number;
  if (payloadBytes > payloadBytesMax || (payloadBytes & 7) !== 0) return HEADER_BAD_SIZE;
  if (
    words[at + W_RESERVED] !== 0 ||
    (words[at + W_TYPE] as number) >>> 16 !== 0 ||
    (words[at + W_FEATURES] as number) !== WIRE_FEATURES ||
    (words[at + W_SEQUENCE + 1] as number) > SAFE_HIGH_MAX ||
    (words[at + W_COMMITTED + 1] as number) > SAFE_HIGH_MAX ||
    (words[at + W_FIRST_BLOCK + 1] as number) > SAFE_HIGH_MAX
  ) {
    return HEADER_BAD_FIELD;
  }
  return HEADER_OK;
}
