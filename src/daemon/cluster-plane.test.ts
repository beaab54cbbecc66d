// Data planes of several nodes as one cluster, over real sockets and real disks: replicas are made,
// owned, loaded, cut off, brought back, taken over.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type LoadOptions, startLoad } from "../load/index.ts";
import type { VolumeRecordsHost } from "../ports/cluster-plane.ts";
import { compareReplicas } from "../testing/store/compare-replicas.ts";
import { TestCluster, type TestNode } from "./_test-cluster.ts";
import { MIB, TestPlane, until } from "./_test-plane.ts";

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

const READS = { readPercent: 100, verify: false } as const;

type Three = readonly [TestNode, TestNode, TestNode];

const requestCount = (node: TestNode): number => {
  const [stats] = node.plane.volumeStats();
  return stats === undefined ? 0 : stats.readCount + stats.writeCount;
};

test("a volume lives on: a member is cut off and comes back, another node takes over", async (t) => {
  const cluster = await TestCluster.start(t, 3);
  const [a, b, c] = cluster.nodes as Three;
  const members = [a, b];
  const spec = await cluster.make("life", members);
  const [made] = await a.plane.listReplicas(a.diskId);
  assert.deepEqual([made?.volumeId, made?.sizeBytes], [spec.id, spec.sizeBytes]);
  assert.deepEqual([made?.facts.epoch, made?.facts.note], [0, null]);
  await cluster.own(spec, a, members);
  const socketPath = await a.attach(spec);
  const stopFile = `${socketPath}.stop`;
  const load = startLoad({ ...LOAD, socketPath, stopFile, runtimeMs: 100_000, reconnect: true });
  await until(() => requestCount(a) > 500, "the load runs");
  assert.equal(a.stats(spec)?.state, "serving");
  assert.deepEqual(
    a.stats(spec)?.members.map(({ state, isConnected }) => [state, isConnected]),
    [
      ["in-sync", true],
      ["in-sync", true],
    ],
  );

  for (const path of cluster.pathsOf(b)) path.break();
  await until(() => cluster.record(spec).out.length === 1, "b is put out");
  assert.equal(cluster.record(spec).out[0]?.disk, b.diskId);
  const before = requestCount(a);
  await until(() => requestCount(a) > before + 500, "the load goes on without b");
  assert.equal(a.stats(spec)?.members[1]?.state, "out");
  const link = a.plane.peerStats().find(({ nodeId }) => nodeId === b.nodeId);
  assert.ok(link?.state === "down" || link?.state === "dialling", link?.state);

  for (const path of cluster.pathsOf(b)) path.state = "open";
  await until(() => cluster.record(spec).out.length === 0, "b is in sync again");
  // It was dialled in vain many times meanwhile.
  const said = a.lines.filter(({ event, fields }) => {
    return fields["node"] === b.nodeId && !event.startsWith("a peer");
  });
  assert.deepEqual(said.map(({ event }) => event).slice(-2), [
    "lost the connection to a peer",
    "connected to a peer",
  ]);
  assert.ok(
    a.told.some(({ resync }) => resync?.diskId === b.diskId && resync.doneBytes > 0),
    "the resync's progress was told",
  );
  await until(() => (a.plane.resyncs.pace()?.movedBytes ?? 0) > 0, "the pace is told");
  assert.equal(a.plane.resyncs.pace()?.limitBytesPerSecond, null);
  await until(() => a.stats(spec)?.members[1]?.state === "in-sync", "and it was told");

  // Without a word, as after a crash: slabs above the watermark are equalised.
  await a.plane.detach(spec.id);
  await a.plane.closeVolume(spec.id);
  assert.equal(a.stats(spec), undefined);
  await cluster.own(spec, c, members);
  await c.attach(spec, socketPath);
  await until(() => requestCount(c) > 500, "the load goes on at c");
  assert.equal(cluster.record(spec).epoch, 2);
  writeFileSync(stopFile, "");
  const report = await load.report;
  assert.equal(report.errorCount, 0);
  assert.equal(report.reconnectCount, 1);
  await c.plane.detach(spec.id);
  await c.plane.surrenderVolume(spec.id);
  assert.equal(cluster.record(spec).state, "clean");
  await c.plane.closeVolume(spec.id);
  await Promise.all(cluster.nodes.map(({ plane }) => plane.stop()));
  const count = compareReplicas([a.diskPath, b.diskPath], spec.id, spec.sizeBytes);
  assert.ok(count.withData >= 128, `${count.withData} slabs with data`);
});

