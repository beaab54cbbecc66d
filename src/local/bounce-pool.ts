// @hot
// Page-aligned buffers between guest memory and a disk that asks for aligned memory (O_DIRECT).
// One pool per reactor, shared by its devices. Aligned requests, which are nearly all, never come
// here.
//
//   acquire: free buffer -> yours         none free -> the slot waits in a list, first come first
//   release: someone waits -> theirs      nobody    -> back to the free stack
//
// Invariants:
//  - a slot waits at most once; the list is linked through RequestTable.deviceTagA;
//  - whoever asks while others wait is put behind them;
//  - grants are made from one loop, never nested: a granted request may fail at once and give its
//    buffer back, and thousands of them in a row must not grow the stack.

import { assert, type RequestTable } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";

/** Somebody whose requests may wait for a buffer. */
export interface BounceClient {
  /** The waiting `slot` now owns `buffer`, as if acquire() had returned it. */
  bounceGranted(slot: number, buffer: number): void;
}

export interface BouncePoolOptions {
  readonly bufferCount: number;
  /** Multiple of the page size; larger requests go through a buffer piece by piece. */
  readonly bufferBytes: number;
}

const PAGE_BYTES = 4096;
const END = -1;

export class BouncePool {
  readonly bufferBytes: number;
  readonly bufferCount: number;
  private readonly arena: Arena;
  private readonly requests: RequestTable;
  private readonly freeStack: Int32Array;
  private freeCount: number;
  private readonly busy: Uint8Array;
  private readonly clients: (BounceClient | null)[] = [];
  /** Which client a waiting slot belongs to. */
  private readonly clientOfSlot: Uint16Array;
  private waitHead = END;
  private waitTail = END;
  private waiting = 0;
  private isGranting = false;

  constructor(options: BouncePoolOptions, requests: RequestTable, memory: Memory) {
    assert(options.bufferCount > 0, "a bounce pool without buffers");
    assert(options.bufferBytes > 0, "bounce buffers of no size");
    assert(options.bufferBytes % PAGE_BYTES === 0, "bounce buffers are whole pages");
    this.bufferBytes = options.bufferBytes;
    this.bufferCount = options.bufferCount;
    this.requests = requests;
    this.arena = memory.allocate(options.bufferBytes * options.bufferCount);
    this.freeStack = Int32Array.from({ length: options.bufferCount }, (_, index) => index);
    this.freeCount = options.bufferCount;
    this.busy = new Uint8Array(options.bufferCount);
    this.clientOfSlot = new Uint16Array(requests.capacity);
  }

  get freeBuffers(): number {
    return this.freeCount;
  }

  get waitingSlots(): number {
    return this.waiting;
  }

  // @cold: when a device is opened.
  addClient(client: BounceClient): number {
    const free = this.clients.indexOf(null);
    if (free >= 0) {
      this.clients[free] = client;
      return free;
    }
    this.clients.push(client);
    return this.clients.length - 1;
  }

  /** The client must have no slot waiting and no buffer. */
  removeClient(index: number): void {
    for (let slot = this.waitHead; slot !== END; slot = this.requests.deviceTagA[slot] as number) {
      assert(this.clientOfSlot[slot] !== index, "bounce client removed while a slot waits");
    }
    this.clients[index] = null;
  }

  address(buffer: number): Address {
    return this.arena.address + buffer * this.bufferBytes;
  }

  /** A buffer for `slot`, or -1: the slot waits and bounceGranted() follows. */
  acquire(clientIndex: number, slot: number): number {
    if (this.freeCount > 0 && this.waiting === 0) return this.take();
    this.clientOfSlot[slot] = clientIndex;
    this.requests.deviceTagA[slot] = END;
    if (this.waitTail === END) this.waitHead = slot;
    else this.requests.deviceTagA[this.waitTail] = slot;
    this.waitTail = slot;
    this.waiting += 1;
    assert(this.waiting <= this.requests.capacity, "a slot waits twice");
    return -1;
  }

  release(buffer: number): void {
    assert(this.busy[buffer] === 1, "bounce buffer released twice");
    this.busy[buffer] = 0;
    this.freeStack[this.freeCount] = buffer;
    this.freeCount += 1;
    if (!this.isGranting) this.grant();
  }

  private take(): number {
    this.freeCount -= 1;
    const buffer = this.freeStack[this.freeCount] as number;
    assert(this.busy[buffer] === 0, "a free bounce buffer is busy");
    this.busy[buffer] = 1;
    return buffer;
  }

  private grant(): void {
    this.isGranting = true;
    while (this.freeCount > 0 && this.waiting > 0) {
      const slot = this.waitHead;
      this.waitHead = this.requests.deviceTagA[slot] as number;
      if (this.waitHead === END) this.waitTail = END;
      this.waiting -= 1;
      const client = this.clients[this.clientOfSlot[slot] as number] as BounceClient;
      client.bounceGranted(slot, this.take());
    }
    this.isGranting = false;
  }
}
