// A virtio-blk queue over time: batches, waiting for slots, draining, stopping with requests at
// the device, taking up what an earlier process left, breaking alone.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { ShadowArea } from "../testing/fakes/guest-memory.ts";
import { FAKE_INFO, FakeMeter } from "../testing/fakes/reactor.ts";
import { SplitDriver, type TestBuffer } from "../testing/fakes/ring-driver.ts";
import { BlkRig, DEVICE_ERROR, PLACES, SEAM } from "./_test-rig.ts";
import { BlkQueue, POLL_BATCH_MAX } from "./blk.ts";
import {
  COUNTER_INFLIGHT,
  COUNTER_NOTIFICATION,
  COUNTER_NOTIFICATION_SUPPRESSED,
  COUNTER_PAUSE,
  COUNTER_RING_ERROR,
} from "./blk-meter.ts";
import { BLK_S_IOERR, BLK_S_OK, BLK_T_IN, BLK_T_OUT, F_EVENT_IDX } from "./layouts.ts";
import {
  BROKEN_HEAD_RANGE,
  BROKEN_INFLIGHT,
  BROKEN_NEXT_RANGE,
  BROKEN_NO_STATUS,
  BROKEN_RING_MEMORY,
  BROKEN_STATUS_UNREACHABLE,
} from "./virtqueue.ts";

const DATA = PLACES.data;
const READ: TestBuffer = { gpa: DATA, bytes: 512, write: true };

/** Makes `count` reads available; returns their ids and status addresses. */
function offerReads(rig: BlkRig, count: number): { ids: number[]; statuses: number[] } {
  const ids: number[] = [];
  const statuses: number[] = [];
  for (let index = 0; index < count; index++) {
    const status = rig.status();
    statuses.push(status.gpa);
    ids.push(rig.driver.add([rig.header(BLK_T_IN, index), READ, status]));
  }
  return { ids, statuses };
}

