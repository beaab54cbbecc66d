// The command window, task management, NOP both ways, messages and the ends of sessions.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Rig, read10, write10 } from "./_test-rig.ts";
import { COMMANDS_MAX, DATA_OUT_MS, NOP_AFTER_MS, NOP_ANSWER_MS, SEND_MS } from "./limits.ts";

const ABORT_TASK = 1;
const ABORT_TASK_SET = 2;
const CLEAR_TASK_SET = 4;
const LUN_RESET = 5;
const WARM_RESET = 6;
const COLD_RESET = 7;

test("commands that come early wait for those before them, and are executed in order, once", () => {
  const rig = new Rig();
  const initiator = rig.login({ firstCmdSn: 0xfffffffe });
  const send = (cmdSn: number, block: number): ReturnType<typeof initiator.command> =>
    initiator.command({ cdb: read10(block, 1), readBytes: 512, cmdSn: cmdSn >>> 0 });
  const third = send(0, 30);
  const second = send(0xffffffff, 20);
  const again = send(0xffffffff, 21);
  rig.runMs(50);
  assert.deepEqual(rig.scsi.blocks, []);
  const first = send(0xfffffffe, 10);
  rig.until(() => first.isDone && second.isDone && third.isDone, "all three");
  assert.deepEqual(rig.scsi.blocks, [10, 20, 30]);
  // Too low, too high, twice: ignored without a word.
  send(0xfffffffe, 40);
  send(1 + COMMANDS_MAX, 41);
  rig.runMs(50);
  assert.deepEqual(rig.scsi.blocks, [10, 20, 30]);
  assert.equal(again.isDone, false);
  assert.equal(initiator.rejects.length, 0);
  const next = send(COMMANDS_MAX, 50);
  initiator.cmdSn = 1;
  const nop = initiator.nop(Buffer.from("in order"), false);
  rig.until(() => nop.isDone, "the NOP");
  assert.equal(next.isDone, false, "the end of the window still waits for what is between");
  assert.deepEqual(initiator.violations, []);
});

test("an immediate command overtakes those that wait; too many of them are refused", () => {
  const rig = new Rig();
  const initiator = rig.login();
  initiator.cmdSn = 2;
  const held = initiator.command({ cdb: read10(0, 1), readBytes: 512 });
  const urgent = initiator.command({ cdb: read10(9, 1), readBytes: 512, isImmediate: true });
  rig.until(() => urgent.isDone, "the immediate one");
  assert.equal(held.isDone, false);
  rig.scsi.isStuck = true;
  for (let index = 0; index < 20; index++) {
    initiator.command({ cdb: read10(index, 1), readBytes: 512, isImmediate: true });
  }
  rig.until(() => initiator.rejects.length === 4, "rejects");
  assert.equal(initiator.rejects[0]?.header[2], 0x06);
  assert.equal(rig.scsi.inflightCount, 16);
});

test("a tag that is in use and a tag that is none are refused, and their CmdSN counts", () => {
  const rig = new Rig();
  const initiator = rig.login();
  rig.scsi.isStuck = true;
  const first = initiator.command({ cdb: read10(0, 1), readBytes: 512 });
  const double = initiator.header(0x01, 0xc1, first.tag, false);
  initiator.pipe.send(double);
  initiator.pipe.send(initiator.header(0x01, 0x81, 0xffffffff, false));
  rig.until(() => initiator.rejects.length === 2, "two rejects");
  assert.deepEqual(
    initiator.rejects.map(({ header }) => header[2]),
    [0x07, 0x09],
  );
  rig.scsi.release();
  const next = initiator.command({ cdb: read10(1, 1), readBytes: 512 });
  rig.until(() => first.isDone && next.isDone, "the others");
});

test("ABORT TASK is answered when the task touches nothing any more, and not before", () => {
  const rig = new Rig();
  const initiator = rig.login();
  rig.scsi.isStuck = true;
  const read = initiator.command({ cdb: read10(0, 8), readBytes: 4096 });
  const other = initiator.command({ cdb: read10(8, 8), readBytes: 4096 });
  rig.until(() => rig.scsi.inflightCount === 2, "commands at the device");
  const abort = initiator.manage(ABORT_TASK, read);
  rig.runMs(1000);
  assert.equal(abort.isDone, false, "the device still has it");
  rig.scsi.release();
  rig.until(() => abort.isDone && other.isDone, "the abort");
  assert.equal(abort.response, 0);
  assert.equal(read.isDone, false, "an aborted task has no answer");
  assert.equal(other.status, 0);
  const late = initiator.manage(ABORT_TASK, other);
  rig.until(() => late.isDone, "an abort of what is over");
  assert.equal(late.response, 1);
  assert.deepEqual(initiator.violations, []);
  assert.ok([...rig.portal.sessions].every((session) => session.isQuiet));
});

