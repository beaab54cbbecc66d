// Persistent reservations: every type against every command, the service actions, what is kept.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EIO } from "../base/index.ts";
import type { ReservationRecord } from "../ports/index.ts";
import { be, cdb16, read10, write10 } from "../testing/fakes/cdb.ts";
import { isWaiting, ScsiRig, type TestInitiator } from "./_test-rig.ts";
import { RESERVED_ALLOW, RESERVED_READ } from "./access.ts";
import { COMMANDS } from "./commands.ts";
import { type ReservationStore, Reservations } from "./reservations.ts";

const REGISTER = 0;
const RESERVE = 1;
const RELEASE = 2;
const CLEAR = 3;
const PREEMPT = 4;
const PREEMPT_AND_ABORT = 5;
const IGNORE = 6;
const CONFLICT = 0x18;
const READY = [0, 0, 0, 0, 0, 0];

const SHARED_TYPES = [5, 6, 7, 8];
const TYPES = [1, 3, ...SHARED_TYPES];
const isWriteExclusive = (type: number): boolean => [1, 5, 7].includes(type);

interface Out {
  readonly key?: number;
  readonly actionKey?: number;
  readonly type?: number;
  readonly flags?: number;
}

function reserveOut(one: TestInitiator, action: number, options: Out = {}): number {
  const { status, sense } = one.run(outCdb(action, options), { out: outList(options) });
  return status === 2 ? sense : status;
}

const outCdb = (action: number, { type = 0 }: Out): number[] => [
  0x5f,
  action,
  type,
  0,
  0,
  ...be(24, 4),
  0,
];

function outList({ key = 0, actionKey = 0, flags = 0 }: Out): Uint8Array {
  return Uint8Array.from([...be(key, 8), ...be(actionKey, 8), 0, 0, 0, 0, flags, 0, 0, 0]);
}

function reserveIn(one: TestInitiator, action: number): Buffer {
  const cdb = [0x5e, action, 0, 0, 0, 0, 0, ...be(8192, 2), 0];
  const { status, data } = one.run(cdb, { room: 8192 });
  assert.equal(status, 0);
  return Buffer.from(data);
}

function keys(one: TestInitiator): number[] {
  const data = reserveIn(one, 0);
  const found: number[] = [];
  for (let at = 8; at < data.length; at += 8) found.push(Number(data.readBigUInt64BE(at)));
  return found;
}

interface Trio {
  readonly rig: ScsiRig;
  /** Holds the reservation, with key 0xa. */
  readonly holder: TestInitiator;
  /** Registered with key 0xb. */
  readonly member: TestInitiator;
  readonly stranger: TestInitiator;
}

function makeTrio(type: number): Trio {
  const rig = new ScsiRig({ isRemovable: true });
  const [holder, member, stranger] = ["a", "b", "c"].map((name) =>
    rig.initiator(`iqn.test:${name}`).ready(),
  ) as [TestInitiator, TestInitiator, TestInitiator];
  assert.equal(reserveOut(holder, REGISTER, { actionKey: 0xa }), 0);
  assert.equal(reserveOut(member, REGISTER, { actionKey: 0xb }), 0);
  if (type !== 0) assert.equal(reserveOut(holder, RESERVE, { key: 0xa, type }), 0);
  return { rig, holder, member, stranger };
}

describe("each type of reservation lets each command through to whom it should", () => {
  for (const type of TYPES) {
    test(`type ${type}`, () => {
      const { holder, member, stranger, rig } = makeTrio(type);
      for (const command of COMMANDS) {
        // RESERVE and RELEASE of SPC-2 and PERSISTENT RESERVE OUT have rules of their own.
        if ([0x16, 0x17, 0x56, 0x57, 0x5f].includes(command.opcode)) continue;
        const cdb = command.usage.map(() => 0);
        cdb[0] = command.opcode;
        if (command.action >= 0) cdb[1] = command.action;
        const isConflict = (one: TestInitiator): boolean =>
          one.run(cdb, { room: 512, out: new Uint8Array(512) }).status === CONFLICT;
        const { name, reserved } = command;
        assert.equal(isConflict(holder), false, name);
        const strangerMay =
          reserved === RESERVED_ALLOW || (reserved === RESERVED_READ && isWriteExclusive(type));
        const memberMay = strangerMay || SHARED_TYPES.includes(type);
        assert.equal(isConflict(member), !memberMay, `${name} of a registrant`);
        assert.equal(isConflict(stranger), !strangerMay, `${name} of a stranger`);
        rig.unit.isLoaded = true;
      }
      rig.checkIdle();
    });
  }
});

