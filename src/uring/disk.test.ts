// UringDisk and SyncDisk keep the same promises: every test runs against both. The files are
// memory files (memfd lives on tmpfs), so that the tests need no particular file system.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EBADF } from "../base/index.ts";
import { DEALLOCATE_PUNCH, DEALLOCATE_ZERO, type DiskHandler } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { type OwnedDisk, UringDisk } from "./disk.ts";
import { Ring } from "./ring.ts";
import { type DeferredScheduler, type DeferredSource, SyncDisk } from "./sync-disk.ts";

const memory = new sys.SystemMemory();
const FILE_BYTES = 1 << 20;

class Recorder implements DiskHandler {
  readonly results: Map<number, number> = new Map();
  order: number[] = [];
  onCompletion: ((tag: number) => void) | null = null;

  diskCompleted(tag: number, result: number): void {
    assert.ok(!this.results.has(tag), `tag ${tag} completed twice`);
    this.results.set(tag, result);
    this.order.push(tag);
    this.onCompletion?.(tag);
  }
}

/** What the reactor does with deferred sources, in its simplest form. */
class Scheduler implements DeferredScheduler {
  readonly sources: DeferredSource[] = [];
  scheduleCount = 0;

  scheduleDeferred(source: DeferredSource): void {
    assert.ok(!this.sources.includes(source), "scheduled twice");
    this.scheduleCount += 1;
    this.sources.push(source);
  }

  run(countMax: number): void {
    for (const source of this.sources.splice(0)) {
      source.deliver(countMax);
      if (source.hasDeferred) this.sources.push(source);
    }
  }
}

interface Rig {
  readonly disk: OwnedDisk;
  readonly recorder: Recorder;
  readonly scheduler: Scheduler;
  readonly fd: number;
  turn(): void;
  until(count: number): void;
  close(): void;
}

const KINDS = ["UringDisk", "SyncDisk"] as const;

function rig(kind: (typeof KINDS)[number], capacity = 256): Rig {
  const ring = new Ring(memory, { entries: 64, cqEntries: 512, fixedFiles: 4 });
  const fd = sys.check(sys.memfd("disk-test", FILE_BYTES), "memfd");
  const scheduler = new Scheduler();
  const geometry = {
    capacityBytes: FILE_BYTES,
    memoryAlignmentBytes: 1,
    offsetAlignmentBytes: 1,
  };
  const disk =
    kind === "UringDisk"
      ? new UringDisk(ring, fd, geometry)
      : new SyncDisk({ ring, scheduler }, fd, geometry, capacity);
  const recorder = new Recorder();
  disk.setHandler(recorder);
  const turn = (): void => {
    if (ring.hasPending || ring.needsEnter()) ring.submit();
    ring.reap(64);
    scheduler.run(64);
  };
  const until = (count: number): void => {
    const deadline = performance.now() + 10_000;
    while (recorder.results.size < count) {
      assert.ok(performance.now() < deadline, `${recorder.results.size} of ${count}`);
      turn();
    }
  };
  const close = (): void => {
    disk.detach();
    ring.close();
    sys.close(fd);
  };
  return { disk, recorder, scheduler, fd, turn, until, close };
}

function putIovec(words: Uint32Array, index: number, address: number, bytes: number): void {
  words[index * 4] = address >>> 0;
  words[index * 4 + 1] = Math.floor(address / 2 ** 32);
  words[index * 4 + 2] = bytes;
  words[index * 4 + 3] = 0;
}

