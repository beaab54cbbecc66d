// virtio-scsi controllers on real reactors: where they and their volumes are, what many attaches
// and detaches at once leave behind, and what the reactor itself refuses.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { ScsiDriver } from "../load/index.ts";
import type { VolumeSpec } from "../ports/data-plane.ts";
import type { HeldUnitSpec, ScsiSpec } from "../ports/scsi-plane.ts";
import { read10, write10 } from "../testing/fakes/cdb.ts";
import * as l from "../vhost-user/layouts-scsi.ts";
import { descriptorCount, placeOf, TestPlane, unitSpec, until, volume } from "./_test-plane.ts";

function unit(
  plane: TestPlane,
  spec: VolumeSpec,
  lun: number,
  more: Partial<ScsiSpec> = {},
): ScsiSpec {
  return { ...unitSpec(plane.path("k.sock"), spec, lun), ...more };
}

function place(plane: TestPlane, spec: VolumeSpec, lun: number, listens = true): HeldUnitSpec {
  return placeOf(unit(plane, spec, lun, { listens }), spec);
}

async function open(plane: TestPlane, spec: VolumeSpec, controller = "k"): Promise<VolumeSpec> {
  await plane.plane.openVolume(spec, { create: true, controller });
  return spec;
}

/** Volumes of each reactor. */
async function countsBecome({ plane }: TestPlane, counts: string): Promise<void> {
  const now = (): string =>
    plane
      .reactorStats()
      .map((one) => one.volumeCount)
      .join();
  await until(() => now() === counts, `${counts} on the reactors`);
}

/** In the worker's own thread the driver waits; the reactors are others. */
function connect(t: TestContext, plane: TestPlane): ScsiDriver {
  const driver = new ScsiDriver();
  t.after(() => driver.close());
  driver.connect(plane.path("k.sock"));
  return driver;
}

test("volumes of a controller are opened on its reactor; one that is elsewhere is refused", async (t) => {
  const plane = await TestPlane.start(t, { reactorCount: 2 });
  const memory = volume("memory", { kind: "memory" });
  await plane.plane.openVolume(memory, { create: true });
  // The other reactor has fewer now.
  const first = await open(plane, plane.file("first"));
  const second = await open(plane, plane.file("second"));
  await countsBecome(plane, "1,2");
  await plane.plane.attachScsi(unit(plane, first, 0));
  await plane.plane.attachScsi(unit(plane, second, 1));
  await assert.rejects(plane.plane.attachScsi(unit(plane, memory, 2)), {
    code: "CONTROLLER_ELSEWHERE",
    message: /controller k is on reactor 1, the volume on reactor 0/,
  });
  // When its volumes have gone the controller may be anywhere.
  for (const { id } of [first, second]) {
    await plane.plane.detach(id);
    await plane.plane.closeVolume(id);
  }
  await plane.plane.attachScsi(unit(plane, memory, 2));
  assert.equal(connect(t, plane).retried(read10(0, 1), { lun: 2, room: 512 }).status, 0);
});

test("after a start, what was together is together, whatever comes first", async (t) => {
  const plane = await TestPlane.start(t, { reactorCount: 2 });
  plane.plane.placeTogether([{ controllers: ["k", "k2"], diskIds: [], hasCluster: false }]);
  await open(plane, volume("one", { kind: "memory" }), "k");
  await open(plane, volume("two", { kind: "memory" }), "k2");
  await countsBecome(plane, "2,0");
  await open(plane, volume("three", { kind: "memory" }), "k3");
  await countsBecome(plane, "2,1");
});

test("the reactor refuses a number that is taken and other queues, and keeps what it has", async (t) => {
  const plane = await TestPlane.start(t);
  const first = await open(plane, volume("first", { kind: "memory" }));
  const second = await open(plane, volume("second", { kind: "memory" }));
  await plane.plane.attachScsi(unit(plane, first, 0));
  const driver = connect(t, plane);
  for (const [more, code, message] of [
    [{ lun: 0 }, "LUN_TAKEN", /LUN 0 of controller k is volume first/],
    [{ queueCountMax: 3 }, "ATTACHMENT_DIFFERS", /controller k has 4 queues/],
    [
      { reservations: { generation: 0, aptpl: true, type: 9, holder: 0, registrations: [] } },
      "INVALID_REQUEST",
      /reservation record/,
    ],
  ] as const) {
    const attempt = plane.plane.attachScsi(unit(plane, second, 1, more));
    await assert.rejects(attempt, { code, message });
  }
  await plane.plane.attachScsi(unit(plane, second, 1));
  for (const lun of [0, 1]) {
    assert.equal(driver.retried(read10(0, 1), { lun, room: 512 }).status, 0);
  }
});

test("a socket that cannot be made leaves nothing, and one that waits is made on request", async (t) => {
  const plane = await TestPlane.start(t);
  const spec = await open(plane, volume("v", { kind: "memory" }));
  const before = descriptorCount();
  const nowhere = { socketPath: plane.path("none/k.sock") };
  await assert.rejects(plane.plane.attachScsi(unit(plane, spec, 0, nowhere)), /ENOENT/);
  assert.equal(descriptorCount(), before);
  await plane.plane.attachScsi(unit(plane, spec, 0, { listens: false }));
  assert.ok(!existsSync(plane.path("k.sock")));
  await plane.plane.openController("k");
  await plane.plane.openController("k");
  await plane.plane.openController("none");
  assert.equal(connect(t, plane).retried(read10(0, 1), { room: 512 }).status, 0);
});

