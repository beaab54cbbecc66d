// A disk on a real file whose power can be cut. Everything goes to the file through the real I/O
// path; beside it stands an account of what is durable: a write with RWF_DSYNC that has completed, or
// one that a later sync has covered. At the cut every block with a write that is not durable gets
// back what a device with a volatile cache could hold then: old, new, or torn into sectors.
//
//   serving --cut()--> cut: nothing reaches the file, nobody hears of completions --restore()-->
//
// Invariant: what a block held before its first write here is read before that write goes out, so
// that the account knows all that is durable.

import { assert, type Prng } from "../../base/index.ts";
import type { Address, Arena, Disk, DiskHandler, Memory } from "../../ports/index.ts";
import * as sys from "../../sys/index.ts";
import type { OwnedDisk } from "../../uring/index.ts";
import {
  applyChoice,
  BLOCK_BYTES,
  BlockStore,
  makeFragment,
  randomChoice,
  WriteHistory,
} from "../sim/index.ts";

export interface CutDiskModules {
  /** The real disk, over `fd`. */
  readonly inner: OwnedDisk;
  readonly fd: number;
  readonly memory: Memory;
  /** Is told when the power is cut. */
  readonly onCut: () => void;
}

/** What a cut did, for those who want to know that it did something. */
export interface CutCounts {
  /** Writes that were not durable, and those of them that were not acknowledged either. */
  readonly pending: number;
  readonly inFlight: number;
  /** Blocks of the file that were put back or torn. */
  readonly changedBlocks: number;
}

const WRITE_BYTES_MAX = 1048576;
/** struct iovec: address u64, bytes u64. */
const IOVEC_BYTES = 16;

type Piece = readonly [address: Address, bytes: number];

export class CutDisk implements Disk, DiskHandler {
  readonly memoryAlignmentBytes: number;
  readonly offsetAlignmentBytes: number;
  isCut = false;
  /** Submits and completions until the power is cut by itself. */
  eventsLeft: number = Infinity;
  private readonly modules: CutDiskModules;
  private readonly scratch: Arena;
  private readonly history: WriteHistory = new WriteHistory(new BlockStore());
  private readonly known: Set<number> = new Set();
  /** The account's number of what is on its way, by tag. */
  private readonly underWay: Map<number, number> = new Map();
  private nextOperation = 1;
  private handler: DiskHandler | null = null;

  constructor(modules: CutDiskModules) {
    this.modules = modules;
    const { inner, memory } = modules;
    this.memoryAlignmentBytes = inner.memoryAlignmentBytes;
    this.offsetAlignmentBytes = inner.offsetAlignmentBytes;
    this.scratch = memory.allocate(WRITE_BYTES_MAX);
    inner.setHandler(this);
  }

  get capacityBytes(): number {
    return this.modules.inner.capacityBytes;
  }

  setHandler(handler: DiskHandler): void {
    this.handler = handler;
  }

  cut(): void {
    if (this.isCut) return;
    this.isCut = true;
    this.modules.onCut();
  }

  private event(): void {
    this.eventsLeft -= 1;
    if (this.eventsLeft <= 0) this.cut();
  }

  private begin(tag: number, kind: "read" | "write" | "sync", isDurable: boolean): number {
    assert(!this.underWay.has(tag), "a tag is on its way twice");
    const operation = this.nextOperation;
    this.nextOperation += 1;
    this.underWay.set(tag, operation);
    this.history.submit(operation, kind, isDurable ? "complete" : "sync");
    return operation;
  }

  read(tag: number, offsetBytes: number, address: Address, bytes: number): void {
    if (this.isCut) return;
    this.begin(tag, "read", false);
    this.modules.inner.read(tag, offsetBytes, address, bytes);
    this.event();
  }

  readv(tag: number, offsetBytes: number, iovecs: Address, count: number): void {
    if (this.isCut) return;
    this.begin(tag, "read", false);
    this.modules.inner.readv(tag, offsetBytes, iovecs, count);
    this.event();
  }

  write(tag: number, offsetBytes: number, address: Address, bytes: number, durable: boolean): void {
    if (this.isCut) return;
    this.account(tag, offsetBytes, [[address, bytes]], durable);
    this.modules.inner.write(tag, offsetBytes, address, bytes, durable);
    this.event();
  }