test("ABORT TASK of a write that waits for data, of one that is held, and of one still to come", () => {
  const rig = new Rig();
  const initiator = rig.login({ offers: { ImmediateData: "No" } });
  const write = initiator.command({ cdb: write10(0, 8), data: rig.data(4096), isMute: true });
  rig.until(() => write.r2tCount === 1, "an R2T");
  const abort = initiator.manage(ABORT_TASK, write);
  rig.until(() => abort.isDone, "the abort");
  assert.equal(abort.response, 0);
  assert.equal(rig.scsi.inflightCount, 0);
  // Its data is late, and dropped.
  initiator.dataOut(write, 0, 0, 0, rig.data(4096), true);

  const missing = initiator.cmdSn;
  initiator.cmdSn += 1;
  const held = initiator.command({ cdb: read10(77, 1), readBytes: 512 });
  rig.runMs(10);
  const abortHeld = initiator.manage(ABORT_TASK, held);
  rig.until(() => abortHeld.isDone, "the abort of a held task");
  assert.equal(abortHeld.response, 0);
  // 11.5.5: a command that has not come is aborted in advance.
  const phantom = { ...held, tag: 0x7777, cmdSn: missing, options: { cdb: read10(0, 1) } };
  const abortPhantom = initiator.manage(ABORT_TASK, phantom as typeof held);
  rig.until(() => abortPhantom.isDone, "the abort of a command to come");
  assert.equal(abortPhantom.response, 0);
  const late = initiator.command({ cdb: read10(78, 1), readBytes: 512, cmdSn: missing });
  const next = initiator.command({ cdb: read10(79, 1), readBytes: 512 });
  rig.until(() => next.isDone, "the next");
  assert.equal(late.isDone, false);
  assert.deepEqual(rig.scsi.blocks, [0, 79], "neither 77 nor 78 was executed");
});

test("task sets, logical units and targets are reset with all that is under way", () => {
  const rig = new Rig();
  for (const operation of [ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET, WARM_RESET]) {
    const initiator = rig.login();
    const other = rig.login();
    rig.scsi.isStuck = true;
    const command = (lun: number, of = initiator): ReturnType<typeof initiator.command> =>
      of.command({ cdb: read10(0, 1), readBytes: 512, lun });
    const mine = [command(0), command(0)];
    const elsewhere = command(1);
    const theirs = command(0, other);
    rig.until(() => rig.scsi.inflightCount === 4, "commands at the device");
    const reset = initiator.manage(operation, null);
    rig.runMs(200);
    assert.equal(reset.isDone, false, `operation ${operation}`);
    rig.scsi.release();
    rig.until(() => reset.isDone, "the reset");
    assert.equal(reset.response, 0);
    rig.runMs(100);
    assert.deepEqual(
      mine.map((one) => one.isDone),
      [false, false],
    );
    assert.equal(elsewhere.isDone, operation !== WARM_RESET);
    assert.equal(theirs.isDone, operation === ABORT_TASK_SET || operation === CLEAR_TASK_SET);
    initiator.close();
    other.close();
  }
  const initiator = rig.login();
  for (const [operation, response] of [
    [8, 4],
    [9, 5],
    [99, 5],
  ]) {
    const manage = initiator.manage(operation as number, null);
    rig.until(() => manage.isDone, "an answer");
    assert.equal(manage.response, response);
  }
  const absent = initiator.command({ cdb: read10(0, 1), readBytes: 512, lun: 9 });
  const reset = initiator.manage(LUN_RESET, absent);
  rig.until(() => reset.isDone, "an answer");
  assert.equal(reset.response, 2);
});

test("TARGET COLD RESET answers, then ends every session of the target", () => {
  const rig = new Rig();
  const initiator = rig.login();
  const other = rig.login();
  const reset = initiator.manage(COLD_RESET, null);
  rig.until(() => initiator.isEnded && other.isEnded, "the ends");
  assert.equal(reset.response, 0);
  rig.checkEmpty();
});

test("NOP-Out comes back with its data; NOP-In finds out who is still there", () => {
  const rig = new Rig();
  const initiator = rig.login({ offers: { MaxRecvDataSegmentLength: "1000" } });
  const data = rig.data(5000);
  const nops = [
    initiator.nop(data),
    initiator.nop(data.slice(0, 3), false),
    initiator.nop(new Uint8Array(0)),
  ];
  rig.until(() => nops.every((nop) => nop.isDone), "answers");
  assert.deepEqual(nops[0]?.answer, data.slice(0, 1000), "as much as the initiator takes");
  assert.deepEqual(nops[1]?.answer, data.slice(0, 3));
  assert.equal(nops[2]?.answer.length, 0);
  const silent = rig.login();
  silent.answersPings = false;
  rig.runMs(NOP_AFTER_MS + 2000);
  assert.ok(initiator.pingCount > 0 && silent.pingCount > 0);
  rig.runMs(NOP_ANSWER_MS + 2000);
  assert.equal(initiator.isEnded, false);
  assert.equal(silent.isEnded, true);
  assert.deepEqual(initiator.violations, []);
});

