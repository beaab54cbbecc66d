// The messages of etcd's v3 API that we speak, after its api/etcdserverpb/rpc.proto and
// api/mvccpb/kv.proto: the numbers are theirs. Fields that we neither send nor read are left out;
// an encoder skips nothing it was not asked for and a decoder skips what it does not know.
//
// Enumerations are plain numbers, with constants below their message.

import { bytes, flag, id, int, type MessageType, many, message, nested, text } from "./protobuf.ts";

export interface Header {
  clusterId: bigint;
  memberId: bigint;
  revision: number;
  raftTerm: number;
}

const HEADER: MessageType<Header> = message("ResponseHeader", {
  clusterId: id(1),
  memberId: id(2),
  revision: int(3),
  raftTerm: int(4),
});

export interface KeyValue {
  key: Uint8Array;
  createRevision: number;
  modRevision: number;
  version: number;
  value: Uint8Array;
  lease: bigint;
}

export const KEY_VALUE: MessageType<KeyValue> = message("KeyValue", {
  key: bytes(1),
  createRevision: int(2),
  modRevision: int(3),
  version: int(4),
  value: bytes(5),
  lease: id(6),
});

export interface Event {
  type: number;
  kv: KeyValue | null;
  prevKv: KeyValue | null;
}

export const EVENT_PUT = 0;
export const EVENT_DELETE = 1;

const EVENT: MessageType<Event> = message("Event", {
  type: int(1),
  kv: nested(2, () => KEY_VALUE),
  prevKv: nested(3, () => KEY_VALUE),
});

export interface RangeRequest {
  key: Uint8Array;
  rangeEnd: Uint8Array;
  limit: number;
  revision: number;
  sortOrder: number;
  sortTarget: number;
  serializable: boolean;
  keysOnly: boolean;
  countOnly: boolean;
  minModRevision: number;
  maxModRevision: number;
  minCreateRevision: number;
  maxCreateRevision: number;
}

export const RANGE_REQUEST: MessageType<RangeRequest> = message("RangeRequest", {
  key: bytes(1),
  rangeEnd: bytes(2),
  limit: int(3),
  revision: int(4),
  sortOrder: int(5),
  sortTarget: int(6),
  serializable: flag(7),
  keysOnly: flag(8),
  countOnly: flag(9),
  minModRevision: int(10),
  maxModRevision: int(11),
  minCreateRevision: int(12),
  maxCreateRevision: int(13),
});

export interface RangeResponse {
  header: Header | null;
  kvs: readonly KeyValue[];
  more: boolean;
  count: number;
}

export const RANGE_RESPONSE: MessageType<RangeResponse> = message("RangeResponse", {
  header: nested(1, () => HEADER),
  kvs: many(2, () => KEY_VALUE),
  more: flag(3),
  count: int(4),
});

export interface PutRequest {
  key: Uint8Array;
  value: Uint8Array;
  lease: bigint;
  prevKv: boolean;
  ignoreValue: boolean;
  ignoreLease: boolean;
}

export const PUT_REQUEST: MessageType<PutRequest> = message("PutRequest", {
  key: bytes(1),
  value: bytes(2),
  lease: id(3),
  prevKv: flag(4),
  ignoreValue: flag(5),
  ignoreLease: flag(6),
});

export interface PutResponse {
  header: Header | null;
  prevKv: KeyValue | null;
}

export const PUT_RESPONSE: MessageType<PutResponse> = message("PutResponse", {
  header: nested(1, () => HEADER),
  prevKv: nested(2, () => KEY_VALUE),
});

export interface DeleteRangeRequest {
  key: Uint8Array;
  rangeEnd: Uint8Array;
  prevKv: boolean;
}

export const DELETE_RANGE_REQUEST: MessageType<DeleteRangeRequest> = message("DeleteRangeRequest", {
  key: bytes(1),
  rangeEnd: bytes(2),
  prevKv: flag(3),
});

export interface DeleteRangeResponse {
  header: Header | null;
  deleted: number;
  prevKvs: readonly KeyValue[];
}

export const DELETE_RANGE_RESPONSE: MessageType<DeleteRangeResponse> = message(
  "DeleteRangeResponse",
  { header: nested(1, () => HEADER), deleted: int(2), prevKvs: many(3, () => KEY_VALUE) },
);

/** One of the four. */
export interface RequestOp {
  range: RangeRequest | null;
  put: PutRequest | null;
  deleteRange: DeleteRangeRequest | null;
  txn: TxnRequest | null;
}

export const REQUEST_OP: MessageType<RequestOp> = message("RequestOp", {
  range: nested(1, () => RANGE_REQUEST),
  put: nested(2, () => PUT_REQUEST),
  deleteRange: nested(3, () => DELETE_RANGE_REQUEST),
  txn: nested(4, () => TXN_REQUEST),
});

export interface ResponseOp {
  range: RangeResponse | null;
  put: PutResponse | null;
  deleteRange: DeleteRangeResponse | null;
}

const RESPONSE_OP: MessageType<ResponseOp> = message("ResponseOp", {
  range: nested(1, () => RANGE_RESPONSE),
  put: nested(2, () => PUT_RESPONSE),
  deleteRange: nested(3, () => DELETE_RANGE_RESPONSE),
});

/** An absent operand is compared as 0, or as no bytes. */
export interface Compare {
  result: number;
  target: number;
  key: Uint8Array;
  version: number;
  createRevision: number;
  modRevision: number;
  value: Uint8Array;
  lease: bigint;
  rangeEnd: Uint8Array;
}

export const COMPARE_EQUAL = 0;
export const COMPARE_GREATER = 1;
export const COMPARE_LESS = 2;
export const COMPARE_NOT_EQUAL = 3;
export const TARGET_VERSION = 0;
export const TARGET_CREATE = 1;
export const TARGET_MOD = 2;
export const TARGET_VALUE = 3;
export const TARGET_LEASE = 4;

