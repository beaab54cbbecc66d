// The request queues of a virtio-scsi device: data, responses, what is refused, reservations
// between controllers, migration, a restart. Over fake guest memory.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { be, cdb16, pattern, read10, write10 } from "../testing/fakes/cdb.ts";
import { BROKEN_NO_STATUS, BROKEN_STATUS_UNREACHABLE } from "../virtio/index.ts";
import { type GuestOptions, RigGuest, ScsiDeviceRig, SEAM, UNTOUCHED } from "./_test-scsi-rig.ts";
import * as l from "./layouts-scsi.ts";

const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
const INQUIRY = [0x12, 0, 0, 0, 96, 0];
const KINDS: readonly GuestOptions[] = [{ packed: false }, { packed: true }];

interface Setting {
  readonly rig: ScsiDeviceRig;
  readonly device: ReturnType<ScsiDeviceRig["device"]>;
  readonly model: ReturnType<ScsiDeviceRig["controller"]>["model"];
  readonly guest: RigGuest;
}

function set(options: GuestOptions = {}): Setting {
  const rig = new ScsiDeviceRig();
  const { model, meter } = rig.controller("one");
  const device = rig.device();
  model.addUnit(0, rig.unit(device), meter);
  const guest = new RigGuest(rig, model, options);
  return { rig, device, model, guest };
}

for (const options of KINDS) {
  describe(options.packed === true ? "packed rings" : "split rings", () => {
    test("WRITE and READ move data between device and guest memory", () => {
      const { rig, device, guest } = set(options);
      guest.ready();
      const data = pattern(4096, 3);
      const written = guest.command(write10(8, 8), { out: data });
      assert.deepEqual([written.response, written.status, written.residual], [0, 0, 0]);
      assert.equal(written.usedBytes, 108);
      assert.deepEqual(device.content.slice(4096, 8192), data);
      const read = guest.command(read10(8, 8), { room: 4096 });
      assert.deepEqual([read.response, read.status, read.residual], [0, 0, 0]);
      assert.equal(read.usedBytes, 108 + 4096);
      assert.deepEqual(read.data, data);
      rig.checkIdle();
      rig.memory.checkPoison();
    });

    test("many requests on several queues are each answered once", () => {
      const { rig, device, guest } = set(options);
      guest.ready();
      device.isHolding = true;
      const pending = [0, 1, 0, 1, 1, 0].map((queue, lba) =>
        guest.offer(read10(lba, 1), { room: 512, queue }),
      );
      guest.run();
      assert.equal(device.held.length, 6);
      device.held.reverse();
      device.release();
      guest.run();
      for (const one of pending) assert.equal(guest.answer(one)?.status, 0);
      rig.checkIdle();
    });
  });
}

