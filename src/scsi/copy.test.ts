// EXTENDED COPY and RECEIVE COPY RESULTS, with the refusals that conformance suites ask for.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EIO } from "../base/index.ts";
import { be, cdb16, pattern } from "../testing/fakes/cdb.ts";
import { ScsiRig, type TestInitiator } from "./_test-rig.ts";

const NAA = [0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

function target(naa: readonly number[] = NAA, lead = 0xe4, flags = 0): number[] {
  const designator = [...naa, ...be(0, 20 - naa.length)];
  return [lead, flags, 0, 0, 1, 3, 0, naa.length, ...designator, 0, 0, 2, 0];
}

function segment(
  from: number,
  to: number,
  blocks: number,
  index: readonly number[] = [0, 0],
): number[] {
  return [
    2,
    0,
    0,
    24,
    ...be(index[0] as number, 2),
    ...be(index[1] as number, 2),
    0,
    0,
    ...be(blocks, 2),
    ...be(from, 8),
    ...be(to, 8),
  ];
}

function list(targets: number[][], segments: number[][], id = 1): Uint8Array {
  const [one, two] = [targets.flat(), segments.flat()];
  return Uint8Array.from([
    id,
    0,
    ...be(one.length, 2),
    0,
    0,
    0,
    0,
    ...be(two.length, 4),
    0,
    0,
    0,
    0,
    ...one,
    ...two,
  ]);
}

function copy(one: TestInitiator, out: Uint8Array, length: number = out.length): number {
  const { status, sense } = one.run([0x83, 0, ...be(0, 8), ...be(length, 4), 0, 0], { out });
  return status === 2 ? sense : status;
}

const results = (action: number, id: number): number[] => [
  0x84,
  action,
  id,
  0,
  0,
  0,
  0,
  0,
  0,
  0,
  ...be(256, 4),
  0,
  0,
];

test("blocks are copied within a unit, also where the ranges overlap", () => {
  const rig = new ScsiRig({ blocks: 2048 });
  const one = rig.initiator().ready();
  const data = pattern(700 * 512, 4);
  for (const [from, to] of [
    [0, 1000],
    [100, 130],
    [130, 100],
  ] as const) {
    rig.device.content.fill(0).set(data, from * 512);
    assert.equal(copy(one, list([target()], [segment(from, to, 700)])), 0);
    assert.deepEqual(rig.device.content.slice(to * 512, (to + 700) * 512), data);
  }
  rig.checkIdle();
});

test("blocks are copied between units of one target, named by NAA or by vendor and serial", () => {
  const rig = new ScsiRig();
  const identity = { ...rig.unit.identity, naa: Uint8Array.of(0x50, 1, 2, 3, 4, 5, 6, 7) };
  const other = rig.makeUnit({ identity });
  const device = rig.makeDevice(512, 512);
  other.setDevice(device);
  rig.target.addUnit(1, other);
  const one = rig.initiator().ready();
  rig.device.content.set(pattern(4096, 1));
  const targets = [target(), target([...identity.naa])];
  assert.equal(copy(one, list(targets, [segment(0, 8, 8, [0, 1])])), 0);
  assert.deepEqual(device.content.slice(4096, 8192), pattern(4096, 1));
  const named = [
    0xe4,
    0,
    0,
    0,
    2,
    1,
    0,
    16,
    ...Buffer.from("RINGSTORserial-1"),
    0,
    0,
    0,
    0,
    0,
    0,
    2,
    0,
  ];
  assert.equal(copy(one, list([named], [segment(0, 100, 1)])), 0);
  assert.deepEqual(rig.device.content.slice(51200, 51712), pattern(4096, 1).slice(0, 512));
  rig.checkIdle();
});

test("list lengths that cut a descriptor are refused; length 0 is no error", () => {
  const one = new ScsiRig().initiator().ready();
  const whole = list([target()], [segment(0, 8, 8)]);
  assert.equal(copy(one, whole, 16 + 31), 0x051a00);
  assert.equal(copy(one, whole, whole.length - 1), 0x051a00);
  assert.equal(copy(one, whole, 15), 0x051a00);
  assert.equal(copy(one, whole, 0), 0);
});

test("too many descriptors are refused by kind, lists beyond the maximum by length", () => {
  const one = new ScsiRig().initiator().ready();
  const times = (count: number, item: number[]): number[][] =>
    Array.from({ length: count }, () => item);
  const none = segment(0, 8, 0);
  assert.equal(copy(one, list(times(8, target()), times(64, none))), 0);
  assert.equal(copy(one, list(times(9, target()), [none])), 0x052606);
  assert.equal(copy(one, list([target()], times(65, none))), 0x052608);
  assert.equal(copy(one, list(times(9, target()), times(65, none))), 0x051a00);
});

test("unknown descriptors, unknown units and ranges beyond the end copy nothing", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.content.fill(7, 0, 512);
  const fine = segment(0, 8, 1);
  const stream = [3, 0, 0, 20, ...be(0, 20)];
  assert.equal(copy(one, list([target(NAA, 0xe0)], [fine])), 0x052607);
  assert.equal(copy(one, list([target()], [fine, stream])), 0x052609);
  assert.equal(copy(one, list([target(NAA, 0xe4, 0x20)], [fine])), 0x0a0d02);
  assert.equal(copy(one, list([target([1, 2, 3])], [fine])), 0x0a0d02);
  assert.equal(copy(one, list([target()], [segment(0, 8, 1, [0, 1])])), 0x0a0d02);
  assert.equal(copy(one, list([target()], [fine, segment(0, 1023, 2)])), 0x0a0000);
  assert.equal(rig.device.content[8 * 512], 0);
  rig.unit.isSoftwareProtected = true;
  assert.equal(copy(one, list([target()], [fine])), 0x072700);
  rig.checkIdle();
});

