// @hot
// What a device does with the buffers of a chain: copies the small parts that it looks at itself
// (headers, range segments, serial numbers), and finds the host memory of the rest for a request's
// segments. A part may be cut over any number of descriptors at any byte (rows 19 and 22 of the
// hostile input checklist), and a buffer over regions (row 17).

import { FLAG_FAULTABLE, type RequestTable } from "../base/index.ts";
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

/** Gives the slot the host memory of the first `bytes` writable bytes. False: not all is there. */
export function mapWritable(
  chain: Chain,
  memory: GuestMemory,
  bytes: number,
  requests: RequestTable,
  slot: number,
): boolean {
  let missing = bytes;
  for (let index = chain.readableCount; missing > 0; index++) {
    const length = chain.lengths[index] as number;
    const piece = length < missing ? length : missing;
    if (!mapBuffer(chain, index, 0, piece, memory, requests, slot)) return false;
    missing -= piece;
  }
  return true;
}

/** As mapWritable, for `bytes` writable bytes behind the first `skipBytes`. */
export function mapWritableBehind(
  chain: Chain,
  memory: GuestMemory,
  skipBytes: number,
  bytes: number,
  requests: RequestTable,
  slot: number,
): boolean {
  const first = chain.readableCount;
  return mapBehind(chain, first, memory, skipBytes, bytes, requests, slot);
}

/** As mapWritable, for `bytes` readable bytes behind the first `skipBytes`. */
export function mapReadable(
  chain: Chain,
  memory: GuestMemory,
  skipBytes: number,
  bytes: number,
  requests: RequestTable,
  slot: number,
): boolean {
  return mapBehind(chain, 0, memory, skipBytes, bytes, requests, slot);
}

function mapBehind(
  chain: Chain,
  firstIndex: number,
  memory: GuestMemory,
  skipBytes: number,
  bytes: number,
  requests: RequestTable,
  slot: number,
): boolean {
  let index = firstIndex;
  let skip = skipBytes;
  while (skip >= (chain.lengths[index] as number)) {
    skip -= chain.lengths[index] as number;
    index += 1;
  }
  let missing = bytes;
  while (missing > 0) {
    const left = (chain.lengths[index] as number) - skip;
    const piece = left < missing ? left : missing;
    if (!mapBuffer(chain, index, skip, piece, memory, requests, slot)) return false;
    missing -= piece;
    skip = 0;
    index += 1;
  }
  return true;
}

/**
 * Appends `bytes` of buffer `index` behind its first `skip`, region by region. False when some of
 * it lies in no region. (Takes the index, not the address: an address is no small integer.)
 */
function mapBuffer(
  chain: Chain,
  index: number,
  skip: number,
  bytes: number,
  memory: GuestMemory,
  requests: RequestTable,
  slot: number,
): boolean {
  let at = (chain.addresses[index] as number) + skip;
  let left = bytes;
  while (left > 0) {
    const address = memory.translate(at);
    if (address < 0) return false;
    const piece = memory.contiguousBytes < left ? memory.contiguousBytes : left;
    if (memory.faultable) requests.flags[slot] = (requests.flags[slot] as number) | FLAG_FAULTABLE;
    if (!requests.addSegment(slot, address, piece)) return false;
    at += piece;
    left -= piece;
  }
  return true;
}

/** Marks the pages behind a read's segments, after the device has written them. */
export function markSegmentsDirty(requests: RequestTable, slot: number, memory: GuestMemory): void {
  const count = requests.segmentCount[slot] as number;
  for (let index = 0; index < count; index++) {
    memory.markHostDirty(requests.segmentAddress(slot, index), requests.segmentBytes(slot, index));
  }
}
