// Repair that needs nobody, and emptying nodes and disks, over nodes in one process: who plans, who
// works, what is refused. What owners do with data is told by the test.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MetaKeys, readInventory } from "../meta/index.ts";
import type { VolumeRecord } from "../meta/records.ts";
import type { ClusterBackingView } from "../model/cluster-types.ts";
import {
  ClusterFixture,
  type NodeFixture,
  refused,
  until,
} from "../testing/control/cluster-fixture.ts";

const REALLY = { dryRun: false } as const;
const DRAIN = { dryRun: false, cancel: false } as const;
const MIB = 2 ** 20;
const AFTER_MS = 1000;

let scene: ClusterFixture;
let a: NodeFixture;
let b: NodeFixture;
let c: NodeFixture;
let d: NodeFixture;
beforeEach(async () => {
  scene = await ClusterFixture.start();
  scene.timings = { repairAfterMs: AFTER_MS };
  [a, b, c, d] = (await scene.cluster("a", "b", "c", "d")) as [
    NodeFixture,
    NodeFixture,
    NodeFixture,
    NodeFixture,
  ];
});
afterEach(() => scene.end());

function backing(node: NodeFixture, name: string): ClusterBackingView {
  return node.control.show(name).backing as ClusterBackingView;
}

function holders(node: NodeFixture, name: string): string[] {
  return backing(node, name).copies.map((copy) => copy.node);
}

function byName(name: string): NodeFixture {
  return scene.nodes.find((node) => node.name === name)!;
}

/** What lasts in the metadata fits together. */
async function record(id: string): Promise<VolumeRecord> {
  const store = scene.store();
  try {
    const keys = new MetaKeys();
    const { entries } = await store.list(keys.root);
    const lasting = entries.filter((entry) => entry.leaseId === 0n);
    return readInventory(keys, lasting).volumes.get(id)!;
  } finally {
    store.close();
  }
}

async function hasReplica(node: NodeFixture, id: string, disk = "d"): Promise<boolean> {
  const all = await node.plane.listReplicas(node.diskId(disk));
  return all.some(({ volumeId }) => volumeId === id);
}

/** A volume that is attached on a, with a second copy; who has that, and the others. */
async function attached(): Promise<{ id: string; holder: NodeFixture; spare: NodeFixture[] }> {
  const { id } = await a.create({ name: "v", sizeBytes: MIB, replicas: 2 });
  await a.control.attach("v", {});
  const holder = byName(holders(a, "v").find((name) => name !== "a")!);
  const spare = [b, c, d].filter((node) => node !== holder);
  for (const node of spare) await until(() => node.control.list().length === 1);
  return { id, holder, spare };
}

/** That node sees no link to the others of those names, from now on. */
function part(node: NodeFixture, ...names: string[]): void {
  const { plane } = node;
  const gone = new Set(names.map((name) => byName(name).plane.started!.identity.nodeId));
  plane.peerStats = () =>
    plane.peers.map(({ nodeId }) => ({
      nodeId,
      state: gone.has(nodeId) ? "dialling" : "up",
      lastFailure: "",
    }));
}

