// Opening backings: what is refused and with which words, the lock, O_DIRECT, what is measured;
// files on the file system of the temporary folder, on tmpfs, and a loop device where there is one.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { DEALLOCATE_PUNCH } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import type { BackingErrorCode } from "./backing-error.ts";
import { BackingError } from "./backing-error.ts";
import { createDisk } from "./create-disk.ts";
import { UringDisk } from "./disk.ts";
import {
  BackingOpening,
  closeBacking,
  type OpenBackingOptions,
  type OpenedBacking,
} from "./open.ts";
import { Ring } from "./ring.ts";
import { SyncDisk } from "./sync-disk.ts";

const MIB = 1 << 20;
const memory = new sys.SystemMemory();
let folder = "";
let descriptorsBefore = 0;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "ringstore-open-"));
  descriptorsBefore = readdirSync("/proc/self/fd").length;
});
afterEach(() => {
  assert.equal(readdirSync("/proc/self/fd").length, descriptorsBefore, "descriptors left open");
  rmSync(folder, { recursive: true });
});

function optionsFor(path: string, more: Partial<OpenBackingOptions> = {}): OpenBackingOptions {
  return {
    path,
    direct: "auto",
    readOnly: false,
    create: false,
    sizeBytes: MIB,
    blockBytes: 512,
    ...more,
  };
}

function openNow(options: OpenBackingOptions): OpenedBacking {
  const opening = new BackingOpening(options);
  assert.equal(opening.attempt(), true, "busy");
  return opening.finish();
}

function refused(options: OpenBackingOptions, code: BackingErrorCode, message: RegExp): void {
  const opening = new BackingOpening(options);
  try {
    assert.equal(opening.attempt(), true, "busy");
    closeBacking(opening.finish());
  } catch (error) {
    assert.ok(error instanceof BackingError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    assert.ok(error.message.includes(options.path), "the path is named");
    opening.abandon();
    return;
  }
  assert.fail(`${options.path} was opened`);
}

function makeFile(name: string, bytes: number): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, bytes);
  return path;
}

function isDirect(fd: number): boolean {
  return (sys.statusFlags(fd) & sys.O_DIRECT) !== 0;
}

test("a new file is thin, private, of the right size, and locked", () => {
  const path = join(folder, "new");
  const opened = openNow(optionsFor(path, { create: true, sizeBytes: 64 * MIB }));
  const status = statSync(path);
  assert.equal(status.size, 64 * MIB);
  assert.ok(status.blocks * 512 < MIB, "thin");
  assert.equal(status.mode & 0o777, 0o600);
  assert.equal(opened.sizeBytes, 64 * MIB);
  const second = new BackingOpening(optionsFor(path));
  assert.equal(second.attempt(), false, "locked");
  closeBacking(opened);
  assert.equal(second.attempt(), true);
  closeBacking(second.finish());
});

test("creating never overwrites, and a failed creation leaves no file", () => {
  const path = makeFile("present", MIB);
  refused(optionsFor(path, { create: true }), "BACKING_EXISTS", /exists already/);
  assert.equal(statSync(path).size, MIB);
  refused(optionsFor(join(folder, "no/such"), { create: true }), "BACKING_NOT_FOUND", /not exist/);
  const vast = join(folder, "vast");
  const sizeBytes = 2 ** 53 - 4096;
  const options = optionsFor(vast, { create: true, sizeBytes });
  const type = fileSystemOf(folder);
  if (type === 0xef53) refused(options, "UNSUPPORTED", /no file of 9007199254736896 bytes/);
  assert.equal(existsSync(vast), false);
});

function fileSystemOf(path: string): number {
  const fd = sys.check(sys.open(path, sys.O_RDONLY), "open", path);
  const type = sys.fileSystemType(fd);
  sys.close(fd);
  return type;
}

test("what is no file and no block device is not even opened", () => {
  refused(optionsFor(join(folder, "none")), "BACKING_NOT_FOUND", /does not exist/);
  refused(optionsFor(join(makeFile("f", 1), "below")), "BACKING_NOT_FOUND", /does not exist/);
  mkdirSync(join(folder, "directory"));
  refused(optionsFor(join(folder, "directory")), "INVALID_REQUEST", /neither a regular file/);
  refused(optionsFor("/dev/null"), "INVALID_REQUEST", /neither a regular file/);
  // Opening a fifo would wait for a writer.
  assert.equal(spawnSync("mkfifo", [join(folder, "fifo")]).status, 0);
  refused(optionsFor(join(folder, "fifo")), "INVALID_REQUEST", /neither a regular file/);
});

