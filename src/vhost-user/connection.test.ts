// Framing of the protocol socket: messages in pieces and in heaps, descriptors that belong to one
// of them, and peers that break off, lie about lengths or do not read.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { describe, type TestContext, test } from "node:test";
import { Prng } from "../base/index.ts";
import * as sys from "../sys/index.ts";
import { AGAIN, CLOSED, Connection, MESSAGE } from "./connection.ts";
import * as m from "./messages.ts";

const memory = new sys.SystemMemory();

class Peer {
  readonly connection: Connection;
  readonly fd: number;
  private readonly arena = memory.allocate(65536);
  private readonly owned: number[] = [];

  constructor(t: TestContext) {
    const [ours, theirs] = sys.socketPair(true);
    this.fd = sys.check(ours, "socketpair");
    this.connection = new Connection(theirs, memory);
    t.after(() => {
      this.connection.close();
      sys.close(this.fd);
      for (const fd of this.owned) sys.close(fd);
      memory.free(this.arena);
    });
  }

  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    this.arena.u8.set(bytes);
    assert.equal(sys.send(this.fd, this.arena.address, bytes.length, fds), bytes.length);
  }

  eventfd(): number {
    const fd = sys.check(sys.eventfd(), "eventfd");
    this.owned.push(fd);
    return fd;
  }

  receive(bytes: number): Uint8Array {
    const received = { fds: [], truncated: false };
    const result = sys.receive(this.fd, this.arena.address, bytes, received);
    assert.ok(result >= 0);
    return this.arena.u8.slice(0, result);
  }
}

function message(request: number, flags: number, payload: Uint8Array, size?: number): Uint8Array {
  const bytes = new Uint8Array(m.HEADER.BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, request, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, size ?? payload.length, true);
  bytes.set(payload, m.HEADER.BYTES);
  return bytes;
}

const openFds = (): number => readdirSync("/proc/self/fd").length;
const EMPTY = new Uint8Array(0);