describe("a copy that only its owner does not reach", () => {
  test("is made elsewhere on the word of the owner's node, where that reaches", async () => {
    const { id, holder, spare } = await attached();
    // The first node leads; it is not the one that serves.
    await a.control.detach("v");
    const [owner, other] = spare as [NodeFixture, NodeFixture];
    await owner.control.attach("v", {});
    part(owner, holder.name);
    const beganMs = performance.now();
    await owner.plane.putOut(id, holder.diskId("d"), "unreachable");
    await until(() => backing(owner, "v").replacement !== null);
    assert.ok(performance.now() - beganMs >= AFTER_MS, "it is given its time");
    const { from, to } = backing(owner, "v").replacement!;
    assert.deepEqual(from, { node: holder.name, disk: "d" });
    assert.ok([owner.name, other.name].includes(to.node), to.node);
    await until(() => hasReplica(byName(to.node), id));
    await owner.plane.takeIn(id, byName(to.node).diskId("d"));
    await until(() => backing(owner, "v").replacement === null);
    assert.deepEqual(holders(owner, "v").sort(), ["a", to.node].sort());
    await until(async () => !(await hasReplica(holder, id)));
    assert.deepEqual((await record(id)).out, []);
    const told = owner.control.eventsSince(0).find(({ type }) => type === "copy.planned");
    assert.match(told?.message ?? "", /its owner does not reach the copy/);
  });

  test("stays when the link is back in time, or is resynced, or counts", async () => {
    const { id, holder } = await attached();
    const disk = holder.diskId("d");
    part(a, holder.name);
    await sleep(AFTER_MS * 1.5);
    assert.equal(backing(a, "v").replacement, null, "it is in sync by the record");
    await a.plane.putOut(id, disk, "unreachable");
    await until(() => backing(a, "v").copies.some(({ state }) => state === "out"));
    await sleep(AFTER_MS / 2);
    // For a moment, in which its owner begins to bring it back.
    part(a);
    const stats = a.plane.owners.get(id)!;
    const resyncing = stats.members.map((one) =>
      one.place.diskId === disk ? { ...one, state: "resyncing" as const } : one,
    );
    a.plane.tell({ ...stats, members: resyncing });
    part(a, holder.name);
    a.plane.tell(stats);
    await sleep(AFTER_MS * 0.7);
    assert.equal(backing(a, "v").replacement, null, "its time began anew");
    part(a);
    await sleep(AFTER_MS * 1.5);
    assert.equal(backing(a, "v").replacement, null);
    assert.deepEqual(holders(a, "v"), ["a", holder.name]);
  });

  test("has no place where the owner reaches nobody else: said, and done when it does", async () => {
    const { id, holder } = await attached();
    part(a, ...[b, c, d].map(({ name }) => name));
    await a.plane.putOut(id, holder.diskId("d"), "unreachable");
    await until(() => a.control.show("v").health.some(({ code }) => code === "REPAIR_BLOCKED"));
    part(a, holder.name);
    a.plane.tell({ ...a.plane.owners.get(id)!, equalisedCount: 1 });
    await until(() => backing(a, "v").replacement !== null);
    assert.notEqual(backing(a, "v").replacement?.to.node, holder.name);
  });
});

describe("a node that is gone", () => {
  test("its copy is made elsewhere; the owner hears of it; the old one is freed when it is back", async () => {
    const { id, holder } = await attached();
    const lost = holder.diskId("d");
    await holder.end();
    await a.plane.putOut(id, lost, "unreachable");
    await until(() => backing(a, "v").replacement !== null);
    const { from, to, reason } = backing(a, "v").replacement!;
    assert.deepEqual([from, reason], [{ node: holder.name, disk: "d" }, "lost"]);
    const target = byName(to.node);
    await until(() => hasReplica(target, id));
    await until(() => a.plane.members.get(id)?.members.length === 3);
    const place = { diskId: target.diskId("d"), nodeId: target.plane.started!.identity.nodeId };
    assert.deepEqual(a.plane.members.get(id)?.members[2], place);
    assert.equal(holders(a, "v").length, 3, "the lost one stays until the new one is in sync");
    await a.plane.takeIn(id, place.diskId);
    await until(() => backing(a, "v").replacement === null);
    assert.deepEqual(holders(a, "v"), ["a", target.name]);
    assert.deepEqual((await record(id)).out, []);
    assert.deepEqual(a.control.show("v").health, []);
    const next = await scene.restart(holder);
    await until(async () => !(await hasReplica(next, id)));
    await until(() => a.control.eventsSince(0).length > 0);
    const told = scene.nodes.flatMap((node) => node.control.eventsSince(0));
    assert.ok(told.some(({ type, volume }) => type === "copy.planned" && volume === "v"));
    assert.ok(told.some(({ type, volume }) => type === "copy.replaced" && volume === "v"));
  });

  test("that comes back in time keeps its copy, and what was begun is taken away", async () => {
    const { id, holder } = await attached();
    const lost = holder.diskId("d");
    await holder.end();
    await a.plane.putOut(id, lost, "unreachable");
    await until(() => backing(a, "v").replacement !== null);
    const target = byName(backing(a, "v").replacement!.to.node);
    await until(() => hasReplica(target, id));
    await scene.restart(holder);
    await a.plane.takeIn(id, lost);
    await until(() => backing(a, "v").replacement === null);
    assert.deepEqual(holders(a, "v"), ["a", holder.name]);
    await until(async () => !(await hasReplica(target, id)));
    await record(id);
  });

  test("a plan is gone on with when the node that leads is gone too", async () => {
    const { id, holder, spare } = await attached();
    // The first node of the cluster leads. It is not the one that serves, from here on.
    await a.control.detach("v");
    const owner = spare[0]!;
    await owner.control.attach("v", {});
    await holder.end();
    await owner.plane.putOut(id, holder.diskId("d"), "unreachable");
    await until(() => backing(owner, "v").replacement !== null);
    const { to } = backing(owner, "v").replacement!;
    await a.end();
    await owner.plane.takeIn(id, byName(to.node).diskId("d"));
    await until(() => backing(owner, "v").replacement === null);
    assert.ok(!holders(owner, "v").includes(holder.name));
  });

  test("without a place it says so, for the volume, and goes on when there is one", async () => {
    const { id, holder, spare } = await attached();
    for (const node of spare) await node.cluster.drainNode(node.name, DRAIN);
    await holder.end();
    await a.plane.putOut(id, holder.diskId("d"), "unreachable");
    const blocked = (): boolean =>
      a.control.show("v").health.some(({ code }) => code === "REPAIR_BLOCKED");
    await until(blocked);
    const { advice } = await a.control.advise();
    const item = advice.find(({ code }) => code === "REPAIR_BLOCKED");
    assert.equal(item?.command, "ringstore volume show v");
    await a.cluster.drainNode(spare[0]!.name, { dryRun: false, cancel: true });
    await until(() => backing(a, "v").replacement?.to.node === spare[0]!.name);
    assert.equal(blocked(), false);
  });
});

