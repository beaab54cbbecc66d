// Streams on the real kernel: loopback TCP and socket pairs; long gathered sends that are taken in
// pieces, a peer that stalls, ends that close, break or vanish, listeners and addresses.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ECANCELED, ECONNREFUSED, ECONNRESET, EINVAL, Prng } from "../base/index.ts";
import type { Stream, StreamHandler } from "../ports/index.ts";
import * as sys from "../sys/index.ts";
import { Ring } from "./ring.ts";
import { UringDialer, UringListener, UringStream } from "./stream.ts";

const memory = new sys.SystemMemory();

class Recorder implements StreamHandler {
  opened: number | null = null;
  readonly received: number[] = [];
  readonly sent: number[] = [];
  closedCount = 0;
  onReceived: (result: number) => void = () => {};
  onSent: (result: number) => void = () => {};

  streamOpened(result: number): void {
    this.opened = result;
  }
  streamReceived(result: number): void {
    this.received.push(result);
    this.onReceived(result);
  }
  streamSent(result: number): void {
    this.sent.push(result);
    this.onSent(result);
  }
  streamClosed(): void {
    this.closedCount += 1;
  }
}

function newRing(): Ring {
  return new Ring(memory, { entries: 64, cqEntries: 256, fixedFiles: 8 });
}

function runUntil(ring: Ring, condition: () => boolean, what: string): void {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, `waited in vain for ${what}`);
    ring.submitAndWait(10_000);
    ring.reap(256);
  }
}

/** Two ends of one connection. */
function pair(ring: Ring): [UringStream, Recorder, UringStream, Recorder] {
  const [a, b] = sys.socketPair(false);
  const left = new UringStream(ring, memory, a);
  const right = new UringStream(ring, memory, b);
  const [leftSeen, rightSeen] = [new Recorder(), new Recorder()];
  left.setHandler(leftSeen);
  right.setHandler(rightSeen);
  return [left, leftSeen, right, rightSeen];
}

function putIovec(words: Uint32Array, index: number, address: number, bytes: number): void {
  words[index * 4] = address >>> 0;
  words[index * 4 + 1] = Math.floor(address / 2 ** 32);
  words[index * 4 + 2] = bytes;
  words[index * 4 + 3] = 0;
}

test("loopback: connect, accept, megabytes in gathered pieces, in order and whole", () => {
  const ring = newRing();
  const fd = sys.listenTcp({ host: "127.0.0.1", port: 0 }, 8);
  assert.ok(fd >= 0);
  const port = sys.boundPort(fd);
  const accepted: Stream[] = [];
  const serverSeen = new Recorder();
  const listener = new UringListener(ring, memory, fd, {
    streamAccepted: (stream) => {
      stream.setHandler(serverSeen);
      accepted.push(stream);
    },
  });
  const seen = new Recorder();
  const dialer = new UringDialer(ring, memory, { host: "127.0.0.1", port });
  const client = dialer.dial(seen);
  assert.equal(seen.opened, null, "not inside the call");
  runUntil(ring, () => seen.opened !== null && accepted.length === 1, "a connection");
  assert.equal(seen.opened, 0);
  // 8 MiB in 512 pieces of odd lengths: more than any socket takes at once.
  const total = 8 * 1048576;
  const data = memory.allocate(total);
  const prng = new Prng(5);
  for (let index = 0; index < total / 4; index++) data.u32[index] = prng.u32();
  const iovecs = memory.allocate(16384);
  let sentBytes = 0;
  const sendMore = (): void => {
    let at = sentBytes;
    let count = 0;
    while (at < total && count < 512) {
      const bytes = Math.min(total - at, 1 + prng.below(30_000));
      putIovec(iovecs.u32, count, data.address + at, bytes);
      at += bytes;
      count += 1;
    }
    if (count > 0) client.send(iovecs.address, count);
  };
  seen.onSent = (result) => {
    assert.ok(result > 0, `send: ${result}`);
    sentBytes += result;
    sendMore();
  };
  const target = memory.allocate(total);
  let receivedBytes = 0;
  const receiveMore = (): void => {
    const bytes = Math.min(total - receivedBytes, 1 + prng.below(100_000));
    if (bytes > 0) accepted[0]?.receive(target.address + receivedBytes, bytes);
  };
  serverSeen.onReceived = (result) => {
    assert.ok(result > 0, `receive: ${result}`);
    receivedBytes += result;
    receiveMore();
  };
  sendMore();
  receiveMore();
  runUntil(ring, () => receivedBytes === total, "every byte");
  assert.equal(memory.compare(data.address, target.address, total), 0);
  assert.ok(seen.sent.length > 1, "sends were short");
  serverSeen.onReceived = () => {};
  client.close();
  accepted[0]?.receive(target.address, 10);
  runUntil(ring, () => serverSeen.received.at(-1) === 0, "the end");
  accepted[0]?.close();
  let isListenerClosed = false;
  listener.close(() => {
    isListenerClosed = true;
  });
  runUntil(
    ring,
    () => isListenerClosed && serverSeen.closedCount + seen.closedCount === 2,
    "closes",
  );
  assert.equal(ring.inflightCount, 0);
  for (const arena of [data, iovecs, target]) memory.free(arena);
  ring.close();
});

