// What a daemon says of itself when its cluster has something to say: status, its health, advice.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { FakeClusterPlane } from "../testing/control/fake-cluster.ts";
import { HostFixture } from "../testing/control/host-fixture.ts";
import { DaemonControl } from "./control.ts";

let fixture: HostFixture;
let plane: FakeClusterPlane;
let control: DaemonControl;

beforeEach(() => {
  fixture = new HostFixture();
  plane = new FakeClusterPlane();
  control = new DaemonControl(
    {
      version: "1.2.3",
      nodeId: "n1",
      startedAt: new Date(0),
      volumeMetrics: true,
      listenWarning: "in the clear",
    },
    { host: fixture.host, cluster: plane.cluster, nowMs: () => performance.now() },
  );
});
afterEach(() => fixture.remove());

const codesOf = (items: readonly { readonly code: string }[]) => items.map(({ code }) => code);

describe("the status of a daemon", () => {
  test("in no cluster has none", async () => {
    const status = await control.status();
    assert.equal(status.cluster, null);
    assert.deepEqual(codesOf(status.items), ["API_WITHOUT_TLS"]);
  });

  test("in a cluster has it, and its health is the daemon's", async () => {
    const request = { name: "prod", address: "10.0.0.1:7400", metadata: ["10.0.0.1:2379"] };
    const view = await plane.cluster.init(request, { dryRun: false });
    const lost = { code: "VOLUME_LOST", severity: "error", message: "db1 has no copy" } as const;
    plane.cluster.view = { ...view, health: [...view.health, lost] };
    const status = await control.status();
    assert.deepEqual(status.cluster, plane.cluster.view);
    assert.equal(status.health, "error");
    assert.deepEqual(codesOf(status.items), ["API_WITHOUT_TLS", "NODE_MISSING", "VOLUME_LOST"]);
    const { advice } = await control.advise();
    assert.deepEqual(
      advice.map(({ command }) => command),
      [null, "ringstore cluster show", "ringstore cluster show"],
    );
  });
});
