// @hot
// The least a virtio-blk device can be: takes what is in the ring, writes a good status, puts it
// on the used side, one request at a time. It never notifies and wants no kicks. Two uses: the
// partner of --self-check, where it must be faster than the generator it measures, and the
// scripted device of this room's own tests, with memory behind it and faults added by overriding
// serve(). It trusts the driver: it is no example of how a real device must read a ring.

import { assert } from "../base/index.ts";
import type { Arena } from "../ports/index.ts";
import {
  BLK_S_IOERR,
  BLK_S_OK,
  BLK_T_IN,
  BLK_T_OUT,
  BLK_T_WRITE_ZEROES,
  DESCRIPTOR_F_INDIRECT,
  DESCRIPTOR_F_NEXT,
  DESCRIPTOR_F_WRITE,
  PACKED_EVENT_DISABLE,
  PACKED_F_AVAIL,
  PACKED_F_USED,
  USED_F_NO_NOTIFY,
} from "../virtio/index.ts";

/** Plain data, so that it can be handed to another thread. */
export interface TrivialRing {
  readonly packed: boolean;
  readonly size: number;
  readonly eventIndex: boolean;
  readonly descriptorGpa: number;
  readonly availableGpa: number;
  readonly usedGpa: number;
}

const SECTOR_BYTES = 512;
const INDEX_MASK = 0xffff;

export class TrivialDevice {
  /** What the disk holds; null: reads and writes move nothing. */
  store: Uint8Array | null = null;
  requestCount = 0;
  protected readonly host: Arena;
  protected readonly guestAddress: number;
  private readonly ring: TrivialRing;
  // Word index of the descriptor table, half index of avail, half and word index of used.
  private readonly descriptorWord: number;
  private readonly availableHalf: number;
  private readonly usedHalf: number;
  private readonly usedWord: number;
  private index = 0;
  private wrap = 1;
  // The request being served, found by walk(): places are byte offsets into the region.
  private headerAt = 0;
  private statusAt = 0;
  private dataAt = 0;
  private writtenBytes = 0;
  private lengthBytes = 0;
  private chainLength = 0;

  /** `host` covers one region that begins at `guestAddress` and holds ring and buffers. */
  constructor(host: Arena, guestAddress: number, ring: TrivialRing) {
    this.host = host;
    this.guestAddress = guestAddress;
    this.ring = ring;
    this.descriptorWord = (ring.descriptorGpa - guestAddress) / 4;
    this.availableHalf = (ring.availableGpa - guestAddress) / 2;
    this.usedHalf = (ring.usedGpa - guestAddress) / 2;
    this.usedWord = (ring.usedGpa - guestAddress) / 4;
    if (ring.packed) host.u16[this.usedHalf + 1] = PACKED_EVENT_DISABLE;
    else host.u16[this.usedHalf] = USED_F_NO_NOTIFY;
    // With EVENT_IDX the driver kicks when it passes avail_event: put that out of reach.
    if (!ring.packed && ring.eventIndex) this.moveEventAway();
  }

  private moveEventAway(): void {
    this.host.u16[this.usedHalf + 2 + this.ring.size * 4] = (this.index + 0x8000) & INDEX_MASK;
  }

  /** Serves at most one request; false when there is none. */
  step(): boolean {
    return this.ring.packed ? this.stepPacked() : this.stepSplit();
  }

  private stepSplit(): boolean {
    const halves = this.host.u16;
    const mask = this.ring.size - 1;
    if (Atomics.load(halves, this.availableHalf + 1) === this.index) return false;
    const head = halves[this.availableHalf + 2 + (this.index & mask)];
    this.walk(this.descriptorWord, head, false);
    this.finish();
    const words = this.host.u32;
    const at = this.usedWord + 1 + (this.index & mask) * 2;
    words[at] = head;
    words[at + 1] = this.writtenBytes;
    this.index = (this.index + 1) & INDEX_MASK;
    if (this.ring.eventIndex && (this.index & 0x3fff) === 0) this.moveEventAway();
    Atomics.store(halves, this.usedHalf + 1, this.index);
    return true;
  }

