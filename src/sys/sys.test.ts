// sys/: each binding against the real kernel.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { crc32cTable, EAGAIN, EBADF, EFAULT, ENOENT, EPERM } from "../base/index.ts";
import * as sys from "./index.ts";

const memory = new sys.SystemMemory();

test("crc32c equals the table and the published check value", () => {
  const arena = memory.allocate(8192);
  arena.u8.set(new TextEncoder().encode("123456789"));
  assert.equal(memory.crc32c(arena.address, 9, 0), 0xe3069283);
  for (let index = 0; index < 8192; index++) arena.u8[index] = (index * 7) & 0xff;
  assert.equal(
    memory.crc32c(arena.address + 3, 8000, 5),
    crc32cTable(arena.u8.subarray(3, 8003), 5),
  );
  memory.free(arena);
});

test("copy, fill, compare, isZero work on addresses", () => {
  const arena = memory.allocate(8192);
  assert.equal(memory.isZero(arena.address, 8192), true);
  memory.fill(arena.address + 5, 0xab, 10);
  assert.equal(arena.u8[14], 0xab);
  assert.equal(arena.u8[15], 0);
  assert.equal(memory.isZero(arena.address, 8192), false);
  memory.copy(arena.address + 4096, arena.address, 4096);
  assert.equal(memory.compare(arena.address, arena.address + 4096, 4096), 0);
  memory.free(arena);
});

test("copyFaultable answers EFAULT for truncated memory, where a load would be SIGBUS", () => {
  const fd = sys.memfd("truncate-me", 8192);
  const address = sys.mmap(8192, sys.PROT_READ | sys.PROT_WRITE, sys.MAP_SHARED, fd, 0);
  const own = memory.allocate(4096);
  own.u8.fill(7);
  assert.equal(memory.copyFaultable(address, own.address, 4096), 0);
  sys.check(sys.ftruncate(fd, 0), "ftruncate");
  assert.equal(memory.copyFaultable(own.address, address, 16), -EFAULT);
  assert.equal(memory.copyFaultable(address, own.address, 16), -EFAULT);
  sys.munmap(address, 8192);
  sys.close(fd);
  memory.free(own);
});

test("a sealed memory file cannot shrink", () => {
  const fd = sys.memfd("sealed", 8192);
  sys.check(sys.addSeals(fd, sys.F_SEAL_SHRINK), "addSeals");
  assert.equal(sys.ftruncate(fd, 4096), -EPERM);
  assert.equal(sys.getSeals(fd), sys.F_SEAL_SHRINK);
  sys.close(fd);
});

test("within the machine TCP is not paced; towards others it is as the machine says", () => {
  const host = "127.0.0.1";
  const listening = sys.check(sys.listenTcp({ host, port: 0 }, 1), "listen");
  const dialled = sys.check(sys.connectTcp({ host, port: sys.boundPort(listening) }), "connect");
  const everywhere = sys.check(sys.listenTcp({ host: "0.0.0.0", port: 0 }, 1), "listen");
  const usual = readFileSync("/proc/sys/net/ipv4/tcp_congestion_control", "utf8").trim();
  assert.equal(sys.congestionOf(listening), "reno");
  assert.equal(sys.congestionOf(dialled), "reno");
  assert.equal(sys.congestionOf(everywhere), usual);
  for (const fd of [listening, dialled, everywhere]) sys.close(fd);
});

test("a free port is named once", () => {
  const ports = Array.from({ length: 500 }, () => sys.freePort("127.0.0.1"));
  assert.equal(new Set(ports).size, ports.length);
});

test("flock: a second open file description waits for the first", () => {
  const folder = mkdtempSync(join(tmpdir(), "ringstore-sys-"));
  const path = join(folder, "file");
  const first = sys.check(sys.open(path, sys.O_RDWR | sys.O_CREAT, 0o600), "open", path);
  const second = sys.check(sys.open(path, sys.O_RDWR), "open", path);
  assert.equal(sys.tryLockExclusive(first), 0);
  assert.equal(sys.tryLockExclusive(second), -EAGAIN);
  sys.close(first);
  assert.equal(sys.tryLockExclusive(second), 0);
  sys.close(second);
  rmSync(folder, { recursive: true });
});

test("fstat reports size and allocation, and a closed descriptor is EBADF", () => {
  const folder = mkdtempSync(join(tmpdir(), "ringstore-sys-"));
  const path = join(folder, "file");
  const fd = sys.check(sys.open(path, sys.O_RDWR | sys.O_CREAT, 0o600), "open", path);
  sys.check(sys.ftruncate(fd, 1 << 20), "ftruncate");
  sys.check(sys.fallocate(fd, 0, 0, 65536), "fallocate");
  const status = sys.fstat(fd);
  assert.ok(typeof status === "object");
  assert.equal(status.sizeBytes, 1 << 20);
  assert.ok(status.allocatedBytes >= 65536);
  assert.ok(status.allocatedBytes < 1 << 20);
  sys.check(sys.punchHole(fd, 0, 65536), "punchHole");
  const after = sys.fstat(fd);
  assert.ok(typeof after === "object" && after.allocatedBytes < 65536);
  sys.close(fd);
  assert.equal(sys.fstat(fd), -EBADF);
  rmSync(folder, { recursive: true });
});

