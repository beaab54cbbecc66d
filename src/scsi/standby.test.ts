// A unit behind a port in standby (SPC-4 5.15.2): the whole command table, and that nothing of it
// reaches a device; and registrations of initiators that find the unit at another port.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { be, read10, write10 } from "../testing/fakes/cdb.ts";
import { isWaiting, ScsiRig, type TestInitiator } from "./_test-rig.ts";
import { COMMANDS } from "./commands.ts";
import type { TargetPortGroup } from "./logical-unit.ts";

const IN_STANDBY = 0x02040b;
const STATES_CHANGED = 0x062a06;
const INVALID_OPCODE = 0x052000;
const CONFLICT = 0x18;
const READY = [0, 0, 0, 0, 0, 0];
const REGISTER = 0;
const RESERVE = 1;
const PREEMPT_AND_ABORT = 5;
const IGNORE = 6;
const EXCLUSIVE_ACCESS = 3;

/** Everything else is refused; a command that is added has to be put here on purpose. */
const ANSWERED = [
  "INQUIRY",
  "MODE SELECT (10)",
  "MODE SELECT (6)",
  "MODE SENSE (10)",
  "MODE SENSE (6)",
  "READ CAPACITY (10)",
  "READ CAPACITY (16)",
  "READ FULL STATUS",
  "READ KEYS",
  "READ RESERVATION",
  "REPORT CAPABILITIES",
  "REPORT LUNS",
  "REPORT SUPPORTED OPERATION CODES",
  "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
  "REPORT TARGET PORT GROUPS",
  "REQUEST SENSE",
];

function groups(active: number): TargetPortGroup[] {
  return [1, 2].map((id) => {
    const isActive = id === active;
    return { id, state: isActive ? 0 : 2, isPreferred: isActive, ports: [id] };
  });
}

/** Port 2 is ours; the unit is served through port 1, on another node. */
class StandbyRig extends ScsiRig {
  /** Requests that came to the device. */
  submitCount = 0;

  constructor() {
    super({ groups: groups(1), atomicBytesMax: 4096 });
    const { device } = this;
    const submit = device.submit.bind(device);
    device.submit = (slot) => {
      this.submitCount += 1;
      submit(slot);
    };
    this.standDown();
  }

  activate(): void {
    this.unit.setDevice(this.device);
    this.unit.setGroups(groups(2));
  }

  standDown(): void {
    this.unit.setDevice(null, this.device.info);
    this.unit.setGroups(groups(1));
  }

  /** A session that has taken its first unit attentions. */
  session(name: string): TestInitiator {
    const one = this.initiator(`iqn.test:${name}`, 2);
    told(one);
    return one;
  }
}

/** What TEST UNIT READY says, until it is no unit attention. */
function told(one: TestInitiator): number[] {
  const all: number[] = [];
  do all.push(one.run(READY).sense);
  while ((all.at(-1) as number) >>> 16 === 6);
  return all;
}

function cdbOf({ opcode, action, usage }: (typeof COMMANDS)[number]): number[] {
  const cdb = usage.map(() => 0);
  cdb[0] = opcode;
  if (action >= 0) cdb[1] = action;
  return cdb;
}

