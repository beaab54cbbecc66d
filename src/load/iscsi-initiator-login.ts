// The initiator's side of a login, for tests: security with CHAP and mutual CHAP, operational keys,
// text in as many PDUs as a test wants (RFC 7143 sections 6.3 and 12.1).

import { createHash, randomBytes } from "node:crypto";
import { getU16, getU32, putU16, putU32 } from "../base/index.ts";
import {
  BHS_BYTES,
  FLAG_CONTINUE,
  IMMEDIATE,
  LOGIN_CSG_SHIFT,
  LOGIN_REQUEST,
  LOGIN_RESPONSE,
  LOGIN_TRANSIT,
  OP_LOGIN_REQUEST,
  STAGE_FULL_FEATURE,
  STAGE_OPERATIONAL,
  STAGE_SECURITY,
} from "../iscsi/layouts.ts";
import type { Pdu } from "./iscsi-initiator-pipe.ts";

export interface InitiatorChap {
  readonly name: string;
  readonly secret: string;
  /** By number: 5 MD5, 6 SHA-1, 7 SHA-256, 8 SHA3-256; the first that the target knows. */
  readonly algorithms: readonly number[];
  readonly encoding?: "hex" | "base64";
  /** The target must prove itself with this secret. */
  readonly mutualSecret?: string;
  /** Sends the target's own challenge back as ours. */
  readonly isReflecting?: boolean;
}

export interface LoginOptions {
  readonly initiatorName: string;
  /** Null: a discovery session. */
  readonly targetName: string | null;
  /** 12 hexadecimal digits. */
  readonly isid: string;
  readonly tsih?: number;
  readonly cid?: number;
  readonly chap?: InitiatorChap;
  /** Goes without a security stage. */
  readonly skipsSecurity?: boolean;
  /** Operational keys that are offered. */
  readonly offers?: Readonly<Record<string, string>>;
  /** Text of a request is cut into PDUs of so many bytes. */
  readonly pieceBytes?: number;
  readonly firstCmdSn?: number;
}

const HASHES: Readonly<Record<number, string>> = {
  5: "md5",
  6: "sha1",
  7: "sha256",
  8: "sha3-256",
};

function digest(
  algorithm: number,
  identifier: number,
  secret: string,
  challenge: Uint8Array,
): Buffer {
  const hash = createHash(HASHES[algorithm] as string);
  return hash.update(Uint8Array.of(identifier)).update(secret).update(challenge).digest();
}

export class InitiatorLogin {
  readonly options: LoginOptions;
  /** Every key that the target has sent. */
  readonly keys: Map<string, string> = new Map();
  status = -1;
  tsih = 0;
  isDone = false;
  statSn = 0;
  /** The target has proved itself. */
  isTargetProven = false;
  private readonly send: (header: Uint8Array, data: Uint8Array) => void;
  private stage: number;
  private step = 0;
  private text: Uint8Array = new Uint8Array(0);
  private answer = "";
  private ownChallenge: Uint8Array = new Uint8Array(0);
  private readonly ownIdentifier = 77;
  private algorithm = 0;
  private isTransit = false;

  constructor(options: LoginOptions, send: (header: Uint8Array, data: Uint8Array) => void) {
    this.options = options;
    this.send = send;
    this.stage = options.skipsSecurity === true ? STAGE_OPERATIONAL : STAGE_SECURITY;
    this.tsih = options.tsih ?? 0;
  }

  start(): void {
    const { options } = this;
    const pairs: [string, string][] = [["InitiatorName", options.initiatorName]];
    if (options.targetName === null) pairs.push(["SessionType", "Discovery"]);
    else pairs.push(["SessionType", "Normal"], ["TargetName", options.targetName]);
    if (this.stage === STAGE_SECURITY) {
      pairs.push(["AuthMethod", options.chap === undefined ? "None" : "CHAP,None"]);
      this.request(pairs, options.chap === undefined);
    } else {
      this.request([...pairs, ...this.offers()], true);
    }
  }

  private offers(): [string, string][] {
    return Object.entries(this.options.offers ?? {});
  }

  private request(pairs: readonly [string, string][], transit: boolean): void {
    const text = pairs.map(([key, value]) => `${key}=${value}\0`).join("");
    this.text = Buffer.from(text, "utf8");
    this.isTransit = transit;
    this.sendPiece();
  }

