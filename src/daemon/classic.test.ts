// Classic attachments as the control plane keeps them: what is declared, what is kept beside it,
// what a restart finds, and that a secret is where it belongs and nowhere else.

import assert from "node:assert/strict";
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { CONFIG_DEFAULTS } from "../model/config.ts";
import type { VolumeAttach } from "../model/types.ts";
import type { ClassicSpec } from "../ports/classic-plane.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import { HostFixture } from "../testing/control/host-fixture.ts";
import { portalSettingsOf } from "./classic-attach.ts";
import { ClassicKeeper } from "./classic-keeper.ts";
import { nodeStateFs } from "./state-fs.ts";
import { attachVolume, detachVolume } from "./volume-attach.ts";
import { createVolume, removeVolume } from "./volume-operations.ts";

const CALLER = { transport: "unix", name: "local" } as const;
const DO_IT = { dryRun: false };
const SECRET = "correct-horse-battery";
const CHAP: VolumeAttach = {
  classic: { chap: { user: "vm1", secret: SECRET }, initiators: ["IQN.2026-01.com.example:B"] },
};
const RECORD: ReservationRecord = {
  generation: 3,
  aptpl: false,
  type: 0,
  holder: -1,
  registrations: [{ transportId: "0500000069716e2e", relativePort: 1, key: "0000000000000007" }],
};

let fixture: HostFixture;

beforeEach(async () => {
  fixture = new HostFixture();
  const request = { name: "v", sizeBytes: 1024 * 1024, backing: "file" } as const;
  await createVolume(fixture.host, request, CALLER, DO_IT);
});

afterEach(() => {
  fixture.remove();
});

function idOf(name: string): string {
  return fixture.host.find(name).declared.id;
}

function specOf(name: string): ClassicSpec {
  return fixture.dataPlane.open.get(idOf(name))?.attachment as ClassicSpec;
}

function iscsiFiles(): readonly string[] {
  return readdirSync(fixture.paths.iscsiDirectory).sort();
}

/** A process is killed, another starts over what it left. */
async function restart(): Promise<void> {
  fixture.kill();
  fixture = new HostFixture(fixture.root);
  await fixture.recover();
}

/** Everything that others see or that lies on disk, but for the secret's own file. */
function everythingSeen(): string {
  const { host, paths, log } = fixture;
  const files = readdirSync(paths.stateDirectory).map((file) =>
    readFileSync(join(paths.stateDirectory, file), "utf8"),
  );
  const views = [...host.entries.values()].map((entry) => host.view(entry));
  return JSON.stringify([files, views, host.modules.events.since(0), log]);
}

test("attached as a target: declared, shown, served again after a restart", async () => {
  const { volume, changed } = await attachVolume(fixture.host, "v", CHAP);
  assert.equal(changed, true);
  const { attachment, state } = volume;
  assert.equal(state, "attached");
  assert.equal(attachment?.socket, null);
  const target = `iqn.2024-01.io.ringstore:v.${idOf("v").replaceAll("-", "").slice(0, 12)}`;
  assert.deepEqual(attachment?.classic, {
    target,
    lun: 0,
    portal: "127.0.0.1:3260",
    url: `iscsi://127.0.0.1:3260/${target}/0`,
    chapUser: "vm1",
    chapTargetUser: null,
    initiators: ["iqn.2026-01.com.example:b"],
  });
  const before = specOf("v");
  assert.deepEqual(before.chap, { user: "vm1", secret: SECRET, target: null });
  assert.match(before.naa, /^3[0-9a-f]{15}$/);
  await restart();
  assert.deepEqual(specOf("v"), before);
  assert.ok(fixture.dataPlane.calls.includes("attachClassic v"));
  const events = fixture.host.modules.events.since(0);
  assert.ok(events.some((event) => event.message === "its target is served again"));
});

test("a secret is in its own file, for this user alone, and nowhere else", async () => {
  await attachVolume(fixture.host, "v", CHAP);
  const path = join(fixture.paths.iscsiDirectory, `${idOf("v")}.chap`);
  assert.equal(readFileSync(path, "utf8"), SECRET);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.equal(statSync(fixture.paths.iscsiDirectory).mode & 0o777, 0o700);
  assert.ok(everythingSeen().includes("vm1"), "the user's name is there to be seen");
  assert.ok(!everythingSeen().includes(SECRET));
  await detachVolume(fixture.host, "v");
  assert.deepEqual(iscsiFiles(), []);
});

test("a secret that is gone: the volume is unavailable, and says what to do", async () => {
  await attachVolume(fixture.host, "v", CHAP);
  rmSync(join(fixture.paths.iscsiDirectory, `${idOf("v")}.chap`));
  await restart();
  const view = fixture.host.view(fixture.host.find("v"));
  assert.equal(view.state, "unavailable");
  assert.equal(view.attachment?.classic?.url, null);
  assert.match(view.health[0]?.message ?? "", /CHAP secret of volume v cannot be read/);
  await detachVolume(fixture.host, "v");
  await attachVolume(fixture.host, "v", CHAP);
  assert.equal(specOf("v").chap?.secret, SECRET);
});

