// virtio-scsi over real sockets, between a target process and a driver with QEMU's front-end:
// commands, task management, events, reservations between two controllers, and a back-end that is
// killed with requests under way.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type ScsiAnswer, ScsiDriver, type ScsiDriverOptions } from "../load/index.ts";
import * as l from "../vhost-user/layouts-scsi.ts";
import { startTarget, type TestScope } from "./target.ts";

const BLOCK = 512;
const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
const RESERVATION_CONFLICT = 0x18;
const KILLS = 5;
const WRITES = 20;

const be32 = (value: number): number[] => [value >>> 24, value >>> 16, value >>> 8, value];
const read10 = (lba: number, blocks: number): number[] => [
  ...[0x28, 0, ...be32(lba), 0, 0, blocks, 0],
];
const write10 = (lba: number, blocks: number): number[] => [
  ...[0x2a, 0, ...be32(lba), 0, 0, blocks, 0],
];

function pattern(seed: number, bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, at) => seed * 37 + at * 11 + (at >>> 8));
}

function driverFor(scope: TestScope, path: string, options: ScsiDriverOptions = {}): ScsiDriver {
  const driver = new ScsiDriver(options);
  scope.after(async () => driver.close());
  driver.connect(path);
  return driver;
}

function assertGood(answer: ScsiAnswer): void {
  const { response, status } = answer;
  assert.deepEqual([response, status], [0, 0], `sense ${answer.sense.toString(16)}`);
}

