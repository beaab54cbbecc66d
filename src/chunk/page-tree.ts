// The pointers of the page tree in memory: for every leaf, in which slot and of which generation
// its valid page is. What a pointer demands is the only page that counts.
//
// All L1 pointers are read at open; the leaf pointers of one L1 page when first needed. Arrays are
// laid out for the whole disk and become resident only where they are touched.
//
// Invariants: a pointer changes only to the slot it does not name; an L1 page is dirty when one of
// its pointers changed since the last checkpoint.

import { assert } from "../base/index.ts";
import type { Memory } from "../ports/index.ts";
import { structureCrc } from "./checksum.ts";
import type { Geometry } from "./geometry.ts";
import {
  BLOCK_BYTES,
  BLOCK_WORDS,
  FORMAT_VERSION,
  PAGE,
  PAGE_KIND_L1,
  PAGE_KIND_L2,
  PAGE_KIND_LEAF,
  PAGE_MAGIC,
  PAGE_PAYLOAD_OFFSET,
  PAGE_PAYLOAD_WORDS,
} from "./layouts.ts";

export const POINTER_NONE = 0;

function pointerOf(generation: number, slot: number): number {
  return ((generation << 1) | slot) >>> 0;
}

function slotOfPointer(pointer: number): number {
  return pointer & 1;
}

export function generationOf(pointer: number): number {
  return pointer >>> 1;
}

/** The pointer that a checkpoint of `generation` puts in place of `pointer`. */
export function nextPointer(pointer: number, generation: number): number {
  const slot = pointer === POINTER_NONE ? 0 : 1 - slotOfPointer(pointer);
  return pointerOf(generation, slot);
}

/** Byte offset on the disk of a page's slot. */
export function pageOffset(
  geometry: Geometry,
  kind: number,
  number: number,
  pointer: number,
): number {
  let index = number;
  if (kind === PAGE_KIND_L1) index += geometry.leafCount;
  else if (kind === PAGE_KIND_L2) index += geometry.leafCount + geometry.l1Count;
  return geometry.pageOffsetBytes + (index * 2 + slotOfPointer(pointer)) * BLOCK_BYTES;
}

/** Fills in the header of the page whose payload lies behind word `at`. */
export function sealPage(
  page: {
    readonly kind: number;
    readonly number: number;
    readonly pointer: number;
    readonly doubts: number;
  },
  words: Uint32Array,
  base: number,
  at: number,
  identity: { readonly memory: Memory; readonly uuidWords: Uint32Array },
): void {
  const { memory, uuidWords } = identity;
  words.fill(0, at, at + PAGE_PAYLOAD_OFFSET / 4);
  words[at + (PAGE.magic >>> 2)] = PAGE_MAGIC;
  words[at + (PAGE.version >>> 2)] =
    (FORMAT_VERSION | (page.kind << 16) | (slotOfPointer(page.pointer) << 24)) >>> 0;
  words[at + (PAGE.number >>> 2)] = page.number;
  words[at + (PAGE.generation >>> 2)] = generationOf(page.pointer);
  words.set(uuidWords, at + (PAGE.uuid >>> 2));
  words[at + (PAGE.doubts >>> 2)] = page.doubts;
  words[at + (PAGE.crc >>> 2)] = structureCrc(memory, words, base, at, PAGE.crc);
}

