// The life of tasks: order, task management, nexuses that are lost, unit attentions, access states.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { be, cdb16, read10, write10 } from "../testing/fakes/cdb.ts";
import { isWaiting, ScsiRig } from "./_test-rig.ts";
import { decodeLun } from "./target.ts";
import {
  ATTRIBUTE_ACA,
  ATTRIBUTE_HEAD_OF_QUEUE,
  ATTRIBUTE_ORDERED,
  TMF_ABORT_TASK,
  TMF_ABORT_TASK_SET,
  TMF_CLEAR_ACA,
  TMF_CLEAR_TASK_SET,
  TMF_COMPLETE,
  TMF_I_T_NEXUS_RESET,
  TMF_INCORRECT_LUN,
  TMF_LOGICAL_UNIT_RESET,
  TMF_QUERY_TASK,
  TMF_QUERY_TASK_SET,
  TMF_REJECTED,
  TMF_SUCCEEDED,
  TMF_TARGET_RESET,
} from "./task.ts";

const READY = [0, 0, 0, 0, 0, 0];
const BLOCK = new Uint8Array(512);

test("an ORDERED task waits for earlier tasks of its nexus, and later ones wait for it", () => {
  const rig = new ScsiRig();
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  rig.device.isHolding = true;
  one.start(read10(0, 1), { room: 512 });
  const ordered = one.start(read10(1, 1), { room: 512, attribute: ATTRIBUTE_ORDERED });
  const later = one.start(read10(2, 1), { room: 512 });
  const other = two.start(read10(3, 1), { room: 512 });
  const head = one.start(read10(4, 1), { room: 512, attribute: ATTRIBUTE_HEAD_OF_QUEUE });
  const atDevice = (): number[] =>
    rig.device.held.map((slot) => rig.requests.offsetBytes[slot] / 512);
  assert.deepEqual(atDevice(), [0, 3, 4]);
  rig.device.release(1);
  rig.drain();
  assert.deepEqual(atDevice(), [3, 4, 1]);
  assert.ok(isWaiting(later));
  rig.device.release();
  rig.drain();
  assert.deepEqual(atDevice(), [2]);
  rig.device.release();
  rig.drain();
  for (const pending of [ordered, later, other, head]) assert.equal(pending.answer?.status, 0);
  rig.checkIdle();
});

test("an ORDERED task waits for a write whose data has not come", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const slow = one.start(write10(0, 1), { out: BLOCK, isSlow: true });
  const ordered = one.start(read10(0, 1), { room: 512, attribute: ATTRIBUTE_ORDERED });
  rig.drain();
  assert.ok(isWaiting(ordered));
  slow.arrive();
  rig.drain();
  assert.equal(ordered.answer?.status, 0);
  rig.checkIdle();
});

test("a task with the ACA attribute is refused", () => {
  const one = new ScsiRig().initiator().ready();
  assert.equal(one.run(READY, { attribute: ATTRIBUTE_ACA }).sense, 0x052400);
});

