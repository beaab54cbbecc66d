// What a replica of the store promises its owner, promise by promise; see ports/replica.ts.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EBADMSG, EINVAL, EIO, ENOTCONN, ESTALE } from "../../base/index.ts";
import { StoreError, type StoreReplica } from "../../chunk/index.ts";
import { FEATURE_REPLICAS, SUPERBLOCK } from "../../chunk/layouts.ts";
import {
  type Arena,
  type BlockDevice,
  type FenceAnswer,
  type MetadataVersion,
  REPLICA_WRITE,
  REPLICA_ZERO,
  type ReplicaFailure,
} from "../../ports/index.ts";
import { SimClient, SimMedia } from "../sim/index.ts";
import { checkBooks } from "./crash-points.ts";
import { areasOf } from "./medium-bytes.ts";
import { fence, listAll, readImage, writeImage } from "./replica-check.ts";
import { isFailure, REPLICA_UUID } from "./replica-session.ts";
import { formatMedia, SimStore } from "./sim-store.ts";
import { walkMedium } from "./walk-medium.ts";

const BLOCK = 4096;
const SLAB = 65536;
const SIZE_BYTES: number = 8 * SLAB;
const DISK_BYTES: number = 8 * 1048576;
const STATES_DATA = 0x55555555;

function medium(volatileCache = false): SimMedia {
  const media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache });
  formatMedia(media, { durability: volatileCache ? "volatile" : "plp" });
  return media;
}

let seed = 1;

/** A store on the medium, opened; with a replica, if there was none. */
function start(media: SimMedia): SimStore {
  seed += 1;
  const store = new SimStore({ media, seed });
  const error = store.open();
  if (error !== null) throw error;
  if (!store.store.listVolumes().some(({ uuid }) => uuid === REPLICA_UUID)) {
    store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
  }
  return store;
}

/** One who writes, and remembers how its writes ended. */
class Owner {
  readonly replica: StoreReplica;
  readonly results: Map<number, number> = new Map();
  /** Epochs that have taken the replica from it. */
  readonly fencedBy: number[] = [];
  sequence = 0;
  private readonly store: SimStore;
  private readonly arenas: Map<number, Arena> = new Map();

  constructor(store: SimStore) {
    this.store = store;
    this.replica = store.store.openReplica(REPLICA_UUID, {
      name: "node-1 disk-1",
      handler: {
        replicaCompleted: (tag, result) => this.ended(tag, result),
        replicaFenced: (epoch) => void this.fencedBy.push(epoch),
      },
    });
  }

  private ended(tag: number, result: number): void {
    assert.ok(!this.results.has(tag), `write ${tag} ended twice`);
    this.results.set(tag, result);
    const arena = this.arenas.get(tag);
    if (arena !== undefined) this.store.memory.free(arena);
  }

  enter(epoch: number): FenceAnswer {
    const answer = fence(this.store, this.replica, epoch);
    assert.ok(!isFailure(answer), JSON.stringify(answer));
    this.sequence = 0;
    return answer;
  }

  refused(epoch: number): ReplicaFailure {
    const answer = fence(this.store, this.replica, epoch);
    assert.ok(isFailure(answer), "the fence was answered");
    return answer;
  }

  /** Starts a write of blocks that are filled with `byte`. Returns its tag. */
  begin(firstBlock: number, count: number, byte: number, op: number = REPLICA_WRITE): number {
    this.sequence += 1;
    const tag = this.results.size + this.arenas.size * 1000 + this.sequence;
    const arena = this.store.memory.allocate(count * BLOCK);
    arena.u8.fill(byte);
    this.arenas.set(tag, arena);
    this.replica.write(tag, op, firstBlock, count, arena.address, this.sequence);
    assert.ok(!this.results.has(tag), "a write ended within the call");
    return tag;
  }

  wait(tag: number): number {
    this.store.scheduler.runUntil(() => this.results.has(tag), "a write");
    return this.results.get(tag) as number;
  }

  write(firstBlock: number, count: number, byte: number): number {
    return this.wait(this.begin(firstBlock, count, byte));
  }

  zero(firstBlock: number, count: number): number {
    return this.wait(this.begin(firstBlock, count, 0xaa, REPLICA_ZERO));
  }