for (const packed of [false, true]) {
  const kind = packed ? "packed" : "split";

  describe(`${kind}: batches`, () => {
    test("completions of one turn are published together and interrupt once", () => {
      const rig = new BlkRig({ packed, without: [F_EVENT_IDX] });
      assert.equal(rig.callCount, 1, "start interrupts: an earlier process may not have");
      const { ids } = offerReads(rig, 5);
      rig.reactor.turn(rig.queue);
      assert.deepEqual(rig.driver.takeUsed(), []);
      rig.reactor.deliver();
      assert.deepEqual(
        rig.driver.takeUsed().map(({ id }) => id),
        ids,
      );
      assert.equal(rig.callCount, 2);
      assert.equal(rig.meter.counters[COUNTER_NOTIFICATION], 1);
      rig.queue.flush();
      assert.equal(rig.callCount, 2);
    });

    test("a driver that wants no interrupt gets none, and that is counted", () => {
      const rig = new BlkRig({ packed, without: [F_EVENT_IDX] });
      if (rig.driver instanceof SplitDriver) rig.driver.availFlags = 1;
      else rig.driver.setDriverEvent(0, 1);
      offerReads(rig, 2);
      rig.run();
      assert.equal(rig.callCount, 1);
      assert.equal(rig.meter.counters[COUNTER_NOTIFICATION_SUPPRESSED], 1);
    });

    test("kicks are off while the loop polls and on when it sleeps", () => {
      const rig = new BlkRig({ packed, without: [F_EVENT_IDX] });
      const off = (): boolean =>
        rig.driver instanceof SplitDriver
          ? rig.driver.usedFlags === 1
          : rig.driver.deviceEventWord >>> 16 === 1;
      assert.equal(off(), false);
      rig.queue.disarm();
      assert.equal(off(), true);
      assert.equal(rig.queue.arm(), false);
      assert.equal(off(), false);
    });

    test("row 37: one poll takes a bounded number", () => {
      const rig = new BlkRig({ packed, size: 512, slots: 256 });
      rig.device.held = true;
      for (let index = 0; index < 150; index++) {
        const buffers = [rig.header(BLK_T_IN, 0), READ, rig.status()];
        rig.driver.add(buffers, PLACES.tables + index * 48);
      }
      assert.equal(rig.queue.poll(), POLL_BATCH_MAX);
      assert.equal(rig.queue.arm(), true, "the rest is work");
      assert.equal(rig.queue.poll(), POLL_BATCH_MAX);
      assert.equal(rig.queue.poll(), 150 - 2 * POLL_BATCH_MAX);
      assert.equal(rig.queue.poll(), 0);
      assert.equal(rig.meter.counters[COUNTER_INFLIGHT], 150);
      rig.device.release();
      rig.run();
      assert.equal(rig.driver.takeUsed().length, 150);
      assert.equal(rig.meter.counters[COUNTER_INFLIGHT], 0);
    });

    test("completions in any order reach their own requests", () => {
      const rig = new BlkRig({ packed });
      rig.device.held = true;
      const { ids, statuses } = offerReads(rig, 4);
      rig.run();
      rig.device.result = DEVICE_ERROR;
      rig.device.release("newest");
      rig.device.result = 0;
      rig.device.release("oldest");
      rig.run();
      assert.deepEqual(rig.driver.takeUsed(), [
        { id: ids[3], bytes: 1 },
        { id: ids[0], bytes: 513 },
      ]);
      assert.deepEqual(
        statuses.map((gpa) => rig.peek(gpa)),
        [BLK_S_OK, 0xff, 0xff, BLK_S_IOERR],
      );
      rig.device.release();
      rig.run();
      assert.equal(rig.driver.takeUsed().length, 2);
    });
  });

  describe(`${kind}: full is a state`, () => {
    test("without a free slot requests stay on the ring until one is released", () => {
      const rig = new BlkRig({ packed, slots: 2, size: 32 });
      rig.device.held = true;
      offerReads(rig, 5);
      assert.equal(rig.queue.poll(), 2);
      assert.equal(rig.queue.poll(), 0);
      assert.ok((rig.meter.counters[COUNTER_PAUSE] ?? 0) >= 1);
      assert.equal(rig.queue.inflightCount, 2);
      assert.equal(rig.queue.arm(), true, "the loop must come back");
      rig.device.release("oldest");
      rig.run();
      assert.equal(rig.queue.inflightCount, 2);
      rig.device.held = false;
      rig.device.release();
      rig.run();
      assert.equal(rig.driver.takeUsed().length, 5);
      assert.equal(rig.reactor.requests.freeSlots, 2);
    });
  });

  describe(`${kind}: stopping`, () => {
    test("stopTaking drains: nothing new is taken, nothing taken is lost", () => {
      const rig = new BlkRig({ packed });
      rig.device.held = true;
      offerReads(rig, 2);
      rig.run();
      rig.queue.stopTaking();
      offerReads(rig, 2);
      rig.run();
      assert.equal(rig.queue.inflightCount, 2);
      assert.equal(rig.queue.arm(), false);
      rig.device.release();
      rig.run();
      assert.equal(rig.queue.inflightCount, 0);
      assert.equal(rig.driver.takeUsed().length, 2);
      const { base } = rig.queue;
      rig.queue.stop();
      assert.equal(rig.queue.base, base);
      rig.device.held = false;
      assert.equal(rig.start({ packed, base }), 0);
      rig.run();
      assert.equal(rig.driver.takeUsed().length, 2);
      rig.queue.close();
    });

    test("stop shows what was answered and not shown yet, and interrupts for it", () => {
      const rig = new BlkRig({ packed });
      offerReads(rig, 1);
      rig.queue.poll();
      rig.reactor.requests.drain(10);
      const calls = rig.callCount;
      rig.queue.stop();
      assert.equal(rig.callCount, calls + 1);
      assert.equal(rig.driver.takeUsed().length, 1);
    });

    test("requests left at the device by stop() touch nothing of the guest any more", () => {
      const rig = new BlkRig({ packed });
      rig.device.held = true;
      const { statuses } = offerReads(rig, 3);
      rig.run();
      rig.queue.stop();
      assert.equal(rig.queue.deviceCount, 3);
      assert.equal(rig.meter.counters[COUNTER_INFLIGHT], 0);
      const before = rig.memory.u8.slice();
      rig.device.result = DEVICE_ERROR;
      rig.device.release();
      rig.run();
      assert.deepEqual(rig.memory.u8, before);
      assert.deepEqual(
        statuses.map((gpa) => rig.peek(gpa)),
        [0xff, 0xff, 0xff],
      );
      assert.equal(rig.queue.deviceCount, 0);
      assert.equal(rig.reactor.requests.freeSlots, rig.reactor.requests.capacity);
      rig.queue.close();
    });

    test("a completion of an earlier life does not answer a request of this one", () => {
      const rig = new BlkRig({ packed });
      rig.device.held = true;
      const first = offerReads(rig, 1);
      rig.run();
      rig.queue.stop();
      assert.equal(rig.start({ packed, base: rig.queue.base }), 0);
      const second = offerReads(rig, 1);
      rig.run();
      rig.device.release("oldest");
      rig.run();
      assert.deepEqual(rig.driver.takeUsed(), []);
      assert.equal(rig.peek(first.statuses[0] as number), 0xff);
      assert.equal(rig.peek(second.statuses[0] as number), 0xff);
      rig.device.release();
      rig.run();
      assert.equal(rig.peek(second.statuses[0] as number), BLK_S_OK);
    });
  });
}

