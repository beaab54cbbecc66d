// Layouts, headers and payloads: what is encoded is decoded, what is damaged is refused, and no
// bytes at all make a decoder throw. The fuzzer proves itself on a decoder that trusts a count.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { Prng } from "../base/index.ts";
import type { ClusterSecret } from "../ports/index.ts";
import * as wire from "./index.ts";

const VOLUME = "01234567-89ab-cdef-0123-456789abcdef";
const DISK = "ffffffff-0000-4000-8000-0000000000aa";

const secret: ClusterSecret = {
  mac: (message) => createHmac("sha256", "key").update(message).digest(),
  fillRandom: (target) => target.fill(9),
};

function header(): { words: Uint32Array; u8: Uint8Array } {
  const words = new Uint32Array(40);
  const u8 = new Uint8Array(words.buffer);
  wire.beginHeader(words, 5, wire.MESSAGE_WRITE, 1, 0xdeadbeef, 0x7fffffff);
  words[5 + wire.W_EPOCH] = 0xfffff;
  wire.putWide(words, 5 + wire.W_SEQUENCE, 2 ** 44 - 1);
  wire.putWide(words, 5 + wire.W_FIRST_BLOCK, 2 ** 52 + 1);
  words[5 + wire.W_BLOCK_COUNT] = 64;
  words[5 + wire.W_RESULT] = -5;
  words[5 + wire.W_PAYLOAD_BYTES] = 4096;
  wire.sealHeader(words, u8, 5);
  return { words, u8 };
}

test("the header is 80 bytes, and its fixed places are where every version has them", () => {
  assert.equal(wire.HEADER.BYTES, 80);
  assert.equal(wire.HEADER_BYTES, wire.HEADER.BYTES);
  assert.equal(wire.HEADER_WORDS * 4, wire.HEADER.BYTES);
  const { magic, version, headerBytes, type, headerCrc } = wire.HEADER;
  assert.deepEqual([magic, version, headerBytes, type, headerCrc], [0, 4, 6, 8, 76]);
  for (const one of [wire.HELLO, wire.CHALLENGE, wire.PROOF, wire.WELCOME, wire.REFUSE]) {
    assert.equal(one.BYTES % 8, 0, one.NAME);
    assert.ok(one.BYTES + wire.HEADER_BYTES <= wire.HANDSHAKE_BYTES_MAX, one.NAME);
  }
  for (const one of [
    wire.TARGET,
    wire.FENCE_ANSWER,
    wire.STAMP,
    wire.LIST,
    wire.PAGE,
    wire.IMAGE,
  ]) {
    assert.equal(one.BYTES % 8, 0, one.NAME);
  }
});

test("a header comes back field by field; every flipped bit is noticed", () => {
  const { words, u8 } = header();
  assert.equal(wire.checkHeader(words, u8, 5, 4096), wire.HEADER_OK);
  assert.equal(wire.headerType(words, 5), wire.MESSAGE_WRITE);
  assert.equal(wire.headerFlags(words, 5), 1);
  assert.equal(words[5 + wire.W_REQUEST], 0xdeadbeef);
  assert.equal(wire.getWide(words, 5 + wire.W_SEQUENCE), 2 ** 44 - 1);
  assert.equal(wire.getWide(words, 5 + wire.W_FIRST_BLOCK), 2 ** 52 + 1);
  assert.equal((words[5 + wire.W_RESULT] as number) | 0, -5);
  for (let bit = 0; bit < 80 * 8; bit++) {
    const at = 20 + (bit >>> 3);
    u8[at] = (u8[at] as number) ^ (1 << (bit & 7));
    assert.notEqual(wire.checkHeader(words, u8, 5, 4096), wire.HEADER_OK, `bit ${bit}`);
    u8[at] = (u8[at] as number) ^ (1 << (bit & 7));
  }
  assert.equal(wire.checkHeader(words, u8, 5, 4088), wire.HEADER_BAD_SIZE);
});

