// MetaStore over the etcd API: etcd itself, or the embedded server.

import { randomBytes } from "node:crypto";
import { assert } from "../base/index.ts";
import {
  META_TRANSACTION_MAX,
  META_VALUE_MAX_BYTES,
  type MetaEntry,
  type MetaGuard,
  type MetaLease,
  type MetaList,
  type MetaOutcome,
  type MetaStore,
  type MetaTransaction,
  type MetaWatch,
  type MetaWatchHandler,
} from "../ports/meta-store.ts";
import { MetaError } from "./errors.ts";
import { EtcdClient, entryOf } from "./etcd-client.ts";
import { EtcdConnection, type EtcdOptions } from "./etcd-connection.ts";
import type { TxnResponse } from "./etcd-messages.ts";
import { KeptLease } from "./kept-lease.ts";
import { WatchHub } from "./watch-hub.ts";

/** The shortest that etcd grants with its default election time. */
const LEASE_TTL_MIN_MS = 2000;
const LEASE_TTL_MAX_MS = 24 * 3600 * 1000;

export class EtcdMetaStore implements MetaStore {
  readonly client: EtcdClient;
  readonly #connection: EtcdConnection;
  readonly #watches: WatchHub;
  readonly #leases = new Set<KeptLease>();

  constructor(options: EtcdOptions) {
    this.#connection = new EtcdConnection(options);
    this.client = new EtcdClient(this.#connection);
    this.#watches = new WatchHub(this.#connection, (prefix) => this.client.list(prefix));
  }

  get(key: string): Promise<MetaEntry | null> {
    return this.client.get(key);
  }

  list(prefix: string): Promise<MetaList> {
    return this.client.list(prefix);
  }

  compareAndSwap(
    key: string,
    modRevision: number,
    value: Uint8Array | null,
    lease?: MetaLease,
  ): Promise<MetaOutcome> {
    const write = lease === undefined ? { key, value } : { key, value, lease };
    return this.transact({ guards: [{ key, modRevision }], writes: [write] });
  }

  async transact(transaction: MetaTransaction): Promise<MetaOutcome> {
    const { guards, writes } = transaction;
    checkLimits(transaction);
    const rawWrites = writes.map(({ key, value, lease }) => ({
      key,
      value,
      leaseId: lease?.id ?? 0n,
    }));
    try {
      return outcomeOf(await this.client.transact(guards, rawWrites), guards);
    } catch (error) {
      if (!(error instanceof MetaError) || error.code !== "unknown") throw error;
      return { outcome: "unknown", reason: error.message };
    }
  }

  watch(prefix: string, handler: MetaWatchHandler): MetaWatch {
    return this.#watches.watch(prefix, handler);
  }

  async grantLease(ttlMs: number, lost: () => void): Promise<MetaLease> {
    if (ttlMs < LEASE_TTL_MIN_MS || ttlMs > LEASE_TTL_MAX_MS || ttlMs % 1000 !== 0) {
      const range = `${LEASE_TTL_MIN_MS} to ${LEASE_TTL_MAX_MS} ms in whole seconds`;
      throw new MetaError("limit", `A lease of ${ttlMs} ms; ${range} can be had.`);
    }
    // 62 bits: positive in every signed 64-bit integer, and not to be guessed.
    const id = BigInt.asUintN(62, randomBytes(8).readBigUInt64BE()) | 1n;
    const sentMs = performance.now();
    const seconds = await this.client.grantLease(id, ttlMs / 1000);
    const lease = new KeptLease(this.client, id, seconds * 1000, sentMs, () => {
      this.#leases.delete(lease);
      lost();
    });
    this.#leases.add(lease);
    return lease;
  }

  /** Leases are renewed no more, and end when their time is over. */
  close(): void {
    for (const lease of this.#leases) lease.abandon();
    this.#watches.close();
    this.#connection.close();
  }
}

function checkLimits({ guards, writes }: MetaTransaction): void {
  const count = Math.max(guards.length, writes.length);
  if (count > META_TRANSACTION_MAX) {
    const message = `A transaction of ${count} operations; ${META_TRANSACTION_MAX} are the most.`;
    throw new MetaError("limit", message);
  }
  const keys = new Set(writes.map((write) => write.key));
  assert(keys.size === writes.length, "a transaction writes each key once");
  let sizeBytes = 0;
  for (const write of writes) sizeBytes += write.value?.length ?? 0;
  if (sizeBytes <= META_VALUE_MAX_BYTES) return;
  const message = `A transaction writes ${sizeBytes} bytes; ${META_VALUE_MAX_BYTES} are the most.`;
  throw new MetaError("limit", message);
}

function outcomeOf(answer: TxnResponse, guards: readonly MetaGuard[]): MetaOutcome {
  const revision = answer.header?.revision ?? 0;
  if (answer.succeeded) return { outcome: "applied", revision };
  if (answer.responses.length !== guards.length) {
    const told = answer.responses.length;
    const message = `A conflict told of ${told} keys instead of ${guards.length}.`;
    throw new MetaError("unknown", message);
  }
  const found = answer.responses.map((response) => {
    const kv = response.range?.kvs[0];
    return kv === undefined ? null : entryOf(kv);
  });
  return { outcome: "conflict", revision, found };
}
