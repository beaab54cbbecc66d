// The embedded server's leases: when each ends, and which keys hang on it.
//
// Time is monotonic. A lease that was read from the disk after a start lives a whole term again, as
// in etcd: its holder could not renew it while we were away. The same where this process stood
// still (SIGSTOP, a suspended machine): what it slept is given back to every lease.

import { assert } from "../../base/index.ts";
import type { Version } from "./mvcc.ts";
import { leaseExists, leaseNotFound, leaseTooLong, notServed } from "./rpc-error.ts";

interface Lease {
  readonly ttlSeconds: number;
  readonly keys: Set<string>;
  endsMs: number;
}

/** etcd's, with its default election time of 1 s: (3 * 1 s) / 2, rounded up. */
const TTL_MIN_SECONDS = 2;
/** etcd's. */
const TTL_MAX_SECONDS = 9_000_000_000;
/** A node has one or two, a leader one more. */
const LEASES_MAX = 10_000;
export const EXPIRY_PERIOD_MS = 200;
/** A timer that is later than this did not run because the process did not. */
const STOOD_STILL_MS = 1000;

export class Leases {
  readonly #leases = new Map<bigint, Lease>();
  #lastLookMs: number;

  constructor(nowMs: number) {
    this.#lastLookMs = nowMs;
  }

  /** The seconds that are granted. */
  grant(id: bigint, seconds: number, nowMs: number): number {
    if (seconds > TTL_MAX_SECONDS) throw leaseTooLong();
    if (this.#leases.has(id)) throw leaseExists();
    if (this.#leases.size >= LEASES_MAX) throw notServed(`more than ${LEASES_MAX} leases`);
    const ttlSeconds = Math.max(seconds, TTL_MIN_SECONDS);
    this.restore(id, ttlSeconds, nowMs);
    return ttlSeconds;
  }

  restore(id: bigint, ttlSeconds: number, nowMs: number): void {
    this.#leases.set(id, { ttlSeconds, keys: new Set(), endsMs: nowMs + ttlSeconds * 1000 });
  }

  has(id: bigint): boolean {
    return this.#leases.has(id);
  }

  /** Its seconds from now; 0 = no such lease. */
  renew(id: bigint, nowMs: number): number {
    const lease = this.#leases.get(id);
    if (lease === undefined) return 0;
    lease.endsMs = nowMs + lease.ttlSeconds * 1000;
    return lease.ttlSeconds;
  }

  /** A key changed hands: from what it held before to what it holds now. */
  moveKey(before: Version | null, now: Version): void {
    if (before !== null && before.lease !== 0n) {
      this.#leases.get(before.lease)?.keys.delete(before.key);
    }
    if (now.lease === 0n) return;
    const lease = this.#leases.get(now.lease);
    assert(lease !== undefined, "a key hangs on a lease that is there");
    lease.keys.add(now.key);
  }

  /** The keys that go with it. */
  take(id: bigint): string[] {
    const lease = this.#leases.get(id);
    if (lease === undefined) throw leaseNotFound();
    this.#leases.delete(id);
    return [...lease.keys].sort();
  }

  /** Leases whose time is over. */
  expired(nowMs: number): bigint[] {
    const lateMs = nowMs - this.#lastLookMs - EXPIRY_PERIOD_MS;
    this.#lastLookMs = nowMs;
    if (lateMs > STOOD_STILL_MS) {
      for (const lease of this.#leases.values()) lease.endsMs += lateMs;
    }
    const ids: bigint[] = [];
    for (const [id, lease] of this.#leases) if (lease.endsMs <= nowMs) ids.push(id);
    return ids;
  }
}