test("a copy moves to another node under load: made there, taken in, the old one let go", async (t) => {
  const cluster = await TestCluster.start(t, 3);
  const [a, b, c] = cluster.nodes as Three;
  const spec = await cluster.make("moves", [a, b]);
  await cluster.own(spec, a, [a, b]);
  const socketPath = await a.attach(spec);
  const stopFile = `${socketPath}.stop`;
  const load = startLoad({ ...LOAD, socketPath, stopFile, runtimeMs: 100_000 });
  await until(() => requestCount(a) > 500, "the load runs");

  // What a plan says, and what the nodes then do.
  const places = [a, b, c].map(({ place }) => place);
  const since = { sinceStamp: { epoch: 0, sequence: 0 }, reason: "new" };
  cluster.change(spec, (record) => ({
    ...record,
    members: [...record.members, c.diskId],
    out: [...record.out, { disk: c.diskId, ...since }],
  }));
  await c.plane.makeReplica(c.diskId, { volumeId: spec.id, sizeBytes: spec.sizeBytes });
  await a.plane.setMembers(spec.id, { members: places, leaving: null });
  await until(() => cluster.record(spec).out.length === 0, "c is in sync");
  assert.deepEqual(
    a.stats(spec)?.members.map(({ place }) => place),
    places,
  );
  await a.plane.setMembers(spec.id, { members: places, leaving: b.diskId });
  await until(() => cluster.record(spec).out[0]?.reason === "drained", "b is put out");
  // It stays out, though it could be reached.
  await sleep(3000);
  assert.deepEqual(
    cluster.record(spec).out.map(({ disk }) => disk),
    [b.diskId],
  );
  cluster.change(spec, (record) => ({
    ...record,
    members: record.members.filter((disk) => disk !== b.diskId),
    out: [],
  }));
  const left = [a.place, c.place];
  await a.plane.setMembers(spec.id, { members: left, leaving: null });
  await until(() => a.stats(spec)?.members.length === 2, "b is forgotten");
  await b.plane.deleteReplica(b.diskId, spec.id);
  const before = requestCount(a);
  await until(() => requestCount(a) > before + 500, "the load goes on");

  // The last copy that can be reached stays, whatever is said.
  for (const path of cluster.pathsOf(c)) path.break();
  await until(() => cluster.record(spec).out[0]?.disk === c.diskId, "c is put out");
  await a.plane.setMembers(spec.id, { members: left, leaving: a.diskId });
  await sleep(500);
  assert.equal(cluster.record(spec).out.length, 1);
  for (const path of cluster.pathsOf(c)) path.state = "open";
  await until(() => cluster.record(spec).out[0]?.disk === a.diskId, "c is back, and a leaves");
  await a.plane.setMembers(spec.id, { members: left, leaving: null });
  await until(() => cluster.record(spec).out.length === 0, "or stays after all");
  writeFileSync(stopFile, "");
  const report = await load.report;
  assert.equal(report.errorCount, 0);
  await a.plane.detach(spec.id);
  await a.plane.surrenderVolume(spec.id);
  await Promise.all(cluster.nodes.map(({ plane }) => plane.stop()));
  compareReplicas([a.diskPath, c.diskPath], spec.id, spec.sizeBytes);
});

test("connections break again and again under writes: nothing is lost, nobody is put out", async (t) => {
  const cluster = await TestCluster.start(t, 2);
  const [a, b] = cluster.nodes as Three;
  const members = [a, b];
  const spec = await cluster.make("cuts", members);
  await cluster.own(spec, a, members);
  const socketPath = await a.attach(spec);
  const load = startLoad({ ...LOAD, socketPath, readPercent: 20, runtimeMs: 6000 });
  await until(() => requestCount(a) > 100, "the load runs");
  const path = cluster.path(a, b);
  const first = path.connectionCount;
  for (let cut = 0; cut < 12; cut++) {
    path.break("open");
    const wanted = first + cut + 1;
    await until(() => path.connectionCount >= wanted, "the next connection");
    const before = requestCount(a);
    await until(() => requestCount(a) > before + 50, "requests are answered");
  }
  const report = await load.report;
  assert.equal(report.errorCount, 0);
  const putOut = a.lines.filter(({ event }) => event === "member-put-out");
  assert.deepEqual(putOut, []);
  await cluster.endsEqual(spec, a, b);
});

