// The classic path on real reactor threads, driven by the project's own initiator over loopback:
// who is let in, what is counted, and what detach, resize, reservations and several reactors do to
// sessions.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { VolumeStats } from "../ports/data-plane.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import {
  ClassicClient,
  classicSpec,
  INITIATOR,
  keysOf,
  PORTAL,
  READ_CAPACITY,
  READ_KEYS,
  read10,
  register,
  reserve,
  TEST_UNIT_READY,
  write10,
} from "../testing/nodes/classic-client.ts";
import { MIB, TestPlane, until, volume } from "./_test-plane.ts";

const AUTHENTICATION_FAILED = 0x0201;
const NOT_ALLOWED = 0x0202;
const NOT_FOUND = 0x0203;
const MOVED = 0x0101;
const UNAVAILABLE = 0x0301;
const CONFLICT = 0x18;

function statsOf({ plane }: TestPlane, volumeId: string): VolumeStats {
  const stats = plane.volumeStats().find((one) => one.volumeId === volumeId);
  assert.ok(stats !== undefined, "no statistics");
  return stats;
}

test("a target's life: written, read, counted, detached under its session", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const client = new ClassicClient();
  const spec = plane.file("life");
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  const address = await plane.plane.attachClassic(target);
  const { targetName } = target;
  await assert.rejects(plane.plane.attachClassic(target), { code: "VOLUME_ATTACHED" });
  await assert.rejects(plane.plane.attach(plane.attachment(spec)), { code: "VOLUME_ATTACHED" });
  assert.equal(statsOf(plane, spec.id).connected, false);
  const initiator = await client.login(address, targetName);
  const data = Buffer.alloc(64 * 1024, "classic!");
  assert.equal((await client.run(initiator, { cdb: write10(100, 128), data })).status, 0);
  const answer = await client.run(initiator, { cdb: read10(100, 128), readBytes: data.length });
  assert.equal(answer.status, 0);
  assert.ok(data.equals(answer.data), "what was written is read");
  const stats = statsOf(plane, spec.id);
  assert.equal(stats.connected, true);
  assert.equal(stats.sessionCount, 1);
  assert.equal(stats.writeCount, 1);
  assert.equal(stats.writeBytes, data.length);
  assert.equal(stats.readBytes, data.length);
  assert.equal(stats.readLatencyUs.count, 1);
  assert.equal(stats.commandCount, 3);
  assert.equal(stats.inflightCount, 0);
  await until(() => plane.plane.portalStats()[0]?.loginCount === 1, "the portal's counters");
  assert.equal(plane.plane.portalStats()[0]?.address, address);
  await client.during(plane.plane.detach(spec.id));
  await client.until(() => initiator.isEnded, "the end of the session");
  await plane.plane.closeVolume(spec.id);
  const kept = readFileSync(plane.path("life.data")).subarray(100 * 512, 100 * 512 + data.length);
  assert.ok(kept.equals(data), "what was answered is in the file");
  assert.equal((await client.tryLogin(address, { targetName })).login.status, NOT_FOUND);
});

test("who may log in: CHAP, names of initiators, and nobody hears the secret", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const client = new ClassicClient();
  const secret = "correct-horse-battery";
  const spec = volume("chap", { kind: "memory" });
  await plane.plane.openVolume(spec, { create: true });
  const chap = { user: "vm1", secret, target: null };
  const target = classicSpec(spec, { chap, initiators: [INITIATOR] });
  const address = await plane.plane.attachClassic(target);
  const { targetName } = target;
  const statusOf = async (options: object): Promise<number> =>
    (await client.tryLogin(address, { targetName, ...options })).login.status;
  const proof = { name: "vm1", algorithms: [7] };
  assert.equal(await statusOf({ skipsSecurity: true }), AUTHENTICATION_FAILED);
  assert.equal(
    await statusOf({ chap: { ...proof, secret: "wrong-horse-battery" } }),
    AUTHENTICATION_FAILED,
  );
  assert.equal(
    await statusOf({ chap: { ...proof, secret }, initiatorName: "iqn.2026-01.test:two" }),
    NOT_ALLOWED,
  );
  assert.equal(await statusOf({ chap: { ...proof, secret } }), 0);
  await until(() => plane.lines.some(({ event }) => /login refused/.test(event)), "a log line");
  assert.ok(!JSON.stringify(plane.lines).includes("horse"), "no secret in the log");
});

test("a volume that grows: unit attention, then the new capacity", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const client = new ClassicClient();
  const spec = plane.file("grows");
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  const address = await plane.plane.attachClassic(target);
  const initiator = await client.login(address, target.targetName);
  await client.during(plane.plane.resizeVolume(spec.id, 32 * MIB));
  const told = await client.run(initiator, { cdb: TEST_UNIT_READY });
  assert.equal(told.senseTriple, 0x062a09);
  const answer = await client.run(initiator, { cdb: READ_CAPACITY, readBytes: 8 });
  assert.equal(Buffer.from(answer.data).readUInt32BE(0), (32 * MIB) / 512 - 1);
  await client.until(() => initiator.asyncs.length === 1, "an asynchronous message");
});

