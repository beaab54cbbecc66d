// The front-end against a scripted back-end: the other end of a socket pair, which has its answers
// written before the question comes and is asked afterwards what it received. That is enough,
// because a question never depends on an answer here.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";
import * as sys from "../sys/index.ts";
import * as m from "../vhost-user/messages.ts";
import { BackendChannel } from "./backend-channel.ts";
import { LoadError, type LoadErrorCode } from "./errors.ts";
import { bit, FrontEnd } from "./front-end.ts";
import { LoadGuestMemory } from "./guest-memory.ts";
import { type Message, MessageStream } from "./message-stream.ts";

const TIMEOUT_MS = 50;

let frontEnd: FrontEnd;
let backEnd: MessageStream;
let fdsAtStart = 0;

beforeEach(() => {
  fdsAtStart = readdirSync("/proc/self/fd").length;
  const [client, server] = sys.socketPair(true);
  frontEnd = new FrontEnd(client, { timeoutMs: TIMEOUT_MS });
  backEnd = new MessageStream(server);
});

afterEach(() => {
  frontEnd.close();
  backEnd.close();
  assert.equal(readdirSync("/proc/self/fd").length, fdsAtStart, "a descriptor is left");
});

function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
}

function answer(request: number, payload: Uint8Array, fds: number[] = [], flags = 5): void {
  backEnd.sendMessage({ request, flags, payload, fds }, TIMEOUT_MS);
}

function received(): Message {
  return backEnd.receiveMessage(TIMEOUT_MS, "a test");
}

function fails(code: LoadErrorCode, pattern: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof LoadError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, pattern);
    return true;
  };
}

function negotiate(features: bigint): void {
  frontEnd.protocolFeatures = features;
}

test("a request with a reply: header, payload, all 64 bits", () => {
  answer(m.GET_FEATURES, u64(0xfedcba9876543210n));
  assert.equal(frontEnd.getFeatures(), 0xfedcba9876543210n);
  const request = received();
  assert.equal(request.request, 1);
  assert.equal(request.flags, 1);
  assert.equal(request.payload.length, 0);
});

test("a reply with any other flags than 0x5 is refused", () => {
  for (const flags of [0, 1, 4, 6, 0xd, 0x15]) {
    answer(m.GET_FEATURES, u64(1n), [], flags);
    assert.throws(() => frontEnd.getFeatures(), fails("BAD_REPLY", /GET_FEATURES has flags 0x/));
  }
});

test("a reply to another request is refused, and named", () => {
  answer(m.GET_QUEUE_NUM, u64(1n));
  assert.throws(() => frontEnd.getFeatures(), fails("BAD_REPLY", /GET_FEATURES is for GET_QUEUE/));
});

test("a reply of the wrong size is refused", () => {
  answer(m.GET_FEATURES, new Uint8Array(16));
  assert.throws(() => frontEnd.getFeatures(), fails("BAD_REPLY", /has 16 bytes, not 8/));
  answer(m.GET_VRING_BASE, new Uint8Array(4));
  assert.throws(() => frontEnd.getVringBase(0), fails("BAD_REPLY", /GET_VRING_BASE has 4 bytes/));
  answer(m.GET_INFLIGHT_FD, new Uint8Array(20), [backEnd.fd]);
  assert.throws(() => frontEnd.getInflightFd(1, 128), fails("BAD_REPLY", /has 20 bytes, not 24/));
});

test("a reply that claims more than any payload is refused before it is read", () => {
  backEnd.sendMessage(
    { request: 1, flags: 5, payload: u64(1n), fds: [], declaredBytes: 0xffffffff },
    TIMEOUT_MS,
  );
  assert.throws(() => frontEnd.getFeatures(), fails("BAD_REPLY", /claims 4294967295 bytes/));
});

test("descriptors where none belong are closed and refused", () => {
  answer(m.GET_FEATURES, u64(1n), [backEnd.fd, backEnd.fd]);
  assert.throws(() => frontEnd.getFeatures(), fails("BAD_REPLY", /carries 2 descriptors/));
});

test("no answer: the error names the request", () => {
  assert.throws(() => frontEnd.getQueueNum(), fails("TIMEOUT", /did not answer GET_QUEUE_NUM/));
  backEnd.sendBytes(Uint8Array.of(1, 0, 0, 0, 5), [], TIMEOUT_MS);
  assert.throws(() => frontEnd.getFeatures(), fails("TIMEOUT", /did not answer GET_FEATURES/));
});

test("a close instead of an answer is told apart from silence", () => {
  backEnd.close();
  assert.throws(() => frontEnd.getFeatures(), fails("CLOSED", /closed the connection/));
  assert.equal(frontEnd.waitClosed(0), true);
});

