// The rate of a resync, from what is told of it now and then.

import assert from "node:assert/strict";
import { test } from "node:test";
import { RebuildProgress } from "./rebuild-progress.ts";

const MIB = 1048576;

class Clock {
  ms = 0;
  readonly progress = new RebuildProgress(() => this.ms);

  tell(doneBytes: number, diskId = "d"): void {
    const resync = {
      diskId,
      stage: "copying",
      doneBytes,
      totalBytes: 0,
      isTotalKnown: true,
    } as const;
    this.progress.told({ volumeId: "v", resync });
  }

  get rate(): number {
    return this.progress.bytesPerSecond("v", "d") / MIB;
  }
}

test("the rate is that of the last seconds, however often it is told", () => {
  const clock = new Clock();
  assert.equal(clock.rate, 0);
  for (let done = 0; clock.ms < 20_000; clock.ms += 100, done += MIB) clock.tell(done);
  assert.ok(Math.abs(clock.rate - 10) < 0.2, `${clock.rate} MiB/s`);
  for (let done = 200 * MIB; clock.ms < 35_000; clock.ms += 100, done += 3 * MIB) clock.tell(done);
  assert.ok(Math.abs(clock.rate - 30) < 0.5, `${clock.rate} MiB/s after it has become faster`);
});

test("one that stands still slows down; one that begins anew is measured anew", () => {
  const clock = new Clock();
  for (let done = 0; clock.ms < 5000; clock.ms += 100, done += MIB) clock.tell(done);
  clock.ms += 45_000;
  assert.ok(clock.rate < 1.1, `${clock.rate} MiB/s`);
  clock.tell(0);
  clock.ms += 1000;
  clock.tell(4 * MIB);
  assert.equal(clock.rate, 4);
});

test("what is over is forgotten", () => {
  const clock = new Clock();
  clock.tell(0);
  clock.ms += 1000;
  clock.tell(MIB);
  clock.tell(0, "other");
  assert.equal(clock.rate, 0);
  clock.progress.told({ volumeId: "v", resync: null });
  assert.equal(clock.progress.bytesPerSecond("v", "other"), 0);
});
