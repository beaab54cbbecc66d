// UUIDs as the wire has them, 16 bytes, and as everybody else has them, lower-case text.

import { assert } from "../base/index.ts";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function isUuid(text: string): boolean {
  return UUID.test(text);
}

/** Writes a UUID's 16 bytes at `at`. */
export function putUuid(u8: Uint8Array, at: number, text: string): void {
  assert(isUuid(text), "a UUID must be lower-case text with four dashes");
  const digits = text.replaceAll("-", "");
  for (let index = 0; index < 16; index++) {
    u8[at + index] = Number.parseInt(digits.slice(index * 2, index * 2 + 2), 16);
  }
}

export function getUuid(u8: Uint8Array, at: number): string {
  let digits = "";
  for (let index = 0; index < 16; index++) {
    digits += (u8[at + index] as number).toString(16).padStart(2, "0");
  }
  const cuts = [0, 8, 12, 16, 20, 32];
  return cuts
    .slice(1)
    .map((to, index) => digits.slice(cuts[index], to))
    .join("-");
}
