// The commands that verify, compare, repeat and unmap, and those about the medium.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EIO } from "../base/index.ts";
import { be, cdb16, pattern, read10, write10 } from "../testing/fakes/cdb.ts";
import { ScsiRig } from "./_test-rig.ts";

const verify = (blocks: number, flags: number): number[] => [
  0x2f,
  flags,
  ...be(4, 4),
  0,
  ...be(blocks, 2),
  0,
];

test("VERIFY of 10, 12 and 16 bytes compares, and names the first byte that differs", () => {
  const rig = new ScsiRig({ blocks: 2048 });
  const one = rig.initiator().ready();
  const data = pattern(600 * 512, 1);
  rig.device.content.set(data, 4 * 512);
  const cdbs = [
    verify(600, 2),
    [0xaf, 2, ...be(4, 4), ...be(600, 4), 0, 0],
    cdb16(0x8f, 4, 600, 2),
  ];
  for (const cdb of cdbs) {
    assert.equal(one.run(cdb, { out: data }).status, 0);
    const other = data.slice();
    other[300001] ^= 1;
    const { sense, rawSense } = one.run(cdb, { out: other });
    assert.equal(sense, 0x0e1d00);
    assert.equal(Buffer.from(rawSense).readUInt32BE(3), 300001);
  }
  rig.checkIdle();
});

test("VERIFY with BYTCHK 0 wants no data, with 3 one block for all, with 2 is refused", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const plain = one.run(verify(3, 0), { out: new Uint8Array(512) });
  assert.deepEqual([plain.status, plain.residual], [0, 512]);
  const block = pattern(512, 7);
  for (let index = 4; index < 7; index++) rig.device.content.set(block, index * 512);
  assert.equal(one.run(verify(3, 6), { out: block }).status, 0);
  rig.device.content[6 * 512 + 9] ^= 4;
  const { sense, rawSense } = one.run(verify(3, 6), { out: block });
  assert.deepEqual([sense, rawSense[6]], [0x0e1d00, 9]);
  assert.equal(one.run(verify(1, 4), { out: block }).sense, 0x052400);
  assert.equal(one.run(verify(1, 0x20)).sense, 0x052400);
  assert.equal(one.run(verify(2, 2), { out: block }).sense, 0x050e03);
  rig.device.result = -EIO;
  assert.equal(one.run(verify(1, 0)).sense, 0x031100);
  rig.checkIdle();
});

test("WRITE AND VERIFY writes durably and compares with BYTCHK", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const out = pattern(1024, 2);
  const cdbs = [
    [0x2e, 2, ...be(8, 4), 0, ...be(2, 2), 0],
    [0xae, 0, ...be(8, 4), ...be(2, 4), 0, 0],
    cdb16(0x8e, 8, 2, 2),
  ];
  for (const [index, cdb] of cdbs.entries()) {
    assert.equal(one.run(cdb, { out }).status, 0);
    assert.equal(rig.device.durableCount, index + 1);
    assert.deepEqual(rig.device.content.slice(8 * 512, 10 * 512), out);
  }
  assert.equal(one.run(cdb16(0x8e, 1023, 2), { out }).sense, 0x052100);
  assert.equal(one.run(cdb16(0x8e, 8, 2, 0x40), { out }).sense, 0x052400);
  rig.checkIdle();
});

