// @hot
// The parts of a virtio-blk request that the device reads itself, and what makes them valid
// (virtio 1.x, 5.2.6): the header, and the range segment of DISCARD and WRITE_ZEROES. Rows are
// those of the hostile input checklist in TESTING.md.
//
// Invariants:
// - COPY_WORDS is the only thing looked at: guest memory was copied into it once (row 32). It is
//   one per thread and holds the header until a range segment replaces it.
// - A sector is two u32 words until isOnDevice() has said yes; nothing rounds (row 24).

import {
  FLAG_DURABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type RequestTable,
  SECTOR_BYTES,
  TWO_32,
} from "../base/index.ts";
import type { GuestMemory } from "../ports/index.ts";
import {
  type BlkConfig,
  DISCARD_SECTORS_MAX,
  RANGE_SEGMENTS_MAX,
  WRITE_ZEROES_SECTORS_MAX,
} from "./blk-config.ts";
import type { Chain } from "./chain.ts";
import { gatherReadable, scatterWritable } from "./chain-memory.ts";
import {
  BLK_ID_BYTES,
  BLK_RANGE_F_UNMAP,
  BLK_RANGE_SEGMENT,
  BLK_REQUEST_HEADER,
  BLK_S_IOERR,
  BLK_S_OK,
  BLK_S_UNSUPP,
  BLK_T_BARRIER,
} from "./layouts.ts";

export const HEADER_BYTES: number = BLK_REQUEST_HEADER.BYTES;
const HEADER_WORDS: number = HEADER_BYTES >>> 2;
const SEGMENT_BYTES: number = BLK_RANGE_SEGMENT.BYTES;
const TYPE_MASK: number = BLK_T_BARRIER - 1;
/** Byte offsets stay exact: sector * 512 < 2^53. */
const SECTOR_HIGH_MAX = 0xfff;

const COPY_U8: Uint8Array = new Uint8Array(HEADER_BYTES);
const COPY_WORDS: Uint32Array = new Uint32Array(COPY_U8.buffer);
const TYPE_WORD: number = BLK_REQUEST_HEADER.type >>> 2;
const HEADER_SECTOR_WORD: number = BLK_REQUEST_HEADER.sector >>> 2;
const RANGE_SECTOR_WORD: number = BLK_RANGE_SEGMENT.sector >>> 2;
const RANGE_COUNT_WORD: number = BLK_RANGE_SEGMENT.num_sectors >>> 2;
const RANGE_FLAGS_WORD: number = BLK_RANGE_SEGMENT.flags >>> 2;

/** Copies the header of the chain (at least HEADER_BYTES readable). False: not in guest memory. */
export function readHeader(chain: Chain, memory: GuestMemory): boolean {
  if ((chain.lengths[0] as number) >= HEADER_BYTES) {
    return memory.readWords(chain.addresses[0] as number, COPY_WORDS, 0, HEADER_WORDS);
  }
  return gatherReadable(chain, memory, 0, COPY_U8, HEADER_BYTES);
}

/** Request type of the header, without the bit that old drivers set for a barrier (row 27). */
export function headerType(): number {
  return (COPY_WORDS[TYPE_WORD] as number) & TYPE_MASK;
}

/** Reads or writes `bytes` at the header's sector: whole blocks, on the device? (rows 23, 24) */
export function isTransferOnDevice(config: BlkConfig, bytes: number): boolean {
  if ((bytes & config.blockBytesMask) !== 0) return false;
  return isOnDevice(config, HEADER_SECTOR_WORD, bytes >>> 9);
}

/** Sets what isTransferOnDevice() found good; the segments are the caller's. */
export function fillTransfer(
  requests: RequestTable,
  slot: number,
  config: BlkConfig,
  op: number,
): void {
  setOffset(requests, slot, HEADER_SECTOR_WORD);
  if (op === OP_WRITE && config.durableWrites) {
    requests.flags[slot] = (requests.flags[slot] as number) | FLAG_DURABLE;
  }
}

