// A handshake that is given up while its connection is being made, or its message is being sent:
// what succeeds after that is answered with nothing, and it ends when the stream has closed.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Stream, StreamHandler } from "../ports/index.ts";
import { newReactor } from "../testing/peer/loopback.ts";
import { encodeChallenge, HEADER_BYTES, HELLO, MESSAGE_CHALLENGE } from "../wire/index.ts";
import { DialHandshake, type HandshakeFailed, type HandshakeOk } from "./handshake.ts";

const UUID = "00000000-0000-4000-8000-00000000000";

const WHOLE_HELLO: number = HEADER_BYTES + HELLO.BYTES;

/** As strict as the real one: nothing may be asked of it once it was told to close. */
class StrictStream implements Stream {
  isClosed = false;
  sendCount = 0;

  setHandler(_handler: StreamHandler): void {}

  receive(): void {
    assert.ok(!this.isClosed, "a receive of a closed stream");
  }

  send(): void {
    assert.ok(!this.isClosed, "a send of a closed stream");
    this.sendCount += 1;
  }

  close(): void {
    this.isClosed = true;
  }
}

function dial(): {
  readonly handshake: DialHandshake;
  readonly stream: StrictStream;
  readonly outcomes: (HandshakeOk | HandshakeFailed)[];
} {
  const reactor = newReactor(0);
  const secret = { mac: () => new Uint8Array(32), fillRandom: () => undefined };
  const identity = { clusterId: `${UUID}1`, nodeId: `${UUID}2`, incarnation: 1, reactor: 0 };
  const outcomes: (HandshakeOk | HandshakeFailed)[] = [];
  const options = { identity, targetNodeId: `${UUID}3`, connection: 1 };
  const handshake = new DialHandshake(options, { reactor, secret }, (outcome) => {
    outcomes.push(outcome);
  });
  const stream = new StrictStream();
  handshake.dialled(stream);
  return { handshake, stream, outcomes };
}

test("given up while it connects: the connection that comes all the same is not used", () => {
  const { handshake, stream, outcomes } = dial();
  handshake.abort("enough");
  assert.ok(stream.isClosed);
  handshake.streamOpened(0);
  assert.equal(stream.sendCount, 0);
  assert.deepEqual(outcomes, []);
  handshake.streamClosed();
  assert.deepEqual(outcomes, [{ kind: "failed", reason: "enough", isLasting: false }]);
});

test("given up while a part of its message is out: the rest is not sent", () => {
  const { handshake, stream, outcomes } = dial();
  handshake.streamOpened(0);
  assert.equal(stream.sendCount, 1);
  handshake.abort("enough");
  handshake.streamSent(1);
  assert.equal(stream.sendCount, 1);
  handshake.streamClosed();
  assert.equal(outcomes.length, 1);
});

test("a peer that chooses features which nobody here knows is refused in words", () => {
  const { handshake, outcomes, stream } = dial();
  handshake.streamOpened(0);
  handshake.streamSent(WHOLE_HELLO);
  const secret = { mac: () => new Uint8Array(32), fillRandom: () => undefined };
  const challenge = { version: 1, features: 0x4, nodeId: `${UUID}3`, incarnation: 1 };
  const payload = encodeChallenge(challenge, new Uint8Array(32), new Uint8Array(120), secret);
  const inside = handshake as unknown as { message(type: number, payload: Uint8Array): void };
  inside.message(MESSAGE_CHALLENGE, payload);
  assert.equal(stream.sendCount, 2, "it is told");
  handshake.streamClosed();
  const [outcome] = outcomes as [HandshakeFailed];
  assert.match(outcome.reason, /wants features 0x4, which this node does not know: upgrade/);
  assert.equal(outcome.isLasting, true);
});
