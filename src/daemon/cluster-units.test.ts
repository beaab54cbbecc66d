// Volumes of the cluster as units of virtio-scsi controllers, as the control plane sees them, over
// fake data planes and the embedded metadata server: what is declared and recorded, who is refused,
// what a restart finds, and where reservations go.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { MetaKeys, volumeCodec } from "../meta/index.ts";
import type { Attachment } from "../meta/records.ts";
import type { ClusterBackingView } from "../model/cluster-types.ts";
import type { VolumeAttach } from "../model/types.ts";
import type { ReservationRecord } from "../ports/reservation-record.ts";
import type { ScsiSpec } from "../ports/scsi-plane.ts";
import {
  ClusterFixture,
  type NodeFixture,
  refused,
  until,
} from "../testing/control/cluster-fixture.ts";

const REALLY = { dryRun: false } as const;
const MIB = 2 ** 20;
const UNIT: VolumeAttach = { scsi: { controller: "k" } };

let scene: ClusterFixture;
let a: NodeFixture;
let b: NodeFixture;
beforeEach(async () => {
  scene = await ClusterFixture.start();
  [a, b] = (await scene.cluster("a", "b", "c")) as [NodeFixture, NodeFixture];
});
afterEach(() => scene.end());

function reservations(aptpl: boolean): ReservationRecord {
  const transportId = "0f0000006b".padEnd(48, "0");
  const registrations = [{ transportId, relativePort: 3, key: "0000000000000007" }];
  return { generation: 3, aptpl, type: 0, holder: -1, registrations };
}

async function create(...names: readonly string[]): Promise<string> {
  let id = "";
  for (const name of names) ({ id } = await a.create({ name, sizeBytes: MIB, replicas: 2 }));
  await until(() => names.every((name) => b.control.list().some((one) => one.name === name)));
  return id;
}

async function lunOf(node: NodeFixture, name: string, request = UNIT): Promise<number | undefined> {
  return (await node.control.attach(name, request)).volume.attachment?.scsi?.lun;
}

function specAt({ plane }: NodeFixture, id: string): ScsiSpec {
  return (plane.open.get(id)?.attachment ?? undefined) as ScsiSpec;
}

function attachedTo(node: NodeFixture, name = "v"): string | null {
  return (node.control.show(name).backing as ClusterBackingView).attachedTo;
}

async function recordOf(id: string): Promise<Attachment> {
  const store = scene.store();
  try {
    const key = new MetaKeys().volumeRecord(id);
    return volumeCodec.decode(key, (await store.get(key))!.value).attachment;
  } finally {
    store.close();
  }
}

