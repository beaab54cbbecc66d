// Scenarios of one fault each, aimed at one promise: each throws when the store breaks it, whatever
// else it does about the fault (an error to the reader, a refusal to open) is right.

import { Prng } from "../../base/index.ts";
import { StoreError, type StoreOptions } from "../../chunk/index.ts";
import { GROUP, GROUP_MAGIC } from "../../chunk/layouts.ts";
import { NO_BUGS, type PlantedBugs } from "../../chunk/planted.ts";
import { REPLICA_WRITE } from "../../ports/index.ts";
import { ModelVolume, type SimDisk, SimMedia, SimMemory } from "../sim/index.ts";
import { checkBooks, readAll } from "./crash-points.ts";
import { areasOf, structureAt } from "./medium-bytes.ts";
import { step } from "./program.ts";
import { fence, readImage } from "./replica-check.ts";
import { REPLICA_UUID } from "./replica-session.ts";
import { formatMedia, SimStore } from "./sim-store.ts";
import { walkMedium } from "./walk-medium.ts";

const DISK_BYTES: number = 6 * 1048576;
const SIZE_BYTES = 262144;
const BLOCK = 4096;

const memory = new SimMemory();

export interface Stage {
  readonly media: SimMedia;
  readonly model: ModelVolume;
  readonly planted: PlantedBugs;
  readonly prng: Prng;
}

export function stage(
  seed: number,
  planted: PlantedBugs = NO_BUGS,
  volatileCache = false,
  capacityBytes: number = DISK_BYTES,
): Stage {
  const media = new SimMedia({ capacityBytes, volatileCache });
  formatMedia(media, { durability: volatileCache ? "volatile" : "plp", ringBytes: 139264 });
  return { media, model: new ModelVolume(), planted, prng: new Prng(seed) };
}

/** The store on the stage's medium, or why it does not open. */
export function tryOpen(
  { media, planted, prng }: Stage,
  options: StoreOptions = {},
  prepare: (disk: SimDisk) => void = () => undefined,
): SimStore | StoreError {
  memory.reset();
  const store = new SimStore({ media, memory, seed: prng.u32(), store: { planted, ...options } });
  prepare(store.disk);
  const error = store.open();
  if (error === null) return store;
  store.reactor.stop();
  store.disk.close();
  return error;
}

export function mustOpen(
  one: Stage,
  options: StoreOptions = {},
  prepare: (disk: SimDisk) => void = () => undefined,
): SimStore {
  const store = tryOpen(one, options, prepare);
  if (store instanceof StoreError) throw store;
  if (store.store.listVolumes().length === 0) store.createVolume(SIZE_BYTES);
  return store;
}

/** Random load until nothing is on its way, and a pause in which everything is marked. */
export function load(one: Stage, store: SimStore, requests: number): void {
  const client = store.client(one.model);
  for (let request = 0; request < requests; request++) {
    step(client, one.prng, SIZE_BYTES);
    const depth = one.prng.below(8);
    store.scheduler.runUntil(() => client.inflightCount <= depth, "requests");
  }
  store.scheduler.runUntil(() => client.inflightCount === 0, "the last requests");
}

export function die(one: Stage, store: SimStore, kind: "power" | "process" = "process"): void {
  store.disk.crash({ kind });
  store.reactor.stop();
  one.model.crashed();
}

/** Loads and stops cleanly. */
function prepared(seed: number, planted: PlantedBugs): Stage {
  const one = stage(seed, planted);
  const store = mustOpen(one);
  load(one, store, 60);
  store.close();
  return one;
}

/** A bit of data flips: reads of it are errors, not what the bit has made of it. */
export function flippedData(seed: number, planted: PlantedBugs): void {
  const one = prepared(seed, planted);
  const { blocks } = walkMedium(one.media);
  for (let flip = 0; flip < 4; flip++) {
    const at = blocks[one.prng.below(blocks.length)] + one.prng.below(BLOCK);
    one.media.flipBit(at, one.prng.below(8));
  }
  const store = mustOpen(one);
  readAll(store, one.model, SIZE_BYTES);
  if (store.store.usage().badBlockCount === 0) throw new Error("no block was called bad");
  store.close();
}

