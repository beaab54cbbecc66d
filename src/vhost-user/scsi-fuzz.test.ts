// Every operation code with rubbish behind it, through the rings of two guests of one unit, while the
// device is slow: each request is answered once, nothing is left over, and the process lives.
// `SCSI_RING_SEED=N` runs a round again.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../base/index.ts";
import { type Pending, RigGuest, ScsiDeviceRig } from "./_test-scsi-rig.ts";

const ROUNDS = 12;
const REQUESTS = 64;
const FIRST_SEED: number = Number(process.env["SCSI_RING_SEED"] ?? 1);

function round(seed: number): void {
  const prng = new Prng(seed);
  const rig = new ScsiDeviceRig();
  const device = rig.device();
  const unit = rig.unit(device);
  const guests = ["one", "two"].map((name, index) => {
    const { model, meter } = rig.controller(name, index + 1);
    model.addUnit(0, unit, meter);
    return new RigGuest(rig, model, { packed: (seed + index) % 2 === 0 });
  });
  for (let count = 0; count < REQUESTS; count += 4) {
    device.isHolding = prng.below(3) > 0;
    const pending: [RigGuest, Pending][] = [];
    for (let index = 0; index < 4; index++) {
      const guest = guests[prng.below(2)] as RigGuest;
      // Small numbers, so that some are lengths and addresses that fit.
      const cdb = Array.from({ length: 32 }, () => (prng.below(3) === 0 ? prng.below(9) : 0));
      cdb[0] = (seed * REQUESTS + count + index) & 0xff;
      if (prng.below(4) === 0) cdb[1] = prng.below(256);
      const bytes = [0, 24, 512, 4096][prng.below(4)] as number;
      const rubbish = Uint8Array.from({ length: bytes }, () => prng.below(5));
      const data = prng.below(2) === 0 ? { out: rubbish } : { room: bytes };
      const options = bytes === 0 ? {} : data;
      const attribute = prng.below(4);
      const id = count + index;
      pending.push([guest, guest.offer(cdb, { ...options, attribute, id, lun: prng.below(2) })]);
    }
    for (const guest of guests) guest.run();
    const tmf = (guests[0] as RigGuest).offerTmf(prng.below(9), count + prng.below(4));
    for (let turn = 0; turn < 6; turn++) {
      for (const guest of guests) guest.run();
      device.isHolding = turn < 2 && device.isHolding;
      device.release();
    }
    for (const guest of guests) guest.run();
    for (const [guest, one] of pending) {
      assert.notEqual(guest.takeUsed(one.ring, one.head), undefined, `seed ${seed}: no answer`);
    }
    assert.notEqual((guests[0] as RigGuest).controlAnswer(tmf), -1, `seed ${seed}: no answer`);
    for (const guest of guests) assert.deepEqual(guest.broken, []);
  }
  for (const guest of guests) guest.end();
  rig.checkIdle();
  rig.memory.checkPoison();
}

test("every operation code with rubbish is answered once and leaves nothing", () => {
  for (let seed = FIRST_SEED; seed < FIRST_SEED + ROUNDS; seed++) round(seed);
});