test("attached again: with the same it changes nothing, with anything else it is refused", async () => {
  await attachVolume(fixture.host, "v", CHAP);
  assert.equal((await attachVolume(fixture.host, "v", CHAP)).changed, false);
  assert.equal((await attachVolume(fixture.host, "v", { classic: {} })).changed, false);
  const other = (chap: object, initiators?: readonly string[]): VolumeAttach => {
    const wanted = { chap: { user: "vm1", secret: SECRET, ...chap } };
    return { classic: initiators === undefined ? wanted : { ...wanted, initiators } };
  };
  for (const [request, message] of [
    [{}, /as an iSCSI target, not by vhost-user/],
    [other({ user: "vm2" }), /with another CHAP name/],
    [other({ secret: "another-secret" }), /with another CHAP secret/],
    [other({}, ["iqn.2026-01.com.example:c"]), /for other initiators/],
  ] as const) {
    const attempt = attachVolume(fixture.host, "v", request);
    await assert.rejects(attempt, { code: "attachment_differs", message });
  }
  await detachVolume(fixture.host, "v");
  await attachVolume(fixture.host, "v", {});
  const attempt = attachVolume(fixture.host, "v", CHAP);
  await assert.rejects(attempt, { code: "attachment_differs", message: /by vhost-user/ });
});

test("what no target has, and names and secrets that are none", async () => {
  for (const [request, message] of [
    [{ classic: {}, queueCountMax: 2 }, /queueCountMax does not go with classic/],
    [{ classic: {}, standby: true }, /standby does not go with classic/],
    [{ classic: { initiators: ["host1"] } }, /"host1" is not the name of an iSCSI initiator/],
    [{ classic: { chap: { user: "a b", secret: SECRET } } }, /"a b" is not a CHAP name/],
    [{ classic: { chap: { user: "a", secret: "short-horse" } } }, /has 11 characters/],
  ] as const) {
    await assert.rejects(attachVolume(fixture.host, "v", request), (error: Error) => {
      assert.match(error.message, message);
      assert.ok(!error.message.includes("horse"), "no secret in an error");
      return true;
    });
  }
  assert.equal(fixture.host.find("v").declared.attachment, null);
  assert.deepEqual(iscsiFiles(), []);
});

test("a target that cannot be served is declared no more, and leaves no secret", async () => {
  fixture.dataPlane.intercept = (method) => {
    if (method === "attachClassic") throw new Error("no port");
  };
  await assert.rejects(attachVolume(fixture.host, "v", CHAP), /no port/);
  assert.equal(fixture.host.find("v").declared.attachment, null);
  assert.deepEqual(iscsiFiles(), []);
});

test("reservations outlive the daemon; without APTPL not the volume's power", async () => {
  await attachVolume(fixture.host, "v", { classic: {} });
  assert.equal(specOf("v").reservations, null);
  await fixture.host.modules.classic.save(idOf("v"), RECORD);
  await restart();
  assert.deepEqual(specOf("v").reservations, RECORD);
  assert.equal(specOf("v").powerWasLost, false);
  await detachVolume(fixture.host, "v");
  assert.deepEqual(iscsiFiles(), []);
  await attachVolume(fixture.host, "v", { classic: {} });
  assert.equal(specOf("v").reservations, null);
  await fixture.host.modules.classic.save(idOf("v"), { ...RECORD, aptpl: true });
  await detachVolume(fixture.host, "v");
  await attachVolume(fixture.host, "v", { classic: {} });
  assert.deepEqual(specOf("v").reservations, { ...RECORD, aptpl: true });
  await detachVolume(fixture.host, "v");
  await removeVolume(fixture.host, "v", DO_IT);
  assert.deepEqual(iscsiFiles(), []);
});

test("a boot of the machine is a loss of power", async () => {
  const { iscsiDirectory } = fixture.paths;
  const id = idOf("v");
  await new ClassicKeeper(iscsiDirectory, nodeStateFs, "boot-1").save(id, RECORD);
  const same = await new ClassicKeeper(iscsiDirectory, nodeStateFs, "boot-1").reservationsOf(
    id,
    "v",
  );
  assert.deepEqual(same, { record: RECORD, powerWasLost: false });
  const next = await new ClassicKeeper(iscsiDirectory, nodeStateFs, "boot-2").reservationsOf(
    id,
    "v",
  );
  assert.equal(next.powerWasLost, true);
});

test("damaged reservations let nobody in; edited ones without a checksum do", async () => {
  await attachVolume(fixture.host, "v", { classic: {} });
  await fixture.host.modules.classic.save(idOf("v"), RECORD);
  const path = join(fixture.paths.iscsiDirectory, `${idOf("v")}.json`);
  const text = readFileSync(path, "utf8");
  writeFileSync(path, text.replace('"generation": 3', '"generation": 4'));
  await restart();
  const view = fixture.host.view(fixture.host.find("v"));
  assert.equal(view.state, "unavailable");
  assert.match(view.health[0]?.message ?? "", /checksum does not match/);
  writeFileSync(
    path,
    text.replace('"generation": 3', '"generation": 4').replace(/.*checksum.*\n/, ""),
  );
  await restart();
  assert.equal(specOf("v").reservations?.generation, 4);
});

test("where portals listen: an address of this node, never all of them", () => {
  const log = { log(): void {} };
  const settings = (iscsiListen: string) =>
    portalSettingsOf({ ...CONFIG_DEFAULTS, iscsiListen }, log);
  assert.deepEqual(settings(CONFIG_DEFAULTS.iscsiListen), {
    host: "127.0.0.1",
    port: 3260,
    connectionsMax: 256,
    connectionsPerAddressMax: 256,
    discovery: null,
  });
  assert.equal(settings(""), null);
  assert.equal(settings("[fe80::1]:3261")?.host, "fe80::1");
  assert.throws(() => settings("0.0.0.0:3260"), /stands for every address/);
  assert.throws(() => settings("[::]:3260"), /stands for every address/);
  assert.throws(() => settings("localhost:3260"), /is no IP address/);
  assert.throws(() => settings("3260"), /--iscsi-listen "3260" is not an address/);
});
