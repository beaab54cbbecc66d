// A copy's disk that is full, in both ways that there are: the store has no slab left, because other
// volumes have taken them, and the file system below a sparse disk file has no block left. And the
// node of that copy lost for good, and replaced. The volume goes on with what is left of it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { KIB, MIB } from "../../base/index.ts";
import { runLoadInChild } from "../../load/index.ts";
import { CLUSTER_LOAD, NodeCluster } from "../nodes/node-cluster.ts";
import { type Cleanup, cleanupOf } from "../soak/cleanup.ts";
import { brokenPromises } from "../soak/loaded-daemon.ts";
import { diskFolder } from "../soak/places.ts";

const DISK_BYTES: number = 160 * MIB;
const VOLUME_BYTES: number = 24 * MIB;
const LIMIT = { timeout: 400_000 } as const;
const LOAD = { ...CLUSTER_LOAD, depth: 4, blockBytesMax: 16 * KIB, seed: 20261129 };

/** A file system of its own for a disk file: small, in memory, gone with the cleanup. Needs root. */
function smallFileSystem(cleanup: Cleanup): string {
  const folder = diskFolder(cleanup);
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${2 * DISK_BYTES}`, "rs-disk", folder]);
  cleanup.after(() => void execFileSync("umount", ["--lazy", folder]));
  return folder;
}

/** Takes all of the store's space on that node's disk; returns what gives it back. */
async function fillStore(cluster: NodeCluster, index: number): Promise<() => Promise<void>> {
  const api = cluster.api(index);
  await api.createVolume({ name: "filler", sizeBytes: DISK_BYTES });
  const { socket } = await api.attachVolume("filler", {});
  const sizes = { blockBytes: 64 * KIB, depth: 8 } as const;
  const write = {
    socketPath: socket ?? "",
    prefill: true,
    runtimeMs: 1,
    warmupMs: 0,
    ...sizes,
  } as const;
  const { errorCount } = await runLoadInChild(write);
  assert.ok(errorCount > 0, "the disk took all");
  return async () => {
    await api.detachVolume("filler");
    await api.deleteVolume("filler", { dryRun: false });
  };
}

function fillFileSystem(folder: string): string {
  const { bavail, bsize } = statfsSync(folder);
  const ballast = join(folder, "ballast");
  writeFileSync(ballast, Buffer.alloc(bavail * bsize));
  return ballast;
}

test("a copy's disk is full, and then its node is lost and replaced", LIMIT, async (t) => {
  const cleanup = cleanupOf(t);
  const isRoot = process.getuid?.() === 0;
  if (!isRoot) t.diagnostic("not root: no full file system");
  const folders = isRoot ? { 1: smallFileSystem(cleanup), 2: smallFileSystem(cleanup) } : {};
  const cluster = await NodeCluster.start(cleanup, {
    nodeCount: 3,
    diskBytes: DISK_BYTES,
    allocation: "sparse",
    diskFolders: folders,
  });
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: VOLUME_BYTES, replicas: 2 });
  const [, other = 0] = await cluster.holders(0, "vm");
  const name = `node${other + 1}`;
  await cluster.attach(0, "vm");

  // No slab is left there for what the load writes first.
  const giveBack = await fillStore(cluster, other);
  const load = await cluster.load("vm", LOAD);
  await cluster.copiesSoon(0, "vm", { [name]: "out" });
  await load.goesOn(500);
  await giveBack();
  // A member that has lagged is tried again after half a minute.
  await cluster.copiesSoon(0, "vm", { [name]: "in-sync" }, 120_000);

  if (isRoot) {
    const ballast = fillFileSystem((folders as Record<number, string>)[other] as string);
    await cluster.copiesSoon(0, "vm", { [name]: "out" });
    await load.goesOn(500);
    rmSync(ballast);
    await cluster.kill(other);
    await cluster.restart(other);
    await cluster.copiesSoon(0, "vm", { [name]: "in-sync" });
  }

  // Its machine and disk are gone; one of the same name joins with an empty disk. The cluster makes the
  // lost copy anew on the node that is left.
  await cluster.replace(other);
  const spareName = `node${other === 1 ? 3 : 2}`;
  await cluster.copiesSoon(0, "vm", { node1: "in-sync", [spareName]: "in-sync" }, 120_000);
  await load.goesOn(500);
  assert.deepEqual(brokenPromises(await load.finish()), []);
  // What is new has a copy there, and can move there.
  await cluster.api(0).createVolume({ name: "new", sizeBytes: VOLUME_BYTES, replicas: 3 });
  await cluster.attach(other, "new");
  const second = await cluster.load("new", LOAD);
  assert.deepEqual(brokenPromises(await second.finish()), []);
  assert.ok((await cluster.compareCopies("new", "vm")) > 0);
});
