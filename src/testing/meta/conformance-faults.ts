// Conformance: watches over cuts and compaction, answers that get lost, endpoints that fail, and a
// server that is killed.

import assert from "node:assert/strict";
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type EtcdMetaStore, type MetaError, swapUntilKnown } from "../../meta/index.ts";
import { applied, type Bench, bytes, type Case, Follower, textOf, until } from "./conformance.ts";

async function write(store: EtcdMetaStore, key: string, value: string): Promise<number> {
  const entry = await store.get(key);
  return applied(await store.compareAndSwap(key, entry?.modRevision ?? 0, bytes(value)));
}

/** A client through a proxy of its own. */
async function faulty(bench: Bench, timeoutMs = 20_000) {
  const proxy = await bench.proxy();
  return { proxy, store: bench.connect({ endpoints: [proxy.endpoint], timeoutMs }) };
}

export const FAULT_CASES: readonly Case[] = [
  {
    name: "a watch begins with what is there and goes on with every change, in order",
    run: async ({ store, prefix }) => {
      await write(store, `${prefix}a`, "1");
      const follower = new Follower();
      const watch = store.watch(prefix, follower);
      await until("the first list", () => follower.resets === 1);
      assert.deepEqual([...follower.held], [[`${prefix}a`, "1"]]);
      await write(store, `${prefix}a`, "2");
      const madeAt = await write(store, `${prefix}b`, "1");
      applied(await store.compareAndSwap(`${prefix}b`, madeAt, null));
      await write(store, `x${prefix}`, "not ours");
      await write(store, `${prefix}a`, "3");
      await until("all changes", () => follower.changes.length === 4);
      assert.deepEqual(
        follower.changes.map((one) => (one.kind === "put" ? textOf(one.entry.value) : one.kind)),
        ["2", "1", "delete", "3"],
      );
      watch.close();
      await write(store, `${prefix}a`, "4");
      await sleep(200);
      assert.equal(follower.changes.length, 4, "a closed watch says nothing");
      assert.equal(follower.resets, 1);
    },
  },
  {
    name: "a watch goes on where it was when its connection is cut, again and again",
    run: async (bench) => {
      const { store, prefix } = bench;
      const { proxy, store: watching } = await faulty(bench);
      const followers = [new Follower(), new Follower(), new Follower()];
      for (const [n, follower] of followers.entries()) watching.watch(`${prefix}${n}/`, follower);
      await until("the lists", () => followers.every((one) => one.resets === 1));
      // Who has not been told of anything yet lists again.
      for (const n of followers.keys()) await write(store, `${prefix}${n}/key`, "0");
      await until("first changes", () => followers.every((one) => one.changes.length === 1));
      let isDone = false;
      const cutter = (async (): Promise<void> => {
        while (!isDone) {
          await sleep(150);
          proxy.cut();
        }
      })();
      const rounds = 15;
      for (let round = 1; round <= rounds; round++) {
        for (const n of followers.keys()) {
          // One right after the other, in the same watch: neither may be skipped.
          await write(store, `${prefix}${n}/key`, `${round}a`);
          await write(store, `${prefix}${n}/key`, `${round}b`);
        }
      }
      isDone = true;
      await cutter;
      const pairs = Array.from({ length: rounds }, (_, n) => [`${n + 1}a`, `${n + 1}b`]);
      const wanted = ["0", ...pairs.flat()];
      for (const follower of followers) {
        await until("every change", () => follower.changes.length >= wanted.length);
        const told = follower.changes.map((one) => one.kind === "put" && textOf(one.entry.value));
        assert.deepEqual(told, wanted, "none is missing, none comes twice");
        assert.equal(follower.resets, 1);
      }
    },
  },
  {
    name: "a watch that missed what was compacted lists again",
    run: async (bench) => {
      const { store, prefix } = bench;
      const { proxy, store: watching } = await faulty(bench);
      const follower = new Follower();
      watching.watch(prefix, follower);
      await write(store, `${prefix}gone`, "1");
      await until("it follows", () => follower.held.has(`${prefix}gone`));
      proxy.setMode("refuse");
      const gone = await store.get(`${prefix}gone`);
      applied(await store.compareAndSwap(`${prefix}gone`, gone!.modRevision, null));
      for (let n = 0; n < 5; n++) await write(store, `${prefix}key`, String(n));
      const last = await write(store, `${prefix}key`, "last");
      await store.client.compact(last);
      await assert.rejects(store.client.compact(last), { code: "compacted" });
      const resets = follower.resets;
      proxy.setMode("pass");
      await until("it lists again", () => follower.resets > resets);
      assert.deepEqual([...follower.held], [[`${prefix}key`, "last"]]);
      await write(store, `${prefix}key`, "on");
      await until("and follows", () => follower.held.get(`${prefix}key`) === "on");
    },
  },
  {
    name: "revisions too large for one message arrive whole",
    run: async (bench) => {
      const { store, prefix } = bench;
      const { proxy, store: watching } = await faulty(bench);
      const follower = new Follower();
      const calls: number[] = [];
      watching.watch(prefix, {
        reset: (list) => follower.reset(list),
        changed: (changes, revision) => {
          calls.push(changes.length);
          follower.changed(changes, revision);
        },
      });
      await until("the list", () => follower.resets === 1);
      await write(store, `${prefix}x`, "1");
      await until("it follows", () => follower.held.has(`${prefix}x`));
      proxy.setMode("refuse");
      const count = 60;
      const rounds = 5;
      const value = Buffer.alloc(16 * 1024, 65);
      const writes = Array.from({ length: count }, (_, n) => ({ key: `${prefix}${n}`, value }));
      for (let round = 0; round < rounds; round++) {
        applied(await store.transact({ guards: [], writes }));
      }
      // All of it is to be caught up at once: cut into messages at any place.
      proxy.setMode("pass");
      await until("all", () => follower.changes.length === 1 + rounds * count);
      assert.equal(follower.resets, 1);
      const whole = calls.slice(1).every((length) => length % count === 0);
      assert.ok(whole, `whole revisions: ${calls.join()}`);
    },
  },
  {
    name: "a write whose answer is lost is unknown, not failed, and saying it again settles it",
    run: async (bench) => {
      const { store, prefix } = bench;
      const { proxy, store: client } = await faulty(bench, 1500);
      const key = `${prefix}a`;
      const first = applied(await client.compareAndSwap(key, 0, bytes("first")));
      proxy.setMode("drop-answers");
      const outcome = await client.compareAndSwap(key, first, bytes("second"));
      assert.equal(outcome.outcome, "unknown");
      await until("it was applied", async () => textOf((await store.get(key))?.value) === "second");
      setTimeout(() => {
        proxy.cut();
        proxy.setMode("pass");
      }, 2000);
      const { modRevision } = (await store.get(key))!;
      const swap = { key, modRevision, value: bytes("third") };
      assert.equal((await swapUntilKnown(client, swap, () => false)).outcome, "applied");
      const entry = await store.get(key);
      assert.equal(textOf(entry?.value), "third");
      assert.equal(entry?.version, 3, "it was applied once");
    },
  },
  {
    name: "a write that never left is no unknown one: it fails, and nothing happens later",
    run: async (bench) => {
      const { store, prefix } = bench;
      const { proxy, store: client } = await faulty(bench, 1500);
      const key = `${prefix}a`;
      await client.get(key);
      proxy.setMode("refuse");
      // The client may not have seen the cut yet: then it cannot know.
      await until("the cut is seen", () =>
        client.get(key).then(
          () => false,
          (error: MetaError) => error.code === "unavailable",
        ),
      );
      await assert.rejects(client.compareAndSwap(key, 0, bytes("x")), { code: "unavailable" });
      proxy.setMode("pass");
      await client.get(key);
      assert.equal(await store.get(key), null);
    },
  },
  {
    name: "an endpoint that stalls or refuses is left for the other one",
    run: async (bench) => {
      const { prefix } = bench;
      const proxies = [await bench.proxy(), await bench.proxy()];
      const endpoints = proxies.map((proxy) => proxy.endpoint);
      const client = bench.connect({ endpoints, timeoutMs: 6000 });
      const key = `${prefix}a`;
      const follower = new Follower();
      client.watch(prefix, follower);
      for (let round = 0; round < 4; round++) {
        const bad = proxies[round % 2]!;
        const mode = round < 2 ? "refuse" : "stall";
        bad.setMode(mode);
        if (mode === "stall") await client.get(key);
        const entry = await client.get(key);
        const { modRevision = 0 } = entry ?? {};
        const swap = { key, modRevision, value: bytes(String(round)) };
        assert.equal((await swapUntilKnown(client, swap, () => false)).outcome, "applied");
        bad.cut();
        bad.setMode("pass");
      }
      await until("the watch follows", () => follower.held.get(key) === "3");
    },
  },
  {
    name: "a client whose metadata is away for longer than its lease knows that it is lost",
    run: async (bench) => {
      const { proxy, store: client } = await faulty(bench);
      let lostMs = 0;
      const startMs = performance.now();
      const lease = await client.grantLease(2000, () => {
        lostMs = performance.now() - startMs;
      });
      proxy.setMode("stall");
      await until("the loss is known", () => lostMs > 0);
      assert.ok(lostMs >= lease.ttlMs, `${lostMs} ms`);
    },
  },
  {
    name: "what was answered is there after the server was killed, and watches go on",
    run: async ({ server, store, prefix }) => {
      const follower = new Follower();
      store.watch(prefix, follower);
      await until("the list", () => follower.resets === 1);
      await write(store, `${prefix}a`, "1");
      const lease = await store.grantLease(30_000, () => undefined);
      applied(await store.compareAndSwap(`${prefix}live`, 0, bytes("x"), lease));
      await until("all is told", () => follower.changes.length === 2);
      await server.kill("SIGKILL");
      const away = store.get(`${prefix}a`);
      await sleep(300);
      await server.launch();
      assert.equal(textOf((await away)?.value), "1", "a read waits for it");
      await write(store, `${prefix}a`, "2");
      await until("the watch goes on", () => follower.held.get(`${prefix}a`) === "2");
      assert.equal(follower.resets, 1);
      assert.equal((await store.get(`${prefix}live`))?.leaseId, lease.id);
      await lease.revoke();
      assert.equal(await store.get(`${prefix}live`), null);
    },
  },
  {
    name: "a backup that was put back is noticed, although it has passed what was told",
    run: async (bench) => {
      const { server, store, prefix } = bench;
      const { proxy, store: watching } = await faulty(bench);
      const follower = new Follower();
      watching.watch(prefix, follower);
      await until("the list", () => follower.resets === 1);
      const b = await write(store, `${prefix}b`, "1");
      await server.kill("SIGTERM");
      const data = join(server.directory, server.kind === "etcd" ? "etcd" : "meta");
      cpSync(data, `${data}.backup`, { recursive: true });
      await server.launch();
      // What will not have been.
      const lost = await write(store, `${prefix}c`, "lost");
      applied(await store.compareAndSwap(`${prefix}b`, b, null));
      const isTold = (): boolean => follower.held.has(`${prefix}c`) && follower.held.size === 1;
      await until("all is told", isTold);
      proxy.setMode("refuse");
      await server.kill("SIGKILL");
      rmSync(data, { recursive: true });
      cpSync(`${data}.backup`, data, { recursive: true });
      await server.launch();
      let passed = 0;
      while (passed <= lost + 2) passed = await write(store, `${prefix}d`, `${passed}`);
      const { resets } = follower;
      proxy.setMode("pass");
      const wanted = JSON.stringify([
        [`${prefix}b`, "1"],
        [`${prefix}d`, textOf((await store.get(`${prefix}d`))?.value)],
      ]);
      await until("what is there", () => JSON.stringify([...follower.held].sort()) === wanted);
      assert.ok(follower.resets > resets, "it has listed again");
      rmSync(`${data}.backup`, { recursive: true });
    },
  },
];
