// Volumes with copies on several nodes, real processes: what may happen to one node is a pause to
// the volume's users and nothing else. Every byte that was acknowledged is read back from each copy.
//
// Goals (measured by the load; a loaded machine takes longer, so the limits are wide): 3 s where the
// daemon of a replica dies, 1 s where the owner's daemon is restarted, 5 s from the command to
// serving on another node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import { CLUSTER_LOAD, NodeCluster } from "../nodes/node-cluster.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { brokenPromises } from "../soak/loaded-daemon.ts";

const DISK_BYTES: number = 192 * MIB;
const VOLUME_BYTES: number = 48 * MIB;
const PAUSE_MS_MAX = 30_000;
const nodeName = (index: number): string => `node${index + 1}`;
const LIMIT = { timeout: 600_000 } as const;
const LOAD = { ...CLUSTER_LOAD, writeZeroesPercent: 2, discardPercent: 1, seed: 20261127 };

test("each node dies once under load; both copies have every byte; etcd", LIMIT, async (t) => {
  const options = { nodeCount: 3, diskBytes: DISK_BYTES, metadata: "etcd" } as const;
  const cluster = await NodeCluster.start(cleanupOf(t), options);
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const [local, other = 0] = await cluster.holders(0, "vm");
  assert.equal(local, 0, "one copy lies where it was created");
  const spare = other === 1 ? 2 : 1;
  const [first, otherName] = [nodeName(0), nodeName(other)];
  await cluster.attach(0, "vm");
  const load = await cluster.load("vm", LOAD);

  // The other copy's daemon dies and comes back.
  await cluster.kill(other);
  await load.goesOn(1000);
  await cluster.copiesSoon(0, "vm", { [otherName]: "out" });
  await load.goesOn(500);
  await cluster.restart(other);
  await cluster.copiesSoon(0, "vm", { [otherName]: "in-sync" });

  // The owner's daemon dies and comes back: the same socket, nothing out.
  await cluster.kill(0);
  await cluster.restart(0);
  await cluster.copiesSoon(0, "vm", { [first]: "in-sync", [otherName]: "in-sync" });
  await load.goesOn(500);

  // The owner's host is lost: the node without a copy takes over. Only the other copy is read.
  await cluster.kill(0);
  const tookMs = await cluster.attach(spare, "vm", true);
  await load.goesOn(1000);
  await cluster.copiesSoon(spare, "vm", { [first]: "out", [otherName]: "in-sync" });

  // The first comes back, does not serve the volume that moved, and is resynced.
  await cluster.restart(0);
  await cluster.copiesSoon(spare, "vm", { [first]: "in-sync" });
  assert.equal((await cluster.volume(0, "vm")).backing.attachedTo, nodeName(spare));

  // The other copy is gone: what is read back now is the first one's.
  await cluster.kill(other);
  await cluster.copiesSoon(spare, "vm", { [otherName]: "out" });
  const report = await load.finish();
  assert.deepEqual(brokenPromises(report), []);
  t.diagnostic(
    `longest pause ${report.longestPauseMs.toFixed(0)} ms; attached elsewhere in ` +
      `${tookMs.toFixed(0)} ms; pauses after a loss: ${report.lossPausesMs.map(Math.round)}`,
  );
  assert.ok(report.longestPauseMs < PAUSE_MS_MAX, `a pause of ${report.longestPauseMs} ms`);
});

test("without metadata I/O goes on; it is missed only when something changes", LIMIT, async (t) => {
  const cluster = await NodeCluster.start(cleanupOf(t), { nodeCount: 3, diskBytes: DISK_BYTES });
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  await cluster.attach(0, "vm");
  const load = await cluster.load("vm", LOAD);
  const [, other = 0] = await cluster.holders(0, "vm");
  await cluster.metadata.kill("SIGKILL");
  await load.goesOn(2000);
  // A copy dies while nobody can be told: writes wait, none is acknowledged on one copy alone.
  await cluster.kill(other);
  await load.goesOn(3000);
  await cluster.metadata.launch();
  await cluster.copiesSoon(0, "vm", { [nodeName(other)]: "out" });
  await load.goesOn(500);
  await cluster.restart(other);
  await cluster.copiesSoon(0, "vm", { [nodeName(other)]: "in-sync" });
  const report = await load.finish();
  assert.deepEqual(brokenPromises(report), []);
  assert.ok(report.longestPauseMs < PAUSE_MS_MAX, `a pause of ${report.longestPauseMs} ms`);
});