test("data that was asked for and never comes ends the session, not the memory", () => {
  const rig = new Rig();
  const initiator = rig.login({ offers: { ImmediateData: "No" } });
  for (let index = 0; index < 20; index++) {
    initiator.command({ cdb: write10(0, 512), data: rig.data(262144), isMute: true });
  }
  for (let turn = 0; turn < DATA_OUT_MS / 5000 + 2; turn++) {
    initiator.nop(new Uint8Array(4));
    rig.runMs(5000);
  }
  assert.equal(initiator.isEnded, true);
  rig.checkEmpty();
});

test("an initiator that does not read is given up, and holds back only itself", () => {
  const rig = new Rig({ windowBytes: 65536 });
  const deaf = rig.login();
  const other = rig.login();
  deaf.pipe.isDeaf = true;
  for (let index = 0; index < 100; index++) {
    deaf.command({ cdb: read10(0, 512), readBytes: 262144 });
  }
  rig.runMs(1000);
  const read = other.command({ cdb: read10(0, 512), readBytes: 262144 });
  rig.until(() => read.isDone, "the other's read");
  rig.runMs(SEND_MS + NOP_ANSWER_MS);
  assert.equal(deaf.isEnded || rig.portal.sessions.size === 1, true);
  other.close();
  deaf.close();
  rig.checkEmpty();
});

test("a move asks initiators to log out and drops who stays; capacity changes are told", () => {
  const rig = new Rig();
  const polite = rig.login();
  const stubborn = rig.login();
  const target = [...rig.targets.values()][0] as typeof rig.targets extends Map<string, infer T>
    ? T
    : never;
  rig.scsi.nexuses[0]?.transport.unitAttention(0, 0x2a09);
  rig.scsi.nexuses[0]?.transport.unitAttention(0, 0x2900);
  rig.until(() => polite.asyncs.length === 1, "a SCSI event");
  assert.equal(polite.asyncs[0]?.header[36], 0);
  assert.deepEqual([...(polite.asyncs[0]?.data ?? [])].slice(14, 16), [0x2a, 0x09]);
  rig.portal.moveAway(target, 3);
  rig.until(() => polite.asyncs.length === 2 && stubborn.asyncs.length === 1, "requests");
  assert.equal(polite.asyncs[1]?.header[36], 1);
  const logout = polite.logout();
  rig.until(() => polite.isEnded, "a logout");
  assert.equal(logout.response, 0);
  assert.equal(stubborn.isEnded, false);
  rig.runMs(4000);
  assert.equal(stubborn.isEnded, true);
  const third = rig.login();
  rig.portal.drop(target, "moved");
  rig.until(() => third.isEnded, "a drop");
  rig.checkEmpty();
});

test("logout: of the session, of its connection, of another one, for recovery", () => {
  const rig = new Rig();
  const initiator = rig.login({ cid: 3 });
  const recovery = initiator.logout(2);
  rig.until(() => recovery.isDone, "an answer");
  assert.equal(recovery.response, 2);
  const header = initiator.header(0x06, 0x81, 0x999, true);
  header[21] = 4;
  initiator.pipe.send(header);
  rig.until(() => initiator.violations.length === 1, "an answer to a logout of nobody");
  assert.equal(initiator.pdus.at(-1)?.header[2], 1);
  const logout = initiator.logout(1);
  rig.until(() => initiator.isEnded, "the end");
  assert.equal(logout.response, 0);
  rig.checkEmpty();
});

test("a portal closes with commands under way and ends when the last has stopped", () => {
  const rig = new Rig();
  const initiator = rig.login();
  rig.dial();
  rig.scsi.isStuck = true;
  initiator.command({ cdb: read10(0, 8), readBytes: 4096 });
  rig.until(() => rig.scsi.inflightCount === 1, "a command at the device");
  let isClosed = false;
  rig.portal.close(() => {
    isClosed = true;
  });
  rig.runMs(1000);
  assert.equal(isClosed, false);
  rig.scsi.release();
  rig.until(() => isClosed, "the close");
  const late = rig.dial();
  rig.until(() => late.isEnded, "a connection to a closed portal");
  rig.checkEmpty();
});