  writev(tag: number, offsetBytes: number, iovecs: Address, count: number, durable: boolean): void {
    if (this.isCut) return;
    this.account(tag, offsetBytes, this.piecesOf(iovecs, count), durable);
    this.modules.inner.writev(tag, offsetBytes, iovecs, count, durable);
    this.event();
  }

  private piecesOf(iovecs: Address, count: number): readonly Piece[] {
    this.modules.memory.copy(this.scratch.address, iovecs, count * IOVEC_BYTES);
    const { u32 } = this.scratch;
    const pieces: Piece[] = [];
    for (let index = 0; index < count; index++) {
      const at = index * (IOVEC_BYTES / 4);
      const address = (u32[at] as number) + (u32[at + 1] as number) * 4294967296;
      pieces.push([address, u32[at + 2] as number]);
    }
    return pieces;
  }

  /** Before a write goes out: what was there, and what it writes. */
  private account(
    tag: number,
    offsetBytes: number,
    pieces: readonly Piece[],
    isDurable: boolean,
  ): void {
    const bytes = pieces.reduce((sum, piece) => sum + piece[1], 0);
    this.remember(offsetBytes, bytes);
    const operation = this.begin(tag, "write", isDurable);
    const fragment = makeFragment(offsetBytes, bytes, (buffer, start) => {
      let at = start;
      for (const [address, count] of pieces) {
        this.modules.memory.copy(this.scratch.address, address, count);
        buffer.set(this.scratch.u8.subarray(0, count), at);
        at += count;
      }
    });
    this.history.data(operation, fragment);
  }

  sync(tag: number): void {
    if (this.isCut) return;
    this.begin(tag, "sync", false);
    this.modules.inner.sync(tag);
    this.event();
  }

  deallocate(): void {
    assert(false, "a store deallocates nothing on its disk");
  }

  diskCompleted(tag: number, result: number): void {
    if (this.isCut) {
      // The kernel is done with it; whether the device was is for the cut to choose.
      this.modules.onCut();
      return;
    }
    const operation = this.underWay.get(tag);
    assert(operation !== undefined, "an answer to nothing");
    this.underWay.delete(tag);
    this.history.complete(operation, result);
    this.event();
    // The cut may come before the answer is heard, never between the answer and the account.
    if (!this.isCut) this.handler?.diskCompleted(tag, result);
  }

  private remember(offsetBytes: number, bytes: number): void {
    assert(bytes <= WRITE_BYTES_MAX, "a write larger than any of a store");
    const last = Math.floor((offsetBytes + bytes - 1) / BLOCK_BYTES);
    for (let block = Math.floor(offsetBytes / BLOCK_BYTES); block <= last; block++) {
      if (this.known.has(block)) continue;
      this.known.add(block);
      this.history.durable.setBlock(block, this.readBlock(block));
    }
  }

  private readBlock(block: number): Uint8Array {
    const { fd } = this.modules;
    const read = sys.pread(fd, this.scratch.address, BLOCK_BYTES, block * BLOCK_BYTES);
    assert(read === BLOCK_BYTES, "the file cannot be read");
    return this.scratch.u8.slice(0, BLOCK_BYTES);
  }

  /** After the cut, when the kernel is done: the file becomes what the device could hold. */
  restore(prng: Prng): CutCounts {
    assert(this.isCut && this.modules.inner.inflightCount === 0, "restored before its time");
    const { durable, pending } = this.history;
    const touched = new Set<number>();
    for (const { fragment } of pending) {
      for (let at = 0; at < fragment.masks.length; at++) touched.add(fragment.firstBlock + at);
    }
    applyChoice(durable, pending, randomChoice(pending, prng));
    let changedBlocks = 0;
    for (const block of touched) {
      const wanted = durable.block(block);
      if (Buffer.compare(this.readBlock(block), wanted) === 0) continue;
      changedBlocks += 1;
      this.scratch.u8.set(wanted);
      const at = block * BLOCK_BYTES;
      const written = sys.pwrite(this.modules.fd, this.scratch.address, BLOCK_BYTES, at);
      assert(written === BLOCK_BYTES, "the file cannot be written");
    }
    const inFlight = pending.filter((one) => one.isInFlight).length;
    return { pending: pending.length, inFlight, changedBlocks };
  }
}