  read(firstBlock: number, count: number): { readonly result: number; readonly data: Uint8Array } {
    const { reactor, memory, scheduler } = this.store;
    const device = { submit: (slot: number) => this.replica.submitRead(slot) };
    const client = new SimClient({ reactor, memory, device: device as BlockDevice });
    const request = client.read(firstBlock * BLOCK, count * BLOCK);
    scheduler.runUntil(() => request.result !== null, "a read");
    return { result: request.result as number, data: request.data };
  }

  byteAt(block: number): number {
    const { result, data } = this.read(block, 1);
    assert.equal(result, 0);
    assert.ok(
      data.every((byte) => byte === data[0]),
      "a block of two writes",
    );
    return data[0];
  }
}

function powerCut(store: SimStore): void {
  store.disk.crash({ kind: "power" });
  store.media.dropLateWrites();
  store.reactor.stop();
}

function stop(store: SimStore, ...owners: Owner[]): void {
  for (const { replica } of owners) replica.close();
  store.close();
}

describe("the gate", () => {
  test("nothing is let in before a fence was answered", () => {
    const store = start(medium());
    const owner = new Owner(store);
    assert.equal(owner.write(0, 1, 7), -ESTALE);
    assert.equal(owner.read(0, 1).result, -ESTALE);
    owner.enter(1);
    assert.equal(owner.write(0, 1, 7), 0);
    stop(store, owner);
  });

  test("after a fence by a higher epoch, the lower one gets ESTALE for everything", () => {
    const store = start(medium());
    const [old, next] = [new Owner(store), new Owner(store)];
    old.enter(3);
    assert.equal(old.write(0, 1, 7), 0);
    next.enter(4);
    assert.equal(old.write(0, 1, 8), -ESTALE);
    assert.equal(old.read(0, 1).result, -ESTALE);
    assert.throws(() => readImage(store, old.replica, 0), /stale-epoch/);
    assert.equal(
      writeImage(store, old.replica, 0, EMPTY, new Uint8Array(SLAB))?.code,
      "stale-epoch",
    );
    const { code, epoch } = old.refused(3);
    assert.deepEqual([code, epoch], ["stale-epoch", 4]);
    assert.equal(next.byteAt(0), 7);
    stop(store, old, next);
  });

  test("a second session of the same epoch takes over from the first", () => {
    const store = start(medium());
    const [first, second] = [new Owner(store), new Owner(store)];
    first.enter(2);
    const late = first.begin(0, 16, 1);
    second.enter(2);
    assert.ok(first.results.has(late), "the fence did not wait");
    assert.equal(first.write(0, 1, 8), -ENOTCONN);
    assert.equal(second.write(1, 1, 9), 0);
    stop(store, first, second);
  });

  test("a fence waits for every older write, and the older owner is told of them first", () => {
    const store = start(medium());
    store.disk.faults.add({ kind: "slow", on: "write", chance: 0.5, delayUs: 20_000 });
    const [old, next] = [new Owner(store), new Owner(store)];
    old.enter(1);
    const tags = Array.from({ length: 20 }, (_, index) => old.begin(index * 5, 8, index + 1));
    next.enter(2);
    for (const tag of tags) assert.equal(old.results.get(tag), 0, "a write was still on its way");
    stop(store, old, next);
  });

  test("an owner is told of a fence by a higher epoch in the same call, and of no other", () => {
    const store = start(medium());
    const older = new Owner(store);
    older.enter(3);
    older.enter(4);
    const sibling = new Owner(store);
    sibling.enter(4);
    assert.deepEqual(older.fencedBy, []);
    const newer = new Owner(store);
    newer.replica.fence(5, () => undefined);
    assert.deepEqual(sibling.fencedBy, [5]);
    assert.deepEqual(older.fencedBy, [], "it had no session any more");
    newer.replica.close();
    const last = new Owner(store);
    last.enter(6);
    assert.deepEqual(newer.fencedBy, [], "nothing is said through a closed replica");
  });

  test("of two fences at once the higher wins, and the lower is refused", () => {
    const store = start(medium());
    const [a, b] = [new Owner(store), new Owner(store)];
    a.enter(1);
    a.begin(0, 16, 1);
    const answers: (FenceAnswer | ReplicaFailure)[] = [];
    a.replica.fence(5, (answer) => answers.push(answer));
    b.replica.fence(6, (answer) => answers.push(answer));
    store.scheduler.runUntil(() => answers.length === 2, "both fences");
    const [lower, higher] = answers;
    assert.ok(isFailure(lower) && lower.code === "stale-epoch" && lower.epoch === 6);
    assert.ok(!isFailure(higher));
    assert.equal(a.write(0, 1, 1), -ESTALE);
    assert.equal(b.write(0, 1, 1), 0);
    stop(store, a, b);
  });

  test("the epoch is durable before the answer: a power cut right then keeps it", () => {
    const media = medium(true);
    const store = start(media);
    new Owner(store).enter(9);
    powerCut(store);
    const again = start(media);
    const owner = new Owner(again);
    assert.equal(owner.refused(8).code, "stale-epoch");
    owner.enter(9);
    stop(again, owner);
  });

  test("metadata older than what was seen is refused, over a restart as well", () => {
    const media = medium();
    const store = start(media);
    const owner = new Owner(store);
    const by = (epoch: number, metadata: MetadataVersion): string => {
      let code = "";
      owner.replica.fence(
        epoch,
        (answer) => {
          code = isFailure(answer) ? answer.code : "entered";
        },
        metadata,
      );
      store.scheduler.runUntil(() => code !== "", "a fence");
      return code;
    };
    assert.equal(by(1, { clusterGeneration: 2, membershipVersion: 7 }), "entered");
    assert.equal(by(2, { clusterGeneration: 2, membershipVersion: 6 }), "rolled-back");
    assert.equal(by(2, { clusterGeneration: 1, membershipVersion: 99 }), "rolled-back");
    assert.equal(by(1, { clusterGeneration: 2, membershipVersion: 7 }), "entered");
    assert.equal(by(2, { clusterGeneration: 3, membershipVersion: 1 }), "entered");
    powerCut(store);
    const again = start(media);
    const [{ replica }] = again.store.listVolumes();
    assert.equal(replica?.clusterGeneration, 3);
    assert.equal(replica?.membershipVersion, 1);
    assert.equal(replica?.epoch, 2);
    again.close();
  });

  test("epochs that no stamp has room for, and bad writes, are refused by name", () => {
    const store = start(medium());
    const owner = new Owner(store);
    for (const epoch of [0, -1, 1.5, 1048576]) assert.equal(owner.refused(epoch).code, "limit");
    owner.enter(1048575);
    assert.equal(owner.write(SIZE_BYTES / BLOCK - 1, 2, 1), -EINVAL);
    assert.equal(owner.wait(owner.begin(0, 1, 1, 7)), -EINVAL);
    assert.equal(owner.write(SIZE_BYTES / BLOCK - 1, 1, 1), 0);
    stop(store, owner);
  });

  test("what is on its way when a replica is closed ends with ENOTCONN, and is carried out", () => {
    const store = start(medium());
    const [first, second] = [new Owner(store), new Owner(store)];
    first.enter(1);
    const tag = first.begin(0, 1, 5);
    first.replica.close();
    second.enter(1);
    assert.equal(first.wait(tag), -ENOTCONN);
    assert.equal(second.byteAt(0), 5);
    stop(store, second);
  });
});

