// A disk that answers everything with EIO, reads and writes, from one moment to the next: that of a
// copy, and that of the owner's own node. The volume goes on with the other copy, without an error; the
// disk is named; its copy comes back when the disk does, or is made elsewhere and the disk replaced.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { KIB, MIB } from "../../base/index.ts";
import { FailingDisk } from "../nodes/failing-disk.ts";
import { CLUSTER_LOAD, NodeCluster, soon, type VolumeLoad } from "../nodes/node-cluster.ts";
import { diskSoon, makeDisks } from "../soak/api.ts";
import { type Cleanup, cleanupOf } from "../soak/cleanup.ts";
import { brokenPromises } from "../soak/loaded-daemon.ts";

const DISK_BYTES: number = 160 * MIB;
const VOLUME_BYTES: number = 24 * MIB;
const LIMIT = { timeout: 300_000 } as const;
const LOAD = { ...CLUSTER_LOAD, depth: 4, blockBytesMax: 16 * KIB, seed: 20261130 };
const RETURN_MS = 120_000;

const nodeName = (index: number): string => `node${index + 1}`;
const diskName = (index: number): string => `disk${index + 1}`;

interface Scene {
  readonly cluster: NodeCluster;
  readonly disks: readonly FailingDisk[];
  readonly load: VolumeLoad;
  /** The node of the copy that is not the owner's, and the node without one. */
  readonly other: number;
  readonly spare: number;
}

/** A volume of two copies, one of them with its owner, under load; null: skipped. */
async function begin(t: TestContext, flags: readonly string[]): Promise<Scene | null> {
  const cleanup: Cleanup = cleanupOf(t);
  const disks: FailingDisk[] = [];
  for (let index = 0; index < 3; index++) {
    const disk = FailingDisk.make(cleanup, DISK_BYTES);
    if (disk === null) {
      t.skip("no ext4 can be mounted from a loop device here (needs root)");
      return null;
    }
    disks.push(disk);
  }
  const diskFolders = Object.fromEntries(disks.map(({ folder }, index) => [index, folder]));
  const options = { nodeCount: 3, diskBytes: DISK_BYTES, diskFolders, flags };
  const cluster = await NodeCluster.start(cleanup, options);
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const [first, other = 0] = await cluster.holders(0, "vm");
  assert.equal(first, 0);
  await cluster.attach(0, "vm");
  const load = await cluster.load("vm", LOAD);
  return { cluster, disks, load, other, spare: other === 1 ? 2 : 1 };
}

/** The disk fails; its copy goes out, the load goes on, and everybody hears which disk it is. */
async function failDisk({ cluster, disks, load }: Scene, index: number): Promise<void> {
  (disks[index] as FailingDisk).fail();
  await cluster.copiesSoon(0, "vm", { [nodeName(index)]: "out" });
  await load.goesOn(1000);
  const { health, path } = await diskSoon(cluster.api(index), diskName(index), "failed");
  const item = health.find(({ code }) => code === "DISK_FAILED");
  assert.match(item?.message ?? "", new RegExp(`disk ${diskName(index)} answers reads`));
  assert.equal(item?.message.startsWith(path), true);
  const { items } = await cluster.api(index).status();
  assert.ok(items.some(({ code, disk }) => code === "DISK_FAILED" && disk === diskName(index)));
  await soon("the other nodes see it too", async () => {
    const { nodes } = await cluster.api(index === 1 ? 2 : 1).listNodes();
    const own = nodes.find(({ name }) => name === nodeName(index))?.disks ?? [];
    return own[0]?.phase === "failed";
  });
}

test(
  "a disk fails with EIO, a copy's and then the owner's own, and is well again",
  LIMIT,
  async (t) => {
    const scene = await begin(t, []);
    if (scene === null) return;
    const { cluster, disks, load, other } = scene;
    for (const index of [other, 0]) {
      const beganMs = performance.now();
      await failDisk(scene, index);
      // A store that has failed trusts its disk no more until it is opened again.
      await cluster.kill(index);
      await disks[index]?.revive();
      await cluster.restart(index);
      // A member whose writes have failed is tried again after half a minute; by a new owner at once.
      if (index !== 0) {
        await cluster.kill(0);
        await cluster.restart(0);
      }
      await cluster.copiesSoon(0, "vm", { [nodeName(index)]: "in-sync" }, RETURN_MS);
      await diskSoon(cluster.api(index), diskName(index), "ready");
      await load.goesOn(500);
      t.diagnostic(`${nodeName(index)}: ${((performance.now() - beganMs) / 1000).toFixed(1)} s`);
    }
    const report = await load.finish();
    assert.deepEqual(brokenPromises(report), []);
    t.diagnostic(`longest pause ${report.longestPauseMs.toFixed(0)} ms`);
    assert.ok((await cluster.compareCopies("vm")) > 0);
  },
);

test(
  "a disk fails with EIO for good: its copy is made elsewhere, and it is replaced",
  LIMIT,
  async (t) => {
    const scene = await begin(t, ["--repair-after-seconds", "2"]);
    if (scene === null) return;
    const { cluster, disks, load, other, spare } = scene;
    (disks[other] as FailingDisk).fail();
    await cluster.copiesSoon(0, "vm", { node1: "in-sync", [nodeName(spare)]: "in-sync" });
    await soon("the failed copy has left the volume", async () => {
      return !(await cluster.holders(0, "vm")).includes(other);
    });
    await load.goesOn(500);

    // Its daemon runs on: the disk is taken out, another put in its place, without a restart.
    const api = cluster.api(other);
    const refusal = async (): Promise<string> =>
      await api.removeDisk(diskName(other), {}).then(() => "", String);
    await soon("the failed disk is let go of", async () => (await refusal()) === "");
    await disks[other]?.replace();
    const fresh = { path: diskName(other), sizeBytes: DISK_BYTES, allocation: "full" } as const;
    await makeDisks(api, disks[other]?.folder ?? "", [fresh]);
    await soon("it is a disk of the cluster", async () => {
      const { nodes } = await cluster.api(0).listNodes();
      const own = nodes.find(({ name }) => name === nodeName(other))?.disks ?? [];
      return own.length === 1 && own[0]?.phase === "active" && own[0].freeBytes > 0;
    });
    await cluster.api(0).createVolume({ name: "new", sizeBytes: VOLUME_BYTES, replicas: 3 });
    await cluster.attach(other, "new");
    const second = await cluster.load("new", LOAD);
    assert.deepEqual(brokenPromises(await second.finish()), []);
    assert.deepEqual(brokenPromises(await load.finish()), []);
    assert.ok((await cluster.compareCopies("new", "vm")) > 0);
  },
);
