// The device as the driver finds it: bits, configuration space, what it may change, and what it is
// promised about durability.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FAKE_INFO } from "../testing/fakes/reactor.ts";
import { BlkConfig, type BlkConfigOptions, CONFIG_SPACE_BYTES_MAX } from "./blk-config.ts";
import {
  BLK_CONFIG,
  BLK_F_BLK_SIZE,
  BLK_F_CONFIG_WCE,
  BLK_F_DISCARD,
  BLK_F_FLUSH,
  BLK_F_GEOMETRY,
  BLK_F_MQ,
  BLK_F_RO,
  BLK_F_SEG_MAX,
  BLK_F_SIZE_MAX,
  BLK_F_TOPOLOGY,
  BLK_F_WRITE_ZEROES,
  F_ACCESS_PLATFORM,
  F_EVENT_IDX,
  F_IN_ORDER,
  F_INDIRECT_DESC,
  F_NOTIFY_ON_EMPTY,
  F_RING_PACKED,
  F_VERSION_1,
  hasFeature,
} from "./layouts.ts";

const OPTIONS: BlkConfigOptions = {
  queueCount: 128,
  packedAllowed: true,
  readOnly: false,
  writeback: true,
};

function offers(config: BlkConfig, bit: number): boolean {
  return hasFeature(config.offeredLow, config.offeredHigh, bit);
}

function viewOf(config: BlkConfig): DataView {
  return new DataView(config.bytes.buffer);
}

function acceptAll(config: BlkConfig, without: readonly number[] = []): void {
  let low = config.offeredLow;
  for (const bit of without) low &= ~(1 << bit);
  config.acceptFeatures(low, config.offeredHigh);
}

describe("features", () => {
  test("a writable disk offers everything we have", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    for (const bit of [
      BLK_F_SEG_MAX,
      BLK_F_BLK_SIZE,
      BLK_F_FLUSH,
      BLK_F_TOPOLOGY,
      BLK_F_CONFIG_WCE,
      BLK_F_MQ,
      BLK_F_DISCARD,
      BLK_F_WRITE_ZEROES,
      F_INDIRECT_DESC,
      F_EVENT_IDX,
      F_VERSION_1,
      F_RING_PACKED,
    ]) {
      assert.ok(offers(config, bit), `bit ${bit}`);
    }
    for (const bit of [
      BLK_F_SIZE_MAX,
      BLK_F_GEOMETRY,
      BLK_F_RO,
      F_NOTIFY_ON_EMPTY,
      F_ACCESS_PLATFORM,
      F_IN_ORDER,
      26,
      30,
    ]) {
      assert.ok(!offers(config, bit), `bit ${bit}`);
    }
  });

  test("a read-only disk offers RO and nothing that writes; by device or by attachment", () => {
    for (const config of [
      new BlkConfig({ ...FAKE_INFO, readOnly: true }, OPTIONS),
      new BlkConfig(FAKE_INFO, { ...OPTIONS, readOnly: true }),
    ]) {
      assert.ok(config.readOnly);
      assert.ok(offers(config, BLK_F_RO));
      assert.ok(!offers(config, BLK_F_DISCARD));
      assert.ok(!offers(config, BLK_F_WRITE_ZEROES));
    }
  });

  test("DISCARD and packed rings only where they can be had", () => {
    const noDiscard = new BlkConfig({ ...FAKE_INFO, canDiscard: false }, OPTIONS);
    assert.ok(!offers(noDiscard, BLK_F_DISCARD));
    assert.ok(offers(noDiscard, BLK_F_WRITE_ZEROES));
    assert.equal(noDiscard.bytes[BLK_CONFIG.write_zeroes_may_unmap], 0);
    assert.ok(
      !offers(new BlkConfig(FAKE_INFO, { ...OPTIONS, packedAllowed: false }), F_RING_PACKED),
    );
  });

  test("what was not offered is masked out, not an error", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    config.acceptFeatures(0xffffffff, 0xffffffff);
    assert.equal(config.acceptedLow, config.offeredLow);
    assert.equal(config.acceptedHigh, config.offeredHigh);
    assert.ok(config.accepted(BLK_F_FLUSH));
    assert.ok(!config.accepted(F_ACCESS_PLATFORM));
  });
});

