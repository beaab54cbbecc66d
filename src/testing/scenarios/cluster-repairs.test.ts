// Volumes of the cluster get their copies back without anybody's help, and let a node be emptied,
// real processes under verified load. At the end both copies are read from their disks and compared.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import type { VolumeCopy } from "../../model/cluster-types.ts";
import { CLUSTER_LOAD, NodeCluster, soon } from "../nodes/node-cluster.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { brokenPromises } from "../soak/loaded-daemon.ts";
import { compareReplicas } from "../store/compare-replicas.ts";

const DISK_BYTES: number = 160 * MIB;
const VOLUME_BYTES: number = 48 * MIB;
const AFTER_SECONDS = 4;
const PAUSE_MS_MAX = 30_000;
const LIMIT = { timeout: 600_000 } as const;
const LOAD = { ...CLUSTER_LOAD, writeZeroesPercent: 2, discardPercent: 1, seed: 20261128 };
const OPTIONS = {
  nodeCount: 4,
  diskBytes: DISK_BYTES,
  flags: ["--repair-after-seconds", String(AFTER_SECONDS)],
};

const nodeName = (index: number): string => `node${index + 1}`;

/** Two copies, both in sync, none of them on those nodes. */
async function wholeWithout(
  cluster: NodeCluster,
  seenBy: number,
  name: string,
  gone: readonly number[],
): Promise<readonly number[]> {
  let found: readonly number[] = [];
  await soon(`${name} is whole without ${gone.map(nodeName)}`, async () => {
    const { copies } = (await cluster.volume(seenBy, name)).backing;
    found = copies.map(({ node }) => Number(node.replace("node", "")) - 1);
    const areGood = copies.length === 2 && copies.every(({ state }) => state === "in-sync");
    return areGood && found.every((index) => !gone.includes(index));
  });
  return found;
}

/** What is on the disks of those nodes, when all daemons have ended. */
async function compare(
  cluster: NodeCluster,
  name: string,
  holders: readonly number[],
): Promise<void> {
  const { id, sizeBytes } = await cluster.volume(holders[0] ?? 0, name);
  for (const daemon of cluster.nodes) await daemon.stop();
  const paths = holders.map((index) => join(cluster.folder, `disk${index + 1}`));
  const { withData } = compareReplicas(paths, id, sizeBytes);
  assert.ok(withData > 0, "there was data to compare");
}

async function usedBytes(cluster: NodeCluster, index: number): Promise<number> {
  return (await cluster.api(index).listDisks()).disks[0]?.usage?.usedBytes ?? -1;
}

test(
  "a node that is gone for good: its copy is made anew elsewhere, under load",
  LIMIT,
  async (t) => {
    const cluster = await NodeCluster.start(cleanupOf(t), OPTIONS);
    await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
    await cluster.api(0).createVolume({ name: "idle", sizeBytes: 8 * MIB, replicas: 2 });
    const [, other = 0] = await cluster.holders(0, "vm");
    const emptyBytes = await usedBytes(cluster, other);
    await cluster.attach(0, "vm");
    const load = await cluster.load("vm", LOAD);

    await cluster.kill(other);
    const beganMs = performance.now();
    const holders = await wholeWithout(cluster, 0, "vm", [other]);
    const tookMs = performance.now() - beganMs;
    assert.ok(tookMs >= AFTER_SECONDS * 1000, `it was given ${AFTER_SECONDS} s to come back`);
    t.diagnostic(`whole again ${tookMs.toFixed(0)} ms after the loss`);
    // The one that is attached nowhere too: a node works on it for a moment.
    const idle = await wholeWithout(cluster, 0, "idle", [other]);
    await load.goesOn(500);
    const { events } = await cluster.api(0).events();
    const lists = await Promise.all(
      cluster.nodes.map((_, at) => (at === other ? null : cluster.api(at).events())),
    );
    const all = [...events, ...lists.flatMap((list) => list?.events ?? [])];
    assert.ok(all.some(({ type, volume }) => type === "copy.replaced" && volume === "vm"));

    // The old one comes back: it has nothing of the volume any more, and its space is free again.
    await cluster.restart(other);
    await soon("its space is free", async () => (await usedBytes(cluster, other)) <= emptyBytes);
    assert.deepEqual(await cluster.holders(0, "vm"), holders);
    const report = await load.finish();
    assert.deepEqual(brokenPromises(report), []);
    assert.ok(report.longestPauseMs < PAUSE_MS_MAX, `a pause of ${report.longestPauseMs} ms`);
    assert.equal((await cluster.volume(0, "idle")).backing.attachedTo, null);
    await cluster.attach(idle[0] ?? 0, "idle");
    await cluster.api(idle[0] ?? 0).detachVolume("idle");
    await compare(cluster, "vm", holders);
  },
);

