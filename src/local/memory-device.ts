// @hot
// A device over anonymous memory, gone with the process. Memory is taken in pieces of 64 MiB when
// they are first written, so a large empty volume costs 128 KiB per TiB; what was never written
// reads as zeroes.
//
//   pieces   [ address | 0 | 0 | address | ... ]      offset / 64 MiB is the index
//
// Invariants:
//  - a request is served inside submit(): copies are bounded by the request's length;
//  - bytes beyond the capacity are zero, also in the last piece, so growing shows zeroes;
//  - guest memory is touched only through the SegmentCopier (faultable memory answers -EFAULT);
//  - only the addresses of the pieces are kept, not their windows: many large windows alive in one
//    thread turn its minor garbage collections into full ones.

import {
  assert,
  EIO,
  ENOSPC,
  EROFS,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  type RequestTable,
  type SegmentCopier,
  unreachable,
} from "../base/index.ts";
import type { Address, Arena, BlockDevice, Memory } from "../ports/index.ts";
import { type LocalDeviceOptions, LocalInfo } from "./device-info.ts";
import type { Workspace } from "./workspace.ts";

export const PIECE_BYTES = 67108864;
const ABSENT = 0;

export class MemoryDevice implements BlockDevice {
  readonly info: LocalInfo;
  /** Completion happens inside submit. */
  readonly inflightCount: number = 0;
  private readonly requests: RequestTable;
  private readonly memory: Memory;
  private readonly copier: SegmentCopier;
  private pieces: Float64Array;
  private pieceCount = 0;

  constructor(options: LocalDeviceOptions, modules: { readonly workspace: Workspace }) {
    this.info = new LocalInfo(options, true);
    this.requests = modules.workspace.requests;
    this.memory = modules.workspace.memory;
    this.copier = modules.workspace.copier;
    this.pieces = new Float64Array(Math.ceil(options.capacityBytes / PIECE_BYTES));
  }

  /** Address space taken so far; the kernel fills it page by page. */
  get allocatedBytes(): number {
    return this.pieceCount * PIECE_BYTES;
  }

  submit(slot: number): void {
    this.requests.complete(slot, this.serve(slot));
  }

  /** Nothing is ever in flight. */
  oldestInflightUs(_nowUs: number): number {
    return 0;
  }

  private serve(slot: number): number {
    const { requests, info } = this;
    const op = requests.op[slot] as number;
    if (op === OP_FLUSH) return 0;
    if (info.readOnly && op !== OP_READ) return -EROFS;
    const offsetBytes = requests.offsetBytes[slot] as number;
    const lengthBytes = requests.lengthBytes[slot] as number;
    assert(offsetBytes >= 0, "a request before the start of the device");
    if (offsetBytes + lengthBytes > info.capacityBytes) return -EIO;
    let done = 0;
    while (done < lengthBytes) {
      const at = offsetBytes + done;
      const index = Math.floor(at / PIECE_BYTES);
      const within = at - index * PIECE_BYTES;
      const bytes = Math.min(PIECE_BYTES - within, lengthBytes - done);
      const result = this.servePiece(op, slot, done, index, within, bytes);
      if (result !== 0) return result;
      done += bytes;
    }
    return 0;
  }

  /** The part of a request that lies in one piece. */
  private servePiece(
    op: number,
    slot: number,
    skipBytes: number,
    index: number,
    within: number,
    bytes: number,
  ): number {
    let piece = this.pieces[index] as number;
    if (op === OP_READ) {
      if (piece === ABSENT) return this.copier.zero(slot, skipBytes, bytes);
      return this.copier.scatter(slot, skipBytes, piece + within, bytes);
    }
    if (op === OP_WRITE) {
      if (piece === ABSENT) piece = this.allocatePiece(index);
      if (piece === ABSENT) return -ENOSPC;
      return this.copier.gather(slot, skipBytes, piece + within, bytes);
    }
    if (op === OP_DISCARD || op === OP_WRITE_ZEROES) {
      if (piece === ABSENT) return 0;
      if (bytes === PIECE_BYTES) this.freePiece(index);
      else this.memory.fill(piece + within, 0, bytes);
      return 0;
    }
    return unreachable("an operation that does not exist");
  }

  // @cold: once per 64 MiB.
  private allocatePiece(index: number): Address {
    let arena: Arena;
    try {
      arena = this.memory.allocate(PIECE_BYTES);
    } catch {
      // The machine has no more: the guest sees a full disk, and may discard something.
      return ABSENT;
    }
    assert(arena.address !== ABSENT, "memory at address 0");
    this.pieces[index] = arena.address;
    this.pieceCount += 1;
    return arena.address;
  }

  // @cold
  private freePiece(index: number): void {
    const address = this.pieces[index] as number;
    assert(address !== ABSENT, "a piece freed twice");
    this.pieces[index] = ABSENT;
    this.pieceCount -= 1;
    this.memory.free(withoutWindows(address));
  }

  // @cold
  setCapacity(bytes: number): void {
    const { info } = this;
    const before = info.capacityBytes;
    info.setCapacity(bytes);
    const pieces = new Float64Array(Math.ceil(bytes / PIECE_BYTES));
    for (let index = pieces.length; index < this.pieces.length; index++) {
      if (this.pieces[index] !== ABSENT) this.freePiece(index);
    }
    pieces.set(this.pieces.subarray(0, pieces.length));
    this.pieces = pieces;
    const last = Math.floor(bytes / PIECE_BYTES);
    const within = bytes - last * PIECE_BYTES;
    const piece = pieces[last] ?? ABSENT;
    if (bytes < before && within > 0 && piece !== ABSENT) {
      this.memory.fill(piece + within, 0, PIECE_BYTES - within);
    }
  }

  /** Gives all memory back. The device must not be used afterwards. */
  // @cold
  close(): void {
    for (let index = 0; index < this.pieces.length; index++) {
      if (this.pieces[index] !== ABSENT) this.freePiece(index);
    }
  }
}

/** An arena as free() needs it: where and how much. */
// @cold
function withoutWindows(address: Address): Arena {
  return {
    address,
    bytes: PIECE_BYTES,
    u8: new Uint8Array(0),
    u16: new Uint16Array(0),
    u32: new Uint32Array(0),
    f64: new Float64Array(0),
  };
}