const EMPTY = { epoch: 0, sequence: 0, states: 0 };

describe("writes", () => {
  test("of one block, back to back, the last counts", () => {
    const store = start(medium());
    const owner = new Owner(store);
    owner.enter(1);
    for (let round = 0; round < 5; round++) {
      const tags = Array.from({ length: 40 }, (_, index) =>
        index % 7 === 3
          ? owner.begin(0, 16, 0, REPLICA_ZERO)
          : owner.begin(index % 3, 1 + ((index * 5) % 14), index + 1),
      );
      for (const tag of tags) assert.equal(owner.wait(tag), 0);
      // Write 39 begins at block 0, 38 at 2, 37 at 1: what each left over is seen.
      assert.deepEqual([owner.byteAt(0), owner.byteAt(1), owner.byteAt(2)], [40, 40, 40]);
      assert.equal(readImage(store, owner.replica, 0).image.sequence, owner.sequence);
    }
    stop(store, owner);
  });

  test("carry the owner's stamp; a slab has that of its newest, zeroes count", () => {
    const store = start(medium());
    const owner = new Owner(store);
    owner.enter(77);
    owner.sequence = 17592186044000;
    assert.equal(owner.write(15, 2, 1), 0);
    for (const slab of [0, 1]) {
      const { epoch, sequence } = readImage(store, owner.replica, slab).image;
      assert.deepEqual([epoch, sequence], [77, 17592186044001]);
    }
    assert.equal(owner.zero(16, 1), 0);
    assert.equal(owner.zero(16, 1), 0, "zeroes again");
    assert.equal(readImage(store, owner.replica, 1).image.sequence, 17592186044003);
    assert.equal(owner.byteAt(16), 0);
    stop(store, owner);
  });

  test("a failed disk ends writes with EIO and fences with disk; reads go on", () => {
    const store = start(medium());
    const owner = new Owner(store);
    owner.enter(1);
    assert.equal(owner.write(0, 1, 3), 0);
    store.disk.faults.add({ kind: "eio", on: "write" });
    assert.equal(owner.write(1, 1, 4), -EIO);
    assert.equal(owner.write(2, 1, 4), -EIO);
    assert.equal(owner.byteAt(0), 3);
    assert.equal(owner.refused(2).code, "disk");
  });
});