test("without REPLY_ACK nothing asks for an ack; with it everything does", () => {
  frontEnd.setVringNum(3, 256);
  assert.equal(received().flags, 1);
  negotiate(bit(m.PROTOCOL_F_REPLY_ACK));
  answer(m.SET_VRING_NUM, u64(0n));
  frontEnd.setVringNum(3, 256);
  const request = received();
  assert.equal(request.flags, 9);
  assert.deepEqual([...request.payload], [3, 0, 0, 0, 0, 1, 0, 0]);
  frontEnd.acks = "never";
  frontEnd.setVringNum(3, 256);
  assert.equal(received().flags, 1);
});

test("an ack other than 0 is a refusal of that request", () => {
  negotiate(bit(m.PROTOCOL_F_REPLY_ACK));
  answer(m.SET_VRING_ENABLE, u64(1n));
  assert.throws(() => frontEnd.setVringEnable(0, true), fails("REFUSED", /SET_VRING_ENABLE/));
  // The high half counts as well.
  answer(m.SET_OWNER, u64(1n << 40n));
  assert.throws(() => frontEnd.setOwner(), fails("REFUSED", /SET_OWNER/));
});

test("a request with a reply of its own never asks for a second one", () => {
  negotiate(bit(m.PROTOCOL_F_REPLY_ACK));
  answer(m.GET_STATUS, u64(7n));
  assert.equal(frontEnd.getStatus(), 7);
  assert.equal(received().flags, 1);
});

test("the memory table: layout, one descriptor per region, short or full size", () => {
  const memory = new LoadGuestMemory([
    { guestAddress: 0x100000000, bytes: 8192, userAddress: 0x7f0000000000, fileOffsetBytes: 4096 },
    { guestAddress: 0x200000000, bytes: 4096 },
  ]);
  frontEnd.setMemTable(memory.regions);
  const short = received();
  assert.equal(short.payload.length, 8 + 2 * 32);
  assert.equal(short.fds.length, 2);
  const view = new DataView(short.payload.buffer, short.payload.byteOffset);
  assert.equal(view.getUint32(0, true), 2);
  assert.equal(view.getBigUint64(8, true), 0x100000000n);
  assert.equal(view.getBigUint64(16, true), 8192n);
  assert.equal(view.getBigUint64(24, true), 0x7f0000000000n);
  assert.equal(view.getBigUint64(32, true), 4096n);
  assert.equal(view.getBigUint64(40, true), 0x200000000n);
  frontEnd.setMemTable(memory.regions, true);
  const full = received();
  assert.equal(full.payload.length, 264);
  frontEnd.addMemRegion(memory.regions[0] as (typeof memory.regions)[0]);
  const add = received();
  assert.equal(add.payload.length, 40);
  assert.equal(add.fds.length, 1);
  assert.deepEqual(add.payload.slice(8), short.payload.slice(8, 40));
  frontEnd.remMemRegion(memory.regions[0] as (typeof memory.regions)[0]);
  const remove = received();
  assert.equal(remove.request, 38);
  assert.equal(remove.fds.length, 0);
  for (const fd of [...short.fds, ...full.fds, ...add.fds]) sys.close(fd);
  memory.close();
});

test("ring addresses go out used before avail", () => {
  frontEnd.setVringAddr({ index: 2, descriptor: 0x1000, used: 0x2000, available: 0x3000 });
  const { payload } = received();
  const view = new DataView(payload.buffer, payload.byteOffset);
  assert.equal(payload.length, 40);
  assert.equal(view.getUint32(0, true), 2);
  assert.equal(view.getBigUint64(8, true), 0x1000n);
  assert.equal(view.getBigUint64(16, true), 0x2000n);
  assert.equal(view.getBigUint64(24, true), 0x3000n);
});

test("kick and call: descriptor, or bit 8 without one", () => {
  const event = sys.check(sys.eventfd(), "eventfd");
  frontEnd.setVringKick(5, event);
  const withFd = received();
  assert.deepEqual([...withFd.payload], [5, 0, 0, 0, 0, 0, 0, 0]);
  assert.equal(withFd.fds.length, 1);
  frontEnd.setVringCall(5, -1);
  const without = received();
  assert.deepEqual([...without.payload], [5, 1, 0, 0, 0, 0, 0, 0]);
  assert.equal(without.fds.length, 0);
  for (const fd of [event, ...withFd.fds]) sys.close(fd);
});

test("GET_CONFIG: the data, the error form, and an answer for another place", () => {
  const header = (offset: number, size: number): number[] => [
    offset,
    0,
    0,
    0,
    size,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
  ];
  answer(m.GET_CONFIG, Uint8Array.of(...header(8, 3), 7, 8, 9));
  assert.deepEqual([...frontEnd.getConfig(8, 3)], [7, 8, 9]);
  assert.deepEqual([...received().payload], [...header(8, 3), 0, 0, 0]);
  answer(m.GET_CONFIG, new Uint8Array(0));
  assert.equal(frontEnd.getConfig(0, 3).length, 0);
  answer(m.GET_CONFIG, Uint8Array.of(...header(9, 3), 7, 8, 9));
  assert.throws(
    () => frontEnd.getConfig(8, 3),
    fails("BAD_REPLY", /GET_CONFIG at 8 answered for 9/),
  );
  answer(m.GET_CONFIG, Uint8Array.of(...header(8, 2), 7, 8));
  assert.throws(() => frontEnd.getConfig(8, 3), fails("BAD_REPLY", /has 14 bytes, not 15/));
});

