// The pace of resyncs, over a model of a disk that clients and resyncs share: one server, first come
// first served; clients come at random, resyncs keep four slabs under way as far as the pace lets
// them. Time is the test's.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Prng } from "../base/index.ts";
import type { ReactorPort, TimerHandler } from "../ports/index.ts";
import { type ClientSight, type ClientWindow, RATE_FIRST, RATE_MIN } from "./latency-governor.ts";
import { ResyncPace } from "./resync-pace.ts";

const SLAB_BYTES = 65536;
const MIB = 1048576;
const LANES = 4;
/** 200 MiB/s when nobody else is there. */
const SLAB_US = 312;

function percentile(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length * 0.99)] ?? 0;
}

class SharedDisk implements ClientSight {
  readonly pace: ResyncPace;
  nowUs = 0;
  /** Clients' requests per second; each takes 100 us at the least, and twice that on average. */
  clientsPerSecond = 0;
  latencies: number[] = [];
  movedBytes = 0;
  isResyncing = true;
  private window: number[] = [];
  private readonly prng: Prng;
  private readonly timers: { atUs: number; handler: TimerHandler }[] = [];
  private freeUs = 0;
  private nextClientUs = 0;
  private readonly lanesFreeUs: number[] = new Array<number>(LANES).fill(0);

  constructor(seed: number) {
    this.prng = new Prng(seed);
    const setTimer = (delayMs: number, handler: TimerHandler): number =>
      this.timers.push({ atUs: this.nowUs + delayMs * 1000, handler });
    const reactor = { clock: { nowUs: () => this.nowUs }, setTimer };
    this.pace = new ResyncPace(reactor as unknown as ReactorPort, this);
  }

  mark(): void {
    this.window = [];
  }

  read(): ClientWindow {
    return { count: this.window.length, p99Us: percentile(this.window) };
  }

  run(seconds: number): void {
    const endUs = this.nowUs + seconds * 1e6;
    for (; this.nowUs < endUs; this.nowUs += 50) {
      for (const timer of this.timers.splice(0)) {
        if (timer.atUs <= this.nowUs) timer.handler.timerFired(0);
        else this.timers.push(timer);
      }
      this.client();
      if (this.isResyncing) this.resync();
    }
  }

  private serve(us: number): number {
    this.freeUs = Math.max(this.freeUs, this.nowUs) + us;
    return this.freeUs;
  }

  private client(): void {
    const { prng } = this;
    if (this.clientsPerSecond === 0) this.nextClientUs = this.nowUs;
    while (this.clientsPerSecond > 0 && this.nextClientUs <= this.nowUs) {
      const us = this.serve(100 - 100 * Math.log(1 - prng.unit())) - this.nextClientUs;
      this.latencies.push(us);
      this.window.push(us);
      this.nextClientUs += (-Math.log(1 - prng.unit()) * 1e6) / this.clientsPerSecond;
    }
  }

  private resync(): void {
    for (const [lane, freeUs] of this.lanesFreeUs.entries()) {
      if (freeUs > this.nowUs || !this.pace.take(SLAB_BYTES)) continue;
      this.movedBytes += SLAB_BYTES;
      this.lanesFreeUs[lane] = this.serve(SLAB_US);
    }
  }

  /** p99 of clients, and bytes per second of resyncs, over the next while. */
  measure(seconds: number): { readonly p99Us: number; readonly rate: number } {
    this.latencies = [];
    const before = this.movedBytes;
    this.run(seconds);
    return { p99Us: percentile(this.latencies), rate: (this.movedBytes - before) / seconds };
  }
}

