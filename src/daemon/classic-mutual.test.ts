// Targets that prove themselves (mutual CHAP) as the control plane keeps them: declared in a format
// that older versions refuse, kept over restarts with both secrets, never served without.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { DECLARED_FORMAT_CLASSIC, DECLARED_FORMAT_MUTUAL } from "../model/declared.ts";
import type { ChapProof, VolumeAttach } from "../model/types.ts";
import type { ClassicSpec } from "../ports/classic-plane.ts";
import { HostFixture } from "../testing/control/host-fixture.ts";
import { attachVolume, detachVolume } from "./volume-attach.ts";
import { createVolume, removeVolume } from "./volume-operations.ts";

const CALLER = { transport: "unix", name: "local" } as const;
const DO_IT = { dryRun: false };
const OWN: ChapProof = { user: "vm1", secret: "correct-horse-battery" };
const TARGET: ChapProof = { user: "db-1", secret: "target-horse-staple" };
const ONE_WAY: VolumeAttach = { classic: { chap: OWN } };
const MUTUAL: VolumeAttach = { classic: { chap: { ...OWN, target: TARGET } } };

let fixture: HostFixture;

beforeEach(async () => {
  fixture = new HostFixture();
  const request = { name: "v", sizeBytes: 1024 * 1024, backing: "file" } as const;
  await createVolume(fixture.host, request, CALLER, DO_IT);
});

afterEach(() => fixture.remove());

function idOf(): string {
  return fixture.host.find("v").declared.id;
}

function specOf(): ClassicSpec {
  return fixture.dataPlane.open.get(idOf())?.attachment as ClassicSpec;
}

function secretPath(kind: "chap" | "chap-target"): string {
  return join(fixture.paths.iscsiDirectory, `${idOf()}.${kind}`);
}

function declaredText(): string {
  return readFileSync(join(fixture.paths.stateDirectory, "v.json"), "utf8");
}

async function restart(): Promise<void> {
  fixture.kill();
  fixture = new HostFixture(fixture.root);
  await fixture.recover();
}

/** Everything that others see or that lies on disk, but for the secrets' own files. */
function everythingSeen(): string {
  const { host, log } = fixture;
  const views = [...host.entries.values()].map((entry) => host.view(entry));
  return JSON.stringify([declaredText(), views, host.modules.events.since(0), log]);
}

test("attached so: shown by name, served with both secrets, again after a kill", async () => {
  const { volume } = await attachVolume(fixture.host, "v", MUTUAL);
  assert.equal(volume.attachment?.classic?.chapUser, OWN.user);
  assert.equal(volume.attachment?.classic?.chapTargetUser, TARGET.user);
  assert.deepEqual(specOf().chap, { ...OWN, target: TARGET });
  for (const [kind, { secret }] of [
    ["chap", OWN],
    ["chap-target", TARGET],
  ] as const) {
    assert.equal(readFileSync(secretPath(kind), "utf8"), secret);
    assert.equal(statSync(secretPath(kind)).mode & 0o777, 0o600);
  }
  await restart();
  assert.deepEqual(specOf().chap, { ...OWN, target: TARGET });
  assert.ok(everythingSeen().includes(TARGET.user), "the name is there to be seen");
  for (const { secret } of [OWN, TARGET]) assert.ok(!everythingSeen().includes(secret));
  await detachVolume(fixture.host, "v");
  assert.deepEqual(readdirSync(fixture.paths.iscsiDirectory), []);
});

test("the declaration has a format that older versions refuse; one-way CHAP keeps the old", async () => {
  await attachVolume(fixture.host, "v", MUTUAL);
  assert.equal(JSON.parse(declaredText()).format, DECLARED_FORMAT_MUTUAL);
  await detachVolume(fixture.host, "v");
  await attachVolume(fixture.host, "v", ONE_WAY);
  assert.equal(JSON.parse(declaredText()).format, DECLARED_FORMAT_CLASSIC);
  assert.ok(!declaredText().includes("chapTargetUser"), "as older versions have it");
  assert.deepEqual(specOf().chap, { ...OWN, target: null });
});

