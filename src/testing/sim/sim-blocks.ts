// What is on a medium: 4 KiB blocks by index, sparse, copy on write. An 8 TB disk costs what was
// written to it, and a copy of it costs next to nothing.
//
// Invariant: the bytes of a stored block never change. A write puts another array in its place, so
// that copies, fragments of writes and crash states share blocks without asking.

import { assert } from "../../base/index.ts";

export const BLOCK_BYTES = 4096;
export const SECTOR_BYTES = 512;
export const SECTORS_PER_BLOCK = 8;
/** A bit per 512 B sector of a block. */
export const ALL_SECTORS = 0xff;
export const ZERO_BLOCK: Uint8Array = new Uint8Array(BLOCK_BYTES);
/** Beyond so many layers a fork makes one of them: lookups ask each. */
const LAYERS_MAX = 6;
const FRAGMENT_BYTES_MAX: number = 1024 * 1048576;

type BlockMap = Map<number, Uint8Array>;

/** The content of blocks never written: zeroes, or what a used disk holds. */
export type Unwritten = (block: number) => Uint8Array;

export const UNWRITTEN_ZERO: Unwritten = () => ZERO_BLOCK;
/** Different in every block, the same at every look. */
export const UNWRITTEN_GARBAGE: Unwritten = (block) => garbageBlock(block, 0x5eed);

/** 4 KiB that nobody wrote, named by two numbers. */
export function garbageBlock(block: number, salt: number): Uint8Array {
  const words = new Uint32Array(BLOCK_BYTES / 4);
  let state = (Math.imul(block + 1, 0x9e3779b1) ^ Math.imul(salt + 1, 0x85ebca6b)) | 1;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  return new Uint8Array(words.buffer);
}

export class BlockStore {
  private own: BlockMap = new Map();
  /** Shared with copies and never changed again; the newest last. */
  private layers: readonly BlockMap[] = [];
  private readonly unwritten: Unwritten;

  constructor(unwritten: Unwritten = UNWRITTEN_ZERO) {
    this.unwritten = unwritten;
  }

  /** The content of a block, not to be changed. */
  block(index: number): Uint8Array {
    const own = this.own.get(index);
    if (own !== undefined) return own;
    for (let layer = this.layers.length - 1; layer >= 0; layer--) {
      const found = this.layers[layer].get(index);
      if (found !== undefined) return found;
    }
    return this.unwritten(index);
  }

  /** Takes `data` over: nobody may change it afterwards. */
  setBlock(index: number, data: Uint8Array): void {
    this.own.set(index, data);
  }

  /** Takes those sectors of `data` whose bits are in `mask`. */
  setSectors(index: number, mask: number, data: Uint8Array): void {
    if (mask === ALL_SECTORS) {
      this.own.set(index, data);
    } else if (mask !== 0) {
      this.own.set(index, mergeSectors(this.block(index), mask, data));
    }
  }

  /** A copy; both go their own ways from here. */
  fork(): BlockStore {
    if (this.own.size > 0) {
      this.layers = [...this.layers, this.own];
      this.own = new Map();
    }
    if (this.layers.length > LAYERS_MAX) this.layers = [flatten(this.layers)];
    const copy = new BlockStore(this.unwritten);
    copy.layers = this.layers;
    return copy;
  }

  read(offsetBytes: number, bytes: number): Uint8Array {
    const target = new Uint8Array(bytes);
    for (let done = 0; done < bytes; ) {
      const at = (offsetBytes + done) % BLOCK_BYTES;
      const count = Math.min(BLOCK_BYTES - at, bytes - done);
      const block = this.block(Math.floor((offsetBytes + done) / BLOCK_BYTES));
      target.set(at === 0 && count === BLOCK_BYTES ? block : block.subarray(at, at + count), done);
      done += count;
    }
    return target;
  }

  /** Copies `data`. */
  write(offsetBytes: number, data: Uint8Array): void {
    for (let done = 0; done < data.length; ) {
      const index = Math.floor((offsetBytes + done) / BLOCK_BYTES);
      const at = (offsetBytes + done) % BLOCK_BYTES;
      const count = Math.min(BLOCK_BYTES - at, data.length - done);
      const block = this.block(index).slice();
      block.set(data.subarray(done, done + count), at);
      this.own.set(index, block);
      done += count;
    }
  }