  private sendPiece(): void {
    const most = this.options.pieceBytes ?? 8192;
    const piece = this.text.slice(0, most);
    this.text = this.text.slice(most);
    const isPart = this.text.length > 0;
    const next = this.stage === STAGE_SECURITY ? STAGE_OPERATIONAL : STAGE_FULL_FEATURE;
    let flags = this.stage << LOGIN_CSG_SHIFT;
    if (isPart) flags |= FLAG_CONTINUE;
    else if (this.isTransit) flags |= LOGIN_TRANSIT | next;
    this.send(loginHeader(this.options, this.tsih, flags, this.statSn), piece);
  }

  /** A login response. */
  take(pdu: Pdu): void {
    const { header } = pdu;
    this.status = getU16(header, LOGIN_RESPONSE.statusClass);
    this.statSn = (getU32(header, LOGIN_RESPONSE.statSn) + 1) >>> 0;
    this.answer += Buffer.from(pdu.data).toString("utf8");
    for (const pair of this.answer.split("\0")) {
      const at = pair.indexOf("=");
      if (at > 0) this.keys.set(pair.slice(0, at), pair.slice(at + 1));
    }
    this.answer = "";
    if (this.status !== 0) {
      this.isDone = true;
      return;
    }
    if (this.text.length > 0) {
      this.sendPiece();
      return;
    }
    const flags = header[1] as number;
    if ((flags & LOGIN_TRANSIT) !== 0) this.moved(flags & 3, header);
    else if (this.stage === STAGE_SECURITY) this.security();
    else this.request([], true);
  }

  private moved(stage: number, header: Uint8Array): void {
    this.stage = stage;
    if (stage === STAGE_FULL_FEATURE) {
      this.tsih = getU16(header, LOGIN_RESPONSE.tsih);
      this.checkProof();
      this.isDone = true;
      return;
    }
    this.checkProof();
    this.request(this.offers(), true);
  }

  private security(): void {
    const { chap } = this.options;
    if (chap === undefined) {
      this.request([], true);
      return;
    }
    this.step += 1;
    if (this.step === 1) {
      this.request([["CHAP_A", chap.algorithms.join(",")]], false);
      return;
    }
    this.algorithm = Number(this.keys.get("CHAP_A"));
    const identifier = Number(this.keys.get("CHAP_I"));
    const challengeText = this.keys.get("CHAP_C") ?? "";
    const challenge = Buffer.from(challengeText.slice(2), "hex");
    const response = digest(this.algorithm, identifier, chap.secret, challenge);
    const pairs: [string, string][] = [
      ["CHAP_N", chap.name],
      ["CHAP_R", this.encode(response)],
    ];
    if (chap.mutualSecret !== undefined) {
      this.ownChallenge = chap.isReflecting === true ? challenge : randomBytes(16);
      pairs.push(
        ["CHAP_I", String(this.ownIdentifier)],
        ["CHAP_C", this.encode(this.ownChallenge)],
      );
    }
    this.request(pairs, true);
  }

  private encode(bytes: Uint8Array): string {
    const buffer = Buffer.from(bytes);
    if (this.options.chap?.encoding === "base64") return `0b${buffer.toString("base64")}`;
    return `0x${buffer.toString("hex")}`;
  }

  private checkProof(): void {
    const secret = this.options.chap?.mutualSecret;
    const proof = this.keys.get("CHAP_R");
    if (secret === undefined || proof === undefined) return;
    const expected = digest(this.algorithm, this.ownIdentifier, secret, this.ownChallenge);
    this.isTargetProven = proof === `0x${expected.toString("hex")}`;
  }
}

/** The header of a login request. */
function loginHeader(
  options: LoginOptions,
  tsih: number,
  flags: number,
  expStatSn: number,
): Uint8Array {
  const header = new Uint8Array(BHS_BYTES);
  header[0] = OP_LOGIN_REQUEST | IMMEDIATE;
  header[1] = flags;
  header.set(Buffer.from(options.isid, "hex"), LOGIN_REQUEST.isid);
  putU16(header, LOGIN_REQUEST.tsih, tsih);
  putU16(header, LOGIN_REQUEST.cid, options.cid ?? 0);
  putU32(header, LOGIN_REQUEST.initiatorTaskTag, 0x1000);
  putU32(header, LOGIN_REQUEST.cmdSn, options.firstCmdSn ?? 1);
  putU32(header, LOGIN_REQUEST.expStatSn, expStatSn);
  return header;
}