test("a path's status follows links; a missing one is ENOENT; devices name themselves", () => {
  const folder = mkdtempSync(join(tmpdir(), "ringstore-sys-"));
  const path = join(folder, "file");
  writeFileSync(path, "12345");
  symlinkSync(path, join(folder, "link"));
  const status = sys.statPath(join(folder, "link"));
  assert.ok(typeof status === "object");
  assert.equal(status.sizeBytes, 5);
  assert.equal(status.mode & sys.S_IFMT, sys.S_IFREG);
  assert.equal(sys.statPath(join(folder, "none")), -ENOENT);
  const device = sys.statPath("/dev/null");
  assert.ok(typeof device === "object");
  assert.equal(device.specialDevice, "1:3");
  rmSync(folder, { recursive: true });
});

test("status flags are added, a lock is given up while the description lives on", () => {
  const folder = mkdtempSync(join(tmpdir(), "ringstore-sys-"));
  const path = join(folder, "file");
  const first = sys.check(sys.open(path, sys.O_RDWR | sys.O_CREAT, 0o600), "open", path);
  const second = sys.check(sys.open(path, sys.O_RDWR), "open", path);
  assert.equal(sys.addStatusFlags(first, sys.O_NONBLOCK), 0);
  assert.notEqual(sys.statusFlags(first) & sys.O_NONBLOCK, 0);
  assert.equal(sys.tryLockExclusive(first), 0);
  const copy = sys.dupCloexec(first);
  sys.close(first);
  assert.equal(sys.tryLockExclusive(second), -EAGAIN, "the copy keeps the lock");
  assert.equal(sys.unlock(copy), 0);
  assert.equal(sys.tryLockExclusive(second), 0);
  for (const fd of [copy, second]) sys.close(fd);
  rmSync(folder, { recursive: true });
});

test("resource limits can be read and lowered", () => {
  const before = sys.resourceLimit(sys.RLIMIT_CORE);
  assert.ok(typeof before === "object");
  assert.equal(sys.setResourceLimit(sys.RLIMIT_CORE, 0, 0), 0);
  assert.deepEqual(sys.resourceLimit(sys.RLIMIT_CORE), { soft: 0, hard: 0 });
  assert.ok((sys.resourceLimit(99) as number) < 0);
});

test("sockets pass bytes with descriptors, in order, and report what was truncated", () => {
  const folder = mkdtempSync(join(tmpdir(), "ringstore-sys-"));
  const path = join(folder, "socket");
  const listening = sys.check(sys.listenUnix(path, 4), "listen", path);
  assert.equal(sys.accept(listening), -EAGAIN);
  const client = sys.check(sys.connectUnix(path, true), "connect", path);
  const server = sys.check(sys.accept(listening), "accept");
  const arena = memory.allocate(4096);
  arena.u8.set([1, 2, 3, 4]);
  const event = sys.check(sys.eventfd(), "eventfd");
  assert.equal(sys.send(client, arena.address, 4, [event, event]), 4);
  const received = { fds: [] as number[], truncated: false };
  assert.equal(sys.receive(server, arena.address + 100, 100, received), 4);
  assert.deepEqual([...arena.u8.subarray(100, 104)], [1, 2, 3, 4]);
  assert.equal(received.fds.length, 2);
  assert.equal(received.truncated, false);
  sys.eventSignal(received.fds[1] as number);
  assert.equal(sys.eventClear(event), 8);
  assert.equal(sys.eventClear(event), -EAGAIN);
  sys.close(client);
  assert.equal(sys.receive(server, arena.address, 100, received), 0);
  for (const fd of [...received.fds, event, server, listening]) sys.close(fd);
  memory.free(arena);
  rmSync(folder, { recursive: true });
});

test("peerPid names the process at the other end", () => {
  const [a, b] = sys.socketPair(true);
  assert.equal(sys.peerPid(a), process.pid);
  sys.close(b);
  sys.close(a);
  assert.equal(sys.peerPid(a), -EBADF);
});

test("pollTwo says which of two descriptors has events", () => {
  const first = sys.check(sys.eventfd(), "eventfd");
  const second = sys.check(sys.eventfd(), "eventfd");
  assert.equal(sys.pollTwo(first, sys.POLLIN, second, sys.POLLIN, 0), 0);
  sys.eventSignal(second);
  assert.equal(sys.pollTwo(first, sys.POLLIN, second, sys.POLLIN, 1000), 2);
  sys.eventSignal(first);
  assert.equal(sys.pollTwo(first, sys.POLLIN, second, sys.POLLIN, 1000), 3);
  for (const fd of [first, second]) sys.close(fd);
});

test("a datagram reaches an abstract socket address only if someone listens", () => {
  assert.ok(sys.sendDatagram("@ringstore-nobody-listens", "READY=1") < 0);
});

test("the clock moves forward in microseconds", () => {
  const clock = new sys.SystemClock();
  const start = clock.nowUs();
  const wallStart = performance.now();
  while (performance.now() - wallStart < 5);
  const elapsedUs = clock.nowUs() - start;
  assert.ok(elapsedUs >= 4000, `${elapsedUs} us`);
});

test("affinity can be read and set", () => {
  const before = sys.affinity();
  assert.ok(before.length >= 1);
  assert.equal(sys.setAffinity([before[0] as number]), 0);
  assert.deepEqual(sys.affinity(), [before[0]]);
  assert.equal(sys.setAffinity(before), 0);
  assert.match(readFileSync("/proc/self/status", "utf8"), /Cpus_allowed/);
});
