// A lease that is kept alive until somebody ends it or it is lost.
//
// It is renewed three times in its life. Time is counted from the moment a renewal was sent, so
// that we never believe longer than the server does (but for its clock's rate). When the time is
// over without an answer, the lease is called lost although the server may not have ended it yet:
// whoever holds it must assume the worst.

import type { MetaLease } from "../ports/meta-store.ts";
import { MetaError } from "./errors.ts";
import type { EtcdClient } from "./etcd-client.ts";

const RENEWALS = 3;
const RETRY_MS = 200;

export class KeptLease implements MetaLease {
  readonly id: bigint;
  readonly ttlMs: number;
  readonly #client: EtcdClient;
  readonly #lost: () => void;
  #timer: NodeJS.Timeout | null = null;
  #endsMs: number;
  #isEnded = false;

  constructor(
    client: EtcdClient,
    id: bigint,
    ttlMs: number,
    grantSentMs: number,
    lost: () => void,
  ) {
    this.#client = client;
    this.id = id;
    this.ttlMs = ttlMs;
    this.#lost = lost;
    this.#endsMs = grantSentMs + ttlMs;
    this.#schedule(ttlMs / RENEWALS);
  }

  async revoke(): Promise<void> {
    this.abandon();
    await this.#client.revokeLease(this.id);
  }

  abandon(): void {
    this.#isEnded = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #schedule(delayMs: number): void {
    this.#timer = setTimeout(() => void this.#renew(), delayMs);
  }

  async #renew(): Promise<void> {
    const sentMs = performance.now();
    const leftMs = this.#endsMs - sentMs;
    if (leftMs <= 0) return this.#lose();
    let next = RETRY_MS;
    try {
      const seconds = await this.#client.keepLeaseAlive(
        this.id,
        Math.min(leftMs, this.ttlMs / RENEWALS),
      );
      if (this.#isEnded) return;
      if (seconds === 0) return this.#lose();
      this.#endsMs = Math.max(this.#endsMs, sentMs + seconds * 1000);
      next = this.ttlMs / RENEWALS;
    } catch (error) {
      if (!(error instanceof MetaError)) throw error;
    }
    if (this.#isEnded) return;
    // At the latest when it ends, to say so.
    this.#schedule(Math.max(1, Math.min(next, this.#endsMs - performance.now())));
  }

  #lose(): void {
    if (this.#isEnded) return;
    this.abandon();
    this.#lost();
  }
}
