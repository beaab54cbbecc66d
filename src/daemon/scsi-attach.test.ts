// Units of virtio-scsi controllers as the control plane keeps them: which number a volume gets,
// what is declared, what a restart finds and in which order, and what has to be on one reactor.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import type { DeclaredVolume } from "../model/declared.ts";
import type { VolumeAttach } from "../model/types.ts";
import type { PlacementGroup, ScsiSpec } from "../ports/scsi-plane.ts";
import { HostFixture, never } from "../testing/control/host-fixture.ts";
import { nameBytesMax } from "./data-directory.ts";
import { placementGroups } from "./scsi-attach.ts";
import { attachVolume, detachVolume } from "./volume-attach.ts";
import { createVolume } from "./volume-operations.ts";
import { serveDeclared } from "./volume-recovery.ts";

const CALLER = { transport: "unix", name: "local" } as const;
const DO_IT = { dryRun: false };

let fixture: HostFixture;

beforeEach(async () => {
  fixture = new HostFixture();
  for (const name of ["a", "b", "c"]) {
    const request = { name, sizeBytes: 1024 * 1024, backing: "file" } as const;
    await createVolume(fixture.host, request, CALLER, DO_IT);
  }
});

afterEach(() => {
  fixture.remove();
});

function to(controller: string, lun?: number, more: VolumeAttach = {}): VolumeAttach {
  return { scsi: lun === undefined ? { controller } : { controller, lun }, ...more };
}

async function attach(name: string, request: VolumeAttach): Promise<number | undefined> {
  const { volume } = await attachVolume(fixture.host, name, request);
  return volume.attachment?.scsi?.lun;
}

function specOf(name: string): ScsiSpec {
  const { id } = fixture.host.find(name).declared;
  return fixture.dataPlane.open.get(id)?.attachment as ScsiSpec;
}

/** A process is killed, another starts over what it left. */
async function restart(prepare: (next: HostFixture) => void = () => undefined): Promise<void> {
  fixture.kill();
  fixture = new HostFixture(fixture.root);
  prepare(fixture);
  await fixture.recover();
}

