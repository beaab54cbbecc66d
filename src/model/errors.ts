// Every error a caller of the API or the CLI can meet: its code, its HTTP status and the exit code
// of the CLI. One closed list, from which the OpenAPI text and the man page are written too.

import { RingstoreError } from "../base/error.ts";

/** Exit codes of `ringstore`, documented in its man page. Never renumbered. */
export const EXIT_DONE = 0;
export const EXIT_UNEXPECTED = 1;
export const EXIT_USAGE = 2;
export const EXIT_NOT_FOUND = 3;
export const EXIT_UNSUPPORTED = 4;
export const EXIT_WRONG_STATE = 5;
export const EXIT_REFUSED = 10;
export const EXIT_NODE_UNREACHABLE = 11;
export const EXIT_CANNOT_CONNECT = 20;
export const EXIT_TIMED_OUT = 21;
export const EXIT_BAD_REPLY = 22;

export const EXIT_CODES: readonly (readonly [code: number, meaning: string])[] = [
  [EXIT_DONE, "done"],
  [EXIT_UNEXPECTED, "an unexpected error; the message says which"],
  [EXIT_USAGE, "wrong usage: an unknown option, a missing or impossible value"],
  [EXIT_NOT_FOUND, "what was named does not exist"],
  [EXIT_UNSUPPORTED, "this daemon or build cannot do that"],
  [EXIT_WRONG_STATE, "not in the present state, e.g. deleting an attached volume"],
  [EXIT_REFUSED, "refused by the server: no permission, a limit, no space"],
  [EXIT_NODE_UNREACHABLE, "a node of the cluster, or its metadata, is unreachable"],
  [EXIT_CANNOT_CONNECT, "cannot connect to the daemon"],
  [EXIT_TIMED_OUT, "the daemon did not answer in time"],
  [EXIT_BAD_REPLY, "the daemon's reply was not understood"],
];

interface ErrorKind {
  readonly httpStatus: number;
  readonly exitCode: number;
  readonly meaning: string;
}

function kind(httpStatus: number, exitCode: number, meaning: string): ErrorKind {
  return { httpStatus, exitCode, meaning };
}

export type ApiErrorCode =
  | "invalid_request"
  | "unauthorized"
  | "path_not_allowed"
  | "volume_not_found"
  | "backing_not_found"
  | "route_not_found"
  | "volume_exists"
  | "volume_attached"
  | "attachment_differs"
  | "lun_taken"
  | "controller_elsewhere"
  | "volume_busy"
  | "volume_unavailable"
  | "backing_in_use"
  | "backing_too_small"
  | "request_too_large"
  | "limit_reached"
  | "backing_failed"
  | "internal"
  | "unsupported"
  | "shutting_down"
  | "timed_out"
  | "no_space"
  | "disk_not_found"
  | "disk_exists"
  | "disk_busy"
  | "disk_unavailable"
  | "disk_foreign"
  | "disk_stale"
  | "disk_too_small"
  | "disk_newer"
  | "disk_damaged"
  | "disk_failed"
  | "local_only"
  | "no_cluster"
  | "in_cluster"
  | "cluster_exists"
  | "join_refused"
  | "node_not_found"
  | "node_exists"
  | "node_alive"
  | "node_busy"
  | "attached_elsewhere"
  | "metadata_unavailable";

export type ClientErrorCode =
  | "usage"
  | "declined"
  | "cannot_connect"
  | "request_timed_out"
  | "bad_reply";

