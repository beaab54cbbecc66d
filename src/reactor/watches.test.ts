// Watches: events in order, removal with events on their way, re-arming, descriptors that cannot
// be polled, and no leak of slots.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { EBADF, EPERM } from "../base/index.ts";
import type { ReadinessHandler } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { Ring } from "../uring/index.ts";
import { Watches } from "./watches.ts";

const memory = new sys.SystemMemory();

class Recorder implements ReadinessHandler {
  readonly seen: (readonly [tag: number, events: number])[] = [];
  onReady: ((tag: number, events: number) => void) | null = null;

  ready(tag: number, events: number): void {
    this.seen.push([tag, events]);
    this.onReady?.(tag, events);
  }
}

interface Rig {
  readonly ring: Ring;
  readonly watches: Watches;
  readonly recorder: Recorder;
  /** Waits until `condition`, or fails. */
  until(condition: () => boolean): void;
  /** Takes what is there now, and gives the kernel a moment for more. */
  settle(): void;
  /** Ends the test: every watch has been removed, so every slot must come back. */
  close(): void;
}

function rig(capacity = 8, cqEntries = 64): Rig {
  const ring = new Ring(memory, { entries: 8, cqEntries, fixedFiles: 0 });
  const watches = new Watches(ring, capacity);
  const recorder = new Recorder();
  const until = (condition: () => boolean): void => {
    const deadline = performance.now() + 10_000;
    while (!condition()) {
      assert.ok(performance.now() < deadline, "waited in vain");
      ring.submitAndWait(20_000);
      ring.reap(1024);
    }
  };
  const settle = (): void => {
    for (let round = 0; round < 3; round++) {
      ring.submitAndWait(2000);
      ring.reap(1024);
    }
  };
  const close = (): void => {
    until(() => watches.count === 0);
    until(() => ring.inflightCount === 0);
    ring.close();
  };
  return { ring, watches, recorder, until, settle, close };
}

function event(initial = 0): number {
  return sys.check(sys.eventfd(initial), "eventfd");
}

test("an event that is there already, and each one after, reaches the handler with its tag", () => {
  const one = rig();
  const fd = event(1);
  const id = one.watches.add(fd, sys.POLLIN, one.recorder, 0xdeadbeef);
  one.until(() => one.recorder.seen.length === 1);
  assert.deepEqual(one.recorder.seen[0], [0xdeadbeef, sys.POLLIN]);
  for (let count = 2; count < 50; count++) {
    sys.eventClear(fd);
    sys.eventSignal(fd);
    one.until(() => one.recorder.seen.length >= count);
  }
  one.watches.remove(id);
  sys.close(fd);
  one.close();
});

test("removed while its event waits: the handler is not called", () => {
  const one = rig();
  const fd = event();
  const id = one.watches.add(fd, sys.POLLIN, one.recorder, 1);
  one.settle();
  sys.eventSignal(fd);
  // The completion is there, or will be within the next enter; nobody has reaped it.
  one.watches.remove(id);
  sys.close(fd);
  one.settle();
  assert.deepEqual(one.recorder.seen, []);
  one.close();
});

test("removed before the kernel has heard of it: not called, and the descriptor may close", () => {
  const one = rig();
  const fd = event(1);
  const id = one.watches.add(fd, sys.POLLIN, one.recorder, 1);
  one.watches.remove(id);
  assert.equal(one.ring.hasPending, false, "handed to the kernel before remove() returned");
  sys.close(fd);
  // The number is taken by another descriptor at once: it must not be what is watched.
  const next = event(1);
  assert.equal(next, fd);
  one.settle();
  assert.deepEqual(one.recorder.seen, []);
  sys.close(next);
  one.close();
});

test("a watch that replaces a removed one hears nothing of its predecessor's events", () => {
  const one = rig(2);
  for (let round = 0; round < 200; round++) {
    const fd = event();
    const id = one.watches.add(fd, sys.POLLIN, one.recorder, round);
    one.ring.submit();
    sys.eventSignal(fd);
    one.watches.remove(id);
    const quiet = event();
    const quietId = one.watches.add(quiet, sys.POLLIN, one.recorder, 1_000_000 + round);
    one.until(() => one.watches.count === 1);
    one.watches.remove(quietId);
    sys.close(fd);
    sys.close(quiet);
    one.until(() => one.watches.count === 0);
  }
  assert.deepEqual(one.recorder.seen, []);
  one.close();
});