describe("taking up what an earlier process left", () => {
  /** A ring whose first life took three requests, finished one, and died. */
  function crashed(options: { slots?: number; resubmit?: readonly number[] } = {}): {
    rig: BlkRig;
    ids: number[];
    statuses: number[];
  } {
    const rig = new BlkRig({ slots: options.slots ?? 64 });
    rig.device.held = true;
    const offered = offerReads(rig, 3);
    rig.run();
    rig.device.release("oldest");
    rig.run();
    rig.driver.takeUsed();
    rig.queue.stop();
    (rig.device as unknown as { waiting: number[] }).waiting.length = 0;
    rig.device.submitted.length = 0;
    return { rig, ...offered };
  }

  test("in the order given, before anything new", () => {
    const { rig, ids, statuses } = crashed();
    const [, second, third] = ids as [number, number, number];
    const later = offerReads(rig, 1);
    rig.device.held = false;
    assert.equal(rig.start({ base: 3, resubmit: [third, second] }), 0);
    assert.equal(rig.queue.inflightCount, 2);
    assert.equal(rig.queue.resubmitCount, 2);
    assert.equal(rig.queue.arm(), true, "resubmitting is work");
    rig.run();
    assert.equal(rig.queue.resubmitCount, 0);
    assert.deepEqual(
      rig.device.submitted.map(({ offsetBytes }) => offsetBytes / 512),
      [2, 1, 0],
    );
    assert.deepEqual(
      rig.driver.takeUsed().map(({ id }) => id),
      [third, second, later.ids[0]],
    );
    assert.deepEqual(
      statuses.map((gpa) => rig.peek(gpa)),
      [BLK_S_OK, BLK_S_OK, BLK_S_OK],
    );
  });

  test("also while draining, so that a stop right after the start loses nothing", () => {
    const { rig, ids } = crashed();
    rig.device.held = false;
    assert.equal(rig.start({ base: 3, resubmit: ids.slice(1) }), 0);
    rig.queue.stopTaking();
    rig.run();
    assert.equal(rig.queue.inflightCount, 0);
    assert.equal(rig.driver.takeUsed().length, 2);
  });

  test("waits for slots", () => {
    const { rig, ids } = crashed({ slots: 4 });
    // Two slots are still held by the earlier life, which this process happens to share.
    rig.device.held = true;
    assert.equal(rig.start({ base: 3, resubmit: ids.slice(1) }), 0);
    const blocker = rig.reactor.requests.acquire(0);
    assert.equal(rig.queue.poll(), 1);
    assert.equal(rig.queue.poll(), 0);
    assert.equal(rig.queue.resubmitCount, 1);
    rig.reactor.requests.release(blocker);
    assert.equal(rig.queue.poll(), 1);
  });

  test("heads that the ring cannot have refuse the start", () => {
    for (const resubmit of [[1, 1], [16]]) {
      const { rig } = crashed();
      assert.equal(rig.start({ base: 3, resubmit }), BROKEN_INFLIGHT);
      assert.equal(rig.queue.inflightCount, 0);
      assert.equal(rig.start({ base: 3 }), 0, "and may be started without them");
    }
  });

  test("a chain that the guest spoiled meanwhile breaks the ring, with nothing in flight", () => {
    const { rig, ids } = crashed();
    const [, second, third] = ids as [number, number, number];
    (rig.driver as SplitDriver).put(second, DATA, 512, 1, 99);
    rig.start({ base: 3, resubmit: [second, third] });
    rig.run();
    assert.deepEqual(rig.brokenReasons, [BROKEN_NEXT_RANGE]);
    assert.equal(rig.queue.inflightCount, 0);
    assert.equal(rig.queue.resubmitCount, 0);
    rig.queue.stop();
  });
});

