// Three daemons with volumes of the cluster attached, each with its copies, its grants and its
// record watched, and no I/O: below 2 % of a core each. What is idle must not tick per volume.
//
// RINGSTORE_IDLE_VOLUMES=1000 is the full count.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import { NodeCluster } from "../nodes/node-cluster.ts";
import { attachVolumes } from "../soak/api.ts";
import { cleanupOf } from "../soak/cleanup.ts";
import { formatShares, idleShares } from "../soak/idle-share.ts";
import { QuietGuest } from "../soak/quiet-guest.ts";

const VOLUME_COUNT = Number(process.env["RINGSTORE_IDLE_VOLUMES"] ?? 100);
const GUESTS_PER_NODE = 5;
const DISK_BYTES: number = 1024 * MIB;
/** What attaching left to do is done by then: compiling, collecting, write-back, grants. */
const SETTLE_MS: number = 100 * Math.max(100, VOLUME_COUNT);
const SHARE_MAX = 0.02;

test(`${VOLUME_COUNT} idle volumes on three nodes: below 2 % of a core each`, async (t) => {
  const cleanup = cleanupOf(t);
  const cluster = await NodeCluster.start(cleanup, { nodeCount: 3, diskBytes: DISK_BYTES });
  const guests: QuietGuest[] = [];
  const beganMs = performance.now();
  for (const [index] of cluster.nodes.entries()) {
    const count = Math.ceil((VOLUME_COUNT - index) / cluster.nodes.length);
    const volumes = Array.from({ length: count }, (_, volume) => ({
      name: `n${index}-v${volume}`,
      sizeBytes: MIB,
      replicas: 2,
    }));
    const sockets = await attachVolumes(cluster.api(index), volumes);
    for (const socket of sockets.slice(0, GUESTS_PER_NODE)) {
      const guest = QuietGuest.connect(socket, { queueCount: 2 });
      cleanup.after(() => guest.close());
      guests.push(guest);
    }
  }
  const attachMs = (performance.now() - beganMs) / VOLUME_COUNT;
  t.diagnostic(`${attachMs.toFixed(1)} ms to create and attach a volume`);
  // Each has worked before it rests: it is idle, not merely new.
  for (const guest of guests) {
    await guest.write(0, 1);
    await guest.read(0);
  }
  await sleep(SETTLE_MS);
  const shares = await idleShares(cluster.nodes, SHARE_MAX, (text) => t.diagnostic(text));
  const shown = formatShares(shares);
  for (const [index] of cluster.nodes.entries()) {
    const { volumes } = await cluster.api(index).status();
    assert.ok(volumes.attached >= Math.floor(VOLUME_COUNT / cluster.nodes.length), shown);
  }
  for (const share of shares) assert.ok(share < SHARE_MAX, shown);
  // Idle is not dead, and nobody lost a copy meanwhile.
  for (const guest of guests) await guest.read(0);
  const states = (await cluster.volume(0, "n0-v0")).backing.copies.map(({ state }) => state);
  assert.deepEqual(states, ["in-sync", "in-sync"]);
});
