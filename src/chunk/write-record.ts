// @hot
// A write's record in the open group of the ring, and the one copy of its data out of the caller's
// memory. See records.ts for what lies where.

import { blockCrc } from "./checksum.ts";
import { BLOCK_BYTES, BLOCK_DATA, RECORD_IMAGE, SLAB_BLOCKS } from "./layouts.ts";
import { OP_KIND_IMAGE } from "./op-table.ts";
import {
  blockRecordBytes,
  hasData,
  putHead,
  putImageStates,
  RECORD_HEAD_WORDS,
} from "./records.ts";
import type { WriteParts } from "./write-path.ts";

/** Copies `bytes` of the operation's data to `to`; what an image has no data for is zeroed. */
export function copyData(parts: WriteParts, op: number, to: number, bytes: number): number {
  const { copier, memory, ops } = parts;
  const from = ops.address[op] as number;
  if (from === 0) {
    return copier.gather(ops.slot[op] as number, ops.skipBytes[op] as number, to, bytes);
  }
  memory.copy(to, from, bytes);
  if (ops.kind[op] !== OP_KIND_IMAGE) return 0;
  for (let block = 0; block < SLAB_BLOCKS; block++) {
    if ((((ops.states[op] as number) >>> (block * 2)) & 3) === BLOCK_DATA) continue;
    memory.fill(to + block * BLOCK_BYTES, 0, BLOCK_BYTES);
  }
  return 0;
}

/** After makeRoom(). `address` is where the data lies, with or without the group; 0 = none. */
export function putBlockRecord(
  parts: WriteParts,
  op: number,
  type: number,
  flags: number,
  address: number,
): void {
  const { ops, ring } = parts;
  const first = ops.firstBlock[op] as number;
  const count = ops.blockCount[op] as number;
  const slab = ops.slab[op] as number;
  const bytes = blockRecordBytes(type, count);
  const at = ring.addRecord(bytes);
  const words = ring.words;
  putHead(words, at, type, flags, first, count, ops.extent[op] as number, slab, bytes);
  words[at + 3] = ops.location[op] as number;
  words[at + 4] = ops.freed[op] as number;
  words[at + 5] = ops.stampLow[op] as number;
  words[at + 6] = ops.stampHigh[op] as number;
  // First: the states say which blocks of an image have a CRC.
  if (type === RECORD_IMAGE) putImageStates(words, at, ops.states[op] as number);
  if (address !== 0 || type === RECORD_IMAGE) putCrcs(parts, at, address, first, count, slab);
  ops.recordType[op] = type;
  ops.recordAt[op] = at;
  ops.lsn[op] = ring.nextLsn;
  ring.addOp(op);
}

function putCrcs(
  { ring, memory }: WriteParts,
  at: number,
  address: number,
  first: number,
  count: number,
  slab: number,
): void {
  const { words } = ring;
  const crcs = at + RECORD_HEAD_WORDS;
  const firstOfExtent = slab * SLAB_BLOCKS + first;
  for (let block = 0; block < count; block++) {
    words[crcs + block] = hasData(words, at, block)
      ? blockCrc(memory, address + block * BLOCK_BYTES, firstOfExtent + block)
      : 0;
  }
  if ((count & 1) !== 0) words[crcs + count] = 0;
}
