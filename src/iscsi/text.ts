// Text keys (RFC 7143 section 6.1): pairs `key=value`, each ended by a NUL, over any number of
// PDUs; numbers, booleans, lists, and binary values in hexadecimal or base64.
//
// Invariant: whatever a peer sends costs at most TEXT_BYTES_MAX of memory and one pass over it.

import { TEXT_BYTES_MAX, TEXT_PAIRS_MAX, TEXT_VALUE_BYTES_MAX } from "./limits.ts";

export type TextPair = readonly [key: string, value: string];

const KEY_PATTERN = /^[A-Za-z][A-Za-z0-9.\-+@_#/]{0,62}$/;
const DECIMAL_PATTERN = /^[0-9]{1,10}$/;
const HEX_NUMBER_PATTERN = /^0[xX][0-9a-fA-F]{1,8}$/;
const HEX_PATTERN = /^(?:[0-9a-fA-F]{2})+$/;
const BASE64_PATTERN = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** The pairs of a whole text, or why it is none, as a constant sentence. */
export function parseText(bytes: Uint8Array): TextPair[] | string {
  if (bytes.length === 0) return [];
  if (bytes[bytes.length - 1] !== 0) return "text that does not end with a NUL";
  const pairs: TextPair[] = [];
  for (const part of Buffer.from(bytes).toString("utf8").split("\0")) {
    // Some initiators fill the segment with NULs.
    if (part === "") continue;
    const at = part.indexOf("=");
    if (at < 0) return "a key without a value";
    const key = part.slice(0, at);
    if (!KEY_PATTERN.test(key)) return "a key with a name that no key can have";
    if (part.length - at - 1 > TEXT_VALUE_BYTES_MAX) return "a value that is too long";
    if (pairs.length === TEXT_PAIRS_MAX) return "too many keys";
    pairs.push([key, part.slice(at + 1)]);
  }
  return pairs;
}

export function encodeText(pairs: readonly TextPair[]): Uint8Array {
  return Buffer.from(pairs.map(([key, value]) => `${key}=${value}\0`).join(""), "utf8");
}

/** A number in decimal or hexadecimal, or -1 for anything else. */
export function parseNumber(text: string): number {
  if (!DECIMAL_PATTERN.test(text) && !HEX_NUMBER_PATTERN.test(text)) return -1;
  return Number(text);
}

/** A binary value of at most `bytesMax` bytes, or null where it is longer or not one. */
export function parseBinary(text: string, bytesMax: number): Uint8Array | null {
  const mark = text.slice(0, 2).toLowerCase();
  const digits = text.slice(2);
  let bytes: Uint8Array;
  if (mark === "0x") {
    if (digits.length > bytesMax * 2 || !HEX_PATTERN.test(digits)) return null;
    bytes = Buffer.from(digits, "hex");
  } else if (mark === "0b") {
    if (digits.length > bytesMax * 2 || !BASE64_PATTERN.test(digits)) return null;
    bytes = Buffer.from(digits, "base64");
  } else {
    return null;
  }
  return bytes.length > 0 && bytes.length <= bytesMax ? bytes : null;
}

export function formatBinary(bytes: Uint8Array): string {
  return `0x${Buffer.from(bytes).toString("hex")}`;
}

/** Gathers a text that comes in several PDUs (C bit). */
export class TextGatherer {
  private parts: Uint8Array[] = [];
  private bytes = 0;

  /** Keeps a copy. False: it is more than anybody may send. */
  add(part: Uint8Array): boolean {
    if (this.bytes + part.length > TEXT_BYTES_MAX) return false;
    this.bytes += part.length;
    if (part.length > 0) this.parts.push(Uint8Array.from(part));
    return true;
  }

  /** All of it; the next text begins empty. */
  take(): Uint8Array {
    const whole = Buffer.concat(this.parts);
    this.parts = [];
    this.bytes = 0;
    return whole;
  }
}
