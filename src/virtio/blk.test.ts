// virtio-blk requests from ring to device and back: every type, every way to lay a request out, and
// what hostile ones get (rows 13 to 31 of the checklist in TESTING.md).

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  EIO,
  ENOSPC,
  EOPNOTSUPP,
  FLAG_DURABLE,
  FLAG_FAULTABLE,
  FLAG_UNMAP,
  OP_DISCARD,
  OP_FLUSH,
  OP_READ,
  OP_WRITE,
  OP_WRITE_ZEROES,
} from "../base/index.ts";
import type { TestBuffer } from "../testing/fakes/ring-driver.ts";
import { BlkRig, type BlkRigOptions, PLACES, SEAM } from "./_test-rig.ts";
import {
  COUNTER_DISCARD,
  COUNTER_DISCARD_BYTES,
  COUNTER_ERROR,
  COUNTER_FLUSH,
  COUNTER_OTHER,
  COUNTER_READ,
  COUNTER_READ_BYTES,
  COUNTER_UNSUPPORTED,
  COUNTER_WRITE,
  COUNTER_WRITE_BYTES,
  COUNTER_WRITE_ZEROES,
  COUNTER_WRITE_ZEROES_BYTES,
} from "./blk-meter.ts";
import {
  BLK_F_CONFIG_WCE,
  BLK_F_FLUSH,
  BLK_S_IOERR,
  BLK_S_OK,
  BLK_S_UNSUPP,
  BLK_T_BARRIER,
  BLK_T_DISCARD,
  BLK_T_FLUSH,
  BLK_T_FLUSH_OUT,
  BLK_T_GET_ID,
  BLK_T_GET_LIFETIME,
  BLK_T_IN,
  BLK_T_OUT,
  BLK_T_SECURE_ERASE,
  BLK_T_WRITE_ZEROES,
} from "./layouts.ts";
import { BROKEN_NO_STATUS, BROKEN_STATUS_UNREACHABLE } from "./virtqueue.ts";

const DATA = PLACES.data;
const OUTSIDE = 0x2000_0000;
const KINDS: readonly (readonly [string, BlkRigOptions])[] = [
  ["split", {}],
  ["split, shadow", { shadow: true }],
  ["packed", { packed: true }],
  ["packed, shadow", { packed: true, shadow: true }],
];

function fill(rig: BlkRig, gpa: number, bytes: number, seed: number): Uint8Array {
  const view = rig.bytes(gpa, bytes);
  for (let index = 0; index < bytes; index++) view[index] = (seed + index * 7) & 0xff;
  return view;
}

/** A range segment at PLACES.tables + 0x8000, as a readable buffer. */
function range(
  rig: BlkRig,
  sector: number,
  count: number,
  flags = 0,
  bytes = 16,
  sectorHigh = Math.floor(sector / 2 ** 32),
): TestBuffer {
  const gpa = PLACES.tables + 0x8000;
  const segment = new Uint8Array(16);
  const view = new DataView(segment.buffer);
  view.setUint32(0, sector >>> 0, true);
  view.setUint32(4, sectorHigh, true);
  view.setUint32(8, count, true);
  view.setUint32(12, flags, true);
  for (let at = 0; at < bytes; at += 16) rig.memory.write(gpa + at, segment, 0, 16);
  return { gpa, bytes };
}

/** Adds exactly these buffers as one request; returns the used length the device gave. */
function run(rig: BlkRig, buffers: readonly TestBuffer[], table = -1): number {
  const id = rig.driver.add(buffers, table);
  rig.run();
  const used = rig.driver.takeUsed();
  assert.equal(used.length, 1, "answered exactly once");
  assert.equal(used[0]?.id, id);
  return used[0]?.bytes ?? -1;
}

function assertBroken(rig: BlkRig, buffers: readonly TestBuffer[], reason: number): void {
  rig.driver.add(buffers);
  rig.run();
  assert.deepEqual(rig.brokenReasons, [reason]);
  assert.deepEqual(rig.driver.takeUsed(), [], "what cannot be answered is not given back");
  assert.equal(rig.queue.inflightCount, 0);
  assert.equal(rig.queue.poll(), 0);
  assert.equal(rig.queue.arm(), false);
  rig.memory.checkPoison();
}

