// The ring against the real kernel: each operation, a full queue, thousands in flight, polls,
// cancellation, handlers that come and go.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { EBADF, ECANCELED, EINVAL, ENOENT, ENOMEM, ENOSYS, EPERM } from "../base/index.ts";
import * as sys from "../sys/index.ts";
import { CQE_F_MORE } from "./layouts.ts";
import { type CompletionHandler, Ring, type RingFile } from "./ring.ts";
import { explainSetup } from "./setup.ts";

const memory = new sys.SystemMemory();
let folder = "";

before(() => {
  folder = mkdtempSync(join(tmpdir(), "ringstore-ring-"));
});
after(() => rmSync(folder, { recursive: true, force: true }));

/** Remembers every completion in the order of arrival. */
class Recorder implements CompletionHandler {
  readonly tags: number[] = [];
  readonly results: number[] = [];
  readonly flags: number[] = [];

  completed(tag: number, result: number, flags: number): void {
    this.tags.push(tag);
    this.results.push(result);
    this.flags.push(flags);
  }

  resultOf(tag: number): number | undefined {
    return this.results[this.tags.indexOf(tag)];
  }
}

interface Rig {
  readonly ring: Ring;
  readonly recorder: Recorder;
  readonly handler: number;
}

function rig(entries = 64, cqEntries = 1024): Rig {
  const ring = new Ring(memory, { entries, cqEntries, fixedFiles: 4 });
  const recorder = new Recorder();
  return { ring, recorder, handler: ring.addHandler(recorder) };
}

/** Waits until `count` completions have been recorded; bounded, so that a loss fails the test. */
function reapUntil(rigged: Rig, count: number): void {
  const deadline = performance.now() + 10_000;
  while (rigged.recorder.tags.length < count) {
    assert.ok(performance.now() < deadline, `only ${rigged.recorder.tags.length} of ${count}`);
    rigged.ring.submitAndWait(100_000);
    rigged.ring.reap(1 << 20);
  }
}

function openFile(name: string, bytes: number): RingFile & { readonly path: string } {
  const path = join(folder, name);
  const flags = sys.O_RDWR | sys.O_CREAT;
  const fd = sys.check(sys.open(path, flags, 0o600), "open", path);
  sys.check(sys.ftruncate(fd, bytes), "ftruncate");
  return { path, fd, sqeFd: fd, sqeFlags: 0 };
}

test("nops complete with their tags, counted once each", () => {
  const one = rig();
  for (let tag = 0; tag < 10; tag++) one.ring.nop(one.handler, tag);
  assert.equal(one.ring.inflightCount, 10);
  assert.equal(one.ring.hasPending, true);
  reapUntil(one, 10);
  assert.deepEqual(
    one.recorder.tags.toSorted((a, b) => a - b),
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
  );
  assert.deepEqual(new Set(one.recorder.results), new Set([0]));
  assert.equal(one.ring.inflightCount, 0);
  assert.equal(one.ring.submittedCount, 10);
  assert.equal(one.ring.reapedCount, 10);
  one.ring.close();
});

test("the greatest tags and many handlers keep apart", () => {
  const one = rig();
  const others = [new Recorder(), new Recorder(), new Recorder()];
  const indexes = others.map((recorder) => one.ring.addHandler(recorder));
  one.ring.nop(indexes[2] as number, 0xffffffff);
  one.ring.nop(indexes[0] as number, 0x80000000);
  one.ring.nop(one.handler, 7);
  reapUntil(one, 1);
  while (one.ring.inflightCount > 0) {
    one.ring.submitAndWait(100_000);
    one.ring.reap(100);
  }
  assert.deepEqual(others[2]?.tags, [0xffffffff]);
  assert.deepEqual(others[0]?.tags, [0x80000000]);
  assert.deepEqual(others[1]?.tags, []);
  one.ring.close();
});

