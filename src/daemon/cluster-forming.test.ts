// How daemons come to be in a cluster: init, token, join; what is refused, and what is repeated.

import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { MetaKeys, RECORD_FORMAT_MUTUAL, readInventory } from "../meta/index.ts";
import {
  ClusterFixture,
  type NodeFixture,
  refused,
  until,
} from "../testing/control/cluster-fixture.ts";

const REALLY = { dryRun: false } as const;

let scene: ClusterFixture;
beforeEach(async () => {
  scene = await ClusterFixture.start();
});
afterEach(() => scene.end());

function clusterFile(node: NodeFixture, name = "cluster.json"): string {
  return join(node.fixture.paths.root, name);
}

describe("init", () => {
  test("makes a cluster of one node, with its disks, on a running daemon", async () => {
    const node = await scene.node("a");
    await node.addDisk("d", 2 ** 30);
    const request = { name: "prod", address: node.address, metadata: [`http://${scene.endpoint}`] };
    const view = await node.cluster.init({ ...request, nodeName: "a", rack: "r1" }, REALLY);
    assert.equal(view.name, "prod");
    assert.equal(view.generation, 1);
    assert.equal(view.metadata.reachable, true);
    assert.equal(view.nodeCount, 1);
    await until(async () => (await node.cluster.showNode("a")).disks.length === 1);
    const shown = await node.cluster.showNode("a");
    assert.deepEqual([shown.state, shown.isThis, shown.rack], ["alive", true, "r1"]);
    assert.equal(shown.disks[0]?.name, "d");
    assert.equal(statSync(clusterFile(node, "cluster.key")).mode & 0o777, 0o600);
    const { started } = node.plane;
    assert.equal(`${started?.listen.host}:${started?.listen.port}`, node.address);
    assert.equal(started?.identity.incarnation, 1);
    assert.equal(started?.key.length, 32);
    // What is in the metadata fits together.
    const store = scene.store();
    try {
      const keys = new MetaKeys();
      const { entries } = await store.list(keys.root);
      const lasting = entries.filter((entry) => entry.leaseId === 0n);
      const { cluster, disks } = readInventory(keys, lasting);
      assert.equal(cluster.id, view.id);
      assert.equal(disks.size, 1);
    } finally {
      store.close();
    }
  });

  test("a dry run changes nothing", async () => {
    const node = await scene.node("a");
    const request = { name: "prod", address: node.address, metadata: [scene.endpoint] };
    await node.cluster.init(request, { dryRun: true });
    assert.equal(await node.cluster.show(), null);
    assert.throws(() => readFileSync(clusterFile(node)));
    const store = scene.store();
    assert.equal((await store.list("ringstore/")).entries.length, 0);
    store.close();
  });

  test("is refused: no address, in a cluster, metadata in use, metadata away", async () => {
    const [a] = (await scene.cluster("a")) as [NodeFixture];
    const b = await scene.node("b");
    const request = { name: "other", address: b.address, metadata: [scene.endpoint] };
    await refused(
      b.cluster.init({ ...request, address: "10.0.0.1" }, REALLY),
      "invalid_request",
      /address: "10.0.0.1" is not HOST:PORT/,
    );
    await refused(b.cluster.init(request, REALLY), "cluster_exists", /holds cluster prod already/);
    await refused(a.cluster.init(request, REALLY), "in_cluster", /in cluster prod already, as a/);
    await scene.stopMetadata();
    await refused(b.cluster.init(request, REALLY), "metadata_unavailable", /does not answer/);
    assert.equal(await b.cluster.show(), null);
  });

  test("that was cut short after the metadata was written is completed by the same", async () => {
    const node = await scene.node("a");
    const request = { name: "prod", address: node.address, metadata: [scene.endpoint] };
    await node.cluster.init({ ...request, nodeName: "a" }, REALLY);
    const id = (await node.cluster.show())?.id;
    const key = readFileSync(clusterFile(node, "cluster.key"), "utf8");
    // As a crash before the last step leaves it.
    const text = readFileSync(clusterFile(node), "utf8").replace('"member"', '"init"');
    writeFileSync(clusterFile(node), text);
    const next = await scene.restart(node);
    assert.equal(await next.cluster.show(), null);
    await refused(
      next.cluster.init({ ...request, name: "else" }, REALLY),
      "cluster_exists",
      /again, ringstore cluster init prod$/,
    );
    const view = await next.cluster.init({ ...request, nodeName: "a" }, REALLY);
    assert.equal(view.id, id);
    assert.equal(readFileSync(clusterFile(next, "cluster.key"), "utf8"), key);
    assert.equal(next.plane.started?.identity.incarnation, 2);
  });
});

