// The embedded server and etcd are given the same random requests, and give the same answers: values,
// revisions, versions, counts, previous values, old revisions, compaction, refusals word for word.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../../base/index.ts";
import { EtcdConnection } from "../../meta/etcd-connection.ts";
import * as m from "../../meta/etcd-messages.ts";
import * as services from "../../meta/etcd-services.ts";
import { MetaProcess } from "./meta-process.ts";

const OPERATIONS = Number(process.env["RINGSTORE_META_OPERATIONS"] ?? 600);
const SEED = Number(process.env["RINGSTORE_SEED"] ?? 1);
const TIMEOUT_MS = 60_000 + OPERATIONS * 500;
const KEYS = ["a", "b", "ba", "bb", "b\xff", "c"].map((key) => Buffer.from(key, "latin1"));
const ENDS = ["", "\0", "b", "bb", "c", "\xff"].map((key) => Buffer.from(key, "latin1"));

/** One request, for either server. */
type Ask = (connection: EtcdConnection) => Promise<unknown>;

class Requests {
  readonly #random: Prng;
  /** The newest revision that was seen. */
  revision = 1;
  compacted = 0;

  constructor(seed: number) {
    this.#random = new Prng(seed);
  }

  next(): Ask {
    const options = { isWrite: true };
    switch (this.#below(12)) {
      case 0:
      case 1:
      case 2: {
        const request = this.#range();
        return (one) => one.unary(services.KV_RANGE, request, { isWrite: false });
      }
      case 3:
      case 4:
      case 5: {
        const request = this.#put();
        return (one) => one.unary(services.KV_PUT, request, options);
      }
      case 6: {
        const request = this.#delete();
        return (one) => one.unary(services.KV_DELETE_RANGE, request, options);
      }
      case 7:
        if (this.#below(4) > 0) return this.next();
        return this.#compact();
      default: {
        const request = this.#txn();
        return (one) => one.unary(services.KV_TXN, request, options);
      }
    }
  }

  #compact(): Ask {
    const revision = this.#someRevision();
    const request = { revision, physical: true };
    return (one) => one.unary(services.KV_COMPACT, request, { isWrite: true });
  }

  #range(): m.RangeRequest {
    return m.RANGE_REQUEST.make({
      key: this.#pick(KEYS),
      rangeEnd: this.#pick(ENDS),
      limit: this.#below(4),
      revision: this.#below(2) * this.#someRevision(),
      keysOnly: this.#below(4) === 0,
      countOnly: this.#below(6) === 0,
    });
  }

  #put(): m.PutRequest {
    return m.PUT_REQUEST.make({
      key: this.#below(40) === 0 ? Buffer.alloc(0) : this.#pick(KEYS),
      value: Buffer.from("v".repeat(this.#below(3))),
      prevKv: this.#below(2) === 0,
      lease: this.#below(30) === 0 ? 4711n : 0n,
    });
  }

  #delete(ends: readonly Buffer[] = ENDS): m.DeleteRangeRequest {
    const rangeEnd = this.#below(3) === 0 ? this.#pick(ends) : Buffer.alloc(0);
    return m.DELETE_RANGE_REQUEST.make({ key: this.#pick(KEYS), rangeEnd, prevKv: true });
  }

  #txn(): m.TxnRequest {
    const operations = (): m.RequestOp[] =>
      Array.from({ length: this.#below(4) }, () => this.#operation());
    const compare = Array.from({ length: this.#below(3) }, () => this.#compare());
    return { compare, success: operations(), failure: operations() };
  }

  #operation(): m.RequestOp {
    const kind = this.#below(4);
    if (kind === 0) return m.REQUEST_OP.make({ range: this.#range() });
    // etcd misses that a put lies in a deletion "to the end"; ours refuses it like any other.
    const ends = ENDS.filter((end) => !(end.length === 1 && end[0] === 0));
    if (kind === 1) return m.REQUEST_OP.make({ deleteRange: this.#delete(ends) });
    return m.REQUEST_OP.make({ put: this.#put() });
  }

  #compare(): m.Compare {
    const target = this.#below(5);
    const revision = this.#below(2) * this.#someRevision();
    return m.COMPARE.make({
      key: this.#pick(KEYS),
      result: this.#below(4),
      target,
      ...(target === m.TARGET_VERSION && { version: this.#below(4) }),
      ...(target === m.TARGET_CREATE && { createRevision: revision }),
      ...(target === m.TARGET_MOD && { modRevision: revision }),
      ...(target === m.TARGET_VALUE && { value: Buffer.from("v".repeat(this.#below(3))) }),
    });
  }

  /** Mostly one that is remembered; sometimes compacted, sometimes yet to come. */
  #someRevision(): number {
    const from = this.#below(8) === 0 ? 1 : Math.max(1, this.compacted);
    return from + this.#below(this.revision - from + 2);
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.#below(list.length)]!;
  }

  #below(limit: number): number {
    return this.#random.u32() % limit;
  }
}

/** What must be equal: not who answered, and not how a buffer came about. */
function comparable(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("latin1");
  if (Array.isArray(value)) return value.map(comparable);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).filter(
    ([key]) => !["clusterId", "memberId", "raftTerm"].includes(key),
  );
  return Object.fromEntries(entries.map(([key, one]) => [key, comparable(one)]));
}

async function outcome(connection: EtcdConnection, ask: Ask): Promise<unknown> {
  try {
    return comparable(await ask(connection));
  } catch (error) {
    const { code, message } = error as { code: string; message: string };
    return { code, message };
  }
}

test(`${OPERATIONS} random requests, seed ${SEED}`, { timeout: TIMEOUT_MS }, async (t) => {
  const servers = [await MetaProcess.start("etcd"), await MetaProcess.start("embedded")];
  const [etcd, embedded] = servers.map(
    (server) => new EtcdConnection({ endpoints: [server.endpoint], timeoutMs: 30_000 }),
  );
  try {
    const requests = new Requests(SEED);
    const refusals = new Map<string, number>();
    for (let index = 0; index < OPERATIONS; index++) {
      const ask = requests.next();
      const answers = await Promise.all([outcome(etcd!, ask), outcome(embedded!, ask)]);
      const [wanted, found] = answers;
      assert.deepEqual(found, wanted, `request ${index} of seed ${SEED}`);
      const { header, message } = wanted as { header?: m.Header; message?: string };
      if (message !== undefined) refusals.set(message, (refusals.get(message) ?? 0) + 1);
      requests.revision = Math.max(requests.revision, header?.revision ?? 0);
    }
    t.diagnostic(`revision ${requests.revision}; refusals: ${JSON.stringify([...refusals])}`);
    assert.ok(requests.revision > OPERATIONS / 10, "many of them changed something");
    assert.ok(refusals.size >= 3, "some were refused, for several reasons");
  } finally {
    etcd!.close();
    embedded!.close();
    for (const server of servers) await server.stop();
  }
});