for (const kind of KINDS) {
  test(`${kind}: what was written is read, whole and in segments, and sync completes`, () => {
    const one = rig(kind);
    const arena = memory.allocate(65536);
    for (let at = 0; at < 8192; at++) arena.u8[at] = (at * 13) & 0xff;
    one.disk.write(1, 4096, arena.address, 8192, false);
    one.until(1);
    const iovecs = arena.u32.subarray(32768 / 4);
    putIovec(iovecs, 0, arena.address + 16384, 100);
    putIovec(iovecs, 1, arena.address + 20000, 8092);
    one.disk.readv(2, 4096, arena.address + 32768, 2);
    one.until(2);
    assert.deepEqual(arena.u8.slice(16384, 16484), arena.u8.slice(0, 100));
    assert.deepEqual(arena.u8.slice(20000, 28092), arena.u8.slice(100, 8192));
    one.disk.writev(3, 500_000, arena.address + 32768, 2, true);
    one.until(3);
    one.disk.read(4, 500_000, arena.address + 40960, 8192);
    one.disk.sync(5);
    one.until(5);
    assert.deepEqual(arena.u8.slice(40960, 49152), arena.u8.slice(0, 8192));
    assert.deepEqual([...one.recorder.results.entries()].toSorted(), [
      [1, 8192],
      [2, 8192],
      [3, 8192],
      [4, 8192],
      [5, 0],
    ]);
    memory.free(arena);
    one.close();
  });

  test(`${kind}: nothing completes inside a submit`, () => {
    const one = rig(kind);
    const arena = memory.allocate(4096);
    one.disk.read(1, 0, arena.address, 512);
    one.disk.write(2, 0, arena.address, 512, true);
    one.disk.sync(3);
    one.disk.deallocate(4, 0, 4096, DEALLOCATE_PUNCH);
    assert.equal(one.recorder.results.size, 0);
    assert.equal(one.disk.inflightCount, 4);
    assert.throws(() => one.disk.detach(), /disk detached/);
    one.until(4);
    assert.equal(one.disk.inflightCount, 0);
    memory.free(arena);
    one.close();
  });

  test(`${kind}: deallocation punches holes and the range reads as zeroes`, () => {
    const one = rig(kind);
    const arena = memory.allocate(FILE_BYTES);
    arena.u8.fill(0xee);
    one.disk.write(1, 0, arena.address, FILE_BYTES, false);
    one.until(1);
    const allocated = (): number => {
      const status = sys.fstat(one.fd);
      assert.ok(typeof status === "object");
      return status.allocatedBytes;
    };
    const before = allocated();
    one.disk.deallocate(2, 65536, 262144, DEALLOCATE_PUNCH);
    one.until(2);
    assert.equal(one.recorder.results.get(2), 0);
    assert.equal(allocated(), before - 262144);
    one.disk.read(3, 65536 - 1, arena.address, 2);
    one.until(3);
    assert.deepEqual([...arena.u8.slice(0, 2)], [0xee, 0]);
    // tmpfs cannot zero a range in place: the device above writes the zeroes then.
    one.disk.deallocate(4, 0, 4096, DEALLOCATE_ZERO);
    one.until(4);
    assert.ok((one.recorder.results.get(4) as number) <= 0);
    memory.free(arena);
    one.close();
  });

  test(`${kind}: reads at the end are short, errors are negated errnos`, () => {
    const one = rig(kind);
    const arena = memory.allocate(8192);
    one.disk.read(1, FILE_BYTES - 512, arena.address, 4096);
    one.disk.read(2, FILE_BYTES, arena.address, 4096);
    one.disk.read(3, 0, 8, 4096);
    one.until(3);
    assert.equal(one.recorder.results.get(1), 512);
    assert.equal(one.recorder.results.get(2), 0);
    assert.ok((one.recorder.results.get(3) as number) < 0);
    memory.free(arena);
    one.close();
  });

  test(`${kind}: completions may submit, thousands in a chain`, () => {
    const one = rig(kind, 8);
    const arena = memory.allocate(4096);
    one.recorder.onCompletion = (tag) => {
      if (tag < 5000) one.disk.read(tag + 1, 0, arena.address, 512);
    };
    one.disk.read(1, 0, arena.address, 512);
    one.until(5000);
    assert.deepEqual(one.recorder.order.slice(0, 5), [1, 2, 3, 4, 5]);
    assert.equal(one.disk.inflightCount, 0);
    memory.free(arena);
    one.close();
  });

  test(`${kind}: a grown file has its new capacity`, () => {
    const one = rig(kind);
    sys.check(sys.ftruncate(one.fd, 2 * FILE_BYTES), "ftruncate");
    one.disk.setCapacity(2 * FILE_BYTES);
    assert.equal(one.disk.capacityBytes, 2 * FILE_BYTES);
    const arena = memory.allocate(4096);
    one.disk.write(1, 2 * FILE_BYTES - 4096, arena.address, 4096, false);
    one.until(1);
    assert.equal(one.recorder.results.get(1), 4096);
    memory.free(arena);
    one.close();
  });
}

test("SyncDisk is with its scheduler once per filling, and takes no more than its capacity", () => {
  const one = rig("SyncDisk", 8);
  const arena = memory.allocate(4096);
  for (let tag = 0; tag < 8; tag++) one.disk.read(tag, 0, arena.address, 512);
  assert.equal(one.scheduler.scheduleCount, 1);
  assert.throws(() => one.disk.read(8, 0, arena.address, 512), /too many operations/);
  one.scheduler.run(3);
  assert.deepEqual(one.recorder.order, [0, 1, 2]);
  one.disk.read(9, 0, arena.address, 512);
  assert.equal(one.scheduler.scheduleCount, 1, "still with the scheduler");
  one.scheduler.run(100);
  assert.deepEqual(one.recorder.order, [0, 1, 2, 3, 4, 5, 6, 7, 9]);
  assert.equal(one.scheduler.sources.length, 0);
  one.disk.read(10, 0, arena.address, 512);
  assert.equal(one.scheduler.scheduleCount, 2);
  one.until(10);
  memory.free(arena);
  one.close();
});

test("a UringDisk lets go of its file: the lock on it is free once it is closed", () => {
  const ring = new Ring(memory, { entries: 8, cqEntries: 64, fixedFiles: 4 });
  const fd = sys.check(sys.memfd("lock-test", 4096), "memfd");
  const other = sys.check(sys.open(`/proc/self/fd/${fd}`, sys.O_RDWR), "open");
  const geometry = { capacityBytes: 4096, memoryAlignmentBytes: 1, offsetAlignmentBytes: 1 };
  const disk = new UringDisk(ring, fd, geometry);
  assert.equal(sys.tryLockExclusive(fd), 0);
  disk.detach();
  sys.close(fd);
  const deadline = performance.now() + 5000;
  while (sys.tryLockExclusive(other) !== 0) assert.ok(performance.now() < deadline);
  assert.equal(sys.fstat(fd), -EBADF);
  sys.close(other);
  ring.close();
});