test("a file may be larger than the volume, whole blocks or not, but never smaller", () => {
  const path = makeFile("odd", MIB + 100);
  closeBacking(openNow(optionsFor(path)));
  const message = /1048676 bytes .*fewer than the volume's 2097152/;
  refused(optionsFor(path, { sizeBytes: 2 * MIB }), "BACKING_TOO_SMALL", message);
  const small = makeFile("small", MIB - 1);
  refused(optionsFor(small), "BACKING_TOO_SMALL", /1048575 bytes/);
});

test("busy: the lock is tried, not waited for, and the last word names who to look for", () => {
  const path = makeFile("busy", MIB);
  const holder = sys.check(sys.open(path, sys.O_RDONLY), "open", path);
  assert.equal(sys.tryLockExclusive(holder), 0);
  const opening = new BackingOpening(optionsFor(path));
  const start = performance.now();
  for (let attempt = 0; attempt < 20; attempt++) assert.equal(opening.attempt(), false);
  assert.ok(performance.now() - start < 2000);
  const error = opening.busyError();
  assert.equal(error.code, "BACKING_IN_USE");
  assert.match(error.advice ?? "", /fuser/);
  sys.close(holder);
  assert.equal(opening.attempt(), true);
  closeBacking(opening.finish());
  opening.abandon();
});

test("a file replaced while we waited for its lock: the one that is there now is opened", () => {
  const path = makeFile("replaced", MIB);
  const holder = sys.check(sys.open(path, sys.O_RDONLY), "open", path);
  assert.equal(sys.tryLockExclusive(holder), 0);
  const opening = new BackingOpening(optionsFor(path));
  assert.equal(opening.attempt(), false);
  renameSync(makeFile("other", 2 * MIB), path);
  sys.close(holder);
  assert.equal(opening.attempt(), false, "the lock of a file without a name is worth nothing");
  assert.equal(opening.attempt(), true);
  const opened = opening.finish();
  assert.equal(opened.sizeBytes, 2 * MIB);
  closeBacking(opened);
});

test("giving up leaves nothing: no descriptor, no lock, no file that was made for it", () => {
  const path = join(folder, "given-up");
  const opening = new BackingOpening(optionsFor(path, { create: true }));
  assert.equal(opening.attempt(), true);
  opening.abandon();
  assert.equal(existsSync(path), false);
  const kept = makeFile("kept", MIB);
  const other = new BackingOpening(optionsFor(kept));
  assert.equal(other.attempt(), true);
  other.abandon();
  assert.equal(existsSync(kept), true);
  closeBacking(openNow(optionsFor(kept)));
});

test("O_DIRECT: off, on, auto; with an alignment that reads really work with", (t) => {
  const path = makeFile("direct", MIB);
  const off = openNow(optionsFor(path, { direct: "off" }));
  assert.deepEqual(
    [off.direct, isDirect(off.fd), off.memoryAlignmentBytes, off.offsetAlignmentBytes],
    [false, false, 1, 1],
  );
  closeBacking(off);
  const auto = openNow(optionsFor(path));
  assert.equal(auto.direct, isDirect(auto.fd));
  closeBacking(auto);
  if (!auto.direct) {
    t.diagnostic("the temporary folder's file system has no direct I/O for 512-byte blocks");
    return;
  }
  const on = openNow(optionsFor(path, { direct: "on" }));
  assert.equal(isDirect(on.fd), true);
  assert.ok(on.offsetAlignmentBytes <= 512);
  const arena = memory.allocate(8192);
  const address = arena.address + on.memoryAlignmentBytes;
  const bytes = on.offsetAlignmentBytes;
  assert.equal(sys.pread(on.fd, address, bytes, bytes), bytes);
  memory.free(arena);
  closeBacking(on);
});

test("read-only: opened so, nothing can be given back", () => {
  const path = makeFile("read-only", MIB);
  const opened = openNow(optionsFor(path, { readOnly: true }));
  assert.equal(sys.statusFlags(opened.fd) & 3, sys.O_RDONLY);
  assert.equal(opened.canDiscard, false);
  closeBacking(opened);
});

test("asking whether holes can be punched changes nothing in the file", () => {
  const path = join(folder, "content");
  writeFileSync(path, Buffer.alloc(MIB, 7));
  const before = statSync(path);
  closeBacking(openNow(optionsFor(path)));
  const after = statSync(path);
  assert.equal(after.size, before.size);
  assert.equal(after.blocks, before.blocks);
});

interface DiskRun {
  readonly results: number[];
  read(offsetBytes: number, bytes: number): Uint8Array;
}

