// Property: whatever way requests are laid out over descriptors, tables, regions and rings, and in
// whatever order the device finishes them, each byte arrives where it belongs, each request is
// answered exactly once, and nothing outside guest memory is touched.
//
// Runs from seeds; a failure names the one that repeats it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../base/index.ts";
import type { TestBuffer } from "../testing/fakes/ring-driver.ts";
import { BlkRig, HIGH_REGION_A, HIGH_REGION_B, LOW_REGION, PLACES } from "./_test-rig.ts";
import { BLK_S_OK, BLK_T_IN, BLK_T_OUT } from "./layouts.ts";

const SEEDS = 60;
const STEPS = 120;
const DISK_SECTORS = 2048;
const SECTORS_MAX = 24;
const HIGH_BYTES = HIGH_REGION_A.bytes + HIGH_REGION_B.bytes;
/** Data places of 12 KiB: one of them lies over the seam of the regions. */
const PLACE_BYTES = SECTORS_MAX * 512;
const PLACE_COUNT = Math.floor(HIGH_BYTES / PLACE_BYTES);

interface Pending {
  readonly id: number;
  readonly place: number;
  readonly sector: number;
  readonly bytes: number;
  readonly isWrite: boolean;
  readonly statusGpa: number;
  readonly data: Uint8Array;
}

class Run {
  readonly prng: Prng;
  readonly rig: BlkRig;
  readonly model: Uint8Array = new Uint8Array(DISK_SECTORS * 512);
  readonly pending: Map<number, Pending> = new Map();
  readonly freePlaces: number[] = [];
  readonly busySectors: Set<number> = new Set();
  private tableCount = 0;
  private smallCount = 0;

  constructor(seed: number) {
    this.prng = new Prng(seed);
    const packed = this.prng.chance(0.5);
    this.rig = new BlkRig({
      packed,
      shadow: this.prng.chance(0.5),
      // A packed ring may have any size.
      size: packed ? this.prng.between(40, 80) : 64,
      slots: 16,
      info: { capacityBytes: DISK_SECTORS * 512 },
    });
    for (let place = 0; place < PLACE_COUNT; place++) this.freePlaces.push(place);
  }

  /** One byte address for something small, never the same among the last few hundred. */
  small(base: number, bytes: number): number {
    this.smallCount = (this.smallCount + 1) % 512;
    return base + this.smallCount * 96 + this.prng.below(96 - bytes);
  }

  /** Cuts [gpa, gpa + bytes) at random points, with descriptors of no length here and there. */
  cut(gpa: number, bytes: number, write: boolean, piecesMax: number): TestBuffer[] {
    const pieces: TestBuffer[] = [];
    let at = 0;
    while (at < bytes) {
      const last = pieces.length === piecesMax - 1;
      const piece = last || this.prng.chance(0.4) ? bytes - at : this.prng.between(1, bytes - at);
      pieces.push({ gpa: gpa + at, bytes: piece, write });
      at += piece;
      if (this.prng.chance(0.05)) pieces.push({ gpa: 0x7777_0000, bytes: 0, write });
    }
    return pieces;
  }

  /** A run of sectors that no request in flight touches, or -1. */
  findSectors(count: number): number {
    const sector = this.prng.below(DISK_SECTORS - count + 1);
    for (let at = sector; at < sector + count; at++) if (this.busySectors.has(at)) return -1;
    return sector;
  }

