// The data plane on real threads, driven by the load generator as by a guest: every operation,
// every refusal, what is left behind.

import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { FrontEnd, runLoadInChild } from "../load/index.ts";
import type { VolumeSpec } from "../ports/data-plane.ts";
import * as sys from "../sys/index.ts";
import { PlaneHost } from "./_test-host.ts";
import { descriptorCount, MIB, TestPlane, threadCount, until, volume } from "./_test-plane.ts";
import { pollWindowUs } from "./reactor-limits.ts";

/** Matches a rejection by its code and what its message must name. */
function withCode(code: string, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    const { code: actual, message: text } = error as { code: string; message: string };
    assert.equal(actual, code, text);
    assert.match(text, message);
    return true;
  };
}

async function verifiedLoad(socketPath: string): Promise<void> {
  const report = await runLoadInChild({
    socketPath,
    readPercent: 50,
    requestCount: 2000,
    warmupMs: 0,
    depth: 16,
    areaBytes: 4 * MIB,
    flushEvery: 50,
    verify: true,
  });
  assert.equal(report.errorCount, 0);
}

function statsOf(plane: TestPlane, spec: VolumeSpec) {
  const stats = plane.plane.volumeStats().find(({ volumeId }) => volumeId === spec.id);
  assert.ok(stats !== undefined, "no statistics");
  return stats;
}

test("a file volume's life: made, served, written, read, detached, closed, removed", async (t) => {
  const before = { descriptors: descriptorCount(), threads: threadCount() };
  const plane = await TestPlane.start(t);
  const spec = plane.file("life");
  const socketPath = await plane.serve(spec);
  assert.equal(statSync(socketPath).mode & 0o777, 0o660);
  await verifiedLoad(socketPath);
  await until(() => !statsOf(plane, spec).connected, "the load's session ended");
  const stats = statsOf(plane, spec);
  assert.ok(stats.readCount > 500, `${stats.readCount} reads`);
  assert.ok(stats.writeCount > 500, `${stats.writeCount} writes`);
  assert.ok(stats.flushCount > 10);
  assert.equal(stats.errorCount, 0);
  assert.equal(stats.inflightCount, 0);
  assert.equal(stats.readLatencyUs.count, stats.readCount);
  assert.ok(stats.readLatencyUs.p99 >= stats.readLatencyUs.p50);
  const [reactor] = plane.plane.reactorStats();
  assert.equal(reactor?.volumeCount, 1);
  assert.ok((reactor?.enterCount ?? 0) > 0);
  await plane.plane.detach(spec.id);
  assert.ok(!existsSync(socketPath));
  assert.deepEqual(plane.plane.volumeStats(), []);
  await plane.plane.closeVolume(spec.id);
  const path = plane.path("life.data");
  assert.ok(
    readFileSync(path).some((byte) => byte !== 0),
    "the data is in the file",
  );
  await plane.plane.deleteBacking(spec);
  assert.ok(!existsSync(path));
  await plane.plane.deleteBacking(spec);
  await plane.plane.stop();
  await until(() => descriptorCount() === before.descriptors, "every descriptor is closed");
  assert.ok(threadCount() <= before.threads + 4, "Node's pool at most");
  assert.ok(
    plane.lines.some(({ event }) => event === "vhost_user.started"),
    "logs came through",
  );
  assert.ok(plane.changes.count > 0);
});

test("memory, null and tmpfs volumes serve too", async (t) => {
  const plane = await TestPlane.start(t);
  const memory = volume("memory", { kind: "memory" });
  await verifiedLoad(await plane.serve(memory));
  const nothing = volume("null", { kind: "null" });
  const report = await runLoadInChild({
    socketPath: await plane.serve(nothing),
    requestCount: 2000,
    warmupMs: 0,
  });
  assert.equal(report.errorCount, 0);
  if (!existsSync("/dev/shm")) return;
  const path = `/dev/shm/ringstore-plane-test-${process.pid}`;
  const shared = volume("shm", { kind: "file", path, direct: "auto" });
  await verifiedLoad(await plane.serve(shared));
  await plane.plane.detach(shared.id);
  await plane.plane.closeVolume(shared.id);
  await plane.plane.deleteBacking(shared);
});