test("a peer that does not read stalls a send; closing ends it, once, and late", () => {
  const ring = newRing();
  const [left, leftSeen, right, rightSeen] = pair(ring);
  const arena = memory.allocate(4 * 1048576);
  putIovec(arena.u32, 0, arena.address + 4096, 4 * 1048576 - 4096);
  left.send(arena.address, 1);
  leftSeen.onSent = (result) => {
    if (result > 0) left.send(arena.address, 1);
  };
  for (let turn = 0; turn < 20; turn++) {
    ring.submitAndWait(5000);
    ring.reap(64);
  }
  const before = leftSeen.sent.length;
  assert.ok(before < 50, "the socket takes no more");
  left.receive(arena.address + 64, 16);
  left.close();
  left.close();
  assert.equal(leftSeen.closedCount, 0, "not inside the call");
  runUntil(ring, () => leftSeen.closedCount === 1, "the close");
  assert.equal(leftSeen.sent.length, before + 1);
  assert.ok((leftSeen.sent.at(-1) as number) < 0);
  assert.equal(leftSeen.received.length, 1);
  assert.ok([0, -ECANCELED].includes(leftSeen.received[0] as number));
  right.close();
  runUntil(ring, () => rightSeen.closedCount === 1, "the other close");
  assert.equal(ring.inflightCount, 0);
  memory.free(arena);
  ring.close();
});

test("half-open and broken: the end is 0, a reset is an error, a send after it fails", () => {
  const ring = newRing();
  const [a, b] = sys.socketPair(false);
  const seen = new Recorder();
  const stream = new UringStream(ring, memory, a);
  stream.setHandler(seen);
  const arena = memory.allocate(4096);
  stream.receive(arena.address, 100);
  sys.close(b);
  runUntil(ring, () => seen.received.length === 1, "the end");
  assert.equal(seen.received[0], 0);
  putIovec(arena.u32, 0, arena.address + 64, 8);
  stream.send(arena.address, 1);
  runUntil(ring, () => seen.sent.length === 1, "a send into nothing");
  assert.ok((seen.sent[0] as number) < 0, "and no SIGPIPE");
  stream.close();
  runUntil(ring, () => seen.closedCount === 1, "the close");

  // A reset: the other end closes with bytes that it has not read.
  const fd = sys.listenTcp({ host: "::1", port: 0 }, 8);
  if (fd >= 0) {
    const serverSeen = new Recorder();
    const listener = new UringListener(ring, memory, fd, {
      streamAccepted: (one) => {
        one.setHandler(serverSeen);
        accepted.push(one);
      },
    });
    const accepted: Stream[] = [];
    const clientSeen = new Recorder();
    const address = { host: "::1", port: sys.boundPort(fd) };
    const client = new UringDialer(ring, memory, address).dial(clientSeen);
    runUntil(ring, () => clientSeen.opened !== null && accepted.length === 1, "IPv6");
    client.send(arena.address, 1);
    runUntil(ring, () => clientSeen.sent.length === 1, "the bytes");
    client.receive(arena.address + 64, 16);
    accepted[0]?.close();
    runUntil(ring, () => clientSeen.received.length === 1, "the reset");
    assert.ok([-ECONNRESET, 0].includes(clientSeen.received[0] as number));
    client.close();
    let done = false;
    listener.close(() => {
      done = true;
    });
    runUntil(ring, () => done && clientSeen.closedCount === 1, "closes");
  }
  memory.free(arena);
  ring.close();
});

test("nobody listens, no address, no descriptor: an error from the loop, then the close", () => {
  const ring = newRing();
  const fd = sys.listenTcp({ host: "127.0.0.1", port: 0 }, 1);
  const port = sys.boundPort(fd);
  sys.close(fd);
  const cases: [string, number, number][] = [
    ["127.0.0.1", port, -ECONNREFUSED],
    ["no address", 1, -EINVAL],
    ["127.0.0.1", 70000, -EINVAL],
  ];
  for (const [host, to, result] of cases) {
    const seen = new Recorder();
    const stream = new UringDialer(ring, memory, { host, port: to }).dial(seen);
    runUntil(ring, () => seen.opened !== null, `${host} port ${to}`);
    assert.equal(seen.opened, result, host);
    stream.close();
    runUntil(ring, () => seen.closedCount === 1, "the close");
  }
  // Closed while it connects.
  const seen = new Recorder();
  const stream = new UringDialer(ring, memory, { host: "127.0.0.1", port }).dial(seen);
  stream.close();
  runUntil(ring, () => seen.closedCount === 1, "the close");
  assert.equal(ring.inflightCount, 0);
  ring.close();
});

test("addresses become what the kernel expects", () => {
  const u8 = new Uint8Array(32);
  assert.equal(sys.putTcpAddress(u8, 0, { host: "10.1.2.3", port: 258 }), 16);
  assert.deepEqual([...u8.slice(0, 8)], [2, 0, 1, 2, 10, 1, 2, 3]);
  const groups = (host: string): string => {
    assert.equal(sys.putTcpAddress(u8, 0, { host, port: 1 }), sys.TCP_ADDRESS_BYTES_MAX);
    return Buffer.from(u8.slice(8, 24)).toString("hex");
  };
  assert.equal(groups("::1"), `${"0".repeat(31)}1`);
  assert.equal(groups("fe80::1:2"), "fe800000000000000000000000010002");
  assert.equal(groups("1:2:3:4:5:6:7:8"), "00010002000300040005000600070008");
  assert.equal(groups("::ffff:1.2.3.4"), "00000000000000000000ffff01020304");
  assert.equal(groups("::"), "0".repeat(32));
  for (const host of ["", "localhost", "1.2.3", "fe80::1%eth0"]) {
    assert.equal(sys.putTcpAddress(u8, 0, { host, port: 1 }), -EINVAL, host);
  }
});
