// @hot
// What waits to go out on a connection: messages in slots of one arena, sent with one gathered
// call for all that a turn has queued, which may take any part of them.
//
//   slot   | head ... |   | tail ... |        and between the two: `dataBytes` at `dataAddress`,
//          ^at            ^at + tailAt        anywhere
//
// Invariants: slots go out in the order they were queued; a slot, and the data that it names, are
// free again when sent() has told its token, or when the connection has ended.

import { assert } from "./assert.ts";
import { TWO_32 } from "./units.ts";

const IOVEC_BYTES = 16;
const IOVECS_PER_SLOT = 3;

/** Who queued, and wants to know when data may change. */
export interface SendQueueOwner {
  /** Of a slot queued with a token >= 0: it has gone out. */
  slotSent(token: number): void;
}

export class SendQueue {
  private readonly slots: number;
  private readonly strideBytes: number;
  private readonly tailAt: number;
  private readonly dataAddress: Float64Array;
  private readonly dataBytes: Uint32Array;
  private readonly headBytes: Uint16Array;
  private readonly tailBytes: Uint8Array;
  private readonly token: Int32Array;
  private head = 0;
  private end = 0;
  /** Bytes of the slot at head that have gone out. */
  private headSentBytes = 0;

  /** `slots` a power of two. `tailAt`: where a slot's tail stands in it, at most 255 bytes. */
  constructor(slots: number, strideBytes: number, tailAt: number) {
    assert((slots & (slots - 1)) === 0, "slots of a queue must be a power of two");
    this.slots = slots;
    this.strideBytes = strideBytes;
    this.tailAt = tailAt;
    this.dataAddress = new Float64Array(slots);
    this.dataBytes = new Uint32Array(slots);
    this.headBytes = new Uint16Array(slots);
    this.tailBytes = new Uint8Array(slots);
    this.token = new Int32Array(slots);
  }

  /** What the iovecs of gather() take, where a call may have at most `countMax` of them. */
  iovecBytes(countMax: number): number {
    return Math.min(this.slots * IOVECS_PER_SLOT, countMax) * IOVEC_BYTES;
  }

  get freeSlots(): number {
    return this.slots - (this.end - this.head);
  }

  get isEmpty(): boolean {
    return this.head === this.end;
  }

  /** Byte of the slot that the next put() queues. There must be a free one. */
  get nextAt(): number {
    assert(this.freeSlots > 0, "a message without a free slot");
    return (this.end & (this.slots - 1)) * this.strideBytes;
  }

  put(
    headBytes: number,
    dataAddress: number,
    dataBytes: number,
    tailBytes: number,
    token: number,
  ): void {
    const slot = this.end & (this.slots - 1);
    this.headBytes[slot] = headBytes;
    this.dataAddress[slot] = dataAddress;
    this.dataBytes[slot] = dataBytes;
    this.tailBytes[slot] = tailBytes;
    this.token[slot] = token;
    this.end += 1;
  }

  /**
   * Writes struct iovec into `words` for all that is queued, as far as they have room; `address` is
   * that of the slots. Returns how many.
   */
  gather(address: number, words: Uint32Array): number {
    const countMax = words.length >>> 2;
    let count = 0;
    let skip = this.headSentBytes;
    for (let index = this.head; index !== this.end; index++) {
      if (count + IOVECS_PER_SLOT > countMax) break;
      const slot = index & (this.slots - 1);
      const at = address + slot * this.strideBytes;
      const head = this.headBytes[slot] as number;
      const data = this.dataBytes[slot] as number;
      const tail = this.tailBytes[slot] as number;
      if (skip < head) count = putIovec(words, count, at + skip, head - skip);
      skip = skip > head ? skip - head : 0;
      const from = this.dataAddress[slot] as number;
      if (skip < data) count = putIovec(words, count, from + skip, data - skip);
      skip = skip > data ? skip - data : 0;
      if (skip < tail) count = putIovec(words, count, at + this.tailAt + skip, tail - skip);
      skip = 0;
    }
    return count;
  }

  /** So many bytes have gone out. */
  sent(bytes: number, owner: SendQueueOwner): void {
    let left = bytes;
    while (left > 0) {
      assert(this.head !== this.end, "more was sent than queued");
      const slot = this.head & (this.slots - 1);
      const dataBytes = this.dataBytes[slot] as number;
      const whole = (this.headBytes[slot] as number) + dataBytes + (this.tailBytes[slot] as number);
      const missing = whole - this.headSentBytes;
      if (left < missing) {
        this.headSentBytes += left;
        break;
      }
      left -= missing;
      this.headSentBytes = 0;
      this.head += 1;
      const token = this.token[slot] as number;
      if (token >= 0) owner.slotSent(token);
    }
    if (this.head === this.end) {
      // The counts stay small integers.
      this.head = 0;
      this.end = 0;
    }
  }
}

function putIovec(words: Uint32Array, index: number, address: number, bytes: number): number {
  const at = index * 4;
  words[at] = address >>> 0;
  words[at + 1] = Math.floor(address / TWO_32);
  words[at + 2] = bytes;
  words[at + 3] = 0;
  return index + 1;
}
