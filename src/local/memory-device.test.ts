// MemoryDevice and NullDevice: contents against a model, memory taken and given back, faults.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  EFAULT,
  EIO,
  ENOSPC,
  EROFS,
  FLAG_FAULTABLE,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
  Prng,
  TIB,
} from "../base/index.ts";
import { type Request, Workbench } from "./_fake-workbench.ts";
import type { LocalDeviceOptions } from "./device-info.ts";
import { MemoryDevice, PIECE_BYTES } from "./memory-device.ts";
import { NullDevice } from "./null-device.ts";

const OPTIONS: LocalDeviceOptions = {
  capacityBytes: 4 * PIECE_BYTES,
  blockBytes: 512,
  readOnly: false,
  serial: "memory",
};

function make(options: Partial<LocalDeviceOptions> = {}): {
  bench: Workbench;
  device: MemoryDevice;
  run: (request: Request) => number | undefined;
} {
  const bench = new Workbench();
  const device = new MemoryDevice({ ...OPTIONS, ...options }, { workspace: bench.workspace });
  const run = (request: Request): number | undefined => bench.result(bench.submit(device, request));
  return { bench, device, run };
}

describe("memory device", () => {
  it("holds what was written, around and across the edges of its pieces", () => {
    const { bench, device, run } = make();
    const prng = new Prng(5);
    // Blocks near the edges of pieces only, so that a small model covers them.
    const model = new Map<number, number>();
    const blocksPerPiece = PIECE_BYTES / 512;
    for (let round = 0; round < 2000; round++) {
      const edge = prng.between(0, 4) * blocksPerPiece;
      const first = Math.min(Math.max(0, edge + prng.between(-8, 8)), 4 * blocksPerPiece - 4);
      const count = prng.between(1, 4);
      const op = prng.pick([OP_READ, OP_WRITE, OP_WRITE, OP_DISCARD, OP_WRITE_ZEROES]);
      const range = { op, offsetBytes: first * 512, flags: prng.chance(0.3) ? FLAG_FAULTABLE : 0 };
      const cut = prng.between(1, count * 512);
      const segments: [number, number][] = [[prng.below(5000), cut]];
      if (cut < count * 512) segments.push([8000 + prng.below(5000), count * 512 - cut]);
      const isTransfer = op === OP_READ || op === OP_WRITE;
      const content: number[] = [];
      for (const [at, bytes] of op === OP_WRITE ? segments : []) {
        for (let byte = 0; byte < bytes; byte++) {
          content.push((bench.guest.u8[at + byte] = prng.below(256)));
        }
      }
      assert.equal(
        run(isTransfer ? { ...range, segments } : { ...range, lengthBytes: count * 512 }),
        0,
      );
      if (op !== OP_READ) {
        for (let at = 0; at < count * 512; at++) model.set(first * 512 + at, content[at] ?? 0);
        continue;
      }
      const read = segments.flatMap(([at, bytes]) => [...bench.guest.u8.subarray(at, at + bytes)]);
      const expected = read.map((_, at) => model.get(first * 512 + at) ?? 0);
      assert.deepEqual(read, expected, `round ${round}`);
    }
    assert.equal(device.allocatedBytes, 4 * PIECE_BYTES);
  });

  it("1 TiB costs nothing until it is written, and discards give memory back", () => {
    const { bench, device, run } = make({ capacityBytes: TIB });
    const arenas = bench.memory.arenaCount;
    const segments = [[0, 4096]] as const;
    bench.guest.u8.fill(9);
    for (const offsetBytes of [0, TIB / 2, TIB - 4096]) {
      assert.equal(run({ op: OP_READ, offsetBytes, segments }), 0);
      assert.equal(run({ op: OP_WRITE_ZEROES, offsetBytes, lengthBytes: 4096 }), 0);
      assert.equal(run({ op: OP_DISCARD, offsetBytes, lengthBytes: 4096 }), 0);
    }
    assert.ok(bench.guest.u8.subarray(0, 4096).every((byte) => byte === 0));
    assert.equal(device.allocatedBytes, 0);
    assert.equal(run({ op: OP_WRITE, offsetBytes: TIB - 4096, segments }), 0);
    assert.equal(run({ op: OP_WRITE, offsetBytes: 0, segments }), 0);
    assert.equal(bench.memory.arenaCount, arenas + 2);
    assert.equal(run({ op: OP_DISCARD, offsetBytes: 0, lengthBytes: PIECE_BYTES }), 0);
    assert.equal(bench.memory.arenaCount, arenas + 1);
    assert.equal(run({ op: OP_DISCARD, offsetBytes: 0, lengthBytes: PIECE_BYTES }), 0);
    device.close();
    assert.equal(bench.memory.arenaCount, arenas);
  });

  it("shrinking gives memory back, growing again shows zeroes", () => {
    const { bench, device, run } = make();
    const arenas = bench.memory.arenaCount;
    bench.guest.u8.fill(3);
    const segments = [[0, 4096]] as const;
    for (const offsetBytes of [4096, PIECE_BYTES, 2 * PIECE_BYTES]) {
      assert.equal(run({ op: OP_WRITE, offsetBytes, segments }), 0);
    }
    device.setCapacity(4096 + 512);
    assert.equal(device.info.capacityBytes, 4608);
    assert.equal(bench.memory.arenaCount, arenas + 1);
    assert.equal(run({ op: OP_READ, offsetBytes: 4096, segments: [[0, 1024]] }), -EIO);
    device.setCapacity(4 * PIECE_BYTES);
    bench.guest.u8.fill(8);
    assert.equal(run({ op: OP_READ, offsetBytes: 4096, segments }), 0);
    assert.ok(bench.guest.u8.subarray(0, 512).every((byte) => byte === 3));
    assert.ok(bench.guest.u8.subarray(512, 4096).every((byte) => byte === 0));
    assert.equal(run({ op: OP_READ, offsetBytes: PIECE_BYTES, segments }), 0);
    assert.ok(bench.guest.u8.subarray(0, 4096).every((byte) => byte === 0));
    assert.throws(() => device.setCapacity(100), { code: "BAD_CAPACITY" });
    device.close();
  });

  it("truncated guest memory answers EFAULT, no memory answers ENOSPC", () => {
    const { bench, run } = make();
    const segments = [[4096 - 256, 512]] as const;
    assert.equal(run({ op: OP_WRITE, offsetBytes: 0, segments }), 0);
    bench.memory.truncate(bench.guest, 4096);
    const flags = FLAG_FAULTABLE;
    for (const offsetBytes of [0, PIECE_BYTES]) {
      assert.equal(run({ op: OP_READ, offsetBytes, segments, flags }), -EFAULT);
    }
    assert.equal(run({ op: OP_WRITE, offsetBytes: 0, segments, flags }), -EFAULT);
    bench.memory.exhausted = true;
    const good = [[0, 512]] as const;
    assert.equal(run({ op: OP_WRITE, offsetBytes: 2 * PIECE_BYTES, segments: good }), -ENOSPC);
    bench.memory.exhausted = false;
    assert.equal(run({ op: OP_WRITE, offsetBytes: 2 * PIECE_BYTES, segments: good }), 0);
  });

  it("flushes, and refuses changes when read-only", () => {
    const { run } = make();
    assert.equal(run({ op: OP_FLUSH, offsetBytes: 0 }), 0);
    const readOnly = make({ readOnly: true });
    for (const op of [OP_WRITE, OP_DISCARD, OP_WRITE_ZEROES]) {
      assert.equal(readOnly.run({ op, offsetBytes: 0, lengthBytes: 512 }), -EROFS);
    }
    assert.equal(readOnly.run({ op: OP_FLUSH, offsetBytes: 0 }), 0);
    assert.equal(readOnly.run({ op: OP_READ, offsetBytes: 0, segments: [[0, 512]] }), 0);
  });
});

