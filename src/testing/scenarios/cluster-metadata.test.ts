// The metadata of a cluster of real processes is lost, or comes back from a backup that is too old.
// Under load, with a copy that has missed writes: nothing of it is ever served, and what was
// acknowledged is read back when the records have been made again from the disks.

import assert from "node:assert/strict";
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { MIB } from "../../base/index.ts";
import type { Health } from "../../model/types.ts";
import { CLUSTER_LOAD, NodeCluster, soon } from "../nodes/node-cluster.ts";
import { cleanupOf } from "../soak/cleanup.ts";

const DISK_BYTES: number = 160 * MIB;
const VOLUME_BYTES: number = 48 * MIB;
const LIMIT = { timeout: 600_000 } as const;
/** The load waits while nobody serves: that is what is tested, not how long. */
const PATIENCE_MS = 400_000;
const LOAD = {
  ...CLUSTER_LOAD,
  seed: 20261128,
  stallTimeoutMs: PATIENCE_MS,
  reconnectTimeoutMs: PATIENCE_MS,
};
const nodeName = (index: number): string => `node${index + 1}`;

async function healthOf(cluster: NodeCluster, index: number): Promise<readonly Health[]> {
  return (await cluster.api(index).showCluster()).cluster?.health ?? [];
}

function healthSoon(
  cluster: NodeCluster,
  index: number,
  code: string,
  words: RegExp,
): Promise<void> {
  return soon(`${code} on ${nodeName(index)}`, async () =>
    (await healthOf(cluster, index)).some((one) => one.code === code && words.test(one.message)),
  );
}

interface Scene {
  readonly cluster: NodeCluster;
  readonly load: Awaited<ReturnType<NodeCluster["load"]>>;
  /** Of the node with the second copy, and of the one without. */
  readonly other: number;
  readonly spare: number;
}

async function begin(cluster: NodeCluster): Promise<Scene> {
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const [, other = 0] = await cluster.holders(0, "vm");
  await cluster.attach(0, "vm");
  const load = await cluster.load("vm", LOAD);
  await load.goesOn(300);
  // What a backup of now tells.
  await cluster.copiesSoon(0, "vm", { node1: "in-sync", [nodeName(other)]: "in-sync" });
  return { cluster, load, other, spare: other === 1 ? 2 : 1 };
}

/** The second copy misses writes; the first one's disk has been told of it. */
async function missWrites({ cluster, load, other }: Scene): Promise<void> {
  await cluster.kill(other);
  await load.goesOn(1000);
  await cluster.copiesSoon(0, "vm", { [nodeName(other)]: "out" });
  await load.goesOn(1500);
}

/** Nothing is left but what the disks know: recovered, attached elsewhere, every byte read back. */
async function recoverAndCompare({ cluster, load, other, spare }: Scene): Promise<void> {
  for (const index of [0, 1, 2]) await healthSoon(cluster, index, "META_EMPTY", /recover/);
  const command = ["cluster", "recover", "--from-disks"];
  const look = (): Promise<{ nodes: string[]; volumes: { name: string; source: string }[] }> =>
    cluster.node(spare).json([...command, "--dry-run"]);
  await soon("every node tells", async () => (await look()).nodes.length === 3);
  const { volumes } = await look();
  assert.deepEqual(
    volumes.map(({ name, source }) => [name, source.split("/")[0]]),
    [["vm", "node1"]],
  );
  await cluster.node(spare).json(command);
  await soon("the volume is there", async () => {
    const { volumes: seen } = await cluster.api(spare).listVolumes();
    return seen.some(({ name, state }) => name === "vm" && state === "detached");
  });
  await cluster.attach(spare, "vm");
  await cluster.copiesSoon(spare, "vm", { node1: "in-sync", [nodeName(other)]: "in-sync" });
  await load.goesOn(500);
  // What is read back now is the copy that had missed writes.
  await cluster.kill(0);
  await cluster.copiesSoon(spare, "vm", { node1: "out" });
  const report = await load.finish();
  assert.equal(report.verify?.failureCount, 0, report.failures.join("\n"));
  assert.ok((report.verify?.checkedBlocks ?? 0) > 0, "nothing was verified");
  assert.equal(report.canary?.lateWriteCount, 0);
}

test(
  "metadata destroyed under load: recovered from the disks, every byte compared",
  LIMIT,
  async (t) => {
    const cluster = await NodeCluster.start(cleanupOf(t), { nodeCount: 3, diskBytes: DISK_BYTES });
    const scene = await begin(cluster);
    await missWrites(scene);
    const { metadata } = cluster;
    await metadata.kill("SIGKILL");
    rmSync(join(metadata.directory, "meta"), { recursive: true });
    await metadata.launch();
    await cluster.restart(scene.other);
    await recoverAndCompare(scene);
  },
);

test("etcd put back from an old backup: nothing is served from it", LIMIT, async (t) => {
  const options = { nodeCount: 3, diskBytes: DISK_BYTES, metadata: "etcd" } as const;
  const cluster = await NodeCluster.start(cleanupOf(t), options);
  const scene = await begin(cluster);
  const { metadata } = cluster;
  const data = join(metadata.directory, "etcd");
  await metadata.kill("SIGTERM");
  cpSync(data, `${data}.backup`, { recursive: true });
  await metadata.launch();
  await missWrites(scene);
  await metadata.kill("SIGKILL");
  rmSync(data, { recursive: true });
  cpSync(`${data}.backup`, data, { recursive: true });
  await metadata.launch();
  const { other, spare } = scene;
  // By this backup both copies are in sync, and one of them has missed writes.
  await healthSoon(cluster, 0, "META_ROLLED_BACK", /copies of vm have seen.*recover --from-disks/);
  await cluster.restart(other);
  await cluster.kill(0);
  await cluster.restart(0);
  await healthSoon(cluster, 0, "META_ROLLED_BACK", /copies of vm have seen/);
  const unserved = async (index: number): Promise<boolean> =>
    (await cluster.volume(index, "vm")).health.some(({ code }) => code === "NOT_SERVED");
  await soon("it is not served", () => unserved(0));
  // Not by a node either that has no copy and knows nothing: the copies refuse it.
  await cluster.attach(spare, "vm", true).catch(() => undefined);
  await soon("it is refused elsewhere", () => unserved(spare));
  await healthSoon(cluster, spare, "META_ROLLED_BACK", /copies of vm have seen/);
  const store = metadata.connect();
  const { entries } = await store.list("ringstore/");
  for (const { key, leaseId } of entries) {
    if (leaseId === 0n) await store.transact({ guards: [], writes: [{ key, value: null }] });
  }
  store.close();
  await recoverAndCompare(scene);
});