test("WRITE AND VERIFY writes the whole blocks it is given, and tells the rest as residual", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const out = pattern(1024, 2);
  for (const check of [0, 2]) {
    const cdbs = [
      [0x2e, check, ...be(8, 4), 0, ...be(2, 2), 0],
      [0xae, check, ...be(8, 4), ...be(2, 4), 0, 0],
      cdb16(0x8e, 8, 2, check),
    ];
    for (const cdb of cdbs) {
      rig.device.content.fill(0xee);
      const none = one.run(cdb);
      assert.deepEqual([none.status, none.residual], [0, -1024]);
      const half = one.run(cdb, { out: out.slice(0, 200) });
      assert.deepEqual([half.sense, half.residual], [0x050e03, 200 - 1024]);
      assert.equal(rig.device.content[8 * 512], 0xee, "a part of a block was written");
      const less = one.run(cdb, { out: out.slice(0, 512) });
      assert.deepEqual([less.status, less.residual], [0, -512]);
      assert.deepEqual(rig.device.content.slice(8 * 512, 9 * 512), out.slice(0, 512));
      assert.equal(rig.device.content[9 * 512], 0xee, "more was written than there was");
      const more = one.run(cdb, { out: pattern(2048, 2) });
      assert.deepEqual([more.status, more.residual], [0, 1024]);
      assert.deepEqual(rig.device.content.slice(8 * 512, 10 * 512), out);
      assert.equal(rig.device.content[10 * 512], 0xee, "more was written than the CDB says");
    }
  }
  rig.checkIdle();
});

test("WRITE SAME repeats its block, also over more than one step", () => {
  const rig = new ScsiRig({ blocks: 4096 });
  const one = rig.initiator().ready();
  const block = pattern(512, 3);
  assert.equal(one.run(cdb16(0x93, 5, 1500), { out: block }).status, 0);
  for (const lba of [5, 6, 700, 1504]) {
    assert.deepEqual(rig.device.content.slice(lba * 512, lba * 512 + 512), block);
  }
  assert.equal(rig.device.content[5 * 512 - 1] + rig.device.content[1505 * 512], 0);
  assert.equal(one.run([0x41, 0, ...be(1, 4), 0, ...be(2, 2), 0], { out: block }).status, 0);
  assert.deepEqual(rig.device.content.slice(1024, 1536), block);
  rig.checkIdle();
});

test("WRITE SAME of zeroes writes no data; UNMAP, NDOB and ANCHOR as page B2h says", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.content.fill(0xff);
  const zeroes = new Uint8Array(512);
  assert.equal(one.run(cdb16(0x93, 0, 8), { out: zeroes }).status, 0);
  assert.equal(rig.device.unmapCount, 0);
  assert.equal(one.run(cdb16(0x93, 8, 8, 0x08), { out: zeroes }).status, 0);
  assert.equal(rig.device.unmapCount, 1);
  assert.equal(one.run(cdb16(0x93, 16, 8, 0x09)).status, 0);
  assert.equal(rig.device.unmapCount, 2);
  assert.equal(rig.device.writeCount, 0);
  assert.ok(rig.device.content.slice(0, 24 * 512).every((byte) => byte === 0));
  assert.equal(rig.device.content[24 * 512], 0xff);
  const withData = one.run(cdb16(0x93, 30, 1, 0x08), { out: pattern(512, 1) });
  assert.equal(withData.status, 0);
  assert.deepEqual(rig.device.content.slice(30 * 512, 31 * 512), pattern(512, 1));
  for (const flags of [0x10, 0x18]) {
    assert.equal(one.run(cdb16(0x93, 0, 1, flags), { out: zeroes }).sense, 0x052400);
  }
  rig.device.info.canDiscard = false;
  assert.equal(one.run(cdb16(0x93, 0, 1, 0x08), { out: zeroes }).sense, 0x052400);
  rig.checkIdle();
});

test("WRITE SAME refuses 0 blocks, too many, and data of another length than a block", () => {
  const rig = new ScsiRig({ blocks: 40000 });
  const one = rig.initiator().ready();
  const zeroes = new Uint8Array(512);
  const none = one.run(cdb16(0x93, 0, 0), { out: zeroes });
  assert.deepEqual([none.sense, none.rawSense[17]], [0x052400, 10]);
  assert.equal(one.run(cdb16(0x93, 0, 32769), { out: zeroes }).sense, 0x052400);
  assert.equal(one.run(cdb16(0x93, 0, 32768), { out: zeroes }).status, 0);
  assert.equal(one.run(cdb16(0x93, 39999, 2), { out: zeroes }).sense, 0x052100);
  for (const bytes of [0, 256, 1024]) {
    const out = new Uint8Array(bytes);
    assert.equal(one.run(cdb16(0x93, 0, 1, 0x08), { out }).sense, 0x050e03);
  }
  rig.checkIdle();
});

