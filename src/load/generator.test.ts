// The generator's loop against devices in the same thread: right ones, and ones with a planted
// fault each, which verification or the canary must find.

import assert from "node:assert/strict";
import { test } from "node:test";
import { BLK_S_IOERR, BLK_T_IN, BLK_T_OUT } from "../virtio/index.ts";
import { LoadError } from "./errors.ts";
import { describeInflight, END_DONE, END_LOST, END_STALLED, END_TIME } from "./generator-parts.ts";
import type { Histogram } from "./histogram.ts";
import { type LoadOptions, resolveOptions } from "./options.ts";
import { LoadRig } from "./rig.ts";
import { SteppingClock } from "./self-check.ts";
import { TrivialDevice } from "./trivial-device.ts";
import { KIND_DISCARD, KIND_FLUSH, MODE_FILL, MODE_MIX, MODE_READ_BACK } from "./workload.ts";

const AREA = 512 * 1024;
const FOREVER = Number.POSITIVE_INFINITY;

type DeviceClass = typeof TrivialDevice;

class TestRig {
  readonly rig: LoadRig;
  readonly clock = new SteppingClock();

  constructor(options: Partial<LoadOptions>, Device: DeviceClass = TrivialDevice) {
    const resolved = resolveOptions({ socketPath: "", depth: 8, verify: true, ...options });
    this.rig = new LoadRig(resolved, AREA, true, { clock: this.clock });
    const region = this.rig.memory.regions[0] as (typeof this.rig.memory.regions)[0];
    const store = new Uint8Array(AREA);
    for (const { ring } of this.rig.rings()) {
      const device = new Device(region.host, region.guestAddress, {
        packed: resolved.packed,
        size: ring.size,
        eventIndex: ring.eventIndex,
        descriptorGpa: ring.descriptorGpa,
        availableGpa: ring.availableGpa,
        usedGpa: ring.usedGpa,
      });
      device.store = store;
      this.clock.devices.push(device);
    }
  }

  phase(mode: number, requestCount = FOREVER): void {
    const { generator, workload } = this.rig;
    workload.setMode(mode);
    generator.requestsLeft = requestCount;
    generator.restart();
    assert.equal(generator.run(FOREVER), END_DONE);
    assert.equal(generator.inflightCount, 0);
  }

  /** Fill, mix, read back. */
  runAll(requestCount: number): void {
    this.phase(MODE_FILL);
    this.phase(MODE_MIX, requestCount);
    this.phase(MODE_READ_BACK);
    this.rig.canary?.checkAll();
  }

  get failureCount(): number {
    return (this.rig.verifier as NonNullable<typeof this.rig.verifier>).failureCount;
  }
}

const MIX = { readPercent: 50, discardPercent: 2, writeZeroesPercent: 2, flushEvery: 20 };
const RIGHT: readonly Partial<LoadOptions>[] = [
  {},
  { packed: true },
  { indirect: false },
  { packed: true, indirect: false },
  { eventIndex: false, queueCount: 3 },
  { blockBytes: 512, blockBytesMax: 16384, alignBytes: 512, segmentBytes: 4096, queueCount: 2 },
  { headerStrideBytes: 99, blockBytes: 512, blockBytesMax: 4096 },
  { depth: 1 },
  // More slots than places: most must wait for a place that is free.
  { depth: 64, blockBytes: 32768 },
  { canary: true, queueCount: 2 },
  { polling: true },
];

for (const options of RIGHT) {
  test(`a right device passes: ${JSON.stringify(options)}`, () => {
    const one = new TestRig({ ...MIX, ...options });
    one.runAll(3000);
    const { generator, verifier } = one.rig;
    assert.equal(one.failureCount, 0, verifier?.failures.join("\n"));
    assert.equal(generator.errorCount, 0);
    assert.ok((verifier?.checkedCount ?? 0) > 500);
    let counted = 0;
    for (const count of generator.countByKind) counted += count;
    for (const histogram of generator.histograms) counted -= histogram.count;
    assert.equal(counted, 0);
    assert.ok((generator.countByKind[KIND_FLUSH] as number) > 10);
    assert.ok((generator.countByKind[KIND_DISCARD] as number) > 10);
    one.rig.close();
  });
}

test("the number of requests asked for is done, no more and no less", () => {
  const one = new TestRig({ verify: false });
  one.phase(MODE_MIX, 1234);
  assert.equal(one.rig.generator.countByKind[0], 1234);
  one.rig.close();
});

abstract class Faulty extends TrivialDevice {
  protected writes = 0;
  protected reads = 0;

  protected override serve(type: number, offset: number, dataAt: number, bytes: number): number {
    if (type === BLK_T_OUT) {
      this.writes += 1;
      return this.serveWrite(offset, dataAt, bytes);
    }
    if (type === BLK_T_IN) {
      this.reads += 1;
      return this.serveRead(offset, dataAt, bytes);
    }
    return super.serve(type, offset, dataAt, bytes);
  }

