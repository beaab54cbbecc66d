// @hot
// Leaf pages of slabs in memory, as many as the budget allows. A page is loaded when an operation
// first needs it, verified against its pointer, and brought up to date with the records that a
// recovery found and nobody has applied yet.
//
//   FREE --> LOADING (L1 page, if its pointers are not known; then the leaf) --> READY --> FREE
//                                                  '--> error: whoever waits is told
//
// Invariants: a frame with pins or dirty is never given to another page; a page has at most one
// frame; what is in a frame is what durable records say and nothing else.

import { assert, EBADMSG, EIO } from "../base/index.ts";
import type { Arena, Disk } from "../ports/index.ts";
import {
  BLOCK_BYTES,
  BLOCK_WORDS,
  PAGE_KIND_L1,
  PAGE_KIND_LEAF,
  PAGE_PAYLOAD_OFFSET,
} from "./layouts.ts";
import { OpList, type OpTable } from "./op-table.ts";
import { type PageTree, POINTER_NONE, pageFault, pageOffset } from "./page-tree.ts";
import { type StoreParts, TAG_PAGE } from "./parts.ts";

const FREE = 0;
const LOADING_L1 = 1;
const LOADING = 2;
const READY = 3;

/** PAGE_READY: the page is pinned in ops.frame. PAGE_WAIT: pageReady() will be called. */
export const PAGE_READY = 0;
const PAGE_WAIT = 1;

export interface PageClient {
  /** `result` 0: the page is pinned in ops.frame[op]; -EBADMSG: it is damaged; or an errno. */
  pageReady(op: number, result: number): void;
}

/** Records of a recovery that wait for their page. */
export interface PendingRecords {
  /** Applies what waits for `page` to the frame at word `at`; true when something did. */
  applyTo(page: number, words: Uint32Array, at: number): boolean;
}

export class PageCache {
  readonly frameCount: number;
  readonly arena: Arena;
  readonly words: Uint32Array;
  readonly pageOf: Int32Array;
  readonly dirty: Uint8Array;
  dirtyCount = 0;
  readonly pins: Int32Array;
  loadCount = 0;
  faultCount = 0;
  pending: PendingRecords | null = null;
  private readonly state: Uint8Array;
  private readonly recent: Uint8Array;
  /** Frame + 1 of each page; resident only where pages are. */
  private readonly frameOf: Int32Array;
  private readonly waitHead: Int32Array;
  private readonly waitTail: Int32Array;
  private readonly frameWaiters: OpList;
  private readonly wanted: Int32Array;
  private readonly ops: OpTable;
  private readonly tree: PageTree;
  private readonly disk: Disk;
  private readonly parts: StoreParts;
  private client: PageClient | null = null;
  private hand = 0;
  private unusedCount: number;

  constructor(frameCount: number, parts: StoreParts) {
    this.frameCount = frameCount;
    this.parts = parts;
    this.ops = parts.ops;
    this.tree = parts.tree;
    this.disk = parts.disk;
    this.arena = parts.memory.allocate(frameCount * BLOCK_BYTES);
    this.words = this.arena.u32;
    this.pageOf = new Int32Array(frameCount).fill(-1);
    this.dirty = new Uint8Array(frameCount);
    this.pins = new Int32Array(frameCount);
    this.state = new Uint8Array(frameCount);
    this.recent = new Uint8Array(frameCount);
    this.frameOf = new Int32Array(parts.geometry.leafCount);
    this.waitHead = new Int32Array(frameCount).fill(-1);
    this.waitTail = new Int32Array(frameCount).fill(-1);
    this.frameWaiters = new OpList(parts.ops);
    this.wanted = new Int32Array(parts.ops.capacity);
    this.unusedCount = frameCount;
  }

  setClient(client: PageClient): void {
    this.client = client;
  }

  /** Operations wait because every frame is dirty or pinned: a checkpoint is wanted. */
  get isStarved(): boolean {
    return !this.frameWaiters.isEmpty;
  }

  holds(page: number): boolean {
    return this.frameOf[page] !== 0;
  }

