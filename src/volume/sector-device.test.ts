// SectorDevice: every byte where it belongs, whatever overlaps whatever while it is under way.
//
// The model knows for every sector which changes it saw and when each began and ended. A sector may
// hold what a change wrote unless a later one, begun after it ended, had ended too.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  EFAULT,
  EIO,
  EROFS,
  FLAG_DURABLE,
  FLAG_FAULTABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  Prng,
} from "../base/index.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE, mmap, munmap, PROT_READ, PROT_WRITE } from "../sys/index.ts";
import {
  SectorBench,
  type SectorBenchOptions,
  type SectorRequest,
} from "../testing/sector-bench.ts";

const SECTOR_BYTES = 512;
const BLOCK_BYTES = 4096;
const SECTOR_COUNT = 96;
const REQUEST_SECTORS_MAX = 40;
const SLOTS = 32;
const PART_BYTES = 36_864;
const WORDS = SECTOR_BYTES / 4;

const OPTIONS: SectorBenchOptions = {
  capacityBytes: SECTOR_COUNT * SECTOR_BYTES,
  slots: SLOTS,
  laneCount: 2,
  laneBytes: BLOCK_BYTES,
  guestBytes: SLOTS * PART_BYTES,
};

interface Change {
  readonly value: number;
  readonly beganAt: number;
  endedAt: number;
}

interface InFlight {
  readonly request: SectorRequest;
  readonly first: number;
  readonly count: number;
  readonly part: number;
  readonly beganAt: number;
  readonly changes: readonly Change[];
}

class History {
  private readonly prng: Prng;
  private readonly bench: SectorBench;
  private readonly sectors: Change[][];
  private readonly inFlight: Map<number, InFlight> = new Map();
  private readonly freeParts: number[] = Array.from({ length: SLOTS }, (_, index) => index);
  private time = 1;
  private value = 1;
  completed = 0;

  constructor(seed: number) {
    const prng = new Prng(seed);
    this.prng = prng;
    const laneCount = prng.between(1, 4);
    const laneBytes = BLOCK_BYTES * prng.pick([1, 2, 16]);
    this.bench = new SectorBench({ ...OPTIONS, laneCount, laneBytes }, (slot, result) =>
      this.ended(slot, result),
    );
    this.sectors = Array.from({ length: SECTOR_COUNT }, () => [
      { value: 0, beganAt: 0, endedAt: 0 },
    ]);
  }

  run(requestCount: number): void {
    const { prng, bench } = this;
    let submitted = 0;
    while (submitted < requestCount || this.inFlight.size > 0) {
      if (submitted < requestCount && prng.chance(0.5)) submitted += this.begin() ? 1 : 0;
      else if (bench.below.held.length > 0) bench.below.goOn(prng.below(bench.below.held.length));
      // Completions are delivered late, and a few at a time.
      if (prng.chance(0.7)) bench.requests.drain(prng.between(1, 4));
    }
    assert.equal(bench.device.inflightCount, 0);
    for (let first = 0; first < SECTOR_COUNT; first += 64) {
      const count = Math.min(64, SECTOR_COUNT - first);
      this.submit(OP_READ, first, count, 0);
      bench.settle();
    }
    bench.close();
  }

  private begin(): boolean {
    const { prng } = this;
    const op = prng.pick([OP_READ, OP_WRITE, OP_WRITE, OP_WRITE, OP_WRITE_ZEROES, OP_DISCARD]);
    let count = prng.pick([1, 2, prng.between(1, REQUEST_SECTORS_MAX)]);
    let first = prng.below(SECTOR_COUNT - count + 1);
    if (prng.chance(0.4)) {
      count = 8 * prng.between(1, 4);
      first = 8 * prng.below((SECTOR_COUNT - count) / 8 + 1);
    }
    const flags = prng.pick([0, FLAG_DURABLE, FLAG_UNMAP, FLAG_FAULTABLE]);
    return this.submit(op, first, count, flags);
  }

  private submit(op: number, first: number, count: number, flags: number): boolean {
    const part = this.freeParts.pop();
    if (part === undefined) return false;
    const offsetBytes = first * SECTOR_BYTES;
    const bytes = count * SECTOR_BYTES;
    const hasMemory = op === OP_READ || op === OP_WRITE;
    const segments = hasMemory ? this.segments(part * PART_BYTES, bytes) : [];
    const request = hasMemory
      ? { op, offsetBytes, flags, segments }
      : { op, offsetBytes, flags, lengthBytes: bytes };
    const value = op === OP_WRITE ? this.value++ : 0;
    if (op === OP_WRITE) this.fill(segments, value);
    const beganAt = this.time++;
    const slot = this.bench.submit(request);
    if (slot < 0) {
      this.freeParts.push(part);
      return false;
    }
    const changes = op === OP_READ ? [] : this.note(op, first, count, value, beganAt);
    this.inFlight.set(slot, { request, first, count, part, beganAt, changes });
    return true;
  }

