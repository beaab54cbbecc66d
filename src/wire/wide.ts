// Non-negative safe integers of 64 bits in payloads, which lie at any byte.

import { high32, join64, low32, SAFE_HIGH_MAX } from "../base/index.ts";

export function putWideAt(data: DataView, at: number, value: number): void {
  data.setUint32(at, low32(value), true);
  data.setUint32(at + 4, high32(value), true);
}

/** NaN when it is no safe integer. */
export function wideAt(data: DataView, at: number): number {
  const high = data.getUint32(at + 4, true);
  return high > SAFE_HIGH_MAX ? Number.NaN : join64(data.getUint32(at, true), high);
}