test("write, read, writev, readv, fdatasync and fallocate reach the file", () => {
  const one = rig();
  const { ring, handler } = one;
  const file = openFile("operations", 0);
  const arena = memory.allocate(16384);
  arena.u8.fill(0x11, 0, 4096);
  ring.write(file, 0, arena.address, 4096, 0, handler, 1);
  reapUntil(one, 1);
  // Two segments, written behind the first 4 KiB, synced with the write itself.
  arena.u8.fill(0x22, 0, 512);
  arena.u8.fill(0x33, 4096, 4096 + 1024);
  const iovecs = arena.u32.subarray(8192 / 4);
  putIovec(iovecs, 0, arena.address, 512);
  putIovec(iovecs, 1, arena.address + 4096, 1024);
  ring.writev(file, 4096, arena.address + 8192, 2, sys.RWF_DSYNC, handler, 2);
  reapUntil(one, 2);
  ring.fdatasync(file, handler, 3);
  reapUntil(one, 3);
  const content = readFileSync(file.path);
  assert.equal(content.length, 4096 + 1536);
  assert.equal(content[4095], 0x11);
  assert.equal(content[4096 + 511], 0x22);
  assert.equal(content[4096 + 512], 0x33);
  arena.u8.fill(0, 0, 8192);
  ring.read(file, 4096, arena.address, 4096, handler, 4);
  ring.readv(file, 0, arena.address + 8192, 2, handler, 5);
  reapUntil(one, 5);
  assert.equal(one.recorder.resultOf(4), 1536, "a short read at the end of the file");
  assert.equal(one.recorder.resultOf(5), 1536);
  const keepPunch = sys.FALLOC_FL_KEEP_SIZE | sys.FALLOC_FL_PUNCH_HOLE;
  ring.fallocate(file, keepPunch, 0, 4096, handler, 6);
  reapUntil(one, 6);
  assert.deepEqual(one.recorder.tags.map((tag) => [tag, one.recorder.resultOf(tag)]).toSorted(), [
    [1, 4096],
    [2, 1536],
    [3, 0],
    [4, 1536],
    [5, 1536],
    [6, 0],
  ]);
  assert.equal(readFileSync(file.path)[0], 0);
  sys.close(file.fd);
  memory.free(arena);
  ring.close();
});

function putIovec(words: Uint32Array, index: number, address: number, bytes: number): void {
  words[index * 4] = address >>> 0;
  words[index * 4 + 1] = Math.floor(address / 2 ** 32);
  words[index * 4 + 2] = bytes;
  words[index * 4 + 3] = 0;
}

test("offsets beyond 4 GiB are whole", () => {
  const one = rig();
  const file = openFile("large", 0);
  const arena = memory.allocate(4096);
  arena.u8.fill(0x5a);
  const offsetBytes = 5 * 2 ** 32 + 8192;
  one.ring.write(file, offsetBytes, arena.address, 4096, 0, one.handler, 1);
  reapUntil(one, 1);
  const status = sys.fstat(file.fd);
  assert.ok(typeof status === "object");
  assert.equal(status.sizeBytes, offsetBytes + 4096);
  sys.close(file.fd);
  memory.free(arena);
  one.ring.close();
});

test("errors arrive as negated errnos", () => {
  const one = rig();
  const bad = { fd: 999_999, sqeFd: 999_999, sqeFlags: 0 };
  one.ring.read(bad, 0, 0, 512, one.handler, 1);
  const file = openFile("errors", 4096);
  one.ring.read(file, 0, 8, 512, one.handler, 2);
  reapUntil(one, 2);
  assert.equal(one.recorder.resultOf(1), -EBADF);
  assert.ok((one.recorder.resultOf(2) as number) < 0, "an address nobody mapped");
  sys.close(file.fd);
  one.ring.close();
});