test("what a conflict refuses is not written, and a released unit is everybody's", () => {
  const { rig, holder, member, stranger } = makeTrio(1);
  const out = new Uint8Array(512).fill(9);
  assert.equal(member.run(write10(0, 1), { out }).status, CONFLICT);
  assert.equal(stranger.run(cdb16(0x93, 0, 1), { out }).status, CONFLICT);
  assert.equal(rig.device.content[0], 0);
  assert.equal(reserveOut(holder, RELEASE, { key: 0xa, type: 1 }), 0);
  assert.equal(stranger.run(write10(0, 1), { out }).status, 0);
  assert.equal(rig.device.content[0], 9);
});

test("REGISTER wants the right key, REGISTER AND IGNORE none, 0 takes the registration away", () => {
  const rig = new ScsiRig();
  const one = rig.initiator().ready();
  assert.equal(reserveOut(one, REGISTER, { key: 5, actionKey: 6 }), CONFLICT);
  assert.equal(reserveOut(one, REGISTER, { actionKey: 6 }), 0);
  assert.equal(reserveOut(one, REGISTER, { actionKey: 7 }), CONFLICT);
  assert.equal(reserveOut(one, REGISTER, { key: 6, actionKey: 7 }), 0);
  assert.deepEqual(keys(one), [7]);
  assert.equal(reserveOut(one, IGNORE, { key: 99, actionKey: 8 }), 0);
  assert.deepEqual(keys(one), [8]);
  assert.equal(reserveIn(one, 0).readUInt32BE(0), 3, "the generation counts what changed");
  assert.equal(reserveOut(one, REGISTER, { key: 8 }), 0);
  assert.deepEqual(keys(one), []);
  assert.equal(reserveOut(one, IGNORE), 0);
  assert.equal(reserveIn(one, 0).readUInt32BE(0), 4);
});

test("RESERVE wants a registration and a type; the holder may repeat it, nobody else", () => {
  const { holder, member, stranger } = makeTrio(1);
  assert.equal(reserveOut(holder, RESERVE, { key: 0xa, type: 1 }), 0);
  assert.equal(reserveOut(holder, RESERVE, { key: 0xa, type: 3 }), CONFLICT);
  assert.equal(reserveOut(holder, RESERVE, { key: 0xb, type: 1 }), CONFLICT);
  assert.equal(reserveOut(member, RESERVE, { key: 0xb, type: 1 }), CONFLICT);
  assert.equal(reserveOut(stranger, RESERVE, { key: 0, type: 1 }), CONFLICT);
  assert.equal(reserveOut(holder, RESERVE, { key: 0xa, type: 2 }), 0x052400);
  assert.equal(reserveOut(holder, RESERVE, { key: 0xa, type: 0x11 }), 0x052400);
});

test("READ RESERVATION and READ FULL STATUS show the holder; all registrants hold with key 0", () => {
  const { holder } = makeTrio(3);
  const one = reserveIn(holder, 1);
  assert.deepEqual([one.length, Number(one.readBigUInt64BE(8)), one[21]], [24, 0xa, 3]);
  const full = reserveIn(holder, 3);
  assert.equal(full.readUInt32BE(4), full.length - 8);
  assert.deepEqual([full[8 + 12], full[8 + 13], full.readUInt16BE(8 + 18)], [1, 3, 1]);
  const length = full.readUInt32BE(8 + 20);
  assert.equal(full.subarray(8 + 28, 8 + 28 + 10).toString(), "iqn.test:a");
  assert.equal(full[8 + 24 + length + 12], 0, "the second holds nothing");
  const all = makeTrio(7);
  assert.equal(Number(reserveIn(all.holder, 1).readBigUInt64BE(8)), 0);
  const status = reserveIn(all.holder, 3);
  assert.deepEqual([status[20], status[8 + 24 + status.readUInt32BE(28) + 12]], [1, 1]);
});

