// Conformance: TLS and authentication, each with a server of its own.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { EtcdMetaStore } from "../../meta/index.ts";
import { makeCertificate } from "./certificate.ts";
import { applied, bytes, Follower, textOf, until } from "./conformance.ts";
import { type MetaKind, MetaProcess } from "./meta-process.ts";

const TIMEOUT_MS = 120_000;
const USER = { name: "ringstore", password: "correct horse" };

export function secrets(kind: MetaKind): void {
  describe(`metadata in ${kind}, behind TLS and a password`, () => {
    let server: MetaProcess;
    before(async () => {
      server = await MetaProcess.start(kind, { hasTls: true, user: USER });
    });
    after(() => server.stop());

    test("with the certificate and the password everything works", { timeout: TIMEOUT_MS }, () =>
      using(server.connect(), async (store) => {
        const follower = new Follower();
        store.watch("a/", follower);
        const revision = applied(await store.compareAndSwap("a/k", 0, bytes("1")));
        const lease = await store.grantLease(10_000, () => undefined);
        applied(await store.compareAndSwap("a/k", revision, bytes("2"), lease));
        await until("the watch", () => follower.held.get("a/k") === "2");
        await lease.revoke();
        await until("the lease", () => !follower.held.has("a/k"));
      }),
    );

    test("a token that has become worthless is replaced", { timeout: TIMEOUT_MS }, () =>
      using(server.connect(), async (store) => {
        applied(await store.compareAndSwap("b/k", 0, bytes("1")));
        const follower = new Follower();
        store.watch("b/", follower);
        await until("the watch", () => follower.resets === 1);
        await server.kill("SIGKILL");
        await server.launch();
        const entry = await store.get("b/k");
        assert.equal(textOf(entry?.value), "1");
        applied(await store.compareAndSwap("b/k", entry!.modRevision, bytes("2")));
        await until("the watch", () => follower.held.get("b/k") === "2");
      }),
    );

    const wrong: [string, Parameters<MetaProcess["connect"]>[0], string][] = [
      ["a wrong password", { user: { name: USER.name, password: "wrong" } }, "authentication"],
      ["an unknown user", { user: { name: "nobody", password: "x" } }, "authentication"],
      ["another certificate", { tls: { ca: makeCertificate("other").certificate } }, "unavailable"],
    ];
    for (const [what, options, code] of wrong) {
      test(`${what} gets nothing`, { timeout: TIMEOUT_MS }, () =>
        using(server.connect({ ...options, timeoutMs: 1000 }), async (store) => {
          await assert.rejects(store.get("a/k"), { code });
          await assert.rejects(store.compareAndSwap("stolen", 0, bytes("x")), { code });
          await assert.rejects(store.list("a/"), { code });
        }),
      );
    }

    test("no password gets nothing, and nothing was written by all that", {
      timeout: TIMEOUT_MS,
    }, async () => {
      const { certificate } = server;
      assert.ok(certificate !== null);
      const { EtcdMetaStore: Store } = await import("../../meta/index.ts");
      const endpoints = [server.endpoint];
      await using(new Store({ endpoints, tls: { ca: certificate.certificate } }), async (store) => {
        await assert.rejects(store.get("a/k"), { code: "authentication" });
      });
      await using(server.connect(), async (store) => {
        assert.equal(await store.get("stolen"), null);
      });
    });
  });
}

async function using(
  store: EtcdMetaStore,
  act: (store: EtcdMetaStore) => Promise<void>,
): Promise<void> {
  try {
    await act(store);
  } finally {
    store.close();
  }
}
