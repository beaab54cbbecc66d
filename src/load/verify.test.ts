// The verifier knows every way in which stored data can be wrong.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import type { Arena } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { Verifier, ZEROES } from "./verify.ts";

const UNIT = 4096;
const memory = new sys.SystemMemory();
let verifier: Verifier;
let buffer: Arena;

beforeEach(() => {
  verifier = new Verifier(memory, {
    areaBytes: 64 * UNIT,
    unitBytes: UNIT,
    seed: 9,
    initialZeroes: false,
  });
  buffer = memory.allocate(4 * UNIT);
});

afterEach(() => {
  memory.free(buffer);
  verifier.close();
});

/** Writes a generation of unit 7 and on, as a device would store it. */
function write(unit: number, count = 1): Uint8Array {
  const generation = verifier.newGeneration();
  verifier.stamp(unit, count, generation, buffer.u32, 0, buffer.address);
  verifier.written(unit, count, generation);
  return buffer.u8.slice(0, count * UNIT);
}

/** Failures after `bytes` have been read from `unit`. */
function read(unit: number, bytes: Uint8Array): number {
  const before = verifier.failureCount;
  buffer.u8.set(bytes);
  verifier.check(unit, bytes.length / UNIT, buffer.u32, 0, buffer.address);
  return verifier.failureCount - before;
}

test("what was written last is right, and nothing else", () => {
  const first = write(7, 3);
  assert.equal(read(7, first), 0);
  const second = write(7, 3);
  assert.notDeepEqual(first, second);
  assert.equal(read(7, second), 0);
  assert.equal(read(7, first), 3, "a lost write");
  assert.match(
    verifier.failures[0] ?? "",
    /Block at 28672 .*generation 2 expected, found gen.* 1 /,
  );
  assert.match(verifier.failures[0] ?? "", /intact/);
});

test("every flipped bit is found", () => {
  const data = write(3);
  for (const at of [0, 4, 8, 12, 16, 20, 24, 100, 2048, 4095]) {
    const damaged = data.slice();
    damaged[at] = (damaged[at] as number) ^ 0x10;
    assert.equal(read(3, damaged), 1, `byte ${at}`);
  }
});

test("a block made of two writes, a block of another place, zeroes, another run's", () => {
  const old = write(5);
  const other = write(6);
  const data = write(5);
  const torn = data.slice();
  torn.set(old.subarray(2048), 2048);
  assert.equal(read(5, torn), 1, "torn");
  assert.match(verifier.failures.at(-1) ?? "", /torn or damaged/);
  assert.equal(read(5, other), 1, "misdirected");
  assert.match(verifier.failures.at(-1) ?? "", /of block 24576/);
  assert.equal(read(5, new Uint8Array(UNIT)), 1, "zeroes");
  assert.match(verifier.failures.at(-1) ?? "", /zeroes found/);
  const stranger = new Verifier(memory, {
    areaBytes: 64 * UNIT,
    unitBytes: UNIT,
    seed: 10,
    initialZeroes: false,
  });
  stranger.stamp(5, 1, 3, buffer.u32, 0, buffer.address);
  assert.equal(read(5, buffer.u8.slice(0, UNIT)), 1, "another run");
  assert.match(verifier.failures.at(-1) ?? "", /another run/);
  stranger.close();
});

test("unknown contents are counted, not judged; zeroes are judged", () => {
  assert.equal(read(0, new Uint8Array(UNIT).fill(3)), 0);
  assert.equal(verifier.uncheckedCount, 1);
  assert.equal(verifier.isKnown(0, 1), false);
  verifier.written(0, 2, ZEROES);
  assert.equal(verifier.isKnown(1, 1), true);
  assert.equal(read(0, new Uint8Array(2 * UNIT)), 0);
  assert.equal(read(0, new Uint8Array(UNIT).fill(0, 0, UNIT - 1).fill(1, UNIT - 1)), 1);
});

test("after a failed write the old and the new contents are legal, and nothing else", () => {
  const older = write(9);
  const old = write(9);
  const generation = verifier.newGeneration();
  verifier.stamp(9, 1, generation, buffer.u32, 0, buffer.address);
  const fresh = buffer.u8.slice(0, UNIT);
  verifier.writeFailed(9, 1, generation);
  assert.equal(read(9, old), 0);
  assert.equal(read(9, fresh), 0);
  assert.equal(read(9, older), 1);
  assert.match(verifier.failures[0] ?? "", /generation 2 or generation 3 expected/);
  const mixed = fresh.slice();
  mixed.set(old.subarray(512), 512);
  assert.equal(read(9, mixed), 1, "half old, half new");
  const settled = write(9);
  assert.equal(read(9, settled), 0);
  assert.equal(read(9, fresh), 1, "settled by a later write");
  // A second failure in a row: three possible contents are too many to keep.
  verifier.writeFailed(9, 1, verifier.newGeneration());
  verifier.writeFailed(9, 1, verifier.newGeneration());
  assert.equal(verifier.isKnown(9, 1), false);
});

test("locks keep requests of one unit apart", () => {
  assert.equal(verifier.tryLock(10, 4), true);
  assert.equal(verifier.tryLock(13, 2), false);
  assert.equal(verifier.tryLock(14, 2), true);
  verifier.unlock(10, 4);
  assert.equal(verifier.tryLock(13, 1), true);
  assert.throws(() => verifier.unlock(20, 1), /not locked/);
});

test("a read's buffer is made worthless before the read", () => {
  const data = write(7);
  buffer.u8.set(data);
  verifier.scribble(buffer.address, UNIT);
  verifier.check(7, 1, buffer.u32, 0, buffer.address);
  assert.equal(verifier.failureCount, 1);
});