test("RELEASE of another type is refused, by another than the holder it does nothing", () => {
  const { rig, holder, member } = makeTrio(5);
  assert.equal(reserveOut(holder, RELEASE, { key: 0xa, type: 1 }), 0x052604);
  assert.equal(reserveOut(member, RELEASE, { key: 0xb, type: 5 }), 0);
  assert.equal(rig.unit.reservations.state.type, 5);
  assert.equal(reserveOut(holder, RELEASE, { key: 0xa, type: 5 }), 0);
  assert.equal(rig.unit.reservations.state.type, 0);
  assert.equal(member.run(READY).sense, 0x062a04);
  assert.equal(holder.run(READY).status, 0);
});

test("the holder's unregistering releases; with all registrants the last one's does", () => {
  const five = makeTrio(6);
  assert.equal(reserveOut(five.holder, REGISTER, { key: 0xa }), 0);
  assert.equal(five.rig.unit.reservations.state.type, 0);
  assert.equal(five.member.run(READY).sense, 0x062a04);
  const all = makeTrio(8);
  assert.equal(reserveOut(all.holder, REGISTER, { key: 0xa }), 0);
  assert.equal(all.rig.unit.reservations.state.type, 8);
  assert.equal(all.holder.run(read10(0, 1), { room: 512 }).status, CONFLICT);
  assert.equal(reserveOut(all.member, REGISTER, { key: 0xb }), 0);
  assert.equal(all.rig.unit.reservations.state.type, 0);
});

test("CLEAR takes everything away and tells the other registrants", () => {
  const { holder, member, stranger } = makeTrio(3);
  assert.equal(reserveOut(stranger, CLEAR, { key: 0 }), CONFLICT);
  assert.equal(reserveOut(member, CLEAR, { key: 0xb }), 0);
  assert.deepEqual(keys(member), []);
  assert.equal(reserveIn(member, 1).length, 8);
  assert.equal(holder.run(READY).sense, 0x062a03);
  assert.equal(stranger.run(write10(0, 1), { out: new Uint8Array(512) }).status, 0);
});

test("PREEMPT of the holder's key takes the reservation over, of another's only the key", () => {
  const { rig, holder, member, stranger } = makeTrio(1);
  assert.equal(reserveOut(stranger, IGNORE, { actionKey: 0xc }), 0);
  assert.equal(reserveOut(stranger, PREEMPT, { key: 0xc, actionKey: 0xb, type: 3 }), 0);
  assert.deepEqual(keys(stranger), [0xa, 0xc]);
  assert.equal(rig.unit.reservations.state.type, 1);
  assert.equal(member.run(READY).sense, 0x062a05);
  assert.equal(reserveOut(stranger, PREEMPT, { key: 0xc, actionKey: 0xdd, type: 3 }), CONFLICT);
  assert.equal(reserveOut(stranger, PREEMPT, { key: 0xc, type: 3 }), 0x052600);
  assert.equal(reserveOut(stranger, PREEMPT, { key: 0xc, actionKey: 0xa, type: 3 }), 0);
  assert.deepEqual(keys(stranger), [0xc]);
  assert.equal(holder.run(READY).sense, 0x062a05);
  assert.equal(holder.run(read10(0, 1), { room: 512 }).status, CONFLICT);
  assert.equal(stranger.run(read10(0, 1), { room: 512 }).status, 0);
});

test("PREEMPT with key 0 among all registrants removes all others", () => {
  const { rig, holder, member } = makeTrio(7);
  assert.equal(reserveOut(member, PREEMPT, { key: 0xb, actionKey: 0, type: 1 }), 0);
  assert.deepEqual(keys(member), [0xb]);
  assert.deepEqual(
    [rig.unit.reservations.state.type, rig.unit.reservations.isHolder("x")],
    [1, false],
  );
  assert.equal(holder.run(READY).sense, 0x062a05);
});

