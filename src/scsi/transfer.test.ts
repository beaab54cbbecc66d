// READ and WRITE of every length, residuals, refusals with their field pointers.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EIO, ENOSPC, FLAG_FAULTABLE } from "../base/index.ts";
import { be, cdb16, pattern, read10, write10 } from "../testing/fakes/cdb.ts";
import { isWaiting, ScsiRig, UNTOUCHED } from "./_test-rig.ts";
import { MAP_BUSY, MAP_FAULT } from "./task.ts";

const read6 = (lba: number, blocks: number): number[] => [0x08, ...be(lba, 3), blocks, 0];
const write6 = (lba: number, blocks: number): number[] => [0x0a, ...be(lba, 3), blocks, 0];
const cdb12 = (code: number, lba: number, blocks: number): number[] => [
  code,
  0,
  ...be(lba, 4),
  ...be(blocks, 4),
  0,
  0,
];

for (const blockBytes of [512, 4096]) {
  describe(`blocks of ${blockBytes} bytes`, () => {
    test("what each WRITE writes each READ reads", () => {
      const rig = new ScsiRig({ blockBytes });
      const one = rig.initiator().ready();
      const writes = [write6(3, 2), write10(3, 2), cdb12(0xaa, 3, 2), cdb16(0x8a, 3, 2)];
      const reads = [read6(3, 2), read10(3, 2), cdb12(0xa8, 3, 2), cdb16(0x88, 3, 2)];
      for (const [index, write] of writes.entries()) {
        const out = pattern(2 * blockBytes, index);
        const written = one.run(write, { out });
        assert.equal(written.status, 0);
        assert.equal(written.residual, 0);
        for (const read of reads) {
          const answer = one.run(read, { room: out.length });
          assert.equal(answer.status, 0);
          assert.deepEqual(answer.data, out);
        }
      }
      assert.equal(rig.device.content[3 * blockBytes - 1], 0);
      assert.equal(rig.device.content[5 * blockBytes], 0);
      rig.checkIdle();
    });

    test("the last block is there, the one behind is out of range", () => {
      const rig = new ScsiRig({ blockBytes, blocks: 300 });
      const one = rig.initiator().ready();
      assert.equal(one.run(read10(299, 1), { room: blockBytes }).status, 0);
      for (const cdb of [
        read10(300, 1),
        read10(299, 2),
        read6(299, 0),
        cdb16(0x88, 2 ** 50, 1),
        cdb12(0xa8, 1, 300),
        cdb16(0x88, 300, 1),
        write10(300, 1),
        read10(301, 0),
      ]) {
        const answer = one.run(cdb, { room: blockBytes, out: new Uint8Array(blockBytes) });
        assert.equal(answer.status, 2);
        assert.equal(answer.sense, 0x052100, `cdb ${cdb}`);
        assert.equal(answer.movedBytes, 0);
      }
      const huge = [0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0];
      assert.equal(one.run(huge, { room: blockBytes }).sense, 0x052100);
      rig.checkIdle();
    });
  });
}

test("READ (6) and WRITE (6) of 0 blocks are 256 blocks, the others of 0 move nothing", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const out = pattern(256 * 512, 5);
  assert.equal(one.run(write6(1, 0), { out }).movedBytes, out.length);
  assert.deepEqual(one.run(read6(1, 0), { room: out.length }).data, out);
  const none = one.run(read10(1, 0), { room: 512 });
  assert.deepEqual([none.status, none.movedBytes, none.residual], [0, 0, 512]);
  rig.checkIdle();
});

test("a READ into less room than it asks for fills the room and reports the overflow", () => {
  const rig = new ScsiRig();
  rig.device.content.set(pattern(4096, 9));
  const one = rig.initiator().ready();
  for (const room of [0, 1, 200, 512, 700, 1024, 2048, 10000]) {
    const answer = one.run(read10(0, 2), { room });
    assert.equal(answer.status, 0);
    const moved = Math.min(room, 1024);
    assert.equal(answer.movedBytes, moved);
    assert.equal(answer.residual, room - 1024);
    assert.deepEqual(answer.data, rig.device.content.slice(0, moved));
    assert.ok(answer.buffer.subarray(moved).every((byte) => byte === UNTOUCHED));
  }
  rig.checkIdle();
});

