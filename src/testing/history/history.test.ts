// The checker of histories, and canaries of it: the load generator's own loop records what it does
// to devices in this process that lie once.

import assert from "node:assert/strict";
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import {
  END_DONE,
  LoadRig,
  MODE_MIX,
  MODE_READ_BACK,
  resolveOptions,
  SteppingClock,
  TrivialDevice,
} from "../../load/index.ts";
import { BLK_T_IN, BLK_T_OUT } from "../../virtio/index.ts";
import { checkHistories, type HistoryVerdict } from "./check-history.ts";
import { CONTENDED } from "./history-client.ts";
import { HistoryRecorder, type HistoryRequest, readHistory } from "./history-file.ts";

const AREA = CONTENDED.areaBytes as number;
const REQUESTS = 4000;
const WHEN = 2000;

/** Loses one write that it acknowledges. */
class LosesOneWrite extends TrivialDevice {
  private isDone = false;

  protected override serve(type: number, offset: number, at: number, bytes: number): number {
    if (type !== BLK_T_OUT || this.isDone || this.requestCount < WHEN) {
      return super.serve(type, offset, at, bytes);
    }
    this.isDone = true;
    return 0;
  }
}

/** Once shows what had been there a while ago; all else is right. */
class ShowsOldOnce extends TrivialDevice {
  private old: Uint8Array | null = null;

  protected override serve(type: number, offset: number, at: number, bytes: number): number {
    if (this.requestCount === WHEN - 300) this.old = (this.store as Uint8Array).slice();
    const { store, old } = this;
    if (type !== BLK_T_IN || this.requestCount < WHEN || old === null) {
      return super.serve(type, offset, at, bytes);
    }
    this.store = old;
    const status = super.serve(type, offset, at, bytes);
    this.store = store;
    this.old = null;
    return status;
  }
}

/** What a device of that kind for each of three queues does to one store, as recorded. */
function record(t: TestContext, Device: typeof TrivialDevice): HistoryVerdict {
  const folder = mkdtempSync(join(tmpdir(), "rs-history-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, "one");
  const fd = openSync(path, "ax");
  const clock = new SteppingClock();
  const options = resolveOptions({ socketPath: "", ...CONTENDED });
  const rig = new LoadRig(options, AREA, false, { clock, recorder: new HistoryRecorder(fd, 1) });
  const region = rig.memory.regions[0] as (typeof rig.memory.regions)[0];
  const store = new Uint8Array(AREA);
  for (const { ring } of rig.rings()) {
    const device = new Device(region.host, region.guestAddress, { packed: false, ...ring });
    device.store = store;
    clock.devices.push(device);
  }
  const { generator, workload } = rig;
  for (const [mode, count] of [
    [MODE_MIX, 3 * REQUESTS],
    [MODE_READ_BACK, Infinity],
  ] as const) {
    workload.setMode(mode);
    generator.requestsLeft = count;
    generator.restart();
    assert.equal(generator.run(Infinity), END_DONE);
  }
  rig.close();
  closeSync(fd);
  return checkHistories([readHistory(path)]);
}

test("a device that does not lie is linearizable, and was put to the test", (t) => {
  const verdict = record(t, TrivialDevice);
  assert.deepEqual(verdict.violations, []);
  assert.ok(verdict.checkedSectors > 10_000, `${verdict.checkedSectors}`);
  assert.ok(verdict.contendedSectors > 1000, `${verdict.contendedSectors}`);
  assert.equal(verdict.openWriteCount, 0);
});

test("canary: one stale read of each queue among thousands is found", (t) => {
  const { violations } = record(t, ShowsOldOnce);
  assert.ok(violations.length > 0);
  assert.match(violations[0] as string, /it shows (write \d+|zeroes)/);
});

test("canary: one lost write of each queue among thousands is found", (t) => {
  const { violations } = record(t, LosesOneWrite);
  assert.ok(violations.length > 0);
});

type Said = Pick<HistoryRequest, "kind" | "beginUs" | "endUs"> & { id: number; found?: number };

function verdictOf(...said: Said[]): readonly string[] {
  const requests = said.map(({ found = -1, ...one }) => {
    return { ...one, sector: 7, count: 1, found: [found] };
  });
  // As many clients as requests: nobody's order is anybody else's.
  return checkHistories(requests.map((one) => [one])).violations;
}

const write = (id: number, beginUs: number, endUs = Infinity): Said => {
  return { kind: "write", id, beginUs, endUs };
};
const read = (id: number, found: number, beginUs: number, endUs: number): Said => {
  return { kind: "read", id, found, beginUs, endUs };
};

test("a write without an answer may be done later, or never, but not be undone", () => {
  const late = [write(1, 10, 20), write(2, 30), write(3, 40, 50)];
  assert.deepEqual(verdictOf(...late, read(11, 3, 60, 70)), []);
  assert.deepEqual(verdictOf(...late, read(11, 3, 60, 70), read(12, 2, 80, 90)), []);
  const back = verdictOf(...late, read(11, 2, 60, 70), read(12, 3, 80, 90));
  assert.equal(back.length, 1, "done, and then not");
  assert.deepEqual(verdictOf(...late, read(11, 1, 60, 70)).length, 1, "an answered write is lost");
});

test("what overlaps may come in either order, what does not may not; times that are equal overlap", () => {
  const two = [write(1, 10, 30), write(2, 20, 40)];
  assert.deepEqual(verdictOf(...two, read(11, 1, 50, 60)), []);
  assert.deepEqual(verdictOf(...two, read(11, 2, 50, 60)), []);
  assert.equal(verdictOf(...two, read(11, 1, 50, 60), read(12, 2, 70, 80)).length, 1);
  assert.equal(
    verdictOf(write(1, 10, 20), read(11, 0, 30, 40)).length,
    1,
    "zeroes were there first",
  );
  assert.deepEqual(verdictOf(write(1, 10, 20), read(11, 0, 20, 40)), []);
  assert.deepEqual(verdictOf(write(1, 10, 20), read(11, 0, 15, 40)), []);
});

test("one client's read is held against another's write", () => {
  const one: HistoryRequest[] = [
    { id: 1, kind: "write", sector: 0, count: 4, beginUs: 1, endUs: 2, found: [] },
  ];
  const other = (found: number[]): HistoryRequest[] => [
    { id: 9, kind: "read", sector: 2, count: 3, beginUs: 3, endUs: 4, found },
  ];
  assert.deepEqual(checkHistories([one, other([1, 1, 0])]).violations, []);
  assert.equal(checkHistories([one, other([1, 0, 0])]).violations.length, 1);
  assert.equal(checkHistories([one, other([1, 1, -1])]).violations.length, 1, "nobody's");
});