describe("responses", () => {
  test("a new nexus hears of the power on, with sense data", () => {
    const { guest } = set();
    const answer = guest.command(TEST_UNIT_READY);
    assert.equal(answer.response, l.SCSI_S_OK);
    assert.equal(answer.status, 2);
    assert.equal(answer.senseCode, 0x062900);
    assert.equal(answer.sense.length, 18);
    assert.equal(guest.command(TEST_UNIT_READY).status, 0);
  });

  test("the residual is what was not moved", () => {
    const { guest } = set();
    guest.ready();
    const inquiry = guest.command(INQUIRY, { room: 255 });
    assert.equal(inquiry.data[0], 0);
    assert.equal(inquiry.residual, 255 - inquiry.data.length);
    const short = guest.command(read10(0, 1), { room: 2048 });
    assert.deepEqual([short.response, short.residual, short.data.length], [0, 1536, 512]);
    const failed = guest.command(read10(5000, 1), { room: 512 });
    assert.deepEqual([failed.status, failed.senseCode, failed.residual], [2, 0x052100, 512]);
    assert.equal(failed.usedBytes, 108);
  });

  test("a command with more to move than there is room is an overrun", () => {
    const { guest } = set();
    guest.ready();
    const answer = guest.command(read10(0, 4), { room: 1024 });
    assert.equal(answer.response, l.SCSI_S_OVERRUN);
    assert.equal(answer.residual, 0);
    assert.equal(answer.data.length, 1024);
  });

  test("may be cut at any byte, and data over regions that lie apart", () => {
    const { rig, device, guest } = set();
    guest.ready();
    device.content.set(pattern(1024, 5), 0);
    const answer = guest.command(read10(0, 2), {
      room: 0,
      chain: ([request, response]) => [
        { gpa: request.gpa, bytes: 3 },
        { gpa: request.gpa + 3, bytes: 48 },
        { gpa: response.gpa, bytes: 1, write: true },
        { gpa: response.gpa + 1, bytes: 13, write: true },
        { gpa: response.gpa + 14, bytes: 94, write: true },
        { gpa: SEAM - 700, bytes: 1024, write: true },
      ],
    });
    assert.deepEqual([answer.response, answer.status, answer.usedBytes], [0, 0, 108 + 1024]);
    const found = [...rig.bytes(SEAM - 700, 700), ...rig.bytes(SEAM, 324)];
    assert.deepEqual(Uint8Array.from(found), pattern(1024, 5));
    rig.memory.checkPoison();
  });

  test("response and data-in may share a descriptor, request and data-out too", () => {
    const { rig, device, guest } = set();
    guest.ready();
    device.content.set(pattern(512, 9), 0);
    const gpa = rig.allocate(108 + 512);
    const answer = guest.command(read10(0, 1), {
      chain: ([request]) => [request, { gpa, bytes: 108 + 512, write: true }],
    });
    assert.equal(answer.usedBytes, 108 + 512);
    assert.deepEqual(rig.bytes(gpa + 108, 512).slice(), pattern(512, 9));
    const out = rig.allocate(51 + 512);
    const written = guest.command(write10(3, 1), {
      chain: ([request, response]) => {
        rig.memory.write(out, rig.bytes(request.gpa, 51).slice(), 0, 51);
        rig.memory.write(out + 51, pattern(512, 11), 0, 512);
        return [{ gpa: out, bytes: 51 + 512 }, response];
      },
    });
    assert.deepEqual([written.response, written.status], [0, 0]);
    assert.deepEqual(device.content.slice(1536, 2048), pattern(512, 11));
  });

  test("the driver's sizes of CDB and sense data count from the start of a ring", () => {
    const sizes = new Uint8Array(8);
    const view = new DataView(sizes.buffer);
    view.setUint32(0, 16, true);
    view.setUint32(4, 10, true);
    const { guest, rig } = set({
      config: (config) => {
        const at = l.SCSI_CONFIG.sense_size;
        assert.equal(config.writeConfig(at, sizes, 0, 8, false), "changed");
      },
    });
    const pending = guest.offer(TEST_UNIT_READY, { cdbBytes: 10, responseBytes: 28 });
    guest.run();
    assert.equal(guest.takeUsed(pending.ring, pending.head), 28);
    assert.equal(rig.view(pending.responseGpa, 28).getUint32(0, true), 16, "cut to sense_size");
    const read = guest.offer(read10(1, 1), { cdbBytes: 10, responseBytes: 28, room: 512 });
    guest.run();
    assert.equal(guest.takeUsed(read.ring, read.head), 28 + 512);
  });

  test("the pages that a READ has written are logged for a migration", () => {
    const { rig, guest } = set();
    guest.ready();
    rig.memory.logging = true;
    const gpa = rig.allocate(8192, 4096);
    guest.command(read10(0, 16), {
      chain: ([request, response]) => [request, response, { gpa, bytes: 8192, write: true }],
    });
    for (const at of [gpa, gpa + 4096]) assert.ok(rig.memory.dirtyPages.has(at / 4096));
  });
});

