// A volume moves between data planes over real sockets and disks: given by name, taken back, taken
// from an owner that is gone. Front-ends of a node that only stands by are kept waiting.

import assert from "node:assert/strict";
import { renameSync, symlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type LoadOptions, startLoad } from "../load/index.ts";
import { TestCluster, type TestNode } from "./_test-cluster.ts";
import { MIB, until } from "./_test-plane.ts";

type Three = readonly [TestNode, TestNode, TestNode];

const LOAD: Omit<LoadOptions, "socketPath"> = {
  readPercent: 50,
  warmupMs: 0,
  depth: 16,
  areaBytes: 8 * MIB,
  blockBytes: 512,
  blockBytesMax: 65536,
  flushEvery: 50,
  verify: true,
};

const requestCount = (node: TestNode): number => {
  const [stats] = node.plane.volumeStats();
  return stats === undefined ? 0 : stats.readCount + stats.writeCount;
};

const refused = (code: string, words: RegExp) => (error: Error & { code?: string }) =>
  error.code === code && words.test(error.message);

test("a volume is handed over under load, there and back: no grant wait, nothing equalised", async (t) => {
  const cluster = await TestCluster.start(t, 3);
  const [a, b, c] = cluster.nodes as Three;
  const members = [a, b];
  const spec = await cluster.make("moving", members);
  // c has no copy.
  const names = new Map<TestNode, string>();
  for (const node of [a, c]) {
    const backing = cluster.backing(node, members, node === c);
    names.set(node, backing.owner);
    await node.plane.openVolume({ ...spec, backing }, { create: false });
  }
  const sockets = new Map([
    [a, await a.attach(spec)],
    [c, await c.attach(spec)],
  ]);
  const link = `${sockets.get(a)}.link`;
  const lead = (node: TestNode): void => {
    symlinkSync(sockets.get(node) as string, `${link}.new`);
    renameSync(`${link}.new`, link);
  };
  lead(a);
  const stopFile = `${link}.stop`;
  const load = startLoad({
    ...LOAD,
    socketPath: link,
    stopFile,
    runtimeMs: 200_000,
    reconnect: true,
  });
  await until(() => requestCount(a) > 500, "the load runs");
  assert.equal(c.stats(spec)?.state, "standby");
  assert.equal(cluster.record(spec).epoch, 1);
  const busy = a.plane.handOverVolume(spec.id, names.get(c) as string);
  await assert.rejects(busy, refused("VOLUME_BUSY", /serves a guest/));
  await assert.rejects(a.plane.takeVolume(spec.id, cluster.backing(a, members)), /not a standby/);

  let from = a;
  let epoch = 1;
  const gapsMs: number[] = [];
  for (const to of [c, a, c]) {
    lead(to);
    // The front end's connection ends, as a guest's does that moves: its rings stop.
    await from.plane.detach(spec.id);
    await until(() => to.fronts.at(-1)?.isWaiting === true, "the load waits at the standby");
    const beganMs = performance.now();
    await from.plane.handOverVolume(spec.id, names.get(to) as string);
    epoch += 1;
    const { owner, state } = cluster.record(spec);
    assert.deepEqual([owner, state], [names.get(to), "handed-over"]);
    assert.equal(cluster.record(spec).epoch, epoch);
    const backing = { ...cluster.backing(to, members), owner: names.get(to) as string };
    const before = requestCount(to);
    await to.plane.takeVolume(spec.id, backing);
    await until(() => requestCount(to) > before, "it serves");
    gapsMs.push(performance.now() - beganMs);
    await until(() => requestCount(to) > before + 300, "the load goes on");
    assert.equal(cluster.record(spec).epoch, epoch, "the epoch it was given, not one more");
    assert.equal(cluster.record(spec).state, "open");
    assert.equal(to.stats(spec)?.equalisedCount, 0);
    const old = from;
    await until(() => old.stats(spec)?.state === "standby", "what was is told");
    await until(() => to.stats(spec)?.state === "serving", "what is is told");
    sockets.set(from, await from.attach(spec));
    from = to;
  }
  t.diagnostic(`from the command to serving: ${gapsMs.map((ms) => ms.toFixed(1)).join(", ")} ms`);
  writeFileSync(stopFile, "");
  const report = await load.report;
  assert.equal(report.errorCount, 0);
  assert.equal(report.reconnectCount, 3);
  await cluster.endsEqual(spec, a, b);
});

test("a standby takes the volume from an owner that is gone, as any takeover", async (t) => {
  const cluster = await TestCluster.start(t, 3);
  const [a, b, c] = cluster.nodes as Three;
  const members = [b, c];
  const spec = await cluster.make("lost", members);
  await cluster.own(spec, a, members);
  const first = startLoad({ ...LOAD, socketPath: await a.attach(spec), runtimeMs: 500 });
  assert.equal((await first.report).errorCount, 0);
  const backing = cluster.backing(c, members, true);
  await c.plane.openVolume({ ...spec, backing }, { create: false });
  const socketPath = await c.attach(spec);
  a.isConnected = false;
  for (const path of cluster.pathsOf(a)) path.state = "held";
  const beganMs = performance.now();
  await c.plane.takeVolume(spec.id, { ...cluster.backing(c, members), owner: backing.owner });
  await until(() => c.stats(spec)?.state === "serving", "c has taken over");
  const tookMs = performance.now() - beganMs;
  assert.ok(tookMs > 800, `the grants of a are waited for: ${tookMs} ms`);
  assert.equal(cluster.record(spec).epoch, 2);
  const report = await startLoad({ ...LOAD, socketPath, runtimeMs: 1000 }).report;
  assert.equal(report.errorCount, 0);
});

test("who is not given the volume is hung up on; a record that moved on is left alone", async (t) => {
  const cluster = await TestCluster.start(t, 2);
  const [a, b] = cluster.nodes as Three;
  const members = [a, b];
  const spec = await cluster.make("kept", members);
  await cluster.own(spec, a, members);
  const guest = startLoad({ ...LOAD, socketPath: await a.attach(spec), runtimeMs: 3000 });
  await until(() => requestCount(a) > 200, "the load runs");
  const backing = cluster.backing(b, members, true);
  await b.plane.openVolume({ ...spec, backing }, { create: false });
  const stranger = startLoad({ ...LOAD, socketPath: await b.attach(spec), runtimeMs: 500 });
  await until(() => b.fronts.at(-1)?.isWaiting === true, "it waits");
  await sleep(1200);
  assert.equal(requestCount(b), 0, "no ring runs at a standby");
  assert.equal(b.fronts.at(-1)?.isWaiting, true, "it is not cut off by itself");
  const isCutOff = assert.rejects(stranger.report);
  await b.plane.cutWaiting(spec.id);
  await isCutOff;
  assert.equal((await guest.report).errorCount, 0);
  assert.equal(cluster.record(spec).epoch, 1);
  // Its rings have stopped: it may be handed over; but the record has gone on without it.
  await until(() => a.fronts.at(-1)?.isRunning === false, "its rings have stopped");
  const found = cluster.record(spec);
  const other = { ...found, epoch: 5, owner: "somebody", state: "open" } as const;
  cluster.records.set(spec.id, { record: other, revision: 9999 });
  await a.plane.handOverVolume(spec.id, backing.owner);
  assert.deepEqual(cluster.record(spec), other);
  await until(() => a.stats(spec)?.state === "standby", "it is a standby");
});