/** Answers GET_ID: as much of the serial as there is room for. Returns bytes, or -1 (row 30). */
export function writeSerial(chain: Chain, memory: GuestMemory, config: BlkConfig): number {
  const room = chain.writableBytes - 1;
  const bytes = room < BLK_ID_BYTES ? room : BLK_ID_BYTES;
  return scatterWritable(chain, memory, config.serial, bytes) ? bytes : -1;
}

/** Copies the range segment behind the header and judges it in the order peers do (rows 26-29). */
export function readRange(
  chain: Chain,
  memory: GuestMemory,
  config: BlkConfig,
  op: number,
): number {
  if (config.readOnly) return BLK_S_IOERR;
  if (op === OP_DISCARD && !config.canDiscard) return BLK_S_UNSUPP;
  const bytes = chain.readableBytes - HEADER_BYTES;
  if (bytes === 0 || bytes % SEGMENT_BYTES !== 0) return BLK_S_UNSUPP;
  if (bytes > RANGE_SEGMENTS_MAX * SEGMENT_BYTES) return BLK_S_UNSUPP;
  if (!gatherReadable(chain, memory, HEADER_BYTES, COPY_U8, SEGMENT_BYTES)) return BLK_S_IOERR;
  const sectorCount = COPY_WORDS[RANGE_COUNT_WORD] as number;
  const max = op === OP_DISCARD ? DISCARD_SECTORS_MAX : WRITE_ZEROES_SECTORS_MAX;
  if (sectorCount > max) return BLK_S_IOERR;
  if ((sectorCount & config.blockSectorsMask) !== 0) return BLK_S_IOERR;
  if (!isOnDevice(config, RANGE_SECTOR_WORD, sectorCount)) return BLK_S_IOERR;
  const allowed = op === OP_WRITE_ZEROES ? BLK_RANGE_F_UNMAP : 0;
  return ((COPY_WORDS[RANGE_FLAGS_WORD] as number) & ~allowed) === 0 ? BLK_S_OK : BLK_S_UNSUPP;
}

/** These two only after readRange() said BLK_S_OK. */
export function isRangeEmpty(): boolean {
  return COPY_WORDS[RANGE_COUNT_WORD] === 0;
}

export function fillRange(
  requests: RequestTable,
  slot: number,
  config: BlkConfig,
  op: number,
): void {
  let flags = 0;
  if (op === OP_WRITE_ZEROES) {
    const unmaps = ((COPY_WORDS[RANGE_FLAGS_WORD] as number) & BLK_RANGE_F_UNMAP) !== 0;
    if (unmaps && config.canDiscard) flags |= FLAG_UNMAP;
    if (config.durableWrites) flags |= FLAG_DURABLE;
  }
  requests.flags[slot] = flags;
  setOffset(requests, slot, RANGE_SECTOR_WORD);
  requests.lengthBytes[slot] = (COPY_WORDS[RANGE_COUNT_WORD] as number) * SECTOR_BYTES;
}

/** True when [sector, sector + count) lies on the device and sector begins a block. */
function isOnDevice(config: BlkConfig, sectorWord: number, sectorCount: number): boolean {
  const low = COPY_WORDS[sectorWord] as number;
  const high = COPY_WORDS[sectorWord + 1] as number;
  if (high > SECTOR_HIGH_MAX) return false;
  if ((low & config.blockSectorsMask) !== 0) return false;
  return high * TWO_32 + low + sectorCount <= config.capacitySectors;
}

function setOffset(requests: RequestTable, slot: number, sectorWord: number): void {
  const low = COPY_WORDS[sectorWord] as number;
  const high = COPY_WORDS[sectorWord + 1] as number;
  requests.offsetBytes[slot] = (high * TWO_32 + low) * SECTOR_BYTES;
}