for (const [kind, options] of KINDS) {
  describe(`requests over a ${kind} ring`, () => {
    test("a write, then a read of it", () => {
      const rig = new BlkRig(options);
      const written = fill(rig, DATA, 4096, 3).slice();
      assert.equal(rig.request(BLK_T_OUT, 8, [{ gpa: DATA, bytes: 4096 }]), BLK_S_OK);
      assert.equal(rig.device.last.op, OP_WRITE);
      assert.equal(rig.device.last.offsetBytes, 4096);
      assert.deepEqual(rig.device.last.segments, [[rig.host(DATA), 4096]]);
      assert.equal(rig.usedBytes, 1);
      const back = { gpa: DATA + 8192, bytes: 4096, write: true };
      assert.equal(rig.request(BLK_T_IN, 8, [back]), BLK_S_OK);
      assert.equal(rig.device.last.op, OP_READ);
      assert.equal(rig.usedBytes, 4097);
      assert.deepEqual(rig.bytes(back.gpa, 4096), written);
      rig.memory.checkPoison();
    });

    test("indirect tables, also of many segments", () => {
      const rig = new BlkRig(options);
      const buffers: TestBuffer[] = [];
      for (let index = 0; index < 126; index++) {
        buffers.push({ gpa: DATA + index * 517, bytes: 512, write: true });
      }
      for (let index = 0; index < rig.device.disk.length; index++) rig.device.disk[index] = index;
      const status = rig.status();
      const chain = [rig.header(BLK_T_IN, 0), ...buffers, status];
      assert.equal(run(rig, chain, PLACES.tables), 126 * 512 + 1);
      assert.equal(rig.peek(status.gpa), BLK_S_OK);
      assert.equal(rig.device.last.segments.length, 126);
      for (const [index, buffer] of buffers.entries()) {
        const disk = rig.device.disk.subarray(index * 512, index * 512 + 512);
        assert.deepEqual(rig.bytes(buffer.gpa, 512), disk);
      }
    });

    test("row 13: a readable descriptor behind a writable one", () => {
      const rig = new BlkRig(options);
      const status = rig.status();
      const data = { gpa: DATA, bytes: 512, write: true };
      run(rig, [data, rig.header(BLK_T_IN, 0), status]);
      assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
      const early = rig.status();
      run(rig, [rig.header(BLK_T_OUT, 0), early, { gpa: DATA, bytes: 512 }]);
      assert.equal(rig.peek(early.gpa), BLK_S_IOERR);
      assert.equal(rig.device.submitted.length, 0);
      rig.assertWorks();
    });

    test("row 13: where the status byte cannot be reached the ring breaks", () => {
      const rig = new BlkRig(options);
      const chain = [{ gpa: OUTSIDE, bytes: 1, write: true }, rig.header(BLK_T_IN, 0)];
      assertBroken(rig, chain, BROKEN_STATUS_UNREACHABLE);
    });

    test("row 14: descriptors of length 0 are skipped wherever they stand", () => {
      const rig = new BlkRig(options);
      const status = rig.status();
      const none = { gpa: OUTSIDE, bytes: 0 };
      const noneWritable = { gpa: OUTSIDE, bytes: 0, write: true };
      const data = { gpa: DATA, bytes: 512, write: true };
      const chain = [none, rig.header(BLK_T_IN, 1), none, noneWritable, data, noneWritable, status];
      assert.equal(run(rig, [...chain, noneWritable]), 513);
      assert.equal(rig.peek(status.gpa), BLK_S_OK);
      assert.deepEqual(rig.device.last.segments, [[rig.host(DATA), 512]]);
    });

    test("row 15: address and length that wrap past 2^64", () => {
      const rig = new BlkRig(options);
      const status = rig.status();
      const wraps = { gpa: 2 ** 64 - 2048, bytes: 4096, write: true };
      run(rig, [rig.header(BLK_T_IN, 0), wraps, status]);
      assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
      const last = { gpa: 2 ** 53 - 2048, bytes: 4096, write: true };
      run(rig, [rig.header(BLK_T_IN, 0), last, status]);
      assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
      assert.equal(rig.device.submitted.length, 0);
    });

    test("row 16: a buffer outside every region, or that leaves its region", () => {
      const rig = new BlkRig(options);
      for (const gpa of [OUTSIDE, SEAM + 0x10000 - 512, 0x10000 - 512]) {
        const status = rig.status();
        run(rig, [rig.header(BLK_T_IN, 0), { gpa, bytes: 1024, write: true }, status]);
        assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
        run(rig, [rig.header(BLK_T_OUT, 0), { gpa, bytes: 1024 }, status]);
        assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
      }
      assert.equal(rig.device.submitted.length, 0);
      assert.equal(rig.reactor.requests.freeSlots, rig.reactor.requests.capacity);
      rig.memory.checkPoison();
      rig.assertWorks();
    });

    test("row 16: header outside every region", () => {
      const rig = new BlkRig(options);
      const status = rig.status();
      run(rig, [{ gpa: OUTSIDE, bytes: 16 }, status]);
      assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
    });

    test("row 16: status outside every region breaks the ring, after the device had it", () => {
      const rig = new BlkRig(options);
      const data = { gpa: DATA, bytes: 512, write: true };
      const chain = [rig.header(BLK_T_IN, 0), data, { gpa: OUTSIDE, bytes: 1, write: true }];
      assertBroken(rig, chain, BROKEN_STATUS_UNREACHABLE);
      assert.equal(rig.reactor.requests.freeSlots, rig.reactor.requests.capacity);
    });

    test("row 17: a buffer over two adjacent regions is split", () => {
      const rig = new BlkRig(options);
      const gpa = SEAM - 1000;
      const left = fill(rig, gpa, 1000, 1).slice();
      const right = fill(rig, SEAM, 2072, 99).slice();
      assert.equal(rig.request(BLK_T_OUT, 0, [{ gpa, bytes: 3072 }]), BLK_S_OK);
      assert.deepEqual(rig.device.last.segments, [
        [rig.host(gpa), 1000],
        [rig.host(SEAM), 2072],
      ]);
      assert.equal(rig.device.last.lengthBytes, 3072);
      assert.deepEqual(rig.device.disk.subarray(0, 3072), Uint8Array.of(...left, ...right));
      rig.memory.checkPoison();
    });

    test("row 18: a buffer that is the ring, the header or the status of the same request", () => {
      const rig = new BlkRig(options);
      const status = rig.status();
      const header = rig.header(BLK_T_IN, 0);
      const overHeader = { gpa: header.gpa, bytes: 512, write: true };
      run(rig, [header, overHeader, status]);
      assert.equal(rig.peek(status.gpa), BLK_S_OK);
      const overStatus = { gpa: status.gpa, bytes: 512, write: true };
      run(rig, [rig.header(BLK_T_IN, 0), overStatus, status]);
      assert.equal(rig.peek(status.gpa), BLK_S_OK);
      // The ring itself: whatever happens then, nothing outside guest memory is touched.
      const ring = { gpa: PLACES.descriptors, bytes: 512, write: true };
      rig.driver.add([rig.header(BLK_T_IN, 0), ring, rig.status()]);
      for (let turn = 0; turn < 10; turn++) rig.reactor.turn(rig.queue);
      rig.memory.checkPoison();
    });

    test("row 19: a header cut into 2 to 16 descriptors, at any byte address", () => {
      const rig = new BlkRig(options);
      fill(rig, DATA, 512, 5);
      for (let pieces = 2; pieces <= 13; pieces++) {
        const whole = rig.header(BLK_T_OUT, pieces, PLACES.headers + 3 + pieces);
        const bytes = rig.bytes(whole.gpa, 16).slice();
        rig.bytes(whole.gpa, 16).fill(0xee);
        const chain: TestBuffer[] = [];
        for (let index = 0, at = 0; index < pieces; index++) {
          const count = index === pieces - 1 ? 16 - at : Math.max(1, Math.floor(16 / pieces));
          // Far apart and in no order.
          const gpa = PLACES.headers + 0x1000 + ((index * 7) % 16) * 101;
          rig.memory.write(gpa, bytes, at, count);
          chain.push({ gpa, bytes: count });
          at += count;
        }
        const status = rig.status();
        run(rig, [...chain, { gpa: DATA, bytes: 512 }, status]);
        assert.equal(rig.peek(status.gpa), BLK_S_OK, `${pieces} pieces`);
        assert.equal(rig.device.last.offsetBytes, pieces * 512);
        assert.deepEqual(rig.device.last.segments, [[rig.host(DATA), 512]]);
      }
    });

    test("row 19: a header of 16 descriptors of one byte, in an indirect table", () => {
      const rig = new BlkRig(options);
      const whole = rig.header(BLK_T_OUT, 2);
      const status = rig.status();
      const chain: TestBuffer[] = [];
      for (let at = 0; at < 16; at++) chain.push({ gpa: whole.gpa + at, bytes: 1 });
      run(rig, [...chain, { gpa: DATA, bytes: 512 }, status], PLACES.tables);
      assert.equal(rig.peek(status.gpa), BLK_S_OK);
      assert.equal(rig.device.last.offsetBytes, 1024);
    });

    test("row 19: header and data in one descriptor, or the cut within the data", () => {
      const rig = new BlkRig(options);
      const header = rig.header(BLK_T_OUT, 4, DATA);
      const data = fill(rig, DATA + 16, 1024, 8).slice();
      for (const cut of [16 + 1024, 16 + 512, 17, 15, 700]) {
        const status = rig.status();
        const chain: TestBuffer[] = [{ gpa: header.gpa, bytes: cut }];
        if (cut < 1040) chain.push({ gpa: header.gpa + cut, bytes: 1040 - cut });
        rig.device.disk.fill(0);
        run(rig, [...chain, status]);
        assert.equal(rig.peek(status.gpa), BLK_S_OK, `cut at ${cut}`);
        assert.deepEqual(rig.device.disk.subarray(2048, 2048 + 1024), data);
      }
    });

    test("row 19: headers packed at 99-byte strides are read at their own address", () => {
      const rig = new BlkRig(options);
      for (let index = 0; index < 16; index++) {
        rig.header(BLK_T_OUT, index * 3, PLACES.headers + index * 99);
      }
      for (let index = 0; index < 16; index++) {
        const status = rig.status();
        const header = { gpa: PLACES.headers + index * 99, bytes: 16 };
        run(rig, [header, { gpa: DATA, bytes: 512 }, status]);
        assert.equal(rig.device.last.offsetBytes, index * 3 * 512);
      }
    });

    test("row 20: fewer than 16 readable bytes", () => {
      const rig = new BlkRig(options);
      for (const bytes of [1, 15]) {
        const status = rig.status();
        assert.equal(run(rig, [{ gpa: PLACES.headers, bytes }, status]), 1);
        assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
      }
      const alone = rig.status();
      assert.equal(run(rig, [alone]), 1);
      assert.equal(rig.peek(alone.gpa), BLK_S_IOERR);
      rig.assertWorks();
    });

    test("rows 20, 21: no writable descriptor", () => {
      for (const bytes of [16, 15]) {
        const rig = new BlkRig(options);
        assertBroken(rig, [{ ...rig.header(BLK_T_OUT, 0), bytes }], BROKEN_NO_STATUS);
      }
      const empty = new BlkRig(options);
      const none = { gpa: PLACES.statuses, bytes: 0, write: true };
      assertBroken(empty, [empty.header(BLK_T_IN, 0), none], BROKEN_NO_STATUS);
    });

    test("row 22: the status is the last byte of a descriptor that also holds data", () => {
      const rig = new BlkRig(options);
      rig.device.disk.fill(0x5c, 0, 1024);
      rig.bytes(DATA, 1025).fill(0xff);
      assert.equal(
        run(rig, [rig.header(BLK_T_IN, 0), { gpa: DATA, bytes: 1025, write: true }]),
        1025,
      );
      assert.deepEqual(rig.bytes(DATA, 1024), new Uint8Array(1024).fill(0x5c));
      assert.equal(rig.peek(DATA + 1024), BLK_S_OK);
      assert.deepEqual(rig.device.last.segments, [[rig.host(DATA), 1024]]);
      // A write whose status sits at the end of a large writable descriptor.
      rig.bytes(DATA + 4096, 600).fill(0xff);
      const large = { gpa: DATA + 4096, bytes: 600, write: true };
      run(rig, [rig.header(BLK_T_OUT, 0), { gpa: DATA, bytes: 512 }, large]);
      assert.equal(rig.peek(DATA + 4096 + 599), BLK_S_OK);
      assert.equal(rig.peek(DATA + 4096 + 598), 0xff);
    });

    test("row 23: lengths and sectors that are no whole blocks", () => {
      const small = new BlkRig(options);
      for (const bytes of [1, 511, 513]) {
        assert.equal(small.request(BLK_T_IN, 0, [{ gpa: DATA, bytes, write: true }]), BLK_S_IOERR);
        assert.equal(small.request(BLK_T_OUT, 0, [{ gpa: DATA, bytes }]), BLK_S_IOERR);
      }
      const large = new BlkRig({ ...options, info: { blockBytes: 4096 } });
      assert.equal(large.request(BLK_T_OUT, 0, [{ gpa: DATA, bytes: 512 }]), BLK_S_IOERR);
      assert.equal(large.request(BLK_T_OUT, 1, [{ gpa: DATA, bytes: 4096 }]), BLK_S_IOERR);
      assert.equal(large.device.submitted.length + small.device.submitted.length, 0);
      assert.equal(large.request(BLK_T_OUT, 8, [{ gpa: DATA, bytes: 4096 }]), BLK_S_OK);
    });

    test("row 24: beyond the capacity, near 2^64, and where doubles would round", () => {
      const capacityBytes = 1 << 20;
      const rig = new BlkRig({ ...options, info: { capacityBytes } });
      const last = capacityBytes / 512 - 1;
      const tryAt = (low: number, high: number, bytes: number): number => {
        const status = rig.status();
        const data = { gpa: DATA, bytes, write: true };
        run(rig, [rig.rawHeader(BLK_T_IN, low, high), data, status]);
        return rig.peek(status.gpa);
      };
      assert.equal(tryAt(last, 0, 512), BLK_S_OK);
      assert.equal(rig.device.submitted.length, 1);
      for (const [low, high, bytes] of [
        [last, 0, 1024],
        [last + 1, 0, 512],
        [0, 1, 512],
        [0, 0x800000, 512],
        [0xffffffff, 0xffffffff, 512],
        [0xfffffff8, 0xffffffff, 4096],
        [0, 0x80000000, 512],
        [0, 0x1000, 512],
      ] as const) {
        assert.equal(tryAt(low, high, bytes), BLK_S_IOERR, `${high}:${low}`);
      }
      assert.equal(rig.device.submitted.length, 1);
    });

    test("row 24: the last block of the largest disk is exact", () => {
      const rig = new BlkRig({ ...options, info: { capacityBytes: 2 ** 53 - 512 } });
      const sectors = (2 ** 53 - 512) / 512;
      const at = (sector: number): number =>
        rig.request(BLK_T_IN, sector, [{ gpa: DATA, bytes: 512, write: true }]);
      assert.equal(at(sectors - 1), BLK_S_OK);
      assert.equal(rig.device.last.offsetBytes, 2 ** 53 - 1024);
      assert.equal(at(sectors), BLK_S_IOERR);
    });

    test("row 25: more segments than a slot holds, and more bytes than one transfer moves", () => {
      const rig = new BlkRig(options);
      const status = rig.status();
      const buffers: TestBuffer[] = [];
      for (let index = 0; index < 300; index++) {
        buffers.push({ gpa: DATA + index * 130, bytes: 64, write: true });
      }
      // 300 * 64 bytes are no whole blocks: two more buffers make them so.
      buffers.push({ gpa: DATA + 0xf000, bytes: 256, write: true });
      run(rig, [rig.header(BLK_T_IN, 0), ...buffers, status], PLACES.tables);
      assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
      assert.equal(rig.reactor.requests.freeSlots, rig.reactor.requests.capacity);
      const huge = [1, 2, 3].map(() => ({ gpa: DATA, bytes: 0x40000000, write: true }));
      run(rig, [rig.header(BLK_T_IN, 0), ...huge, status]);
      assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
      assert.equal(rig.device.submitted.length, 0);
      rig.assertWorks();
    });

    test("row 26: nothing is written to a read-only disk", () => {
      const rig = new BlkRig({ ...options, config: { readOnly: true } });
      assert.equal(rig.request(BLK_T_OUT, 0, [{ gpa: DATA, bytes: 512 }]), BLK_S_IOERR);
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 0, 8)]), BLK_S_IOERR);
      assert.equal(rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 0, 8)]), BLK_S_IOERR);
      assert.equal(rig.device.submitted.length, 0);
      assert.equal(rig.request(BLK_T_FLUSH, 0, []), BLK_S_OK);
      rig.assertWorks();
    });

    test("row 27: unknown types, and the old barrier bit", () => {
      const rig = new BlkRig(options);
      for (const type of [2, 3, 6, 7, BLK_T_GET_LIFETIME, BLK_T_SECURE_ERASE, 15, 0x7fffffff]) {
        assert.equal(rig.request(type, 0, []), BLK_S_UNSUPP, `type ${type}`);
      }
      assert.equal(rig.device.submitted.length, 0);
      const data = { gpa: DATA, bytes: 512 };
      assert.equal(rig.request((BLK_T_BARRIER | BLK_T_OUT) >>> 0, 1, [data]), BLK_S_OK);
      assert.equal(rig.device.last.op, OP_WRITE);
    });

    test("row 28: flags of discard and write zeroes", () => {
      const rig = new BlkRig(options);
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 8, 8, 1)]), BLK_S_UNSUPP);
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 8, 8, 2)]), BLK_S_UNSUPP);
      assert.equal(rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 8, 8, 2)]), BLK_S_UNSUPP);
      const top = range(rig, 8, 8, 0x80000001);
      assert.equal(rig.request(BLK_T_WRITE_ZEROES, 0, [top]), BLK_S_UNSUPP);
      assert.equal(rig.device.submitted.length, 0);
      assert.equal(rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 8, 8, 1)]), BLK_S_OK);
      assert.deepEqual([rig.device.last.op, rig.device.last.flags], [OP_WRITE_ZEROES, FLAG_UNMAP]);
      assert.equal(rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 8, 8, 0)]), BLK_S_OK);
      assert.equal(rig.device.last.flags, 0);
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 8, 16)]), BLK_S_OK);
      const { op, offsetBytes, lengthBytes } = rig.device.last;
      assert.deepEqual([op, offsetBytes, lengthBytes], [OP_DISCARD, 4096, 8192]);
    });

    test("row 29: number of segments, their length, their range", () => {
      const rig = new BlkRig({ ...options, info: { capacityBytes: 1 << 20 } });
      for (const type of [BLK_T_DISCARD, BLK_T_WRITE_ZEROES]) {
        assert.equal(rig.request(type, 0, []), BLK_S_UNSUPP, "no segment");
        assert.equal(rig.request(type, 0, [range(rig, 0, 8, 0, 32)]), BLK_S_UNSUPP, "two");
        for (const bytes of [8, 15, 17, 24]) {
          assert.equal(rig.request(type, 0, [range(rig, 0, 8, 0, bytes)]), BLK_S_UNSUPP);
        }
        assert.equal(rig.request(type, 0, [range(rig, 0, 0xffffffff)]), BLK_S_IOERR);
        assert.equal(rig.request(type, 0, [range(rig, 2047, 2)]), BLK_S_IOERR);
        assert.equal(rig.request(type, 0, [range(rig, 2048, 1)]), BLK_S_IOERR);
        const far = range(rig, 0xffffffff, 2, 0, 16, 0xffffffff);
        assert.equal(rig.request(type, 0, [far]), BLK_S_IOERR);
        assert.equal(rig.device.submitted.length, 0);
        assert.equal(rig.request(type, 0, [range(rig, 5, 0)]), BLK_S_OK, "nothing to do");
        assert.equal(rig.device.submitted.length, 0);
        assert.equal(rig.request(type, 0, [range(rig, 2047, 1)]), BLK_S_OK);
        rig.device.submitted.length = 0;
      }
    });

    test("row 29: ranges are whole blocks, and no larger than advertised", () => {
      const info = { blockBytes: 4096, capacityBytes: 2 ** 40 };
      const rig = new BlkRig({ ...options, info });
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 8, 4)]), BLK_S_IOERR);
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 4, 8)]), BLK_S_IOERR);
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 0, 2097152 + 8)]), BLK_S_IOERR);
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 0, 2097152)]), BLK_S_OK);
      assert.equal(rig.device.last.lengthBytes, 2 ** 30);
      assert.equal(rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 0, 65536 + 8)]), BLK_S_IOERR);
      assert.equal(rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 0, 65536)]), BLK_S_OK);
    });

    test("a range segment cut over descriptors, or behind the header in the same one", () => {
      const rig = new BlkRig(options);
      const segment = range(rig, 24, 8);
      const { gpa } = segment;
      const pieces = [
        { gpa, bytes: 3 },
        { gpa: gpa + 3, bytes: 13 },
      ];
      assert.equal(rig.request(BLK_T_DISCARD, 0, pieces), BLK_S_OK);
      assert.equal(rig.device.last.offsetBytes, 24 * 512);
      const together = rig.header(BLK_T_DISCARD, 0, gpa - 16);
      const status = rig.status();
      run(rig, [{ gpa: together.gpa, bytes: 32 }, status]);
      assert.equal(rig.peek(status.gpa), BLK_S_OK);
      assert.equal(
        run(rig, [rig.header(BLK_T_DISCARD, 0), { gpa: OUTSIDE, bytes: 16 }, status]),
        1,
      );
      assert.equal(rig.peek(status.gpa), BLK_S_IOERR);
    });

    test("discard where the device cannot", () => {
      const rig = new BlkRig({ ...options, info: { canDiscard: false } });
      assert.equal(rig.request(BLK_T_DISCARD, 0, [range(rig, 0, 8)]), BLK_S_UNSUPP);
      assert.equal(rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 0, 8, 1)]), BLK_S_OK);
      assert.equal(rig.device.last.flags, 0, "nothing to unmap with");
    });

    test("row 30: GET_ID into buffers shorter and longer than 20 bytes, and cut ones", () => {
      const rig = new BlkRig(options);
      const serial = new Uint8Array(20);
      serial.set(new TextEncoder().encode("ringstore-test"));
      for (const bytes of [0, 1, 19, 20, 21, 512]) {
        rig.bytes(DATA, 600).fill(0xff);
        const buffers = bytes === 0 ? [] : [{ gpa: DATA, bytes, write: true }];
        const status = rig.status();
        const used = run(rig, [rig.header(BLK_T_GET_ID, 0), ...buffers, status]);
        const written = Math.min(20, bytes);
        assert.equal(used, written + 1);
        assert.equal(rig.peek(status.gpa), BLK_S_OK);
        assert.deepEqual(rig.bytes(DATA, written), serial.subarray(0, written));
        assert.equal(rig.peek(DATA + written), 0xff);
      }
      const cut = [
        { gpa: DATA + 100, bytes: 7, write: true },
        { gpa: SEAM - 3, bytes: 13, write: true },
      ];
      assert.equal(rig.request(BLK_T_GET_ID, 0, cut), BLK_S_OK);
      const seen = [...rig.bytes(DATA + 100, 7), ...rig.bytes(SEAM - 3, 3), ...rig.bytes(SEAM, 10)];
      assert.deepEqual(seen, [...serial]);
      const outside = [{ gpa: OUTSIDE, bytes: 20, write: true }];
      assert.equal(rig.request(BLK_T_GET_ID, 0, outside), BLK_S_IOERR);
    });

    test("row 31: FLUSH with a sector, with data, in its old form", () => {
      const rig = new BlkRig(options);
      assert.equal(rig.request(BLK_T_FLUSH, 12345, []), BLK_S_OK);
      assert.equal(rig.request(BLK_T_FLUSH, 2 ** 52, [{ gpa: DATA, bytes: 100 }]), BLK_S_OK);
      assert.equal(rig.request(BLK_T_FLUSH_OUT, 0, []), BLK_S_OK);
      assert.deepEqual(
        rig.device.submitted.map(({ op, offsetBytes, lengthBytes }) => [
          op,
          offsetBytes,
          lengthBytes,
        ]),
        Array(3).fill([OP_FLUSH, 0, 0]),
      );
    });

    test("a transfer of nothing is done without the device", () => {
      const rig = new BlkRig(options);
      assert.equal(rig.request(BLK_T_IN, 5, []), BLK_S_OK);
      assert.equal(rig.request(BLK_T_OUT, 5, []), BLK_S_OK);
      assert.equal(rig.device.submitted.length, 0);
    });

    test("errors of the device become a status", () => {
      const rig = new BlkRig(options);
      const data = { gpa: DATA, bytes: 512, write: true };
      for (const [result, status] of [
        [-EIO, BLK_S_IOERR],
        [-ENOSPC, BLK_S_IOERR],
        [-EOPNOTSUPP, BLK_S_UNSUPP],
      ] as const) {
        rig.device.result = result;
        assert.equal(rig.request(BLK_T_IN, 0, [data]), status);
        assert.equal(rig.usedBytes, 1, "no data to speak of");
      }
    });

    test("writes are durable for a driver without FLUSH, or with its cache off", () => {
      const flagsOf = (rig: BlkRig): number[] => {
        rig.request(BLK_T_OUT, 0, [{ gpa: DATA, bytes: 512 }]);
        const write = rig.device.last.flags;
        rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 0, 8)]);
        const zeroes = rig.device.last.flags;
        rig.request(BLK_T_IN, 0, [{ gpa: DATA, bytes: 512, write: true }]);
        return [write, zeroes, rig.device.last.flags];
      };
      const durable = [FLAG_DURABLE, FLAG_DURABLE, 0];
      assert.deepEqual(flagsOf(new BlkRig(options)), [0, 0, 0]);
      assert.deepEqual(flagsOf(new BlkRig({ ...options, without: [BLK_F_FLUSH] })), durable);
      const cacheOff = new BlkRig(options);
      cacheOff.config.writeConfig(32, Uint8Array.of(0), 0, 1, false);
      assert.deepEqual(flagsOf(cacheOff), durable);
      const unaware = new BlkRig({ ...options, without: [BLK_F_CONFIG_WCE] });
      unaware.config.writeConfig(32, Uint8Array.of(0), 0, 1, false);
      assert.deepEqual(flagsOf(unaware), [0, 0, 0]);
    });
  });
}