describe("task management", () => {
  test("ABORT TASK is answered when the device has let go, and the task has no status", () => {
    const rig = new ScsiRig();
    const one = rig.initiator().ready();
    rig.device.isHolding = true;
    const pending = one.start(read10(0, 1), { room: 512 });
    assert.equal(one.manage(TMF_QUERY_TASK, pending.task).response, TMF_SUCCEEDED);
    const abort = one.manage(TMF_ABORT_TASK, pending.task);
    assert.deepEqual([abort.response, pending.answer], [-1, null]);
    rig.device.release();
    rig.drain();
    assert.equal(pending.answer?.isAborted, true);
    assert.equal(abort.response, TMF_COMPLETE);
    assert.equal(one.manage(TMF_ABORT_TASK, pending.task).response, TMF_COMPLETE);
    assert.equal(one.manage(TMF_QUERY_TASK, pending.task).response, TMF_COMPLETE);
    rig.checkIdle();
  });

  test("a task that waits for data or for its turn ends at once, and others go on", () => {
    const rig = new ScsiRig();
    const one = rig.initiator().ready();
    rig.device.isHolding = true;
    const first = one.start(read10(0, 1), { room: 512 });
    const ordered = one.start(read10(1, 1), { room: 512, attribute: ATTRIBUTE_ORDERED });
    const last = one.start(read10(2, 1), { room: 512 });
    const slow = one.start(write10(0, 1), { out: BLOCK, isSlow: true });
    assert.equal(one.manage(TMF_ABORT_TASK, slow.task).response, TMF_COMPLETE);
    slow.arrive();
    assert.equal(one.manage(TMF_ABORT_TASK, ordered.task).response, TMF_COMPLETE);
    assert.deepEqual([slow.answer?.isAborted, ordered.answer?.isAborted], [true, true]);
    assert.equal(rig.device.held.length, 2, "the last one has gone to the device");
    rig.device.release();
    rig.drain();
    assert.deepEqual([first.answer?.status, last.answer?.status], [0, 0]);
    rig.checkIdle();
  });

  test("a command of several steps stops at the next one", () => {
    const rig = new ScsiRig({ blocks: 4096 });
    const one = rig.initiator().ready();
    const block = new Uint8Array(512).fill(1);
    rig.device.isHolding = true;
    const pending = one.start(cdb16(0x93, 0, 4096), { out: block });
    const abort = one.manage(TMF_ABORT_TASK, pending.task);
    rig.device.release();
    rig.drain();
    assert.equal(abort.response, TMF_COMPLETE);
    assert.equal(rig.device.writeCount, 1);
    rig.checkIdle();
  });

  test("ABORT and CLEAR TASK SET stop the tasks of one nexus only", () => {
    for (const management of [TMF_ABORT_TASK_SET, TMF_CLEAR_TASK_SET]) {
      const rig = new ScsiRig();
      const one = rig.initiator("iqn.test:a").ready();
      const two = rig.initiator("iqn.test:b").ready();
      rig.device.isHolding = true;
      const mine = one.start(read10(0, 1), { room: 512 });
      const theirs = two.start(read10(0, 1), { room: 512 });
      assert.equal(one.manage(TMF_QUERY_TASK_SET).response, TMF_SUCCEEDED);
      const outcome = one.manage(management);
      rig.device.release();
      rig.drain();
      assert.equal(outcome.response, TMF_COMPLETE);
      assert.deepEqual([mine.answer?.isAborted, theirs.answer?.isAborted], [true, false]);
      assert.equal(one.manage(TMF_QUERY_TASK_SET).response, TMF_COMPLETE);
      rig.checkIdle();
    }
  });

  test("resets stop everybody's tasks and tell everybody; a target reset, of all units", () => {
    for (const management of [TMF_LOGICAL_UNIT_RESET, TMF_TARGET_RESET]) {
      const rig = new ScsiRig();
      const second = rig.makeUnit();
      second.setDevice(rig.device);
      rig.target.addUnit(1, second);
      const one = rig.initiator("iqn.test:a").ready().ready(1);
      const two = rig.initiator("iqn.test:b").ready().ready(1);
      rig.device.isHolding = true;
      const pending = [
        one.start(read10(0, 1), { room: 512 }),
        two.start(read10(0, 1), { room: 512 }),
        two.start(read10(0, 1), { room: 512, lun: 1 }),
      ];
      const outcome = one.manage(management);
      rig.device.release(1);
      rig.drain();
      assert.equal(outcome.response, -1, "one of them has not ended");
      rig.device.release();
      rig.drain();
      assert.equal(outcome.response, TMF_COMPLETE);
      const isTarget = management === TMF_TARGET_RESET;
      assert.deepEqual(
        pending.map((one) => one.answer?.isAborted),
        [true, true, isTarget],
      );
      assert.deepEqual([one.run(READY).sense, two.run(READY).sense], [0x062903, 0x062903]);
      assert.equal(two.run(READY, { lun: 1 }).sense, isTarget ? 0x062903 : 0);
      rig.checkIdle();
    }
  });

  test("numbers without a unit and CLEAR ACA are refused as what they are", () => {
    const one = new ScsiRig().initiator().ready();
    assert.equal(one.manage(TMF_LOGICAL_UNIT_RESET, -1, 4).response, TMF_INCORRECT_LUN);
    assert.equal(one.manage(TMF_CLEAR_ACA).response, TMF_REJECTED);
    assert.equal(one.manage(99).response, TMF_REJECTED);
  });

  test("another nexus's task cannot be aborted", () => {
    const rig = new ScsiRig();
    const one = rig.initiator("iqn.test:a").ready();
    const two = rig.initiator("iqn.test:b").ready();
    rig.device.isHolding = true;
    const pending = one.start(read10(0, 1), { room: 512 });
    assert.equal(two.manage(TMF_ABORT_TASK, pending.task).response, TMF_COMPLETE);
    rig.device.release();
    rig.drain();
    assert.equal(pending.answer?.isAborted, false);
  });

  test("I_T NEXUS RESET stops the nexus's tasks and ends what it held", () => {
    const rig = new ScsiRig();
    const one = rig.initiator().ready();
    assert.equal(one.run([0x16, 0, 0, 0, 0, 0]).status, 0);
    const slow = one.start(write10(0, 1), { out: BLOCK, isSlow: true });
    assert.equal(one.manage(TMF_I_T_NEXUS_RESET).response, TMF_COMPLETE);
    assert.equal(slow.answer?.isAborted, true);
    assert.equal(rig.unit.reserver, null);
    assert.equal(one.run(READY).sense, 0x062907);
  });
});