test("a WRITE with less data than it asks for writes whole blocks and reports the overflow", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const nothing = one.run(write10(0, 1));
  assert.deepEqual([nothing.status, nothing.residual], [0, -512]);
  const half = one.run(write10(0, 2), { out: pattern(512, 1) });
  assert.deepEqual([half.status, half.residual, half.movedBytes], [0, -512, 512]);
  assert.deepEqual(rig.device.content.slice(0, 512), pattern(512, 1));
  assert.equal(rig.device.content[512], 0);
  const part = one.run(write10(4, 1), { out: pattern(200, 1) });
  assert.deepEqual([part.status, part.sense, part.residual], [2, 0x050e03, -312]);
  assert.equal(rig.device.writeCount, 1);
  const more = one.run(write10(8, 1), { out: pattern(1024, 2) });
  assert.deepEqual([more.status, more.residual, more.movedBytes], [0, 512, 512]);
  assert.equal(rig.device.content[9 * 512], 0);
  rig.checkIdle();
});

test("data-out that comes later is asked for once, and only as much as is wanted", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const pending = one.start(write10(2, 1), { out: pattern(2048, 3), isSlow: true });
  assert.equal(pending.wantsOut, 512);
  assert.equal(rig.requests.freeSlots, 64, "no slot is held while data is awaited");
  rig.drain();
  assert.ok(isWaiting(pending));
  pending.arrive();
  rig.drain();
  assert.equal(pending.answer?.status, 0);
  pending.arrive();
  assert.deepEqual(rig.device.content.slice(1024, 1536), pattern(2048, 3).slice(0, 512));
  rig.checkIdle();
});

test("protection, NACA and lengths above the maximum are refused with a pointer to the field", () => {
  const rig = new ScsiRig({ transferBytesMax: 8192 });
  const one = rig.initiator().ready();
  const naca = read10(0, 1);
  naca[9] = 4;
  const cases: readonly (readonly [number[], number, number])[] = [
    [read10(0, 1, 0x20), 1, 7],
    [read10(0, 17), 7, 7],
    [cdb16(0x8a, 0, 17), 10, 7],
    [naca, 9, 2],
  ];
  for (const [cdb, byte, bit] of cases) {
    const { sense, rawSense } = one.run(cdb, { room: 16384, out: new Uint8Array(16384) });
    assert.equal(sense, 0x052400);
    assert.equal(rawSense[15], 0xc8 | bit);
    assert.equal((rawSense[16] << 8) | rawSense[17], byte);
  }
  assert.equal(one.run(read10(0, 16), { room: 8192 }).status, 0);
  rig.checkIdle();
});

test("FUA and a cache that is off make writes durable", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const out = new Uint8Array(512);
  one.run(write10(0, 1), { out });
  assert.equal(rig.device.durableCount, 0);
  one.run(write10(0, 1, 0x08), { out });
  assert.equal(rig.device.durableCount, 1);
  rig.unit.isWriteCached = false;
  one.run(write6(0, 1), { out });
  assert.equal(rig.device.durableCount, 2);
});

test("a unit that is read-only, software protected or on a read-only device refuses writes", () => {
  const out = new Uint8Array(512);
  const readOnly = new ScsiRig({ isReadOnly: true });
  assert.equal(readOnly.initiator().ready().run(write10(0, 1), { out }).sense, 0x072700);
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.unit.isSoftwareProtected = true;
  assert.equal(one.run(write10(0, 1), { out }).sense, 0x072700);
  rig.unit.isSoftwareProtected = false;
  rig.device.info.readOnly = true;
  for (const cdb of [write10(0, 1), cdb16(0x93, 0, 1), cdb16(0x8b, 0, 1), cdb16(0x8e, 0, 1)]) {
    assert.equal(one.run(cdb, { out }).sense, 0x072700);
  }
  assert.equal(one.run(read10(0, 1), { room: 512 }).status, 0);
});