export const COMPARE: MessageType<Compare> = message("Compare", {
  result: int(1),
  target: int(2),
  key: bytes(3),
  version: int(4),
  createRevision: int(5),
  modRevision: int(6),
  value: bytes(7),
  lease: id(8),
  rangeEnd: bytes(64),
});

export interface TxnRequest {
  compare: readonly Compare[];
  success: readonly RequestOp[];
  failure: readonly RequestOp[];
}

export const TXN_REQUEST: MessageType<TxnRequest> = message("TxnRequest", {
  compare: many(1, () => COMPARE),
  success: many(2, () => REQUEST_OP),
  failure: many(3, () => REQUEST_OP),
});

export interface TxnResponse {
  header: Header | null;
  succeeded: boolean;
  responses: readonly ResponseOp[];
}

export const TXN_RESPONSE: MessageType<TxnResponse> = message("TxnResponse", {
  header: nested(1, () => HEADER),
  succeeded: flag(2),
  responses: many(3, () => RESPONSE_OP),
});

export interface CompactionRequest {
  revision: number;
  physical: boolean;
}

export const COMPACTION_REQUEST: MessageType<CompactionRequest> = message("CompactionRequest", {
  revision: int(1),
  physical: flag(2),
});

/** What many answers consist of. */
export interface HeaderOnly {
  header: Header | null;
}

export const HEADER_ONLY: MessageType<HeaderOnly> = message("HeaderOnly", {
  header: nested(1, () => HEADER),
});

export interface WatchCreateRequest {
  key: Uint8Array;
  rangeEnd: Uint8Array;
  startRevision: number;
  prevKv: boolean;
  watchId: bigint;
  fragment: boolean;
}

const WATCH_CREATE_REQUEST: MessageType<WatchCreateRequest> = message("WatchCreateRequest", {
  key: bytes(1),
  rangeEnd: bytes(2),
  startRevision: int(3),
  prevKv: flag(6),
  watchId: id(7),
  fragment: flag(8),
});

export interface WatchCancelRequest {
  watchId: bigint;
}

const WATCH_CANCEL_REQUEST: MessageType<WatchCancelRequest> = message("WatchCancelRequest", {
  watchId: id(1),
});

export interface WatchRequest {
  create: WatchCreateRequest | null;
  cancel: WatchCancelRequest | null;
}

export const WATCH_REQUEST: MessageType<WatchRequest> = message("WatchRequest", {
  create: nested(1, () => WATCH_CREATE_REQUEST),
  cancel: nested(2, () => WATCH_CANCEL_REQUEST),
});

export interface WatchResponse {
  header: Header | null;
  watchId: bigint;
  created: boolean;
  canceled: boolean;
  compactRevision: number;
  cancelReason: string;
  fragment: boolean;
  events: readonly Event[];
}

export const WATCH_RESPONSE: MessageType<WatchResponse> = message("WatchResponse", {
  header: nested(1, () => HEADER),
  watchId: id(2),
  created: flag(3),
  canceled: flag(4),
  compactRevision: int(5),
  cancelReason: text(6),
  fragment: flag(7),
  events: many(11, () => EVENT),
});

/** Grant: both ways. Keep-alive: `ttlSeconds` only in the answer, 0 = the lease is gone. */
export interface LeaseGrantRequest {
  ttlSeconds: number;
  leaseId: bigint;
}

export const LEASE_GRANT_REQUEST: MessageType<LeaseGrantRequest> = message("LeaseGrantRequest", {
  ttlSeconds: int(1),
  leaseId: id(2),
});

export interface LeaseResponse {
  header: Header | null;
  leaseId: bigint;
  ttlSeconds: number;
}

/** LeaseGrantResponse and LeaseKeepAliveResponse. */
export const LEASE_RESPONSE: MessageType<LeaseResponse> = message("LeaseResponse", {
  header: nested(1, () => HEADER),
  leaseId: id(2),
  ttlSeconds: int(3),
});

export interface LeaseIdRequest {
  leaseId: bigint;
}

/** LeaseRevokeRequest and LeaseKeepAliveRequest. */
export const LEASE_ID_REQUEST: MessageType<LeaseIdRequest> = message("LeaseIdRequest", {
  leaseId: id(1),
});

export interface Empty {
  readonly nothing?: never;
}

export const EMPTY_REQUEST: MessageType<Empty> = message<object>("Empty", {});

export interface StatusResponse {
  header: Header | null;
  version: string;
  dbSizeBytes: number;
  leader: bigint;
  errors: string;
}

export const STATUS_RESPONSE: MessageType<StatusResponse> = message("StatusResponse", {
  header: nested(1, () => HEADER),
  version: text(2),
  dbSizeBytes: int(3),
  leader: id(4),
  // A list; the last of it is enough to say that something is wrong.
  errors: text(8),
});

export interface SnapshotResponse {
  remainingBytes: number;
  blob: Uint8Array;
}

export const SNAPSHOT_RESPONSE: MessageType<SnapshotResponse> = message("SnapshotResponse", {
  remainingBytes: int(2),
  blob: bytes(3),
});

export interface AuthenticateRequest {
  name: string;
  password: string;
}

export const AUTHENTICATE_REQUEST: MessageType<AuthenticateRequest> = message(
  "AuthenticateRequest",
  { name: text(1), password: text(2) },
);

export interface AuthenticateResponse {
  header: Header | null;
  token: string;
}

export const AUTHENTICATE_RESPONSE: MessageType<AuthenticateResponse> = message(
  "AuthenticateResponse",
  { header: nested(1, () => HEADER), token: text(2) },
);
