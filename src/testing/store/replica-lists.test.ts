// Lists of a large replica, against a plain map of every slab's stamp: with a page cache that holds
// a few of its pages, checkpoints all the time, stops and power cuts. And what a list costs.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Prng } from "../../base/index.ts";
import type { StoreReplica } from "../../chunk/index.ts";
import { type Arena, REPLICA_WRITE, REPLICA_ZERO, type SlabStamp } from "../../ports/index.ts";
import { SimMedia, SimMemory } from "../sim/index.ts";
import { fence, listAll, writeImage } from "./replica-check.ts";
import { stampOf } from "./replica-model.ts";
import { isFailure, REPLICA_UUID } from "./replica-session.ts";
import { formatMedia, SimStore } from "./sim-store.ts";

const SLAB = 65536;
const SLAB_BLOCKS = 16;
/** 150 leaf pages, in two extents. */
const SLAB_COUNT = 4800;
const SIZE_BYTES: number = SLAB_COUNT * SLAB;
const DISK_BYTES: number = 24 * 1048576;
/** Slabs that are written: a few in every page. */
const USED_SLABS = 260;
const EXTENT_SLABS = 4096;
const seedCount = Number(process.env["RINGSTORE_SEEDS"] ?? 4);

function openStore(media: SimMedia, memory: SimMemory, seed: number, pageCacheCount = 6): SimStore {
  memory.reset();
  const options = { pageCacheCount, operationCount: 24, bufferCount: 4 };
  const store = new SimStore({ media, memory, seed, store: options });
  const error = store.open();
  if (error !== null) throw error;
  return store;
}

class ListRun {
  private readonly prng: Prng;
  private readonly media: SimMedia;
  private readonly memory: SimMemory = new SimMemory(24 * 1048576);
  private readonly seed: number;
  /** Of every slab that was written. */
  private readonly stamps: Map<number, number> = new Map();
  private epoch = 0;
  private sequence = 0;
  private committed = 0;
  private openCount = 0;
  lists = 0;

  constructor(seed: number) {
    this.seed = seed;
    this.prng = new Prng(seed);
    this.media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache: false });
    const logBytes = 12 * 4096;
    formatMedia(this.media, { durability: "plp", ringBytes: 196608, logBytes, extentCount: 2 });
  }

  run(): void {
    for (let round = 0; round < 4; round++) this.round(round);
  }

  private round(round: number): void {
    const { prng } = this;
    this.openCount += 1;
    const store = openStore(this.media, this.memory, this.seed * 10 + this.openCount);
    if (round === 0) store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
    const replica = this.enter(store);
    for (let step = 0; step < 12; step++) {
      this.burst(store, replica, prng.between(1, 60));
      if (prng.chance(0.2)) this.image(store, replica);
      if (prng.chance(0.5)) this.commit(replica);
      this.list(store, replica, prng.chance(0.5) ? this.committed : this.someStamp());
    }
    if (prng.chance(0.3)) {
      replica.close();
      store.close();
    } else {
      store.disk.crash({ kind: "power" });
      store.reactor.stop();
    }
  }

  private slab(): number {
    const index = this.prng.below(USED_SLABS);
    return Math.floor((index * SLAB_COUNT) / USED_SLABS);
  }

  private someStamp(): number {
    const all = Array.from(this.stamps.values());
    return all.length === 0 ? 0 : all[this.prng.below(all.length)];
  }

  private enter(store: SimStore): StoreReplica {
    this.epoch += 1;
    this.sequence = 0;
    const handler = { replicaCompleted: (tag: number, result: number) => this.ended(tag, result) };
    const replica = store.store.openReplica(REPLICA_UUID, { name: "lists", handler });
    const answer = fence(store, replica, this.epoch);
    assert.ok(!isFailure(answer), JSON.stringify(answer));
    const committed = stampOf(answer.committedEpoch, answer.committedSequence);
    assert.ok(committed <= this.committed, "the committed stamp leads");
    assert.deepEqual(this.sorted(answer.above), this.above(committed), `fence ${this.epoch}`);
    this.lists += 1;
    return replica;
  }

  private arena: Arena | null = null;
  private left = 0;

  private ended(_tag: number, result: number): void {
    assert.equal(result, 0);
    this.left -= 1;
  }

  private burst(store: SimStore, replica: StoreReplica, count: number): void {
    this.arena = store.memory.allocate(SLAB);
    this.arena.u8.fill(this.openCount);
    this.left = count;
    for (let index = 0; index < count; index++) {
      const slab = this.slab();
      this.sequence += 1;
      const block = slab * SLAB_BLOCKS + this.prng.below(SLAB_BLOCKS);
      const isThere = Array.from(this.stamps.keys()).some(
        (one) => Math.floor(one / EXTENT_SLABS) === Math.floor(slab / EXTENT_SLABS),
      );
      const op = isThere && this.prng.chance(0.1) ? REPLICA_ZERO : REPLICA_WRITE;
      replica.write(index, op, block, 1, this.arena.address, this.sequence);
      this.stamps.set(slab, stampOf(this.epoch, this.sequence));
    }
    store.scheduler.runUntil(() => this.left === 0, "a burst");
    store.memory.free(this.arena);
  }

  /** A slab from elsewhere, with a stamp of an older epoch: newest is what it has from now on. */
  private image(store: SimStore, replica: StoreReplica): void {
    const slab = this.slab();
    if (slab >= EXTENT_SLABS) return;
    const image = { epoch: this.epoch - 1, sequence: this.sequence + 1, states: 0x55555555 };
    const data = new Uint8Array(SLAB).fill(9);
    assert.equal(writeImage(store, replica, slab, image, data), null);
    this.stamps.set(slab, stampOf(image.epoch, image.sequence));
  }

  private commit(replica: StoreReplica): void {
    const sequence = this.prng.below(this.sequence + 1);
    if (sequence === 0) return;
    this.committed = Math.max(this.committed, stampOf(this.epoch, sequence));
    replica.setCommitted(sequence);
  }

  private above(since: number): string[] {
    const found: string[] = [];
    for (const [slab, stamp] of this.stamps) if (stamp > since) found.push(`${slab}: ${stamp}`);
    return found.sort();
  }

  private sorted(slabs: readonly SlabStamp[]): string[] {
    const text = (one: SlabStamp): string => {
      const slab = one.extentIndex * EXTENT_SLABS + one.slab;
      return `${slab}: ${stampOf(one.epoch, one.sequence)}`;
    };
    return slabs.map(text).sort();
  }

  private list(store: SimStore, replica: StoreReplica, since: number): void {
    const unit = stampOf(1, 0);
    const stamp = { epoch: Math.floor(since / unit), sequence: since % unit };
    const listed = this.sorted(listAll(store, replica, stamp));
    assert.deepEqual(listed, this.above(since), `epoch ${this.epoch} since ${since}`);
    this.lists += 1;
  }
}