test("registered files work and are reused; a full table falls back to the descriptor", () => {
  const one = rig();
  const path = openFile("registered", 4096);
  const file = one.ring.registerFile(path.fd);
  assert.notEqual(file.sqeFlags, 0, "the table has room");
  const arena = memory.allocate(4096);
  one.ring.read(file, 0, arena.address, 4096, one.handler, 1);
  reapUntil(one, 1);
  assert.equal(one.recorder.resultOf(1), 4096);
  one.ring.unregisterFile(file);
  const again = one.ring.registerFile(path.fd);
  assert.equal(again.sqeFd, file.sqeFd);
  const filled = [0, 1, 2].map(() => one.ring.registerFile(path.fd));
  const beyond = one.ring.registerFile(path.fd);
  assert.equal(beyond.sqeFlags, 0, "the table is full: the plain descriptor serves");
  assert.equal(beyond.sqeFd, path.fd);
  for (const registered of [again, ...filled, beyond]) one.ring.unregisterFile(registered);
  sys.close(path.fd);
  memory.free(arena);
  one.ring.close();
});

test("more submissions than the queue holds: it is handed over on the way, none is lost", () => {
  const one = rig(8, 64);
  for (let tag = 0; tag < 50; tag++) one.ring.nop(one.handler, tag);
  assert.ok(one.ring.enterCount >= 5, "a full queue was submitted");
  reapUntil(one, 50);
  assert.equal(new Set(one.recorder.tags).size, 50);
  one.ring.close();
});

test("20000 operations in flight, a small completion queue: the kernel keeps the rest", () => {
  const one = rig(256, 512);
  const total = 20_000;
  for (let tag = 0; tag < total; tag++) one.ring.nop(one.handler, tag);
  assert.equal(one.ring.inflightCount, total);
  reapUntil(one, total);
  assert.equal(new Set(one.recorder.tags).size, total);
  assert.equal(one.ring.inflightCount, 0);
  one.ring.close();
});

test("reap takes no more than asked, and handlers may submit from within", () => {
  const ring = new Ring(memory, { entries: 8, cqEntries: 64, fixedFiles: 0 });
  let remaining = 1000;
  const chain: CompletionHandler = {
    completed(tag: number): void {
      if (remaining === 0) return;
      remaining -= 1;
      ring.nop(index, tag + 1);
      ring.nop(silentIndex, tag);
    },
  };
  const silent = new Recorder();
  const index = ring.addHandler(chain);
  const silentIndex = ring.addHandler(silent);
  ring.nop(index, 0);
  const deadline = performance.now() + 10_000;
  while (ring.inflightCount > 0) {
    assert.ok(performance.now() < deadline);
    ring.submitAndWait(100_000);
    assert.ok(ring.reap(3) <= 3);
  }
  assert.equal(remaining, 0);
  assert.equal(silent.tags.length, 1000);
  ring.close();
});

test("a multishot poll reports event after event, and cancelling ends it", () => {
  const one = rig();
  const event = sys.check(sys.eventfd(), "eventfd");
  one.ring.pollMultishot(event, sys.POLLIN, one.handler, 5);
  one.ring.submit();
  for (let round = 1; round <= 20; round++) {
    sys.eventSignal(event);
    reapUntil(one, round);
    sys.eventClear(event);
    assert.equal(one.recorder.results.at(-1), sys.POLLIN);
    assert.equal((one.recorder.flags.at(-1) as number) & CQE_F_MORE, CQE_F_MORE);
  }
  assert.equal(one.ring.inflightCount, 1);
  const removal = new Recorder();
  const removalHandler = one.ring.addHandler(removal);
  one.ring.cancel(one.handler, 5, removalHandler, 77);
  reapUntil(one, 21);
  assert.equal(one.recorder.results.at(-1), -ECANCELED);
  assert.equal((one.recorder.flags.at(-1) as number) & CQE_F_MORE, 0);
  while (removal.tags.length === 0) {
    one.ring.submitAndWait(100_000);
    one.ring.reap(10);
  }
  assert.deepEqual([removal.tags[0], removal.results[0]], [77, 0]);
  one.ring.cancel(one.handler, 5, removalHandler, 78);
  while (removal.tags.length === 1) {
    one.ring.submitAndWait(100_000);
    one.ring.reap(10);
  }
  assert.equal(removal.results[1], -ENOENT, "a poll that is not there");
  assert.equal(one.ring.inflightCount, 0);
  sys.close(event);
  one.ring.close();
});