test("an owner that is cut off answers no read once another has taken over", async (t) => {
  const cluster = await TestCluster.start(t, 3);
  const [a, b, c] = cluster.nodes as Three;
  const members = [a, b];
  const spec = await cluster.make("stale", members);
  await cluster.own(spec, a, members);
  const socketPath = await a.attach(spec);
  const stale = startLoad({
    ...LOAD,
    socketPath,
    ...READS,
    runtimeMs: 30_000,
  });
  await until(() => requestCount(a) > 500, "the load runs");
  // Its own disk goes on; only what others promised keeps it from answering.
  a.isConnected = false;
  for (const path of cluster.pathsOf(a)) path.state = "held";
  await cluster.own(spec, c, members);
  const fresh = await c.attach(spec);
  await until(() => c.stats(spec)?.state === "serving", "c has taken over");
  const answered = requestCount(a);
  assert.deepEqual(
    cluster.record(spec).out.map(({ disk }) => disk),
    [a.diskId],
  );
  const report = await startLoad({ ...LOAD, socketPath: fresh, runtimeMs: 2000 }).report;
  assert.equal(report.errorCount, 0);
  assert.equal(requestCount(a), answered, "reads that a answered after c had taken over");
  assert.equal(a.stats(spec)?.state, "serving", "it does not know better");
  a.isConnected = true;
  for (const path of cluster.pathsOf(a)) path.break("open");
  await until(() => a.stats(spec)?.state === "surrendered", "a is deposed");
  stale.kill();
  await stale.report.catch(() => undefined);
  await until(() => cluster.record(spec).out.length === 0, "its disk is in sync again");
});

test("an owner at rest is deposed at once when another fences the disk in its own node", async (t) => {
  const cluster = await TestCluster.start(t, 2);
  const [a, b] = cluster.nodes as Three;
  const spec = await cluster.make("local", [a]);
  await cluster.own(spec, a, [a]);
  await until(() => a.stats(spec)?.state === "serving", "a has it");
  // Nothing is read or written: the disk itself tells its owner.
  await cluster.own(spec, b, [a]);
  await until(() => a.stats(spec)?.state === "surrendered", "a is deposed");
  await until(() => b.stats(spec)?.state === "serving", "b has it");
  // And back: a fences its own disk, which b reaches over the wire, and waits for b's grants.
  await a.plane.closeVolume(spec.id);
  const beganMs = performance.now();
  await cluster.own(spec, a, [a]);
  await until(() => b.stats(spec)?.state === "surrendered", "b is deposed");
  const deposedMs = performance.now() - beganMs;
  await until(() => a.stats(spec)?.state === "serving", "a has it back");
  const tookMs = performance.now() - beganMs;
  assert.ok(tookMs > 1000, `grants given to b are waited for, ${tookMs} ms`);
  assert.ok(deposedMs < tookMs / 2, `b hears it when it is fenced, after ${deposedMs} ms`);
});

test("a volume that cannot be taken over can be let go of; a disk can be closed under one", async (t) => {
  const cluster = await TestCluster.start(t, 2);
  const [a, b] = cluster.nodes as Three;
  for (const path of cluster.pathsOf(b)) path.break();
  const lonely = await cluster.make("lonely", [b]);
  await cluster.own(lonely, a, [b]);
  const socketPath = await a.attach(lonely);
  const load = startLoad({ ...LOAD, socketPath, ...READS, runtimeMs: 500 });
  await until(() => a.plane.volumeStats()[0]?.connected === true, "a front-end is there");
  await sleep(300);
  assert.equal(requestCount(a), 0);
  assert.equal(a.stats(lonely)?.state, "taking-over");
  await a.plane.surrenderVolume(lonely.id);
  await load.report.catch(() => undefined);
  await a.plane.detach(lonely.id);
  await a.plane.closeVolume(lonely.id);
  assert.equal(cluster.record(lonely).state, "open", "it is not known to be clean");

  for (const path of cluster.pathsOf(b)) path.state = "open";
  const spec = await cluster.make("closed", [a, b]);
  await cluster.own(spec, a, [a, b]);
  await until(() => a.stats(spec)?.state === "serving", "it is taken over");
  // The paths have just opened: a takeover may have been too early for a member.
  await until(() => cluster.record(spec).out.length === 0, "all are in sync");
  await a.plane.closeDisk(a.diskId);
  await until(() => cluster.record(spec).out.length === 1, "a closed disk is put out");
  assert.equal(cluster.record(spec).out[0]?.disk, a.diskId);
  await a.openDisk();
  await until(() => cluster.record(spec).out.length === 0, "and taken back");
  // Nothing is read or written: the session that cannot be resumed is told to the owner.
  await b.plane.closeDisk(b.diskId);
  await until(() => cluster.record(spec).out.length === 1, "a closed disk elsewhere is put out");
  const report = startLoad({ ...LOAD, socketPath: await a.attach(spec), runtimeMs: 1000 }).report;
  assert.equal((await report).errorCount, 0);
  await b.openDisk();
  await until(() => cluster.record(spec).out.length === 0, "and taken back");
  await a.plane.setPeers([]);
  await until(() => cluster.record(spec).out.length === 1, "a peer that has gone is put out");
  assert.deepEqual(a.plane.peerStats(), []);
  await a.plane.setPeers([{ nodeId: b.nodeId, host: "127.0.0.1", port: b.port }]);
  await until(() => cluster.record(spec).out.length === 0, "and taken back when it is there");
  await a.plane.detach(spec.id);
  await a.plane.surrenderVolume(spec.id);
  await a.plane.closeVolume(spec.id);
  await a.plane.deleteReplica(a.diskId, spec.id);
  await a.plane.deleteReplica(a.diskId, spec.id);
  await b.plane.deleteReplica(b.diskId, spec.id);
  assert.deepEqual(await a.plane.listReplicas(a.diskId), []);
  await b.plane.makeReplica(b.diskId, { volumeId: lonely.id, sizeBytes: 2 * lonely.sizeBytes });
  const grown = (await b.plane.listReplicas(b.diskId)).map((one) => [one.volumeId, one.sizeBytes]);
  assert.deepEqual(grown, [[lonely.id, 2 * lonely.sizeBytes]]);
});