describe("attach", () => {
  test("beside volumes of the node; who has it and as what is in the record", async () => {
    const id = await create("v");
    await a.create({ name: "own", sizeBytes: MIB, backing: "memory" });
    await a.control.attach("own", { ...UNIT, queueCountMax: 3 });
    const { volume } = await a.control.attach("v", UNIT);
    assert.deepEqual(volume.attachment?.scsi, { controller: "k", lun: 1 });
    const own = a.control.show("own");
    assert.equal(volume.attachment?.socket, own.attachment?.socket);
    assert.equal(volume.attachment?.queueCountMax, 3, "the controller's");
    assert.equal(volume.state, "attached");
    const generation = 1;
    const unit = { controller: "k", lun: 1, since: generation };
    const { node, ...rest } = await recordOf(id);
    assert.deepEqual(rest, { generation, readOnly: false, unit });
    assert.equal(node, a.plane.started?.identity.nodeId);
    const backing = a.plane.backings[0];
    assert.deepEqual([backing?.owner, backing?.deadPredecessor], [`${node}/1`, null]);
    assert.deepEqual([specAt(a, id).lun, specAt(a, id).listens], [1, true]);
    a.plane.connected.add(id);
    assert.equal(a.control.show("v").state, "connected");
    const again = await a.control.attach("v", { scsi: { controller: "k", lun: 1 } });
    assert.equal(again.changed, false);
    await until(() => attachedTo(b) === "a");
    await a.control.detach("v");
    assert.deepEqual(await recordOf(id), { generation: 2, node: null, readOnly: false });
    assert.equal(a.plane.open.has(id), false);
    assert.deepEqual([...a.plane.controllers], ["k"], "the node's own volume stays");
    assert.equal(await lunOf(b, "v"), 0);
    assert.equal((await recordOf(id)).unit?.since, 3);
  });

  test("numbers are one row for volumes of the node and of the cluster, also at once", async () => {
    await create("v", "w");
    for (const name of ["x", "y"]) await a.create({ name, sizeBytes: MIB, backing: "memory" });
    const luns = await Promise.all(["v", "x", "w", "y"].map((name) => lunOf(a, name)));
    assert.deepEqual([...luns].sort(), [0, 1, 2, 3]);
    await a.control.detach("y");
    const lun = a.control.show("v").attachment?.scsi?.lun;
    const wanted = { scsi: { controller: "k", lun: lun as number } };
    await refused(a.control.attach("y", wanted), "lun_taken", /is volume v/);
    // Of a cluster's volume whose detach is not over yet, too.
    a.plane.intercept = (method, name) => {
      if (method === "detach" && name === "v") throw new Error("it hangs");
    };
    await assert.rejects(a.control.detach("v"), /it hangs/);
    await refused(a.control.attach("y", wanted), "lun_taken", /is volume v/);
    await refused(a.control.attach("v", UNIT), "volume_busy", /is being detached/);
    a.plane.intercept = () => undefined;
    await a.control.detach("v");
    assert.equal(await lunOf(a, "y", wanted), lun);
  });

  test("what is refused changes nothing", async () => {
    const id = await create("v", "w");
    await a.control.attach("v", {});
    const before = JSON.stringify(await recordOf(id));
    a.plane.farControllers.add("far");
    for (const [name, request, code, words] of [
      ["w", { scsi: { controller: "far" } }, "controller_elsewhere", /reactor 1/],
      ["w", { scsi: { controller: "K" } }, "invalid_request", /"K" is not a controller name/],
      ["w", { scsi: { controller: "k", lun: 256 } }, "invalid_request", /256 is not a LUN/],
      ["w", { ...UNIT, classic: {} }, "invalid_request", /classic does not go with scsi/],
      ["w", { ...UNIT, standby: true }, "invalid_request", /standby does not go with scsi/],
      ["v", UNIT, "attachment_differs", /attached to no controller/],
    ] as const) {
      await refused(a.control.attach(name, request), code, words);
    }
    assert.equal(JSON.stringify(await recordOf(id)), before);
    assert.equal(a.control.show("w").state, "detached");
    await a.control.attach("w", UNIT);
    const other = { scsi: { controller: "k", lun: 3 } };
    await refused(a.control.attach("w", other), "attachment_differs", /as LUN 0 of controller k/);
    await refused(a.control.attach("w", {}), "attachment_differs", /as LUN 0 of controller k/);
    await refused(a.control.attach("w", { classic: {} }), "attachment_differs", /as LUN 0/);
  });

  test("that fails is taken back, with its number", async () => {
    const id = await create("v");
    a.plane.intercept = (method) => {
      if (method === "attachScsi") throw new Error("no socket");
    };
    await assert.rejects(a.control.attach("v", UNIT), /no socket/);
    assert.equal((await recordOf(id)).node, null);
    assert.equal(a.plane.open.size, 0);
    a.plane.intercept = () => undefined;
    await a.create({ name: "own", sizeBytes: MIB, backing: "memory" });
    assert.equal(await lunOf(a, "own"), 0);
    assert.equal(await lunOf(a, "v"), 1);
  });

  test("it grows where it is, and its unit is told", async () => {
    const id = await create("v");
    await a.control.attach("v", UNIT);
    await a.control.resize("v", { sizeBytes: 4 * MIB }, REALLY);
    assert.equal(a.plane.open.get(id)?.sizeBytes, 4 * MIB);
    assert.ok(a.plane.calls.includes("resizeVolume v"));
  });
});