  /** Pins the page for the operation, or has it wait. */
  acquire(op: number, page: number): number {
    const frame = (this.frameOf[page] as number) - 1;
    if (frame >= 0) return this.join(op, frame);
    const free = this.frameWaiters.isEmpty ? this.findFrame() : -1;
    if (free === -1) {
      this.wanted[op] = page;
      this.frameWaiters.push(op);
      return PAGE_WAIT;
    }
    return this.begin(op, page, free);
  }

  private join(op: number, frame: number): number {
    this.pins[frame] = (this.pins[frame] as number) + 1;
    this.recent[frame] = 1;
    if (this.state[frame] === READY) {
      this.ops.frame[op] = frame;
      return PAGE_READY;
    }
    this.waitFor(op, frame);
    return PAGE_WAIT;
  }

  private waitFor(op: number, frame: number): void {
    const next = this.ops.next;
    next[op] = -1;
    if (this.waitTail[frame] === -1) this.waitHead[frame] = op;
    else next[this.waitTail[frame] as number] = op;
    this.waitTail[frame] = op;
  }

  private begin(op: number, page: number, frame: number): number {
    this.pageOf[frame] = page;
    this.frameOf[page] = frame + 1;
    this.pins[frame] = 1;
    this.recent[frame] = 1;
    this.loadCount += 1;
    this.waitFor(op, frame);
    if (this.tree.isKnown(page)) {
      if (this.tree.leaf[page] === POINTER_NONE) {
        const at = frame * BLOCK_WORDS;
        this.words.fill(0, at, at + BLOCK_WORDS);
        this.waitHead[frame] = -1;
        this.waitTail[frame] = -1;
        this.becomeReady(frame);
        this.ops.frame[op] = frame;
        return PAGE_READY;
      }
      this.readLeaf(frame, page);
    } else {
      this.state[frame] = LOADING_L1;
      const l1 = this.tree.l1Of(page);
      this.read(frame, PAGE_KIND_L1, l1, this.tree.l1[l1] as number);
    }
    return PAGE_WAIT;
  }

  private readLeaf(frame: number, page: number): void {
    this.state[frame] = LOADING;
    this.read(frame, PAGE_KIND_LEAF, page, this.tree.leaf[page] as number);
  }

  private read(frame: number, kind: number, number: number, pointer: number): void {
    const offset = pageOffset(this.parts.geometry, kind, number, pointer);
    this.disk.read(TAG_PAGE + frame, offset, this.arena.address + frame * BLOCK_BYTES, BLOCK_BYTES);
  }

  /** The disk's answer to a read of `frame`. */
  completed(frame: number, result: number): void {
    const page = this.pageOf[frame] as number;
    const at = frame * BLOCK_WORDS;
    if (this.state[frame] === LOADING_L1) {
      const l1 = this.tree.l1Of(page);
      if (!this.check(frame, PAGE_KIND_L1, l1, this.tree.l1[l1] as number, result)) return;
      this.tree.loadL1(l1, this.words, at);
      if (this.tree.leaf[page] !== POINTER_NONE) {
        this.readLeaf(frame, page);
        return;
      }
      this.words.fill(0, at, at + BLOCK_WORDS);
    } else {
      assert(this.state[frame] === LOADING, "a page was read that nobody loads");
      const pointer = this.tree.leaf[page] as number;
      if (!this.check(frame, PAGE_KIND_LEAF, page, pointer, result)) return;
    }
    this.becomeReady(frame);
    this.answer(frame, 0);
  }

  // @cold
  private check(
    frame: number,
    kind: number,
    number: number,
    pointer: number,
    result: number,
  ): boolean {
    if (result === BLOCK_BYTES) {
      const page = { kind, number, pointer };
      const at = frame * BLOCK_WORDS;
      const fault = pageFault(page, this.words, this.arena.address, at, this.parts);
      if (fault === null || this.parts.planted.acceptAnyPage) return true;
      this.parts.pageDamaged(kind, number, fault);
    } else {
      this.parts.pageDamaged(kind, number, `read: ${result}`);
    }
    this.faultCount += 1;
    this.answer(frame, -EBADMSG);
    return false;
  }

