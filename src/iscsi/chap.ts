// CHAP (RFC 7143 section 12.1.3, RFC 1994): the target challenges the initiator and, when it asks
// for that, proves itself in turn.
//
// Invariants:
//  - secrets are compared by their digests, in constant time, and are in no message or log;
//  - an unknown name costs what a known one does;
//  - a challenge of ours that comes back as the peer's is refused, on whichever connection.

import { createHash, getHashes, randomBytes, timingSafeEqual } from "node:crypto";
import { formatBinary, parseBinary, parseNumber, type TextPair } from "./text.ts";

/** The initiators' names and secrets, and what the target proves itself with. */
export interface ChapCredentials {
  readonly users: readonly ChapUser[];
  /** Null: an initiator that wants the target to prove itself is refused. */
  readonly target: ChapUser | null;
}

export interface ChapUser {
  readonly name: string;
  readonly secret: string;
}

/** By their numbers; 12.1.3 and IANA's registry of PPP authentication algorithms. */
const ALGORITHMS: ReadonlyMap<number, string> = new Map([
  [5, "md5"],
  [6, "sha1"],
  [7, "sha256"],
  [8, "sha3-256"],
]);
const KNOWN_HASHES: ReadonlySet<string> = new Set(getHashes());
const CHALLENGE_BYTES = 32;
const CHALLENGE_BYTES_MAX = 1024;
const DIGEST_BYTES_MAX = 64;

/** Why a credential cannot be used, for whoever configures it; null where it can. */
export function judgeCredentials(credentials: ChapCredentials): string | null {
  for (const { name, secret } of credentials.users) {
    if (name === "") return "a CHAP name is empty: name the initiator";
    if (Buffer.byteLength(secret) < 12) {
      return `the CHAP secret of "${name}" is shorter than 12 bytes: use 12 to 16`;
    }
    if (credentials.target !== null && credentials.target.secret === secret) {
      return `"${name}" and the target have the same CHAP secret: give each its own`;
    }
  }
  return null;
}

/** The answer to a challenge; null for an algorithm that is not here. */
export function chapResponse(
  algorithm: number,
  identifier: number,
  secret: string,
  challenge: Uint8Array,
): Uint8Array | null {
  const hash = ALGORITHMS.get(algorithm);
  if (hash === undefined || !KNOWN_HASHES.has(hash)) return null;
  return createHash(hash)
    .update(Uint8Array.of(identifier))
    .update(secret, "utf8")
    .update(challenge)
    .digest();
}

/** Challenges of logins under way, so that none is taken back from another connection. */
export class OutstandingChallenges {
  private readonly values: Set<string> = new Set();

  add(challenge: Uint8Array): void {
    this.values.add(formatBinary(challenge));
  }

  has(challenge: Uint8Array): boolean {
    return this.values.has(formatBinary(challenge));
  }

  remove(challenge: Uint8Array): void {
    this.values.delete(formatBinary(challenge));
  }
}

export type ChapOutcome =
  | { readonly kind: "go-on"; readonly pairs: readonly TextPair[] }
  | { readonly kind: "done"; readonly pairs: readonly TextPair[]; readonly name: string }
  | { readonly kind: "failed"; readonly reason: string };

function failed(reason: string): ChapOutcome {
  return { kind: "failed", reason };
}

/** The target's side of one exchange. */
export class ChapExchange {
  private readonly credentials: ChapCredentials;
  private readonly outstanding: OutstandingChallenges;
  private algorithm = 0;
  private identifier = 0;
  private challenge: Uint8Array | null = null;

  constructor(credentials: ChapCredentials, outstanding: OutstandingChallenges) {
    this.credentials = credentials;
    this.outstanding = outstanding;
  }

  /** Takes the keys of one step; keys that are not CHAP's are not among them. */
  step(keys: ReadonlyMap<string, string>): ChapOutcome {
    if (this.challenge === null) return this.begin(keys);
    return this.check(keys, this.challenge);
  }

  /** The exchange is over, one way or the other. */
  end(): void {
    if (this.challenge !== null) this.outstanding.remove(this.challenge);
    this.challenge = null;
  }

  private begin(keys: ReadonlyMap<string, string>): ChapOutcome {
    const offered = keys.get("CHAP_A");
    if (offered === undefined || keys.size !== 1) return failed("CHAP_A did not come first");
    const algorithm = offered
      .split(",")
      .map(parseNumber)
      .find((one) => KNOWN_HASHES.has(ALGORITHMS.get(one) ?? ""));
    if (algorithm === undefined) return failed("no CHAP algorithm that both sides know");
    this.algorithm = algorithm;
    this.identifier = randomBytes(1)[0] as number;
    this.challenge = randomBytes(CHALLENGE_BYTES);
    this.outstanding.add(this.challenge);
    return {
      kind: "go-on",
      pairs: [
        ["CHAP_A", String(algorithm)],
        ["CHAP_I", String(this.identifier)],
        ["CHAP_C", formatBinary(this.challenge)],
      ],
    };
  }

  private check(keys: ReadonlyMap<string, string>, challenge: Uint8Array): ChapOutcome {
    const name = keys.get("CHAP_N");
    const response = parseBinary(keys.get("CHAP_R") ?? "", DIGEST_BYTES_MAX);
    if (name === undefined || response === null) return failed("no CHAP_N or no CHAP_R");
    // A name is text even where it looks like a number: "0x61" is no "a".
    const user = this.credentials.users.find((one) => one.name === name);
    const secret = user?.secret ?? formatBinary(challenge);
    const expected = chapResponse(this.algorithm, this.identifier, secret, challenge);
    if (expected === null) return failed("no such CHAP algorithm");
    const isEqual = response.length === expected.length && timingSafeEqual(response, expected);
    if (user === undefined || !isEqual) return failed("a wrong CHAP name or secret");
    const wantsProof = keys.has("CHAP_I") || keys.has("CHAP_C");
    if (!wantsProof) return { kind: "done", pairs: [], name };
    return this.prove(keys, name);
  }

  private prove(keys: ReadonlyMap<string, string>, name: string): ChapOutcome {
    const { target } = this.credentials;
    if (target === null) return failed("the target has no CHAP secret of its own");
    const identifier = parseNumber(keys.get("CHAP_I") ?? "");
    const challenge = parseBinary(keys.get("CHAP_C") ?? "", CHALLENGE_BYTES_MAX);
    if (identifier < 0 || identifier > 255 || challenge === null) {
      return failed("a CHAP_I or CHAP_C that is none");
    }
    if (this.outstanding.has(challenge)) return failed("our own CHAP challenge came back");
    const proof = chapResponse(this.algorithm, identifier, target.secret, challenge);
    if (proof === null) return failed("no such CHAP algorithm");
    const pairs: TextPair[] = [
      ["CHAP_N", target.name],
      ["CHAP_R", formatBinary(proof)],
    ];
    return { kind: "done", pairs, name };
  }
}
