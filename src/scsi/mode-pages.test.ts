// MODE SENSE and MODE SELECT: what is shown, what can be changed, what is refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import { be, write10 } from "../testing/fakes/cdb.ts";
import { ScsiRig, type TestInitiator } from "./_test-rig.ts";

const sense6 = (page: number, length: number, control = 0, subpage = 0): number[] => [
  0x1a,
  0,
  (control << 6) | page,
  subpage,
  length,
  0,
];
const sense10 = (page: number, flags = 0, subpage = 0): number[] => [
  0x5a,
  flags,
  page,
  subpage,
  0,
  0,
  0,
  ...be(1024, 2),
  0,
];
const select6 = (length: number, flags = 0x10): number[] => [0x15, flags, 0, 0, length, 0];
const select10 = (length: number): number[] => [0x55, 0x10, 0, 0, 0, 0, 0, ...be(length, 2), 0];

function page(one: TestInitiator, code: number, control = 0): Uint8Array {
  const { data, status } = one.run(sense6(code, 255, control), { room: 255 });
  assert.equal(status, 0);
  return data.slice(4 + data[3]);
}

function select(one: TestInitiator, pages: readonly number[]): { status: number; sense: number } {
  const out = Uint8Array.from([0, 0, 0, 0, ...pages]);
  return one.run(select6(out.length), { out });
}

test("MODE SENSE (6) shows header, block descriptor and all pages in order", () => {
  const one = new ScsiRig().initiator().ready();
  const { data, residual } = one.run(sense6(0x3f, 255), { room: 255 });
  assert.equal(data[0], data.length - 1);
  assert.deepEqual([...data.slice(1, 12)], [0, 0x10, 8, 0, 0, 4, 0, 0, 0, 2, 0]);
  assert.equal(residual, 255 - data.length);
  const codes: number[] = [];
  for (let at = 12; at < data.length; at += data[at + 1] + 2) codes.push(data[at]);
  assert.deepEqual(codes, [0x01, 0x08, 0x0a, 0x1c]);
  const short = one.run(sense6(0x3f, 4), { room: 4 });
  assert.deepEqual([short.data.length, short.residual], [4, 0]);
});

test("MODE SENSE (10) with LLBAA has the long descriptor, with DBD none, with FFh subpages", () => {
  const one = new ScsiRig().initiator().ready();
  const long = one.run(sense10(0x08, 0x10), { room: 1024 }).data;
  assert.deepEqual([long[4], long[7]], [1, 16]);
  assert.equal(Buffer.from(long).readBigUInt64BE(8), 1024n);
  assert.equal(Buffer.from(long).readUInt32BE(20), 512);
  assert.equal(one.run(sense10(0x08, 0x08), { room: 1024 }).data.length, 28);
  const all = one.run(sense10(0x3f, 0x08, 0xff), { room: 1024 }).data;
  assert.equal(all.length, 8 + 12 + 20 + 12 + 32 + 12);
});

test("saved values, unknown pages and unknown subpages are refused", () => {
  const one = new ScsiRig().initiator().ready();
  assert.equal(one.run(sense6(0x08, 255, 3), { room: 255 }).sense, 0x053900);
  const unknown = one.run(sense6(0x05, 255), { room: 255 });
  assert.deepEqual([unknown.sense, unknown.rawSense[17]], [0x052400, 2]);
  const subpage = one.run(sense6(0x08, 255, 0, 7), { room: 255 });
  assert.deepEqual([subpage.sense, subpage.rawSense[17]], [0x052400, 3]);
});

test("the write cache, D_SENSE and SWP can be changed, and the others hear of it", () => {
  const rig = new ScsiRig();
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  assert.deepEqual(
    [page(one, 0x08, 1)[2], page(one, 0x0a, 1)[2], page(one, 0x0a, 1)[4]],
    [4, 4, 8],
  );
  const caching = page(one, 0x08);
  assert.equal(caching[2], 4);
  caching[2] = 0;
  assert.equal(select(one, [...caching]).status, 0);
  assert.equal(rig.unit.isWriteCached, false);
  assert.equal(rig.device.flushCount, 1, "what the cache held is written");
  const control = page(one, 0x0a);
  control[2] |= 4;
  control[4] |= 8;
  assert.equal(select(one, [...control]).status, 0);
  assert.equal(page(one, 0x0a)[4] & 8, 8);
  assert.equal(one.run(sense6(0x0a, 255), { room: 255 }).data[2], 0x90);
  const refused = one.run(write10(0, 1), { out: new Uint8Array(512) });
  assert.deepEqual([refused.sense, refused.rawSense[0]], [0x072700, 0x72]);
  assert.equal(two.run([0, 0, 0, 0, 0, 0]).sense, 0x062a01);
  assert.equal(one.run([0, 0, 0, 0, 0, 0]).status, 0);
  assert.deepEqual([page(one, 0x08, 2)[2], page(one, 0x0a, 2)[4]], [4, 0], "defaults stay");
  rig.checkIdle();
});

test("MODE SELECT with what is there already changes nothing and tells nobody", () => {
  const rig = new ScsiRig();
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  assert.equal(select(one, [...page(one, 0x08), ...page(one, 0x0a)]).status, 0);
  const out = Uint8Array.from([
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    8,
    ...be(1024, 4),
    ...be(512, 4),
    ...page(one, 8),
  ]);
  assert.equal(one.run(select10(out.length), { out }).status, 0);
  assert.equal(two.run([0, 0, 0, 0, 0, 0]).status, 0);
});

test("MODE SELECT refuses what is fixed, cut, unknown or to be saved, and changes nothing", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const control = page(one, 0x0a);
  const fixed = [...control];
  fixed[2] = 0x42;
  const changed = [...control];
  changed[2] |= 4;
  assert.equal(select(one, fixed).sense, 0x052600);
  assert.equal(select(one, changed.slice(0, 11)).sense, 0x051a00);
  assert.equal(select(one, [...changed, 0x05, 2, 0, 0]).sense, 0x052600);
  assert.equal(rig.unit.isDescriptorSense, false);
  const list = Uint8Array.from([0, 0, 0, 0, ...changed]);
  assert.equal(one.run(select6(list.length, 0x11), { out: list }).sense, 0x052400);
  assert.equal(one.run(select6(list.length, 0x00), { out: list }).sense, 0x052400);
  assert.equal(one.run(select6(3), { out: list }).sense, 0x051a00);
  assert.equal(one.run(select6(0)).status, 0);
  const wrongBlock = Uint8Array.from([0, 0, 0, 8, 0, 0, 0, 0, ...be(4096, 4), ...changed]);
  assert.equal(one.run(select6(wrongBlock.length), { out: wrongBlock }).sense, 0x052600);
  assert.equal(rig.unit.isDescriptorSense, false);
  rig.checkIdle();
});

test("a logical unit reset brings the defaults back", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.unit.isWriteCached = false;
  rig.unit.isSoftwareProtected = true;
  assert.equal(one.manage(3).response, 0);
  assert.deepEqual([rig.unit.isWriteCached, rig.unit.isSoftwareProtected], [true, false]);
  assert.equal(one.run([0, 0, 0, 0, 0, 0]).sense, 0x062903);
});