test("the LU ID TYPE of a descriptor that has a designator is not looked at", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.content.fill(7, 0, 512);
  assert.equal(copy(one, list([target(NAA, 0xe4, 0xc0)], [segment(0, 8, 1)])), 0);
  assert.equal(rig.device.content[8 * 512], 7);
  rig.checkIdle();
});

test("COPY STATUS is there once after a copy, for the nexus that ordered it", () => {
  const rig = new ScsiRig();
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  assert.equal(one.run(results(0, 1), { room: 256 }).sense, 0x052400);
  assert.equal(copy(one, list([target()], [segment(0, 8, 3), segment(0, 16, 4)])), 0);
  assert.equal(two.run(results(0, 1), { room: 256 }).sense, 0x052400);
  const { data } = one.run(results(0, 1), { room: 256 });
  assert.deepEqual([...data], [0, 0, 0, 8, 1, 0, 2, 0xf1, 0, 0, 0, 7]);
  assert.equal(one.run(results(0, 1), { room: 256 }).sense, 0x052400);
  rig.device.result = -EIO;
  assert.equal(copy(one, list([target()], [segment(0, 8, 3)])), 0x0a0d01);
  assert.equal(one.run(results(0, 1), { room: 256 }).data[4], 2);
});

test("OPERATING PARAMETERS show the limits", () => {
  const one = new ScsiRig().initiator().ready();
  const { data } = one.run(results(3, 0), { room: 256 });
  const view = Buffer.from(data);
  assert.equal(view.readUInt32BE(0), data.length - 4);
  assert.deepEqual(
    [view.readUInt16BE(8), view.readUInt16BE(10), view.readUInt32BE(12)],
    [8, 64, 2048],
  );
  assert.deepEqual([...data.slice(43)], [2, 2, 0xe4]);
});

test("reservations of others hold for a copy as they do for its reads and writes", () => {
  const rig = new ScsiRig();
  const one = rig.initiator("iqn.test:a").ready();
  const identity = { ...rig.unit.identity, naa: Uint8Array.of(0x50, 1, 2, 3, 4, 5, 6, 7) };
  const other = rig.makeUnit({ identity });
  other.setDevice(rig.makeDevice(64, 512));
  rig.target.addUnit(1, other);
  one.ready();
  const registrations = [{ transportId: "05000000", relativePort: 9, key: "00000000000000ff" }];
  const record = { generation: 1, aptpl: true, type: 1, holder: 0, registrations };
  other.reservations.replace(record);
  const targets = [target(), target([...identity.naa])];
  assert.equal(copy(one, list(targets, [segment(0, 0, 1, [1, 0])])), 0, "reading is allowed");
  assert.equal(copy(one, list(targets, [segment(0, 0, 1, [0, 1])])), 0x18);
  assert.equal(one.run(cdb16(0x8a, 0, 1), { out: new Uint8Array(512), lun: 1 }).status, 0x18);
});