  private stepPacked(): boolean {
    const halves = this.host.u16;
    const at = this.descriptorWord + this.index * 4;
    const flags = Atomics.load(halves, at * 2 + 7);
    const available = (flags & PACKED_F_AVAIL) === 0 ? 0 : 1;
    const used = (flags & PACKED_F_USED) === 0 ? 0 : 1;
    if (available !== this.wrap || used === this.wrap) return false;
    this.walk(this.descriptorWord, this.index, true);
    this.finish();
    const first = this.index;
    let last = first + this.chainLength - 1;
    if (last >= this.ring.size) last -= this.ring.size;
    const id = halves[(this.descriptorWord + last * 4) * 2 + 6];
    halves[at * 2 + 6] = id;
    this.host.u32[at + 2] = this.writtenBytes;
    const usedFlags = this.wrap === 1 ? PACKED_F_AVAIL | PACKED_F_USED : 0;
    this.index += this.chainLength;
    if (this.index >= this.ring.size) {
      this.index -= this.ring.size;
      this.wrap ^= 1;
    }
    Atomics.store(halves, at * 2 + 7, usedFlags);
    return true;
  }

  private offsetOf(word: number): number {
    const words = this.host.u32;
    return words[word + 1] * 4294967296 + words[word] - this.guestAddress;
  }

  /** Walks the chain from descriptor `head`; a packed ring's chains go on in ring order. */
  private walk(table: number, head: number, inOrder: boolean): void {
    const words = this.host.u32;
    let at = table + head * 4;
    let count = 0;
    this.chainLength = 1;
    if ((words[at + 3] >>> (inOrder ? 16 : 0)) & DESCRIPTOR_F_INDIRECT) {
      const entries = words[at + 2] / 16;
      at = this.offsetOf(at) / 4;
      this.startChain(at);
      for (count = 1; count < entries; count++) this.addElement(at + count * 4, inOrder);
      return;
    }
    this.startChain(at);
    let index = head;
    while (((words[at + 3] >>> (inOrder ? 16 : 0)) & DESCRIPTOR_F_NEXT) !== 0) {
      index = inOrder ? (index + 1) % this.ring.size : words[at + 3] >>> 16;
      at = table + index * 4;
      count += 1;
      this.addElement(at, inOrder);
    }
    this.chainLength = count + 1;
  }

  private startChain(at: number): void {
    this.headerAt = this.offsetOf(at);
    this.writtenBytes = 0;
    this.lengthBytes = 0;
    this.dataAt = 0;
  }

  private addElement(at: number, inOrder: boolean): void {
    const words = this.host.u32;
    const bytes = words[at + 2];
    const isWritable = ((words[at + 3] >>> (inOrder ? 16 : 0)) & DESCRIPTOR_F_WRITE) !== 0;
    const offset = this.offsetOf(at);
    if (isWritable) this.writtenBytes += bytes;
    if (isWritable && bytes === 1) {
      this.statusAt = offset;
    } else {
      // Data pieces are assumed to follow each other, as the load generator lays them out.
      if (this.dataAt === 0) this.dataAt = offset;
      this.lengthBytes += bytes;
    }
  }

  private finish(): void {
    this.requestCount += 1;
    const status = this.store === null ? BLK_S_OK : this.readHeader();
    this.host.u8[this.statusAt] = status;
  }

  private readHeader(): number {
    const bytes = this.host.u8;
    const at = this.headerAt;
    const type = bytes[at] | (bytes[at + 1] << 8);
    let sector = 0;
    for (let index = 15; index >= 8; index--) sector = sector * 256 + bytes[at + index];
    return this.serve(type, sector * SECTOR_BYTES, this.dataAt, this.lengthBytes);
  }

  /** Moves the data of one request; returns its status. `dataAt` is an offset into the region. */
  protected serve(type: number, offset: number, dataAt: number, lengthBytes: number): number {
    const store = this.store as Uint8Array;
    const bytes = this.host.u8;
    assert(dataAt + lengthBytes <= bytes.length, "data outside the region");
    if (type === BLK_T_IN || type === BLK_T_OUT) {
      if (offset + lengthBytes > store.length) return BLK_S_IOERR;
      for (let index = 0; index < lengthBytes; index++) {
        if (type === BLK_T_IN) bytes[dataAt + index] = store[offset + index];
        else store[offset + index] = bytes[dataAt + index];
      }
    } else if (type === BLK_T_WRITE_ZEROES) {
      const word = dataAt / 4;
      const start = this.host.u32[word] * SECTOR_BYTES;
      store.fill(0, start, start + this.host.u32[word + 2] * SECTOR_BYTES);
    }
    return BLK_S_OK;
  }
}
