// @hot
// Copies between a request's segments (guest memory) and memory of our own, starting at any byte
// of the request.
//
//   segments of the slot   |--- s0 ---|- s1 -|------ s2 ------|
//                              ^ skip          ^ skip + bytes
//
// Invariant: where the request is FLAG_FAULTABLE its memory is touched only by copyFaultable; a
// plain load or store of a page that somebody truncated would end the process by SIGBUS.

import { assert } from "./assert.ts";
import { FLAG_FAULTABLE, type RequestTable, SEGMENTS_MAX } from "./request-table.ts";

const IOVEC_WORDS = 4;
const TWO_32 = 4294967296;

const TO_SEGMENTS = 0;
const FROM_SEGMENTS = 1;
const ZERO_SEGMENTS = 2;

/** Zeroes to copy from, and to write where a disk cannot zero. Never written: never resident. */
export const ZERO_BYTES = 1048576;

/** Memory as it was allocated: whoever made the copier frees it. */
export interface CopyArena {
  readonly address: number;
}

/** What the copier needs of the Memory port; addresses are opaque numbers. */
export interface CopyMemory {
  allocate(bytes: number): CopyArena;
  copy(to: number, from: number, bytes: number): void;
  fill(to: number, byte: number, bytes: number): void;
  copyFaultable(to: number, from: number, bytes: number): number;
}

export class SegmentCopier {
  readonly zeroes: { readonly address: number };
  private readonly requests: RequestTable;
  private readonly memory: CopyMemory;

  constructor(requests: RequestTable, memory: CopyMemory) {
    this.requests = requests;
    this.memory = memory;
    this.zeroes = memory.allocate(ZERO_BYTES);
  }

  /** Into the guest. 0, or -EFAULT after a part was copied. The same for the two below. */
  scatter(slot: number, skipBytes: number, from: number, bytes: number): number {
    return this.walk(TO_SEGMENTS, slot, skipBytes, from, bytes);
  }

  /** Out of the guest. */
  gather(slot: number, skipBytes: number, to: number, bytes: number): number {
    return this.walk(FROM_SEGMENTS, slot, skipBytes, to, bytes);
  }

  /** Zeroes into the guest. */
  zero(slot: number, skipBytes: number, bytes: number): number {
    return this.walk(ZERO_SEGMENTS, slot, skipBytes, 0, bytes);
  }

  private walk(
    mode: number,
    slot: number,
    skipBytes: number,
    address: number,
    bytes: number,
  ): number {
    const requests = this.requests;
    const words = requests.segments;
    const faultable = ((requests.flags[slot] as number) & FLAG_FAULTABLE) !== 0;
    const count = requests.segmentCount[slot] as number;
    let at = slot * SEGMENTS_MAX * IOVEC_WORDS;
    const end = at + count * IOVEC_WORDS;
    let skip = skipBytes;
    let done = 0;
    while (done < bytes) {
      assert(at < end, "a copy past the end of a request");
      const segmentBytes = words[at + 2] as number;
      if (skip >= segmentBytes) {
        skip -= segmentBytes;
        at += IOVEC_WORDS;
        continue;
      }
      const piece = Math.min(segmentBytes - skip, bytes - done);
      const guest = (words[at + 1] as number) * TWO_32 + (words[at] as number) + skip;
      const result = faultable
        ? this.moveFaultable(mode, guest, address + done, piece)
        : this.move(mode, guest, address + done, piece);
      if (result !== 0) return result;
      done += piece;
      skip = 0;
      at += IOVEC_WORDS;
    }
    return 0;
  }

  private move(mode: number, guest: number, own: number, bytes: number): number {
    if (mode === TO_SEGMENTS) this.memory.copy(guest, own, bytes);
    else if (mode === FROM_SEGMENTS) this.memory.copy(own, guest, bytes);
    else this.memory.fill(guest, 0, bytes);
    return 0;
  }

  private moveFaultable(mode: number, guest: number, own: number, bytes: number): number {
    if (mode === TO_SEGMENTS) return this.memory.copyFaultable(guest, own, bytes);
    if (mode === FROM_SEGMENTS) return this.memory.copyFaultable(own, guest, bytes);
    let done = 0;
    while (done < bytes) {
      const piece = Math.min(bytes - done, ZERO_BYTES);
      const result = this.memory.copyFaultable(guest + done, this.zeroes.address, piece);
      if (result !== 0) return result;
      done += piece;
    }
    return 0;
  }
}
