// etcd's operations with our types: what a call needs, and nothing of what etcd could do besides.
// Keys are text. Errors are MetaError; see errors.ts for what each says about a write.

import type { MetaEntry, MetaGuard, MetaList } from "../ports/meta-store.ts";
import { keyAfter, keyBytes, keyText, prefixEnd } from "./bytes.ts";
import { MetaError } from "./errors.ts";
import { type EtcdConnection, reasonOf } from "./etcd-connection.ts";
import {
  COMPARE,
  type Compare,
  DELETE_RANGE_REQUEST,
  type KeyValue,
  PUT_REQUEST,
  RANGE_REQUEST,
  REQUEST_OP,
  type RequestOp,
  type SnapshotResponse,
  type StatusResponse,
  TARGET_MOD,
  type TxnResponse,
} from "./etcd-messages.ts";
import {
  KV_COMPACT,
  KV_RANGE,
  KV_TXN,
  LEASE_GRANT,
  LEASE_KEEP_ALIVE,
  LEASE_REVOKE,
  SNAPSHOT,
  STATUS,
} from "./etcd-services.ts";

/** Keys that one answer of a list brings; halved where their values are too large for one. */
const PAGE_KEYS = 512;

export interface RawWrite {
  readonly key: string;
  readonly value: Uint8Array | null;
  readonly leaseId: bigint;
}

export interface EtcdStatus {
  readonly version: string;
  readonly revision: number;
  readonly databaseBytes: number;
  readonly clusterId: bigint;
  readonly hasLeader: boolean;
}

export class EtcdClient {
  readonly #connection: EtcdConnection;

  constructor(connection: EtcdConnection) {
    this.#connection = connection;
  }

  async get(key: string): Promise<MetaEntry | null> {
    const answer = await this.#connection.unary(
      KV_RANGE,
      { key: keyBytes(key) },
      { isWrite: false },
    );
    const kv = answer.kvs[0];
    return kv === undefined ? null : entryOf(kv);
  }

  /** Page by page, all at the revision of the first. Begins again where that is compacted away. */
  async list(prefix: string, pageKeys: number = PAGE_KEYS): Promise<MetaList> {
    const entries: MetaEntry[] = [];
    const rangeEnd = prefixEnd(prefix);
    let key = keyBytes(prefix);
    let revision = 0;
    let limit = pageKeys;
    for (;;) {
      try {
        const request = { key, rangeEnd, limit, revision };
        const page = await this.#connection.unary(KV_RANGE, request, { isWrite: false });
        // Later pages are asked for at the first page's revision.
        if (revision === 0) revision = page.header?.revision ?? 0;
        for (const kv of page.kvs) entries.push(entryOf(kv));
        if (!page.more) return { entries, revision };
        key = keyAfter(page.kvs.at(-1)!.key);
      } catch (error) {
        if (!(error instanceof MetaError)) throw error;
        if (error.code === "limit" && limit > 1) {
          limit = Math.ceil(limit / 2);
        } else if (error.code === "compacted") {
          entries.length = 0;
          key = keyBytes(prefix);
          revision = 0;
        } else {
          throw error;
        }
      }
    }
  }

  /** When the guards do not hold, the answer brings what their keys hold. */
  transact(guards: readonly MetaGuard[], writes: readonly RawWrite[]): Promise<TxnResponse> {
    const compare = guards.map(compareOf);
    const success = writes.map(writeOf);
    const failure = guards.map((guard) => readOf(guard.key));
    return this.#connection.unary(KV_TXN, { compare, success, failure }, { isWrite: true });
  }

  /** Forgets what was before `revision`. */
  async compact(revision: number): Promise<void> {
    await this.#connection.unary(KV_COMPACT, { revision, physical: true }, { isWrite: true });
  }

  /** `leaseId` is ours to choose: an answer that is lost leaves a lease that we can still name. */
  async grantLease(leaseId: bigint, ttlSeconds: number): Promise<number> {
    const request = { leaseId, ttlSeconds };
    const answer = await this.#connection.unary(LEASE_GRANT, request, { isWrite: true });
    return answer.ttlSeconds;
  }

  /** Seconds that it lives from now; 0 = it is gone. */
  async keepLeaseAlive(leaseId: bigint, timeoutMs: number): Promise<number> {
    const answer = await this.#connection.exchange(LEASE_KEEP_ALIVE, { leaseId }, timeoutMs);
    return Math.max(0, answer.ttlSeconds);
  }

  /** Revoking twice is no harm: it may be repeated. */
  async revokeLease(leaseId: bigint): Promise<void> {
    try {
      await this.#connection.unary(LEASE_REVOKE, { leaseId }, { isWrite: false });
    } catch (error) {
      if (!(error instanceof MetaError) || error.code !== "lease-lost") throw error;
    }
  }

  async status(): Promise<EtcdStatus> {
    const answer: StatusResponse = await this.#connection.unary(STATUS, {}, { isWrite: false });
    return {
      version: answer.version,
      revision: answer.header?.revision ?? 0,
      databaseBytes: answer.dbSizeBytes,
      clusterId: answer.header?.clusterId ?? 0n,
      hasLeader: answer.leader !== 0n,
    };
  }

  /**
   * etcd's own backup (the file that `etcdctl snapshot restore` takes), piece by piece. The
   * embedded server has none: there the archive of archive.ts is the backup.
   */
  async snapshot(piece: (bytes: Uint8Array) => void): Promise<void> {
    const stream = await this.#connection.openDownload(SNAPSHOT, {});
    let remainingBytes = -1;
    try {
      for await (const message of stream as AsyncIterable<SnapshotResponse>) {
        remainingBytes = message.remainingBytes;
        piece(message.blob);
      }
    } catch (error) {
      throw new MetaError("unavailable", `etcd gave no snapshot: ${reasonOf(error)}`);
    }
    if (remainingBytes === 0) return;
    throw new MetaError("unavailable", "etcd's snapshot ended before it was complete.");
  }
}

export function entryOf(kv: KeyValue): MetaEntry {
  return {
    key: keyText(kv.key),
    value: kv.value,
    createRevision: kv.createRevision,
    modRevision: kv.modRevision,
    version: kv.version,
    leaseId: kv.lease,
  };
}

function compareOf(guard: MetaGuard): Compare {
  const { key, modRevision } = guard;
  return COMPARE.make({ target: TARGET_MOD, key: keyBytes(key), modRevision });
}

function writeOf(write: RawWrite): RequestOp {
  const key = keyBytes(write.key);
  const { value, leaseId: lease } = write;
  if (value === null) return REQUEST_OP.make({ deleteRange: DELETE_RANGE_REQUEST.make({ key }) });
  return REQUEST_OP.make({ put: PUT_REQUEST.make({ key, value, lease }) });
}

function readOf(key: string): RequestOp {
  return REQUEST_OP.make({ range: RANGE_REQUEST.make({ key: keyBytes(key) }) });
}