  /** The change of each sector; a discard changes only whole blocks. */
  private note(op: number, first: number, count: number, value: number, beganAt: number): Change[] {
    const changes: Change[] = [];
    for (let sector = first; sector < first + count; sector++) {
      const block = Math.floor(sector / 8) * 8;
      if (op === OP_DISCARD && (block < first || block + 8 > first + count)) continue;
      const change = { value, beganAt, endedAt: Number.POSITIVE_INFINITY };
      (this.sectors[sector] as Change[]).push(change);
      changes.push(change);
    }
    return changes;
  }

  private segments(base: number, bytes: number): [number, number][] {
    const cut = this.prng.chance(0.5) ? this.prng.between(1, bytes - 1) : bytes;
    const segments: [number, number][] = [[base, cut]];
    if (cut < bytes) segments.push([base + cut + 7, bytes - cut]);
    return segments;
  }

  /** Every word of the request's bytes, which lie in its segments, becomes `value`. */
  private fill(segments: readonly (readonly [number, number])[], value: number): void {
    const bytes = segments.reduce((sum, [, length]) => sum + length, 0);
    const content = new Uint8Array(new Uint32Array(bytes / 4).fill(value).buffer);
    let done = 0;
    for (const [at, length] of segments) {
      this.bench.guest.u8.set(content.subarray(done, done + length), at);
      done += length;
    }
  }

  private ended(slot: number, result: number): void {
    const one = this.inFlight.get(slot);
    assert.ok(one !== undefined, "an answer to nothing");
    const { requests } = this.bench;
    assert.equal(result, 0);
    assert.equal(requests.offsetBytes[slot], one.request.offsetBytes, "the slot is as it was");
    assert.equal(requests.lengthBytes[slot], one.count * SECTOR_BYTES);
    this.inFlight.delete(slot);
    this.freeParts.push(one.part);
    this.completed += 1;
    for (const change of one.changes) change.endedAt = this.time;
    this.time += 1;
    if (one.request.op === OP_READ) this.check(one);
  }

  private check(one: InFlight): void {
    const pieces = (one.request.segments ?? []).map(([at, bytes]) =>
      this.bench.guest.u8.slice(at, at + bytes),
    );
    const words = new Uint32Array(Uint8Array.from(Buffer.concat(pieces)).buffer);
    for (let at = 0; at < one.count; at++) {
      const sector = one.first + at;
      const value = words[at * WORDS] as number;
      const isWhole = words.subarray(at * WORDS, (at + 1) * WORDS).every((word) => word === value);
      assert.ok(isWhole, `sector ${sector} holds bytes of two requests`);
      const history = this.sectors[sector] as Change[];
      const isAllowed = history.some(
        (change) =>
          change.value === value &&
          !history.some((other) => other.beganAt > change.endedAt && other.endedAt < one.beganAt),
      );
      assert.ok(isAllowed, `sector ${sector} holds ${value}, which was overwritten before`);
    }
  }
}