describe("the committed stamp", () => {
  test("makes the list short, survives a restart, and is never ahead of what was told", () => {
    const media = medium();
    const store = start(media);
    const owner = new Owner(store);
    owner.enter(1);
    for (let slab = 0; slab < 6; slab++) assert.equal(owner.write(slab * 16, 1, slab + 1), 0);
    owner.replica.setCommitted(4);
    // Longer than the store waits before it takes the stamp along by itself.
    store.scheduler.runFor(120_000);
    powerCut(store);
    const again = start(media);
    const next = new Owner(again);
    const answer = next.enter(2);
    assert.deepEqual([answer.committedEpoch, answer.committedSequence], [1, 4]);
    assert.deepEqual([answer.epoch, answer.sequence], [1, 6]);
    assert.deepEqual(
      answer.above.map(({ slab }) => slab),
      [4, 5],
    );
    assert.equal(answer.cursor, undefined);
    stop(again, next);
  });

  test("goes along with the groups of writes, and over a clean stop", () => {
    const media = medium();
    const store = start(media);
    const owner = new Owner(store);
    owner.enter(1);
    owner.write(0, 1, 1);
    owner.replica.setCommitted(1);
    owner.write(16, 1, 1);
    powerCut(store);
    const again = start(media);
    const next = new Owner(again);
    const { committedSequence, above } = next.enter(2);
    assert.equal(committedSequence, 1);
    assert.deepEqual(
      above.map(({ slab }) => slab),
      [1],
    );
    next.replica.setCommitted(9);
    stop(again, next);
    const [{ replica }] = start(media).store.listVolumes();
    assert.deepEqual(replica?.committed, { epoch: 2, sequence: 9 });
    assert.deepEqual(replica?.newest, { epoch: 1, sequence: 2 });
  });
});

