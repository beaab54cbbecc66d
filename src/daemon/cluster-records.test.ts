// The records of owned volumes over metadata that loses answers: what an owner is told is never more
// than is known, and what it does not know of a record stays as it is.

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";
import { MetaError, volumeCodec } from "../meta/index.ts";
import type { VolumeRecord } from "../meta/records.ts";
import type { MetaEntry, MetaOutcome, MetaStore } from "../ports/meta-store.ts";
import type { OwnedRecord } from "../ports/volume-records.ts";
import { ClusterRecords } from "./cluster-records.ts";

const NODE = "00000000-0000-4000-8000-000000000001";
const VOLUME = "00000000-0000-4000-8000-000000000002";
const DISKS = ["00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"];
const KEY = `ringstore/volume/${VOLUME}/record`;
const NOW = "2026-01-02T03:04:05.678Z";

const RECORD: VolumeRecord = {
  format: 1,
  changeId: "0000000000000000",
  id: VOLUME,
  name: "v",
  sizeBytes: 8192,
  blockBytes: 512,
  replicaCount: 2,
  phase: "ready",
  createdAt: "2026-01-01T00:00:00.000Z",
  clusterGeneration: 1,
  epoch: 1,
  owner: { node: NODE, incarnation: 3 },
  state: "open",
  members: DISKS,
  out: [],
  membershipVersion: 1,
  attachment: { generation: 4, node: NODE, readOnly: false },
  layers: [0],
};

/** One key. What becomes of each swap is said beforehand. */
class OneKey {
  value: Uint8Array = volumeCodec.encode(RECORD);
  revision = 10;
  /** For the next swaps: it is done and its answer lost, lost and not done, or refused. */
  readonly fates: ("lost after" | "lost before" | "away")[] = [];
  /** Swaps whose answer was lost and that are still on their way. */
  readonly floating: (() => void)[] = [];

  get record(): VolumeRecord {
    return volumeCodec.decode(KEY, this.value);
  }

  async get(): Promise<MetaEntry> {
    const { value, revision: modRevision } = this;
    return { key: KEY, value, createRevision: 1, modRevision, version: 1, leaseId: 0n };
  }

  async compareAndSwap(_: string, revision: number, value: Uint8Array): Promise<MetaOutcome> {
    const fate = this.fates.shift();
    if (fate === "away") throw new MetaError("unavailable", "nobody answers");
    if (fate === "lost before") {
      this.floating.push(() => void this.#swap(revision, value));
      return { outcome: "unknown", reason: "lost" };
    }
    const isDone = this.#swap(revision, value);
    if (fate === "lost after") return { outcome: "unknown", reason: "lost" };
    if (isDone) return { outcome: "applied", revision: this.revision };
    return { outcome: "conflict", revision: this.revision, found: [await this.get()] };
  }

  #swap(revision: number, value: Uint8Array): boolean {
    if (revision !== this.revision) return false;
    this.value = value;
    this.revision += 1;
    return true;
  }

  /** Somebody else's change. */
  change(more: Partial<VolumeRecord>): void {
    const record = { ...this.record, changeId: "ffffffffffffffff", ...more };
    this.#swap(this.revision, volumeCodec.encode(record));
  }
}

const inMaintenance = DISKS[0]!;

let key: OneKey;
let records: ClusterRecords;
let isWorker = false;
beforeEach(() => {
  isWorker = false;
  key = new OneKey();
  records = new ClusterRecords({
    store: key as unknown as MetaStore,
    keyOf: () => KEY,
    isWorker: () => isWorker,
    log: { log: () => undefined },
    now: () => new Date(NOW),
    isInMaintenance: (disk) => disk === inMaintenance,
  });
});

async function owned(): Promise<{ record: OwnedRecord; revision: number }> {
  const entry = await records.read(VOLUME);
  assert.ok(entry !== null);
  return entry;
}

const OUT = { disk: DISKS[1]!, sinceStamp: { epoch: 1, sequence: 9 }, reason: "unreachable" };