test("hundreds of volumes are taken over at once, cost nothing at rest, and end clean", async (t) => {
  const cluster = await TestCluster.start(t, 2);
  const [a, b] = cluster.nodes as Three;
  const members = [a, b];
  const names = Array.from({ length: 300 }, (_, index) => `v${index}`);
  const specs = await Promise.all(names.map((name) => cluster.make(name, members)));
  await Promise.all(specs.map((spec) => cluster.own(spec, a, members)));
  const isServing = (): boolean => a.plane.ownerStats().every(({ state }) => state === "serving");
  await until(() => a.plane.ownerStats().length === 300 && isServing(), "all are taken over");
  assert.equal(specs.filter((spec) => cluster.record(spec).out.length > 0).length, 0);
  await sleep(1000);
  const loops = (): number => a.plane.reactorStats()[0]?.loopCount ?? 0;
  const before = { loops: loops(), told: a.told.length };
  await sleep(2000);
  assert.equal(a.told.length, before.told);
  // Heartbeats, and gauges once a second: a timer for each volume would be thousands.
  assert.ok(loops() - before.loops < 300, `${loops() - before.loops} turns of the loop in 2 s`);
  await a.plane.stop();
  assert.ok(specs.every((spec) => cluster.record(spec).state === "clean"));
});

test("without metadata a stop is bounded, and disks are closed cleanly all the same", async (t) => {
  const cluster = await TestCluster.start(t, 1);
  const [a] = cluster.nodes as Three;
  const spec = await cluster.make("bounded", [a]);
  await cluster.own(spec, a, [a]);
  await until(() => a.stats(spec)?.state === "serving", "it is taken over");
  a.isConnected = false;
  const beganMs = performance.now();
  assert.deepEqual(await a.plane.stop(), [a.diskId]);
  assert.ok(performance.now() - beganMs < 6000);
  assert.equal(cluster.record(spec).state, "open");
});

test("what a cluster's volume is to a guest; what does not fit is refused by name", async (t) => {
  const cluster = await TestCluster.start(t, 1);
  const [a] = cluster.nodes as Three;
  const made = await cluster.make("guest", [a]);
  const spec = { ...made, readOnly: true };
  await cluster.own(spec, a, [a]);
  const socketPath = await a.attach(spec);
  const report = await startLoad({ ...LOAD, ...READS, socketPath, requestCount: 100 }).report;
  assert.equal(report.errorCount, 0);
  await assert.rejects(startLoad({ ...LOAD, socketPath }).report, /read-only/);
  const refused = (code: string, message: RegExp): object => ({ code, message });
  const twice = cluster.own({ ...spec, id: a.nodeId }, a, [a, a]);
  await assert.rejects(twice, refused("INVALID_REQUEST", /members .*: one to eight/));
  const busy = a.plane.deleteReplica(a.diskId, spec.id);
  await assert.rejects(busy, refused("VOLUME_BUSY", /is owned here/));
  const nowhere = a.plane.makeReplica(a.nodeId, { volumeId: spec.id, sizeBytes: 4096 });
  await assert.rejects(nowhere, refused("STORE_CLOSED", /is not open/));
  const start = {
    identity: { clusterId: "", nodeId: "", incarnation: 1 },
    key: new Uint8Array(32),
  };
  const ignore = (): void => undefined;
  const records = {} as VolumeRecordsHost;
  const modules = { records, ownerChanged: ignore, frontChanged: ignore };
  const again = a.plane.startCluster({ ...start, listen: { host: "127.0.0.1", port: 0 } }, modules);
  await assert.rejects(again, refused("INVALID_REQUEST", /started already/));
  const plane = await TestPlane.start(t);
  const there = { ...start, listen: { host: "127.0.0.1", port: a.port } };
  const taken = plane.plane.startCluster(there, modules);
  await assert.rejects(taken, refused("BACKING_FAILED", /EADDRINUSE/));
  const backing = { kind: "cluster", owner: "x", members: [a.place] } as const;
  const early = { ...spec, backing: { ...backing, deadPredecessor: null } };
  const opening = plane.plane.openVolume(early, { create: false });
  await assert.rejects(opening, refused("INVALID_REQUEST", /has not joined a cluster/));
});