describe("elsewhere", () => {
  test("taken over it is a unit there, and gone here; another way to attach is possible", async () => {
    const id = await create("v");
    await a.create({ name: "own", sizeBytes: MIB, backing: "memory" });
    await a.control.attach("own", UNIT);
    await a.control.attach("v", UNIT);
    await until(() => attachedTo(b) === "a");
    await refused(b.control.attach("v", UNIT), "attached_elsewhere", /on node a.*--take-over/);
    const { volume } = await b.control.attach("v", { ...UNIT, takeOver: true });
    assert.deepEqual(volume.attachment?.scsi, { controller: "k", lun: 0 });
    await until(() => a.control.show("v").attachment === null && !a.plane.open.has(id));
    assert.equal(a.control.show("own").state, "attached");
    assert.equal((await recordOf(id)).unit?.since, 1, "it keeps its power");
    // By a socket of its own: it is a unit no more.
    await until(() => attachedTo(a) === "b");
    const { volume: moved } = await a.control.attach("v", { takeOver: true });
    assert.equal(moved.attachment?.scsi ?? null, null);
    assert.equal((await recordOf(id)).unit, undefined);
  });

  test("it is not handed over, stood by for or moved by a maintenance; each says what to do", async () => {
    await create("v");
    await a.control.attach("v", UNIT);
    await until(() => attachedTo(b) === "a");
    const handOver = b.cluster.handOver("v", { node: "b" });
    await refused(handOver, "volume_attached", /LUN 0 of controller k on node a.*volume detach v/);
    const standby = b.control.attach("v", { standby: true });
    await refused(standby, "attachment_differs", /on node a as LUN 0.*detach it there/);
    const kept = [
      {
        volume: "v",
        reason: "it is LUN 0 of controller k: detach it there, and attach it where its VM goes",
      },
    ];
    for (const dryRun of [true, false]) {
      const reply = await b.cluster.maintain("a", { on: true }, { dryRun });
      assert.deepEqual([reply.kept, reply.handedOver], [kept, []]);
    }
    assert.equal(attachedTo(a), "a");
    assert.equal(a.control.show("v").state, "attached");
  });
});