describe("null device", () => {
  it("completes at once and leaves memory alone", () => {
    const bench = new Workbench();
    const device = new NullDevice(OPTIONS, { requests: bench.requests });
    bench.guest.u8.fill(6);
    const run = (request: Request): number | undefined =>
      bench.result(bench.submit(device, request));
    for (const op of [OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_WRITE_ZEROES]) {
      assert.equal(run({ op, offsetBytes: 0, segments: [[0, 4096]] }), 0);
    }
    assert.ok(bench.guest.u8.every((byte) => byte === 6));
    device.setCapacity(4096);
    assert.equal(run({ op: OP_READ, offsetBytes: 4096, segments: [[0, 512]] }), -EIO);
    const readOnly = new NullDevice({ ...OPTIONS, readOnly: true }, { requests: bench.requests });
    const write = { op: OP_WRITE, offsetBytes: 0, segments: [[0, 512]] as const };
    assert.equal(bench.result(bench.submit(readOnly, write)), -EROFS);
  });
});

describe("device info", () => {
  it("is what the options say, with defaults", () => {
    const { device } = make({ physicalBlockBytes: 4096 });
    assert.equal(device.info.physicalBlockBytes, 4096);
    assert.equal(device.info.optimalIoBytes, 4096);
    assert.equal(device.info.discardGranularityBytes, 4096);
    assert.equal(device.info.canDiscard, true);
    assert.equal(device.info.serial, "memory");
    assert.throws(() => make({ serial: "x".repeat(21) }), /20 characters/);
    assert.throws(() => make({ serial: "\u00fc" }), /ASCII/);
    assert.throws(() => make({ physicalBlockBytes: 256 }), /below the logical/);
    for (const capacityBytes of [0, -512, 513, 2 ** 53, Number.NaN]) {
      assert.throws(() => make({ capacityBytes }), { code: "BAD_CAPACITY" });
    }
  });
});