const API_ERRORS: Readonly<Record<ApiErrorCode, ErrorKind>> = {
  invalid_request: kind(400, EXIT_USAGE, "a field is missing, unknown or out of range"),
  unauthorized: kind(401, EXIT_REFUSED, "no valid bearer token"),
  path_not_allowed: kind(403, EXIT_REFUSED, "a host path was named over TCP"),
  volume_not_found: kind(404, EXIT_NOT_FOUND, "no volume has that name"),
  backing_not_found: kind(404, EXIT_NOT_FOUND, "the backing file or device does not exist"),
  route_not_found: kind(404, EXIT_UNSUPPORTED, "no such method and path in this version"),
  volume_exists: kind(409, EXIT_WRONG_STATE, "a volume with that name exists"),
  volume_attached: kind(409, EXIT_WRONG_STATE, "the volume must be detached first"),
  attachment_differs: kind(409, EXIT_WRONG_STATE, "attached already, with other settings"),
  lun_taken: kind(409, EXIT_WRONG_STATE, "another volume is that unit of the controller"),
  controller_elsewhere: kind(409, EXIT_WRONG_STATE, "the controller is on another reactor"),
  volume_busy: kind(409, EXIT_WRONG_STATE, "too many operations wait for this volume"),
  volume_unavailable: kind(409, EXIT_WRONG_STATE, "the volume's state or backing is unusable"),
  backing_in_use: kind(409, EXIT_WRONG_STATE, "somebody else uses the backing"),
  backing_too_small: kind(409, EXIT_WRONG_STATE, "the backing is smaller than the volume"),
  request_too_large: kind(413, EXIT_USAGE, "the request body is too large"),
  limit_reached: kind(429, EXIT_REFUSED, "a limit of this daemon is reached"),
  backing_failed: kind(500, EXIT_UNEXPECTED, "the backing answered with an error"),
  internal: kind(500, EXIT_UNEXPECTED, "a defect in Ringstore; the daemon's log has more"),
  unsupported: kind(501, EXIT_UNSUPPORTED, "this build or kernel cannot do that"),
  shutting_down: kind(503, EXIT_CANNOT_CONNECT, "the daemon is stopping"),
  timed_out: kind(504, EXIT_TIMED_OUT, "the data path did not answer in time"),
  no_space: kind(507, EXIT_REFUSED, "the filesystem or the disk is full"),
  disk_not_found: kind(404, EXIT_NOT_FOUND, "no disk has that name"),
  disk_exists: kind(409, EXIT_WRONG_STATE, "a disk with that name exists"),
  disk_busy: kind(409, EXIT_WRONG_STATE, "the disk is in use: volumes, or work under way"),
  disk_unavailable: kind(409, EXIT_WRONG_STATE, "the disk is not ready to be used"),
  disk_foreign: kind(409, EXIT_WRONG_STATE, "the disk holds something else"),
  disk_stale: kind(409, EXIT_WRONG_STATE, "the disk is another, or was rolled back"),
  disk_too_small: kind(409, EXIT_WRONG_STATE, "the disk is too small for the store"),
  disk_newer: kind(501, EXIT_UNSUPPORTED, "the disk was written by a newer version"),
  disk_damaged: kind(500, EXIT_UNEXPECTED, "the disk has lost what its data depends on"),
  disk_failed: kind(500, EXIT_UNEXPECTED, "the disk answered with an error"),
  local_only: kind(403, EXIT_REFUSED, "answered on the unix socket only"),
  no_cluster: kind(409, EXIT_WRONG_STATE, "this daemon is in no cluster"),
  in_cluster: kind(409, EXIT_WRONG_STATE, "this daemon is in a cluster already"),
  cluster_exists: kind(409, EXIT_WRONG_STATE, "the metadata holds a cluster already"),
  join_refused: kind(403, EXIT_REFUSED, "the token opens no cluster that this node can join"),
  node_not_found: kind(404, EXIT_NOT_FOUND, "no node of the cluster has that name"),
  node_exists: kind(409, EXIT_WRONG_STATE, "a node of the cluster has that name"),
  node_alive: kind(409, EXIT_WRONG_STATE, "the node is alive"),
  node_busy: kind(409, EXIT_WRONG_STATE, "something else is done with the node or disk"),
  attached_elsewhere: kind(409, EXIT_WRONG_STATE, "another node has the volume"),
  metadata_unavailable: kind(503, EXIT_NODE_UNREACHABLE, "the cluster's metadata does not answer"),
};

/** Errors that arise in the client before or after the server had its say. */
const CLIENT_ERRORS: Readonly<Record<ClientErrorCode, ErrorKind>> = {
  usage: kind(0, EXIT_USAGE, "wrong usage of the command"),
  declined: kind(0, EXIT_UNEXPECTED, "the question was answered with no"),
  cannot_connect: kind(0, EXIT_CANNOT_CONNECT, "no daemon answers at that address"),
  request_timed_out: kind(0, EXIT_TIMED_OUT, "no answer within --timeout"),
  bad_reply: kind(0, EXIT_BAD_REPLY, "the reply is not what this version expects"),
};

export const API_ERROR_CODES: readonly ApiErrorCode[] = Object.keys(API_ERRORS) as ApiErrorCode[];

export class ApiError extends RingstoreError<ApiErrorCode> {
  override readonly name: string = "ApiError";
}

function lookup(code: string): ErrorKind | undefined {
  if (Object.hasOwn(API_ERRORS, code)) return API_ERRORS[code as ApiErrorCode];
  if (Object.hasOwn(CLIENT_ERRORS, code)) return CLIENT_ERRORS[code as ClientErrorCode];
  return undefined;
}

export function isApiErrorCode(code: string): code is ApiErrorCode {
  return Object.hasOwn(API_ERRORS, code);
}

export function httpStatusOf(code: ApiErrorCode): number {
  return API_ERRORS[code].httpStatus;
}

/** An unknown code (a newer server) is an unexpected error. */
export function exitCodeOf(code: string): number {
  return lookup(code)?.exitCode ?? EXIT_UNEXPECTED;
}

export function meaningOf(code: string): string {
  return lookup(code)?.meaning ?? "unknown code";
}