describe("a restart", () => {
  test("its place is held until the metadata has said that it is still here", async () => {
    const id = await create("v");
    await a.create({ name: "own", sizeBytes: MIB, backing: "file" });
    await a.control.attach("own", UNIT);
    await a.control.attach("v", { ...UNIT, readOnly: true });
    await scene.stopMetadata();
    const next = await scene.restart(a);
    const { plane } = next;
    assert.deepEqual([...plane.controllers], ["k"], "a guest may come");
    assert.ok(plane.calls.indexOf("holdUnit v") < plane.calls.indexOf("openController k"));
    assert.deepEqual(
      plane.groups.map(({ hasCluster }) => hasCluster),
      [true],
    );
    const held = plane.held.get(id);
    assert.deepEqual([held?.lun, held?.readOnly, held?.listens], [1, true, false]);
    assert.equal(held?.serial, id.replaceAll("-", "").slice(0, 20));
    // Nobody gets its number meanwhile.
    await next.create({ name: "x", sizeBytes: MIB, backing: "memory" });
    const wanted = { scsi: { controller: "k", lun: 1 } };
    await refused(next.control.attach("x", wanted), "lun_taken", /is volume v/);
    await scene.startMetadata();
    await until(() => plane.open.get(id)?.attachment !== undefined && plane.held.size === 0);
    const spec = specAt(next, id);
    assert.deepEqual([spec.lun, spec.readOnly, spec.listens], [1, true, true]);
    assert.equal(plane.backings[0]?.owner, `${plane.started?.identity.nodeId}/2`);
    assert.equal(plane.backings[0]?.deadPredecessor, `${plane.started?.identity.nodeId}/1`);
    await until(() => next.control.show("v").state === "attached");
    assert.ok(!plane.calls.includes("dropUnit v"));
  });

  test("taken over meanwhile, its place is given up", async () => {
    const id = await create("v");
    await a.control.attach("v", UNIT);
    await until(() => attachedTo(b) === "a");
    await a.end();
    await until(() => b.control.show("v").state === "unavailable");
    await b.control.attach("v", UNIT);
    const next = await scene.restart(a);
    await until(() => next.plane.calls.includes("dropUnit v"));
    await until(() => next.plane.held.size === 0 && next.control.show("v").attachment === null);
    assert.equal(next.plane.open.has(id), false);
    assert.deepEqual([...next.plane.controllers], [], "it had no other unit");
  });

  test("one that cannot be served keeps its place, and is tried again", async () => {
    const id = await create("v");
    await a.control.attach("v", UNIT);
    await a.end();
    // As it is made before it starts: the first attempts fail.
    let failures = 0;
    const next = await scene.restart(a);
    next.plane.intercept = (method) => {
      if (method !== "attachScsi") return;
      failures += 1;
      if (failures < 3) throw new Error("not yet");
    };
    await until(() => next.plane.open.get(id)?.attachment != null);
    await until(() => next.plane.held.size === 0);
    assert.equal(next.control.show("v").state, "attached");
  });

  test("without what was declared, the record says as what it is served", async () => {
    const id = await create("v");
    await a.control.attach("v", { scsi: { controller: "k", lun: 7 } });
    await a.end();
    const { nodeStateFs } = await import("./state-fs.ts");
    const { attachedDirectory } = a.fixture.paths;
    for (const file of nodeStateFs.list(attachedDirectory)) {
      await nodeStateFs.remove(`${attachedDirectory}/${file}`);
    }
    const next = await scene.restart(a);
    await until(() => next.plane.open.get(id)?.attachment != null);
    assert.deepEqual([specAt(next, id).controller, specAt(next, id).lun], ["k", 7]);
  });
});

describe("reservations", () => {
  test("are in the metadata: kept through a restart and a move, with APTPL also a detach", async () => {
    const id = await create("v");
    await a.control.attach("v", UNIT);
    assert.equal(specAt(a, id).reservations, null);
    const record = reservations(false);
    await a.cluster.saveReservations(id, record);
    const next = await scene.restart(a);
    await until(() => next.plane.open.get(id)?.attachment != null);
    const isNewest = { reservations: record, powerWasLost: false };
    const { reservations: kept, powerWasLost } = specAt(next, id);
    assert.deepEqual({ reservations: kept, powerWasLost }, isNewest);
    // To another node: the unit keeps its power; whoever had it writes nothing any more.
    await until(() => attachedTo(b) === "a");
    await b.control.attach("v", { ...UNIT, takeOver: true });
    assert.deepEqual(specAt(b, id).reservations, record);
    assert.equal(specAt(b, id).powerWasLost, false);
    const late = next.cluster.saveReservations(id, reservations(true));
    await refused(late, "volume_unavailable", /another node/);
    // As a target it is the same unit.
    await until(() => attachedTo(next) === "b");
    await next.control.attach("v", { classic: {}, takeOver: true });
    assert.deepEqual(specAt(next, id).reservations, record);
    assert.equal(specAt(next, id).powerWasLost, false);
    await next.control.detach("v");
    await next.control.attach("v", UNIT);
    assert.equal(specAt(next, id).powerWasLost, true, "detached, it had none");
    await next.cluster.saveReservations(id, reservations(true));
    await next.control.detach("v");
    await next.control.attach("v", UNIT);
    assert.equal(specAt(next, id).reservations?.aptpl, true);
  });
});