  offer(): void {
    const { prng, rig } = this;
    const count = prng.between(1, SECTORS_MAX);
    const sector = this.findSectors(count);
    if (sector < 0 || this.freePlaces.length === 0) return;
    const isWrite = prng.chance(0.5);
    const bytes = count * 512;
    const place = prng.pick(this.freePlaces);
    const gpa = PLACES.data + place * PLACE_BYTES;
    const data = Uint8Array.from({ length: bytes }, () => prng.below(256));
    this.setGuest(gpa, isWrite ? data : new Uint8Array(bytes));
    const header = rig.header(
      isWrite ? BLK_T_OUT : BLK_T_IN,
      sector,
      this.small(PLACES.headers, 16),
    );
    let statusGpa = this.small(PLACES.statuses, 1);
    const chain = [
      ...this.cut(header.gpa, 16, false, 4),
      ...this.cut(gpa, bytes, !isWrite, 12),
      { gpa: statusGpa, bytes: 1, write: true },
    ];
    // The status may be the byte behind the data in the data's own last descriptor.
    const behind = chain[chain.length - 2] as TestBuffer;
    const end = gpa + bytes;
    if (!isWrite && behind.gpa + behind.bytes === end && count < SECTORS_MAX && prng.chance(0.3)) {
      statusGpa = end;
      chain.splice(-2, 2, { gpa: behind.gpa, bytes: behind.bytes + 1, write: true });
    }
    rig.memory.writeU8(statusGpa, 0xff);
    const indirect = prng.chance(0.4);
    if (rig.driver.freeCount < (indirect ? 1 : chain.length)) return;
    this.tableCount = (this.tableCount + 1) % 80;
    const table = PLACES.tables + this.tableCount * 512;
    const id = rig.driver.add(chain, indirect ? table : -1);
    this.freePlaces.splice(this.freePlaces.indexOf(place), 1);
    for (let at = sector; at < sector + count; at++) this.busySectors.add(at);
    this.pending.set(id, { id, place, sector, bytes, isWrite, statusGpa, data });
  }

  setGuest(gpa: number, bytes: Uint8Array): void {
    assert.ok(this.rig.memory.write(gpa, bytes, 0, bytes.length));
  }

  getGuest(gpa: number, count: number): Uint8Array {
    const bytes = new Uint8Array(count);
    assert.ok(this.rig.memory.read(gpa, bytes, 0, count));
    return bytes;
  }

  collect(): void {
    for (const { id, bytes } of this.rig.driver.takeUsed()) {
      const request = this.pending.get(id);
      assert.ok(request !== undefined, "answered something that was not asked");
      this.pending.delete(id);
      assert.equal(this.rig.peek(request.statusGpa), BLK_S_OK);
      assert.equal(bytes, request.isWrite ? 1 : request.bytes + 1);
      const from = request.sector * 512;
      const gpa = PLACES.data + request.place * PLACE_BYTES;
      if (request.isWrite) this.model.set(request.data, from);
      const expected = this.model.subarray(from, from + request.bytes);
      assert.deepEqual(this.getGuest(gpa, request.bytes), expected.slice());
      this.freePlaces.push(request.place);
      for (let at = 0; at < request.bytes / 512; at++) this.busySectors.delete(request.sector + at);
    }
  }

  step(): void {
    const { prng, rig } = this;
    const choice = prng.below(10);
    if (choice < 5) this.offer();
    else if (choice < 6) rig.queue.poll();
    else if (choice < 7) rig.run();
    else if (choice < 8 && rig.device.inflightCount > 0) {
      rig.device.release(prng.pick(["oldest", "newest", "all"]));
    } else if (choice < 9) rig.device.held = prng.chance(0.7);
    else this.collect();
  }

  finish(): void {
    this.rig.device.held = false;
    for (let turn = 0; turn < 50; turn++) {
      if (this.rig.device.inflightCount > 0) this.rig.device.release();
      this.rig.run();
      this.collect();
    }
    assert.equal(this.pending.size, 0, "every request is answered");
    assert.deepEqual(this.rig.brokenReasons, []);
    assert.equal(this.rig.queue.inflightCount, 0);
    assert.equal(this.rig.reactor.requests.freeSlots, 16);
    assert.deepEqual(this.rig.device.disk.subarray(0, this.model.length), this.model);
    this.rig.memory.checkPoison();
  }
}

test("places and regions fit together", () => {
  assert.ok(PLACE_COUNT >= 8);
  assert.ok(PLACES.tables + 80 * 512 <= LOW_REGION.gpa + LOW_REGION.bytes);
});

test("random requests over random rings", () => {
  const first = Number(process.env["RINGSTORE_SEED"] ?? 1);
  let answered = 0;
  for (let seed = first; seed < first + SEEDS; seed++) {
    const run = new Run(seed);
    try {
      for (let step = 0; step < STEPS; step++) run.step();
      run.finish();
    } catch (error) {
      throw new Error(`RINGSTORE_SEED=${seed} repeats this`, { cause: error });
    }
    answered += run.rig.device.submitted.length;
  }
  assert.ok(answered > SEEDS * 20, `only ${answered} requests reached the device`);
});
