// A self-signed certificate for 127.0.0.1, made on the spot (RFC 5280, X.690): Node signs but makes
// no certificates, and a key in the tree would be one that people find and use.

import { createPrivateKey, generateKeyPairSync, randomBytes, sign } from "node:crypto";

export interface Certificate {
  /** PEM. */
  readonly certificate: Buffer;
  readonly key: Buffer;
}

const SEQUENCE = 0x30;
const SET = 0x31;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const OCTET_STRING = 0x04;
const OID = 0x06;
const UTF8 = 0x0c;
const UTC_TIME = 0x17;
const BOOLEAN = 0x01;
const EXPLICIT_0 = 0xa0;
const EXPLICIT_3 = 0xa3;
/** iPAddress of GeneralName: context-specific, 7. */
const IP_ADDRESS = 0x87;

const OID_COMMON_NAME = [0x55, 0x04, 0x03];
const OID_ECDSA_SHA256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const OID_SUBJECT_ALT_NAME = [0x55, 0x1d, 0x11];
const OID_BASIC_CONSTRAINTS = [0x55, 0x1d, 0x13];

function der(tag: number, ...parts: (Uint8Array | readonly number[])[]): Buffer {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)));
  const { length } = body;
  const size =
    length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([tag, ...size]), body]);
}

function nameOf(text: string): Buffer {
  const pair = der(SEQUENCE, der(OID, OID_COMMON_NAME), der(UTF8, Buffer.from(text)));
  return der(SEQUENCE, der(SET, pair));
}

function extension(oid: readonly number[], value: Buffer): Buffer {
  return der(SEQUENCE, der(OID, oid), der(BOOLEAN, [0xff]), der(OCTET_STRING, value));
}

export function makeCertificate(commonName: string): Certificate {
  const { publicKey, privateKey } = generateKeyPairSync("ec", {
    namedCurve: "P-256",
    publicKeyEncoding: { type: "spki", format: "der" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
  const algorithm = der(SEQUENCE, der(OID, OID_ECDSA_SHA256));
  const serial = randomBytes(8);
  serial[0] = 0x01;
  const validity = der(
    SEQUENCE,
    der(UTC_TIME, Buffer.from("200101000000Z")),
    der(UTC_TIME, Buffer.from("491231235959Z")),
  );
  const names = der(SEQUENCE, der(IP_ADDRESS, [127, 0, 0, 1]));
  const isAuthority = der(SEQUENCE, der(BOOLEAN, [0xff]));
  const extensions = der(
    SEQUENCE,
    extension(OID_SUBJECT_ALT_NAME, names),
    extension(OID_BASIC_CONSTRAINTS, isAuthority),
  );
  const body = der(
    SEQUENCE,
    der(EXPLICIT_0, der(INTEGER, [2])),
    der(INTEGER, serial),
    algorithm,
    nameOf(commonName),
    validity,
    nameOf(commonName),
    publicKey,
    der(EXPLICIT_3, extensions),
  );
  const signature = sign("sha256", body, createPrivateKey(privateKey));
  const certificate = der(SEQUENCE, body, algorithm, der(BIT_STRING, [0], signature));
  const base64 = certificate.toString("base64").replace(/.{64}/g, "$&\n");
  const pem = `-----BEGIN CERTIFICATE-----\n${base64}\n-----END CERTIFICATE-----\n`;
  return { certificate: Buffer.from(pem), key: Buffer.from(privateKey) };
}
