// One suite for every metadata server: what holds for etcd holds for the embedded server, seen
// through the client that the daemons use. The cases are in conformance-*.ts.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { EtcdMetaStore } from "../../meta/index.ts";
import type { MetaChange, MetaList, MetaOutcome, MetaWatchHandler } from "../../ports/index.ts";
import { FaultProxy } from "./fault-proxy.ts";
import { type MetaKind, MetaProcess } from "./meta-process.ts";

export interface Bench {
  readonly server: MetaProcess;
  readonly store: EtcdMetaStore;
  /** Keys of this case only. */
  readonly prefix: string;
  /** Closed with the case. */
  connect(...args: Parameters<MetaProcess["connect"]>): EtcdMetaStore;
  proxy(): Promise<FaultProxy>;
}

export interface Case {
  readonly name: string;
  run(bench: Bench): Promise<void>;
}

/** Far beyond what any case takes on a loaded machine. */
const CASE_TIMEOUT_MS = 120_000;
const WAIT_MS = 60_000;

/** All cases against one server. */
export function conformance(kind: MetaKind, cases: readonly Case[]): void {
  describe(`metadata in ${kind}`, () => {
    let server: MetaProcess;
    before(async () => {
      server = await MetaProcess.start(kind);
    });
    after(async () => {
      const exitCode = await server.stop();
      if (kind === "embedded") assert.equal(exitCode, 0, `it stops cleanly: ${server.log}`);
    });
    for (const [index, one] of cases.entries()) {
      test(one.name, { timeout: CASE_TIMEOUT_MS }, () => runCase(server, one, `case${index}/`));
    }
  });
}

async function runCase(server: MetaProcess, one: Case, prefix: string): Promise<void> {
  const stores: EtcdMetaStore[] = [];
  const proxies: FaultProxy[] = [];
  const connect = (...args: Parameters<MetaProcess["connect"]>): EtcdMetaStore => {
    const store = server.connect(...args);
    stores.push(store);
    return store;
  };
  const proxy = async (): Promise<FaultProxy> => {
    const started = await FaultProxy.start(server.port);
    proxies.push(started);
    return started;
  };
  try {
    await one.run({ server, store: connect(), prefix, connect, proxy });
  } finally {
    for (const store of stores) store.close();
    for (const started of proxies) await started.close();
  }
}

export function bytes(text: string): Buffer {
  return Buffer.from(text);
}

export function textOf(value: Uint8Array | undefined): string {
  return Buffer.from(value ?? []).toString();
}

/** The revision at which it was applied. */
export function applied(outcome: MetaOutcome): number {
  assert.equal(outcome.outcome, "applied", JSON.stringify(outcome));
  return outcome.outcome === "applied" ? outcome.revision : 0;
}

export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const endMs = performance.now() + WAIT_MS;
  while (!(await holds())) {
    assert.ok(performance.now() < endMs, `within ${WAIT_MS} ms: ${what}`);
    await sleep(20);
  }
}

/** A watch that keeps what it was told, and what the keys hold by that. */
export class Follower implements MetaWatchHandler {
  resets = 0;
  readonly changes: MetaChange[] = [];
  readonly held: Map<string, string> = new Map();
  revision = 0;

  reset(list: MetaList): void {
    this.resets++;
    this.held.clear();
    for (const { key, value } of list.entries) this.held.set(key, textOf(value));
    this.revision = list.revision;
  }

  changed(changes: readonly MetaChange[], revision: number): void {
    assert.ok(changes.length > 0);
    for (const change of changes) {
      const at = change.kind === "put" ? change.entry.modRevision : change.modRevision;
      assert.ok(at > this.revision && at <= revision, `${at} in (${this.revision}, ${revision}]`);
      this.changes.push(change);
      if (change.kind === "delete") this.held.delete(change.key);
      else this.held.set(change.entry.key, textOf(change.entry.value));
    }
    this.revision = revision;
  }
}
