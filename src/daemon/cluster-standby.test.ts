// Volumes that move between nodes in one process: a node stands by, is given the volume, gives it
// back; a holder that is gone or silent; the command, and nodes in maintenance.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { RingstoreError } from "../base/index.ts";
import type { ClusterBackingView } from "../model/cluster-types.ts";
import type { Volume } from "../model/types.ts";
import {
  ClusterFixture,
  type NodeFixture,
  refused,
  until,
} from "../testing/control/cluster-fixture.ts";

const REALLY = { dryRun: false } as const;
const DRY = { dryRun: true } as const;
const MIB = 2 ** 20;

let scene: ClusterFixture;
let a: NodeFixture;
let b: NodeFixture;
let c: NodeFixture;
beforeEach(async () => {
  scene = await ClusterFixture.start();
  [a, b, c] = (await scene.cluster("a", "b", "c")) as [NodeFixture, NodeFixture, NodeFixture];
});
afterEach(() => scene.end());

function show(node: NodeFixture, name = "v"): Volume & { readonly backing: ClusterBackingView } {
  const volume = node.control.show(name);
  return { ...volume, backing: volume.backing as ClusterBackingView };
}

/** `a, b stands by; attached, standby`: who has it, who stands by, and what both call it. */
function placeOf(node: NodeFixture, name = "v"): string {
  const { attachedTo, standby } = show(node, name).backing;
  return `${attachedTo}, ${standby ?? "nobody"} stands by`;
}

async function placeSoon(place: string, name = "v"): Promise<void> {
  for (const node of [a, b, c]) {
    if (!scene.nodes.includes(node)) continue;
    await until(
      () => placeOf(node, name) === place,
      () => `${node.name}: ${placeOf(node, name)}, not ${place}`,
    );
  }
}

/** Attached on a. */
async function attached(name = "v"): Promise<string> {
  const { id } = await a.create({ name, sizeBytes: MIB, replicas: 2 });
  await until(() => [b, c].every((node) => node.control.list().some((one) => one.id === id)));
  await a.control.attach(name, {});
  await until(() => show(b, name).backing.attachedTo === "a");
  return id;
}

function front(node: NodeFixture, volumeId: string, isRunning: boolean, isWaiting = false): void {
  node.plane.tellFront({ volumeId, isRunning, isWaiting });
}

const called = (node: NodeFixture, call: string): number =>
  node.plane.calls.filter((one) => one.startsWith(call)).length;

