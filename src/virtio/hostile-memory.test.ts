// A guest that writes anything anywhere, at any time: garbage rings and headers from a seed, and a
// thread that changes descriptors, tables, headers and segments while they are read (row 32).
//
// What must hold: nothing throws, nothing outside guest memory is touched or handed to the device,
// what the device is given lies on the disk, a ring breaks at most once, every slot comes back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { OP_FLUSH, Prng } from "../base/index.ts";
import { HOST_BASE } from "../testing/fakes/guest-memory.ts";
import { SplitDriver, type TestBuffer } from "../testing/fakes/ring-driver.ts";
import { BlkRig, HIGH_REGION_A, HIGH_REGION_B, LOW_REGION, PLACES } from "./_test-rig.ts";

const SIZE = 16;
const SEEDS = 400;
const CAPACITY = 1 << 20;
const REGIONS = [LOW_REGION, HIGH_REGION_A, HIGH_REGION_B];

function randomAddress(prng: Prng): number {
  const region = prng.pick(REGIONS);
  switch (prng.below(8)) {
    case 0:
      return prng.u32() * 2 ** 32 + prng.u32();
    case 1:
      return region.gpa + region.bytes - prng.below(64);
    case 2:
      return Math.max(0, region.gpa - prng.below(64));
    case 3:
    case 4:
      // A header that can be served, or almost.
      return PLACES.headers + prng.below(64) * 16;
    default:
      return region.gpa + prng.below(region.bytes);
  }
}

function randomLength(prng: Prng): number {
  if (prng.chance(0.5)) return 16 << prng.below(8);
  return prng.pick([0, 1, 15, 16, 17, 20, 32, 48, 512, 513, 4096, 65536, 0xffffffff, prng.u32()]);
}

/** Writes a descriptor of plausible garbage at `gpa`; words as split and packed share them. */
function putGarbage(rig: BlkRig, prng: Prng, gpa: number, packed: boolean, state: number): void {
  const at = rig.memory.offsetOf(gpa, 16) / 4;
  const address = randomAddress(prng);
  const flags = prng.pick([0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 0xffff, prng.below(65536)]);
  const other = prng.chance(0.8) ? prng.below(SIZE) : prng.below(65536);
  rig.memory.u32[at] = address >>> 0;
  rig.memory.u32[at + 1] = Math.floor(address / 2 ** 32);
  rig.memory.u32[at + 2] = randomLength(prng);
  rig.memory.u32[at + 3] = packed
    ? other | (((flags & ~0x8080) | state) << 16)
    : flags | (other << 16);
}

function putGarbageHeaders(rig: BlkRig, prng: Prng): void {
  for (const region of REGIONS) {
    const words = rig.memory.offsetOf(region.gpa, region.bytes) / 4;
    for (let count = 0; count < 400; count++) {
      const at = words + prng.below(region.bytes / 4 - 4);
      // Not over the rings: those are put below.
      if (region === LOW_REGION && at - words < 0x30000 / 4) continue;
      rig.memory.u32[at] = prng.pick([0, 1, 4, 8, 11, 13, prng.u32()]);
      rig.memory.u32[at + 2] = prng.chance(0.8) ? prng.below(2100) : prng.u32();
      rig.memory.u32[at + 3] = prng.chance(0.8) ? 0 : prng.u32();
    }
  }
}

/** Headers of all types at PLACES.headers, 16 bytes each. */
function putGoodHeaders(rig: BlkRig, prng: Prng): void {
  for (let index = 0; index < 64; index++) {
    const type = prng.pick([0, 1, 0, 1, 4, 8, 11, 13]);
    rig.header(type, prng.below(2100), PLACES.headers + index * 16);
  }
}