describe("slabs", () => {
  test("take an image as it is: states, data, and a lower stamp", () => {
    const store = start(medium());
    const owner = new Owner(store);
    owner.enter(5);
    assert.equal(owner.write(0, 16, 9), 0);
    const states = 0b01_10_00_01;
    const data = new Uint8Array(SLAB).fill(0x77);
    const image = { epoch: 3, sequence: 12, states };
    assert.equal(writeImage(store, owner.replica, 0, image, data), null);
    const found = readImage(store, owner.replica, 0);
    assert.deepEqual(found.image, image);
    const bytes = Array.from({ length: 16 }, (_, block) => found.data[block * BLOCK]);
    assert.deepEqual(bytes.slice(0, 5), [0x77, 0, 0, 0x77, 0]);
    assert.equal(writeImage(store, owner.replica, 0, EMPTY, data), null);
    assert.deepEqual(readImage(store, owner.replica, 0).image, EMPTY);
    assert.ok(readImage(store, owner.replica, 0).data.every((byte) => byte === 0));
    owner.replica.close();
    checkBooks(store);
    assert.equal(walkMedium(store.media).usedSlabs, 0);
  });

  test("of a full disk are taken inside the journal, and are right after a crash", () => {
    const media = new SimMedia({ capacityBytes: DISK_BYTES, volatileCache: false });
    formatMedia(media, { durability: "plp", extentCount: 6 });
    const { slabCount } = areasOf(media);
    const store = start(media);
    const sizeBytes = (slabCount + 8) * SLAB;
    store.store.resizeVolume(REPLICA_UUID, sizeBytes, (error) => assert.equal(error, null));
    store.settle();
    const owner = new Owner(store);
    owner.enter(1);
    for (let slab = 0; slab < slabCount; slab++) assert.equal(owner.write(slab * 16, 16, 3), 0);
    assert.ok(owner.write(slabCount * 16, 16, 3) < 0, "the disk is not full");
    const data = new Uint8Array(SLAB).fill(0x55);
    const image = { epoch: 1, sequence: 9999, states: 0x16 };
    assert.equal(writeImage(store, owner.replica, 5, image, data), null);
    assert.deepEqual(readImage(store, owner.replica, 5).image, image);
    const nowhere = writeImage(store, owner.replica, slabCount + 1, image, data);
    assert.equal(nowhere?.code, "limit");
    powerCut(store);
    const again = start(media);
    const next = new Owner(again);
    next.enter(2);
    const found = readImage(again, next.replica, 5);
    assert.deepEqual(found.image, image);
    assert.deepEqual([found.data[0], found.data[BLOCK], found.data[2 * BLOCK]], [0, 0x55, 0x55]);
    next.replica.close();
    checkBooks(again);
  });

  test("that lie outside the volume, or are no slabs, are refused", () => {
    const store = start(medium());
    const owner = new Owner(store);
    owner.enter(1);
    for (const slab of [8, -1, 0.5, 4096]) {
      assert.throws(() => readImage(store, owner.replica, slab), /limit/);
    }
    const bad = { epoch: 1, sequence: 1, states: 3 };
    assert.equal(writeImage(store, owner.replica, 0, bad, new Uint8Array(SLAB))?.code, "limit");
    stop(store, owner);
  });
});

describe("damage", () => {
  /** A replica with a slab of data, one block of which has rotted. */
  function rotten(): { store: SimStore; owner: Owner } {
    const media = medium();
    const first = start(media);
    const writer = new Owner(first);
    writer.enter(1);
    assert.equal(writer.write(0, 16, 6), 0);
    writer.replica.setCommitted(1);
    stop(first, writer);
    const [at] = walkMedium(media).blocks;
    const bytes = media.read(at, BLOCK);
    bytes[100] ^= 1;
    media.write(at, bytes);
    const store = start(media);
    const owner = new Owner(store);
    owner.enter(2);
    return { store, owner };
  }

  test("is told with EBADMSG, listed, and made good by a slab write", () => {
    const { store, owner } = rotten();
    const { result, data } = owner.read(0, 2);
    assert.equal(result, -EBADMSG);
    assert.ok(
      data.every((byte) => byte === 0),
      "what does not match was shown",
    );
    assert.throws(() => readImage(store, owner.replica, 0), /damaged/);
    const since = { epoch: 2, sequence: 0 };
    assert.deepEqual(
      listAll(store, owner.replica, since).map(({ slab }) => slab),
      [0],
    );
    assert.deepEqual(
      owner.enter(2).uncertain.map(({ slab }) => slab),
      [0],
    );
    const image = { epoch: 1, sequence: 1, states: STATES_DATA };
    const good = new Uint8Array(SLAB).fill(6);
    assert.equal(writeImage(store, owner.replica, 0, image, good), null);
    assert.equal(owner.byteAt(0), 6);
    assert.deepEqual(listAll(store, owner.replica, since), []);
    assert.deepEqual(owner.enter(2).uncertain, []);
    owner.replica.close();
    checkBooks(store);
  });

  test("on a volume of this disk alone stays EIO", () => {
    const media = medium();
    const store = start(media);
    store.createVolume(SIZE_BYTES);
    assert.equal(store.plainWrite(0, new Uint8Array(SLAB).fill(6)), 0);
    store.close();
    const [at] = walkMedium(media).blocks;
    const bytes = media.read(at, BLOCK);
    bytes[100] ^= 1;
    media.write(at, bytes);
    const again = start(media);
    assert.equal(again.plainRead(again.openVolume(), 0, BLOCK), -EIO);
    again.close();
  });
});

