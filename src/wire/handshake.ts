// The handshake's messages: who is there, which versions, and mutual proof of the cluster key.
//
//   dialler                                   listener
//     HELLO   versions, cluster, node, target, incarnation, connection, nonce
//                     --------------------->
//             CHALLENGE version, node, incarnation, nonce, MAC("listener", HELLO | CHALLENGE)
//                     <---------------------
//     PROOF   MAC("dialler", HELLO | CHALLENGE with its MAC)
//                     --------------------->
//             WELCOME credits
//                     <---------------------
//
// Both codes cover every byte of HELLO and CHALLENGE, so both nonces, both nodes, the versions and
// the cluster; each begins with the role of its maker, so that what one side said proves nothing
// when it is sent back. Payloads are small copies in the JS heap: the handshake is cold.

import { alignUp, join64, SAFE_HIGH_MAX } from "../base/index.ts";
import type { ClusterSecret } from "../ports/index.ts";
import { CHALLENGE, HELLO, PROOF, REFUSE, WELCOME } from "./layouts.ts";
import { printable, putText } from "./payloads.ts";
import { getUuid, putUuid } from "./uuids.ts";
import { putWideAt } from "./wide.ts";

export const NONCE_BYTES = 32;
const MAC_BYTES = 32;
const REFUSE_TEXT_BYTES: number = REFUSE.FIELDS["text"]?.bytes ?? 0;

export interface Hello {
  readonly versionMin: number;
  readonly versionMax: number;
  readonly features: number;
  readonly clusterId: string;
  readonly nodeId: string;
  readonly targetNodeId: string;
  readonly incarnation: number;
  readonly connection: number;
  readonly reactor: number;
}

export interface Challenge {
  readonly version: number;
  readonly features: number;
  readonly nodeId: string;
  readonly incarnation: number;
}

export interface Welcome {
  readonly smallCredits: number;
  readonly largeCredits: number;
}

/** Why a connection is refused. Their order is their number on the wire. */
export type RefuseCode =
  | "version"
  | "cluster"
  | "target"
  | "node"
  | "proof"
  | "superseded"
  | "busy"
  | "protocol";
const REFUSE_CODES: readonly RefuseCode[] = [
  "version",
  "cluster",
  "target",
  "node",
  "proof",
  "superseded",
  "busy",
  "protocol",
];

export interface Refusal {
  readonly code: RefuseCode;
  readonly versionMin: number;
  readonly versionMax: number;
  readonly text: string;
}

function dataOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** One that is no safe integer is clamped: the proof covers the bytes, not this number. */
function incarnationAt(data: DataView, at: number): number {
  const high = Math.min(data.getUint32(at + 4, true), SAFE_HIGH_MAX);
  return join64(data.getUint32(at, true), high);
}

export function encodeHello(hello: Hello, nonce: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HELLO.BYTES);
  const data = dataOf(bytes);
  data.setUint16(HELLO.versionMin, hello.versionMin, true);
  data.setUint16(HELLO.versionMax, hello.versionMax, true);
  data.setUint32(HELLO.features, hello.features, true);
  putUuid(bytes, HELLO.cluster, hello.clusterId);
  putUuid(bytes, HELLO.node, hello.nodeId);
  putUuid(bytes, HELLO.target, hello.targetNodeId);
  putWideAt(data, HELLO.incarnation, hello.incarnation);
  data.setUint32(HELLO.connection, hello.connection, true);
  data.setUint32(HELLO.reactor, hello.reactor, true);
  bytes.set(nonce, HELLO.nonce);
  return bytes;
}

/** A longer one, of a later version, may follow its known part. Null when it is too short. */
export function decodeHello(bytes: Uint8Array): Hello | null {
  if (bytes.length < HELLO.BYTES) return null;
  const data = dataOf(bytes);
  return {
    versionMin: data.getUint16(HELLO.versionMin, true),
    versionMax: data.getUint16(HELLO.versionMax, true),
    features: data.getUint32(HELLO.features, true),
    clusterId: getUuid(bytes, HELLO.cluster),
    nodeId: getUuid(bytes, HELLO.node),
    targetNodeId: getUuid(bytes, HELLO.target),
    incarnation: incarnationAt(data, HELLO.incarnation),
    connection: data.getUint32(HELLO.connection, true),
    reactor: data.getUint32(HELLO.reactor, true),
  };
}

/** The MAC of `role` over the bytes that both sides have seen. */
function roleMac(secret: ClusterSecret, role: string, parts: readonly Uint8Array[]): Uint8Array {
  const label = new TextEncoder().encode(`ringstore wire, the ${role} proves itself\n`);
  const message = new Uint8Array(parts.reduce((sum, part) => sum + part.length, label.length));
  message.set(label, 0);
  let at = label.length;
  for (const part of parts) {
    message.set(part, at);
    at += part.length;
  }
  return secret.mac(message);
}

