// The inflight region as its other owner may hand it to us: of any size, of any kind of file, and
// with anything in it, before we look and while we use it.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { PAGE_BYTES, Prng } from "../base/index.ts";
import * as sys from "../sys/index.ts";
import { CrashRig } from "./_crash-rig.ts";
import { type InflightGeometry, InflightRegion, queueRegionBytes } from "./inflight.ts";

describe("layout", () => {
  test("a queue's part is its header and entries, in whole cache lines", () => {
    assert.equal(queueRegionBytes(false, 128), 2112);
    assert.equal(queueRegionBytes(true, 128), 4160);
    assert.equal(queueRegionBytes(false, 1), 64);
  });

  test("a new region is zeroed, holds its queues, and cannot change its size", () => {
    const region = create(4, 256, false);
    const { geometry, fd } = region;
    assert.ok(geometry.mmapBytes >= 4 * queueRegionBytes(false, 256));
    assert.deepEqual({ ...geometry, mmapBytes: 0 }, geometryOf(0, 0, 4, 256));
    assert.ok(sys.ftruncate(fd, PAGE_BYTES) < 0);
    assert.ok(sys.ftruncate(fd, geometry.mmapBytes * 2) < 0);
    assert.ok(sys.addSeals(fd, sys.F_SEAL_WRITE) < 0);
    for (let queue = 0; queue < 4; queue++) {
      const { u8 } = region.window(queue);
      assert.equal(u8.length, queueRegionBytes(false, 256));
      assert.ok(u8.every((byte) => byte === 0));
      u8.fill(queue + 1);
    }
    for (let queue = 0; queue < 4; queue++) {
      assert.ok(region.window(queue).u8.every((byte) => byte === queue + 1));
    }
    region.unmap();
    assert.ok(sys.fstat(fd) === -9, "the descriptor is closed with the region");
  });
});

function create(queueCount: number, queueSize: number, packed: boolean): InflightRegion {
  const region = InflightRegion.create(queueCount, queueSize, packed);
  assert.ok(typeof region !== "string");
  return region;
}

function geometryOf(
  mmapBytes: number,
  mmapOffset: number,
  queueCount: number,
  queueSize: number,
): InflightGeometry {
  return { mmapBytes, mmapOffset, queueCount, queueSize };
}

describe("a region handed back", () => {
  test("is found as it was left, the guest's settings too", () => {
    const first = create(2, 64, false);
    first.window(1).u8.fill(0);
    first.window(1).u16[5] = 64;
    first.saveGuestState(7);
    const adopted = InflightRegion.adopt(first.geometry, false, first.fd, false);
    assert.ok(typeof adopted !== "string");
    assert.equal(adopted.window(1).u16[5], 64);
    assert.equal(adopted.savedGuestState(), 7);
    adopted.unmap();
    assert.ok(first.window(0).u8.length > 0, "our descriptor was not taken");
    first.unmap();
  });

  test("of another back-end has no record, and none is made behind its end", () => {
    const bytes = queueRegionBytes(false, 64);
    const fd = sys.check(sys.memfd("foreign", bytes), "memfd");
    const adopted = InflightRegion.adopt(geometryOf(bytes, 0, 1, 64), false, fd, false);
    assert.ok(typeof adopted !== "string");
    assert.equal(adopted.savedGuestState(), null);
    adopted.saveGuestState(1);
    assert.equal(adopted.savedGuestState(), null);
    adopted.unmap();
    sys.close(fd);
  });

  test("is refused when its numbers, its file or its headers cannot be", () => {
    const queueBytes = queueRegionBytes(false, 64);
    const fd = sys.check(sys.memfd("hostile", 65536), "memfd");
    const adopt = (geometry: InflightGeometry, file = fd): string => {
      const region = InflightRegion.adopt(geometry, false, file, false);
      assert.ok(typeof region === "string", "taken all the same");
      return region;
    };
    assert.match(adopt(geometryOf(queueBytes - 1, 0, 1, 64)), /need/);
    assert.match(adopt(geometryOf(0, 0, 1, 64)), /need/);
    assert.match(adopt(geometryOf(queueBytes, 1, 1, 64)), /not page-aligned/);
    assert.match(adopt(geometryOf(queueBytes, 65536, 1, 64)), /65536 bytes for/);
    assert.match(adopt(geometryOf(queueBytes, 2 ** 52, 1, 64)), /bytes for/);
    assert.match(adopt(geometryOf(queueBytes, Infinity, 1, 64)), /not page-aligned/);
    assert.match(adopt(geometryOf(2 ** 40, 0, 256, 4096)), /bytes for/);
    const [read, write] = sys.pipe();
    assert.match(adopt(geometryOf(queueBytes, 0, 1, 64), read), /no memory file/);
    const unsealable = sys.check(sys.memfd("open", 65536), "memfd");
    sys.check(sys.addSeals(unsealable, sys.F_SEAL_SEAL), "seal");
    assert.match(adopt(geometryOf(queueBytes, 0, 1, 64), unsealable), /truncated/);
    for (const one of [read, write, unsealable]) sys.close(one);
    const view = new DataView(new ArrayBuffer(16));
    view.setUint16(8, 2, true);
    put(fd, new Uint8Array(view.buffer));
    assert.match(adopt(geometryOf(queueBytes, 0, 1, 64)), /version 2/);
    view.setUint16(8, 1, true);
    view.setUint32(4, 1, true);
    put(fd, new Uint8Array(view.buffer));
    assert.match(
      adopt(geometryOf(queueBytes, 0, 1, 64)),
      /feature 32, which this version does not/,
    );
    assert.deepEqual(take(fd, 16), new Uint8Array(view.buffer), "nothing was changed");
    view.setUint32(4, 0, true);
    view.setUint16(10, 65, true);
    put(fd, new Uint8Array(view.buffer));
    assert.match(adopt(geometryOf(queueBytes, 0, 1, 64)), /of 65 descriptors/);
    sys.close(fd);
  });
});

