// SimMemory: what a real process could not survive throws here.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { crc32cTable, EFAULT, Prng } from "../../base/index.ts";
import { POISON_BYTE, SimMemory } from "./sim-memory.ts";

describe("SimMemory", () => {
  it("gives zeroed whole pages with typed windows over the same bytes", () => {
    const memory = new SimMemory(1048576);
    const arena = memory.allocate(5000);
    assert.equal(arena.bytes, 8192);
    assert.equal(arena.address % 4096, 0);
    assert.ok(memory.isZero(arena.address, 8192));
    arena.u32[3] = 0x01020304;
    assert.deepEqual([...arena.u8.subarray(12, 16)], [4, 3, 2, 1]);
    assert.equal(arena.u16[7], 0x0102);
    assert.equal(arena.f64.length, 1024);
    assert.equal(memory.isZero(arena.address, 8192), false);
    assert.deepEqual([...memory.window(arena.address + 12, 4)], [4, 3, 2, 1]);
  });

  it("throws for every byte outside a live arena, from every operation", () => {
    const memory = new SimMemory(1048576);
    const first = memory.allocate(4096);
    const second = memory.allocate(4096);
    const good = first.address;
    const gap = first.address + 4096;
    for (const bad of [
      gap,
      gap - 1,
      good - 1,
      0,
      -1,
      NaN,
      good + 0.5,
      2 ** 40,
      second.address - 1,
    ]) {
      assert.throws(() => memory.copy(bad, good, 2), /nothing is there/, `copy to ${bad}`);
      assert.throws(() => memory.copy(good, bad, 2), /nothing is there/, `copy from ${bad}`);
      assert.throws(() => memory.fill(bad, 1, 2), /nothing is there/, `fill ${bad}`);
      assert.throws(() => memory.compare(good, bad, 2), /nothing is there/, `compare ${bad}`);
      assert.throws(() => memory.isZero(bad, 2), /nothing is there/, `isZero ${bad}`);
      assert.throws(() => memory.crc32c(bad, 2, 0), /nothing is there/, `crc ${bad}`);
      assert.throws(() => memory.copyFaultable(bad, good, 2), /nothing is there/, `fault ${bad}`);
      assert.throws(() => memory.window(bad, 2), /nothing is there/, `window ${bad}`);
    }
    memory.fill(second.address + 4095, 7, 1);
    assert.equal(second.u8[4095], 7);
  });

  it("poisons what is freed, refuses it, and uses it again last", () => {
    const memory = new SimMemory(262144);
    const arena = memory.allocate(4096);
    memory.free(arena);
    assert.ok(arena.u8.every((byte) => byte === POISON_BYTE));
    assert.throws(() => memory.fill(arena.address, 0, 1), /nothing is there/);
    assert.throws(() => memory.free(arena), /no arena/);
    const next = memory.allocate(4096);
    assert.notEqual(next.address, arena.address);
    assert.equal(arena.u8[0], POISON_BYTE);
    // 64 pages hold 32 arenas with their gaps, for ever.
    for (let round = 0; round < 200; round++) memory.free(memory.allocate(4096));
    assert.equal(memory.arenaCount, 1);
    const many = Array.from({ length: 31 }, () => memory.allocate(4096));
    assert.throws(() => memory.allocate(4096), /used up/);
    assert.ok(many.every((one) => one.u8.every((byte) => byte === 0)));
    memory.reset();
    assert.equal(memory.arenaCount, 0);
    memory.allocate(200000);
  });

  it("copies overlapping ranges, compares, finds zeroes and checksums at any byte", () => {
    const memory = new SimMemory(262144);
    const { address, u8 } = memory.allocate(8192);
    const prng = new Prng(1);
    for (let at = 0; at < 4096; at++) u8[at] = prng.u32();
    const before = u8.slice(0, 4096);
    memory.copy(address + 3, address, 4096);
    assert.deepEqual(u8.slice(3, 4099), before);
    memory.copy(address + 5000, address + 3, 100);
    assert.equal(memory.compare(address + 5000, address + 3, 100), 0);
    u8[5099] = u8[5099] === 255 ? 0 : 255;
    assert.equal(memory.compare(address + 5000, address + 3, 99), 0);
    const order = memory.compare(address + 5000, address + 3, 100);
    assert.equal(Math.sign(order), Math.sign(u8[5099] - u8[102]));
    assert.equal(memory.crc32c(address + 7, 777, 5), crc32cTable(u8.subarray(7, 784), 5));
    memory.fill(address, 0, 64);
    for (let at = 1; at < 63; at++) {
      assert.ok(memory.isZero(address + 1, 62));
      u8[at] = 1;
      assert.equal(memory.isZero(address + 1, 62), false, `byte ${at}`);
      u8[at] = 0;
    }
  });

  it("has foreign memory that is scribbled on and truncated", () => {
    const memory = new SimMemory(262144);
    const own = memory.allocate(8192);
    const guest = memory.foreign(8192);
    for (let round = 0; round < 50; round++) memory.scribble(new Prng(round));
    assert.equal(memory.isZero(guest.address, 8192), false);
    assert.ok(memory.isZero(own.address, 8192));
    memory.truncate(guest, 4096);
    memory.copy(own.address, guest.address, 4096);
    assert.throws(() => memory.copy(own.address, guest.address, 4097), /SIGBUS/);
    assert.equal(memory.copyFaultable(own.address, guest.address, 4096), 0);
    assert.equal(memory.copyFaultable(own.address, guest.address, 4097), -EFAULT);
    assert.equal(memory.copyFaultable(guest.address + 4096, own.address, 1), -EFAULT);
    assert.throws(() => memory.truncate(own, 0), /foreign/);
  });
});
