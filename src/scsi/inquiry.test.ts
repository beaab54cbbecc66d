// What a unit says of itself: INQUIRY, VPD pages, REPORT LUNS and the other reports, capacities.

import assert from "node:assert/strict";
import { test } from "node:test";
import { be, cdb16 } from "../testing/fakes/cdb.ts";
import { ScsiRig, type TestInitiator } from "./_test-rig.ts";
import { COMMANDS } from "./commands.ts";

const inquiry = (evpd: number, page: number, length: number): number[] => [
  0x12,
  evpd,
  page,
  ...be(length, 2),
  0,
];
const reportLuns = (length: number, select: number = 0): number[] => [
  0xa0,
  0,
  select,
  0,
  0,
  0,
  ...be(length, 4),
  0,
  0,
];

function vpd(one: TestInitiator, page: number): Uint8Array {
  const { status, data } = one.run(inquiry(1, page, 1024), { room: 1024 });
  assert.equal(status, 0);
  assert.equal(data[1], page);
  assert.equal(data.length, 4 + ((data[2] << 8) | data[3]));
  return data;
}

const u32 = (data: Uint8Array, at: number): number => Buffer.from(data).readUInt32BE(at);
const u16 = (data: Uint8Array, at: number): number => Buffer.from(data).readUInt16BE(at);

test("standard data names vendor, standards and what is there", () => {
  const one = new ScsiRig().initiator();
  const { data, residual } = one.run(inquiry(0, 0, 255), { room: 255 });
  assert.equal(data.length, 96);
  assert.equal(residual, 255 - 96);
  assert.deepEqual([...data.slice(0, 8)], [0, 0, 6, 0x12, 91, 0x18, 0x10, 2]);
  assert.equal(Buffer.from(data.slice(8, 36)).toString(), "RINGSTORVOLUME          1   ");
  assert.deepEqual(
    [58, 60, 62, 64].map((at) => u16(data, at)),
    [0xa0, 0x460, 0x4c0, 0x960],
  );
});

test("INQUIRY honours the allocation length and refuses a page without EVPD", () => {
  const one = new ScsiRig().initiator();
  for (const length of [0, 1, 36, 95]) {
    const { data, status } = one.run(inquiry(0, 0, length), { room: 256 });
    assert.deepEqual([status, data.length], [0, length]);
  }
  const wrong = one.run(inquiry(0, 0x83, 255), { room: 255 });
  assert.deepEqual([wrong.sense, wrong.rawSense[17]], [0x052400, 2]);
  assert.equal(one.run(inquiry(1, 0x42, 255), { room: 255 }).sense, 0x052400);
});

test("page 00h lists the pages in order, and each of them answers", () => {
  const one = new ScsiRig().initiator();
  const pages = [...vpd(one, 0).slice(4)];
  assert.deepEqual(pages, [0, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2]);
  for (const page of pages) vpd(one, page);
  assert.equal(Buffer.from(vpd(one, 0x80).slice(4)).toString(), "serial-1");
});

test("page 83h has one NAA on both ports, and each port's own number and group", () => {
  const rig = new ScsiRig({
    groups: [
      { id: 7, state: 0, isPreferred: true, ports: [1] },
      { id: 9, state: 2, isPreferred: false, ports: [2] },
    ],
  });
  const designators = (page: Uint8Array): string[] => {
    const found: string[] = [];
    for (let at = 4; at < page.length; at += 4 + page[at + 3]) {
      const value = Buffer.from(page.slice(at + 4, at + 4 + page[at + 3])).toString("hex");
      found.push(`${(page[at + 1] & 0x3f).toString(16)}:${value}`);
    }
    return found;
  };
  const first = designators(vpd(rig.initiator("iqn.test:a", 1), 0x83));
  const second = designators(vpd(rig.initiator("iqn.test:a", 2), 0x83));
  assert.equal(first[0], "3:600102030405060708090a0b0c0d0e0f");
  assert.equal(second[0], first[0]);
  assert.deepEqual(first.slice(2), ["14:00000001", "15:00000007"]);
  assert.deepEqual(second.slice(2), ["14:00000002", "15:00000009"]);
});

test("page B0h shows the limits that the commands keep", () => {
  const rig = new ScsiRig({ transferBytesMax: 1048576, atomicBytesMax: 65536 });
  const page = vpd(rig.initiator(), 0xb0);
  assert.equal(page.length, 64);
  assert.equal(page[4] & 1, 1, "WSNZ");
  assert.equal(page[5], 128);
  assert.equal(u16(page, 6), 8);
  assert.deepEqual(
    [8, 12, 20, 24, 28].map((at) => u32(page, at)),
    [2048, 128, 1048576, 256, 8],
  );
  assert.equal(u32(page, 40), 32768);
  assert.deepEqual(
    [44, 48, 52, 56].map((at) => u32(page, at)),
    [128, 1, 1, 0],
  );
});

test("pages B0h and B2h and READ CAPACITY (16) follow what the device can discard", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  assert.deepEqual([...vpd(one, 0xb2).slice(4)], [0, 0xe4, 2, 0]);
  assert.equal(one.run(cdb16(0x9e, 0, 32, 0x10), { room: 32 }).data[14], 0xc0);
  rig.device.info.canDiscard = false;
  assert.deepEqual([...vpd(one, 0xb2).slice(4)], [0, 0x04, 0, 0]);
  assert.equal(u32(vpd(one, 0xb0), 20), 0);
  assert.equal(one.run(cdb16(0x9e, 0, 32, 0x10), { room: 32 }).data[14], 0);
});