test("a declaration that was edited by hand is checked, and served with both secrets", async () => {
  await attachVolume(fixture.host, "v", MUTUAL);
  const path = join(fixture.paths.stateDirectory, "v.json");
  const text = declaredText().replace(/ +"checksum".*\n/, "");
  writeFileSync(path, text);
  await restart();
  assert.deepEqual(specOf().chap, { ...OWN, target: TARGET });
  writeFileSync(path, text.replace(`"${TARGET.user}"`, '"db 1"'));
  await restart();
  assert.match(fixture.host.damaged.get("v")?.problem ?? "", /volume\.attachment/);
});

test("a target's secret that is gone: unavailable, not served without it", async () => {
  await attachVolume(fixture.host, "v", MUTUAL);
  rmSync(secretPath("chap-target"));
  await restart();
  const view = fixture.host.view(fixture.host.find("v"));
  assert.equal(view.state, "unavailable");
  assert.match(view.health[0]?.message ?? "", /CHAP secret of the target of volume v cannot be/);
  assert.ok(!fixture.dataPlane.calls.includes("attachClassic v"));
  await detachVolume(fixture.host, "v");
  await attachVolume(fixture.host, "v", MUTUAL);
  assert.deepEqual(specOf().chap?.target, TARGET);
});

test("attached again: with the same or no CHAP; anything else is refused", async () => {
  await attachVolume(fixture.host, "v", MUTUAL);
  assert.equal((await attachVolume(fixture.host, "v", MUTUAL)).changed, false);
  assert.equal((await attachVolume(fixture.host, "v", { classic: {} })).changed, false);
  const other = (target: Partial<ChapProof>): VolumeAttach => ({
    classic: { chap: { ...OWN, target: { ...TARGET, ...target } } },
  });
  for (const [request, message] of [
    [other({ user: "db-2" }), /volume v is attached with CHAP name db-1 of the target/],
    [ONE_WAY, /volume v is attached with CHAP name db-1 of the target/],
    [other({ secret: "another-secret" }), /with another CHAP secret of the target/],
  ] as const) {
    const attempt = attachVolume(fixture.host, "v", request);
    await assert.rejects(attempt, { code: "attachment_differs", message });
  }
  assert.deepEqual(specOf().chap, { ...OWN, target: TARGET }, "nothing has changed");
  await detachVolume(fixture.host, "v");
  await attachVolume(fixture.host, "v", ONE_WAY);
  await assert.rejects(attachVolume(fixture.host, "v", MUTUAL), {
    code: "attachment_differs",
    message: /without a CHAP name of the target/,
  });
  assert.ok(!existsSync(secretPath("chap-target")), "a refusal keeps no secret");
});

test("names and secrets that are none, and one secret for both sides: nothing is changed", async () => {
  const chap = (target: ChapProof): VolumeAttach => ({ classic: { chap: { ...OWN, target } } });
  for (const [request, message, advice] of [
    [chap({ user: "d b", secret: TARGET.secret }), /"d b" is not a CHAP name/, /no spaces/],
    [
      chap({ user: "db", secret: "short-horse" }),
      /the CHAP secret of "db" has 11 characters/,
      /use 12 to 64/,
    ],
    [
      chap({ user: "db", secret: OWN.secret }),
      /initiators \("vm1"\) and the target \("db"\) have the same CHAP secret/,
      /give the target a secret of its own/,
    ],
  ] as const) {
    await assert.rejects(attachVolume(fixture.host, "v", request), (error: Error) => {
      assert.match(error.message, message);
      assert.match((error as { advice?: string }).advice ?? "", advice);
      assert.ok(!error.message.includes("horse"), "no secret in an error");
      return true;
    });
  }
  assert.equal(fixture.host.find("v").declared.attachment, null);
  assert.deepEqual(readdirSync(fixture.paths.iscsiDirectory), []);
});

test("what an attachment before it has left behind is no secret of this one", async () => {
  writeFileSync(secretPath("chap-target"), "left-by-a-crash");
  await attachVolume(fixture.host, "v", ONE_WAY);
  assert.ok(!existsSync(secretPath("chap-target")));
  await detachVolume(fixture.host, "v");
  writeFileSync(secretPath("chap-target"), "left-by-a-crash");
  await removeVolume(fixture.host, "v", DO_IT);
  assert.deepEqual(readdirSync(fixture.paths.iscsiDirectory), []);
});
