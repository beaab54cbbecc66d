// Peers that mean harm, or speak another version: strangers before the handshake, and those who
// know the key and break every other rule. The server survives, holds little, and goes on.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SegmentCopier } from "../base/index.ts";
import type { Stream, StreamHandler } from "../ports/index.ts";
import { HmacSecret } from "../sys/index.ts";
import type { SimConnection } from "../testing/sim/index.ts";
import {
  beginHeader,
  HEADER_BYTES,
  MESSAGE_FENCE,
  MESSAGE_HEARTBEAT,
  MESSAGE_HELLO,
  MESSAGE_WRITE,
  putWide,
  sealHeader,
  W_BLOCK_COUNT,
  W_EPOCH,
  W_FIRST_BLOCK,
  W_PAYLOAD_BYTES,
  W_PAYLOAD_CRC,
  W_SESSION,
  W_STREAM_SEQUENCE,
  W_VERSION,
  WIRE_VERSION,
} from "../wire/index.ts";
import {
  CLUSTER,
  DISK,
  KEY,
  MiniOwner,
  NODE_A,
  NODE_B,
  NODE_C,
  PeerRig,
  VOLUME,
} from "./_test-rig.ts";
import { DialHandshake, type HandshakeOk } from "./handshake.ts";
import { HANDSHAKES_MAX, SMALL_CREDITS } from "./limits.ts";
import { MessageStream } from "./message-stream.ts";
import { PeerLink } from "./peer-link.ts";

/** A connection whose bytes the test makes itself. */
class Stranger implements StreamHandler {
  readonly rig: PeerRig;
  readonly stream: Stream;
  readonly received: number[] = [];
  isClosed = false;
  isOpen = false;
  private said: Uint8Array = new Uint8Array(0);
  private readonly arena;

  constructor(rig: PeerRig) {
    this.rig = rig;
    this.arena = rig.memory.allocate(131072);
    this.stream = rig.network.dialer(rig.replicaServer).dial(this);
  }

  streamOpened(): void {
    this.isOpen = true;
    this.listen();
  }

  private listen(): void {
    this.stream.receive(this.arena.address, 4096);
  }

  streamReceived(result: number): void {
    for (let at = 0; at < result; at++) this.received.push(this.arena.u8[at] as number);
    if (result > 0) this.listen();
    else this.stream.close();
  }

  streamSent(result: number): void {
    const rest = this.said.subarray(result);
    if (result > 0 && rest.length > 0) this.say(rest);
  }

  streamClosed(): void {
    this.isClosed = true;
  }

  say(bytes: Uint8Array): void {
    this.said = bytes;
    this.arena.u8.set(bytes, 8192);
    const { u32, address } = this.arena;
    u32[1024] = (address + 8192) >>> 0;
    u32[1025] = Math.floor((address + 8192) / 2 ** 32);
    u32[1026] = bytes.length;
    u32[1027] = 0;
    this.stream.send(address + 4096, 1);
  }

  get text(): string {
    return String.fromCharCode(...this.received);
  }
}

function message(rig: PeerRig, type: number, payload: Uint8Array, change = (_: Uint32Array) => {}) {
  const arena = rig.memory.allocate(4096);
  arena.u8.set(payload, HEADER_BYTES);
  beginHeader(arena.u32, 0, type, 0, 0, 0);
  arena.u32[W_PAYLOAD_BYTES] = payload.length;
  arena.u32[W_PAYLOAD_CRC] = rig.memory.crc32c(arena.address + HEADER_BYTES, payload.length, 0);
  change(arena.u32);
  sealHeader(arena.u32, arena.u8, 0);
  const bytes = arena.u8.slice(0, HEADER_BYTES + payload.length);
  rig.memory.free(arena);
  return bytes;
}

/** A server, and the proof at the end that it still serves an honest owner. */
function withServer(seed: number, act: (rig: PeerRig) => void): void {
  const rig = new PeerRig({ seed });
  act(rig);
  const owner = new MiniOwner(rig);
  owner.fenceSurely(9);
  owner.write(5);
  rig.runUntil(() => owner.pendingCount === 0, "an honest write");
  assert.equal(rig.disk.blocks.get(5), owner.acked.get(5));
}

function open(rig: PeerRig): Stranger {
  const stranger = new Stranger(rig);
  rig.runUntil(() => stranger.isOpen, "a connection");
  return stranger;
}