/** Takes the same time wherever they differ. */
function macsEqual(a: Uint8Array, b: Uint8Array): boolean {
  let difference = a.length ^ b.length;
  for (let index = 0; index < MAC_BYTES; index++) {
    difference |= (a[index] ?? 0) ^ (b[index] ?? 0);
  }
  return difference === 0;
}

export function encodeChallenge(
  challenge: Challenge,
  nonce: Uint8Array,
  hello: Uint8Array,
  secret: ClusterSecret,
): Uint8Array {
  const bytes = new Uint8Array(CHALLENGE.BYTES);
  const data = dataOf(bytes);
  data.setUint16(CHALLENGE.version, challenge.version, true);
  data.setUint32(CHALLENGE.features, challenge.features, true);
  putUuid(bytes, CHALLENGE.node, challenge.nodeId);
  putWideAt(data, CHALLENGE.incarnation, challenge.incarnation);
  bytes.set(nonce, CHALLENGE.nonce);
  const mac = roleMac(secret, "listener", [hello, bytes.subarray(0, CHALLENGE.mac)]);
  bytes.set(mac, CHALLENGE.mac);
  return bytes;
}

export function decodeChallenge(bytes: Uint8Array): Challenge | null {
  if (bytes.length !== CHALLENGE.BYTES) return null;
  const data = dataOf(bytes);
  return {
    version: data.getUint16(CHALLENGE.version, true),
    features: data.getUint32(CHALLENGE.features, true),
    nodeId: getUuid(bytes, CHALLENGE.node),
    incarnation: incarnationAt(data, CHALLENGE.incarnation),
  };
}

/** Does the listener know the cluster key? `hello` is what we sent. */
export function challengeProves(
  challenge: Uint8Array,
  hello: Uint8Array,
  secret: ClusterSecret,
): boolean {
  const mac = roleMac(secret, "listener", [hello, challenge.subarray(0, CHALLENGE.mac)]);
  return macsEqual(mac, challenge.subarray(CHALLENGE.mac, CHALLENGE.BYTES));
}

export function encodeProof(
  hello: Uint8Array,
  challenge: Uint8Array,
  secret: ClusterSecret,
): Uint8Array {
  return roleMac(secret, "dialler", [hello, challenge]);
}

export function proofProves(
  proof: Uint8Array,
  hello: Uint8Array,
  challenge: Uint8Array,
  secret: ClusterSecret,
): boolean {
  if (proof.length !== PROOF.BYTES) return false;
  return macsEqual(proof, roleMac(secret, "dialler", [hello, challenge]));
}

export function encodeWelcome(welcome: Welcome): Uint8Array {
  const bytes = new Uint8Array(WELCOME.BYTES);
  const data = dataOf(bytes);
  data.setUint32(WELCOME.smallCredits, welcome.smallCredits, true);
  data.setUint32(WELCOME.largeCredits, welcome.largeCredits, true);
  return bytes;
}

export function decodeWelcome(bytes: Uint8Array): Welcome | null {
  if (bytes.length !== WELCOME.BYTES) return null;
  const data = dataOf(bytes);
  return {
    smallCredits: data.getUint32(WELCOME.smallCredits, true),
    largeCredits: data.getUint32(WELCOME.largeCredits, true),
  };
}

export function encodeRefusal(refusal: Refusal): Uint8Array {
  const bytes = new Uint8Array(alignUp(REFUSE.BYTES, 8));
  const data = dataOf(bytes);
  data.setUint16(REFUSE.code, REFUSE_CODES.indexOf(refusal.code), true);
  data.setUint16(REFUSE.versionMin, refusal.versionMin, true);
  data.setUint16(REFUSE.versionMax, refusal.versionMax, true);
  const textBytes = putText(bytes, REFUSE.text, refusal.text, REFUSE_TEXT_BYTES);
  data.setUint16(REFUSE.textBytes, textBytes, true);
  return bytes;
}

/** Of any later version as well: its layout never changes. The text is a stranger's. */
export function decodeRefusal(bytes: Uint8Array): Refusal | null {
  if (bytes.length < REFUSE.BYTES) return null;
  const data = dataOf(bytes);
  const code = REFUSE_CODES[data.getUint16(REFUSE.code, true)];
  const textBytes = data.getUint16(REFUSE.textBytes, true);
  if (code === undefined || textBytes > REFUSE_TEXT_BYTES) return null;
  return {
    code,
    versionMin: data.getUint16(REFUSE.versionMin, true),
    versionMax: data.getUint16(REFUSE.versionMax, true),
    text: printable(bytes, REFUSE.text, textBytes),
  };
}