  /** Indices of all blocks that were ever written, ascending. */
  writtenBlocks(): number[] {
    const indices = new Set<number>(this.own.keys());
    for (const layer of this.layers) for (const index of layer.keys()) indices.add(index);
    return Array.from(indices).sort((a, b) => a - b);
  }

  /** The first block in which the two differ, or -1. */
  firstDifference(other: BlockStore): number {
    assert(this.unwritten === other.unwritten, "stores of different kinds compared");
    for (const index of new Set([...this.writtenBlocks(), ...other.writtenBlocks()])) {
      const mine = this.block(index);
      const theirs = other.block(index);
      if (mine !== theirs && Buffer.compare(mine, theirs) !== 0) return index;
    }
    return -1;
  }
}

function flatten(layers: readonly BlockMap[]): BlockMap {
  const flat: BlockMap = new Map();
  for (const layer of layers) for (const [index, data] of layer) flat.set(index, data);
  return flat;
}

/** `old` with those sectors of `data` whose bits are in `mask`, in a new array. */
export function mergeSectors(old: Uint8Array, mask: number, data: Uint8Array): Uint8Array {
  const merged = old.slice();
  for (let sector = 0; sector < SECTORS_PER_BLOCK; sector++) {
    if ((mask & (1 << sector)) === 0) continue;
    const at = sector * SECTOR_BYTES;
    merged.set(data.subarray(at, at + SECTOR_BYTES), at);
  }
  return merged;
}

/** What one transfer of a write carries: sectors of consecutive blocks. */
export interface Fragment {
  readonly firstBlock: number;
  /** By block: bits of the sectors it carries. */
  readonly masks: Uint8Array;
  /** By block: 4 KiB, of which the sectors in the mask mean something. Never changed. */
  readonly data: readonly Uint8Array[];
}

/** A fragment at `offsetBytes`, whole sectors. `fill` is shown the buffer and where to begin. */
export function makeFragment(
  offsetBytes: number,
  bytes: number,
  fill: (buffer: Uint8Array, at: number) => void,
): Fragment {
  const { firstBlock, masks } = shape(offsetBytes, bytes);
  const buffer = new Uint8Array(masks.length * BLOCK_BYTES);
  fill(buffer, offsetBytes - firstBlock * BLOCK_BYTES);
  const data: Uint8Array[] = [];
  for (let index = 0; index < masks.length; index++) {
    data.push(buffer.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES));
  }
  return { firstBlock, masks, data };
}

/** Every block is an entry: what is deallocated at once must be bounded. */
export function zeroFragment(offsetBytes: number, bytes: number): Fragment {
  const { firstBlock, masks } = shape(offsetBytes, bytes);
  return { firstBlock, masks, data: new Array<Uint8Array>(masks.length).fill(ZERO_BLOCK) };
}

function shape(offsetBytes: number, bytes: number): { firstBlock: number; masks: Uint8Array } {
  assert(offsetBytes % SECTOR_BYTES === 0, "a fragment begins within a sector");
  assert(bytes % SECTOR_BYTES === 0 && bytes > 0, "a fragment of part of a sector");
  assert(bytes <= FRAGMENT_BYTES_MAX, "more at once than the simulated disk can take");
  const firstBlock = Math.floor(offsetBytes / BLOCK_BYTES);
  const lastBlock = Math.floor((offsetBytes + bytes - 1) / BLOCK_BYTES);
  const masks = new Uint8Array(lastBlock - firstBlock + 1).fill(ALL_SECTORS);
  const skipped = (offsetBytes % BLOCK_BYTES) / SECTOR_BYTES;
  const left = ((lastBlock + 1) * BLOCK_BYTES - offsetBytes - bytes) / SECTOR_BYTES;
  masks[0] &= ALL_SECTORS << skipped;
  masks[masks.length - 1] &= ALL_SECTORS >>> left;
  return { firstBlock, masks };
}

export function applyFragment(
  store: BlockStore,
  fragment: Fragment,
  masks: Uint8Array = fragment.masks,
): void {
  for (let index = 0; index < masks.length; index++) {
    store.setSectors(fragment.firstBlock + index, masks[index], fragment.data[index]);
  }
}