describe("standby", () => {
  test("rings stop: the standby is given the volume, and gives it back when asked", async () => {
    const id = await attached();
    front(a, id, true);
    const { volume, changed } = await b.control.attach("v", { standby: true });
    assert.equal(changed, true);
    assert.equal(volume.state, "standby");
    assert.match(volume.attachment?.socket ?? "", /v\.sock$/);
    assert.equal(b.plane.backings.at(-1)?.isStandby, true);
    assert.equal((await b.control.attach("v", { standby: true })).changed, false);
    const otherQueues = b.control.attach("v", { standby: true, queueCountMax: 3 });
    await refused(otherQueues, "attachment_differs", /not 3/);
    await placeSoon("a, b stands by");
    const { generation } = show(a).attachment ?? { generation: 0 };
    const epoch = show(a).backing.epoch;
    front(a, id, false);
    await placeSoon("b, a stands by");
    await until(() => show(b).state === "attached" && show(a).state === "standby");
    assert.equal(show(b).attachment?.generation, generation + 1);
    assert.equal(show(b).backing.epoch, epoch + 1);
    assert.equal(called(a, "handOverVolume v"), 1);
    await until(() => called(b, "takeVolume v") === 1);
    // Called off: the guest goes on where it was.
    front(a, id, false, true);
    await placeSoon("a, b stands by");
    await until(() => called(a, "takeVolume v") === 1);
    assert.equal(show(a).backing.epoch, epoch + 2, "no epoch is spent on taking it");
  });

  test("who has a guest says no, and whoever waits is hung up on", async () => {
    const id = await attached();
    front(a, id, true);
    await b.control.attach("v", { standby: true });
    await placeSoon("a, b stands by");
    front(b, id, false, true);
    // It asks again as long as somebody waits, and may have been refused twice when we look.
    await until(() => called(b, "cutWaiting v") >= 1);
    front(b, id, false, false);
    await placeSoon("a, b stands by");
    assert.equal(called(a, "handOverVolume v"), 0);
  });

  test("a holder that is gone, or says nothing, is taken over from", async () => {
    const id = await attached();
    front(a, id, true);
    await b.control.attach("v", { standby: true });
    await c.control.attach("v", {}).then(
      () => assert.fail("a is alive"),
      () => undefined,
    );
    await placeSoon("a, b stands by");
    // It hangs: neither given nor refused.
    a.plane.handOverVolume = () => new Promise(() => undefined);
    front(a, id, false);
    const beganMs = performance.now();
    front(b, id, false, true);
    await until(() => placeOf(c) === "b, nobody stands by");
    assert.ok(performance.now() - beganMs >= 2990, "it is given time to answer");
    await until(() => show(b).state === "attached");
    await until(() => placeOf(b) === "b, nobody stands by");
    await c.control.attach("v", { standby: true });
    await b.end();
    scene.nodes.splice(scene.nodes.indexOf(b), 1);
    front(c, id, false, true);
    await until(() => placeOf(c) === "c, nobody stands by");
    await until(() => show(c).state === "attached");
  });

  test("a daemon that starts again goes on as the record says", async () => {
    const id = await attached();
    front(a, id, true);
    await b.control.attach("v", { standby: true });
    await placeSoon("a, b stands by");
    b = await scene.restart(b);
    await until(() => b.control.list().length > 0 && show(b).state === "standby");
    assert.equal(called(b, "openVolume v"), 1);
    assert.equal(b.plane.backings.at(-1)?.isStandby, true);
    assert.equal(called(a, "handOverVolume v"), 0);
    await b.end();
    // It moves on while b is away: b serves nothing of it when it is back.
    await c.control.attach("v", { standby: true });
    front(a, id, false);
    await until(() => show(c).backing.attachedTo === "c");
    b = await scene.restart(b);
    await until(() => b.control.list().length > 0 && show(b).backing.attachedTo === "c");
    await until(() => show(b).attachment === null);
    assert.equal(called(b, "openVolume v"), 0);
  });

  test("detach: at the standby it stands by no more; where it is, the standby gets it", async () => {
    const id = await attached();
    front(a, id, true);
    await b.control.attach("v", { standby: true });
    assert.equal((await b.control.detach("v")).changed, true);
    await placeSoon("a, nobody stands by");
    assert.equal(show(b).attachment, null);
    await b.control.attach("v", { standby: true });
    await placeSoon("a, b stands by");
    assert.equal((await a.control.detach("v")).changed, true);
    await placeSoon("b, nobody stands by");
    await until(() => show(b).state === "attached");
    assert.equal(show(a).attachment, null);
    assert.equal((await b.control.detach("v")).changed, true);
    await placeSoon("null, nobody stands by");
  });

  test("refused: nobody has it, it is here, another stands by", async () => {
    await a.create({ name: "w", sizeBytes: MIB, replicas: 2 });
    await refused(a.control.attach("w", { standby: true }), "invalid_request", /nowhere/);
    const id = await attached();
    front(a, id, true);
    await refused(a.control.attach("v", { standby: true }), "invalid_request", /on this node/);
    const both = { standby: true, takeOver: true };
    await refused(b.control.attach("v", both), "invalid_request", /exclude each other/);
    await b.control.attach("v", { standby: true });
    await placeSoon("a, b stands by");
    await refused(c.control.attach("v", { standby: true }), "volume_busy", /node b stands by/);
    await refused(b.control.attach("v", {}), "attached_elsewhere", /on node a/);
  });
});

describe("growth", () => {
  const sizeAt = (node: NodeFixture, id: string): number => node.plane.open.get(id)?.sizeBytes ?? 0;

  async function standingBy(): Promise<string> {
    const id = await attached();
    front(a, id, true);
    await b.control.attach("v", { standby: true });
    await placeSoon("a, b stands by");
    return id;
  }

  test("the node that stands by grows with it, and so does the one that stands by next", async () => {
    const id = await standingBy();
    await refused(b.control.resize("v", { sizeBytes: 2 * MIB }, REALLY), "attached_elsewhere", /a/);
    await a.control.resize("v", { sizeBytes: 2 * MIB }, REALLY);
    assert.equal(sizeAt(a, id), 2 * MIB);
    await until(() => sizeAt(b, id) === 2 * MIB);
    front(a, id, false);
    await placeSoon("b, a stands by");
    await until(() => show(b).state === "attached" && show(a).state === "standby");
    await b.control.resize("v", { sizeBytes: 3 * MIB }, REALLY);
    await until(() => sizeAt(a, id) === 3 * MIB && sizeAt(b, id) === 3 * MIB);
    a = await scene.restart(a);
    await until(() => a.control.list().length > 0 && show(a).state === "standby");
    assert.equal(sizeAt(a, id), 3 * MIB);
    assert.equal(called(a, "resizeVolume v"), 0, "it was opened with that size");
  });

  test("a standby that has not learnt the new size is not the owner before it has", async () => {
    const id = await standingBy();
    const grow = b.plane.resizeVolume.bind(b.plane);
    let attempts = 0;
    let isWell = false;
    b.plane.resizeVolume = async (volumeId, sizeBytes) => {
      attempts += 1;
      if (!isWell) throw new RingstoreError("TIMED_OUT", "its reactor is busy");
      await grow(volumeId, sizeBytes);
    };
    await a.control.resize("v", { sizeBytes: 2 * MIB }, REALLY);
    await until(() => attempts > 0);
    const before = attempts;
    front(a, id, false);
    await until(() => show(b).backing.attachedTo === "b");
    await until(() => attempts > before + 1);
    assert.equal(called(b, "takeVolume v"), 0);
    isWell = true;
    await until(() => called(b, "takeVolume v") === 1);
    assert.equal(sizeAt(b, id), 2 * MIB);
    const calls = b.plane.calls.filter((call) => /^(resize|take)Volume v/.test(call));
    assert.deepEqual(
      calls.map((call) => call.split(" ")[0]),
      ["resizeVolume", "takeVolume"],
    );
  });
});

