// A replica after a recovery, looked at as a new owner does, and compared with the model: no lower
// epoch is let in; the fence tells every slab above the committed stamp and every uncertain one; the
// committed stamp does not lead; lists tell exactly what the slabs themselves say; the slabs have
// stamps and content that they may have.

import type { Prng } from "../../base/index.ts";
import type { StoreReplica } from "../../chunk/index.ts";
import type { FenceAnswer, ReplicaFailure, SlabImage, SlabStamp } from "../../ports/index.ts";
import { type ReplicaModel, stampOf, stampText } from "./replica-model.ts";
import { isFailure, REPLICA_UUID } from "./replica-session.ts";
import type { SimStore } from "./sim-store.ts";

const SLAB_BYTES = 65536;
const EPOCH_UNIT: number = stampOf(1, 0);

export interface CheckedReplica {
  readonly replica: StoreReplica;
  readonly uncertainSlabs: readonly number[];
}

/** Runs what has a `done` until it is done. */
function wait<T>(store: SimStore, start: (done: (value: T) => void) => void, what: string): T {
  let answer: { readonly value: T } | null = null;
  start((value) => {
    answer = { value };
  });
  store.scheduler.runUntil(() => answer !== null, what);
  return (answer as unknown as { readonly value: T }).value;
}

export function readImage(
  store: SimStore,
  replica: StoreReplica,
  slab: number,
): { readonly image: SlabImage; readonly data: Uint8Array } {
  const arena = store.memory.allocate(SLAB_BYTES);
  const image = wait<SlabImage | ReplicaFailure>(
    store,
    (done) => replica.readSlab({ extentIndex: 0, slab }, arena.address, done),
    "a slab",
  );
  const data = arena.u8.slice();
  store.memory.free(arena);
  if ("code" in image) throw new Error(`slab ${slab}: ${image.code}: ${image.message}`);
  return { image, data };
}

export function writeImage(
  store: SimStore,
  replica: StoreReplica,
  slab: number,
  image: SlabImage,
  data: Uint8Array,
): ReplicaFailure | null {
  const arena = store.memory.allocate(SLAB_BYTES);
  arena.u8.set(data);
  const failure = wait<ReplicaFailure | null>(
    store,
    (done) => replica.writeSlab({ extentIndex: 0, slab }, image, arena.address, done),
    "a slab write",
  );
  store.memory.free(arena);
  return failure;
}

export function fence(
  store: SimStore,
  replica: StoreReplica,
  epoch: number,
): FenceAnswer | ReplicaFailure {
  return wait(store, (done) => replica.fence(epoch, done), "a fence");
}

/** All pages of it. */
export function listAll(
  store: SimStore,
  replica: StoreReplica,
  since: { readonly epoch: number; readonly sequence: number },
): SlabStamp[] {
  const slabs: SlabStamp[] = [];
  for (let cursor: number | null = 0; cursor !== null; ) {
    const at: number = cursor;
    const page = wait<Parameters<Parameters<StoreReplica["listSlabs"]>[2]>[0]>(
      store,
      (done) => replica.listSlabs(since, at, done),
      "a list",
    );
    if ("code" in page) throw new Error(`a list: ${page.code}: ${page.message}`);
    slabs.push(...page.slabs);
    cursor = page.cursor;
  }
  return slabs;
}

function names(slabs: readonly SlabStamp[]): string {
  const all = slabs.map((one) => `${one.slab}${stampText(stampOf(one.epoch, one.sequence))}`);
  return all.sort().join(" ");
}

function slabsOf(slabs: readonly SlabStamp[]): number[] {
  return slabs.map(({ slab }) => slab).sort((a, b) => a - b);
}

/** Compares content; `compare` is given a slab's offset and data. Changes nothing in the model. */
export function checkReplica(
  store: SimStore,
  model: ReplicaModel,
  sizeBytes: number,
  prng: Prng,
  compare: (offsetBytes: number, data: Uint8Array) => void,
): CheckedReplica {
  const handler = { replicaCompleted: () => undefined };
  const replica = store.store.openReplica(REPLICA_UUID, { name: "check", handler });
  if (model.epochAnswered > 1) {
    const refused = fence(store, replica, model.epochAnswered - 1);
    const isStale = isFailure(refused) && refused.code === "stale-epoch";
    if (!isStale) throw new Error(`epoch ${model.epochAnswered - 1} is let in again`);
  }
  const answer = fence(store, replica, model.epochAsked + 1);
  if (isFailure(answer)) throw new Error(`the fence: ${answer.code}: ${answer.message}`);
  const committed = stampOf(answer.committedEpoch, answer.committedSequence);
  if (committed > model.committed) {
    const told = stampText(model.committed);
    throw new Error(`committed is ${stampText(committed)}, but only ${told} was told`);
  }
  const stamps: SlabStamp[] = [];
  for (let slab = 0; slab < sizeBytes / SLAB_BYTES; slab++) {
    const { image, data } = readImage(store, replica, slab);
    const { epoch, sequence } = image;
    const fault = model.faultOfStamp(slab, stampOf(epoch, sequence));
    if (fault !== null) throw new Error(fault);
    stamps.push({ extentIndex: 0, slab, epoch, sequence });
    compare(slab * SLAB_BYTES, data);
  }
  const uncertainSlabs = checkUncertain(store, answer);
  checkLists(store, replica, answer, stamps, prng);
  return { replica, uncertainSlabs };
}

/** What recovery dropped of the replica's writes is told to whoever fences. */
function checkUncertain(store: SimStore, answer: FenceAnswer): number[] {
  const told = slabsOf(answer.uncertain);
  for (const { volume, block } of store.store.usage().recovery?.uncertain ?? []) {
    const slab = Math.floor(block / 16);
    if (volume !== REPLICA_UUID || told.includes(slab)) continue;
    throw new Error(`slab ${slab} has lost a write, and the fence does not tell`);
  }
  return told;
}

function checkLists(
  store: SimStore,
  replica: StoreReplica,
  answer: FenceAnswer,
  stamps: readonly SlabStamp[],
  prng: Prng,
): void {
  const above = (since: number): SlabStamp[] =>
    stamps.filter(({ epoch, sequence }) => stampOf(epoch, sequence) > since);
  const committed = stampOf(answer.committedEpoch, answer.committedSequence);
  if (names(answer.above) !== names(above(committed))) {
    const wanted = names(above(committed));
    throw new Error(`above ${stampText(committed)}: told ${names(answer.above)}, not ${wanted}`);
  }
  const newest = stamps.reduce((max, one) => Math.max(max, stampOf(one.epoch, one.sequence)), 0);
  if (stampOf(answer.epoch, answer.sequence) < newest) {
    throw new Error(`the newest stamp is ${stampText(newest)}, and the fence tells an older one`);
  }
  const { epoch, sequence } = stamps[prng.below(stamps.length)];
  const since = { epoch, sequence: Math.max(sequence - prng.below(2), 0) };
  const wanted = above(since.epoch * EPOCH_UNIT + since.sequence);
  const others = answer.uncertain.filter(({ slab }) => !slabsOf(wanted).includes(slab));
  const listed = listAll(store, replica, since);
  if (names(listed) !== names([...wanted, ...others])) {
    const what = stampText(stampOf(since.epoch, since.sequence));
    throw new Error(`listed above ${what}: ${names(listed)}, not ${names([...wanted, ...others])}`);
  }
}
