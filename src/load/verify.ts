// @hot
// Verification of what a device stores. Every block that is written (512 bytes to 4 KiB, the unit)
// carries a stamp that no other write of the run shares, and this table knows which stamp each
// unit must hold.
//
//   unit  0 magic | 4 CRC32C of all behind it | 8 offset u64 | 16 generation | 20 seed | 24 pattern
//
// The pattern depends on offset and generation, so a block made of two writes fails its checksum;
// a misdirected write fails the offset; a lost or late one the generation; another run's the seed.
//
// State of a unit: UNKNOWN (never written by this run, or discarded: anything may be there),
// ZEROES, or the generation of the last completed write. A write that failed, or was never heard
// of again, leaves two legal states, the old and the new one, and nothing else; one more failure
// makes the unit UNKNOWN.
//
// Units of requests in flight are locked (tryLock), so that what a read must return is certain.

import { assert, Prng, TWO_32 } from "../base/index.ts";
import type { Address, Arena, Memory } from "../ports/index.ts";
import { LoadError } from "./errors.ts";

export const UNKNOWN = 0;
export const ZEROES = 0xffffffff;

const MAGIC = 0x53475452;
const STAMP_BYTES = 24;
const POOL_BYTES = 65536;
const UNIT_BYTES_MAX = 4096;
/** 64 Mi units: 0.6 GiB of tables, a 256 GiB area at 4 KiB. */
const UNIT_COUNT_MAX = 67108864;
const FAILURE_MESSAGES_MAX = 10;
const SCRIBBLE_BYTE = 0xa7;

export interface VerifierOptions {
  readonly areaBytes: number;
  /** 512 to 4096, power of two. */
  readonly unitBytes: number;
  readonly seed: number;
  readonly initialZeroes: boolean;
}

export class Verifier {
  readonly unitBytes: number;
  readonly unitCount: number;
  checkedCount = 0;
  /** Blocks read whose contents nobody knows. */
  uncheckedCount = 0;
  failureCount = 0;
  /** The first few failures, for people. */
  readonly failures: string[] = [];
  private readonly state: Uint32Array;
  private readonly otherState: Uint32Array;
  private readonly locked: Uint8Array;
  private readonly memory: Memory;
  private readonly pool: Arena;
  private readonly zeroes: Arena;
  private readonly seed: number;
  private nextGeneration = 0;

  constructor(memory: Memory, options: VerifierOptions) {
    assert(options.unitBytes >= 512, "a verified unit is at least 512 bytes");
    assert(options.unitBytes <= UNIT_BYTES_MAX, "a verified unit is at most 4 KiB");
    this.memory = memory;
    this.unitBytes = options.unitBytes;
    this.unitCount = Math.floor(options.areaBytes / options.unitBytes);
    if (this.unitCount > UNIT_COUNT_MAX) {
      throw new LoadError(
        "OPTIONS",
        `Verification of ${options.areaBytes} bytes needs too much memory.`,
        { advice: "Verify a part of the device (--area)." },
      );
    }
    this.seed = options.seed;
    this.state = new Uint32Array(this.unitCount).fill(options.initialZeroes ? ZEROES : UNKNOWN);
    this.otherState = new Uint32Array(this.unitCount);
    this.locked = new Uint8Array(this.unitCount);
    this.pool = memory.allocate(POOL_BYTES + UNIT_BYTES_MAX);
    this.zeroes = memory.allocate(UNIT_BYTES_MAX);
    const prng = new Prng(options.seed ^ 0x5ca1ab1e);
    for (let index = 0; index < this.pool.u32.length; index++) this.pool.u32[index] = prng.u32();
  }

  /** Locks [unit, unit + count) for one request; false when another holds a part of it. */
  tryLock(unit: number, count: number): boolean {
    for (let index = unit; index < unit + count; index++) {
      if (this.locked[index] !== 0) return false;
    }
    this.locked.fill(1, unit, unit + count);
    return true;
  }

  unlock(unit: number, count: number): void {
    for (let index = unit; index < unit + count; index++) {
      assert(this.locked[index] === 1, "unlock of a unit that is not locked");
    }
    this.locked.fill(0, unit, unit + count);
  }

  /** A generation for one write request. */
  newGeneration(): number {
    this.nextGeneration += 1;
    assert(this.nextGeneration < ZEROES, "generations used up");
    return this.nextGeneration;
  }

  /** True when the next read of these units has something to check. */
  isKnown(unit: number, count: number): boolean {
    for (let index = unit; index < unit + count; index++) {
      if (this.state[index] !== UNKNOWN) return true;
    }
    return false;
  }