test("PREEMPT AND ABORT answers when the other's tasks have really ended", () => {
  const { rig, holder, member } = makeTrio(3);
  rig.device.isHolding = true;
  const running = holder.start(read10(0, 1), { room: 512 });
  const waiting = holder.start(write10(0, 1), { out: new Uint8Array(512), isSlow: true });
  const options = { key: 0xb, actionKey: 0xa, type: 3 };
  const preempt = member.start(outCdb(PREEMPT_AND_ABORT, options), { out: outList(options) });
  rig.drain();
  assert.equal(waiting.answer?.isAborted, true, "what only waits for data ends at once");
  assert.ok(isWaiting(running));
  assert.ok(isWaiting(preempt), "what is at the device is waited for");
  rig.device.release();
  rig.drain();
  assert.equal(running.answer?.isAborted, true);
  assert.equal(preempt.answer?.status, 0);
  rig.checkIdle();
});

test("parameter lists of another length, SPEC_I_PT and ALL_TG_PT are refused", () => {
  const one = new ScsiRig().initiator().ready();
  const cdb = [0x5f, 0, 0, 0, 0, ...be(23, 4), 0];
  assert.equal(one.run(cdb, { out: new Uint8Array(24) }).sense, 0x051a00);
  assert.equal(reserveOut(one, REGISTER, { actionKey: 1, flags: 8 }), 0x052600);
  assert.equal(reserveOut(one, REGISTER, { actionKey: 1, flags: 4 }), 0x052600);
  assert.equal(reserveOut(one, 7, { actionKey: 1 }), 0x052400);
  const capabilities = reserveIn(one, 2);
  assert.deepEqual([...capabilities], [0, 8, 1, 0x80, 0xea, 1, 0, 0]);
  for (let action = 4; action < 32; action++) {
    assert.equal(one.run([0x5e, action, 0, 0, 0, 0, 0, 1, 0, 0], { room: 256 }).status, 2);
  }
});

class MemoryStore implements ReservationStore {
  record: ReservationRecord | null = null;
  result = 0;
  waiting: (() => void)[] = [];
  isHolding = false;

  save(record: ReservationRecord, done: (result: number) => void): void {
    const finish = (): void => {
      if (this.result === 0) this.record = JSON.parse(JSON.stringify(record));
      done(this.result);
    };
    if (this.isHolding) this.waiting.push(finish);
    else finish();
  }
}

test("with APTPL the record outlives power, without it only the daemon", () => {
  for (const aptpl of [0, 1]) {
    const store = new MemoryStore();
    const rig = new ScsiRig({ reservations: new Reservations(store) });
    const one = rig.initiator().ready();
    assert.equal(reserveOut(one, REGISTER, { actionKey: 2 ** 40 + 5, flags: aptpl }), 0);
    assert.equal(reserveOut(one, RESERVE, { key: 2 ** 40 + 5, type: 5 }), 0);
    assert.equal(reserveIn(one, 2)[3] & 1, aptpl);
    for (const powerWasLost of [false, true]) {
      const kept = new Reservations(store, store.record, powerWasLost);
      const again = new ScsiRig({ reservations: kept });
      const two = again.initiator().ready();
      const isKept = aptpl === 1 || !powerWasLost;
      assert.deepEqual(keys(two), isKept ? [2 ** 40 + 5] : []);
      const other = again.initiator("iqn.test:other").ready();
      const { status } = other.run(write10(0, 1), { out: new Uint8Array(512) });
      assert.equal(status, isKept ? CONFLICT : 0);
      assert.equal(two.run(write10(0, 1), { out: new Uint8Array(512) }).status, 0);
    }
  }
});

test("a change is answered when it is kept, and one that cannot be kept is none", () => {
  const store = new MemoryStore();
  const rig = new ScsiRig({ reservations: new Reservations(store) });
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  store.isHolding = true;
  const first = one.start(outCdb(REGISTER, {}), { out: outList({ actionKey: 1 }) });
  const second = two.start(outCdb(REGISTER, {}), { out: outList({ actionKey: 2 }) });
  assert.equal(store.waiting.length, 1, "one at a time");
  assert.deepEqual([first.answer, keys(one)], [null, []]);
  store.waiting.shift()?.();
  assert.equal(first.answer?.status, 0);
  assert.ok(isWaiting(second));
  store.result = -EIO;
  store.waiting.shift()?.();
  assert.equal(second.answer?.sense, 0x0b5503);
  assert.deepEqual(keys(one), [1]);
  rig.checkIdle();
});