test("a read-only attachment: reads, and refuses writes", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const client = new ClassicClient();
  const spec = volume("fixed", { kind: "memory" });
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec, { readOnly: true });
  const address = await plane.plane.attachClassic(target);
  const initiator = await client.login(address, target.targetName);
  const written = await client.run(initiator, { cdb: write10(0, 1), data: Buffer.alloc(512) });
  assert.equal(written.senseTriple >>> 8, 0x0727);
  const read = await client.run(initiator, { cdb: read10(0, 1), readBytes: 512 });
  assert.equal(read.status, 0);
});

test("reservations: kept before they are answered, there again, and refused unkept", async (t) => {
  const records: ReservationRecord[] = [];
  let mayKeep = true;
  const saveReservations = async (_id: string, record: ReservationRecord): Promise<void> => {
    await sleep(5);
    if (!mayKeep) throw new Error("no space");
    records.push(record);
  };
  const plane = await TestPlane.start(t, { portal: PORTAL, saveReservations });
  const client = new ClassicClient();
  const spec = volume("shared", { kind: "memory" });
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  const { targetName } = target;
  const address = await plane.plane.attachClassic(target);
  const initiator = await client.login(address, targetName);
  assert.equal((await client.run(initiator, register(7, true))).status, 0);
  assert.equal(records.length, 1);
  mayKeep = false;
  const refused = await client.run(initiator, register(8, true));
  assert.equal(refused.senseTriple, 0x0b5503);
  assert.deepEqual(keysOf(await client.run(initiator, READ_KEYS)), ["0000000000000007"]);
  await client.during(plane.plane.detach(spec.id));
  const [kept] = records as [ReservationRecord];
  await plane.plane.attachClassic({ ...target, reservations: kept, powerWasLost: true });
  const again = await client.login(address, targetName);
  assert.deepEqual(keysOf(await client.run(again, READ_KEYS)), ["0000000000000007"]);
  await client.during(plane.plane.detach(spec.id));
  const lost = { ...kept, aptpl: false };
  await plane.plane.attachClassic({ ...target, reservations: lost, powerWasLost: true });
  const anew = await client.login(address, targetName);
  assert.deepEqual(keysOf(await client.run(anew, READ_KEYS)), []);
  await client.during(plane.plane.detach(spec.id));
  const damaged = { ...kept, holder: 5 };
  await assert.rejects(plane.plane.attachClassic({ ...target, reservations: damaged }), {
    code: "INVALID_REQUEST",
    message: /reservation record.*damaged/,
  });
});

test("two initiators: the reservation of one keeps the other's writes out", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const client = new ClassicClient();
  const spec = volume("two", { kind: "memory" });
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  const address = await plane.plane.attachClassic(target);
  const one = await client.login(address, target.targetName);
  const two = await client.login(address, target.targetName);
  assert.equal((await client.run(one, register(1, false))).status, 0);
  assert.equal((await client.run(one, reserve(1))).status, 0);
  const write = { cdb: write10(0, 1), data: Buffer.alloc(512, 1) };
  assert.equal((await client.run(two, write)).status, CONFLICT);
  assert.equal((await client.run(one, write)).status, 0);
});

test("several reactors: one address leads to every volume, by redirection", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL, reactorCount: 2 });
  const client = new ClassicClient();
  const targets = [];
  let door = "";
  for (const name of ["first", "second"]) {
    const spec = volume(name, { kind: "memory" });
    await plane.plane.openVolume(spec, { create: true });
    const target = classicSpec(spec);
    targets.push(target);
    door = await plane.plane.attachClassic(target);
  }
  let redirectCount = 0;
  for (const { targetName } of targets) {
    let initiator = await client.tryLogin(door, { targetName });
    if (initiator.login.status === MOVED) {
      redirectCount += 1;
      const there = initiator.login.keys.get("TargetAddress") ?? "";
      initiator = await client.tryLogin(there.split(",")[0] as string, { targetName });
    }
    assert.equal(initiator.login.status, 0);
    const answer = await client.run(initiator, { cdb: TEST_UNIT_READY });
    assert.equal(answer.senseTriple >>> 8, 0x0629);
  }
  assert.equal(redirectCount, 1, "one of them is another reactor's");
  const discovery = await client.tryLogin(door, { targetName: null });
  const listing = discovery.text("SendTargets=All\0");
  await client.until(() => listing.isDone, "SendTargets");
  const text = Buffer.from(listing.answer).toString("utf8");
  for (const { targetName } of targets) assert.ok(text.includes(targetName), text);
});