describe("sector device", () => {
  it("80 random histories of requests that overlap", () => {
    for (let seed = 1; seed <= 80; seed++) {
      try {
        const history = new History(seed);
        history.run(300);
        assert.ok(history.completed >= 300);
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
      }
    }
  });

  function make(more: Partial<SectorBenchOptions> = {}) {
    const results: number[] = [];
    const bench = new SectorBench({ ...OPTIONS, ...more }, (_, result) => results.push(result));
    const run = (request: SectorRequest): number => {
      bench.submit(request);
      bench.settle();
      return results.pop() as number;
    };
    return { bench, results, run };
  }

  it("announces what it can do, and grows", () => {
    const { bench } = make();
    const { info } = bench.device;
    assert.equal(info.blockBytes, 512);
    assert.equal(info.physicalBlockBytes, 4096);
    assert.equal(info.discardGranularityBytes, 4096);
    assert.equal(info.capacityBytes, OPTIONS.capacityBytes);
    assert.equal(info.serial, "sectors");
    bench.device.setCapacity(2 * OPTIONS.capacityBytes);
    assert.equal(info.capacityBytes, 2 * OPTIONS.capacityBytes);
    assert.throws(() => bench.device.setCapacity(OPTIONS.capacityBytes + 512), /whole blocks/);
    bench.close();
  });

  it("passes whole blocks on as they are, and reads only blocks that change in part", () => {
    const { bench, run } = make({ laneBytes: 4 * BLOCK_BYTES });
    const segments = [[0, BLOCK_BYTES]] as const;
    assert.equal(run({ op: OP_WRITE, offsetBytes: 0, segments, flags: FLAG_DURABLE }), 0);
    assert.equal(run({ op: OP_READ, offsetBytes: 0, segments }), 0);
    assert.equal(run({ op: OP_FLUSH, offsetBytes: 0 }), 0);
    const seen = bench.below.seen.splice(0).map(({ op, bytes, flags }) => [op, bytes, flags]);
    assert.deepEqual(seen, [
      [OP_WRITE, BLOCK_BYTES, FLAG_DURABLE],
      [OP_READ, BLOCK_BYTES, 0],
      [OP_FLUSH, 0, 0],
    ]);
    const both = [[0, 2 * BLOCK_BYTES]] as const;
    assert.equal(run({ op: OP_WRITE, offsetBytes: 512, segments: both, flags: FLAG_DURABLE }), 0);
    const ranges = bench.below.seen
      .splice(0)
      .map(({ op, at, bytes, flags }) => [op, at, bytes, flags]);
    assert.deepEqual(ranges, [
      [OP_READ, 0, BLOCK_BYTES, 0],
      [OP_READ, 2 * BLOCK_BYTES, BLOCK_BYTES, 0],
      [OP_WRITE, 0, 3 * BLOCK_BYTES, FLAG_DURABLE],
    ]);
    assert.equal(run({ op: OP_DISCARD, offsetBytes: 512, lengthBytes: 7168 }), 0);
    assert.deepEqual(bench.below.seen.splice(0), [], "no whole block lies inside");
    const zeroes = { op: OP_WRITE_ZEROES, offsetBytes: 512, flags: FLAG_UNMAP };
    assert.equal(run({ ...zeroes, lengthBytes: 3 * BLOCK_BYTES }), 0);
    assert.deepEqual(
      bench.below.seen.map(({ op, at, bytes }) => [op, at, bytes]),
      [
        [OP_READ, 0, BLOCK_BYTES],
        [OP_WRITE, 0, BLOCK_BYTES],
        [OP_WRITE_ZEROES, BLOCK_BYTES, 2 * BLOCK_BYTES],
        [OP_READ, 3 * BLOCK_BYTES, BLOCK_BYTES],
        [OP_WRITE, 3 * BLOCK_BYTES, BLOCK_BYTES],
      ],
    );
    assert.equal(bench.below.seen[2]?.flags, FLAG_UNMAP);
    bench.close();
  });

  it("refuses what is outside or not to be changed, and hands errors up", () => {
    const { bench, run } = make();
    const segments = [[0, 512]] as const;
    const end = OPTIONS.capacityBytes;
    assert.equal(run({ op: OP_READ, offsetBytes: end, segments }), -EIO);
    assert.equal(run({ op: OP_WRITE_ZEROES, offsetBytes: end - 512, lengthBytes: 1024 }), -EIO);
    bench.below.fault = (op) => (op === OP_READ ? -EIO : 0);
    assert.equal(run({ op: OP_READ, offsetBytes: 512, segments }), -EIO);
    assert.equal(run({ op: OP_WRITE, offsetBytes: 512, segments }), -EIO);
    assert.equal(run({ op: OP_WRITE_ZEROES, offsetBytes: 512, lengthBytes: 512 }), -EIO);
    bench.below.fault = () => 0;
    // Nothing is left behind: neither a lane nor a block that stays locked.
    for (let round = 0; round < 5; round++) {
      assert.equal(run({ op: OP_WRITE, offsetBytes: 512, segments }), 0);
    }
    assert.equal(bench.device.inflightCount, 0);
    bench.close();
    const readOnly = make({ readOnly: true });
    assert.equal(readOnly.run({ op: OP_WRITE, offsetBytes: 512, segments }), -EROFS);
    assert.equal(readOnly.run({ op: OP_READ, offsetBytes: 512, segments }), 0);
    assert.deepEqual(
      readOnly.bench.below.seen.map(({ op }) => op),
      [OP_READ],
    );
    readOnly.bench.close();
  });

  it("guest memory that is gone fails its request alone, however many wait behind it", () => {
    const { bench, results } = make({ slots: 1024 });
    const gone = mmap(BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(gone, BLOCK_BYTES);
    const segments = [[0, 512]] as const;
    const request = { offsetBytes: 512, segments, flags: FLAG_FAULTABLE, address: gone };
    for (let round = 0; round < 500; round++) {
      bench.submit({ op: OP_WRITE, ...request });
      bench.submit({ op: OP_READ, ...request });
    }
    bench.submit({ op: OP_WRITE, offsetBytes: 1024, segments });
    bench.settle();
    assert.equal(results.length, 1001);
    assert.equal(results.filter((result) => result === -EFAULT).length, 1000);
    assert.equal(results.filter((result) => result === 0).length, 1);
    assert.equal(bench.below.seen.filter(({ op }) => op === OP_WRITE).length, 1);
    bench.close();
  });
});