describe("breaking", () => {
  test("once, with a reason; what the device has is still answered", () => {
    const rig = new BlkRig();
    rig.device.held = true;
    const { ids, statuses } = offerReads(rig, 2);
    (rig.driver as SplitDriver).offer(99);
    (rig.driver as SplitDriver).offer(98);
    rig.run();
    assert.deepEqual(rig.brokenReasons, [BROKEN_HEAD_RANGE]);
    assert.equal(rig.queue.brokenReason, BROKEN_HEAD_RANGE);
    assert.equal(rig.meter.counters[COUNTER_RING_ERROR], 1);
    rig.device.release();
    rig.run();
    assert.deepEqual(
      rig.driver.takeUsed().map(({ id }) => id),
      ids,
    );
    assert.equal(rig.peek(statuses[1] as number), BLK_S_OK);
    offerReads(rig, 1);
    rig.run();
    assert.deepEqual(rig.driver.takeUsed(), []);
    assert.equal(rig.queue.arm(), false);
  });

  test("other queues of the device never notice", () => {
    const rig = new BlkRig();
    const places = { descriptors: 0x70000, driver: 0x74000, device: 0x78000 };
    const driver = new SplitDriver(rig.memory, 16, places);
    const queue = new BlkQueue(1, {
      reactor: rig.reactor,
      device: rig.device,
      config: rig.config,
      meter: new FakeMeter(),
      breakHandler: { ringBroken: () => assert.fail("the other queue broke") },
    });
    const result = queue.start({
      ring: {
        size: 16,
        ...driver.areas(false),
        base: 0,
        featuresLow: rig.config.acceptedLow,
        featuresHigh: rig.config.acceptedHigh & 1,
        memory: rig.memory,
        tracker: null,
        ringLog: null,
      },
      notifier: { signal: () => undefined },
      resubmit: null,
    });
    assert.equal(result, 0);
    (rig.driver as SplitDriver).offer(99);
    const status = rig.status();
    driver.add([rig.header(BLK_T_IN, 0), READ, status]);
    rig.run();
    assert.deepEqual(rig.brokenReasons, [BROKEN_HEAD_RANGE]);
    for (let turn = 0; turn < 3; turn++) rig.reactor.turn(queue);
    assert.equal(driver.takeUsed().length, 1);
    assert.equal(rig.peek(status.gpa), BLK_S_OK);
  });

  test("a broken ring can be started again", () => {
    const rig = new BlkRig();
    rig.driver.add([rig.header(BLK_T_IN, 0)]);
    rig.run();
    assert.deepEqual(rig.brokenReasons, [BROKEN_NO_STATUS]);
    rig.queue.stop();
    assert.equal(rig.start({ base: 1 }), 0);
    rig.brokenReasons.length = 0;
    assert.equal(rig.queue.brokenReason, 0);
    rig.assertWorks();
    rig.driver.add([rig.header(BLK_T_IN, 0)]);
    rig.run();
    assert.deepEqual(rig.brokenReasons, [BROKEN_NO_STATUS], "and heard of when it breaks again");
  });

  test("row 35: the ring's memory is gone while a request is at the device", () => {
    const rig = new BlkRig({ shadow: true });
    rig.device.held = true;
    offerReads(rig, 1);
    rig.run();
    (rig.areas.device as ShadowArea).gone = true;
    rig.device.release();
    rig.run();
    assert.deepEqual(rig.brokenReasons, [BROKEN_RING_MEMORY]);
    assert.equal(rig.queue.inflightCount, 0);
    rig.queue.close();
  });

  test("row 35: the status page is gone while a request is at the device", () => {
    const rig = new BlkRig();
    rig.device.held = true;
    const status = { gpa: SEAM + 100, bytes: 1, write: true };
    rig.driver.add([rig.header(BLK_T_IN, 0), READ, status]);
    rig.run();
    rig.memory.removeRegion(SEAM);
    rig.device.release();
    rig.run();
    assert.deepEqual(rig.brokenReasons, [BROKEN_STATUS_UNREACHABLE]);
    assert.equal(rig.queue.inflightCount, 0);
    rig.queue.close();
  });
});