test("the inflight region comes with its descriptor and is sent back as it came", () => {
  const fd = sys.check(sys.memfd("inflight", 8192), "memfd");
  const reply = new Uint8Array(24);
  const view = new DataView(reply.buffer);
  view.setBigUint64(0, 0x100002000n, true);
  view.setBigUint64(8, 4096n, true);
  view.setUint16(16, 4, true);
  view.setUint16(18, 128, true);
  answer(m.GET_INFLIGHT_FD, reply, [fd]);
  const region = frontEnd.getInflightFd(4, 128);
  received();
  assert.equal(region.mmapSizeBytes, 0x100002000);
  assert.equal(region.mmapOffsetBytes, 4096);
  frontEnd.setInflightFd(region);
  const sent = received();
  assert.deepEqual(sent.payload, reply);
  assert.equal(sent.fds.length, 1);
  answer(m.GET_INFLIGHT_FD, reply);
  assert.throws(() => frontEnd.getInflightFd(4, 128), fails("BAD_REPLY", /no descriptor/));
  for (const one of [fd, region.fd, ...sent.fds]) sys.close(one);
});

test("GET_VRING_BASE must answer for the ring that was asked", () => {
  answer(m.GET_VRING_BASE, Uint8Array.of(1, 0, 0, 0, 9, 0, 0, 0));
  assert.throws(() => frontEnd.getVringBase(0), fails("BAD_REPLY", /ring 0 answered for 1/));
});

test("raw sends: any header, any bytes, descriptors with the first", () => {
  frontEnd.sendMessage({ request: 99, flags: 0xabc1, payload: Uint8Array.of(1), declaredBytes: 1 });
  assert.deepEqual(received(), {
    request: 99,
    flags: 0xabc1,
    payload: Uint8Array.of(1),
    fds: [],
  });
  // A message in three pieces arrives as one.
  const event = sys.check(sys.eventfd(), "eventfd");
  frontEnd.sendRaw(Uint8Array.of(3, 0, 0), [event]);
  frontEnd.sendRaw(Uint8Array.of(0, 1, 0, 0, 0, 1));
  frontEnd.sendRaw(Uint8Array.of(0, 0, 0, 0x55));
  const pieces = received();
  assert.equal(pieces.request, 3);
  assert.deepEqual([...pieces.payload], [0x55]);
  assert.equal(pieces.fds.length, 1);
  for (const fd of [event, ...pieces.fds]) sys.close(fd);
});

test("a back-end that does not read: sending ends with an error, not never", () => {
  const bytes = new Uint8Array(16384);
  assert.throws(
    () => {
      for (let count = 0; count < 1000; count++) frontEnd.sendRaw(bytes);
    },
    fails("TIMEOUT", /does not read/),
  );
});

test("the back-end's own channel: requests come in, answers go out when asked for", () => {
  const channel = new BackendChannel();
  frontEnd.setBackendReqFd(channel.backendFd);
  channel.handedOver();
  const sent = received();
  const peer = new MessageStream(sent.fds[0] as number);
  sys.check(sys.setNonblocking(peer.fd), "fcntl");
  assert.equal(channel.next(0), null);
  const change = { request: m.BACKEND_CONFIG_CHANGE_MSG, payload: new Uint8Array(0), fds: [] };
  peer.sendMessage({ ...change, flags: 9 }, TIMEOUT_MS);
  channel.answer(channel.expect(m.BACKEND_CONFIG_CHANGE_MSG, TIMEOUT_MS), 0);
  const reply = peer.receiveMessage(TIMEOUT_MS, "an answer");
  assert.equal(reply.flags, 5);
  assert.deepEqual(reply.payload, new Uint8Array(8));
  peer.sendMessage({ ...change, flags: 1 }, TIMEOUT_MS);
  channel.answer(channel.expect(m.BACKEND_CONFIG_CHANGE_MSG, TIMEOUT_MS), 0);
  assert.throws(() => peer.receiveMessage(10, "nothing"), fails("TIMEOUT", /nothing/));
  assert.throws(
    () => channel.expect(m.BACKEND_CONFIG_CHANGE_MSG, 10),
    fails("TIMEOUT", /did not send CONFIG_CHANGE_MSG/),
  );
  peer.close();
  channel.close();
});

test("connecting where nobody listens fails with the path", () => {
  assert.throws(
    () => FrontEnd.connect("/tmp/ringstore-nobody-listens-here"),
    fails("CONNECT_FAILED", /ringstore-nobody-listens-here/),
  );
});