/** A request as a driver would make it, with odd lengths and addresses. */
function offerAlmostGood(rig: BlkRig, prng: Prng): void {
  const header = { gpa: PLACES.headers + prng.below(64) * 16, bytes: 16 };
  const status = { gpa: PLACES.statuses + prng.below(4096), bytes: 1, write: true };
  const chain: TestBuffer[] = [header];
  for (let count = prng.below(3); count > 0; count--) {
    const gpa = prng.chance(0.8) ? PLACES.data + prng.below(0x18000) : randomAddress(prng);
    const bytes = prng.chance(0.8) ? 512 * prng.between(1, 4) : randomLength(prng);
    chain.push({ gpa, bytes, write: prng.chance(0.5) });
  }
  chain.sort((a, b) => Number(a.write === true) - Number(b.write === true));
  rig.driver.add([...chain, status], prng.chance(0.3) ? PLACES.tables : -1);
}

/** Overwrites something the device is about to read. */
function spoil(rig: BlkRig, prng: Prng, packed: boolean): void {
  const state = prng.pick([0x80, 0x8000]);
  const index = prng.below(SIZE);
  switch (prng.below(4)) {
    case 0:
      putGarbage(rig, prng, PLACES.descriptors + index * 16, packed, state);
      break;
    case 1:
      putGarbage(rig, prng, PLACES.tables + prng.below(4) * 16, packed, 0);
      break;
    case 2:
      if (rig.driver instanceof SplitDriver) rig.driver.offer(prng.below(SIZE + 2));
      else putGarbage(rig, prng, PLACES.descriptors + rig.driver.availIndex * 16, true, state);
      break;
    default: {
      const words = rig.memory.offsetOf(PLACES.headers, 4096) / 4;
      rig.memory.u32[words + prng.below(256)] = prng.u32();
    }
  }
}

/** Everything that reached the device lies in guest memory and on the disk. */
function checkSubmitted(rig: BlkRig): void {
  for (const { op, segments, offsetBytes, lengthBytes } of rig.device.submitted) {
    assert.ok(offsetBytes >= 0 && offsetBytes + lengthBytes <= CAPACITY);
    assert.equal(offsetBytes % 512, 0);
    assert.equal(lengthBytes % 512, 0);
    if (op === OP_FLUSH) continue;
    for (const [address, bytes] of segments) {
      assert.ok(bytes > 0);
      const inside = REGIONS.some((region) => {
        const host = rig.memory.offsetOf(region.gpa, 1) + HOST_BASE;
        return address >= host && address + bytes <= host + region.bytes;
      });
      assert.ok(inside, "a segment outside guest memory");
    }
  }
  rig.device.submitted.length = 0;
}

test("garbage of every kind", () => {
  const first = Number(process.env["RINGSTORE_SEED"] ?? 1);
  let submitted = 0;
  let broken = 0;
  for (let seed = first; seed < first + SEEDS; seed++) {
    const prng = new Prng(seed);
    const packed = prng.chance(0.5);
    const info = { capacityBytes: CAPACITY };
    const rig = new BlkRig({ packed, shadow: prng.chance(0.3), size: SIZE, info });
    try {
      putGarbageHeaders(rig, prng);
      putGoodHeaders(rig, prng);
      while (rig.driver.freeCount >= 4 && prng.chance(0.9)) {
        offerAlmostGood(rig, prng);
        for (let count = prng.below(3); count > 0; count--) spoil(rig, prng, packed);
        rig.device.held = prng.chance(0.5);
        rig.run();
        submitted += rig.device.submitted.length;
        checkSubmitted(rig);
        if (!rig.device.held) rig.device.release();
      }
      rig.device.release();
      rig.run();
      assert.ok(rig.brokenReasons.length <= 1);
      assert.equal(rig.queue.inflightCount, 0);
      assert.equal(rig.reactor.requests.freeSlots, rig.reactor.requests.capacity);
      rig.memory.checkPoison();
      broken += rig.brokenReasons.length;
    } catch (error) {
      throw new Error(`RINGSTORE_SEED=${seed} repeats this`, { cause: error });
    }
  }
  // The garbage is only worth something while some of it gets through.
  assert.ok(submitted > 100, `only ${submitted} requests reached the device`);
  assert.ok(broken > SEEDS / 4, `only ${broken} rings broke`);
});