test("a lost nexus is gone when the device has let go of its memory; its place is used again", () => {
  const rig = new ScsiRig();
  const one = rig.initiator("iqn.test:a").ready();
  rig.device.isHolding = true;
  const pending = one.start(read10(0, 1), { room: 512 });
  const slow = one.start(write10(0, 1), { out: BLOCK, isSlow: true });
  let isGone = false;
  rig.target.removeNexus(one.nexus, () => {
    isGone = true;
  });
  assert.deepEqual([slow.answer?.isAborted, pending.answer, isGone], [true, null, false]);
  rig.device.release();
  rig.drain();
  assert.deepEqual([pending.answer?.isAborted, isGone], [true, true]);
  rig.device.isHolding = false;
  const two = rig.initiator("iqn.test:b");
  assert.equal(two.nexus, one.nexus);
  assert.equal(two.run(READY).sense, 0x062900);
  assert.equal(two.run(READY).status, 0);
  rig.checkIdle();
});

test("a unit is taken away when its tasks have ended", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.isHolding = true;
  const pending = one.start(read10(0, 1), { room: 512 });
  let isGone = false;
  rig.target.removeUnit(0, () => {
    isGone = true;
  });
  assert.equal(one.run(READY).sense, 0x052500);
  assert.equal(isGone, false);
  rig.device.release();
  rig.drain();
  assert.deepEqual([isGone, pending.answer?.isAborted], [true, true]);
  rig.unit.close();
  rig.checkIdle();
});

