// Who the other nodes are is known at once when a daemon starts, though the metadata says nothing.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ClusterFixture, type NodeFixture, until } from "../testing/control/cluster-fixture.ts";

test("a daemon that starts without metadata lets in the peers of before", async (t) => {
  const scene = await ClusterFixture.start();
  t.after(() => scene.end());
  let [a, b] = (await scene.cluster("a", "b")) as [NodeFixture, NodeFixture];
  await until(() => a.plane.peers.length === 1 && b.plane.peers.length === 1);
  const peers = a.plane.peers;
  await scene.stopMetadata();
  a = await scene.restart(a);
  assert.deepEqual(a.plane.peers, peers);
  // What is no list of peers is as good as none.
  writeFileSync(join(b.fixture.paths.root, "cluster.peers"), '[{"nodeId": 7}');
  b = await scene.restart(b);
  assert.deepEqual(b.plane.peers, []);
  await scene.startMetadata();
  await until(() => b.plane.peers.length === 1);
});
