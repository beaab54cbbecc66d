// Bearer tokens of the TCP listener: parsing the token file, and finding whose token a request
// carries.
//
// Invariant: how long a comparison takes says nothing about how much of a token was right: digests
// are compared, in constant time, against every token.

import { createHash, timingSafeEqual } from "node:crypto";
import { RingstoreError } from "../base/error.ts";

export interface Token {
  readonly name: string;
  readonly digest: Buffer;
}

/** Shorter ones can be guessed; longer ones are mistakes. */
const TOKEN_LENGTH_MIN = 16;
const TOKEN_LENGTH_MAX = 256;
const TOKEN_COUNT_MAX = 64;

class TokenFileError extends RingstoreError<"bad_token_file"> {
  override readonly name: string = "TokenFileError";
}

/**
 * One `name:token` per line; a line without a colon is a token named "default"; empty lines and
 * lines that begin with # are skipped. Errors name the line, never the token.
 */
export function parseTokens(text: string, path: string): readonly Token[] {
  const tokens: Token[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const trimmed = line.trim();
    if (trimmed === "" || trimmed.startsWith("#")) continue;
    const colon = trimmed.indexOf(":");
    const name = colon < 0 ? "default" : trimmed.slice(0, colon).trim();
    const token = trimmed.slice(colon + 1).trim();
    const where = `${path} line ${index + 1}`;
    if (!/^[\w.-]{1,63}$/.test(name)) {
      fail(`${where}: the token's name is not a name`, "use letters, digits, dot, hyphen");
    }
    if (!/^[!-~]+$/.test(token) || token.length > TOKEN_LENGTH_MAX) {
      fail(`${where}: the token is not printable ASCII of at most ${TOKEN_LENGTH_MAX}`, MAKE_ONE);
    }
    if (token.length < TOKEN_LENGTH_MIN) {
      fail(`${where}: the token has ${token.length} characters, which can be guessed`, MAKE_ONE);
    }
    tokens.push({ name, digest: digestOf(token) });
  }
  if (tokens.length === 0) fail(`${path} holds no token`, MAKE_ONE);
  if (tokens.length > TOKEN_COUNT_MAX) {
    fail(`${path} holds ${tokens.length} tokens`, `use at most ${TOKEN_COUNT_MAX}`);
  }
  return tokens;
}

const MAKE_ONE = "make one with: openssl rand -hex 32";

function fail(message: string, advice: string): never {
  throw new TokenFileError("bad_token_file", message, { advice });
}

/** The name of the token in an Authorization header, or null. */
export function callerOf(
  authorization: string | undefined,
  tokens: readonly Token[],
): string | null {
  const match = /^Bearer +([!-~]{1,256})$/i.exec(authorization ?? "");
  const digest = digestOf(match?.[1] ?? "");
  let found: string | null = null;
  for (const token of tokens) {
    if (timingSafeEqual(token.digest, digest)) found = token.name;
  }
  return match === null ? null : found;
}

function digestOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