test("a handler may remove its own watch and others, and add new ones", () => {
  const one = rig();
  const fds = [event(1), event(1), event(1)];
  const ids = fds.map((fd, tag) => one.watches.add(fd, sys.POLLIN, one.recorder, tag));
  let added = -1;
  one.recorder.onReady = () => {
    one.recorder.onReady = null;
    for (const id of ids) one.watches.remove(id);
    added = one.watches.add(fds[1] as number, sys.POLLIN, one.recorder, 77);
  };
  one.until(() => one.recorder.seen.length >= 2);
  one.settle();
  assert.equal(one.recorder.seen.length, 2, "one of the three, then the new one");
  assert.equal(one.recorder.seen[1]?.[0], 77);
  assert.throws(() => one.watches.remove(ids[0] as number), /removed twice|ended/);
  one.watches.remove(added);
  for (const fd of fds) sys.close(fd);
  one.close();
});

test("a descriptor that is not open fails once, and is still removed by its owner", () => {
  const one = rig();
  const id = one.watches.add(999_999, sys.POLLIN, one.recorder, 3);
  one.until(() => one.recorder.seen.length === 1);
  assert.deepEqual(one.recorder.seen[0], [3, -EBADF]);
  one.settle();
  assert.equal(one.recorder.seen.length, 1);
  assert.equal(one.watches.count, 1, "its owner has not let go yet");
  one.watches.remove(id);
  assert.equal(one.watches.count, 0);
  one.close();
});

test("removing from within the handler that hears of the failure", () => {
  const one = rig();
  let id = -1;
  one.recorder.onReady = () => one.watches.remove(id);
  id = one.watches.add(999_999, sys.POLLIN, one.recorder, 3);
  one.until(() => one.watches.count === 0);
  one.close();
});

test("a descriptor that is always ready and never reports fails: the loop does not spin", () => {
  const one = rig();
  const folder = mkdtempSync(join(tmpdir(), "ringstore-watch-"));
  const path = join(folder, "file");
  const fd = sys.check(sys.open(path, sys.O_RDWR | sys.O_CREAT, 0o600), "open", path);
  const id = one.watches.add(fd, sys.POLLIN, one.recorder, 4);
  one.until(() => (one.recorder.seen.at(-1)?.[1] ?? 0) < 0);
  assert.deepEqual(one.recorder.seen.at(-1), [4, -EPERM]);
  const before = one.recorder.seen.length;
  one.settle();
  assert.equal(one.recorder.seen.length, before);
  one.watches.remove(id);
  sys.close(fd);
  rmSync(folder, { recursive: true });
  one.close();
});

test("the peer's hang-up is reported, with the data that came before it", () => {
  const one = rig();
  const [a, b] = sys.socketPair(true);
  const id = one.watches.add(a, sys.POLLIN, one.recorder, 6);
  const arena = memory.allocate(4096);
  sys.send(b, arena.address, 1, []);
  one.until(() => one.recorder.seen.length > 0);
  const before = one.recorder.seen.length;
  sys.close(b);
  one.until(() => one.recorder.seen.length > before);
  assert.notEqual((one.recorder.seen.at(-1)?.[1] as number) & sys.POLLHUP, 0);
  one.watches.remove(id);
  sys.close(a);
  memory.free(arena);
  one.close();
});

test("the kernel may end a poll when completions overflow: it is submitted again", () => {
  // 8 completions fit; 40 watches with an event each overflow them in one go.
  const one = rig(64, 8);
  const fds = Array.from({ length: 40 }, () => event());
  const ids = fds.map((fd, tag) => one.watches.add(fd, sys.POLLIN, one.recorder, tag));
  for (let round = 0; round < 5; round++) {
    one.recorder.seen.length = 0;
    one.ring.submit();
    for (const fd of fds) sys.eventSignal(fd);
    one.until(() => new Set(one.recorder.seen.map(([tag]) => tag)).size === fds.length);
    for (const fd of fds) sys.eventClear(fd);
  }
  for (const id of ids) one.watches.remove(id);
  for (const fd of fds) sys.close(fd);
  one.close();
});

test("watches grow with what is asked of them, and every one of them works", () => {
  const one = rig(4096);
  const fds = Array.from({ length: 1500 }, () => event());
  const ids = fds.map((fd, tag) => one.watches.add(fd, sys.POLLIN, one.recorder, tag));
  assert.equal(new Set(ids).size, ids.length);
  one.ring.submit();
  for (const fd of fds) sys.eventSignal(fd);
  one.until(() => one.recorder.seen.length === fds.length);
  assert.equal(new Set(one.recorder.seen.map(([tag]) => tag)).size, fds.length);
  for (const id of ids) one.watches.remove(id);
  for (const fd of fds) sys.close(fd);
  one.close();
});

test("too many watches are an assertion", () => {
  const one = rig(1);
  const fd = event();
  const id = one.watches.add(fd, sys.POLLIN, one.recorder, 0);
  assert.throws(() => one.watches.add(fd, sys.POLLIN, one.recorder, 0), /too many/);
  one.watches.remove(id);
  sys.close(fd);
  one.close();
});