test("volumes go to the reactor that has fewest, and every reactor serves", async (t) => {
  const plane = await TestPlane.start(t, { reactorCount: 3 });
  const specs = Array.from({ length: 6 }, (_, index) => volume(`v${index}`, { kind: "null" }));
  const sockets = await Promise.all(specs.map((spec) => plane.serve(spec)));
  await until(
    () => plane.plane.reactorStats().every(({ volumeCount }) => volumeCount === 2),
    "two on each",
  );
  for (const socket of sockets) {
    const frontEnd = FrontEnd.connect(socket);
    assert.ok(frontEnd.getQueueNum() > 0);
    frontEnd.close();
  }
  const [first] = specs as [VolumeSpec];
  await plane.plane.detach(first.id);
  await plane.plane.closeVolume(first.id);
  await plane.serve(first);
  await until(
    () => plane.plane.reactorStats().every(({ volumeCount }) => volumeCount === 2),
    "the gap was filled",
  );
  assert.equal(await plane.plane.responds(5000), true);
});

test("resize: grown while attached, the front-end sees it; cut only when detached", async (t) => {
  const plane = await TestPlane.start(t);
  const spec = plane.file("sized");
  const socketPath = await plane.serve(spec);
  const path = plane.path("sized.data");
  const frontEnd = FrontEnd.connect(socketPath);
  const capacity = (): number => {
    const sectors = Buffer.from(frontEnd.getConfig(0, 8)).readBigUInt64LE(0);
    return Number(sectors) * 512;
  };
  frontEnd.setProtocolFeatures(frontEnd.getProtocolFeatures());
  assert.equal(capacity(), 16 * MIB);
  await plane.plane.resizeVolume(spec.id, 32 * MIB);
  assert.equal(statSync(path).size, 32 * MIB);
  assert.equal(capacity(), 32 * MIB);
  const refused = withCode("VOLUME_ATTACHED", /sized is attached and cannot be made smaller/);
  await assert.rejects(plane.plane.resizeVolume(spec.id, 8 * MIB), refused);
  assert.equal(statSync(path).size, 32 * MIB);
  frontEnd.close();
  await plane.plane.detach(spec.id);
  await plane.plane.resizeVolume(spec.id, 8 * MIB);
  assert.equal(statSync(path).size, 8 * MIB);
  // A file that is larger than the volume is not cut when the volume grows into it.
  truncateSync(path, 64 * MIB);
  await plane.plane.resizeVolume(spec.id, 24 * MIB);
  assert.equal(statSync(path).size, 64 * MIB);
});

test("what cannot be opened is refused with its path, and can be tried again", async (t) => {
  const plane = await TestPlane.start(t, { limits: { lockMs: 200 } });
  const spec = plane.file("refused");
  const path = plane.path("refused.data");
  const open = (create: boolean): Promise<void> => plane.plane.openVolume(spec, { create });
  await assert.rejects(open(false), withCode("BACKING_NOT_FOUND", /refused\.data does not exist/));
  writeFileSync(path, "");
  truncateSync(path, MIB);
  await assert.rejects(open(false), withCode("BACKING_TOO_SMALL", /refused\.data has 1048576 byt/));
  await assert.rejects(open(true), withCode("BACKING_EXISTS", /refused\.data exists already/));
  truncateSync(path, 16 * MIB);
  const holder = sys.check(sys.open(path, sys.O_RDONLY), "open", path);
  sys.check(sys.tryLockExclusive(holder), "flock");
  await assert.rejects(open(false), withCode("BACKING_IN_USE", /refused\.data is in use/));
  sys.close(holder);
  const odd = { ...spec, sizeBytes: 16 * MIB, serial: "x".repeat(20) };
  await plane.plane.openVolume(odd, { create: false });
  await assert.rejects(open(false), withCode("VOLUME_BUSY", /refused is open already/));
  const directory = plane.path("directory.data");
  mkdirSync(directory);
  await assert.rejects(
    plane.plane.deleteBacking(plane.file("directory")),
    withCode("INVALID_REQUEST", /not a regular file/),
  );
});