/** A page that was acknowledged and never written: what it replaced does not count again. */
export function lostPage(seed: number, planted: PlantedBugs): void {
  const one = stage(seed, planted);
  const first = mustOpen(one);
  load(one, first, 40);
  first.close();
  const second = mustOpen(one);
  const { pageOffset, slabOffset } = areasOf(one.media);
  second.disk.faults.add({
    kind: "lost",
    on: "write",
    fromBytes: pageOffset,
    toBytes: slabOffset,
    chance: 0.5,
  });
  load(one, second, 40);
  second.close();
  const third = tryOpen(one);
  if (third instanceof StoreError) return;
  readAll(third, one.model, SIZE_BYTES);
}

/** A group in the middle of the ring is damaged, with durable ones behind it. */
export function damagedMiddle(seed: number, planted: PlantedBugs): void {
  const one = stage(seed, planted);
  // All of them stay in the ring.
  const store = mustOpen(one, { writeBackAt: 1 });
  const client = store.client(one.model);
  for (let count = 0; count < 9; count++) {
    client.write(one.prng.below(48) * BLOCK, BLOCK);
    store.scheduler.runUntil(() => client.inflightCount === 0, "a write");
  }
  die(one, store);
  const groups = groupsOf(one.media);
  const last = Math.max(...groups.map(({ lsn }) => lsn));
  const middle = groups.find(({ lsn }) => lsn === last - 3);
  if (middle === undefined) throw new Error("the ring does not hold what was just written");
  one.media.flipBit(middle.at + one.prng.below(BLOCK), one.prng.below(8));
  const next = tryOpen(one);
  if (next instanceof StoreError) return;
  readAll(next, one.model, SIZE_BYTES);
}

function groupsOf(media: SimMedia): { readonly at: number; readonly lsn: number }[] {
  const { ringOffset, ringBytes } = areasOf(media);
  const groups: { at: number; lsn: number }[] = [];
  for (let at = ringOffset; at < ringOffset + ringBytes; at += BLOCK) {
    const group = structureAt(media, at);
    if (group.u32(GROUP.magic) !== GROUP_MAGIC || !group.isWhole(GROUP.crc)) continue;
    groups.push({ at, lsn: group.u64(GROUP.lsn) });
  }
  return groups;
}

/** A guest that writes to its buffers while they are on their way harms nothing but its own data. */
export function restlessGuest(seed: number, planted: PlantedBugs): void {
  const one = stage(seed, planted);
  const store = mustOpen(one);
  const client = store.client(one.model);
  for (let count = 0; count < 20; count++) {
    client.write(one.prng.below(4) * 65536, 65536);
    for (let turn = 0; client.inflightCount > 0 && turn < 10_000; turn++) {
      memory.scribble(one.prng);
      store.scheduler.step();
    }
  }
  // What the blocks hold is the guest's affair: only their checksums are ours.
  store.volume?.close();
  const device = store.openVolume();
  let errors = 0;
  for (let slab = 0; slab < 4; slab++) {
    const slot = store.plainRead(device, slab * 65536, 65536);
    if (slot !== 0) errors += 1;
  }
  if (errors > 0) throw new Error(`${errors} reads failed`);
  checkBooks(store);
}

/** Groups are torn, others take their place, and the process dies again. */
export function tornThenWritten(seed: number, planted: PlantedBugs): void {
  const one = stage(seed, planted);
  const first = mustOpen(one);
  const client = first.client(one.model);
  client.write(0, 65536);
  first.scheduler.runUntil(() => client.inflightCount === 0, "the first write");
  for (let block = 0; block < 8; block++) {
    client.write(block * BLOCK, BLOCK);
    // A group of its own for each.
    first.scheduler.runFor(25);
  }
  first.disk.crash({ kind: "power", chances: { keepChance: 0.5, tornChance: 0 } });
  first.reactor.stop();
  one.model.crashed();
  const second = mustOpen(one);
  readAll(second, one.model, SIZE_BYTES);
  const again = second.client(one.model);
  // With the record of the volume's opening as long as two of the old groups: a third would follow.
  again.write(14 * BLOCK, 2 * BLOCK);
  second.scheduler.runUntil(() => again.inflightCount === 0, "one more write");
  die(one, second);
  const third = mustOpen(one);
  readAll(third, one.model, SIZE_BYTES);
  checkBooks(third);
}