  /** Fills a write's buffer: `words[word]` is the memory at `address`. */
  stamp(
    unit: number,
    count: number,
    generation: number,
    words: Uint32Array,
    word: number,
    address: Address,
  ): void {
    const unitBytes = this.unitBytes;
    for (let index = 0; index < count; index++) {
      const at = word + (index * unitBytes) / 4;
      const to = address + index * unitBytes;
      const offset = (unit + index) * unitBytes;
      const from = (Math.imul(generation, 0x9e3779b1) ^ Math.imul(unit + index, 0x85ebca6b)) >>> 16;
      this.memory.copy(to + STAMP_BYTES, this.pool.address + (from & ~7), unitBytes - STAMP_BYTES);
      words[at] = MAGIC;
      words[at + 2] = offset >>> 0;
      words[at + 3] = Math.floor(offset / TWO_32);
      words[at + 4] = generation;
      words[at + 5] = this.seed;
      words[at + 1] = this.memory.crc32c(to + 8, unitBytes - 8, 0);
    }
  }

  /** Makes sure that a read's buffer holds nothing that could pass check(). */
  scribble(address: Address, bytes: number): void {
    this.memory.fill(address, SCRIBBLE_BYTE, bytes);
  }

  /** Checks a completed read of [unit, unit + count). */
  check(unit: number, count: number, words: Uint32Array, word: number, address: Address): void {
    const unitBytes = this.unitBytes;
    for (let index = 0; index < count; index++) {
      const state = this.state[unit + index];
      if (state === UNKNOWN) {
        this.uncheckedCount += 1;
        continue;
      }
      this.checkedCount += 1;
      const at = word + (index * unitBytes) / 4;
      const from = address + index * unitBytes;
      if (this.matches(unit + index, state, words, at, from)) continue;
      const other = this.otherState[unit + index];
      if (other !== UNKNOWN && this.matches(unit + index, other, words, at, from)) continue;
      this.failed(unit + index, words, at, from);
    }
  }

  private matches(
    unit: number,
    state: number,
    words: Uint32Array,
    at: number,
    address: Address,
  ): boolean {
    if (state === ZEROES) {
      return this.memory.compare(address, this.zeroes.address, this.unitBytes) === 0;
    }
    const offset = unit * this.unitBytes;
    if (words[at] !== MAGIC) return false;
    if (words[at + 2] !== offset >>> 0) return false;
    if (words[at + 3] !== Math.floor(offset / TWO_32)) return false;
    if (words[at + 4] !== state) return false;
    if (words[at + 5] !== this.seed) return false;
    return words[at + 1] === this.memory.crc32c(address + 8, this.unitBytes - 8, 0);
  }

  // @cold
  private failed(unit: number, words: Uint32Array, at: number, address: Address): void {
    this.failureCount += 1;
    if (this.failures.length >= FAILURE_MESSAGES_MAX) return;
    const offset = unit * this.unitBytes;
    const wanted = [this.state[unit], this.otherState[unit]]
      .filter((state, index) => index === 0 || state !== UNKNOWN)
      .map((state) => (state === ZEROES ? "zeroes" : `generation ${state}`))
      .join(" or ");
    const found = this.describe(words, at, address);
    this.failures.push(
      `Block at ${offset} (${this.unitBytes} bytes): ${wanted} expected, ${found}.`,
    );
  }

  // @cold
  private describe(words: Uint32Array, at: number, address: Address): string {
    if (this.memory.compare(address, this.zeroes.address, this.unitBytes) === 0) {
      return "zeroes found";
    }
    if (words[at] !== MAGIC) return `no stamp found (starts with 0x${words[at].toString(16)})`;
    const offset = words[at + 3] * TWO_32 + words[at + 2];
    const crc = this.memory.crc32c(address + 8, this.unitBytes - 8, 0);
    const intact = crc === words[at + 1] ? "intact" : "torn or damaged";
    const seed = words[at + 5] === this.seed ? "" : `, of another run (seed ${words[at + 5]})`;
    return `found generation ${words[at + 4]} of block ${offset}, ${intact}${seed}`;
  }

  /** A write of `generation` (or ZEROES, or UNKNOWN after a discard) completed. */
  written(unit: number, count: number, generation: number): void {
    this.state.fill(generation, unit, unit + count);
    this.otherState.fill(UNKNOWN, unit, unit + count);
  }

  /** A write failed: each unit holds what it held, or the new contents. */
  writeFailed(unit: number, count: number, generation: number): void {
    for (let index = unit; index < unit + count; index++) {
      const settled = this.otherState[index] === UNKNOWN && this.state[index] !== UNKNOWN;
      if (settled && generation !== UNKNOWN) {
        this.otherState[index] = generation;
      } else {
        this.state[index] = UNKNOWN;
        this.otherState[index] = UNKNOWN;
      }
    }
  }

  // @cold
  close(): void {
    this.memory.free(this.pool);
    this.memory.free(this.zeroes);
  }
}