test("a lock that is given up in time is waited for: a killed daemon's successor", async (t) => {
  const plane = await TestPlane.start(t);
  const spec = plane.file("waited");
  const path = plane.path("waited.data");
  writeFileSync(path, "");
  truncateSync(path, spec.sizeBytes);
  const holder = sys.check(sys.open(path, sys.O_RDONLY), "open", path);
  sys.check(sys.tryLockExclusive(holder), "flock");
  let isOpen = false;
  const opening = plane.plane.openVolume(spec, { create: false }).then(() => (isOpen = true));
  await sleep(150);
  assert.equal(isOpen, false);
  sys.close(holder);
  await opening;
});

test("calls that do not fit the volume's state are refused and change nothing", async (t) => {
  const plane = await TestPlane.start(t);
  const spec = volume("state", { kind: "null" });
  const { plane: p } = plane;
  const unknown = withCode("VOLUME_NOT_FOUND", /is not open/);
  await assert.rejects(p.attach(plane.attachment(spec)), unknown);
  await assert.rejects(p.detach(spec.id), unknown);
  await assert.rejects(p.closeVolume(spec.id), unknown);
  await assert.rejects(p.resizeVolume(spec.id, MIB), unknown);
  await p.openVolume(spec, { create: true });
  const nowhere = plane.attachment(spec, { socketPath: plane.path("no/such/socket") });
  await assert.rejects(p.attach(nowhere), withCode("SYS_CALL_FAILED", /no\/such\/socket.*ENOENT/));
  await p.detach(spec.id);
  const socketPath = plane.attachment(spec).socketPath;
  await p.attach(plane.attachment(spec));
  const twice = withCode("VOLUME_ATTACHED", /cannot be attached twice/);
  await assert.rejects(p.attach(plane.attachment(spec)), twice);
  await assert.rejects(p.closeVolume(spec.id), withCode("VOLUME_ATTACHED", /cannot be closed/));
  await assert.rejects(p.deleteBacking(spec), withCode("VOLUME_BUSY", /state is open/));
  FrontEnd.connect(socketPath).close();
  await p.detach(spec.id);
  await p.detach(spec.id);
  await p.closeVolume(spec.id);
});

test("two detaches at once both end; attaching again after works", async (t) => {
  const plane = await TestPlane.start(t);
  const spec = volume("twice", { kind: "null" });
  const socketPath = await plane.serve(spec);
  const frontEnd = FrontEnd.connect(socketPath);
  await Promise.all([plane.plane.detach(spec.id), plane.plane.detach(spec.id)]);
  frontEnd.close();
  await plane.plane.attach(plane.attachment(spec));
  FrontEnd.connect(socketPath).close();
});

test("stop ends sessions, sockets, threads, frees the locks, refuses what follows", async (t) => {
  const plane = await TestPlane.start(t, { reactorCount: 2 });
  const spec = plane.file("stopped");
  const socketPath = await plane.serve(spec);
  const frontEnd = FrontEnd.connect(socketPath);
  const stopping = plane.plane.stop();
  const late = withCode("SHUTTING_DOWN", /stopping/);
  await assert.rejects(plane.plane.openVolume(plane.file("late"), { create: true }), late);
  await stopping;
  frontEnd.close();
  assert.ok(!existsSync(socketPath));
  const fd = sys.check(sys.open(plane.path("stopped.data"), sys.O_RDONLY), "open");
  assert.equal(sys.tryLockExclusive(fd), 0);
  sys.close(fd);
  await plane.plane.stop();
});