test("a driver writes, reads, flushes and asks for its units", async (t) => {
  const target = await startTarget(t as never);
  const path = await target.add({ name: "c", scsi: {} });
  const driver = driverFor(t as never, path, { requestQueueCount: 3 });
  assert.equal(driver.command(TEST_UNIT_READY).sense, 0x062900);
  const data = pattern(1, 8 * BLOCK);
  assertGood(driver.command(write10(16, 8), { out: data, queue: 2 }));
  const read = driver.command(read10(16, 8), { room: 8 * BLOCK, queue: 1 });
  assertGood(read);
  assert.deepEqual(read.data, data);
  assertGood(driver.command([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
  const luns = driver.command([0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], { room: 64 });
  assert.deepEqual([...luns.data], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  assert.equal(driver.command(read10(0, 1), { lun: 4, room: BLOCK }).sense, 0x052500);
  assert.equal(driver.queryNotification(l.SCSI_T_AN_QUERY), l.SCSI_S_OK);
});

test("a guest that is paused loses nothing, one that resets its device its nexus", async (t) => {
  const target = await startTarget(t as never);
  const driver = driverFor(t as never, await target.add({ name: "c", scsi: {} }));
  driver.retried(TEST_UNIT_READY);
  for (let count = 0; count < 3; count++) {
    driver.pause();
    assertGood(driver.command(TEST_UNIT_READY));
  }
  driver.resetDevice();
  assert.equal(driver.command(TEST_UNIT_READY).sense, 0x062907);
  assertGood(driver.command(TEST_UNIT_READY));
});

test("ABORT TASK is not answered while the device has the request", async (t) => {
  const target = await startTarget(t as never);
  const path = await target.add({ name: "c", scsi: {} });
  const driver = driverFor(t as never, path);
  driver.retried(TEST_UNIT_READY);
  await target.hold("c");
  const write = driver.start(write10(0, 1), { out: pattern(1, BLOCK), id: 42 });
  await target.until(({ devices }) => devices["c"]?.heldCount === 1, "held");
  const abort = driver.startManage(l.SCSI_T_TMF_ABORT_TASK, { id: 42 });
  await target.counts();
  await target.counts();
  assert.deepEqual([driver.isAnswered(write), driver.isAnswered(abort)], [false, false]);
  await target.release("c");
  assert.equal(driver.waitManage(abort), l.SCSI_S_FUNCTION_COMPLETE);
  assert.ok(driver.isAnswered(write), "the function was answered before its task");
  assert.equal(driver.wait(write).response, l.SCSI_S_ABORTED);
  assertGood(driver.retried(TEST_UNIT_READY));
});

test("a unit comes and goes and grows, and the driver is told", async (t) => {
  const target = await startTarget(t as never);
  const path = await target.add({ name: "c", scsi: {} });
  const driver = driverFor(t as never, path);
  for (let count = 0; count < 4; count++) driver.offerEvent();
  await target.plug("c", 7, true);
  const transport = l.SCSI_T_TRANSPORT_RESET;
  const added = { event: transport, lun: 7, reason: l.SCSI_EVT_RESET_RESCAN };
  assert.deepEqual(driver.waitEvent(), added);
  assertGood(driver.retried(write10(3, 1), { lun: 7, out: pattern(5, BLOCK) }));
  await target.plug("c", 7, false);
  const removed = { event: transport, lun: 7, reason: l.SCSI_EVT_RESET_REMOVED };
  assert.deepEqual(driver.waitEvent(), removed);
  assert.equal(driver.retried(read10(0, 1), { lun: 7, room: BLOCK }).sense, 0x052500);
  await target.resize("c", 128 * 1024 * 1024);
  assert.deepEqual(driver.waitEvent(), { event: l.SCSI_T_PARAM_CHANGE, lun: 0, reason: 0x092a });
  const capacity = driver.retried([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], { room: 8 });
  assert.deepEqual([...capacity.data.subarray(0, 4)], [0, 3, 255, 255]);
});

test("a reservation of one controller holds against another on the same volume", async (t) => {
  const target = await startTarget(t as never);
  const one = driverFor(t as never, await target.add({ name: "one", scsi: {} }));
  const shared = { name: "two", scsi: { sharesWith: "one" } };
  const two = driverFor(t as never, await target.add(shared));
  const list = (own: number, service: number): Uint8Array => {
    const bytes = new Uint8Array(24);
    bytes[7] = own;
    bytes[15] = service;
    return bytes;
  };
  const out = (action: number, type: number): number[] => [
    ...[0x5f, action, type, 0, 0, 0, 0, 0, 24, 0],
  ];
  assertGood(one.retried(out(0, 0), { out: list(0, 1) }));
  assertGood(two.retried(out(0, 0), { out: list(0, 2) }));
  assertGood(one.retried(out(1, 3), { out: list(1, 0) }));
  const kept = two.retried(read10(0, 1), { room: BLOCK });
  assert.equal(kept.status, RESERVATION_CONFLICT);
  assertGood(two.retried(out(4, 3), { out: list(2, 1) }));
  assertGood(two.retried(read10(0, 1), { room: BLOCK }));
  assert.equal(one.retried(read10(0, 1), { room: BLOCK }).status, RESERVATION_CONFLICT);
});

test("a back-end killed with requests under way: every one is answered, no data is lost", async (t) => {
  let target = await startTarget(t as never);
  const folder = mkdtempSync(join(tmpdir(), "rs-scsi-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const backing = { kind: "file" as const, path: join(folder, "disk") };
  const device = { name: "c", scsi: {}, backing };
  const driver = driverFor(t as never, await target.add(device));
  driver.offerEvent();
  const expected = new Map<number, number>();
  for (let round = 0; round < KILLS; round++) {
    assertGood(driver.retried(TEST_UNIT_READY));
    await target.hold("c");
    const pending = Array.from({ length: WRITES }, (_, index) => {
      const seed = round * WRITES + index;
      return { seed, write: driver.start(write10(index * 8, 8), { out: pattern(seed, 4096) }) };
    });
    await target.until(({ devices }) => devices["c"]?.heldCount === WRITES, "held");
    await target.kill();
    driver.disconnect();
    target = await startTarget(t as never);
    driver.connect(await target.add(device));
    assert.equal(driver.waitEvent().event, l.SCSI_T_EVENTS_MISSED);
    driver.offerEvent();
    for (const [index, { seed, write }] of pending.entries()) {
      const answer = driver.wait(write);
      assert.equal(answer.response, l.SCSI_S_RESET, "the predecessor's tasks have ended");
      // What the driver does then.
      assertGood(driver.retried(write10(index * 8, 8), { out: pattern(seed, 4096) }));
      expected.set(index * 8, seed);
    }
    assert.equal(driver.inflightCount, 0);
  }
  for (const [lba, seed] of expected) {
    assert.deepEqual(driver.retried(read10(lba, 8), { room: 4096 }).data, pattern(seed, 4096));
  }
});
