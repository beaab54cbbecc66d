// @hot
// A request's memory where the kernel or a checksum works on it in place: is a stretch of it fit
// for direct I/O, as which iovecs, and what is its CRC.

import { assert, type RequestTable, SEGMENTS_MAX } from "../base/index.ts";
import type { Arena, Memory } from "../ports/index.ts";
import { BLOCK_BYTES, SLAB_BLOCKS } from "./layouts.ts";

const IOVEC_WORDS = 4;
const TWO_32 = 4294967296;
/** Iovecs that each operation has for itself. */
export const IOVECS_PER_OP: number = SLAB_BLOCKS;

export class SegmentView {
  private readonly requests: RequestTable;
  private readonly memory: Memory;
  readonly iovecs: Arena;
  /** Iovecs that prepare() made for the operation. */
  iovecCount = 0;
  /** Where the stretch begins. */
  address = 0;
  private readonly pieces: Uint8Array;
  private readonly addresses: Float64Array;

  constructor(requests: RequestTable, memory: Memory, opCount: number) {
    this.requests = requests;
    this.memory = memory;
    this.pieces = new Uint8Array(opCount);
    this.addresses = new Float64Array(opCount);
    this.iovecs = memory.allocate(opCount * SLAB_BLOCKS * IOVEC_WORDS * 4);
  }

  /** Where the stretch last prepared for the operation lies, if in one piece; otherwise -1. */
  oneAddress(op: number): number {
    return this.pieces[op] === 1 ? (this.addresses[op] as number) : -1;
  }

  setIovec(op: number, index: number, address: number, bytes: number): void {
    const at = (op * SLAB_BLOCKS + index) * IOVEC_WORDS;
    this.iovecs.u32[at] = address >>> 0;
    this.iovecs.u32[at + 1] = (address / TWO_32) | 0;
    this.iovecs.u32[at + 2] = bytes;
    this.iovecs.u32[at + 3] = 0;
  }

  iovecsOf(op: number): number {
    return this.iovecs.address + op * SLAB_BLOCKS * IOVEC_WORDS * 4;
  }

  /**
   * Splits [skip, skip + bytes) of the slot's memory into the operation's iovecs. False when there
   * are too many, or one is not a multiple of the masks: the kernel cannot use them.
   */
  prepare(
    op: number,
    slot: number,
    skipBytes: number,
    bytes: number,
    memoryMask: number,
    lengthMask: number,
  ): boolean {
    const words = this.requests.segments;
    let at = slot * SEGMENTS_MAX * IOVEC_WORDS;
    const end = at + (this.requests.segmentCount[slot] as number) * IOVEC_WORDS;
    let to = op * SLAB_BLOCKS * IOVEC_WORDS;
    let skip = skipBytes;
    let left = bytes;
    let count = 0;
    while (left > 0) {
      assert(at < end, "a request's memory ends early");
      const segmentBytes = words[at + 2] as number;
      if (skip >= segmentBytes) {
        skip -= segmentBytes;
        at += IOVEC_WORDS;
        continue;
      }
      const low = (words[at] as number) + skip;
      const piece = Math.min(segmentBytes - skip, left);
      if (count === SLAB_BLOCKS) return false;
      if ((low & memoryMask) !== 0 || (piece & lengthMask) !== 0) return false;
      const address = (words[at + 1] as number) * TWO_32 + low;
      if (count === 0) this.address = address;
      this.iovecs.u32[to] = address >>> 0;
      this.iovecs.u32[to + 1] = (address / TWO_32) | 0;
      this.iovecs.u32[to + 2] = piece;
      this.iovecs.u32[to + 3] = 0;
      to += IOVEC_WORDS;
      count += 1;
      left -= piece;
      skip = 0;
      at += IOVEC_WORDS;
    }
    this.iovecCount = count;
    this.pieces[op] = count;
    this.addresses[op] = this.address;
    return true;
  }

  /** CRC32C of one block of the slot's memory, `skipBytes` from its start. */
  blockCrc(slot: number, skipBytes: number, seed: number): number {
    const words = this.requests.segments;
    let at = slot * SEGMENTS_MAX * IOVEC_WORDS;
    let skip = skipBytes;
    while (skip >= (words[at + 2] as number)) {
      skip -= words[at + 2] as number;
      at += IOVEC_WORDS;
    }
    let crc = seed;
    let left = BLOCK_BYTES;
    while (left > 0) {
      const address = (words[at + 1] as number) * TWO_32 + (words[at] as number) + skip;
      const piece = Math.min((words[at + 2] as number) - skip, left);
      if (piece > 0) crc = this.memory.crc32c(address, piece, crc);
      left -= piece;
      skip = 0;
      at += IOVEC_WORDS;
    }
    return crc;
  }
}