describe("what is no command", () => {
  const badLuns: readonly (readonly number[])[] = [
    [0, 0, 0, 0, 0, 0, 0, 0],
    [2, 0, 0, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 1, 0, 0, 0],
    [0xc1, 0x01, 0, 1, 0, 0, 0, 0],
  ];

  test("row 39: no or another target is BAD_TARGET, an unknown unit is for SCSI to say", () => {
    const { rig, guest } = set();
    for (const rawLun of badLuns) {
      const { response, usedBytes } = guest.command(INQUIRY, { rawLun, room: 96 });
      assert.deepEqual([response, usedBytes], [l.SCSI_S_BAD_TARGET, 108], rawLun.join());
    }
    const absent = guest.command(INQUIRY, { lun: 7, room: 96 });
    assert.deepEqual([absent.response, absent.status, absent.data[0]], [0, 0, 0x7f]);
    assert.equal(guest.command(read10(0, 1), { lun: 7, room: 512 }).senseCode, 0x052500);
    rig.checkIdle();
  });

  test("REPORT LUNS answers on a unit, on none, and on its well known unit", () => {
    const { rig, model, guest } = set();
    const second = rig.device();
    model.addUnit(5, rig.unit(second), model.meter);
    guest.ready();
    const reportLuns = [0xa0, 0, 0, 0, 0, 0, ...be(64, 4), 0, 0];
    for (const rawLun of [
      [1, 0, 0, 0, 0, 0, 0, 0],
      [1, 0, 0, 9, 0, 0, 0, 0],
      [0xc1, 0x01, 0, 0, 0, 0, 0, 0],
      [1, 0, 0xc1, 0x01, 0, 0, 0, 0],
    ]) {
      const { data, status } = guest.command(reportLuns, { rawLun, room: 64 });
      assert.equal(status, 0, rawLun.join());
      assert.deepEqual([...data.subarray(0, 4)], be(16, 4));
      assert.deepEqual([data[9], data[17]], [0, 5]);
    }
  });

  test("row 40: without room for a response it is FAILURE, or the end of the ring", () => {
    const { guest, rig } = set();
    const short = guest.offer(INQUIRY, { responseBytes: 107 });
    guest.run();
    assert.equal(guest.takeUsed(short.ring, short.head), 12);
    assert.equal(rig.bytes(short.responseGpa, 107)[11], l.SCSI_S_FAILURE);
    assert.equal(rig.bytes(short.responseGpa, 107)[12], UNTOUCHED);
    guest.ready();
    guest.offer(INQUIRY, { responseBytes: 11 });
    guest.run();
    assert.deepEqual(guest.broken, [[2, BROKEN_NO_STATUS]]);
    assert.equal(guest.command(TEST_UNIT_READY, { queue: 1 }).status, 0, "the other ring goes on");
    rig.checkIdle();
  });

  test("row 40: data in both directions, short requests, odd attributes are FAILURE", () => {
    const { guest, rig, device } = set();
    guest.ready();
    const out = pattern(512, 1);
    assert.equal(guest.command(write10(0, 1), { out, room: 512 }).response, l.SCSI_S_FAILURE);
    assert.equal(guest.command(read10(0, 1), { cdbBytes: 31 }).response, l.SCSI_S_FAILURE);
    assert.equal(guest.command(TEST_UNIT_READY, { attribute: 4 }).response, l.SCSI_S_FAILURE);
    assert.ok(device.content.every((byte) => byte === 0));
    rig.checkIdle();
  });

  test("data outside guest memory ends the command, a response there the ring", () => {
    const { guest, rig } = set();
    guest.ready();
    const lost = guest.command(read10(0, 1), {
      chain: ([request, response]) => [request, response, { gpa: 64, bytes: 512, write: true }],
    });
    assert.deepEqual([lost.status, lost.senseCode], [2, 0x0b4b00]);
    guest.offer(read10(0, 1), {
      chain: ([request]) => [request, { gpa: 64, bytes: 620, write: true }],
    });
    guest.run();
    assert.deepEqual(guest.broken, [[2, BROKEN_STATUS_UNREACHABLE]]);
    rig.checkIdle();
  });
});

