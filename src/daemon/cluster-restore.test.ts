// Metadata that is lost, put back, too old, or made again from the disks, over nodes in one process.

import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { MetaKeys } from "../meta/index.ts";
import type { ClusterBackingView } from "../model/cluster-types.ts";
import type { ScsiSpec } from "../ports/scsi-plane.ts";
import {
  ClusterFixture,
  type NodeFixture,
  refused,
  until,
} from "../testing/control/cluster-fixture.ts";

const REALLY = { dryRun: false } as const;
const ONLY_LOOK = { dryRun: true } as const;
const MIB = 2 ** 20;

let scene: ClusterFixture;
let a: NodeFixture;
let b: NodeFixture;
let c: NodeFixture;
let path = "";
beforeEach(async () => {
  scene = await ClusterFixture.start();
  [a, b, c] = (await scene.cluster("a", "b", "c")) as [NodeFixture, NodeFixture, NodeFixture];
  path = join(scene.directory, "archive");
});
afterEach(() => scene.end());

async function codes(node: NodeFixture): Promise<readonly string[]> {
  return ((await node.cluster.show())?.health ?? []).map(({ code }) => code);
}

async function messageOf(node: NodeFixture, code: string): Promise<string> {
  const items = (await node.cluster.show())?.health ?? [];
  return items.find((item) => item.code === code)?.message ?? "";
}

/** Everything is gone, the folder too. */
async function loseMetadata(): Promise<void> {
  await scene.stopMetadata();
  rmSync(join(scene.directory, "meta"), { recursive: true });
  await scene.startMetadata();
  for (const node of scene.nodes) {
    await until(async () => (await codes(node)).includes("META_EMPTY"));
  }
}

function backingOf(node: NodeFixture, name: string): ClusterBackingView {
  return node.control.show(name).backing as ClusterBackingView;
}

/** Every copy's disk has been told of the newest record. */
async function noted(volumeId: string, version: number): Promise<void> {
  await until(async () => {
    for (const node of scene.nodes) {
      for (const { volumeId: id, facts } of await node.plane.listReplicas(node.diskId("d"))) {
        if (id === volumeId && facts.membershipVersion < version) return false;
      }
    }
    return true;
  });
}

describe("an archive", () => {
  test("of the last moment is put back: volumes are served again, and nodes trust it", async () => {
    const { id } = await a.create({ name: "v", sizeBytes: MIB, replicas: 2 });
    await a.control.attach("v", {});
    await noted(id, 1);
    const saved = await b.cluster.exportMetadata({ path });
    assert.equal(saved.path, path);
    await refused(b.cluster.importMetadata({ path }, REALLY), "cluster_exists", /export FILE/);
    await loseMetadata();
    assert.equal((await c.cluster.importMetadata({ path }, ONLY_LOOK)).revision, saved.revision);
    assert.ok((await codes(c)).includes("META_EMPTY"), "a dry run puts nothing back");
    await c.cluster.importMetadata({ path }, REALLY);
    for (const node of scene.nodes) {
      await until(async () => (await codes(node)).length === 0);
    }
    // The trust outlives the daemon.
    const next = await scene.restart(a);
    await until(() => next.control.list().some(({ state }) => state === "attached"));
    assert.deepEqual(await codes(next), []);
  });

  test("that is too old: what is ahead of it is told by name and not served; the rest is", async () => {
    const old = await a.create({ name: "old", sizeBytes: MIB, replicas: 2 });
    await a.create({ name: "same", sizeBytes: MIB, replicas: 2 });
    await a.control.attach("old", {});
    await until(() => a.plane.owners.has(old.id));
    await a.cluster.exportMetadata({ path });
    const [, other = ""] = a.plane.backings[0]?.members.map(({ diskId }) => diskId) ?? [];
    await a.plane.putOut(old.id, other, "unreachable");
    const late = await a.create({ name: "late", sizeBytes: MIB, replicas: 3 });
    await noted(old.id, 2);
    await noted(late.id, 1);
    await loseMetadata();
    await a.cluster.importMetadata({ path }, REALLY);
    await until(async () => (await codes(a)).includes("META_ROLLED_BACK"));
    const message = await messageOf(a, "META_ROLLED_BACK");
    assert.match(message, /copies of old have seen.*recover --from-disks/);
    const { advice } = await a.control.advise();
    const item = advice.find(({ code }) => code === "META_ROLLED_BACK");
    assert.equal(item?.command, "ringstore cluster recover --from-disks --dry-run");
    // Nobody deletes what this metadata has never heard of.
    await until(async () => (await codes(a)).includes("REPLICAS_UNKNOWN"));
    assert.equal((await a.plane.listReplicas(a.diskId("d"))).length, 3);
    const next = await scene.restart(a);
    await until(() => next.control.list().length === 2);
    const opened = (): string => next.plane.calls.join(", ");
    await until(() => next.control.show("old").health.some(({ code }) => code === "NOT_SERVED"));
    await refused(next.control.attach("old", {}), "volume_unavailable", /older than its copies/);
    assert.doesNotMatch(opened(), /openVolume old/);
    await next.control.attach("same", {});
    assert.match(opened(), /openVolume same/);
    assert.ok((await codes(next)).includes("META_REPLACED"), "it is not trusted");
  });

  test("of another cluster, or none: nothing is written", async () => {
    await a.cluster.exportMetadata({ path });
    await loseMetadata();
    const other = await ClusterFixture.start();
    try {
      const [stranger] = (await other.cluster("x")) as [NodeFixture];
      const foreign = join(scene.directory, "foreign");
      await stranger.cluster.exportMetadata({ path: foreign });
      const request = { path: foreign };
      await refused(
        a.cluster.importMetadata(request, REALLY),
        "invalid_request",
        /this node is in/,
      );
    } finally {
      await other.end();
    }
    const missing = { path: join(scene.directory, "nothing") };
    await refused(a.cluster.importMetadata(missing, REALLY), "invalid_request", /ENOENT/);
    const store = scene.store();
    assert.equal(await store.get(new MetaKeys().cluster), null);
    store.close();
  });
});