function unmapList(ranges: readonly (readonly [number, number])[]): Uint8Array {
  const bytes = ranges.length * 16;
  const descriptors = ranges.flatMap(([lba, blocks]) => [
    ...be(lba, 8),
    ...be(blocks, 4),
    0,
    0,
    0,
    0,
  ]);
  return Uint8Array.from([...be(bytes + 6, 2), ...be(bytes, 2), 0, 0, 0, 0, ...descriptors]);
}
const unmap = (length: number, flags = 0): number[] => [
  0x42,
  flags,
  0,
  0,
  0,
  0,
  0,
  ...be(length, 2),
  0,
];

test("UNMAP zeroes the blocks it names at once, aligned or not, and no others", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.content.fill(0xff);
  const out = unmapList([
    [3, 2],
    [100, 0],
    [64, 8],
  ]);
  assert.equal(one.run(unmap(out.length), { out }).status, 0);
  const zero = (lba: number): boolean => rig.device.content[lba * 512] === 0;
  assert.deepEqual([2, 3, 4, 5, 63, 64, 71, 72, 100].map(zero), [
    false,
    true,
    true,
    false,
    false,
    true,
    true,
    false,
    false,
  ]);
  assert.equal(one.run(unmap(0)).status, 0);
  assert.equal(one.run(unmap(8), { out: unmapList([]) }).status, 0);
  rig.checkIdle();
});

test("UNMAP of ranges that follow each other is one request at the device", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.content.fill(0xff);
  const single = Array.from({ length: 200 }, (_, at) => [10 + at, 1] as const);
  const out = unmapList([...single, [300, 2], [299, 1]]);
  assert.equal(one.run(unmap(out.length), { out }).status, 0);
  assert.equal(rig.device.unmapCount, 3);
  const whole = rig.device.content.filter((_, at) => at % 512 === 0);
  const zeroed = [...whole.entries()].filter(([, byte]) => byte === 0).map(([lba]) => lba);
  assert.deepEqual(zeroed, [...single.map(([lba]) => lba), 299, 300, 301]);
  rig.checkIdle();
});

test("UNMAP refuses ranges beyond the end, too many blocks or descriptors, and does nothing", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.content.fill(0xff);
  const beyond = unmapList([
    [0, 1],
    [1024, 1],
  ]);
  assert.equal(one.run(unmap(beyond.length), { out: beyond }).sense, 0x052100);
  const many = unmapList(Array.from({ length: 257 }, () => [0, 1] as const));
  assert.equal(one.run(unmap(many.length), { out: many }).sense, 0x052600);
  assert.equal(one.run(unmap(7), { out: beyond }).sense, 0x051a00);
  assert.equal(one.run(unmap(beyond.length, 1), { out: beyond }).sense, 0x052400);
  assert.equal(one.run(unmap(100), { out: beyond }).sense, 0x050e03);
  rig.device.info.canDiscard = false;
  assert.equal(one.run(unmap(24), { out: unmapList([[0, 1]]) }).sense, 0x052000);
  assert.ok(rig.device.content.every((byte) => byte === 0xff));
  rig.checkIdle();
});

const compareAndWrite = (lba: number, blocks: number): number[] => [
  0x89,
  0,
  ...be(lba, 8),
  0,
  0,
  0,
  blocks,
  0,
  0,
];

