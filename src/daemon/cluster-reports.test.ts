// A node's reports while the metadata under them is replaced, or is thought to be there again.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { MetaError, MetaKeys } from "../meta/index.ts";
import type { MetaEntry, MetaLease, MetaOutcome, MetaStore } from "../ports/meta-store.ts";
import type { ClusterContext } from "./cluster-context.ts";
import { MetaLink } from "./cluster-link.ts";
import { ClusterReports } from "./cluster-reports.ts";

const NODE = "00000000-0000-4000-8000-000000000001";
const CLUSTER = "00000000-0000-4000-8000-000000000002";
const DISK = "00000000-0000-4000-8000-00000000000a";

/** Keys on leases; every question is answered a turn later. */
class LeasedKeys {
  readonly leases: Set<bigint> = new Set();
  readonly keys: Map<string, bigint> = new Map();
  grantCount = 0;
  /** Before the next swaps: the metadata is replaced by an empty one. */
  replacements = 0;

  async grantLease(ttlMs: number): Promise<MetaLease> {
    await null;
    this.grantCount += 1;
    const id = BigInt(this.grantCount);
    this.leases.add(id);
    const end = (): void => {
      this.leases.delete(id);
      for (const [key, lease] of this.keys) if (lease === id) this.keys.delete(key);
    };
    return { id, ttlMs, revoke: async () => end(), abandon: () => undefined };
  }

  async get(): Promise<MetaEntry | null> {
    await null;
    return null;
  }

  async compareAndSwap(
    key: string,
    _revision: number,
    _value: Uint8Array,
    lease: MetaLease,
  ): Promise<MetaOutcome> {
    await null;
    if (this.replacements > 0) {
      this.replacements -= 1;
      this.leases.clear();
      this.keys.clear();
    }
    if (!this.leases.has(lease.id)) {
      throw new MetaError("lease-lost", "etcdserver: requested lease not found");
    }
    this.keys.set(key, lease.id);
    return { outcome: "applied", revision: 1 };
  }
}

let meta: LeasedKeys;
let reports: ClusterReports;
beforeEach(() => {
  meta = new LeasedKeys();
  const declared = { id: DISK, name: "d", sizeBytes: 1 << 20, incarnation: 1 };
  const disks = { statsById: () => new Map(), usable: () => [{ declared }] };
  const context = {
    link: new MetaLink(meta as unknown as MetaStore, ["127.0.0.1:2379"]),
    keys: new MetaKeys(),
    member: {
      clusterId: CLUSTER,
      clusterName: "c",
      nodeId: NODE,
      nodeName: "n",
      address: "127.0.0.1:7400",
      rack: null,
    },
    trusted: { metaBirth: 1, generation: 1 },
    served: new Map(),
    host: { modules: { disks } },
    plane: { listReplicas: async () => [] },
  };
  reports = new ClusterReports(context as unknown as ClusterContext);
});

const toldKeys = (): number => meta.keys.size;

test("metadata that is replaced while a node tells takes its lease along: it is told again", async () => {
  await reports.publish();
  assert.deepEqual([toldKeys(), meta.grantCount], [2, 1]);
  await reports.withdraw();
  meta.replacements = 1;
  await reports.publish();
  assert.deepEqual([toldKeys(), meta.grantCount], [2, 3]);
});

test("metadata that never keeps a lease is an error, after a few attempts", async () => {
  meta.replacements = 100;
  await assert.rejects(reports.publish(), /lease not found/);
  assert.equal(meta.grantCount, 3);
  meta.replacements = 0;
  await reports.publish();
  assert.equal(toldKeys(), 2);
});

test("reports are told and taken back one after the other, on one lease", async () => {
  for (let turns = 0; turns < 12; turns++) {
    const before = meta.grantCount;
    const first = reports.publish();
    // Any number of turns later a look takes them back.
    for (let turn = 0; turn < turns; turn++) await null;
    const back = reports.withdraw();
    const second = reports.publish();
    await Promise.all([first, back, second]);
    assert.equal(toldKeys(), 2);
    assert.ok(meta.grantCount - before <= 2, `${meta.grantCount - before} leases`);
    await reports.withdraw();
    assert.deepEqual([toldKeys(), meta.leases.size], [0, 0], "nothing is left of it");
  }
});

test("two that tell at the same time share a lease", async () => {
  await Promise.all([reports.publish(), reports.publish()]);
  assert.deepEqual([toldKeys(), meta.grantCount], [2, 1]);
});