test("noise, huge lengths and damaged messages before the handshake are hung up on", () => {
  withServer(1, (rig) => {
    const hello = new Uint8Array(104);
    const inputs: [string, Uint8Array][] = [
      ["noise", new Uint8Array(300).fill(0x41)],
      [
        "a huge length",
        message(rig, MESSAGE_HELLO, hello, (words) => (words[W_PAYLOAD_BYTES] = 2 ** 31)),
      ],
      [
        "a wrong payload",
        message(rig, MESSAGE_HELLO, hello, (words) => (words[W_PAYLOAD_CRC] = 1)),
      ],
      ["a write at once", message(rig, MESSAGE_WRITE, new Uint8Array(64))],
      ["a short hello", message(rig, MESSAGE_HELLO, new Uint8Array(96))],
      ["a long hello", message(rig, MESSAGE_HELLO, new Uint8Array(512 - 72))],
      [
        "another cluster",
        message(rig, MESSAGE_HELLO, Uint8Array.from([1, 0, 1, ...hello.slice(3)])),
      ],
    ];
    for (const [name, bytes] of inputs) {
      const stranger = open(rig);
      stranger.say(bytes);
      rig.runFor(50);
      assert.ok(stranger.isClosed, name);
      assert.ok(stranger.received.length <= 512, `${name}: ${stranger.received.length} bytes back`);
    }
    assert.equal(rig.replicaServer.handshakeCount, 0);
  });
});

test("strangers who say nothing hold a bounded number of places for a bounded time", () => {
  withServer(2, (rig) => {
    rig.runFor(200);
    const arenas = rig.memory.arenaCount;
    const strangers = Array.from({ length: HANDSHAKES_MAX + 20 }, () => open(rig));
    rig.runFor(100);
    assert.equal(rig.replicaServer.handshakeCount, HANDSHAKES_MAX);
    assert.equal(strangers.filter((one) => one.isClosed).length, 20);
    rig.runFor(2200);
    assert.equal(rig.replicaServer.handshakeCount, 0);
    assert.ok(strangers.every((one) => one.isClosed));
    assert.equal(rig.memory.arenaCount, arenas + strangers.length, "nothing of them is left");
  });
});