test("a place that is held answers as a disk that becomes ready, until its volume takes it", () => {
  const rig = new ScsiRig();
  rig.target.addUnit(3, rig.makeUnit({ isPending: true }));
  const one = rig.initiator().ready();
  const at = { lun: 3 };
  assert.equal(one.run(READY, at).sense, 0x062900);
  const luns = one.run([0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], { room: 64, ...at }).data;
  assert.deepEqual([luns[3], luns[9], luns[17]], [16, 0, 3]);
  const inquiry = one.run([0x12, 0, 0, 0, 96, 0], { room: 96, ...at });
  assert.deepEqual([inquiry.status, inquiry.data[0]], [0, 0], "a disk");
  assert.deepEqual(inquiry.data, one.run([0x12, 0, 0, 0, 96, 0], { room: 96 }).data);
  const serial = [0x12, 1, 0x80, 0, 64, 0];
  assert.deepEqual(one.run(serial, { room: 64, ...at }).data, one.run(serial, { room: 64 }).data);
  for (const [cdb, more] of [
    [READY, {}],
    [read10(0, 1), { room: 512 }],
    [write10(0, 1), { out: BLOCK }],
    [[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], {}],
    [[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], { room: 8 }],
    [[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], { room: 256 }],
    [[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], { room: 256 }],
    [[0xff, 0, 0, 0, 0, 0], {}],
  ] as const) {
    assert.equal(one.run(cdb, { ...more, ...at }).sense, 0x020401, `command ${cdb[0]}`);
  }
  // REQUEST SENSE is answered, and says why.
  const sense = one.run([3, 0, 0, 0, 18, 0], { room: 18, ...at }).data;
  assert.deepEqual([sense[2], sense[12], sense[13]], [2, 4, 1]);
  assert.equal(one.manage(TMF_LOGICAL_UNIT_RESET, -1, 3).response, TMF_COMPLETE);
  assert.equal(one.run(READY, at).sense, 0x062903);

  one.attentions.length = 0;
  const unit = rig.makeUnit();
  unit.setDevice(rig.device);
  rig.target.exchangeUnit(3, unit).close();
  assert.deepEqual(one.attentions, [0x2900, 0x2a09], "to this unit alone, and none is gone");
  assert.equal(one.run(READY).status, 0);
  assert.equal(one.run(READY, at).sense, 0x062900);
  assert.equal(one.run(READY, at).sense, 0x062a09);
  assert.equal(one.run(write10(0, 1), { out: BLOCK, ...at }).status, 0);
  const late = rig.initiator("iqn.2026-01.test:b").ready(3);
  assert.equal(late.run(read10(0, 1), { room: 512, ...at }).status, 0);
  assert.throws(() => rig.target.exchangeUnit(3, rig.makeUnit()), /a unit that serves/);
  rig.checkIdle();
});

test("a nexus that goes with its unit is gone when the tasks of that unit have ended, too", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.isHolding = true;
  const pending = one.start(read10(0, 1), { room: 512 });
  const events: string[] = [];
  rig.target.removeUnit(0, () => events.push("unit"));
  rig.target.removeNexus(one.nexus, () => events.push("nexus"));
  assert.deepEqual(events, []);
  rig.device.release();
  rig.drain();
  assert.equal(pending.answer?.isAborted, true);
  assert.deepEqual(events, ["unit", "nexus"]);
  rig.checkIdle();
});

test("unit attentions come one at a time, oldest first, and once; INQUIRY passes them by", () => {
  const rig = new ScsiRig();
  const one = rig.initiator();
  rig.unit.capacityChanged();
  rig.unit.capacityChanged();
  rig.unit.inquiryChanged();
  rig.unit.spaceRunsLow();
  assert.deepEqual(one.attentions, [0x2900, 0x2a09, 0x3f03, 0x3807]);
  assert.equal(one.run([0x12, 0, 0, 0, 96, 0], { room: 96 }).status, 0);
  assert.equal(one.run([0xc0, ...be(0, 15)]).sense, 0x062900, "before the operation code");
  const sense = one.run([3, 0, 0, 0, 252, 0], { room: 252 });
  assert.deepEqual([sense.data[2], sense.data[12], sense.data[13]], [6, 0x2a, 9]);
  assert.equal(one.run([3, 1, 0, 0, 252, 0], { room: 252 }).data[0], 0x72);
  assert.equal(one.run(READY).sense, 0x063807);
  assert.equal(one.run(READY).status, 0);
});