test("the lowest free number, also for requests at once and after a detach", async () => {
  const luns = await Promise.all(["a", "b", "c"].map((name) => attach(name, to("k"))));
  assert.deepEqual([...luns].sort(), [0, 1, 2]);
  const [second] = ["a", "b", "c"].filter((_, at) => luns[at] === 1);
  await detachVolume(fixture.host, second as string);
  assert.equal(await attach(second as string, to("k")), 1);
  for (const name of ["a", "b", "c"]) await detachVolume(fixture.host, name);
  const sameLun = ["a", "b"].map((name) => attach(name, to("k", 5)));
  const settled = await Promise.allSettled(sameLun);
  assert.deepEqual(settled.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  await assert.rejects(attach("c", to("k", 5)), {
    code: "lun_taken",
    message: /LUN 5 of controller k is volume [ab]/,
    advice: /use LUN 0/,
  });
  assert.equal(await attach("c", to("other", 5)), 5, "another controller's numbers are its own");
});

test("declared in a format of its own, which older versions refuse by name", async () => {
  const path = join(fixture.paths.stateDirectory, "a.json");
  const formatOf = (): number => JSON.parse(readFileSync(path, "utf8")).format;
  assert.equal(formatOf(), 1);
  await attach("a", to("k"));
  assert.equal(formatOf(), 4);
  await detachVolume(fixture.host, "a");
  assert.equal(formatOf(), 1);
});

test("a restart finds the same units, and opens the controller when all are there", async () => {
  await attach("a", to("k", 7, { queueCountMax: 2, packedAllowed: false }));
  assert.equal(specOf("a").listens, true);
  await attach("b", to("k"));
  await attach("c", to("k2"));
  const before = ["a", "b", "c"].map(specOf);
  assert.deepEqual([before[1]?.queueCountMax, before[1]?.packedAllowed], [2, false]);
  assert.deepEqual(before[1]?.socketPath, before[0]?.socketPath);
  assert.notEqual(before[0]?.naa, before[1]?.naa);
  await restart();
  const after = ["a", "b", "c"].map(specOf);
  assert.deepEqual(
    after,
    before.map((spec) => ({ ...spec, listens: false })),
  );
  const { calls } = fixture.dataPlane;
  for (const call of ["attachScsi a", "attachScsi b"]) {
    assert.ok(calls.indexOf(call) < calls.indexOf("openController k"), call);
  }
  assert.equal(calls.filter((call) => call === "openController k").length, 1);
  assert.deepEqual([...fixture.dataPlane.controllers].sort(), ["k", "k2"]);
  assert.equal(await attach("c", to("k2")), 0);
});

test("a unit that fails at a restart holds up no other for good", async () => {
  await attach("a", to("k"));
  await attach("b", to("k"));
  await restart((next) => {
    const { intercept } = next.dataPlane;
    next.dataPlane.intercept = async (method, name) => {
      if (method === "attachScsi" && name === "a") throw new Error("no");
      await intercept(method, name);
    };
  });
  assert.equal(fixture.host.view(fixture.host.find("a")).state, "unavailable");
  assert.ok(fixture.dataPlane.controllers.has("k"));
  assert.equal(specOf("b").lun, 1);
  // A guest finds a disk there that becomes ready, and finds it before it can connect.
  const { id, serial } = fixture.host.find("a").declared;
  const held = fixture.dataPlane.held.get(id);
  assert.deepEqual([held?.controller, held?.lun, held?.serial], ["k", 0, serial]);
  const { calls } = fixture.dataPlane;
  assert.ok(calls.indexOf("holdUnit a") < calls.indexOf("openController k"));
  assert.ok(!calls.includes("holdUnit b"), "only what failed");
  // Its number stays its own, and it comes back as what it was.
  await assert.rejects(attach("c", to("k", 0)), { code: "lun_taken" });
  fixture.dataPlane.intercept = () => undefined;
  assert.equal(await attach("a", to("k")), 0);
  assert.equal(specOf("a").listens, true);
  assert.equal(fixture.dataPlane.held.size, 0);
});

test("a volume that is detached before it could be served again gives its place up", async () => {
  await attach("a", to("k"));
  await restart((next) => {
    const { intercept } = next.dataPlane;
    next.dataPlane.intercept = async (method, name) => {
      if (method === "openVolume") throw new Error("no");
      await intercept(method, name);
    };
  });
  assert.ok(fixture.dataPlane.controllers.has("k"), "all of a controller may have failed");
  await detachVolume(fixture.host, "a");
  assert.equal(fixture.dataPlane.held.size, 0);
  assert.ok(!fixture.dataPlane.controllers.has("k"));
  fixture.dataPlane.intercept = () => undefined;
  assert.equal(await attach("b", to("k", 0)), 0);
});

test("a controller whose socket cannot be made: its volumes say so, and are tried again", async () => {
  await attach("a", to("k"));
  await restart((next) => {
    const { intercept } = next.dataPlane;
    next.dataPlane.intercept = async (method, name) => {
      if (method === "openController") throw new Error("no room in the folder");
      await intercept(method, name);
    };
  });
  const { state, health } = fixture.host.view(fixture.host.find("a"));
  assert.equal(state, "unavailable");
  assert.match(health[0]?.message ?? "", /no room in the folder/);
  assert.equal(await attach("a", to("k")), 0);
  assert.ok(fixture.dataPlane.controllers.has("k"));
});

test("a volume that hangs at a restart holds up its own controller alone", async () => {
  await attach("a", to("k"));
  await attach("b", to("k2"));
  fixture.kill();
  fixture = new HostFixture(fixture.root);
  const { intercept } = fixture.dataPlane;
  fixture.dataPlane.intercept = (method, name) =>
    method === "openVolume" && name === "a" ? never() : intercept(method, name);
  await serveDeclared(fixture.host, fixture.store.load());
  assert.deepEqual([...fixture.dataPlane.controllers], ["k2"]);
  assert.equal(await attach("c", to("k")), 1);
  assert.equal(specOf("c").listens, false);
});

test("what a unit has not got, and what is declared by hand, is refused by name", async () => {
  const long = "k".repeat(nameBytesMax(fixture.paths) - ".scsi".length + 1);
  for (const [request, message] of [
    [to("k", 0, { classic: {} }), /classic does not go with scsi/],
    [to("k", 0, { takeOver: true }), /takeOver does not go with scsi/],
    [to("K"), /"K" is not a controller name/],
    [to("k", 256), /256 is not a LUN/],
    [to("k", 1.5), /1.5 is not a LUN/],
    ...(long.length <= 63 ? ([[to(long), /socket path too long/]] as const) : []),
  ] as const) {
    await assert.rejects(attach("a", request), { code: "invalid_request", message });
  }
  assert.equal(fixture.host.find("a").declared.attachment, null);
  assert.equal(fixture.host.find("a").declared.generation, 0);
  await attach("a", to("k"));
  const path = join(fixture.paths.stateDirectory, "a.json");
  const text = readFileSync(path, "utf8").replace(/.*checksum.*\n/, "");
  writeFileSync(path, text.replace('"lun": 0', '"lun": 256'));
  await restart();
  assert.match(fixture.host.damaged.get("a")?.problem ?? "", /field volume.attachment is/);
});

test("a full controller says so", async () => {
  for (let lun = 0; lun < 256; lun++) {
    const name = `n${lun}`;
    const { declared } = fixture.host.find("a");
    const scsi = { controller: "k", lun };
    const attachment = { queueCountMax: 1, packedAllowed: true, readOnly: false, attachedAt: "" };
    fixture.host.add({ ...declared, id: name, name, attachment: { ...attachment, scsi } });
  }
  const full = { code: "limit_reached", message: /controller k has 256 volumes/ };
  await assert.rejects(attach("b", to("k")), full);
  await assert.rejects(attach("b", to("k", 3)), { code: "lun_taken", advice: /detach.* n3$/ });
});

test("a failed attach gives its number back", async () => {
  fixture.dataPlane.intercept = (method) => {
    if (method === "attachScsi") throw new Error("no");
  };
  await assert.rejects(attach("a", to("k")), /no/);
  fixture.dataPlane.intercept = () => undefined;
  assert.equal(await attach("b", to("k")), 0);
});

test("what shares a controller, or a disk with one, shares a reactor", () => {
  const declared = (controller: string | null, diskId: string | null): DeclaredVolume => {
    const { declared: volume } = fixture.host.find("a");
    const attachment = { queueCountMax: 1, packedAllowed: true, readOnly: false, attachedAt: "" };
    return {
      ...volume,
      backing: diskId === null ? { kind: "memory" } : { kind: "store", diskId },
      attachment: controller === null ? null : { ...attachment, scsi: { controller, lun: 0 } },
    };
  };
  const groups = placementGroups([
    declared("k1", "d1"),
    declared("k2", "d2"),
    declared("k3", null),
    declared(null, "d3"),
    declared("k2", "d1"),
    declared("k3", null),
  ]);
  const textOf = ({ controllers, diskIds, hasCluster }: PlacementGroup): string =>
    `${[...controllers].sort()} ${[...diskIds].sort()} ${hasCluster ? "cluster" : "node"}`;
  assert.deepEqual(groups.map(textOf), ["k1,k2 d1,d2 node", "k3  node"]);
  const of = { name: "v", queueCountMax: 1, packedAllowed: true };
  const units = ["k2", "k4"].map((controller) => ({ ...of, scsi: { controller, lun: 9 } }));
  const volumes = [declared("k1", "d1"), declared("k2", "d1"), declared("k3", null)];
  const joined = placementGroups(volumes, units).map(textOf);
  assert.deepEqual(joined.sort(), ["k1,k2 d1 cluster", "k3  node", "k4  cluster"]);
});
