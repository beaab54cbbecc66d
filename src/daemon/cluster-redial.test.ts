// Nodes that could not reach each other for a while, over real sockets: a takeover, and a peer that
// is seen to be back, wait for no pause between two attempts to connect.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { VolumeSpec } from "../ports/data-plane.ts";
import { TestCluster, type TestNode } from "./_test-cluster.ts";
import { until } from "./_test-plane.ts";

/** The pause between two attempts is that long at least, by now. */
const LONG_MS = 1000;
/** Less than what is left of it; states are told five times a second. */
const SOON_MS = 800;

class Pair {
  readonly cluster: TestCluster;
  readonly owner: TestNode;
  readonly member: TestNode;
  readonly spec: VolumeSpec;

  constructor(cluster: TestCluster, spec: VolumeSpec) {
    const [owner, member] = cluster.nodes as [TestNode, TestNode];
    this.cluster = cluster;
    this.owner = owner;
    this.member = member;
    this.spec = spec;
  }

  /** Until one node has just tried in vain to reach the other, and pauses for long. */
  async pauses(from: TestNode, to: TestNode): Promise<void> {
    const path = this.cluster.path(from, to);
    for (;;) {
      const { refusedCount, refusedAtMs } = path;
      while (path.refusedCount === refusedCount) await sleep(1);
      if (refusedCount > 0 && path.refusedAtMs - refusedAtMs > LONG_MS) return;
    }
  }

  async upSoon(from: TestNode, to: TestNode): Promise<void> {
    const beganMs = performance.now();
    const isUp = (): boolean =>
      from.plane.peerStats().some(({ nodeId, state }) => nodeId === to.nodeId && state === "up");
    await until(isUp, "the connection is up");
    const tookMs = performance.now() - beganMs;
    assert.ok(tookMs < SOON_MS, `${tookMs} ms`);
  }

  async own(): Promise<void> {
    await this.cluster.own(this.spec, this.owner, [this.member]);
  }
}

test("who takes over dials at once, and is dialled back at once", async (t) => {
  const cluster = await TestCluster.start(t, 2);
  const spec = await cluster.make("quick", [cluster.nodes[1] as TestNode]);
  const pair = new Pair(cluster, spec);
  const { owner, member } = pair;
  const paths = [cluster.path(owner, member), cluster.path(member, owner)];

  for (const path of paths) path.break();
  await pair.pauses(owner, member);
  for (const path of paths) path.state = "open";
  await pair.own();
  await pair.upSoon(owner, member);
  await until(() => owner.stats(spec)?.state === "serving", "it is taken over");
  await owner.plane.closeVolume(spec.id);

  // Now the member is the one that pauses: it hears of the owner, which dials for the next takeover.
  for (const path of paths) path.break();
  await pair.pauses(member, owner);
  for (const path of paths) path.state = "open";
  await pair.own();
  await pair.upSoon(member, owner);
  await until(() => owner.stats(spec)?.state === "serving", "it is taken over again");
});