describe("automatic", () => {
  test("without clients a resync soon takes all that there is", () => {
    const disk = new SharedDisk(1);
    disk.pace.begin();
    disk.run(3);
    const { rate } = disk.measure(2);
    assert.ok(rate > 190 * MIB, `${rate / MIB} MiB/s`);
  });

  for (const clientsPerSecond of [500, 1500, 3000]) {
    test(`${clientsPerSecond} requests per second: about twice as slow at most, and it goes on`, (t) => {
      const growths: number[] = [];
      for (let seed = 1; seed <= 5; seed++) {
        const disk = new SharedDisk(seed);
        disk.clientsPerSecond = clientsPerSecond;
        disk.isResyncing = false;
        const alone = disk.measure(10).p99Us;
        disk.isResyncing = true;
        disk.pace.begin();
        disk.run(10);
        const beside = disk.measure(20);
        const growth = beside.p99Us / alone;
        t.diagnostic(`p99 ${growth.toFixed(2)} times, ${(beside.rate / MIB).toFixed(1)} MiB/s`);
        growths.push(growth);
        assert.ok(beside.rate > 5 * MIB, `${beside.rate / MIB} MiB/s`);
        // The very disk, and nobody who minds: clients suffer.
        disk.pace.setLimit(1024 * MIB);
        assert.ok(disk.measure(5).p99Us / alone > 2.5, "the model shows what there is to avoid");
      }
      const [, , middle, , worst] = growths.toSorted((one, other) => one - other);
      assert.ok(middle <= 2 && worst <= 2.5, `p99 grew ${growths.join(", ")} times`);
    });
  }

  test("clients that come in the middle are measured without resyncs before they are judged", () => {
    const disk = new SharedDisk(4);
    disk.pace.begin();
    disk.run(5);
    assert.ok(disk.pace.bytesPerSecond > 100 * MIB);
    disk.clientsPerSecond = 1500;
    disk.run(15);
    const beside = disk.measure(20);
    disk.isResyncing = false;
    disk.pace.end();
    disk.run(1);
    const alone = disk.measure(10).p99Us;
    assert.ok(beside.p99Us / alone <= 2, `p99 grew ${beside.p99Us / alone} times`);
  });

  test("clients that are slow by themselves do not stop it", () => {
    const disk = new SharedDisk(5);
    disk.clientsPerSecond = 4500;
    disk.pace.begin();
    disk.run(20);
    const { rate } = disk.measure(10);
    assert.ok(disk.pace.bytesPerSecond >= RATE_MIN);
    assert.ok(rate > RATE_MIN / 2, `${rate / MIB} MiB/s`);
  });

  test("with nothing to copy no timer runs, and what was learned is kept", () => {
    const disk = new SharedDisk(6);
    disk.pace.begin();
    disk.run(3);
    disk.pace.end();
    disk.isResyncing = false;
    disk.run(1);
    assert.deepEqual(disk["timers"], []);
    assert.ok(disk.pace.bytesPerSecond > RATE_FIRST);
  });
});

describe("fixed", () => {
  test("the rate is kept to, from the moment it is set", () => {
    const disk = new SharedDisk(7);
    disk.pace.begin();
    disk.run(3);
    disk.pace.setLimit(5 * MIB);
    const slow = disk.measure(10).rate;
    assert.ok(Math.abs(slow - 5 * MIB) < 0.25 * MIB, `${slow / MIB} MiB/s`);
    assert.equal(disk.pace.limit, 5 * MIB);
    disk.pace.setLimit(50 * MIB);
    const faster = disk.measure(10).rate;
    assert.ok(Math.abs(faster - 50 * MIB) < 2 * MIB, `${faster / MIB} MiB/s`);
    disk.pace.setLimit(null);
    disk.run(5);
    assert.ok(disk.measure(2).rate > 190 * MIB, "and automatic again");
  });

  test("time that was not used is lost", () => {
    const disk = new SharedDisk(8);
    disk.pace.setLimit(5 * MIB);
    disk.pace.begin();
    disk.isResyncing = false;
    disk.run(10);
    disk.isResyncing = true;
    assert.ok(disk.measure(1).rate < 5.5 * MIB);
  });

  test("who is told to wait is told for how long", () => {
    const disk = new SharedDisk(9);
    disk.pace.setLimit(MIB);
    disk.pace.begin();
    assert.ok(disk.pace.take(SLAB_BYTES));
    assert.ok(!disk.pace.take(SLAB_BYTES));
    const { waitMs } = disk.pace;
    assert.ok(waitMs > 0 && waitMs <= 63, `${waitMs} ms`);
    disk.nowUs += waitMs * 1000;
    assert.ok(disk.pace.take(SLAB_BYTES));
  });
});