describe("messages", () => {
  test("come whole, one at a time, with what their header says", (t) => {
    const peer = new Peer(t);
    const { connection } = peer;
    assert.equal(connection.receive(), AGAIN);
    const first = message(m.SET_FEATURES, 9, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    const second = message(m.GET_FEATURES, 1, EMPTY);
    peer.send(Uint8Array.of(...first, ...second));
    assert.equal(connection.receive(), MESSAGE);
    assert.equal(connection.request, m.SET_FEATURES);
    assert.equal(connection.needReply, true);
    assert.equal(connection.payloadBytes, 8);
    assert.equal(connection.payload.getUint32(4, true), 0x08070605);
    assert.equal(connection.receive(), MESSAGE);
    assert.equal(connection.request, m.GET_FEATURES);
    assert.equal(connection.needReply, false);
    assert.equal(connection.payloadBytes, 0);
    assert.equal(connection.receive(), AGAIN);
    assert.equal(connection.partial, false);
  });

  test("may be cut anywhere", (t) => {
    const peer = new Peer(t);
    const { connection } = peer;
    const prng = new Prng(11);
    for (let round = 0; round < 200; round++) {
      const payload = Uint8Array.from({ length: prng.below(269) }, () => prng.below(256));
      const bytes = message(round % 50, 1, payload);
      for (let at = 0; at < bytes.length; ) {
        assert.equal(connection.receive(), AGAIN);
        assert.equal(connection.partial, at > 0);
        const piece = Math.min(prng.between(1, 40), bytes.length - at);
        peer.send(bytes.subarray(at, at + piece));
        at += piece;
      }
      assert.equal(connection.receive(), MESSAGE);
      assert.equal(connection.request, round % 50);
      assert.deepEqual(connection.payloadU8.slice(0, payload.length), payload);
    }
  });

  test("with impossible headers end the connection", (t) => {
    for (const [flags, size, problem] of [
      [0, 0, /version 0/],
      [2, 0, /version 2/],
      [3, 0, /version 3/],
      [5, 0, /REPLY/],
      [0x11, 0, /reserved flags 0x11/],
      [0x80000001, 0, /reserved flags/],
      [1, m.PAYLOAD_BYTES_MAX + 1, /269 bytes/],
      [1, 0xffffffff, /4294967295 bytes/],
    ] as const) {
      const peer = new Peer(t);
      peer.send(message(1, flags, EMPTY, size));
      assert.equal(peer.connection.receive(), CLOSED);
      assert.match(peer.connection.problem, problem);
    }
  });

  test("that break off are told apart from an orderly end", (t) => {
    const orderly = new Peer(t);
    sys.shutdown(orderly.fd);
    assert.equal(orderly.connection.receive(), CLOSED);
    assert.equal(orderly.connection.problem, "");
    for (const bytes of [1, 11, 12, 15]) {
      const peer = new Peer(t);
      peer.send(message(1, 1, new Uint8Array(8)).subarray(0, bytes));
      assert.equal(peer.connection.receive(), AGAIN);
      sys.shutdown(peer.fd);
      assert.equal(peer.connection.receive(), CLOSED);
      assert.match(peer.connection.problem, /middle of a message/);
    }
  });
});

describe("descriptors", () => {
  test("belong to the message they came with", (t) => {
    const peer = new Peer(t);
    const { connection } = peer;
    const [one, two] = [peer.eventfd(), peer.eventfd()];
    peer.send(message(m.SET_VRING_KICK, 1, new Uint8Array(8)), [one]);
    peer.send(message(m.GET_FEATURES, 1, EMPTY));
    peer.send(message(m.SET_VRING_CALL, 1, new Uint8Array(8)), [two, one]);
    const counts: number[] = [];
    for (let index = 0; index < 3; index++) {
      assert.equal(connection.receive(), MESSAGE);
      counts.push(connection.descriptorCount);
    }
    assert.deepEqual(counts, [1, 0, 2]);
    const fds = connection.takeDescriptors();
    assert.equal(fds.length, 2);
    assert.equal(sys.eventSignal(fds[1] as number), 8);
    assert.equal(sys.eventClear(one), 8);
    for (const fd of fds) sys.close(fd);
  });

  test("nobody took are closed with the next message, or the connection", (t) => {
    const before = openFds();
    const peer = new Peer(t);
    const during = openFds();
    const fd = peer.eventfd();
    for (let round = 0; round < 20; round++) {
      peer.send(message(m.SET_VRING_KICK, 1, new Uint8Array(8)), [fd, fd, fd]);
      assert.equal(peer.connection.receive(), MESSAGE);
      assert.ok(openFds() <= during + 4);
    }
    peer.send(message(m.GET_FEATURES, 1, EMPTY));
    assert.equal(peer.connection.receive(), MESSAGE);
    assert.equal(openFds(), during + 1);
    assert.ok(during > before);
  });

  test("in more pieces than a message has room for end the connection", (t) => {
    const peer = new Peer(t);
    const fds = [peer.eventfd(), peer.eventfd(), peer.eventfd()];
    const bytes = message(m.SET_MEM_TABLE, 1, new Uint8Array(264));
    let result = AGAIN;
    for (let at = 0; at < 6 && result === AGAIN; at++) {
      peer.send(bytes.subarray(at, at + 1), fds);
      result = peer.connection.receive();
    }
    assert.equal(result, CLOSED);
    assert.match(peer.connection.problem, /more descriptors/);
  });
});

describe("replies", () => {
  test("have exactly the flags that front-ends accept", (t) => {
    const peer = new Peer(t);
    assert.ok(peer.connection.replyU64(m.GET_FEATURES, 0x11223344, 0x55667788));
    const view = new DataView(peer.receive(64).buffer);
    assert.equal(view.byteLength, 20);
    assert.equal(view.getUint32(0, true), m.GET_FEATURES);
    assert.equal(view.getUint32(4, true), 5);
    assert.equal(view.getUint32(8, true), 8);
    assert.equal(view.getBigUint64(12, true), 0x5566778811223344n);
  });

  test("leave the message they answer alone", (t) => {
    const peer = new Peer(t);
    peer.send(message(m.SET_FEATURES, 9, new Uint8Array(8).fill(7)));
    assert.equal(peer.connection.receive(), MESSAGE);
    peer.connection.replyPayload.setUint32(0, 0xffffffff, true);
    assert.ok(peer.connection.sendReply(m.GET_CONFIG, m.PAYLOAD_BYTES_MAX));
    assert.equal(peer.connection.payload.getUint32(0, true), 0x07070707);
  });

  test("to a peer that does not read fail, and do not wait", (t) => {
    const peer = new Peer(t);
    let sent = 0;
    while (sent < 100_000 && peer.connection.replyU64(1, 0, 0)) sent += 1;
    assert.ok(sent > 10);
    assert.ok(sent < 100_000, "a socket without end");
    assert.equal(peer.connection.replyU64(1, 0, 0), false);
  });
});