test("lists and fences tell exactly the slabs above a stamp, whatever was in between", (t) => {
  let lists = 0;
  for (let seed = 1; seed <= seedCount; seed++) {
    const run = new ListRun(seed);
    try {
      run.run();
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
    }
    lists += run.lists;
  }
  t.diagnostic(`${lists} lists`);
});

test("a list of little reads few pages, also after a crash", () => {
  const media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache: false });
  formatMedia(media, { durability: "plp", ringBytes: 196608, logBytes: 49152, extentCount: 2 });
  const memory = new SimMemory(24 * 1048576);
  const first = openStore(media, memory, 1, 80);
  first.createVolume(SIZE_BYTES, REPLICA_UUID, true);
  let left = 0;
  const handler = { replicaCompleted: () => void (left -= 1) };
  const enter = (store: SimStore, epoch: number): [StoreReplica, SlabStamp[], number] => {
    const replica = store.store.openReplica(REPLICA_UUID, { name: "cost", handler });
    const before = store.store.usage().counters.pagesLoaded;
    const answer = fence(store, replica, epoch);
    if (isFailure(answer)) throw new Error(answer.message);
    const pages = store.store.usage().counters.pagesLoaded - before;
    return [replica, [...answer.above], pages];
  };
  const write = (store: SimStore, replica: StoreReplica, slabs: number[], from: number): void => {
    const arena = store.memory.allocate(SLAB);
    // A few at a time: what is written at once has one checkpoint, and one stamp, to be found by.
    for (let at = 0; at < slabs.length; at += 16) {
      const some = slabs.slice(at, at + 16);
      left = some.length;
      for (const [index, slab] of some.entries()) {
        replica.write(
          index,
          REPLICA_WRITE,
          slab * SLAB_BLOCKS,
          1,
          arena.address,
          from + at + index,
        );
      }
      store.scheduler.runUntil(() => left === 0, "writes");
    }
    store.memory.free(arena);
    arena.u8.fill(0);
  };
  const everywhere = Array.from({ length: 140 }, (_, page) => page * 32);
  const [owner] = enter(first, 1);
  write(first, owner, everywhere, 1);
  owner.setCommitted(140);
  first.store.drain(() => undefined);
  first.settle();
  // More pages than the next cache takes before a checkpoint: their records wait after the crash.
  const later = everywhere.slice(50, 75);
  write(first, owner, later, 141);
  first.disk.crash({ kind: "power" });
  first.reactor.stop();
  const second = openStore(media, memory, 2);
  const [next, above, pages] = enter(second, 2);
  assert.deepEqual(
    above.map(({ slab }) => slab),
    later,
  );
  assert.ok(pages < 90, `a fence read ${pages} pages of 140`);
  const before = second.store.usage().counters.pagesLoaded;
  const all = listAll(second, next, { epoch: 0, sequence: 0 });
  assert.equal(all.length, 140);
  assert.ok(second.store.usage().counters.pagesLoaded - before > 100, "nothing was read");
  next.close();
  second.close();
});