/** A slow read of a block that is overwritten and written back meanwhile matches at first. */
export function overtakenRead(seed: number, planted: PlantedBugs): void {
  const one = stage(seed, planted);
  const store = mustOpen(one, { writeBackAt: 0 });
  const client = store.client(one.model);
  const write = (bytes: number): void => {
    client.write(0, bytes);
    store.scheduler.runFor(20_000);
  };
  write(65536);
  const { slabOffset } = areasOf(one.media);
  const rule = { on: "read", fromBytes: slabOffset, count: 1 } as const;
  store.disk.faults.add({ kind: "slow", delayUs: 100_000, ...rule });
  client.read(0, BLOCK);
  for (let count = 0; count < 4; count++) write(BLOCK);
  store.scheduler.runUntil(() => client.inflightCount === 0, "the read");
  const { readRetries } = store.store.usage().counters;
  if (readRetries > 0) throw new Error("the read did not match at first");
  checkBooks(store);
}

/** A slab is freed while a slow write-back to it is on its way, and others look for room. */
export function reusedSlab(seed: number, planted: PlantedBugs): void {
  // The ring takes it all: nobody waits for the write-back.
  const media = new SimMedia({ capacityBytes: DISK_BYTES });
  formatMedia(media, { durability: "plp", ringBytes: 524288 });
  const one = { ...stage(seed, planted), media };
  const store = mustOpen(one, { writeBackAt: 0 });
  const client = store.client(one.model);
  const write = (offsetBytes: number, bytes: number): void => {
    client.write(offsetBytes, bytes);
    store.scheduler.runUntil(() => client.inflightCount === 0, "a write");
  };
  write(0, 65536);
  const { slabOffset, slabCount } = areasOf(one.media);
  const toBytes = slabOffset + slabCount * 65536;
  const rule = { on: "write", fromBytes: slabOffset, toBytes, count: 1 } as const;
  store.disk.faults.add({ kind: "slow", delayUs: 2_000_000, ...rule });
  write(0, BLOCK);
  store.scheduler.runFor(1000);
  for (let count = 0; count <= slabCount; count++) write((count % 2) * 65536, 65536);
  store.scheduler.runFor(3_000_000);
  readAll(store, one.model, SIZE_BYTES);
  checkBooks(store);
}

/** Two writes to a slab of a replica, of which the newer often ends first: the newer's stamp stays. */
export function overtakenStamp(seed: number, planted: PlantedBugs): void {
  const one = stage(seed, planted);
  const store = mustOpen(one, { freshBlocksMin: 4 });
  store.createVolume(SIZE_BYTES * 4, REPLICA_UUID, true);
  let left = 0;
  const handler = { replicaCompleted: () => void (left -= 1) };
  const replica = store.store.openReplica(REPLICA_UUID, { name: "overtaken", handler });
  const answer = fence(store, replica, 1);
  if ("code" in answer) throw new Error(answer.message);
  const arena = store.memory.allocate(8 * BLOCK);
  arena.u8.fill(1);
  for (let slab = 0; slab < 14; slab++) {
    left = 2;
    replica.write(0, REPLICA_WRITE, slab * 16, 8, arena.address, slab * 2 + 1);
    replica.write(1, REPLICA_WRITE, slab * 16 + 9, 1, arena.address, slab * 2 + 2);
    store.scheduler.runUntil(() => left === 0, "two writes");
    const { sequence } = readImage(store, replica, slab).image;
    if (sequence !== slab * 2 + 2) throw new Error(`slab ${slab} has the stamp of its older write`);
  }
  replica.close();
  checkBooks(store);
}