/** Null when the page at word `at` is what the pointer demands, otherwise what is wrong. */
export function pageFault(
  page: { readonly kind: number; readonly number: number; readonly pointer: number },
  words: Uint32Array,
  base: number,
  at: number,
  identity: { readonly memory: Memory; readonly uuidWords: Uint32Array },
): string | null {
  const { memory, uuidWords } = identity;
  if (words[at + (PAGE.magic >>> 2)] !== PAGE_MAGIC) return "no page";
  const crc = structureCrc(memory, words, base, at, PAGE.crc);
  if (words[at + (PAGE.crc >>> 2)] !== crc) return "wrong checksum";
  const kinds = words[at + (PAGE.version >>> 2)] as number;
  if ((kinds & 0xffff) > FORMAT_VERSION) return `format version ${kinds & 0xffff}`;
  if (((kinds >>> 16) & 0xff) !== page.kind) return "page of another kind";
  if (words[at + (PAGE.number >>> 2)] !== page.number) return "another page";
  for (let word = 0; word < 4; word++) {
    if (words[at + (PAGE.uuid >>> 2) + word] !== uuidWords[word]) return "another disk's page";
  }
  const generation = words[at + (PAGE.generation >>> 2)] as number;
  if (generation !== generationOf(page.pointer) || kinds >>> 24 !== slotOfPointer(page.pointer)) {
    return `generation ${generation} instead of ${generationOf(page.pointer)}`;
  }
  return null;
}

export class PageTree {
  readonly geometry: Geometry;
  readonly leaf: Uint32Array;
  readonly l1: Uint32Array;
  readonly l2: Uint32Array;
  /** The leaf pointers of this L1 page are in memory. */
  readonly l1Loaded: Uint8Array;
  readonly l1Dirty: Uint8Array;

  constructor(geometry: Geometry) {
    this.geometry = geometry;
    this.leaf = new Uint32Array(geometry.leafCount);
    this.l1 = new Uint32Array(geometry.l1Count);
    this.l2 = new Uint32Array(geometry.l2Count);
    this.l1Loaded = new Uint8Array(geometry.l1Count);
    this.l1Dirty = new Uint8Array(geometry.l1Count);
  }

  l1Of(leaf: number): number {
    return Math.floor(leaf / PAGE_PAYLOAD_WORDS);
  }

  /** Can the pointer of `leaf` be read? An L1 page that was never written is all NONE. */
  isKnown(leaf: number): boolean {
    const l1 = this.l1Of(leaf);
    return this.l1Loaded[l1] === 1 || this.l1[l1] === POINTER_NONE;
  }

  setLeaf(leaf: number, pointer: number): void {
    assert(this.isKnown(leaf), "a pointer changes before it was read");
    const l1 = this.l1Of(leaf);
    this.l1Loaded[l1] = 1;
    this.leaf[leaf] = pointer;
    this.l1Dirty[l1] = 1;
  }

  /** Takes the leaf pointers of an L1 page that was read to word `at`. */
  loadL1(l1: number, words: Uint32Array, at: number): void {
    if (this.l1Loaded[l1] === 1) return;
    this.l1Loaded[l1] = 1;
    copyIn(this.leaf, l1, words, at);
  }

  loadL2(l2: number, words: Uint32Array, at: number): void {
    copyIn(this.l1, l2, words, at);
  }

  /** Writes the payload of an L1 or L2 page to word `at`. */
  fill(kind: number, number: number, words: Uint32Array, at: number): void {
    assert(kind !== PAGE_KIND_LEAF, "leaves are filled by whoever keeps them");
    const pointers = kind === PAGE_KIND_L1 ? this.leaf : this.l1;
    const first = number * PAGE_PAYLOAD_WORDS;
    const count = Math.min(PAGE_PAYLOAD_WORDS, pointers.length - first);
    const payload = at + PAGE_PAYLOAD_OFFSET / 4;
    words.fill(0, payload, at + BLOCK_WORDS);
    for (let index = 0; index < count; index++) {
      words[payload + index] = pointers[first + index] as number;
    }
  }
}

function copyIn(pointers: Uint32Array, number: number, words: Uint32Array, at: number): void {
  const first = number * PAGE_PAYLOAD_WORDS;
  const count = Math.min(PAGE_PAYLOAD_WORDS, pointers.length - first);
  const payload = at + PAGE_PAYLOAD_OFFSET / 4;
  for (let index = 0; index < count; index++) {
    pointers[first + index] = words[payload + index] as number;
  }
}
