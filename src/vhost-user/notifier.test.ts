// Notifiers: every kind of descriptor that a front-end may hand in to be called on.

import assert from "node:assert/strict";
import { openSync } from "node:fs";
import { devNull, tmpdir } from "node:os";
import { test } from "node:test";
import type { ReactorPort } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { isWatchable, Notifier } from "./notifier.ts";

interface Calls {
  readonly signalled: number[];
  readonly closed: number[];
}

function makeNotifier(): { notifier: Notifier; calls: Calls } {
  const calls: Calls = { signalled: [], closed: [] };
  const reactor = {
    signalAsync: (fd: number) => void calls.signalled.push(fd),
    closeAfterSignals: (fd: number) => {
      calls.closed.push(fd);
      sys.close(fd);
    },
  } as unknown as ReactorPort;
  return { notifier: new Notifier(reactor), calls };
}

const isOpen = (fd: number): boolean => typeof sys.fstat(fd) !== "number";

test("an eventfd is signalled at once, by us", () => {
  const { notifier, calls } = makeNotifier();
  const fd = sys.check(sys.eventfd(), "eventfd");
  const ours = sys.check(sys.dupCloexec(fd), "dup");
  notifier.set(fd);
  assert.ok(notifier.hasDescriptor);
  notifier.signal();
  assert.equal(sys.eventClear(ours), 8);
  assert.ok(sys.eventClear(ours) < 0, "signalled twice");
  notifier.clear();
  assert.ok(!isOpen(fd));
  assert.ok(!notifier.hasDescriptor);
  assert.deepEqual(calls, { signalled: [], closed: [] });
  sys.close(ours);
});

test("pipes and sockets are written by a kernel thread, and closed after it", () => {
  const [reader, writer] = sys.pipe();
  const [left, right] = sys.socketPair(false);
  for (const fd of [writer, left]) {
    const { notifier, calls } = makeNotifier();
    notifier.set(fd);
    notifier.signal();
    notifier.signal();
    notifier.clear();
    assert.deepEqual(calls, { signalled: [fd, fd], closed: [fd] });
  }
  sys.close(reader);
  sys.close(right);
});

test("anything else is taken and never signalled", () => {
  for (const path of [devNull, tmpdir()]) {
    const { notifier, calls } = makeNotifier();
    const fd = openSync(path, "r");
    notifier.set(fd);
    notifier.signal();
    assert.equal(notifier.droppedCount, 1);
    notifier.clear();
    assert.ok(!isOpen(fd));
    assert.deepEqual(calls, { signalled: [], closed: [] });
  }
});

test("a new descriptor takes the place of the old one; none is none", () => {
  const { notifier } = makeNotifier();
  const [one, two] = [sys.eventfd(), sys.eventfd()];
  notifier.set(one);
  notifier.set(two);
  assert.ok(!isOpen(one));
  assert.ok(isOpen(two));
  notifier.set(-1);
  assert.ok(!isOpen(two));
  notifier.signal();
  assert.equal(notifier.droppedCount, 1);
});

test("eventfds, pipes and sockets can be watched; files and devices cannot", () => {
  const [reader, writer] = sys.pipe();
  const [left, right] = sys.socketPair(true);
  const fds = [sys.eventfd(), reader, left];
  const others = [openSync(devNull, "r"), openSync(tmpdir(), "r"), sys.memfd("x", 4096)];
  assert.deepEqual(fds.map(isWatchable), [true, true, true]);
  assert.deepEqual(others.map(isWatchable), [false, false, false]);
  for (const fd of [...fds, ...others, writer, right]) sys.close(fd);
  assert.equal(isWatchable(writer), false);
});