  private becomeReady(frame: number): void {
    this.state[frame] = READY;
    if (this.pending === null) return;
    const page = this.pageOf[frame] as number;
    if (this.pending.applyTo(page, this.words, frame * BLOCK_WORDS)) this.markDirty(frame);
  }

  private answer(frame: number, result: number): void {
    const next = this.ops.next;
    let op = this.waitHead[frame] as number;
    this.waitHead[frame] = -1;
    this.waitTail[frame] = -1;
    if (result !== 0) {
      this.frameOf[this.pageOf[frame] as number] = 0;
      this.pins[frame] = 0;
      this.dropFrame(frame);
    }
    while (op !== -1) {
      const following = next[op] as number;
      next[op] = -1;
      this.ops.frame[op] = result === 0 ? frame : -1;
      (this.client as PageClient).pageReady(op, result);
      op = following;
    }
    if (result !== 0) this.serveWaiters();
  }

  private dropFrame(frame: number): void {
    this.state[frame] = FREE;
    this.pageOf[frame] = -1;
    this.unusedCount += 1;
  }

  unpin(op: number): void {
    const frame = this.ops.frame[op] as number;
    assert(frame >= 0, "an operation unpins a page it does not have");
    assert((this.pins[frame] as number) > 0, "a page is unpinned too often");
    this.ops.frame[op] = -1;
    this.pins[frame] = (this.pins[frame] as number) - 1;
    if (this.pins[frame] === 0 && !this.frameWaiters.isEmpty) this.serveWaiters();
  }

  markDirty(frame: number): void {
    if (this.dirty[frame] === 1) return;
    this.dirty[frame] = 1;
    this.dirtyCount += 1;
  }

  /** A checkpoint has copied the page. */
  markClean(frame: number): void {
    assert(this.dirty[frame] === 1, "a clean page is cleaned");
    this.dirty[frame] = 0;
    this.dirtyCount -= 1;
  }

  /** Frames may have become free: operations that wait for one go on. */
  serveWaiters(): void {
    while (!this.frameWaiters.isEmpty) {
      const op = this.frameWaiters.first;
      const page = this.wanted[op] as number;
      const present = (this.frameOf[page] as number) - 1;
      const frame = present >= 0 ? present : this.findFrame();
      if (frame === -1) return;
      this.frameWaiters.shift();
      const got = present >= 0 ? this.join(op, frame) : this.begin(op, page, frame);
      if (got === PAGE_READY) (this.client as PageClient).pageReady(op, 0);
    }
  }

  /**
   * Pages that a failed disk does not take keep their frames. When every operation waits for one,
   * none can give one back: they are told.
   */
  // @cold
  failStarved(): void {
    const count = this.ops.capacity - this.ops.freeCount;
    if (count === 0 || this.frameWaiters.count !== count) return;
    while (!this.frameWaiters.isEmpty) {
      const op = this.frameWaiters.shift();
      this.ops.frame[op] = -1;
      (this.client as PageClient).pageReady(op, -EIO);
    }
  }

  /** A frame for another page, by second chance; -1 when all are pinned or dirty. */
  private findFrame(): number {
    if (this.unusedCount > 0) return this.findUnused();
    const limit = this.frameCount * 2;
    for (let looked = 0; looked < limit; looked++) {
      const frame = this.hand;
      this.hand = frame + 1 < this.frameCount ? frame + 1 : 0;
      if (this.pins[frame] !== 0 || this.dirty[frame] === 1) continue;
      if (this.recent[frame] === 1) {
        this.recent[frame] = 0;
        continue;
      }
      this.frameOf[this.pageOf[frame] as number] = 0;
      this.pageOf[frame] = -1;
      this.state[frame] = FREE;
      return frame;
    }
    return -1;
  }

  private findUnused(): number {
    while (this.state[this.hand] !== FREE) {
      this.hand = this.hand + 1 < this.frameCount ? this.hand + 1 : 0;
    }
    this.unusedCount -= 1;
    return this.hand;
  }

  /** Word of the first slab's entry of the page in `frame`. */
  static entries(frame: number): number {
    return frame * BLOCK_WORDS + PAGE_PAYLOAD_OFFSET / 4;
  }
}