describe("asymmetric access", () => {
  const groups = (first: number, second: number) => [
    { id: 1, state: first, isPreferred: true, ports: [1] },
    { id: 2, state: second, isPreferred: false, ports: [2] },
  ];
  const report = [0xa3, 0x0a, 0, 0, 0, 0, ...be(255, 4), 0, 0];

  test("REPORT TARGET PORT GROUPS shows states and ports, the same through every port", () => {
    const rig = new ScsiRig({ groups: groups(0, 2) });
    const expected = [
      0, 0, 0, 24, 0x80, 0x8f, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1, 0x02, 0x8f, 0, 2, 0, 2, 0, 1, 0, 0, 0,
      2,
    ];
    for (const port of [1, 2]) {
      const one = rig.initiator("iqn.test:a", port);
      one.run(READY);
      assert.deepEqual([...one.run(report, { room: 255 }).data], expected);
    }
  });

  test("standby answers what is about the unit, not what is about the medium", () => {
    const rig = new ScsiRig({ groups: groups(0, 2) });
    const two = rig.initiator("iqn.test:a", 2);
    assert.equal(two.run(READY).sense, 0x062900);
    for (const cdb of [READY, read10(0, 1), write10(0, 1), cdb16(0x8b, 0, 1)]) {
      assert.equal(two.run(cdb, { room: 512, out: BLOCK }).sense, 0x02040b);
    }
    const fine = [
      [0x12, 0, 0, 0, 96, 0],
      [0x1a, 0, 8, 0, 255, 0],
      [0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0],
      report,
      [3, 0, 0, 0, 18, 0],
      cdb16(0x9e, 0, 32, 0x10),
    ];
    for (const cdb of fine) assert.equal(two.run(cdb, { room: 255 }).status, 0);
  });

  test("a change of state is told, and holds at once", () => {
    const rig = new ScsiRig({ groups: groups(0, 2) });
    const one = rig.initiator("iqn.test:a", 1).ready();
    rig.unit.setGroups(groups(0xf, 0xf));
    assert.equal(one.run(READY).sense, 0x062a06);
    assert.equal(one.run(READY).sense, 0x02040a);
    assert.equal(one.run([0x1a, 0, 8, 0, 255, 0], { room: 255 }).sense, 0x02040a);
    rig.unit.setGroups(groups(3, 0));
    one.run(READY);
    assert.equal(one.run(READY).sense, 0x02040c);
    rig.unit.setGroups(groups(1, 0));
    one.run(READY);
    assert.equal(one.run(READY).status, 0);
  });

  test("a unit without its volume is as in standby, also for commands on their way", () => {
    const rig = new ScsiRig();
    const one = rig.initiator().ready();
    const slow = one.start(write10(0, 1), { out: BLOCK, isSlow: true });
    const compare = one.start(cdb16(0x8b, 0, 1), { out: BLOCK, isSlow: true });
    rig.unit.setDevice(null);
    slow.arrive();
    compare.arrive();
    rig.drain();
    assert.deepEqual([slow.answer?.sense, compare.answer?.sense], [0x02040b, 0x02040b]);
    assert.equal(one.run(READY).sense, 0x02040b);
    assert.equal(one.run([0x12, 1, 0xb0, 0, 64, 0], { room: 64 }).status, 0);
    const capacity = cdb16(0x9e, 0, 32, 0x10);
    assert.equal(one.run(capacity, { room: 32 }).sense, 0x02040b);
    rig.unit.setDevice(null, rig.device.info);
    assert.equal(one.run(capacity, { room: 32 }).data[6], 3, "1023 is the last block");
    rig.checkIdle();
  });
});

test("numbers in peripheral and flat addressing are understood, others are none", () => {
  const lun = (...bytes: number[]): number =>
    decodeLun(Uint8Array.from([...bytes, 0, 0, 0, 0, 0, 0]), 0);
  assert.deepEqual([lun(0, 7), lun(0x40, 7), lun(0x41, 2)], [7, 7, 258]);
  assert.deepEqual([lun(1, 7), lun(0x80, 7), lun(0xc1, 1)], [-1, -1, -1]);
  assert.equal(decodeLun(Uint8Array.of(0, 7, 0, 1, 0, 0, 0, 0), 0), -1);
});

test("commands that need scratch memory share a few buffers and all end", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.isHolding = true;
  const verify = [0x2f, 2, ...be(0, 4), 0, 0, 1, 0];
  const all = Array.from({ length: 20 }, () => one.start(verify, { out: BLOCK }));
  assert.equal(rig.device.held.length, 8);
  const abort = one.manage(TMF_ABORT_TASK, all[15]?.task);
  assert.equal(abort.response, TMF_COMPLETE);
  rig.device.isHolding = false;
  rig.device.release();
  rig.drain();
  const ended = all.filter((pending) => pending.answer?.status === 0 && !pending.answer.isAborted);
  assert.equal(ended.length, 19);
  rig.checkIdle();
});