test("an aborted PERSISTENT RESERVE OUT has no status, and the next one has its turn", () => {
  const store = new MemoryStore();
  const rig = new ScsiRig({ reservations: new Reservations(store) });
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  store.isHolding = true;
  const first = one.start(outCdb(REGISTER, {}), { out: outList({ actionKey: 1 }) });
  const second = two.start(outCdb(REGISTER, {}), { out: outList({ actionKey: 2 }) });
  const abort = one.manage(0, first.task);
  assert.equal(abort.response, -1, "it is not over");
  store.waiting.shift()?.();
  assert.equal(first.answer?.isAborted, true);
  assert.equal(abort.response, 0);
  store.waiting.shift()?.();
  assert.equal(second.answer?.status, 0);
  assert.deepEqual(keys(two), [1, 2]);
  rig.checkIdle();
});

test("damaged records are refused by name", () => {
  const good = { generation: 1, aptpl: true, type: 0, holder: -1, registrations: [] };
  const registration = { transportId: "05000000", relativePort: 1, key: "0000000000000001" };
  assert.ok(new Reservations(new MemoryStore(), good));
  for (const bad of [
    { ...good, type: 2 },
    { ...good, type: 1 },
    { ...good, holder: 0 },
    { ...good, type: 7, holder: 0, registrations: [registration] },
    { ...good, registrations: [{ ...registration, key: "1" }] },
    { ...good, registrations: [{ ...registration, transportId: "0g" }] },
  ]) {
    assert.throws(() => new Reservations(new MemoryStore(), bad), /reservation record/);
  }
});

test("what another gateway wrote counts at once", () => {
  const { rig, stranger } = makeTrio(0);
  const out = new Uint8Array(512);
  assert.equal(stranger.run(write10(0, 1), { out }).status, 0);
  const registrations = [{ transportId: "05000000", relativePort: 9, key: "00000000000000ff" }];
  rig.unit.reservations.replace({ generation: 9, aptpl: true, type: 1, holder: 0, registrations });
  assert.equal(stranger.run(write10(0, 1), { out }).status, CONFLICT);
});

const reserve6 = [0x16, 0, 0, 0, 0, 0];
const release6 = [0x17, 0, 0, 0, 0, 0];

test("RESERVE of SPC-2 shuts others out until it is released, the nexus goes, or a reset", () => {
  const rig = new ScsiRig();
  const one = rig.initiator("iqn.test:a").ready();
  const two = rig.initiator("iqn.test:b").ready();
  const isOut = (): boolean => two.run(READY).status === CONFLICT;
  assert.equal(one.run(reserve6).status, 0);
  assert.equal(one.run(reserve6).status, 0);
  assert.ok(isOut());
  assert.equal(two.run(read10(0, 1), { room: 512 }).status, CONFLICT);
  assert.equal(two.run(reserve6).status, CONFLICT);
  assert.equal(two.run(release6).status, 0, "not its own: nothing happens");
  assert.ok(isOut());
  assert.equal(two.run([0x12, 0, 0, 0, 96, 0], { room: 96 }).status, 0);
  assert.equal(one.run(release6).status, 0);
  assert.ok(!isOut());
  assert.equal(one.run([0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]).status, 0);
  assert.ok(isOut());
  assert.equal(two.manage(3).response, 0);
  two.ready();
  one.ready();
  assert.equal(one.run(reserve6).status, 0);
  rig.target.removeNexus(one.nexus, () => {});
  assert.ok(!isOut());
  assert.equal(two.run([0x16, 0x10, 0, 0, 0, 0]).sense, 0x052400);
});

test("RESERVE of SPC-2 conflicts with registrations", () => {
  const { holder, stranger } = makeTrio(0);
  assert.equal(holder.run(reserve6).status, CONFLICT);
  assert.equal(stranger.run(release6).status, CONFLICT);
});
