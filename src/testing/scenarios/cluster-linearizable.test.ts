// Linearizability, with real processes: several queues read and write the same few sectors of a
// volume, at its owner and, while the volume is taken over, at two nodes at once. What each was told,
// and when, is recorded; every read must fit one order of all writes that respects those times.

import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { MIB } from "../../base/index.ts";
import type { LoadOptions } from "../../load/index.ts";
import { checkHistories } from "../history/check-history.ts";
import { CONTENDED, HistoryClient } from "../history/history-client.ts";
import { NodeCluster } from "../nodes/node-cluster.ts";
import { cleanupOf } from "../soak/cleanup.ts";

const LIMIT = { timeout: 300_000 } as const;
const HISTORY_BYTES = 60_000;
const CLUSTER = { nodeCount: 3, diskBytes: 128 * MIB, hasFaultyNetwork: true } as const;
const SECTORS_MIN = 2000;

function verdictOn(t: TestContext, clients: readonly HistoryClient[]): void {
  const verdict = checkHistories(clients.map((client) => client.read()));
  const { violations, ...counts } = verdict;
  t.diagnostic(JSON.stringify(counts));
  assert.deepEqual(violations, []);
  assert.ok(verdict.checkedSectors > SECTORS_MIN, "hardly anything was checked");
  assert.ok(verdict.contendedSectors > 100, "hardly anything met anything");
}

test("two nodes have clients of one volume while it moves, again and again", LIMIT, async (t) => {
  const cleanup = cleanupOf(t);
  const cluster = await NodeCluster.start(cleanup, CLUSTER);
  const { faults } = cluster;
  await cluster.api(0).createVolume({ name: "vm", sizeBytes: 16 * MIB, replicas: 2 });
  const [, other = 0] = await cluster.holders(0, "vm");
  const spare = other === 1 ? 2 : 1;
  const clients: HistoryClient[] = [];
  const begin = async (
    index: number,
    isTakeOver: boolean,
    reconnectTimeoutMs: number,
    more: Partial<LoadOptions> = {},
  ): Promise<HistoryClient> => {
    const { socket } = await cluster.api(index).attachVolume("vm", { takeOver: isTakeOver });
    const number = clients.length + 1;
    const path = join(cluster.folder, `history${number}`);
    const load = { ...CONTENDED, socketPath: socket ?? "", reconnect: true, seed: number } as const;
    const client = new HistoryClient(number, path, { ...load, reconnectTimeoutMs, ...more });
    cleanup.after(() => client.kill());
    clients.push(client);
    await client.more(HISTORY_BYTES);
    return client;
  };
  const writer = await begin(0, false, 1000);
  assert.equal((await writer.stop()).problem, "");

  // The owner is cut off from all but its guest, and another node takes over beside it. That guest only
  // reads, from the owner's own copy: writes would soon hold up all of its queues.
  const first = await begin(0, false, 1000, { readPercent: 100, writeZeroesPercent: 0 });
  faults.isolate(0);
  const second = await begin(other, true, 1000);
  await sleep(1000);
  faults.heal();
  await second.more(HISTORY_BYTES);
  await first.ended;

  // The owner sleeps, once it is not the only one with a copy in sync: that one nobody could fence;
  // a node without a copy takes over; the sleeper wakes with its guest waiting.
  const both = { node1: "in-sync", [`node${other + 1}`]: "in-sync" } as const;
  await cluster.copiesSoon(other, "vm", both);
  cluster.node(other).signal("SIGSTOP");
  const third = await begin(spare, true, 60_000);
  cluster.node(other).signal("SIGCONT");
  await third.more(HISTORY_BYTES);
  await second.ended;
  await cluster.copiesSoon(spare, "vm", both);

  // A copy's daemon dies under it; then the owner's own, which takes up what was in flight.
  await cluster.kill(0);
  await third.more(HISTORY_BYTES);
  await cluster.restart(0);
  await cluster.copiesSoon(spare, "vm", both);
  await cluster.kill(spare);
  await cluster.restart(spare);
  await third.more(HISTORY_BYTES);
  await cluster.copiesSoon(spare, "vm", both);
  const { report, problem } = await third.stop();
  assert.equal(problem, "");
  assert.equal(report?.errorCount, 0, report?.failures.join("\n"));
  assert.equal(report?.reconnectCount, 1);
  verdictOn(t, clients);
  assert.ok((await cluster.compareCopies("vm")) > 0);
});