  protected serveWrite(offset: number, dataAt: number, bytes: number): number {
    return super.serve(BLK_T_OUT, offset, dataAt, bytes);
  }

  protected serveRead(offset: number, dataAt: number, bytes: number): number {
    return super.serve(BLK_T_IN, offset, dataAt, bytes);
  }
}

/**
 * The writes that a fault hits: after the fill, and several of them, because the next request to
 * the same place may be a write that covers the fault.
 */
function isVictim(writes: number): boolean {
  return writes > 150 && writes % 25 === 0;
}

class LosesWrite extends Faulty {
  protected override serveWrite(offset: number, dataAt: number, bytes: number): number {
    return isVictim(this.writes) ? 0 : super.serveWrite(offset, dataAt, bytes);
  }
}

class MisdirectsWrite extends Faulty {
  protected override serveWrite(offset: number, dataAt: number, bytes: number): number {
    const to = isVictim(this.writes) ? (offset + 40960) % AREA : offset;
    return super.serveWrite(to, dataAt, bytes);
  }
}

class TearsWrite extends Faulty {
  protected override serveWrite(offset: number, dataAt: number, bytes: number): number {
    return super.serveWrite(offset, dataAt, isVictim(this.writes) ? bytes / 2 : bytes);
  }
}

class RepeatsWriteLate extends Faulty {
  private late = -1;
  private copy = new Uint8Array(0);

  protected override serveWrite(offset: number, dataAt: number, bytes: number): number {
    if (isVictim(this.writes)) {
      this.late = offset;
      this.copy = this.host.u8.slice(dataAt, dataAt + bytes);
    }
    // As I/O of a killed process: it lands when a later write to the same place has completed.
    const landsNow = this.late === offset && !isVictim(this.writes);
    const status = super.serveWrite(offset, dataAt, bytes);
    if (landsNow) this.store?.set(this.copy, offset);
    return status;
  }
}

class ReadsNothing extends Faulty {
  protected override serveRead(offset: number, dataAt: number, bytes: number): number {
    return this.reads === 100 ? 0 : super.serveRead(offset, dataAt, bytes);
  }
}

class ReadsHalf extends Faulty {
  protected override serveRead(offset: number, dataAt: number, bytes: number): number {
    return super.serveRead(offset, dataAt, this.reads === 100 ? bytes / 2 : bytes);
  }
}

const FAULTS: readonly DeviceClass[] = [
  LosesWrite,
  MisdirectsWrite,
  TearsWrite,
  RepeatsWriteLate,
  ReadsNothing,
  ReadsHalf,
];

for (const Device of FAULTS) {
  test(`verification finds a device that ${Device.name}`, () => {
    const one = new TestRig({ readPercent: 50, areaBytes: AREA }, Device);
    // One sweep writes 128 blocks; the rest rewrites each of them many times.
    one.phase(MODE_FILL);
    one.phase(MODE_MIX, 1000);
    one.phase(MODE_READ_BACK);
    assert.ok(one.failureCount >= 1, "the fault was not found");
    assert.ok((one.rig.verifier?.failures.length ?? 0) >= 1);
    one.rig.close();
  });
}

class NeverReads extends Faulty {
  protected override serveRead(): number {
    return 0;
  }
}

test("a read that moves nothing is found, although its buffer held what was to be read", () => {
  // One slot and one place: the buffer that a read gets is the one the place was written from.
  const one = new TestRig({ readPercent: 50, depth: 1, blockBytes: AREA }, NeverReads);
  one.phase(MODE_FILL);
  one.phase(MODE_MIX, 20);
  assert.ok(one.failureCount > 0);
  one.rig.close();
});

/** Writes into a buffer of a read that it completed some requests ago. */
class WritesLate extends Faulty {
  private readonly buffers: number[] = [];

  protected override serveRead(offset: number, dataAt: number, bytes: number): number {
    this.buffers.push(dataAt);
    if (this.reads === 300) {
      const old = this.buffers.at(-4) as number;
      this.host.u8[old + 100] = (this.host.u8[old + 100] as number) ^ 1;
    }
    return super.serveRead(offset, dataAt, bytes);
  }
}

test("the canary finds one late byte in a read buffer", () => {
  const one = new TestRig({ verify: false, canary: true, depth: 2 }, WritesLate);
  one.phase(MODE_MIX, 1000);
  one.rig.canary?.checkAll();
  assert.equal(one.rig.canary?.lateWriteCount, 1, one.rig.canary?.failures.join());
  one.rig.close();
});