describe("from the disks", () => {
  test("records are made again: names, sizes, the copy that counts; others are resynced", async () => {
    const { id } = await a.create({ name: "v", sizeBytes: 8 * MIB, replicas: 3, blockBytes: 4096 });
    await a.control.attach("v", {});
    const members = a.plane.backings[0]?.members.map(({ diskId }) => diskId) ?? [];
    await a.plane.putOut(id, members[0] ?? "", "unreachable");
    await noted(id, 2);
    const before = backingOf(a, "v").copies;
    await refused(a.cluster.recover({}, REALLY), "cluster_exists", /holds a cluster/);
    await loseMetadata();
    // Every node has to tell first, of itself and of its disk.
    await until(async () => {
      const { nodes, disks } = await b.cluster.recover({}, ONLY_LOOK);
      return nodes.length === 3 && disks.length === 3;
    });
    const plan = await b.cluster.recover({}, ONLY_LOOK);
    assert.ok((await codes(b)).includes("META_EMPTY"), "a dry run writes nothing");
    assert.deepEqual(plan.incomplete, []);
    const [volume] = plan.volumes;
    assert.deepEqual(
      [
        volume?.name,
        volume?.sizeBytes,
        volume?.copyCount,
        volume?.replicaCount,
        volume?.attachedTo,
      ],
      ["v", 8 * MIB, 3, 3, "a"],
    );
    assert.deepEqual(volume?.lost, []);
    const out = before.find(({ state }) => state === "out");
    assert.notEqual(volume?.source, `${out?.node}/d`, "the copy that was out does not count");
    assert.deepEqual(await b.cluster.recover({}, REALLY), plan);
    for (const node of scene.nodes) {
      await until(async () => (await codes(node)).length === 0 && node.control.list().length === 1);
    }
    const { copies, epoch } = backingOf(c, "v");
    assert.equal(copies.filter(({ state }) => state === "in-sync").length, 1);
    assert.equal(`${copies[0]?.node}/d`, volume?.source);
    assert.ok(epoch >= 1);
    await c.control.attach("v", {});
    assert.equal(c.control.show("v").blockBytes, 4096);
    // No archive from before is let in again.
    assert.equal((await c.cluster.show())?.generation, 2);
    await a.create({ name: "next", sizeBytes: MIB, replicas: 3 });
  });

  test("reservations are on no disk: it is said that they are lost, and what to do", async () => {
    const { id } = await a.create({ name: "v", sizeBytes: MIB, replicas: 3 });
    const unit = { scsi: { controller: "k" } };
    await a.control.attach("v", unit);
    const transportId = "0f0000006b".padEnd(48, "0");
    const registrations = [{ transportId, relativePort: 3, key: "0000000000000007" }];
    const record = { generation: 1, aptpl: true, type: 1, holder: 0, registrations };
    await a.cluster.saveReservations(id, record);
    await noted(id, 1);
    // An archive has them.
    await a.cluster.exportMetadata({ path });
    const kept = (): ScsiSpec["reservations"] =>
      (a.plane.open.get(id)?.attachment as ScsiSpec | undefined)?.reservations ?? null;
    await loseMetadata();
    await a.cluster.importMetadata({ path }, REALLY);
    a = await scene.restart(a);
    await until(() => a.plane.open.get(id)?.attachment != null);
    assert.deepEqual(kept(), record);
    // The disks have not: nobody is told that they still held.
    await loseMetadata();
    await until(async () => (await b.cluster.recover({}, ONLY_LOOK)).disks.length === 3);
    const { lost } = await b.cluster.recover({}, ONLY_LOOK);
    const words = /reservations, also with APTPL.*registered and reserved again.*fence hosts/;
    assert.ok(
      lost.some((line) => words.test(line)),
      lost.join("\n"),
    );
    assert.deepEqual((await b.cluster.recover({}, REALLY)).lost, lost);
    await until(() => a.control.list().some(({ state }) => state === "detached"));
    await until(() => !a.plane.open.has(id));
    await a.control.attach("v", unit);
    assert.equal(kept(), null);
  });

  test("copies that nobody tells of stop it, unless it is said to go on", async () => {
    await a.create({ name: "v", sizeBytes: MIB, replicas: 3 });
    await until(() => c.control.list().length === 1);
    await noted((await a.control.list())[0]?.id ?? "", 1);
    await c.end();
    await scene.stopMetadata();
    rmSync(join(scene.directory, "meta"), { recursive: true });
    await scene.startMetadata();
    await until(async () => {
      const { nodes, disks } = await a.cluster.recover({}, ONLY_LOOK);
      return nodes.length === 2 && disks.length === 2;
    });
    const words = /copies are missing of v; disks of a, b told.*--partial/;
    await refused(a.cluster.recover({}, REALLY), "volume_unavailable", words);
    const store = scene.store();
    assert.equal(await store.get(new MetaKeys().cluster), null, "nothing was written");
    store.close();
    const { volumes, incomplete } = await a.cluster.recover({ partial: true }, REALLY);
    assert.deepEqual([volumes.length, incomplete], [1, ["v"]]);
    await until(() => a.control.list().length === 1);
  });
});