test("cancel ends an asynchronous write that waits for room", () => {
  const one = rig();
  const [readEnd, writeEnd] = sys.pipe(sys.O_NONBLOCK);
  const arena = memory.allocate(65536);
  while (sys.write(writeEnd, arena.address, 65536) > 0);
  one.ring.writeAsync(writeEnd, arena.address, 8, one.handler, 9);
  one.ring.submit();
  one.ring.submitAndWait(20_000);
  assert.equal(one.ring.reap(10), 0, "the pipe is full and nobody reads");
  one.ring.cancel(one.handler, 9, one.handler, 10);
  reapUntil(one, 2);
  assert.equal(one.recorder.resultOf(9), -ECANCELED);
  sys.close(readEnd);
  sys.close(writeEnd);
  memory.free(arena);
  one.ring.close();
});

test("a wait ends at its time limit without a completion, and at once with one", () => {
  const one = rig();
  const start = performance.now();
  one.ring.submitAndWait(30_000);
  const waitedMs = performance.now() - start;
  assert.ok(waitedMs >= 25, `${waitedMs} ms`);
  assert.equal(one.ring.reap(10), 0);
  one.ring.nop(one.handler, 1);
  one.ring.submitAndWait(Infinity);
  assert.equal(one.ring.reap(10), 1);
  one.ring.close();
});

test("a removed handler's place is taken by the next, and nothing else moves", () => {
  const one = rig();
  const first = new Recorder();
  const second = new Recorder();
  const firstIndex = one.ring.addHandler(first);
  one.ring.removeHandler(firstIndex);
  assert.throws(() => one.ring.removeHandler(firstIndex), /handler removed twice/);
  assert.equal(one.ring.addHandler(second), firstIndex);
  one.ring.nop(firstIndex, 3);
  one.ring.nop(one.handler, 4);
  reapUntil(one, 1);
  while (one.ring.inflightCount > 0) {
    one.ring.submitAndWait(100_000);
    one.ring.reap(10);
  }
  assert.deepEqual(first.tags, []);
  assert.deepEqual(second.tags, [3]);
  one.ring.close();
});

test("close gives back descriptors and mappings", () => {
  const countMaps = (): number =>
    readFileSync("/proc/self/maps", "utf8").split("io_uring").length - 1;
  const before = countMaps();
  for (let round = 0; round < 20; round++) {
    const one = rig();
    one.ring.nop(one.handler, 1);
    reapUntil(one, 1);
    one.ring.close();
  }
  assert.equal(countMaps(), before);
});

test("a kernel that refuses io_uring is named with what to do", () => {
  const cases: [errno: number, message: RegExp, advice: RegExp][] = [
    [ENOSYS, /no io_uring/, /5\.19|container/],
    [EPERM, /forbidden/, /io_uring_disabled/],
    [EINVAL, /SUBMIT_ALL/, /5\.19/],
    [ENOMEM, /ENOMEM/, /ulimit/],
  ];
  for (const [errno, message, advice] of cases) {
    const error = explainSetup(errno);
    assert.equal(error.code, "IO_URING_UNAVAILABLE");
    assert.match(error.message, message);
    assert.match(error.advice ?? "", advice);
  }
});

test("reads of a whole file by many operations come back byte for byte", () => {
  const one = rig(32, 256);
  const blocks = 256;
  const content = Buffer.alloc(blocks * 4096);
  for (let at = 0; at < content.length; at += 4) content.writeUInt32LE(at, at);
  writeFileSync(join(folder, "pattern"), content);
  const fd = sys.check(sys.open(join(folder, "pattern"), sys.O_RDONLY), "open");
  const file = one.ring.registerFile(fd);
  const arena = memory.allocate(content.length);
  for (let block = 0; block < blocks; block++) {
    const at = block * 4096;
    one.ring.read(file, at, arena.address + at, 4096, one.handler, block);
  }
  reapUntil(one, blocks);
  assert.ok(one.recorder.results.every((result) => result === 4096));
  assert.equal(Buffer.compare(Buffer.from(arena.u8), content), 0);
  one.ring.unregisterFile(file);
  sys.close(fd);
  memory.free(arena);
  one.ring.close();
});