test("targets of other nodes: listed, led to, and told to wait for; one's own counts first", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL, reactorCount: 2 });
  const client = new ClassicClient();
  const door = await plane.plane.openPortal();
  assert.equal(await plane.plane.openPortal(), door);
  const there = "10.0.0.7:3260";
  const other = "10.0.0.8:3260";
  const paths = [
    { address: there, portTag: 2, isActive: true },
    { address: other, portTag: 1, isActive: false },
  ];
  const [far, away] = ["iqn.2024-01.io.ringstore:far", "iqn.2024-01.io.ringstore:away"];
  const spec = volume("near", { kind: "memory" });
  const near = classicSpec(spec);
  await plane.plane.leadElsewhere([
    { targetName: far, initiators: [], address: there, paths },
    { targetName: away, initiators: [INITIATOR], address: null, paths: [] },
    { targetName: near.targetName, initiators: [], address: there, paths },
    { targetName: `${far}-2`, initiators: ["iqn.2026-01.test:two"], address: there, paths },
  ]);
  const statusOf = async (targetName: string): Promise<number> =>
    (await client.tryLogin(door, { targetName })).login.status;
  await plane.plane.openVolume(spec, { create: true });
  assert.equal(await statusOf(near.targetName), MOVED);
  await plane.plane.attachClassic(near);
  const own = await client.tryLogin(door, { targetName: near.targetName });
  assert.notEqual(own.login.keys.get("TargetAddress"), there);
  const led = await client.tryLogin(door, { targetName: far });
  assert.equal(led.login.status, MOVED);
  assert.equal(led.login.keys.get("TargetAddress"), there);
  assert.equal(await statusOf(away), UNAVAILABLE);
  assert.equal(await statusOf(`${far}-2`), NOT_ALLOWED);
  const discovery = await client.tryLogin(door, { targetName: null });
  const listing = discovery.text("SendTargets=All\0");
  await client.until(() => listing.isDone, "SendTargets");
  const text = Buffer.from(listing.answer).toString("utf8");
  const addresses = `TargetAddress=${there},2\0TargetAddress=${other},1\0`;
  assert.ok(text.includes(`TargetName=${far}\0${addresses}`), text);
  assert.ok(text.includes(`TargetName=${away}\0TargetAddress=${door},1\0`), text);
  assert.ok(!text.includes(`${far}-2`), "shown to those alone that may log in");
  assert.equal(text.split(near.targetName).length, 2, "its own is listed once");
  await plane.plane.leadElsewhere([]);
  assert.equal(await statusOf(far), NOT_FOUND);
});

test("detached and stopped in the middle of writes: every one ends", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const client = new ClassicClient();
  const spec = plane.file("busy");
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  const address = await plane.plane.attachClassic(target);
  const data = Buffer.alloc(32 * 1024, 7);
  for (const isStop of [false, true]) {
    const initiator = await client.login(address, target.targetName);
    for (let at = 0; at < 64; at++) initiator.command({ cdb: write10(at * 64, 64), data });
    // Some are with the device, some on their way.
    await client.until(() => initiator.openCommands < 60, "the first answers");
    if (isStop) {
      await client.during(plane.plane.stop());
    } else {
      await client.during(plane.plane.detach(spec.id));
      assert.equal(await plane.plane.attachClassic(target), address);
    }
    await client.until(() => initiator.isEnded, "the end of the session");
    assert.deepEqual(initiator.violations, []);
  }
});

test("a port that somebody has: said so, and tried again", async (t) => {
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
  const { port } = taken.address() as { port: number };
  const plane = await TestPlane.start(t, { portal: { ...PORTAL, port } });
  const spec = volume("late", { kind: "memory" });
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  await assert.rejects(plane.plane.attachClassic(target), {
    code: "BACKING_FAILED",
    message: new RegExp(`127\\.0\\.0\\.1 port ${port}: EADDRINUSE`),
  });
  await new Promise((resolve) => taken.close(resolve));
  assert.equal(await plane.plane.attachClassic(target), `127.0.0.1:${port}`);
});

test("after a restart every initiator of a host logs in at once, and is let in", async (t) => {
  const count = 40;
  const many = { ...PORTAL, connectionsMax: count, connectionsPerAddressMax: count };
  const plane = await TestPlane.start(t, { portal: many });
  const client = new ClassicClient();
  const spec = volume("many", { kind: "memory" });
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  const address = await plane.plane.attachClassic(target);
  const { targetName } = target;
  const initiators = Array.from({ length: count }, () => client.dial(address, { targetName }));
  await client.until(
    () => initiators.every((one) => one.login.isDone || one.isEnded),
    "every login",
  );
  assert.ok(initiators.every((one) => one.isLoggedIn));
  await until(() => statsOf(plane, spec.id).sessionCount === count, "every session");
});

test("more connections than the configuration allows are hung up on", async (t) => {
  const plane = await TestPlane.start(t, { portal: { ...PORTAL, connectionsMax: 2 } });
  const client = new ClassicClient();
  const spec = volume("few", { kind: "memory" });
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec);
  const address = await plane.plane.attachClassic(target);
  await client.login(address, target.targetName);
  await client.login(address, target.targetName);
  const third = await client.tryLogin(address, { targetName: target.targetName });
  assert.equal(third.isEnded, true);
  assert.equal(third.login.isDone, false);
  await until(() => plane.plane.portalStats()[0]?.turnedAwayCount === 1, "the count");
});
