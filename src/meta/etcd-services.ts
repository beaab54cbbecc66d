// The methods of etcd's v3 API that we speak: path and message types, for both ends. A method is
// also what grpc-js wants to be told about one.

import type { MethodDefinition } from "@grpc/grpc-js";
import * as m from "./etcd-messages.ts";
import type { MessageType } from "./protobuf.ts";

export type Method<Req, Res> = MethodDefinition<Partial<Req>, Partial<Res>> & {
  readonly decodeRequest: (bytes: Buffer) => Req;
  readonly decodeResponse: (bytes: Buffer) => Res;
};

export function method<Req, Res>(
  path: string,
  request: MessageType<Req>,
  response: MessageType<Res>,
  streams: { request?: boolean; response?: boolean } = {},
): Method<Req, Res> {
  return {
    path,
    requestStream: streams.request ?? false,
    responseStream: streams.response ?? false,
    requestSerialize: (value) => request.encode(value),
    requestDeserialize: (bytes) => request.decode(bytes) as Partial<Req>,
    responseSerialize: (value) => response.encode(value),
    responseDeserialize: (bytes) => response.decode(bytes) as Partial<Res>,
    decodeRequest: (bytes) => request.decode(bytes),
    decodeResponse: (bytes) => response.decode(bytes),
  };
}

const both = { request: true, response: true } as const;

export const KV_RANGE: Method<m.RangeRequest, m.RangeResponse> = method(
  "/etcdserverpb.KV/Range",
  m.RANGE_REQUEST,
  m.RANGE_RESPONSE,
);
export const KV_PUT: Method<m.PutRequest, m.PutResponse> = method(
  "/etcdserverpb.KV/Put",
  m.PUT_REQUEST,
  m.PUT_RESPONSE,
);
export const KV_DELETE_RANGE: Method<m.DeleteRangeRequest, m.DeleteRangeResponse> = method(
  "/etcdserverpb.KV/DeleteRange",
  m.DELETE_RANGE_REQUEST,
  m.DELETE_RANGE_RESPONSE,
);
export const KV_TXN: Method<m.TxnRequest, m.TxnResponse> = method(
  "/etcdserverpb.KV/Txn",
  m.TXN_REQUEST,
  m.TXN_RESPONSE,
);
export const KV_COMPACT: Method<m.CompactionRequest, m.HeaderOnly> = method(
  "/etcdserverpb.KV/Compact",
  m.COMPACTION_REQUEST,
  m.HEADER_ONLY,
);
export const WATCH: Method<m.WatchRequest, m.WatchResponse> = method(
  "/etcdserverpb.Watch/Watch",
  m.WATCH_REQUEST,
  m.WATCH_RESPONSE,
  both,
);
export const LEASE_GRANT: Method<m.LeaseGrantRequest, m.LeaseResponse> = method(
  "/etcdserverpb.Lease/LeaseGrant",
  m.LEASE_GRANT_REQUEST,
  m.LEASE_RESPONSE,
);
export const LEASE_REVOKE: Method<m.LeaseIdRequest, m.HeaderOnly> = method(
  "/etcdserverpb.Lease/LeaseRevoke",
  m.LEASE_ID_REQUEST,
  m.HEADER_ONLY,
);
export const LEASE_KEEP_ALIVE: Method<m.LeaseIdRequest, m.LeaseResponse> = method(
  "/etcdserverpb.Lease/LeaseKeepAlive",
  m.LEASE_ID_REQUEST,
  m.LEASE_RESPONSE,
  both,
);
export const STATUS: Method<m.Empty, m.StatusResponse> = method(
  "/etcdserverpb.Maintenance/Status",
  m.EMPTY_REQUEST,
  m.STATUS_RESPONSE,
);
export const SNAPSHOT: Method<m.Empty, m.SnapshotResponse> = method(
  "/etcdserverpb.Maintenance/Snapshot",
  m.EMPTY_REQUEST,
  m.SNAPSHOT_RESPONSE,
  { response: true },
);
export const AUTHENTICATE: Method<m.AuthenticateRequest, m.AuthenticateResponse> = method(
  "/etcdserverpb.Auth/Authenticate",
  m.AUTHENTICATE_REQUEST,
  m.AUTHENTICATE_RESPONSE,
);
