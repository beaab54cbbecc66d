// What a node may be told about its cluster, with errors that say what to type instead. Used by
// the API on every request and by the CLI before it sends one.
//
// Invariant: no error repeats a token.

import type { ClusterInit, ClusterJoin, MetadataAccessRequest } from "./cluster-types.ts";
import { ApiError } from "./errors.ts";
import { CLUSTER_TOKEN_LENGTH_MAX } from "./limits.ts";
import { checkVolumeName, quote } from "./volume-rules.ts";

const HOST_AND_PORT = /^(?:\[([0-9a-fA-F:.]+)\]|([\w.-]{1,255})):(\d{1,5})$/;
/** Every address of this host: nobody can dial that. */
const WILDCARDS: readonly string[] = ["0.0.0.0", "::", "0:0:0:0:0:0:0:0"];

function refuse(message: string, advice: string): never {
  throw new ApiError("invalid_request", message, { advice });
}

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** `HOST:PORT`, an IPv6 address in brackets; null = it is none. */
export function splitAddress(text: string): HostPort | null {
  const match = HOST_AND_PORT.exec(text);
  const host = match?.[1] ?? match?.[2] ?? "";
  const port = Number(match?.[3] ?? 0);
  return host === "" || port < 1 || port > 65_535 ? null : { host, port };
}

/** An endpoint of the metadata without what may stand around HOST:PORT. */
export function bareEndpoint(endpoint: string): string {
  return /^(?:https?:\/\/)?(.*?)\/?$/.exec(endpoint)?.[1] ?? "";
}

/** An address that somebody else can dial. `what` names the option or field. */
function checkAddress(what: string, text: string): void {
  const address = splitAddress(text);
  if (address === null) {
    refuse(
      `${what} ${quote(text)} is not an address`,
      "give HOST:PORT, e.g. 10.0.0.1:7400 or [fd00::1]:7400",
    );
  }
  if (WILDCARDS.includes(address.host)) {
    refuse(
      `${what} ${quote(text)} is no address that another machine can dial`,
      "give the address at which this machine is reached, e.g. 10.0.0.1:7400",
    );
  }
}

function checkMetadata(what: string, endpoints: readonly string[]): void {
  if (endpoints.length === 0) {
    refuse(`${what} is missing`, "give the address of etcd, or of the embedded metadata server");
  }
  for (const endpoint of endpoints) {
    const rest = bareEndpoint(endpoint);
    if (rest.includes("@")) {
      // It would be kept, and shown to whoever asks for the cluster.
      refuse(`${what} holds a user's name or password`, "give HOST:PORT, or a URL without them");
    }
    checkAddress(what, rest);
  }
}

function checkToken(token: string): void {
  if (token === "") {
    refuse("the cluster's token is missing", "ringstore cluster token prints it, on any node");
  }
  if (/^[!-~]+$/.test(token) && token.length <= CLUSTER_TOKEN_LENGTH_MAX) return;
  refuse(
    `the cluster's token is not one line of at most ${CLUSTER_TOKEN_LENGTH_MAX} ASCII characters`,
    "give what ringstore cluster token printed, and nothing else",
  );
}

/** How the fields are called where they were typed: options of the CLI, or fields of JSON. */
export interface ClusterFieldNames {
  readonly address: string;
  readonly metadata: string;
}

const JSON_FIELDS: ClusterFieldNames = { address: "address", metadata: "metadata" };

function checkNode(request: { readonly nodeName?: string; readonly rack?: string }): void {
  if (request.nodeName !== undefined) checkVolumeName(request.nodeName, "node");
  if (request.rack !== undefined) checkVolumeName(request.rack, "rack");
}

/** Invariant: no error repeats a password. */
function checkAccess(request: MetadataAccessRequest): void {
  const { metadataCert, metadataKey, metadataUser, metadataPassword } = request;
  if ((metadataCert === undefined) !== (metadataKey === undefined)) {
    refuse("a certificate for the metadata and its key go together", "give both, or neither");
  }
  if (metadataPassword !== undefined && metadataUser === undefined) {
    refuse("a password for the metadata without a user", "give the user too: --metadata-user");
  }
  if (metadataUser !== undefined && metadataPassword === undefined) {
    refuse(
      "a user of the metadata without a password",
      "give the file that holds it: --metadata-password-file",
    );
  }
}

export function checkClusterInit(
  request: ClusterInit,
  fields: ClusterFieldNames = JSON_FIELDS,
): void {
  checkVolumeName(request.name, "cluster");
  checkAddress(fields.address, request.address);
  checkMetadata(fields.metadata, request.metadata);
  checkNode(request);
  checkAccess(request);
}

export function checkClusterJoin(
  request: ClusterJoin,
  fields: ClusterFieldNames = JSON_FIELDS,
): void {
  checkAddress(fields.address, request.address);
  checkNode(request);
  checkAccess(request);
  checkToken(request.token);
}