describe("a volume that is attached nowhere", () => {
  test("has an owner for the time that the work takes: the node that gets the copy", async () => {
    const { id } = await a.create({ name: "v", sizeBytes: MIB, replicas: 2 });
    const holder = byName(holders(a, "v")[1]!);
    const lost = holder.diskId("d");
    await holder.end();
    await until(() => backing(a, "v").replacement !== null);
    const worker = byName(backing(a, "v").replacement!.to.node);
    await until(() => worker.plane.open.has(id));
    await worker.plane.putOut(id, lost, "unreachable");
    await worker.plane.takeIn(id, worker.diskId("d"));
    await until(() => worker.plane.open.size === 0);
    const { state, attachment, owner, members } = await record(id);
    assert.deepEqual([state, attachment.node], ["clean", null]);
    assert.equal(owner?.node, worker.plane.started?.identity.nodeId);
    assert.ok(!members.includes(lost));
  });

  test("is handed to whoever attaches it, at once; where the work is, as it is open", async () => {
    const { id } = await a.create({ name: "v", sizeBytes: MIB, replicas: 2 });
    const holder = byName(holders(a, "v")[1]!);
    await holder.end();
    await until(() => backing(a, "v").replacement !== null);
    const worker = byName(backing(a, "v").replacement!.to.node);
    await until(() => worker.plane.open.has(id));
    await a.control.attach("v", {});
    await until(() => worker.plane.open.size === 0);
    assert.equal(a.control.show("v").state, "attached");
    await a.control.detach("v");
    await until(() => worker.plane.open.has(id));
    const { epoch } = await record(id);
    await worker.control.attach("v", {});
    assert.equal((await record(id)).epoch, epoch, "it was not taken over again");
    assert.equal(worker.control.show("v").state, "attached");
  });

  test("a copy that is out is brought back", async () => {
    const { id, holder } = await attached();
    await a.plane.putOut(id, holder.diskId("d"), "unreachable");
    await a.control.detach("v");
    await until(() => holder.plane.open.has(id));
    await holder.plane.takeIn(id, holder.diskId("d"));
    await until(() => holder.plane.open.size === 0);
    assert.equal((await record(id)).state, "clean");
  });
});