describe("in standby", () => {
  const senses = (one: TestInitiator): string[] =>
    COMMANDS.filter((command) => {
      const answer = one.run(cdbOf(command), { room: 512, out: new Uint8Array(512) });
      return answer.sense !== IN_STANDBY;
    }).map(({ name }) => name);

  test("what is about the unit is answered, everything else is not ready", () => {
    const rig = new StandbyRig();
    assert.deepEqual(senses(rig.session("a")).sort(), ANSWERED);
    assert.equal(rig.submitCount, 0);
    rig.checkIdle();
  });

  test("LOG SENSE and SET TARGET PORT GROUPS are commands that there are not", () => {
    const one = new StandbyRig().session("a");
    const logSense = [0x4d, 0, 0x40, 0, 0, 0, 0, 0, 255, 0];
    assert.equal(one.run(logSense, { room: 255 }).sense, INVALID_OPCODE);
    const setGroups = [0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    assert.equal(one.run(setGroups, { out: new Uint8Array(8) }).sense, INVALID_OPCODE);
  });

  test("a reservation of somebody else is no conflict there, and is shown", () => {
    const rig = new StandbyRig();
    const one = rig.session("a");
    const transportId = "05000000";
    const registrations = [{ transportId, relativePort: 1, key: "00000000000000ff" }];
    const type = EXCLUSIVE_ACCESS;
    const record = { generation: 1, aptpl: false, type, holder: 0, registrations };
    rig.unit.reservations.replace(record);
    for (const cdb of [read10(0, 1), write10(0, 1), READY]) {
      const { sense } = one.run(cdb, { room: 512, out: new Uint8Array(512) });
      assert.equal(sense, IN_STANDBY);
    }
    const { data } = one.run([0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], { room: 64 });
    assert.equal(data[15], 0xff);
    rig.activate();
    told(one);
    assert.equal(one.run(read10(0, 1), { room: 512 }).status, CONFLICT);
  });

  test("it becomes active under its sessions, and standby again under requests", () => {
    const rig = new StandbyRig();
    const [one, two] = [rig.session("a"), rig.session("b")];
    rig.activate();
    for (const session of [one, two]) assert.deepEqual(told(session), [STATES_CHANGED, 0]);
    rig.device.isHolding = true;
    const block = new Uint8Array(512).fill(7);
    const first = one.start(write10(0, 1), { out: block });
    const slow = two.start(write10(1, 1), { out: block, isSlow: true });
    rig.standDown();
    slow.arrive();
    const late = two.start(write10(2, 1), { out: block });
    assert.ok(isWaiting(first));
    rig.device.isHolding = false;
    rig.device.release();
    rig.drain();
    assert.equal(first.answer?.status, 0, "what was submitted ends as it ends");
    assert.equal(slow.answer?.sense, IN_STANDBY);
    assert.equal(late.answer?.sense, STATES_CHANGED);
    assert.deepEqual(told(one), [STATES_CHANGED, IN_STANDBY]);
    assert.equal(rig.submitCount, 1);
    assert.deepEqual([...rig.device.content.subarray(512, 1536)].filter(Boolean), []);
    rig.checkIdle();
  });
});

describe("registrations and ports", () => {
  const reserveOut = (
    one: TestInitiator,
    action: number,
    { key = 0, actionKey = 0, type = 0 }: { key?: number; actionKey?: number; type?: number },
  ): number => {
    const out = Uint8Array.from([...be(key, 8), ...be(actionKey, 8), 0, 0, 0, 0, 0, 0, 0, 0]);
    return one.run([0x5f, action, type, 0, 0, ...be(24, 4), 0], { out }).status;
  };
  const keyCount = (one: TestInitiator): number =>
    one.run([0x5e, 0, 0, 0, 0, 0, 0, 0, 255, 0], { room: 255 }).data[7] / 8;

  test("an initiator that finds the unit at another port is the one that is registered", () => {
    const rig = new ScsiRig();
    const [one, other] = [rig.initiator("iqn.test:a", 1).ready(), rig.initiator("b", 1).ready()];
    const type = EXCLUSIVE_ACCESS;
    assert.equal(reserveOut(one, REGISTER, { actionKey: 1 }), 0);
    assert.equal(reserveOut(one, RESERVE, { key: 1, type }), 0);
    const moved = rig.initiator("iqn.test:a", 2).ready();
    assert.equal(moved.run(read10(0, 1), { room: 512 }).status, 0, "it holds the reservation");
    assert.equal(other.run(read10(0, 1), { room: 512 }).status, CONFLICT);
    assert.equal(reserveOut(moved, IGNORE, { actionKey: 2 }), 0);
    assert.equal(keyCount(moved), 1, "its registration is the one that was there");
    assert.equal(reserveOut(moved, REGISTER, { key: 2 }), 0);
    assert.equal(keyCount(moved), 0);
    assert.equal(other.run(read10(0, 1), { room: 512 }).status, 0);
  });

  test("with several sessions it registers through each port, and has several", () => {
    const rig = new ScsiRig();
    const [one, two] = [rig.initiator("a", 1).ready(), rig.initiator("a", 2).ready()];
    assert.equal(reserveOut(one, REGISTER, { actionKey: 1 }), 0);
    assert.equal(reserveOut(two, REGISTER, { actionKey: 2 }), 0);
    assert.equal(keyCount(one), 2);
    assert.equal(reserveOut(one, RESERVE, { key: 1, type: EXCLUSIVE_ACCESS }), 0);
    assert.equal(two.run(read10(0, 1), { room: 512 }).status, CONFLICT, "the other one holds it");
  });

  test("who is preempted lands nothing any more, through whichever port", () => {
    const rig = new ScsiRig();
    const [one, other] = [rig.initiator("a", 1).ready(), rig.initiator("b", 1).ready()];
    assert.equal(reserveOut(one, REGISTER, { actionKey: 1 }), 0);
    assert.equal(reserveOut(one, RESERVE, { key: 1, type: EXCLUSIVE_ACCESS }), 0);
    assert.equal(reserveOut(other, REGISTER, { actionKey: 2 }), 0);
    const moved = rig.initiator("a", 2).ready();
    const slow = moved.start(write10(0, 1), { out: new Uint8Array(512), isSlow: true });
    const how = { key: 2, actionKey: 1, type: EXCLUSIVE_ACCESS };
    assert.equal(reserveOut(other, PREEMPT_AND_ABORT, how), 0);
    assert.equal(slow.answer?.isAborted, true);
    assert.equal(moved.run(READY).sense, 0x062a05, "registrations preempted");
    assert.equal(moved.run(write10(0, 1), { out: new Uint8Array(512) }).status, CONFLICT);
    assert.equal(rig.device.writeCount, 0);
  });
});