describe("hand-over and maintenance", () => {
  test("a volume without a guest moves by a command, from any node", async () => {
    const id = await attached();
    const done = { volume: "v", node: "b", changed: true };
    assert.deepEqual(await c.cluster.handOver("v", { node: "b" }), done);
    await placeSoon("b, nobody stands by");
    await until(() => show(b).state === "attached" && show(a).attachment === null);
    assert.deepEqual(await a.cluster.handOver("v", { node: "b" }), { ...done, changed: false });
    front(b, id, true);
    const busy = a.cluster.handOver("v", { node: "c" });
    await refused(busy, "volume_attached", /serves a guest on node b.*--standby/);
    await placeSoon("b, nobody stands by");
    await refused(a.cluster.handOver("v", { node: "x" }), "node_not_found", /node x/);
    await a.create({ name: "w", sizeBytes: MIB, replicas: 2 });
    await refused(a.cluster.handOver("w", { node: "b" }), "invalid_request", /attached nowhere/);
  });

  test("maintenance: volumes move, guests stay, nothing new comes; off takes it back", async () => {
    const first = await attached("v");
    await attached("w");
    front(a, first, true);
    const planned = await a.cluster.maintain("a", { on: true }, DRY);
    assert.equal(planned.handedOver[0]?.volume, "w");
    assert.equal(planned.kept[0]?.volume, "v");
    assert.equal((await a.cluster.showNode("a")).phase, "active");
    const done = await c.cluster.maintain("a", { on: true }, REALLY);
    assert.equal(done.phase, "maintenance");
    assert.deepEqual(
      done.handedOver.map(({ volume }) => volume),
      ["w"],
    );
    assert.deepEqual(
      done.kept.map(({ volume, reason }) => `${volume}: ${reason}`)[0]?.slice(0, 9),
      "v: its gu",
    );
    await until(() => show(a, "w").attachment === null);
    for (const node of [a, b, c]) {
      await until(async () => (await node.cluster.showNode("a")).phase === "maintenance");
    }
    const { advice } = await b.control.advise();
    assert.match(JSON.stringify(advice), /NODE_IN_MAINTENANCE.*maintenance off a/);
    const three = b.create({ name: "x", sizeBytes: MIB, replicas: 3 });
    await refused(three, "no_space", /different nodes/);
    await refused(b.cluster.handOver("w", { node: "a" }), "volume_unavailable", /node a is not/);
    assert.equal((await b.cluster.maintain("a", { on: false }, REALLY)).phase, "active");
    await until(async () => (await a.cluster.showNode("a")).phase === "active");
    await b.create({ name: "x", sizeBytes: MIB, replicas: 3 });
  });

  test("maintenance is refused where a volume would lose its last copy in sync", async () => {
    const id = await attached();
    const other = show(a).backing.copies.find(({ node }) => node !== "a")?.node ?? "";
    const holder = scene.nodes.find(({ name }) => name === other) as NodeFixture;
    await a.plane.putOut(id, holder.diskId("d"), "unreachable");
    await until(() => show(c).backing.copies.some(({ state }) => state === "out"));
    const on = c.cluster.maintain("a", { on: true }, REALLY);
    await refused(on, "volume_unavailable", /node a has the last copy in sync of v/);
    await refused(c.cluster.maintain("a", { on: true }, DRY), "volume_unavailable", /of v/);
    assert.equal((await c.cluster.showNode("a")).phase, "active");
    // The other copy's node may go: nothing counts on it.
    assert.equal((await c.cluster.maintain(other, { on: true }, REALLY)).phase, "maintenance");
  });
});
