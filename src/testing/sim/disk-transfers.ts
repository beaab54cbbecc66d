// How bytes move between simulated memory and a medium: part of an operation at one moment.

import { assert, type Prng } from "../../base/index.ts";
import type { Address } from "../../ports/index.ts";
import type { DiskOperation } from "./disk-operation.ts";
import { type Fragment, makeFragment, zeroFragment } from "./sim-blocks.ts";
import type { SimMedia } from "./sim-media.ts";
import type { SimMemory } from "./sim-memory.ts";

const IOVEC_BYTES = 16;
const HIGH_WORD = 2 ** 32;

type Pieces = readonly (readonly [Address, number])[];

export class DiskTransfers {
  private readonly media: SimMedia;
  private readonly memory: SimMemory;
  private readonly prng: Prng;

  constructor(media: SimMedia, memory: SimMemory, prng: Prng) {
    this.media = media;
    this.memory = memory;
    this.prng = prng;
  }

  iovecs(address: Address, count: number): Pieces {
    const bytes = new Uint8Array(count * IOVEC_BYTES);
    this.memory.load(address, bytes.length, bytes, 0);
    const words = new Uint32Array(bytes.buffer);
    return Array.from({ length: count }, (_, index) => {
      const at = index * 4;
      assert(words[at + 3] === 0, "the high half of an iovec's length");
      return [words[at + 1] * HIGH_WORD + words[at], words[at + 2]] as const;
    });
  }

  checkIovecs(operation: DiskOperation): void {
    if (operation.iovecs === 0) return;
    const now = this.iovecs(operation.iovecs, operation.pieces.length);
    for (const [index, [address, bytes]] of now.entries()) {
      const [wasAddress, wasBytes] = operation.pieces[index];
      assert(
        address === wasAddress && bytes === wasBytes,
        "iovecs changed while the device had them",
      );
    }
  }

  /** Moves [from, to) of the operation now. False when memory is not there any more. */
  move(operation: DiskOperation, from: number, to: number): boolean {
    if (operation.kind === "read") return this.moveRead(operation, from, to);
    const fragment = this.sample(operation, from, to);
    if (fragment === null) return false;
    this.media.data(operation.id, fragment);
    return true;
  }

  /** What the write carries in [from, to) at this moment, null when memory is gone. */
  sample(operation: DiskOperation, from: number, to: number): Fragment | null {
    const at = operation.actualOffsetBytes + from;
    if (operation.kind === "deallocate") return zeroFragment(at, to - from);
    if (!this.isThere(operation, from, to)) return null;
    return makeFragment(at, to - from, (buffer, start) => {
      this.eachPiece(operation, from, to, (address, bytes, done) => {
        this.memory.load(address, bytes, buffer, start + done);
      });
      if (operation.fault?.kind === "rot") this.rot(buffer.subarray(start, start + to - from));
    });
  }

  private moveRead(operation: DiskOperation, from: number, to: number): boolean {
    if (!this.isThere(operation, from, to)) return false;
    const data = this.media.read(operation.actualOffsetBytes + from, to - from);
    if (operation.fault?.kind === "rot") this.rot(data);
    this.eachPiece(operation, from, to, (address, bytes, done) => {
      this.memory.store(address, bytes, data, done);
    });
    return true;
  }

  private rot(data: Uint8Array): void {
    data[this.prng.below(data.length)] ^= 1 << this.prng.below(8);
  }

  private isThere(operation: DiskOperation, from: number, to: number): boolean {
    let isThere = true;
    this.eachPiece(operation, from, to, (address, bytes) => {
      if (this.memory.touchable(address, bytes) < bytes) isThere = false;
    });
    return isThere;
  }

  /** Calls `visit` for each run of memory of [from, to), `done` counted from `from`. */
  private eachPiece(
    operation: DiskOperation,
    from: number,
    to: number,
    visit: (address: Address, bytes: number, done: number) => void,
  ): void {
    let start = 0;
    for (const [address, length] of operation.pieces) {
      const first = Math.max(from, start);
      const last = Math.min(to, start + length);
      if (first < last) visit(address + first - start, last - first, first - from);
      start += length;
    }
  }
}