test("many volumes opened, attached, detached, closed at once leave nothing behind", async (t) => {
  const plane = await TestPlane.start(t, { reactorCount: 2 });
  const specs = Array.from({ length: 40 }, (_, index) => plane.file(`many${index}`));
  await Promise.all(specs.map((spec) => plane.plane.openVolume(spec, { create: true })));
  const before = descriptorCount();
  for (let round = 0; round < 5; round++) {
    await Promise.all(specs.map((spec) => plane.plane.attach(plane.attachment(spec))));
    assert.equal(descriptorCount(), before + specs.length);
    await Promise.all(specs.map((spec) => plane.plane.detach(spec.id)));
    assert.equal(descriptorCount(), before);
  }
  await Promise.all(specs.map((spec) => plane.plane.closeVolume(spec.id)));
  assert.equal(descriptorCount(), before - specs.length);
});

test("a deaf reactor: reported, calls end in time, late answers are undone", async (t) => {
  const deaf = join(tmpdir(), `rs-deaf-${process.pid}`);
  process.env["RINGSTORE_TEST_DEAF"] = deaf;
  t.after(() => rmSync(deaf, { force: true }));
  const plane = await TestPlane.start(t, {
    workerEntry: new URL("./_test-slow-reactor.js", import.meta.url),
    limits: { commandMs: 300, pingMs: 200, lookMs: 20 },
  });
  const served = volume("served", { kind: "null" });
  await plane.serve(served);
  const before = descriptorCount();
  writeFileSync(deaf, "");
  await sleep(50);
  const spec = plane.file("late");
  const timedOut = withCode("TIMED_OUT", /reactor 0 did not finish open in 300 ms/);
  await assert.rejects(plane.plane.openVolume(spec, { create: true }), timedOut);
  const detached = volume("late-attach", { kind: "null" });
  await assert.rejects(
    plane.plane.openVolume(detached, { create: true }),
    withCode("TIMED_OUT", /open/),
  );
  await until(() => statsOf(plane, served).health.length > 0, "it is reported");
  assert.equal(statsOf(plane, served).health[0]?.code, "REACTOR_STUCK");
  assert.equal(await plane.plane.responds(100), false);
  rmSync(deaf);
  await until(() => descriptorCount() === before, "what was opened too late is closed again");
  await until(() => statsOf(plane, served).health.length === 0, "it is well again");
  assert.equal(await plane.plane.responds(5000), true);
  await plane.plane.openVolume(spec, { create: false });
  await plane.plane.openVolume(detached, { create: true });
});

test("a reactor runs on the CPUs it is given; those that are not there are refused", async (t) => {
  const [cpu] = sys.affinity() as [number];
  await TestPlane.start(t, { reactorCpus: [[cpu]] });
  const allowed = readdirSync("/proc/self/task").map((id) => {
    const status = readFileSync(`/proc/self/task/${id}/status`, "utf8");
    return /Cpus_allowed_list:\s*(\S+)/.exec(status)?.[1];
  });
  if (sys.affinity().length > 1)
    assert.equal(allowed.filter((list) => list === `${cpu}`).length, 1);
  const absent = TestPlane.start(t, { reactorCpus: [[1023]] });
  await assert.rejects(absent, withCode("INVALID_REQUEST", /reactor 0 cannot run on CPU 1023/));
});

test("polling needs a second CPU", () => {
  assert.equal(pollWindowUs(50, 2), 50);
  assert.equal(pollWindowUs(50, 1), 0);
});

test("the process writes no core dump, and guests would not be in one", async () => {
  const host = new PlaneHost();
  await host.start({});
  const read = (name: string): string => readFileSync(`/proc/${host.child.pid}/${name}`, "utf8");
  assert.match(read("limits"), /Max core file size\s+0\s+0/);
  const [, soft, hard] = /Max open files\s+(\d+)\s+(\d+)/.exec(read("limits")) ?? [];
  assert.equal(soft, hard);
  assert.equal(Number.parseInt(read("coredump_filter"), 16), 0x11);
  await host.call("stop");
  await host.kill();
});