test("a sealed header that breaks a rule is refused for what it breaks", () => {
  const cases: [number, number, number][] = [
    [wire.W_VERSION, (wire.WIRE_VERSION + 1) | (80 << 16), wire.HEADER_BAD_VERSION],
    [wire.W_VERSION, wire.WIRE_VERSION | (96 << 16), wire.HEADER_BAD_VERSION],
    [wire.W_PAYLOAD_BYTES, 0xfffffff8, wire.HEADER_BAD_SIZE],
    [wire.W_PAYLOAD_BYTES, 4, wire.HEADER_BAD_SIZE],
    [wire.W_SEQUENCE + 1, 0x200000, wire.HEADER_BAD_FIELD],
    [wire.W_COMMITTED + 1, 0xffffffff, wire.HEADER_BAD_FIELD],
    [wire.W_FIRST_BLOCK + 1, 0x80000000, wire.HEADER_BAD_FIELD],
    [wire.W_FEATURES, 1, wire.HEADER_BAD_FIELD],
    [wire.W_TYPE, 0x10000 | wire.MESSAGE_READ, wire.HEADER_BAD_FIELD],
    [wire.W_MAGIC, 0, wire.HEADER_BAD_MAGIC],
  ];
  for (const [word, value, verdict] of cases) {
    const { words, u8 } = header();
    words[5 + word] = value;
    wire.sealHeader(words, u8, 5);
    assert.equal(wire.checkHeader(words, u8, 5, 4096), verdict, wire.HEADER_VERDICTS[verdict]);
  }
});

test("every payload comes back as it was", () => {
  const u8 = new Uint8Array(wire.PAYLOAD_BYTES_MAX);
  const at = 24;
  for (const metadata of [null, { clusterGeneration: 3, membershipVersion: 2 ** 40 }]) {
    const target = { volumeUuid: VOLUME, diskUuid: DISK, metadata };
    assert.deepEqual(wire.decodeTarget(u8, at, wire.encodeTarget(u8, at, target)), target);
  }
  const stamps = Array.from({ length: 300 }, (_, index) => ({
    extentIndex: 0xffffffff - index,
    slab: index,
    epoch: 0xfffff,
    sequence: 2 ** 44 - index,
  }));
  const answer = {
    epoch: 7,
    sequence: 2 ** 44 - 1,
    committedEpoch: 6,
    committedSequence: 5,
    above: stamps.slice(0, 200),
    uncertain: stamps.slice(200),
    grantWaitUs: 1_999_999,
  };
  const bytes = wire.encodeFenceAnswer(u8, at, answer);
  assert.deepEqual(wire.decodeFenceAnswer(u8, at, bytes), answer);
  const more = { ...answer, cursor: 77 };
  const moreBytes = wire.encodeFenceAnswer(u8, at, more);
  assert.deepEqual(wire.decodeFenceAnswer(u8, at, moreBytes), more);
  const tooMany = { ...answer, above: new Array(wire.PAGE_STAMPS_MAX + 1).fill(stamps[0]) };
  assert.equal(wire.encodeFenceAnswer(u8, at, tooMany), -1);
  for (const cursor of [null, 0, 12345]) {
    const page = { slabs: stamps, cursor };
    assert.deepEqual(wire.decodePage(u8, at, wire.encodePage(u8, at, page)), page);
  }
  const list = { since: { epoch: 3, sequence: 2 ** 40 }, cursor: 9 };
  assert.deepEqual(wire.decodeList(u8, at, wire.encodeList(u8, at, list)), list);
  const place = { extentIndex: 3, slab: 4095 };
  const image = { epoch: 1, sequence: 2, states: 0xffffffff };
  const imageBytes = wire.encodeImage(u8, at, place, image);
  assert.deepEqual(wire.decodeImage(u8, at, imageBytes, 0), { ...place, ...image });
  assert.deepEqual(wire.decodeImage(u8, at, imageBytes, 65536), null);
  const failure = { code: "stale-epoch", message: "epoch 9 was here", epoch: 9 } as const;
  assert.deepEqual(wire.decodeFailure(u8, at, wire.encodeFailure(u8, at, failure)), failure);
  const long = { code: "disk", message: `é\n${"x".repeat(500)}` } as const;
  const cut = wire.decodeFailure(u8, at, wire.encodeFailure(u8, at, long));
  assert.equal(cut?.message.length, 200);
  assert.equal(cut?.message.slice(0, 3), "??x");
  assert.equal(wire.decodeGrant(u8, at, wire.encodeGrant(u8, at, 2_000_000)), 2_000_000);
});

