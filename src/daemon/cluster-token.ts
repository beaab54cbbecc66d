// The token that lets a node join: everything it must know, in one word. Secret.

import { ApiError } from "../model/errors.ts";
import type { SharedAccess } from "./cluster-access.ts";

type Optional = "ca" | "user" | "password";

export interface ClusterToken {
  readonly clusterId: string;
  readonly name: string;
  readonly endpoints: readonly string[];
  readonly key: Uint8Array;
  /** How every node gets into the metadata. */
  readonly access: SharedAccess;
}

export function encodeToken({ clusterId, name, endpoints, key, access }: ClusterToken): string {
  const { ca, user, password } = access;
  const body = {
    id: clusterId,
    name,
    metadata: endpoints,
    key: base64(key),
    ...(ca === null ? {} : { ca }),
    ...(user === null ? {} : { user, password: password ?? "" }),
  };
  return Buffer.from(JSON.stringify(body)).toString("base64url");
}

export function decodeToken(token: string): ClusterToken {
  let body: Record<"id" | "name" | "metadata" | "key" | Optional, unknown> | null;
  try {
    body = JSON.parse(Buffer.from(token, "base64url").toString("utf8")) as typeof body;
  } catch (cause) {
    throw refuse("it cannot be read", cause);
  }
  const { id, name, metadata, key, ca, user, password } = body ?? ({} as NonNullable<typeof body>);
  if (typeof id !== "string" || typeof name !== "string" || typeof key !== "string") {
    throw refuse("it is not whole");
  }
  const bytes = Buffer.from(key, "base64url");
  const isList = Array.isArray(metadata) && metadata.length > 0;
  if (!isList || !metadata.every((one) => typeof one === "string") || bytes.length !== 32) {
    throw refuse("it is not whole");
  }
  const access = { ca: textOf(ca), user: textOf(user), password: textOf(password) };
  return { clusterId: id, name, endpoints: metadata as string[], key: bytes, access };
}

function textOf(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64url");
}

/** Never repeats the token: it is a secret. */
function refuse(problem: string, cause?: unknown): ApiError {
  const advice = "print it with: ringstore cluster token, on a node of the cluster";
  const options = cause === undefined ? { advice } : { advice, cause };
  return new ApiError("join_refused", `the token is of no use: ${problem}`, options);
}
