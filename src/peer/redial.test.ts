// When a link that is down dials again: at the end of a pause that grows, or at once when somebody
// wants it or the peer has shown itself. A takeover waits for a fence: it must not wait for a timer.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { FenceAnswer, ReplicaFailure } from "../ports/index.ts";
import type { SimConnection } from "../testing/sim/index.ts";
import { MiniOwner, PeerRig } from "./_test-rig.ts";

const AWAY_MS = 10_000;

/** The peer was away so long that the pause has grown to its longest; it is back now. */
function backAgain(seed: number): { readonly rig: PeerRig; readonly owner: MiniOwner } {
  const rig = new PeerRig({ seed });
  const owner = new MiniOwner(rig);
  owner.fenceSurely(1);
  rig.network.isReachable = false;
  (rig.network.connections[0] as SimConnection).cut();
  rig.runFor(AWAY_MS);
  // The pause that begins now is the longest.
  const { failedCount } = rig.link.counters;
  rig.runUntil(() => rig.link.counters.failedCount > failedCount, "another attempt");
  rig.runUntil(() => rig.link.state === "down", "its end");
  rig.network.isReachable = true;
  return { rig, owner };
}

function msUntilUp(rig: PeerRig): number {
  const sinceUs = rig.scheduler.clock.nowUs();
  rig.runUntil(() => rig.link.state === "up", "the connection");
  return (rig.scheduler.clock.nowUs() - sinceUs) / 1000;
}

test("left alone, a link waits for its time", () => {
  const waits = [1, 2, 3].map((seed) => msUntilUp(backAgain(seed).rig));
  assert.ok(
    waits.every((ms) => ms > 900),
    `${waits}`,
  );
});

test("a fence ends the pause", () => {
  for (let seed = 1; seed <= 5; seed++) {
    const { rig, owner } = backAgain(seed);
    let answer: FenceAnswer | ReplicaFailure | null = null;
    owner.replica.fence(2, (known) => {
      answer = known;
    });
    const ms = msUntilUp(rig);
    assert.ok(ms < 110, `${ms} ms`);
    rig.runUntil(() => answer !== null, "the fence's answer");
    assert.ok(answer !== null && !("code" in answer), JSON.stringify(answer));
  }
});

test("a peer that shows itself is dialled, and dialled often if that fails", () => {
  for (let seed = 1; seed <= 5; seed++) {
    const { rig } = backAgain(seed);
    rig.network.isReachable = false;
    rig.link.dialSoon(true);
    rig.runFor(150);
    assert.notEqual(rig.link.state, "up");
    rig.network.isReachable = true;
    const ms = msUntilUp(rig);
    assert.ok(ms < 200, `${ms} ms`);
  }
});

test("many that want it make no more than one attempt in 100 ms, and none while there is one", () => {
  const { rig, owner } = backAgain(7);
  rig.network.isReachable = false;
  const before = rig.link.counters.failedCount;
  for (let asked = 0; asked < 1000; asked++) {
    owner.replica.fence(2, () => undefined);
    rig.runFor(1);
  }
  const attempts = rig.link.counters.failedCount - before;
  assert.ok(attempts >= 9 && attempts <= 11, `${attempts} attempts in a second`);
  rig.network.isReachable = true;
  owner.fenceSurely(2);
  const { connectionCount } = rig.link.counters;
  for (let asked = 0; asked < 100; asked++) rig.link.dialSoon(true);
  rig.runFor(1000);
  assert.equal(rig.link.counters.connectionCount, connectionCount);
});

test("a link that is closed dials no more", () => {
  const { rig } = backAgain(8);
  rig.link.close();
  rig.link.dialSoon(true);
  rig.runFor(5000);
  assert.equal(rig.link.state, "closed");
});
