// Notes on replicas: what they say survives crashes, goes with the replica, and makes older
// metadata be refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { StoreError } from "../../chunk/index.ts";
import { FEATURE_NOTES, SUPERBLOCK } from "../../chunk/layouts.ts";
import type { ReplicaFailure, ReplicaNote, StoredNote } from "../../ports/index.ts";
import { SimMedia } from "../sim/index.ts";
import { areasOf } from "./medium-bytes.ts";
import { REPLICA_UUID } from "./replica-session.ts";
import { formatMedia, SimStore } from "./sim-store.ts";

const SIZE_BYTES: number = 8 * 65536;
const NOTE: ReplicaNote = {
  name: "a".repeat(63),
  blockBytes: 512,
  replicaCount: 3,
  isOut: true,
  epoch: 0,
  membershipVersion: 2 ** 40,
  clusterGeneration: 7,
};

function medium(): SimMedia {
  const media = new SimMedia({ capacityBytes: 8 * 1048576, volatileCache: false });
  formatMedia(media, { durability: "plp" });
  return media;
}

let seed = 1;

function start(media: SimMedia): SimStore {
  seed += 1;
  const store = new SimStore({ media, seed });
  assert.equal(store.open(), null);
  return store;
}

/** The power goes, and comes back. */
function crash(store: SimStore): SimStore {
  store.disk.crash({ kind: "power" });
  store.media.dropLateWrites();
  store.reactor.stop();
  return start(store.media);
}

function note(store: SimStore, wanted: ReplicaNote, uuid = REPLICA_UUID): StoreError | null {
  let answer: { readonly error: StoreError | null } | null = null;
  store.store.noteReplica(uuid, wanted, (error) => {
    answer = { error };
  });
  store.scheduler.runUntil(() => answer !== null, "a note");
  return (answer as unknown as { readonly error: StoreError | null }).error;
}

function noteOf(store: SimStore): StoredNote | null | undefined {
  const found = store.store.listVolumes().find(({ uuid }) => uuid === REPLICA_UUID);
  return found?.replica?.note;
}

function fence(store: SimStore, epoch: number, version: number): ReplicaFailure["code"] | "let in" {
  const handler = { replicaCompleted: () => undefined };
  const replica = store.store.openReplica(REPLICA_UUID, { name: "x", handler });
  let code: ReplicaFailure["code"] | "let in" | null = null;
  const metadata = { clusterGeneration: NOTE.clusterGeneration, membershipVersion: version };
  replica.fence(
    epoch,
    (answer) => void (code = "code" in answer ? answer.code : "let in"),
    metadata,
  );
  store.scheduler.runUntil(() => code !== null, "a fence");
  replica.close();
  return code as unknown as ReplicaFailure["code"] | "let in";
}

const { epoch: _, clusterGeneration: __, ...STORED } = NOTE;

test("a note is there after a crash and after a clean stop; the disk names the feature", () => {
  const media = medium();
  const features = (): number => areasOf(media).superblock.u32(SUPERBLOCK.featuresIncompatible);
  const store = start(media);
  store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
  assert.equal(noteOf(store), null);
  assert.equal(features() & FEATURE_NOTES, 0);
  assert.equal(note(store, NOTE), null);
  assert.equal(features() & FEATURE_NOTES, FEATURE_NOTES, "before the first note");
  assert.deepEqual(noteOf(store), STORED);
  const crashed = crash(store);
  assert.deepEqual(noteOf(crashed), STORED);
  const next = { ...NOTE, name: "b", isOut: false, membershipVersion: 2 ** 40 + 1 };
  assert.equal(note(crashed, next), null);
  crashed.close();
  const again = start(media);
  assert.equal(noteOf(again)?.name, "b");
  assert.equal(noteOf(again)?.isOut, false);
  again.close();
});

test("a note goes with its replica; one that takes its place has none", () => {
  const media = medium();
  const store = start(media);
  const other = "55555555-2222-3333-4444-555555555555";
  store.createVolume(SIZE_BYTES, other, true);
  store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
  assert.equal(note(store, { ...NOTE, name: "other" }, other), null);
  assert.equal(note(store, NOTE), null);
  assert.equal(store.deleteVolume(REPLICA_UUID), null);
  store.settle();
  store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
  assert.equal(noteOf(store), null);
  assert.equal(note(store, { ...NOTE, name: "new" }), null);
  const crashed = crash(store);
  assert.equal(noteOf(crashed)?.name, "new");
  const names = crashed.store.listVolumes().map(({ replica }) => replica?.note?.name);
  assert.deepEqual(names.toSorted(), ["new", "other"]);
  crashed.close();
});

test("older metadata is refused: by a note, and by a fence, after a restart too", () => {
  const media = medium();
  const store = start(media);
  store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
  assert.equal(fence(store, 5, 3), "let in");
  assert.equal(note(store, { ...NOTE, epoch: 5, membershipVersion: 4 }), null);
  const crashed = crash(store);
  assert.equal(fence(crashed, 6, 3), "rolled-back");
  for (const older of [
    { epoch: 4, membershipVersion: 4 },
    { epoch: 5, membershipVersion: 3 },
    { epoch: 9, membershipVersion: 9, clusterGeneration: 6 },
  ]) {
    assert.equal(note(crashed, { ...NOTE, ...older })?.code, "ROLLED_BACK", JSON.stringify(older));
  }
  assert.equal(noteOf(crashed)?.membershipVersion, 4);
  assert.equal(fence(crashed, 6, 4), "let in");
  crashed.close();
});

test("a table that is full keeps the note without the name; volumes that are there stay", () => {
  const store = start(medium());
  store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
  for (let count = 1; count < 42; count++) {
    const uuid = `66666666-2222-3333-4444-${String(count).padStart(12, "0")}`;
    store.createVolume(SIZE_BYTES, uuid, true);
  }
  assert.equal(note(store, NOTE), null);
  assert.deepEqual(noteOf(store), { ...STORED, name: null });
  assert.equal(store.deleteVolume("66666666-2222-3333-4444-000000000001"), null);
  store.settle();
  assert.equal(note(store, NOTE), null);
  assert.deepEqual(noteOf(store), STORED);
  store.close();
});
