// The metadata of the cluster, as everyone who uses it sees it: keys with revisions that can be
// compared and swapped. etcd is behind it, or the embedded server, or the simulator's.
//
// Every write ends in one of four ways, and a caller must know which:
// - "applied";
// - "conflict": a guard did not hold, nothing was changed, and what was found is told;
// - "unknown": it may have been applied, may not, and may still be. Whoever gets it
//   says the same again until the answer is a definite one (`swapUntilKnown` in meta/), and
//   acknowledges nothing before;
// - the promise is rejected: it surely was not applied and never will be.
//
// Reads are linearizable. A watch is a hint that something changed: it may be late by any time, so
// no decision rests on it; who decides reads, or swaps with a guard.

export interface MetaEntry {
  readonly key: string;
  readonly value: Uint8Array;
  /** Revision of the store at which the key came to be, and at which it was last changed. */
  readonly createRevision: number;
  readonly modRevision: number;
  /** Changes since it came to be; 1 at first. */
  readonly version: number;
  /** 0n: none. */
  readonly leaseId: bigint;
}

export interface MetaList {
  /** In the order of their keys' bytes, all as they were at `revision`. */
  readonly entries: readonly MetaEntry[];
  readonly revision: number;
}

export interface MetaGuard {
  readonly key: string;
  /** The key's last change; 0 = there is no such key. */
  readonly modRevision: number;
}

export interface MetaWrite {
  readonly key: string;
  /** null: the key goes. */
  readonly value: Uint8Array | null;
  /** The key goes when this lease ends. */
  readonly lease?: MetaLease;
}

/** All guards hold and all writes happen at one revision, or nothing happens. */
export interface MetaTransaction {
  readonly guards: readonly MetaGuard[];
  /** Each key at most once. */
  readonly writes: readonly MetaWrite[];
}

export type MetaOutcome =
  | { readonly outcome: "applied"; readonly revision: number }
  | {
      readonly outcome: "conflict";
      readonly revision: number;
      /** What each guard's key held, in the order of the guards. */
      readonly found: readonly (MetaEntry | null)[];
    }
  | { readonly outcome: "unknown"; readonly reason: string };

export type MetaChange =
  | { readonly kind: "put"; readonly entry: MetaEntry }
  | { readonly kind: "delete"; readonly key: string; readonly modRevision: number };

export interface MetaWatchHandler {
  /** Everything there is: at first, and again where changes were missed and are forgotten. */
  reset(list: MetaList): void;
  /** All changes of one or more revisions, in order; `revision` is the last of them. */
  changed(changes: readonly MetaChange[], revision: number): void;
}

export interface MetaWatch {
  close(): void;
}

export interface MetaLease {
  readonly id: bigint;
  readonly ttlMs: number;
  /** Its keys go now. */
  revoke(): Promise<void>;
  /** It is renewed no more, and ends when its time is over. */
  abandon(): void;
}

/** Guards, and writes, of one transaction: what etcd allows unless it is told otherwise. */
export const META_TRANSACTION_MAX = 128;
/** A whole request: etcd's default limit is 1.5 MiB; the rest is for keys and framing. */
export const META_VALUE_MAX_BYTES: number = 1024 * 1024;

export interface MetaStore {
  get(key: string): Promise<MetaEntry | null>;
  /** All keys that begin with `prefix`. */
  list(prefix: string): Promise<MetaList>;
  /** One key: `modRevision` 0 makes it, `value` null takes it away. */
  compareAndSwap(
    key: string,
    modRevision: number,
    value: Uint8Array | null,
    lease?: MetaLease,
  ): Promise<MetaOutcome>;
  transact(transaction: MetaTransaction): Promise<MetaOutcome>;
  watch(prefix: string, handler: MetaWatchHandler): MetaWatch;
  /**
   * A lease that is renewed until it is revoked, abandoned or lost. `lost` is called when it has
   * ended, or when it may have: its time has passed since the last renewal that was answered.
   */
  grantLease(ttlMs: number, lost: () => void): Promise<MetaLease>;
  close(): void;
}