test("COMPARE AND WRITE writes when all is equal, and otherwise says where it differs", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const before = pattern(1024, 1);
  const after = pattern(1024, 2);
  rig.device.content.set(before, 512);
  const out = Uint8Array.from([...before, ...after]);
  assert.equal(one.run(compareAndWrite(1, 2), { out }).status, 0);
  assert.deepEqual(rig.device.content.slice(512, 1536), after);
  const again = one.run(compareAndWrite(1, 2), { out });
  const at = before.findIndex((byte, index) => byte !== after[index]);
  assert.deepEqual([again.sense, again.rawSense[0], again.rawSense[6]], [0x0e1d00, 0xf0, at]);
  assert.deepEqual(rig.device.content.slice(512, 1536), after);
  rig.checkIdle();
});

test("COMPARE AND WRITE refuses more blocks than page B0h says, and data of another length", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const out = new Uint8Array(4 * 512);
  const many = one.run(compareAndWrite(0, 129), { out: new Uint8Array(258 * 512) });
  assert.deepEqual([many.sense, many.rawSense[17]], [0x052400, 13]);
  assert.equal(one.run(compareAndWrite(0, 128), { out: new Uint8Array(256 * 512) }).status, 0);
  assert.equal(one.run(compareAndWrite(0, 1), { out }).sense, 0x050e03);
  assert.equal(one.run(compareAndWrite(0, 3), { out }).sense, 0x050e03);
  assert.equal(one.run(compareAndWrite(1023, 2), { out }).sense, 0x052100);
  assert.equal(one.run(compareAndWrite(0, 0)).status, 0);
  rig.checkIdle();
});

test("of two COMPARE AND WRITE with the same expectation one wins, whatever the device does", () => {
  const rig = new ScsiRig();
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  rig.device.isHolding = true;
  const claim = (value: number): Uint8Array => {
    const out = new Uint8Array(1024);
    out.fill(value, 512);
    return out;
  };
  const a = one.start(compareAndWrite(9, 1), { out: claim(1) });
  const b = two.start(compareAndWrite(9, 1), { out: claim(2) });
  const c = two.start(write10(10, 1), { out: new Uint8Array(512) });
  assert.equal(rig.device.held.length, 2, "the second waits, the neighbour does not");
  rig.device.isHolding = false;
  rig.device.release();
  rig.drain();
  assert.deepEqual([a.answer?.sense, b.answer?.sense, c.answer?.status], [0, 0x0e1d00, 0]);
  assert.equal(rig.device.content[9 * 512], 1);
  rig.checkIdle();
});

test("ORWRITE sets bits, over several steps, and keeps others out meanwhile", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const before = pattern(600 * 512, 1);
  const out = pattern(600 * 512, 2);
  rig.device.content.set(before, 512);
  const orWrite = one.start(cdb16(0x8b, 1, 600), { out });
  const later = one.start(write10(600, 1), { out: new Uint8Array(512) });
  rig.drain();
  assert.equal(orWrite.answer?.status, 0);
  assert.equal(later.answer?.status, 0);
  const expected = before.map((byte, index) => byte | out[index]);
  assert.deepEqual(rig.device.content.slice(512, 600 * 512), expected.slice(0, 599 * 512));
  assert.equal(rig.device.content[600 * 512], 0, "the later write came after");
  assert.equal(one.run(cdb16(0x8b, 1, 1, 0x20), { out: out.slice(0, 512) }).sense, 0x052400);
  rig.checkIdle();
});

test("SYNCHRONIZE CACHE flushes, PRE-FETCH does not; both refuse ranges beyond the end", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const sync10 = [0x35, 0, ...be(0, 4), 0, 0, 0, 0];
  assert.equal(one.run(sync10).status, 0);
  assert.equal(one.run(cdb16(0x91, 0, 1024)).status, 0);
  assert.equal(rig.device.flushCount, 2);
  assert.equal(one.run(cdb16(0x91, 1, 1024)).sense, 0x052100);
  assert.equal(one.run(cdb16(0x90, 0, 0)).status, 0);
  assert.equal(one.run([0x34, 0, ...be(1024, 4), 0, 0, 1, 0]).sense, 0x052100);
  assert.equal(rig.device.flushCount, 2);
  rig.device.result = -EIO;
  assert.equal(one.run(sync10).sense, 0x030c00);
});