describe("records of owned volumes", () => {
  test("an owner sees its part, and changes nothing else", async () => {
    const { record, revision } = await owned();
    assert.equal(record.owner, `${NODE}/3`);
    assert.equal(revision, 10);
    const owner = `${NODE}/5`;
    const wanted = { ...record, epoch: 2, owner, out: [OUT], membershipVersion: 2 };
    const answer = await records.swap(VOLUME, revision, wanted);
    assert.deepEqual(answer, { outcome: "applied", revision: 11 });
    const { changeId, out, ...rest } = key.record;
    assert.notEqual(changeId, RECORD.changeId);
    assert.deepEqual(out, [{ ...OUT, reason: "missing", since: NOW }]);
    const { changeId: _, out: __, ...before } = RECORD;
    const process = { node: NODE, incarnation: 5 };
    assert.deepEqual(rest, { ...before, epoch: 2, owner: process, membershipVersion: 2 });
    // What is out stays out since then, and for the reason it had.
    const again = await records.swap(VOLUME, 11, { ...wanted, state: "clean" });
    assert.equal(again.outcome, "applied");
    assert.deepEqual(key.record.out, out);
  });

  test("a conflict tells what is there now", async () => {
    const { record, revision } = await owned();
    key.change({ attachment: { generation: 5, node: null, readOnly: false } });
    const answer = await records.swap(VOLUME, revision, { ...record, state: "clean" });
    assert.ok(answer.outcome === "conflict");
    assert.equal(answer.found.revision, 11);
    assert.equal(key.record.state, "open");
    const next = await records.swap(VOLUME, 11, { ...answer.found.record, state: "clean" });
    assert.equal(next.outcome, "applied");
    assert.equal(key.record.attachment.generation, 5);
  });

  test("applied and not answered: unknown, and applied when it is asked again", async () => {
    const { record, revision } = await owned();
    key.fates.push("lost after");
    const wanted = { ...record, state: "clean" } as const;
    assert.deepEqual(await records.swap(VOLUME, revision, wanted), { outcome: "unknown" });
    const again = await records.swap(VOLUME, revision, wanted);
    assert.deepEqual(again, { outcome: "applied", revision: 11 });
    assert.equal(key.revision, 11);
  });

  test("lost on its way and applied late: once, and told as applied", async () => {
    const { record, revision } = await owned();
    key.fates.push("lost before");
    const wanted = { ...record, state: "clean" } as const;
    assert.deepEqual(await records.swap(VOLUME, revision, wanted), { outcome: "unknown" });
    key.floating[0]!();
    const again = await records.swap(VOLUME, revision, wanted);
    assert.deepEqual(again, { outcome: "applied", revision: 11 });
    assert.equal(key.revision, 11);
  });

  test("lost, and overtaken by somebody else: a conflict", async () => {
    const { record, revision } = await owned();
    key.fates.push("lost before");
    const wanted = { ...record, state: "clean" } as const;
    await records.swap(VOLUME, revision, wanted);
    key.change({ epoch: 2, owner: { node: NODE, incarnation: 9 } });
    const again = await records.swap(VOLUME, revision, wanted);
    assert.ok(again.outcome === "conflict");
    assert.equal(again.found.record.owner, `${NODE}/9`);
    key.floating[0]!();
    assert.equal(key.record.epoch, 2);
  });

  test("who hands over moves the attachment in the same swap; nobody else does", async () => {
    const node = "00000000-0000-4000-8000-000000000003";
    const standby = { node, incarnation: 7, isWanted: true, isMove: false };
    key.change({ attachment: { ...RECORD.attachment, standby } });
    const { record, revision } = await owned();
    const wanted = { ...record, epoch: 2, owner: `${node}/7`, state: "handed-over" } as const;
    assert.equal((await records.swap(VOLUME, revision, wanted)).outcome, "applied");
    const moved = { generation: 5, node, readOnly: false };
    const back = { node: NODE, incarnation: 3, isWanted: false, isMove: false };
    assert.deepEqual(key.record.attachment, { ...moved, standby: back });
    assert.deepEqual(key.record.owner, { node, incarnation: 7 });
    // Taken by the one that was named, and then handed back for good.
    await records.swap(VOLUME, revision + 1, { ...wanted, state: "open" });
    assert.deepEqual(key.record.attachment, { ...moved, standby: back });
    key.change({ attachment: { ...moved, standby: { ...back, isMove: true } } });
    const next = await owned();
    const again = { ...next.record, epoch: 3, owner: `${NODE}/3`, state: "handed-over" } as const;
    await records.swap(VOLUME, next.revision, again);
    assert.deepEqual(key.record.attachment, { generation: 6, node: NODE, readOnly: false });
  });

  test("a copy on a node in maintenance is out for that", async () => {
    const { record, revision } = await owned();
    const out = [{ ...OUT, disk: inMaintenance }];
    await records.swap(VOLUME, revision, { ...record, out, membershipVersion: 2 });
    assert.deepEqual(key.record.out, [{ ...out[0], reason: "maintenance", since: NOW }]);
  });

  test("nobody answers: unknown, never a rejection; a read says nothing", async () => {
    const { record, revision } = await owned();
    key.fates.push("away");
    const wanted = { ...record, state: "clean" } as const;
    assert.deepEqual(await records.swap(VOLUME, revision, wanted), { outcome: "unknown" });
    key.get = () => Promise.reject(new MetaError("unavailable", "nobody answers"));
    assert.equal(await records.read(VOLUME), null);
  });

  test("a worker claims what is attached nowhere, and never what is attached", async () => {
    isWorker = true;
    const { record, revision } = await owned();
    const wanted = { ...record, epoch: 2, owner: `${NODE}/5` };
    assert.notEqual(key.record.attachment.node, null);
    assert.deepEqual(await records.swap(VOLUME, revision, wanted), { outcome: "unknown" });
    assert.equal(key.revision, 10);
    // What it owns already it may change: whoever attaches it takes it over.
    const same = await records.swap(VOLUME, revision, { ...record, state: "clean" });
    assert.equal(same.outcome, "applied");
    key.change({ attachment: { generation: 5, node: null, readOnly: false } });
    const free = await owned();
    const claim = { ...free.record, epoch: 2, owner: `${NODE}/5` };
    assert.equal((await records.swap(VOLUME, free.revision, claim)).outcome, "applied");
  });
});
