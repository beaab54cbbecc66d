// Conformance: keys, revisions, swaps, transactions, lists, limits, leases.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { MetaError, type Swap, swapMany } from "../../meta/index.ts";
import { META_TRANSACTION_MAX, META_VALUE_MAX_BYTES, type MetaEntry } from "../../ports/index.ts";
import { applied, bytes, type Case, textOf, until } from "./conformance.ts";

export const KEY_CASES: readonly Case[] = [
  {
    name: "a key has the revision at which it was made, that of its last change, and a count",
    run: async ({ store, prefix }) => {
      const key = `${prefix}a`;
      assert.equal(await store.get(key), null);
      const made = applied(await store.compareAndSwap(key, 0, bytes("1")));
      const changed = applied(await store.compareAndSwap(key, made, bytes("2")));
      assert.ok(changed > made);
      const entry = (await store.get(key)) as MetaEntry;
      assert.deepEqual(
        { ...entry, value: textOf(entry.value) },
        {
          key,
          value: "2",
          createRevision: made,
          modRevision: changed,
          version: 2,
          leaseId: 0n,
        },
      );
      applied(await store.compareAndSwap(key, changed, null));
      assert.equal(await store.get(key), null);
      const again = applied(await store.compareAndSwap(key, 0, bytes("3")));
      const reborn = await store.get(key);
      assert.equal(reborn?.version, 1);
      assert.equal(reborn?.createRevision, again);
    },
  },
  {
    name: "a swap with an old revision changes nothing and tells what is there",
    run: async ({ store, prefix }) => {
      const key = `${prefix}a`;
      const first = applied(await store.compareAndSwap(key, 0, bytes("1")));
      const second = applied(await store.compareAndSwap(key, first, bytes("2")));
      for (const guess of [0, first, second + 1]) {
        const outcome = await store.compareAndSwap(key, guess, bytes("lost"));
        assert.equal(outcome.outcome, "conflict");
        assert.equal(outcome.outcome === "conflict" && outcome.found[0]?.modRevision, second);
      }
      assert.equal(textOf((await store.get(key))?.value), "2");
      const gone = await store.compareAndSwap(`${prefix}none`, 7, bytes("x"));
      assert.deepEqual(gone.outcome === "conflict" && gone.found, [null]);
    },
  },
  {
    name: "a transaction happens whole, at one revision, or not at all",
    run: async ({ store, prefix }) => {
      const keys = Array.from({ length: META_TRANSACTION_MAX }, (_, n) => `${prefix}${n}`);
      const guards = keys.map((key) => ({ key, modRevision: 0 }));
      const writes = keys.map((key) => ({ key, value: bytes(key) }));
      const revision = applied(await store.transact({ guards, writes }));
      const { entries } = await store.list(prefix);
      assert.equal(entries.length, META_TRANSACTION_MAX);
      assert.ok(entries.every((entry) => entry.modRevision === revision));
      const taken = [...guards.slice(0, 3), { key: `${prefix}5`, modRevision: revision }];
      const outcome = await store.transact({
        guards: taken,
        writes: [{ key: keys[5]!, value: null }],
      });
      assert.equal(outcome.outcome, "conflict");
      assert.equal((await store.list(prefix)).entries.length, META_TRANSACTION_MAX);
      // A write and a deletion, with only one guard.
      const mixed = {
        guards: [{ key: keys[0]!, modRevision: revision }],
        writes: [
          { key: keys[1]!, value: null },
          { key: `${prefix}new`, value: bytes("") },
        ],
      };
      const later = applied(await store.transact(mixed));
      assert.equal((await store.get(`${prefix}new`))?.modRevision, later);
      assert.equal(await store.get(keys[1]!), null);
    },
  },
  {
    name: "of many that swap the same key at the same time one wins each round",
    run: async ({ store, prefix, connect }) => {
      const key = `${prefix}counter`;
      const clients = [store, connect(), connect()];
      const rounds = 12;
      const wins = await Promise.all(
        clients.map(async (client) => {
          let won = 0;
          while (won < rounds) {
            const entry = await client.get(key);
            const next = String(Number(textOf(entry?.value)) + 1);
            const outcome = await client.compareAndSwap(key, entry?.modRevision ?? 0, bytes(next));
            if (outcome.outcome === "applied") won++;
          }
          return won;
        }),
      );
      assert.deepEqual(wins, [rounds, rounds, rounds]);
      assert.equal(textOf((await store.get(key))?.value), String(3 * rounds));
    },
  },
  {
    name: "many swaps go in batches, and a conflict of one does not stop the others",
    run: async ({ store, prefix }) => {
      const swaps: Swap[] = Array.from({ length: 300 }, (_, n) => ({
        key: `${prefix}${n}`,
        modRevision: 0,
        value: bytes(`v${n}`),
      }));
      applied(await store.compareAndSwap(`${prefix}7`, 0, bytes("other")));
      const { revision: before } = await store.list(prefix);
      const answers = await swapMany(store, swaps, () => false);
      assert.equal(answers.filter((answer) => answer.outcome === "applied").length, 299);
      const seventh = answers[7]!;
      assert.equal(seventh.outcome === "conflict" && textOf(seventh.found?.value), "other");
      const { entries, revision } = await store.list(prefix);
      assert.equal(entries.length, 300);
      assert.ok(revision - before <= 4, `${revision - before} transactions for 299 swaps`);
    },
  },
  {
    name: "a list is whole and of one revision, however many pages it takes and whatever changes meanwhile",
    run: async ({ store, prefix }) => {
      const count = 400;
      const swaps = Array.from({ length: count }, (_, n) => ({
        key: `${prefix}k${String(n).padStart(4, "0")}`,
        modRevision: 0,
        value: bytes("old"),
      }));
      await swapMany(store, swaps, () => false);
      let isDone = false;
      const writer = (async (): Promise<void> => {
        for (let round = 0; !isDone; round++) {
          for (const { key } of [swaps[0]!, swaps[count - 1]!]) {
            const entry = await store.get(key);
            await store.compareAndSwap(key, entry!.modRevision, bytes(`new ${round}`));
          }
        }
      })();
      for (let round = 0; round < 5; round++) {
        const { entries, revision } = await store.client.list(prefix, 17);
        assert.deepEqual(
          entries.map((entry) => entry.key),
          swaps.map((swap) => swap.key),
        );
        assert.ok(entries.every((entry) => entry.modRevision <= revision));
        // The first is written before the last: at one revision they are at most a step apart.
        const versions = [entries[0]!.version, entries[count - 1]!.version];
        assert.ok([0, 1].includes(versions[0]! - versions[1]!), versions.join());
      }
      isDone = true;
      await writer;
      assert.deepEqual((await store.list(`${prefix}none`)).entries, []);
    },
  },
  {
    name: "what is too much is refused by name and changes nothing",
    run: async ({ store, prefix }) => {
      const key = `${prefix}a`;
      const limit = { code: "limit" };
      const large = Buffer.alloc(META_VALUE_MAX_BYTES + 1);
      await assert.rejects(store.compareAndSwap(key, 0, large), limit);
      const guards = Array.from({ length: META_TRANSACTION_MAX + 1 }, (_, n) => ({
        key: `${key}${n}`,
        modRevision: 0,
      }));
      await assert.rejects(store.transact({ guards, writes: [] }), limit);
      // Past our own check, to the server's.
      const write = { key, value: Buffer.alloc(1.6 * 1024 * 1024), leaseId: 0n };
      await assert.rejects(store.client.transact([], [write]), limit);
      await assert.rejects(store.client.transact(guards, []), limit);
      const twice = { key, value: bytes("x"), leaseId: 0n };
      await assert.rejects(store.client.transact([], [twice, twice]), { code: "refused" });
      await assert.rejects(
        store.grantLease(500, () => undefined),
        limit,
      );
      assert.equal(await store.get(key), null);
      const fits = Buffer.alloc(META_VALUE_MAX_BYTES, 7);
      applied(await store.compareAndSwap(key, 0, fits));
      assert.deepEqual((await store.get(key))?.value, fits);
    },
  },
  {
    name: "a lease that nobody renews takes its keys along, all at once",
    run: async ({ store, prefix }) => {
      const lease = await store.grantLease(2000, () => undefined);
      const keys = [`${prefix}a`, `${prefix}b`];
      const writes = keys.map((key) => ({ key, value: bytes("x"), lease }));
      applied(await store.transact({ guards: [], writes }));
      // A key that was written again without the lease stays.
      const freed = applied(await store.compareAndSwap(`${prefix}c`, 0, bytes("x"), lease));
      applied(await store.compareAndSwap(`${prefix}c`, freed, bytes("stays")));
      const deleted: number[] = [];
      const watch = store.watch(prefix, {
        reset: () => undefined,
        changed: (changes) => {
          for (const one of changes) if (one.kind === "delete") deleted.push(one.modRevision);
        },
      });
      lease.abandon();
      await until("the keys go", async () => (await store.list(prefix)).entries.length === 1);
      await until("both are told", () => deleted.length === 2);
      assert.equal(deleted[0], deleted[1]);
      watch.close();
      const late = store.compareAndSwap(keys[0]!, 0, bytes("y"), lease);
      await assert.rejects(late, (error: unknown) => {
        return error instanceof MetaError && error.code === "lease-lost";
      });
    },
  },
  {
    name: "a lease lives as long as it is renewed, and ends when it is revoked",
    run: async ({ store, prefix }) => {
      const key = `${prefix}live`;
      let isLost = false;
      const lease = await store.grantLease(2000, () => {
        isLost = true;
      });
      applied(await store.compareAndSwap(key, 0, bytes("x"), lease));
      await sleep(2 * lease.ttlMs);
      assert.equal((await store.get(key))?.leaseId, lease.id);
      assert.equal(isLost, false);
      await lease.revoke();
      assert.equal(await store.get(key), null);
      await lease.revoke();
      assert.equal(isLost, false, "who revokes need not be told");
    },
  },
  {
    name: "a lease that was ended by somebody else is said to be lost",
    run: async ({ store, prefix }) => {
      let losses = 0;
      const lease = await store.grantLease(2000, () => losses++);
      applied(await store.compareAndSwap(`${prefix}a`, 0, bytes("x"), lease));
      await store.client.revokeLease(lease.id);
      await until("the loss is told", () => losses === 1);
      await sleep(100);
      assert.equal(losses, 1);
    },
  },
  {
    name: "etcd's own backup arrives whole, and the embedded server says that it has none",
    run: async ({ store, server }) => {
      const pieces: Uint8Array[] = [];
      const asked = store.client.snapshot((piece) => pieces.push(Uint8Array.from(piece)));
      if (server.kind === "embedded") {
        await assert.rejects(asked, { code: "unavailable", message: /UNIMPLEMENTED/ });
        return;
      }
      await asked;
      const file = Buffer.concat(pieces);
      const digest = createHash("sha256").update(file.subarray(0, -32)).digest();
      assert.deepEqual(file.subarray(-32), digest, "etcd puts the checksum behind it");
      assert.ok(file.length > 10_000, `${file.length} bytes`);
    },
  },
];
