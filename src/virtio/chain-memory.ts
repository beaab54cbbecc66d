// @hot
// Copies between a chain's buffers and private memory, for the small parts of a request that a
// device looks at itself: headers, segments, serial numbers. A part may be cut over any number of
// descriptors at any byte (rows 19 and 22 of the hostile input checklist).

import type { GuestMemory } from "../ports/index.ts";
import type { Chain } from "./chain.ts";

/**
 * Copies bytes [skipBytes, skipBytes + bytes) of the chain's readable part. False when the part is
 * shorter or some of it lies outside guest memory.
 */
export function gatherReadable(
  chain: Chain,
  memory: GuestMemory,
  skipBytes: number,
  target: Uint8Array,
  bytes: number,
): boolean {
  let skip = skipBytes;
  let done = 0;
  for (let index = 0; index < chain.readableCount && done < bytes; index++) {
    const length = chain.lengths[index] as number;
    if (skip >= length) {
      skip -= length;
      continue;
    }
    const left = bytes - done;
    const piece = length - skip < left ? length - skip : left;
    if (!memory.read((chain.addresses[index] as number) + skip, target, done, piece)) return false;
    done += piece;
    skip = 0;
  }
  return done === bytes;
}

/** Copies `bytes` of `source` to the beginning of the chain's writable part. False as above. */
export function scatterWritable(
  chain: Chain,
  memory: GuestMemory,
  source: Uint8Array,
  bytes: number,
): boolean {
  let done = 0;
  for (let index = chain.readableCount; index < chain.count && done < bytes; index++) {
    const length = chain.lengths[index] as number;
    const left = bytes - done;
    const piece = length < left ? length : left;
    if (!memory.write(chain.addresses[index] as number, source, done, piece)) return false;
    done += piece;
  }
  return done === bytes;
}
