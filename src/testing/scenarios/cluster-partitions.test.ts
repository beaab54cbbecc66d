// The network between nodes, and to the metadata, cut one way and both ways, slow and dripping, with
// real processes under verified load. What a guest sees of it is a pause; every byte that was
// acknowledged is on every copy at the end.

import assert from "node:assert/strict";
import { test } from "node:test";
import { KIB, MIB } from "../../base/index.ts";
import { CLUSTER_LOAD, NodeCluster } from "../nodes/node-cluster.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { brokenPromises } from "../soak/loaded-daemon.ts";

const DISK_BYTES: number = 320 * MIB;
const VOLUME_BYTES: number = 16 * MIB;
const PAUSE_MS_MAX = 20_000;
const LIMIT = { timeout: 300_000 } as const;
/** Light: proxies, daemons and load share the machine. */
const LIGHT = { queueCount: 2, depth: 4, blockBytesMax: 16 * KIB } as const;
const LOAD = { ...CLUSTER_LOAD, ...LIGHT, writeZeroesPercent: 2, seed: 20261128 };
const CLUSTER = { nodeCount: 3, diskBytes: DISK_BYTES, hasFaultyNetwork: true } as const;
const VOLUME = { name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 } as const;

test("an owner and a copy that lose each other, one way and both: a pause", LIMIT, async (t) => {
  const cluster = await NodeCluster.start(cleanupOf(t), CLUSTER);
  const { faults } = cluster;
  await cluster.api(0).createVolume(VOLUME);
  const [, other = 0] = await cluster.holders(0, "vm");
  const name = `node${other + 1}`;
  await cluster.attach(0, "vm");
  const load = await cluster.load("vm", LOAD);
  const cuts = [
    () => faults.block(0, other),
    () => faults.block(other, 0),
    () => faults.part(0, other),
  ];
  for (const cut of cuts) {
    cut();
    await cluster.copiesSoon(0, "vm", { [name]: "out" });
    await load.goesOn(500);
    // What was held arrives now: the old connection's last words.
    faults.heal();
    await cluster.copiesSoon(0, "vm", { [name]: "in-sync" });
    await load.goesOn(300);
  }
  // A network that is slow and a line that is thin delay; they put nobody out for good.
  const { there, back } = faults.path(0, other);
  there.delay(20);
  back.delay(20);
  await load.goesOn(1500);
  there.drip(2 * MIB);
  await load.goesOn(1500);
  faults.heal();
  await cluster.copiesSoon(0, "vm", { [name]: "in-sync" });
  const report = await load.finish();
  assert.deepEqual(brokenPromises(report), []);
  t.diagnostic(`longest pause ${report.longestPauseMs.toFixed(0)} ms`);
  assert.ok(report.longestPauseMs < PAUSE_MS_MAX, `a pause of ${report.longestPauseMs} ms`);
  assert.ok((await cluster.compareCopies("vm")) > 0);
});

test(
  "an owner without metadata serves; cut off from all, it lets go of its guest",
  LIMIT,
  async (t) => {
    const cluster = await NodeCluster.start(cleanupOf(t), CLUSTER);
    const { faults } = cluster;
    await cluster.api(0).createVolume(VOLUME);
    const [, other = 0] = await cluster.holders(0, "vm");
    await cluster.attach(0, "vm");
    const cutMs = 6000;
    const first = await cluster.load("vm", LOAD);
    faults.cutMetadata(0);
    await first.goesOn(cutMs);
    const calm = await first.finish();
    faults.heal();
    assert.deepEqual(brokenPromises(calm), []);
    assert.ok(calm.longestPauseMs < cutMs / 2, `a pause of ${calm.longestPauseMs} ms`);

    const load = await cluster.load("vm", LOAD);
    faults.isolate(0);
    // A copy is on the host itself; what is written there alone is never answered.
    await load.goesOn(1000);
    const tookMs = await cluster.attach(other, "vm", true);
    await load.goesOn(500);
    faults.heal();
    // It hears that it was deposed, and hangs up: the guest is led to the new owner.
    await cluster.copiesSoon(other, "vm", { node1: "in-sync" });
    await load.goesOn(500);
    const report = await load.finish();
    // What was under way at the first may fail: another has the volume. Nothing is wrong, or late.
    assert.equal(report.verify?.failureCount, 0, report.failures.join("\n"));
    assert.ok((report.verify?.checkedBlocks ?? 0) > 0, "nothing was verified");
    assert.equal(report.canary?.lateWriteCount, 0);
    assert.equal(report.reconnectCount, 1);
    t.diagnostic(`attached elsewhere in ${tookMs.toFixed(0)} ms`);
    assert.ok((await cluster.compareCopies("vm")) > 0);
  },
);