test("READ CAPACITY shows the last block, and as much as is asked for", () => {
  const rig = new ScsiRig({ blocks: 300 });
  const one = rig.initiator().ready();
  const short = one.run([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], { room: 8 });
  assert.deepEqual([u32(short.data, 0), u32(short.data, 4)], [299, 512]);
  const long = one.run(cdb16(0x9e, 0, 32, 0x10), { room: 32 });
  assert.deepEqual([u32(long.data, 4), u32(long.data, 8), long.data[13]], [299, 512, 3]);
  assert.equal(one.run(cdb16(0x9e, 0, 13, 0x10), { room: 32 }).data.length, 13);
  assert.equal(one.run([0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], { room: 8 }).sense, 0x052400);
  rig.device.info.capacityBytes = 2 ** 42;
  const clipped = one.run([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], { room: 8 });
  assert.equal(u32(clipped.data, 0), 0xffffffff);
});

test("a number without a unit: INQUIRY, REPORT LUNS and REQUEST SENSE answer, nothing else", () => {
  const rig = new ScsiRig();
  rig.target.addUnit(5, rig.makeUnit());
  const one = rig.initiator();
  assert.equal(one.run(inquiry(0, 0, 96), { room: 96, lun: 3 }).data[0], 0x7f);
  const luns = one.run(reportLuns(64), { room: 64, lun: 3 });
  assert.deepEqual([u32(luns.data, 0), luns.data[9], luns.data[17]], [16, 0, 5]);
  const sense = one.run([3, 0, 0, 0, 18, 0], { room: 18, lun: 3 });
  assert.deepEqual([sense.status, sense.data[2], sense.data[12]], [0, 5, 0x25]);
  for (const cdb of [[0, 0, 0, 0, 0, 0], cdb16(0x88, 0, 1), [0xc1, 0, 0, 0, 0, 0]]) {
    assert.equal(one.run(cdb, { room: 512, lun: 3 }).sense, 0x052500);
  }
  rig.checkIdle();
});

test("REPORT LUNS wants room for one number, and knows no well known units", () => {
  const one = new ScsiRig().initiator();
  assert.equal(one.run(reportLuns(15), { room: 15 }).sense, 0x052400);
  assert.equal(one.run(reportLuns(16, 3), { room: 16 }).sense, 0x052400);
  assert.equal(u32(one.run(reportLuns(16, 1), { room: 16 }).data, 0), 0);
});

test("a unit that comes or goes is told, and REPORT LUNS takes the news away", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.target.addUnit(1, rig.makeUnit());
  assert.equal(one.run([0, 0, 0, 0, 0, 0]).sense, 0x063f0e);
  assert.equal(one.run([0, 0, 0, 0, 0, 0]).status, 0);
  let isRemoved = false;
  rig.target.removeUnit(1, () => {
    isRemoved = true;
  });
  assert.ok(isRemoved);
  one.run(reportLuns(64), { room: 64 });
  assert.equal(one.run([0, 0, 0, 0, 0, 0]).status, 0);
  assert.equal(one.run([0, 0, 0, 0, 0, 0], { lun: 1 }).sense, 0x052500);
});

const opcodes = (options: number, opcode: number, action: number): number[] => [
  0xa3,
  0x0c,
  options,
  opcode,
  ...be(action, 2),
  ...be(65535, 4),
  0,
  0,
];

test("every command of the table is listed, described, and its operation code is not refused", () => {
  const rig = new ScsiRig({ atomicBytesMax: 4096, isRemovable: true });
  const one = rig.initiator().ready();
  const list = one.run(opcodes(0x80, 0, 0), { room: 65535 }).data;
  assert.equal(u32(list, 0), list.length - 4);
  assert.equal((list.length - 4) / 20, COMMANDS.length);
  for (const { opcode, action, usage, name } of COMMANDS) {
    const hasAction = action >= 0;
    const right = one.run(opcodes(hasAction ? 2 : 1, opcode, Math.max(0, action)), { room: 512 });
    assert.deepEqual([right.data[1], u16(right.data, 2)], [3, usage.length], name);
    assert.equal(right.data[4], opcode);
    const wrong = one.run(opcodes(hasAction ? 1 : 2, opcode, Math.max(0, action)), { room: 512 });
    assert.equal(wrong.sense, 0x052400, name);
    const cdb = usage.map(() => 0);
    cdb[0] = opcode;
    if (hasAction) cdb[1] = action;
    const ran = one.run(cdb, { room: 512, out: new Uint8Array(512) });
    assert.notEqual(ran.sense, 0x052000, name);
  }
  assert.equal(one.run(opcodes(3, 0xc0, 0), { room: 512 }).data[1], 1);
  assert.equal(one.run(opcodes(4, 0, 0), { room: 512 }).sense, 0x052400);
  rig.checkIdle();
});

test("operation codes and service actions that are not there are refused as what they are", () => {
  const one = new ScsiRig().initiator().ready();
  const known = new Set(COMMANDS.map((command) => command.opcode));
  for (let opcode = 0; opcode < 256; opcode++) {
    if (known.has(opcode)) continue;
    assert.equal(one.run([opcode, ...be(0, 15)], { room: 16 }).sense, 0x052000);
  }
  const action = one.run(cdb16(0x9e, 0, 32, 0x1f), { room: 32 });
  assert.deepEqual([action.sense, action.rawSense[15], action.rawSense[17]], [0x052400, 0xcc, 1]);
});

test("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS in both lengths", () => {
  const one = new ScsiRig().initiator().ready();
  const cdb = (flags: number): number[] => [0xa3, 0x0d, flags, 0, 0, 0, ...be(16, 4), 0, 0];
  assert.deepEqual([...one.run(cdb(0), { room: 16 }).data], [0xdc, 3, 0, 0]);
  assert.equal(one.run(cdb(0x80), { room: 16 }).data.length, 16);
});
