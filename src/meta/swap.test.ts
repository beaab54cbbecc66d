// Swaps against a store that loses answers: before the write, after it, and with the write arriving
// later than everything that was said since. What is answered is what happened, once.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../base/index.ts";
import type { MetaEntry, MetaOutcome, MetaTransaction } from "../ports/meta-store.ts";
import { MetaError } from "./errors.ts";
import type { EtcdMetaStore } from "./etcd-store.ts";
import { type Swap, swapMany, swapUntilKnown } from "./swap.ts";

const SEEDS = Number(process.env["RINGSTORE_SEEDS"] ?? 60);

/** Keys in memory; every write that was applied is remembered. */
class LossyStore {
  readonly #random: Prng;
  readonly #held = new Map<string, MetaEntry>();
  readonly #late: MetaTransaction[] = [];
  readonly history: string[] = [];
  #revision = 1;
  faultPercent = 40;

  constructor(seed: number) {
    this.#random = new Prng(seed);
  }

  get(key: string): MetaEntry | null {
    return this.#held.get(key) ?? null;
  }

  compareAndSwap(key: string, modRevision: number, value: Uint8Array | null): Promise<MetaOutcome> {
    return this.transact({ guards: [{ key, modRevision }], writes: [{ key, value }] });
  }

  async transact(transaction: MetaTransaction): Promise<MetaOutcome> {
    // Whatever is still on its way may arrive before, or stay there.
    while (this.#late.length > 0 && this.#random.u32() % 2 === 0) this.#apply(this.#late.shift()!);
    const fault = this.#random.u32() % 100 < this.faultPercent ? this.#random.u32() % 4 : -1;
    if (fault === 0) throw new MetaError("unavailable", "never sent");
    const unknown = { outcome: "unknown", reason: "lost" } as const;
    if (fault === 1) return unknown;
    if (fault === 2) {
      this.#late.push(transaction);
      return unknown;
    }
    const outcome = this.#apply(transaction);
    return fault === 3 ? unknown : outcome;
  }

  flush(): void {
    for (const transaction of this.#late.splice(0)) this.#apply(transaction);
  }

  #apply({ guards, writes }: MetaTransaction): MetaOutcome {
    const found = guards.map(({ key }) => this.get(key));
    const holds = guards.every((one, at) => one.modRevision === (found[at]?.modRevision ?? 0));
    if (!holds) return { outcome: "conflict", revision: this.#revision, found };
    const revision = ++this.#revision;
    for (const { key, value } of writes) {
      this.history.push(`${key}=${value === null ? "-" : Buffer.from(value).toString()}`);
      if (value === null) this.#held.delete(key);
      else this.#put(key, value, revision);
    }
    return { outcome: "applied", revision };
  }

  #put(key: string, value: Uint8Array, modRevision: number): void {
    const facts = { createRevision: 0, version: 1, leaseId: 0n };
    this.#held.set(key, { key, value, modRevision, ...facts });
  }
}

function asStore(lossy: LossyStore): EtcdMetaStore {
  return lossy as unknown as EtcdMetaStore;
}

/** Time stands still: what waits before it says something again need not. */
function quickly<T>(
  t: { mock: typeof import("node:test").mock },
  act: () => Promise<T>,
): Promise<T> {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const pump = setInterval(() => t.mock.timers.tick(1000), 0);
  return act().finally(() => {
    clearInterval(pump);
    t.mock.timers.reset();
  });
}

test(`one swap, ${SEEDS} seeds: applied means applied once, conflict means never`, async (t) => {
  let applied = 0;
  let conflicts = 0;
  let open = 0;
  await quickly(t, async () => {
    for (let seed = 0; seed < SEEDS; seed++) {
      const lossy = new LossyStore(seed);
      for (let round = 0; round < 20; round++) {
        const value = Buffer.from(`v${round}`);
        // Every fourth with a revision that is not the right one.
        const modRevision = (lossy.get("k")?.modRevision ?? 0) + (round % 4 === 3 ? 1000 : 0);
        let left = 8;
        const swap = { key: "k", modRevision, value };
        const answer = await swapUntilKnown(asStore(lossy), swap, () => --left <= 0).catch(
          (error: MetaError) => error,
        );
        lossy.flush();
        const times = lossy.history.filter((entry) => entry === `k=v${round}`).length;
        const context = `seed ${seed}, round ${round}, ${times} times`;
        if (answer instanceof MetaError) {
          assert.ok(times <= (answer.code === "unknown" ? 1 : 0), `${answer.code}: ${context}`);
          open++;
        } else {
          assert.equal(times, answer.outcome === "applied" ? 1 : 0, context);
          if (answer.outcome === "applied") applied++;
          else conflicts++;
        }
      }
    }
  });
  assert.ok(applied > SEEDS && conflicts > SEEDS && open > 0, `${applied} ${conflicts} ${open}`);
});

test(`many swaps, ${SEEDS} seeds: each has its own answer, and it is the right one`, async (t) => {
  let rejected = 0;
  await quickly(t, async () => {
    for (let seed = 0; seed < SEEDS; seed++) {
      const lossy = new LossyStore(seed);
      lossy.faultPercent = 20;
      const swaps: Swap[] = Array.from({ length: 200 }, (_, index) => ({
        key: `k${index}`,
        modRevision: index % 50 === 7 ? 9 : 0,
        value: Buffer.from(`v${index}`),
      }));
      let left = 2000;
      const answers = await swapMany(asStore(lossy), swaps, () => --left <= 0).catch(() => null);
      lossy.flush();
      if (answers === null) {
        rejected++;
        continue;
      }
      for (const [index, answer] of answers.entries()) {
        const times = lossy.history.filter((entry) => entry === `k${index}=v${index}`).length;
        assert.equal(answer.outcome, index % 50 === 7 ? "conflict" : "applied");
        assert.equal(times, answer.outcome === "applied" ? 1 : 0, `seed ${seed}, swap ${index}`);
      }
    }
  });
  assert.ok(rejected < SEEDS / 2, `${rejected} of ${SEEDS} were never answered`);
});