describe("migration log", () => {
  test("a read marks its data and its status, also when it was sent before logging began", () => {
    const rig = new BlkRig();
    rig.device.held = true;
    const data = { gpa: SEAM - 5000, bytes: 12288, write: true };
    const status = rig.status();
    rig.driver.add([rig.header(BLK_T_IN, 0), data, status]);
    rig.run();
    rig.memory.logging = true;
    rig.device.release();
    rig.run();
    const pages = [...rig.memory.dirtyPages].sort((a, b) => a - b);
    const first = Math.floor(data.gpa / 4096);
    const expected = [Math.floor(status.gpa / 4096), first, first + 1, first + 2, first + 3];
    assert.deepEqual(pages, expected);
  });

  test("a failed read marks its data too; a write marks its status only", () => {
    const rig = new BlkRig();
    rig.memory.logging = true;
    rig.device.result = DEVICE_ERROR;
    rig.request(BLK_T_IN, 0, [READ]);
    assert.ok(rig.memory.dirtyPages.has(DATA / 4096));
    rig.device.result = 0;
    const status = rig.status();
    rig.driver.add([rig.header(BLK_T_OUT, 0), { gpa: DATA, bytes: 512 }, status]);
    rig.memory.dirtyPages.clear();
    rig.run();
    assert.deepEqual([...rig.memory.dirtyPages], [Math.floor(status.gpa / 4096)]);
  });

  test("ring writes are reported while a ring log is set", () => {
    const rig = new BlkRig();
    let writes = 0;
    rig.queue.setRingLog({
      usedRingWritten: () => {
        writes += 1;
      },
      descriptorRingWritten: () => undefined,
    });
    rig.request(BLK_T_IN, 0, [READ]);
    assert.equal(writes, 2);
    rig.queue.setRingLog(null);
    rig.request(BLK_T_IN, 0, [READ]);
    assert.equal(writes, 2);
  });
});

test("memory can be replaced while the ring runs: headers, data, tables come from the new", () => {
  const rig = new BlkRig();
  const table = PLACES.tables;
  const status = rig.status();
  rig.driver.add([rig.header(BLK_T_IN, 3), READ, status], table);
  // The same guest, mapped anew; the old one reads as sector 0 and an empty table.
  const other = new BlkRig().memory;
  other.u8.set(rig.memory.u8);
  rig.bytes(table, 48).fill(0);
  rig.bytes(PLACES.headers, 4096).fill(0);
  rig.queue.setMemory(other);
  rig.run();
  assert.equal(rig.device.last.offsetBytes, 3 * 512);
  assert.equal(rig.driver.takeUsed().length, 1);
  assert.equal(other.u8[rig.memory.offsetOf(status.gpa, 1)], BLK_S_OK);
  assert.equal(rig.peek(status.gpa), 0xff);
});

test("a shrunk device refuses what now lies beyond it", () => {
  const rig = new BlkRig({ info: { capacityBytes: 1 << 20 } });
  assert.equal(rig.request(BLK_T_IN, 2047, [READ]), BLK_S_OK);
  rig.config.refresh({ ...FAKE_INFO, capacityBytes: 1 << 19 });
  assert.equal(rig.request(BLK_T_IN, 2047, [READ]), BLK_S_IOERR);
});