test("GET LBA STATUS tells blocks of zeroes from others", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.content.fill(1, 8 * 512, 24 * 512);
  const status = (lba: number, length: number): number[][] => {
    const { data } = one.run(cdb16(0x9e, lba, length, 0x12), { room: length });
    const found: number[][] = [];
    const view = Buffer.from(data);
    for (let at = 8; at + 16 <= data.length; at += 16) {
      found.push([Number(view.readBigUInt64BE(at)), view.readUInt32BE(at + 8), data[at + 12]]);
    }
    return found;
  };
  assert.deepEqual(status(0, 24), [[0, 8, 1]]);
  assert.deepEqual(status(9, 24), [[9, 15, 0]]);
  assert.deepEqual(status(0, 512), [
    [0, 8, 1],
    [8, 16, 0],
    [24, 1000, 1],
  ]);
  assert.equal(one.run(cdb16(0x9e, 1024, 24, 0x12), { room: 24 }).sense, 0x052100);
  assert.equal(one.run(cdb16(0x9e, 0, 0, 0x12), { room: 24 }).status, 0);
  rig.checkIdle();
});

const startStop = (flags: number): number[] => [0x1b, 0, 0, 0, flags, 0];
const ready = [0, 0, 0, 0, 0, 0];

test("a fixed medium cannot be ejected, and stopping it takes it from nobody", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  assert.equal(one.run(startStop(2)).sense, 0x052400);
  assert.equal(one.run(startStop(0)).status, 0);
  assert.equal(rig.device.flushCount, 1);
  assert.equal(one.run(startStop(4)).status, 0);
  assert.equal(rig.device.flushCount, 1, "NO_FLUSH");
  assert.equal(one.run(read10(0, 1), { room: 512 }).status, 0);
});

test("a removable medium is ejected, missed by every command at it, and loaded", () => {
  const rig = new ScsiRig({ isRemovable: true });
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  assert.equal(one.run(startStop(0x12)).status, 0, "a power condition ejects nothing");
  assert.equal(one.run(ready).status, 0);
  assert.equal(one.run(startStop(2)).status, 0);
  for (const cdb of [ready, read10(0, 1), cdb16(0x93, 0, 1), cdb16(0x9e, 0, 32, 0x10)]) {
    assert.equal(one.run(cdb, { room: 512 }).sense, 0x023a00);
  }
  assert.equal(one.run([0x12, 0, 0, 0, 96, 0], { room: 96 }).data[1], 0x80);
  assert.equal(one.run(startStop(3)).status, 0);
  assert.equal(one.run(ready).status, 0);
  assert.equal(two.run(ready).sense, 0x062800);
});

test("removal that any nexus prevents is refused, until it allows it or is gone", () => {
  const rig = new ScsiRig({ isRemovable: true });
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  const prevent = (value: number): number[] => [0x1e, 0, 0, 0, value, 0];
  assert.equal(one.run(prevent(1)).status, 0);
  assert.equal(two.run(prevent(1)).status, 0);
  assert.equal(two.run(startStop(2)).sense, 0x055302);
  assert.equal(two.run(prevent(0)).status, 0);
  assert.equal(two.run(startStop(2)).sense, 0x055302);
  rig.target.removeNexus(one.nexus, () => {});
  assert.equal(two.run(startStop(2)).status, 0);
  assert.equal(two.run(prevent(2)).sense, 0x052400);
});

test("READ DEFECT DATA has empty lists in both lengths", () => {
  const one = new ScsiRig().initiator().ready();
  const short = one.run([0x37, 0, 0x1d, 0, 0, 0, 0, 0, 255, 0], { room: 255 });
  assert.deepEqual([...short.data], [0, 0x1d, 0, 0]);
  const long = one.run([0xb7, 0x0d, 0, 0, 0, 0, ...be(255, 4), 0, 0], { room: 255 });
  assert.deepEqual([...long.data], [0, 0x0d, 0, 0, 0, 0, 0, 0]);
});
