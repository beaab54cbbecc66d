// The embedded server's operations: etcd's semantics over Mvcc and Leases, carried out in memory
// and handed to the commit queue. Every operation is checked whole before anything is changed, so
// that a refusal never leaves half of one behind. (etcd: server/etcdserver/apply and
// api/v3rpc/key.go.)

import {
  COMPARE_EQUAL,
  COMPARE_GREATER,
  COMPARE_LESS,
  type Compare,
  type DeleteRangeRequest,
  type DeleteRangeResponse,
  type Header,
  KEY_VALUE,
  type KeyValue,
  type PutRequest,
  type PutResponse,
  type RangeRequest,
  type RangeResponse,
  type RequestOp,
  type ResponseOp,
  TARGET_CREATE,
  TARGET_LEASE,
  TARGET_MOD,
  TARGET_VALUE,
  TARGET_VERSION,
  type TxnRequest,
  type TxnResponse,
} from "../etcd-messages.ts";
import type { CommitQueue } from "./commit-queue.ts";
import { compactPut, leaseDelete, leasePut, versionDelete, versionPut } from "./database.ts";
import type { Leases } from "./leases.ts";
import type { Mvcc, Version } from "./mvcc.ts";
import * as refuse from "./rpc-error.ts";

const TXN_OPERATIONS_MAX = 128;
/** Keys, values and history, all in memory. etcd's default quota is 2 GiB. */
const SIZE_MAX_BYTES = 1024 * 1024 * 1024;
const ANSWER_MAX_BYTES = 32 * 1024 * 1024;
/** How much history is kept for watches that come back; then the older half goes. */
export const HISTORY_MAX = 20_000;

interface Range {
  readonly from: string;
  /** null = to the end. */
  readonly to: string | null;
}

export class Engine {
  readonly #mvcc: Mvcc;
  readonly #leases: Leases;
  readonly #queue: CommitQueue;
  readonly #clusterId: bigint;
  readonly #memberId: bigint;
  readonly #historyMax: number;

  constructor(
    modules: { mvcc: Mvcc; leases: Leases; queue: CommitQueue },
    ids: { clusterId: bigint; memberId: bigint },
    historyMax: number,
  ) {
    this.#mvcc = modules.mvcc;
    this.#leases = modules.leases;
    this.#queue = modules.queue;
    this.#clusterId = ids.clusterId;
    this.#memberId = ids.memberId;
    this.#historyMax = historyMax;
  }