test("a copy that only its owner does not reach is made anew elsewhere", LIMIT, async (t) => {
  const options = { ...OPTIONS, nodeCount: 3, hasFaultyNetwork: true };
  const cluster = await NodeCluster.start(cleanupOf(t), options);
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const [, other = 0] = await cluster.holders(0, "vm");
  const spare = other === 1 ? 2 : 1;
  const name = nodeName(other);
  await cluster.attach(0, "vm");
  const load = await cluster.load("vm", LOAD);

  // The link is back in time: nothing is planned.
  cluster.faults.part(0, other);
  await cluster.copiesSoon(0, "vm", { [name]: "out" });
  cluster.faults.heal();
  await cluster.copiesSoon(0, "vm", { [name]: "in-sync" });
  await load.goesOn(AFTER_SECONDS * 1000);
  assert.deepEqual(await cluster.holders(0, "vm"), [0, other]);

  cluster.faults.part(0, other);
  const beganMs = performance.now();
  const holders = await wholeWithout(cluster, 0, "vm", [other]);
  assert.ok(performance.now() - beganMs >= AFTER_SECONDS * 1000, "it was given its time");
  assert.deepEqual(holders, [0, spare]);
  const { nodes } = await cluster.api(spare).listNodes();
  assert.ok(nodes.every(({ state }) => state === "alive"));
  await load.goesOn(500);
  cluster.faults.heal();
  const report = await load.finish();
  assert.deepEqual(brokenPromises(report), []);
  t.diagnostic(`longest pause ${report.longestPauseMs.toFixed(0)} ms`);
  assert.ok((await cluster.compareCopies("vm")) > 0);
});

test("a node that lives is emptied under load, and removed; nobody notices", LIMIT, async (t) => {
  const cluster = await NodeCluster.start(cleanupOf(t), { ...OPTIONS, nodeCount: 3 });
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const [, other = 0] = await cluster.holders(0, "vm");
  const spare = other === 1 ? 2 : 1;
  await cluster.attach(0, "vm");
  const load = await cluster.load("vm", LOAD);
  const from = { node: nodeName(other), disk: `disk${other + 1}` };
  const to = { node: nodeName(spare), disk: `disk${spare + 1}` };
  const { copies } = await cluster.api(0).drainNode(from.node, {}, { dryRun: true });
  assert.deepEqual(
    copies.map((copy) => [copy.volume, copy.from, copy.to]),
    [["vm", from, to]],
  );
  const refusal = { code: "node_alive", message: /copies of vm/ };
  await assert.rejects(cluster.api(0).removeNode(from.node), refusal);
  // Never fewer than two copies in sync, until the new one is. One that was too slow for a moment is
  // out for that, and no fault of whoever empties the node.
  let isOver = false;
  let fewest = 2;
  const isCounted = ({ state, reason }: VolumeCopy): boolean =>
    state === "in-sync" || reason === "lagging" || reason === "missing";
  const watching = (async () => {
    while (!isOver) {
      const { copies: now } = (await cluster.volume(0, "vm")).backing;
      fewest = Math.min(fewest, now.filter(isCounted).length);
      await sleep(50);
    }
  })();
  await cluster.api(0).drainNode(from.node, {});
  const holders = await wholeWithout(cluster, 0, "vm", [other]);
  isOver = true;
  await watching;
  assert.deepEqual(holders, [0, spare]);
  assert.equal(fewest, 2);
  const left = async (): Promise<string> => {
    try {
      await cluster.api(0).removeNode(from.node);
      return "";
    } catch (error) {
      return (error as Error).message;
    }
  };
  await soon("the empty node is removed", async () => (await left()) === "");
  await load.goesOn(500);
  assert.equal((await cluster.api(0).listNodes()).nodes.length, 2);
  const report = await load.finish();
  assert.deepEqual(brokenPromises(report), []);
  assert.equal(report.errorCount, 0);
  t.diagnostic(`longest pause ${report.longestPauseMs.toFixed(0)} ms`);
  await compare(cluster, "vm", holders);
});