test("a wrong key is refused without a word of help, on both sides, and nothing is served", () => {
  const rig = new PeerRig({ seed: 3, ownerKey: new Uint8Array(32).fill(8) });
  const owner = new MiniOwner(rig);
  rig.runFor(3000);
  assert.equal(rig.link.state, "down");
  assert.match(rig.link.lastFailure, /does not know this cluster's key/);
  assert.equal(rig.replicaServer.linkCount, 0);
  assert.equal((owner.fence(1) as { code: string }).code, "lost");
  assert.equal(rig.disk.openCount, 0);
});

test("version N+1 is refused in words that say which version each side speaks", () => {
  const version = WIRE_VERSION + 1;
  const rig = new PeerRig({ seed: 4, link: { versions: { min: version, max: version + 1 } } });
  rig.runFor(1000);
  assert.equal(rig.link.state, "down");
  assert.match(
    rig.link.lastFailure,
    new RegExp(
      `refused us: this node speaks wire version ${WIRE_VERSION}, the peer versions ${version} to`,
    ),
  );
  // And one whose very header is of the next version.
  withServer(5, (server) => {
    const stranger = open(server);
    const next = version | (96 << 16);
    stranger.say(
      message(server, MESSAGE_HELLO, new Uint8Array(120), (words) => (words[W_VERSION] = next)),
    );
    server.runFor(50);
    assert.match(
      stranger.text,
      new RegExp(`this node speaks wire version ${WIRE_VERSION}, the peer version`),
    );
    assert.ok(stranger.isClosed);
  });
  // A node that speaks both is let in.
  const both = new PeerRig({ seed: 6, link: { versions: { min: WIRE_VERSION, max: version } } });
  both.runFor(200);
  assert.equal(both.link.state, "up");
  // With features that are not known here too: they are not chosen, and replicas work without.
  const versions = { min: WIRE_VERSION, max: version, features: 0x4 };
  const richer = new PeerRig({ seed: 7, link: { versions } });
  richer.runFor(200);
  assert.equal(richer.link.state, "up");
});

test("a wrong target, an unknown node and our own name are refused", () => {
  const rig = new PeerRig({ seed: 7, link: { targetNodeId: NODE_C } });
  rig.runFor(500);
  assert.match(rig.link.lastFailure, /not the one that was dialled/);
  const stranger = rig.newLink(VOLUME, 5);
  const twin = rig.newLink(NODE_B, 5);
  rig.runFor(500);
  assert.equal(stranger.state, "down");
  assert.equal(twin.state, "down");
  const second = new PeerRig({ seed: 8 });
  const unknown = second.newLink(VOLUME, 5);
  second.runFor(500);
  assert.match(unknown.lastFailure, /none of this node's peers/);
});

test("a challenge that is played back to where it came from proves nothing", () => {
  // The man in the middle answers our hello with what our own server says to it.
  const rig = new PeerRig({ seed: 9 });
  const identity = { clusterId: CLUSTER, nodeId: NODE_B, incarnation: 2000, reactor: 0 };
  const link = new PeerLink(
    { identity, targetNodeId: NODE_C },
    {
      reactor: rig.owner,
      dialer: rig.network.dialer(rig.replicaServer),
      secret: new HmacSecret(KEY),
      random: rig.scheduler.fork(),
      copier: new SegmentCopier(rig.owner.requests, rig.memory),
      log: { log(): void {} },
    },
  );
  rig.runFor(500);
  assert.notEqual(link.state, "up");
  assert.match(link.lastFailure, /not the one that was dialled|is another/);
});

/** One that knows the key, and says what it likes. */
class Traitor {
  readonly rig: PeerRig;
  stream: MessageStream | null = null;
  isEnded = false;
  receivedCount = 0;

  constructor(rig: PeerRig, connection: number) {
    this.rig = rig;
    const identity = { clusterId: CLUSTER, nodeId: NODE_A, incarnation: 4242, reactor: 0 };
    const handshake = new DialHandshake(
      { identity, targetNodeId: NODE_B, connection },
      { reactor: rig.owner, secret: new HmacSecret(KEY) },
      (outcome) => {
        if (outcome.kind === "ok") this.begin(outcome);
        else this.isEnded = true;
      },
    );
    handshake.dialled(rig.network.dialer(rig.replicaServer).dial(handshake));
    rig.runUntil(() => this.stream !== null || this.isEnded, "the traitor's handshake");
  }

  private begin(outcome: HandshakeOk): void {
    this.stream = new MessageStream(this.rig.memory, outcome.stream, {
      messageReceived: () => {
        this.receivedCount += 1;
      },
      messageSent: () => {},
      streamEnded: () => {
        this.isEnded = true;
      },
    });
    this.stream.open(outcome.leftover);
  }

  say(
    type: number,
    change: (words: Uint32Array, at: number) => void,
    payload: Uint8Array = new Uint8Array(0),
  ) {
    const { stream } = this;
    if (stream === null || !stream.isOpen || stream.freeSlots === 0) return;
    const at = stream.begin(type, 0, 1, 0);
    change(stream.out.u32, at);
    stream.out.u8.set(payload, stream.inlineAt(at));
    stream.finish(at, payload.length, 0, 0, -1);
    stream.flush();
  }
}

function target(): Uint8Array {
  const hex = `${VOLUME}${DISK}`.replaceAll("-", "");
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

test("one who knows the key and breaks a rule loses the connection, and nothing else happens", () => {
  withServer(10, (rig) => {
    rig.link.close();
    rig.runFor(100);
    let connection = 0;
    const breakIt = (name: string, act: (traitor: Traitor) => void): void => {
      connection += 1;
      const traitor = new Traitor(rig, connection);
      assert.notEqual(traitor.stream, null, name);
      act(traitor);
      rig.runFor(100);
      assert.ok(traitor.isEnded, `${name}: still connected`);
    };
    const fence = (traitor: Traitor): void => {
      const change = (words: Uint32Array, at: number): void => {
        words[at + W_SESSION] = 4096;
        words[at + W_EPOCH] = 1;
      };
      traitor.say(MESSAGE_FENCE, change, target());
      rig.runFor(20);
    };
    breakIt("a type that does not exist", (one) => one.say(200, () => {}));
    breakIt("an answer to nothing", (one) => one.say(64, () => {}));
    breakIt("a fence of nothing", (one) => one.say(MESSAGE_FENCE, () => {}, new Uint8Array(8)));
    breakIt("a write without data", (one) =>
      one.say(MESSAGE_WRITE, (words, at) => (words[at + W_BLOCK_COUNT] = 1)),
    );
    breakIt("a write of 4 billion blocks", (one) =>
      one.say(MESSAGE_WRITE, (words, at) => (words[at + W_BLOCK_COUNT] = 2 ** 32 - 1)),
    );
    breakIt("a gap in the stream", (one) => {
      fence(one);
      one.say(18, (words, at) => {
        words[at + W_SESSION] = 4096;
        words[at + W_EPOCH] = 1;
        words[at + W_BLOCK_COUNT] = 1;
        words[at + W_STREAM_SEQUENCE] = 2;
      });
    });
    breakIt("more than its credits", (one) => {
      rig.disk.isStuck = true;
      fence(one);
      rig.disk.unstick();
      rig.runFor(5);
      rig.disk.isStuck = true;
      for (let count = 1; count <= 3 * SMALL_CREDITS; count++) {
        one.say(18, (words, at) => {
          words[at + W_SESSION] = 4096;
          words[at + W_EPOCH] = 1;
          words[at + W_BLOCK_COUNT] = 1;
          words[at + W_STREAM_SEQUENCE] = count;
          putWide(words, at + W_FIRST_BLOCK, count);
        });
      }
    });
    rig.disk.unstick();
    rig.runFor(3000);
    const quiet = new Traitor(rig, 1000);
    quiet.say(16 + 1, (words, at) => (words[at + W_BLOCK_COUNT] = 1));
    rig.runFor(50);
    assert.equal(quiet.receivedCount, 1, "a write of no session is answered");
    assert.equal(rig.disk.landed.length, 0, "and lands nowhere");
    quiet.stream?.close(-1);
    rig.runFor(50);
    Object.assign(rig, { link: rig.newLink(NODE_C, 1) });
  });
});

test("a flood of heartbeats that nobody reads answers of ends, and holds a bounded outbox", () => {
  withServer(11, (rig) => {
    rig.link.close();
    rig.runFor(100);
    const traitor = new Traitor(rig, 1);
    const connection = rig.network.connections.at(-1) as SimConnection;
    connection.toDialled.hold();
    for (let round = 0; round < 100; round++) {
      for (let count = 0; count < 200; count++) traitor.say(MESSAGE_HEARTBEAT, () => {});
      rig.runFor(5);
    }
    connection.toDialled.release();
    rig.runFor(3000);
    assert.equal(rig.replicaServer.linkCount, 0);
    Object.assign(rig, { link: rig.newLink(NODE_C, 1) });
  });
});

const SEEDS = Number(process.env["RINGSTORE_SEEDS"] ?? 30);

test("seeded: random messages with right checksums, and right messages with random bytes", () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const rig = new PeerRig({ seed });
    rig.link.close();
    rig.runFor(50);
    const { prng } = rig;
    for (let round = 1; round <= 4; round++) {
      const traitor = new Traitor(rig, round);
      const types = [16, 17, 18, 19, 32, 33, 34, 35, 36, 37, 48, 49, 64, 65, prng.below(256)];
      for (let count = 0; count < 60 && !traitor.isEnded; count++) {
        const isTarget = prng.chance(0.5);
        const payload = isTarget ? target() : new Uint8Array(prng.below(30) * 8);
        const change = (words: Uint32Array, at: number): void => {
          words[at + W_SESSION] = prng.chance(0.8) ? 4096 : prng.u32();
          words[at + W_EPOCH] = prng.chance(0.8) ? 1 : prng.below(3);
          words[at + W_BLOCK_COUNT] = prng.below(4);
          words[at + W_STREAM_SEQUENCE] = prng.below(4);
          putWide(words, at + W_FIRST_BLOCK, prng.below(100));
        };
        traitor.say(prng.pick(types), change, payload);
        if (prng.chance(0.2)) rig.runFor(prng.unit());
      }
      rig.runFor(60);
      traitor.stream?.close(-1);
    }
    rig.runFor(3000);
    const owner = new MiniOwner(rig, rig.newLink(NODE_C, 1));
    owner.fenceSurely(9);
    owner.write(5);
    rig.runUntil(() => owner.pendingCount === 0, "an honest write");
  }
});

test("seeded: bytes that change on the way are never believed", () => {
  for (let seed = 1; seed <= SEEDS; seed++) {
    let corrupted = 0;
    const connected = (connection: SimConnection): void => {
      if (connection.network.connections.length > 4) return;
      for (const pipe of [connection.toAccepted, connection.toDialled]) {
        let next = connection.network.prng.below(40_000);
        pipe.corrupt = (bytes, at) => {
          while (next < at + bytes.length) {
            if (next >= at) {
              bytes[next - at] =
                (bytes[next - at] as number) ^ (1 << connection.network.prng.below(8));
              corrupted += 1;
            }
            next += 1 + connection.network.prng.below(60_000);
          }
        };
      }
    };
    const rig = new PeerRig({ seed, connected });
    const owner = new MiniOwner(rig);
    for (let tries = 0; tries < 100 && !owner.replica.isReady; tries++) {
      rig.runFor(50);
      if (owner.replica.stateName !== "resuming") owner.fence(1);
    }
    for (let block = 0; block < 60; block++) {
      owner.write(block);
      rig.runFor(1);
    }
    for (let tries = 0; tries < 100 && owner.pendingCount > 0; tries++) {
      if (owner.replica.stateName === "dead") owner.fence(1);
      rig.runFor(50);
    }
    assert.equal(owner.pendingCount, 0, `seed ${seed}`);
    assert.ok(corrupted > 0, `seed ${seed}: nothing was changed`);
    for (const [block, value] of owner.acked) {
      assert.equal(rig.disk.blocks.get(block), value, `seed ${seed}, block ${block}`);
    }
    for (const landed of rig.disk.landed)
      assert.ok(landed.value <= 60, `seed ${seed}: foreign data`);
  }
});