describe("two controllers on one volume", () => {
  const key = (value: number): number[] => be(value, 8);
  const list = (reservation: number, service: number): Uint8Array =>
    Uint8Array.from([...key(reservation), ...key(service), 0, 0, 0, 0, 0, 0, 0, 0]);
  const reserveOut = (action: number, type = 0): number[] => [
    0x5f,
    action,
    type,
    0,
    0,
    ...be(24, 4),
    0,
  ];

  test("one reserves, the other is kept out, preempts, and the first hears of it", () => {
    const rig = new ScsiDeviceRig();
    const unit = rig.unit(rig.device());
    const guests = ["one", "two"].map((name, index) => {
      const { model, meter } = rig.controller(name, index + 1);
      model.addUnit(index, unit, meter);
      return new RigGuest(rig, model).ready(index);
    });
    const [one, two] = guests as [RigGuest, RigGuest];
    assert.equal(one.command(reserveOut(0), { lun: 0, out: list(0, 0xa) }).status, 0);
    assert.equal(two.command(reserveOut(0), { lun: 1, out: list(0, 0xb) }).status, 0);
    assert.equal(one.command(reserveOut(1, 1), { out: list(0xa, 0) }).status, 0);
    assert.equal(two.command(write10(0, 1), { lun: 1, out: new Uint8Array(512) }).status, 0x18);
    assert.equal(two.command(read10(0, 1), { lun: 1, room: 512 }).status, 0);
    assert.equal(two.command(reserveOut(4, 1), { lun: 1, out: list(0xb, 0xa) }).status, 0);
    assert.equal(one.command(TEST_UNIT_READY).senseCode, 0x062a05);
    assert.equal(one.command(write10(0, 1), { out: new Uint8Array(512) }).status, 0x18);
    assert.equal(two.command(write10(0, 1), { lun: 1, out: new Uint8Array(512) }).status, 0);
    rig.checkIdle();
  });

  test("a registration outlives the guest's session, COMPARE AND WRITE is one for both", () => {
    const rig = new ScsiDeviceRig();
    const device = rig.device();
    const unit = rig.unit(device);
    const { model, meter } = rig.controller("one");
    model.addUnit(0, unit, meter);
    const first = new RigGuest(rig, model).ready();
    assert.equal(first.command(reserveOut(0), { out: list(0, 0xa) }).status, 0);
    first.end();
    const again = new RigGuest(rig, model).ready();
    const keys = again.command([0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], { room: 64 });
    assert.deepEqual([...keys.data.subarray(8, 16)], key(0xa));
    const both = new Uint8Array(1024);
    both.set(pattern(512, 2), 512);
    const compare = cdb16(0x89, 0, 0);
    compare[13] = 1;
    assert.equal(again.command(compare, { out: both }).status, 0);
    assert.deepEqual(device.content.slice(0, 512), pattern(512, 2));
    assert.equal(again.command(compare, { out: both }).senseCode, 0x0e1d00);
  });
});

describe("rings that stop and start", () => {
  test("a guest that goes on keeps its nexus: no unit attention, no reservation lost", () => {
    const { guest } = set();
    guest.ready();
    assert.equal(guest.command([0x16, 0, 0, 0, 0, 0]).status, 0, "RESERVE(6)");
    const { queue } = guest.ring(2);
    queue.stopTaking();
    const { base } = queue;
    queue.close();
    guest.guest.begin();
    guest.start(2, undefined, base);
    assert.equal(guest.command(TEST_UNIT_READY).status, 0);
  });

  test("a reset of the device loses the nexus, which the guest is told", () => {
    const { guest } = set();
    guest.ready();
    guest.guest.reset();
    assert.equal(guest.command(TEST_UNIT_READY).senseCode, 0x062907);
  });

  test("what a predecessor had taken is answered RESET, then the ring goes on", () => {
    const { rig, model, guest: dead } = set();
    dead.ready();
    const pending = dead.offer(read10(0, 1), { room: 512 });
    // The predecessor took the chain and died: its successor finds it in the inflight region.
    const { driver } = dead.ring(2);
    const heir = model.newGuest(null);
    heir.begin();
    const queue = heir.newQueue(2, {
      reactor: rig.reactor,
      breakHandler: { ringBroken: (_ring, reason) => assert.fail(`broken: ${reason}`) },
      ring: { enabled: true },
    });
    const base = dead.ring(2).queue.base + 1;
    const reason = queue.start({
      ring: {
        size: driver.size,
        ...driver.areas(false),
        base,
        featuresLow: 0,
        featuresHigh: 1,
        memory: rig.memory,
        tracker: null,
        ringLog: null,
      },
      notifier: { signal: () => undefined },
      resubmit: Uint16Array.of(pending.head),
    });
    assert.equal(reason, 0);
    while (queue.poll() > 0) rig.reactor.deliver();
    rig.reactor.deliver();
    assert.deepEqual(driver.takeUsed(), [{ id: pending.head, bytes: 108 }]);
    assert.equal(rig.bytes(pending.responseGpa, 12)[11], l.SCSI_S_RESET);
    assert.equal(queue.resubmitCount, 0);
  });

  test("without room for tasks requests wait in the ring", () => {
    const { rig, device, guest } = set();
    guest.ready();
    device.isHolding = true;
    const taken: number[] = [];
    for (let slot = rig.reactor.requests.acquire(0); slot >= 0; ) {
      taken.push(slot);
      slot = rig.reactor.requests.acquire(0);
    }
    const pending = guest.offer(read10(0, 1), { room: 512 });
    guest.run();
    assert.equal(guest.answer(pending), null);
    assert.equal(device.held.length, 0);
    for (const slot of taken) rig.reactor.requests.release(slot);
    guest.run();
    assert.equal(device.held.length, 1);
    device.release();
    guest.run();
    assert.equal(guest.answer(pending)?.status, 0);
  });
});