function take(fd: number, bytes: number): Uint8Array {
  const memory = new sys.SystemMemory();
  const arena = memory.allocate(PAGE_BYTES);
  sys.check(sys.pread(fd, arena.address, bytes, 0), "pread");
  const found = arena.u8.slice(0, bytes);
  memory.free(arena);
  return found;
}

function put(fd: number, bytes: Uint8Array): void {
  const memory = new sys.SystemMemory();
  const arena = memory.allocate(PAGE_BYTES);
  arena.u8.set(bytes);
  sys.check(sys.pwrite(fd, arena.address, bytes.length, 0), "pwrite");
  memory.free(arena);
}

describe("anything in it", () => {
  const kinds = [
    { packed: false, ringSize: 16, regionSize: 16 },
    { packed: true, ringSize: 8, regionSize: 12 },
  ];

  /** Errors of ours are allowed, assertions are not. */
  function carryOn(rig: CrashRig, steps: number): void {
    for (let step = 0; step < steps; step++) {
      try {
        rig.step();
      } catch (error) {
        assert.match(String(error), /the ring is broken|another's buffer|no buffer/);
        return;
      }
    }
  }

  for (const kind of kinds) {
    const name = kind.packed ? "packed" : "split";

    test(`${name}: a region with random bytes is refused or used, and never harms us`, () => {
      let refused = 0;
      let used = 0;
      for (let seed = 1; seed <= 400; seed++) {
        const rig = new CrashRig({ ...kind, seed });
        assert.equal(rig.start(), null);
        for (let step = 0; step < 40; step++) rig.step();
        rig.scribble(1 + (seed % 12));
        const next = rig.successor(rig.memory(), seed);
        const problem = next.start();
        if (problem === null) used += 1;
        else refused += 1;
        if (problem !== null) continue;
        assert.equal(new Set(next.recovered).size, next.recovered?.length ?? 0);
        carryOn(next, 60);
      }
      assert.ok(refused > 20, `${refused} refused`);
      assert.ok(used > 20, `${used} used`);
    });

    test(`${name}: a region that changes while it is used changes nothing for us`, () => {
      for (let seed = 1; seed <= 60; seed++) {
        const rig = new CrashRig({ ...kind, seed });
        assert.equal(rig.start(), null);
        // The same life twice: once left alone, once written to after every step.
        const twin = new CrashRig({ ...kind, seed });
        twin.start();
        const prng = new Prng(seed);
        for (let step = 0; step < 100; step++) {
          rig.step();
          twin.step();
          twin.scribble(4, prng);
          assert.deepEqual(twin.inFlight, rig.inFlight);
          assert.deepEqual(twin.driver.offered, rig.driver.offered);
        }
      }
    });
  }
});
