// Logins as an initiator sees them: stages, CHAP both ways, discovery, access lists, redirection,
// reinstatement, and every way to be refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { InitiatorChap, LoginOptions } from "../load/index.ts";
import { INITIATOR_NAME, Rig, read10, TARGET_NAME } from "./_test-rig.ts";
import type { ChapCredentials } from "./chap.ts";

const CREDENTIALS: ChapCredentials = {
  users: [{ name: "alice", secret: "alices-secret-1" }],
  target: { name: "vol1", secret: "the-targets-own-1" },
};
const CHAP: InitiatorChap = { name: "alice", secret: "alices-secret-1", algorithms: [5] };
const ALGORITHMS = [5, 6, 7, 8];

/** A session that works: it reads a block. */
function checkWorks(rig: Rig, change: Partial<LoginOptions> = {}): void {
  const initiator = rig.login(change);
  const command = initiator.command({ cdb: read10(7, 1), readBytes: 512 });
  rig.until(() => command.isDone, "a read");
  assert.equal(command.status, 0);
  assert.deepEqual(command.data, rig.diskBytes(7 * 512, 512));
  assert.deepEqual(initiator.violations, []);
  const logout = initiator.logout();
  rig.until(() => logout.isDone && initiator.isEnded, "a logout");
  assert.equal(logout.response, 0);
}

test("a login with and without the security stage, whole and in pieces of one byte to many", () => {
  const rig = new Rig();
  rig.fillDisk();
  checkWorks(rig);
  checkWorks(rig, { skipsSecurity: true });
  for (const pieceBytes of [17, 64, 100]) checkWorks(rig, { pieceBytes });
  // The last Text of a login with 24 requests is the limit.
  assert.equal(rig.refused({ pieceBytes: 1 }), 0x0200);
  rig.checkEmpty();
});

test("a login tells the initiator what it must know", () => {
  const rig = new Rig({ target: { alias: "volume one", portalGroupTag: 7 } });
  const initiator = rig.login({ offers: { MaxBurstLength: "4096", Unheard: "1" } });
  const { keys } = initiator.login;
  assert.equal(keys.get("TargetPortalGroupTag"), "7");
  assert.equal(keys.get("TargetAlias"), "volume one");
  assert.equal(keys.get("AuthMethod"), "None");
  assert.equal(keys.get("MaxRecvDataSegmentLength"), "262144");
  assert.equal(keys.get("MaxBurstLength"), "4096");
  assert.equal(keys.get("Unheard"), "NotUnderstood");
  assert.notEqual(initiator.login.tsih, 0);
});

for (const algorithm of ALGORITHMS) {
  for (const encoding of ["hex", "base64"] as const) {
    test(`CHAP algorithm ${algorithm} in ${encoding}, one way and mutual`, () => {
      const rig = new Rig({ chap: CREDENTIALS });
      const chap = { ...CHAP, algorithms: [99, algorithm, 5], encoding };
      checkWorks(rig, { chap });
      const mutual = rig.login({ chap: { ...chap, mutualSecret: "the-targets-own-1" } });
      assert.equal(mutual.login.keys.get("CHAP_A"), String(algorithm));
      assert.equal(mutual.login.isTargetProven, true);
      const wrong = rig.login({ chap: { ...chap, mutualSecret: "not-the-targets-1" } });
      assert.equal(wrong.login.isTargetProven, false, "the proof depends on the secret");
    });
  }
}

