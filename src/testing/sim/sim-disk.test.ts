// The lying disk when no crash comes: order, moments, refusals, and each fault with its effect.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { EFAULT, EINVAL, EIO, ENOSPC, EOPNOTSUPP, Prng } from "../../base/index.ts";
import { DEALLOCATE_PUNCH, DEALLOCATE_ZERO } from "../../ports/index.ts";
import { Rig } from "./_sim-rig.ts";

const SEEDS: readonly number[] = Array.from({ length: 40 }, (_, index) => index + 1);

function traceOf(seed: number): string {
  const rig = new Rig({ seed, volatileCache: true });
  rig.disk.faults.add({ kind: "eio", on: ["read", "write"], chance: 0.2 });
  const trace = rig.media.startTrace();
  const prng = new Prng(99);
  for (let tag = 0; tag < 40; tag++) {
    const offsetBytes = prng.below(32) * 4096;
    if (tag % 5 === 4) rig.disk.sync(tag);
    else if (tag % 3 === 0) rig.disk.read(tag, offsetBytes, rig.arena.address, 8192);
    else rig.write(tag, offsetBytes, 8192, tag, prng.chance(0.3));
    if (tag % 7 === 0) rig.scheduler.runFor(50);
  }
  rig.run();
  return [...trace.lines(), JSON.stringify(rig.disk.injected)].join("\n");
}

describe("SimDisk", () => {
  it("does the same with the same seed, and something else with another", () => {
    assert.equal(traceOf(1), traceOf(1));
    assert.notEqual(traceOf(1), traceOf(2));
  });

  it("never does anything inside a submit", () => {
    const rig = new Rig({ latencyMinUs: 0, latencyMaxUs: 0 });
    rig.write(1, 0, 4096, 1);
    rig.disk.sync(2);
    assert.deepEqual(
      [rig.completions.length, rig.disk.inflightCount, rig.bytesAt(0, 512)[0]],
      [0, 2, 0],
    );
    rig.run();
    assert.deepEqual(
      [rig.completions.length, rig.disk.inflightCount, rig.bytesAt(0, 512)[0]],
      [2, 0, 1],
    );
  });

  it("completes in order when fifo, in another order when not", () => {
    for (const order of ["fifo", "shuffled"] as const) {
      const tags = SEEDS.map((seed) => {
        const rig = new Rig({ order, seed });
        for (let tag = 0; tag < 6; tag++) rig.write(tag, tag * 4096, 4096, tag);
        rig.run();
        return rig.completions.map(([tag]) => tag).join("");
      });
      if (order === "fifo") assert.ok(tags.every((one) => one === "012345"));
      else assert.ok(new Set(tags).size > 30, `${new Set(tags).size} orders`);
    }
  });

  it("looks at a write's buffer somewhere between submit and completion, perhaps in two parts", () => {
    const seen = new Set<string>();
    for (const seed of SEEDS) {
      const rig = new Rig({ seed, splitChance: 0.5, latencyMinUs: 100, latencyMaxUs: 100 });
      rig.write(1, 0, 4096, 1);
      rig.scheduler.runFor(50);
      rig.arena.u8.fill(2, 32768, 36864);
      rig.run();
      rig.arena.u8.fill(3);
      seen.add([...new Set(rig.bytesAt(0, 4096))].join(""));
    }
    // Either part may be the one that moves first.
    assert.deepEqual([...seen].toSorted(), ["1", "12", "2", "21"]);
  });

  it("fills a read's buffer somewhere between submit and completion", () => {
    const seen = new Set<number>();
    for (const seed of SEEDS) {
      const rig = new Rig({ seed, latencyMinUs: 100, latencyMaxUs: 100, splitChance: 0 });
      rig.media.write(0, new Uint8Array(4096).fill(7));
      rig.disk.read(1, 0, rig.arena.address, 4096);
      rig.scheduler.runFor(50);
      seen.add(rig.arena.u8[0]);
      rig.run();
      assert.deepEqual(rig.completions, [[1, 4096]]);
      assert.ok(rig.arena.u8.subarray(0, 4096).every((byte) => byte === 7));
    }
    assert.deepEqual([...seen].toSorted(), [0, 7]);
  });

  it("gathers and scatters by iovecs, which must not change", () => {
    const rig = new Rig();
    const { address, u8, u32 } = rig.arena;
    const pieces = [65536, 4096, 81920, 8192, 73728, 4096];
    for (let index = 0; index < 3; index++) {
      u32.set([address + pieces[index * 2], 0, pieces[index * 2 + 1], 0], index * 4);
      u8.fill(index + 1, pieces[index * 2], pieces[index * 2] + pieces[index * 2 + 1]);
    }
    rig.disk.writev(1, 8192, address, 3, true);
    rig.run();
    assert.equal(rig.result(1), 16384);
    assert.equal(rig.bytesAt(8192, 16384).join(""), "11111111222222222222222233333333");
    u8.fill(0, 65536);
    rig.disk.readv(2, 8192, address, 3);
    rig.run();
    assert.deepEqual([u8[65536], u8[81920], u8[90111], u8[73728]], [1, 2, 2, 3]);
    rig.disk.readv(3, 8192, address, 3);
    u32[2] = 512;
    assert.throws(() => rig.run(), /iovecs changed/);
  });

  it("throws when a buffer is freed while the device has it", () => {
    const rig = new Rig();
    const buffer = rig.memory.allocate(4096);
    rig.disk.write(1, 0, buffer.address, 4096, false);
    rig.memory.free(buffer);
    assert.throws(() => rig.run(), /nothing is there/);
    assert.throws(() => rig.disk.read(2, 0, buffer.address, 4096), /nothing is there/);
  });

  it("refuses what a kernel refuses", () => {
    const rig = new Rig();
    const guest = rig.memory.foreign(8192);
    const { address } = rig.arena;
    rig.disk.write(1, 512, address, 4096, false);
    rig.disk.write(2, 0, address, 512, false);
    rig.disk.read(3, 0, address + 8, 4096);
    rig.disk.write(4, rig.disk.capacityBytes, address, 4096, false);
    rig.disk.read(5, rig.disk.capacityBytes - 4096, address, 8192);
    rig.disk.read(6, rig.disk.capacityBytes, address, 4096);
    rig.disk.write(7, 0, guest.address, 8192, false);
    rig.memory.truncate(guest, 4096);
    rig.disk.supportsPunch = false;
    rig.disk.deallocate(8, 0, 4096, DEALLOCATE_PUNCH);
    rig.run();
    const results = [1, 2, 3, 4, 5, 6, 7, 8].map((tag) => rig.result(tag));
    const expected = [-EINVAL, -EINVAL, -EINVAL, -ENOSPC, 4096, 0, -EFAULT, -EOPNOTSUPP];
    assert.deepEqual(results, expected);
  });

  it("zeroes what is deallocated, and holds 8 TB", () => {
    const rig = new Rig({ capacityBytes: 8e12 - (8e12 % 4096), unwritten: "garbage" });
    const far = 7e12 - (7e12 % 4096);
    rig.write(1, far, 16384, 9);
    rig.run();
    rig.disk.deallocate(2, far + 4096, 8192, DEALLOCATE_ZERO);
    rig.run();
    assert.equal(
      rig.bytesAt(far, 16384).join(""),
      `${"9".repeat(8)}${"0".repeat(16)}${"9".repeat(8)}`,
    );
    const unwritten = rig.media.read(far - 4096, 4096);
    assert.ok(unwritten.some((byte) => byte !== 0));
    assert.deepEqual(rig.media.read(far - 4096, 4096), unwritten);
    assert.notDeepEqual(rig.media.read(far - 8192, 4096), unwritten);
  });
});