test("counters and latencies of each kind of request", () => {
  const rig = new BlkRig();
  const { counters, latencies } = rig.meter;
  rig.device.held = true;
  rig.reactor.loopTimeUs = 100.5;
  rig.driver.add([rig.header(BLK_T_IN, 0), { gpa: DATA, bytes: 1024, write: true }, rig.status()]);
  rig.run();
  rig.reactor.loopTimeUs = 150.75;
  rig.device.release();
  rig.run();
  rig.driver.takeUsed();
  assert.deepEqual(latencies, [OP_READ, 50.25]);
  rig.device.held = false;
  rig.request(BLK_T_OUT, 0, [{ gpa: DATA, bytes: 512 }]);
  rig.request(BLK_T_FLUSH, 0, []);
  rig.request(BLK_T_DISCARD, 0, [range(rig, 0, 8)]);
  rig.request(BLK_T_WRITE_ZEROES, 0, [range(rig, 0, 16)]);
  rig.request(BLK_T_GET_ID, 0, [{ gpa: DATA, bytes: 20, write: true }]);
  rig.request(77, 0, []);
  rig.request(BLK_T_OUT, 0, [{ gpa: DATA, bytes: 7 }]);
  rig.device.result = -EIO;
  rig.request(BLK_T_OUT, 0, [{ gpa: DATA, bytes: 512 }]);
  const expected = new Map([
    [COUNTER_READ, 1],
    [COUNTER_READ_BYTES, 1024],
    [COUNTER_WRITE, 2],
    [COUNTER_WRITE_BYTES, 512],
    [COUNTER_FLUSH, 1],
    [COUNTER_DISCARD, 1],
    [COUNTER_DISCARD_BYTES, 4096],
    [COUNTER_WRITE_ZEROES, 1],
    [COUNTER_WRITE_ZEROES_BYTES, 8192],
    [COUNTER_OTHER, 3],
    [COUNTER_UNSUPPORTED, 1],
    [COUNTER_ERROR, 2],
  ]);
  for (const [index, value] of expected) assert.equal(counters[index], value, `counter ${index}`);
});

test("segments in memory that may be truncated are flagged for the device", () => {
  const rig = new BlkRig();
  const region = { gpa: 0x3000_0000, bytes: 0x2000, faultable: true };
  (rig.memory as unknown as { regions: object[] }).regions.push({ ...region, offset: 0x1000 });
  (rig.memory as unknown as { index(): void }).index();
  rig.request(BLK_T_IN, 0, [{ gpa: region.gpa, bytes: 512, write: true }]);
  assert.equal(rig.device.last.flags, FLAG_FAULTABLE);
  rig.request(BLK_T_IN, 0, [{ gpa: DATA, bytes: 512, write: true }]);
  assert.equal(rig.device.last.flags, 0);
});