/** Starts requests, lets the back-end vanish with all of them in flight, and comes back. */
function loseAndReturn(one: TestRig): void {
  const { generator, workload } = one.rig;
  one.phase(MODE_FILL);
  workload.setMode(MODE_MIX);
  generator.restart();
  const devices = one.clock.devices.splice(0);
  assert.equal(generator.run(0), END_TIME);
  assert.equal(generator.inflightCount, 8);
  generator.peer = { fd: -1, hungUp: () => true };
  let waits = 0;
  while (generator.run(one.clock.nowUs() + 1000) !== END_LOST) {
    waits += 1;
    assert.ok(waits < 1000, "the loss is not seen");
  }
  generator.peer = null;
  generator.markSuspects();
  one.clock.devices.push(...devices);
  generator.requestsLeft = 8;
}

test("after a loss, read buffers that were in flight are held apart, and checked", () => {
  const one = new TestRig({ reconnect: true, readPercent: 100 });
  const { generator, canary, verifier } = one.rig;
  assert.ok(canary !== null);
  loseAndReturn(one);
  assert.equal(generator.run(FOREVER), END_DONE);
  assert.equal(canary.heldCount, 8);
  assert.ok(canary.heldUntil() > one.clock.nowUs());
  // A late write into one of them: found although the buffer was not used again.
  const region = one.rig.memory.regions[0] as (typeof one.rig.memory.regions)[0];
  const held = canary.heldAddress(3) - region.guestAddress;
  assert.equal(region.host.u8[held], 0xc5);
  region.host.u8[held] = 0;
  canary.checkAll();
  assert.equal(canary.lateWriteCount, 1);
  assert.equal(verifier?.failureCount, 0);
  // When their time is over they are checked and given back.
  canary.releaseDue(canary.heldUntil());
  assert.equal(canary.heldCount, 0);
  one.rig.close();
});

class RecordsWrites extends Faulty {
  readonly offsets: number[] = [];

  protected override serveWrite(offset: number, dataAt: number, bytes: number): number {
    this.offsets.push(offset);
    return super.serveWrite(offset, dataAt, bytes);
  }
}

test("after a loss, what was being written is written once more", () => {
  const one = new TestRig({ reconnect: true, readPercent: 0 }, RecordsWrites);
  const device = one.clock.devices[0] as RecordsWrites;
  loseAndReturn(one);
  device.offsets.length = 0;
  assert.equal(one.rig.generator.run(FOREVER), END_DONE);
  assert.equal(device.offsets.length, 16);
  assert.deepEqual(device.offsets.slice(8).sort(), device.offsets.slice(0, 8).sort());
  assert.equal(one.failureCount, 0);
  one.rig.close();
});

class Fails extends Faulty {
  protected override serveWrite(offset: number, dataAt: number, bytes: number): number {
    if (this.writes % 50 === 0) {
      // Half of it arrives all the same.
      if (this.writes % 100 === 0) super.serveWrite(offset, dataAt, bytes);
      return BLK_S_IOERR;
    }
    return super.serveWrite(offset, dataAt, bytes);
  }
}

test("failed writes are errors, leave old or new data, and fail no verification", () => {
  const one = new TestRig({ readPercent: 50 }, Fails);
  one.runAll(4000);
  assert.ok(one.rig.generator.errorCount > 10);
  assert.match(one.rig.generator.failures[0] ?? "", /^write of 4096 bytes at \d+: status 1$/);
  assert.equal(one.failureCount, 0, one.rig.verifier?.failures.join("\n"));
  one.rig.close();
});

test("a device that stops answering is reported as stalled, with what is in flight", () => {
  const one = new TestRig({ verify: false, stallTimeoutMs: 30, depth: 4 });
  one.clock.devices.splice(0);
  one.rig.generator.restart();
  assert.equal(one.rig.generator.run(FOREVER), END_STALLED);
  assert.match(describeInflight(one.rig.queues), /^queue 0: 4 \(slots 0, 1, 2, 3 \.\.\.\)$/);
  one.rig.close();
});

test("latencies are those of the device", () => {
  // A clock of the test's own: every look at it is 1 us later, and the device takes 50 looks.
  const one = new TestRig({ verify: false, depth: 1, polling: true });
  const [device] = one.clock.devices.splice(0);
  let nowUs = 1000;
  let looks = 0;
  one.clock.storeNowUs = (cell): void => {
    nowUs += 1;
    looks += 1;
    if (looks % 50 === 0) (device as TrivialDevice).step();
    cell[0] = nowUs;
  };
  one.phase(MODE_MIX, 100);
  const report = (one.rig.generator.histograms[0] as Histogram).report();
  assert.equal(report.count, 100);
  assert.ok(report.minUs >= 40 && report.maxUs <= 60, JSON.stringify(report));
  one.rig.close();
});

test("a run that cannot fit into guest memory says so", () => {
  assert.throws(
    () => new TestRig({ verify: false, depth: 1024, blockBytes: 4 * 1024 * 1024 }),
    (error) => error instanceof LoadError && /guest memory/.test(error.message),
  );
});
