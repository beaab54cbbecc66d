// The embedded metadata server is killed again and again under load: no answered write is lost,
// transactions stay whole, and a watch is told every revision in order.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EtcdMetaStore } from "../../meta/index.ts";
import { bytes, Follower, textOf, until } from "./conformance.ts";
import { MetaProcess } from "./meta-process.ts";

const KILLS = Number(process.env["RINGSTORE_META_KILLS"] ?? 20);
const WRITERS = 4;
const TIMEOUT_MS = 60_000 + KILLS * 20_000;

/** Swaps two keys of its own, always to the same number, as fast as it is answered. */
class Writer {
  readonly #store: EtcdMetaStore;
  readonly #keys: readonly string[];
  answered = 0;
  tried = 0;
  unknown = 0;
  isDone = false;

  constructor(store: EtcdMetaStore, index: number) {
    this.#store = store;
    this.#keys = [`kill/${index}/a`, `kill/${index}/b`];
  }

  async run(): Promise<void> {
    let revision = await this.check();
    while (!this.isDone) {
      const value = bytes(String(++this.tried));
      const guards = this.#keys.map((key) => ({ key, modRevision: revision }));
      const writes = this.#keys.map((key) => ({ key, value }));
      try {
        const outcome = await this.#store.transact({ guards, writes });
        if (outcome.outcome === "applied") {
          this.answered = this.tried;
          revision = outcome.revision;
          continue;
        }
        assert.equal(outcome.outcome, "unknown", "nobody else writes these keys");
        this.unknown++;
      } catch (error) {
        assert.equal((error as { code?: string }).code, "unavailable", String(error));
      }
      // A server that was killed applies nothing later: what is there now is what became of it.
      if (!this.isDone) revision = await this.check();
    }
  }

  /** Both keys hold the same, not less than was answered, not more than was tried. */
  async check(): Promise<number> {
    const { entries } = await this.#store.list(this.#keys[0]!.slice(0, -1));
    const values = entries.map((entry) => Number(textOf(entry.value)));
    assert.equal(new Set(entries.map((entry) => entry.modRevision)).size <= 1, true, "whole");
    const [value = 0, other = 0] = values;
    assert.equal(value, other);
    assert.ok(value >= this.answered, `${value} is there, ${this.answered} was answered`);
    assert.ok(value <= this.tried, `${value} is there, ${this.tried} was tried`);
    this.answered = value;
    return entries[0]?.modRevision ?? 0;
  }
}

test(`${KILLS} kills lose no answered write`, { timeout: TIMEOUT_MS }, async (t) => {
  const server = await MetaProcess.start("embedded");
  const stores = Array.from({ length: WRITERS + 1 }, () => server.connect({ timeoutMs: 30_000 }));
  try {
    const follower = new Follower();
    stores[WRITERS]!.watch("kill/", follower);
    const writers = stores.slice(0, WRITERS).map((store, index) => new Writer(store, index));
    const running = writers.map((writer) => writer.run());
    const failed = Promise.race(running.map((run) => run.then(() => undefined)));
    const act = async (): Promise<void> => {
      for (let kill = 0; kill < KILLS; kill++) {
        const before = writers.reduce((sum, writer) => sum + writer.answered, 0);
        await until("they write", () => {
          return writers.reduce((sum, writer) => sum + writer.answered, 0) >= before + WRITERS;
        });
        await sleep(Math.random() * 100);
        await server.kill("SIGKILL");
        await server.launch();
      }
    };
    // A writer that finds a loss ends the test at once.
    await Promise.race([act(), failed]);
    for (const writer of writers) writer.isDone = true;
    await Promise.all(running);
    for (const writer of writers) await writer.check();
    const { entries } = await stores[0]!.list("kill/");
    const held = new Map(entries.map((entry) => [entry.key, textOf(entry.value)]));
    await until("the watch is up to date", () => {
      return [...held].every(([key, value]) => follower.held.get(key) === value);
    });
    assert.equal(follower.resets, 1, "the history was there after each kill");
    const answered = writers.reduce((sum, writer) => sum + writer.answered, 0);
    const unknown = writers.reduce((sum, writer) => sum + writer.unknown, 0);
    t.diagnostic(`${answered} transactions answered, ${unknown} with an unknown outcome`);
    assert.ok(unknown > 0, "kills came while writes were under way");
  } finally {
    for (const store of stores) store.close();
    await server.stop();
  }
});