/** Writes a pattern through the disk that is chosen for it, punches a hole, reads back. */
function runDisk(opened: OpenedBacking, expected: typeof UringDisk | typeof SyncDisk): DiskRun {
  const ring = new Ring(memory, { entries: 16, cqEntries: 64, fixedFiles: 4 });
  const sources: { deliver(count: number): number }[] = [];
  const scheduler = { scheduleDeferred: (source: (typeof sources)[0]) => sources.push(source) };
  const geometry = { ...opened, capacityBytes: opened.sizeBytes };
  const disk = createDisk(geometry, { ring, scheduler, requestSlots: 64 });
  assert.ok(disk instanceof expected);
  const results: number[] = [];
  disk.setHandler({ diskCompleted: (_tag, result) => results.push(result) });
  const wait = (count: number): void => {
    const deadline = performance.now() + 10_000;
    while (results.length < count) {
      assert.ok(performance.now() < deadline);
      ring.submitAndWait(sources.length > 0 ? 0 : 100_000);
      ring.reap(10);
      for (const source of sources.splice(0)) source.deliver(10);
    }
  };
  const arena = memory.allocate(65536);
  arena.u8.fill(0x77);
  disk.write(1, 0, arena.address, 65536, true);
  wait(1);
  disk.deallocate(2, 16384, 16384, DEALLOCATE_PUNCH);
  wait(2);
  disk.sync(3);
  wait(3);
  arena.u8.fill(1);
  disk.read(4, 0, arena.address, 65536);
  wait(4);
  const content = arena.u8.slice();
  memory.free(arena);
  disk.detach();
  ring.close();
  return { results, read: (offsetBytes, bytes) => content.slice(offsetBytes, offsetBytes + bytes) };
}

function checkDisk(opened: OpenedBacking, expected: typeof UringDisk | typeof SyncDisk): void {
  const { results, read } = runDisk(opened, expected);
  const [written, punched, synced, readBytes] = results;
  assert.deepEqual([written, synced, readBytes], [65536, 0, 65536]);
  assert.equal(punched === 0, opened.canDiscard, `punching gave ${punched}`);
  assert.deepEqual(new Set(read(0, 16384)), new Set([0x77]));
  assert.deepEqual(new Set(read(32768, 32768)), new Set([0x77]));
  if (opened.canDiscard) assert.deepEqual(new Set(read(16384, 16384)), new Set([0]));
}

test("a file's disk is driven through io_uring", (t) => {
  const path = makeFile("uring", MIB);
  const opened = openNow(optionsFor(path));
  if (opened.kind === "tmpfs") t.diagnostic("the temporary folder is on tmpfs");
  checkDisk(opened, opened.kind === "tmpfs" ? SyncDisk : UringDisk);
  closeBacking(opened);
});

test("a file on tmpfs: by direct system calls, and O_DIRECT is not asked for", (t) => {
  if (!existsSync("/dev/shm") || fileSystemOf("/dev/shm") !== sys.TMPFS_MAGIC) {
    t.skip("/dev/shm is no tmpfs here");
    return;
  }
  const path = join("/dev/shm", `ringstore-open-test-${process.pid}`);
  try {
    const opened = openNow(optionsFor(path, { create: true, direct: "on" }));
    assert.equal(opened.kind, "tmpfs");
    assert.equal(isDirect(opened.fd), false);
    assert.equal(opened.canDiscard, true);
    checkDisk(opened, SyncDisk);
    closeBacking(opened);
  } finally {
    rmSync(path, { force: true });
  }
});

test("closing frees the lock at once, also while a ring still holds the file", () => {
  const path = makeFile("held", MIB);
  const opened = openNow(optionsFor(path));
  const ring = new Ring(memory, { entries: 4, cqEntries: 8, fixedFiles: 4 });
  ring.registerFile(opened.fd);
  closeBacking(opened);
  closeBacking(openNow(optionsFor(path)));
  ring.close();
});

/** A loop device over a new file, or null where this user or kernel has none. */
function makeLoopDevice(): string | null {
  const path = join(folder, "loop");
  writeFileSync(path, Buffer.alloc(4 * MIB));
  const made = spawnSync("losetup", ["--find", "--show", path], { encoding: "utf8" });
  return made.status === 0 ? made.stdout.trim() : null;
}

test("a block device: measured, claimed, read and written", (t) => {
  const device = makeLoopDevice();
  if (device === null) {
    t.skip("no loop device can be made here (needs root)");
    return;
  }
  try {
    const opened = openNow(optionsFor(device, { sizeBytes: 4 * MIB }));
    assert.equal(opened.kind, "block");
    assert.equal(opened.sizeBytes, 4 * MIB);
    assert.ok(opened.physicalBlockBytes >= 512);
    const second = new BackingOpening(optionsFor(device));
    assert.equal(second.attempt(), false, "claimed");
    assert.match(second.busyError().message, /in use|mounted/);
    checkDisk(opened, UringDisk);
    closeBacking(opened);
    refused(optionsFor(device, { sizeBytes: 8 * MIB }), "BACKING_TOO_SMALL", /4194304 bytes/);
  } finally {
    spawnSync("losetup", ["--detach", device]);
  }
});