test("attached and detached over and over, with a guest there: nothing is left", async (t) => {
  const plane = await TestPlane.start(t, { reactorCount: 2 });
  const specs: VolumeSpec[] = [];
  for (let at = 0; at < 8; at++)
    specs.push(await open(plane, volume(`v${at}`, { kind: "memory" })));
  const before = descriptorCount();
  for (let round = 0; round < 3; round++) {
    await Promise.all(specs.map((spec, lun) => plane.plane.attachScsi(unit(plane, spec, lun))));
    const driver = new ScsiDriver();
    driver.connect(plane.path("k.sock"));
    for (const lun of specs.keys()) {
      assert.equal(driver.retried(read10(0, 1), { lun, room: 512 }).status, 0);
    }
    // Reads are under way while the units go, the last with the controller.
    for (const lun of specs.keys()) driver.start(read10(0, 1), { lun, room: 512 });
    await Promise.all(specs.map(({ id }) => plane.plane.detach(id)));
    driver.close();
    assert.ok(!existsSync(plane.path("k.sock")));
    await until(() => descriptorCount() === before, "descriptors are closed");
    assert.deepEqual(plane.plane.volumeStats(), []);
  }
});

const NOT_READY = 0x020401;
const NOT_THERE = 0x052500;
const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
const SERIAL = [0x12, 1, 0x80, 0, 64, 0];

test("a place that is held is a disk that becomes ready, and then the volume", async (t) => {
  const plane = await TestPlane.start(t, { reactorCount: 2 });
  // On the other reactor there is less.
  await plane.plane.openVolume(volume("else", { kind: "memory" }), { create: true });
  const spec = volume("late", { kind: "memory" }, { serial: "late-1" });
  await plane.plane.holdUnit(place(plane, spec, 5));
  await plane.plane.holdUnit(place(plane, spec, 5));
  const other = await open(plane, volume("other", { kind: "memory" }));
  await assert.rejects(plane.plane.attachScsi(unit(plane, other, 5)), {
    code: "LUN_TAKEN",
    message: /LUN 5 of controller k is volume late/,
  });
  await plane.plane.closeVolume(other.id);
  const driver = connect(t, plane);
  assert.equal(driver.retried(TEST_UNIT_READY, { lun: 5 }).sense, NOT_READY);
  const serial = driver.retried(SERIAL, { lun: 5, room: 64 }).data;
  assert.equal(driver.retried(read10(0, 1), { lun: 5, room: 512 }).sense, NOT_READY);
  for (let count = 0; count < 2; count++) driver.offerEvent();

  // An attempt that fails leaves the place, and where the controller is: now as much is there.
  await plane.plane.openVolume(volume("more", { kind: "memory" }), { create: true });
  const tooMany = { ...spec, sizeBytes: 100 };
  await assert.rejects(open(plane, tooMany));
  assert.equal(driver.retried(TEST_UNIT_READY, { lun: 5 }).sense, NOT_READY);
  await open(plane, spec);
  await countsBecome(plane, "1,2");
  await plane.plane.attachScsi(unit(plane, spec, 5));
  // No unit has gone and none has come: one has a capacity now.
  const { event, lun, reason } = driver.waitEvent();
  assert.deepEqual([event, lun, reason], [l.SCSI_T_PARAM_CHANGE, 5, 0x092a]);
  assert.equal(driver.command(TEST_UNIT_READY, { lun: 5 }).sense, 0x062900);
  assert.equal(driver.command(TEST_UNIT_READY, { lun: 5 }).sense, 0x062a09);
  assert.equal(driver.command(write10(0, 1), { lun: 5, out: new Uint8Array(512) }).status, 0);
  assert.deepEqual(driver.retried(SERIAL, { lun: 5, room: 64 }).data, serial);
  assert.equal(plane.plane.volumeStats()[0]?.connected, true);
  // A hold that comes late, and giving up what is no place any more, change nothing.
  await plane.plane.holdUnit(place(plane, spec, 5));
  await plane.plane.dropUnit(spec.id);
  assert.equal(driver.command(read10(0, 1), { lun: 5, room: 512 }).status, 0);
  await plane.plane.detach(spec.id);
  assert.ok(!existsSync(plane.path("k.sock")));
});

test("a place that is given up is a unit that goes; with the last the controller", async (t) => {
  const plane = await TestPlane.start(t);
  const before = descriptorCount();
  const [one, two] = ["one", "two"].map((name) => volume(name, { kind: "memory" }));
  await plane.plane.holdUnit(place(plane, one as VolumeSpec, 0, false));
  await plane.plane.holdUnit(place(plane, two as VolumeSpec, 1, false));
  assert.ok(!existsSync(plane.path("k.sock")));
  await plane.plane.openController("k");
  const driver = connect(t, plane);
  driver.retried(TEST_UNIT_READY);
  driver.offerEvent();
  await plane.plane.dropUnit((two as VolumeSpec).id);
  const { event, lun, reason } = driver.waitEvent();
  const removed = [l.SCSI_T_TRANSPORT_RESET, 1, l.SCSI_EVT_RESET_REMOVED];
  assert.deepEqual([event, lun, reason], removed);
  assert.equal(driver.retried(TEST_UNIT_READY, { lun: 1 }).sense, NOT_THERE);
  await plane.plane.dropUnit((one as VolumeSpec).id);
  driver.close();
  assert.ok(!existsSync(plane.path("k.sock")));
  await until(() => descriptorCount() === before, "descriptors are closed");
  // Its name is free for another with other queues, and so is its reactor.
  const next = await open(plane, volume("next", { kind: "memory" }));
  await plane.plane.attachScsi(unit(plane, next, 0, { queueCountMax: 2 }));
  assert.equal(connect(t, plane).retried(read10(0, 1), { room: 512 }).status, 0);
});