describe("a disk", () => {
  test("names the feature only when it has replicas, and keeps both kinds apart", () => {
    const media = medium();
    const features = (): number => areasOf(media).superblock.u32(SUPERBLOCK.featuresIncompatible);
    const store = new SimStore({ media, seed: 1 });
    assert.equal(store.open(), null);
    store.createVolume(SIZE_BYTES);
    store.close();
    assert.equal(features(), 0);
    const second = start(media);
    assert.equal(features() & FEATURE_REPLICAS, FEATURE_REPLICAS, "before anything else of it");
    assert.throws(() => second.openVolume(REPLICA_UUID), { code: "VOLUME_KIND" });
    const handler = { replicaCompleted: () => undefined };
    const open = (uuid: string): unknown => second.store.openReplica(uuid, { name: "x", handler });
    const [plain] = second.store.listVolumes().filter(({ replica }) => replica === null);
    assert.throws(() => open(plain.uuid), { code: "VOLUME_KIND" });
    assert.throws(() => open("00000000-2222-3333-4444-555555555555"), { code: "VOLUME_UNKNOWN" });
    second.close();
  });

  test("tells its identity: uuid, incarnation, and the last LSN of its last checkpoint", () => {
    const media = medium();
    const store = start(media);
    const owner = new Owner(store);
    owner.enter(1);
    const before = store.store.facts();
    assert.equal(owner.write(0, 1, 1), 0);
    stop(store, owner);
    const after = start(media).store.facts();
    assert.equal(after.uuid, before.uuid);
    assert.equal(after.incarnation, before.incarnation + 1);
    assert.ok(after.checkpointLsn > before.checkpointLsn);
  });

  test("gives a replica's space back, but not while somebody has it open", () => {
    const store = start(medium());
    const owner = new Owner(store);
    owner.enter(1);
    assert.equal(owner.write(0, 32, 1), 0);
    const busy = store.deleteVolume(REPLICA_UUID);
    assert.ok(busy instanceof StoreError && busy.code === "VOLUME_BUSY");
    owner.replica.close();
    assert.equal(store.deleteVolume(REPLICA_UUID), null);
    store.settle();
    store.createVolume(SIZE_BYTES, REPLICA_UUID, true);
    const next = new Owner(store);
    const { epoch, sequence, committedSequence, above } = next.enter(1);
    assert.deepEqual([epoch, sequence, committedSequence, above.length], [0, 0, 0, 0]);
    assert.equal(next.byteAt(0), 0);
    next.replica.close();
    checkBooks(store);
  });

  test("changes any number of volumes at once: records that wait for a group are not forgotten", () => {
    const store = start(medium());
    const count = 2000;
    let doneCount = 0;
    const done = (error: StoreError | null): void => {
      assert.equal(error, null);
      doneCount += 1;
    };
    for (let change = 0; change < count; change++) {
      store.store.resizeVolume(REPLICA_UUID, SIZE_BYTES, done);
    }
    store.scheduler.runFor(300_000);
    assert.equal(doneCount, count);
  });

  test("grows a replica under its owner", () => {
    const store = start(medium());
    const owner = new Owner(store);
    owner.enter(1);
    const end = SIZE_BYTES / BLOCK;
    assert.equal(owner.write(end, 1, 1), -EINVAL);
    store.store.resizeVolume(REPLICA_UUID, SIZE_BYTES * 2, (error) => assert.equal(error, null));
    store.settle();
    assert.equal(owner.write(end, 1, 1), 0);
    assert.equal(owner.byteAt(end), 1);
    // The fence's epoch was not lost to the other change of the entry.
    assert.equal(store.store.listVolumes()[0].replica?.epoch, 1);
    stop(store, owner);
  });
});