test("the handshake's codes bind role, both nonces, nodes, versions and cluster", () => {
  const hello = {
    versionMin: 1,
    versionMax: 1,
    features: 0,
    clusterId: VOLUME,
    nodeId: DISK,
    targetNodeId: VOLUME,
    incarnation: 2 ** 50,
    connection: 3,
    reactor: 2,
  };
  const helloBytes = wire.encodeHello(hello, new Uint8Array(32).fill(1));
  assert.deepEqual(wire.decodeHello(helloBytes), hello);
  const challenge = { version: 1, features: 0, nodeId: VOLUME, incarnation: 8 };
  const nonce = new Uint8Array(32).fill(2);
  const challengeBytes = wire.encodeChallenge(challenge, nonce, helloBytes, secret);
  assert.deepEqual(wire.decodeChallenge(challengeBytes), challenge);
  assert.ok(wire.challengeProves(challengeBytes, helloBytes, secret));
  const proof = wire.encodeProof(helloBytes, challengeBytes, secret);
  assert.ok(wire.proofProves(proof, helloBytes, challengeBytes, secret));
  const ownMac = challengeBytes.subarray(wire.CHALLENGE.mac, wire.CHALLENGE.BYTES);
  assert.ok(!wire.proofProves(ownMac, helloBytes, challengeBytes, secret), "a reflected code");
  for (let at = 0; at < helloBytes.length; at++) {
    const other = Uint8Array.from(helloBytes);
    other[at] = (other[at] as number) ^ 1;
    assert.ok(!wire.challengeProves(challengeBytes, other, secret), `hello byte ${at}`);
    assert.ok(!wire.proofProves(proof, other, challengeBytes, secret), `hello byte ${at}`);
  }
  for (let at = 0; at < challengeBytes.length; at++) {
    const other = Uint8Array.from(challengeBytes);
    other[at] = (other[at] as number) ^ 1;
    assert.ok(!wire.challengeProves(other, helloBytes, secret), `challenge byte ${at}`);
    assert.ok(!wire.proofProves(proof, helloBytes, other, secret), `challenge byte ${at}`);
  }
  const refusal = { code: "version", versionMin: 1, versionMax: 2, text: "too old" } as const;
  assert.deepEqual(wire.decodeRefusal(wire.encodeRefusal(refusal)), refusal);
});

/** Sees any bytes as one payload: the outcome is a value, never an exception. */
type Decoder = (u8: Uint8Array, at: number, bytes: number) => unknown;

const DECODERS: Readonly<Record<string, Decoder>> = {
  target: wire.decodeTarget,
  fence: wire.decodeFenceAnswer,
  list: wire.decodeList,
  page: wire.decodePage,
  image: (u8, at, bytes) => wire.decodeImage(u8, at, bytes, 0),
  failure: wire.decodeFailure,
  grant: wire.decodeGrant,
  hello: (u8, at, bytes) => wire.decodeHello(u8.subarray(at, at + bytes)),
  challenge: (u8, at, bytes) => wire.decodeChallenge(u8.subarray(at, at + bytes)),
  welcome: (u8, at, bytes) => wire.decodeWelcome(u8.subarray(at, at + bytes)),
  refusal: (u8, at, bytes) => wire.decodeRefusal(u8.subarray(at, at + bytes)),
};

/** A decoder that believes a count: the fuzzer must find it. */
const CANARY: Decoder = (u8, at, bytes) => {
  if (bytes < wire.PAGE.BYTES) return null;
  const data = new DataView(u8.buffer, u8.byteOffset + at, bytes);
  const count = Math.min(data.getUint32(0, true), 1000);
  for (let index = 0; index < count; index++) {
    data.getUint32(wire.PAGE.BYTES + index * wire.STAMP.BYTES, true);
  }
  return count;
};

/** The first seed whose input makes a decoder throw, or give strange numbers; 0 = none. */
function fuzz(decoders: Readonly<Record<string, Decoder>>, seeds: number): string | null {
  const u8 = new Uint8Array(2048);
  for (let seed = 1; seed <= seeds; seed++) {
    const prng = new Prng(seed);
    const bytes = prng.chance(0.5) ? prng.below(300) : prng.below(40) * 8;
    const at = prng.below(100) * 8;
    const isSparse = prng.chance(0.6);
    u8.fill(0);
    for (let index = 0; index < bytes; index++) {
      if (!isSparse || prng.chance(0.1)) u8[at + index] = prng.u32();
    }
    for (const [name, decode] of Object.entries(decoders)) {
      try {
        const text = JSON.stringify(decode(u8, at, bytes));
        if (text?.includes("null,")) return `${name}, seed ${seed}: ${text}`;
      } catch (error) {
        return `${name}, seed ${seed}: ${error}`;
      }
    }
  }
  return null;
}

const FUZZ_SEEDS = Number(process.env["RINGSTORE_SEEDS"] ?? 20_000);

test("no bytes make a decoder throw; the canary is found", () => {
  assert.match(fuzz({ canary: CANARY }, FUZZ_SEEDS) ?? "", /RangeError/);
  assert.equal(fuzz(DECODERS, FUZZ_SEEDS), null);
});