describe("SimDisk's faults", () => {
  it("eio: by range, kind, chance, skip and count; a failed write leaves old, new or a first part", () => {
    const rig = new Rig();
    const { faults } = rig.disk;
    faults.add({ kind: "eio", on: "write", fromBytes: 8192, toBytes: 12288, skip: 1, count: 1 });
    faults.add({ kind: "eio", on: ["read", "sync"], fromBytes: 65536 });
    for (let tag = 0; tag < 3; tag++) rig.write(tag, 4096, 8192, 1);
    rig.write(3, 12288, 4096, 1);
    rig.disk.read(4, 0, rig.arena.address, 4096);
    rig.disk.read(5, 65536, rig.arena.address, 4096);
    rig.disk.sync(6);
    rig.run();
    const results = [0, 1, 2, 3, 4, 5, 6].map((tag) => rig.result(tag));
    assert.deepEqual(results, [8192, -EIO, 8192, 4096, 4096, -EIO, -EIO]);
    assert.deepEqual(
      rig.disk.injected.map(({ on, offsetBytes }) => [on, offsetBytes]),
      [
        ["write", 4096],
        ["read", 65536],
        ["sync", 0],
      ],
    );
    const left = SEEDS.map((seed) => {
      const other = new Rig({ seed });
      other.disk.faults.add({ kind: "eio", on: "write" });
      other.write(1, 0, 8192, 1);
      other.run();
      return other.bytesAt(0, 8192).join("");
    });
    assert.deepEqual([...new Set(left)].toSorted(), [
      "0".repeat(16),
      "1111111100000000",
      "1".repeat(16),
    ]);
  });

  it("enospc, short, slow, stuck", () => {
    const rig = new Rig({ splitChance: 0 });
    const { faults } = rig.disk;
    faults.add({ kind: "enospc", on: "write", toBytes: 4096 });
    faults.add({ kind: "short", on: ["read", "write"], fromBytes: 4096, toBytes: 65536 });
    faults.add({ kind: "slow", on: "write", fromBytes: 65536, toBytes: 69632, delayUs: 5000 });
    faults.add({ kind: "stuck", on: "write", fromBytes: 69632 });
    rig.write(1, 0, 4096, 1);
    rig.write(2, 4096, 16384, 2);
    rig.write(3, 65536, 4096, 3);
    rig.write(4, 69632, 4096, 4);
    rig.scheduler.runFor(5000);
    assert.equal(rig.result(1), -ENOSPC);
    assert.deepEqual(rig.bytesAt(0, 512), [0]);
    const moved = rig.result(2) as number;
    assert.ok(moved > 0 && moved < 16384 && moved % 4096 === 0);
    assert.equal(rig.bytesAt(4096, 16384).lastIndexOf(2), moved / 512 - 1);
    assert.equal(rig.result(3), undefined);
    rig.run();
    assert.deepEqual([rig.result(3), rig.result(4), rig.disk.inflightCount], [4096, undefined, 1]);
    assert.equal(rig.disk.stuckCount, 1);
    rig.disk.releaseStuck();
    rig.run();
    assert.deepEqual([rig.result(4), rig.bytesAt(69632, 512)[0]], [4096, 4]);
  });

  it("what is stuck may have moved its bytes already, or only when it is released", () => {
    const seen = SEEDS.map((seed) => {
      const rig = new Rig({ seed, splitChance: 0 });
      rig.disk.faults.add({ kind: "stuck", on: "write" });
      rig.write(1, 0, 4096, 1);
      rig.run();
      return rig.bytesAt(0, 512)[0];
    });
    assert.deepEqual([...new Set(seen)].toSorted(), [0, 1]);
  });

  it("lost and misdirected: acknowledged, and not there", () => {
    const rig = new Rig({ splitChance: 0 });
    rig.disk.faults.add({ kind: "lost", on: "write", count: 1 });
    rig.disk.faults.add({ kind: "misdirected", on: "write", count: 1 });
    rig.disk.faults.add({ kind: "misdirected", on: "read", distanceBytes: 4096 });
    rig.write(1, 0, 4096, 1, true);
    rig.write(2, 4096, 4096, 2, true);
    rig.run();
    assert.deepEqual(rig.completions.toSorted(), [
      [1, 4096],
      [2, 4096],
    ]);
    assert.deepEqual([...rig.bytesAt(0, 512), ...rig.bytesAt(4096, 512)], [0, 0]);
    const { actualOffsetBytes } = rig.disk.injected[1];
    assert.equal(actualOffsetBytes % 4096, 0);
    assert.deepEqual(rig.bytesAt(actualOffsetBytes, 512), [2]);
    rig.disk.read(3, actualOffsetBytes - 4096, rig.arena.address, 4096);
    rig.run();
    assert.equal(rig.arena.u8[0], 2);
  });

  it("rot: one bit of a write or of a read; on the medium, one bit or a range", () => {
    const rig = new Rig({ splitChance: 0 });
    const wrongBits = (data: Uint8Array, byte: number): number => {
      let count = 0;
      for (const one of data) for (let x = one ^ byte; x !== 0; x &= x - 1) count += 1;
      return count;
    };
    rig.disk.faults.add({ kind: "rot", on: ["write", "read"] });
    rig.write(1, 0, 4096, 5);
    rig.run();
    assert.equal(wrongBits(rig.media.read(0, 4096), 5), 1);
    rig.media.write(4096, new Uint8Array(4096).fill(6));
    rig.disk.read(2, 4096, rig.arena.address, 4096);
    rig.run();
    assert.equal(wrongBits(rig.arena.u8.subarray(0, 4096), 6), 1);
    assert.equal(wrongBits(rig.media.read(4096, 4096), 6), 0);
    rig.media.flipBit(5000, 3);
    assert.equal(rig.media.read(5000, 1)[0], 6 ^ 8);
    rig.media.corrupt(4196, 100, new Prng(1));
    const rotten = [...rig.media.read(4096, 300)].map((byte) => byte !== 6);
    assert.ok(rotten.every((is, at) => is === (at >= 100 && at < 200)));
  });

  it("undurable: a write or a sync that promised and did not keep it", () => {
    const rig = new Rig({ volatileCache: true, splitChance: 0 });
    rig.disk.faults.add({ kind: "undurable", on: "write", count: 1 });
    rig.disk.faults.add({ kind: "undurable", on: "sync", count: 1 });
    rig.write(1, 0, 4096, 1, true);
    rig.write(2, 4096, 4096, 2);
    rig.run();
    rig.disk.sync(3);
    rig.run();
    assert.equal(rig.media.history.pending.length, 2);
    rig.disk.sync(4);
    rig.run();
    assert.equal(rig.media.history.pending.length, 1);
    assert.deepEqual(rig.bytesAt(0, 512), [1]);
  });
});