/** Runs in a thread: flips words of descriptors, table, header and segment between two values. */
const FLIPPER = `
  const { workerData } = require("node:worker_threads");
  const words = new Uint32Array(workerData.buffer);
  const stop = new Int32Array(workerData.stop);
  const flips = workerData.flips;
  let random = 1;
  while (Atomics.load(stop, 0) === 0) {
    for (const [index, values] of flips) {
      random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
      // The good value, which comes first, every other time.
      words[index] = random >>> 31 === 0 ? values[0] : values[(random >>> 16) % values.length];
    }
    Atomics.store(stop, 1, 1);
  }
`;

for (const indirect of [false, true]) {
  test(`row 32: a racing thread, ${indirect ? "indirect table" : "direct chain"}`, async () => {
    const info = { capacityBytes: CAPACITY };
    const rig = new BlkRig({ size: SIZE, info });
    const driver = rig.driver as SplitDriver;
    const header = rig.header(1, 0);
    const status = rig.status();
    const data = { gpa: PLACES.data, bytes: 512 };
    const buffers = [header, data, status];
    const head = driver.add(buffers, indirect ? PLACES.tables : -1);
    const at = (gpa: number): number => rig.memory.offsetOf(gpa, 4) / 4;
    // Where the data descriptor lies: second of the table, or wherever the driver put it.
    const next = rig.memory.u32[at(PLACES.descriptors + head * 16) + 3] as number;
    const dataAt = at(indirect ? PLACES.tables + 16 : PLACES.descriptors + (next >>> 16) * 16);
    const tail = rig.memory.u32[dataAt + 3] as number;
    const headerAt = at(header.gpa);
    const flips: [number, number[]][] = [
      [dataAt, [rig.memory.u32[dataAt] as number, 0xfffff000, 0]],
      [dataAt + 1, [1, 0, 0xffffffff]],
      [dataAt + 2, [512, 1024, 0xfffffe00, 0, 7]],
      [dataAt + 3, [tail, tail | 2, tail | 4, tail & ~1, (tail & 0xffff) | (200 << 16)]],
      [headerAt, [1, 0, 11, 13, 99]],
      [headerAt + 2, [0, 2047, 2048, 0xffffffff]],
      [headerAt + 3, [0, 0, 0, 0xffffffff]],
    ];
    const stop = new Int32Array(new SharedArrayBuffer(8));
    const worker = new Worker(FLIPPER, {
      eval: true,
      workerData: { buffer: rig.memory.buffer, stop: stop.buffer, flips },
    });
    const exited = new Promise((resolve) => worker.once("exit", resolve));
    let rounds = 0;
    let submitted = 0;
    let restarts = 0;
    try {
      while (Atomics.load(stop, 1) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      const started = process.hrtime.bigint();
      const elapsedMs = (): number => Number(process.hrtime.bigint() - started) / 1e6;
      // On a busy machine the other thread may not run for long: go on until both outcomes were
      // seen.
      while (elapsedMs() < 400 || ((submitted === 0 || restarts === 0) && elapsedMs() < 20_000)) {
        rounds += 1;
        if (rounds % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
        rig.run();
        submitted += rig.device.submitted.length;
        checkSubmitted(rig);
        assert.equal(rig.queue.inflightCount, 0);
        if (rig.queue.brokenReason !== 0) {
          rig.queue.stop();
          restarts += 1;
          driver.startAt(0);
          assert.equal(rig.start({ base: 0 }), 0);
        }
        driver.offer(head);
      }
    } finally {
      Atomics.store(stop, 0, 1);
      await exited;
    }
    rig.memory.checkPoison();
    assert.equal(rig.reactor.requests.freeSlots, rig.reactor.requests.capacity);
    assert.ok(rounds > 100 && submitted > 0 && restarts > 0, `${rounds} ${submitted} ${restarts}`);
  });
}