describe("join", () => {
  test("three nodes know each other; restarts rise, and need no command", async () => {
    const [a, b, c] = (await scene.cluster("a", "b", "c")) as [
      NodeFixture,
      NodeFixture,
      NodeFixture,
    ];
    await until(() => [a, b, c].every((node) => node.plane.peers.length === 2));
    assert.deepEqual(a.plane.started?.key, c.plane.started?.key);
    const ports = a.plane.peers.map(({ host, port }) => `${host}:${port}`).sort();
    assert.deepEqual(ports, [b.address, c.address].sort());
    const numbers = (await a.cluster.listNodes()).flatMap(({ disks }) => disks.map(({ id }) => id));
    assert.equal(new Set(numbers).size, 3);
    const again = await scene.restart(b);
    await until(async () => (await again.cluster.show())?.liveNodeCount === 3);
    assert.equal(again.plane.started?.identity.incarnation, 2);
    assert.equal(again.plane.started?.identity.nodeId, b.plane.started?.identity.nodeId);
  });

  test("is refused: a name or address that is taken, a token that is none, another cluster", async () => {
    const [a] = (await scene.cluster("a")) as [NodeFixture];
    const { token } = await a.cluster.token();
    const b = await scene.node("b");
    const request = { token, address: b.address, nodeName: "b" };
    await refused(
      b.cluster.join({ ...request, nodeName: "a" }, REALLY),
      "node_exists",
      /has a node a at/,
    );
    await refused(b.cluster.join({ ...request, token: "x" }, REALLY), "join_refused", /token/);
    const body = JSON.parse(Buffer.from(token, "base64url").toString()) as { id: string };
    body.id = "00000000-0000-4000-8000-000000000000";
    const other = Buffer.from(JSON.stringify(body)).toString("base64url");
    await refused(
      b.cluster.join({ ...request, token: other }, REALLY),
      "join_refused",
      /holds cluster prod, another one/,
    );
    await b.cluster.join(request, { dryRun: true });
    assert.equal((await a.cluster.listNodes()).length, 1);
    await b.cluster.join(request, REALLY);
    assert.equal((await b.cluster.listNodes()).length, 2);
  });

  test("two nodes of one name at the same time: one of them is in", async () => {
    const [a] = (await scene.cluster("a")) as [NodeFixture];
    const { token } = await a.cluster.token();
    const both = [await scene.node("b"), await scene.node("c")];
    const answers = await Promise.allSettled(
      both.map((node) => {
        const request = { token, address: node.address, nodeName: "twin" };
        return node.cluster.join(request, REALLY);
      }),
    );
    const words = answers.map(({ status }) => status).sort();
    assert.deepEqual(words, ["fulfilled", "rejected"]);
    await until(async () => (await a.cluster.listNodes()).length === 2);
  });

  test("a daemon in no cluster says so", async () => {
    const node = await scene.node("a");
    assert.equal(await node.cluster.show(), null);
    await refused(node.cluster.token(), "no_cluster", /ringstore cluster init/);
    const create = node.create({ name: "v", sizeBytes: 2 ** 20, replicas: 2 });
    await refused(create, "no_cluster", /leave replicas out/);
  });
});

describe("what a newer release has written", () => {
  test("a cluster with an unknown feature is not joined, by name, and nothing is changed", async () => {
    const [a] = (await scene.cluster("a")) as [NodeFixture];
    const { token } = await a.cluster.token();
    const b = await scene.node("b");
    const store = scene.store();
    const keys = new MetaKeys();
    const { value } = (await store.get(keys.cluster))!;
    const record = { ...(JSON.parse(Buffer.from(value).toString()) as object), features: 4 };
    const newer = Buffer.from(JSON.stringify(record));
    await store.transact({ guards: [], writes: [{ key: keys.cluster, value: newer }] });
    const before = await store.list(keys.nodes);
    const request = { token, address: b.address, nodeName: "b" };
    await refused(b.cluster.join(request, REALLY), "internal", /uses feature 2.*upgrade this node/);
    assert.equal(await b.cluster.show(), null);
    assert.throws(() => readFileSync(clusterFile(b)), { code: "ENOENT" });
    assert.deepEqual((await store.get(keys.cluster))?.value, newer);
    assert.equal((await store.list(keys.nodes)).entries.length, before.entries.length);
    store.close();
  });

  test("a volume's record in a newer format is told, not served, and never written", async () => {
    const [a] = (await scene.cluster("a")) as [NodeFixture];
    const { id } = await a.create({ name: "v", sizeBytes: 2 ** 20, replicas: 1 });
    const store = scene.store();
    const key = new MetaKeys().volumeRecord(id);
    const { value } = (await store.get(key))!;
    const format = RECORD_FORMAT_MUTUAL + 1;
    const record = { ...(JSON.parse(Buffer.from(value).toString()) as object), format, hue: 1 };
    const newer = Buffer.from(JSON.stringify(record));
    await store.transact({ guards: [], writes: [{ key, value: newer }] });
    const { modRevision } = (await store.get(key))!;
    await until(async () => {
      const items = (await a.cluster.show())?.health ?? [];
      return items.some(({ code, message }) => code === "META_DAMAGED" && /format 3/.test(message));
    });
    await assert.rejects(async () => await a.control.attach("v", {}));
    await a.control.remove("v", REALLY).catch(() => undefined);
    const found = await store.get(key);
    assert.deepEqual([found?.value, found?.modRevision], [newer, modRevision]);
    store.close();
  });
});