test("what the device answers becomes sense data, with the address of a single block", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.device.result = -EIO;
  const read = one.run(read10(77, 1), { room: 512 });
  assert.equal(read.sense, 0x031100);
  assert.equal(read.rawSense[0], 0xf0);
  assert.equal(read.rawSense[6], 77);
  const many = one.run(read10(77, 2), { room: 1024 });
  assert.equal(many.rawSense[0], 0x70);
  assert.equal(one.run(write10(0, 1), { out: new Uint8Array(512) }).sense, 0x030c00);
  rig.device.result = -ENOSPC;
  assert.equal(one.run(write10(0, 1), { out: new Uint8Array(512) }).sense, 0x072707);
  rig.checkIdle();
});

test("D_SENSE gives descriptors with a field pointer and 64-bit information", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  rig.unit.isDescriptorSense = true;
  const { rawSense } = one.run(read10(0, 1, 0x20), { room: 512 });
  assert.deepEqual([...rawSense], [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcf, 0, 1, 0]);
  rig.device.result = -EIO;
  const failed = one.run(read10(77, 1), { room: 512 }).rawSense;
  assert.deepEqual([...failed.slice(7)], [12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 77]);
});

test("WRITE ATOMIC is there when the device can, up to its length and without boundaries", () => {
  const out = new Uint8Array(2048).fill(1);
  const atomic = (blocks: number, boundary: number): number[] => [
    0x9c,
    0,
    ...be(4, 8),
    ...be(boundary, 2),
    ...be(blocks, 2),
    0,
    0,
  ];
  const without = new ScsiRig().initiator().ready();
  assert.equal(without.run(atomic(1, 0), { out }).sense, 0x052000);
  const rig = new ScsiRig({ atomicBytesMax: 1024 });
  const one = rig.initiator().ready();
  assert.equal(one.run(atomic(2, 0), { out: out.subarray(0, 1024) }).status, 0);
  assert.equal(rig.device.content[6 * 512 - 1], 1);
  assert.equal(one.run(atomic(3, 0), { out }).sense, 0x052400);
  assert.equal(one.run(atomic(1, 1), { out }).sense, 0x052400);
  const half = one.run(atomic(2, 0), { out: out.subarray(0, 512) });
  assert.equal(half.sense, 0x050e03, "half an atomic write");
  rig.checkIdle();
});

test("memory that is not there, no buffer, no slot: a status each, nothing left over", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  one.mapAnswer = MAP_FAULT;
  assert.equal(one.run(read10(0, 1), { room: 512 }).sense, 0x0b4b00);
  assert.equal(one.run([0x12, 0, 0, 0, 96, 0], { room: 96 }).sense, 0x0b4b00);
  one.mapAnswer = MAP_BUSY;
  assert.equal(one.run(read10(0, 1), { room: 512 }).status, 8);
  assert.equal(one.run([0x12, 0, 0, 0, 96, 0], { room: 96 }).status, 8);
  one.mapAnswer = 0;
  rig.device.isHolding = true;
  const out = Array.from({ length: 64 }, () => one.start(read10(0, 1), { room: 512 }));
  const full = one.run(read10(0, 1), { room: 512 });
  assert.deepEqual([full.status, full.residual], [0x28, 512]);
  rig.device.release();
  rig.drain();
  assert.ok(out.every((pending) => pending.answer?.status === 0));
  rig.checkIdle();
});

test("flags that the transport sets on a slot stay beside those of the command", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  const map = one.mapDataOut.bind(one);
  let seen = 0;
  one.mapDataOut = (task, slot, bytes) => {
    rig.requests.flags[slot] |= FLAG_FAULTABLE;
    return map(task, slot, bytes);
  };
  const submit = rig.device.submit.bind(rig.device);
  rig.device.submit = (slot) => {
    seen = rig.requests.flags[slot];
    submit(slot);
  };
  one.run(write10(0, 1, 0x08), { out: new Uint8Array(512) });
  assert.equal(seen, FLAG_FAULTABLE | 1);
});