describe("drain", () => {
  test("copies move off a node that lives; it can be called off; empty, it is removed", async () => {
    const { id, holder } = await attached();
    const source = holder.diskId("d");
    const dry = await a.cluster.drainNode(holder.name, { dryRun: true, cancel: false });
    assert.equal(dry.copies.length, 1);
    assert.deepEqual(dry.copies[0]?.from, { node: holder.name, disk: "d" });
    assert.ok(dry.copies[0]?.to !== null);
    assert.equal((await a.cluster.showNode(holder.name)).phase, "active");

    await a.cluster.drainNode(holder.name, DRAIN);
    await until(() => backing(a, "v").replacement !== null);
    await a.cluster.drainNode(holder.name, { dryRun: false, cancel: true });
    await until(() => backing(a, "v").replacement === null);
    assert.deepEqual(holders(a, "v"), ["a", holder.name]);

    await a.cluster.drainNode(holder.name, DRAIN);
    await until(() => backing(a, "v").replacement !== null);
    const target = byName(backing(a, "v").replacement!.to.node);
    const copies = new RegExp(`${holder.name} is alive, and has copies of v.*node drain`);
    await refused(a.cluster.removeNode(holder.name, REALLY), "node_alive", copies);
    await until(() => hasReplica(target, id));
    assert.equal(a.control.show("v").health.length, 0, "nothing is lacking");
    await a.plane.takeIn(id, target.diskId("d"));
    await until(() => a.plane.members.get(id)?.leaving === source);
    assert.ok((await record(id)).members.includes(source), "until its owner has put it out");
    await a.plane.putOut(id, source, "drained");
    await until(async () => !(await hasReplica(holder, id)));
    await until(async () => (await a.cluster.showNode(holder.name)).copiesOf.length === 0);
    assert.deepEqual(holders(a, "v"), ["a", target.name]);
    await a.create({ name: "w", sizeBytes: MIB, replicas: 3 });
    assert.ok(!holders(a, "w").includes(holder.name), "it gets nothing new");
    const itself = holder.cluster.removeNode(holder.name, REALLY);
    await refused(itself, "node_alive", /on another node/);
    await a.cluster.removeNode(holder.name, REALLY);
    const left = await a.cluster.listNodes();
    assert.equal(left.length, 3);
    assert.equal((await a.cluster.show())?.liveNodeCount, 3);
    await record(id);
  });

  test("refused where a copy has no place, with the volumes' names; nothing is changed", async () => {
    await a.create({ name: "all", sizeBytes: MIB, replicas: 3 });
    const [first, second] = [b, c, d].filter((node) => holders(a, "all").includes(node.name));
    const spare = [b, c, d].find((node) => node !== first && node !== second)!;
    await spare.cluster.drainNode(spare.name, DRAIN);
    await until(async () => (await a.cluster.showNode(spare.name)).phase === "draining");
    await refused(
      a.cluster.drainNode(first!.name, DRAIN),
      "no_space",
      /copies of all: .*has a copy/,
    );
    assert.equal((await a.cluster.showNode(first!.name)).phase, "active");
    await refused(a.cluster.drainNode("x", DRAIN), "node_not_found", /"x" does not exist/);
    await a.control.attach("all", {});
    await refused(a.cluster.removeNode("a", REALLY), "node_alive", /has all attached/);
    await refused(b.cluster.removeNode(first!.name, REALLY), "node_alive", /copies of all/);
  });

  test("a disk: its copies go to another, of this node too; then it is let go of", async () => {
    const { id } = await a.create({ name: "v", sizeBytes: MIB, replicas: 2 });
    await a.addDisk("e", 2 ** 31);
    await until(async () => (await a.cluster.showNode("a")).disks.length === 2);
    await a.control.attach("v", {});
    const options = { dryRun: false, force: false };
    await refused(a.control.removeDisk("d", options), "disk_busy", /it serves v.*disk drain d/);
    const { copies } = await a.cluster.drainDisk("d", DRAIN);
    assert.deepEqual(copies[0]?.to, { node: "a", disk: "e" }, "where the guest is");
    await until(() => hasReplica(a, id, "e"));
    await a.plane.takeIn(id, a.diskId("e"));
    await until(() => a.plane.members.get(id)?.leaving === a.diskId("d"));
    await a.plane.putOut(id, a.diskId("d"), "drained");
    await until(async () => !(await hasReplica(a, id)));
    await until(() => a.control.showDisk("d").volumeCount === 0);
    await a.control.removeDisk("d", options);
    await until(async () => (await a.cluster.showNode("a")).disks.length === 1);
    await record(id);
  });

  test("a disk that fails is told to all, and its copies are made elsewhere", async () => {
    const { id, holder } = await attached();
    const entry = holder.fixture.disks.find("d");
    entry.state = "failed";
    const phase = async (): Promise<string | undefined> =>
      (await a.cluster.showNode(holder.name)).disks[0]?.phase;
    await until(async () => (await phase()) === "failed");
    await a.plane.putOut(id, holder.diskId("d"), "failed");
    await until(() => backing(a, "v").replacement?.from?.node === holder.name);
    entry.state = "ready";
    await until(async () => (await phase()) === "active");
  });
});