test("CHAP refuses: a wrong secret, an unknown name, a reflection, no CHAP, a skipped stage", () => {
  const rig = new Rig({ chap: CREDENTIALS });
  const cases: Partial<LoginOptions>[] = [
    { chap: { ...CHAP, secret: "wrong-secret-12" } },
    { chap: { ...CHAP, name: "bob" } },
    { chap: { ...CHAP, mutualSecret: "x", isReflecting: true } },
    { chap: { ...CHAP, algorithms: [1, 2] } },
    {},
    { skipsSecurity: true },
  ];
  for (const change of cases) assert.equal(rig.refused(change), 0x0201, JSON.stringify(change));
  const oneWay = new Rig({ chap: { ...CREDENTIALS, target: null } });
  assert.equal(oneWay.refused({ chap: { ...CHAP, mutualSecret: "x" } }), 0x0201);
  const log = JSON.stringify(rig.reactor.entries);
  assert.match(log, /iSCSI login refused/);
  assert.doesNotMatch(log, /alices-secret|the-targets-own|wrong-secret/);
  rig.checkEmpty();
});

test("refusals say why: no such target, not on the list, no name, another type of session", () => {
  const rig = new Rig({ target: { initiators: new Set([INITIATOR_NAME]) } });
  checkWorks(rig, { initiatorName: INITIATOR_NAME.toUpperCase().replace("IQN", "iqn") });
  assert.equal(rig.refused({ targetName: "iqn.2024-01.io.ringstore:none" }), 0x0203);
  assert.equal(rig.refused({ initiatorName: "iqn.2024-01.io.ringstore:other" }), 0x0202);
  assert.equal(rig.refused({ initiatorName: "not a name" }), 0x0200);
  assert.equal(rig.refused({ tsih: 77 }), 0x020a);
  assert.equal(rig.refused({ offers: { MaxRecvDataSegmentLength: "1" } }), 0x0200);
  assert.equal(rig.refused({ offers: { InitiatorName: "iqn.second" } }), 0x0200);
  rig.checkEmpty();
});

test("login redirection names where the volume's owner is, for now or for good", () => {
  const rig = new Rig();
  const address = "10.0.0.2:3260";
  for (const [isPermanent, status] of [
    [false, 0x0101],
    [true, 0x0102],
  ] as const) {
    rig.addTarget(TARGET_NAME, { redirect: { address, isPermanent } });
    const initiator = rig.dial();
    rig.until(() => initiator.isEnded, "the end of a redirected login");
    assert.equal(initiator.login.status, status);
    assert.equal(initiator.login.keys.get("TargetAddress"), address);
  }
  rig.addTarget(TARGET_NAME, { redirect: { address: null, isPermanent: false } });
  const early = rig.dial();
  rig.until(() => early.isEnded, "the end of a login that comes too early");
  assert.equal(early.login.status, 0x0301);
  rig.checkEmpty();
});

test("discovery: SendTargets shows what the initiator may see, in as many PDUs as it takes", () => {
  const rig = new Rig({ extraTargets: 120 });
  rig.addTarget("iqn.2024-01.io.ringstore:secret", { initiators: new Set(["iqn.somebody"]) });
  rig.addTarget("iqn.2024-01.io.ringstore:far", {
    addresses: ["10.0.0.5:3260,2", "[fe80::1]:3260,2"],
  });
  const initiator = rig.login({ targetName: null, offers: { MaxRecvDataSegmentLength: "1024" } });
  let text = "";
  let ask = initiator.text("SendTargets=All\0");
  for (let turn = 0; turn < 100; turn++) {
    rig.until(() => ask.isDone, "targets");
    text += Buffer.from(ask.answer).toString("utf8");
    const last = initiator.pdus.at(-1) as { header: Uint8Array };
    if ((last.header[1] as number) >= 0x80) break;
    assert.equal(last.header[1], 0x40, "more follows");
    ask = initiator.text("", new DataView(last.header.buffer).getUint32(20));
  }
  const lines = text.split("\0");
  assert.equal(lines.filter((line) => line.startsWith("TargetName=")).length, 122);
  assert.ok(text.includes(`TargetName=${TARGET_NAME}\0TargetAddress=10.0.0.1:3260,1\0`));
  assert.ok(text.includes("far\0TargetAddress=10.0.0.5:3260,2\0TargetAddress=[fe80::1]:3260,2\0"));
  assert.ok(!text.includes("secret"));
  const one = initiator.text(`SendTargets=${TARGET_NAME}\0`);
  rig.until(() => one.isDone, "one target");
  assert.equal(
    Buffer.from(one.answer).toString(),
    `TargetName=${TARGET_NAME}\0TargetAddress=10.0.0.1:3260,1\0`,
  );
  // No commands in a discovery session.
  initiator.command({ cdb: read10(0, 1), readBytes: 512 });
  rig.until(() => initiator.rejects.length === 1, "a reject");
  assert.equal(initiator.rejects[0]?.header[2], 0x04);
  initiator.logout();
  rig.checkEmpty();

  const guarded = new Rig({ discoveryChap: CREDENTIALS });
  assert.equal(guarded.refused({ targetName: null }), 0x0201);
  assert.equal(guarded.login({ targetName: null, chap: CHAP }).isLoggedIn, true);
});

