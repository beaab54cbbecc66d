// What an error says about a write: refused, or unknown. And whatever it says, the write was sent
// once.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server, ServerCredentials, type sendUnaryData, status } from "@grpc/grpc-js";
import type { TxnResponse } from "./etcd-messages.ts";
import { KV_RANGE, KV_TXN } from "./etcd-services.ts";
import { EtcdMetaStore } from "./etcd-store.ts";
import { swapUntilKnown } from "./swap.ts";

const LIMIT = { timeout: 60_000 };
const server = new Server();
let store: EtcdMetaStore;
let sent = 0;
let answer: { code: status; details: string } | TxnResponse | "silence" = "silence";

before(async () => {
  const txn = (_: unknown, done: sendUnaryData<TxnResponse>): void => {
    sent++;
    if (answer === "silence") return;
    if ("code" in answer) done(answer, null);
    else done(null, answer);
  };
  const range = (_: unknown, done: sendUnaryData<never>): void => {
    sent++;
    done({ code: status.UNAVAILABLE, details: "etcdserver: leader changed" }, null);
  };
  server.addService({ txn: KV_TXN, range: KV_RANGE } as never, { txn, range } as never);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(error);
    });
  });
  store = new EtcdMetaStore({ endpoints: [`127.0.0.1:${port}`], timeoutMs: 3000 });
});

after(() => {
  store.close();
  server.forceShutdown();
});

const UNKNOWN: readonly (readonly [status, string])[] = [
  [status.UNAVAILABLE, "etcdserver: request timed out"],
  [status.UNAVAILABLE, "etcdserver: leader changed"],
  [status.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"],
  // From the transport, about the answer: the request was carried out.
  [status.RESOURCE_EXHAUSTED, "Received message larger than max"],
  [status.INVALID_ARGUMENT, "a proxy did not like it"],
  [status.UNKNOWN, "etcdserver: something new"],
  [status.INTERNAL, "stream ended"],
  [status.CANCELLED, "cancelled"],
];

const REFUSED: readonly (readonly [status, string, string])[] = [
  [status.INVALID_ARGUMENT, "etcdserver: request is too large", "limit"],
  [status.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", "refused"],
  [status.RESOURCE_EXHAUSTED, "etcdserver: too many requests", "limit"],
  [status.NOT_FOUND, "etcdserver: requested lease not found", "lease-lost"],
  [status.PERMISSION_DENIED, "etcdserver: permission denied", "authentication"],
];

for (const [code, details] of UNKNOWN) {
  test(
    `a write answered with ${status[code]}, "${details}", is unknown, and sent once`,
    LIMIT,
    async () => {
      answer = { code, details };
      sent = 0;
      const outcome = await store.compareAndSwap("k", 0, Buffer.from("v"));
      assert.equal(outcome.outcome, "unknown");
      assert.ok(outcome.outcome === "unknown" && outcome.reason.includes(details));
      assert.equal(sent, 1);
    },
  );
}

for (const [code, details, meaning] of REFUSED) {
  test(`a write answered with "${details}" was not applied: ${meaning}`, LIMIT, async () => {
    answer = { code, details };
    sent = 0;
    await assert.rejects(store.compareAndSwap("k", 0, Buffer.from("v")), { code: meaning });
    assert.equal(sent, 1);
  });
}

test(
  "a write that is not answered is unknown when its time is over, and sent once",
  LIMIT,
  async () => {
    answer = "silence";
    sent = 0;
    assert.equal((await store.compareAndSwap("k", 0, Buffer.from("v"))).outcome, "unknown");
    assert.equal(sent, 1);
  },
);

test("a read is asked again until its time is over", LIMIT, async () => {
  sent = 0;
  await assert.rejects(store.get("k"), { code: "unavailable", message: /leader changed/ });
  assert.ok(sent > 2, `${sent} times`);
});

test(
  "a swap that stays unknown is given up as unknown, even if it is refused at last",
  LIMIT,
  async () => {
    const swap = { key: "k", modRevision: 0, value: Buffer.from("v") };
    answer = { code: status.UNKNOWN, details: "?" };
    let asked = 0;
    await assert.rejects(
      swapUntilKnown(store, swap, () => ++asked > 3),
      { code: "unknown" },
    );
    asked = 0;
    const refusedAtLast = swapUntilKnown(store, swap, () => {
      answer = { code: status.INVALID_ARGUMENT, details: "etcdserver: request is too large" };
      return false;
    });
    await assert.rejects(refusedAtLast, { code: "unknown" });
  },
);
