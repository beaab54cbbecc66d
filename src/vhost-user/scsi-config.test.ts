// The configuration space of virtio-scsi: what is offered, what may be written, what a restarted
// daemon takes over.

import assert from "node:assert/strict";
import { test } from "node:test";
import { hasFeature } from "../virtio/index.ts";
import * as l from "./layouts-scsi.ts";
import { ScsiConfig } from "./scsi-config.ts";

const { SCSI_CONFIG } = l;
const make = (): ScsiConfig => new ScsiConfig({ requestQueueCount: 4, packedAllowed: false });

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

test("the structures have the sizes of the specification", () => {
  const { COMMAND_REQUEST, COMMAND_RESPONSE, TMF_REQUEST, AN_REQUEST, AN_RESPONSE, EVENT } = l;
  const all = [SCSI_CONFIG, COMMAND_REQUEST, COMMAND_RESPONSE, TMF_REQUEST, AN_REQUEST];
  assert.deepEqual(
    [...all, AN_RESPONSE, EVENT].map(({ BYTES }) => BYTES),
    [36, 51, 108, 24, 16, 5, 16],
  );
  assert.deepEqual([COMMAND_RESPONSE.status, COMMAND_RESPONSE.response], [10, 11]);
});

test("hot plug and change are offered, both directions and protection are not", () => {
  const { offeredLow, offeredHigh } = make();
  const offers = (bit: number): boolean => hasFeature(offeredLow, offeredHigh, bit);
  assert.deepEqual([0, 1, 2, 3, 32, 34].map(offers), [false, true, true, false, true, false]);
});

test("a driver reads its queues, one target with 256 units, and the sizes of a reset device", () => {
  const bytes = new Uint8Array(36);
  assert.ok(make().readConfig(0, 36, bytes, 0));
  const view = new DataView(bytes.buffer);
  assert.equal(view.getUint32(SCSI_CONFIG.num_queues, true), 4);
  assert.equal(view.getUint32(SCSI_CONFIG.event_info_size, true), 16);
  assert.equal(view.getUint16(SCSI_CONFIG.max_target, true), 0);
  assert.equal(view.getUint32(SCSI_CONFIG.max_lun, true), 255);
  assert.equal(view.getUint32(SCSI_CONFIG.sense_size, true), 96);
  assert.equal(view.getUint32(SCSI_CONFIG.cdb_size, true), 32);
  assert.equal(make().readConfig(250, 7, bytes, 0), false);
});

test("sense_size and cdb_size can be written within bounds, nothing else", () => {
  const config = make();
  const write = (at: number, bytes: Uint8Array): string =>
    config.writeConfig(at, bytes, 0, bytes.length, false);
  assert.equal(write(SCSI_CONFIG.sense_size, u32(252)), "changed");
  assert.equal(write(SCSI_CONFIG.sense_size, u32(253)), "refused");
  assert.equal(write(SCSI_CONFIG.cdb_size, u32(16)), "changed");
  for (const bytes of [0, 5, 33, 0xffffffff]) {
    assert.equal(write(SCSI_CONFIG.cdb_size, u32(bytes)), "refused");
  }
  assert.equal(write(SCSI_CONFIG.cdb_size, u32(16)), "unchanged");
  assert.equal(write(SCSI_CONFIG.num_queues, u32(9)), "refused");
  assert.equal(write(SCSI_CONFIG.num_queues, u32(4)), "unchanged");
  assert.equal(write(254, u32(0)), "refused");
  assert.deepEqual([config.requestBytes, config.responseBytes], [19 + 16, 12 + 252]);
  config.reset();
  assert.equal(config.requestBytes, 19 + 16, "a guest that is stopped keeps them");
  config.forgetSizes();
  assert.deepEqual([config.requestBytes, config.responseBytes], [51, 108]);
});

test("a restarted daemon takes the sizes over, and nothing that is no size", () => {
  const before = make();
  before.writeConfig(SCSI_CONFIG.cdb_size, u32(16), 0, 4, false);
  const after = make();
  after.restoreGuestState(before.guestState);
  assert.equal(after.cdbBytes, 16);
  for (const state of [0, 1, 0xffffffff, (64 << 16) | 96]) after.restoreGuestState(state >>> 0);
  assert.deepEqual([after.cdbBytes, after.senseBytes], [16, 96]);
});
