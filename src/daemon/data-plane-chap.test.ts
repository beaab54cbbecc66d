// CHAP on real reactor threads, driven by the project's own initiator: a target that proves itself,
// and discovery that asks for a proof.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { InitiatorChap, IscsiInitiator, LoginOptions } from "../load/index.ts";
import type { ClassicChap } from "../ports/classic-plane.ts";
import { ClassicClient, classicSpec, INITIATOR, PORTAL } from "../testing/nodes/classic-client.ts";
import { TestPlane, until, volume } from "./_test-plane.ts";

const AUTHENTICATION_FAILED = 0x0201;
const MOVED = 0x0101;
const OWN = { user: "vm1", secret: "correct-horse-battery" } as const;
const TARGET = { user: "db", secret: "target-horse-staple" } as const;
const PROOF: InitiatorChap = { name: OWN.user, secret: OWN.secret, algorithms: [7] };
/** The target must prove itself, too. */
const MUTUAL_PROOF: InitiatorChap = { ...PROOF, mutualSecret: TARGET.secret };

/** A served target, and a way to log in to it. */
async function served(
  plane: TestPlane,
  chap: ClassicChap,
): Promise<(options: Partial<LoginOptions>) => Promise<IscsiInitiator>> {
  const client = new ClassicClient();
  const spec = volume("proves", { kind: "memory" });
  await plane.plane.openVolume(spec, { create: true });
  const target = classicSpec(spec, { chap, initiators: [INITIATOR] });
  const address = await plane.plane.attachClassic(target);
  const { targetName } = target;
  return async (options) => await client.tryLogin(address, { targetName, ...options });
}

test("a target with a secret proves itself to whoever asks, after he has", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const logIn = await served(plane, { ...OWN, target: TARGET });
  const mutual = (await logIn({ chap: MUTUAL_PROOF })).login;
  assert.equal(mutual.status, 0);
  assert.equal(mutual.keys.get("CHAP_N"), TARGET.user);
  assert.equal(mutual.isTargetProven, true);
  const other = { ...PROOF, mutualSecret: "another-horse-staple" };
  assert.equal((await logIn({ chap: other })).login.isTargetProven, false, "not by any secret");
  const oneWay = (await logIn({ chap: PROOF })).login;
  assert.equal(oneWay.status, 0, "who does not ask is let in by his own proof");
  assert.equal(oneWay.keys.has("CHAP_N"), false);
  const wrong = (await logIn({ chap: { ...MUTUAL_PROOF, secret: "wrong-horse-battery" } })).login;
  assert.equal(wrong.status, AUTHENTICATION_FAILED);
  assert.equal(wrong.keys.has("CHAP_N"), false, "nothing is proved to who has proved nothing");
  const asTarget = { ...PROOF, name: TARGET.user, secret: TARGET.secret };
  assert.equal((await logIn({ chap: asTarget })).login.status, AUTHENTICATION_FAILED);
  await until(() => plane.lines.some(({ event }) => /login refused/.test(event)), "a log line");
  assert.ok(!JSON.stringify(plane.lines).includes("horse"), "no secret in the log");
});

test("a target without one refuses who asks", async (t) => {
  const plane = await TestPlane.start(t, { portal: PORTAL });
  const logIn = await served(plane, { ...OWN, target: null });
  assert.equal((await logIn({ chap: MUTUAL_PROOF })).login.status, AUTHENTICATION_FAILED);
  assert.equal((await logIn({ chap: PROOF })).login.status, 0);
});

test("discovery asks for its own proof, at every reactor, and lists what it listed", async (t) => {
  const discovery = { user: "hosts", secret: "discover-horse-1", target: TARGET };
  const portal = { ...PORTAL, discovery };
  const plane = await TestPlane.start(t, { portal, reactorCount: 2 });
  const client = new ClassicClient();
  const targets = ["one", "two"].map((name) => {
    const spec = volume(name, { kind: "memory" });
    return { spec, target: classicSpec(spec, { chap: { ...OWN, target: null } }) };
  });
  let door = "";
  for (const { spec, target } of targets) {
    await plane.plane.openVolume(spec, { create: true });
    door = await plane.plane.attachClassic(target);
  }
  const proof = { name: discovery.user, secret: discovery.secret, algorithms: [5] };
  const doors = new Set([door]);
  for (const { target } of targets) {
    const { login } = await client.tryLogin(door, { targetName: target.targetName, chap: PROOF });
    if (login.status === MOVED) doors.add(login.keys.get("TargetAddress")?.split(",")[0] ?? "");
    else assert.equal(login.status, 0, "a target asks for the proof of its own");
  }
  assert.equal(doors.size, 2);
  for (const one of doors) {
    const ask = async (options: object): Promise<IscsiInitiator> =>
      await client.tryLogin(one, { targetName: null, ...options });
    for (const refused of [
      {},
      { skipsSecurity: true },
      { chap: PROOF },
      { chap: { ...proof, secret: "another-horse-1" } },
    ]) {
      assert.equal((await ask(refused)).login.status, AUTHENTICATION_FAILED);
    }
    const asked = await ask({ chap: { ...proof, mutualSecret: TARGET.secret } });
    assert.equal(asked.login.status, 0);
    assert.equal(asked.login.isTargetProven, true);
    const listing = asked.text("SendTargets=All\0");
    await client.until(() => listing.isDone, "SendTargets");
    const text = Buffer.from(listing.answer).toString("utf8");
    for (const { target } of targets) assert.ok(text.includes(target.targetName), text);
  }
  assert.ok(!JSON.stringify(plane.lines).includes("horse"), "no secret in the log");
});