test("in a normal session SendTargets shows its own target only", () => {
  const rig = new Rig({ extraTargets: 2 });
  const initiator = rig.login();
  const answerTo = (value: string): string => {
    const ask = initiator.text(`SendTargets=${value}\0`);
    rig.until(() => ask.isDone, "an answer");
    return Buffer.from(ask.answer).toString();
  };
  assert.match(answerTo(""), /^TargetName=.*vol1\0/);
  assert.match(answerTo(TARGET_NAME), /vol1\0/);
  assert.equal(answerTo("All"), "SendTargets=Reject\0");
  assert.equal(answerTo("iqn.2024-01.io.ringstore:extra1"), "SendTargets=Reject\0");
});

test("session reinstatement: the later login waits until the tasks of the earlier have stopped", () => {
  const rig = new Rig();
  const options = rig.options();
  const first = rig.login(options);
  rig.scsi.isStuck = true;
  const read = first.command({ cdb: read10(0, 8), readBytes: 4096 });
  rig.until(() => rig.scsi.inflightCount === 1, "a command at the device");
  const second = rig.dial(options);
  rig.runMs(500);
  assert.equal(first.isEnded, true, "the old connection is dropped");
  assert.equal(second.login.isDone, false, "its task still touches memory");
  assert.equal(rig.scsi.nexusCount, 1);
  rig.scsi.release();
  rig.until(() => second.login.isDone, "the login");
  assert.equal(second.login.status, 0);
  assert.equal(read.isDone, false);
  assert.equal(rig.scsi.abortedCount, 1);
  rig.until(() => rig.portal.sessions.size === 1, "one session");
  // Another ISID is another session.
  rig.login();
  assert.equal(rig.portal.sessions.size, 2);
  assert.equal(rig.portal.counters.reinstatedCount, 1);
});

test("connection reinstatement keeps the TSIH; another CID is one connection too many", () => {
  const rig = new Rig();
  const options = rig.options({ cid: 5 });
  const first = rig.login(options);
  const { tsih } = first.login;
  assert.equal(rig.refused({ ...options, tsih, cid: 6 }), 0x0206);
  const again = rig.login({ ...options, tsih });
  assert.equal(again.login.tsih, tsih);
  rig.until(() => first.isEnded, "the end of the first");
  const command = again.command({ cdb: read10(0, 1), readBytes: 512 });
  rig.until(() => command.isDone, "a read");
  assert.equal(command.status, 0);
});

test("two logins that wait for the same place: the second counts", () => {
  const rig = new Rig();
  const options = rig.options();
  rig.login(options);
  rig.scsi.isStuck = true;
  const [one, two] = [rig.dial(options), rig.dial(options)];
  rig.runMs(300);
  rig.scsi.release();
  rig.until(() => one.login.isDone && two.login.isDone, "both logins");
  rig.runMs(100);
  assert.equal(rig.portal.sessions.size, 1);
  assert.equal([one, two].filter((each) => !each.isEnded).length, 1);
});
