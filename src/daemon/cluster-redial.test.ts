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
/** Less than the next pause; states are told five times a second. */
const SOON_MS = 950;
const ATTEMPTS = 8;

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
    // Both attempts around a pause are of this call: the first of a new round follows no pause.
    let lastMs = Number.NaN;
    for (;;) {
      const { refusedCount } = path;
      while (path.refusedCount === refusedCount) await sleep(1);
      if (path.refusedAtMs - lastMs > LONG_MS) return;
      lastMs = path.refusedAtMs;
    }
  }

  async untilUp(from: TestNode, to: TestNode): Promise<void> {
    const isUp = (): boolean =>
      from.plane.peerStats().some(({ nodeId, state }) => nodeId === to.nodeId && state === "up");
    await until(isUp, "the connection is up");
  }

  async own(): Promise<void> {
    await this.cluster.own(this.spec, this.owner, [this.member]);
  }
}

for (const [who, isOwner] of [
  ["who takes over dials at once", true],
  // The member hears of the owner, which dials for the next takeover.
  ["who is dialled dials back at once", false],
] as const) {
  test(who, async (t) => {
    const cluster = await TestCluster.start(t, 2);
    const spec = await cluster.make("quick", [cluster.nodes[1] as TestNode]);
    const pair = new Pair(cluster, spec);
    const { owner, member } = pair;
    const paths = [cluster.path(owner, member), cluster.path(member, owner)];
    const [from, to] = isOwner ? [owner, member] : [member, owner];
    let leastMs = Number.POSITIVE_INFINITY;
    // A pause is as long each time; a full machine may hold up an attempt of ours, not all of them.
    for (let attempt = 0; attempt < ATTEMPTS && leastMs >= SOON_MS; attempt++) {
      for (const path of paths) path.break();
      await pair.pauses(from, to);
      for (const path of paths) path.state = "open";
      const beganMs = performance.now();
      await pair.own();
      await pair.untilUp(from, to);
      leastMs = Math.min(leastMs, performance.now() - beganMs);
      await until(() => owner.stats(spec)?.state === "serving", "it is taken over");
      await owner.plane.closeVolume(spec.id);
    }
    t.diagnostic(`up after ${Math.round(leastMs)} ms`);
    assert.ok(leastMs < SOON_MS, `${leastMs} ms at best`);
  });
}
