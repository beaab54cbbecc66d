// @hot
// The memory of a session's data: one arena in pieces of two sizes. A command of at most
// SMALL_PIECE_BYTES has one small piece, a longer one as many large pieces as it needs: its first
// from a pool of their own, which holds one for every command that the window lets in.
//
//   | small | small | ... | first | first | ... | rest | rest | ...
//
// Invariants:
//  - a piece is free or belongs to one task;
//  - pages are the kernel's until they are first used: a session that moves little holds little.

import { assert } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";
import {
  FIRST_PIECES,
  LARGE_PIECE_BYTES,
  REST_PIECES,
  SMALL_PIECE_BYTES,
  SMALL_PIECES,
} from "./limits.ts";

export const POOL_SMALL = 0;
export const POOL_FIRST = 1;
export const POOL_REST = 2;

const POOL_BEGIN: readonly number[] = [0, SMALL_PIECES, SMALL_PIECES + FIRST_PIECES];
const PIECES: number = SMALL_PIECES + FIRST_PIECES + REST_PIECES;
const POOL_SIZE: readonly number[] = [SMALL_PIECES, FIRST_PIECES, REST_PIECES];
const SMALL_BYTES: number = SMALL_PIECES * SMALL_PIECE_BYTES;

export class Pieces {
  private readonly memory: Memory;
  private readonly arena: Arena;
  private readonly stack: Int16Array = new Int16Array(PIECES);
  private readonly count: Int32Array = new Int32Array(3);

  constructor(memory: Memory) {
    this.memory = memory;
    this.arena = memory.allocate(SMALL_BYTES + (FIRST_PIECES + REST_PIECES) * LARGE_PIECE_BYTES);
    for (let piece = PIECES - 1; piece >= 0; piece--) this.put(piece);
  }

  freeCount(pool: number): number {
    return this.count[pool];
  }

  /** Every piece is free. */
  get isWhole(): boolean {
    return this.count[0] + this.count[1] + this.count[2] === PIECES;
  }

  /** -1: none is free. */
  take(pool: number): number {
    if (this.count[pool] === 0) return -1;
    this.count[pool] -= 1;
    return this.stack[POOL_BEGIN[pool] + this.count[pool]];
  }

  put(piece: number): void {
    let pool = POOL_SMALL;
    if (piece >= POOL_BEGIN[POOL_REST]) pool = POOL_REST;
    else if (piece >= POOL_BEGIN[POOL_FIRST]) pool = POOL_FIRST;
    assert(this.count[pool] < POOL_SIZE[pool], "a piece freed twice");
    this.stack[POOL_BEGIN[pool] + this.count[pool]] = piece;
    this.count[pool] += 1;
  }

  bytesOf(piece: number): number {
    return piece < SMALL_PIECES ? SMALL_PIECE_BYTES : LARGE_PIECE_BYTES;
  }

  addressOf(piece: number): Address {
    return this.arena.address + this.offsetOf(piece);
  }

  /** Where the piece is in `u8`. */
  offsetOf(piece: number): number {
    if (piece < SMALL_PIECES) return piece * SMALL_PIECE_BYTES;
    return SMALL_BYTES + (piece - SMALL_PIECES) * LARGE_PIECE_BYTES;
  }

  /** All of them, for what is read and written with plain loads and stores. */
  get u8(): Uint8Array {
    return this.arena.u8;
  }

  // @cold
  release(): void {
    this.memory.free(this.arena);
  }
}