test(
  "an owner that sleeps while another takes over shows nothing old when it wakes",
  LIMIT,
  async (t) => {
    const cluster = await NodeCluster.start(cleanupOf(t), { nodeCount: 3, diskBytes: DISK_BYTES });
    await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
    await cluster.attach(0, "vm");
    const load = await cluster.load("vm", LOAD);
    const { copies } = (await cluster.volume(0, "vm")).backing;
    const other = Number((copies[1]?.node ?? "").slice(-1)) - 1;
    cluster.node(0).signal("SIGSTOP");
    await cluster.attach(other, "vm", true);
    // The load still has its connection to the owner that sleeps: it is cut off when that wakes.
    cluster.node(0).signal("SIGCONT");
    await load.goesOn(3000);
    await cluster.copiesSoon(other, "vm", { node1: "in-sync" });
    const report = await load.finish();
    // What the first had under way it answers with errors: another has the volume. Nothing else.
    assert.equal(report.verify?.failureCount, 0, report.failures.join("\n"));
    assert.ok((report.verify?.checkedBlocks ?? 0) > 0, "nothing was verified");
    assert.equal(report.canary?.lateWriteCount, 0);
    assert.ok(report.reconnectCount > 0, "it was not cut off");
    const { attachedTo, epoch } = (await cluster.volume(other, "vm")).backing;
    assert.equal(attachedTo, nodeName(other));
    assert.ok(epoch >= 2, `epoch ${epoch}`);
  },
);

test("a volume grows under its guest; what is deleted gives its space back", LIMIT, async (t) => {
  const cluster = await NodeCluster.start(cleanupOf(t), { nodeCount: 3, diskBytes: DISK_BYTES });
  const usedBytes = async (): Promise<readonly number[]> => {
    const replies = await Promise.all([0, 1, 2].map((index) => cluster.api(index).listDisks()));
    return replies.map(({ disks }) => disks[0]?.usage?.usedBytes ?? -1);
  };
  const before = await usedBytes();
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const holders = await cluster.holders(0, "vm");
  await cluster.attach(0, "vm");
  const load = await cluster.load("vm", { ...LOAD, areaBytes: VOLUME_BYTES });
  await cluster.api(0).resizeVolume("vm", { sizeBytes: 2 * VOLUME_BYTES });
  await load.goesOn(500);
  assert.deepEqual(brokenPromises(await load.finish()), []);
  // A front-end that comes now sees, writes and reads all of it.
  const whole = await cluster.load("vm", LOAD);
  const report = await whole.finish();
  assert.deepEqual(brokenPromises(report), []);
  assert.equal(report.target.capacityBytes, 2 * VOLUME_BYTES);
  const written = await usedBytes();
  for (const [index, bytes] of before.entries()) {
    const grownBytes = (written[index] ?? 0) - bytes;
    const isHolder = holders.includes(index);
    assert.ok(isHolder ? grownBytes > VOLUME_BYTES : grownBytes === 0, `${index}: ${grownBytes}`);
  }
  await cluster.api(0).detachVolume("vm");
  await cluster.api(0).deleteVolume("vm", { dryRun: false });
  const isBack = async (): Promise<boolean> => String(await usedBytes()) === String(before);
  const deadline = Date.now() + 60_000;
  while (!(await isBack())) {
    assert.ok(Date.now() < deadline, `${await usedBytes()}, and before ${before}`);
    await sleep(100);
  }
});