describe("configuration space", () => {
  test("every field a driver reads", () => {
    const info = {
      ...FAKE_INFO,
      capacityBytes: 5 * 2 ** 42,
      blockBytes: 4096,
      physicalBlockBytes: 16384,
      optimalIoBytes: 65536,
      discardGranularityBytes: 65536,
    };
    const view = viewOf(new BlkConfig(info, OPTIONS));
    const sectors = info.capacityBytes / 512;
    assert.equal(view.getUint32(BLK_CONFIG.capacity, true), sectors % 2 ** 32);
    assert.equal(view.getUint32(BLK_CONFIG.capacity + 4, true), Math.floor(sectors / 2 ** 32));
    assert.equal(view.getUint32(BLK_CONFIG.size_max, true), 0);
    assert.equal(view.getUint32(BLK_CONFIG.seg_max, true), 126);
    assert.equal(view.getUint32(BLK_CONFIG.blk_size, true), 4096);
    assert.equal(view.getUint8(BLK_CONFIG.physical_block_exp), 2);
    assert.equal(view.getUint8(BLK_CONFIG.alignment_offset), 0);
    assert.equal(view.getUint16(BLK_CONFIG.min_io_size, true), 4);
    assert.equal(view.getUint32(BLK_CONFIG.opt_io_size, true), 16);
    assert.equal(view.getUint8(BLK_CONFIG.writeback), 1);
    assert.equal(view.getUint16(BLK_CONFIG.num_queues, true), 128);
    assert.equal(view.getUint32(BLK_CONFIG.max_discard_sectors, true), 2097152);
    assert.equal(view.getUint32(BLK_CONFIG.max_discard_seg, true), 1);
    assert.equal(view.getUint32(BLK_CONFIG.discard_sector_alignment, true), 128);
    assert.equal(view.getUint32(BLK_CONFIG.max_write_zeroes_sectors, true), 65536);
    assert.equal(view.getUint32(BLK_CONFIG.max_write_zeroes_seg, true), 1);
    assert.equal(view.getUint8(BLK_CONFIG.write_zeroes_may_unmap), 1);
  });

  test("row 53: any range within 256 bytes reads, with zeroes behind our 96; no other", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    const target = new Uint8Array(300).fill(0xee);
    for (const [offset, bytes] of [
      [0, 57],
      [0, 36],
      [0, 256],
      [95, 3],
      [255, 1],
      [256, 0],
    ] as const) {
      assert.equal(config.readConfig(offset, bytes, target, 1), true, `${offset}+${bytes}`);
      for (let index = 0; index < bytes; index++) {
        assert.equal(target[1 + index], config.bytes[offset + index] ?? 0);
      }
    }
    target.fill(0xee);
    for (const [offset, bytes] of [
      [0, 257],
      [1, 256],
      [0xffffffff, 1],
      [0xffffff00, 0x100],
      [0, 0xffffffff],
    ] as const) {
      assert.equal(config.readConfig(offset, bytes, target, 0), false, `${offset}+${bytes}`);
    }
    assert.ok(target.every((byte) => byte === 0xee));
  });

  test("a resize changes the capacity and says so", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    const shrunk = { ...FAKE_INFO, capacityBytes: FAKE_INFO.capacityBytes / 2 };
    assert.equal(config.refresh(shrunk), true);
    assert.equal(config.refresh(shrunk), false);
    assert.equal(viewOf(config).getUint32(0, true), shrunk.capacityBytes / 512);
    assert.equal(config.capacitySectors, shrunk.capacityBytes / 512);
  });

  test("the serial is 20 bytes, padded with NUL, cut if longer", () => {
    const short = new BlkConfig(FAKE_INFO, OPTIONS).serial;
    assert.equal(new TextDecoder().decode(short), `${FAKE_INFO.serial}`.padEnd(20, "\0"));
    const long = new BlkConfig({ ...FAKE_INFO, serial: "x".repeat(30) }, OPTIONS).serial;
    assert.equal(new TextDecoder().decode(long), "x".repeat(20));
  });
});

describe("what the driver may change (row 53)", () => {
  function write(config: BlkConfig, offset: number, bytes: readonly number[], migrating = false) {
    return config.writeConfig(offset, Uint8Array.from([9, ...bytes]), 1, bytes.length, migrating);
  }

  test("writeback, and nothing else", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    acceptAll(config);
    assert.equal(write(config, 32, [0]), "changed");
    assert.equal(config.writeback, false);
    assert.equal(write(config, 32, [0]), "unchanged");
    assert.equal(write(config, 32, [1]), "changed");
    assert.equal(write(config, 32, [2]), "refused");
    assert.equal(write(config, 0, [1]), "refused");
    assert.equal(write(config, 31, [1, 0]), "refused");
    assert.equal(write(config, 255, [1]), "refused");
    assert.equal(config.writeback, true);
  });

  test("a range that repeats the rest may carry writeback", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    acceptAll(config);
    const whole = [...config.bytes];
    assert.equal(write(config, 0, whole), "unchanged");
    whole[32] = 0;
    assert.equal(write(config, 0, whole), "changed");
    assert.equal(config.durableWrites, true);
  });

  test("ranges that overflow", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    const source = new Uint8Array(CONFIG_SPACE_BYTES_MAX + 1);
    assert.equal(config.writeConfig(0, source, 0, 257, false), "refused");
    assert.equal(config.writeConfig(0xffffffff, source, 0, 2, false), "refused");
    assert.equal(config.writeConfig(200, source, 0, 57, true), "refused");
  });

  test("a migrating front-end hands over a space; ours keeps its own fields", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    const before = [...config.bytes];
    const theirs = new Array(60).fill(0);
    assert.equal(write(config, 0, theirs, true), "changed");
    before[32] = 0;
    assert.deepEqual([...config.bytes], before);
  });
});

describe("durability", () => {
  test("writes are durable until FLUSH is accepted", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    assert.equal(config.durableWrites, true, "nothing accepted yet");
    acceptAll(config);
    assert.equal(config.durableWrites, false);
    acceptAll(config, [BLK_F_FLUSH]);
    assert.equal(config.durableWrites, true);
    acceptAll(config);
    config.reset();
    assert.equal(config.durableWrites, true);
  });

  test("writeback 0 counts once CONFIG_WCE is accepted, in either order", () => {
    const config = new BlkConfig(FAKE_INFO, OPTIONS);
    acceptAll(config);
    config.writeConfig(32, Uint8Array.of(0), 0, 1, false);
    assert.equal(config.durableWrites, true);
    acceptAll(config, [BLK_F_CONFIG_WCE]);
    assert.equal(config.durableWrites, false, "the driver flushes and knows no writeback");
    acceptAll(config);
    assert.equal(config.durableWrites, true, "written before features were accepted");
  });

  test("writeback outlives a reset and can be given at start", () => {
    const config = new BlkConfig(FAKE_INFO, { ...OPTIONS, writeback: false });
    acceptAll(config);
    assert.equal(config.durableWrites, true);
    config.reset();
    assert.equal(config.writeback, false);
    config.refresh(FAKE_INFO);
    assert.equal(config.writeback, false);
  });
});
