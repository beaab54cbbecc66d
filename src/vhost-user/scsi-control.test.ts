// The control and event queues of a virtio-scsi device: tasks that are really stopped before a
// function is answered, units that come and go, events that find no buffer.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { read10, write10 } from "../testing/fakes/cdb.ts";
import { BROKEN_NO_STATUS } from "../virtio/index.ts";
import { type GuestOptions, RigGuest, ScsiDeviceRig } from "./_test-scsi-rig.ts";
import * as l from "./layouts-scsi.ts";

const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];

function set(options: GuestOptions = {}) {
  const rig = new ScsiDeviceRig();
  const { model, meter } = rig.controller("one");
  const device = rig.device();
  const unit = rig.unit(device);
  model.addUnit(0, unit, meter);
  return { rig, device, unit, model, meter, guest: new RigGuest(rig, model, options) };
}

describe("task management", () => {
  test("ABORT TASK is answered when the task has ended, and after it", () => {
    const { rig, device, guest } = set();
    guest.ready();
    device.isHolding = true;
    const read = guest.offer(read10(0, 1), { room: 512, id: 77 });
    guest.run();
    const abort = guest.offerTmf(l.SCSI_T_TMF_ABORT_TASK, 77);
    guest.run();
    assert.equal(guest.controlAnswer(abort), -1, "answered while the device has the request");
    // Completions and flushes by hand, to see what is shown first.
    const used: string[] = [];
    const note = (): void => {
      for (const ring of [0, 2]) {
        for (const { id } of guest.ring(ring).driver.takeUsed()) used.push(`${ring}:${id}`);
      }
    };
    device.release();
    const { queue } = guest.ring(2);
    const publish = queue.flush.bind(queue);
    queue.flush = (): void => {
      publish();
      note();
    };
    rig.reactor.deliver();
    note();
    assert.deepEqual(used, [`2:${read.head}`, `0:${abort.head}`]);
    assert.equal(rig.bytes(read.responseGpa, 12)[11], l.SCSI_S_ABORTED);
    assert.equal(rig.bytes(abort.gpa, 1)[0], l.SCSI_S_FUNCTION_COMPLETE);
    rig.checkIdle();
  });

  test("a command that still lies in its ring is taken before it is aborted", () => {
    const { rig, device, guest } = set();
    guest.ready();
    device.isHolding = true;
    const write = guest.offer(write10(0, 1), { out: new Uint8Array(512).fill(1), id: 5 });
    const abort = guest.offerTmf(l.SCSI_T_TMF_ABORT_TASK, 5);
    // The control ring is looked at first.
    guest.ring(0).queue.poll();
    assert.equal(device.held.length, 1, "the write was not taken");
    device.release();
    guest.run();
    assert.equal(guest.controlAnswer(abort), l.SCSI_S_FUNCTION_COMPLETE);
    assert.equal(guest.answer(write)?.response, l.SCSI_S_ABORTED);
    rig.checkIdle();
  });

  test("a function waits while its ring cannot be emptied", () => {
    const { rig, device, guest } = set();
    guest.ready();
    device.isHolding = true;
    const taken: number[] = [];
    for (let slot = rig.reactor.requests.acquire(0); slot >= 0; ) {
      taken.push(slot);
      slot = rig.reactor.requests.acquire(0);
    }
    const read = guest.offer(read10(0, 1), { room: 512, id: 5 });
    const abort = guest.offerTmf(l.SCSI_T_TMF_ABORT_TASK, 5);
    guest.run();
    assert.equal(guest.controlAnswer(abort), -1);
    assert.ok(guest.ring(0).queue.arm(), "the loop would sleep with a function waiting");
    for (const slot of taken) rig.reactor.requests.release(slot);
    guest.run();
    device.release();
    guest.run();
    assert.equal(guest.controlAnswer(abort), l.SCSI_S_FUNCTION_COMPLETE);
    assert.equal(guest.answer(read)?.response, l.SCSI_S_ABORTED);
  });

  test("a ring that is stopped with a function waiting answers it", () => {
    const { rig, guest } = set();
    guest.ready();
    const taken: number[] = [];
    for (let slot = rig.reactor.requests.acquire(0); slot >= 0; ) {
      taken.push(slot);
      slot = rig.reactor.requests.acquire(0);
    }
    guest.offer(read10(0, 1), { room: 512, id: 5 });
    const abort = guest.offerTmf(l.SCSI_T_TMF_ABORT_TASK, 5);
    guest.run();
    const { queue } = guest.ring(0);
    assert.equal(queue.deviceCount, 1);
    queue.stopTaking();
    assert.equal(queue.deviceCount, 0);
    guest.run();
    assert.equal(guest.controlAnswer(abort), l.SCSI_S_FAILURE);
    for (const slot of taken) rig.reactor.requests.release(slot);
  });

  test("nothing is taken from a ring that is disabled", () => {
    const { device, guest } = set();
    guest.ready();
    guest.ring(2).enabled.enabled = false;
    guest.offer(write10(0, 1), { out: new Uint8Array(512), id: 5 });
    guest.offerTmf(l.SCSI_T_TMF_ABORT_TASK, 5);
    guest.ring(0).queue.poll();
    assert.equal(device.writeCount, 0);
  });

  test("a LUN reset stops what other controllers have there, too", () => {
    const { rig, device, unit, guest } = set();
    const other = rig.controller("two", 2);
    other.model.addUnit(3, unit, other.meter);
    const neighbour = new RigGuest(rig, other.model).ready(3);
    guest.ready();
    device.isHolding = true;
    const own = guest.offer(read10(0, 1), { room: 512 });
    const theirs = neighbour.offer(read10(0, 1), { room: 512, lun: 3 });
    guest.run();
    neighbour.run();
    const reset = guest.offerTmf(l.SCSI_T_TMF_LOGICAL_UNIT_RESET);
    guest.run();
    assert.equal(guest.controlAnswer(reset), -1);
    device.release();
    device.isHolding = false;
    guest.run();
    neighbour.run();
    assert.equal(guest.controlAnswer(reset), l.SCSI_S_FUNCTION_COMPLETE);
    assert.equal(guest.answer(own)?.response, l.SCSI_S_RESET);
    assert.equal(neighbour.answer(theirs)?.response, l.SCSI_S_RESET);
    assert.equal(neighbour.command(TEST_UNIT_READY, { lun: 3 }).senseCode, 0x062903);
    rig.checkIdle();
  });

  test("task sets end, and are asked for, by logical unit", () => {
    const { rig, model, device, guest } = set();
    const second = rig.device();
    model.addUnit(1, rig.unit(second), model.meter);
    guest.ready(0).ready(1);
    device.isHolding = true;
    second.isHolding = true;
    const zero = [0, 1].map((lba) => guest.offer(read10(lba, 1), { room: 512 }));
    const one = guest.offer(read10(0, 1), { room: 512, lun: 1, id: 9 });
    guest.run();
    const lunOne = [1, 0, 0, 1, 0, 0, 0, 0];
    assert.equal(guest.tmf(l.SCSI_T_TMF_QUERY_TASK_SET), l.SCSI_S_FUNCTION_SUCCEEDED);
    assert.equal(guest.tmf(l.SCSI_T_TMF_QUERY_TASK, 9, lunOne), l.SCSI_S_FUNCTION_SUCCEEDED);
    assert.equal(guest.tmf(l.SCSI_T_TMF_QUERY_TASK, 9), l.SCSI_S_FUNCTION_COMPLETE);
    const abort = guest.offerTmf(l.SCSI_T_TMF_ABORT_TASK_SET);
    guest.run();
    device.release();
    guest.run();
    assert.equal(guest.controlAnswer(abort), l.SCSI_S_FUNCTION_COMPLETE);
    for (const read of zero) assert.equal(guest.answer(read)?.response, l.SCSI_S_ABORTED);
    assert.equal(guest.answer(one), null, "the other unit's task goes on");
    second.release();
    guest.run();
    assert.equal(guest.answer(one)?.status, 0);
    assert.equal(guest.tmf(l.SCSI_T_TMF_QUERY_TASK_SET), l.SCSI_S_FUNCTION_COMPLETE);
    rig.checkIdle();
  });

  test("row 41: unknown targets, units, tags, functions and types", () => {
    const { guest, rig } = set();
    guest.ready();
    const abort = l.SCSI_T_TMF_ABORT_TASK;
    assert.equal(guest.tmf(abort, 1, [1, 4, 0, 0, 0, 0, 0, 0]), l.SCSI_S_BAD_TARGET);
    assert.equal(guest.tmf(abort, 1, [0, 0, 0, 0, 0, 0, 0, 0]), l.SCSI_S_BAD_TARGET);
    assert.equal(guest.tmf(abort, 1, [1, 0, 0, 9, 0, 0, 0, 0]), l.SCSI_S_INCORRECT_LUN);
    assert.equal(guest.tmf(abort, 12345), l.SCSI_S_FUNCTION_COMPLETE);
    assert.equal(guest.tmf(99), l.SCSI_S_FUNCTION_REJECTED);
    assert.equal(guest.tmf(l.SCSI_T_TMF_CLEAR_ACA), l.SCSI_S_FUNCTION_REJECTED);
    for (const request of [new Uint8Array(3), new Uint8Array(23), new Uint8Array(24).fill(9)]) {
      const pending = guest.control(request, 1);
      guest.run();
      assert.equal(guest.controlAnswer(pending), l.SCSI_S_FAILURE);
    }
    rig.checkIdle();
  });

  test("row 41: notifications can be asked for, and none is given", () => {
    const { guest, rig } = set();
    const ask = (type: number, target: number): number => {
      const request = new Uint8Array(16);
      request.set([type, 0, 0, 0, 1, target, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
      const pending = guest.control(request, 5);
      guest.run();
      assert.equal(guest.takeUsed(0, pending.head), 5);
      assert.deepEqual([...rig.bytes(pending.gpa, 4)], [0, 0, 0, 0], "event_actual");
      return rig.bytes(pending.gpa, 5)[4] as number;
    };
    assert.equal(ask(l.SCSI_T_AN_QUERY, 0), l.SCSI_S_OK);
    assert.equal(ask(l.SCSI_T_AN_SUBSCRIBE, 0), l.SCSI_S_OK);
    assert.equal(ask(l.SCSI_T_AN_QUERY, 1), l.SCSI_S_BAD_TARGET);
    guest.control(Uint8Array.of(1, 0, 0, 0), 4);
    guest.run();
    assert.deepEqual(guest.broken, [[0, BROKEN_NO_STATUS]]);
    assert.equal(guest.ready().command(TEST_UNIT_READY).status, 0);
  });
});

describe("events", () => {
  test("a unit that comes and one that goes are told, and what it had is stopped", () => {
    const { rig, model, guest } = set();
    guest.ready();
    const second = rig.device();
    const buffers = [guest.offerEvent(), guest.offerEvent(), guest.offerEvent()];
    model.addUnit(6, rig.unit(second), model.meter);
    guest.run();
    assert.deepEqual(guest.event(buffers[0]), {
      event: l.SCSI_T_TRANSPORT_RESET,
      lun: 6,
      reason: l.SCSI_EVT_RESET_RESCAN,
      usedBytes: 16,
    });
    assert.equal(guest.command(TEST_UNIT_READY).senseCode, 0x063f0e);
    second.isHolding = true;
    const read = guest.offer(read10(0, 1), { room: 512, lun: 6 });
    guest.run();
    let isGone = false;
    model.removeUnit(6, () => {
      isGone = true;
    });
    guest.run();
    assert.equal(isGone, false, "gone while the device has a request");
    second.release();
    guest.run();
    assert.equal(isGone, true);
    assert.equal(guest.answer(read)?.response, l.SCSI_S_RESET);
    const told = guest.event(buffers[1]);
    assert.deepEqual([told?.lun, told?.reason], [6, l.SCSI_EVT_RESET_REMOVED]);
    assert.equal(guest.command(TEST_UNIT_READY, { lun: 6 }).senseCode, 0x052500);
    assert.equal(guest.event(buffers[2]), null);
    assert.deepEqual(model.luns, [0]);
    rig.checkIdle();
  });

  test("a capacity that changes is told, a reservation that does is not", () => {
    const { guest, device, unit } = set();
    guest.ready();
    const buffers = [guest.offerEvent(), guest.offerEvent()];
    unit.attendAll(0x2a03);
    device.info.capacityBytes *= 2;
    unit.capacityChanged();
    guest.run();
    const told = guest.event(buffers[0]);
    assert.deepEqual([told?.event, told?.reason], [l.SCSI_T_PARAM_CHANGE, 0x092a]);
    assert.equal(guest.event(buffers[1]), null);
  });

  test("without the features nothing is told", () => {
    const { guest, rig, model, unit } = set({ without: [l.SCSI_F_HOTPLUG, l.SCSI_F_CHANGE] });
    const buffer = guest.offerEvent();
    model.addUnit(1, rig.unit(rig.device()), model.meter);
    unit.capacityChanged();
    guest.run();
    assert.equal(guest.event(buffer), null);
  });

  test("row 41: an event without a buffer is lost, and the next buffer says so", () => {
    const { guest, rig, model } = set();
    model.addUnit(1, rig.unit(rig.device()), model.meter);
    model.addUnit(2, rig.unit(rig.device()), model.meter);
    guest.run();
    const small = guest.offerEvent(15);
    guest.run();
    assert.equal(guest.event(small)?.usedBytes, 0, "a buffer that is too small goes back empty");
    const first = guest.offerEvent();
    const second = guest.offerEvent();
    guest.run();
    assert.equal(guest.event(first)?.event, l.SCSI_T_EVENTS_MISSED);
    assert.equal(guest.event(second), null, "the loss is told once");
    model.addUnit(3, rig.unit(rig.device()), model.meter);
    guest.run();
    assert.equal(guest.event(second)?.event, l.SCSI_T_TRANSPORT_RESET);
    assert.deepEqual(guest.broken, []);
  });

  test("after a crash everything is to be looked at again", () => {
    const { guest } = set({ resubmit: { 1: [] } });
    const buffer = guest.offerEvent();
    guest.run();
    assert.equal(guest.event(buffer)?.event, l.SCSI_T_EVENTS_MISSED);
  });
});
