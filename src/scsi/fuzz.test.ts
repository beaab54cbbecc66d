// Random commands: whatever the CDB says, nothing throws, no byte moves outside the memory that the
// initiator gave (TestMemory throws), the device is asked only for what it can do (TestDevice
// asserts), and each task ends once (TestInitiator asserts).

import assert from "node:assert/strict";
import { test } from "node:test";
import { EIO, Prng } from "../base/index.ts";
import { type Pending, ScsiRig, type TestInitiator, UNTOUCHED } from "./_test-rig.ts";
import { COMMANDS } from "./commands.ts";

const SEED = Number(process.env["RINGSTORE_FUZZ_SEED"] ?? 20260101);
const ROUNDS = 5000;

function randomCdb(prng: Prng): number[] {
  const command = prng.chance(0.95) ? prng.pick(COMMANDS) : undefined;
  const cdb = Array.from({ length: 16 }, () => (prng.chance(0.7) ? 0 : prng.below(256)));
  if (command === undefined) {
    cdb[0] = prng.below(256);
    return cdb;
  }
  cdb[0] = command.opcode;
  for (let at = 1; at < 16; at++) {
    // Half of the bits where they mean something, seldom elsewhere.
    const mask = command.usage[at] ?? 0;
    if (prng.chance(0.9)) cdb[at] = (cdb[at] as number) & mask;
  }
  if (command.action >= 0) cdb[1] = ((cdb[1] as number) & 0xe0) | command.action;
  return cdb;
}

/** Of few values, so that lengths and addresses are often small; and of all. */
class BytePool {
  private readonly small: Uint8Array;
  private readonly any: Uint8Array;

  constructor(prng: Prng) {
    this.small = Uint8Array.from({ length: POOL_BYTES }, () => prng.below(4));
    this.any = Uint8Array.from({ length: POOL_BYTES }, () => prng.below(256));
  }

  take(prng: Prng, bytes: number): Uint8Array {
    const pool = prng.chance(0.5) ? this.small : this.any;
    const at = prng.below(POOL_BYTES - bytes);
    return pool.slice(at, at + bytes);
  }
}

const POOL_BYTES = 131072;
const SIZES = [0, 1, 8, 24, 36, 255, 512, 1024, 4096, 65536];

test(`random commands from seed ${SEED} harm nobody`, () => {
  const prng = new Prng(SEED);
  const pool = new BytePool(prng);
  const rig = new ScsiRig({ isRemovable: true, atomicBytesMax: 4096, transferBytesMax: 131072 });
  const initiators = [1, 2].map((port) => rig.initiator(`iqn.test:${port}`, port));
  const pending: Pending[] = [];
  const statuses = new Map<number, number>();
  for (let round = 0; round < ROUNDS; round++) {
    const one = prng.pick(initiators) as TestInitiator;
    const out = prng.chance(0.6) ? pool.take(prng, prng.pick(SIZES)) : undefined;
    const room = prng.chance(0.6) ? prng.pick(SIZES) : undefined;
    pending.push(
      one.start(randomCdb(prng), {
        ...(out === undefined ? {} : { out }),
        ...(room === undefined ? {} : { room }),
        lun: prng.chance(0.98) ? 0 : 1,
        attribute: prng.chance(0.9) ? 0 : prng.below(4),
        isSlow: prng.chance(0.1),
      }),
    );
    rig.device.isHolding = prng.chance(0.3);
    rig.device.result = prng.chance(0.05) ? -EIO : 0;
    if (prng.chance(0.05)) one.manage(prng.below(9), prng.pick(pending).task);
    if (prng.chance(0.02)) rig.unit.isLoaded = true;
    if (prng.chance(0.02)) rig.unit.isSoftwareProtected = false;
    if (prng.chance(0.01)) rig.unit.reservations.replace(NO_RESERVATION);
    if (pending.length < 40 && prng.chance(0.7)) continue;
    finish(rig, pending);
    for (const { answer } of pending.splice(0)) {
      assert.ok(answer !== null, "a command did not end");
      const status = answer.isAborted ? -1 : answer.status;
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      if (status === 0) {
        const beyond = answer.buffer.subarray(answer.movedBytes);
        assert.ok(
          beyond.every((byte) => byte === UNTOUCHED),
          "data beyond what was reported",
        );
      }
      assert.equal(status === 2, answer.sense !== 0);
    }
    rig.checkIdle();
  }
  assert.ok((statuses.get(0) ?? 0) > ROUNDS / 10, "too few commands did anything");
  assert.ok((statuses.get(2) ?? 0) > 0 && (statuses.get(0x18) ?? 0) > 0);
});

const NO_RESERVATION = { generation: 0, aptpl: false, type: 0, holder: -1, registrations: [] };

function finish(rig: ScsiRig, pending: readonly Pending[]): void {
  rig.device.isHolding = false;
  for (let tries = 0; tries < 100 && pending.some((one) => one.answer === null); tries++) {
    rig.device.release();
    rig.drain();
    for (const one of pending) if (one.answer === null && one.wantsOut >= 0) one.arrive();
  }
}