  header(): Header {
    const { revision } = this.#mvcc;
    return { clusterId: this.#clusterId, memberId: this.#memberId, revision, raftTerm: 1 };
  }

  range(request: RangeRequest): RangeResponse {
    this.#checkRange(request);
    return { ...this.#range(request), header: this.header() };
  }

  put(request: PutRequest): PutResponse {
    this.#checkPut(request);
    this.#checkSpace();
    this.#mvcc.begin();
    const answer = this.#put(request);
    this.#end();
    return { ...answer, header: this.header() };
  }

  deleteRange(request: DeleteRangeRequest): DeleteRangeResponse {
    rangeOf(request);
    this.#mvcc.begin();
    const answer = this.#deleteRange(request);
    this.#end();
    return { ...answer, header: this.header() };
  }

  txn(request: TxnRequest): TxnResponse {
    const { compare, success, failure } = request;
    const count = Math.max(compare.length, success.length, failure.length);
    if (count > TXN_OPERATIONS_MAX) throw refuse.tooManyOperations();
    for (const one of compare) {
      if (one.key.length === 0) throw refuse.emptyKey();
      if (one.rangeEnd.length > 0) throw refuse.notServed("comparisons of ranges");
    }
    // Both branches: a request is good or bad whatever the store holds.
    checkBranch(success);
    checkBranch(failure);
    const succeeded = compare.every((one) => this.#holds(one));
    const branch = succeeded ? success : failure;
    for (const operation of branch) this.#checkOperation(operation);
    if (branch.some((operation) => operation.put !== null)) this.#checkSpace();
    this.#mvcc.begin();
    const responses = branch.map((operation) => this.#operate(operation));
    this.#end();
    return { header: this.header(), succeeded, responses };
  }

  compact(revision: number): void {
    if (revision <= this.#mvcc.compactRevision) throw refuse.compacted();
    if (revision > this.#mvcc.revision) throw refuse.futureRevision();
    const forgotten = this.#mvcc.compact(revision);
    this.#queue.add([compactPut(revision), ...forgotten.map(versionDelete)]);
  }

  grantLease(id: bigint, ttlSeconds: number, nowMs: number): number {
    const granted = this.#leases.grant(id, ttlSeconds, nowMs);
    this.#queue.add([leasePut(id, granted)]);
    return granted;
  }

  /** Deletes its keys, all at one revision. */
  endLease(id: bigint): void {
    const keys = this.#leases.take(id);
    this.#mvcc.begin();
    for (const key of keys) this.#delete(key);
    this.#end();
    this.#queue.add([leaseDelete(id)]);
  }

  #end(): void {
    const changes = this.#mvcc.end();
    this.#queue.add(changes.map(versionPut));
    if (this.#mvcc.historyLength <= this.#historyMax) return;
    const history = this.#mvcc.since(this.#mvcc.compactRevision);
    const middle = history[history.length >>> 1]!.modRevision;
    if (middle > this.#mvcc.compactRevision) this.compact(middle);
  }

  #operate(operation: RequestOp): ResponseOp {
    const { range, put, deleteRange } = operation;
    const response: ResponseOp = { range: null, put: null, deleteRange: null };
    if (range !== null) response.range = this.#range(range);
    else if (put !== null) response.put = this.#put(put);
    else if (deleteRange !== null) response.deleteRange = this.#deleteRange(deleteRange);
    const answer = response.range ?? response.put ?? response.deleteRange;
    // As far as the transaction has come.
    if (answer !== null) {
      answer.header = { ...this.header(), revision: this.#mvcc.openRevision };
    }
    return response;
  }

  #range(request: RangeRequest): RangeResponse {
    const { from, to } = rangeOf(request);
    const { limit, revision, keysOnly, countOnly } = request;
    const kvs: KeyValue[] = [];
    let count = 0;
    let more = false;
    let sizeBytes = 0;
    // Within a transaction the newest is what it has made so far.
    const at = revision <= 0 ? Number.POSITIVE_INFINITY : revision;
    for (const version of this.#mvcc.range(from, to, at)) {
      count++;
      if (countOnly) continue;
      if (limit > 0 && kvs.length >= limit) {
        more = true;
        continue;
      }
      const kv = keyValueOf(version);
      if (keysOnly) kv.value = Buffer.alloc(0);
      sizeBytes += version.key.length + kv.value.length;
      if (sizeBytes > ANSWER_MAX_BYTES) throw refuse.answerTooLarge(ANSWER_MAX_BYTES);
      kvs.push(kv);
    }
    return { header: null, kvs, more, count };
  }

  #put(request: PutRequest): PutResponse {
    const key = latin1(request.key);
    const before = this.#mvcc.get(key);
    // A copy: the request may be a view into a larger buffer.
    this.#mvcc.put(key, Uint8Array.from(request.value), request.lease);
    this.#leases.moveKey(before, this.#mvcc.get(key)!);
    const prevKv = request.prevKv && before !== null ? keyValueOf(before) : null;
    return { header: null, prevKv };
  }

  #deleteRange(request: DeleteRangeRequest): DeleteRangeResponse {
    const { from, to } = rangeOf(request);
    const found = [...this.#mvcc.range(from, to, Number.POSITIVE_INFINITY)];
    for (const version of found) this.#delete(version.key);
    const prevKvs = request.prevKv ? found.map(keyValueOf) : [];
    return { header: null, deleted: found.length, prevKvs };
  }

  #delete(key: string): void {
    const before = this.#mvcc.get(key);
    if (before === null) return;
    this.#mvcc.delete(key);
    this.#leases.moveKey(before, { ...before, lease: 0n });
  }

  #holds(compare: Compare): boolean {
    const held = this.#mvcc.get(latin1(compare.key));
    const order = orderOf(compare, held);
    // A key that is not there has no value: no comparison of it holds.
    if (order === null) return false;
    if (compare.result === COMPARE_EQUAL) return order === 0;
    if (compare.result === COMPARE_GREATER) return order > 0;
    if (compare.result === COMPARE_LESS) return order < 0;
    return order !== 0;
  }

  #checkOperation({ range, put }: RequestOp): void {
    if (range !== null) this.#checkRange(range);
    if (put !== null) this.#checkPut(put);
  }

  #checkRange(request: RangeRequest): void {
    rangeOf(request);
    const { revision } = request;
    if (revision > this.#mvcc.revision) throw refuse.futureRevision();
    if (revision > 0 && revision < this.#mvcc.compactRevision) throw refuse.compacted();
    const filters = [
      request.minModRevision,
      request.maxModRevision,
      request.minCreateRevision,
      request.maxCreateRevision,
    ];
    if (filters.some((bound) => bound !== 0)) throw refuse.notServed("filters by revision");
    // By key and rising is how it is ordered anyway.
    if (request.sortTarget !== 0 || request.sortOrder > 1) throw refuse.notServed("sorting");
  }

  #checkPut(request: PutRequest): void {
    if (request.key.length === 0) throw refuse.emptyKey();
    if (request.ignoreValue || request.ignoreLease)
      throw refuse.notServed("ignore_value, ignore_lease");
    if (request.lease !== 0n && !this.#leases.has(request.lease)) throw refuse.leaseNotFound();
  }

  #checkSpace(): void {
    if (this.#mvcc.sizeBytes > SIZE_MAX_BYTES) throw refuse.noSpace();
  }
}

/** A transaction must not change a key twice. */
function checkBranch(operations: readonly RequestOp[]): void {
  const puts = new Set<string>();
  const deletes: Range[] = [];
  for (const { range, put, deleteRange, txn } of operations) {
    if (txn !== null) throw refuse.notServed("transactions within transactions");
    if (range === null && put === null && deleteRange === null) throw refuse.emptyKey();
    if (range !== null) rangeOf(range);
    if (deleteRange !== null) deletes.push(rangeOf(deleteRange));
    if (put === null) continue;
    if (put.key.length === 0) throw refuse.emptyKey();
    const key = latin1(put.key);
    if (puts.has(key)) throw refuse.duplicateKey();
    puts.add(key);
  }
  for (const { from, to } of deletes) {
    for (const key of puts)
      if (key >= from && (to === null || key < to)) throw refuse.duplicateKey();
  }
}

/** [key, rangeEnd): no end = the key alone, a zero byte = everything from the key on. */
export function rangeOf(request: { key: Uint8Array; rangeEnd: Uint8Array }): Range {
  if (request.key.length === 0) throw refuse.emptyKey();
  const from = latin1(request.key);
  const { rangeEnd } = request;
  if (rangeEnd.length === 0) return { from, to: `${from}\0` };
  if (rangeEnd.length === 1 && rangeEnd[0] === 0) return { from, to: null };
  return { from, to: latin1(rangeEnd) };
}

function orderOf(compare: Compare, held: Version | null): number | null {
  switch (compare.target) {
    case TARGET_VERSION:
      return (held?.version ?? 0) - compare.version;
    case TARGET_CREATE:
      return (held?.createRevision ?? 0) - compare.createRevision;
    case TARGET_MOD:
      return (held?.modRevision ?? 0) - compare.modRevision;
    case TARGET_VALUE:
      return held === null ? null : Buffer.compare(held.value!, compare.value);
    case TARGET_LEASE: {
      const lease = held?.lease ?? 0n;
      if (lease === compare.lease) return 0;
      return lease > compare.lease ? 1 : -1;
    }
    default:
      throw refuse.notServed(`comparisons of target ${compare.target}`);
  }
}

export function keyValueOf(version: Version): KeyValue {
  const { createRevision, modRevision, lease } = version;
  return KEY_VALUE.make({
    key: Buffer.from(version.key, "latin1"),
    createRevision,
    modRevision,
    version: version.version,
    value: version.value ?? Buffer.alloc(0),
    lease,
  });
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}
